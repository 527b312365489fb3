"""The mathematics of sigma, after Karras et al. 2022 (EDM, arXiv 2206.00364).

Noisy data is x = x0 + sigma * noise; sigma_data is the deviation of x0. Everything
here is elementwise in sigma, in the dtype it is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Preconditioning:
    """x0 = c_skip * x + c_out * F(c_in * x, c_noise), with F the network. Source: EDM, table 1 (column "Ours")."""

    sigma_data: float = 0.5

    def c_skip(self, sigma: Tensor) -> Tensor:
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def c_out(self, sigma: Tensor) -> Tensor:
        return sigma * self.sigma_data / (sigma**2 + self.sigma_data**2).sqrt()

    def c_in(self, sigma: Tensor) -> Tensor:
        return 1 / (sigma**2 + self.sigma_data**2).sqrt()

    def c_noise(self, sigma: Tensor) -> Tensor:
        return sigma.log() / 4

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """1 / c_out^2: the squared error of x0 becomes that of F."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


@dataclass(frozen=True)
class LogNormal:
    """Noise levels to train at: sigma = multiplier * exp(mean + deviation * z), z ~ N(0, 1).

    Source: EDM, table 1. The multiplier is the reference's `adjust_video_noise`: neighbouring frames are alike, so a
    video of T latent frames needs sqrt(T) times the noise of a picture to be as unrecognisable.
    """

    mean: float
    deviation: float
    multiplier: float = 1.0

    def sigma(self, normal: Tensor) -> Tensor:
        """Standard normal draws -> noise levels."""
        return self.multiplier * torch.exp(self.mean + self.deviation * normal)

    def levels(self, count: int) -> list[float]:
        """Rising noise levels, one in the middle of each of `count` equally likely parts, so that a mean over them is
        about one over all."""
        shares = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        levels: list[float] = self.sigma(torch.special.ndtri(shares)).tolist()
        return levels


def karras_sigmas(
    count: int, sigma_min: float, sigma_max: float, rho: float = 7.0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """`count` noise levels from sigma_max down to sigma_min, evenly spaced in sigma^(1/rho), on the CPU.

    Source: EDM, equation 5, without the zero that follows the last level.
    """
    ramp = torch.linspace(0, 1, count, dtype=dtype)
    return (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
