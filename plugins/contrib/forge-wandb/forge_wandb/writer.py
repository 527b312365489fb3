"""A run's events for Weights & Biases."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import wandb

from cosmos_forge.events import Artifact, Measured, Resumed, Stamped, Step, Validated
from cosmos_forge.types import LoggerContext
from forge_wandb.plugin import WandbOptions


class Wandb:
    """See `cosmos_forge.kinds.Logger`. All attempts at a run share an id, so that they are one run there.

    The curves' axis is the number `step` of each point, not the order in which points come: that could not go back when
    steps are done again.
    """

    def __init__(self, options: WandbOptions, context: LoggerContext) -> None:
        self.folder, self.step = context.folder, 0
        context.folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            silent=True,  # the terminal is the view's
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,  # of this process, which does not compute
        )
        self.run = wandb.init(
            mode=options.mode,
            project=options.project,
            entity=options.entity,
            name=context.name,
            id=_id(context.folder / "wandb" / "id.txt"),
            resume="allow",
            dir=context.folder,
            config={table or "run": dict(values) for table, values in context.settings.items()},
            reinit="create_new",
            settings=settings,
        )
        self.run.define_metric("*", step_metric="step")

    def on_event(self, stamped: Stamped) -> None:
        match stamped.event:
            case Resumed(step=step):
                self.step = step
            case Step() as event:
                self.step = event.step
                numbers = asdict(event) | event.metrics
                self._log("train", {name: numbers[name] for name in numbers.keys() - {"step", "steps"}})
            case Validated() as event:
                self.step = event.step
                levels = {
                    f"loss at sigma {sigma:.3g}": loss for sigma, loss in zip(event.sigmas, event.losses, strict=True)
                }
                self._log("held out", {"loss": event.loss, **levels, **event.metrics})
                self._picture("samples", event.sheet)
            case Measured(metrics=metrics):
                self._log("generated", metrics)
                self.run.summary.update(metrics)
            case Artifact(name="contact sheet", path=path):
                self._picture("contact sheet", path)

    def close(self) -> None:
        """Hands over what is still on its way."""
        self.run.finish()

    def _log(self, group: str, numbers: Mapping[str, Any]) -> None:
        """What is no number, or is not known, is left out."""
        known = {f"{group}/{name}": each for name, each in numbers.items() if isinstance(each, (int, float))}
        self.run.log({"step": self.step, **known})

    def _picture(self, name: str, path: str) -> None:
        """A PNG of the run's, if there is one."""
        if path and (self.folder / path).is_file():
            self.run.log({"step": self.step, name: wandb.Image(str(self.folder / path))})


def _id(path: Path) -> str:
    """The run's id, made once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(uuid.uuid4().hex[:12])
    return path.read_text().strip()
