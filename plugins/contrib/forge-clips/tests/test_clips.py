"""Cuts are found where they are, frames stay what they were, and video-folder reads what is written."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("forge_clips", reason="forge-clips is not installed")

import av
import numpy as np

from cosmos_forge import ForgeError
from cosmos_forge.testing import make_context
from cosmos_forge.testing.fakes import build
from forge_clips.shots import Shot, cuts, find_shots, write_shots

LENGTHS = (20, 13, 24)  # frames of the shots
FPS = 10


def scene(number: int, frame: int) -> np.ndarray:
    """A pattern of the scene's own that drifts, HWC."""
    y, x = np.mgrid[:50, :64]
    waves = 60 * np.sin(x / (5 + 3 * number) + frame / 3) + 40 * np.cos(y / (4 + 2 * number))
    channels = [np.clip(waves + 60 + 70 * ((number + c) % 3), 0, 255) for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


@pytest.fixture
def film(tmp_path):
    """Three scenes, one after the other, with a flash of one frame in the third."""
    frames = [scene(number, frame) for number, length in enumerate(LENGTHS) for frame in range(length)]
    frames[45] = np.full((50, 64, 3), 255, dtype=np.uint8)
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "8", "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = 50, 64, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def read(path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def forge(*arguments, folder, code=0) -> str:
    done = subprocess.run([sys.executable, "-m", "cosmos_forge", *map(str, arguments)], cwd=folder, text=True,
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_cuts_are_found_and_a_flash_is_none(film):
    assert find_shots(film, 0.1) == ([Shot(0, 20), Shot(20, 33), Shot(33, 57)], FPS)


def test_what_stands_out_is_a_cut():
    still, moving = [0.01] * 4, [0.2] * 4
    assert cuts([0.0, *still, 0.3, *still], 0.1) == [5]
    assert cuts([0.0, *still, 0.05, *still], 0.1) == []
    assert cuts([0.0, *moving, 0.3, *moving], 0.1) == []
    assert cuts([0.0, *still, 0.5, 0.5, *still], 0.1) == []


def test_every_frame_is_in_its_shot(film, tmp_path):
    shots, fps = find_shots(film, 0.1)
    paths = {shot: tmp_path / f"{shot.start}.mp4" for shot in shots}
    write_shots(film, paths, fps)
    whole, parts = read(film), [read(paths[shot]) for shot in shots]
    assert [len(part) for part in parts] == list(LENGTHS)
    assert np.abs(np.concatenate(parts).astype(int) - whole).mean() < 2
    assert not list(tmp_path.glob(".*"))


def test_the_command_makes_a_dataset(film, tmp_path):
    said = forge("clips", film, "--output", "data", "--caption", "Waves.", "--shortest", 1.5, folder=tmp_path)
    assert "film-001      2.00 s     1.30 s      13 frames  left out, it is too short" in said
    assert "2 clips in data; in a recipe: dataset.use=video-folder dataset.path=data" in said
    options = {"path": str(tmp_path / "data"), "num_frames": 9, "height": 32, "width": 32}
    dataset = build("dataset", "video-folder", options, make_context(tmp_path))
    assert [dataset.key(i) for i in range(len(dataset))] == [
        "film-000.mp4#0",
        "film-000.mp4#9",
        "film-002.mp4#0",
        "film-002.mp4#9",
    ]
    assert dataset.caption(0) == "Waves." and not dataset.rejected
    assert "nothing is overwritten" in forge("clips", film, "--output", "data", folder=tmp_path, code=2)


def test_where_it_writes_is_told_as_it_must_be_typed(film, tmp_path):
    assert "dataset.use=video-folder 'dataset.path=my data'" in forge(
        "clips", film, "--output", "my data", folder=tmp_path
    )
    (tmp_path / "file").touch()
    said = forge("clips", film, "--output", "file", folder=tmp_path, code=2)
    assert "cannot write to file: Not a directory" in said


def test_a_dry_run_writes_nothing(film, tmp_path):
    assert "film-002" in forge("clips", film, "--output", "data", "--dry-run", folder=tmp_path)
    assert not (tmp_path / "data").exists()


def test_what_is_no_video_is_told(film, tmp_path):
    (tmp_path / "words.mp4").write_text("words")
    with pytest.raises(ForgeError, match="cannot be read"):
        find_shots(tmp_path / "words.mp4", 0.1)
    (tmp_path / "odd.mp4").write_bytes(b"zzzz".join(film.read_bytes().rsplit(b"avc1", 1)))
    with pytest.raises(ForgeError, match="encoded in a way that is not known here"):
        find_shots(tmp_path / "odd.mp4", 0.1)
