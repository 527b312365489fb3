"""Predicted memory: its parts, and what must be forgotten for it to fit. Figures by hand."""

import pytest

from cosmos_forge.memory import Holdings, fit, mixtures, predict
from cosmos_forge.types import Activations

GIB = 2**30
BLOCK = Activations(whole=20, attention=3, block=1, working=5)


def memory(levels, **changes):
    settings = {"samples": 2, "number_bytes": 2, "optimizer_state": "fp32", "average": False, **changes}
    return predict(Holdings(weights=1000, trained=100), BLOCK, levels, **settings)


def test_parts_of_a_step():
    found = memory(["block", "attention"], average=True)
    assert (found.weights, found.gradients, found.optimizer, found.average) == (1000, 400, 800, 400)
    assert found.kept == 4 * (1 + 3)
    assert found.working == 4 * (17 + 5)  # of the last block; the first one's, 19 + 5, comes when 3 are let go
    assert found.total == 1000 + 400 + 800 + 400 + 16 + 88


def test_eight_bit_moments_take_about_a_quarter():
    assert memory(["none"], optimizer_state="8bit").optimizer == pytest.approx(203.125)


def test_mixtures_go_from_most_memory_to_least():
    totals = [memory(levels).total for levels in mixtures(4)]
    assert totals == sorted(totals, reverse=True)
    assert len(totals) == 2 * 4 + 1


@pytest.mark.parametrize(
    ("usable", "levels"),
    [
        (10**9, ["none"] * 3),
        (2200 + 4 * (2 * 3 + 20 + 5), ["attention", "attention", "none"]),
        (2200 + 4 * (2 * 3 + 20 + 5) - 1, ["block", "attention", "attention"]),
        (2200 + 4 * (2 * 1 + 20 + 5), ["block", "block", "attention"]),
        (0, ["block"] * 3),
    ],
)
def test_as_little_is_forgotten_as_fits(usable, levels):
    assert fit(3, usable, memory) == levels


def test_it_is_told_in_words():
    holdings = Holdings(weights=13 * GIB, trained=GIB // 8)
    said = str(predict(holdings, BLOCK, ["none"], samples=1, number_bytes=2, optimizer_state="fp32", average=False))
    assert said == "14.5 GiB (weights 13.0, gradients 0.5, optimizer 1.0)"
