"""Frames of a video file: by decord, the quicker, where it is installed and right, else as for every dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cosmos_forge.frames import Video, probe, read

try:
    import decord
except ImportError:  # there is no wheel for macOS and arm64
    decord = None


def read_frames(path: Path, indices: Sequence[int]) -> np.ndarray:
    """The frames at ascending `indices`, THWC, uint8 RGB, upright. Raises Unreadable."""
    video = probe(path)
    if decord and video.plain:  # elsewhere decord 0.6 returns wrong frames, without a word
        try:
            return read_with_decord(path, indices)
        except (decord.DECORDError, RuntimeError):
            pass  # it fails on some turned videos, which PyAV reads; and PyAV says better what is wrong
    return read_with_pyav(path, video, indices)


def read_with_decord(path: Path, indices: Sequence[int]) -> np.ndarray:
    return decord.VideoReader(str(path), num_threads=2).get_batch(list(indices)).asnumpy()


def read_with_pyav(path: Path, video: Video, indices: Sequence[int]) -> np.ndarray:
    shown = [video.times[index] for index in indices]
    return read(path, shown, video.begin(shown[0]))
