"""What every sampler's walk from noise to data has in common.

Shape suffixes: B batch, C channels, T time, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from cosmos_forge.kinds import Denoiser


def steps(sigmas: Sequence[float], on_step: Callable[[int], None] | None) -> Iterator[tuple[float, float]]:
    """Each noise level and the next; `on_step(i)` once step i = 1, 2, .. is taken."""
    for step, levels in enumerate(pairwise(sigmas), start=1):
        yield levels
        if on_step:
            on_step(step)


def estimate(denoise: Denoiser, x_BCTHW: Tensor, sigma: float) -> Tensor:
    """x0 at the noise level `sigma`, in the dtype of the state."""
    return denoise(x_BCTHW, level(x_BCTHW, sigma)).to(x_BCTHW.dtype)


def level(x_BCTHW: Tensor, sigma: float) -> Tensor:
    """`sigma`, once a sample."""
    return x_BCTHW.new_full(x_BCTHW.shape[:1], sigma)


def toward(x: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The step of the ODE from sigma to sigma_next that is exact where x0 is constant; it is Euler's."""
    return x0 + sigma_next / sigma * (x - x0)


def second_order(x: Tensor, x0: Tensor, other: Tensor, sigma_other: float, sigma: float, sigma_next: float) -> Tensor:
    """The step that is exact where x0 is linear in log sigma, through the estimates x0 at sigma and `other` at
    sigma_other.

    Integrates dx/dlambda = x0 - x over lambda = -log sigma, a distance h. phi1 and phi2 weigh the constant and the
    linear part of x0; c is where on the way from sigma (0) to sigma_next (1) `other` stands, negative if before.
    """
    h = math.log(sigma / sigma_next)
    c = math.log(sigma / sigma_other) / h
    phi1 = -math.expm1(-h) / h
    phi2 = (1 - phi1) / h
    return math.exp(-h) * x + h * (phi1 * x0 + phi2 / c * (other - x0))
