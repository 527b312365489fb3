"""Samplers against recorded runs: with an analytic denoiser, and with a whole tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cosmos_forge.kinds import Denoiser
from cosmos_forge.testing import make_context
from cosmos_forge.testing.fakes import build

ANALYTIC = "x0(x, sigma) = tanh(0.3*x) + 0.1*sigma/(1+sigma) + 0.05*sin(3*x)"


class Analytic:
    """The denoiser of the cases without a network; float32, whatever the state."""

    def __call__(self, x: Tensor, sigma_B: Tensor) -> Tensor:
        x, sigma = x.float(), sigma_B.float().view(-1, 1, 1, 1, 1)
        return torch.tanh(0.3 * x) + 0.1 * sigma / (1 + sigma) + 0.05 * torch.sin(3 * x)

    def impose(self, x: Tensor, sigma_B: Tensor) -> Tensor:
        return x


class Recorder:
    """Passes on to a denoiser and keeps what goes in and out."""

    def __init__(self, denoise: Denoiser) -> None:
        self.denoise, self.x, self.sigma, self.x0 = denoise, list[Tensor](), list[Tensor](), list[Tensor]()

    def __call__(self, x: Tensor, sigma_B: Tensor) -> Tensor:
        self.x.append(x)
        self.sigma.append(sigma_B)
        self.x0.append(self.denoise(x, sigma_B))
        return self.x0[-1]

    def impose(self, x: Tensor, sigma_B: Tensor) -> Tensor:
        return self.denoise.impose(x, sigma_B)


def sample(denoise: Denoiser, noise: Tensor, folder: Path, use: str, **options: Any) -> tuple[Tensor, Recorder]:
    recorder = Recorder(denoise)
    return build("sampler", use, options, make_context(folder)).sample(recorder, noise), recorder


def schedule(config: dict[str, Any]) -> dict[str, Any]:
    """A sampler's options as a case has them. The reference's num_steps counts evaluations."""
    assert config.get("extra_clean_step", True), "without a final pass: not implemented"
    levels = {name: config[name] for name in ("sigma_max", "sigma_min", "rho") if name in config}
    solver = {"solver": config["solver"]} if "solver" in config else {}
    return {"steps": config["num_steps"] // evaluations(config), **levels, **solver}


def evaluations(config: dict[str, Any]) -> int:
    """Of the network, in a step: the order of the solver, which its name begins with, but one in a multistep solver."""
    solver = config.get("solver", "1euler")
    return 1 if solver == "2ab" else int(solver[0])


@pytest.mark.golden("d_sampling/d[0-9]*_res_*")
def test_res(case: Any, check: Callable[..., None], tmp_path: Path) -> None:
    config, recorded = case.record["config"], case.tensors
    assert config["denoiser"] == ANALYTIC
    each = evaluations(config)
    noise = recorded["in/x_T"].double() / config["sigma_max"]
    result, calls = sample(Analytic(), noise, tmp_path, "res", **schedule(config))
    check("sigmas", torch.stack(calls.sigma[::each])[:, 0], recorded["sigmas"], 1e-12)
    check("states", torch.stack(calls.x[each::each]), recorded["states64"], 1e-12)
    check("estimates", torch.stack(calls.x0), recorded["calls/x0"], 1e-6)
    check("result", result, recorded["out/sample"], 1e-6)


@pytest.mark.golden("d_sampling/d[0-9]*_euler_*")
def test_euler(case: Any, check: Callable[..., None], tmp_path: Path) -> None:
    config, recorded = case.record["config"], case.tensors
    assert config["denoiser"].startswith(ANALYTIC)
    result, calls = sample(Analytic(), recorded["in/noise"], tmp_path, "euler", **schedule(config))
    check("sigmas", torch.stack(calls.sigma)[:, 0], recorded["sigmas"][:-1], 2e-5)  # theirs are computed in float32
    check("start", calls.x[0], recorded["in/x_T"], 1e-6, relative=True)
    check("states", torch.stack(calls.x[1:]), recorded["trajectory"][:-1], 1e-4)
    check("result", result, recorded["out/sample"], 1e-6)


@pytest.mark.golden("d_sampling/d_v2w_res_*")
def test_whole_run_with_res(case: Any, check: Callable[..., None], tmp_path: Path) -> None:
    recorded, options = case.tensors, schedule(case.record["config"]["call"])
    denoise = case.denoiser(tmp_path)
    result, calls = sample(denoise, recorded["in/initial_noise"], tmp_path, "res", **options)
    check("sigmas", torch.stack(calls.sigma)[:, 0], recorded["calls/sigma"], 1e-5)
    check("states", torch.cat(calls.x), recorded["calls/x"], 1e-6, relative=True)
    check("estimates", torch.cat(calls.x0), recorded["calls/x0"], 1e-4)
    check("result", result, recorded["out/sample"], 1e-4)


@pytest.mark.golden("d_sampling/d_v2w_euler_*")
def test_whole_run_with_euler(case: Any, check: Callable[..., None], tmp_path: Path) -> None:
    recorded, options = case.tensors, schedule(case.record["config"]["call"])
    denoise = case.denoiser(tmp_path)
    result, calls = sample(denoise, recorded["in/initial_noise"], tmp_path, "euler", **options)
    check("start", calls.x[0], denoise.impose(recorded["in/initial_state"], calls.sigma[0]), 1e-6, relative=True)
    for step, state in enumerate(recorded["out/trajectory"][:-1], start=1):
        check(f"state {step}", calls.x[step], denoise.impose(state[None], calls.sigma[step]), 1e-4)
    check("estimates", torch.cat(calls.x0), recorded["out/x0_trajectory"], 1e-4)
    check("result", result, recorded["out/sample"], 1e-4)
