"""Registers Cosmos-Predict1's model and latent tokenizer, and says what a recipe may choose about the model."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from cosmos_forge import Download, Options, Problem, hookimpl
from cosmos_forge.types import Activations
from forge_cosmos1.counts import INPUTS, count_activations, count_flops, count_tokens
from forge_cosmos1.tokenizer_options import TokenizerOptions
from forge_cosmos1.variants import PATCH, VARIANTS, parameter_shapes
from forge_cosmos1.weights_names import from_diffusers

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

LICENCE = "NVIDIA Open Model License"
PUBLISHED = {
    "7b-video2world": Download("nvidia/Cosmos-Predict1-7B-Video2World", ("model.pt",), gigabytes=14.5, licence=LICENCE),
    "14b-video2world": Download(
        "nvidia/Cosmos-Predict1-14B-Video2World", ("model.pt",), gigabytes=28.5, licence=LICENCE
    ),
}
# What videos the published weights know: frames, (height, width), frames a second, given frames.
TRAINED_FRAMES, TRAINED_FPS, TRAINED_GIVEN = 121, (12, 40), (1, 9)
TRAINED_SIZES = ((704, 1280), (1280, 704), (960, 960), (960, 704), (704, 960))


class Video2WorldOptions(Options):
    """Cosmos-Predict1 Video2World: goes on from the first frames of a video, as a prompt says."""

    forms: ClassVar[dict[str, str]] = {
        "predict1": "forge_cosmos1.weights_export:predict1",
        "diffusers": "forge_cosmos1.weights_export:diffusers",
    }
    beginning: ClassVar[tuple[str, ...]] = ("weights", "averaged", "lora_scale", "allow_missing")

    variant: Literal["7b-video2world", "14b-video2world", "tiny"] = Field(
        "7b-video2world", description="size of the network; tiny has no published weights and trains on a CPU"
    )
    weights: str | None = Field(
        None,
        description="file or folder, run:NAME for what a run exported, run:NAME@best, @400 or @ema for a checkpoint of "
        "it, or fresh to start from nothing; default: the published ones (nvidia/Cosmos-Predict1-*-Video2World), for "
        "tiny fresh ones",
    )
    averaged: bool = Field(
        False, description="take the averaged weights (EMA) of a training file of Cosmos that holds both"
    )
    lora_scale: float = Field(
        1.0, description="of adapters found in a training file of Cosmos, which are merged in; 1 as in Cosmos"
    )
    allow_missing: list[str] = Field(
        [],
        description="names that the weights may lack, with * for any text; net.extra_pos_embedder.* for files trained "
        "without that embedding, which are then read as such",
    )
    rope_precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="of rotary angles; auto: as the network computes, like Cosmos, which was trained in bf16"
    )
    p_mean: float = Field(0.0, description="mean of ln(sigma / multiplier) in training; as in Cosmos (EDMSDE)")
    p_std: float = Field(1.0, gt=0, description="deviation of ln(sigma) in training; as in Cosmos (EDMSDE)")
    noise_frames: int = Field(
        16,
        ge=1,
        description="sigma in training is multiplied by the square root of this; 16 latent frames as in Cosmos, "
        "whatever the clip's length",
    )
    given_frames_min: int = Field(0, ge=0, description="fewest latent frames given in training; 0 as in Cosmos")
    given_frames_max: int = Field(2, ge=0, description="most latent frames given in training; 2 as in Cosmos")
    augment_p_mean: float = Field(-3.0, description="mean of ln(sigma) of given frames in training; as in Cosmos")
    augment_p_std: float = Field(2.0, gt=0, description="deviation of ln(sigma) of given frames; as in Cosmos")
    text_dropout: float = Field(0.2, ge=0, le=1, description="share of samples trained without text; as in Cosmos")
    learned_variance: bool = Field(
        True, description="weigh noise levels by a learned log-variance; as in Cosmos (loss_add_logvar)"
    )
    loss_reduce: Literal["mean", "sum"] = Field(
        "mean", description="over a sample's elements; mean as in Cosmos post-training"
    )
    augment_sigma: float = Field(
        0.001, gt=0, description="noise on given frames when generating; 0.001 as in Cosmos inference"
    )
    augment_noise: Literal["fixed", "fresh"] = Field(
        "fixed", description="on given frames: the same in all evaluations as in Cosmos, or drawn anew as in diffusers"
    )
    unconditional_frames: Literal["keep", "unmask", "zero"] = Field(
        "keep",
        description="given frames in guidance's unconditional branch: keep as in Cosmos inference; unmask and zero as "
        "add_input_frames_guidance does there and in its training code",
    )

    @model_validator(mode="after")
    def _range_of_given_frames(self) -> Video2WorldOptions:
        if self.given_frames_min > self.given_frames_max:
            raise ValueError(f"given_frames_min must be at most given_frames_max = {self.given_frames_max}")
        return self

    @property
    def fresh(self) -> bool:
        """Whether training starts from nothing."""
        return self.weights == "fresh" or (self.weights is None and self.variant not in PUBLISHED)

    @staticmethod
    def own_name(name: str) -> str:
        """Of a tensor that diffusers calls `name`; any other is returned as it is."""
        return from_diffusers(name.removeprefix("transformer."))

    @property
    def heads(self) -> int:
        """See `kinds.ModelOptions`."""
        return VARIANTS[self.variant].num_heads

    @property
    def blocks(self) -> list[str]:
        """See `kinds.ModelOptions`."""
        return [f"net.blocks.block{index}" for index in range(VARIANTS[self.variant].num_blocks)]

    def needs(self) -> list[Download]:
        return [PUBLISHED[self.variant]] if self.weights is None and not self.fresh else []

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every parameter of the network, by its published name."""
        return parameter_shapes(VARIANTS[self.variant])

    def tokens(self, latent_shape: tuple[int, int, int, int]) -> int:
        """That the network makes of a sample."""
        return count_tokens(latent_shape)

    def flops(self, latent_shape: tuple[int, int, int, int], max_tokens: int, frozen: bool | None = None) -> float:
        """See `kinds.ModelOptions`."""
        return count_flops(VARIANTS[self.variant], count_tokens(latent_shape), max_tokens, frozen)

    def activations(
        self,
        latent_shape: tuple[int, int, int, int],
        frozen: bool,
        compiled: bool = False,
        adapted: Collection[str] = (),
    ) -> Activations:
        """See `kinds.ModelOptions` and `count_activations`."""
        layers = [layer for layer in INPUTS if any(f".{layer}." in name for name in adapted)]
        counted = count_activations(VARIANTS[self.variant], count_tokens(latent_shape), frozen, compiled, layers)
        return Activations(**{name: math.ceil(count) for name, count in counted.items()})

    def untried(self, num_frames: int, height: int, width: int, fps: float, given_frames: int) -> Iterator[str]:
        """See `kinds.ModelOptions`. Source: the reference's documentation, and its training experiments."""
        if self.variant not in PUBLISHED:
            return
        if num_frames != TRAINED_FRAMES:
            yield f"{num_frames} frames in one go; the published weights were trained on {TRAINED_FRAMES}"
        if (height, width) not in TRAINED_SIZES:
            known = ", ".join(f"{rows}x{columns}" for rows, columns in TRAINED_SIZES)
            yield f"{height}x{width} pixels; the published weights were trained on {known}"
        if not TRAINED_FPS[0] <= fps <= TRAINED_FPS[1]:
            yield f"{fps:g} frames a second; the published weights were trained on {TRAINED_FPS[0]} to {TRAINED_FPS[1]}"
        if given_frames not in TRAINED_GIVEN:
            yield f"{given_frames} given frames; the published weights were trained to go on from 1 or 9"

    def check(self, plan: Plan) -> Iterator[Problem]:
        """Whether latents and text of the other tables fit the network, and the weights are there."""
        if self.weights and not (self.fresh or plan.of_run(self.weights) or plan.resolve(self.weights).exists()):
            what = f"weights = {self.weights}: there is nothing at {plan.resolve(self.weights)}"
            yield plan.problem(
                "model", "weights", what, "give the path of a .safetensors or .pt file, or of their folder"
            )
        yield from self._check_text(plan)
        yield from self._check_latents(plan)

    def _check_text(self, plan: Plan) -> Iterator[Problem]:
        if "text_encoder" not in plan.tables:
            return
        has, wants = plan.options("text_encoder").width, VARIANTS[self.variant].crossattn_emb_channels
        if has != wants:
            what = f"text of width {has} does not fit the model's variant {self.variant}, which takes {wants}"
            yield plan.problem("text_encoder", "use", what, f"choose an encoder of width {wants}, or another variant")

    def _check_latents(self, plan: Plan) -> Iterator[Problem]:
        if "latent_tokenizer" not in plan.tables:
            return
        sizes: dict[tuple[int, ...], tuple[str, str]] = {}  # each with the table, and perhaps the key, that asks for it
        if "dataset" in plan.tables:
            data = plan.options("dataset")
            sizes[data.num_frames, data.height, data.width] = ("dataset", "")
            sizes |= {tuple(size): ("dataset", "other_sizes") for size in getattr(data, "other_sizes", [])}
        if "generate" in plan.tables:
            sizes.setdefault(plan.video_size(), ("generate", ""))
        for size, (table, among) in sizes.items():
            try:
                channels, *latents = plan.options("latent_tokenizer").latent_shape(*size)
            except ValueError:
                continue  # reported by the plan itself
            yield from self._check_size(plan, table, among, size, channels, latents)

    def _check_size(
        self, plan: Plan, table: str, among: str, size: Sequence[int], channels: int, latents: Sequence[int]
    ) -> Iterator[Problem]:
        """Of clips or videos of `size` (frames, height, width) with these latents. among: the key of several sizes."""
        prefix = f"{among}: " if among else ""
        config = VARIANTS[self.variant]
        if channels != config.latent_channels:
            what = f"latents of {channels} channels do not fit the model, which takes {config.latent_channels}"
            yield plan.problem("latent_tokenizer", "use", what, "choose another latent tokenizer")
        keys, patches = ("num_frames", "height", "width"), (1, PATCH, PATCH)
        for key, pixels, latent, patch, most in zip(keys, size, latents, patches, config.max_size, strict=True):
            if latent % patch:
                what = f"{prefix}{key} = {pixels} gives {latent} latents, which the model cannot pair"
                yield plan.problem(table, among or key, what, f"choose a {key} that gives an even number")
            if latent > most:
                what = f"{prefix}{key} = {pixels} gives {latent} latents, the model takes at most {most}"
                yield plan.problem(table, among or key, what, f"choose a smaller {key}")
        if table == "dataset" and latents[0] <= self.given_frames_max:
            what = f"given_frames_max = {self.given_frames_max} leaves nothing to learn of {latents[0]} latent frames"
            fix = f"at most {latents[0] - 1}, or longer clips"
            yield plan.problem("model", "given_frames_max", what, fix)


@hookimpl
def register_models(register):
    register("cosmos1-video2world", options=Video2WorldOptions, build="forge_cosmos1.video2world:Video2World")


@hookimpl
def register_latent_tokenizers(register):
    register("cosmos-cv8x8x8", options=TokenizerOptions, build="forge_cosmos1.tokenizer:CosmosTokenizer")


@hookimpl
def register_commands(register):
    register(
        "convert",
        help="Write Cosmos-Predict1 weights in another form: safetensors, the reference's, or diffusers'.",
        run="forge_cosmos1.commands:convert",
    )
