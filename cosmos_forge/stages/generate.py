"""generate: continues held-out clips, or a video or picture of the user's, and measures how good that is."""

from __future__ import annotations

import gc
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from cosmos_forge import events, video
from cosmos_forge.compiling import compile_blocks
from cosmos_forge.data import generator, pad_text, read_index
from cosmos_forge.errors import ForgeError, show_path
from cosmos_forge.files import write_json
from cosmos_forge.kinds import Dataset, LatentTokenizer, Model, Parallelism, Sampler
from cosmos_forge.run import Run
from cosmos_forge.stages.prepare import Cache, encode_texts
from cosmos_forge.types import Condition, Context, TextEmbedding
from cosmos_forge.worker import component, load

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

SHEET_VIDEOS = 8  # at most on the contact sheet, spread over all


@dataclass
class Job:
    """One video to make. given_CTHW: uint8 frames to go on from. truth_CTHW: the whole clip, where it is known."""

    name: str
    prompt: str
    fps: float
    given_CTHW: Tensor
    truth_CTHW: Tensor | None


def run(plan: Plan, run: Run, context: Context, parallelism: Parallelism) -> None:
    """Leaves `videos/` with an MP4 and a JSON of its settings each, a contact sheet, and `metrics.json`.

    Text encoder, tokenizer and model are never in memory together. Each process makes every n-th video.
    """
    options, world = plan.generate, context.world
    trained = trained_weights(plan, run)
    jobs = _jobs(plan, run, context)
    size = plan.video_size()
    mine = jobs[world.rank :: world.size]
    texts = _texts(plan, context, [job.prompt for job in mine], options.negative_prompt)
    given = _encode(plan, context, mine)

    frames = {}
    variants = {"generated": trained} | ({"base": plan.options("model").weights} if options.compare_base else {})
    for label, weights in variants.items():
        latents = _sample(plan, context, weights, mine, texts, given, label)
        frames[label] = _decode(plan, context, latents)

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
            "metrics": _judge(job, made),
        }
        path = run.videos / f"{_file_name(job.name)}.mp4"
        video.write_mp4(_THWC(made["generated"]), job.fps, path)
        write_json(path.with_suffix(".json"), settings)
    if world.size > 1:
        dist.barrier()
    if world.rank == 0:
        _finish(plan, run, context, jobs)


def trained_weights(plan: Plan, run: Run) -> Path | None:
    """What this run has exported; None for a recipe that trains nothing. Raises ForgeError where it is still missing."""
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
    jobs = []
    for index in range(len(dataset)):
        if dataset.key(index) in held_out:
            clip = dataset[index]
            jobs.append(
                Job(
                    name=clip.key,
                    prompt=options.prompt or clip.caption,
                    fps=options.fps or clip.fps,
                    given_CTHW=clip.frames_CTHW[:, : options.given_frames],
                    truth_CTHW=clip.frames_CTHW,
                )
            )
    return jobs


def _texts(plan: Plan, context: Context, prompts: list[str], negative: str | None) -> dict[str | None, TextEmbedding]:
    """Embeddings by prompt, from the cache that `prepare` fills too."""
    cache = Cache(plan, context, "text_encoder")
    wanted = sorted({*prompts, *([negative] if negative else [])})
    encode_texts(plan, context, cache, wanted)
    _free(context)
    return {prompt: pad_text(load_file(cache.path(prompt))["tokens"].float(), plan.max_tokens) for prompt in wanted}


def _encode(plan: Plan, context: Context, jobs: list[Job]) -> list[Tensor]:
    """Latents of each job's given frames alone, which causality makes exact."""
    tokenizer: LatentTokenizer = component(plan, "latent_tokenizer", context)
    latents = []
    for job in jobs:
        pixels = job.given_CTHW[None].to(context.device, torch.float32) / 127.5 - 1
        latents.append(tokenizer.encode(pixels).float().cpu())
    return latents


