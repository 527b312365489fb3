"""The view without a terminal: one plain line an event, each begun with the time since the run was taken up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from cosmos_forge.errors import show_path
from cosmos_forge.events import (
    Artifact,
    Event,
    Measured,
    Note,
    Progress,
    RejectedClip,
    Resumed,
    RunStarted,
    Saved,
    StageFailed,
    StageFinished,
    StageSkipped,
    StageStarted,
    Stamped,
    Step,
    Validated,
)
from cosmos_forge.view.last_words import closing
from cosmos_forge.view.picture import Picture
from cosmos_forge.view.words import counted, duration, held_out, measured, pace, step_facts

_SECONDS = 5.0  # progress is told when so much time has passed since it was last told,
_SHARE, _LEAST_SECONDS = 0.1, 1.0  # or when so much more is done, and not faster than a person reads


@dataclass
class Plain:
    """Writes lines. told: of each piece of work the time it was last told and the share that was done."""

    folder: Path
    stream: TextIO
    told: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def event(self, stamped: Stamped, picture: Picture) -> None:
        seconds = max(0, int(stamped.time - picture.started))
        for line in self._lines(stamped, picture):
            self._write(f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d} {line}")

    def pause(self, picture: Picture) -> None:
        self.stream.flush()

    def end(self, picture: Picture) -> None:
        last = closing(picture, self.folder)
        self._write(f"{picture.name}: {last.title}")
        for line in [*last.problems, *(f"{name}: {path}" for name, path in last.files), *last.words]:
            self._write(f"  {line}")
        for purpose, command in last.tries:
            self._write(f"  to {purpose}: {command}")

    def close(self) -> None:
        self.stream.flush()

    def _write(self, line: str) -> None:
        self.stream.write(line + "\n")

    def _lines(self, stamped: Stamped, picture: Picture) -> Iterator[str]:
        """The line of an event, unless it comes too soon after the last of its kind."""
        match stamped.event:
            case Progress(what=what, done=done, total=total) if not self._due(what, done, total, stamped.time, picture):
                return
            case Step(step=step, steps=steps) if not self._due("", step, steps, stamped.time, picture):
                return
        if line := _words(stamped.event, picture, self.folder):
            yield line

    def _due(self, what: str, done: float, total: float, time: float, picture: Picture) -> bool:
        key = (picture.current.name if picture.current else "", what)
        share = done / total if total else 1.0
        then, told = self.told.get(key, (float("-inf"), 0.0))
        due = time - then >= _SECONDS or (share - told >= _SHARE and time - then >= _LEAST_SECONDS)
        if due or share >= 1:
            self.told[key] = (time, share)
        return due or share >= 1


def _words(event: Event, picture: Picture, folder: Path) -> str:
    """What to say of an event; nothing of those that the closing words tell."""
    stage = picture.current.name if picture.current else picture.name
    match event:
        case RunStarted(name=name, stages=stages, recipe=recipe):
            return f"{name}: {', '.join(stages)}" + (f" ({recipe})" if recipe else "")
        case StageStarted(stage=name, processes=processes):
            return f"{name}: started" + (f", {processes} processes" if processes > 1 else "")
        case StageSkipped(stage=name):
            return f"{name}: done before"
        case StageFinished(stage=name, seconds=seconds):
            return f"{name}: done in {duration(seconds)}"
        case StageFailed(stage=name, interrupted=interrupted):
            return f"{name}: {'interrupted' if interrupted else 'failed'}"
        case Progress(what=what):
            meter = picture.current.meter if picture.current else None
            left = meter.left(picture.time) if meter else None
            return _joined(f"{stage}: {what} {counted(event)}", pace(meter) if meter else "", _left(left))
        case Step(step=step, steps=steps):
            facts = [f"{name} {value}" for name, value in step_facts(event)]
            return _joined(f"{stage}: step {step}/{steps}", *facts, _left(picture.training.left(picture.time)))
        case Saved(step=step, path=path, seconds=seconds):
            return f"{stage}: saved step {step} in {path}, written in {duration(seconds)}"
        case Resumed(step=step):
            return f"{stage}: goes on after step {step}"
        case Validated(step=step, metrics=metrics, sheet=sheet):
            said = "; ".join([held_out(event), *measured(metrics)])
            return f"{stage}: step {step}: {said}" + (f"; {show_path(folder / sheet)}" if sheet else "")
        case RejectedClip(key=key, reason=reason):
            return f"{stage}: left out {key}: {reason}"
        case Artifact(name=name, path=path):
            return f"{name}: {show_path(folder / path)}"
        case Measured(metrics=metrics):
            return "; ".join(measured(metrics))
        case Note(text=text, warning=warning):
            return f"{'warning' if warning else 'note'}: {text}"
    return ""


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"{duration(seconds)} left"


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
