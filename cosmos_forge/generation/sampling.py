"""From given frames and prompts to frames: what `generate` computes, one component in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from cosmos_forge import events
from cosmos_forge.compiling import compile_blocks
from cosmos_forge.devices import release
from cosmos_forge.errors import show_path
from cosmos_forge.generation.jobs import Job
from cosmos_forge.generation.latents import Latents
from cosmos_forge.generation.loading import load_model
from cosmos_forge.generation.preview import Preview
from cosmos_forge.generation.residency import choose_residency, settle
from cosmos_forge.generation.sharing import Share
from cosmos_forge.kinds import Denoiser, LatentTokenizer, Model, Sampler, in_turn
from cosmos_forge.memory import Residency
from cosmos_forge.stages.prepare import Cache, encode_texts
from cosmos_forge.trained import Weights
from cosmos_forge.training.data import generator, pad_text
from cosmos_forge.types import Condition, Context, TextEmbedding
from cosmos_forge.worker import component

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


def embed_texts(
    plan: Plan, context: Context, prompts: list[str], negative: str | None
) -> dict[str | None, TextEmbedding]:
    """Embeddings by prompt, from the cache that `prepare` fills too. prompts: the same in every process."""
    cache = Cache(plan, context, "text_encoder")
    wanted = sorted({*prompts, *([negative] if negative else [])})
    encode_texts(plan, context, cache, wanted)
    release(context)
    return {prompt: pad_text(load_file(cache.path(prompt))["tokens"].float(), plan.max_tokens) for prompt in wanted}


def encode_given(plan: Plan, context: Context, jobs: Sequence[Job], share: Share) -> list[Tensor]:
    """Latents of each job's given frames alone, which causality makes exact. The process that leads a team encodes."""
    tokenizer: LatentTokenizer | None = component(plan, "latent_tokenizer", context) if share.leads and jobs else None
    latents = []
    for job in jobs:
        if tokenizer:
            found = tokenizer.encode(job.read()[None].to(context.device)).float()
        else:
            _, height, width = plan.video_size()
            shape = plan.options("latent_tokenizer").latent_shape(job.given, height, width)
            found = torch.empty(1, *shape, device=context.device)
        latents.append((share.team.tell(found) if share.team else found).cpu())
    del tokenizer
    release(context)
    return latents


def sample(
    plan: Plan,
    context: Context,
    weights: Weights,
    jobs: Sequence[Job],
    texts: dict[str | None, TextEmbedding],
    given: list[Tensor],
    share: Share,
    tell: Callable[[float], None],
    keep: Callable[[Job, Tensor], None],
) -> None:
    """Hands each job's latents, on the CPU and the same in all processes of a team, to `keep` once they are there.
    tell: is told how many of the jobs are done. Called by all processes, also those without a job. The model is gone
    once this has returned and the caller calls `release`."""
    options, team = plan.generate, share.team
    negative = options.negative_prompt if options.guidance else ""
    residency = choose_residency(plan, context, share.split.context)
    if not jobs:
        return
    model = _load_model(plan, context, weights, residency, share)
    sampler: Sampler = component(plan, "sampler", context)
    shape = plan.options("latent_tokenizer").latent_shape(*plan.video_size())
    steps = plan.options("sampler").steps

    def on_device(tensor: Tensor) -> Tensor:
        return tensor.to(context.device)

    for index, (job, known) in enumerate(zip(jobs, given, strict=True)):
        whole = torch.zeros(1, *shape)
        whole[:, :, : known.shape[2]] = known
        condition = Condition(
            latents_BCTHW=on_device(whole),
            given=known.shape[2],
            text=texts[job.prompt].each(on_device),
            negative_text=texts[negative].each(on_device) if negative else None,
            fps_B=torch.tensor([job.fps], device=context.device),
            seed=options.seed,
        )

        preview = Preview(context.folder / "preview.png", job.read, known, model.sigma_data)

        def on_step(step: int, index: int = index, preview: Preview = preview) -> None:
            tell(index + min(step / steps, 1.0))
            if context.world.rank == 0 and preview.step():
                context.emit(events.Note(f"{show_path(preview.path)} shows roughly what there is so far"))

        denoise = preview.watch(model.denoiser(condition, options.guidance, team.evaluate if team else in_turn))
        x0 = solve(sampler, denoise, condition, options.seed, job.name, on_step)
        if context.world.rank == 0:
            preview.path.unlink(missing_ok=True)
        keep(job, (x0 / model.sigma_data).cpu())
        tell(index + 1)


@torch.no_grad()
def solve(
    sampler: Sampler, denoise: Denoiser, condition: Condition, seed: int, name: str, on_step: Callable[[int], None]
) -> Tensor:
    """x0 of the video `name`, which with the seed decides all chance."""
    noise = torch.randn(condition.latents_BCTHW.shape, generator=generator(seed, "video", name))
    noise = noise.to(condition.latents_BCTHW.device)
    return sampler.sample(denoise, noise, generator(seed, "sampler", name), on_step)


def _load_model(plan: Plan, context: Context, weights: Weights, residency: Residency, share: Share) -> Model:
    """The model with these weights, ready to be sampled from. What does not stay on the device as it is, is loaded into
    host memory first."""
    first = context if residency == "resident" else replace(context, device=torch.device("cpu"))
    model = load_model(plan, first, weights)
    model.net.eval().requires_grad_(False)
    settle(model.net, model.blocks, residency, context.device)
    if share.team and share.team.sequence:
        model.net.share_sequence(share.team.sequence)  # type: ignore[operator]
    compile_blocks(model.net, model.blocks, plan.root.compile, context)
    return model


def decode(plan: Plan, context: Context, latents: Sequence[Latents]) -> Iterator[Tensor]:
    """Frames of each video, uint8 CTHW, one video after the other."""
    if not latents:
        return
    tokenizer: LatentTokenizer = component(plan, "latent_tokenizer", context)
    for each in latents:
        yield frames(tokenizer, each.read().to(context.device))
    del tokenizer
    release(context)


def frames(tokenizer: LatentTokenizer, latents_BCTHW: Tensor) -> Tensor:
    """Of the first video, uint8 CTHW, on the CPU."""
    pixels_CTHW = tokenizer.decode(latents_BCTHW)[0]
    bytes_CTHW = ((pixels_CTHW + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    # In memory as THWC, which files want: on the CPU the turn takes the better part of a second.
    return bytes_CTHW.permute(1, 2, 3, 0).contiguous().cpu().permute(3, 0, 1, 2)
