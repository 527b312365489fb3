"""Several processes make one video, or videos of their own: the same as one process makes."""

import json
import shutil

import pytest

from cosmos_forge import events

SMALL = ["sampler.steps=3", "train.steps=2", "train.save_every=2"]
GUIDED = ["generate.guidance=2.0", 'generate.prompt="a ball falls"']
TOGETHER = "2 of 2 processes make a video together: "


@pytest.fixture(scope="module")
def generate(workplace):
    """A function that continues the two held-out clips, under a name, with weights that were trained once."""
    workplace.run("made", 'stages=["prepare", "train", "export"]', *SMALL)

    def generate(name: str, *overrides: str) -> str:
        for part in ("prepared", "export"):
            shutil.copytree(workplace.of("made") / part, workplace.of(name) / part)
        return workplace.run(name, 'stages=["generate"]', *SMALL, *overrides)

    return generate


def spread(use: str, processes: int, together: int | None = None) -> list[str]:
    asked = [f"generate.processes_per_video={together}"] if together else []
    return [f"parallelism.use={use}", f"parallelism.num_processes={processes}", *asked]


def compare(workplace, name: str, like: str) -> None:
    """How far frames are from the true ones, as they were before they were compressed, to the last digit."""
    found, expected = (
        {path.name: json.loads(path.read_text()) for path in (workplace.of(run) / "videos").glob("*.json")}
        for run in (name, like)
    )
    assert found.keys() == expected.keys() and len(expected) == 2
    for key, record in expected.items():
        assert record["metrics"] and found[key]["metrics"] == record["metrics"], key
        assert (workplace.of(name) / "videos" / key).with_suffix(".mp4").exists()


def test_processes_agree_with_one(workplace, generate):
    """Together or side by side, and with weights that come block by block."""
    generate("one", *GUIDED)
    assert TOGETHER + "the two evaluations of guidance" in generate("two", *GUIDED, *spread("ddp", 2, together=2))
    compare(workplace, "two", "one")
    said = generate("four", *GUIDED, *spread("fsdp", 4, together=4))
    assert "4 of 4 processes make a video together: the two evaluations of guidance x tokens in 2 parts" in said
    compare(workplace, "four", "one")
    started = [event for event in workplace.events("four") if isinstance(event, events.StageStarted)]
    assert [event.processes for event in started] == [4]
    said = generate("side-by-side", *GUIDED, *spread("ddp", 2), "generate.memory=streamed")
    assert "each process makes videos of its own" in said
    compare(workplace, "side-by-side", "one")
    assert not workplace.leftovers()


def test_what_cannot_be_is_told_before_the_start(workplace):
    for overrides, told in (
        (spread("ddp", 2, together=4), "processes_per_video = 4, but there are 2"),
        (spread("ddp", 3, together=3), "cannot share the model's 4 attention heads"),
    ):
        assert told in workplace.run("never", 'stages=["generate"]', *SMALL, *overrides, code=2)
    assert not workplace.of("never").exists()
