"""Refined exponential solver (RES): second-order steps that are exact where x0 is linear in log sigma; and the other
steps that the reference's sampler of this name can take.

Source: Zhang et al. 2023 (arXiv 2308.02157) and the reference's `functional/multi_step.py`, `functional/runge_kutta.py`
and `modules/res_sampler.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cosmos_forge.edm import karras_sigmas
from forge_samplers.single_steps import SINGLE_STEPS
from forge_samplers.walk import estimate, second_order, steps, toward

if TYPE_CHECKING:
    from cosmos_forge import Context
    from cosmos_forge.kinds import Denoiser
    from forge_samplers.plugin import ResOptions

LARGEST_SHARE = math.sqrt(1.2) - 1  # of sigma, that churn adds to it


class Res:
    """`steps` + 1 noise levels from sigma_max to sigma_min; the result is the estimate of x0 at the last."""

    def __init__(self, options: ResOptions, context: Context | None = None) -> None:
        self.options = options

    def sample(
        self,
        denoise: Denoiser,
        noise_BCTHW: Tensor,
        generator: torch.Generator | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """See `kinds.Sampler`. `generator` is used for churn only. State is float64. The final pass is no step."""
        o = self.options
        sigmas = karras_sigmas(o.steps + 1, o.sigma_min, o.sigma_max, o.rho).tolist()
        x_BCTHW = noise_BCTHW.double() * o.sigma_max
        before: tuple[Tensor, float] | None = None
        for sigma, sigma_next in steps(sigmas, on_step):
            x_BCTHW, sigma = churn(x_BCTHW, sigma, o, generator)
            x0_BCTHW = estimate(denoise, x_BCTHW, sigma)
            if o.solver != "2ab":
                x_BCTHW = SINGLE_STEPS[o.solver](denoise, x_BCTHW, x0_BCTHW, sigma, sigma_next)
            elif before is None:
                x_BCTHW = toward(x_BCTHW, x0_BCTHW, sigma, sigma_next)
            else:
                x_BCTHW = second_order(x_BCTHW, x0_BCTHW, *before, sigma, sigma_next)
            before = x0_BCTHW, sigma
        return estimate(denoise, x_BCTHW, sigmas[-1]).float()


def churn(x: Tensor, sigma: float, o: ResOptions, generator: torch.Generator | None) -> tuple[Tensor, float]:
    """The state with fresh noise added, and the noise level that it then has; both as they were without churn.

    Source: EDM (Karras et al. 2022, arXiv 2206.00364), algorithm 2, lines 4 to 6, without limits of sigma. The largest
    share and what `s_churn` is divided by, the number of noise levels, are the reference's.
    """
    if not o.s_churn:
        return x, sigma
    higher = sigma * (1 + min(o.s_churn / (o.steps + 1), LARGEST_SHARE))
    noise = torch.randn(x.shape, dtype=x.dtype, generator=generator)
    return x + math.sqrt(higher**2 - sigma**2) * o.s_noise * noise.to(x.device, non_blocking=True), higher
