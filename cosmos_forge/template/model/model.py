"""Training and denoising with the network, after Karras et al. 2022 (EDM, arXiv 2206.00364).

Shape suffixes: B batch, C channels, T latent frames, H latent rows, W latent columns, L text tokens, D width of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cosmos_forge import Context, ForgeError
from cosmos_forge.edm import LogNormal, Preconditioning
from cosmos_forge.kinds import Evaluate, in_turn
from cosmos_forge.types import Batch, Condition, Loss
from new_plugin.network import Network
from new_plugin.plugin import NewPluginOptions


class NewPlugin:
    """See `cosmos_forge.kinds.Model`."""

    sigma_data = 0.5

    def __init__(self, options: NewPluginOptions, context: Context) -> None:
        self.options, self.context = options, context
        self.edm = Preconditioning(self.sigma_data)
        with torch.device("meta"):  # memory comes with the weights
            self.net: nn.Module = self.fresh()
        self.blocks = [f"blocks.{index}" for index in range(options.num_blocks)]
        # Held-out clips are judged at the mean of ln(sigma) in training, and one deviation from it.
        self.sigmas = [math.exp(options.p_mean + options.p_std * z) for z in (-1.0, 0.0, 1.0)]

    def fresh(self) -> Network:
        """A network as torch initialises it."""
        o = self.options
        return Network(o.channels, o.text_width, o.width, o.num_blocks)

    def load(self) -> None:
        """Fills the network. Raises ForgeError where a file's tensors are not the network's."""
        context = self.context
        if self.options.weights is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(context.seed)
                tensors = self.fresh().state_dict()
        else:
            tensors = load_file(context.resolve(self.options.weights))
        try:
            self.net.load_state_dict(tensors, assign=True)
        except RuntimeError as error:
            raise ForgeError(f"{self.options.weights} does not fit the network: {error}") from error
        self.net.to(context.device, context.dtype).requires_grad_(True)

    def loss(self, batch: Batch, generators: Sequence[torch.Generator], sigma: float | None = None) -> Loss:
        """The squared error of x0 times 1 / c_out^2; none on given frames. Sample b draws from generators[b], its noise
        level too unless `sigma` gives it."""
        o, frames = self.options, batch.latents_BCTHW.shape[2]
        levels = LogNormal(o.p_mean, o.p_std)
        draws = [
            (
                levels.sigma(torch.randn((), generator=each)),
                torch.randint(min(o.given_frames_max, frames - 1) + 1, (), generator=each),
                (torch.rand((), generator=each) >= o.text_dropout).float(),
                torch.randn(batch.latents_BCTHW.shape[1:], generator=each),
            )
            for each in generators
        ]
        device = batch.latents_BCTHW.device
        sigma_B, given_B, keep_B, noise_BCTHW = (torch.stack(part).to(device) for part in zip(*draws, strict=True))
        sigma_B = sigma_B if sigma is None else torch.full_like(sigma_B, sigma)
        clean_BCTHW = batch.latents_BCTHW.float() * self.sigma_data
        x_BCTHW = clean_BCTHW + column(sigma_B) * noise_BCTHW
        step = Denoise(self.net, self.edm, clean_BCTHW, mask(clean_BCTHW, given_B))
        x0_BCTHW = step(x_BCTHW, sigma_B, batch.text.tokens_BLD * keep_B[:, None, None])
        square_BCTHW = (x0_BCTHW - clean_BCTHW) ** 2
        total = (self.edm.loss_weight(column(sigma_B)) * square_BCTHW).mean()
        return Loss(total, {"mse": square_BCTHW.mean().detach()})

    def denoiser(self, condition: Condition, guidance: float, evaluate: Evaluate = in_turn) -> Guided:
        """x0 = cond + guidance * (cond - uncond); 0 is off and costs one evaluation. The two go through `evaluate`, for
        each may be another process's."""
        clean_BCTHW = condition.latents_BCTHW.float() * self.sigma_data
        given_B = torch.full((len(clean_BCTHW),), condition.given, device=clean_BCTHW.device)
        step = Denoise(self.net, self.edm, clean_BCTHW, mask(clean_BCTHW, given_B))
        text = condition.text.tokens_BLD
        negative = condition.negative_text
        return Guided(step, text, negative.tokens_BLD if negative else torch.zeros_like(text), guidance, evaluate)


@dataclass(frozen=True)
class Denoise:
    """x0 = c_skip x + c_out F(c_in x, c_noise), with given frames in place: in what goes in and in what comes out."""

    net: Callable[..., Tensor]
    edm: Preconditioning
    clean_BCTHW: Tensor
    given_B1THW: Tensor

    def __call__(self, x_BCTHW: Tensor, sigma_B: Tensor, text_BLD: Tensor) -> Tensor:
        sigma = column(sigma_B.float())
        scaled_BCTHW = self.edm.c_in(sigma) * x_BCTHW.float()
        scaled_BCTHW = torch.where(self.given_B1THW, self.clean_BCTHW / self.edm.sigma_data, scaled_BCTHW)
        F_BCTHW = self.net(scaled_BCTHW, self.given_B1THW, self.edm.c_noise(sigma_B.float()), text_BLD)
        x0_BCTHW = self.edm.c_skip(sigma) * x_BCTHW.float() + self.edm.c_out(sigma) * F_BCTHW
        return torch.where(self.given_B1THW, self.clean_BCTHW, x0_BCTHW)


@dataclass(frozen=True)
class Guided:
    """See `cosmos_forge.kinds.Denoiser`."""

    step: Denoise
    text_BLD: Tensor
    negative_BLD: Tensor
    guidance: float
    evaluate: Evaluate

    def __call__(self, x_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
        texts = [self.text_BLD, self.negative_BLD] if self.guidance else [self.text_BLD]
        with_text, *without = self.evaluate(*(partial(self.step, x_BCTHW, sigma_B, text) for text in texts))
        return with_text + self.guidance * (with_text - without[0]) if without else with_text

    def impose(self, x_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
        """Given frames are seen without noise."""
        return torch.where(self.step.given_B1THW, self.step.clean_BCTHW.to(x_BCTHW.dtype), x_BCTHW)


def mask(x_BCTHW: Tensor, given_B: Tensor) -> Tensor:
    """True on the first `given` frames, B1THW."""
    frames_T = torch.arange(x_BCTHW.shape[2], device=x_BCTHW.device)
    return (frames_T < given_B[:, None])[:, None, :, None, None].expand_as(x_BCTHW[:, :1])


def column(value_B: Tensor) -> Tensor:
    """One number a sample, to go with BCTHW."""
    return value_B.view(-1, 1, 1, 1, 1)
