"""Midpoint steps along the probability-flow ODE dx/dsigma = (x - x0) / sigma (Karras et al. 2022, arXiv 2206.00364).

Shape suffixes: B batch, C channels, T time, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from cosmos_forge import Context
from cosmos_forge.edm import karras_sigmas
from cosmos_forge.kinds import Denoiser
from new_plugin.plugin import NewPluginOptions


class NewPlugin:
    """See `cosmos_forge.kinds.Sampler`."""

    def __init__(self, options: NewPluginOptions, context: Context) -> None:
        self.options = options

    def sample(
        self,
        denoise: Denoiser,
        noise_BCTHW: Tensor,
        generator: torch.Generator | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Unit noise -> x0, float32. Deterministic: `generator` is not used."""
        sigmas = [*karras_sigmas(self.options.steps, self.options.sigma_min, 80.0).tolist(), 0.0]
        x_BCTHW = noise_BCTHW.float() * sigmas[0]
        for step, (sigma, lower) in enumerate(pairwise(sigmas), start=1):
            slope = self.slope(denoise, x_BCTHW, sigma)
            if lower > 0:
                middle = (sigma + lower) / 2
                slope = self.slope(denoise, x_BCTHW + (middle - sigma) * slope, middle)
            x_BCTHW = x_BCTHW + (lower - sigma) * slope
            if on_step:
                on_step(step)
        return x_BCTHW

    def slope(self, denoise: Denoiser, x_BCTHW: Tensor, sigma: float) -> Tensor:
        """dx/dsigma at noise level `sigma`; each call is one evaluation of the network, two with guidance."""
        x0_BCTHW = denoise(x_BCTHW, x_BCTHW.new_full(x_BCTHW.shape[:1], sigma))
        return (x_BCTHW - x0_BCTHW) / sigma
