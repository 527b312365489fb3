"""How given frames enter the network's input, and the denoiser of inference that is made of it.

Source: the reference's `diffusion/model/model_v2w.py` (inference) and `training/models/extend_model.py`, after the
correction of June 2025: the earlier state computed the estimate of given frames wrongly.

Shape suffixes: B batch, C channels, T latent frames, H latent rows, W latent columns, M text tokens, D width of one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cosmos_forge.edm import Preconditioning
from cosmos_forge.kinds import in_turn

if TYPE_CHECKING:
    from cosmos_forge.kinds import Evaluate

UnconditionalFrames = Literal["keep", "unmask", "zero"]


def column(value_B: Tensor) -> Tensor:
    """One value a sample, shaped to go with BCTHW."""
    return value_B[:, None, None, None, None]


@dataclass(frozen=True)
class GivenFrames:
    """The first `given_B` latent frames of x0: the network sees them with noise of their own, at sigma_B."""

    x0_BCTHW: Tensor
    given_B: Tensor
    noise_BCTHW: Tensor
    sigma_B: Tensor
    edm: Preconditioning

    @classmethod
    def for_inference(cls, x0_BCTHW: Tensor, given: int, seed: int, sigma: float, edm: Preconditioning) -> GivenFrames:
        """The noise comes from numpy's legacy generator, as in the reference (`arch_invariant_rand`): it is the same on
        every machine, in every step and in both branches of guidance."""
        noise = np.random.RandomState(seed).standard_normal(tuple(x0_BCTHW.shape)).astype(np.float32)
        fill = torch.ones(len(x0_BCTHW), device=x0_BCTHW.device)
        return cls(x0_BCTHW, (fill * given).long(), torch.from_numpy(noise).to(x0_BCTHW.device), fill * sigma, edm)

    def with_noise(self, generator: torch.Generator) -> GivenFrames:
        """The same frames with other noise; drawn on the CPU."""
        noise = torch.randn(self.x0_BCTHW.shape, generator=generator)
        return replace(self, noise_BCTHW=noise.to(self.x0_BCTHW.device))

    @property
    def given_B1T11(self) -> Tensor:
        """Which frames are given, bool."""
        frames = torch.arange(self.x0_BCTHW.shape[2], device=self.x0_BCTHW.device)
        return (frames < self.given_B[:, None])[:, None, :, None, None]

    @property
    def mask_B1THW(self) -> Tensor:
        """The channel that tells the network: 1 on given frames."""
        B, _, T, H, W = self.x0_BCTHW.shape
        return self.given_B1T11.to(self.x0_BCTHW).expand(B, 1, T, H, W)

    def impose(self, x_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
        """x with the given frames in place; c_in(sigma) of it shows them at unit scale with their own noise."""
        scale = column(self.edm.c_in(self.sigma_B) / self.edm.c_in(sigma_B))
        shown_BCTHW = (self.x0_BCTHW + column(self.sigma_B) * self.noise_BCTHW) * scale
        return torch.where(self.given_B1T11, shown_BCTHW.to(x_BCTHW), x_BCTHW)


@dataclass(frozen=True)
class GuidedDenoiser:
    """See `kinds.Denoiser`. net: called as `video2world.Network`.

    unconditional_frames: what the unconditional branch sees of given frames: the same (keep), the same without the mask
    that marks them (unmask), or zeros without the mask (zero). padding: 1 where the video is padded. fresh: draws other
    noise for the given frames whenever they are imposed, as diffusers does; None for the same noise always.
    """

    net: nn.Module
    edm: Preconditioning
    frames: GivenFrames
    text_BMD: Tensor
    negative_BMD: Tensor
    fps_B: Tensor
    guidance: float
    unconditional_frames: UnconditionalFrames = "keep"
    padding_B1HW: Tensor | None = None
    evaluate: Evaluate = in_turn
    fresh: torch.Generator | None = None

    @torch.no_grad()
    def __call__(self, x_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
        """x0 = cond + guidance * (cond - uncond), and the clean latents on given frames."""
        x_BCTHW, sigma_B = x_BCTHW.float(), sigma_B.float()
        in_force, mask = self._in_force(sigma_B), self.frames.mask_B1THW
        branches = [partial(self._estimate, self.impose(x_BCTHW, sigma_B), sigma_B, self.text_BMD, mask)]
        if self.guidance:
            x_BCTHW = self.impose(x_BCTHW, sigma_B)
            if self.unconditional_frames == "zero":
                x_BCTHW = torch.where(in_force, 0.0, x_BCTHW)
            if self.unconditional_frames != "keep":
                mask = torch.zeros_like(mask)
            branches.append(partial(self._estimate, x_BCTHW, sigma_B, self.negative_BMD, mask))
        x0_BCTHW, *unconditional = self.evaluate(*branches)
        for negative_BCTHW in unconditional:
            x0_BCTHW = x0_BCTHW + self.guidance * (x0_BCTHW - negative_BCTHW)
        return torch.where(in_force, self.frames.x0_BCTHW, x0_BCTHW)

    def impose(self, x_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
        """Given frames are no longer imposed once the noise is as low as their own: the network cleans up the rest."""
        frames = self.frames.with_noise(self.fresh) if self.fresh else self.frames
        return torch.where(self._in_force(sigma_B), frames.impose(x_BCTHW, sigma_B), x_BCTHW)

    def _in_force(self, sigma_B: Tensor) -> Tensor:
        return self.frames.given_B1T11 & column(sigma_B > self.frames.sigma_B)

    def _estimate(self, x_BCTHW: Tensor, sigma_B: Tensor, text_BMD: Tensor, mask_B1THW: Tensor) -> Tensor:
        """One evaluation: x0 = c_skip * x + c_out * F."""
        edm, sigma = self.edm, column(sigma_B)
        F_BCTHW, _ = self.net(
            edm.c_in(sigma) * x_BCTHW, edm.c_noise(sigma_B), text_BMD, self.fps_B, mask_B1THW, self.padding_B1HW
        )
        return edm.c_skip(sigma) * x_BCTHW + edm.c_out(sigma) * F_BCTHW
