"""Registers `new-plugin` and says what a recipe may choose about it."""

from __future__ import annotations

from pydantic import Field

from cosmos_forge import Options, hookimpl


class NewPluginOptions(Options):
    """Adds a sentence to every prompt, in the manner of the captions that the model was trained with."""

    sentence: str = Field(
        "The camera is steady and the light is natural.", min_length=1, description="what follows the prompt"
    )


@hookimpl
def register_prompt_upsamplers(register):
    register("new-plugin", options=NewPluginOptions, build="new_plugin.prompt_upsampler:NewPlugin")
