"""Layers of the Cosmos video tokenizer: causal in time, so a clip may pass through them piece by piece.

Every layer is called as `layer(x_BCTHW, past)`. `past` remembers what later frames need to know of earlier ones, which
makes the pieces' results, put together, those of the whole clip.

Attribute names are the reference's, so that its weights load by name (`tokenizer/modules/layers3d.py`, `patching.py`).
Shape suffixes: B batch, C channels, T time, H height, W width, N subbands.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Past:
    """The memory of one clip on its way through one encoder or decoder.

    beginning: whether the piece under way is the clip's first; whoever feeds the pieces sets it to false afterwards.
    """

    def __init__(self) -> None:
        self.beginning = True
        self._kept: dict[nn.Module, Tensor] = {}

    def prepend(self, layer: nn.Module, x_BCTHW: Tensor, frames: int) -> Tensor:
        """`x` behind the `frames` frames before it, for which copies of its first stand in at the beginning."""
        before = x_BCTHW[:, :, :1].expand(-1, -1, frames, -1, -1) if self.beginning else self._kept[layer]
        x_BCTHW = torch.cat([before, x_BCTHW], dim=2)
        self._kept[layer] = x_BCTHW[:, :, -frames:].clone()
        return x_BCTHW

    def gather(self, layer: nn.Module, x_BCTHW: Tensor) -> Tensor:
        """`x` behind all frames before it."""
        if not self.beginning:
            x_BCTHW = torch.cat([self._kept[layer], x_BCTHW], dim=2)
        self._kept[layer] = x_BCTHW
        return x_BCTHW


def haar_matrix(like: Tensor) -> Tensor:
    """What a 2x2x2 cube (t h w) contributes to its 8 subbands LLL, LLH, LHL, .. HHH (time, height, width): +1 or -1.

    Symmetric, and 8 times its own inverse.
    """
    pair = like.new_tensor([[1.0, 1.0], [1.0, -1.0]])
    return torch.kron(pair, torch.kron(pair, pair))


def patch(x_BCTHW: Tensor, past: Past) -> Tensor:
    """Two rounds of a Haar transform in time, height and width: T = 1+4k -> 1+k, H and W to a quarter, C to 64-fold.

    The first frame makes a group of four by itself. Lows are means, so a constant keeps its value.
    """
    if past.beginning:
        x_BCTHW = torch.cat([x_BCTHW[:, :, :1].expand(-1, -1, 3, -1, -1), x_BCTHW], dim=2)
    haar_NN = haar_matrix(x_BCTHW) / 8
    for _ in range(2):
        cubes = rearrange(x_BCTHW, "b c (t i) (h j) (w k) -> b (i j k) c t h w", i=2, j=2, k=2)
        x_BCTHW = torch.einsum("nm,bmcthw->bncthw", haar_NN, cubes).flatten(1, 2)
    return x_BCTHW


def unpatch(x_BCTHW: Tensor, past: Past) -> Tensor:
    """The inverse of `patch`."""
    haar_NN = haar_matrix(x_BCTHW)
    for _ in range(2):
        cubes = torch.einsum("nm,bmcthw->bncthw", haar_NN, x_BCTHW.unflatten(1, (8, -1)))
        x_BCTHW = rearrange(cubes, "b (i j k) c t h w -> b c (t i) (h j) (w k)", i=2, j=2, k=2)
    return x_BCTHW[:, :, 3:] if past.beginning else x_BCTHW


class CausalConv3d(nn.Module):
    """Convolution that sees no frame to come: what pads a piece in time are the kernel - stride frames before it.

    padding: rows and columns of zeros on each of the four sides of a frame.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: tuple[int, int, int] = (1, 1, 1),
        stride: tuple[int, int, int] = (1, 1, 1),
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.frames_before = kernel[0] - stride[0]
        self.conv3d = nn.Conv3d(channels_in, channels_out, kernel, stride, (0, padding, padding))

    def forward(self, x_BCTHW: Tensor, past: Past) -> Tensor:
        if self.frames_before > 0:
            x_BCTHW = past.prepend(self, x_BCTHW, self.frames_before)
        return self.conv3d(x_BCTHW)


class FactorizedConv3d(nn.ModuleList):
    """3x3x3 in two: over each frame, then over time."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            [
                CausalConv3d(channels_in, channels_out, kernel=(1, 3, 3), padding=1),
                CausalConv3d(channels_out, channels_out, kernel=(3, 1, 1)),
            ]
        )

    def forward(self, x_BCTHW: Tensor, past: Past) -> Tensor:
        for conv in self:
            x_BCTHW = conv(x_BCTHW, past)
        return x_BCTHW


class FrameNorm(nn.Module):
    """Each frame to zero mean and unit deviation over its channels and pixels, then a gain and a bias a channel.

    In float32 at least. torch's own kernel leaves a whole frame to one of a GPU's many processors, and takes three
    times as long as all the rest of the tokenizer.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels, eps=1e-6)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        frame = (1, 3, 4)
        y_BCTHW = x_BCTHW.to(torch.promote_types(x_BCTHW.dtype, torch.float32))
        y_BCTHW = y_BCTHW - y_BCTHW.mean(frame, keepdim=True)
        y_BCTHW = y_BCTHW * (y_BCTHW.square().mean(frame, keepdim=True) + self.norm.eps).rsqrt()
        gain, bias = (values.view(-1, 1, 1, 1) for values in (self.norm.weight, self.norm.bias))
        return (y_BCTHW * gain + bias).to(x_BCTHW.dtype)


