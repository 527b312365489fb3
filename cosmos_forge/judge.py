"""How good a video is, measured against what really happened."""

from __future__ import annotations

import torch
from torch import Tensor

from cosmos_forge.jobs import Video


def judge(video: Video, frames_CTHW: Tensor) -> dict[str, float]:
    """PSNR of the continuation in dB, where the truth is known; of repeating the last given frame too."""
    if video.truth is None:
        return {}
    truth_CTHW = video.truth()
    truth, last = truth_CTHW[:, video.given :], truth_CTHW[:, video.given - 1 : video.given]
    return {
        "psnr_db": psnr(frames_CTHW[:, video.given :], truth),
        "psnr_copy_db": psnr(last.expand_as(truth), truth),
    }


def psnr(one: Tensor, other: Tensor) -> float:
    """Peak signal-to-noise ratio of uint8 pictures, in dB; at most 100."""
    error = ((one.double() - other.double()) / 255).square().mean()
    return float(-10 * torch.log10(error.clamp(min=1e-10)))
