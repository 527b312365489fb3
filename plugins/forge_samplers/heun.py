"""The deterministic sampler of EDM (Karras et al. 2022, arXiv 2206.00364, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cosmos_forge.edm import karras_sigmas
from forge_samplers.walk import estimate, heun, steps

if TYPE_CHECKING:
    from cosmos_forge import Context
    from cosmos_forge.kinds import Denoiser
    from forge_samplers.plugin import HeunOptions


class Heun:
    """`steps` noise levels from sigma_max to sigma_min, then zero; every step but the last is corrected once."""

    def __init__(self, options: HeunOptions, context: Context | None = None) -> None:
        self.options = options

    def sample(
        self,
        denoise: Denoiser,
        noise_BCTHW: Tensor,
        generator: torch.Generator | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """See `kinds.Sampler`. Deterministic: `generator` is not used. State is float64."""
        o = self.options
        sigmas = [*karras_sigmas(o.steps, o.sigma_min, o.sigma_max, o.rho).tolist(), 0.0]
        x_BCTHW = noise_BCTHW.double() * o.sigma_max
        for sigma, sigma_next in steps(sigmas, on_step):
            x0_BCTHW = estimate(denoise, x_BCTHW, sigma)
            x_BCTHW = heun(denoise, x_BCTHW, x0_BCTHW, sigma, sigma_next) if sigma_next > 0 else x0_BCTHW
        return x_BCTHW.float()
