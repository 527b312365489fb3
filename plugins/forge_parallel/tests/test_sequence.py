"""Shared sequences against attention in one process, in gloo processes of their own; and weights that are cast."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cosmos_forge.testing import make_context
from forge_parallel.backends import Ddp, Fsdp, Single
from forge_parallel.plugin import DdpOptions, FsdpOptions, SingleOptions

ATTENTION = """
import os, sys, torch
from torch import distributed
from torch.nn.functional import scaled_dot_product_attention as kernel
from forge_parallel.sequence import SharedSequence

rank, size, *lengths = (int(each) for each in sys.argv[2:])
store = distributed.FileStore(sys.argv[1], size)
distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
sequence = SharedSequence(distributed.group.WORLD)
generator = torch.Generator().manual_seed(5)
weight = torch.nn.Parameter(torch.randn(3, 32, 32, generator=generator) * 0.1)
after = torch.nn.Parameter(torch.randn(32, generator=generator))

def network(split, join, attention, x, compiled):
    def part(x):
        q, k, v = (torch.nn.functional.linear(x, each).unflatten(-1, (4, 8)).transpose(1, 2) for each in weight)
        return x + attention(q, k, v).transpose(1, 2).flatten(2)
    part = torch.compile(part, backend="aot_eager") if compiled else part
    return join(part(split(x, 1)), 1) * after

def gradients(out):
    loss = out.square().mean()
    loss.backward()
    found = [loss.detach(), weight.grad.clone(), after.grad.clone()]
    weight.grad = after.grad = None
    return found

for length in lengths:
    x = torch.randn(2, length, 4 * 8, generator=generator)
    whole = gradients(network(lambda x, dim: x, lambda x, dim: x, kernel, x, False))
    assert sequence.split(x, 1).shape[1] == -(-length // size)
    for compiled in (False, True) if size == 2 else (False,):
        parts = gradients(network(sequence.split, sequence.join, sequence.attention(kernel), x, compiled))
        for found, expected in zip(parts, whole, strict=True):
            distributed.all_reduce(found)
            torch.testing.assert_close(found / size, expected, rtol=1e-5, atol=1e-6)
distributed.barrier()
os._exit(0)
"""


@pytest.mark.parametrize(("size", "lengths"), [(2, (12,)), (4, (12, 10, 5))], ids=["two", "four"])
def test_attention_and_gradients_are_those_of_one_process(tmp_path, size, lengths):
    """By two also compiled; by four also of lengths that leave the last a smaller part, or none."""
    arguments = [str(tmp_path / "store")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ATTENTION, *arguments, *map(str, (rank, size, *lengths))],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * size, "\n".join(said)[-3000:]


class Products(TorchDispatchMode):
    """Notes the dtypes of matrix products."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.__name__.split(".")[0] in ("mm", "addmm", "bmm"):
            self.dtypes |= {each.dtype for each in args if isinstance(each, torch.Tensor)}
        return func(*args, **(kwargs or {}))


class Layer(nn.Linear):
    """A block that computes in its weights' dtype."""

    def forward(self, x):
        return torch.tanh(super().forward(x.to(self.weight.dtype)))


class Blocks(nn.Module):
    """Two of them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(Layer(8, 8, bias=False), Layer(8, 8, bias=False))

    def forward(self, x):
        return self.blocks(x)


@pytest.mark.parametrize(
    ("backend", "options"), [(Single, SingleOptions()), (Ddp, DdpOptions()), (Fsdp, FsdpOptions())]
)
@pytest.mark.parametrize("frozen", [False, True], ids=["full", "half-frozen"])
def test_bfloat16_products_of_float32_weights(tmp_path, monkeypatch, backend, options, frozen):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "FORGE_STORE"):
        monkeypatch.delenv(name, raising=False)
    parallelism = backend(options, make_context(tmp_path, dtype=torch.bfloat16))
    parallelism.start()
    try:
        plain, net = Blocks(), Blocks()
        if frozen:
            net.blocks[0].weight = nn.Parameter(net.blocks[0].weight.data.bfloat16(), requires_grad=False)
        called = parallelism.apply(net, ["blocks.0", "blocks.1"])
        x = torch.randn(4, 8)
        expected = plain(x).square().mean()
        expected.backward()
        products = Products()
        for on in (False, True):  # two halves of a batch
            parallelism.exchange(called, on=on)
            with products:
                loss = called(x).float().square().mean()
            (loss / 2).backward()
        assert products.dtypes == {torch.bfloat16}
        assert loss.item() == pytest.approx(expected.item(), rel=0.02) and loss.item() != expected.item()
        for mine, other in zip(net.blocks, plain.blocks, strict=True):
            if mine.weight.requires_grad:
                assert mine.weight.dtype == mine.weight.grad.dtype == torch.float32
                gradient = mine.weight.grad.full_tensor()
                assert (gradient - other.weight.grad).norm() < 0.05 * other.weight.grad.norm()
    finally:
        parallelism.stop()
