"""Registers `new-plugin` and says what a recipe may choose about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from pydantic import Field

from cosmos_forge import Options, hookimpl


class NewPluginOptions(Options):
    """Trains the parameters whose names match, biases and scales by default, and leaves the rest as it is."""

    match: list[str] = Field(
        ["*bias", "*scale", "*norm*"], min_length=1, description="names of parameters to train, with * for any text"
    )

    def matches(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.match)

    def trained(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """How many numbers train of a network with parameters of these shapes; `forge explain` shows it."""
        return sum(math.prod(shape) for name, shape in shapes.items() if self.matches(name))


@hookimpl
def register_methods(register):
    register("new-plugin", options=NewPluginOptions, build="new_plugin.method:NewPlugin")
