"""generate: continues held-out clips, or videos and pictures of the user's, and measures how good that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist

from cosmos_forge import events
from cosmos_forge.checks.generate import untried
from cosmos_forge.compiling import wake_compiler
from cosmos_forge.errors import ForgeError, show_path
from cosmos_forge.generation import outputs
from cosmos_forge.generation.adapters import identity
from cosmos_forge.generation.guard import FrameChecks, check_prompts, conclude
from cosmos_forge.generation.jobs import find_videos
from cosmos_forge.generation.making import Making
from cosmos_forge.generation.sampling import embed_texts
from cosmos_forge.generation.sharing import share_videos
from cosmos_forge.generation.upsample import upsample_prompts
from cosmos_forge.kinds import Parallelism
from cosmos_forge.run import Run
from cosmos_forge.trained import Weights
from cosmos_forge.types import Context

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


def run(plan: Plan, run: Run, context: Context, parallelism: Parallelism) -> None:
    """Leaves `videos/` with an MP4 and a JSON of its settings each, a contact sheet, and `metrics.json`.

    Text encoder, tokenizer and model are never in memory together. Each team of processes makes every n-th video. What
    is there already, made with the same settings, stays. Raises ForgeError at the end where guardrails stopped a video.
    """
    world, options = context.world, plan.generate
    weights = weights_of(plan, run)
    videos = upsample_prompts(plan, run, context, find_videos(plan, run, context))
    outputs.check_names(run, videos, outputs.sheet_of(run, options.input))
    for text in untried(plan, {each.fps for each in videos}, {each.given for each in videos}):
        context.emit(events.Note(f"beyond training: {text}", warning=True))
    if plan.lengths.chunks > 1:
        context.emit(events.Note(str(plan.lengths)))
    settings = {each.name: outputs.settings(plan, identity(plan, weights), each) for each in videos}
    todo = [each for each in videos if not outputs.is_there(run, each, settings[each.name])]
    if there := len(videos) - len(todo):
        context.emit(events.Note(f"{there} of {len(videos)} videos are there, made with the same settings"))
    safety = check_prompts(plan, context, todo)
    for each in todo if world.rank == 0 else []:
        if safety[each.name].stopped:
            outputs.write_record(run, each, settings[each.name], safety[each.name], {})
    todo = [each for each in todo if not safety[each.name].stopped]
    if todo:
        wake_compiler(plan.root.compile, context.device)
        share = share_videos(plan, context, parallelism, len(todo))
        chunks = {each.name: outputs.chunks_of(plan, run, each, settings[each.name]) for each in todo}
        begun = {name: each.done() for name, each in chunks.items()}
        # All processes meet in here, so each has seen what is there before another writes.
        prompts = [prompt for each in todo for prompt in each.prompts]
        texts = embed_texts(plan, context, prompts, options.negative_prompt if options.guidance else None)
        checks = FrameChecks(plan, context)
        making = Making(plan, run, context, share, weights, texts, settings, chunks, begun, safety, checks)
        make = making.in_chunks if plan.lengths.chunks > 1 else making.in_one_go
        make(share.mine(todo))
    if world.size > 1:
        dist.barrier()
    if world.rank == 0:
        outputs.clear_away(run)
        outputs.finish(plan, run, context, videos)
        conclude(outputs.read_records(run, videos))


def weights_of(plan: Plan, run: Run) -> Weights:
    """What videos are made with: what the recipe asks for, else what this run has exported, else, without training,
    what the model starts from. Raises ForgeError where the export is missing."""
    options, path = plan.generate, run.export / "model.safetensors"
    name = options.weights or (str(path) if path.exists() else plan.options("model").weights)
    if "train" in plan.tables and not (options.weights or path.exists()):
        raise ForgeError(f"{show_path(path)} is missing", "run `train` and `export` first; export.merge must be true")
    return Weights(name, options.adapters)
