"""The picture that events paint: what a view shows of a run, whatever it draws with. Imports no rich."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Literal

from cosmos_forge import events
from cosmos_forge.events import Event, Stamped

Status = Literal["waiting", "running", "done", "skipped", "failed", "interrupted"]
Outcome = Literal["open", "done", "failed", "interrupted"]

_RECENT = 10  # reports that the smoothed loss and the remaining time are taken from


@dataclass
class Meter:
    """How far a countable piece of work is. begun: `done` and time (seconds since 1970) of its first report."""

    latest: events.Progress
    time: float
    begun: tuple[float, float]

    @property
    def rate(self) -> float | None:
        """Items a second since the first report; None until there are two."""
        done, time = self.latest.done - self.begun[0], self.time - self.begun[1]
        return done / time if done > 0 and time > 0 else None

    def left(self, now: float) -> float | None:
        """Seconds to go, as far as the rate tells."""
        if not self.rate:
            return None
        return max(0.0, (self.latest.total - self.latest.done) / self.rate - (now - self.time))


@dataclass
class StageLine:
    """One stage. started: seconds since 1970. seconds: how long it took, once it has ended. meter: of the piece of work
    last reported. resumed: the step that training goes on after."""

    name: str
    status: Status = "waiting"
    processes: int = 1
    started: float = 0.0
    seconds: float | None = None
    meter: Meter | None = None
    resumed: int | None = None
    training: Training | None = None

    def elapsed(self, now: float) -> float:
        return max(0.0, now - self.started) if self.seconds is None else self.seconds


@dataclass
class Training:
    """The steps reported so far, over all attempts.

    curve: of each report the step, its loss, and the mean loss of the last ten reports. time: of the last report,
    seconds since 1970. pace: seconds a step, as this attempt last reported them. judged: on held-out clips, in order.
    """

    curve: list[tuple[int, float, float]] = field(default_factory=list)
    latest: events.Step | None = None
    time: float = 0.0
    saved: int | None = None
    pace: list[float] = field(default_factory=list)
    judged: list[events.Validated] = field(default_factory=list)

    def judge(self, judged: events.Validated) -> None:
        """Takes a judgement, in place of those that were lost."""
        self.judged = [each for each in self.judged if each.step < judged.step] + [judged]

    @property
    def best(self) -> events.Validated | None:
        """That with the lowest loss."""
        return next((each for each in reversed(self.judged) if each.best), None)

    def add(self, step: events.Step, time: float) -> None:
        """Takes a report. Steps that are done again after a resume take the place of those lost."""
        while self.curve and self.curve[-1][0] >= step.step:
            self.curve.pop()
        recent = [loss for _, loss, _ in self.curve[-_RECENT + 1 :]] + [step.loss]
        self.curve.append((step.step, step.loss, statistics.fmean(recent)))
        self.pace = [*self.pace, step.seconds][-_RECENT:]
        self.latest, self.time = step, time

    @property
    def smoothed(self) -> list[float]:
        """At each report the mean loss of the last ten."""
        return [smoothed for _, _, smoothed in self.curve]

    def left(self, now: float) -> float | None:
        """Seconds to go at the median pace of the last ten reports."""
        if self.latest is None:
            return None
        ahead = (self.latest.steps - self.latest.step) * statistics.median(self.pace)
        return max(0.0, ahead - (now - self.time))


@dataclass
class Picture:
    """A run as its events tell it. Its last attempt, with the loss curve, artifacts and measurements of all.

    left_by: the stage that left each artifact, and "metrics". news: those of the last attempt.
    """

    name: str = ""
    recipe: str = ""
    started: float = 0.0
    time: float = 0.0
    outcome: Outcome = "open"
    stages: dict[str, StageLine] = field(default_factory=dict)
    failure: events.StageFailed | None = None
    said: set[Event] = field(default_factory=set)
    training: Training = field(default_factory=Training)
    artifacts: dict[str, str] = field(default_factory=dict)
    left_by: dict[str, str] = field(default_factory=dict)
    news: set[str] = field(default_factory=set)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def current(self) -> StageLine | None:
        """The stage at work."""
        return next((stage for stage in self.stages.values() if stage.status == "running"), None)

    @property
    def rejected(self) -> int:
        """How many clips were left out."""
        return sum(isinstance(event, events.RejectedClip) for event in self.said)

    def is_about(self, name: str) -> bool:
        """Whether the last attempt left it, or found the stage that did done: a stage done again by itself is about
        nothing else."""
        stage = self.stages.get(self.left_by.get(name, ""))
        return name in self.news or (stage is not None and stage.status == "skipped")

    def add(self, stamped: Stamped) -> bool:
        """Paints one event. False for a note or a rejected clip that was there before, which need not be told again."""
        event, self.time = stamped.event, stamped.time
        if isinstance(event, (events.Note, events.RejectedClip)):
            if event in self.said:
                return False
            self.said.add(event)
        else:
            self._paint(event)
        return True

    def close(self) -> None:
        """Nothing more will come: what is still at work was cut short."""
        if stage := self.current:
            stage.status, stage.seconds = "interrupted", stage.elapsed(self.time)

    def _paint(self, event: Event) -> None:
        match event:
            case events.RunStarted():
                self.name, self.recipe, self.started = event.name, event.recipe, self.time
                self.stages = {name: StageLine(name) for name in event.stages}
                self.outcome, self.failure, self.said, self.news = "open", None, set(), set()
            case events.RunFinished():
                self.outcome = "done"
            case events.StageStarted():
                self._start(event)
            case events.StageSkipped():
                self._stage(event.stage).status = "skipped"
            case events.StageFinished():
                stage = self._stage(event.stage)
                stage.status, stage.seconds = "done", event.seconds
            case events.StageFailed():
                stage = self._stage(event.stage)
                self.outcome = stage.status = "interrupted" if event.interrupted else "failed"
                stage.seconds, self.failure = stage.elapsed(self.time), event
            case events.Artifact():
                self.artifacts.pop(event.name, None)  # what was made last stands last
                self.artifacts[event.name] = event.path
                self._left(event.name)
            case events.Measured():
                self.metrics = event.metrics
                self._left("metrics")
            case _:
                self._work(event)

    def _left(self, name: str) -> None:
        self.left_by[name] = self.current.name if self.current else ""
        self.news.add(name)

    def _start(self, event: events.StageStarted) -> None:
        self.stages[event.stage] = StageLine(event.stage, "running", event.processes, self.time)
        self.training.pace.clear()

    def _stage(self, name: str) -> StageLine:
        return self.stages.setdefault(name, StageLine(name, started=self.time))

    def _work(self, event: Event) -> None:
        """What the stage at work reports about itself."""
        stage = self.current
        if stage is None:
            return
        match event:
            case events.Progress():
                meter = stage.meter
                same = meter is not None and meter.latest.what == event.what and meter.latest.done <= event.done
                begun = meter.begun if meter is not None and same else (event.done, self.time)
                stage.meter = Meter(event, self.time, begun)
            case events.Step():
                self.training.add(event, self.time)
                stage.training = self.training
            case events.Saved():
                self.training.saved = event.step
            case events.Validated():
                self.training.judge(event)
                stage.training, stage.meter = self.training, None
            case events.Resumed():
                stage.resumed = event.step
