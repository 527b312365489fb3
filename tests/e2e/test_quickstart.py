"""The main job, shrunken: the shipped recipes through all stages, by the commands that a person types."""

import csv
import json
from pathlib import Path

import av
import pytest
from PIL import Image

from cosmos_forge import events
from cosmos_forge.files import sha256

SMALL = [
    *("dataset.clips=6", "dataset.height=32", "dataset.width=32", "prepare.held_out=2", "sampler.steps=3"),
    *("train.steps=12", "train.save_every=6", "train.warmup_steps=2"),
]


@pytest.fixture(scope="module")
def quickstart(workplace):
    """The run of the shipped recipe, and what was said."""
    said = workplace.forge("run", "quickstart.toml", *SMALL, "logger.csv.on=true")
    return workplace.of("quickstart"), said


def artifacts(run: Path, stage: str) -> dict[str, dict]:
    return json.loads((run / "stages" / f"{stage}.json").read_text())["artifacts"]


def test_every_stage_is_done_and_measured(quickstart):
    run, said = quickstart
    assert sorted(path.stem for path in (run / "stages").iterdir()) == ["export", "generate", "prepare", "train"]
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics) == {"psnr_db", "psnr_copy_db", "ssim", "ssim_copy", "clips", "train_seconds"}
    assert metrics["clips"] == 2 and metrics["train_seconds"] > 0 and metrics["psnr_copy_db"] > 5
    assert "runs/quickstart/videos" in said and "PSNR" in said and "held-out loss" in said


def test_a_logger_gets_every_step(quickstart, workplace):
    with (quickstart[0] / "steps.csv").open(newline="") as file:
        rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    steps = [event for event in workplace.events("quickstart") if isinstance(event, events.Step)]
    assert rows == [(step.step, step.loss) for step in steps] and rows


def test_videos_play_and_say_how_they_were_made(quickstart):
    videos = quickstart[0] / "videos"
    found = sorted(videos.glob("*.mp4"))
    assert len(found) == 2
    for path in found:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24").shape for frame in container.decode(video=0)]
        settings = json.loads(path.with_suffix(".json").read_text())
        assert frames == [(32, 32, 3)] * settings["num_frames"]
        assert settings["given_frames"] == 9 and settings["sampler"]["use"] == "euler" and settings["prompt"]
    with Image.open(videos / "contact-sheet.png") as sheet:
        sheet.load()
        assert sheet.width > 100 and sheet.height > 100


def test_artifacts_have_the_recorded_digests(quickstart):
    run, _ = quickstart
    for stage in ("prepare", "train", "export", "generate"):
        for entry in artifacts(run, stage).values():
            path, digest = run / entry["path"], entry["sha256"]
            if isinstance(digest, str):
                assert sha256(path) == digest
            else:
                assert {name: sha256(path / name) for name in digest} == digest and digest


def test_the_same_command_again_does_nothing(workplace, quickstart):
    seen = len(workplace.events("quickstart"))
    said = workplace.forge("run", "quickstart.toml", *SMALL)
    new = workplace.events("quickstart")[seen:]
    assert [event.stage for event in new if isinstance(event, events.StageSkipped)] == [
        *("prepare", "train", "export", "generate")
    ]
    assert not any(isinstance(event, events.StageStarted) for event in new)
    assert said.count("done before") == 4


def test_watch_shows_a_finished_run(workplace, quickstart):
    assert "quickstart: done in" in workplace.forge("watch", "quickstart")


def test_the_recipe_in_the_run_directory_is_the_run(workplace, quickstart):
    assert workplace.forge("run", "runs/quickstart/recipe.toml").count("done before") == 4


def test_another_plan_is_refused_and_can_be_accepted(workplace, quickstart):
    changed = ["run", "quickstart.toml", *SMALL, "train.lr=2e-3", "train.steps=14"]
    said = workplace.forge(*changed, code=2)
    assert "train.lr is 0.002, but run quickstart was started with 0.004" in said
    assert "train.steps is 14, but run quickstart was started with 12" in said
    assert "--continue" in said
    assert workplace.forge("run", "quickstart.toml", *SMALL).count("done before") == 4

    workplace.forge(*changed, "--continue", "--name", "quickstart")
    new = workplace.events("quickstart")
    assert any(isinstance(event, events.Resumed) and event.step == 12 for event in new)
    assert max(workplace.losses("quickstart")) == 14


def test_one_stage_can_be_done_again_with_other_settings(workplace, quickstart):
    run, _ = quickstart
    before = {path.name: sha256(path) for path in (run / "videos").glob("*.mp4")}
    recipe = str(run / "recipe.toml")
    workplace.forge("generate", recipe, "generate.seed=3")
    assert {path.name for path in (run / "videos").glob("*.mp4")} == before.keys()
    assert all(sha256(run / "videos" / name) != digest for name, digest in before.items())
    settings = [json.loads(path.read_text()) for path in (run / "videos").glob("*.json")]
    assert {each["seed"] for each in settings} == {3}
    assert "seed = 3" not in (run / "recipe.toml").read_text()
    said = workplace.forge("generate", recipe, "train.lr=1.0", code=2)
    assert "train.lr is 1.0" in said


def test_an_adapter_is_trained_on_the_runs_weights(workplace, quickstart):
    workplace.forge("run", "quickstart-lora.toml", *SMALL, "train.steps=6")
    run = workplace.of("quickstart-lora")
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"psnr_db", "psnr_base_db", "psnr_copy_db"} <= metrics.keys()
    assert {"weights", "trained weights"} <= artifacts(run, "export").keys()
