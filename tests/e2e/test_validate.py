"""Training is judged on held-out clips as it goes: the same verdict however it is carried out, and the same result."""

import json
import shutil

import pytest
import torch
from PIL import Image

from cosmos_forge import events
from cosmos_forge.training import checkpoint

TRAIN = [
    *("train.steps=8", "train.batch_size=2", "train.micro_batch_size=1", "train.ema=true", "train.log_every=1"),
    *("train.save_every=100", "train.keep_checkpoints=4", "prepare.held_out=3", "sampler.steps=3"),
    "generate.guidance=1.5",
]
JUDGED = [*TRAIN, "train.validate_every=3", "train.validate_samples=3"]


@pytest.fixture(scope="module")
def judged(workplace):
    """One process's run; what it said."""
    return workplace.run("judged", *JUDGED)


@pytest.fixture(scope="module")
def train(workplace, judged):
    """A function that trains under a name, on the same clips."""

    def train(name: str, *overrides: str) -> None:
        shutil.copytree(workplace.of("judged") / "prepared", workplace.of(name) / "prepared")
        workplace.run(name, 'stages=["train"]', *overrides)

    return train


def verdicts(workplace, name: str, offset: int = 0) -> dict[int, events.Validated]:
    found = [event for event in workplace.events(name, offset) if isinstance(event, events.Validated)]
    return {event.step: event for event in found}


def test_the_result_is_what_it_would_be_without(workplace, train):
    train("unjudged", *TRAIN)
    with_it, without = workplace.state("judged"), workplace.state("unjudged")
    assert with_it.keys() == without.keys() and any(name.startswith("ema/") for name in without)
    for name, value in without.items():
        assert torch.equal(with_it[name], value), name
    assert workplace.losses("judged") == workplace.losses("unjudged")


def test_a_person_is_told_whether_it_learns(workplace, judged):
    found = verdicts(workplace, "judged")
    assert list(found) == [0, 3, 6, 8]
    for event in found.values():
        assert len(event.sigmas) == len(event.losses) == 5
        assert event.base == found[0].losses
    assert found[8].loss < found[0].loss, "it has learned nothing"
    assert f"held-out loss {found[8].loss:.4g} ({found[0].loss:.4g} before training)" in judged
    assert "validation: averaged weights, 3 of 3 held-out clips" in judged
    best = min((event for event in found.values() if event.step), key=lambda event: event.loss)
    assert found[best.step].best
    assert checkpoint.best(workplace.of("judged") / "checkpoints").name == f"step-{best.step:09d}"


def test_the_last_samples_are_what_generate_makes(workplace, judged):
    """Other code, other processes and exported weights come to the same videos."""
    folder = workplace.of("judged")
    metrics = json.loads((folder / "metrics.json").read_text())
    last = verdicts(workplace, "judged")[8]
    assert last.metrics.keys() == {"psnr_db", "psnr_copy_db", "ssim", "ssim_copy"}
    assert last.metrics == pytest.approx({name: metrics[name] for name in last.metrics}, rel=1e-3)
    made = sorted(path.name for path in (folder / "videos").glob("*.mp4"))
    for step in (0, 3, 6, 8):
        samples = folder / "samples" / f"step-{step:09d}"
        assert sorted(path.name for path in samples.glob("*.mp4")) == made and len(made) == 3
        with Image.open(samples / "contact-sheet.png") as sheet:
            assert sheet.width == 1200 and sheet.height > 9 * 50, "three rows for each of three clips"


def test_a_resumed_run_says_the_same(workplace, judged):
    shutil.copytree(workplace.of("judged"), workplace.of("resumed"))
    for left in ("checkpoints/step-000000006", "checkpoints/step-000000008", "samples"):
        shutil.rmtree(workplace.of("resumed") / left)
    (workplace.of("resumed") / "stages" / "train.json").unlink()
    before = (workplace.of("resumed") / "events.jsonl").stat().st_size
    workplace.run("resumed", 'stages=["train"]', *JUDGED, "--continue")
    found, expected = verdicts(workplace, "resumed", before), verdicts(workplace, "judged")
    assert found == {step: expected[step] for step in (6, 8)}
    ends, others = workplace.state("resumed"), workplace.state("judged")
    assert all(torch.equal(value, ends[name]) for name, value in others.items())


@pytest.mark.parametrize(
    ("use", "context"), [("ddp", 1), ("fsdp", 1), ("ddp", 2)], ids=["ddp", "fsdp", "shared samples"]
)
def test_several_processes_say_what_one_says(workplace, train, use, context):
    """Three clips, which two processes cannot share out evenly."""
    name = f"{use}-{context}"
    two = [f"parallelism.use={use}", "parallelism.num_processes=2", f"parallelism.context={context}"]
    train(name, *JUDGED, "train.steps=4", *two)
    found, expected = verdicts(workplace, name), verdicts(workplace, "judged")
    assert list(found) == [0, 3, 4]
    for step in (0, 3):
        assert found[step].losses == pytest.approx(expected[step].losses, rel=1e-4)
        assert found[step].metrics == pytest.approx(expected[step].metrics, rel=1e-3)
        assert (workplace.of(name) / found[step].sheet).exists()
    losses, alone = workplace.losses(name), workplace.losses("judged")
    assert [losses[step][0] for step in losses] == pytest.approx([alone[step][0] for step in losses], rel=1e-4)


def test_the_best_checkpoint_is_exported_when_asked_for(workplace, judged):
    best = checkpoint.best(workplace.of("judged") / "checkpoints")
    said = workplace.run("judged", *JUDGED, 'stages=["export"]', "export.checkpoint=best", "--continue")
    assert f"ema weights of step {int(best.name[5:])}, whose held-out loss was lowest" in said


def test_what_cannot_be_judged_is_told_before_the_start(workplace):
    said = workplace.run("never", "train.validate_every=3", "prepare.held_out=0", 'stages=["train"]', code=2)
    assert "validate_every = 3 has nothing to judge by" in said
    assert "train.validate_every is not set" in workplace.run("never", "export.checkpoint=best", code=2)
