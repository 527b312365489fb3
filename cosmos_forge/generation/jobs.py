"""What `generate` makes: videos that go on from a person's input or from held-out clips, and the pieces of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_forge import events
from cosmos_forge.errors import ForgeError, Problem, show_path
from cosmos_forge.files import sha256
from cosmos_forge.frames import middle
from cosmos_forge.generation.inputs import PICTURES, Wish, find_wishes, left_out
from cosmos_forge.kinds import Dataset
from cosmos_forge.run import Run
from cosmos_forge.training.data import read_index
from cosmos_forge.types import Context
from cosmos_forge.video import Media, probe, read_last
from cosmos_forge.worker import component

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


@dataclass(frozen=True)
class Job:
    """What is sampled in one go. name: decides the noise. given: number of frames to go on from. read: these frames,
    CTHW, float32, about -1 to 1; asked for where they are needed, so that a batch's are never in memory together."""

    name: str
    prompt: str
    fps: float
    given: int
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Video:
    """What a person gets a file of.

    name: of the files, unique. given: number of frames that it goes on from, and read, as in `Job`, these frames.
    source: facts about them, for the record. truth: reads the clip (CTHW, uint8) as far as it is known and the video
    goes. then: prompts of the chunks after the first; the last holds for the rest. asked: a person's own prompts, where
    others were written in their place.
    """

    name: str
    prompt: str
    fps: float
    given: int
    read: Callable[[], Tensor]
    source: Mapping[str, Any]
    truth: Callable[[], Tensor] | None = None
    then: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()

    @property
    def prompts(self) -> tuple[str, ...]:
        return (self.prompt, *self.then)

    def job(self) -> Job:
        """Of the whole video, or its first chunk."""
        return Job(self.name, self.prompt, self.fps, self.given, self.read)

    def further_job(self, chunk: int, given: int, read: Callable[[], Tensor]) -> Job:
        """Of a chunk after the first (number 0), which goes on from what `read` gives."""
        return Job(f"{self.name}, chunk {chunk}", self.prompts[min(chunk, len(self.then))], self.fps, given, read)


def find_videos(plan: Plan, run: Run, context: Context) -> list[Video]:
    """The inputs' continuation, or every held-out clip's; the same in every process. Opens every file and raises
    ForgeError with all that is wrong with them, before anything is computed."""
    return _held_out(plan, run, context) if plan.generate.input is None else _of_inputs(plan, context)


def as_prompts(prompt: str | list[str] | None) -> tuple[str, ...]:
    """A recipe's prompt, one a chunk; () where it has none."""
    return tuple([prompt] if isinstance(prompt, str) else prompt or [])


def to_pixels(frames_THWC: np.ndarray) -> Tensor:
    """uint8 -> CTHW, float32, -1 to 1: the inverse of what is done to generated frames, and as in training."""
    return torch.from_numpy(frames_THWC).permute(3, 0, 1, 2).float() / 127.5 - 1


def to_given_pixels(frames_THWC: np.ndarray, height: int, width: int, crop: bool = False) -> Tensor:
    """A person's frames (uint8) -> CTHW, float32, about -1 to 1, as in Cosmos inference: x / 128 - 1, in bfloat16,
    resized by an antialiased bicubic filter that may overshoot. crop: first cut out the largest middle part of the
    target's proportions.

    Source: the reference's `inference_utils.py: read_video_or_image_into_frames_BCTHW`. One frame at a time, since a
    large one needs 4 bytes a number.
    """
    if crop:
        full_height, full_width = frames_THWC.shape[1:3]
        rows, columns = middle(full_height, full_width, height, width)
        frames_THWC = frames_THWC[:, rows, columns]
    frames = []
    for frame_HWC in frames_THWC:
        frame_CHW = torch.from_numpy(np.ascontiguousarray(frame_HWC)).permute(2, 0, 1).float() / 128 - 1
        frame_CHW = frame_CHW.bfloat16().float()
        if frame_CHW.shape[1:] != (height, width):
            frame_CHW = F.interpolate(frame_CHW[None], (height, width), mode="bicubic", antialias=True)[0]
        frames.append(frame_CHW.bfloat16().float())
    return torch.stack(frames, dim=1)


