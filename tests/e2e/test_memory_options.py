"""Knobs of memory through the real stages: the same training with recomputation, and small moments that resume."""

import pytest

SIX_STEPS = ("train.steps=6", "train.log_every=1", "train.save_every=3", 'stages=["prepare", "train", "export"]')
EIGHT_BIT = ("train.optimizer_state=8bit", "train.ema=true")


@pytest.mark.slow
@pytest.mark.parametrize("level", ["products", "attention", "block"])
def test_recomputing_changes_nothing(workplace, level):
    workplace.run("whole", *SIX_STEPS, "train.recompute=none")
    workplace.run(level, *SIX_STEPS, f"train.recompute={level}")
    assert len(workplace.losses(level)) == 6
    assert workplace.losses(level) == workplace.losses("whole")
    assert workplace.weights(level) == workplace.weights("whole")


@pytest.mark.slow
def test_small_moments_go_on_from_a_checkpoint(workplace, strike):
    """Bit by bit, although they are rounded at random."""
    workplace.run("undisturbed", *SIX_STEPS, *EIGHT_BIT, "train.steps=60")
    command = workplace.command("struck", *SIX_STEPS, *EIGHT_BIT, "train.steps=60")
    strike("kill", "train", "works", 0.3).befall(workplace, *command)
    assert len(workplace.losses("struck")) < 60
    workplace.forge(*command)
    assert workplace.losses("struck") == workplace.losses("undisturbed")
    assert workplace.weights("struck") == workplace.weights("undisturbed")


@pytest.mark.slow
def test_small_moments_are_alike_in_every_copy(workplace):
    """Else the copies of the weights would part, of which a checkpoint has only the first process's."""
    two = (*SIX_STEPS, *EIGHT_BIT, "parallelism.use=ddp", "parallelism.num_processes=2")
    workplace.run("at-once", *two)
    workplace.run("in-halves", *two, "train.steps=3")
    workplace.run("in-halves", *two, "--continue")
    assert workplace.losses("in-halves") == workplace.losses("at-once")
    assert workplace.weights("in-halves") == workplace.weights("at-once")


@pytest.mark.slow
def test_deterministic_training_is_the_same_on_a_cpu(workplace):
    """Every kernel of a step, of judging and of sample videos has a deterministic form."""
    judged = ("train.validate_every=3", "train.recompute=block")
    workplace.run("chance", *SIX_STEPS, *judged)
    workplace.run("strict", *SIX_STEPS, *judged, "train.deterministic=true")
    assert workplace.losses("strict") == workplace.losses("chance")
    assert workplace.weights("strict") == workplace.weights("chance")
