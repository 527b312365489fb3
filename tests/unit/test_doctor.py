"""The doctor: one line a check, and what to do."""

import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from cosmos_forge import doctor, machine


@pytest.fixture
def checks(workplace, plugins_and_a_broken_one, monkeypatch):
    """The report on a healthy machine, changed by what a test patched before."""
    monkeypatch.setattr(doctor, "load_plugins", lambda: plugins_and_a_broken_one)
    monkeypatch.setenv("HF_TOKEN", "not-a-token")

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
    ("cuda", "driver", "gpus", "status"),
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
def test_torchs_cuda_against_the_driver(tmp_path, monkeypatch, cuda, driver, gpus, status):
    (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\ncuda: Optional[str] = {cuda!r}\nhip = None\n")
    monkeypatch.setattr(doctor.util, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    monkeypatch.setattr(doctor, "driver_version", lambda: driver)
    assert doctor._torch(gpus).status == status


def test_gpus_are_named_or_missed(checks, monkeypatch):
    monkeypatch.setenv("FORGE_GPUS", "2")
    told = "NVIDIA H200, 143771 MiB\nNVIDIA H200, 143771 MiB\n"
    monkeypatch.setattr(doctor.subprocess, "run", lambda *arguments, **more: SimpleNamespace(stdout=told))
    assert status_of(checks(), "2 GPUs: NVIDIA H200, 143771 MiB") == "ok"

    def missing(*arguments, **more):
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(doctor.subprocess, "run", missing)
    assert status_of(checks(), "nvidia-smi does not answer") == "warn"
    monkeypatch.setenv("FORGE_GPUS", "some")
    assert status_of(checks(), "FORGE_GPUS must be a whole number") == "fail"


def test_the_drivers_version_is_read_from_the_kernels_line(monkeypatch):
    line = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 13.3\n"
    monkeypatch.setattr(Path, "read_text", lambda self: line)
    assert doctor.driver_version() == "580.65.06"


def test_no_reader_of_videos(checks, monkeypatch):
    monkeypatch.setattr(doctor.util, "find_spec", lambda name: None)
    assert status_of(checks(), "neither decord nor av") == "fail"


def test_disk(checks, monkeypatch):
    for free, status in [(0.5, "fail"), (20.0, "warn"), (200.0, "ok")]:
        monkeypatch.setattr(machine, "free_gigabytes", lambda folder, free=free: free)
        assert status_of(checks(), "disk:") == status


def test_the_hub(checks, monkeypatch, workplace):
    monkeypatch.setattr(machine, "free_gigabytes", lambda folder: 500.0)
    assert status_of(checks(), "token is there") == "ok"
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_HOME", str(workplace))
    assert status_of(checks(), "no Hugging Face token") == "warn"
    assert status_of(checks("r.toml", ["model.weights=published"]), "someone/weights, 14.5 GB, a licence") == "warn"
    (workplace / "token").write_text("not-a-token")
    report = checks("r.toml", ["model.weights=published"])
    assert status_of(report, "token is there") == "ok"
    assert status_of(report, "someone/weights, 14.5 GB, a licence: to be fetched") == "ok"
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
