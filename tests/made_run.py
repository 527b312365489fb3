"""A run as `forge run` leaves one, made without training, for tests of what is told of it."""

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image

from cosmos_forge import events as ev
from cosmos_forge import video
from cosmos_forge.files import write_json

EVIL = "<script>document.title='taken'</script> & a \"quoted\" <b>ball</b>"
RECIPE = """\
stages = ["prepare", "train", "export", "generate"]
seed = 3

[dataset]
use = "toy-physics"
clips = 12

[train]
steps = 40
lr = {lr}
"""


def moving(frames=12, shift=2):
    """A bright square on its way; THWC, uint8."""
    pixels = np.full((frames, 48, 64, 3), 40, dtype=np.uint8)
    for index, frame in enumerate(pixels):
        frame[16:32, shift * index : shift * index + 16] = (230, 120, 40)
    return pixels


def make_run(folder: Path, lr: float = 0.001, failed: bool = False, videos: bool = True) -> Path:
    """A run of 40 steps that was resumed once, 100 seconds long; the caption of its second video is mean."""
    now = [1_700_000_000.0]
    folder.mkdir(parents=True)
    log = ev.EventLog(folder / "events.jsonl", clock=lambda: now[0])

    def emit(event, after=1.0):
        now[0] += after
        log.emit(event)

    def steps(first, last, lift=0.0):
        for step in range(first, last + 1, 2):
            loss = 0.2 + math.exp(-step / 15) + 0.05 * math.sin(step) + lift
            emit(
                ev.Step(step, 40, loss, {"edm_loss": loss / 2}, lr, 1 + 0.2 * math.cos(step), 0.5, 8.0, 0.2, 1.25),
                after=1.0,
            )

    emit(ev.RunStarted(folder.name, ["prepare", "train", "export", "generate"], "recipes/<made>.toml"))
    emit(ev.StageStarted("prepare"))
    emit(ev.RejectedClip("videos/short.mp4", "the video has 5 frames, and a clip needs 17"))
    emit(ev.Progress("clips", 0, 12, "clips"))
    emit(ev.Progress("clips", 12, 12, "clips"), after=8)
    emit(ev.StageFinished("prepare", 11))
    emit(ev.StageStarted("train"))
    emit(ev.Note("validation: weights, 4 of 4 held-out clips"))
    _validate(folder, emit, 0, videos)
    steps(2, 20, lift=5.0)
    emit(ev.Saved(12, "checkpoints/step-000000012"), after=0)
    emit(ev.StageFailed("train", [], interrupted=True))
    emit(ev.RunStarted(folder.name, ["prepare", "train", "export", "generate"], "recipes/<made>.toml"), after=500)
    emit(ev.StageSkipped("prepare"))
    emit(ev.StageStarted("train"))
    emit(ev.Resumed(12, "checkpoints/step-000000012"), after=4)
    steps(14, 40)
    _validate(folder, emit, 40, videos)
    emit(ev.Note(f"a note that says {EVIL}", warning=True))
    if failed:
        emit(ev.StageFailed("train", [f"error: it broke: {EVIL}", "  fix: mend it"], "logs/train-rank0.log"))
    else:
        emit(ev.StageFinished("train", 30))
        emit(ev.StageStarted("generate"))
        emit(ev.Artifact("videos", "videos"))
        emit(ev.Measured({"psnr_db": 24.0, "psnr_copy_db": 21.0}))
        emit(ev.StageFinished("generate", 3))
        emit(ev.RunFinished(40))
        write_json(folder / "metrics.json", {"psnr_db": 24.0, "psnr_copy_db": 21.0, "clips": 2})
        if videos:
            _videos(folder)
    (folder / "recipe.toml").write_text(RECIPE.format(lr=lr))
    write_json(
        folder / "origins.json", {"seed": "default", "train.lr": "recipes/a.toml:9", "train.steps": "command line"}
    )
    write_json(
        folder / "environment.json", {"python": "3.11", "versions": {"torch": "2.13"}, "command": ["forge", EVIL]}
    )
    rejected = {"key": "videos/short.mp4", "reason": "the video has 5 frames, and a clip needs 17"}
    (folder / "rejected.jsonl").write_text(json.dumps(rejected) + "\n")
    return folder


def _validate(folder, emit, step, videos):
    sheet = ""
    if videos:
        samples = folder / "samples" / f"step-{step:09d}"
        video.write_mp4(moving(shift=1), 12.0, samples / "0003-0.mp4")
        Image.fromarray(moving()[0]).save(samples / "contact-sheet.png")
        sheet = f"samples/step-{step:09d}/contact-sheet.png"
    losses = [0.9, 1.5] if step == 0 else [0.4, 0.9]
    emit(
        ev.Validated(
            step, [0.5, 4.0], losses, [0.9, 1.5], {"psnr_db": 18 + step / 10, "psnr_copy_db": 20.0}, sheet, step > 0
        ),
        after=2,
    )


def _videos(folder):
    for name, prompt in [("0003-0", "A square moves to the right."), ("0007-0", EVIL)]:
        path = folder / "videos" / f"{name}.mp4"
        video.write_mp4(moving(), 12.0, path)
        video.write_mp4(moving(shift=3), 12.0, path.parent / "truth" / path.name)
        record = {"prompt": prompt, "seed": 1, "metrics": {"psnr_db": 24.0, "psnr_copy_db": 21.0}}
        write_json(path.with_suffix(".json"), record)
    Image.fromarray(moving()[0]).save(folder / "videos" / "contact-sheet.png")
