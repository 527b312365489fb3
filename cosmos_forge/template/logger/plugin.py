"""Registers `new-plugin` and says what a recipe may choose about it."""

from __future__ import annotations

from pydantic import Field

from cosmos_forge import Options, hookimpl


class NewPluginOptions(Options):
    """Keeps a diary of the run: `new-plugin.txt`, a line for each of the events it is asked for."""

    events: list[str] = Field(
        ["RunStarted", "StageFinished", "StageFailed", "Measured", "RunFinished"],
        description="which to write down; cosmos_forge/events.py lists them all",
    )


@hookimpl
def register_loggers(register):
    register("new-plugin", options=NewPluginOptions, build="new_plugin.logger:NewPlugin")
