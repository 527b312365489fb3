"""Starts the workers of each stage, watches over them, and passes on how they fared. Imports no torch."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos_forge import events
from cosmos_forge.errors import DONE, FAILED, INTERRUPTED, NO_SPACE, WRONG, ForgeError, Problem, show_path
from cosmos_forge.files import no_space, sweep, write_json
from cosmos_forge.run import Run, digest, hold
from cosmos_forge.stages import STAGES

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

GRACE_SECONDS = 600.0  # for workers to end their step and save, once asked to stop; a second Ctrl-C cuts it short


def run_plan(plan: Plan, stages: tuple[str, ...] | None = None, accept_changes: bool = False) -> int:
    """Carries out the plan's stages, or the given ones anew, and shows them; returns the process's exit code.

    Raises ForgeError, before anything is written if it can be told by then.
    """
    free_port()
    again = stages is not None
    stages = stages or plan.stages
    previous = signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        with hold(plan, stages, accept_changes) as (run, lock):
            sweep(run.folder)
            sweep(plan.cache, shared=True)
            write_json(run.folder / "environment.json", environment())
            log = events.EventLog(run.events)
            with _shown(run):
                log.emit(events.RunStarted(plan.name, list(stages), show_path(plan.recipe)))
                return _run_stages(plan, run, stages, again, log, lock)
    except KeyboardInterrupt:  # between two stages
        return INTERRUPTED
    except OSError as error:
        if no_space(error):
            raise ForgeError(_full(plan)) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


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


def _run_stages(plan: Plan, run: Run, stages: tuple[str, ...], again: bool, log: events.EventLog, lock: int) -> int:
    begin = time.time()
    for stage in stages:
        if not again and not STAGES[stage].recurring and run.is_done(stage, digest(plan, stage)):
            log.emit(events.StageSkipped(stage))
            continue
        run.forget(stage)
        started = time.time()
        workers = Workers(plan, run, stage, lock)
        log.emit(events.StageStarted(stage, workers.count))
        code = workers.wait()
        if code != DONE:
            sweep(run.folder)  # the first thing that a full disk needs
            log.emit(workers.failed())
            return code
        log.emit(events.StageFinished(stage, time.time() - started))
    log.emit(events.RunFinished(time.time() - begin))
    return DONE


@dataclass
class Workers:
    """The processes of one stage."""

    plan: Plan
    run: Run
    stage: str
    lock: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    first_failed: int | None = None
    interrupted: bool = False

    @property
    def count(self) -> int:
        """How many processes the stage gets."""
        return self.plan.processes if STAGES[self.stage].parallel else 1

    def wait(self) -> int:
        """Starts them and waits for all; a Ctrl-C or SIGTERM asks them to save and stop, a second one ends them.

        Returns the exit code.
        """
        try:
            self._start()
            while any(process.poll() is None for process in self.processes):
                self._check()
                time.sleep(0.05)
        except KeyboardInterrupt:
            self.interrupted = True
            self._stop(GRACE_SECONDS)
        finally:
            self._stop(0.0)
        self._check()
        if self.interrupted:
            return INTERRUPTED
        if self.first_failed is None:
            return DONE
        return WRONG if self.processes[self.first_failed].returncode in (WRONG, NO_SPACE) else FAILED

    def failed(self) -> events.StageFailed:
        """Why the stage ended, in the words of the process that failed first."""
        rank = self.first_failed or 0
        log = show_path(self.run.log(self.stage, rank))
        if self.interrupted:
            return events.StageFailed(self.stage, [], log, interrupted=True)
        told = self.run.failure(self.stage, rank)
        if told.exists():
            return events.StageFailed(self.stage, json.loads(told.read_text()), log)
        code = self.processes[rank].returncode
        if code == NO_SPACE:
            return events.StageFailed(self.stage, _full(self.plan).lines(), log)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        lines = [f"error: process {rank} of {self.count} {how}", f"  fix: its last words stand in {log}"]
        if code == -signal.SIGKILL:
            lines[-1] += "; the system ends processes this way when memory runs out"
        return events.StageFailed(self.stage, lines, log)

    def _start(self) -> None:
        port = free_port()
        for rank in range(self.count):
            self.run.failure(self.stage, rank).unlink(missing_ok=True)
            log = self.run.log(self.stage, rank)
            log.parent.mkdir(exist_ok=True)
            with log.open("wb") as out:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "cosmos_forge.worker", str(self.run.folder), self.stage],
                        env=self._environment(rank, port),
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                        pass_fds=[self.lock],
                        start_new_session=True,  # Ctrl-C reaches the workers through us, once
                    )
                )

    def _environment(self, rank: int, port: int) -> dict[str, str]:
        threads = max(1, len(os.sched_getaffinity(0)) // self.count) if hasattr(os, "sched_getaffinity") else 1
        return {
            "OMP_NUM_THREADS": str(threads),
            # Threads that wait by spinning make a step ten times slower as soon as another program wants a core.
            "OMP_WAIT_POLICY": "passive",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(self.count),
            "FORGE_PARENT": str(os.getpid()),
        }

    def _check(self) -> None:
        """Notes the first process that failed and ends the others, which would wait for it for ever."""
        failed = [rank for rank, process in enumerate(self.processes) if process.poll() not in (None, 0)]
        if failed and self.first_failed is None:
            self.first_failed = failed[0]
            self._stop(5.0)

    def _stop(self, grace: float) -> None:
        """Asks the processes that are left to stop, and ends them when the time is up or on a second Ctrl-C."""
        left = [process for process in self.processes if process.poll() is None]
        try:
            for process in left if grace else []:
                process.terminate()
            deadline = time.monotonic() + grace
            while time.monotonic() < deadline and any(process.poll() is None for process in left):
                time.sleep(0.05)
        except KeyboardInterrupt:
            self.interrupted = True
        for process in left:
            if process.poll() is None:
                process.kill()
                process.wait()


def _full(plan: Plan) -> Problem:
    """That there is no room for what the run writes."""
    folders = [folder for folder in (plan.folder, plan.cache) if folder.exists()]
    free = {show_path(folder): shutil.disk_usage(folder).free / 2**20 for folder in folders}
    what = "; ".join(f"{folder} has {room:.0f} MiB left" for folder, room in free.items())
    return Problem(f"no space is left on the disk: {what}", fix="free some, then the same command goes on")


def free_port() -> int:
    """A port of this machine that nobody listens on; the one in MASTER_PORT must be free too."""
    wanted = os.environ.get("MASTER_PORT")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(wanted or 0)))
        except (OSError, OverflowError):
            raise ForgeError(
                f"port {wanted} (MASTER_PORT) is in use",
                "unset MASTER_PORT to take any free port, or name another",
            ) from None
        return int(probe.getsockname()[1])


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
