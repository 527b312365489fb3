"""Frames of a video file: how many there are, and their pixels; decord where it is installed, else PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

try:
    import decord
except ImportError:  # no wheel for macOS and arm64
    decord = None


class Unreadable(Exception):
    """Why a video cannot be used, in words a person can act on."""


@dataclass(frozen=True)
class Video:
    """What a file's packets say. frames: how many can be shown. fps: their average rate."""

    frames: int
    fps: float


def probe(path: Path) -> Video:
    """Reads the file's packets, without decoding them. Raises Unreadable, also where the end of the file is missing."""
    if path.stat().st_size == 0:
        raise Unreadable("the file is empty")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise Unreadable("there is no video in the file")
            stream = container.streams.video[0]
            times = shown(container, stream)
            if not times or not stream.average_rate:
                raise Unreadable("the video has no frames")
            return Video(len(times), float(stream.average_rate))
    except (av.error.FFmpegError, OSError) as error:
        raise Unreadable(f"this is no video, or a part of the file is missing ({_words(error)})") from error


def shown(container: av.container.InputContainer, stream: av.VideoStream) -> list[int]:
    """Presentation times of the frames, ascending, in the stream's time base. Raises Unreadable."""
    packets = [packet for packet in container.demux(stream) if packet.size]
    if len(packets) < stream.frames or any(packet.is_corrupt for packet in packets):
        raise Unreadable(
            f"the file is cut short: {len(packets)} of its {stream.frames} frames are there; copy or encode it again"
        )
    if any(packet.pts is None for packet in packets):
        raise Unreadable("its frames carry no times; encode it again, for example with ffmpeg")
    return sorted(packet.pts for packet in packets if packet.pts is not None and not packet.is_discard)


def read_frames(path: Path, indices: Sequence[int]) -> np.ndarray:
    """The frames at ascending `indices`, THWC, uint8 RGB, upright. Raises Unreadable."""
    return (read_with_decord if decord else read_with_pyav)(path, indices)


def read_with_decord(path: Path, indices: Sequence[int]) -> np.ndarray:
    try:
        return decord.VideoReader(str(path), num_threads=2).get_batch(list(indices)).asnumpy()
    except decord.DECORDError as error:
        raise Unreadable(f"it cannot be decoded ({_words(error)})") from error


def read_with_pyav(path: Path, indices: Sequence[int]) -> np.ndarray:
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            times = shown(container, stream)
            wanted = [times[index] for index in indices]
            container.seek(wanted[0], stream=stream)
            frames = {}
            for frame in container.decode(stream):
                if frame.pts in wanted:
                    frames[frame.pts] = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                if len(frames) == len(wanted):
                    return np.stack([frames[time] for time in wanted])
    except (av.error.FFmpegError, OSError) as error:
        raise Unreadable(f"it cannot be decoded ({_words(error)})") from error
    raise Unreadable(f"only {len(frames)} of {len(wanted)} frames could be decoded")


def _words(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
