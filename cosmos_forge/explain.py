"""A plan in words and as JSON, for `forge explain`. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from cosmos_forge import machine
from cosmos_forge.checks import disk_demands
from cosmos_forge.checks import generate as generate_checks
from cosmos_forge.errors import show_path
from cosmos_forge.forecast import disk, words
from cosmos_forge.forecast.limits import Outlook
from cosmos_forge.generation.sharing import count_videos, explained, planned
from cosmos_forge.memory import Memory, Residency, sampling_memory
from cosmos_forge.plan import Plan
from cosmos_forge.training.schedule import why_never_reached


def explain(plan: Plan, outlook: Outlook | None = None) -> str:
    """The plan as a recipe that runs, with the origin of each value; what follows from it stands in comments below."""
    told = _facts(plan) | (words.facts(outlook) if plan.root.device != "cpu" else {})
    facts = [f"# {name:<12}{line}" for name, lines in told.items() for line in lines]
    return plan.dumps(comments=True) + "\n" + "\n".join(facts) + "\n"


def explain_json(plan: Plan, outlook: Outlook | None = None) -> dict[str, Any]:
    """The same for programs: tables with the value and origin of each key, and what follows from them."""
    return {
        "name": plan.name,
        "folder": str(plan.folder),
        "stages": list(plan.stages),
        "processes": plan.processes,
        "gpus": plan.gpus,
        "tables": {
            table: {
                key: {"value": value, "origin": plan.origin(table, key)} for key, value in plan.values(table).items()
            }
            for table in plan.tables
        },
        "downloads": [
            {
                "repo": each.repo,
                "gigabytes": each.gigabytes,
                "licence": each.licence,
                "here": machine.is_downloaded(each),
            }
            for each in plan.downloads()
        ],
        "disk": [
            {"folder": str(each.folder), "gigabytes": each.gigabytes, "free": each.free}
            for each in disk_demands(plan, plan.stages)
        ],
        "written": disk.written(plan, plan.stages),
        "latents": {what: {"size": size, "shape": shape} for what, size, shape in _latents(plan)},
        "batch": _batch(plan),
        "trains": _trained(plan),
        "memory": {residency: asdict(each) for residency, each in _sampling_memory(plan).items()},
        "forecast": words.as_json(outlook),
    }


def _facts(plan: Plan) -> dict[str, list[str]]:
    """What follows from a plan: lines by heading."""
    facts = {
        "run": [show_path(plan.folder)],
        "stages": [", ".join(plan.stages)],
        "processes": [f"{plan.processes} on {plan.gpus or 'no'} GPU{'' if plan.gpus == 1 else 's'}"],
        "paths": ["those in a recipe start at the working directory; that of `extends` at the recipe"],
    }
    downloads = [
        f"{each.gigabytes:5.1f} GB  {each.repo}, {'already here' if machine.is_downloaded(each) else 'to be fetched'}"
        + (f"; licence: {each.licence}" if each.licence else "")
        for each in plan.downloads()
    ]
    facts["downloads"] = downloads or ["none"]
    facts["disk"] = [f"{each}{'' if each.fits else ': TOO LITTLE'}" for each in disk_demands(plan, plan.stages)]
    facts["written"] = [_written(plan)]
    if latents := _latents(plan):
        axes = "channels x time x height x width"
        facts["latents"] = [f"{_by(shape)} ({axes}) of {what} of {_by(size)}" for what, size, shape in latents]
    if "text_encoder" in plan.tables:
        facts["text"] = [f"{plan.max_tokens} tokens of width {plan.options('text_encoder').width}"]
    if batch := _batch(plan):
        shared = batch["groups"] < batch["processes"]
        who = "{groups} groups of {processes} processes" if shared else "{processes} processes"
        what = "{batch_size} clips a step: {micro_batch_size} at once x {accumulation} accumulated x " + who
        facts["batch"] = [(what + "; {clips} in all").format(**batch)]
        facts["epochs"] = [_epochs(plan)]
        if never := why_never_reached(plan.train):
            facts["warm-up"] = [never]
    if trained := _trained(plan):
        facts["trains"] = ["{trained:,} of {parameters:,} parameters".format(**trained)]
    if "sampler" in plan.tables and "generate" in plan.stages:
        evaluations = plan.options("sampler").evaluations
        twice = f", each twice for guidance = {plan.generate.guidance:g}" if plan.generate.guidance else ""
        what = "chunk" if plan.lengths.chunks > 1 else "video"
        facts["sampling"] = [f"{evaluations} evaluations of the network a {what}{twice}"]
    if "generate" in plan.stages:
        facts["guardrails"] = [", ".join(table.name.partition(".")[2] for table in plan.each("guardrail")) or "none"]
    return facts | _sampling_facts(plan)


def _latents(plan: Plan) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """What is encoded or generated, its frames x height x width, and the (C, T, H, W) of its latents."""
    if "latent_tokenizer" not in plan.tables:
        return []
    sizes: list[tuple[str, tuple[int, ...]]] = []
    if "dataset" in plan.tables:
        sizes.append(("clips", plan.clip_size))
    if "generate" in plan.stages and plan.video_size() not in [size for _, size in sizes]:
        sizes.append(("videos", plan.video_size()))
    shape_of = plan.options("latent_tokenizer").latent_shape
    return [(what, size, tuple(shape_of(*size))) for what, size in sizes]


def _batch(plan: Plan) -> dict[str, int] | None:
    """How an optimizer step's clips are shared out."""
    if "train" not in plan.stages:
        return None
    options, groups = plan.train, plan.groups
    return {
        "batch_size": options.batch_size,
        "processes": plan.processes,
        "groups": groups,
        "micro_batch_size": options.micro_batch(groups),
        "accumulation": options.accumulation(groups),
        "clips": options.batch_size * options.steps,
    }


