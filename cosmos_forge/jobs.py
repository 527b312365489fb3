"""What `generate` makes: videos that go on from a person's input or from held-out clips, and the pieces of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_forge import events, video
from cosmos_forge.data import read_index
from cosmos_forge.errors import ForgeError
from cosmos_forge.kinds import Dataset
from cosmos_forge.plan import SIZES
from cosmos_forge.run import Run
from cosmos_forge.types import Context
from cosmos_forge.worker import component

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


@dataclass(frozen=True)
class Job:
    """What is sampled in one go. name: decides the noise. given: number of frames to go on from. read: these frames,
    CTHW, float32, about -1 to 1; asked for once, so that a batch's frames are never in memory together."""

    name: str
    prompt: str
    fps: float
    given: int
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Video:
    """What a person gets a file of.

    name: of the files, unique. given: number of frames that it goes on from, and read, as in `Job`, these frames.
    source: facts about them, for the record. truth: reads the whole clip (CTHW, uint8) where it is known.
    """

    name: str
    prompt: str
    fps: float
    given: int
    read: Callable[[], Tensor]
    source: Mapping[str, Any]
    truth: Callable[[], Tensor] | None = None


def find_videos(plan: Plan, run: Run, context: Context) -> list[Video]:
    """The input's continuation, or every held-out clip's; the same in every process."""
    return _held_out(plan, run, context) if plan.generate.input is None else [_of_input(plan, context)]


def _of_input(plan: Plan, context: Context) -> Video:
    options = plan.generate
    path = Path(options.input or "")
    frames_THWC, fps = video.read_media(path)
    if len(frames_THWC) < options.given_frames:
        raise ForgeError(
            f"{options.input} has {len(frames_THWC)} frames, generate.given_frames asks for {options.given_frames}",
            "lower generate.given_frames; a picture gives 1",
        )
    _, height, width = plan.video_size()
    last_TCHW = torch.from_numpy(frames_THWC[-options.given_frames :]).permute(0, 3, 1, 2)
    if last_TCHW.shape[2:] != (height, width):
        was = f"{last_TCHW.shape[2]}x{last_TCHW.shape[3]}"
        context.emit(events.Note(f"the input is stretched from {was} to {height}x{width} pixels"))

    def read() -> Tensor:
        resized = F.interpolate(last_TCHW.float(), (height, width), mode="bicubic", antialias=True, align_corners=False)
        return resized.permute(1, 0, 2, 3) / 127.5 - 1

    return Video(path.stem, options.prompt or "", options.fps or fps, options.given_frames, read, {"input": str(path)})


def _held_out(plan: Plan, run: Run, context: Context) -> list[Video]:
    held_out = {clip.key: clip for clip in read_index(run.prepared) if clip.held_out}
    if not held_out:
        raise ForgeError("no clips were held out to continue", "set prepare.held_out, or name a generate.input")
    options = plan.generate
    dataset: Dataset = component(plan, "dataset", context)
    size, videos = tuple(getattr(plan.options("dataset"), key) for key in SIZES), list[Video]()
    for index in range(len(dataset)):
        clip = dataset[index] if dataset.key(index) in held_out else None
        if clip is None or tuple(clip.frames_CTHW.shape[1:]) != size:
            continue

        def truth(index: int = index) -> Tensor:
            return dataset[index].frames_CTHW

        def read(truth: Callable[[], Tensor] = truth) -> Tensor:
            return truth()[:, : options.given_frames].float() / 127.5 - 1

        videos.append(
            Video(
                name=clip.key,
                prompt=options.prompt or clip.caption,
                fps=options.fps or clip.fps,
                given=options.given_frames,
                read=read,
                source={"clip": clip.key},
                truth=truth,
            )
        )
    if not videos:
        what = f"no clip that was held out has the largest size, {'x'.join(map(str, size))}"
        raise ForgeError(what, "set prepare.held_out to more, or name a generate.input")
    if len(videos) < len(held_out):
        left = len(held_out) - len(videos)
        context.emit(events.Note(f"{left} held-out clips are not continued: they are not of the largest size"))
    return videos
