"""The contract of loggers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cosmos_forge import events
from cosmos_forge.testing.contract import Contract
from cosmos_forge.testing.fakes import build
from cosmos_forge.types import LoggerContext

SETTINGS = {"": {"seed": 0}, "train": {"steps": 2, "lr": 1e-4}}
HAPPENED = (
    events.RunStarted("run", ["train", "generate"], "run.toml"),
    events.StageStarted("train"),
    events.Note("a sentence", warning=True),
    events.Step(1, 2, 0.5, {"edm": 0.25}, 1e-4, 1.0, 0.1, 10.0, 0.0, 1.0),
    events.Saved(1, "checkpoints/1"),
    events.StageFailed("train", [], interrupted=True),
    events.StageStarted("train"),
    events.Resumed(1, "checkpoints/1"),
    events.Step(2, 2, float("nan"), {"edm": 0.125}, 1e-4, 1.0, 0.1, 10.0, 0.0, 1.0),
    events.Artifact("checkpoint", "checkpoints"),
    events.StageFinished("train", 3.0),
    events.StageSkipped("prepare"),
    events.Progress("videos", 0.5, 1, "videos"),
    events.RejectedClip("a.mp4", "it is too short"),
    events.Measured({"psnr": 21.5}),
    events.RunFinished(4.0),
)

# Run by itself: what a logger imports when it is built and used, in a process that has no torch.
_BUILD = """
import json, sys
from pathlib import Path
from cosmos_forge import events
from cosmos_forge.options import build_options
from cosmos_forge.plugins import load, load_plugins
from cosmos_forge.types import LoggerContext
use, values, folder, settings, heavy = json.loads(sys.argv[1])
component = load_plugins().find("logger", use)
options, faults = build_options(component.options, values)
logger = load(component.build)(options, LoggerContext("run", Path(folder), settings))
logger.on_event(events.Stamped(events.RunStarted("run", ["train"]), 1.0))
logger.close()
print(json.dumps([name for name in heavy if name in sys.modules]))
"""


class LoggerContract(Contract):
    """Loggers write to a temporary folder; one that talks to a service needs options that keep it on this machine."""

    kind = "logger"

    def make(self, tmp_path: Path, **context: Any) -> Any:
        """The logger, built anew as the process of `forge` builds it; `context` changes fields of its context."""
        fields: dict[str, Any] = {"name": "run", "folder": tmp_path, "settings": SETTINGS, **context}
        return build(self.kind, self.use, self.make_options(tmp_path), LoggerContext(**fields))

    def test_takes_every_event(self, tmp_path: Path) -> None:
        logger = self.make(tmp_path)
        for number, event in enumerate(HAPPENED):
            assert logger.on_event(events.Stamped(event, 1000.0 + number)) is None, "on_event returns nothing"
        assert logger.close() is None, "close returns nothing"

    def test_may_end_without_events(self, tmp_path: Path) -> None:
        self.make(tmp_path).close()

    def test_goes_on_where_an_attempt_before_it_stopped(self, tmp_path: Path) -> None:
        for _ in range(2):
            self.test_takes_every_event(tmp_path)

    def test_working_is_light(self, tmp_path: Path) -> None:
        heavy = self.imports(_BUILD, self.use, self.make_options(tmp_path), str(tmp_path), SETTINGS)
        assert not heavy, f"the logger imported {heavy}; it lives in the process of `forge`, which must stay small"
