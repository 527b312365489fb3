"""Compiling blocks: the numbers and names stay, one graph serves all blocks, and what is missing is said."""

import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from cosmos_forge import ForgeError, compiling
from cosmos_forge.compiling import compile_blocks
from cosmos_forge.testing.fakes import TinyNet, make_context

BLOCKS = ["blocks.0", "blocks.1", "blocks.2"]
compiler = pytest.mark.skipif(not shutil.which("g++"), reason="compiling for a CPU needs g++")


class Heard(list):
    """A context that writes down what is said."""

    def context(self, folder, device="cpu"):
        return make_context(folder, device=torch.device(device), emit=lambda event: self.append(event.text))


@pytest.mark.slow
@compiler
def test_equal_blocks_share_a_graph_and_compute_the_same(tmp_path):
    torch.compiler.reset()
    counters.clear()
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    net, heard = TinyNet(count=3), Heard()
    names, expected = set(net.state_dict()), net(x)
    expected.sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    net.zero_grad()

    compile_blocks(net, BLOCKS, "blocks", heard.context(tmp_path))
    found = net(x)
    found.sum().backward()

    assert counters["stats"]["unique_graphs"] == 1
    torch.testing.assert_close(found, expected)
    for name, parameter in net.named_parameters():
        size = float(gradients[name].abs().max())
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=0, atol=1e-5 * size)
    assert set(net.state_dict()) == names
    assert heard == ["3 blocks are compiled one by one; the first step waits for it"]


def test_a_compiler_that_leaves_sums_out_is_told_not_to(tmp_path, monkeypatch):
    """A test with a GPU shows what for: plugins/forge_cosmos1/tests/test_compiled.py."""
    told = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block, options: told.append(options))
    monkeypatch.setattr(compiling, "_lacking", lambda device: "")
    compile_blocks(TinyNet(count=3), BLOCKS, "blocks", Heard().context(tmp_path))
    assert told == 3 * [{"triton.mix_order_reduction": False}]


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_a_cpu_compiles_only_when_told(tmp_path, choice):
    torch.compiler.reset()
    counters.clear()
    net, heard = TinyNet(count=3), Heard()
    compile_blocks(net, BLOCKS, choice, heard.context(tmp_path))
    net(torch.randn(2, 5, 6))
    assert counters["stats"]["unique_graphs"] == 0
    assert heard == []


def test_a_machine_without_compiler_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    heard = Heard()
    compile_blocks(TinyNet(count=3), BLOCKS, "auto", heard.context(tmp_path, "cuda"))
    assert len(heard) == 1
    assert "not compiled" in heard[0]
    assert "C compiler" in heard[0]
    with pytest.raises(ForgeError, match="C compiler"):
        compile_blocks(TinyNet(count=3), BLOCKS, "blocks", heard.context(tmp_path))