class ResBlock(nn.Module):
    """Twice norm, SiLU, convolution; added to the input."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = FrameNorm(channels_in)
        self.conv1 = FactorizedConv3d(channels_in, channels_out)
        self.norm2 = FrameNorm(channels_out)
        self.conv2 = FactorizedConv3d(channels_out, channels_out)
        self.nin_shortcut = CausalConv3d(channels_in, channels_out) if channels_in != channels_out else None

    def forward(self, x_BCTHW: Tensor, past: Past) -> Tensor:
        h_BCTHW = self.conv1(F.silu(self.norm1(x_BCTHW)), past)
        h_BCTHW = self.conv2(F.silu(self.norm2(h_BCTHW)), past)
        if self.nin_shortcut is not None:
            x_BCTHW = self.nin_shortcut(x_BCTHW, past)
        return x_BCTHW + h_BCTHW


class Attention(nn.Module):
    """One head over all channels; added to the input. Subclasses say who sees whom."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = FrameNorm(channels)
        self.q = CausalConv3d(channels, channels)
        self.k = CausalConv3d(channels, channels)
        self.v = CausalConv3d(channels, channels)
        self.proj_out = CausalConv3d(channels, channels)


class SpatialAttention(Attention):
    """Every pixel sees all pixels of its frame."""

    def forward(self, x_BCTHW: Tensor, past: Past) -> Tensor:
        b, _, _, h, w = x_BCTHW.shape
        n_BCTHW = self.norm(x_BCTHW)
        q, k, v = (
            rearrange(layer(n_BCTHW, past), "b c t h w -> (b t) 1 (h w) c") for layer in (self.q, self.k, self.v)
        )
        seen = F.scaled_dot_product_attention(q, k, v)
        return x_BCTHW + self.proj_out(rearrange(seen, "(b t) 1 (h w) c -> b c t h w", b=b, h=h, w=w), past)


class TemporalAttention(Attention):
    """Every pixel sees itself and the pixels at its place in the frames before."""

    def forward(self, x_BCTHW: Tensor, past: Past) -> Tensor:
        b, _, _, h, w = x_BCTHW.shape
        n_BCTHW = self.norm(x_BCTHW)
        q_BCTHW = self.q(n_BCTHW, past)
        k_BCTHW = past.gather(self.k, self.k(n_BCTHW, past))
        v_BCTHW = past.gather(self.v, self.v(n_BCTHW, past))
        q, k, v = (rearrange(z, "b c t h w -> (b h w) 1 t c") for z in (q_BCTHW, k_BCTHW, v_BCTHW))
        new, all_ = q.shape[2], k.shape[2]
        sees = torch.ones(new, all_, dtype=torch.bool, device=q.device).tril(all_ - new)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=sees)
        return x_BCTHW + self.proj_out(rearrange(seen, "(b h w) 1 t c -> b c t h w", b=b, h=h, w=w), past)


class Downsample(nn.Module):
    """Halves height and width, then time (1+2k -> 1+k); each by a strided convolution plus the mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = CausalConv3d(channels, channels, kernel=(1, 3, 3), stride=(1, 2, 2))
        self.conv2 = CausalConv3d(channels, channels, kernel=(3, 1, 1), stride=(2, 1, 1))
        self.conv3 = CausalConv3d(channels, channels)

    def forward(self, x_BCTHW: Tensor, past: Past) -> Tensor:
        x_BCTHW = F.pad(x_BCTHW, (0, 1, 0, 1))  # right and bottom
        x_BCTHW = self.conv1(x_BCTHW, past) + F.avg_pool3d(x_BCTHW, (1, 2, 2))
        if past.beginning:  # the first frame makes a pair by itself
            x_BCTHW = torch.cat([x_BCTHW[:, :, :1], x_BCTHW], dim=2)
        x_BCTHW = self.conv2(x_BCTHW, past) + F.avg_pool3d(x_BCTHW, (2, 1, 1))
        return self.conv3(x_BCTHW, past)


class Upsample(nn.Module):
    """Doubles time (1+k -> 1+2k), then height and width; each by repeating, plus a convolution of that."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = CausalConv3d(channels, channels, kernel=(3, 1, 1))
        self.conv2 = CausalConv3d(channels, channels, kernel=(1, 3, 3), padding=1)
        self.conv3 = CausalConv3d(channels, channels)

    def forward(self, x_BCTHW: Tensor, past: Past) -> Tensor:
        x_BCTHW = x_BCTHW.repeat_interleave(2, dim=2)
        if past.beginning:
            x_BCTHW = x_BCTHW[:, :, 1:]
        x_BCTHW = x_BCTHW + self.conv1(x_BCTHW, past)
        x_BCTHW = F.interpolate(x_BCTHW, scale_factor=(1, 2, 2), mode="nearest")
        x_BCTHW = x_BCTHW + self.conv2(x_BCTHW, past)
        return self.conv3(x_BCTHW, past)
