"""Videos made on the spot."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest


def waves(frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """THWC, uint8: soft, and every frame far from its neighbours."""
    t, y, x = np.mgrid[:frames, :height, :width].astype(float)
    channels = [np.sin(x / 9 + t * 1.9), np.cos(y / 7 - t * 1.3), np.sin((x + y) / 11 + t * 2.7)]
    return np.stack([128 + 90 * channel for channel in channels], axis=-1).astype(np.uint8)


def write(path: Path, frames_THWC: np.ndarray, fps: int = 20, x264: str = "", movflags: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4", options={"movflags": movflags} if movflags else {}) as container:
        options = {"crf": "4", "threads": "1", "x264-params": x264}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames_THWC.shape[1:3], "yuv420p"
        for frame in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def cut_beginning(path: Path, frames: int, of: int) -> None:
    """Changes the edit list (ISO 14496-12, 8.6.6) so that players skip the first frames."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    duration, start = struct.unpack(">Ii", data[at : at + 8])
    with av.open(str(path)) as container:
        step = container.streams.video[0].duration // of
    data[at : at + 8] = struct.pack(">Ii", duration * (of - frames) // of, start + frames * step)
    path.write_bytes(data)


def turn(path: Path) -> None:
    """Changes the track's matrix (ISO 14496-12, 8.3.2) to a quarter turn clockwise, as of a telephone held upright."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


class Videos:
    """The helpers above, as one fixture."""

    waves = staticmethod(waves)
    write = staticmethod(write)
    cut_beginning = staticmethod(cut_beginning)
    turn = staticmethod(turn)


@pytest.fixture
def videos() -> type[Videos]:
    return Videos
