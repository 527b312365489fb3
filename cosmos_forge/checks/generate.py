"""What can be wrong with what is to be generated, and what may be more than the weights can do. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from cosmos_forge.errors import ForgeError, Problem
from cosmos_forge.generation.inputs import PICTURE_FPS, find_wishes
from cosmos_forge.recipe import ROOT

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


def check(plan: Plan, stages: tuple[str, ...]) -> Iterator[Problem]:
    """What a video starts from, and whether it can be made in chunks as asked for."""
    if "generate" not in stages or "generate" not in plan.tables:
        return
    options, lengths = plan.generate, plan.lengths
    counts = list(_counts(plan))
    yield from counts
    if not counts:
        prompts = 1 if isinstance(options.prompt, str) else len(options.prompt or [])
        if prompts > lengths.chunks:
            made = f"{lengths.chunks} chunks" if lengths.chunks > 1 else "one go"
            what = f"prompt has {prompts} texts, but a video is made in {made}"
            yield plan.problem("generate", "prompt", what, "num_frames decides: at most one text a chunk")
        if options.compare_base and options.input is None and lengths.chunks > 1:
            what = f"compare_base compares what is made in one go, not {lengths.chunks} chunks"
            yield plan.problem("generate", "compare_base", what, "compare_base = false, or a smaller num_frames")
        if options.input is not None:
            try:
                find_wishes(plan)
            except ForgeError as error:
                yield from error.problems
    if options.input is None and "prepare" in plan.tables and plan.prepare.held_out == 0:
        what = "there is nothing to continue: generate.input is not given and prepare.held_out is 0"
        where = plan.where("prepare", "held_out") or plan.where(ROOT, "stages")
        yield Problem(what, where, "set prepare.held_out to 1 or more, or generate.input to a video or picture")


def _counts(plan: Plan) -> Iterator[Problem]:
    """Numbers of frames that a model cannot go on from."""
    options, lengths = plan.generate, plan.lengths
    for key in ("given_frames", "overlap") if lengths.frames > lengths.chunk else ("given_frames",):
        frames = getattr(options, key)
        if frames % 8 != 1:
            what = f"{key} must be 1, 9, 17, .. (8k+1), got {frames}"
            yield plan.problem("generate", key, what, f"{key} = {frames // 8 * 8 + 1}")
        elif frames >= lengths.chunk:
            what = f"{key} = {frames} leaves nothing to generate of {lengths.chunk} frames made in one go"
            yield plan.problem("generate", key, what, f"{key} = 1 or 9 is usual")


def untried(plan: Plan, fps: Iterable[float], given: Iterable[int]) -> list[str]:
    """What the weights have not been trained for of videos like these, in words. What was trained here on a dataset
    knows its sizes; of other weights the model may tell."""
    size = plan.video_size()
    if "train" in plan.tables and "dataset" in plan.tables:
        known = plan.clip_size
        return [] if size == known else [f"{_by(size)} in one go; training was on clips of {_by(known)}"]
    tell = getattr(plan.options("model"), "untried", None)
    found = [each for rate in fps for frames in given for each in tell(*size, rate, frames)] if tell else []
    return list(dict.fromkeys(found))


def described(plan: Plan) -> list[str]:
    """What is generated, for `forge explain`, before any input is opened."""
    options = plan.generate
    fps, given = [options.fps] if options.fps else [], [options.given_frames]
    news = untried(plan, fps or [PICTURE_FPS], given)
    return [str(plan.lengths), *(f"beyond training: {each}" for each in news)]


def _by(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes))
