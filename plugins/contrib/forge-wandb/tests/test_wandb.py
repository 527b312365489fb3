"""What is kept offline, read from wandb's own files; nothing is sent anywhere."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys

import pytest

pytest.importorskip("forge_wandb", reason="forge-wandb is not installed")

from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record

from cosmos_forge import events
from cosmos_forge.testing import LoggerContract


class TestWandb(LoggerContract):
    use = "wandb"


# One attempt at a run, a process of its own as in life: wandb names an attempt's folder by the run and the second.
ATTEMPT = """
import sys
from pathlib import Path
from cosmos_forge import events
from cosmos_forge.types import LoggerContext
from forge_wandb.plugin import WandbOptions
from forge_wandb.writer import Wandb
logger = Wandb(WandbOptions(), LoggerContext("mine", Path(sys.argv[1]), {"": {"seed": 3}, "train": {"lr": 1e-4}}))
for line in sys.stdin:
    logger.on_event(events.from_line(line))
logger.close()
"""


def take(run, *happened: events.Event) -> list[Record]:
    """What is kept of one attempt; its folder is removed, so that the next one's stands alone."""
    lines = "".join(events.to_line(event, 1000.0) + "\n" for event in happened)
    done = subprocess.run([sys.executable, "-c", ATTEMPT, str(run)], input=lines, text=True, capture_output=True)
    assert done.returncode == 0 and done.stdout == "", done.stdout + done.stderr
    (folder,) = run.glob("wandb/offline-run-*")
    found = [record for path in folder.glob("*.wandb") for record in records(path)]
    shutil.rmtree(folder)
    return found


def records(path) -> list[Record]:
    """All of an offline run's file: LevelDB's log format after 7 bytes. Blocks of 32 KiB hold pieces, each with a
    checksum (4 bytes), its length (2) and its type (1: whole, 2: first, 3: middle, 4: last)."""
    data, found, begun = path.read_bytes(), [], b""
    at = 7
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        begun += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            found.append(Record.FromString(begun))
            begun = b""
    return found


def points(found: list[Record]) -> list[dict[str, object]]:
    """What was logged, point by point."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.HasField("history")
    ]


def step(number: int, loss: float) -> events.Step:
    return events.Step(number, 100, loss, {"edm": 0.25}, 1e-4, 0.5, 1.5, 2.0, 0.1, 3.0)


def test_attempts_at_a_run_are_one_run_offline(tmp_path):
    Image.new("RGB", (30, 20), "red").save(tmp_path / "sheet.png")
    first = take(tmp_path, step(1, 0.5), step(2, 0.4))
    second = take(
        tmp_path,
        events.Resumed(1, "checkpoints/1"),
        step(2, 0.3),
        events.Validated(2, [0.1, 10.0], [0.2, 0.4], [], {}, "sheet.png", True),
        events.Measured({"psnr": 21.5}),
    )
    assert [(each["step"], each["train/loss"], each["train/edm"]) for each in points(first)] == [
        (1, 0.5, 0.25),
        (2, 0.4, 0.25),
    ]
    again = points(second)
    assert (again[0]["step"], again[0]["train/loss"]) == (2, 0.3)
    assert again[1]["held out/loss"] == pytest.approx(0.3) and again[1]["held out/loss at sigma 10"] == 0.4
    assert {"generated/psnr": 21.5}.items() <= again[-1].items()
    assert any("samples" in "".join(each) for each in again)
    (one,), (other,) = ([record.run for record in found if record.HasField("run")] for found in (first, second))
    assert one.run_id == other.run_id == (tmp_path / "wandb/id.txt").read_text()
    assert (one.display_name, one.project) == ("mine", "cosmos-forge")
    config = {item.key: json.loads(item.value_json) for item in one.config.update}
    assert config["train"] == {"lr": 1e-4} and config["run"] == {"seed": 3}
