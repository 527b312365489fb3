"""What happens in a run, one line each. The only way out of a worker.

A worker appends events to `events.jsonl`; the view, `forge watch` and tests follow the file. Each line is a JSON
object: the event's fields, `event` (its class) and `time` (seconds since 1970).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any


@dataclass(frozen=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True)
class RunStarted(Event):
    """`forge` took up a run. name; stages to do, in order; recipe: its path."""

    name: str
    stages: list[str]
    recipe: str = ""


@dataclass(frozen=True)
class RunFinished(Event):
    """All stages are done."""

    seconds: float


@dataclass(frozen=True)
class StageStarted(Event):
    stage: str
    processes: int = 1


@dataclass(frozen=True)
class StageSkipped(Event):
    """The stage was done before, with the same settings."""

    stage: str


@dataclass(frozen=True)
class StageFinished(Event):
    stage: str
    seconds: float


@dataclass(frozen=True)
class StageFailed(Event):
    """problems: lines for a person. log: where more stands. interrupted: by Ctrl-C or SIGTERM, not by a fault."""

    stage: str
    problems: list[str]
    log: str = ""
    interrupted: bool = False


@dataclass(frozen=True)
class Progress(Event):
    """done of total items ("clips", "GB", "steps") of `what` is being done."""

    what: str
    done: float
    total: float
    unit: str = ""


@dataclass(frozen=True)
class Step(Event):
    """One optimizer step (1-based) of `steps`.

    loss: what is differentiated. metrics: others by name. lr: learning rate used. grad_norm: before clipping. seconds:
    wall time a step since the last report. samples_per_second: of the global batch. data_wait: share of that time spent
    waiting for data, 0 to 1. memory_gib: peak of this process (GPU if there is one, else resident). left_out: how many
    steps since the last report had gradients that were not finite, and changed nothing; means are over the others.
    tokens_per_second: of the global batch. tflops: model FLOPs (see `speed`) of one process, 10^12 a second. mfu: share
    of its GPU's peak that these are. None where the model does not count them, or the peak is not known.
    """

    step: int
    steps: int
    loss: float
    metrics: dict[str, float]
    lr: float
    grad_norm: float
    seconds: float
    samples_per_second: float
    data_wait: float
    memory_gib: float
    left_out: int = 0
    tokens_per_second: float | None = None
    tflops: float | None = None
    mfu: float | None = None


@dataclass(frozen=True)
class Saved(Event):
    """A checkpoint at `step` was committed, so many seconds after its step; training went on meanwhile."""

    step: int
    path: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Resumed(Event):
    """Training goes on after `step`."""

    step: int
    path: str


@dataclass(frozen=True)
class Validated(Event):
    """The weights after `step` were judged on held-out clips.

    sigmas: noise levels; losses, base: the mean loss at each, now and before the first step (empty where unknown).
    metrics: of sample videos, by name. sheet: their contact sheet, relative to the run directory; "" without them.
    best: the mean loss is the lowest so far.
    """

    step: int
    sigmas: list[float]
    losses: list[float]
    base: list[float]
    metrics: dict[str, float]
    sheet: str
    best: bool

    @property
    def loss(self) -> float:
        """The mean over the noise levels."""
        return fmean(self.losses)

    @property
    def base_loss(self) -> float | None:
        """The mean before training."""
        return fmean(self.base) if self.base else None


@dataclass(frozen=True)
class RejectedClip(Event):
    """A clip that is left out, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Artifact(Event):
    """A named file or folder of the run is complete. path: relative to the run directory."""

    name: str
    path: str


@dataclass(frozen=True)
class Measured(Event):
    """Numbers about the outcome, by name."""

    metrics: dict[str, float]


@dataclass(frozen=True)
class Note(Event):
    """A sentence for the person. warning: something they should look into."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Stamped:
    """An event and when it was written (seconds since 1970)."""

    event: Event
    time: float


KINDS: dict[str, type[Event]] = {cls.__name__: cls for cls in Event.__subclasses__()}


def to_line(event: Event, now: float) -> str:
    """One line of JSON, without its line end."""
    return json.dumps({"event": type(event).__name__, "time": round(now, 3), **asdict(event)})


def from_line(line: str) -> Stamped | None:
    """The event of a line; None for one that a newer version wrote, or that a crash cut short or spoilt."""
    try:
        fields: dict[str, Any] = json.loads(line)
        cls = KINDS[fields.pop("event")]
        now = fields.pop("time")
        return Stamped(cls(**fields), now)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


@dataclass
class EventLog:
    """Appends events to a file, a whole line at a time."""

    path: Path
    clock: Callable[[], float] = field(default=time.time)

    def emit(self, event: Event) -> None:
        """Appends the event; on a line of its own even where a crash cut the last one short."""
        data = (to_line(event, self.clock()) + "\n").encode()
        with self.path.open("ab+") as file:
            if file.tell() > 0:
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    data = b"\n" + data
            file.write(data)


def read(path: Path, offset: int = 0) -> tuple[list[Stamped], int]:
    """The events of whole lines from byte `offset`, and the offset to go on from."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    whole = data.rfind(b"\n") + 1
    events = [from_line(line) for line in data[:whole].decode(errors="replace").splitlines()]
    return [event for event in events if event], offset + whole


def follow(path: Path, alive: Callable[[], bool], interval: float = 0.1, offset: int = 0) -> Iterator[Stamped | None]:
    """Events as they are written, from byte `offset` of the file, None at every pause, until `alive` says no and all
    are read."""
    while True:
        last = not alive()
        events, offset = read(path, offset)
        yield from events
        if last:
            return
        yield None
        time.sleep(interval)
