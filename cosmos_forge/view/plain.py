"""The view without a terminal: one plain line an event, each begun with the time since the run was taken up."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from cosmos_forge import events
from cosmos_forge.errors import show_path
from cosmos_forge.events import Event, Stamped
from cosmos_forge.view.last_words import closing
from cosmos_forge.view.picture import Picture
from cosmos_forge.view.words import counted, duration, held_out, measured, pace, step_facts, time_left

_SECONDS = 5.0  # progress is told when so much time has passed since it was last told,
_SHARE, _LEAST_SECONDS = 0.1, 1.0  # or when so much more is done, and not faster than a person reads


@dataclass
class Plain:
    """Writes lines. told: of each piece of work the time it was last told and the share that was done."""

    folder: Path
    stream: TextIO
    told: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def event(self, stamped: Stamped, picture: Picture) -> None:
        line = _words(stamped.event, picture, self.folder) if self._due(stamped, picture) else ""
        if line:
            seconds = max(0, int(stamped.time - picture.started))
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

    def _due(self, stamped: Stamped, picture: Picture) -> bool:
        """Whether the event is told: progress not so soon after it was last told."""
        match stamped.event:
            case events.Progress(what=what, done=done, total=total):
                work = what
            case events.Step(step=done, steps=total):
                work = ""
            case _:
                return True
        key = (picture.current.name if picture.current else "", work)
        share = done / total if total else 1.0
        then, told = self.told.get(key, (float("-inf"), 0.0))
        passed = stamped.time - then
        due = share >= 1 or passed >= _SECONDS or (share - told >= _SHARE and passed >= _LEAST_SECONDS)
        if due:
            self.told[key] = (stamped.time, share)
        return due


def _words(event: Event, picture: Picture, folder: Path) -> str:
    """What to say of an event; nothing of those that the closing words tell."""
    stage = picture.current.name if picture.current else picture.name
    match event:
        case events.RunStarted(name=name, stages=stages, recipe=recipe):
            return f"{name}: {', '.join(stages)}" + (f" ({recipe})" if recipe else "")
        case events.StageStarted(stage=name, processes=processes):
            return f"{name}: started" + (f", {processes} processes" if processes > 1 else "")
        case events.StageSkipped(stage=name):
            return f"{name}: done before"
        case events.StageFinished(stage=name, seconds=seconds):
            return f"{name}: done in {duration(seconds)}"
        case events.StageFailed(stage=name, interrupted=interrupted):
            return f"{name}: {'interrupted' if interrupted else 'failed'}"
        case events.Progress(what=what):
            meter = picture.current.meter if picture.current else None
            left = meter.left(picture.time) if meter else None
            return _joined(f"{stage}: {what} {counted(event)}", pace(meter) if meter else "", time_left(left))
        case events.Step(step=step, steps=steps):
            facts = [f"{name} {value}" for name, value in step_facts(event)]
            return _joined(f"{stage}: step {step}/{steps}", *facts, time_left(picture.training.left(picture.time)))
        case events.Saved(step=step, path=path, seconds=seconds):
            return f"{stage}: saved step {step} in {path}, written in {duration(seconds)}"
        case events.Resumed(step=step):
            return f"{stage}: goes on after step {step}"
        case events.Validated(step=step, metrics=metrics, sheet=sheet):
            said = "; ".join([held_out(event), *measured(metrics)])
            return f"{stage}: step {step}: {said}" + (f"; {show_path(folder / sheet)}" if sheet else "")
        case events.RejectedClip(key=key, reason=reason):
            return f"{stage}: left out {key}: {reason}"
        case events.Artifact(name=name, path=path):
            return f"{name}: {show_path(folder / path)}"
        case events.Measured(metrics=metrics):
            return "; ".join(measured(metrics))
        case events.Note(text=text, warning=warning):
            return f"{'warning' if warning else 'note'}: {text}"
    return ""


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
