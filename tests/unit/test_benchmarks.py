"""The benchmarks run, at a size a CPU manages, and say what they promise; their figures mean nothing here."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cosmos_forge.video import write_mp4

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ["--device", "cpu", "--frames", "9", "--height", "64", "--width", "64", "--repeats", "1"]
WHO = ("cosmos_forge", "diffusers")


def output_of(script, *options):
    command = [sys.executable, str(BENCHMARKS / script), *SMALL, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="compiling for a CPU needs g++")
def test_forward():
    said = output_of("forward.py", "--variant", "tiny")
    assert "32 tokens" in said
    assert re.findall(r"^\| (cosmos_forge.*?) \|", said, re.MULTILINE) == [
        "cosmos_forge, eager",
        "cosmos_forge, blocks compiled",
    ]
    assert "attention by torch's flash_attention_for_cpu" in said
    difference = float(re.search(r"differ by (\S+) of", said)[1])
    assert 0 < difference < 0.02  # bfloat16 has 8 bits; compiled kernels round less often


@pytest.mark.slow
def test_tokenizer_beside_its_peer():
    pytest.importorskip("diffusers")
    said = output_of("tokenizer.py", "--peer", "diffusers")
    rows = re.findall(r"^\| (\S+, (?:en|de)code) .* (\d\.\d{3}) \|$", said, re.MULTILINE)
    assert [name for name, _ in rows] == [f"{who}, {what}" for what in ("encode", "decode") for who in WHO]
    assert [ratio for name, ratio in rows if name.startswith("diffusers")] == ["1.000", "1.000"]


@pytest.mark.slow
def test_train_step_beside_its_peer():
    pytest.importorskip("diffusers", minversion="0.36")  # whose network takes adapters
    settings = ["train.recompute=auto", "train.recompute=block,train.optimizer_state=8bit"]
    said = output_of(
        "train_step.py", "--variant", "tiny", "--frames", "17", "--peer", "diffusers", "--settings", *settings
    )
    rows = re.findall(r"^\| (\S.*?) \| \d", said, re.MULTILINE)
    assert rows == [*settings, "diffusers, checkpointing"]
    assert said.count("8 of 8 layers adapted") == 2
    assert len(re.findall(r"^\S.*: \d+ TFLOP/s$", said, re.MULTILINE)) == 3


@pytest.mark.slow
def test_generate():
    command = [sys.executable, str(BENCHMARKS / "generate.py"), "--tiny", "--steps", "3", "--memory", "streamed"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = dict(re.findall(r"^\| (\S.*?) \| (\d+\.\d+) s", done.stdout, re.MULTILINE))
    assert {"text", "tokenizer: encoding", "all steps", "tokenizer: decoding", "writing"} <= rows.keys()
    seconds = {name: float(value) for name, value in rows.items()}
    assert seconds["each of 2 more steps, median"] <= seconds["all steps"] <= seconds["in all, but loading"]
    assert (
        sum(seconds[name] for name in ("text", "tokenizer: encoding", "all steps", "tokenizer: decoding"))
        <= (seconds["in all, but loading"])
    )


@pytest.mark.slow
def test_train_step_alone_and_together():
    settings = ["--settings", "train.recompute=block"]
    said = output_of("train_step.py", "--variant", "tiny", "--frames", "17", "--processes", "2", *settings)
    rows = re.findall(r"^\| (\S.*?) \| \d.* (\d+\.\d{3}) \|$", said, re.MULTILINE)
    assert [name for name, _ in rows] == ["train.recompute=block", "train.recompute=block, 2 processes"]
    assert rows[0][1] == "1.000" and float(rows[1][1]) > 0


@pytest.mark.slow
def test_whole_run(tmp_path):
    """Here of its first stages; the others are in many a test."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "metas").mkdir()
    for name in "ab":
        noise = np.random.default_rng(0).integers(0, 255, (17, 64, 64, 3), dtype=np.uint8)
        write_mp4(noise, 24.0, tmp_path / "videos" / f"{name}.mp4")
        (tmp_path / "metas" / f"{name}.txt").write_text("Noise.")
    command = [sys.executable, str(BENCHMARKS / "whole_run.py"), str(tmp_path), "--tiny", "--folder", str(tmp_path)]
    done = subprocess.run(
        [*command, 'stages=["prepare","train"]', "train.steps=3"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^\| (prepare|train) \| \d+\.\d s \|$", done.stdout, re.MULTILINE) == ["prepare", "train"]
    assert re.findall(r"^\| (\d) \| \d", done.stdout, re.MULTILINE) == ["1", "2", "3"]


def test_checkpoint():
    command = [sys.executable, str(BENCHMARKS / "checkpoint.py"), "--device", "cpu", "--gigabytes", "0.02"]
    done = subprocess.run([*command, "--seconds", "0.1"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "0.02 GB in 1 processes" in done.stdout
    assert re.findall(r"^\| (\w+ save|resume) \| \d", done.stdout, re.MULTILINE) == [
        "first save",
        "next save",
        "resume",
    ]
