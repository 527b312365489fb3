"""Every command of the documentation is run, in the order in which a reader meets it, on less data and for fewer steps.

A block that cannot be run here says why in a comment right above it: `<!-- not run: needs a GPU -->`.
"""

import os
import re
import shlex
import subprocess
import sys

import pytest

from cosmos_forge import video

LESS = ["train.steps=4", "train.warmup_steps=0", "sampler.steps=2"]
LESS_SIMULATED = ["dataset.clips=6", "dataset.height=32", "dataset.width=32", "prepare.held_out=2"]
# What `make` does, by target: what the Makefile must say, and the command that stands for it here; None: not again.
MAKE = {
    "demo": ("$(BIN)/forge run recipes/quickstart.toml", "forge run recipes/quickstart.toml"),
    "test": ("$(BIN)/python -m pytest", None),
    "check": ("$(BIN)/ruff check .", None),
    "docs": ("$(BIN)/mkdocs build --strict", None),
}


@pytest.fixture(scope="module")
def reader(tmp_path_factory, root):
    """A reader's folder: the recipes, and clips of their own in `data/clips`. Holds what was run, with its result."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "recipes").symlink_to(root / "recipes")
    make_clips(folder / "data" / "clips")
    video.write_mp4(*moving(17), folder / "my.mp4")
    return folder, {}


def moving(frames: int):
    """A square that crosses the picture, and its frames a second."""
    import numpy as np

    pixels = np.full((frames, 64, 104, 3), 200, dtype=np.uint8)
    for index, frame in enumerate(pixels):
        frame[20:40, 2 * index : 2 * index + 20] = (180, 30, 30)
    return pixels, 12.0


def make_clips(folder):
    (folder / "metas").mkdir(parents=True)
    for number in range(4):
        video.write_mp4(*moving(20 + number), folder / "videos" / f"{number}.mp4")
        (folder / "metas" / f"{number}.txt").write_text("a red square moves to the right")


def run(line: str, folder) -> tuple[int, str]:
    """Exit code and what was said of a `forge` command, made small."""
    program, *arguments = shlex.split(line)
    assert program == "forge", f"this test does not know how to run {line!r}"
    if arguments[0] == "run":
        simulated = not any(argument.startswith("dataset.use=") for argument in arguments)
        arguments += LESS + (LESS_SIMULATED if simulated else [])
    done = subprocess.run(
        [sys.executable, "-m", "cosmos_forge", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "FORGE_GPUS": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout


def test_a_command_does_what_the_page_says(command, reader, root):
    folder, done = reader
    program, target = (shlex.split(command) + [""])[:2]
    if program == "make":
        makefile = (root / "Makefile").read_text()
        recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
        promised, command = MAKE[target]
        assert recipe and promised in recipe[1]
        if command is None:
            return
    if command not in done:
        done[command] = run(command, folder)
    code, said = done[command]
    assert code == 0, said
    assert said


def test_commands_that_a_page_names_exist(pages):
    listed = subprocess.run(
        [sys.executable, "-m", "cosmos_forge", "--help"], capture_output=True, text=True, check=True
    )
    known = re.findall(r"^  (\w+)  ", listed.stdout, re.MULTILINE)
    assert "run" in known
    for page in pages:
        for verb in re.findall(r"(?:`|^)forge (\w+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert verb in known, f"{page}: forge {verb}"
