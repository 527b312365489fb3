"""What stages leave on disk, in 10^9 bytes. Upper bounds, but for videos, whose size nobody knows before."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from cosmos_forge import machine
from cosmos_forge.forecast.memory import clip_size, number_bytes, weights
from cosmos_forge.generation.sharing import count_videos
from cosmos_forge.memory import STATE_BYTES

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

SPARE = 1.0  # for logs, events, reports
PIXEL_BYTES = 0.2  # a guess: of a frame's pixels in an MP4, at the quality that videos are written with
LOOKED_AT = 8  # files of a dataset at most, whose headers tell how many clips there are; the smallest, to be quick


def written(plan: Plan, stages: tuple[str, ...]) -> dict[str, float]:
    """By what it is. What a run under way has left already is counted as what it is to leave."""
    parts = {}
    if "prepare" in stages:
        parts["prepared clips"] = (clip_bytes(plan) or 0) * (count_clips(plan) or 0) / 1e9
    if "train" in stages:
        parts["checkpoints"] = _checkpoints(plan)
    if "export" in stages:
        parts["export"] = _exports(plan)
    if "generate" in stages:
        frames, (_, height, width) = plan.lengths.frames, plan.video_size()
        parts["videos"] = (videos(plan) or 0) * frames * height * width * PIXEL_BYTES / 1e9
    return {**parts, "logs": SPARE}


def left(plan: Plan) -> float:
    """What the run has left already."""
    folders = [plan.folder / each for each in ("checkpoints", "export", "videos")]
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files) / 1e9


def videos(plan: Plan) -> int | None:
    """To be generated; of held-out clips as many as files are held out, which is the least. None where not known."""
    count = count_videos(plan)
    if count is None and "prepare" in plan.tables:
        count = (plan.prepare.held_out or None) and plan.prepare.held_out * (1 + plan.generate.compare_base)
    return count


def clip_bytes(plan: Plan) -> int | None:
    """Of a clip's latents and its caption's embedding at its longest; None where it cannot be told."""
    if not {"dataset", "latent_tokenizer", "text_encoder"} <= plan.tables.keys():
        return None
    text, latents = plan.options("text_encoder"), plan.options("latent_tokenizer").latent_shape(*clip_size(plan))
    return math.prod(latents) * number_bytes(plan) + text.max_tokens * text.width * 4


def count_clips(plan: Plan) -> int | None:
    """Prepared, or to be expected of files that are here; None where it cannot be told."""
    index = plan.folder / "prepared" / "index.jsonl"
    if index.exists():
        return sum(bool(json.loads(line)) for line in index.read_text(encoding="utf-8").splitlines())
    options: Any = plan.options("dataset") if "dataset" in plan.tables else None
    if not (hasattr(options, "sources") and callable(getattr(options, "clips", None))):
        return None
    if any(not machine.is_downloaded(need) for need in options.needs()):
        return None
    return _expected(options)


def _expected(options: Any) -> int | None:
    """Clips of a dataset that tells its files: those of the smallest files, by their headers, and as many a byte of the
    others."""
    from cosmos_forge.frames import Unreadable
    from cosmos_forge.survey.header import read_header

    paths = [source.path for source in options.sources(machine.snapshot) if not source.reason]
    sizes = {path: path.stat().st_size for path in paths if path.is_file()}  # a link may lead nowhere
    looked, clips = sorted(sizes, key=sizes.__getitem__)[:LOOKED_AT], 0
    for path in looked:
        try:
            header = read_header(path)
        except Unreadable:
            continue
        each = options.clips(header.frames, header.height, header.width)
        clips += each if isinstance(each, int) else 0
    weigh = sum(sizes[path] for path in looked)
    return round(clips * sum(sizes.values()) / weigh) if weigh else None


def _checkpoints(plan: Plan) -> float:
    """Those that are kept, and one that is written before the oldest goes."""
    found, options = weights(plan), plan.train
    if found is None:
        return 0.0
    judged = options.validate_every is not None
    most = options.keep_checkpoints + 1 + judged
    saves = math.ceil(options.steps / min(options.save_every, options.validate_every or options.save_every))
    numbers = 4 + STATE_BYTES[options.optimizer_state] + 4 * options.ema
    return found.trained * numbers * min(most, saves + judged) / 1e9


def _exports(plan: Plan) -> float:
    """Whole weights, what was trained, and the forms, each of which may hold all weights and their averages."""
    found = weights(plan)
    if found is None:
        return sum(need.gigabytes for need in plan.options("model").needs()) if plan.export.merge else 0.0
    whole = found.parameters * number_bytes(plan) / 1e9
    merged = plan.export.merge or not found.frozen
    averages = 4 * found.trained * plan.train.ema / 1e9
    alone = 4 * found.trained / 1e9 if found.frozen else 0.0
    return whole * merged + alone + len(plan.export.forms) * (whole + alone + averages)
