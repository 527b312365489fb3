"""Frames as pictures."""

from __future__ import annotations

from PIL import Image
from torch import Tensor


def to_picture(frame_CHW: Tensor) -> Image.Image:
    """Of a frame, uint8 RGB."""
    return Image.fromarray(frame_CHW.permute(1, 2, 0).contiguous().numpy())


def fit(width: int, height: int, longest: int) -> tuple[int, int]:
    """Width and height, reduced in proportion where a side is longer than `longest` pixels."""
    ratio = max(width / longest, height / longest, 1.0)
    return max(1, int(width / ratio)), max(1, int(height / ratio))
