"""Compiled blocks compute what the network computes: exactly in float32, and as well as it does in bfloat16."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cosmos_forge.compiling import compile_blocks
from cosmos_forge.testing.fakes import make_context
from forge_cosmos1.dit import DiT, DiTConfig


@torch.no_grad()
def network() -> DiT:
    torch.manual_seed(0)
    # Angles as in bfloat16 whatever the rest is in, so that only rounding differs.
    config = DiTConfig(256, 6, 4, crossattn_emb_channels=64, adaln_lora_dim=32, rope_precision="bf16")
    net = DiT(config)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.03).copy_(parameter.bfloat16())
    return net


def compiled(net: DiT) -> DiT:
    net = copy.deepcopy(net)
    compile_blocks(net, [f"blocks.{name}" for name in net.blocks], "blocks", make_context(Path()))
    return net


def run(net: DiT, dtype: torch.dtype, size: tuple[int, int, int] = (3, 16, 16), device: str = "cpu") -> Tensor:
    torch.manual_seed(1)
    x, text, mask = torch.randn(1, 16, *size), torch.randn(1, 32, 64), torch.zeros(1, 1, *size)
    given = [each.bfloat16().to(device, dtype) for each in (x, torch.tensor([0.25]), text, torch.tensor([24.0]), mask)]
    return net.to(device, dtype)(*given).float()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="compiling for a CPU needs g++")
@torch.no_grad()
def test_compiled_blocks() -> None:
    net = network()
    exact = run(net, torch.float32)
    torch.testing.assert_close(run(compiled(net), torch.float32), exact, atol=1e-5 * float(exact.abs().max()), rtol=0)

    def error(other: DiT) -> float:
        return float((run(other, torch.bfloat16) - exact).norm() / exact.norm())

    eager, fused = error(copy.deepcopy(net)), error(compiled(net))
    assert 0 < fused <= 1.05 * eager < 0.05, (fused, eager)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU with 8 GiB")
def test_gradients_on_a_gpu() -> None:
    """Of every weight, the modulations' among them, with as many tokens as a published clip has."""
    found = []
    for net in (network(), compiled(network())):
        torch.empty(2**28, device="cuda").fill_(float("nan"))  # what is not written shows
        run(net, torch.float32, (16, 88, 160), "cuda").square().mean().backward()
        found.append({name: parameter.grad for name, parameter in net.named_parameters()})
    exact, fused = found
    for name, gradient in exact.items():
        assert (fused[name] - gradient).norm() <= 1e-3 * gradient.norm(), name
