"""Predicted memory: its parts, and what must be forgotten for it to fit. Figures by hand."""

import pytest

from cosmos_forge.memory import Holdings, fit, mixtures, predict
from cosmos_forge.types import Activations

GIB = 2**30
BLOCK = Activations(whole=20, products=12, attention=3, block=1, working=5, flowing=4)


def memory(levels, **changes):
    settings = {"samples": 200, "number_bytes": 2, "optimizer_state": "fp32", "average": False, "accumulated": False}
    return predict(Holdings(weights=1000, trained=100, gathered=10), BLOCK, levels, **settings | changes)


def test_parts_of_a_step():
    found = memory(["block", "attention"], average=True)
    assert (found.weights, found.optimizer, found.average, found.gathered) == (1000, 800, 400, 10)
    assert found.kept == 400 * (1 + 3)
    assert found.working == 400 * (17 + 5)  # of the last block; the first one's, 19 + 5, comes when 3 are let go
    assert found.gradients == 0  # which come with the backward pass
    assert found.total == 1000 + 800 + 400 + 10 + 1600 + 8800


def test_gradients_come_as_blocks_let_go():
    """Of the first block's backward pass, where the second one's gradients are there."""
    found = memory(["block", "block"], samples=20)
    assert (found.gradients, found.kept, found.working) == (200, 40 * 1, 40 * (19 + 5))


def test_accumulated_gradients_are_there_all_the_time():
    found = memory(["block", "attention"], accumulated=True)
    assert (found.gradients, found.kept) == (400, 400 * (1 + 3))


def test_the_update_may_need_most():
    """All gradients, and nothing of the blocks."""
    found = memory(["block"], samples=1, average=True)
    assert (found.gradients, found.gathered, found.kept, found.working) == (400, 0, 0, 0)
    assert found.total == 1000 + 400 + 800 + 400


def test_eight_bit_moments_take_about_a_quarter():
    assert memory(["none"], optimizer_state="8bit").optimizer == pytest.approx(203.125)


def test_mixtures_keep_less_and_less():
    amounts = {"none": 20, "products": 12, "attention": 3, "block": 1}
    kept = [sum(amounts[level] for level in levels) for levels in mixtures(4)]
    assert kept == sorted(kept, reverse=True)
    assert len(kept) == 3 * 4 + 1


@pytest.mark.parametrize(
    ("usable", "levels"),
    [
        (10**9, ["none"] * 3),
        (1810 + 400 * (2 * 12 + 20 + 4), ["products", "products", "none"]),
        (1810 + 400 * (2 * 12 + 20 + 4) - 1, ["products", "products", "products"]),
        # of the second block, when the last one's gradients are there; that one computes no product again, and needs
        # 12 + 4 besides
        (1810 + 134 + 400 * (2 * 3 + 17 + 5), ["attention", "attention", "products"]),
        (1810 + 133 + 400 * (2 * 3 + 17 + 5), ["block", "block", "attention"]),
        (0, ["block"] * 3),
    ],
)
def test_as_little_is_forgotten_as_fits(usable, levels):
    assert fit(3, usable, memory) == levels


def test_it_is_told_in_words():
    settings = {"samples": 1, "number_bytes": 2, "optimizer_state": "fp32", "average": False, "accumulated": False}
    said = str(predict(Holdings(weights=13 * GIB, trained=GIB // 8), BLOCK, ["none"], **settings))
    assert said == "14.5 GiB (weights 13.0, gradients 0.5, optimizer 1.0)"
