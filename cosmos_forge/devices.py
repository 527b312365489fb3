"""Memory of the device that a process computes on: what there is of it, and giving it back."""

from __future__ import annotations

import gc

import torch
import torch.distributed as dist

from cosmos_forge.types import Context


def free_memory(device: torch.device) -> int:
    """Bytes of the GPU that this process has or could get."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)


def least(value: int, context: Context) -> int:
    """The smallest value of all processes."""
    if context.world.size == 1:
        return value
    values = torch.tensor(value, device=context.device)
    dist.all_reduce(values, dist.ReduceOp.MIN)
    return int(values)


def release(context: Context) -> None:
    """Gives back the memory of components that nobody holds any more. Compiled blocks hang together in circles, which
    only this breaks, and not while a variable of a caller's still leads to them."""
    gc.collect()
    if context.device.type == "cuda":
        torch.cuda.empty_cache()


def converts_float8(device: torch.device) -> bool:
    """Whether compiled code can turn numbers into float8 there and back: NVIDIA's Ada, Hopper and later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
