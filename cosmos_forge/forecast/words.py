"""A forecast as lines by heading, and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from cosmos_forge.forecast import rates
from cosmos_forge.forecast.forecast import Forecast
from cosmos_forge.forecast.limits import Change, Limit, Outlook


def facts(outlook: Outlook | None) -> dict[str, list[str]]:
    """Memory, time and what limits them, for `forge explain`."""
    if outlook is None:
        return {"forecast": ["of memory and time on GPUs: --gpu h200, or another, or several as in h100-80gb:8"]}
    found = outlook.found
    limits = [_limit(limit, outlook.gpus) for limit in outlook.limits]
    lines = {"memory": _memory(found), "time": _time(found), "estimated": _estimated(found), "limit": limits}
    return {heading: each for heading, each in lines.items() if each}


def as_json(outlook: Outlook | None) -> dict[str, Any] | None:
    """The same in bytes and seconds."""
    if outlook is None:
        return None
    found = outlook.found
    return {
        "gpu": found.gpu.name,
        "gpus": outlook.gpus,
        "usable": found.gpu.usable,
        "training": asdict(found.training) if found.training else None,
        "recompute": dict(Counter(found.levels)),
        "residency": found.residency if found.generation else None,
        "seconds": {
            "step": found.step,
            "judging": found.judging,
            "video": found.video,
            "in_all": found.seconds,
        },
        "videos": found.videos,
        "estimated": list(found.estimated),
        "limits": [_limit_json(limit) for limit in outlook.limits],
    }


def _limit_json(limit: Limit) -> dict[str, Any]:
    change = limit.change
    return {
        "what": limit.what,
        "why": limit.why,
        "change": change and {"settings": change.settings, "gpus": change.gpus, "seconds": change.found.seconds},
    }


def remedy(change: Change, gpus: int) -> str:
    """What to change, where there are so many GPUs."""
    more = [f"{change.gpus} GPUs"] if change.gpus != gpus else []
    return " and ".join([*more, *([" ".join(change.settings)] if change.settings else [])])


def duration(seconds: float) -> str:
    """ "12.5 s", "4.2 minutes", "17.3 hours", "5.1 days"."""
    for most, unit, name in ((90, 1, "s"), (5400, 60, "minutes"), (48 * 3600, 3600, "hours")):
        if seconds < most:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 86400:.3g} days"


def _memory(found: Forecast) -> list[str]:
    lines = []
    if found.training:
        blocks = ", ".join(f"{count} {level}" for level, count in Counter(found.levels).items())
        lines.append(f"train: {found.training}; recompute: {blocks}, of {len(found.levels)} blocks")
    if found.generating:
        lines.append(f"generate, {found.residency}: {found.generating}")
    room = f"{found.gpu.usable / 2**30:.1f} GiB of {found.gpu.device}'s {found.gpu.memory_gib:g}"
    return [*lines, f"of {room} that parts may take; text encoder and tokenizer come before and after"] if lines else []


def _time(found: Forecast) -> list[str]:
    lines = []
    if found.step:
        lines.append(
            f"train: {duration(found.step)} a step, {duration(found.step * found.steps)} for {found.steps} steps"
        )
    if found.judging:
        lines.append(f"train: {duration(found.judging)} to judge held-out clips, at least")
    if found.video:
        many = "" if found.videos is None else f", of {found.videos} or more, {found.at_once} at once"
        lines.append(f"generate: {duration(found.video)} a video{many}")
    if not lines:
        return ["not known: rates are those of bf16, and of models that tell their operations"]
    return [*lines, f"{duration(found.seconds)} in all, without preparing clips, loading and writing"]


def _estimated(found: Forecast) -> list[str]:
    """What the time rests on."""
    where = f"rates are those of an NVIDIA {rates.MEASURED_ON.upper()}"
    return [f"{', '.join(found.estimated)}; {where}"] if found.estimated and found.seconds else []


def _limit(limit: Limit, gpus: int) -> str:
    told = f"{limit.what}: {limit.why}" if limit.why else "time"
    if limit.change is None:
        return told + (
            ": no change is known here that saves much" if limit.what == "time" else "; no change is known here"
        )
    change, what = limit.change, remedy(limit.change, gpus)
    if limit.what == "disk":
        return f"{told}; enough with {what}"
    took = f", {duration(change.found.seconds)} in all" if change.found.seconds else ""
    return f"{told}; fits with {what}{took}" if limit.what == "memory" else f"{told}: sooner with {what}{took}"
