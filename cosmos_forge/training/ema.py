"""Averaged weights with a power-function profile (Karras et al. 2023, arXiv 2312.02696, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from cosmos_forge.training.pieces import local


def ema_gamma(width: float) -> float:
    """The exponent of the profile t^gamma whose standard deviation is `width` of the run's length.

    width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), so the largest root of g^3 + 7 g^2 + (16 - width^-2) g +
    (12 - width^-2). Raises ValueError from 12^-0.5 on, the width of gamma = 0, a plain mean.
    """
    if not 0 < width < 12**-0.5:
        raise ValueError(f"the width of an average must lie between 0 and {12**-0.5:.3f}, got {width}")
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def ema_beta(iteration: int, width: float) -> float:
    """The share of the old average that survives the update of `iteration` = 0, 1, .. ; the first replaces all of it.

    (1 - 1/(i+1))^(gamma+1), as upstream counts (cosmos-predict1, PowerEMATracker).
    """
    return float((1 - 1 / (iteration + 1)) ** (ema_gamma(width) + 1))


class PowerEMA:
    """float32 averages of parameters, by name, on their devices; those of DTensors are DTensors of the same pieces.

    averages: what a checkpoint holds; to resume, copy the saved ones into them and go on counting iterations.
    """

    def __init__(self, parameters: Mapping[str, Tensor], width: float) -> None:
        self.parameters = parameters
        self.width = width
        self.averages = {name: value.detach().float().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """After the optimizer's step of `iteration` (0-based): average = beta * average + (1 - beta) * parameter."""
        beta = ema_beta(iteration, self.width)
        averages = [local(average) for average in self.averages.values()]
        torch._foreach_lerp_(averages, [local(self.parameters[name]).float() for name in self.averages], 1 - beta)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges averages and parameters, exactly; again, and all is as before. Takes one tensor's memory."""
        for name, average in self.averages.items():
            here, there = local(average), local(self.parameters[name])
            kept = there.clone()
            there.copy_(here)
            here.copy_(kept)
