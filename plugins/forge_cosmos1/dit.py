"""The diffusion transformer of Cosmos-Predict1, in plain torch.

    net = DiT(VARIANTS["tiny"])

Module names are chosen so that `state_dict` has the reference's keys (of its `GeneralDIT` and `VideoExtendGeneralDIT`);
that explains a level of nesting here and there. In brackets: the reference's class. Arithmetic is done in the dtype of
the input, as there; only rotation, sines and norms are float32 inside.

Shape suffixes: B batch, C channels, T latent frames, H latent rows, W latent columns, L video tokens (T * H/2 * W/2,
time slowest), M text tokens, D model width (of text: its own), N heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from forge_cosmos1.embeddings import (
    EPS,
    PatchEmbedding,
    PositionEmbedding,
    RotaryEmbedding,
    Sinusoid,
    TimeEmbedding,
    padding_channel,
    rotate,
)
from forge_cosmos1.variants import PATCH, VARIANTS, DiTConfig

__all__ = ["VARIANTS", "DiT", "DiTConfig"]
Along = Callable[[Tensor, int], Tensor]
Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


class DiT(nn.Module):
    """F(c_in * x, c_noise): the network inside EDM's preconditioning."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        width, (frames, rows, columns) = config.model_channels, config.max_size
        grid = (frames, rows // PATCH, columns // PATCH)
        self.x_embedder = PatchEmbedding(config.in_channels, width)
        self.pos_embedder = RotaryEmbedding(config, max(grid))
        if config.extra_per_block_abs_pos_emb:
            self.extra_pos_embedder = PositionEmbedding(grid, width)
        self.t_embedder = nn.Sequential(Sinusoid(width), TimeEmbedding(width))
        self.blocks = nn.ModuleDict({f"block{index}": Block(config) for index in range(config.num_blocks)})
        self.final_layer = FinalLayer(config)
        if config.add_augment_sigma_embedding:
            self.augment_sigma_embedder = nn.Sequential(Sinusoid(width), TimeEmbedding(width))
        self.affline_norm = nn.RMSNorm(width, eps=EPS)
        self.split: Along = whole
        self.join: Along = whole

    def share_sequence(self, split: Along, join: Along, attention: Callable[[Kernel], Kernel]) -> None:
        """From now on the blocks work on the part of the tokens that `split` leaves, between attentions."""
        self.split, self.join = split, join
        for module in self.modules():
            if isinstance(module, SelfAttention):
                module.attn.attention = attention(module.attn.attention)

    def forward(
        self,
        x_BCTHW: Tensor,
        c_noise_B: Tensor,
        text_BMD: Tensor,
        fps_B: Tensor,
        condition_mask_B1THW: Tensor | None = None,
        padding_mask_B1HW: Tensor | None = None,
        augment_c_noise_B: Tensor | None = None,
    ) -> Tensor:
        """x: noisy latents times c_in. c_noise: ln(sigma) / 4. text: zeros where there is none. fps: frames a second.

        condition_mask: 1 on given frames (only if the config has it). padding_mask: 1 on padding, at any resolution;
        None is none. Returns F_BCTHW. H and W must be even, and the token grid within the config's max_size.
        """
        mask = [] if condition_mask_B1THW is None else [condition_mask_B1THW.to(x_BCTHW)]
        channels = [x_BCTHW, *mask, padding_channel(padding_mask_B1HW, x_BCTHW)]
        x_BTHWD = self.x_embedder(torch.cat(channels, dim=1))
        grid = x_BTHWD.shape[1:4]
        x_BLD = self.split(x_BTHWD.flatten(1, 3), 1)

        rotation_2BL1E = self.split(self.pos_embedder(grid, fps_B, x_BLD.dtype), 2)
        position_LD = None
        if self.config.extra_per_block_abs_pos_emb:
            position_LD = self.split(self.extra_pos_embedder(grid).to(x_BLD), 0)
        time_BD = self.t_embedder[0](c_noise_B).to(x_BLD)
        shared_B3D = self.t_embedder[1](time_BD)
        if augment_c_noise_B is not None:
            time_BD = time_BD + self.augment_sigma_embedder[0](augment_c_noise_B).to(x_BLD)
        time_BD = self.affline_norm(time_BD)

        text_BMD = text_BMD.to(x_BLD)
        for block in self.blocks.values():
            x_BLD = block(x_BLD, position_LD, time_BD, shared_B3D, text_BMD, rotation_2BL1E)
        return self._unpatchify(self.join(self.final_layer(x_BLD, time_BD, shared_B3D), 1), grid)

    def _unpatchify(self, x_BLC: Tensor, grid: torch.Size) -> Tensor:
        """Not the patch embedding's inverse: here the channel is the fastest index, there the slowest."""
        T, H, W = grid
        return rearrange(x_BLC, "B (T H W) (h w C) -> B C T (H h) (W w)", T=T, H=H, W=W, h=PATCH, w=PATCH)


def whole(x: Tensor, dim: int) -> Tensor:
    """x, where no other process has any of the tokens."""
    return x


class Block(nn.Module):
    """Self-attention, cross-attention and MLP, each modulated by the noise level (`GeneralDITTransformerBlock`)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        kinds = (SelfAttention, CrossAttention, MLP)
        self.blocks = nn.ModuleList(SubBlock(config, kind(config)) for kind in kinds)

    def forward(
        self,
        x_BLD: Tensor,
        position_LD: Tensor | None,
        time_BD: Tensor,
        shared_B3D: Tensor,
        text_BMD: Tensor,
        rotation_2BL1E: Tensor,
    ) -> Tensor:
        """The residual stream after the block. The position embedding is added before every block."""
        if position_LD is not None:
            x_BLD = x_BLD + position_LD
        x_BLD = self.blocks[0](x_BLD, time_BD, shared_B3D, rotation_2BL1E)
        x_BLD = self.blocks[1](x_BLD, time_BD, shared_B3D, text_BMD)
        return self.blocks[2](x_BLD, time_BD, shared_B3D)


class SubBlock(nn.Module):
    """x + gate * f(LN(x) * (1 + scale) + shift) (`DITBuildingBlock`)."""

    def __init__(self, config: DiTConfig, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.adaLN_modulation = modulation(config, 3)

    def forward(self, x_BLD: Tensor, time_BD: Tensor, shared_B3D: Tensor, *context: Tensor) -> Tensor:
        shift, scale, gate = (self.adaLN_modulation(time_BD) + shared_B3D)[:, None].chunk(3, dim=-1)
        return x_BLD + gate * self.block(modulate(x_BLD, shift, scale), *context)


class FinalLayer(nn.Module):
    """Modulated norm and projection to patches of 2 x 2 latent pixels: BLD -> BL(2 * 2 * C)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.model_channels, PATCH**2 * config.latent_channels, bias=False)
        self.adaLN_modulation = modulation(config, 2)

    def forward(self, x_BLD: Tensor, time_BD: Tensor, shared_B3D: Tensor) -> Tensor:
        own_B2D = self.adaLN_modulation(time_BD)
        shift, scale = (own_B2D + shared_B3D[:, : own_B2D.shape[1]])[:, None].chunk(2, dim=-1)
        return self.linear(modulate(x_BLD, shift, scale))


