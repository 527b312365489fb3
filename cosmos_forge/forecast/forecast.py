"""What a plan will take of GPUs of one kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cosmos_forge.forecast import disk, rates
from cosmos_forge.forecast.memory import Weights, clip_size, number_bytes, pieces, training_memory, weights
from cosmos_forge.generation.sharing import Split, count_videos, planned
from cosmos_forge.gpus import Gpu
from cosmos_forge.memory import STATE_BYTES, Level, Memory, Residency, sampling_memory

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

JUDGED = 32  # held-out clips at most, and at how many noise levels, as `validate` and models have it
LEVELS_JUDGED = 5
NEAR = 1.25  # of the least that processors need, there a step depends on which processor it is


@dataclass(frozen=True)
class Forecast:
    """gpu: its kind. training, levels: a process's memory at its peak, and what each block recomputes. generation: by
    where the weights lie; residency: where they will. Seconds: of an optimizer step; of all judgements of held-out
    clips; of a video; None where nothing of the kind is done, or it cannot be told. videos: how many, if that is known.
    estimated: in what this differs from what was measured.
    """

    gpu: Gpu
    training: Memory | None = None
    levels: list[Level] = field(default_factory=list)
    generation: Mapping[Residency, Memory] = field(default_factory=dict)
    residency: Residency = "resident"
    step: float | None = None
    steps: int = 0
    judging: float = 0.0
    video: float | None = None
    videos: int | None = None
    at_once: int = 1
    estimated: tuple[str, ...] = ()

    @property
    def generating(self) -> Memory | None:
        """Memory with the weights where they will lie."""
        return self.generation.get(self.residency)

    @property
    def seconds(self) -> float:
        """Training, judging and generating; what cannot be told counts as none."""
        rounds = -(-(self.videos or 0) // self.at_once)
        return (self.step or 0.0) * self.steps + self.judging + (self.video or 0.0) * rounds


def forecast(plan: Plan, gpu: Gpu) -> Forecast:
    """Of a plan whose processes have a GPU of that kind each."""
    parts: dict[str, Any] = {}
    if "train" in plan.stages and {"model", "method", "dataset", "latent_tokenizer"} <= plan.tables.keys():
        parts |= _training(plan, gpu)
    if "generate" in plan.stages and {"model", "latent_tokenizer", "sampler"} <= plan.tables.keys():
        parts |= _generation(plan, gpu)
    return Forecast(gpu, **parts, estimated=tuple(_estimated(plan, gpu, parts)))


def _training(plan: Plan, gpu: Gpu) -> dict[str, Any]:
    memory, levels = training_memory(plan, gpu.usable) or (None, [])
    found, step = weights(plan), None
    if found and levels:
        step = _step(plan, gpu, found, levels)
    return {
        "training": memory,
        "levels": levels,
        "step": step,
        "steps": plan.train.steps,
        "judging": _judging(plan, gpu) if step else 0.0,
    }


def _step(plan: Plan, gpu: Gpu, found: Weights, levels: list[Level]) -> float | None:
    """Computing and exchanging go on at the same time; the optimizer comes after both."""
    options, spread, work = plan.train, pieces(plan), _work(plan, clip_size(plan))
    if work is None:
        return None
    parts = plan.processes // plan.groups
    adapters = found.trained if found.frozen else None
    compiled = plan.root.compile != "none"
    samples = options.batch_size / plan.groups
    computing = samples * rates.training_pass(work, gpu, levels, adapters=adapters, compiled=compiled, parts=parts)
    passes = options.accumulation(plan.groups)
    whole = found.parameters * number_bytes(plan) * (spread > 1)
    reduced = 4 * found.trained * (passes if spread > 1 else 1)
    exchanging = rates.exchange(2 * passes * whole, reduced, max(plan.processes, 1))
    update = rates.optimizer_step(found.trained / spread, STATE_BYTES[options.optimizer_state], options.ema, gpu)
    one = rates.whole_pass(max(computing, exchanging) / passes, len(levels), _shared(plan))
    return passes * one + update


def _shared(plan: Plan) -> bool:
    """Whether processes exchange weights or tokens in each pass."""
    return pieces(plan) > 1 or plan.processes > plan.groups


def _judging(plan: Plan, gpu: Gpu) -> float:
    """Of all judgements: evaluations at five noise levels of each clip, and videos; blocks are not compiled for it."""
    options = plan.train
    if not options.validate_every:
        return 0.0
    work = _work(plan, clip_size(plan))
    times = 1 + -(-options.steps // options.validate_every)
    clips, made = plan.prepare.held_out, min(options.validate_samples, plan.prepare.held_out)
    evaluations = LEVELS_JUDGED * -(-min(clips, JUDGED) // plan.groups)
    if "sampler" in plan.tables:
        evaluations += _evaluations(plan) * -(-made // plan.groups)
    one = rates.evaluation(work, gpu, compiled=False, parts=plan.processes // plan.groups) if work else 0.0
    return times * evaluations * one


def _evaluations(plan: Plan) -> int:
    """Of the network for one chunk of a video."""
    return int(plan.options("sampler").evaluations) * (2 if plan.generate.guidance else 1)


def _generation(plan: Plan, gpu: Gpu) -> dict[str, Any]:
    count = count_videos(plan)
    split = planned(plan, count)
    memory = sampling_memory(plan, split.context) or {}
    residency: Residency = "resident"
    if plan.generate.memory != "auto":
        residency = plan.generate.memory
    elif memory and memory["resident"].total > gpu.usable:
        residency = "streamed"
    return {
        "generation": memory,
        "residency": residency,
        "video": _video(plan, gpu, split),
        "videos": disk.videos(plan),
        "at_once": plan.processes // split.processes,
    }


def _video(plan: Plan, gpu: Gpu, split: Split) -> float | None:
    """Evaluations of the network alone."""
    work = _work(plan, plan.video_size())
    if work is None:
        return None
    one = rates.evaluation(work, gpu, plan.root.compile != "none", split.context)
    return plan.lengths.chunks * _evaluations(plan) / split.branches * one


def _work(plan: Plan, size: tuple[int, int, int]) -> rates.Work | None:
    """Of one sample of that size; None where nothing is known of it, or of how fast it is."""
    if "text_encoder" not in plan.tables or number_bytes(plan) != 2:
        return None
    return rates.work(plan.options("model"), plan.options("latent_tokenizer").latent_shape(*size), plan.max_tokens)


def _estimated(plan: Plan, gpu: Gpu, parts: Mapping[str, Any]) -> Iterator[str]:
    """What was not measured of a plan like this, of which `parts` are foretold."""
    if gpu.name != rates.MEASURED_ON:
        yield f"on {gpu.device}"
    if plan.processes > rates.MEASURED_PROCESSES:
        yield f"in {plan.processes} processes"
    if {"model", "latent_tokenizer"} <= plan.tables.keys():
        sizes = [clip_size(plan)] if "train" in plan.stages and "dataset" in plan.tables else []
        sizes += [plan.video_size()] if "generate" in plan.stages else []
        tokens = {work.tokens for size in sizes if (work := _work(plan, size))}
        least, most = rates.MEASURED_TOKENS
        yield from (f"with {count:,} tokens" for count in sorted(tokens) if not least <= count <= most)
    if step := parts.get("step"):
        handing = plan.train.accumulation(plan.groups) * rates.handing(len(parts["levels"]), _shared(plan))
        if step < NEAR * handing:
            yield "with steps so short that the processor counts, of which nothing is known"
    if "train" in plan.stages and plan.root.compile == "none":
        yield "with training that is not compiled"
    if "train" in plan.stages and plan.train.deterministic:
        yield "with train.deterministic, which took 2.2 times as long"
