"""Euler steps along the probability-flow ODE dx/dsigma = (x - x0) / sigma (Karras et al. 2022, arXiv 2206.00364)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cosmos_forge.edm import karras_sigmas
from forge_samplers.walk import estimate, level, steps, toward

if TYPE_CHECKING:
    from cosmos_forge import Context
    from cosmos_forge.kinds import Denoiser
    from forge_samplers.plugin import EulerOptions


class Euler:
    """`steps` noise levels from sigma_max to sigma_min, then the last step, as the convention has it.

    predict1: the reference's `world_generation_pipeline` with diffusers' `EDMEulerScheduler`. The start state is a
    little wider than sigma_max; each step starts from the imposed state, so that given frames never drift; the last
    goes to zero noise. diffusers: its `CosmosVideoToWorldPipeline`. The start state is as wide as sigma_max; each step
    starts from the sampler's own state; the last has no length, so the noise of sigma_min stays.
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
        predict1 = o.convention == "predict1"
        sigmas = [*karras_sigmas(o.steps, o.sigma_min, o.sigma_max, o.rho).tolist(), 0.0 if predict1 else o.sigma_min]
        x_BCTHW = noise_BCTHW.float() * (math.sqrt(o.sigma_max**2 + 1) if predict1 else o.sigma_max)
        for sigma, sigma_next in steps(sigmas, on_step):
            if predict1:
                x_BCTHW = denoise.impose(x_BCTHW, level(x_BCTHW, sigma))
            x_BCTHW = toward(x_BCTHW, estimate(denoise, x_BCTHW, sigma), sigma, sigma_next)
        return x_BCTHW
