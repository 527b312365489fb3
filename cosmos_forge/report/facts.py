"""All that a run's folder tells about it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cosmos_forge import events
from cosmos_forge.errors import ForgeError, show_path
from cosmos_forge.events import Note, RejectedClip, Stamped, Step, Validated
from cosmos_forge.origins import read_origins
from cosmos_forge.recipe import ROOT, read_recipe, toml_value
from cosmos_forge.report.times import StageTime, stage_times
from cosmos_forge.run import Run
from cosmos_forge.training import checkpoint
from cosmos_forge.view.picture import Picture


@dataclass(frozen=True)
class Film:
    """A video that was made: its record (the JSON beside it) and, where it is known, what really happened."""

    name: str
    path: Path
    record: dict[str, Any] = field(default_factory=dict)
    truth: Path | None = None


@dataclass(frozen=True)
class Setting:
    """One key of the run's recipe; value as TOML."""

    table: str
    key: str
    value: str
    origin: str

    @property
    def name(self) -> str:
        return f"{self.table}.{self.key}" if self.table else self.key


@dataclass(frozen=True)
class Facts:
    """A run, as it stands.

    picture: its last attempt. steps, validated: in order, without those that were lost and done again. times: of all
    attempts. notes, rejected: each once. films: what `generate` made. stopped: of what guardrails kept from being made,
    by name, why. samples: by step, what validation made. sheets: contact sheets of the former. settings: of its recipe;
    alone: of stages that were done again by themselves, where they differ.
    """

    folder: Path
    picture: Picture
    steps: list[Step]
    validated: list[Validated]
    times: list[StageTime]
    notes: list[Note]
    rejected: list[RejectedClip]
    films: list[Film]
    stopped: dict[str, str]
    samples: dict[int, list[Film]]
    sheets: list[Path]
    settings: list[Setting]
    alone: list[Setting]
    environment: dict[str, Any]
    metrics: dict[str, float]

    @property
    def name(self) -> str:
        return self.picture.name or self.folder.name

    @property
    def seconds(self) -> float:
        """Spent in stages, over all attempts."""
        return sum(each.seconds for each in self.times)

    @property
    def best(self) -> Validated | None:
        """The judgement with the lowest held-out loss."""
        return min(self.validated, key=lambda each: each.loss, default=None)

    @property
    def pace(self) -> float:
        """Seconds a step, the median; there must be steps."""
        return sorted(step.seconds for step in self.steps)[len(self.steps) // 2]

    @property
    def memory_gib(self) -> float:
        """Of one process at its peak; there must be steps."""
        return max(step.memory_gib for step in self.steps)


def read_facts(folder: Path) -> Facts:
    """Raises ForgeError where there is no run."""
    run = Run(folder)
    stamped, _ = events.read(run.events)
    if not stamped:
        raise ForgeError(f"there is no run in {show_path(folder)}", "`forge run RECIPE` starts one")
    picture = Picture()
    for each in stamped:
        picture.add(each)
    picture.close()
    notes = dict.fromkeys(each.event for each in stamped if isinstance(each.event, Note))
    settings, alone = _settings(folder)
    return Facts(
        folder=folder,
        picture=picture,
        steps=_last_of_each(stamped, Step),
        validated=_last_of_each(stamped, Validated),
        times=stage_times(stamped),
        notes=list(notes),
        rejected=_rejected(folder, stamped),
        films=_films(run.videos, run.videos / "truth"),
        stopped=_stopped(run.videos),
        samples={
            checkpoint.step_of(step): _films(step, run.videos / "truth")
            for step in sorted((folder / "samples").glob("step-*"))
        },
        sheets=sorted(run.videos.glob("*.png")),
        settings=settings,
        alone=alone,
        environment=_json(folder / "environment.json"),
        metrics={name: value for name, value in _json(run.metrics).items() if isinstance(value, (int, float))},
    )


def _last_of_each(stamped: list[Stamped], kind: type[Any]) -> list[Any]:
    """Events by step. What an attempt that went on from an earlier step does again takes the place of what was lost."""
    found: list[Any] = []
    for each in stamped:
        event = each.event
        if isinstance(event, events.Resumed):
            found = [kept for kept in found if kept.step <= event.step]
        elif isinstance(event, kind):
            found = [kept for kept in found if kept.step < event.step] + [event]  # type: ignore[attr-defined]
    return found


def _rejected(folder: Path, stamped: list[Stamped]) -> list[RejectedClip]:
    """As the last preparation left them; before its end, as it said them."""
    path = folder / "rejected.jsonl"
    if path.exists():
        return [RejectedClip(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return list(dict.fromkeys(each.event for each in stamped if isinstance(each.event, RejectedClip)))


def _films(folder: Path, truths: Path) -> list[Film]:
    films = []
    for path in sorted(folder.glob("*.mp4")):
        truth = truths / path.name
        films.append(Film(path.stem, path, _json(path.with_suffix(".json")), truth if truth.exists() else None))
    return films


def _stopped(folder: Path) -> dict[str, str]:
    """Records without a video."""
    stopped = {}
    for path in sorted(folder.glob("*.json")):
        safety = _json(path).get("safety")
        if not path.with_suffix(".mp4").exists() and isinstance(safety, dict):
            verdicts = safety.get("guardrails", {}).items()
            words = [
                ": ".join([name, *map(str, filter(None, map(said.get, ("state", "category", "reason"))))])
                for name, said in verdicts
                if said.get("state") in ("refused", "failed")
            ]
            stopped[path.stem] = "; ".join(words) or str(safety.get("state", ""))
    return stopped


def _settings(folder: Path) -> tuple[list[Setting], list[Setting]]:
    path = folder / "recipe.toml"
    if not path.exists():
        return [], []
    values, origins = read_recipe(path).values, read_origins(folder)
    settings = [
        Setting(table, key, toml_value(value), origins.get(f"{table}.{key}".lstrip("."), ""))
        for table, entries in values.items()
        for key, value in entries.items()
    ]
    alone = []
    for own in sorted((folder / "stages").glob("*.toml")):
        for table, entries in read_recipe(own).values.items():
            for key, value in entries.items():
                if table != ROOT and values.get(table, {}).get(key) != value:
                    alone.append(Setting(table, key, toml_value(value), f"{own.stem} alone"))
    return settings, alone


def _json(path: Path) -> dict[str, Any]:
    """What the file holds; nothing where it is not there, or not whole."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
