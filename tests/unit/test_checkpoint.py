"""Checkpoints come back as they were, also in another number of processes."""

import json
import os
import subprocess
import sys

import pytest
import torch

from cosmos_forge import ForgeError
from cosmos_forge.training import checkpoint
from cosmos_forge.training.saving import Saver
from cosmos_forge.workers import free_port

SHARDED = """
import os, sys, torch, torch.distributed as dist
from pathlib import Path
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh
from cosmos_forge.training import checkpoint
from cosmos_forge.training.saving import Saver
dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (dist.get_world_size(),))
whole = {"a": torch.arange(35.0).view(7, 5), "b": torch.arange(3.0), "c": torch.tensor(4.0)}
place = {"a": Shard(0), "b": Shard(0), "c": None}
def spread(tensor, placement):
    return tensor if placement is None else distribute_tensor(tensor, mesh, [placement])
folder = Path(sys.argv[1])
if sys.argv[2] == "save":
    with Saver(folder, keep=1) as saver:
        saver.save(3, {name: spread(value, place[name]) for name, value in whole.items()})
else:
    empty = {name: spread(torch.zeros_like(value), place[name]) for name, value in whole.items()}
    checkpoint.restore(checkpoint.latest(folder), empty)
    for name, value in empty.items():
        got = value.full_tensor() if hasattr(value, "full_tensor") else value
        assert torch.equal(got, whole[name]), name
dist.destroy_process_group()
os._exit(0)  # as workers do
"""


def save(folder, step, tensors, extra=None):
    """A checkpoint, once it is committed."""
    with Saver(folder, keep=10) as saver:
        saver.save(step, tensors, extra)
    return checkpoint.latest(folder)


def run_processes(count, *arguments):
    """Runs SHARDED in `count` processes that meet on loopback."""
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    processes = [
        subprocess.Popen([sys.executable, "-c", SHARDED, *arguments], env={**env, "RANK": str(rank)})
        for rank in range(count)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * count


@pytest.mark.parametrize(("writers", "readers"), [(2, 3), (1, 2), (3, 1)])
def test_any_number_of_processes_reads_what_any_other_wrote(tmp_path, writers, readers):
    run_processes(writers, str(tmp_path), "save")
    run_processes(readers, str(tmp_path), "load")
    whole = checkpoint.load(checkpoint.latest(tmp_path), "")
    assert torch.equal(whole["a"], torch.arange(35.0).view(7, 5))
    assert whole["c"] == 4


def test_dtypes_bits_and_state_survive(tmp_path):
    saved = {
        "weights/x": torch.randn(4, 3),
        "weights/y": torch.randn(2, 2).bfloat16(),
        "optimizer/x/step": torch.tensor(7.0),
    }
    folder = save(tmp_path, 12, saved, {"seen": [1.5]})
    assert checkpoint.read_state(folder)["seen"] == [1.5]
    loaded = checkpoint.load(folder, "weights/")
    assert loaded.keys() == {"x", "y"}
    assert loaded["y"].dtype == torch.bfloat16
    assert torch.equal(loaded["x"], saved["weights/x"])
    again = {name: torch.zeros_like(value) for name, value in saved.items()}
    checkpoint.restore(folder, again)
    assert all(torch.equal(again[name], saved[name]) for name in saved)


def test_a_half_written_checkpoint_is_never_taken(tmp_path):
    save(tmp_path, 1, {"x": torch.ones(2)})
    (tmp_path / ".step-000000002.partial").mkdir()
    (tmp_path / "step-000000003").mkdir()
    assert checkpoint.latest(tmp_path).name == "step-000000001"


@pytest.mark.parametrize(
    ("wanted", "what"),
    [
        ({"a": (3, 4)}, "1 that it has no use for: b"),
        ({"a": (3, 4), "b": (2,), "c": (1,)}, "1 missing: c"),
        ({"a": (5, 4), "b": (2,)}, "1 of another shape: a"),
        ({"a": (3, 4), "c": (2,)}, "1 missing: c; 1 that it has no use for: b"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_changed(tmp_path, wanted, what):
    """A smaller tensor would fill a part of a larger one."""
    folder = save(tmp_path, 1, {"a": torch.ones(3, 4), "b": torch.ones(2)})
    tensors = {name: torch.zeros(shape) for name, shape in wanted.items()}
    with pytest.raises(ForgeError, match=what):
        checkpoint.restore(folder, tensors)
    assert not any(tensor.any() for tensor in tensors.values())


@pytest.mark.parametrize("name", ["state.json", "rank-00000.safetensors"])
def test_a_damaged_one_is_told_with_what_helps(tmp_path, name):
    folder = save(tmp_path, 1, {"a": torch.ones(3, 4)})
    os.truncate(folder / name, 30)
    for read in (lambda: checkpoint.load(folder, ""), lambda: checkpoint.restore(folder, {"a": torch.zeros(3, 4)})):
        with pytest.raises(ForgeError, match=f"{name} is damaged") as error:
            read()
        assert f"remove {folder}" in error.value.problems[0].fix


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10):
        save(tmp_path, step, {"x": torch.ones(2)})
    checkpoint.prune(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000002", "step-000000010"]


def test_the_index_is_plain_json(tmp_path):
    folder = save(tmp_path, 1, {"x": torch.ones(2, 3)})
    entry = json.loads((folder / "state.json").read_text())["tensors"]["x"]
    assert entry == {"shape": [2, 3], "pieces": [{"file": "rank-00000.safetensors", "offset": [0, 0], "shape": [2, 3]}]}
