"""The contract of samplers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cosmos_forge.testing.contract import Contract
from cosmos_forge.testing.fakes import build, make_context

SHAPE = (2, 4, 3, 16, 16)
MEAN, DEVIATION = 0.3, 0.5


class GaussianDenoiser:
    """The exact denoiser of data ~ N(0.3, 0.5^2) in every element; counts its calls and checks what it is handed."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
        self.calls += 1
        assert tuple(sigma_B.shape) == (x_BCTHW.shape[0],), f"sigma must be one number a sample, got {sigma_B.shape}"
        assert x_BCTHW.dtype in (torch.float32, torch.float64), f"the state is {x_BCTHW.dtype}; float32 at least"
        assert torch.isfinite(x_BCTHW).all(), f"the state is not finite at sigma {sigma_B.tolist()}"
        sigma = sigma_B.double().view(-1, 1, 1, 1, 1)
        x0 = (DEVIATION**2 * x_BCTHW.double() + sigma**2 * MEAN) / (DEVIATION**2 + sigma**2)
        return x0.float()

    def impose(self, x_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
        """No given frames, so nothing to impose."""
        return x_BCTHW


class SamplerContract(Contract):
    """order: the error falls as steps^-order; needs an option `steps`. tolerance: relative, of the deviation."""

    kind = "sampler"
    order: float | None = None
    tolerance: float = 0.1

    def sample(self, tmp_path: Path, **changes: Any) -> tuple[Tensor, GaussianDenoiser, list[int], Tensor]:
        """Result, denoiser, steps reported, and the noise it started from, with options changed."""
        options = {**self.make_options(tmp_path), **changes}
        sampler = build(self.kind, self.use, options, make_context(tmp_path))
        denoise, steps = GaussianDenoiser(), list[int]()
        noise_BCTHW = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
        result = sampler.sample(denoise, noise_BCTHW.clone(), torch.Generator().manual_seed(2), steps.append)
        return result, denoise, steps, noise_BCTHW

    def test_result_is_distributed_as_the_data(self, tmp_path: Path) -> None:
        result, _, _, noise_BCTHW = self.sample(tmp_path)
        assert tuple(result.shape) == SHAPE and result.dtype == torch.float32, "the result must be float32 latents"
        wanted = DEVIATION * noise_BCTHW.std().item()
        assert result.std().item() == pytest.approx(wanted, rel=self.tolerance), (
            "wrong deviation: is all noise removed?"
        )
        assert result.mean().item() == pytest.approx(MEAN, abs=0.05), "the result's mean is not the data's"

    def test_counts_evaluations(self, tmp_path: Path) -> None:
        _, denoise, _, _ = self.sample(tmp_path)
        promised = self.read_options(tmp_path).evaluations
        assert denoise.calls == promised, (
            f"options.evaluations says {promised}, the denoiser was called {denoise.calls}x"
        )

    def test_reports_steps(self, tmp_path: Path) -> None:
        _, _, steps, _ = self.sample(tmp_path)
        assert steps and steps == list(range(1, len(steps) + 1)), f"on_step must be called with 1, 2, .., got {steps}"

    def test_is_repeatable(self, tmp_path: Path) -> None:
        first, second = self.sample(tmp_path)[0], self.sample(tmp_path)[0]
        assert torch.equal(first, second), "the same noise and generator must give the same result"

    def test_converges(self, tmp_path: Path) -> None:
        if self.order is None:
            pytest.skip("`order` is not set: convergence is not checked")
        limit, *_ = self.sample(tmp_path, steps=640)
        errors = [(self.sample(tmp_path, steps=steps)[0] - limit).abs().mean().item() for steps in (40, 80)]
        rate = float(torch.tensor(errors[0] / errors[1]).log2())
        assert rate > self.order - 0.35, (
            f"errors at 40 and 80 steps, {errors}, fall with order {rate:.2f}, not {self.order}"
        )
