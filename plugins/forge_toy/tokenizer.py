"""A latent tokenizer without weights: colour is rotated, then everything is resampled by cosine transform.

Resampling n points to m keeps the m lowest frequencies of the orthonormal DCT-II over n points and goes back with the
DCT over m points. Its rows are orthonormal, so the transpose is both the inverse and the best reconstruction, and white
noise stays white. A latent pixel holds, for 8 frames of 4x4 pixels: lightness of every frame (8 channels) and two
colour differences at half the frame rate (4 channels each).

Shape suffixes: B batch, C channels, T time, H height, W width, L latent time, F frames of one latent, K colour axes,
M points kept of N.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from forge_toy.plugin import FRAMES_A_LATENT, LATENT_CHANNELS, PIXELS_A_LATENT, ToyTokenizerOptions

if TYPE_CHECKING:
    from cosmos_forge import Context

# Orthonormal axes of RGB: lightness, red against blue, green against both. The first carries most of a picture.
AXES_KC = (
    (1 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3)),
    (1 / math.sqrt(2), 0.0, -1 / math.sqrt(2)),
    (-1 / math.sqrt(6), 2 / math.sqrt(6), -1 / math.sqrt(6)),
)
KEPT_K = (8, 4, 4)  # of 8 points in time, for each axis
# Of latents before normalising, over 64 clips of `toy-physics` with its defaults.
MEAN_K = (-4.43, -0.23, -0.14)
STD_K = (1.27, 1.12, 0.60)


def resampling(points: int, kept: int, device: torch.device) -> Tensor:
    """Matrix MN from `points` to `kept` points, its rows orthonormal; float32."""
    return dct(kept, device).T @ dct(points, device)[:kept]


def dct(points: int, device: torch.device) -> Tensor:
    """Orthonormal DCT-II (Ahmed, Natarajan and Rao 1974), square, float32."""
    n = torch.arange(points, device=device, dtype=torch.float32)
    matrix = torch.cos(math.pi / points * (n + 0.5) * n[:, None]) * math.sqrt(2 / points)
    matrix[0] = math.sqrt(1 / points)
    return matrix


class ToyTokenizer:
    """Latents of shape (16, 1 + (T-1)/8, H/4, W/4); latent 0 is frame 0 as if it stood still for 8 frames."""

    def __init__(self, options: ToyTokenizerOptions, context: Context) -> None:
        self.options = options
        self.device, self.dtype = context.device, context.dtype
        self.axes_KC = torch.tensor(AXES_KC, device=self.device)
        self.time_MN = [resampling(FRAMES_A_LATENT, kept, self.device) for kept in KEPT_K]

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """RGB in [-1, 1] -> latents in the context's dtype. Raises ValueError where the shape does not fit."""
        self.options.latent_shape(*video_BCTHW.shape[2:])
        video_BCTHW = video_BCTHW.to(self.device, torch.float32)
        still_BCTHW = video_BCTHW[:, :, :1].expand(-1, -1, FRAMES_A_LATENT - 1, -1, -1)
        axes_BKTHW = torch.einsum("kc,bcthw->bkthw", self.axes_KC, torch.cat([still_BCTHW, video_BCTHW], dim=2))
        rows, columns = self._space(*(size // PIXELS_A_LATENT for size in video_BCTHW.shape[3:]))
        axes_BKLFHW = (rows @ axes_BKTHW @ columns.T).unflatten(2, (-1, FRAMES_A_LATENT))
        parts = [
            (torch.einsum("mf,blfhw->bmlhw", self.time_MN[k], axes_BKLFHW[:, k]) - MEAN_K[k]) / STD_K[k]
            for k in range(len(KEPT_K))
        ]
        return torch.cat(parts, dim=1).to(self.dtype)

    def decode(self, latents_BCTHW: Tensor) -> Tensor:
        """Latents -> RGB about [-1, 1], float32."""
        if latents_BCTHW.shape[1] != LATENT_CHANNELS:
            raise ValueError(f"expected {LATENT_CHANNELS} channels of latents, got {latents_BCTHW.shape[1]}")
        parts = latents_BCTHW.to(self.device, torch.float32).split(KEPT_K, dim=1)
        axes_BKLFHW = torch.stack(
            [
                torch.einsum("mf,bmlhw->blfhw", self.time_MN[k], part * STD_K[k] + MEAN_K[k])
                for k, part in enumerate(parts)
            ],
            dim=1,
        )
        axes_BKTHW = axes_BKLFHW.flatten(2, 3)
        first_BKTHW = axes_BKTHW[:, :, :FRAMES_A_LATENT].mean(dim=2, keepdim=True)
        axes_BKTHW = torch.cat([first_BKTHW, axes_BKTHW[:, :, FRAMES_A_LATENT:]], dim=2)
        rows, columns = self._space(*axes_BKTHW.shape[3:])
        return torch.einsum("kc,bkthw->bcthw", self.axes_KC, rows.T @ axes_BKTHW @ columns)

    def _space(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Matrices MN that take rows and columns of pixels to `height` and `width` latents."""
        return (
            resampling(height * PIXELS_A_LATENT, height, self.device),
            resampling(width * PIXELS_A_LATENT, width, self.device),
        )
