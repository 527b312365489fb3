"""What a video file says of itself, read without decoding its frames. Imports no torch."""

from __future__ import annotations

import statistics
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import av

from cosmos_forge.frames import Unreadable, probe

_ISO = {".mp4", ".m4v", ".mov", ".3gp"}  # containers of ISO/IEC 14496-12
_UNEVEN = 0.1  # a gap between frames may differ by this share of the usual one before the rate counts as variable


@dataclass(frozen=True)
class Header:
    """frames: number to be shown. fps: their average rate; slowest and fastest: of two neighbours. height, width: as
    shown, in pixels; rotation: how far it is turned for that, clockwise in degrees. codec: as ffmpeg calls the format.
    seconds: from the first frame to the end of the last."""

    frames: int
    fps: float
    slowest: float
    fastest: float
    height: int
    width: int
    rotation: int
    codec: str
    seconds: float

    @property
    def variable(self) -> bool:
        """Whether the frame rate varies, more than the rounding of times explains."""
        return self.slowest != self.fastest


def read_header(path: Path) -> Header:
    """Raises Unreadable for what is no video, is cut short, or shows nothing."""
    video = probe(path)
    try:
        rotation = _rotation(path)
    except (av.error.FFmpegError, OSError) as error:
        raise Unreadable(f"it cannot be decoded ({error.strerror})") from error
    times, fps, tick, height, width = video.times, video.fps, float(video.unit), video.height, video.width
    height, width = (width, height) if rotation % 180 else (height, width)
    if len(times) > 1:  # what the container says of the rate need not be what its frames' times say
        fps = (len(times) - 1) / ((times[-1] - times[0]) * tick) if times[-1] > times[0] else fps
    slowest, fastest = _rates(times, tick) or (fps, fps)
    return Header(len(times), fps, slowest, fastest, height, width, rotation, video.codec, len(times) / fps)


def _rates(times: list[int], tick: float) -> tuple[float, float] | None:
    """The least and the greatest rate between neighbours; None where all gaps are alike."""
    gaps = [after - before for before, after in pairwise(times)]
    usual = statistics.median(gaps) if gaps else 0
    if not gaps or all(abs(gap - usual) <= max(1, _UNEVEN * usual) for gap in gaps):
        return None
    return 1 / (max(gaps) * tick), 1 / (max(1, min(gaps)) * tick)


def _rotation(path: Path) -> int:
    """Degrees clockwise that the video is turned by to be shown: 0, 90, 180 or 270."""
    if path.suffix.lower() in _ISO:
        with path.open("rb") as file:
            return _track_rotation(file)
    with av.open(str(path), metadata_errors="replace") as container:  # elsewhere only a decoded frame tells
        frame = next(container.decode(video=0), None)
        return -frame.rotation % 360 if frame else 0


def _track_rotation(file: BinaryIO) -> int:
    """From the matrix of the first track that shows pictures (ISO/IEC 14496-12, 8.3.2 `tkhd`)."""
    end = file.seek(0, 2)
    for name, start, stop in _boxes(file, 0, end):
        if name != b"moov":
            continue
        for kind, begin, finish in _boxes(file, start, stop):
            header = next((place for name, *place in _boxes(file, begin, finish) if name == b"tkhd"), None)
            if kind != b"trak" or header is None:
                continue
            file.seek(header[0])
            body = file.read(header[1] - header[0])
            # Version 1 has three longer times; the matrix stands 16 bytes after them, then width and height.
            at = 52 if body[:1] == b"\x01" else 40
            if len(body) < at + 44:
                continue
            a, b, *_ = struct.unpack_from(">9i", body, at)
            if any(struct.unpack_from(">2I", body, at + 36)):  # sound has no size
                return {(0, 1): 90, (-1, 0): 180, (0, -1): 270}.get((_sign(a), _sign(b)), 0)
    return 0


def _boxes(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin and end of the content of each box between two places."""
    while start + 8 <= stop:
        file.seek(start)
        size, name = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1 and start + 16 <= stop:
            size, head = struct.unpack(">Q", file.read(8))[0], 16
        end = start + size if size else stop
        if (size and size < head) or end > stop:
            return
        yield name, start + head, end
        start = end


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)
