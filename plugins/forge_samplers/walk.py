"""What every sampler's walk from noise to data has in common.

Shape suffixes: B batch, C channels, T time, H height, W width.
"""

from __future__ import annotations

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


def heun(denoise: Denoiser, x: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The step of the ODE with the mean of its slopes at both ends, which takes an evaluation at sigma_next > 0.

    Source: Karras et al. 2022 (arXiv 2206.00364), algorithm 1, lines 4 to 8.
    """
    ahead = toward(x, x0, sigma, sigma_next)
    slope, slope_next = (x - x0) / sigma, (ahead - estimate(denoise, ahead, sigma_next)) / sigma_next
    return x + (sigma_next - sigma) * (slope + slope_next) / 2
