"""Registers `new-plugin` and says what a recipe may choose about it."""

from __future__ import annotations

from pydantic import Field

from cosmos_forge import Options, hookimpl


class NewPluginOptions(Options):
    """Every letter a token: a fixed random vector for each byte and each place; no weights."""

    width: int = Field(64, ge=1, description="numbers a token")
    max_tokens: int = Field(128, ge=1, description="bytes of a prompt that are read; the rest is cut off")


@hookimpl
def register_text_encoders(register):
    register("new-plugin", options=NewPluginOptions, build="new_plugin.text_encoder:NewPlugin")
