"""Sizes of the published networks, and of a tiny one. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DiTConfig:
    """Architecture of the diffusion transformer; names as in the reference's `GeneralDIT` where it has them.

    condition_mask: whether a channel marks the given frames (Video2World) or there are none (Text2World).
    rope_ratio: by how much the rotary embedding is stretched in time, height and width.
    max_size: largest latent video in frames, rows and columns; it sizes the position tables.
    rope_precision: in which rotary angles are computed; auto: as the rest of the network.
    """

    model_channels: int
    num_blocks: int
    num_heads: int
    latent_channels: int = 16
    crossattn_emb_channels: int = 1024
    mlp_ratio: float = 4.0
    adaln_lora_dim: int = 256
    condition_mask: bool = True
    rope_ratio: tuple[float, float, float] = (2.0, 1.0, 1.0)
    max_size: tuple[int, int, int] = (128, 240, 240)
    extra_per_block_abs_pos_emb: bool = True
    add_augment_sigma_embedding: bool = False
    rope_precision: Literal["auto", "bf16", "fp32"] = "auto"

    @property
    def in_channels(self) -> int:
        """Latent, condition mask (if any) and padding mask."""
        return self.latent_channels + self.condition_mask + 1


PATCH = 2  # latent pixels a token covers in height and width; one latent frame in time

VARIANTS = {
    "7b-video2world": DiTConfig(4096, 28, 32),
    "7b-text2world": DiTConfig(4096, 28, 32, condition_mask=False),
    "14b-video2world": DiTConfig(5120, 36, 40, rope_ratio=(2.0, 2.0, 2.0)),
    "14b-text2world": DiTConfig(5120, 36, 40, rope_ratio=(2.0, 2.0, 2.0), condition_mask=False),
    # Small enough to be trained from scratch on two CPU cores in two minutes.
    "tiny": DiTConfig(128, 2, 4, crossattn_emb_channels=64, adaln_lora_dim=32),
}
