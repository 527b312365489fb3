"""A rough picture of a video in the making, without the tokenizer, which is not in memory beside the network.

Colours are taken as a linear function of a latent's channels, fitted by least squares to the first given frame and its
own latents. So it knows no tokenizer, costs nothing to speak of, and shows where things are, not how sharp.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cosmos_forge.files import atomic
from cosmos_forge.kinds import Denoiser

SECONDS = 10.0  # between two pictures; what is done sooner has none
FRAMES = 8  # at most side by side
WIDTH = 120  # pixels of one at least


class Preview:
    """Paints `path` (PNG). read: the given frames, as in `Job`. known: their latents. unit: what divides a denoiser's
    estimate to make latents of it."""

    def __init__(
        self, path: Path, read: Callable[[], Tensor], known_BCTHW: Tensor, unit: float, seconds: float = SECONDS
    ) -> None:
        self.path, self.read, self.known, self.unit, self.seconds = path, read, known_BCTHW, unit, seconds
        self.colours: Tensor | None = None
        self.latest: Tensor | None = None
        self.painted = time.monotonic()

    def watch(self, denoise: Denoiser) -> Denoiser:
        """The denoiser, of which the latest estimate is kept."""
        return _Watched(denoise, self)

    def step(self) -> bool:
        """Paints the latest estimate if it is time to; whether this is the first picture."""
        if self.latest is None or time.monotonic() - self.painted < self.seconds:
            return False
        first = self.colours is None
        if self.colours is None:
            self.colours = fit(self.read()[:, 0], self.known[0, :, 0])
        latents_CTHW = self.latest[0].float().cpu() / self.unit
        with atomic(self.path) as temporary:
            paint(latents_CTHW, self.colours).save(temporary)
        self.painted = time.monotonic()
        return first


@dataclass(frozen=True)
class _Watched:
    """See `kinds.Denoiser`."""

    denoise: Denoiser
    preview: Preview

    def __call__(self, x_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
        self.preview.latest = self.denoise(x_BCTHW, sigma_B)
        return self.preview.latest

    def impose(self, x_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
        return self.denoise.impose(x_BCTHW, sigma_B)


def fit(pixels_CHW: Tensor, latents_CHW: Tensor) -> Tensor:
    """Latent channels and a constant -> RGB, (C + 1, 3), from one frame (-1 to 1) and its latents."""
    small_CHW = F.interpolate(pixels_CHW[None].float(), latents_CHW.shape[1:], mode="area")[0]
    # torch's default driver, gelsy, begins with columns that uninitialised memory names: where latents are of less than
    # full rank, as those of a still frame may be, it finds now this and now that.
    return torch.linalg.lstsq(_with_constant(latents_CHW), small_CHW.flatten(1).T, driver="gelsd").solution


def paint(latents_CTHW: Tensor, colours: Tensor) -> Image.Image:
    """Up to eight frames, evenly over the video, side by side."""
    _, frames, height, width = latents_CTHW.shape
    chosen = sorted({round(place) for place in torch.linspace(0, frames - 1, FRAMES).tolist()})
    pictures = []
    for frame in chosen:
        pixels_HWC = (_with_constant(latents_CTHW[:, frame]) @ colours).view(height, width, 3)
        pixels_HWC = ((pixels_HWC + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        pictures.append(Image.fromarray(pixels_HWC.numpy()))
    scale = -(-WIDTH // width)
    strip = Image.new("RGB", (scale * width * len(pictures), scale * height))
    for place, picture in enumerate(pictures):
        strip.paste(picture.resize((scale * width, scale * height)), (place * scale * width, 0))
    return strip


def _with_constant(latents_CHW: Tensor) -> Tensor:
    """(pixels, C + 1), float32."""
    flat = latents_CHW.flatten(1).T.float()
    return torch.cat([flat, torch.ones(len(flat), 1)], dim=1)
