"""Launchers that torchrun or SLURM started side by side, one for each process: who they are and how they agree.

Rank 0 does all that a launcher does by itself. The others hear from it which stage comes next, and start their own
worker of it. They meet in a store of torch's at MASTER_ADDR:MASTER_PORT: torchrun's own, or one that rank 0 opens. It
outlives the workers, so that one port does for all stages; each stage's workers have a part of it to themselves.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from datetime import timedelta

from cosmos_forge.errors import ForgeError

# Where workers and launchers meet: below the ports that Linux hands out by itself (from 32768), so that no other
# program is given one of them in the seconds until it is listened on.
PORTS = range(20000, 30000)
PATIENCE = timedelta(minutes=5)  # for all launchers to be started
FAREWELL_SECONDS = 10.0  # for all launchers to hear the last word


@dataclass(frozen=True)
class Place:
    """This launcher's among `size`. local_rank: on its machine. hosts: whether it opens the store at address:port."""

    rank: int
    size: int
    local_rank: int
    address: str
    port: int
    hosts: bool


def place() -> Place | None:
    """Where torchrun (RANK and WORLD_SIZE) or SLURM (SLURM_PROCID and SLURM_NTASKS > 1) put this process; None where
    it was started by itself. Raises ForgeError where the environment says nonsense."""
    env = os.environ
    try:
        if "RANK" in env and "WORLD_SIZE" in env:
            rank, size, local_rank = int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0))
            address, port = env["MASTER_ADDR"], int(env["MASTER_PORT"])
        elif "SLURM_PROCID" in env and int(env.get("SLURM_NTASKS", 1)) > 1:
            rank, size = int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"])
            local_rank = int(env.get("SLURM_LOCALID", 0))
            address = env.get("MASTER_ADDR") or _first_host(env.get("SLURM_STEP_NODELIST") or env["SLURM_NODELIST"])
            port = int(env.get("MASTER_PORT") or PORTS[int(env["SLURM_JOB_ID"]) % len(PORTS)])
        else:
            return None
    except (KeyError, ValueError) as error:
        raise ForgeError(
            f"the environment looks like torchrun's or SLURM's, but is not whole: {error}",
            "start with torchrun or srun, or unset RANK and SLURM_PROCID",
        ) from None
    hosts = rank == 0 and env.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)
    return Place(rank, size, local_rank, address, port, hosts)


def _first_host(nodes: str) -> str:
    """Of SLURM's list: "gpu[003-008,010],other" begins with gpu003."""
    return re.sub(r"\[(\w+).*", r"\1", nodes).split(",")[0]


class Meeting:
    """Where the launchers of a run agree. Raises ForgeError where they do not all come."""

    def __init__(self, place: Place) -> None:
        from torch.distributed import DistError, PrefixStore, TCPStore

        self.place, self.words = place, 0
        try:
            store = TCPStore(place.address, place.port, is_master=place.hosts, timeout=PATIENCE, wait_for_workers=False)
        except DistError as error:
            where = f"{place.address}:{place.port} (MASTER_ADDR, MASTER_PORT)"
            raise ForgeError(
                f"process {place.rank} of {place.size} cannot meet the others at {where}: {error}"
            ) from None
        self.store = PrefixStore("forge", store)
        here, deadline = self.store.add("here", 1), time.monotonic() + PATIENCE.total_seconds()
        while here < place.size:
            if time.monotonic() > deadline:
                raise ForgeError(
                    f"{here} of {place.size} processes have come within {PATIENCE.total_seconds():.0f} s",
                    "in a batch script of SLURM, start `forge run` with srun; or unset SLURM_PROCID to start by itself",
                )
            time.sleep(0.1)
            here = self.store.add("here", 0)

    def tell(self, word: str) -> Session:
        """Rank 0 says what comes next: a stage, or the exit code."""
        self.words += 1
        self.store.set(f"{self.words}/word", word)
        return Session(self, self.words)

    def hear(self) -> tuple[str, Session]:
        """What rank 0 says next."""
        self.words += 1
        while not self.store.check([f"{self.words}/word"]):
            time.sleep(0.1)
        return self.store.get(f"{self.words}/word").decode(), Session(self, self.words)

    def leave(self) -> None:
        """The last word is heard. The store's host stays until all have."""
        gone, deadline = self.store.add("gone", 1), time.monotonic() + FAREWELL_SECONDS
        while self.place.hosts and gone < self.place.size and time.monotonic() < deadline:
            time.sleep(0.1)
            gone = self.store.add("gone", 0)


@dataclass(frozen=True)
class Session:
    """A stage's workers, one under each launcher. number: of the word that began it."""

    meeting: Meeting
    number: int

    def done(self) -> None:
        """This launcher's worker has ended well."""
        self.meeting.store.add(f"{self.number}/done", 1)

    def all_done(self) -> bool:
        return bool(self.meeting.store.add(f"{self.number}/done", 0) == self.meeting.place.size)

    def fail(self, code: int) -> None:
        """This launcher's worker has ended with an exit code that is not 0; only the first to say so is heard."""
        self.meeting.store.compare_set(f"{self.number}/failed", "", f"{self.meeting.place.rank} {code}")

    def failed(self) -> tuple[int, int] | None:
        """Rank and exit code of the first worker that failed."""
        if not self.meeting.store.check([f"{self.number}/failed"]):
            return None
        rank, code = self.meeting.store.get(f"{self.number}/failed").split()
        return int(rank), int(code)
