"""Simulates balls in a box, writes clips as MP4 files with captions, and reads them back as any folder of videos."""

from __future__ import annotations

import hashlib
import os
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from forge_toy.balls import caption, render, simulate, start
from forge_toy.plugin import ToyPhysicsOptions

if TYPE_CHECKING:
    from cosmos_forge import Context

# One thread, and none of x264's shortcuts whose outcome hangs on the processor and, in pictures as small as these, on
# memory that was never set: the same frames always give the same file.
ENCODING = {"crf": "6", "threads": "1", "x264-params": "cpu-independent=1"}


def simulated(options: ToyPhysicsOptions, context: Context) -> Any:
    """The dataset `video-folder` over the clips, after writing those that are not there yet.

    Clips made with other settings lie in another folder, so nothing is ever overwritten or mixed up, and processes that
    do this at once agree: a clip's file is a function of the options and its index.
    """
    parent = Path(options.path).expanduser() if options.path else context.folder / "simulated"
    settings = options.model_dump_json(exclude={"path"}, indent=2)
    folder = parent / hashlib.sha256(settings.encode()).hexdigest()[:8]
    for name in ("videos", "metas"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _write_text(settings + "\n", folder / "settings.json")
    for index in range(options.clips):
        video, text = folder / "videos" / f"{index:04d}.mp4", folder / "metas" / f"{index:04d}.txt"
        if not (video.exists() and text.exists()):
            write_clip(options, index, video, text)
    return context.component(
        "dataset",
        "video-folder",
        path=str(folder),
        num_frames=options.num_frames,
        height=options.height,
        width=options.width,
    )


def write_clip(options: ToyPhysicsOptions, index: int, video: Path, text: Path) -> None:
    """Simulates clip `index` and writes its frames and its caption."""
    balls = start(np.random.default_rng([options.seed, index]), options.height, options.width, options.balls)
    states = simulate(balls, options.num_frames, options.fps, (options.gravity_x, options.gravity_y))
    frames = np.stack([render(state, options.height, options.width) for state in states])
    _write_text(caption(balls) + "\n", text)
    _write_video(frames, options.fps, video)


def _write_text(text: str, path: Path) -> None:
    part = _part(path)
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _write_video(frames_THWC: np.ndarray, fps: int, path: Path) -> None:
    """uint8 RGB -> H.264, nearly lossless: what such small pictures lose at usual quality would be the first thing a
    model learns."""
    part = _part(path)
    with av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options=ENCODING)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames_THWC:
            # Converted here, not by the encoder: its own copy carries unset memory at the edges, and then the same
            # frames give files that differ.
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    part.replace(path)


def _part(path: Path) -> Path:
    """Where a file is written before it is whole; hidden, so that no dataset takes it for a clip."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")
