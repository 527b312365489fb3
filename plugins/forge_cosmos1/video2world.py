"""Cosmos-Predict1 Video2World: a diffusion transformer that goes on from the first frames of a video.

Source: the reference's `training/models/{extend_model,model}.py`. Latents of the tokenizer have unit deviation; times
sigma_data they are x0.

Shape suffixes: B batch, C channels, T latent frames, H latent rows, W latent columns, M text tokens, D width of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cosmos_forge.edm import LogNormal, Preconditioning
from cosmos_forge.events import Note
from cosmos_forge.kinds import in_turn
from cosmos_forge.types import Batch, Condition, Loss
from forge_cosmos1 import weights
from forge_cosmos1.denoiser import GivenFrames, GuidedDenoiser, column
from forge_cosmos1.dit import VARIANTS, DiT, DiTConfig

if TYPE_CHECKING:
    from cosmos_forge import Context
    from cosmos_forge.kinds import Evaluate, SharedSequence
    from forge_cosmos1.plugin import Video2WorldOptions


class FourierFeatures(nn.Module):
    """Random features of the noise level that the log-variance is a linear function of: B -> BD, float32."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.empty(width))
        self.register_buffer("phases", torch.empty(width))

    def forward(self, c_noise_B: Tensor) -> Tensor:
        return math.sqrt(2) * torch.cos(c_noise_B.float()[:, None] * self.freqs.float() + self.phases.float())


class Network(nn.Module):
    """The transformer and the learned log-variance of its error, under the names of the published file.

    One module with one forward, so that it can be wrapped whole.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.net = DiT(config)
        self.logvar = nn.Sequential(FourierFeatures(128), nn.Linear(128, 1, bias=False))

    def share_sequence(self, sequence: SharedSequence) -> None:
        """See `kinds.Model`."""
        self.net.share_sequence(sequence.split, sequence.join, sequence.attention)

    def forward(
        self,
        x_BCTHW: Tensor,
        c_noise_B: Tensor,
        text_BMD: Tensor,
        fps_B: Tensor,
        given_B1THW: Tensor,
        padding_B1HW: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `DiT.forward`. Returns F_BCTHW and the log-variance u_B, float32; inside, the weights' dtype is used."""
        dtype = self.net.affline_norm.weight.dtype
        F_BCTHW = self.net(x_BCTHW.to(dtype), c_noise_B.to(dtype), text_BMD, fps_B, given_B1THW, padding_B1HW)
        u_B1 = self.logvar[1](self.logvar[0](c_noise_B).to(self.logvar[1].weight.dtype))
        return F_BCTHW.float(), u_B1[:, 0].float()


@dataclass(frozen=True)
class Draws:
    """All that is random in a training step, float32 but for given_B.

    keep_text_B: 0 where a sample's text is dropped. given_B: number of given latent frames. noise_BCTHW at sigma_B goes
    on all others, augment_noise_BCTHW at augment_sigma_B on the given ones.
    """

    keep_text_B: Tensor
    given_B: Tensor
    sigma_B: Tensor
    noise_BCTHW: Tensor
    augment_sigma_B: Tensor
    augment_noise_BCTHW: Tensor

    def to(self, device: torch.device) -> Draws:
        """On `device`. Goes through pinned memory to a GPU, so that nobody waits for the step before to end."""
        drawn = {field.name: getattr(self, field.name) for field in fields(self)}
        if device.type == "cuda":
            drawn = {name: each.pin_memory() for name, each in drawn.items()}
        return Draws(**{name: each.to(device, non_blocking=True) for name, each in drawn.items()})


