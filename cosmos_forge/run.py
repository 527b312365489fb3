"""The run directory: what lies where, who holds it, which stages are done.

recipe.toml        the plan, complete; running it again reproduces the run
environment.json   versions and hardware of the last start
origins.json       where each setting was given
report.html        all of it on a page
events.jsonl       what happened
rejected.jsonl     clips that were left out, and why
prepared/          index.jsonl: the clips to train on and those held out, and where their latents lie
checkpoints/       to resume from
export/            trained weights
samples/           videos that training made of held-out clips as it went, a folder a step
videos/            what was generated, each with a JSON of its settings
latents/, chunks/  while videos are generated: what is done of them; preview.png: a rough picture of one
prompts.json       prompts that were written in place of a person's, and from what
metrics.json       how good it is
stages/            a JSON for each finished stage: its settings' digest and its artifacts; a TOML for one that was
                   done again by itself with settings of its own
logs/              what each process printed
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos_forge import events
from cosmos_forge.changes import INDIFFERENT, accept
from cosmos_forge.errors import ForgeError, show_path
from cosmos_forge.events import Artifact
from cosmos_forge.files import sha256, write_json
from cosmos_forge.stages import STAGES
from cosmos_forge.tables import kind_of

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

REPORT = "report.html"  # a run as a page

_PATIENCE_SECONDS = 3.0


@dataclass(frozen=True)
class Run:
    """A run directory, for the processes that work in it."""

    folder: Path
    _artifacts: dict[str, Path] = field(default_factory=dict)

    @property
    def events(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def prepared(self) -> Path:
        return self.folder / "prepared" / "index.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def export(self) -> Path:
        return self.folder / "export"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    @property
    def videos(self) -> Path:
        return self.folder / "videos"

    @property
    def latents(self) -> Path:
        return self.folder / "latents"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"

    def log(self, stage: str, rank: int) -> Path:
        """What that process of the stage prints."""
        return self.folder / "logs" / f"{stage}-rank{rank}.log"

    def failure(self, stage: str, rank: int) -> Path:
        """Where that process says why it failed."""
        return self.folder / "logs" / f"{stage}-rank{rank}.failure.json"

    def leave(self, name: str, path: Path) -> None:
        """Names a complete file or folder that the stage at work leaves behind."""
        self._artifacts[name] = path

    def finish(self, stage: str, digest: str) -> list[Artifact]:
        """Records that a stage is done, with a checksum of each file it left."""
        artifacts = {
            name: {"path": os.path.relpath(path, self.folder), "sha256": _checksums(path)}
            for name, path in self._artifacts.items()
        }
        write_json(self.folder / "stages" / f"{stage}.json", {"digest": digest, "artifacts": artifacts})
        return [Artifact(name, entry["path"]) for name, entry in artifacts.items()]

    def is_done(self, stage: str, digest: str) -> bool:
        """Whether the stage finished with these settings and all it left is still there."""
        record = self.folder / "stages" / f"{stage}.json"
        if not record.exists():
            return False
        done = json.loads(record.read_text())
        paths = [self.folder / entry["path"] for entry in done["artifacts"].values()]
        return bool(done["digest"] == digest) and all(path.exists() for path in paths)

    def forget(self, stage: str) -> None:
        """The stage is to be done anew."""
        (self.folder / "stages" / f"{stage}.json").unlink(missing_ok=True)

    def seconds(self, stage: str) -> float:
        """Time spent in a stage over all attempts, by the events."""
        total, started, last = 0.0, None, 0.0
        for stamped in events.read(self.events)[0]:
            match stamped.event:
                case events.StageStarted(stage=name):
                    if started is not None:  # an attempt that was killed leaves no end
                        total += last - started
                    started = stamped.time if name == stage else None
                case events.StageFinished(stage=name) | events.StageFailed(stage=name) if started is not None:
                    total, started = total + stamped.time - started, None
            last = stamped.time
        return total + (last - started if started is not None else 0.0)


def digest(plan: Plan, stage: str) -> str:
    """Of every setting that the stage's result depends on: its tables and those of the stages before it.

    Settings at their default do not count, so that a run outlives a version that adds one.
    """
    order = list(STAGES)
    kinds = {""}
    for name in order[: order.index(stage) + 1]:
        kinds |= {name, *STAGES[name].tables, *STAGES[name].optional}
    kinds.discard("parallelism")  # results agree across processes to within rounding
    values = {
        f"{table}.{key}": value
        for table in sorted(plan.tables)
        if kind_of(table) in kinds and plan.tables[table].on
        for key, value in plan.settings(table).items()
        if (table, key) not in INDIFFERENT
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


@contextmanager
def hold(plan: Plan, stages: tuple[str, ...], accept_changes: bool) -> Iterator[tuple[Run, int]]:
    """Takes the plan's run directory for this process; yields it with the lock's descriptor, to be inherited by workers
    so that the run stays taken until the last of them is gone.

    Raises ForgeError where another process holds it, or it was made with another plan and `accept_changes` is off.
    """
    run = Run(plan.folder)
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(plan.folder / "lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise ForgeError(
            f"cannot write to {show_path(plan.folder)}: {error.strerror}", "choose another folder with --runs"
        ) from None
    try:
        if not _lock(lock):
            raise ForgeError(
                f"run {plan.name} is being worked on by another process",
                f"`forge watch {plan.name}` shows it; --name starts another run",
            )
        accept(plan, stages, accept_changes)
        yield run, lock
    finally:
        os.close(lock)


def _lock(lock: int) -> bool:
    """Takes the lock, also from those about to let go: a `forge watch` that looks, the workers of a killed launcher."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)


def is_running(folder: Path) -> bool:
    """Whether some process holds the run directory."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(lock)


def _checksums(path: Path) -> Any:
    """Digest of a file, or of every file in a folder."""
    if path.is_dir():
        return {str(file.relative_to(path)): sha256(file) for file in sorted(path.rglob("*")) if file.is_file()}
    return sha256(path)
