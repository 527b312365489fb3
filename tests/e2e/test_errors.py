"""What goes wrong while a run runs: what, why and what to do, in the terminal; and the same command goes on."""

import json
import os
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

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


@contextmanager
def small_disk(folder: Path, mebibytes: int):
    """A disk of its own at `folder`; skips where one cannot be mounted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs root, to mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path, spare: int = 0) -> None:
    """Takes the disk's room but for `spare` bytes."""
    with path.open("wb", buffering=0) as file:
        room = os.statvfs(path).f_bavail * os.statvfs(path).f_frsize
        file.write(bytes(max(0, room - spare)))


@pytest.mark.parametrize("stage", ["train", "export", "generate"])
def test_a_full_disk_is_said_and_the_run_goes_on_once_there_is_room(workplace, stage):
    """The disk is filled when the stages before are done; 20 MiB are left for training, which writes 9 at a time."""
    stages = ["prepare", "train", "export", "generate"]
    before = stages[: stages.index(stage)]
    with small_disk(workplace.folder / f"disk-{stage}", 64) as disk:
        command = [
            *("run", "small.toml", "--name", "full", "--runs", str(disk / "runs"), "train.steps=21"),
            f"prepare.cache={workplace.folder / 'cache'}",
        ]
        workplace.forge(*command, f"stages={json.dumps(before)}")
        fill(disk / "filler", spare={"train": 20 << 20, "export": 1 << 20, "generate": 16 << 10}[stage])
        said = workplace.forge(*command, code=2)
        assert "no space is left on the disk" in said and "MiB left" in said
        assert "free some, then the same command goes on" in said
        assert not list(disk.rglob("*.partial*"))
        (disk / "filler").unlink()
        assert "done in" in workplace.forge(*command)
        if stage == "train":
            workplace.run("roomy", "train.steps=21", f"prepare.cache={workplace.folder / 'cache'}")
        assert (disk / "runs" / "full" / "metrics.json").exists()


def test_a_disk_without_any_room_is_said_at_once(workplace):
    with small_disk(workplace.folder / "no-room", 1) as disk:
        fill(disk / "filler")
        said = workplace.forge("run", "small.toml", "--runs", str(disk / "runs"), code=2)
        assert "error:" in said and "space" in said and "fix:" in said


def test_a_port_in_use_is_said_before_anything_is_written(workplace):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = workplace.forge(*workplace.command("port"), code=2, MASTER_PORT=port)
    assert f"port {port} (MASTER_PORT) is in use" in said and "fix: unset MASTER_PORT" in said
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
