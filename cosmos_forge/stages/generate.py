"""generate: continues held-out clips, or a video or picture of the user's, and measures how good that is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from cosmos_forge import events, video
from cosmos_forge.data import read_index
from cosmos_forge.errors import ForgeError, show_path
from cosmos_forge.files import write_json
from cosmos_forge.judge import judge
from cosmos_forge.kinds import Dataset, Parallelism
from cosmos_forge.plan import SIZES
from cosmos_forge.run import Run
from cosmos_forge.sampling import Job, decode, embed_texts, encode_given, sample
from cosmos_forge.types import Context
from cosmos_forge.worker import component

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

SHEET_VIDEOS = 8  # at most on the contact sheet, spread over all


def run(plan: Plan, run: Run, context: Context, parallelism: Parallelism) -> None:
    """Leaves `videos/` with an MP4 and a JSON of its settings each, a contact sheet, and `metrics.json`.

    Text encoder, tokenizer and model are never in memory together. Each process makes every n-th video.
    """
    options, world = plan.generate, context.world
    trained = trained_weights(plan, run)
    jobs = _jobs(plan, run, context)
    size = plan.video_size()
    mine = jobs[world.rank :: world.size]
    texts = embed_texts(plan, context, [job.prompt for job in jobs], options.negative_prompt)
    given = encode_given(plan, context, mine)

    frames = {}
    variants = {"generated": trained} | ({"base": plan.options("model").weights} if options.compare_base else {})
    for label, weights in variants.items():
        latents = sample(plan, context, weights, mine, texts, given, label)
        frames[label] = decode(plan, context, latents)

    for index, job in enumerate(mine):
        made = {label: videos[index] for label, videos in frames.items()}
        settings = {
            "source": job.name,
            "prompt": job.prompt,
            "negative_prompt": options.negative_prompt,
            "seed": options.seed,
            "guidance": options.guidance,
            "given_frames": job.given_CTHW.shape[1],
            "num_frames": size[0],
            "height": size[1],
            "width": size[2],
            "fps": job.fps,
            "sampler": {"use": plan.use("sampler"), **plan.values("sampler")},
            "model": {"use": plan.use("model"), **plan.values("model")},
            "weights": str(trained or plan.options("model").weights or "fresh"),
            "metrics": judge(job, made),
        }
        path = run.videos / f"{_file_name(job.name)}.mp4"
        video.write_mp4(_THWC(made["generated"]), job.fps, path)
        write_json(path.with_suffix(".json"), settings)
    if world.size > 1:
        dist.barrier()
    if world.rank == 0:
        _finish(plan, run, context, jobs)


def trained_weights(plan: Plan, run: Run) -> Path | None:
    """What this run has exported; None for a recipe without training. Raises ForgeError where it is missing."""
    path = run.export / "model.safetensors"
    if path.exists():
        return path
    if "train" in plan.tables:
        raise ForgeError(f"{show_path(path)} is missing", "run `train` and `export` first; export.merge must be true")
    return None


def _jobs(plan: Plan, run: Run, context: Context) -> list[Job]:
    """The videos to make: the input's continuation, or every held-out clip's."""
    options = plan.generate
    if options.input is None:
        return _held_out(plan, run, context)
    frames_THWC, fps = video.read_media(Path(options.input))
    if len(frames_THWC) < options.given_frames:
        raise ForgeError(
            f"{options.input} has {len(frames_THWC)} frames, generate.given_frames asks for {options.given_frames}",
            "lower generate.given_frames; a picture gives 1",
        )
    _, height, width = plan.video_size()
    last_CTHW = torch.from_numpy(frames_THWC[-options.given_frames :]).permute(3, 0, 1, 2)
    resized = F.interpolate(
        last_CTHW.permute(1, 0, 2, 3).float(), (height, width), mode="bicubic", antialias=True, align_corners=False
    )
    if last_CTHW.shape[2:] != (height, width):
        was = f"{last_CTHW.shape[2]}x{last_CTHW.shape[3]}"
        context.emit(events.Note(f"the input is stretched from {was} to {height}x{width} pixels"))
    given = resized.round().clamp(0, 255).to(torch.uint8).permute(1, 0, 2, 3)
    name = Path(options.input).stem
    return [Job(name, options.prompt or "", options.fps or fps, given, None)]


def _held_out(plan: Plan, run: Run, context: Context) -> list[Job]:
    held_out = {clip.key: clip for clip in read_index(run.prepared) if clip.held_out}
    if not held_out:
        raise ForgeError("no clips were held out to continue", "set prepare.held_out, or name a generate.input")
    options = plan.generate
    dataset: Dataset = component(plan, "dataset", context)
    size, jobs = tuple(getattr(plan.options("dataset"), key) for key in SIZES), list[Job]()
    for index in range(len(dataset)):
        clip = dataset[index] if dataset.key(index) in held_out else None
        if clip is not None and tuple(clip.frames_CTHW.shape[1:]) == size:
            jobs.append(
                Job(
                    name=clip.key,
                    prompt=options.prompt or clip.caption,
                    fps=options.fps or clip.fps,
                    given_CTHW=clip.frames_CTHW[:, : options.given_frames],
                    truth_CTHW=clip.frames_CTHW,
                )
            )
    if not jobs:
        what = f"no clip that was held out has the largest size, {'x'.join(map(str, size))}"
        raise ForgeError(what, "set prepare.held_out to more, or name a generate.input")
    if len(jobs) < len(held_out):
        left = len(held_out) - len(jobs)
        context.emit(events.Note(f"{left} held-out clips are not continued: they are not of the largest size"))
    return jobs


def _finish(plan: Plan, run: Run, context: Context, jobs: list[Job]) -> None:
    """Process 0 sums up what all have made. An input's video has a sheet of its own and no truth to be measured by, so
    what held-out clips have shown stays as it was."""
    records = {job.name: json.loads((run.videos / f"{_file_name(job.name)}.json").read_text()) for job in jobs}
    rows: list[tuple[str, np.ndarray]] = []
    for job in jobs[:: -(-len(jobs) // SHEET_VIDEOS)]:
        made, _ = video.read_media(run.videos / f"{_file_name(job.name)}.mp4")
        rows.append((f"{job.name}: generated", made))
        if job.truth_CTHW is not None:
            rows.append((f"{job.name}: truth", _THWC(job.truth_CTHW)))
    held_out = plan.generate.input is None
    sheet = run.videos / ("contact-sheet.png" if held_out else f"{_file_name(jobs[0].name)}.png")
    video.contact_sheet(rows, sheet, given=plan.generate.given_frames)
    run.leave("videos", run.videos)
    run.leave("contact sheet", sheet)
    if not held_out:
        return

    names = list(next(iter(records.values()))["metrics"])
    metrics: dict[str, Any] = {
        name: float(np.mean([record["metrics"][name] for record in records.values()])) for name in names
    }
    metrics["clips"] = len(jobs)
    if "train" in plan.tables:
        metrics["train_seconds"] = round(run.seconds("train"), 1)
    write_json(run.metrics, metrics)
    run.leave("metrics", run.metrics)
    context.emit(events.Measured(metrics))


def _THWC(frames_CTHW: Tensor) -> np.ndarray:
    return frames_CTHW.permute(1, 2, 3, 0).contiguous().numpy()


def _file_name(key: str) -> str:
    """A key without what file systems dislike."""
    return re.sub(r"[^\w.-]+", "-", re.sub(r"\.\w{2,4}(?=#|$)", "", key)).strip("-")
