"""Video to latents by rearranging pixels.

Shape suffixes: B batch, C channels, T time, H height, W width.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from cosmos_forge import Context
from new_plugin.plugin import FRAMES, NewPluginOptions

SCALE = 2.0  # pixels in [-1, 1] of natural video deviate by about a half; latents should by about 1


class NewPlugin:
    """See `cosmos_forge.kinds.LatentTokenizer`. Causal: latent 0 is frame 0, as if it had stood still before."""

    def __init__(self, options: NewPluginOptions, context: Context) -> None:
        self.options, self.context = options, context

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """RGB in [-1, 1] -> latents in the context's dtype. Raises ValueError where the shape does not fit."""
        self.options.latent_shape(*video_BCTHW.shape[2:])
        still_BCTHW = video_BCTHW[:, :, :1].expand(-1, -1, FRAMES - 1, -1, -1)
        video_BCTHW = torch.cat([still_BCTHW, video_BCTHW], dim=2).to(self.context.device, torch.float32) * SCALE
        patch = self.options.patch
        latents_BCTHW = rearrange(video_BCTHW, "b c (t f) (h p) (w q) -> b (c f p q) t h w", f=FRAMES, p=patch, q=patch)
        return latents_BCTHW.to(self.context.dtype)

    def decode(self, latents_BCTHW: Tensor) -> Tensor:
        """Latents -> RGB, float32, as many frames as were encoded."""
        patch = self.options.patch
        video_BCTHW = rearrange(
            latents_BCTHW.float() / SCALE, "b (c f p q) t h w -> b c (t f) (h p) (w q)", f=FRAMES, p=patch, q=patch
        )
        return video_BCTHW[:, :, FRAMES - 1 :]
