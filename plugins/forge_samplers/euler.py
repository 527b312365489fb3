"""Euler steps along the probability-flow ODE dx/dsigma = (x - x0) / sigma (Karras et al. 2022, arXiv 2206.00364)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cosmos_forge.edm import karras_sigmas

if TYPE_CHECKING:
    from cosmos_forge import Context
    from cosmos_forge.kinds import Denoiser
    from forge_samplers.plugin import EulerOptions


class Euler:
    """`steps` noise levels from sigma_max to sigma_min, then zero.

    Source: the reference's `world_generation_pipeline` with diffusers' `EDMEulerScheduler`. From there come the start
    state, which is a little wider than sigma_max, and stepping from the imposed state: given frames never drift.
    """

    def __init__(self, options: EulerOptions, context: Context | None = None) -> None:
        self.options = options

    def sample(
        self,
        denoise: Denoiser,
        noise_BCTHW: Tensor,
        generator: torch.Generator | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """See `kinds.Sampler`. Deterministic: `generator` is not used. State is float32."""
        o = self.options
        sigmas = [*karras_sigmas(o.steps, o.sigma_min, o.sigma_max, o.rho).tolist(), 0.0]
        x_BCTHW = noise_BCTHW.float() * math.sqrt(o.sigma_max**2 + 1)
        for step, (sigma, sigma_next) in enumerate(pairwise(sigmas), start=1):
            sigma_B = x_BCTHW.new_full(x_BCTHW.shape[:1], sigma)
            x_BCTHW = denoise.impose(x_BCTHW, sigma_B)
            x0_BCTHW = denoise(x_BCTHW, sigma_B)
            x_BCTHW = x0_BCTHW + sigma_next / sigma * (x_BCTHW - x0_BCTHW)
            if on_step:
                on_step(step)
        return x_BCTHW
