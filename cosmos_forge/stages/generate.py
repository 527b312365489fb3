"""generate: continues held-out clips, or a video or picture of the user's, and measures how good that is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch.distributed as dist

from cosmos_forge import outputs
from cosmos_forge.errors import ForgeError, show_path
from cosmos_forge.jobs import Job, find_videos
from cosmos_forge.judge import judge
from cosmos_forge.kinds import Parallelism
from cosmos_forge.run import Run
from cosmos_forge.sampling import decode, embed_texts, encode_given, sample
from cosmos_forge.sharing import share_videos
from cosmos_forge.types import Context

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


def run(plan: Plan, run: Run, context: Context, parallelism: Parallelism) -> None:
    """Leaves `videos/` with an MP4 and a JSON of its settings each, a contact sheet, and `metrics.json`.

    Text encoder, tokenizer and model are never in memory together. Each team of processes makes every n-th video.
    """
    options, world = plan.generate, context.world
    trained = trained_weights(plan, run)
    videos = find_videos(plan, run, context)
    share = share_videos(plan, context, parallelism, len(videos))
    mine = share.mine(videos)
    jobs = [Job(each.name, each.prompt, each.fps, each.given, each.read) for each in mine]
    written = mine if share.leads else []
    texts = embed_texts(plan, context, [each.prompt for each in videos], options.negative_prompt)
    given = encode_given(plan, context, jobs, share)

    metrics: list[dict[str, float]] = [{} for _ in written]
    if options.compare_base:
        latents = sample(plan, context, plan.options("model").weights, jobs, texts, given, "base", share)
        for each, measured, frames in zip(written, metrics, decode(plan, context, latents, share), strict=True):
            if found := judge(each, frames):
                measured["psnr_base_db"] = found["psnr_db"]
    latents = sample(plan, context, trained or plan.options("model").weights, jobs, texts, given, "generated", share)
    weights = str(trained or plan.options("model").weights or "fresh")
    for each, measured, frames in zip(written, metrics, decode(plan, context, latents, share), strict=True):
        record = {**outputs.settings(plan, weights, each), "safety": {}, "metrics": judge(each, frames) | measured}
        outputs.write(run, each, frames, record)
    if world.size > 1:
        dist.barrier()
    if world.rank == 0:
        outputs.finish(plan, run, context, videos)


def trained_weights(plan: Plan, run: Run) -> Path | None:
    """What this run has exported; None for a recipe without training. Raises ForgeError where it is missing."""
    path = run.export / "model.safetensors"
    if path.exists():
        return path
    if "train" in plan.tables:
        raise ForgeError(f"{show_path(path)} is missing", "run `train` and `export` first; export.merge must be true")
    return None
