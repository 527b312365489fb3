"""Checkpoints are written while training goes on: what is saved, when it counts, and what happens if it cannot be."""

import errno
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
import torch

from cosmos_forge.events import Saved
from cosmos_forge.training import checkpoint, saving
from cosmos_forge.training.saving import Saver
from cosmos_forge.workers import free_port


@pytest.fixture
def held(monkeypatch):
    """An event; until it is set nothing is written."""
    gate, write = threading.Event(), saving.save_file

    def wait_and_write(*arguments):
        assert gate.wait(30)
        write(*arguments)

    monkeypatch.setattr(saving, "save_file", wait_and_write)
    yield gate
    gate.set()


def test_what_is_saved_is_what_was_there_when_it_was_asked_for(tmp_path, held):
    x = torch.ones(3)
    with Saver(tmp_path, keep=2) as saver:
        saver.save(1, {"x": x})
        x += 1
        assert checkpoint.latest(tmp_path) is None
        held.set()
    assert checkpoint.load(checkpoint.latest(tmp_path), "")["x"].tolist() == [1, 1, 1]


def test_the_next_one_waits_for_the_last_and_the_end_for_all(tmp_path, held):
    told, x = [], torch.zeros(2)
    with Saver(tmp_path, keep=1, emit=told.append) as saver:
        saver.save(1, {"x": x})
        threading.Timer(0.2, held.set).start()
        saver.save(2, {"x": x + 1})
        assert [each.step for each in told][:1] == [1]
    assert [(type(each), each.step, each.path) for each in told] == [
        (Saved, step, f"{tmp_path.name}/{checkpoint.folder_of(step)}") for step in (1, 2)
    ]
    assert told[0].seconds >= 0.2
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.folder_of(2)]


def checked_until(saver, deadline):
    """As steps do."""
    while time.monotonic() < deadline:
        saver.check()
        time.sleep(0.01)


def test_what_goes_wrong_is_raised_at_the_next_step(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(saving, "save_file", full)
    saver = Saver(tmp_path, keep=1)
    saver.check()
    saver.save(1, {"x": torch.zeros(2)})
    with pytest.raises(OSError, match="no space"):
        checked_until(saver, time.monotonic() + 30)
    assert checkpoint.latest(tmp_path) is None


def test_what_goes_wrong_is_raised_at_the_end(tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(saving, "save_file", broken)
    with pytest.raises(RuntimeError, match="no such luck"), Saver(tmp_path, keep=1) as saver:
        saver.save(1, {"x": torch.zeros(2)})


def test_an_error_elsewhere_does_not_cost_the_checkpoint(tmp_path, held):
    threading.Timer(0.2, held.set).start()
    with suppress(ValueError), Saver(tmp_path, keep=1) as saver:
        saver.save(1, {"x": torch.zeros(2)})
        raise ValueError
    assert checkpoint.latest(tmp_path)


def test_all_of_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """What a power cut could take of a checkpoint that counts."""
    settled, settle = [], os.fsync

    def fsync(file):
        assert not list(tmp_path.glob("step-*"))
        settled.append(os.fstat(file).st_ino)
        settle(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with Saver(tmp_path, keep=1) as saver:
        saver.save(1, {"a": torch.ones(3)})
    plain = tmp_path / "plain"
    plain.touch()
    assert {path.stat().st_mode for path in checkpoint.latest(tmp_path).iterdir()} == {plain.stat().st_mode}
    assert sorted(settled) == sorted(path.stat().st_ino for path in checkpoint.latest(tmp_path).iterdir())


def test_tensors_may_come_and_change_their_size(tmp_path):
    with Saver(tmp_path, keep=2) as saver:
        saver.save(1, {"x": torch.zeros(2)})
        saver.save(2, {"x": torch.ones(3), "y": torch.ones(1)})
    assert {name: len(value) for name, value in checkpoint.load(checkpoint.latest(tmp_path), "").items()} == {
        "x": 3,
        "y": 1,
    }


# Process 1 writes its first file late, and is killed before its second. Process 0 must not name a checkpoint before all
# of it is there, and waits for a dead process no longer than it has to.
LATE = """
import os, sys, time, torch, torch.distributed as dist
from pathlib import Path
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
from cosmos_forge.training import checkpoint, saving
dist.init_process_group("gloo")
folder, rank, calls = Path(sys.argv[1]), dist.get_rank(), []
x = distribute_tensor(torch.arange(4.0), init_device_mesh("cpu", (2,)), [Shard(0)])
write = saving.save_file
def late(*arguments):
    calls.append(arguments)
    if rank == 1 and len(calls) == 1:
        time.sleep(1.0)
        assert checkpoint.latest(folder) is None, "named before all of it was there"
    elif rank == 1:
        os.kill(os.getpid(), 9)
    write(*arguments)
saving.save_file, saving._PATIENCE_SECONDS = late, 0.5
with saving.Saver(folder, keep=2) as saver:
    saver.save(1, {"x": x})
    saver.save(2, {"x": x + 1})
    raise ValueError("lost the other process")
"""


def test_a_process_without_pieces_leaves_nothing(tmp_path):
    """It may come when the checkpoint has its name; a folder made then would stay."""
    with Saver(tmp_path, keep=1) as saver:
        saver.rank = 1
        saver.save(1, {"held by all alike": torch.ones(2)})
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_counts_once_every_process_has_written(tmp_path):
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LATE, str(tmp_path)]
    environments = [{**os.environ, **shared, "RANK": str(rank)} for rank in range(2)]
    processes = [subprocess.Popen(command, env=each, stderr=subprocess.PIPE, text=True) for each in environments]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert "lost the other process" in said[0]
    assert processes[1].returncode == -9, said[1]
    assert [path.name for path in checkpoint.committed(tmp_path)] == [checkpoint.folder_of(1)]
    assert checkpoint.load(checkpoint.latest(tmp_path), "")["x"].tolist() == [0, 1, 2, 3]
