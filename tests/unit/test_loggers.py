"""Loggers beside a run: they get every event, and nothing that happens to them happens to the run."""

import sys
import threading
import time
from types import ModuleType

import pytest
from pydantic import Field

from cosmos_forge import Options, events, hookimpl, loggers
from cosmos_forge.planning import make_plan
from cosmos_forge.plugins import Source, load_plugins
from cosmos_forge.recipe import read_recipe
from cosmos_forge.run import Run


class RecordOptions(Options):
    """A logger that can be bad."""

    fails: str = Field("", description="where it raises")


class Record:
    """What loggers were told, by table; `hold` makes them wait."""

    told: dict[str, list] = {}
    hold = threading.Event()

    def __init__(self, options, context):
        self.options, self.heard = options, Record.told.setdefault(options.fails, [])
        self.heard.append(context)
        self.fail("build")

    def fail(self, when):
        if self.options.fails == when:
            raise SystemExit("the service\nis down") if when == "event" else RuntimeError("no such service")

    def on_event(self, stamped):
        self.fail("event")
        if self.options.fails == "time":
            self.hold.wait(30)
        self.heard.append(stamped.event)

    def close(self):
        self.heard.append("closed")
        self.fail("close")


@pytest.fixture
def run(workplace, monkeypatch, plugins):
    """Runs with the given loggers while two events are written; returns the events of the run."""
    module = ModuleType("recording_plugin")
    module.Record = Record
    module.register_loggers = hookimpl(
        lambda register: register("record", options=RecordOptions, build="recording_plugin:Record")
    )
    monkeypatch.setitem(sys.modules, "recording_plugin", module)
    monkeypatch.setattr(Record, "told", {})
    monkeypatch.setattr(Record, "hold", threading.Event())
    plugins.components += load_plugins([Source("rec", "rec-package", "1.0", lambda: module)]).components

    def run(*fails):
        tables = [f'logger.{each or "good"}={{use="record", fails="{each}"}}' for each in fails]
        plan = make_plan(read_recipe("r.toml", tables), plugins)
        plan.folder.mkdir(parents=True, exist_ok=True)
        run = Run(plan.folder)
        log = events.EventLog(run.events)
        log.emit(events.Note("of an attempt before"))
        with loggers.logged(plan, run, log):
            log.emit(events.Note("one"))
            log.emit(events.Note("two"))
        return [stamped.event for stamped in events.read(run.events)[0]]

    return run


def test_a_logger_gets_every_event_of_this_attempt(run):
    happened = run("")
    context, *heard, last = Record.told[""]
    assert heard == [events.Note("one"), events.Note("two")] == happened[1:]
    assert last == "closed"
    assert context.name == "r" and context.folder.name == "r" and context.settings["train"]["steps"] == 100


@pytest.mark.parametrize(
    ("when", "why"),
    [
        ("build", "RuntimeError: no such service"),
        ("event", "SystemExit: the service is down"),
        ("close", "RuntimeError: no such service"),
    ],
)
def test_one_that_fails_is_told_once_and_hurts_nobody(run, when, why):
    happened = run(when, "")
    (warning,) = [event for event in happened if event.warning]
    assert warning.text == f"[logger.{when}] failed and is dropped, the run goes on: {why}"
    told = [event for event in Record.told[""][1:] if event != warning]
    assert told == [events.Note("one"), events.Note("two"), "closed"]


def test_one_that_hangs_is_left_behind(run, monkeypatch):
    monkeypatch.setattr(loggers, "PATIENCE_SECONDS", 0.3)
    started = time.monotonic()
    happened = run("time")
    assert time.monotonic() - started < 10
    assert happened[-1] == events.Note(
        "[logger.time] had not taken all events 0.3 s after the end; it is left behind", warning=True
    )
    Record.hold.set()