def _epochs(plan: Plan) -> str:
    """How often training sees each clip: as prepared, or about, by the files that are here."""
    index = plan.folder / "prepared" / "index.jsonl"
    seen = plan.train.batch_size * plan.train.steps
    if index.exists():
        clips = sum(not json.loads(line)["held_out"] for line in index.read_text(encoding="utf-8").splitlines())
        return f"{seen / clips:.3g}: {clips} clips to train on" if clips else "none: there is no clip to train on"
    if expected := disk.count_clips(plan):
        held_out = f", before those of {plan.prepare.held_out} files are held out" if plan.prepare.held_out else ""
        return f"about {seen / expected:.3g}: about {expected} clips{held_out}"
    return "known once the clips are prepared"


def _trained(plan: Plan) -> dict[str, int] | None:
    """How many parameters there are and train, where model and method can tell."""
    if "train" not in plan.stages or not {"model", "method"} <= plan.tables.keys():
        return None
    shapes = getattr(plan.options("model"), "parameter_shapes", None)
    count = getattr(plan.options("method"), "trained", None)
    if shapes is None or count is None:
        return None
    return {"trained": count(shapes()), "parameters": sum(map(math.prod, shapes().values()))}


def _sampling_memory(plan: Plan) -> dict[Residency, Memory]:
    """What denoising one video takes by where the weights lie, where the model can tell."""
    if "generate" not in plan.stages or not {"model", "latent_tokenizer"} <= plan.tables.keys():
        return {}
    return sampling_memory(plan, planned(plan, count_videos(plan)).context) or {}


def _sampling_facts(plan: Plan) -> dict[str, list[str]]:
    """How videos are shared out, and the memory that each way to keep the weights takes."""
    facts = {}
    if "generate" in plan.stages:
        facts["videos"] = generate_checks.described(plan)
    if "generate" in plan.stages and plan.processes > 1:
        facts["sharing"] = [explained(plan, count_videos(plan))]
    if memory := _sampling_memory(plan):
        facts["memory"] = [f"generate, {residency}: {each}" for residency, each in memory.items()]
        facts["memory"][-1] += "; text encoder and tokenizer come before and after it"
        if plan.generate.memory == "auto":
            facts["memory"] += ["generate.memory = auto: resident if the GPU has room for that, else streamed"]
    return facts


def _written(plan: Plan) -> str:
    """What stages leave, part by part."""
    parts = [f"{what} {size:.1f}" for what, size in disk.written(plan, plan.stages).items() if size > 0.05]
    clip = disk.clip_bytes(plan) if "prepare" in plan.stages and disk.count_clips(plan) is None else None
    return f"at most, in GB: {', '.join(parts)}" + (f"; {clip / 1e6:.2g} MB for each prepared clip" if clip else "")


def _by(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes))
