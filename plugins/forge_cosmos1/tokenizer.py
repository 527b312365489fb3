"""The latent tokenizer `cosmos-cv8x8x8`: the autoencoder with its weights, and latents normalised to unit deviation.

Source: the reference's `diffusion/module/pretrained_vae.py`. Upstream: mean and std are rounded to bfloat16; here the
normalisation is float32.

Shape suffixes: B batch, C channels, T time, H height, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from forge_cosmos1.tokenizer_network import Autoencoder
from forge_cosmos1.tokenizer_options import COMPRESSION, PUBLISHED, TokenizerOptions, latent_length
from forge_cosmos1.tokenizer_weights import load_state, read_statistics, read_weights

if TYPE_CHECKING:
    from cosmos_forge import Context

# Latent pixels that pass through the network together: two frames of 704x1280. Fewer need less memory.
POSITIONS_AT_ONCE = 2 * 88 * 160


class CosmosTokenizer:
    """Latents of shape (16, 1 + (T-1)/8, H/8, W/8); a clip longer than `chunk_frames` is many clips end to end."""

    def __init__(self, options: TokenizerOptions, context: Context) -> None:
        self.options = options
        self.device, self.dtype = context.device, context.dtype
        folder = context.files(PUBLISHED) if options.weights is None else context.resolve(options.weights)
        state = read_weights(folder)
        first = state.get("encoder.conv_in.0.conv3d.weight")
        with torch.device("meta"):
            self.net = Autoencoder() if first is None else Autoencoder(len(first))
        load_state(self.net, state, folder)
        self.net.to(self.device, self.dtype).eval().requires_grad_(False)
        self.statistics = read_statistics(folder, latent_length(options.chunk_frames))
        self.picture_statistics = read_statistics(folder, 1, pictures=True) if options.single_pictures else None

    @torch.no_grad()
    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """RGB in [-1, 1] -> latents in the context's dtype. Raises ValueError where the shape does not fit."""
        self.options.latent_shape(*video_BCTHW.shape[2:])
        at_once = self._at_once(len(video_BCTHW), *(size // COMPRESSION for size in video_BCTHW.shape[3:]))
        latents = []
        for chunk_BCTHW in video_BCTHW.split(self.options.chunk_frames, dim=2):
            mean, std = self._mean_std(latent_length(chunk_BCTHW.shape[2]))
            raw_BCTHW = self.net.encode(chunk_BCTHW.to(self.device, self.dtype), at_once)
            latents.append((raw_BCTHW.float() - mean) / std)
        return torch.cat(latents, dim=2).to(self.dtype)

    @torch.no_grad()
    def decode(self, latents_BCTHW: Tensor) -> Tensor:
        """Latents -> RGB about [-1, 1], float32."""
        at_once = self._at_once(*latents_BCTHW[:, 0, 0].shape)
        video = []
        for chunk_BCTHW in latents_BCTHW.split(latent_length(self.options.chunk_frames), dim=2):
            mean, std = self._mean_std(chunk_BCTHW.shape[2])
            raw_BCTHW = chunk_BCTHW.to(self.device, torch.float32) * std + mean
            video.append(self.net.decode(raw_BCTHW.to(self.dtype), at_once).float())
        return torch.cat(video, dim=2)

    def _at_once(self, batch: int, height: int, width: int) -> int:
        """How many latent frames of that many latent pixels to compute together."""
        return max(1, POSITIONS_AT_ONCE // (batch * height * width))

    def _mean_std(self, latent_frames: int) -> tuple[Tensor, Tensor]:
        """Of a chunk's latents, to be broadcast over (C, T, H, W)."""
        statistics = self.statistics
        if latent_frames == 1 and self.picture_statistics:
            statistics = self.picture_statistics
        mean, std = (
            values_CT[:, :latent_frames, None, None].to(self.device)
            for values_CT in (statistics.mean_CT, statistics.std_CT)
        )
        return mean, std
