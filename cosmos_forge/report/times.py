"""Where the time of a run went: by stage, and within a stage by what it said it was doing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cosmos_forge.events import (
    Event,
    Progress,
    RunStarted,
    StageFailed,
    StageFinished,
    StageStarted,
    Stamped,
    Step,
    Validated,
)

REST = "starting, loading and the rest"


@dataclass
class StageTime:
    """One attempt at a stage. parts: seconds by what was done, in the order of its beginning. waited: seconds of them
    that training stood waiting for data. ended: how, in a word."""

    stage: str
    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    waited: float = 0.0
    ended: str = "killed"


def stage_times(stamped: Sequence[Stamped]) -> list[StageTime]:
    """Of every attempt. The time between two events belongs to the later one, where that reports work as done."""
    times: list[StageTime] = []
    at_work, last = False, 0.0
    reported = 0
    for each in stamped:
        event = each.event
        if isinstance(event, (StageStarted, RunStarted)):
            at_work = isinstance(event, StageStarted)
            if isinstance(event, StageStarted):
                times.append(StageTime(event.stage))
                reported = 0
        elif at_work:
            now = times[-1]
            seconds = max(0.0, each.time - last)
            part = _part(event)
            now.seconds += seconds
            now.parts[part] = now.parts.get(part, 0.0) + seconds
            if isinstance(event, Step):
                now.waited += event.data_wait * event.seconds * max(1, event.step - reported)
                reported = event.step
            if isinstance(event, (StageFinished, StageFailed)):
                at_work, now.ended = False, _ending(event)
        last = each.time
    return times


def _part(event: Event) -> str:
    match event:
        case Step():
            return "steps"
        case Validated():
            return "validation"
        case Progress(what=what, done=done) if done > 0:
            return what
        case _:
            return REST


def _ending(event: StageFinished | StageFailed) -> str:
    if isinstance(event, StageFinished):
        return "done"
    return "interrupted" if event.interrupted else "failed"
