"""Videos and pictures as files, written and read. Frames are HWC (a video's THWC), uint8 RGB, 0 to 255."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageOps

from cosmos_forge.errors import ForgeError, show_path
from cosmos_forge.files import atomic
from cosmos_forge.generation.inputs import PICTURE_FPS, PICTURES

# The encoder's macroblock tree is off: with it the same small frames have been seen to give one file or another.
H264 = {"crf": "14", "x264-params": "mbtree=0"}
BT709 = 1  # of ITU-T H.273: primaries, transfer and matrix of HD video


@dataclass(frozen=True)
class Media:
    """Frames of a picture or video, its height and width in pixels as shown, and frames a second."""

    frames: int
    height: int
    width: int
    fps: float


def write_mp4(frames_THWC: Iterable[np.ndarray], fps: float, path: Path) -> None:
    """H.264 in yuv420p with BT.709 colours, as every browser plays it; whole or not there. Takes one frame at a time.

    Raises ForgeError for odd heights and widths, which yuv420p cannot hold, and ValueError for what is no video.
    """
    frames, height, width = _checked(frames_THWC)
    if height % 2 or width % 2:
        raise ForgeError(f"{show_path(path)}: H.264 needs even sizes, got {height}x{width}", "choose an even size")
    rate = Fraction(fps).limit_denominator(1001)
    # In whole milliseconds, as FFmpeg counts a film's length by itself, the last of very short frames are cut off.
    options = {"movflags": "faststart", "movie_timescale": str(rate.numerator)}
    with atomic(path) as temporary, av.open(str(temporary), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=rate, options=H264)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        codec = stream.codec_context
        codec.thread_type = "FRAME"  # frames side by side: many cores are busy, where parts of a frame keep few so
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = 1  # 16 to 235, the usual one
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode())


def write_lossless(frames_THWC: Iterable[np.ndarray], fps: float, path: Path) -> None:
    """FFV1 in RGB, in Matroska (.mkv): what is read is what was written. Whole or not there. Raises as `write_mp4`."""
    frames, height, width = _checked(frames_THWC)
    with atomic(path) as temporary, av.open(str(temporary), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = height, width, "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def probe(path: Path) -> Media:
    """What a picture or video holds; decodes its first frame and no other. Raises as `read_last`."""
    if _is_picture(path):
        height, width, _ = _read_picture(path).shape
        return Media(1, height, width, PICTURE_FPS)
    with _opened(path) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise ForgeError(f"there is no frame in {show_path(path)}", "copy or encode it again")
        height, width, _ = _upright(first).shape
        fps = float(stream.average_rate or PICTURE_FPS)
        return Media(stream.frames or count_frames(path), height, width, fps)


def count_frames(path: Path) -> int:
    """Frames of a video, without decoding them."""
    with _opened(path) as (container, stream):
        return sum(bool(packet.size) for packet in container.demux(stream))


def read_frames(path: Path, numbers: Container[int] | None = None) -> Iterator[np.ndarray]:
    """The frames of a video, one at a time; those with these numbers, counted from 0, or all."""
    with _opened(path) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if numbers is None or number in numbers:
                yield _upright(frame)


def read_last(path: Path, count: int) -> np.ndarray:
    """The last `count` frames of a video, or all it has, or the one of a picture, upright. Decodes no more than
    it must: from the last keyframe before them.

    Raises ForgeError where there is no such file, it is neither, or a part of it is missing.
    """
    if _is_picture(path):
        return _read_picture(path)[None]
    with _opened(path) as (container, stream):
        packets: list[tuple[int | None, bool]] = []
        for packet in container.demux(stream):
            if packet.is_corrupt:
                break
            packets += [(packet.pts, packet.is_keyframe)] if packet.size else []
        if packet.is_corrupt or len(packets) < stream.frames or not packets:
            raise ForgeError(f"{show_path(path)} is cut short after {len(packets)} frames", "copy or encode it again")
        wanted = min(count, len(packets))
        times = sorted(pts for pts, _ in packets if pts is not None)
        keys = [pts for pts, key in packets if key and pts is not None and pts <= times[-wanted]] if times else []
        last = _decode(container, stream, max(keys), wanted) if keys and len(times) == len(packets) else []
    if len(last) < wanted:  # no times, or frames that the file says are not to be shown
        last = list(deque(read_frames(path), wanted))
    return np.stack(last)


def _decode(container: Any, stream: Any, start: int, count: int) -> list[np.ndarray]:
    """The last `count` frames, decoded from the keyframe at the time `start`; fewer where it cannot be gone to."""
    container.seek(start, stream=stream)
    last: deque[Any] = deque(container.decode(stream), count)
    return [_upright(frame) for frame in last]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A video's container and its stream; FFmpeg's errors become a ForgeError."""
    if not path.is_file():
        raise ForgeError(f"there is no file {show_path(path)}", "name a video (such as .mp4) or a picture (.png, .jpg)")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream is None:
                raise ForgeError(f"there is no video in {show_path(path)}", "name a video or a picture")
            if stream.codec_context is None:  # decoding it would crash PyAV before 18.1
                raise ForgeError(
                    f"{show_path(path)} is encoded in a way that is not known here", "encode it again, as H.264"
                )
            stream.thread_type = "AUTO"
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        raise ForgeError(
            f"{show_path(path)} cannot be read as a video: {error.strerror}",
            "name a video or a picture; if it is one, a part of the file may be missing: copy or encode it again",
        ) from error


def _upright(frame: Any) -> np.ndarray:
    """HWC, turned as its camera says."""
    return np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)


def _checked(frames_THWC: Iterable[np.ndarray]) -> tuple[Iterator[np.ndarray], int, int]:
    """The frames again, and height and width of the first."""
    frames = iter(frames_THWC)
    first = next(frames, None)
    if first is None or first.dtype != np.uint8 or first.ndim != 3 or first.shape[2] != 3:
        got = "none" if first is None else f"{first.dtype} {first.shape}"
        raise ValueError(f"expected frames HWC, uint8 RGB, got {got}")
    return chain([first], frames), *first.shape[:2]


def _is_picture(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in PICTURES


def _read_picture(path: Path) -> np.ndarray:
    """HWC, turned as its camera says; what is transparent becomes white, as in Cosmos inference. Of 16 bits the upper 8
    count."""
    try:
        with Image.open(path) as file:
            _check_picture(file, path)
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I;16"):  # which Pillow would cut off at 255
                picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ForgeError(f"{show_path(path)} cannot be read as a picture: {error}", "save it again as PNG") from error


def _check_picture(file: Image.Image, path: Path) -> None:
    """Raises ForgeError for what Pillow would show a part of without a word."""
    if file.format in ("PNG", "WEBP", "GIF") and getattr(file, "is_animated", False):
        what = f"{show_path(path)} holds {file.n_frames} frames, where a picture has one"  # type: ignore[attr-defined]
        raise ForgeError(what, "save it as a video, such as .mp4 or .gif, or one frame as a picture")
    if file.mode in ("I", "F"):
        what = f"{show_path(path)} is a picture of mode {file.mode}: nothing says which of its numbers is white"
        raise ForgeError(what, "save it as PNG, of 8 or 16 bits")
