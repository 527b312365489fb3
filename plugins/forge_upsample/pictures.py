"""Frames as pictures."""

from __future__ import annotations

from PIL import Image
from torch import Tensor


def to_picture(frame_CHW: Tensor, max_side: int) -> Image.Image:
    """A frame, uint8 RGB, reduced in proportion where a side is longer than `max_side` pixels."""
    picture = Image.fromarray(frame_CHW.permute(1, 2, 0).contiguous().numpy())
    picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return picture