class Video2World:
    """See `kinds.Model`."""

    sigma_data = 0.5

    def __init__(self, options: Video2WorldOptions, context: Context) -> None:
        self.options, self.context = options, context
        self.edm = Preconditioning(self.sigma_data)
        self.noise = LogNormal(options.p_mean, options.p_std, math.sqrt(options.noise_frames))
        self.sigmas = self.noise.levels(5)
        self.config = replace(VARIANTS[options.variant], rope_precision=options.rope_precision)
        with torch.device("meta"):
            self.net: nn.Module = Network(self.config)
        self.blocks = options.blocks

    def load(self) -> None:
        """Fills the network, in the context's dtype, on its device."""
        options, context = self.options, self.context
        if options.fresh:
            weights.initialise(self.net, context.seed, context.device, context.dtype)
            context.emit(Note(f"fresh weights, seed {context.seed}"))
        else:
            path = context.resolve(options.weights) if options.weights else context.files(options.needs()[0])
            said = weights.load(
                self.net,
                path,
                context.device,
                context.dtype,
                averaged=options.averaged,
                lora_scale=options.lora_scale,
                allow_missing=options.allow_missing,
            )
            context.emit(Note(said))
        self.net.logvar.requires_grad_(options.learned_variance)

    def loss(self, batch: Batch, generators: Sequence[torch.Generator], sigma: float | None = None) -> Loss:
        draws = self.draw(batch, generators)
        if sigma is not None:
            draws = replace(draws, sigma_B=torch.full_like(draws.sigma_B, sigma))
        return self.loss_of(batch, draws)

    def draw(self, batch: Batch, generators: Sequence[torch.Generator]) -> Draws:
        """One generator a sample. Upstream: the number of given frames is drawn once for the whole batch."""
        o, shape = self.options, batch.latents_BCTHW.shape[1:]
        augment = LogNormal(o.augment_p_mean, o.augment_p_std)
        samples = [
            Draws(
                keep_text_B=(torch.rand((), generator=generator) >= o.text_dropout).float(),
                given_B=torch.randint(o.given_frames_min, o.given_frames_max + 1, (), generator=generator),
                sigma_B=self.noise.sigma(torch.randn((), generator=generator)),
                noise_BCTHW=torch.randn(shape, generator=generator),
                augment_sigma_B=augment.sigma(torch.randn((), generator=generator)),
                augment_noise_BCTHW=torch.randn(shape, generator=generator),
            )
            for generator in generators
        ]
        names = [field.name for field in fields(Draws)]
        stacked = Draws(**{name: torch.stack([getattr(sample, name) for sample in samples]) for name in names})
        return stacked.to(batch.latents_BCTHW.device)

    def loss_of(self, batch: Batch, draws: Draws, padding_B1HW: Tensor | None = None) -> Loss:
        """The loss of these draws: mean of w (x0 - D)^2 / e^u + u, with w = 1 / c_out^2, u the learned log-variance.

        Given frames count in the mean with error 0. padding: 1 where the video is padded, at any resolution.
        """
        o, edm, sigma_B = self.options, self.edm, draws.sigma_B
        x0_BCTHW = batch.latents_BCTHW.float() * self.sigma_data
        frames = GivenFrames(x0_BCTHW, draws.given_B, draws.augment_noise_BCTHW, draws.augment_sigma_B, edm)
        sigma = column(sigma_B)
        x_BCTHW = frames.impose(x0_BCTHW + sigma * draws.noise_BCTHW, sigma_B)

        F_BCTHW, u_B = self.net(
            edm.c_in(sigma) * x_BCTHW,
            edm.c_noise(sigma_B),
            batch.text.tokens_BLD * draws.keep_text_B[:, None, None],
            batch.fps_B,
            frames.mask_B1THW,
            padding_B1HW,
        )
        estimate_BCTHW = edm.c_skip(sigma) * x_BCTHW + edm.c_out(sigma) * F_BCTHW
        square_BCTHW = (x0_BCTHW - torch.where(frames.given_B1T11, x0_BCTHW, estimate_BCTHW)) ** 2
        error_BCTHW = edm.loss_weight(sigma) * square_BCTHW

        each_BCTHW = error_BCTHW / column(u_B).exp() + column(u_B) if o.learned_variance else error_BCTHW
        total = each_BCTHW.mean() if o.loss_reduce == "mean" else each_BCTHW.sum() / len(sigma_B)
        return Loss(total, {"edm": error_BCTHW.mean().detach(), "mse": square_BCTHW.mean().detach()})

    def denoiser(self, condition: Condition, guidance: float, evaluate: Evaluate = in_turn) -> GuidedDenoiser:
        """See `kinds.Model`; the given frames carry a little noise, as in the reference's inference."""
        o, text = self.options, condition.text.tokens_BLD
        latents_BCTHW = condition.latents_BCTHW.float() * self.sigma_data
        negative = condition.negative_text
        return GuidedDenoiser(
            net=self.net,
            edm=self.edm,
            frames=GivenFrames.for_inference(latents_BCTHW, condition.given, condition.seed, o.augment_sigma, self.edm),
            text_BMD=text,
            negative_BMD=negative.tokens_BLD if negative else torch.zeros_like(text),
            fps_B=condition.fps_B,
            guidance=guidance,
            unconditional_frames=o.unconditional_frames,
            evaluate=evaluate,
            fresh=torch.Generator().manual_seed(condition.seed) if o.augment_noise == "fresh" else None,
        )
