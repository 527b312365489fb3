"""Frames of a video by their times, read with PyAV.

Shape suffixes: T time, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


class Unreadable(Exception):
    """Why a video cannot be used, in words a person can act on."""


def probe(path: Path) -> tuple[list[int], Fraction]:
    """When each frame is shown, ascending, in units of the stream, and the unit in seconds. Reads packets and decodes
    nothing; what a file that was cut short lacks is not among them. Raises Unreadable."""
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream is None:
                raise Unreadable("there is no video in the file")
            if stream.codec_context is None:  # decoding it would crash PyAV before 18.1
                raise Unreadable("it is encoded in a way that is not known here; encode it again, as H.264")
            packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_corrupt]
            shown = sorted(packet.pts for packet in packets if packet.pts is not None and not packet.is_discard)
            return shown, Fraction(stream.time_base or 1)
    except FileNotFoundError:
        raise Unreadable("there is no such file") from None
    except (av.error.FFmpegError, OSError) as error:
        raise Unreadable(f"it is no video, or a part of it is missing ({error.strerror})") from error


def read(path: Path, shown: Sequence[int]) -> np.ndarray:
    """The frames that are shown at these times, ascending: THWC, uint8 RGB. Raises Unreadable."""
    wanted, frames = set(shown), dict[int, np.ndarray]()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            stream.thread_type = "AUTO"
            container.seek(shown[0], stream=stream)
            for frame in container.decode(stream):
                if frame.pts in wanted:
                    frames[frame.pts] = frame.to_ndarray(format="rgb24")
                if len(frames) == len(wanted):
                    return np.stack([frames[time] for time in shown])
    except (av.error.FFmpegError, OSError) as error:
        raise Unreadable(f"it cannot be decoded ({error.strerror})") from error
    raise Unreadable(f"only {len(frames)} of {len(wanted)} frames can be decoded")
