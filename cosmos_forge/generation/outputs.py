"""What `generate` leaves: a video with a JSON of all that made it, a contact sheet, and how good the videos are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from cosmos_forge import events, video
from cosmos_forge.errors import ForgeError, show_path
from cosmos_forge.files import write_json
from cosmos_forge.generation import sheet
from cosmos_forge.generation.chunks import Chunks
from cosmos_forge.generation.guard import Safety
from cosmos_forge.generation.inputs import PICTURES, VIDEOS
from cosmos_forge.generation.jobs import Job, Video
from cosmos_forge.generation.latents import Latents
from cosmos_forge.run import Run
from cosmos_forge.types import Context

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

SHEET_VIDEOS = 8  # at most on the contact sheet, spread over all
_SUFFIX = re.compile(rf"({'|'.join(map(re.escape, sorted(PICTURES | VIDEOS)))})(?=#|$)", re.IGNORECASE)


def settings(plan: Plan, weights: Mapping[str, Any], made: Video) -> dict[str, Any]:
    """Everything that decides what a video looks like, as JSON knows it. A video that is there with the same settings
    is not made again. weights: what they are called, and what tells them from others of that name."""
    options, lengths, (_, height, width) = plan.generate, plan.lengths, plan.video_size()
    chunks = {"chunk_frames": lengths.chunk, "overlap": lengths.overlap} if lengths.chunks > 1 else {}
    found = {
        "source": made.source,
        "prompt": made.prompts if made.then else made.prompt,
        **_prompt_upsampler(plan, made),
        "negative_prompt": options.negative_prompt,
        "seed": options.seed,
        "guidance": options.guidance,
        "given_frames": made.given,
        "num_frames": lengths.frames,
        **chunks,
        "height": height,
        "width": width,
        "fps": made.fps,
        "precision": plan.root.precision,
        "fp8_weights": options.memory == "fp8",
        **{
            table: {"use": plan.use(table), **plan.values(table)}
            for table in ("sampler", "model", "latent_tokenizer", "text_encoder")
        },
        **weights,
        "guardrails": {
            table.name.partition(".")[2]: {**table.values(), "fingerprint": table.options.fingerprint()}
            for table in plan.each("guardrail")
        },
    }
    return dict(json.loads(json.dumps(found)))


def _prompt_upsampler(plan: Plan, made: Video) -> dict[str, Any]:
    """Who wrote the prompts, and from what."""
    if not made.asked:
        return {}
    return {
        "prompt_given": made.asked if made.then else made.asked[0],
        "prompt_upsampler": plan.values("prompt_upsampler"),
    }


def is_there(run: Run, made: Video, settings: Mapping[str, Any]) -> bool:
    """Whether the video was made before, with these settings."""
    path = file_of(run, made)
    if not (path.exists() and path.with_suffix(".json").exists()):
        return False
    record = json.loads(path.with_suffix(".json").read_text())
    return all(record.get(key) == value for key, value in settings.items())


def write(run: Run, made: Video, frames_THWC: Iterable[np.ndarray]) -> None:
    """The MP4, and what really happened under `truth/`, where that is known; its record is to follow, and where MP4 and
    record stand, the video is whole."""
    path = file_of(run, made)
    path.with_suffix(".json").unlink(missing_ok=True)
    video.write_mp4(frames_THWC, made.fps, path)
    if made.truth is not None:
        video.write_mp4(THWC(made.truth()), made.fps, path.parent / "truth" / path.name)


def write_record(
    run: Run, made: Video, settings: Mapping[str, Any], safety: Safety, metrics: Mapping[str, Any]
) -> None:
    """The JSON beside the MP4, or, where a guardrail has stopped the video, in its place."""
    path = file_of(run, made)
    if safety.stopped:
        path.unlink(missing_ok=True)
    write_json(path.with_suffix(".json"), {**settings, "safety": safety.record(), "metrics": dict(metrics)})


def read_records(run: Run, videos: Sequence[Video]) -> dict[str, dict[str, Any]]:
    """The videos' records, by the name of the MP4."""
    files = [file_of(run, each) for each in videos]
    return {file.name: json.loads(file.with_suffix(".json").read_text()) for file in files}


