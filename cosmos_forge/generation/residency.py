"""Where a network's weights lie while it only computes: on its device, there in 8 bits, or in host memory.

A model is loaded into host memory for the latter two, so that the device never holds all of it. Both change blocks from
outside and go with compiling them: what is compiled gets its weights as arguments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_forge.devices import free_memory, least
from cosmos_forge.events import Note
from cosmos_forge.machine import host_memory
from cosmos_forge.memory import USABLE, Memory, Residency, sampling_memory
from cosmos_forge.types import Context

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

FP8 = torch.float8_e4m3fn  # 4 bits of exponent, 3 of mantissa; normal from 2^-6 to 448, below that steps of 2^-9
ALIGNMENT = 256  # bytes; as torch's allocator aligns


def choose_residency(plan: Plan, context: Context, parts: int) -> Residency:
    """The recipe's, or what `auto` takes and why, which it says; all processes choose alike. parts: in how many a
    video's tokens are computed on."""
    if plan.generate.memory != "auto":
        return plan.generate.memory
    needs = sampling_memory(plan, parts) if context.device.type == "cuda" else None
    if needs is None:
        return "resident"
    beside = min(context.world.size, torch.cuda.device_count())  # processes of this machine, each with its own copy
    host = least(host_memory()[0] // beside, context)
    found, note = fit_residency(needs, USABLE * least(free_memory(context.device), context), host)
    context.emit(note)
    return found


def fit_residency(needs: Mapping[Residency, Memory], usable: float, host: float) -> tuple[Residency, Note]:
    """What `auto` takes, and what it says: the first of the two exact ways that fits, so that no GPU gives another
    result than another. usable: bytes of the GPU. host: bytes of host memory, where all weights have to go."""
    found: Residency = "resident" if needs["resident"].total <= usable else "streamed"
    others = "; ".join(f"{each} would need {needs[each]}" for each in needs if each != found)
    text = f"memory = auto: {found}, {needs[found]} of {usable / 2**30:.1f} for the network; {others}"
    if needs[found].total > usable:
        return found, Note(f"{text}; it may run out of memory: a smaller video needs less", warning=True)
    if found == "streamed" and needs["resident"].weights > host:
        short = f"host memory has {host / 2**30:.1f} GiB for {needs['resident'].weights / 2**30:.1f} GiB of weights"
        return found, Note(f"{text}; {short}", warning=True)
    return found, Note(text)


def settle(net: nn.Module, blocks: Sequence[str], residency: Residency, device: torch.device) -> None:
    """Moves a loaded network to where it computes; nothing of it may train. Names stay as they are, but with fp8 each
    weight of the blocks' linear layers is a pair of buffers."""
    if residency == "fp8":
        for name in blocks:
            store_as_fp8(net.get_submodule(name).to(device))
    if residency != "streamed":
        net.to(device)
        return
    streamed = {each for name in blocks for each in net.get_submodule(name).parameters()}
    for parameter in set(net.parameters()) - streamed:
        parameter.data = parameter.data.to(device)
    for module in net.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    stream_blocks([net.get_submodule(name) for name in blocks], device)


class Fp8Linear(nn.Module):
    """A linear layer whose weight is kept in 8 bits, with a power of two for each row (output channel), and multiplied
    out in the dtype of the input. With such scales that is exact in bfloat16 too: what is lost is lost in storing."""

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = to_fp8(linear.weight.data)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, from_fp8(self.weight, self.scale, x.dtype), self.bias)


def to_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix (out, in) -> it in 8 bits, rounded to nearest, and the scale (out, 1) that its rows were divided by, so
    that their largest lies in (224, 448].

    A weight comes back with an error of at most 1/17 of itself (half of its last of 4 binary digits), or where it is
    less than 2^-6 scale, of at most 2^-10 scale, which is 2^-17 of the largest in its row.
    """
    limit = torch.finfo(FP8).max
    digits, exponent = torch.frexp(weight.float().abs().amax(dim=1, keepdim=True) / limit)  # digits in [0.5, 1)
    scale = torch.exp2((exponent - (digits == 0.5).int()).clamp(min=-126).float())
    return (weight.float() / scale).clamp(-limit, limit).to(FP8), scale


# Left as it is by compiling, whose own kernels read these 8 bits on newer GPUs (compute capability 8.9) alone.
@torch.library.custom_op("cosmos_forge::from_fp8", mutates_args=())
def from_fp8(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """What `to_fp8` gave -> the matrix."""
    return weight.to(dtype).mul_(scale.to(dtype))


@from_fp8.register_fake
def _(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(weight, dtype=dtype)


def store_as_fp8(module: nn.Module) -> None:
    """Replaces every plain linear layer within `module`."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                setattr(parent, name, Fp8Linear(child))


