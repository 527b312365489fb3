"""Registers `wandb`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cosmos_forge import Options, hookimpl


class WandbOptions(Options):
    """Keeps a run for Weights & Biases: on this machine, or, if asked, on their servers."""

    mode: Literal["offline", "online"] = Field(
        "offline",
        description="offline: kept in `wandb` in the run's folder, for `wandb sync`; online: sent as it comes",
    )
    project: str = Field("cosmos-forge", min_length=1, description="project of the run")
    entity: str | None = Field(None, min_length=1, description="user or team; default: that of the account")


@hookimpl
def register_loggers(register):
    register("wandb", options=WandbOptions, build="forge_wandb.writer:Wandb")
