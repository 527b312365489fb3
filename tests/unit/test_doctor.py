"""The doctor: one line a check, and what to do."""

import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from cosmos_forge import doctor, machine
from cosmos_forge.doctor import gpus
from cosmos_forge.errors import Problem


@pytest.fixture
def checks(workplace, plugins_and_a_broken_one, monkeypatch):
    """The report on a healthy machine, changed by what a test patched before."""
    monkeypatch.setattr(doctor, "load_plugins", lambda: plugins_and_a_broken_one)
    monkeypatch.setenv("HF_TOKEN", "not-a-token")
    monkeypatch.setattr("cosmos_forge.hub.barred", lambda downloads: [])

    def checks(recipe=None, overrides=()):
        return list(doctor.examine(recipe and Path(recipe), overrides, Path("runs")))

    return checks


def status_of(checks, words: str) -> str:
    (check,) = [each for each in checks if words in each.what]
    assert check.fix or check.status == "ok"
    return check.status


def test_a_healthy_machine(checks, monkeypatch):
    monkeypatch.setattr(machine, "free_gigabytes", lambda folder: 500.0)
    report = checks("r.toml")
    assert [each for each in report if each.status == "fail"] == []
    assert status_of(report, "Python 3.") == "ok"
    assert status_of(report, "required packages") == "ok"
    assert status_of(report, "r.toml can run; processes: 1") == "ok"
    assert status_of(report, "plugin sad of sad-package 0.3: ImportError") == "warn"
    assert status_of(report, "no GPU") == "warn"


