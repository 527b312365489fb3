"""Closed forms and published numbers of `cosmos_forge.edm`."""

import math

import pytest
import torch

from cosmos_forge.edm import LogNormal, Preconditioning, karras_sigmas

SIGMA = torch.logspace(-4, 2, 25, dtype=torch.float64)


def test_network_input_and_target_have_unit_variance() -> None:
    """EDM, appendix B.6: that is what c_in and c_out are chosen for."""
    edm = Preconditioning(0.5)
    torch.testing.assert_close(edm.c_in(SIGMA) ** 2 * (SIGMA**2 + 0.25), torch.ones_like(SIGMA))
    # F's target is (x0 - c_skip * x) / c_out, and x0 and noise are independent.
    target = ((1 - edm.c_skip(SIGMA)) ** 2 * 0.25 + edm.c_skip(SIGMA) ** 2 * SIGMA**2) / edm.c_out(SIGMA) ** 2
    torch.testing.assert_close(target, torch.ones_like(SIGMA))
    torch.testing.assert_close(edm.loss_weight(SIGMA), edm.c_out(SIGMA) ** -2)


def test_c_noise_of_the_reference() -> None:
    assert Preconditioning().c_noise(torch.tensor(80.0)).item() == pytest.approx(1.0955, abs=1e-4)


def test_log_normal_quantiles() -> None:
    """5, 50 and 95 % of the reference's training noise: exp(N(0, 1)) times sqrt(16)."""
    normal = torch.special.ndtri(torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64))
    sigma = LogNormal(0, 1, math.sqrt(16)).sigma(normal)
    torch.testing.assert_close(sigma, torch.tensor([0.77, 4.0, 20.7], dtype=torch.float64), rtol=0, atol=0.05)


def test_schedule_of_the_reference() -> None:
    """The 36 levels of its RES sampler, as it prints them."""
    sigmas = karras_sigmas(36, 0.002, 80)
    assert sigmas.dtype == torch.float64
    recorded = [80, 68.325060, 58.142068, 49.288633, 41.616826]
    torch.testing.assert_close(sigmas[:5], torch.tensor(recorded, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(sigmas[-2:], torch.tensor([0.003929, 0.002], dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_schedule_of_one_level_is_the_highest() -> None:
    torch.testing.assert_close(karras_sigmas(1, 0.002, 80), torch.tensor([80.0], dtype=torch.float64))


def test_levels_stand_for_equal_shares_of_what_is_drawn():
    """Between neighbours' middles lies the same share of a million draws."""
    law = LogNormal(-0.5, 1.2, 4.0)
    levels = torch.tensor(law.levels(5))
    drawn = law.sigma(torch.randn(1_000_000, generator=torch.Generator().manual_seed(0)))
    below = [(drawn < level).double().mean().item() for level in levels]
    assert below == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9], abs=2e-3)
