"""prepare: encodes every clip to latents and every caption to an embedding, once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from cosmos_forge import events
from cosmos_forge.devices import release
from cosmos_forge.errors import ForgeError
from cosmos_forge.files import write_text
from cosmos_forge.kinds import Dataset, LatentTokenizer, Parallelism, TextEncoder
from cosmos_forge.run import Run
from cosmos_forge.training.data import PreparedClip, is_whole, read_facts, save_latents, save_tensors, write_index
from cosmos_forge.types import Clip, Context
from cosmos_forge.worker import component

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

# By a clip's index: its caption, the shape of its latents, and its frames a second.
Found = dict[int, tuple[str, tuple[int, ...], float]]


def run(plan: Plan, run: Run, context: Context, parallelism: Parallelism) -> None:
    """Leaves `prepared/index.jsonl`; tensors lie in the cache, keyed by content and settings, and are shared by runs.

    Each process takes every n-th clip. Clips that cannot be read are left out, and listed in `rejected.jsonl`.
    """
    dataset: Dataset = component(plan, "dataset", context)
    total, world = len(dataset), context.world
    rejected = [(clip.key, clip.reason) for clip in dataset.rejected]
    for key, reason in rejected:
        context.emit(events.RejectedClip(key, reason))

    latents = Cache(plan, context, "latent_tokenizer")
    texts = Cache(plan, context, "text_encoder")
    tokenizer: LatentTokenizer | None = None
    found: Found = {}
    for index in range(world.rank, total, world.size):
        context.emit(events.Progress("clips", index, total, "clips"))
        path = latents.path(dataset.fingerprint(index))
        try:
            facts = read_facts(path)
            if facts is None:
                clip = dataset[index]
                tokenizer = tokenizer or component(plan, "latent_tokenizer", context)
                latents_CTHW = encode_clip(tokenizer, clip, context.device)
                save_latents(path, latents_CTHW, clip.fps)
                facts = tuple(latents_CTHW.shape), clip.fps
            found[index] = (dataset.caption(index), *facts)
        except ForgeError as error:
            reason = error.problems[0].what
            rejected.append((dataset.key(index), reason))
            context.emit(events.RejectedClip(dataset.key(index), reason))
    context.emit(events.Progress("clips", total, total, "clips"))
    del tokenizer
    release(context)

    found, rejected = _from_everyone(found, rejected, world.size)
    # Videos that training makes now and then are led away from this text, and have no text encoder at hand.
    samples = "train" in plan.tables and plan.train.validate_every and plan.generate.guidance
    negative = [plan.generate.negative_prompt] if samples and plan.generate.negative_prompt else []
    encode_texts(plan, context, texts, [*(caption for caption, *_ in found.values()), *negative])
    release(context)
    _write(plan, run, dataset, found, rejected, latents.path, texts.path)


def encode_clip(tokenizer: LatentTokenizer, clip: Clip, device: torch.device) -> Tensor:
    """Latents, CTHW. Raises ForgeError where they are not finite: no step with this clip could change anything."""
    video_BCTHW = clip.frames_CTHW[None].to(device, torch.float32) / 127.5 - 1
    latents_CTHW = tokenizer.encode(video_BCTHW)[0]
    if not latents_CTHW.isfinite().all():
        raise ForgeError("its latents are not finite", "look at the clip; precision = fp32 may help")
    return latents_CTHW


class Cache:
    """A folder for what one component makes, under a digest of its settings and local files; shared by all runs beside
    each other."""

    def __init__(self, plan: Plan, context: Context, table: str) -> None:
        settings = [plan.use(table), plan.values(table), str(context.dtype)]
        if files := plan.options(table).fingerprint():
            settings.append(files)
        name = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]
        self.folder = plan.cache / f"{table}-{name}"

    def path(self, content: str) -> Path:
        """Where tensors made from `content` (a fingerprint, or a caption) lie."""
        return self.folder / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.safetensors"


def encode_texts(plan: Plan, context: Context, cache: Cache, prompts: Iterable[str]) -> None:
    """Encodes the prompts, the same in every process, that are not in the cache yet: each once, by one process.

    Only real tokens are kept. One prompt at a time: in a batch, rounding would depend on its company.
    """
    world = context.world
    missing = [prompt for prompt in sorted(set(prompts))[world.rank :: world.size] if not is_whole(cache.path(prompt))]
    if missing:
        encoder: TextEncoder = component(plan, "text_encoder", context)
        for done, prompt in enumerate(missing):
            context.emit(events.Progress("captions", done, len(missing), "captions"))
            embedding = encoder.encode([prompt])
            save_tensors(cache.path(prompt), {"tokens": embedding.tokens_BLD[0, : int(embedding.mask_BL[0].sum())]})
        context.emit(events.Progress("captions", len(missing), len(missing), "captions"))
    if world.size > 1:
        dist.barrier()


def _write(
    plan: Plan,
    run: Run,
    dataset: Dataset,
    found: Found,
    rejected: list[tuple[str, str]],
    latents: Callable[[str], Path],
    texts: Callable[[str], Path],
) -> None:
    keys = {index: dataset.key(index) for index in sorted(found)}
    held_out = choose_held_out({key.split("#")[0] for key in keys.values()}, plan.prepare.held_out, plan.root.seed)
    clips = [
        PreparedClip(
            key=key,
            held_out=key.split("#")[0] in held_out,
            fps=fps,
            caption=caption,
            latents=str(latents(dataset.fingerprint(index)).resolve()),
            text=str(texts(caption).resolve()),
            shape=shape,
        )
        for index, key in keys.items()
        for caption, shape, fps in [found[index]]
    ]
    write_text(run.folder / "rejected.jsonl", "".join(json.dumps({"key": k, "reason": r}) + "\n" for k, r in rejected))
    if not clips:
        raise ForgeError("not one clip is usable", f"rejected.jsonl in {run.folder} lists each with its reason")
    write_index(run.prepared, clips)
    run.leave("prepared", run.prepared)


def choose_held_out(sources: set[str], count: int, seed: int) -> set[str]:
    """`count` sources, chosen by a hash of name and seed, so that adding clips moves few others. Raises ForgeError."""
    if count >= len(sources) and count > 0:
        raise ForgeError(
            f"prepare.held_out = {count} leaves nothing to train on: there are {len(sources)} sources",
            "lower prepare.held_out, or add clips",
        )
    return set(sorted(sources, key=lambda source: hashlib.sha256(f"{seed} {source}".encode()).digest())[:count])


def _from_everyone(found: Found, rejected: list[tuple[str, str]], size: int) -> tuple[Found, list[tuple[str, str]]]:
    """What all processes found; the clips that a dataset rejects by itself are the same for all."""
    if size == 1:
        return found, rejected
    everyone: list = [None] * size
    dist.all_gather_object(everyone, (found, rejected))
    merged = {index: each for theirs, _ in everyone for index, each in theirs.items()}
    return merged, list(dict.fromkeys(item for _, theirs in everyone for item in theirs))
