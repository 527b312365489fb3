"""Where a video's shots begin and end, and each as a file of its own.

Shape suffixes: T time, H height, W width, C channels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from cosmos_forge import ForgeError

LOOK = (64, 36)  # width and height at which frames are compared: enough for a cut, and too little for grain
NEAR = 3  # frames on each side that a cut has to stand out from
STANDS_OUT = 3.0  # times their largest difference; so a flash, which is two jumps, and fast motion are no cuts


@dataclass(frozen=True)
class Shot:
    """Frames `start` to before `stop` of a video, from 0."""

    start: int
    stop: int


def find_shots(path: Path, threshold: float) -> tuple[list[Shot], Fraction]:
    """All shots, end to end, and frames a second. A hard cut is where two frames differ by `threshold` or more, as a
    mean over pixels and colours of a range of 1, and by far more than those around. Raises ForgeError for no video."""
    last, differences = None, list[float]()
    for frame in _frames(path):
        small = frame.reformat(width=LOOK[0], height=LOOK[1], format="rgb24").to_ndarray().astype(np.float32) / 255
        differences.append(0.0 if last is None else float(np.abs(small - last).mean()))
        last = small
    if not differences:
        raise ForgeError(f"{path} has no frames", "copy or encode it again")
    starts = [0, *cuts(differences, threshold)]
    stops = [*starts[1:], len(differences)]
    with av.open(str(path), metadata_errors="replace") as container:
        fps = Fraction(container.streams.best("video").average_rate or 24)
    return [Shot(start, stop) for start, stop in zip(starts, stops, strict=True)], fps


def cuts(differences: list[float], threshold: float) -> list[int]:
    """The frames that begin a shot, by how much each differs from the frame before it."""
    found = []
    for index, difference in enumerate(differences):
        around = differences[max(index - NEAR, 0) : index] + differences[index + 1 : index + 1 + NEAR]
        if difference >= threshold and difference >= STANDS_OUT * max(around, default=0.0):
            found.append(index)
    return found


def write_shots(path: Path, shots: dict[Shot, Path], fps: Fraction) -> None:
    """Writes each shot to its file, upright, H.264 of nearly the quality it has; a file is there once it is whole."""
    begun = {shot.start: shot for shot in shots}
    writer, shot = None, None
    try:
        for index, frame in enumerate(_frames(path)):
            if index in begun:
                shot = begun[index]
                writer = _Writer(shots[shot], fps)
            if writer and shot:
                writer.add(frame)
                if index + 1 == shot.stop:
                    writer.finish()
                    writer = None
    finally:
        if writer:
            writer.drop()


class _Writer:
    """One file that comes to be."""

    def __init__(self, path: Path, fps: Fraction) -> None:
        self.path, self.partial = path, path.with_name(f".{path.name}.{os.getpid()}.partial")
        self.container = av.open(str(self.partial), "w", format="mp4")
        self.stream = self.container.add_stream("libx264", rate=fps, options={"crf": "16"})
        self.stream.pix_fmt = "yuv420p"
        self.first = True

    def add(self, frame: av.VideoFrame) -> None:
        pixels_HWC: np.ndarray[Any, np.dtype[np.uint8]] = np.rot90(
            frame.to_ndarray(format="rgb24"), frame.rotation // 90
        )
        height, width = (size // 2 * 2 for size in pixels_HWC.shape[:2])  # the format knows even sizes only
        if self.first:
            self.stream.height, self.stream.width, self.first = height, width, False
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels_HWC[:height, :width]), format="rgb24")
        self.container.mux(self.stream.encode(picture))

    def finish(self) -> None:
        self.container.mux(self.stream.encode())
        self.container.close()
        self.partial.replace(self.path)

    def drop(self) -> None:
        self.container.close()
        self.partial.unlink(missing_ok=True)


def _frames(path: Path) -> Iterator[av.VideoFrame]:
    """All frames, in the order in which they are shown. Raises ForgeError where they cannot be had."""
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream is None:
                raise ForgeError(f"{path} holds no video", "name videos")
            if stream.codec_context is None:  # decoding it would crash PyAV before 18.1
                raise ForgeError(f"{path} is encoded in a way that is not known here", "encode it again, as H.264")
            stream.thread_type = "AUTO"
            yield from container.decode(stream)
    except (av.error.FFmpegError, OSError) as error:
        raise ForgeError(f"{path} cannot be read ({error.strerror})", "copy or encode it again") from error
