"""What training takes of a GPU's memory, predicted part by part, and what blocks must forget for it to fit.

Torch-free. Bytes throughout; GiB where people read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal

from cosmos_forge.types import Activations

Level = Literal["none", "attention", "block"]

LEVELS: tuple[Level, ...] = ("none", "attention", "block")  # from most memory to least
STATE_BYTES = {
    "fp32": 8.0,
    "8bit": 2 + 2 * 4 / 256,
}  # of AdamW, a trained number; 8-bit ones share scales, see `adamw8bit`
USABLE = 0.92  # of what a GPU has; the rest goes to the allocator's gaps and to libraries


@dataclass(frozen=True)
class Memory:
    """Of one process, at the moment of a training step when most is needed.

    weights: all it holds, frozen ones too. gradients, optimizer, average: of its trained weights. gathered: sharded
    blocks put together, and their gradients. kept: by all blocks until their backward pass. working: of the block that
    is in its backward pass.
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
) -> Memory:
    """levels: one a block. samples: that a process computes on at once; a part of one where processes share it.
    number_bytes: of an element that the network computes with. An upper bound: compiled blocks keep less."""
    each = samples * number_bytes
    kept = {"none": activations.whole, "attention": activations.attention, "block": activations.block}
    # What a block forgot is whole again while its gradients are computed.
    again = max(activations.whole - kept[level] for level in levels)
    return Memory(
        weights=holdings.weights,
        gradients=4 * holdings.trained,
        optimizer=STATE_BYTES[optimizer_state] * holdings.trained,
        average=4 * holdings.trained * average,
        gathered=holdings.gathered,
        kept=each * sum(kept[level] for level in levels),
        working=each * (again + activations.working),
    )


def mixtures(blocks: int) -> Iterator[list[Level]]:
    """Levels of `blocks` blocks, from most memory to least. Only neighbouring levels are mixed; the last blocks, whose
    turn in the backward pass comes first, forget least."""
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
