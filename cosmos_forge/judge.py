"""How good a video is, measured against what really happened."""

from __future__ import annotations

import torch
from torch import Tensor

from cosmos_forge.sampling import Job


def judge(job: Job, made: dict[str, Tensor]) -> dict[str, float]:
    """PSNR of the continuation in dB, where the truth is known; of repeating the last given frame too."""
    if job.truth_CTHW is None:
        return {}
    start = job.given_CTHW.shape[1]
    truth = job.truth_CTHW[:, start:]
    metrics = {"psnr_db": psnr(made["generated"][:, start:], truth)}
    metrics["psnr_copy_db"] = psnr(job.given_CTHW[:, -1:].expand_as(truth), truth)
    if "base" in made:
        metrics["psnr_base_db"] = psnr(made["base"][:, start:], truth)
    return metrics


def psnr(one: Tensor, other: Tensor) -> float:
    """Peak signal-to-noise ratio of uint8 pictures, in dB; at most 100."""
    error = ((one.double() - other.double()) / 255).square().mean()
    return float(-10 * torch.log10(error.clamp(min=1e-10)))
