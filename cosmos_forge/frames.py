"""What datasets of video files need: which frames a file has, their pixels, and these at the size of clips.

Shape suffixes: T time, C channels, H height, W width. Importing this file imports no torch.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from io import IOBase
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from cosmos_forge.files import sha256

if TYPE_CHECKING:
    from torch import Tensor


class Unreadable(Exception):
    """Why a video cannot be used, in words a person can act on."""


@dataclass(frozen=True)
class Video:
    """What a video says of itself before it is decoded. Times are in units of `unit` seconds.

    times: when each frame is shown, ascending; what an edit list hides is not among them. keys: of each frame that
    decoding may begin with, ascending, when it is shown and its place in the order of decoding. plain: nothing is
    hidden, and nothing that is stored after a key frame is shown before it (closed groups of pictures). fps: the
    average rate. height, width: as stored, in pixels; a video may be turned to be shown. codec: as ffmpeg calls the
    format.
    """

    times: list[int]
    keys: list[tuple[int, int]]
    plain: bool
    unit: Fraction
    fps: float
    height: int
    width: int
    codec: str

    def begin(self, shown: int) -> int:
        """Where `read` has to begin for what is shown from that time on: what is stored after a key frame but shown
        before it may need what was stored before, so at the last key frame that is shown no later."""
        return self.keys[bisect(self.keys, shown, key=itemgetter(0)) - 1][1]


def probe(file: Path | IOBase, cut_short: bool = False) -> Video:
    """Reads the packets of a video and decodes nothing. cut_short: of a file whose end is missing, what is there will
    do. Raises Unreadable."""
    try:
        if isinstance(file, Path) and file.stat().st_size == 0:
            raise Unreadable("the file is empty")
        with _opened(file) as (container, stream):
            packets = [packet for packet in container.demux(stream) if packet.size]
            whole = [packet for packet in packets if not packet.is_corrupt]
            if not cut_short and len(whole) < max(len(packets), stream.frames):
                raise Unreadable(f"the file is cut short after {len(packets)} frames; copy or encode it again")
            return _video(whole, stream)
    except FileNotFoundError:
        raise Unreadable("there is no such file") from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise Unreadable(f"this is no video, or a part of the file is missing ({why})") from error


def read(file: Path | IOBase, shown: Sequence[int], begin: int) -> np.ndarray:
    """The frames that are shown at these times: THWC, uint8 RGB, upright. begin: as `Video.begin` gives it for the
    first of them. Raises Unreadable."""
    wanted, frames = set(shown), dict[int, np.ndarray]()
    try:
        with _opened(file) as (container, stream):
            stream.thread_type = "AUTO"
            container.seek(begin, stream=stream)
            for frame in container.decode(stream):
                if frame.pts in wanted:
                    frames[frame.pts] = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                if len(frames) == len(wanted):
                    return np.stack([frames[time] for time in shown])
    except (av.error.FFmpegError, OSError) as error:
        raise Unreadable(f"it cannot be decoded ({error.strerror})") from error
    raise Unreadable(f"only {len(frames)} of {len(wanted)} frames can be decoded")


def resize(frames_TCHW: Tensor, height: int, width: int, crop: bool) -> Tensor:
    """uint8 in and out, bilinear with antialiasing; frames of the right size stay what they are.

    crop: cut out the largest middle part of the target's proportions first; else proportions may change.
    As in upstream's `dataset_video.py: Dataset`, values are cut off to whole numbers, not rounded.
    """
    import torch

    if crop:
        full_height, full_width = frames_TCHW.shape[2:]
        rows, columns = middle(full_height, full_width, height, width)
        frames_TCHW = frames_TCHW[:, :, rows, columns]
    if frames_TCHW.shape[2:] == (height, width):
        return frames_TCHW
    return torch.stack([_resize_one(frame_CHW, height, width) for frame_CHW in frames_TCHW])


def middle(full_height: int, full_width: int, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the largest part that has the proportions height : width, to the nearest pixel."""
    kept_height = min(full_height, round(full_width * height / width))
    kept_width = min(full_width, round(full_height * width / height))
    top, left = (full_height - kept_height) // 2, (full_width - kept_width) // 2
    return slice(top, top + kept_height), slice(left, left + kept_width)


def content_hash(path: Path) -> str:
    """SHA-256 of a file, for fingerprints; read again only where its size or its time of change differ."""
    stat = path.stat()
    return _content_hash(path, stat.st_size, stat.st_mtime_ns)


@contextmanager
def _opened(file: Path | IOBase) -> Iterator[tuple[Any, Any]]:
    """The container, and its video's stream."""
    if isinstance(file, IOBase):
        file.seek(0)
    source: Any = str(file) if isinstance(file, Path) else file
    with av.open(source, metadata_errors="replace") as container:
        stream = container.streams.best("video")
        if stream is None:
            raise Unreadable("there is no video in the file")
        if stream.codec_context is None:  # decoding it would crash PyAV before 18.1
            raise Unreadable("it is encoded in a way that is not known here; encode it again, as H.264")
        yield container, stream


def _video(packets: Sequence[Any], stream: Any) -> Video:
    """Of all packets of a stream, in the order of the file."""
    if any(packet.pts is None for packet in packets):
        raise Unreadable("its frames carry no times; encode it again")
    times = sorted(packet.pts for packet in packets if not packet.is_discard)
    if not (times and stream.average_rate and stream.time_base):
        raise Unreadable("the video has no frames")
    # Some containers, as Matroska, do not say when a frame is to be decoded; those are gone through by the other time.
    keys = sorted((each.pts, each.pts if each.dts is None else each.dts) for each in packets if each.is_keyframe)
    if not keys or keys[0][0] > times[0]:
        raise Unreadable("its first frames need others, which are missing; encode it again")
    codec = stream.codec_context
    height, width, name = codec.height, codec.width, codec.codec.canonical_name
    return Video(times, keys, _plain(packets), stream.time_base, float(stream.average_rate), height, width, name)


def _plain(packets: Sequence[Any]) -> bool:
    key = packets[0].pts
    for packet in packets:
        key = packet.pts if packet.is_keyframe else key
        if packet.is_discard or packet.pts < key:
            return False
    return True


def _resize_one(frame_CHW: Tensor, height: int, width: int) -> Tensor:
    """One frame at a time: a long clip in float32 at its full size would fill the memory."""
    import torch
    from torch.nn import functional as F

    scaled_CHW = F.interpolate(frame_CHW[None] / 255, (height, width), mode="bilinear", antialias=True)[0]
    return (scaled_CHW * 255).clamp(0, 255).to(torch.uint8)


@cache
def _content_hash(path: Path, size: int, modified: int) -> str:
    return sha256(path)
