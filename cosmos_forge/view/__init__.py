"""The view of a run: a person's progress display in a terminal, one plain line an event elsewhere.

It only listens: everything it shows stands in `events.jsonl`, so a running run, a finished one and one that another
process works on look the same. Times are those of the events.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Protocol, TextIO

from cosmos_forge.errors import ForgeError, show_path
from cosmos_forge.events import RunStarted, Stamped, follow, from_line
from cosmos_forge.options import nearest
from cosmos_forge.run import is_running
from cosmos_forge.view.picture import Picture
from cosmos_forge.view.plain import Plain


class _NobodyReads(Exception):
    """The stream that the view writes to was closed at its other end."""


class Screen(Protocol):
    """What a run is shown on. Calls come in the order of the events; the picture already holds the event."""

    def event(self, stamped: Stamped, picture: Picture) -> None: ...

    def pause(self, picture: Picture) -> None:
        """All that was written so far is in the picture."""
        ...

    def end(self, picture: Picture) -> None:
        """Nothing more will come. Not called when the person leaves."""
        ...

    def close(self) -> None:
        """Leaves the terminal as it was found."""
        ...


def show(folder: Path, alive: Callable[[], bool], offset: int = 0, stream: TextIO | None = None) -> None:
    """Shows the run in `folder` from byte `offset` of its events, until `alive` says no and all are read.

    What stands before `offset` is not told again but counts: the loss curve goes on from there. stream: a text file,
    by default standard output; a terminal gets the live display, anything else plain lines.
    """
    with suppress(_NobodyReads):
        _show(folder, alive, offset, stream or sys.stdout)


def watch(folder: Path) -> int:
    """Shows the last attempt at a run, running or finished. Ctrl-C leaves it alone.

    Returns the exit code: 1 if the run ended other than done. Raises ForgeError where there is no such run.
    """
    path = folder / "events.jsonl"
    if not path.exists():
        runs = [entry.parent.name for entry in folder.parent.glob("*/events.jsonl")]
        fix = (
            nearest(folder.name, runs) if runs else "`forge run RECIPE` starts one; --runs names the folder of all runs"
        )
        raise ForgeError(f"there is no run in {show_path(folder)}", fix)
    try:
        picture = _show(folder, lambda: is_running(folder), _last_attempt(path), sys.stdout)
    except (KeyboardInterrupt, _NobodyReads):
        return 0
    if not picture.started:
        raise ForgeError(f"nothing has happened in {show_path(folder)}", "`forge run RECIPE` starts a run")
    return 0 if picture.outcome == "done" else 1


def _show(folder: Path, alive: Callable[[], bool], offset: int, stream: TextIO) -> Picture:
    path = folder / "events.jsonl"
    known, picture, screen = len(_events_before(path, offset)), Picture(), _screen(folder, stream)
    try:
        with closing(screen):
            for stamped in follow(path, alive):
                if stamped is not None:
                    known -= 1
                    if picture.add(stamped) and known < 0:
                        screen.event(stamped, picture)
                elif known < 0:
                    screen.pause(picture)
            if known < 0:
                picture.close()
                screen.end(picture)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        # As after `| head`, or without the terminal. What the buffer holds must go somewhere when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise _NobodyReads from None
    return picture


def _screen(folder: Path, stream: TextIO) -> Screen:
    """The live display where the stream is a terminal that can move its cursor and show bars, else plain lines."""
    able = stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    if able and (stream.encoding or "").lower().startswith("utf"):
        from rich.console import Console

        from cosmos_forge.view.terminal import Terminal

        return Terminal(folder, Console(file=stream, highlight=False))
    return Plain(folder, stream)


def _events_before(path: Path, offset: int) -> list[Stamped]:
    if offset == 0:
        return []
    with path.open("rb") as file:
        lines = file.read(offset).decode(errors="replace").splitlines()
    return [stamped for stamped in map(from_line, lines) if stamped]


def _last_attempt(path: Path) -> int:
    """Where in the file the events of the last `forge` command begin."""
    start = position = 0
    with path.open("rb") as file:
        for line in file:
            stamped = from_line(line.decode(errors="replace"))
            if stamped and isinstance(stamped.event, RunStarted):
                start = position
            position += len(line)
    return start
