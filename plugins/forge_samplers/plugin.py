"""Registers the samplers and says what a recipe may choose about them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cosmos_forge import Options, hookimpl


class ScheduleOptions(Options):
    """Noise levels evenly spaced in sigma^(1/rho)."""

    steps: int = Field(ge=1, le=1000, description="number of steps")
    sigma_max: float = Field(80.0, gt=0, description="noise level to start at; 80 as in EDM and Cosmos")
    sigma_min: float = Field(gt=0, description="lowest noise level that is denoised")
    rho: float = Field(7.0, gt=0, description="the larger, the more steps at low noise; 7 as in EDM and Cosmos")

    @model_validator(mode="after")
    def _downwards(self) -> ScheduleOptions:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min must be less than sigma_max = {self.sigma_max:g}, got {self.sigma_min:g}")
        return self


class EulerOptions(ScheduleOptions):
    """First-order steps as in Cosmos inference; one evaluation a step."""

    convention: Literal["predict1", "diffusers"] = Field(
        "predict1",
        description="how it starts, steps and ends: as Cosmos inference, or as diffusers' CosmosVideoToWorldPipeline, "
        "which goes with steps = 36 and sigma_min = 0.002",
    )

    steps: int = Field(35, ge=1, le=1000, description="number of steps; 35 as in Cosmos inference")
    sigma_min: float = Field(
        0.0002, gt=0, description="noise level of the last evaluation; 0.0002 as in Cosmos inference"
    )

    @property
    def evaluations(self) -> int:
        return self.steps


class HeunOptions(ScheduleOptions):
    """Second-order steps of EDM (Karras et al. 2022); two evaluations a step, one in the last."""

    steps: int = Field(18, ge=1, le=1000, description="number of steps; 18 as in EDM")
    sigma_min: float = Field(0.002, gt=0, description="noise level of the last evaluation; 0.002 as in EDM")

    @property
    def evaluations(self) -> int:
        return 2 * self.steps - 1


class Dpmpp2mOptions(ScheduleOptions):
    """Second-order multistep DPM-Solver++ (Lu et al. 2022), for few steps; one evaluation a step."""

    steps: int = Field(20, ge=1, le=1000, description="number of steps; 15 to 20 as its authors advise with guidance")
    sigma_min: float = Field(0.002, gt=0, description="noise level of the last evaluation; 0.002 as in EDM")

    @property
    def evaluations(self) -> int:
        return self.steps


class ResOptions(ScheduleOptions):
    """Second-order exponential steps (RES) as in Cosmos training; one evaluation a step, then one more."""

    steps: int = Field(35, ge=1, le=1000, description="number of steps; 35 as in Cosmos training")
    sigma_min: float = Field(
        0.002, gt=0, description="noise level of the final clean pass; 0.002 as in Cosmos training"
    )
    solver: Literal["2ab", "1euler", "2mid", "2mid_stable", "2heun_edm", "2heun_naive", "3kutta_naive"] = Field(
        "2ab",
        description="kind of step, by the reference's names. 2ab uses the step before again, at one evaluation; the "
        "others take as many as their name begins with",
    )
    s_churn: float = Field(0.0, ge=0, description="noise added anew on the way, over all steps, as in EDM; 0: none")
    s_noise: float = Field(1.0, gt=0, description="factor of the noise that s_churn adds; 1 as in Cosmos")

    @model_validator(mode="after")
    def _noise_is_added(self) -> ResOptions:
        if self.s_noise != 1 and not self.s_churn:
            raise ValueError("s_noise says nothing without s_churn: leave it out, or give s_churn a number above 0")
        return self

    @property
    def evaluations(self) -> int:
        return self.steps * (1 if self.solver == "2ab" else int(self.solver[0])) + 1


@hookimpl
def register_samplers(register):
    register("euler", options=EulerOptions, build="forge_samplers.euler:Euler")
    register("dpmpp-2m", options=Dpmpp2mOptions, build="forge_samplers.dpmpp:Dpmpp2m")
    register("heun", options=HeunOptions, build="forge_samplers.heun:Heun")
    register("res", options=ResOptions, build="forge_samplers.res:Res")