def test_an_old_python(checks, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert status_of(checks(), "Python 3.9.1 is not supported") == "fail"


def test_missing_and_unfitting_packages(checks, monkeypatch):
    versions = {"torch": "1.0"}

    def version(name):
        if name == "typer":
            raise metadata.PackageNotFoundError(name)
        return versions.get(name, "99999") if name != "transformers" else "4.57"

    monkeypatch.setattr(doctor.metadata, "version", version)
    report = checks()
    assert status_of(report, "typer is not installed") == "fail"
    assert status_of(report, "torch 1.0 does not satisfy >=2.10") == "fail"


@pytest.mark.parametrize(
    ("cuda", "driver", "count", "status"),
    [
        (None, None, 0, "ok"),
        (None, "580.65.06", 1, "fail"),
        ("12.8", "550.54.15", 2, "ok"),
        ("12.8", "520.61.05", 2, "fail"),
        ("13.0", "575.57.08", 1, "fail"),
        ("13.0", "580.65.06", 1, "ok"),
        ("13.0", None, 0, "ok"),
    ],
)
def test_torchs_cuda_against_the_driver(tmp_path, monkeypatch, cuda, driver, count, status):
    (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\ncuda: Optional[str] = {cuda!r}\nhip = None\n")
    monkeypatch.setattr(gpus.util, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    monkeypatch.setattr(gpus, "driver_version", lambda: driver)
    assert gpus.torch_build(count).status == status


def test_gpus_are_named_or_missed(checks, monkeypatch):
    monkeypatch.setenv("FORGE_GPUS", "2")
    told = "NVIDIA H200, 143771, 3\nNVIDIA H200, 143771, 61440\n"
    monkeypatch.setattr(gpus.subprocess, "run", lambda *arguments, **more: SimpleNamespace(stdout=told))
    report = checks()
    assert status_of(report, "2 GPUs: NVIDIA H200, 140 GiB") == "ok"
    assert status_of(report, "60 of 140 GiB of GPU 1 are in use") == "warn"
    assert not any("GPU 0" in each.what for each in report)

    def missing(*arguments, **more):
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(gpus.subprocess, "run", missing)
    assert status_of(checks(), "nvidia-smi does not answer") == "warn"
    monkeypatch.setenv("FORGE_GPUS", "some")
    assert status_of(checks(), "FORGE_GPUS must be a whole number") == "fail"


def test_the_drivers_version_is_read_from_the_kernels_line(monkeypatch):
    line = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 13.3\n"
    monkeypatch.setattr(Path, "read_text", lambda self: line)
    assert gpus.driver_version() == "580.65.06"


def test_no_reader_of_videos(checks, monkeypatch):
    monkeypatch.setattr(doctor.util, "find_spec", lambda name: None)
    assert status_of(checks(), "neither decord nor av") == "fail"


def test_disk(checks, monkeypatch):
    for free, status in [(0.5, "fail"), (20.0, "warn"), (200.0, "ok")]:
        monkeypatch.setattr(machine, "free_gigabytes", lambda folder, free=free: free)
        assert status_of(checks(), "disk:") == status


def test_folders_that_cannot_be_written_to(checks, monkeypatch, tmp_path):
    (tmp_path / "downloads").mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "downloads" / "hub"))
    assert not any("cannot write" in each.what for each in checks())
    monkeypatch.setattr(machine.os, "access", lambda place, how: Path(place) == Path.cwd())
    assert status_of(checks(), "cannot write to downloads/hub") == "warn"
    monkeypatch.setattr(machine.os, "access", lambda place, how: False)
    assert status_of(checks(), "cannot write to runs") == "fail"


@pytest.mark.parametrize("version", [1, 2])
def test_memory_is_that_of_the_container(checks, monkeypatch, tmp_path, version):
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    machine_alone = machine.host_memory()
    folder = tmp_path / "memory" if version == 1 else tmp_path
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    folder.mkdir(exist_ok=True)
    (folder / names[1]).write_text(f"{1 << 30}\n")
    (folder / "memory.stat").write_text(f"inactive_file {1 << 29}\ntotal_inactive_file {1 << 29}\n")
    for no_limit in ("max\n", f"{1 << 62}\n"):
        (folder / names[0]).write_text(no_limit)
        assert machine.host_memory()[1] == machine_alone[1]
    (folder / names[0]).write_text(f"{2 << 30}\n")
    assert machine.host_memory() == (3 << 29, 2 << 30)
    assert status_of(checks(), "memory: 2 of 2 GiB free") == "warn"


def test_why_there_is_no_gpu(checks, monkeypatch):
    monkeypatch.setenv("FORGE_GPUS", "0")
    monkeypatch.setattr(machine, "devices", lambda: 2)
    assert status_of(checks(), "no GPU: FORGE_GPUS=0 hides those that are here") == "warn"
    monkeypatch.delenv("FORGE_GPUS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert status_of(checks(), "no GPU: CUDA_VISIBLE_DEVICES= hides those that are here") == "warn"
    monkeypatch.setattr(machine, "devices", lambda: 0)
    monkeypatch.setattr(gpus, "driver_version", lambda: "580.65.06")
    assert status_of(checks(), "no GPU is handed to this process, but there is a driver, 580.65.06") == "warn"


def test_shared_memory_of_a_container(checks, monkeypatch):
    monkeypatch.setenv("FORGE_GPUS", "2")
    told = SimpleNamespace(stdout="NVIDIA H200, 143771, 3\n" * 2)
    monkeypatch.setattr(gpus.subprocess, "run", lambda *arguments, **more: told)
    for size, found in [(64 << 20, 1), (8 << 30, 0)]:
        monkeypatch.setattr(gpus.psutil, "disk_usage", lambda folder, size=size: SimpleNamespace(total=size))
        assert sum("/dev/shm has 64 MiB" in each.what for each in checks()) == found
    monkeypatch.setenv("FORGE_GPUS", "1")
    monkeypatch.setattr(gpus.psutil, "disk_usage", lambda folder: SimpleNamespace(total=1))
    assert not any("/dev/shm" in each.what for each in checks())


def test_a_recipe_too_large_for_the_gpus(monkeypatch, workplace):
    """With the components that come along: they tell what memory they take."""
    monkeypatch.setenv("FORGE_GPUS", "1")
    monkeypatch.setattr("cosmos_forge.hub.barred", lambda downloads: [])
    monkeypatch.setattr(machine, "free_gigabytes", lambda folder: 900.0)
    found = {}
    for device in ("NVIDIA H200", "NVIDIA L4", "Somebody's"):
        monkeypatch.setattr(machine, "gpu_name", lambda device=device: device)
        found[device] = [
            each
            for each in doctor.examine(Path("video2world-7b-lora.toml"), [], Path("runs"))
            if "that a GPU has for it" in each.what
        ]
    assert not found["NVIDIA H200"] and not found["Somebody's"]
    (check,) = found["NVIDIA L4"]
    assert check.status == "warn" and check.what.startswith("training takes ") and check.fix


def test_the_hub(checks, monkeypatch, workplace):
    monkeypatch.setattr(machine, "free_gigabytes", lambda folder: 500.0)
    assert status_of(checks(), "token is there") == "ok"
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_HOME", str(workplace))
    assert status_of(checks(), "no Hugging Face token") == "warn"
    (workplace / "token").write_text("not-a-token")
    report = checks("r.toml", ["model.weights=published"])
    assert status_of(report, "token is there") == "ok"
    assert status_of(report, "someone/weights, 14.5 GB, a licence: to be fetched") == "ok"
    asked = []
    bar = Problem("someone/weights asks you to accept its licence first", fix="log in")
    monkeypatch.setattr("cosmos_forge.hub.barred", lambda downloads: asked.extend(downloads) or [bar])
    report = checks("r.toml", ["model.weights=published"])
    assert status_of(report, "someone/weights asks you to accept its licence first") == "fail"
    assert [each.repo for each in asked] == ["someone/weights"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert status_of(checks(), "HF_HUB_OFFLINE is set") == "warn"


def test_problems_of_the_recipe_fail_with_their_place(checks):
    report = checks("r.toml", ["train.lr=0", "device=cuda"])
    assert status_of(report, "[train] lr = 0 trains nothing (command line:1)") == "fail"
    assert status_of(report, 'device is "cuda"') == "fail"
    assert status_of(checks("none.toml"), "recipe none.toml does not exist") == "fail"


def test_the_commands_exit_code(checks, monkeypatch, capsys):
    from cosmos_forge import cli

    for overrides, code in [([], 0), (["train.lr=0"], 2)]:
        monkeypatch.setattr(sys, "argv", ["forge", "doctor", "r.toml", *overrides])
        with pytest.raises(SystemExit) as ending:
            cli.main()
        assert ending.value.code == code
        lines = capsys.readouterr().out.splitlines()
        assert all(line[:6] in {"ok    ", "warn  ", "fail  "} or line.startswith("      fix: ") for line in lines)
