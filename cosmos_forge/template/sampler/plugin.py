"""Registers `new-plugin` and says what a recipe may choose about it."""

from __future__ import annotations

from pydantic import Field

from cosmos_forge import Options, hookimpl


class NewPluginOptions(Options):
    """Second-order midpoint steps; two evaluations a step, one in the last."""

    steps: int = Field(12, ge=1, description="number of steps")
    sigma_min: float = Field(0.002, gt=0, lt=80, description="lowest noise level that is denoised; 0.002 as in EDM")

    @property
    def evaluations(self) -> int:
        """How often the denoiser is called for one video."""
        return 2 * self.steps - 1


@hookimpl
def register_samplers(register):
    register("new-plugin", options=NewPluginOptions, build="new_plugin.sampler:NewPlugin")
