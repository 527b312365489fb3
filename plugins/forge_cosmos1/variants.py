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


def parameter_shapes(config: DiTConfig) -> dict[str, tuple[int, ...]]:
    """Of every parameter of `video2world.Network`, by name."""
    width, text, low = config.model_channels, config.crossattn_emb_channels, config.adaln_lora_dim
    hidden, head = int(width * config.mlp_ratio), width // config.num_heads
    shapes: dict[str, tuple[int, ...]] = {
        "net.x_embedder.proj.1.weight": (width, config.in_channels * PATCH**2),
        "net.t_embedder.1.linear_1.weight": (width, width),
        "net.t_embedder.1.linear_2.weight": (3 * width, width),
        "net.affline_norm.weight": (width,),
        "net.final_layer.linear.weight": (config.latent_channels * PATCH**2, width),
        "net.final_layer.adaLN_modulation.1.weight": (low, width),
        "net.final_layer.adaLN_modulation.2.weight": (2 * width, low),
        "logvar.1.weight": (1, 128),
    }
    for axis, size in zip("thw", (config.max_size[0], *(size // PATCH for size in config.max_size[1:])), strict=True):
        shapes[f"net.extra_pos_embedder.pos_emb_{axis}"] = (size, width)
    for block in range(config.num_blocks):
        for part in range(3):
            name = f"net.blocks.block{block}.blocks.{part}"
            shapes[f"{name}.adaLN_modulation.1.weight"] = (low, width)
            shapes[f"{name}.adaLN_modulation.2.weight"] = (3 * width, low)
            if part == 2:
                shapes[f"{name}.block.layer1.weight"] = (hidden, width)
                shapes[f"{name}.block.layer2.weight"] = (width, hidden)
                continue
            for x, seen in (("q", width), ("k", (width, text)[part]), ("v", (width, text)[part]), ("out", width)):
                shapes[f"{name}.block.attn.to_{x}.0.weight"] = (width, seen)
            for x in "qk":
                shapes[f"{name}.block.attn.to_{x}.1.weight"] = (head,)
    return shapes
