"""Registers `new-plugin` and says what a recipe may choose about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from cosmos_forge import Options, Problem, hookimpl

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


class NewPluginOptions(Options):
    """A small convolutional network that goes on from the first frames of a video; trains from nothing."""

    weights: str | None = Field(None, description="a .safetensors file, or run:NAME; default: fresh weights")
    channels: int = Field(16, ge=1, description="of the latents, as the latent tokenizer gives them")
    text_width: int = Field(64, ge=1, description="of a token, as the text encoder gives it")
    width: int = Field(64, ge=1, description="features at each latent")
    num_blocks: int = Field(4, ge=1, description="residual blocks; each sees one latent further")
    p_mean: float = Field(-0.4, description="mean of ln(sigma) in training; as in EDM2")
    p_std: float = Field(1.0, gt=0, description="deviation of ln(sigma) in training; as in EDM2")
    given_frames_max: int = Field(2, ge=0, description="most latent frames given in training")
    text_dropout: float = Field(0.2, ge=0, le=1, description="share of samples trained without text, for guidance")

    def check(self, plan: Plan) -> Iterator[Problem]:
        """Whether latents and text of the other tables fit the network."""
        if "text_encoder" in plan.tables and plan.options("text_encoder").width != self.text_width:
            what = f"text_width = {self.text_width}, but text has width {plan.options('text_encoder').width}"
            yield plan.problem("model", "text_width", what, f"text_width = {plan.options('text_encoder').width}")
        if "latent_tokenizer" in plan.tables:
            try:
                channels = plan.options("latent_tokenizer").latent_shape(*plan.video_size())[0]
            except ValueError:
                return  # reported by the plan itself
            if channels != self.channels:
                what = f"channels = {self.channels}, but latents have {channels}"
                yield plan.problem("model", "channels", what, f"channels = {channels}")


@hookimpl
def register_models(register):
    register("new-plugin", options=NewPluginOptions, build="new_plugin.model:NewPlugin")
