"""What `generate` leaves: a video with a JSON of all that made it, a contact sheet, and how good the videos are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from cosmos_forge import events, video
from cosmos_forge.files import write_json
from cosmos_forge.jobs import Video
from cosmos_forge.run import Run
from cosmos_forge.types import Context

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

SHEET_VIDEOS = 8  # at most on the contact sheet, spread over all


def settings(plan: Plan, weights: str, made: Video) -> dict[str, Any]:
    """Everything that decides what a video looks like."""
    options, (num_frames, height, width) = plan.generate, plan.video_size()
    return {
        "source": dict(made.source),
        "prompt": made.prompt,
        "negative_prompt": options.negative_prompt,
        "seed": options.seed,
        "guidance": options.guidance,
        "given_frames": made.given,
        "num_frames": num_frames,
        "height": height,
        "width": width,
        "fps": made.fps,
        "sampler": {"use": plan.use("sampler"), **plan.values("sampler")},
        "model": {"use": plan.use("model"), **plan.values("model")},
        "weights": weights,
    }


def write(run: Run, made: Video, frames_CTHW: Tensor, record: Mapping[str, Any]) -> None:
    """The MP4 and, after it, its JSON: where that stands, the video is whole."""
    path = file_of(run, made)
    path.with_suffix(".json").unlink(missing_ok=True)
    video.write_mp4(_THWC(frames_CTHW), made.fps, path)
    write_json(path.with_suffix(".json"), record)


def finish(plan: Plan, run: Run, context: Context, videos: Sequence[Video]) -> None:
    """Sums up what all processes have made. An input's video has a sheet of its own and no truth to be measured by, so
    what held-out clips have shown stays as it was."""
    records = [json.loads(file_of(run, each).with_suffix(".json").read_text()) for each in videos]
    rows: list[tuple[str, np.ndarray]] = []
    for each in videos[:: -(-len(videos) // SHEET_VIDEOS)]:
        made, _ = video.read_media(file_of(run, each))
        rows.append((f"{each.name}: generated", made))
        if each.truth is not None:
            rows.append((f"{each.name}: truth", _THWC(each.truth())))
    held_out = plan.generate.input is None
    sheet = run.videos / "contact-sheet.png" if held_out else file_of(run, videos[0]).with_suffix(".png")
    video.contact_sheet(rows, sheet, given=plan.generate.given_frames)
    run.leave("videos", run.videos)
    run.leave("contact sheet", sheet)
    if not held_out:
        return

    metrics: dict[str, Any] = {
        name: float(np.mean([record["metrics"][name] for record in records])) for name in records[0]["metrics"]
    }
    metrics["clips"] = len(videos)
    if "train" in plan.tables:
        metrics["train_seconds"] = round(run.seconds("train"), 1)
    write_json(run.metrics, metrics)
    run.leave("metrics", run.metrics)
    context.emit(events.Measured(metrics))


def file_of(run: Run, made: Video) -> Path:
    """The MP4, named without what file systems dislike."""
    name = re.sub(r"[^\w.-]+", "-", re.sub(r"\.\w{2,4}(?=#|$)", "", made.name)).strip("-")
    return run.videos / f"{name}.mp4"


def _THWC(frames_CTHW: Tensor) -> np.ndarray:
    return frames_CTHW.permute(1, 2, 3, 0).contiguous().numpy()
