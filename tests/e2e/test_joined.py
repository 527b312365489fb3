"""`forge run` under torchrun and SLURM, which start a launcher for each process; two nodes meet on loopback."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from cosmos_forge import events
from cosmos_forge.errors import FAILED, WRONG, ForgeError
from cosmos_forge.joined import place
from cosmos_forge.workers import free_port

STAGES = ['stages=["prepare", "train", "export"]', "train.steps=3", "train.save_every=3", "train.log_every=1"]
BOTH = [*STAGES, "parallelism.use=ddp"]


def start(workplace, command: list[str], **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        command,
        cwd=workplace.folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "FORGE_GPUS": "0", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def two_nodes(workplace, name: str, *overrides: str) -> list[subprocess.Popen]:
    """A torchrun for each of two machines with one process."""
    port = str(free_port())
    nodes = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"]
    forge = ["-m", "cosmos_forge", *workplace.command(name, *overrides)]
    launcher = [sys.executable, "-m", "torch.distributed.run", *nodes]
    return [start(workplace, [*launcher, f"--node-rank={rank}", *forge]) for rank in (0, 1)]


def two_tasks(workplace, name: str, *overrides: str) -> list[subprocess.Popen]:
    """Two tasks of a step of SLURM."""
    shared = {"SLURM_NTASKS": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    forge = [sys.executable, "-m", "cosmos_forge", *workplace.command(name, *overrides)]
    return [start(workplace, forge, SLURM_PROCID=rank, SLURM_LOCALID=rank, **shared) for rank in "01"]


def end(launchers: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    said = [launcher.communicate(timeout=200)[0] for launcher in launchers]
    return [launcher.returncode for launcher in launchers], said


@pytest.fixture(scope="module")
def one(workplace):
    workplace.run("one", *STAGES)


@pytest.mark.parametrize("launch", [two_nodes, two_tasks])
def test_two_launchers_do_one_run(workplace, one, launch):
    name = launch.__name__
    codes, (first, second) = end(launch(workplace, name, *BOTH))
    assert codes == [0, 0], first + second
    assert "gradients agree across 2 processes" in first and "train: done" in first
    assert "train" not in second, "only rank 0 shows the run"
    found, expected = workplace.losses(name), workplace.losses("one")
    assert found.keys() == expected.keys()
    for step, (loss, *_) in expected.items():
        assert found[step][0] == pytest.approx(loss, rel=1e-4)
    seen = [type(event).__name__ for event in workplace.events(name)]
    assert seen.count("RunStarted") == seen.count("RunFinished") == 1 and seen.count("StageFinished") == 3
    started = [event.processes for event in workplace.events(name) if isinstance(event, events.StageStarted)]
    assert started == [2, 2, 1]
    codes, (first, _) = end(launch(workplace, name, *BOTH))  # all is done already, and told to both
    assert codes == [0, 0] and first.count("done before") + first.count("skipped") >= 3, first


def test_a_worker_that_fails_under_the_second_launcher(workplace, one):
    """Rank 0 tells of it and ends its own worker, which would wait for ever."""
    launchers = two_tasks(workplace, "broken", *BOTH, "train.steps=100000")
    wait_for(workplace, "broken", events.Step, launchers)
    worker = worker_of(workplace, "broken", rank=1)
    os.kill(worker, signal.SIGKILL)
    codes, (first, _) = end(launchers)
    assert codes == [FAILED, FAILED]
    assert "process 1 of 2 was ended by SIGKILL" in first


def test_a_mistake_that_a_stage_finds_ends_both(workplace, one):
    codes, (first, _) = end(two_tasks(workplace, "mistaken", *BOTH, "prepare.held_out=6"))
    assert codes == [WRONG, WRONG] and "error:" in first


def wait_for(workplace, name: str, kind: type, launchers: list[subprocess.Popen]) -> None:
    while not any(isinstance(event, kind) for event in workplace.events(name)):
        assert all(launcher.poll() is None for launcher in launchers), end(launchers)[1]


def worker_of(workplace, name: str, rank: int) -> int:
    """The process number of a run's worker at `train`."""
    for process in psutil.process_iter(["cmdline", "environ", "cwd"]):
        line, environment = process.info["cmdline"] or [], process.info["environ"] or {}
        here = process.info["cwd"] == str(workplace.folder) and environment.get("RANK") == str(rank)
        if here and line[1:] == ["-m", "cosmos_forge.worker", f"runs/{name}", "train"]:
            return process.pid
    raise AssertionError("no such worker")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None),
        (
            {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "1234567"}
            | {"SLURM_STEP_NODELIST": "gpu[003-008,010],other"},
            (3, 8, 1, "gpu003", 24567, False),
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            (0, 2, 0, "a", 1, True),
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
            | {"TORCHELASTIC_USE_AGENT_STORE": "True"},
            (0, 2, 0, "a", 1, False),
        ),
    ],
)
def test_place(monkeypatch, environment, expected):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "RANK", "WORLD_", "MASTER_", "TORCHEL"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = place()
    assert found == expected if expected is None else tuple(vars(found).values()) == expected


def test_place_that_is_not_whole(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ForgeError, match="not whole: 'MASTER_ADDR'"):
        place()


def test_single_is_refused_in_company(workplace):
    port = str(free_port())
    shared = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    said = workplace.forge(*workplace.command("alone", *STAGES), code=WRONG, **shared)
    assert "`single` takes 1 process, but 2 were started side by side" in said
    assert not workplace.of("alone").exists()
