"""What goes wrong while a run runs: what, why and what to do, in the terminal; and the same command goes on."""

import json
import os
import re
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cosmos_forge.files import sha256
from cosmos_forge.video import write_mp4


def clip(folder: Path, name: str, frames: int = 17, caption: str | None = "noise") -> Path:
    """A video of 32x32 pixels, with its caption."""
    pixels = np.random.default_rng(len(name)).integers(0, 255, (frames, 32, 32, 3), dtype=np.uint8)
    video = folder / "videos" / f"{name}.mp4"
    write_mp4(pixels, 12.0, video)
    (folder / "metas").mkdir(exist_ok=True)
    if caption:
        (folder / "metas" / f"{name}.txt").write_text(caption)
    return video


def bad_clips(folder: Path) -> dict[str, str]:
    """One of each kind of clip that cannot be used; by key a word of the reason."""
    cut = clip(folder, "truncated")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    clip(folder, "text").write_text("I am no video.\n")
    clip(folder, "short", frames=5)
    clip(folder, "untold", caption=None)
    reasons = {"truncated": "cut short", "text": "no video", "short": "5 frames", "untold": "no caption"}
    return {f"videos/{name}.mp4": reason for name, reason in reasons.items()}


def folder_of(workplace, name: str) -> list[str]:
    """Overrides to train on the clips of a folder in the workplace."""
    size = ["dataset.num_frames=17", "dataset.height=32", "dataset.width=32"]
    # The small recipe's own keys of [dataset] are those of another dataset, so a recipe without them is used.
    text = (workplace.folder / "small.toml").read_text()
    first, _, rest = text.partition("[dataset]")
    rest = rest[rest.index("\n\n") :]
    (workplace.folder / "own.toml").write_text(f'{first}[dataset]\nuse = "video-folder"\npath = "{name}"{rest}')
    return ["run", "own.toml", "--name", name, *size, "prepare.held_out=1", "train.steps=2", "train.batch_size=2"]


def test_clips_that_cannot_be_used_are_left_out_one_by_one(workplace):
    for number in range(3):
        clip(workplace.folder / "mixed", f"good-{number}")
    bad = bad_clips(workplace.folder / "mixed")
    said = workplace.forge(*folder_of(workplace, "mixed"))
    listed = [json.loads(line) for line in (workplace.of("mixed") / "rejected.jsonl").read_text().splitlines()]
    reasons = {entry["key"]: entry["reason"] for entry in listed}
    assert reasons.keys() == bad.keys()
    for key, reason in bad.items():
        assert reason in reasons[key]
        assert f"left out {key}: {reasons[key]}" in said
    assert "4 clips were left out" in said
    assert (workplace.of("mixed") / "metrics.json").exists()


def test_a_folder_of_nothing_but_bad_clips_ends_the_run_with_every_reason(workplace):
    bad = bad_clips(workplace.folder / "hopeless")
    said = workplace.forge(*folder_of(workplace, "hopeless"), code=2)
    for key, reason in bad.items():
        assert any(key in line and reason in line for line in said.splitlines()), key
    assert "fix:" in said
    clip(workplace.folder / "hopeless", "good-0")
    clip(workplace.folder / "hopeless", "good-1")
    workplace.forge(*folder_of(workplace, "hopeless"), "train.batch_size=1", "--continue")


@dataclass
class Disk:
    """A disk of its own at `folder`, whose size can be changed: memory of the machine, used as far as files take it."""

    folder: Path

    def mount(self, options: str) -> None:
        """Skips where that is not allowed."""
        self.folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(self.folder)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"needs root, to mount a disk: {mounted.stderr.strip()}")

    def leave(self, spare: int) -> None:
        """Changes the size so that so many bytes are free."""
        now = os.statvfs(self.folder)
        self.mount(f"remount,size={(now.f_blocks - now.f_bfree) * now.f_frsize + spare}")


@pytest.fixture
def disk(workplace):
    disk = Disk(workplace.folder / "disk")
    disk.mount("size=4g")
    yield disk
    subprocess.run(["umount", "-l", str(disk.folder)], check=True)


def test_a_full_disk_is_said_and_the_run_goes_on_once_there_is_room(workplace, disk):
    """Once a stage at a time. Training has room for two checkpoints of 9 MB and needs three; export for a part of its
    file; for generating there is none, not even for an event."""
    runs = disk.folder / "runs"
    command = ["run", "small.toml", "--name", "tight", "--runs", str(runs), "train.steps=28"]
    for stage, spare in {"train": 20 << 20, "export": 1 << 20, "generate": 0}.items():
        launcher = workplace.start(*command)
        log = runs / "tight" / "events.jsonl"
        while launcher.poll() is None and f'"StageStarted", "stage": "{stage}"' not in _text(log):
            time.sleep(0.05)
        disk.leave(spare)
        said = launcher.communicate(timeout=120)[0]
        assert launcher.returncode == 2, said
        assert "Traceback" not in said
        assert "no space is left on the disk" in said and "MiB left" in said
        assert "free some, then the same command goes on" in said
        assert not list(disk.folder.rglob("*.partial*"))
        disk.leave(2 << 30)
    assert "tight: done in" in workplace.forge(*command)
    assert '"Resumed", "step": 14' in _text(log)

    workplace.run("roomy", "train.steps=28")
    assert sha256(runs / "tight" / "export" / "model.safetensors") == workplace.weights("roomy")


def _text(log: Path) -> str:
    return re.sub(r'"time": [\d.]+, ', "", log.read_text()) if log.exists() else ""


def test_a_disk_without_any_room_is_said_at_once(workplace, disk):
    disk.leave(0)
    said = workplace.forge("run", "small.toml", "--runs", str(disk.folder / "runs"), code=2)
    assert "error: no disk space" in said and "fix: free some" in said


def test_a_port_in_use_is_said_before_anything_is_written(workplace):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = workplace.forge(*workplace.command("port"), code=2, MASTER_PORT=port)
    assert f"port {port} (MASTER_PORT) cannot be used: " in said and "already in use" in said
    assert "fix: unset MASTER_PORT" in said
    said = workplace.forge(*workplace.command("port"), code=2, MASTER_PORT="x")
    assert "port x (MASTER_PORT) cannot be used: " in said
    assert not workplace.of("port").exists()


def test_a_run_that_another_process_works_on_is_left_alone(workplace):
    first = workplace.start(*workplace.command("held", "train.steps=5000"))
    while not (workplace.of("held") / "events.jsonl").exists():
        time.sleep(0.05)
    try:
        said = workplace.run("held", "train.steps=5000", code=2)
        assert "run held is being worked on by another process" in said and "forge watch held" in said
    finally:
        first.kill()
        first.communicate()


def test_whoever_stops_reading_does_not_hurt_the_run(workplace):
    command = workplace.command("headed", 'stages=["prepare"]')
    process = workplace.start(*command)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert (workplace.of("headed") / "stages" / "prepare.json").exists()
