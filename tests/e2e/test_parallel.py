"""Several processes train what one trains, to within rounding, at the same global batch."""

import pytest

from cosmos_forge import events

TRAIN = ["train.steps=4", "train.save_every=1", "train.keep_checkpoints=4", "train.log_every=1"]
LORA = ["method.use=lora", "method.rank=4", "train.ema=true"]
IN_TURN = "train.micro_batch_size=1"


def spread(use: str, processes: int, **options: int) -> list[str]:
    """Overrides for that many processes."""
    options |= {"num_processes": processes}
    return [f"parallelism.use={use}", *(f"parallelism.{key}={value}" for key, value in options.items())]


RUNS = {  # by name, how it is made; with a clip of the four at a time where so said
    "ddp": [*spread("ddp", 2), IN_TURN],
    "fsdp": [*spread("fsdp", 2), IN_TURN],
    "context": [*spread("ddp", 2, context=2), IN_TURN],
    "fsdp-context": spread("fsdp", 4, context=2),
    "copies-of-pieces": [*spread("fsdp", 4, shard=2), IN_TURN],
}
CASES = [
    *((name, "full") for name in RUNS),
    *((name, "lora") for name in ("ddp", "fsdp-context", "copies-of-pieces")),
]


@pytest.fixture(scope="module")
def one(workplace):
    """One process's runs."""
    workplace.train("one", *TRAIN)
    workplace.train("one-lora", *TRAIN, *LORA)


def compare(workplace, name: str, like: str, steps: int = 4) -> None:
    """Losses of every step to a part in 10,000; weights to a part in 1,000 of their size."""
    found, expected = workplace.losses(name), workplace.losses(like)
    assert found.keys() == expected.keys() and len(expected) == steps
    for step, (loss, metrics, lr, grad_norm) in expected.items():
        assert found[step][0] == pytest.approx(loss, rel=1e-4), f"step {step}"
        assert found[step][1] == pytest.approx(metrics, rel=1e-4), f"step {step}"
        assert found[step][2] == lr
        assert found[step][3] == pytest.approx(grad_norm, rel=1e-3), f"step {step}"
    here, there = (workplace.state(run, "weights/") for run in (name, like))
    assert here.keys() == there.keys() and len(there) > 10
    for key in there:
        assert (here[key] - there[key]).norm() <= 1e-3 * there[key].norm() + 1e-6, key


def first_gradients(workplace, name: str) -> dict:
    """Of every parameter, as AdamW's first moment shows them after one step: a tenth of the clipped gradient."""
    state = workplace.state(name, "optimizer/", step=1)
    return {key: value for key, value in state.items() if key.endswith("/exp_avg")}


@pytest.mark.parametrize(("name", "method"), CASES)
def test_processes_agree_with_one(workplace, one, name, method):
    extra, suffix = (LORA, "-lora") if method == "lora" else ([], "")
    run, like = name + suffix, "one" + suffix
    said = workplace.train(run, *TRAIN, *RUNS[name], *extra)
    compare(workplace, run, like)
    found, expected = first_gradients(workplace, run), first_gradients(workplace, like)
    assert found.keys() == expected.keys() and len(expected) > 10
    largest = max(value.norm() for value in expected.values())
    for key, value in expected.items():
        assert (found[key] - value).norm() <= 1e-4 * value.norm() + 1e-6 * largest, key
    started = [event for event in workplace.events(run) if isinstance(event, events.StageStarted)]
    count = 4 if name in ("fsdp-context", "copies-of-pieces") else 2
    assert [event.processes for event in started] == [count]
    assert f"gradients agree across {count} processes" in said


def test_what_takes_no_part_in_the_loss_does_not_train(workplace):
    """The log-variance, where the loss goes without: in several processes, and resumed."""
    plain = [*TRAIN, "model.learned_variance=false"]
    assert "of 732,672 parameters train" in workplace.train("plain", *plain)
    workplace.train("plain-ddp", *plain, *spread("ddp", 2))
    compare(workplace, "plain-ddp", "plain")
    workplace.train("plain-ddp", *plain, *spread("ddp", 2), "train.steps=6", "--continue")
    assert max(workplace.losses("plain-ddp")) == 6


@pytest.mark.parametrize("use", ["single", "ddp", "fsdp"])
def test_bfloat16_trains_float32_weights(workplace, one, use):
    """Losses are those of float32 to bfloat16's precision; weights take up steps that bfloat16 could not hold."""
    overrides = spread(use, 2) if use != "single" else []
    workplace.train(f"bf16-{use}", *TRAIN, "precision=bf16", *overrides)
    found, expected = workplace.losses(f"bf16-{use}"), workplace.losses("one")
    for step, (loss, *_) in expected.items():
        assert found[step][0] == pytest.approx(loss, rel=0.02), f"step {step}"
        assert found[step][0] != loss
    saved = workplace.state(f"bf16-{use}", "weights/")
    beyond = [key for key, value in saved.items() if not (value == value.bfloat16()).all()]
    assert len(beyond) == len(saved), "weights were rounded to bfloat16"


@pytest.mark.parametrize("use", ["ddp", "fsdp"])
def test_a_run_of_two_processes_is_gone_on_with_by_one_and_again_by_two(workplace, strike, use):
    longer = ["train.steps=12", "train.save_every=3", "train.log_every=1"]
    workplace.train("longer", *longer, "train.steps=15")
    name = f"fewer-{use}"
    command = workplace.training(name, *longer, *spread(use, 2))
    strike("terminate", "train", "works", 0.1).befall(workplace, *command)
    assert [event.interrupted for event in workplace.events(name) if isinstance(event, events.StageFailed)] == [True]
    workplace.train(name, *longer, "--continue")
    resumed = [event.step for event in workplace.events(name) if isinstance(event, events.Resumed)]
    assert resumed and 0 < resumed[-1] < 12
    workplace.train(name, *longer, *spread(use, 2), "train.steps=15", "--continue")
    started = [event.processes for event in workplace.events(name) if isinstance(event, events.StageStarted)]
    assert started[-3:] == [2, 1, 2]
    compare(workplace, name, "longer", steps=15)


def test_what_cannot_be_shared_out_is_told_before_the_start(workplace):
    for overrides, told in (
        (spread("ddp", 3, context=3), "context = 3 does not divide the model's 4 attention heads"),
        (spread("ddp", 2, context=4), "context = 4 does not divide the stage's 2 processes"),
        (spread("fsdp", 4, shard=3), "shard = 3 does not divide the stage's 4 processes"),
        ([*spread("fsdp", 4, context=2), "train.batch_size=3"], "2 groups of processes take multiples of 2"),
    ):
        assert told in workplace.run("never", 'stages=["train"]', *TRAIN, *overrides, code=2)
    assert not workplace.of("never").exists()
