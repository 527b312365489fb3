"""Two processes train what one trains, to within rounding, at the same global batch."""

import pytest
from safetensors.torch import load_file

from cosmos_forge import events

TRAIN = ['stages=["prepare", "train", "export"]', "train.steps=12", "train.save_every=12", "train.log_every=1"]
LORA = ["method.use=lora", "method.rank=4", "train.ema=true"]
TWO = ["parallelism.num_processes=2"]
RUNS = {  # by name, what it is to equal, and how it is made; two clips a process and step, in turn where so said
    "ddp": ("one", ["parallelism.use=ddp", *TWO, "train.micro_batch_size=1"]),
    "fsdp": ("one", ["parallelism.use=fsdp", *TWO, "train.micro_batch_size=1"]),
    "ddp-lora": ("one-lora", ["parallelism.use=ddp", *TWO, *LORA]),
    "fsdp-lora": ("one-lora", ["parallelism.use=fsdp", *TWO, *LORA]),
}


@pytest.fixture(scope="module")
def one(workplace):
    """One process's runs."""
    workplace.run("one", *TRAIN)
    workplace.run("one-lora", *TRAIN, *LORA)


def compare(workplace, name: str, like: str) -> None:
    """Losses of every step to a part in 10,000; weights to a part in 1,000 of how far training has moved them."""
    found, expected = workplace.losses(name), workplace.losses(like)
    assert found.keys() == expected.keys() and len(expected) == 12
    for step, (loss, metrics, lr, grad_norm) in expected.items():
        assert found[step][0] == pytest.approx(loss, rel=1e-4), f"step {step}"
        assert found[step][1] == pytest.approx(metrics, rel=1e-4), f"step {step}"
        assert found[step][2] == lr
        assert found[step][3] == pytest.approx(grad_norm, rel=1e-3), f"step {step}"
    here, there = (load_file(workplace.of(run) / "export" / "model.safetensors") for run in (name, like))
    assert here.keys() == there.keys()
    for key in there:
        assert (here[key] - there[key]).norm() <= 1e-3 * there[key].norm() + 1e-6, key


@pytest.mark.parametrize("name", RUNS)
def test_processes_agree_with_one(workplace, one, name):
    like, overrides = RUNS[name]
    workplace.run(name, *TRAIN, *overrides)
    compare(workplace, name, like)
    started = [event for event in workplace.events(name) if isinstance(event, events.StageStarted)]
    assert [event.processes for event in started] == [2, 2, 1]


@pytest.mark.parametrize("use", ["ddp", "fsdp"])
def test_a_run_of_two_processes_is_gone_on_with_by_one(workplace, one, strike, use):
    name = f"fewer-{use}"
    command = workplace.command(name, *TRAIN, "train.save_every=3")
    strike("terminate", "train", "works", 0.1).befall(workplace, *command, f"parallelism.use={use}", *TWO)
    assert [event.interrupted for event in workplace.events(name) if isinstance(event, events.StageFailed)] == [True]
    workplace.forge(*command, "--continue")
    resumed = [event.step for event in workplace.events(name) if isinstance(event, events.Resumed)]
    assert resumed and 0 < resumed[-1] < 12
    compare(workplace, name, "one")
