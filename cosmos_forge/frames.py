"""Frames to the size of clips, the same for every dataset.

Shape suffixes: T time, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def resize(frames_TCHW: Tensor, height: int, width: int, crop: bool) -> Tensor:
    """uint8 in and out, bilinear with antialiasing; frames of the right size stay what they are.

    crop: cut out the largest middle part of the target's proportions first; else proportions may change.
    As in upstream's `dataset_video.py: Dataset`, values are cut off to whole numbers, not rounded.
    """
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


def _resize_one(frame_CHW: Tensor, height: int, width: int) -> Tensor:
    """One frame at a time: a long clip in float32 at its full size would fill the memory."""
    scaled_CHW = F.interpolate(frame_CHW[None] / 255, (height, width), mode="bilinear", antialias=True)[0]
    return (scaled_CHW * 255).clamp(0, 255).to(torch.uint8)
