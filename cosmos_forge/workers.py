"""The processes of one stage: started, watched over, ended. Imports no torch."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cosmos_forge import events
from cosmos_forge.errors import (
    DONE,
    FAILED,
    INTERRUPTED,
    NO_SPACE,
    REFUSED,
    WRONG,
    ForgeError,
    Problem,
    show_path,
)
from cosmos_forge.joined import PORTS, Session, place
from cosmos_forge.run import Run
from cosmos_forge.stages import STAGES

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

GRACE_SECONDS = 600.0  # for workers to end their step and save, once asked to stop; a second Ctrl-C cuts it short
STOPPED = 128 + signal.SIGTERM  # exit code of a worker that has saved and stopped because it, or another, was asked to


@dataclass
class Workers:
    """The processes of one stage, by rank: all of them, or the one under this launcher if `session` joins several.

    lock: descriptor of the run's lock, which they inherit; None where another launcher holds it. first_failed: rank and
    exit code of the process that failed first.
    """

    plan: Plan
    run: Run
    stage: str
    lock: int | None
    session: Session | None = None
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    first_failed: tuple[int, int] | None = None
    interrupted: bool = False
    told: bool = False

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
            while not self._ended():
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
        code = WRONG if self.first_failed[1] == NO_SPACE else self.first_failed[1]
        return code if code in (WRONG, REFUSED) else FAILED

    def failed(self) -> events.StageFailed:
        """Why the stage ended, in the words of the process that failed first."""
        rank, code = self.first_failed or (0, DONE)
        log = show_path(self.run.log(self.stage, rank))
        if self.interrupted:
            return events.StageFailed(self.stage, [], log, interrupted=True)
        told = self.run.failure(self.stage, rank)
        if told.exists():
            return events.StageFailed(self.stage, json.loads(told.read_text()), log)
        if code == NO_SPACE:
            return events.StageFailed(self.stage, full(self.plan).lines(), log)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        lines = [f"error: process {rank} of {self.count} {how}", f"  fix: its last words stand in {log}"]
        if code == -signal.SIGKILL:
            lines[-1] += "; the system ends processes this way when memory runs out"
        return events.StageFailed(self.stage, lines, log)

    def _start(self) -> None:
        port = 0 if place() else free_port()
        ranks = range(self.count) if self.session is None else [self.session.meeting.place.rank]
        for rank in ranks:
            self.run.failure(self.stage, rank).unlink(missing_ok=True)
            log = self.run.log(self.stage, rank)
            log.parent.mkdir(exist_ok=True)
            with log.open("wb") as out:
                self.processes[rank] = subprocess.Popen(
                    [sys.executable, "-m", "cosmos_forge.worker", str(self.run.folder), self.stage],
                    env=self._environment(rank, port),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    pass_fds=[] if self.lock is None else [self.lock],
                    start_new_session=True,  # Ctrl-C reaches the workers through us, once
                )

    def _environment(self, rank: int, port: int) -> dict[str, str]:
        threads = max(1, len(os.sched_getaffinity(0)) // self.count) if hasattr(os, "sched_getaffinity") else 1
        local_rank, store = rank, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **os.environ}
        if self.session:
            here = self.session.meeting.place
            local_rank, store = here.local_rank, {**os.environ, "MASTER_ADDR": here.address}
            store |= {"MASTER_PORT": str(here.port), "FORGE_STORE": f"forge/{self.session.number}/workers"}
        return {
            "OMP_NUM_THREADS": str(threads),
            # Threads that wait by spinning make a step ten times slower as soon as another program wants a core, and
            # threads that never spin make small steps slower by half; this many turns suit both.
            "GOMP_SPINCOUNT": "1000",
            **store,
            "RANK": str(rank),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": str(self.count),
            "FORGE_PARENT": str(os.getpid()),
        }

    def _ended(self) -> bool:
        """Whether all processes have ended; where launchers are joined, rank 0 waits for the others' as well."""
        if any(process.poll() is None for process in self.processes.values()):
            return False
        if self.session is None or self.first_failed or self.session.meeting.place.rank > 0:
            return True
        return self.session.failed() is not None or self.session.all_done()

    def _check(self) -> None:
        """Notes the first process that failed and ends the others, which would wait for it for ever."""
        if self.first_failed:
            return
        codes = {rank: process.poll() for rank, process in self.processes.items()}
        failed = [(rank, code) for rank, code in codes.items() if code]
        if self.session:
            failed = self._compare(failed, ended=None not in codes.values())
        if failed:
            self.first_failed = failed[0]
            self.interrupted = self.interrupted or bool(self.session and failed[0][1] == STOPPED)
            self._stop(5.0)

    def _compare(self, failed: list[tuple[int, int]], ended: bool) -> list[tuple[int, int]]:
        """Tells the other launchers how this one's process fares, and returns the first that failed of all."""
        assert self.session
        if failed:
            self.session.fail(failed[0][1])
        elif ended and not self.told:
            self.session.done()
            self.told = True
        first = self.session.failed()
        return [first] if first else []

    def _stop(self, grace: float) -> None:
        """Asks the processes that are left to stop, and ends them when the time is up or on a second Ctrl-C."""
        left = [process for process in self.processes.values() if process.poll() is None]
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


def full(plan: Plan) -> Problem:
    """That there is no room for what the run writes."""
    folders = [folder for folder in (plan.folder, plan.cache) if folder.exists()]
    free = {show_path(folder): shutil.disk_usage(folder).free / 2**20 for folder in folders}
    what = "; ".join(f"{folder} has {room:.0f} MiB left" for folder, room in free.items())
    return Problem(f"no space is left on the disk: {what}", fix="free some, then the same command goes on")


def free_port() -> int:
    """A port of this machine that nobody listens on; the one in MASTER_PORT must be free too."""
    wanted = os.environ.get("MASTER_PORT")
    for port in [wanted] if wanted else random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", int(port)))
                return int(port)
            except (OSError, OverflowError, ValueError) as error:
                said = error
    if not wanted:
        raise ForgeError(f"no port of {PORTS[0]} to {PORTS[-1]} is free: {said}", "name another in MASTER_PORT")
    raise ForgeError(
        f"port {wanted} (MASTER_PORT) cannot be used: {said}",
        "unset MASTER_PORT to take any free port, or name another",
    )
