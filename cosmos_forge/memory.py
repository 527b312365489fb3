"""What training and sampling take of a GPU's memory, predicted part by part, and what blocks must forget for it to fit.

Torch-free. Bytes throughout; GiB where people read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Literal

from cosmos_forge.types import Activations

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

Level = Literal["none", "products", "attention", "block"]
Residency = Literal["resident", "streamed", "fp8"]

LEVELS: tuple[Level, ...] = ("none", "products", "attention", "block")  # from what keeps most to what keeps least
STATE_BYTES = {
    "fp32": 8.0,
    "8bit": 2 + 2 * 4 / 256,
}  # of AdamW, a trained number; 8-bit ones share scales, see `adamw8bit`
USABLE = 0.92  # of what a GPU has; the rest goes to the allocator's gaps and to libraries


@dataclass(frozen=True)
class Memory:
    """Of one process, at the moment of a training step when most is needed.

    weights: all it holds, frozen ones too. optimizer, average: of its trained weights. gradients: those that are there
    at that moment; in a backward pass they come as blocks let go of what they kept. gathered: sharded blocks put
    together, and their gradients. kept: by blocks until their backward pass. working: of the block that is in its
    backward pass.
    """

    weights: float
    gradients: float = 0.0
    optimizer: float = 0.0
    average: float = 0.0
    gathered: float = 0.0
    kept: float = 0.0
    working: float = 0.0

    @property
    def total(self) -> float:
        return sum(asdict(self).values())

    def __str__(self) -> str:
        """Parts that count, in GiB."""
        parts = [f"{name} {size / 2**30:.1f}" for name, size in asdict(self).items() if size > 0.05 * 2**30]
        return f"{self.total / 2**30:.1f} GiB ({', '.join(parts)})" if parts else f"{self.total / 2**20:.0f} MiB"


@dataclass(frozen=True)
class Holdings:
    """What a process holds whatever its blocks forget. weights: bytes of all parameters. trained: how many numbers of
    them train, in float32. gathered: bytes for sharded blocks while they are whole."""

    weights: int
    trained: int
    gathered: int = 0


def predict(
    holdings: Holdings,
    activations: Activations,
    levels: Sequence[Level],
    *,
    samples: float,
    number_bytes: int,
    optimizer_state: str,
    average: bool,
    accumulated: bool,
) -> Memory:
    """levels: one a block. samples: that a process computes on at once; a part of one where processes share it.
    number_bytes: of an element that the network computes with. accumulated: whether gradients of several such passes
    are added up. An upper bound."""
    each, gradients = samples * number_bytes, 4.0 * holdings.trained
    kept = {
        "none": activations.whole,
        "products": activations.products,
        "attention": activations.attention,
        "block": activations.block,
    }
    always = Memory(
        weights=holdings.weights,
        optimizer=STATE_BYTES[optimizer_state] * holdings.trained,
        average=4 * holdings.trained * average,
    )

    def backward(index: int, kept_by_then: int) -> Memory:
        """Blocks after it have let go of all and have their gradients; what it forgot itself, but for what lies between
        products and is used at once, is whole again."""
        level = levels[index]
        again = activations.whole - kept[level] + activations.working
        return replace(
            always,
            gradients=gradients if accumulated else gradients * (1 - (index + 1) / len(levels)),
            gathered=holdings.gathered,
            kept=each * kept_by_then,
            working=each * (activations.flowing if level in ("none", "products") else again),
        )

    moments = [backward(*block) for block in enumerate(accumulate(kept[level] for level in levels))]
    update = replace(always, gradients=gradients)
    return max([*moments, update], key=lambda moment: moment.total)


def mixtures(blocks: int) -> Iterator[list[Level]]:
    """Levels of `blocks` blocks, from what keeps most to what keeps least. Only neighbouring levels are mixed; the last
    blocks, whose turn in the backward pass comes first, forget least."""
    for more, less in pairwise(LEVELS):
        for forgetful in range(blocks):
            yield [less] * forgetful + [more] * (blocks - forgetful)
    yield [LEVELS[-1]] * blocks


def fit(blocks: int, usable: float, memory: Callable[[Sequence[Level]], Memory]) -> list[Level]:
    """The first of `mixtures` that takes no more than `usable`; the last where none does."""
    choices = mixtures(blocks)
    levels = next(choices)
    while memory(levels).total > usable:
        following = next(choices, None)
        if following is None:
            break
        levels = following
    return levels


def sampling_memory(plan: Plan, parts: int = 1) -> dict[Residency, Memory] | None:
    """What denoising one video takes of a process, by where the network's weights lie; None where the model cannot
    tell. parts: in how many its tokens are computed on."""
    model = plan.options("model")
    if not all(hasattr(model, each) for each in ("parameter_shapes", "blocks", "activations")):
        return None
    number = 2 if plan.root.precision == "bf16" else 4
    latents = plan.options("latent_tokenizer").latent_shape(*plan.video_size())
    working = number * model.activations(latents, frozen=True, compiled=plan.root.compile != "none").working / parts
    return {
        residency: Memory(weights, working=working + whole)
        for residency, (weights, whole) in placed(model.parameter_shapes(), model.blocks, number).items()
    }


def placed(
    shapes: Mapping[str, Sequence[int]], blocks: Sequence[str], number_bytes: int
) -> dict[Residency, tuple[float, float]]:
    """Bytes that parameters of these shapes take on the device, and those of a matrix put together to be used, by where
    they lie (see `residency`). blocks: names that those of a block begin with."""
    sizes = {name: number_bytes * math.prod(shape) for name, shape in shapes.items()}
    each = [[name for name in shapes if name.startswith(f"{block}.")] for block in blocks]
    whole, in_blocks = sum(sizes.values()), [sum(sizes[name] for name in block) for block in each]
    matrices = [name for block in each for name in block if len(shapes[name]) == 2]
    saved = sum(sizes[name] - math.prod(shapes[name]) - 4 * shapes[name][0] for name in matrices)
    return {
        "resident": (whole, 0),
        "streamed": (whole - sum(in_blocks) + 2 * max(in_blocks), 0),
        "fp8": (whole - saved, max(sizes[name] for name in matrices)),
    }
