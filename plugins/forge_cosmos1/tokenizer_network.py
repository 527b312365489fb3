"""Encoder and decoder of the Cosmos video tokenizer CV8x8x8, in plain torch: 8 frames by 8 by 8 pixels to one latent.

    net = Autoencoder()                                  # random weights; 105,653,696 parameters
    latents_BCTHW = net.encode(video_BCTHW)              # (B, 3, 1+8k, 8h, 8w) -> (B, 16, 1+k, h, w)
    video_BCTHW = net.decode(latents_BCTHW)

Source: the reference's `tokenizer/networks/configs.py` (continuous_video_8x8x8_720p) and the factorized classes of
`tokenizer/modules/layers3d.py`. Attribute names are the reference's. Shape suffixes as in `tokenizer_layers`.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forge_cosmos1.tokenizer_layers import (
    CausalConv3d,
    Downsample,
    FactorizedConv3d,
    FrameNorm,
    Past,
    ResBlock,
    SpatialAttention,
    TemporalAttention,
    Upsample,
    patch,
    unpatch,
)

COMPRESSION = 8  # in time, height and width alike
LATENT_CHANNELS = 16
PATCH_CHANNELS = 3 * 4**3


class Level(nn.Module):
    """Residual blocks from width to width, then perhaps a change of resolution."""

    def __init__(self, *widths: int, downsample: bool = False, upsample: bool = False) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResBlock(*pair) for pair in pairwise(widths))
        self.downsample = Downsample(widths[-1]) if downsample else None
        self.upsample = Upsample(widths[-1]) if upsample else None

    def forward(self, x_BCTHW: Tensor, past: Past) -> Tensor:
        for block in self.block:
            x_BCTHW = block(x_BCTHW, past)
        for resample in (self.downsample, self.upsample):
            if resample is not None:
                x_BCTHW = resample(x_BCTHW, past)
        return x_BCTHW


class Middle(nn.Module):
    """The only attention, at the lowest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels)
        self.attn_1 = nn.ModuleList([SpatialAttention(channels), TemporalAttention(channels)])
        self.block_2 = ResBlock(channels, channels)

    def forward(self, x_BCTHW: Tensor, past: Past) -> Tensor:
        for layer in (self.block_1, *self.attn_1, self.block_2):
            x_BCTHW = layer(x_BCTHW, past)
        return x_BCTHW


class Encoder(nn.Module):
    """RGB (B, 3, 1+8k, 8h, 8w) -> (B, 16, 1+k, h, w), before `quant_conv`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c, c2, c4 = channels, 2 * channels, 4 * channels
        self.conv_in = FactorizedConv3d(PATCH_CHANNELS, c)
        self.down = nn.ModuleList([Level(c, c2, c2, downsample=True), Level(c2, c4, c4), Level(c4, c4, c4)])
        self.mid = Middle(c4)
        self.norm_out = FrameNorm(c4)
        self.conv_out = FactorizedConv3d(c4, LATENT_CHANNELS)

    def forward(self, video_BCTHW: Tensor, past: Past) -> Tensor:
        x_BCTHW = self.conv_in(patch(video_BCTHW, past), past)
        for level in self.down:
            x_BCTHW = level(x_BCTHW, past)
        x_BCTHW = self.mid(x_BCTHW, past)
        return self.conv_out(F.silu(self.norm_out(x_BCTHW)), past)


class Decoder(nn.Module):
    """The way back, after `post_quant_conv`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c2, c4 = 2 * channels, 4 * channels
        self.conv_in = FactorizedConv3d(LATENT_CHANNELS, c4)
        self.mid = Middle(c4)
        # Passed from the last to the first: the reference counts levels from the pixels.
        self.up = nn.ModuleList([Level(c4, c2, c2, c2), Level(c4, c4, c4, c4, upsample=True), Level(c4, c4, c4, c4)])
        self.norm_out = FrameNorm(c2)
        self.conv_out = FactorizedConv3d(c2, PATCH_CHANNELS)

    def forward(self, latents_BCTHW: Tensor, past: Past) -> Tensor:
        x_BCTHW = self.mid(self.conv_in(latents_BCTHW, past), past)
        for level in reversed(self.up):
            x_BCTHW = level(x_BCTHW, past)
        return unpatch(self.conv_out(F.silu(self.norm_out(x_BCTHW)), past), past)


class Autoencoder(nn.Module):
    """The whole tokenizer but for the normalisation of its latents. Nothing is drawn: equal clips, equal latents."""

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        self.encoder = Encoder(channels)
        self.quant_conv = CausalConv3d(LATENT_CHANNELS, LATENT_CHANNELS)
        self.post_quant_conv = CausalConv3d(LATENT_CHANNELS, LATENT_CHANNELS)
        self.decoder = Decoder(channels)

    def encode(self, video_BCTHW: Tensor, at_once: int | None = None) -> Tensor:
        """RGB in [-1, 1] -> latents; T = 1+8k, H and W multiples of 8.

        at_once: latent frames to compute at a time (default: all); fewer need less memory and give the same result.
        """
        frames = video_BCTHW.shape[2]
        latent_frames = 1 + (frames - 1) // COMPRESSION
        step = COMPRESSION * (at_once or latent_frames)
        ends = [*range(1 + step - COMPRESSION, frames, step), frames]
        past, latents = Past(), []
        for start, end in pairwise([0, *ends]):
            latents.append(self.quant_conv(self.encoder(video_BCTHW[:, :, start:end], past), past))
            past.beginning = False
        return torch.cat(latents, dim=2)

    def decode(self, latents_BCTHW: Tensor, at_once: int | None = None) -> Tensor:
        """Latents -> RGB, about [-1, 1]. at_once: as in `encode`."""
        past, video = Past(), []
        for piece_BCTHW in latents_BCTHW.split(at_once or latents_BCTHW.shape[2], dim=2):
            video.append(self.decoder(self.post_quant_conv(piece_BCTHW, past), past))
            past.beginning = False
        return torch.cat(video, dim=2)
