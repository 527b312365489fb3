"""The deterministic sampler of EDM (Karras et al. 2022, arXiv 2206.00364, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cosmos_forge.edm import karras_sigmas
from forge_samplers.walk import estimate, steps

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
            d_BCTHW = (x_BCTHW - estimate(denoise, x_BCTHW, sigma)) / sigma
            next_BCTHW = x_BCTHW + (sigma_next - sigma) * d_BCTHW
            if sigma_next > 0:
                d_next_BCTHW = (next_BCTHW - estimate(denoise, next_BCTHW, sigma_next)) / sigma_next
                next_BCTHW = x_BCTHW + (sigma_next - sigma) * (d_BCTHW + d_next_BCTHW) / 2
            x_BCTHW = next_BCTHW
        return x_BCTHW.float()