def _sample(
    plan: Plan,
    context: Context,
    weights: Path | str | None,
    jobs: list[Job],
    texts: dict[str | None, TextEmbedding],
    given: list[Tensor],
    label: str,
) -> list[Tensor]:
    """Latents of each job's video, on the CPU."""
    options = plan.generate
    entry = plan.tables["model"]
    model: Model = load(entry.build)(
        entry.options.model_copy(update={"weights": str(weights) if weights else None}), context
    )
    model.load()
    model.net.eval().requires_grad_(False)
    compile_blocks(model.net, model.blocks, plan.root.compile, context)
    sampler: Sampler = component(plan, "sampler", context)
    shape = plan.options("latent_tokenizer").latent_shape(*plan.video_size())
    what = "videos" if label == "generated" else "videos of the base"
    steps = plan.options("sampler").steps
    latents = []
    for index, (job, known) in enumerate(zip(jobs, given, strict=True)):
        whole = torch.zeros(1, *shape)
        whole[:, :, : known.shape[2]] = known
        condition = Condition(
            latents_BCTHW=whole.to(context.device),
            given=known.shape[2],
            text=_on(texts[job.prompt], context),
            negative_text=_on(texts[options.negative_prompt], context) if options.negative_prompt else None,
            fps_B=torch.tensor([job.fps], device=context.device),
            seed=options.seed,
        )
        noise = torch.randn(1, *shape, generator=generator(options.seed, "video", job.name)).to(context.device)

        def on_step(step: int, index: int = index) -> None:
            context.emit(events.Progress(what, index + min(step / steps, 1.0), len(jobs), "videos"))

        with torch.no_grad():
            x0 = sampler.sample(
                model.denoiser(condition, options.guidance),
                noise,
                generator(options.seed, "sampler", job.name),
                on_step,
            )
        latents.append((x0 / model.sigma_data).cpu())
        context.emit(events.Progress(what, index + 1, len(jobs), "videos"))
    del model
    _free(context)
    return latents


def _decode(plan: Plan, context: Context, latents: list[Tensor]) -> list[Tensor]:
    """Frames of each video, uint8 CTHW."""
    tokenizer: LatentTokenizer = component(plan, "latent_tokenizer", context)
    videos = []
    for each in latents:
        pixels = tokenizer.decode(each.to(context.device))[0]
        videos.append(((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu())
    del tokenizer
    _free(context)
    return videos


def _judge(job: Job, made: dict[str, Tensor]) -> dict[str, float]:
    """PSNR of the continuation in dB, where the truth is known; of repeating the last given frame too."""
    if job.truth_CTHW is None:
        return {}
    start = job.given_CTHW.shape[1]
    truth = job.truth_CTHW[:, start:]
    metrics = {"psnr_db": psnr(made["generated"][:, start:], truth)}
    metrics["psnr_copy_db"] = psnr(job.given_CTHW[:, -1:].expand_as(truth), truth)
    if "base" in made:
        metrics["psnr_base_db"] = psnr(made["base"][:, start:], truth)
    return metrics


def psnr(one: Tensor, other: Tensor) -> float:
    """Peak signal-to-noise ratio of uint8 pictures, in dB; at most 100."""
    error = ((one.double() - other.double()) / 255).square().mean()
    return float(-10 * torch.log10(error.clamp(min=1e-10)))


def _finish(plan: Plan, run: Run, context: Context, jobs: list[Job]) -> None:
    """Process 0 sums up what all have made."""
    records = {job.name: json.loads((run.videos / f"{_file_name(job.name)}.json").read_text()) for job in jobs}
    rows: list[tuple[str, np.ndarray]] = []
    for job in jobs[:: -(-len(jobs) // SHEET_VIDEOS)]:
        made, _ = video.read_media(run.videos / f"{_file_name(job.name)}.mp4")
        rows.append((f"{job.name}: generated", made))
        if job.truth_CTHW is not None:
            rows.append((f"{job.name}: truth", _THWC(job.truth_CTHW)))
    sheet = run.videos / "contact-sheet.png"
    video.contact_sheet(rows, sheet, given=plan.generate.given_frames)
    run.leave("videos", run.videos)
    run.leave("contact sheet", sheet)

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


def _on(text: TextEmbedding, context: Context) -> TextEmbedding:
    return TextEmbedding(text.tokens_BLD.to(context.device), text.mask_BL.to(context.device))


def _THWC(frames_CTHW: Tensor) -> np.ndarray:
    return frames_CTHW.permute(1, 2, 3, 0).contiguous().numpy()


def _file_name(key: str) -> str:
    """A key without what file systems dislike."""
    return re.sub(r"[^\w.-]+", "-", re.sub(r"\.\w{2,4}(?=#|$)", "", key)).strip("-")


def _free(context: Context) -> None:
    gc.collect()
    if context.device.type == "cuda":
        torch.cuda.empty_cache()
