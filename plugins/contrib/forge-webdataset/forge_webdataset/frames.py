"""Frames of a video by their times, read with PyAV from anything that is like a file.

Shape suffixes: T time, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import av
import numpy as np


class Unreadable(Exception):
    """Why a video cannot be used, in words a person can act on."""


def probe(file: Any) -> tuple[list[int], float]:
    """When each frame is shown, ascending, in units of the stream, and frames a second. Reads packets and decodes
    nothing. Raises Unreadable, also where a part of the video is missing."""
    try:
        with av.open(file, metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream is None:
                raise Unreadable("there is no video in the file")
            if stream.codec_context is None:  # decoding it would crash PyAV before 18.1
                raise Unreadable("it is encoded in a way that is not known here; encode it again, as H.264")
            packets = [packet for packet in container.demux(stream) if packet.size]
            if len(packets) < stream.frames or any(packet.is_corrupt for packet in packets):
                raise Unreadable(f"the video is cut short after {len(packets)} frames")
            shown = sorted(packet.pts for packet in packets if packet.pts is not None and not packet.is_discard)
            if not (shown and stream.average_rate):
                raise Unreadable("the video has no frames")
            return shown, float(stream.average_rate)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise Unreadable(f"it is no video, or a part of it is missing ({why})") from error


def read(file: Any, indices: Sequence[int]) -> np.ndarray:
    """The frames at ascending indices, THWC, uint8 RGB, upright. Raises Unreadable."""
    shown, _ = probe(file)
    file.seek(0)
    wanted, frames = [shown[index] for index in indices], dict[int, np.ndarray]()
    try:
        with av.open(file, metadata_errors="replace") as container:
            stream = container.streams.best("video")
            stream.thread_type = "AUTO"
            container.seek(wanted[0], stream=stream)
            for frame in container.decode(stream):
                if frame.pts in wanted:
                    frames[frame.pts] = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                if len(frames) == len(wanted):
                    return np.stack([frames[time] for time in wanted])
    except (av.error.FFmpegError, OSError) as error:
        raise Unreadable(f"it cannot be decoded ({error.strerror})") from error
    raise Unreadable(f"only {len(frames)} of {len(wanted)} frames can be decoded")
