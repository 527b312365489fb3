"""The network, plain torch.

Shape suffixes: B batch, C channels, T latent frames, H latent rows, W latent columns, L text tokens, D width of one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """x + conv(silu(norm(x) * (1 + scale) + shift)); scale and shift follow from noise level and text."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.modulate = nn.Linear(width, 2 * width)
        self.conv = nn.Conv3d(width, width, kernel_size=3, padding=1)

    def forward(self, x_BDTHW: Tensor, condition_BD: Tensor) -> Tensor:
        scale, shift = self.modulate(condition_BD)[:, :, None, None, None].chunk(2, dim=1)
        return x_BDTHW + self.conv(F.silu(self.norm(x_BDTHW) * (1 + scale) + shift))


class Network(nn.Module):
    """F of EDM's preconditioning."""

    def __init__(self, channels: int, text_width: int, width: int, num_blocks: int) -> None:
        super().__init__()
        self.width = width
        self.embed = nn.Conv3d(channels + 1, width, kernel_size=1)
        self.noise = nn.Linear(width, width)
        self.text = nn.Linear(text_width, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(num_blocks))
        self.head = nn.Conv3d(width, channels, kernel_size=1)

    def forward(self, x_BCTHW: Tensor, given_B1THW: Tensor, c_noise_B: Tensor, text_BLD: Tensor) -> Tensor:
        """Scaled latents, which frames are given, noise level, text (zero where masked) -> F_BCTHW, float32."""
        dtype = self.head.weight.dtype
        rates_D = torch.exp(torch.linspace(0, math.log(100), self.width, device=x_BCTHW.device))
        condition_BD = self.noise(torch.cos(c_noise_B[:, None] * rates_D + rates_D).to(dtype))
        condition_BD = condition_BD + self.text(text_BLD.mean(dim=1).to(dtype))
        x_BDTHW = self.embed(torch.cat([x_BCTHW, given_B1THW.to(x_BCTHW.dtype)], dim=1).to(dtype))
        for block in self.blocks:
            x_BDTHW = block(x_BDTHW, condition_BD)
        return self.head(x_BDTHW).float()