def clear_away(run: Run) -> None:
    """The folder of latents, unless some are still there for whoever goes on with others of these videos."""
    for folder in (run.latents / "base", run.latents):
        with suppress(OSError):
            folder.rmdir()


def finish(plan: Plan, run: Run, context: Context, videos: Sequence[Video]) -> None:
    """Sums up what all processes have made. An input's videos have a sheet of their own and no truth to be measured by,
    so what held-out clips have shown stays as it was."""
    videos = [each for each in videos if file_of(run, each).exists()]
    if not videos:
        return
    rows, shown = list[sheet.Row](), videos[:: -(-len(videos) // SHEET_VIDEOS)]
    if len(shown) < len(videos):
        context.emit(events.Note(f"the contact sheet shows {len(shown)} of {len(videos)} videos"))
    for each in shown:
        rows.append(sheet.row_of_file(f"{each.name}: generated", file_of(run, each), each.given))
        if each.truth is not None:
            rows.append(sheet.row(f"{each.name}: truth", THWC(each.truth()), each.given))
    picture = sheet_of(run, plan.generate.input)
    sheet.contact_sheet(rows, picture)
    whole = len(videos) == 1 and plan.generate.input is not None
    run.leave(*(("video", file_of(run, videos[0])) if whole else ("videos", run.videos)))
    run.leave("contact sheet", picture)
    if plan.generate.input is not None:
        return
    records = list(read_records(run, videos).values())
    metrics: dict[str, Any] = {
        name: float(np.mean([record["metrics"][name] for record in records])) for name in records[0]["metrics"]
    }
    metrics["clips"] = len(videos)
    if "train" in plan.tables:
        metrics["train_seconds"] = round(run.seconds("train"), 1)
    write_json(run.metrics, metrics)
    run.leave("metrics", run.metrics)
    context.emit(events.Measured(metrics))


def chunks_of(plan: Plan, run: Run, made: Video, settings: Mapping[str, Any]) -> Chunks:
    """Where a long video lies until it is whole."""
    return Chunks(run.folder / "chunks" / file_name(made.name), plan.lengths, _before_guardrails(settings))


def latents_of(folder: Path, made: Video, job: Job, settings: Mapping[str, Any]) -> Latents:
    """Where what is sampled of a video lies until it is decoded."""
    made_with = {**_before_guardrails(settings), "job": job.name}
    return Latents(folder / f"{file_name(made.name)}.safetensors", made_with)


def _before_guardrails(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a video until guardrails look at it."""
    return {key: value for key, value in settings.items() if key != "guardrails"}


def check_names(run: Run, videos: Sequence[Video], sheet: Path) -> None:
    """Raises ForgeError where two would be written to one file, or one, or the contact sheet, over what another goes on
    from."""
    files = {path.resolve() for path in (sheet, *(file_of(run, each) for each in videos))}
    for each in videos:
        if (path := Path(each.source.get("input", ""))).resolve() in files:
            raise ForgeError(f"{show_path(path)} would be overwritten", "copy it, or give this run another --name")
    names: dict[str, str] = {}
    for each in videos:
        other = names.setdefault(file_name(each.name), each.name)
        if other != each.name:
            what = f"{other} and {each.name} would both become {file_name(each.name)}.mp4"
            raise ForgeError(what, "rename one of them")


def sheet_of(run: Run, input_path: str | None) -> Path:
    """The contact sheet of an input, or of held-out clips."""
    name = file_name(Path(input_path).resolve().name) if input_path else "contact-sheet"
    return run.videos / f"{name}.png"


def file_of(run: Run, made: Video) -> Path:
    """The MP4."""
    return run.videos / f"{file_name(made.name)}.mp4"


def file_name(key: str) -> str:
    """A key without what file systems dislike."""
    return re.sub(r"[^\w.-]+", "-", _SUFFIX.sub("", key)).strip("-")


def THWC(frames_CTHW: Tensor) -> np.ndarray:
    """The same frames as files know them."""
    return frames_CTHW.permute(1, 2, 3, 0).contiguous().numpy()
