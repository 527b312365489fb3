"""DPM-Solver++(2M): second-order steps from the estimates of this step and the one before.

Source: Lu et al. 2022 (arXiv 2211.01095), algorithm 2, with alpha = 1: the noise levels of EDM.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cosmos_forge.edm import karras_sigmas
from forge_samplers.walk import estimate, steps, toward

if TYPE_CHECKING:
    from cosmos_forge import Context
    from cosmos_forge.kinds import Denoiser
    from forge_samplers.plugin import Dpmpp2mOptions


class Dpmpp2m:
    """`steps` noise levels from sigma_max to sigma_min, then zero; the last step ends at the estimate at sigma_min."""

    def __init__(self, options: Dpmpp2mOptions, context: Context | None = None) -> None:
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
        previous: tuple[Tensor, float] | None = None
        for sigma, sigma_next in steps(sigmas, on_step):
            x0_BCTHW = estimate(denoise, x_BCTHW, sigma)
            ahead_BCTHW = x0_BCTHW
            if previous and sigma_next > 0:
                ahead_BCTHW = halfway(x0_BCTHW, *previous, sigma, sigma_next)
            x_BCTHW = toward(x_BCTHW, ahead_BCTHW, sigma, sigma_next)
            previous = x0_BCTHW, sigma
        return x_BCTHW.float()


def halfway(x0: Tensor, before: Tensor, sigma_before: float, sigma: float, sigma_next: float) -> Tensor:
    """x0 in the middle of the step, on the line in log sigma through the estimates `before` and x0.

    D = (1 + 1 / (2r)) x0 - 1 / (2r) before, with r = h_before / h; h is the step's length in lambda = -log sigma.
    """
    r = math.log(sigma_before / sigma) / math.log(sigma / sigma_next)
    return x0 + (x0 - before) / (2 * r)
