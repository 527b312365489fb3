"""The samplers against a Gaussian, whose denoiser and whose path are known in closed form."""

from __future__ import annotations

import math
from itertools import pairwise
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
from forge_samplers.single_steps import SINGLE_STEPS

SAMPLERS = {
    "euler": (Euler, EulerOptions, {}),
    "heun": (Heun, HeunOptions, {}),
    "dpmpp-2m": (Dpmpp2m, Dpmpp2mOptions, {}),
    "res-2ab": (Res, ResOptions, {"solver": "2ab"}),
    **{f"res-{solver}": (Res, ResOptions, {"solver": solver}) for solver in SINGLE_STEPS},
}
# 2heun_naive's first slope is not one of its path: see `single_steps`.
ORDERS = dict.fromkeys(SAMPLERS, 2) | {"euler": 1, "res-1euler": 1, "res-2heun_naive": 1, "res-3kutta_naive": 3}
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


class TestResEuler(SamplerContract):
    use = "res"
    options = {"solver": "1euler"}
    order = 1


class TestResStableMidpoint(SamplerContract):
    use = "res"
    options = {"solver": "2mid_stable"}
    order = 2


class TestResHeun(SamplerContract):
    use = "res"
    options = {"solver": "2heun_edm"}
    order = 2


class TestResNaiveHeun(SamplerContract):
    use = "res"
    options = {"solver": "2heun_naive", "steps": 400}  # so wrong is it in few
    order = 1


class TestResKutta(SamplerContract):
    use = "res"
    options = {"solver": "3kutta_naive"}
    order = 3


class TestResWithChurn(SamplerContract):
    use = "res"
    options = {"s_churn": 2.0}


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


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_error_falls_with_the_order(name: str, order: int) -> None:
    coarse, fine = (error(name, steps, sigma_min=1e-5) for steps in (240, 480))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.05)


def slope(sigma: float) -> float:
    """Of a Gaussian's path, as a multiple of the state."""
    return sigma / (DEVIATION**2 + sigma**2)


def factor(solver: str, sigma: float, sigma_next: float) -> float:
    """What a step multiplies a Gaussian's state by: the method written for numbers."""
    length, middle = sigma_next - sigma, math.sqrt(sigma * sigma_next)
    ahead = 1 + length * slope(sigma)
    estimate = 1 - sigma * slope(sigma)
    estimate_ahead = (1 - sigma_next * slope(sigma_next)) * ahead
    estimate_middle = (1 - middle * slope(middle)) * (1 + (middle - sigma) * slope(sigma))
    if solver == "2mid":  # exp(-h) + h (b1 x0 + b2 x0'), with h = ln(sigma / sigma_next) and x0' in its middle
        h = math.log(sigma / sigma_next)
        phi = (1 - math.exp(-h)) / h
        b2 = (1 - phi) / h / 0.5
        return math.exp(-h) + h * ((phi - b2) * estimate + b2 * estimate_middle)
    if solver == "3kutta_naive":
        halfway = sigma + length / 2
        second = slope(halfway) * (1 + length / 2 * slope(sigma))
        third = slope(sigma_next) * (1 + length * (2 * second - slope(sigma)))
        return 1 + length * (slope(sigma) + 4 * second + third) / 6
    if solver == "2heun_naive":
        return 1 + length * ((ahead - estimate) / sigma + (ahead - estimate_ahead) / sigma_next) / 2
    constant = {
        "1euler": estimate,
        "2mid_stable": estimate_middle,
        "2heun_edm": (estimate + estimate_ahead) / 2,
    }[solver]
    return constant + sigma_next / sigma * (1 - constant)


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("solver", SINGLE_STEPS)
def test_step_is_that_of_the_method(solver: str, steps: int) -> None:
    roots = [80 ** (1 / 7) + step / steps * (0.002 ** (1 / 7) - 80 ** (1 / 7)) for step in range(steps + 1)]
    sigmas = [root**7 for root in roots]
    whole = 80 * math.prod(factor(solver, *levels) for levels in pairwise(sigmas))
    noise = unit_noise(1, 2, 1, 3, 3)
    result = make("res-" + solver, steps=steps).sample(Gaussian(), noise)
    wanted = noise * whole * DEVIATION**2 / (DEVIATION**2 + sigmas[-1] ** 2)
    torch.testing.assert_close(result, wanted, rtol=2e-5, atol=0)


@pytest.mark.parametrize(("s_churn", "share"), [(1.8, 0.05), (1000.0, math.sqrt(1.2) - 1)])
def test_churn_raises_every_level_but_the_last(s_churn: float, share: float) -> None:
    """The 36 levels of 35 steps divide s_churn; nothing is raised by more than a factor of sqrt(1.2)."""
    plain, churned, noise = Gaussian(), Gaussian(), unit_noise(1, 4, 2, 32, 32)
    make("res-2ab").sample(plain, noise)
    make("res-2ab", s_churn=s_churn, s_noise=1.5).sample(churned, noise, torch.Generator().manual_seed(5))
    levels = torch.tensor([[before[1], after[1]] for before, after in zip(plain.calls, churned.calls, strict=True)])
    torch.testing.assert_close(levels[:-1, 1], levels[:-1, 0] * (1 + share))
    assert levels[-1, 0] == levels[-1, 1]
    added = churned.calls[0][0] - plain.calls[0][0]
    assert added.std().item() == pytest.approx(1.5 * 80 * math.sqrt((1 + share) ** 2 - 1), rel=0.03)
    assert abs((added * noise).mean() / added.std()) < 0.05


@pytest.mark.parametrize(("solver", "within"), [("2ab", 0.08), ("2mid", 0.01), ("1euler", 0.08), ("2heun_edm", 0.02)])
def test_churn_leaves_the_deviation_of_the_data(solver: str, within: float) -> None:
    """As far as the solver is right without; 2ab is less so, as README.md says."""
    sampler = make("res-" + solver, steps=70, s_churn=20.0)
    first, second = (
        sampler.sample(Gaussian(), unit_noise(1, 4, 5, 32, 32), torch.Generator().manual_seed(seed)) for seed in (5, 6)
    )
    assert first.std().item() == pytest.approx(DEVIATION, rel=within)
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.5


def test_without_churn_nothing_is_drawn() -> None:
    generator = torch.Generator().manual_seed(5)
    make("res-2ab").sample(Gaussian(), unit_noise(1, 1, 1, 1, 1), generator)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state())


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
    ("name", "within"),
    [
        ("euler", 0.1),
        ("heun", 0.06),
        ("res-2ab", 0.02),
        ("res-2mid", 0.02),
        ("res-1euler", 0.1),
        ("res-2heun_edm", 0.02),
        ("dpmpp-2m", 0.06),
    ],
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


def test_factor_of_no_noise_is_refused() -> None:
    with pytest.raises(ValidationError, match="s_noise says nothing without s_churn"):
        ResOptions(s_noise=1.003)


def test_sigmas_must_fall() -> None:
    with pytest.raises(ValidationError, match="sigma_min must be less than sigma_max"):
        EulerOptions(sigma_min=80.0)
