"""Videos of a person's pictures and clips, from the command line to files, by the tiny network, untrained."""

import json
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cosmos_forge import events, video
from cosmos_forge.files import sha256

RECIPE = """\
extends = "generates.toml"

[generate]
num_frames = 17
height = 32
width = 48
guidance = 1.0
"""
LONG = ["steps=20", "input=clip.mp4", "frames=36", "generate.chunk_frames=17", 'prompt=["rise", "fall"]']


@pytest.fixture(scope="module")
def inputs(workplace):
    """A wide picture, and a clip of odd size; both in a JSONL."""
    (workplace.folder / "gen.toml").write_text(RECIPE)
    ramp = np.linspace(0, 255, 130, dtype=np.uint8)
    Image.fromarray(np.broadcast_to(ramp[None, :, None], (50, 130, 3)).copy()).save(workplace.folder / "wide.png")
    pixels = np.full((14, 46, 62, 3), 60, np.uint8)
    for index, frame in enumerate(pixels):
        frame[10:30, 2 * index : 2 * index + 20] = (220, 40, 40)
    video.write_mp4(pixels, 15.0, workplace.folder / "clip.mp4")
    lines = [{"visual_input": "wide.png", "prompt": "a ramp"}, {"visual_input": "clip.mp4"}]
    (workplace.folder / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return workplace


@pytest.fixture(scope="module")
def batch(inputs):
    """What is said when the JSONL is done."""
    return generate(inputs, "batch", "input=list.jsonl", "prompt=it moves")


def generate(workplace, name, *overrides, code=0):
    return workplace.forge("generate", "gen.toml", "--name", name, *overrides, code=code)


def started(workplace, name):
    """What was worked on in the last attempt."""
    said = workplace.events(name)
    last = max(index for index, event in enumerate(said) if isinstance(event, events.RunStarted))
    return {event.what for event in said[last:] if isinstance(event, events.Progress)}


def begun_with(workplace, name, what):
    """How many of these were done when the last attempt first spoke of them."""
    said = workplace.events(name)
    last = max(index for index, event in enumerate(said) if isinstance(event, events.RunStarted))
    return next(event.done for event in said[last:] if isinstance(event, events.Progress) and event.what == what)


def digests(workplace, name):
    return {path.name: sha256(path) for path in (workplace.of(name) / "videos").glob("*.mp4")}


def test_a_batch_leaves_a_video_and_its_settings_for_each_line(inputs, batch):
    videos = inputs.of("batch") / "videos"
    assert sorted(path.name for path in videos.iterdir()) == [
        *("0-wide.json", "0-wide.mp4", "1-clip.json", "1-clip.mp4", "list.jsonl.png")
    ]
    assert "a picture gives 1 frame, not 9: wide.png" in batch
    assert "stretched to 32x48 pixels: wide.png from 50x130, clip.mp4 from 46x62" in batch
    ramp, clip = (json.loads((videos / f"{name}.json").read_text()) for name in ("0-wide", "1-clip"))
    assert (ramp["prompt"], ramp["given_frames"], ramp["fps"]) == ("a ramp", 1, 24.0)
    assert (clip["prompt"], clip["given_frames"], clip["fps"]) == ("it moves", 9, 15.0)
    assert clip["negative_prompt"].startswith("The video captures a series of frames showing ugly scenes")
    assert clip["source"]["sha256"] == sha256(inputs.folder / "clip.mp4")
    frames = list(video.read_frames(videos / "1-clip.mp4"))
    assert len(frames) == 17 and frames[0].shape == (32, 48, 3)
    red = (frames[8][..., 0] > 150).nonzero()[1].mean() / 48 * 62  # where the square is in the clip's last frame
    assert abs(red - (2 * 13 + 10)) < 3


def test_what_is_there_is_not_made_again(inputs, batch):
    before = digests(inputs, "batch")
    assert "2 of 2 videos are there" in generate(inputs, "batch", "input=list.jsonl", "prompt=it moves")
    assert "videos" not in started(inputs, "batch")
    (inputs.of("batch") / "videos" / "0-wide.mp4").unlink()
    assert "1 of 2 videos are there" in generate(inputs, "batch", "input=list.jsonl", "prompt=it moves")
    assert digests(inputs, "batch") == before
    assert "1 of 2 videos are there" in generate(inputs, "batch", "input=list.jsonl", "prompt=it does not")
    assert [name for name, digest in digests(inputs, "batch").items() if digest != before[name]] == ["1-clip.mp4"]
    generate(inputs, "batch", "input=list.jsonl", "prompt=it moves")
    assert digests(inputs, "batch") == before


def test_a_batch_that_is_stopped_goes_on_with_what_is_missing(inputs, strike, batch):
    command = ["input=list.jsonl", "prompt=it moves"]
    strike("interrupt", "generate", "works", 0.1).befall(inputs, "generate", "gen.toml", "--name", "stopped", *command)
    assert not inputs.leftovers()
    videos = inputs.of("stopped") / "videos"
    assert all(path.with_suffix(".mp4").exists() for path in videos.glob("*.json"))
    generate(inputs, "stopped", *command)
    assert digests(inputs, "stopped") == digests(inputs, "batch")


def test_what_is_sampled_and_not_yet_written_is_not_sampled_again(inputs, batch):
    """A guardrail without weights fails after sampling, which is then no loss; and it may be switched off."""
    (inputs.folder / "nothing").mkdir()
    command = ["input=list.jsonl", "prompt=it moves"]
    guardrail = [f"guardrail.video-filter.{key}=nothing" for key in ("model", "encoder")]
    generate(inputs, "torn", *command, *guardrail, code=1)
    assert {path.name for path in (inputs.of("torn") / "videos").iterdir()} == {"0-wide.json", "1-clip.json"}
    (inputs.of("torn") / "latents" / "0-wide.safetensors").unlink()
    assert "what was sampled before is not sampled again" in generate(inputs, "torn", *command)
    assert 1 <= begun_with(inputs, "torn", "videos") < 2
    assert digests(inputs, "torn") == digests(inputs, "batch")
    assert not (inputs.of("torn") / "latents").exists()


def test_latents_of_other_settings_are_sampled_anew(inputs, batch):
    """As after an interruption and a change of mind."""
    stale = inputs.of("stale") / "latents" / "1-clip.safetensors"
    stale.parent.mkdir(parents=True)
    save_file({"latents": torch.zeros(1)}, stale, {"made_with": json.dumps({"seed": 2})})
    assert "not sampled again" not in generate(inputs, "stale", "input=list.jsonl", "prompt=it moves")
    assert digests(inputs, "stale") == digests(inputs, "batch") and not stale.exists()


def test_a_long_video_goes_on_between_chunks(inputs):
    """The launcher is killed once a chunk is there; what comes out is what comes out anyway, and every frame once."""
    generate(inputs, "long", *LONG)
    process = inputs.start("generate", "gen.toml", "--name", "cut", *LONG)
    first = inputs.of("cut") / "chunks" / "clip" / "0.mkv"
    while not first.exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert first.exists() and not (inputs.of("cut") / "videos" / "clip.mp4").exists()
    made = first.stat().st_mtime_ns
    time.sleep(1.0)  # its worker sees that it is alone
    generate(inputs, "cut", *LONG)
    assert begun_with(inputs, "long", "chunks") < 1 <= begun_with(inputs, "cut", "chunks")
    assert made and digests(inputs, "cut") == digests(inputs, "long")
    assert not (inputs.of("cut") / "chunks").exists()

    record = json.loads((inputs.of("long") / "videos" / "clip.json").read_text())
    assert (record["num_frames"], record["chunk_frames"], record["overlap"]) == (36, 17, 9)
    assert record["prompt"] == ["rise", "fall"]
    generate(inputs, "short", "input=clip.mp4", "prompt=rise", "steps=20")
    long, short = (
        np.stack(list(video.read_frames(inputs.of(name) / "videos" / "clip.mp4"))) for name in ("long", "short")
    )
    assert len(long) == 36 and len(short) == 17
    assert np.abs(long[:17].astype(int) - short).mean() < 4, "the first chunk is the video of one chunk"


def test_a_command_line_that_is_wrong_is_told_in_the_words_that_were_typed(inputs):
    said = generate(inputs, "wrong", "imput=clip.mp4", code=2)
    assert "unknown key `imput`" in said and "did you mean `input`?" in said
    said = generate(inputs, "wrong", "input=list.jsonl", "given=8", code=2)
    assert "given_frames must be 1, 9, 17, .. (8k+1), got 8" in said and "given=8" in said
    assert not inputs.of("wrong").exists()
