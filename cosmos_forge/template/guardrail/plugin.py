"""Registers `new-plugin` and says what a recipe may choose about it."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from cosmos_forge import Options, hookimpl


class NewPluginOptions(Options):
    """Refuses videos that flash, by their brightness from frame to frame."""

    looks_at: ClassVar[tuple[str, ...]] = ("frames",)

    jump: float = Field(0.1, gt=0, lt=1, description="change of mean brightness that counts; 0.1 as in WCAG 2.2")
    most: int = Field(6, ge=0, description="jumps allowed within `window`; 3 flashes are 6, as in WCAG 2.2 (2.3.1)")
    window: int = Field(24, ge=2, description="frames that make a second")


@hookimpl
def register_guardrails(register):
    register("new-plugin", options=NewPluginOptions, build="new_plugin.guardrail:NewPlugin")
