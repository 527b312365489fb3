"""The three backends. Each sample has one process, so data groups and processes are the same thing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from cosmos_forge import Context, ForgeError
from cosmos_forge.types import World
from forge_parallel.plugin import DdpOptions, FsdpOptions, SingleOptions

# While one process loads or encodes, others may wait for long. That a process has died is the launcher's to notice.
PATIENCE = timedelta(hours=4)


class Single:
    """`kinds.Parallelism` with one process; the network stays as it is."""

    def __init__(self, options: SingleOptions, context: Context) -> None:
        self.context = context

    def start(self) -> World:
        """The world of one. Raises ForgeError in company, where every process would do and write the same."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size > 1:
            raise ForgeError(
                f"[parallelism] `single` was started as one of {size} processes",
                fix='start one process, or choose `use = "ddp"` or `use = "fsdp"`',
            )
        return World(device=_device(self.context, local_rank=0))

    def apply(self, net: nn.Module, blocks: Sequence[str]) -> nn.Module:
        """`net` itself."""
        return net

    def exchange(self, net: nn.Module, on: bool) -> None:
        """Nothing: there is nobody to exchange with."""

    def stop(self) -> None:
        """Nothing."""


class Ddp:
    """`kinds.Parallelism` with a copy of the network in each process (torch's DistributedDataParallel)."""

    def __init__(self, options: DdpOptions, context: Context) -> None:
        self.context = context

    def start(self) -> World:
        """Joins the other processes; see `kinds.Parallelism`."""
        return _join(self.context)

    def apply(self, net: nn.Module, blocks: Sequence[str]) -> nn.Module:
        """`net` wrapped, starting from the weights of rank 0; `net` itself where nothing trains."""
        if not any(parameter.requires_grad for parameter in net.parameters()):
            return net
        # Buffers are tables here, not running statistics: the same everywhere, so they are sent once.
        return DistributedDataParallel(net, broadcast_buffers=False, gradient_as_bucket_view=True)

    def exchange(self, net: nn.Module, on: bool) -> None:
        """Holds for the next forward pass and its backward pass; `net` is what `apply` gave."""
        net.require_backward_grad_sync = on  # type: ignore[assignment]

    def stop(self) -> None:
        """Leaves the other processes."""
        distributed.destroy_process_group()


class Fsdp:
    """`kinds.Parallelism` with a piece of every parameter in each process (torch's `fully_shard`, FSDP2).

    A context in a lower precision than float32 is that of the gathered weights: the pieces, and so the optimizer's
    weights, keep the dtype they have, gradients are averaged in float32. Inputs of the network are not cast; noise
    levels and times need their digits, and networks cast what they compute on.
    """

    def __init__(self, options: FsdpOptions, context: Context) -> None:
        self.context = context

    def start(self) -> World:
        """Joins the other processes; see `kinds.Parallelism`."""
        return _join(self.context)

    def apply(self, net: nn.Module, blocks: Sequence[str]) -> nn.Module:
        """`net`, its parameters replaced by their pieces: each block one group, all that is left another."""
        mesh = init_device_mesh(self.context.device.type, (distributed.get_world_size(),))
        policy = MixedPrecisionPolicy(cast_forward_inputs=False)
        if self.context.dtype != torch.float32:
            policy = MixedPrecisionPolicy(self.context.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for name in blocks:
            fully_shard(net.get_submodule(name), mesh=mesh, mp_policy=policy)
        fully_shard(net, mesh=mesh, mp_policy=policy)
        return net

    def exchange(self, net: nn.Module, on: bool) -> None:
        """Off, gradients pile up unsharded, which takes the memory of a whole gradient."""
        net.set_requires_gradient_sync(on)  # type: ignore[operator]

    def stop(self) -> None:
        """Leaves the other processes."""
        distributed.destroy_process_group()


def _join(context: Context) -> World:
    """Starts the process group that the environment tells of; a process started by hand is a group of its own."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = _device(context, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    backend = "nccl" if context.device.type == "cuda" else "gloo"
    if context.device.type == "cuda":
        torch.cuda.set_device(device)
    store = None if "MASTER_ADDR" in os.environ else distributed.HashStore()
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    return World(rank, size, data_rank=rank, data_size=size, device=device)


def _device(context: Context, local_rank: int) -> str:
    return f"cuda:{local_rank}" if context.device.type == "cuda" else context.device.type
