"""Noise that is the same on every machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cosmos_forge.edm import Preconditioning
from forge_cosmos1.denoiser import GivenFrames


@pytest.mark.golden("e_noise/*")
def test_noise_of_given_frames(case: Any, check: Callable[..., None]) -> None:
    config = case.record["config"]
    latents = torch.zeros(config["shape"])
    frames = GivenFrames.for_inference(latents, given=1, seed=config["seed"], sigma=0.001, edm=Preconditioning())
    check("noise", frames.noise_BCTHW, case.tensors["out/noise"], 0)
