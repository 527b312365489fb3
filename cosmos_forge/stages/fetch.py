"""fetch: downloads what the recipe's components need, as far as it is not on this machine."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from cosmos_forge import events, machine
from cosmos_forge.errors import ForgeError
from cosmos_forge.run import Run

if TYPE_CHECKING:
    from cosmos_forge.hub import File
    from cosmos_forge.options import Download
    from cosmos_forge.plan import Plan

INTERVAL = 0.5  # seconds between reports


def run(plan: Plan, run: Run, emit: Callable[[events.Event], None]) -> None:
    """Leaves the files in the Hugging Face cache, where components find them. Asks the hub for nothing that is there.

    Raises ForgeError; the next attempt goes on where this one stopped.
    """
    downloads = plan.downloads()
    repositories = f"{len(downloads)} repositor{'y' if len(downloads) == 1 else 'ies'}"
    if not downloads:
        emit(events.Note("nothing to download"))
    elif all(machine.is_downloaded(each) for each in downloads):
        emit(events.Note(f"{repositories}, {_gigabytes(downloads):.1f} GB, all here already"))
    else:
        with _turn(emit):
            _fetch(downloads, repositories, emit)


def _fetch(downloads: list[Download], repositories: str, emit: Callable[[events.Event], None]) -> None:
    from cosmos_forge import hub

    present = [download for download in downloads if machine.is_downloaded(download)]
    absent = [download for download in downloads if download not in present]
    files = hub.listing(absent)
    had, total, here = (
        _gigabytes(present),
        sum(file.size for file in files) / 1e9,
        sum(file.here for file in files) / 1e9,
    )
    emit(events.Note(f"{repositories}, {had + total:.1f} GB; {had + here:.1f} GB of it here already"))
    _require_space(total - here)
    _receive(files, emit)
    for download in absent:
        hub.lay_out(download)


def _gigabytes(present: list[Download]) -> float:
    return sum(machine.downloaded_gigabytes(download) for download in present)


def _receive(files: list[File], emit: Callable[[events.Event], None]) -> None:
    """Downloads the files one after the other, reporting how much of all of them is here."""
    from cosmos_forge import hub

    tell = _Teller(emit)
    done, total = 0, sum(file.size for file in files)
    for file in files:
        if not file.blob.exists():
            checking = f"checking {file.name}"
            hub.receive(file, partial(tell, file.download.repo, total, done), partial(tell, checking, file.size, 0))
        done += file.size
        tell(file.download.repo, total, 0, done)


class _Teller:
    """Says how far things are, not more often than a person reads; always when something is done."""

    def __init__(self, emit: Callable[[events.Event], None]) -> None:
        self._emit = emit
        self._last = float("-inf")

    def __call__(self, what: str, total: int, before: int, more: int) -> None:
        """`before` + `more` of `total` bytes."""
        done, now = before + more, time.monotonic()
        if now - self._last >= INTERVAL or done == total:
            self._last = now
            self._emit(events.Progress(what, done / 1e9, total / 1e9, "GB"))


def _require_space(gigabytes: float) -> None:
    folder = machine.hub_cache()
    free = machine.free_gigabytes(folder)
    if free < gigabytes:
        raise ForgeError(
            f"no disk space: {gigabytes:.1f} GB are to come to {folder}, {free:.1f} GB are free",
            "free some, or choose another disk by HF_HOME",
        )


@contextmanager
def _turn(emit: Callable[[events.Event], None]) -> Iterator[None]:
    """Waits until no other run downloads to this cache: two that append to one file would spoil it."""
    cache = machine.hub_cache()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / ".forge.lock").open("w")
    except OSError as error:
        raise ForgeError(
            f"cannot write to {cache}: {error.strerror}", "HF_HOME chooses another folder for downloads"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            emit(events.Note("waiting for another run that is downloading"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
