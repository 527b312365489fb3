"""Knobs of memory through the real stages: the same training with recomputation, and small moments that resume."""

import pytest
import torch

SIX_STEPS = ("train.steps=6", "train.log_every=1", "train.save_every=3")
EIGHT_BIT = ("train.optimizer_state=8bit", "train.ema=true")


def same(workplace, name: str, like: str) -> None:
    """Losses of all steps and all that the last checkpoint holds, bit by bit."""
    assert workplace.losses(name) == workplace.losses(like)
    found, expected = workplace.state(name), workplace.state(like)
    assert found.keys() == expected.keys() and any(key.startswith("weights/") for key in expected)
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


@pytest.mark.slow
@pytest.mark.parametrize("level", ["products", "attention", "block"])
def test_recomputing_changes_nothing(workplace, level):
    workplace.train("whole", *SIX_STEPS, "train.recompute=none")
    workplace.train(level, *SIX_STEPS, f"train.recompute={level}")
    assert len(workplace.losses(level)) == 6
    same(workplace, level, "whole")


@pytest.mark.slow
def test_small_moments_go_on_from_a_checkpoint(workplace, strike):
    """Bit by bit, although they are rounded at random."""
    longer = (*SIX_STEPS, *EIGHT_BIT, "train.steps=60")
    workplace.train("undisturbed", *longer)
    command = workplace.training("struck", *longer)
    strike("kill", "train", "works", 0.3).befall(workplace, *command)
    assert len(workplace.losses("struck")) < 60
    workplace.forge(*command)
    same(workplace, "struck", "undisturbed")


@pytest.mark.slow
def test_small_moments_are_alike_in_every_copy(workplace):
    """Else the copies of the weights would part, of which a checkpoint has only the first process's."""
    two = (*SIX_STEPS, *EIGHT_BIT, "parallelism.use=ddp", "parallelism.num_processes=2")
    workplace.train("at-once", *two)
    workplace.train("in-halves", *two, "train.steps=3")
    workplace.train("in-halves", *two, "--continue")
    same(workplace, "in-halves", "at-once")


@pytest.mark.slow
def test_deterministic_training_is_the_same_on_a_cpu(workplace):
    """Every kernel of a step, of judging and of sample videos has a deterministic form."""
    judged = (*SIX_STEPS, "train.validate_every=3", "train.recompute=block")
    workplace.train("chance", *judged)
    workplace.train("strict", *judged, "train.deterministic=true")
    same(workplace, "strict", "chance")
