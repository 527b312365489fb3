"""Data parallelism, plainly: the same weights everywhere, and gradients that are means over all processes.

The network computes in the dtype of its weights, so a recipe says `precision = "fp32"`; `ddp` and `fsdp` do more.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

from cosmos_forge import Context, ForgeError
from cosmos_forge.types import World
from new_plugin.plugin import NewPluginOptions

PATIENCE = timedelta(hours=4)  # while one process loads or encodes, others may wait for long


class NewPlugin:
    """See `cosmos_forge.kinds.Parallelism`."""

    def __init__(self, options: NewPluginOptions, context: Context) -> None:
        self.context = context
        self.exchanges = True

    def start(self) -> World:
        """Joins the other processes, which the environment tells of."""
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        device, backend = "cpu", "gloo"
        if self.context.device.type == "cuda":
            device, backend = f"cuda:{os.environ.get('LOCAL_RANK', '0')}", "nccl"
            torch.cuda.set_device(device)
        distributed.init_process_group(backend, store=self.store(size), rank=rank, world_size=size, timeout=PATIENCE)
        return World(rank, size, data_rank=rank, data_size=size, device=device)

    def store(self, size: int) -> distributed.Store:
        """Where processes meet; under FORGE_STORE it is open already, and a part of it is this stage's."""
        if size == 1:
            return distributed.HashStore()
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        part = os.environ.get("FORGE_STORE")
        first = os.environ["RANK"] == "0" and part is None
        store: distributed.Store = distributed.TCPStore(
            address, port, is_master=first, timeout=PATIENCE, wait_for_workers=False
        )
        return distributed.PrefixStore(part, store) if part else store

    def apply(self, net: nn.Module, blocks: Sequence[str]) -> nn.Module:
        """`net` itself, from now on with process 0's weights. Raises ForgeError for weights that would need casting."""
        for tensor in [*net.parameters(), *net.buffers()]:
            distributed.broadcast(tensor.detach(), src=0)
        for name, parameter in net.named_parameters():
            if parameter.requires_grad:
                if parameter.dtype != self.context.dtype:
                    raise ForgeError(f"`{name}` is {parameter.dtype}, to be computed in {self.context.dtype}")
                parameter.register_post_accumulate_grad_hook(self.average)
        return net

    def average(self, parameter: Tensor) -> None:
        """Called when a parameter's gradient has been added to."""
        if self.exchanges and parameter.grad is not None:
            distributed.all_reduce(parameter.grad)
            parameter.grad /= distributed.get_world_size()

    def exchange(self, net: nn.Module, on: bool) -> None:
        """Off for all but the last of accumulated batches: what has piled up by then is averaged at once."""
        self.exchanges = on

    def renew(self, net: nn.Module) -> None:
        """Nothing: the network computes with the very weights that train."""

    def stop(self) -> None:
        """Leaves the other processes."""
        distributed.destroy_process_group()
