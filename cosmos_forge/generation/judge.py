"""How good a video is, measured against what really happened. Frames are uint8 RGB, 0 to 255.

Shape suffixes: C channels, T frames, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cosmos_forge.generation.jobs import Video

WINDOW, DEVIATION = 11, 1.5  # of the Gaussian that weighs a pixel's surroundings
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def judge(video: Video, frames_CTHW: Tensor) -> dict[str, float]:
    """As `compare`, where the truth is known."""
    return compare(frames_CTHW, video.truth(), video.given) if video.truth else {}


def compare(frames_CTHW: Tensor, truth_CTHW: Tensor, given: int) -> dict[str, float]:
    """PSNR in dB and SSIM of what follows the given frames; of repeating the last of these too."""
    made, truth = frames_CTHW[:, given:], truth_CTHW[:, given:]
    copy = truth_CTHW[:, given - 1 : given].expand_as(truth)
    return {
        "psnr_db": psnr(made, truth),
        "psnr_copy_db": psnr(copy, truth),
        "ssim": ssim(made, truth),
        "ssim_copy": ssim(copy, truth),
    }


def psnr(one: Tensor, other: Tensor) -> float:
    """Peak signal-to-noise ratio, in dB; at most 100."""
    error = ((one.double() - other.double()) / 255).square().mean()
    return float(-10 * torch.log10(error.clamp(min=1e-10)))


def ssim(one_CTHW: Tensor, other_CTHW: Tensor) -> float:
    """Structural similarity, -1 to 1 (Wang et al. 2004, IEEE TIP 13(4), equation 13 and section III-C): the mean over
    all whole windows of 11x11 pixels, frames and colours. Raises ValueError for pictures smaller than a window."""
    if min(one_CTHW.shape[2:]) < WINDOW:
        raise ValueError(f"SSIM needs pictures of {WINDOW}x{WINDOW} pixels or more, got {tuple(one_CTHW.shape[2:])}")
    pairs = zip(one_CTHW.unbind(1), other_CTHW.unbind(1), strict=True)
    return float(torch.stack([_ssim_of_frame(one, other) for one, other in pairs]).mean())


def _ssim_of_frame(one_CHW: Tensor, other_CHW: Tensor) -> Tensor:
    # Around mid-grey, so that squares keep enough digits in float32.
    x, y = one_CHW.float() - 128, other_CHW.float() - 128
    mean_x, mean_y, xx, yy, xy = _weighted(torch.stack([x, y, x * x, y * y, x * y]))
    variance_x, variance_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    mean_x, mean_y = mean_x + 128, mean_y + 128
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (variance_x + variance_y + C2)
    return (luminance * structure).mean()


def _weighted(x: Tensor) -> Tensor:
    """Gaussian means over whole windows of the last two dimensions, first along one, then along the other."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.softmax(-(offsets**2) / (2 * DEVIATION**2), 0).tolist()
    for dim in (-2, -1):
        size = x.shape[dim] - WINDOW + 1
        mean = torch.zeros_like(x.narrow(dim, 0, size))
        for first, weight in enumerate(weights):
            mean.add_(x.narrow(dim, first, size), alpha=weight)  # many times faster than a convolution here
        x = mean
    return x
