"""The three backends. Gradients are means over all processes, whether they share samples or not (see `sequence`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from cosmos_forge import Context, ForgeError
from cosmos_forge.types import World
from forge_parallel.plugin import DdpOptions, FsdpOptions, ManyOptions, SingleOptions
from forge_parallel.sequence import SharedSequence
from forge_parallel.sharding import casts, forget_whole, shard_weights
from forge_parallel.team import Team, form_team

# While one process loads or encodes, others may wait for long. That a process has died is the launcher's to notice.
PATIENCE = timedelta(hours=4)


class Single:
    """`kinds.Parallelism` with one process; the network stays as it is, unless its weights are to be cast."""

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
        if not casts(net, self.context):
            return net
        distributed.init_process_group(_backend(self.context), store=distributed.HashStore(), rank=0, world_size=1)
        return shard_weights(net, blocks, self.context, share=1)

    def exchange(self, net: nn.Module, on: bool) -> None:
        """Nothing: there is nobody to exchange with."""

    def renew(self, net: nn.Module) -> None:
        """See `kinds.Parallelism`."""
        forget_whole(net)

    def stop(self) -> None:
        """Leaves the group of one that casting needs."""
        if distributed.is_initialized():
            distributed.destroy_process_group()


class Many:
    """What the backends with several processes have in common."""

    def __init__(self, options: ManyOptions, context: Context) -> None:
        self.context, self.degree = context, options.context

    def start(self) -> World:
        """Joins the other processes; see `kinds.Parallelism`. Neighbours in rank share a sample."""
        world = _join(self.context)
        if world.size % self.degree:
            raise ForgeError(f"[parallelism] context = {self.degree} does not divide {world.size} processes")
        groups = world.size // self.degree
        return World(world.rank, world.size, world.rank // self.degree, groups, world.device)

    def share_samples(self, net: nn.Module) -> None:
        """Lets the network's tokens be split over the processes that share a sample."""
        if self.degree == 1:
            return
        if not hasattr(net, "share_sequence"):
            raise ForgeError("[parallelism] context: this model cannot share a sample between processes", "context = 1")
        shape = (distributed.get_world_size() // self.degree, self.degree)
        mesh = init_device_mesh(self.context.device.type, shape, mesh_dim_names=("data", "context"))
        net.share_sequence(SharedSequence(mesh["context"].get_group()))  # type: ignore[operator]

    def team(self, size: int, branches: int) -> Team | None:
        """See `kinds.Parallelism`; what the recipe says of `context` and `shard` is about training alone."""
        return form_team(size, branches, PATIENCE)

    def renew(self, net: nn.Module) -> None:
        """See `kinds.Parallelism`."""
        forget_whole(net)

    def stop(self) -> None:
        """Leaves the other processes."""
        distributed.destroy_process_group()


class Ddp(Many):
    """`kinds.Parallelism` with all weights in each process.

    Where weights are computed with as they are kept, torch's DistributedDataParallel; else FSDP2 with whole weights for
    pieces, which takes the same memory and one block's cast weights.
    """

    def __init__(self, options: DdpOptions, context: Context) -> None:
        super().__init__(options, context)

    def apply(self, net: nn.Module, blocks: Sequence[str]) -> nn.Module:
        """`net` wrapped or in place; `net` as it is where nothing trains. Wrapped, it starts from rank 0's weights."""
        self.share_samples(net)
        if not any(parameter.requires_grad for parameter in net.parameters()):
            return net
        if casts(net, self.context):
            return shard_weights(net, blocks, self.context, share=1)
        # Buffers are tables here, not running statistics: the same everywhere, so they are sent once.
        return DistributedDataParallel(net, broadcast_buffers=False, gradient_as_bucket_view=True)

    def exchange(self, net: nn.Module, on: bool) -> None:
        """Holds for the next forward pass and its backward pass; `net` is what `apply` gave."""
        if isinstance(net, DistributedDataParallel):
            net.require_backward_grad_sync = on
        else:
            net.set_requires_gradient_sync(on)  # type: ignore[operator]


class Fsdp(Many):
    """`kinds.Parallelism` with a piece of every parameter in each process (FSDP2); see `shard_weights`."""

    def __init__(self, options: FsdpOptions, context: Context) -> None:
        super().__init__(options, context)
        self.share = options.shard

    def apply(self, net: nn.Module, blocks: Sequence[str]) -> nn.Module:
        """`net`, its parameters replaced by their pieces."""
        self.share_samples(net)
        return shard_weights(net, blocks, self.context, self.share or distributed.get_world_size())

    def exchange(self, net: nn.Module, on: bool) -> None:
        """Gradients go to the process that has the piece at once, lest whole ones pile up; off, copies are not added
        up yet."""
        net.set_requires_all_reduce(on)  # type: ignore[operator]


def _join(context: Context) -> World:
    """Starts the process group that the environment tells of; a process started by hand is a group of its own."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = _device(context, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    if context.device.type == "cuda":
        torch.cuda.set_device(device)
    store: distributed.Store | None = None if "MASTER_ADDR" in os.environ else distributed.HashStore()
    if part := os.environ.get("FORGE_STORE"):
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        opened = distributed.TCPStore(address, port, is_master=False, timeout=PATIENCE, wait_for_workers=False)
        store = distributed.PrefixStore(part, opened)
    distributed.init_process_group(_backend(context), store=store, rank=rank, world_size=size, timeout=PATIENCE)
    return World(rank, size, data_rank=rank, data_size=size, device=device)


def _backend(context: Context) -> str:
    return "nccl" if context.device.type == "cuda" else "gloo"


def _device(context: Context, local_rank: int) -> str:
    return f"cuda:{local_rank}" if context.device.type == "cuda" else context.device.type
