"""Frames to the size of the dataset's clips."""

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
        frames_TCHW = crop_middle(frames_TCHW, height, width)
    if frames_TCHW.shape[2:] == (height, width):
        return frames_TCHW
    return torch.stack([resize_one(frame_CHW, height, width) for frame_CHW in frames_TCHW])


def resize_one(frame_CHW: Tensor, height: int, width: int) -> Tensor:
    """One frame at a time: a long clip in float32 at its full size would fill the memory."""
    scaled_CHW = F.interpolate(frame_CHW[None] / 255, (height, width), mode="bilinear", antialias=True)[0]
    return (scaled_CHW * 255).clamp(0, 255).to(torch.uint8)


def crop_middle(frames_TCHW: Tensor, height: int, width: int) -> Tensor:
    """The largest part of the proportions height : width, to the nearest pixel, from the middle."""
    full_height, full_width = frames_TCHW.shape[2:]
    kept_height = min(full_height, round(full_width * height / width))
    kept_width = min(full_width, round(full_height * width / height))
    top, left = (full_height - kept_height) // 2, (full_width - kept_width) // 2
    return frames_TCHW[:, :, top : top + kept_height, left : left + kept_width]
