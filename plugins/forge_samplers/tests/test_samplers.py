"""The samplers against a Gaussian, whose denoiser and whose path are known in closed form."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from cosmos_forge.testing import SamplerContract
from forge_samplers.dpmpp import Dpmpp2m
from forge_samplers.euler import Euler
from forge_samplers.heun import Heun
from forge_samplers.plugin import Dpmpp2mOptions, EulerOptions, HeunOptions, ResOptions
from forge_samplers.res import Res

SAMPLERS = {
    "euler": (Euler, EulerOptions, {}),
    "heun": (Heun, HeunOptions, {}),
    "dpmpp-2m": (Dpmpp2m, Dpmpp2mOptions, {}),
    "res-2ab": (Res, ResOptions, {"solver": "2ab"}),
    "res-2mid": (Res, ResOptions, {"solver": "2mid"}),
}
DEVIATION = 0.5


class Gaussian:
    """E[clean | noisy] for data N(0, DEVIATION^2); remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, float]] = []

    def __call__(self, x_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
        assert sigma_B.shape == x_BCTHW.shape[:1]
        assert x_BCTHW.dtype in (torch.float32, torch.float64)
        self.calls.append((x_BCTHW, sigma_B[0].item()))
        sigma = sigma_B.double().view(-1, 1, 1, 1, 1)
        return (DEVIATION**2 / (DEVIATION**2 + sigma**2) * x_BCTHW).float()

    def impose(self, x_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
        return x_BCTHW


class TestEuler(SamplerContract):
    use = "euler"
    order = 1


class TestEulerOfDiffusers(SamplerContract):
    use = "euler"
    options = {"convention": "diffusers"}
    order = 1


class TestHeun(SamplerContract):
    use = "heun"
    order = 2


class TestRes(SamplerContract):
    use = "res"
    order = 2


class TestDpmpp2m(SamplerContract):
    use = "dpmpp-2m"
    order = 2


class TestResMidpoint(SamplerContract):
    use = "res"
    options = {"steps": 20, "solver": "2mid"}
    order = 2


def make(name: str, **options: object):
    sampler, options_class, given = SAMPLERS[name]
    return sampler(options_class(**given, **options), None)


def unit_noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def error(name: str, steps: int, sigma_min: float) -> float:
    """By how much, relatively, a sampler scales its start state wrongly on the way to zero noise."""
    denoise = Gaussian()
    result = make(name, steps=steps, sigma_min=sigma_min).sample(denoise, unit_noise(1, 1, 1, 1, 1))
    exact = DEVIATION / math.hypot(DEVIATION, 80)
    return abs((result / denoise.calls[0][0]).item() / exact - 1)


@pytest.mark.parametrize(
    ("name", "order"), [("euler", 1), ("heun", 2), ("res-2ab", 2), ("res-2mid", 2), ("dpmpp-2m", 2)]
)
def test_error_falls_with_the_order(name: str, order: int) -> None:
    coarse, fine = (error(name, steps, sigma_min=1e-5) for steps in (60, 120))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


def test_table_of_the_readme() -> None:
    page = (Path(__file__).parents[1] / "README.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    names = {"euler": 1, "dpmpp-2m": 1, "res-2ab": 1, "heun": 2, "res-2mid": 2}  # and their evaluations a step
    table = [row for row in rows if row[0].isdigit()]
    assert len(table) == 4
    for evaluations, *errors in table:
        measured = [error(name, int(evaluations) // cost, sigma_min=0.002) for name, cost in names.items()]
        assert errors == [f"{each:.1%}" for each in measured]


@pytest.mark.parametrize(
    ("name", "within"), [("euler", 0.1), ("heun", 0.06), ("res-2ab", 0.02), ("res-2mid", 0.02), ("dpmpp-2m", 0.06)]
)
def test_result_has_the_deviation_of_the_data(name: str, within: float) -> None:
    result = make(name).sample(Gaussian(), unit_noise(2, 4, 5, 32, 32))
    assert result.dtype == torch.float32
    assert result.std().item() == pytest.approx(DEVIATION, rel=within)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("name", SAMPLERS)
def test_counts_evaluations_and_steps(name: str, steps: int) -> None:
    sampler, denoise, reported = make(name, steps=steps), Gaussian(), []
    result = sampler.sample(denoise, unit_noise(3, 1, 2, 2, 2), on_step=reported.append)
    assert len(denoise.calls) == sampler.options.evaluations
    assert reported == list(range(1, steps + 1))
    assert result.isfinite().all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_noise_levels_fall_from_sigma_max_to_sigma_min(name: str) -> None:
    sampler, denoise = make(name, steps=9, sigma_max=50, sigma_min=0.01), Gaussian()
    sampler.sample(denoise, unit_noise(1, 1, 1, 1, 1))
    sigmas = [sigma for _, sigma in denoise.calls]
    assert sigmas[0] == pytest.approx(50)
    assert sigmas[-1] == pytest.approx(0.01)
    assert sigmas == sorted(sigmas, reverse=True)


@pytest.mark.parametrize(
    ("name", "deviation"), [("euler", math.hypot(80, 1)), ("heun", 80), ("res-2ab", 80), ("dpmpp-2m", 80)]
)
def test_start_state(name: str, deviation: float) -> None:
    denoise, noise = Gaussian(), unit_noise(1, 2, 1, 3, 3)
    make(name).sample(denoise, noise)
    torch.testing.assert_close(denoise.calls[0][0].float(), noise * deviation)


def test_euler_steps_from_the_imposed_state() -> None:
    class Given(Gaussian):
        def impose(self, x_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
            return torch.cat([torch.full_like(x_BCTHW[:, :, :1], 7.0), x_BCTHW[:, :, 1:]], dim=2)

    plain, given = Gaussian(), Given()
    noise = unit_noise(1, 2, 3, 4, 4)
    without, result = make("euler").sample(plain, noise), make("euler").sample(given, noise)
    assert all((x[:, :, 0] == 7).all() for x, _ in given.calls)
    torch.testing.assert_close(result[:, :, 0], torch.full_like(result[:, :, 0], 7.0))
    assert torch.equal(result[:, :, 1:], without[:, :, 1:])


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_dpmpp_2m_is_that_of_diffusers(steps: int) -> None:
    """Its scheduler for EDM's noise levels, which keeps its state in float32."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(
        sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, solver_order=2, final_sigmas_type="zero"
    )
    scheduler.set_timesteps(steps)
    noise, denoise = unit_noise(1, 2, 3, 4, 4), Tanh()
    x = noise * 80
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        c_skip, c_out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / (sigma**2 + 0.25).sqrt()
        F = (denoise(x, sigma[None]) - c_skip * x) / c_out
        x = scheduler.step(F, timestep, x).prev_sample
    ours = make("dpmpp-2m", steps=steps).sample(denoise, noise)
    torch.testing.assert_close(ours, x, atol=2e-5, rtol=0)


class Tanh(Gaussian):
    """No data has this denoiser, but its path is curved in every way."""

    def __call__(self, x_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
        sigma = sigma_B.double().view(-1, 1, 1, 1, 1)
        return (torch.tanh(0.3 * x_BCTHW) + 0.1 * sigma / (1 + sigma)).float()


def test_sigmas_must_fall() -> None:
    with pytest.raises(ValidationError, match="sigma_min must be less than sigma_max"):
        EulerOptions(sigma_min=80.0)
