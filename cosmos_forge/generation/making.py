"""Makes the videos of one process's share: each in one go, or chunk after chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cosmos_forge.generation import outputs
from cosmos_forge.generation.chunks import Chunks
from cosmos_forge.generation.guard import FrameChecks, Safety, Stopped
from cosmos_forge.generation.jobs import Job, Video
from cosmos_forge.generation.judge import judge
from cosmos_forge.generation.sampling import decode, encode_given, sample
from cosmos_forge.generation.sharing import Share
from cosmos_forge.run import Run
from cosmos_forge.trained import Weights
from cosmos_forge.types import Context, TextEmbedding

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


@dataclass(frozen=True)
class Making:
    """What it takes. settings: of each video by its name, for its record. chunks: where each long one lies, and begun:
    how many of its chunks were there when all processes looked. safety: what guardrails said of its prompts. checks:
    those that look at frames."""

    plan: Plan
    run: Run
    context: Context
    share: Share
    weights: Weights
    texts: dict[str | None, TextEmbedding]
    settings: Mapping[str, Mapping[str, Any]]
    chunks: Mapping[str, Chunks]
    begun: Mapping[str, int]
    safety: Mapping[str, Safety]
    checks: FrameChecks

    def in_one_go(self, videos: Sequence[Video]) -> None:
        """One video in memory at a time."""
        jobs = [each.job() for each in videos]
        given = encode_given(self.plan, self.context, jobs, self.share)
        before: dict[str, dict[str, float]] = {}
        if self.plan.generate.compare_base and self.plan.generate.input is None:
            base = Weights(self.plan.options("model").weights)
            for each, frames_CTHW in self._sampled(videos, jobs, given, base, "videos of the base"):
                before[each.name] = judge(each, frames_CTHW)
        for each, frames_CTHW in self._sampled(videos, jobs, given, self.weights, "videos"):
            self._write(each, partial(iter, outputs.THWC(frames_CTHW)), before.get(each.name, {}))

    def in_chunks(self, videos: Sequence[Video]) -> None:
        """All videos by one chunk, then by the next, so that each component is loaded once a chunk. No video is ever in
        memory: what is finished lies on disk, also for whoever goes on after an interruption."""
        lengths = self.plan.lengths
        for number in range(lengths.chunks):
            due = [each for each in videos if self.begun[each.name] <= number]
            jobs = [self._job(each, number) for each in due]
            given = encode_given(self.plan, self.context, jobs, self.share)
            what = f"chunk {number + 1} of {lengths.chunks}"
            for each, frames_CTHW in self._sampled(due, jobs, given, self.weights, what):
                self.chunks[each.name].add(number, outputs.THWC(frames_CTHW), each.fps)
        for each in videos if self.share.leads else []:
            self._write(each, self.chunks[each.name].frames, {})
            self.chunks[each.name].clear()

    def _job(self, video: Video, number: int) -> Job:
        overlap, read = self.plan.lengths.overlap, partial(self.chunks[video.name].last, number - 1)
        return video.further_job(number, overlap, read) if number else video.job()

    def _sampled(
        self, videos: Sequence[Video], jobs: Sequence[Job], given: list[Tensor], weights: Weights, what: str
    ) -> Iterator[tuple[Video, Tensor]]:
        """Each video with its frames, CTHW; none where another process leads the team."""
        latents = sample(self.plan, self.context, weights, jobs, self.texts, given, what, self.share)
        mine = videos if self.share.leads else []
        return zip(mine, decode(self.plan, self.context, latents, self.share), strict=True)

    def _write(self, video: Video, frames: Callable[[], Iterator[np.ndarray]], before: Mapping[str, float]) -> None:
        """frames: gives them anew each time it is called, HWC. before: how good the video was before training."""
        metrics = {}
        if video.truth:
            known = np.stack(list(islice(frames(), video.truth().shape[1])))
            metrics = judge(video, torch.from_numpy(known).permute(3, 0, 1, 2))
        metrics |= {_of_base(name): before[name] for name in before if "copy" not in name}
        safety = self.safety[video.name]
        with suppress(Stopped):
            outputs.write(self.run, video, self.checks.watch(safety, frames(), self.plan.lengths.chunk))
        outputs.write_record(self.run, video, self.settings[video.name], safety, {} if safety.stopped else metrics)


def _of_base(name: str) -> str:
    """ "psnr_db" -> "psnr_base_db", "ssim" -> "ssim_base"."""
    first, *unit = name.split("_")
    return "_".join([first, "base", *unit])
