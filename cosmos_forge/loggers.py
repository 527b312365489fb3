"""Loggers beside a run: each follows the events in a thread of its own, and none can hurt or slow the run.

Built here, in the process of `forge`; the workers do not know of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from cosmos_forge import events
from cosmos_forge.plugins import load
from cosmos_forge.types import LoggerContext

if TYPE_CHECKING:
    from cosmos_forge.kinds import Logger
    from cosmos_forge.plan import Plan
    from cosmos_forge.run import Run
    from cosmos_forge.tables import Table

PATIENCE_SECONDS = 10.0  # for all loggers together to take the last events and close


@contextmanager
def logged(plan: Plan, run: Run, log: events.EventLog) -> Iterator[None]:
    """Hands the plan's loggers what is added to the run's events while the block lasts. One that fails, or does not end
    in time, is told as a warning and dropped."""
    offset = run.events.stat().st_size if run.events.exists() else 0
    finished = threading.Event()
    threads = {
        table.name: threading.Thread(target=_follow, args=(table, plan, run, log, finished, offset), daemon=True)
        for table in plan.each("logger")
    }
    for thread in threads.values():
        thread.start()
    try:
        yield
    finally:
        finished.set()
        deadline = time.monotonic() + PATIENCE_SECONDS
        for name, thread in threads.items():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                _warn(log, f"[{name}] had not taken all events {PATIENCE_SECONDS:g} s after the end; it is left behind")


def _follow(table: Table, plan: Plan, run: Run, log: events.EventLog, finished: threading.Event, offset: int) -> None:
    """One logger from its building to its end."""
    try:
        settings = {name: plan.values(name) for name in plan.tables}
        logger: Logger = load(table.build)(table.options, LoggerContext(plan.name, plan.folder, settings))
        try:
            for stamped in events.follow(run.events, lambda: not finished.is_set(), offset=offset):
                if stamped is not None:
                    logger.on_event(stamped)
        finally:
            logger.close()
    except (Exception, SystemExit) as error:  # whatever a stranger's logger does
        said = " ".join(str(error).split())
        _warn(log, f"[{table.name}] failed and is dropped, the run goes on: {type(error).__name__}: {said}")


def _warn(log: events.EventLog, text: str) -> None:
    with suppress(OSError):  # a full disk is the run's own to tell
        log.emit(events.Note(text, warning=True))