def stream_blocks(blocks: Sequence[nn.Module], device: torch.device) -> None:
    """Lets the blocks' parameters stay in host memory (pinned, for a GPU), and come to the device when a block is
    called: while one computes, those of the next are copied, on a stream of their own. Arithmetic is the same.

    There is room for two blocks on the device. Blocks that are called in another order wait for their weights.
    """
    feed = _Feed(blocks, device)
    for index, block in enumerate(blocks):
        block.feed, block.place = feed, index  # type: ignore[assignment]
        block.__class__ = _streamed(type(block))  # type: ignore[arg-type]


@cache  # Blocks of one class must go on sharing it, for one compiled graph to serve them all.
def _streamed(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass that has its weights while it is called. Not a hook: those are compiled with the block."""

    def call(self: Any, *inputs: Any, **named: Any) -> Any:
        self.feed.enter(self.place)
        try:
            return kind.__call__(self, *inputs, **named)
        finally:
            self.feed.leave(self.place)

    return type(kind.__name__, (kind,), {"__call__": call, "__doc__": kind.__doc__, "__module__": kind.__module__})


class _Feed:
    """Two slots on the device that blocks' weights come to in turn."""

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        self.parameters = [list(block.parameters()) for block in blocks]
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        for parameter in (each for block in self.parameters for each in block):
            parameter.data = parameter.data.pin_memory() if self.stream else parameter.data
        self.host = [[each.data for each in block] for block in self.parameters]
        room = max(sum(map(_aligned, block)) for block in self.host)
        self.slots = [torch.empty(room, dtype=torch.uint8, device=device) for _ in range(2)]
        self.holds: list[int | None] = [None, None]  # which block's weights are in a slot, or on their way to it
        self.now = 0  # the slot last computed from
        if self.stream:
            self.stream.wait_stream(torch.cuda.current_stream(device))
            self.there = [torch.cuda.Event() for _ in range(2)]  # weights have come to a slot
            self.done = [torch.cuda.Event() for _ in range(2)]  # a slot has been computed from
            for slot in self.slots:
                slot.record_stream(self.stream)  # lest it be given to others while a copy is on its way

    def enter(self, index: int) -> None:
        """Waits for the block's weights and puts them in place; sends for the next block's."""
        if index not in self.holds:
            self._fetch(index, 1 - self.now)
        self.now = self.holds.index(index)
        if self.stream:
            torch.cuda.current_stream(self.slots[0].device).wait_event(self.there[self.now])
        following = (index + 1) % len(self.host)
        if following not in self.holds:
            self._fetch(following, 1 - self.now)
        for parameter, view in zip(self.parameters[index], self._views(index, self.now), strict=True):
            parameter.data = view

    def leave(self, index: int) -> None:
        """The block's weights are those in host memory again; its slot may be overwritten once it has computed."""
        for parameter, host in zip(self.parameters[index], self.host[index], strict=True):
            parameter.data = host
        if self.stream:
            self.done[self.now].record(torch.cuda.current_stream(self.slots[0].device))

    def _fetch(self, index: int, slot: int) -> None:
        self.holds[slot] = index
        with torch.cuda.stream(self.stream):  # does nothing where there is none
            if self.stream:
                self.stream.wait_event(self.done[slot])
            for view, host in zip(self._views(index, slot), self.host[index], strict=True):
                view.copy_(host, non_blocking=True)
            if self.stream:
                self.there[slot].record(self.stream)

    def _views(self, index: int, slot: int) -> list[Tensor]:
        """The block's parameters in a slot."""
        views, start = [], 0
        for host in self.host[index]:
            views.append(self.slots[slot][start : start + host.nbytes].view(host.dtype).view(host.shape))
            start += _aligned(host)
        return views


def _aligned(tensor: Tensor) -> int:
    """Bytes that a tensor takes in a slot."""
    return math.ceil(tensor.nbytes / ALIGNMENT) * ALIGNMENT
