"""What validation during training needs of a plan. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cosmos_forge.errors import Problem

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

SAMPLED_WITH = ("sampler", "latent_tokenizer", "dataset")


def why_no_samples(plan: Plan) -> str:
    """Why validation makes no videos; empty where it does."""
    if not plan.train.validate_samples:
        return "train.validate_samples is 0"
    missing = [f"[{table}]" for table in SAMPLED_WITH if table not in plan.tables]
    return f"the recipe has no {' and no '.join(missing)}" if missing else ""


def sampled_with(plan: Plan, stages: tuple[str, ...]) -> tuple[str, ...]:
    """The tables that training builds sample videos from."""
    validates = "train" in stages and "train" in plan.tables and plan.train.validate_every
    return SAMPLED_WITH if validates and not why_no_samples(plan) else ()


def check(plan: Plan, stages: tuple[str, ...]) -> Iterator[Problem]:
    """Validation without clips, videos without a continuation, and a best checkpoint that nobody looks for."""
    if not plan.tables.keys() >= {"train", "prepare"}:
        return
    every, held_out = plan.train.validate_every, plan.prepare.held_out
    if "train" in stages and every and not held_out:
        what = f"validate_every = {every} has nothing to judge by: prepare.held_out is 0"
        yield plan.problem("train", "validate_every", what, "set prepare.held_out to 1 or more")
    if sampled_with(plan, stages) and held_out and "generate" in plan.tables:
        given, frames = plan.generate.given_frames, plan.options("dataset").num_frames
        if given % 8 != 1 or given >= frames:
            what = f"given_frames = {given} does not fit the videos that validation makes of {frames} frames"
            fix = "1, 9, 17, .. (8k+1), and fewer than the clips have; or train.validate_samples = 0"
            yield plan.problem("generate", "given_frames", what, fix)
    if "export" in stages and "export" in plan.tables and plan.export.checkpoint == "best" and not (every and held_out):
        lacking = "train.validate_every is not set" if held_out else "prepare.held_out is 0"
        what = f"checkpoint = best: training does not look for it, since {lacking}"
        fix = "set train.validate_every and prepare.held_out"
        yield plan.problem("export", "checkpoint", what, fix)
