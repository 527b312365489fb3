"""Registers `tensorboard`."""

from __future__ import annotations

from pydantic import Field

from cosmos_forge import Options, hookimpl


class TensorBoardOptions(Options):
    """Writes event files for TensorBoard: training and held-out losses, contact sheets, settings."""

    folder: str | None = Field(
        None, min_length=1, description="of all runs' event files, one folder each; default: `tensorboard` in the run's"
    )


@hookimpl
def register_loggers(register):
    register("tensorboard", options=TensorBoardOptions, build="forge_tensorboard.writer:TensorBoard")
