"""Frames of a video file: how many there are, and their pixels; by decord where it is installed, else by PyAV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

try:
    import decord
except ImportError:  # there is no wheel for macOS and arm64
    decord = None

CUT_SHORT = "the file is cut short after {} frames; copy or encode it again"
NO_TIMES = "its frames carry no times; encode it again"
NO_START = "its first frames need others, which are missing; encode it again"
NO_CODEC = "it is encoded in a way that is not known here; encode it again, as H.264"
NO_VIDEO = "this is no video, or a part of the file is missing ({})"


class Unreadable(Exception):
    """Why a video cannot be used, in words a person can act on."""


@dataclass(frozen=True)
class Packet:
    """An encoded frame, as the file's index tells. Times are in units of the stream.

    shown: when it is to be seen; stored: its place in the order of decoding. key: decoding may start here.
    hidden: only there to decode others (what an edit list cuts off at the beginning).
    """

    shown: int
    stored: int
    key: bool
    hidden: bool


@dataclass(frozen=True)
class Video:
    """packets: in the order of the file. fps: average rate of the frames."""

    packets: list[Packet]
    fps: float

    @property
    def times(self) -> list[int]:
        """When each frame is shown, ascending."""
        return sorted(packet.shown for packet in self.packets if not packet.hidden)

    @property
    def plain(self) -> bool:
        """Whether nothing is hidden, and nothing that is stored after a key frame is shown before it (a closed group of
        pictures). decord 0.6 returns wrong frames, without a word, where this does not hold."""
        key = self.packets[0].shown
        for packet in self.packets:
            key = packet.shown if packet.key else key
            if packet.hidden or packet.shown < key:
                return False
        return True


def probe(path: Path) -> Video:
    """Reads the file's packets without decoding them. Raises Unreadable, also where the end of the file is missing."""
    try:
        if path.stat().st_size == 0:
            raise Unreadable("the file is empty")
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream is None:
                raise Unreadable("there is no video in the file")
            if stream.codec_context is None:  # decoding it would crash PyAV before 18.1
                raise Unreadable(NO_CODEC)
            found = [packet for packet in container.demux(stream) if packet.size]
            if len(found) < stream.frames or any(packet.is_corrupt for packet in found):
                raise Unreadable(CUT_SHORT.format(len(found)))
            fps = stream.average_rate
    except (av.error.FFmpegError, OSError) as error:
        raise Unreadable(NO_VIDEO.format(error.strerror)) from error
    packets = []
    for packet in found:
        if packet.pts is None or packet.dts is None:
            raise Unreadable(NO_TIMES)
        packets.append(Packet(packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
    video = Video(packets, float(fps or 0))
    if not video.times or not fps:
        raise Unreadable("the video has no frames")
    if min((packet.shown for packet in packets if packet.key), default=math.inf) > video.times[0]:
        raise Unreadable(NO_START)
    return video


def read_frames(path: Path, indices: Sequence[int]) -> np.ndarray:
    """The frames at ascending `indices`, THWC, uint8 RGB, upright. Raises Unreadable."""
    video = probe(path)
    if decord and video.plain:
        try:
            return read_with_decord(path, indices)
        except (decord.DECORDError, RuntimeError):
            pass  # it fails on some turned videos, which PyAV reads; and PyAV says better what is wrong
    return read_with_pyav(path, video, indices)


def read_with_decord(path: Path, indices: Sequence[int]) -> np.ndarray:
    return decord.VideoReader(str(path), num_threads=2).get_batch(list(indices)).asnumpy()


def read_with_pyav(path: Path, video: Video, indices: Sequence[int]) -> np.ndarray:
    times = video.times
    wanted = [times[index] for index in indices]
    # What is stored after a key frame but shown before it may need what was stored before: start at the last key frame
    # that is shown no later than the first frame wanted.
    key = max((p for p in video.packets if p.key and p.shown <= wanted[0]), key=lambda p: p.shown)
    frames: dict[int, np.ndarray] = {}
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            stream.thread_type = "AUTO"
            container.seek(key.stored, stream=stream)
            for frame in container.decode(stream):
                if frame.pts in wanted:
                    frames[frame.pts] = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                if len(frames) == len(wanted):
                    return np.stack([frames[time] for time in wanted])
    except (av.error.FFmpegError, OSError) as error:
        raise Unreadable(f"it cannot be decoded ({error.strerror})") from error
    raise Unreadable(f"only {len(frames)} of {len(wanted)} frames can be decoded")
