"""The backends against their contract: one and two gloo processes give the numbers of plain torch."""

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from cosmos_forge import ForgeError
from cosmos_forge.testing import ParallelismContract, TinyNet, make_context
from forge_parallel.backends import Ddp, Fsdp, Single
from forge_parallel.plugin import DdpOptions, FsdpOptions, SingleOptions

METHODS = (("full", {}), ("lora", {"rank": 3, "targets": ["to_q", "to_v"]}))


class TestSingle(ParallelismContract):
    use = "single"
    counts = (1,)
    methods = METHODS


class TestDdp(ParallelismContract):
    use = "ddp"
    methods = METHODS


class TestFsdp(ParallelismContract):
    use = "fsdp"
    methods = METHODS


@pytest.fixture
def alone(monkeypatch):
    """No process group is described by the environment."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("options", "gpus", "count"), [({}, 0, 1), ({}, 8, 8), ({"num_processes": 2}, 0, 2)])
def test_processes(options, gpus, count):
    assert DdpOptions(**options).processes(gpus) == FsdpOptions(**options).processes(gpus) == count
    assert SingleOptions().processes(gpus) == 1


def test_more_processes_than_gpus():
    with pytest.raises(ValueError, match="there are 2 GPUs"):
        FsdpOptions(num_processes=4).processes(2)


def test_single_in_company_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ForgeError, match="one of 2 processes"):
        Single(SingleOptions(), make_context(tmp_path)).start()


def test_ddp_leaves_a_frozen_network_alone(tmp_path, alone):
    backend = Ddp(DdpOptions(), make_context(tmp_path))
    assert backend.start().size == 1
    try:
        net = TinyNet().requires_grad_(False)
        assert backend.apply(net, []) is net
    finally:
        backend.stop()


class Seen(nn.Module):
    """A network that notes the dtypes it computes with."""

    def __init__(self):
        super().__init__()
        self.block = nn.Linear(4, 4)
        self.block.weight.requires_grad_(False)
        self.dtypes = ()

    def forward(self, x):
        self.dtypes = (x.dtype, self.block.weight.dtype)
        return self.block(x.to(self.block.weight.dtype))


def test_fsdp_in_bfloat16(tmp_path, alone):
    """Pieces and gradients stay float32, gathered weights are bfloat16, inputs are left as they are."""
    backend = Fsdp(FsdpOptions(), make_context(tmp_path, dtype=torch.bfloat16))
    backend.start()
    try:
        net = backend.apply(Seen(), [])
        net(torch.randn(2, 4)).float().sum().backward()
        assert net.dtypes == (torch.float32, torch.bfloat16)
        assert isinstance(net.block.bias, DTensor) and net.block.bias.dtype == torch.float32
        assert net.block.bias.grad.dtype == torch.float32 and net.block.weight.grad is None
    finally:
        backend.stop()


def test_fsdp_frozen_bfloat16_with_float32_adapters(tmp_path, alone):
    """What LoRA needs: one block holds weights of both dtypes."""
    backend = Fsdp(FsdpOptions(), make_context(tmp_path, dtype=torch.bfloat16))
    backend.start()
    try:
        net = nn.Sequential(Seen())
        net[0].block.weight.data = net[0].block.weight.data.bfloat16()
        before = net[0].block.bias.detach().clone()
        backend.apply(net, ["0"])
        net(torch.randn(2, 4)).float().sum().backward()
        assert net[0].block.bias.grad.full_tensor().tolist() == [2.0] * 4
        assert net[0].block.weight.dtype == torch.bfloat16
        torch.testing.assert_close(net[0].block.bias.full_tensor().detach(), before)
    finally:
        backend.stop()
