"""Registers `full`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from cosmos_forge import Options, hookimpl


class FullOptions(Options):
    """Trains every parameter of the network."""

    def trained(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """How many numbers train of a network with parameters of these shapes; `forge explain` shows it."""
        return sum(map(math.prod, shapes.values()))


@hookimpl
def register_methods(register):
    register("full", options=FullOptions, build="forge_full.full:Full")
