"""Registers `full`."""

from __future__ import annotations

from cosmos_forge import Options, hookimpl


class FullOptions(Options):
    """Trains every parameter of the network."""


@hookimpl
def register_methods(register):
    register("full", options=FullOptions, build="forge_full.full:Full")
