"""Steps of `res` that know nothing of the steps before: Runge-Kutta methods, by the reference's names.

Each goes from a state `x` at the noise level `sigma`, of which `x0` is the estimate, to the state at `sigma_next` > 0.
The slope of the ODE is (x - x0) / sigma. Source: the reference's `functional/runge_kutta.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from forge_samplers.walk import estimate, second_order, toward

if TYPE_CHECKING:
    from cosmos_forge.kinds import Denoiser


def euler(denoise: Denoiser, x: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The estimate stays as it is."""
    return toward(x, x0, sigma, sigma_next)


def middle(denoise: Denoiser, x: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The estimate is linear in log sigma, through that at the middle."""
    sigma_mid, x0_mid = _middle(denoise, x, x0, sigma, sigma_next)
    return second_order(x, x0, x0_mid, sigma_mid, sigma, sigma_next)


def middle_stable(denoise: Denoiser, x: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The estimate at the middle holds for the whole step."""
    return toward(x, _middle(denoise, x, x0, sigma, sigma_next)[1], sigma, sigma_next)


def heun_edm(denoise: Denoiser, x: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The mean of the estimates at both ends holds for the whole step. EDM takes the mean of slopes instead."""
    ahead = toward(x, x0, sigma, sigma_next)
    return toward(x, (x0 + estimate(denoise, ahead, sigma_next)) / 2, sigma, sigma_next)


def heun_naive(denoise: Denoiser, x: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The mean of slopes at both ends. Upstream: the first one is taken from the state at the far end, so that the
    method is of first order; this does the same."""
    ahead = toward(x, x0, sigma, sigma_next)
    slope, slope_next = (ahead - x0) / sigma, _slope(denoise, ahead, sigma_next)
    return x + (sigma_next - sigma) * (slope + slope_next) / 2


def kutta_naive(denoise: Denoiser, x: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """Kutta's third-order rule in sigma: weights 1/6, 4/6, 1/6 at both ends and in the middle."""
    length, sigma_mid, slope = sigma_next - sigma, (sigma + sigma_next) / 2, (x - x0) / sigma
    slope_mid = _slope(denoise, x + length / 2 * slope, sigma_mid)
    slope_next = _slope(denoise, x + length * (2 * slope_mid - slope), sigma_next)
    return x + length * (slope + 4 * slope_mid + slope_next) / 6


def _middle(denoise: Denoiser, x: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> tuple[float, Tensor]:
    """The noise level in the middle, in log sigma, and the estimate there."""
    sigma_mid = math.sqrt(sigma * sigma_next)
    return sigma_mid, estimate(denoise, toward(x, x0, sigma, sigma_mid), sigma_mid)


def _slope(denoise: Denoiser, x: Tensor, sigma: float) -> Tensor:
    return (x - estimate(denoise, x, sigma)) / sigma


# By name, which begins with how many evaluations a step takes.
SINGLE_STEPS: dict[str, Callable[[Denoiser, Tensor, Tensor, float, float], Tensor]] = {
    "1euler": euler,
    "2mid": middle,
    "2mid_stable": middle_stable,
    "2heun_edm": heun_edm,
    "2heun_naive": heun_naive,
    "3kutta_naive": kutta_naive,
}
