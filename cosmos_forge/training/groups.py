"""Work that the groups of a world's processes share out, and what they find put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch.distributed as dist

from cosmos_forge.types import World

Found = TypeVar("Found")


def turns(count: int, world: World) -> range:
    """What this process works on, of `count` things. All processes get as many turns, since they may need each other
    to compute; from `count` on, a turn is for company alone."""
    return range(world.data_rank, -(-count // world.data_size) * world.data_size, world.data_size)


def leads(world: World) -> bool:
    """Whether this process speaks for its group."""
    return world.rank % (world.size // world.data_size) == 0


def from_all(found: Mapping[int, Found], world: World) -> list[Found]:
    """What the groups' leaders found, by number, in the order of the numbers; the same in every process."""
    everyone: list[Any] = [found]
    if world.size > 1:
        everyone = [None] * world.size
        dist.all_gather_object(everyone, dict(found) if leads(world) else {})
    whole = {number: each for theirs in everyone for number, each in theirs.items()}
    return [whole[number] for number in sorted(whole)]
