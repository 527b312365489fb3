"""How pixels, places and noise levels enter the diffusion transformer. In brackets: the reference's class.

Shape suffixes: B batch, C channels, T frames, H rows, W columns (of tokens, where a grid is meant), L video tokens
(T * H * W, time slowest), D model width, N heads, E width of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from forge_cosmos1.variants import PATCH, DiTConfig

EPS = 1e-6  # of every norm in the network
BASE_FPS = 24  # frame rate at which rotary time positions are 0, 1, 2, ..


def padding_channel(padding_mask_B1HW: Tensor | None, x_BCTHW: Tensor) -> Tensor:
    """The mask brought to the latents' grid by nearest neighbour, the same in every frame: B1THW."""
    B, _, T, H, W = x_BCTHW.shape
    if padding_mask_B1HW is None:
        return x_BCTHW.new_zeros(B, 1, T, H, W)
    mask_B1HW = F.interpolate(padding_mask_B1HW.to(x_BCTHW), size=(H, W), mode="nearest")
    return mask_B1HW[:, :, None].expand(B, 1, T, H, W)


class PatchEmbedding(nn.Module):
    """Patches of 1 x 2 x 2 latent pixels to tokens: BCTHW -> BTHWD."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        patches = Rearrange("B C T (H h) (W w) -> B T H W (C h w)", h=PATCH, w=PATCH)
        self.proj = nn.Sequential(patches, nn.Linear(channels * PATCH**2, width, bias=False))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.proj(x_BCTHW)


class RotaryEmbedding(nn.Module):
    """Rotary position embedding over time, height and width, NTK-stretched (`VideoRopePosition3DEmb`).

    Each axis has a part of the angles of its own; time is measured in frames at 24 frames a second.
    """

    seq: Tensor

    def __init__(self, config: DiTConfig, length: int) -> None:
        super().__init__()
        # Not arange, which on the meta device imports the compiler, for most of a second.
        self.register_buffer("seq", torch.tensor(range(length), dtype=torch.float32))
        self.precision, head = config.rope_precision, config.model_channels // config.num_heads
        side = head // 6 * 2
        self.widths = (head - 2 * side, side, side)
        self.thetas = tuple(
            10000.0 * ratio ** (width / (width - 2))
            for ratio, width in zip(config.rope_ratio, self.widths, strict=True)
        )

    def forward(self, grid: torch.Size, fps_B: Tensor, dtype: torch.dtype) -> Tensor:
        """Cosine and sine of each token's E/2 angles: 2BL1E, float32, the last axis E/2 wide.

        The reference computes angles in bfloat16, because converting a module converts its tables too; that moves
        them by up to 0.15 rad, and the published weights were trained with it.
        """
        dtype = {"auto": dtype, "bf16": torch.bfloat16, "fp32": torch.float32}[self.precision]
        T, H, W = grid
        seq = self.seq.to(dtype)
        frames_BT = seq[:T] / fps_B[:, None].to(dtype) * BASE_FPS
        t, h, w = (self._frequencies(axis, dtype) for axis in range(3))
        angles_BTHWE = torch.cat(
            [
                (frames_BT[:, :, None] * t)[:, :, None, None].expand(-1, -1, H, W, -1),
                (seq[:H, None] * h)[None, None, :, None].expand(len(frames_BT), T, -1, W, -1),
                (seq[:W, None] * w)[None, None, None].expand(len(frames_BT), T, H, -1, -1),
            ],
            dim=-1,
        )
        angles_BLE = angles_BTHWE.flatten(1, 3).float()
        return torch.stack([angles_BLE.cos(), angles_BLE.sin()])[:, :, :, None]

    def _frequencies(self, axis: int, dtype: torch.dtype) -> Tensor:
        width = self.widths[axis]
        exponents = torch.arange(0, width, 2, dtype=torch.float32, device=self.seq.device) / width
        return 1.0 / self.thetas[axis] ** exponents.to(dtype)


def rotate(x_BLNE: Tensor, rotation_2BL1E: Tensor) -> Tensor:
    """Turns element i of a head together with element i + E/2; float32 inside."""
    cos, sin = rotation_2BL1E
    first, second = x_BLNE.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x_BLNE)


class PositionEmbedding(nn.Module):
    """Learnable absolute position embedding, brought to unit RMS (`LearnableEmbAxis`)."""

    def __init__(self, grid: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.pos_emb_t, self.pos_emb_h, self.pos_emb_w = (nn.Parameter(torch.zeros(size, width)) for size in grid)

    def forward(self, grid: torch.Size) -> Tensor:
        """LD, in the dtype of the tables."""
        T, H, W = grid
        t_TD, h_HD, w_WD = self.pos_emb_t[:T], self.pos_emb_h[:H], self.pos_emb_w[:W]
        sum_LD = (t_TD[:, None, None] + h_HD[:, None] + w_WD).flatten(0, 2)
        norm_L1 = torch.linalg.vector_norm(sum_LD, dim=-1, keepdim=True, dtype=torch.float32)
        return sum_LD / (EPS + norm_L1 / math.sqrt(sum_LD.shape[-1])).to(sum_LD)


class Sinusoid(nn.Module):
    """Cosines, then sines of the noise level at geometrically spaced frequencies: B -> BD, float32 (`Timesteps`)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, c_noise_B: Tensor) -> Tensor:
        half = self.width // 2
        exponents = torch.arange(half, dtype=torch.float32, device=c_noise_B.device) / half
        angles = c_noise_B.float()[:, None] * torch.exp(-math.log(10000) * exponents)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """BD -> B(3D): what all modulations share. The sinusoid itself is what drives them (`TimestepEmbedding`)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, width, bias=False)
        self.linear_2 = nn.Linear(width, 3 * width, bias=False)

    def forward(self, sinusoid_BD: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(sinusoid_BD)))
