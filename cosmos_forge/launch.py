"""Carries out a plan, stage by stage. Imports no torch, unless torchrun or SLURM started several launchers."""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos_forge import events
from cosmos_forge.checks import shortages
from cosmos_forge.errors import DONE, FAILED, INTERRUPTED, ForgeError, show_path
from cosmos_forge.files import no_space, sweep, write_json
from cosmos_forge.joined import Meeting, place
from cosmos_forge.loggers import logged
from cosmos_forge.origins import keep_origins
from cosmos_forge.report.write import keep_report
from cosmos_forge.run import Run, digest, hold
from cosmos_forge.stages import STAGES
from cosmos_forge.workers import Workers, free_port, full

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


def run_plan(plan: Plan, stages: tuple[str, ...] | None = None, accept_changes: bool = False) -> int:
    """Carries out the plan's stages, or the given ones anew, and shows them; returns the process's exit code.

    Joins the other launchers where torchrun or SLURM started several; of these rank 0 alone writes and shows. Raises
    ForgeError, before anything is written if it can be told by then.
    """
    here, again = place(), stages is not None
    if here is None:
        free_port()
    stages = stages or plan.stages
    if problems := shortages(plan, stages):
        raise ForgeError(problems)
    previous = signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        meeting = Meeting(here) if here else None
        if meeting and meeting.place.rank > 0:
            return _follow(plan, meeting)
        with hold(plan, stages, accept_changes) as (run, lock):
            sweep(run.folder)
            sweep(plan.cache, shared=True)
            write_json(run.folder / "environment.json", environment())
            keep_origins(plan)
            log = events.EventLog(run.events)
            with _outliving(plan, log), _shown(run), logged(plan, run, log), _told(meeting) as last_word:
                log.emit(events.RunStarted(plan.name, list(stages), show_path(plan.recipe)))
                code = _run_stages(plan, run, stages, again, log, lock, meeting)
                last_word.append(code)
                keep_report(run.folder, log)
                return code
    except KeyboardInterrupt:  # between two stages
        return INTERRUPTED
    except OSError as error:
        if no_space(error):
            raise ForgeError(full(plan)) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def _follow(plan: Plan, meeting: Meeting) -> int:
    """What the launchers after the first do: a worker for each stage that it names, and an end with its exit code."""
    while True:
        word, session = meeting.hear()
        if word not in STAGES:
            meeting.leave()
            return int(word)
        Workers(plan, Run(plan.folder), word, None, session).wait()


@contextmanager
def _told(meeting: Meeting | None) -> Iterator[list[int]]:
    """A list for the exit code, which the other launchers are told at the end; FAILED where none is put in."""
    codes: list[int] = []
    try:
        yield codes
    finally:
        if meeting:
            meeting.tell(str(codes[0] if codes else FAILED))
            meeting.leave()


@contextmanager
def _outliving(plan: Plan, log: events.EventLog) -> Iterator[None]:
    """Within, the run outlives its terminal, which goes away with a connection that drops."""

    def go_on(signum: int, frame: object) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        how = f"`forge watch {show_path(plan.folder)}` shows it, `kill {os.getpid()}` asks it to save and stop"
        log.emit(events.Note(f"the terminal is gone and the run goes on: {how}", warning=True))

    previous = signal.getsignal(signal.SIGHUP)
    if previous == signal.SIG_DFL:  # not so under nohup
        signal.signal(signal.SIGHUP, go_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, previous)


@contextmanager
def _shown(run: Run) -> Iterator[None]:
    """Shows what is added to the run's events while the block lasts."""
    from cosmos_forge import view

    offset = run.events.stat().st_size if run.events.exists() else 0
    finished = threading.Event()
    shown = threading.Thread(target=view.show, args=(run.folder, lambda: not finished.is_set(), offset), daemon=True)
    shown.start()
    try:
        yield
    finally:
        finished.set()
        shown.join()


def _run_stages(
    plan: Plan,
    run: Run,
    stages: tuple[str, ...],
    again: bool,
    log: events.EventLog,
    lock: int,
    meeting: Meeting | None,
) -> int:
    begin = time.time()
    for stage in stages:
        if not again and not STAGES[stage].recurring and run.is_done(stage, digest(plan, stage)):
            log.emit(events.StageSkipped(stage))
            continue
        run.forget(stage)
        started = time.time()
        session = meeting.tell(stage) if meeting and STAGES[stage].parallel else None
        workers = Workers(plan, run, stage, lock, session)
        log.emit(events.StageStarted(stage, workers.count))
        code = workers.wait()
        if code != DONE:
            sweep(run.folder)  # the first thing that a full disk needs
            log.emit(workers.failed())
            return code
        log.emit(events.StageFinished(stage, time.time() - started))
    log.emit(events.RunFinished(time.time() - begin))
    return DONE


def environment() -> dict[str, object]:
    """Versions and hardware, for the record."""
    names = ("cosmos-forge", "torch", "transformers", "peft", "safetensors", "av", "decord", "numpy")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "versions": versions,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _raise_interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
