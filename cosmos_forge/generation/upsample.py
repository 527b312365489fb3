"""Prompt upsampling before `generate`: prompts that a component writes in place of a person's.

`prompts.json` of the run keeps each by what it was made from, so that the same command again uses the same ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cosmos_forge import events
from cosmos_forge.devices import release
from cosmos_forge.errors import ForgeError
from cosmos_forge.files import write_json
from cosmos_forge.generation.guard import from_first
from cosmos_forge.kinds import PromptUpsampler
from cosmos_forge.worker import component

if TYPE_CHECKING:
    from cosmos_forge.generation.jobs import Video
    from cosmos_forge.plan import Plan
    from cosmos_forge.run import Run
    from cosmos_forge.types import Context


def upsample_prompts(plan: Plan, run: Run, context: Context, videos: Sequence[Video]) -> list[Video]:
    """The videos with the prompts that are to be used; the first process asks for them, and tells the others. Raises
    ForgeError where there is none to be had."""
    if not plan.each("prompt_upsampler"):
        return list(videos)
    prompts = _write_prompts(plan, run, context, videos) if context.world.rank == 0 else None
    return [
        replace(video, prompt=first, then=tuple(then), asked=video.prompts)
        for video, (first, *then) in zip(videos, from_first(prompts, context), strict=True)
    ]


def _write_prompts(plan: Plan, run: Run, context: Context, videos: Sequence[Video]) -> list[list[str]]:
    path = run.folder / "prompts.json"
    known: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    upsampler: PromptUpsampler | None = None
    written = []
    for done, video in enumerate(videos):
        frame_CHW = ((video.read()[:, -1] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        keys = [_key(plan, prompt, frame_CHW) for prompt in video.prompts]
        for key, prompt in zip(keys, video.prompts, strict=True):
            if key in known:
                continue
            upsampler = upsampler or component(plan, "prompt_upsampler", context)
            context.emit(events.Progress("prompts", done, len(videos), "prompts"))
            known[key] = upsampler.upsample(prompt, frame_CHW).strip()
            if not known[key]:
                raise ForgeError(
                    f"[prompt_upsampler] `{plan.use('prompt_upsampler')}` wrote nothing for {video.name}",
                    "on = false in [prompt_upsampler] takes prompts as they are",
                )
            write_json(path, known)
        written.append([known[key] for key in keys])
    if upsampler:
        context.emit(events.Progress("prompts", len(videos), len(videos), "prompts"))
    del upsampler
    release(context)
    return written


def _key(plan: Plan, prompt: str, frame_CHW: Tensor) -> str:
    made_from = json.dumps([plan.values("prompt_upsampler"), prompt, list(frame_CHW.shape)], sort_keys=True)
    return hashlib.sha256(made_from.encode() + frame_CHW.contiguous().numpy().tobytes()).hexdigest()[:32]