def _of_inputs(plan: Plan, context: Context) -> list[Video]:
    wishes, found, problems = find_wishes(plan), list[Media](), list[Problem]()
    wanted = plan.generate.given_frames
    for wish in wishes:
        try:
            media = probe(wish.path)
            if media.frames < wanted and not _is_picture(wish):
                what = f"{show_path(wish.path)} has {media.frames} frames, generate.given_frames asks for {wanted}"
                problems.append(Problem(what, wish.where, "lower generate.given_frames"))
            found.append(media)
        except ForgeError as error:
            problems += [replace(problem, where=wish.where) for problem in error.problems]
    if problems:
        raise ForgeError(problems)
    videos = [_of_input(plan, wish, media) for wish, media in zip(wishes, found, strict=True)]
    for note in _notes(plan, wishes, found, videos):
        context.emit(events.Note(note))
    return videos


def _of_input(plan: Plan, wish: Wish, media: Media) -> Video:
    options, (_, height, width) = plan.generate, plan.video_size()
    crop, given = options.resize == "crop", 1 if _is_picture(wish) else options.given_frames
    first, *then = wish.prompts or as_prompts(options.prompt) or ("",)

    def read() -> Tensor:
        return to_given_pixels(read_last(wish.path, given), height, width, crop)

    source = {
        "input": str(wish.path),
        "sha256": sha256(wish.path),
        "height": media.height,
        "width": media.width,
        "resize": options.resize if (media.height, media.width) != (height, width) else "none",
    }
    return Video(wish.name, first, options.fps or media.fps, given, read, source, then=tuple(then))


def _notes(plan: Plan, wishes: Sequence[Wish], found: Sequence[Media], videos: Sequence[Video]) -> list[str]:
    """What a person may not expect of their input."""
    options, (_, height, width) = plan.generate, plan.video_size()
    folder, notes = Path(options.input or "").expanduser(), []
    if folder.is_dir() and (others := left_out(folder)):
        notes.append(f"left out, being neither picture, video nor the prompt of one: {_some(others)}")
    pictures = [wish.path.name for wish in wishes if _is_picture(wish)]
    if pictures and options.given_frames > 1:
        notes.append(f"a picture gives 1 frame, not {options.given_frames}: {_some(pictures)}")
    resized = [
        f"{wish.path.name} from {media.height}x{media.width}"
        for wish, media in zip(wishes, found, strict=True)
        if (media.height, media.width) != (height, width)
    ]
    if resized:
        how = "stretched" if options.resize == "stretch" else "cropped in the middle and resized"
        notes.append(f"given frames are {how} to {height}x{width} pixels: {_some(resized)}")
    silent = [video.name for video in videos if not any(video.prompts)]
    if silent and not plan.each("prompt_upsampler"):
        notes.append(f"no prompt says what happens in {_some(silent)}")
    return notes


def _some(names: Sequence[str]) -> str:
    """At most three of them, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _is_picture(wish: Wish) -> bool:
    return wish.path.suffix.lower() in PICTURES


def _held_out(plan: Plan, run: Run, context: Context) -> list[Video]:
    held_out = {clip.key: clip for clip in read_index(run.prepared) if clip.held_out}
    if not held_out:
        raise ForgeError("no clips were held out to continue", "set prepare.held_out, or name a generate.input")
    options, frames = plan.generate, plan.lengths.frames
    dataset: Dataset = component(plan, "dataset", context)
    size, videos = plan.clip_size, list[Video]()
    for index in range(len(dataset)):
        clip = dataset[index] if dataset.key(index) in held_out else None
        if clip is None or tuple(clip.frames_CTHW.shape[1:]) != size:
            continue

        def truth(index: int = index) -> Tensor:
            return dataset[index].frames_CTHW[:, :frames]

        def read(truth: Callable[[], Tensor] = truth) -> Tensor:
            return truth()[:, : options.given_frames].float() / 127.5 - 1

        first, *then = as_prompts(options.prompt) or (clip.caption,)
        videos.append(
            Video(
                name=clip.key,
                prompt=first,
                fps=options.fps or clip.fps,
                given=options.given_frames,
                read=read,
                source={"clip": clip.key, "fingerprint": dataset.fingerprint(index)},
                truth=truth,
                then=tuple(then),
            )
        )
    if not videos:
        what = f"no clip that was held out has the largest size, {'x'.join(map(str, size))}"
        raise ForgeError(what, "set prepare.held_out to more, or name a generate.input")
    if len(videos) < len(held_out):
        left = len(held_out) - len(videos)
        context.emit(events.Note(f"{left} held-out clips are not continued: they are not of the largest size"))
    return videos
