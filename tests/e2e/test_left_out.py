"""Steps whose gradients are not finite: a clip's latents are spoilt, so that whichever step takes it has none."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from cosmos_forge import events
from cosmos_forge.training.data import Order, read_index

STEPS = 12
TRAIN = [
    "train.batch_size=2",
    f"train.steps={STEPS}",
    "train.ema=true",
    "train.save_every=1",
    f"train.keep_checkpoints={STEPS}",
    "train.log_every=1",
]
RUNS = {
    "ddp": ["parallelism.use=ddp", "parallelism.num_processes=2"],
    "fsdp": ["parallelism.use=fsdp", "parallelism.num_processes=2"],
    "8bit": ["train.optimizer_state=8bit"],
}


def clips_of(workplace):
    """The four to train on, the first of them to be spoilt."""
    return [clip for clip in read_index(workplace.of("clips") / "prepared" / "index.jsonl") if not clip.held_out]


@pytest.fixture(scope="module")
def train(workplace):
    """A function that trains on four clips, one of them spoilt, under a name; returns what it says."""
    workplace.run("clips", 'stages=["prepare"]')
    spoilt = clips_of(workplace)[0].latents
    latents = load_file(spoilt)
    latents["latents"][0, 1] = float("nan")
    save_file(latents, spoilt)

    def train(name: str, *overrides: str, code: int = 0) -> str:
        return workplace.train(name, *TRAIN, *overrides, code=code)

    return train


@pytest.fixture(scope="module")
def single(train):
    return train("single")


@pytest.fixture(scope="module")
def bad(workplace, train):
    """The steps (1-based) that take the spoilt clip."""
    order = Order([clip.shape for clip in clips_of(workplace)], 2, seed=0)
    return {step for step in range(1, STEPS + 1) if 0 in (order.clip(2 * step - 2), order.clip(2 * step - 1))}


def steps_of(workplace, name):
    return {each.step: each for each in workplace.events(name) if isinstance(each, events.Step)}


def test_they_change_nothing_and_are_told(workplace, single, bad):
    assert 0 < len(bad) < STEPS
    told = steps_of(workplace, "single")
    assert {number for number, step in told.items() if step.left_out} == bad
    for number, step in told.items():
        assert math.isfinite(step.loss) == math.isfinite(step.grad_norm) == (number not in bad)
    assert f"steps {min(bad)} to {min(bad)}, which changed nothing; 1 in all" in single
    assert f"{len(bad)} in all" in single
    for step in range(2, STEPS + 1):
        before, after = (workplace.state("single", step=each) for each in (step - 1, step))
        assert before.keys() == after.keys()
        assert all(torch.isfinite(value).all() for value in after.values())
        same = all(torch.equal(value, after[name]) for name, value in before.items() if not name.startswith("ema/"))
        assert same == (step in bad), step


@pytest.mark.parametrize("name", RUNS)
def test_whatever_trains_leaves_out_the_same(workplace, train, single, bad, name):
    train(name, *RUNS[name])
    found, expected = steps_of(workplace, name), steps_of(workplace, "single")
    assert {number for number, step in found.items() if step.left_out} == bad
    tolerance = 0.2 if name == "8bit" else 1e-3
    for step in expected.keys() - bad:
        assert found[step].loss == pytest.approx(expected[step].loss, rel=tolerance)
    here, there = (workplace.state(each) for each in (name, "single"))
    for key in (key for key in there if key.startswith(("weights/", "ema/"))):
        assert (here[key] - there[key]).norm() <= tolerance * there[key].norm() + 1e-6, key
    assert all(torch.isfinite(value.float()).all() for value in here.values())


def test_twenty_in_a_row_end_training_also_across_a_resumption(workplace, train):
    """Every step takes all four clips, the spoilt one too."""
    train("hopeless", "train.batch_size=4")
    said = train("hopeless", "train.batch_size=4", "train.steps=40", "--continue", code=2)
    assert "gradients were not finite in 20 steps in a row" in said
    assert "fix: a lower train.lr" in said
    assert max(steps_of(workplace, "hopeless")) == 20
    assert not workplace.leftovers()
