"""Offers the command `forge clips`."""

from __future__ import annotations

from cosmos_forge import hookimpl


@hookimpl
def register_commands(register):
    register(
        "clips", help="Cut long videos into shots, a file each, ready to train on.", run="forge_clips.command:clips"
    )