def modulation(config: DiTConfig, chunks: int) -> nn.Sequential:
    """The adaLN-LoRA of a sub-block: BD -> B(chunks * D), through a narrow middle."""
    width, narrow = config.model_channels, config.adaln_lora_dim
    return nn.Sequential(nn.SiLU(), nn.Linear(width, narrow, bias=False), nn.Linear(narrow, chunks * width, bias=False))


def modulate(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> Tensor:
    return F.layer_norm(x_BLD, x_BLD.shape[-1:], eps=EPS) * (1 + scale_B1D) + shift_B1D


def attention(q_BNLE: Tensor, k_BNME: Tensor, v_BNME: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(E)) v, every query over every key: BNLE.

    torch chooses the kernel: on Hopper cuDNN's, which is nearly twice as fast as FlashAttention-2, if cuDNN is newer
    than 9.15; torch 2.11 and later bring such a one.
    """
    return F.scaled_dot_product_attention(q_BNLE, k_BNME, v_BNME)


class Attention(nn.Module):
    """Multi-head attention with RMS-normalised queries and keys.

    `attention` may be replaced, by one that sees the tokens of other processes as well, for instance.
    """

    attention: Kernel

    def __init__(self, width: int, context_width: int, num_heads: int) -> None:
        super().__init__()
        self.attention, self.head_width = attention, width // num_heads
        self.to_q = nn.Sequential(nn.Linear(width, width, bias=False), nn.RMSNorm(self.head_width, eps=EPS))
        self.to_k = nn.Sequential(nn.Linear(context_width, width, bias=False), nn.RMSNorm(self.head_width, eps=EPS))
        self.to_v = nn.Sequential(nn.Linear(context_width, width, bias=False))
        self.to_out = nn.Sequential(nn.Linear(width, width, bias=False))

    def forward(self, x_BLD: Tensor, context_BMD: Tensor, rotation_2BL1E: Tensor | None = None) -> Tensor:
        q_BLNE = self.to_q[1](self._heads(self.to_q[0](x_BLD)))
        k_BMNE = self.to_k[1](self._heads(self.to_k[0](context_BMD)))
        v_BMNE = self._heads(self.to_v[0](context_BMD))
        if rotation_2BL1E is not None:
            q_BLNE, k_BMNE = rotate(q_BLNE, rotation_2BL1E), rotate(k_BMNE, rotation_2BL1E)
        out_BNLE = self.attention(q_BLNE.transpose(1, 2), k_BMNE.transpose(1, 2), v_BMNE.transpose(1, 2))
        return self.to_out[0](out_BNLE.transpose(1, 2).flatten(2))

    def _heads(self, x_BLD: Tensor) -> Tensor:
        return x_BLD.unflatten(-1, (-1, self.head_width))


class SelfAttention(nn.Module):
    """Every video token over every other, with rotary positions."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.attn = Attention(config.model_channels, config.model_channels, config.num_heads)

    def forward(self, x_BLD: Tensor, rotation_2BL1E: Tensor) -> Tensor:
        return self.attn(x_BLD, x_BLD, rotation_2BL1E)


class CrossAttention(nn.Module):
    """Every video token over every row of the text, padding included: the network was trained without a mask."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.attn = Attention(config.model_channels, config.crossattn_emb_channels, config.num_heads)

    def forward(self, x_BLD: Tensor, text_BMD: Tensor) -> Tensor:
        return self.attn(x_BLD, text_BMD)


class MLP(nn.Module):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        hidden = int(config.model_channels * config.mlp_ratio)
        self.layer1 = nn.Linear(config.model_channels, hidden, bias=False)
        self.layer2 = nn.Linear(hidden, config.model_channels, bias=False)

    def forward(self, x_BLD: Tensor) -> Tensor:
        return self.layer2(F.gelu(self.layer1(x_BLD)))
