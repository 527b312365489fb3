"""Makes the videos of one process's share: each in one go, or chunk after chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cosmos_forge.devices import release
from cosmos_forge.events import Note, Progress
from cosmos_forge.generation import outputs
from cosmos_forge.generation.adapters import identity
from cosmos_forge.generation.chunks import Chunks
from cosmos_forge.generation.guard import FrameChecks, Safety, Stopped
from cosmos_forge.generation.jobs import Job, Video
from cosmos_forge.generation.judge import judge
from cosmos_forge.generation.latents import Latents
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
        before: dict[str, dict[str, float]] = {}
        if self.plan.generate.compare_base and self.plan.generate.input is None:
            base, tell = Weights(self.plan.options("model").weights), self._tell("videos of the base", len(jobs))
            for each, frames_CTHW in self._sampled(videos, jobs, base, self.run.latents / "base", tell):
                before[each.name] = judge(each, frames_CTHW)
        tell = self._tell("videos", len(jobs))
        for each, frames_CTHW in self._sampled(videos, jobs, self.weights, self.run.latents, tell):
            self._write(each, partial(iter, outputs.THWC(frames_CTHW)), before.get(each.name, {}))

    def in_chunks(self, videos: Sequence[Video]) -> None:
        """All videos by one chunk, then by the next, so that each component is loaded once a chunk. No video is ever in
        memory: what is finished lies on disk, also for whoever goes on after an interruption."""
        chunks, done = self.plan.lengths.chunks, sum(self.begun[each.name] for each in videos)
        for number in range(chunks):
            due = [each for each in videos if self.begun[each.name] <= number]
            jobs = [self._job(each, number) for each in due]
            tell = self._tell("chunks", chunks * len(videos), done)
            for each, frames_CTHW in self._sampled(due, jobs, self.weights, self.run.latents, tell):
                self.chunks[each.name].add(number, outputs.THWC(frames_CTHW), each.fps)
            done += len(due)
        for each in videos if self.share.leads else []:
            self._write(each, self.chunks[each.name].frames, {})
            if self.safety[each.name].state != "failed":  # what failed is looked at again
                self.chunks[each.name].clear()

    def _job(self, video: Video, number: int) -> Job:
        overlap, read = self.plan.lengths.overlap, partial(self.chunks[video.name].last, number - 1)
        return video.further_job(number, overlap, read) if number else video.job()

    def _tell(self, what: str, total: int, before: int = 0) -> Callable[[float], None]:
        """Tells the view how many of all, beside those `before`, are done."""
        return lambda done: self.context.emit(Progress(what, before + done, total, what.split()[0]))

    def _sampled(
        self,
        videos: Sequence[Video],
        jobs: Sequence[Job],
        weights: Weights,
        folder: Path,
        tell: Callable[[float], None],
    ) -> Iterator[tuple[Video, Tensor]]:
        """Each video with its frames, CTHW; none where another process leads the team. Latents lie in `folder` until
        the frames have been used, and what lies there is not sampled again."""
        named = identity(self.plan, weights)
        latents = {
            job.name: outputs.latents_of(folder, video, job, outputs.settings(self.plan, named, video))
            for video, job in zip(videos, jobs, strict=True)
        }
        due = self._due(jobs, latents)
        there = len(jobs) - len(due)
        given = encode_given(self.plan, self.context, due, self.share)

        def keep(job: Job, latents_BCTHW: Tensor) -> None:
            if self.share.leads:
                latents[job.name].write(latents_BCTHW)

        sample(
            *(self.plan, self.context, weights, due, self.texts, given, self.share),
            tell=lambda done: tell(there + done),
            keep=keep,
        )
        release(self.context)
        if not self.share.leads:
            return
        frames = decode(self.plan, self.context, list(latents.values()))
        for video, job, frames_CTHW in zip(videos, jobs, frames, strict=True):
            yield video, frames_CTHW
            if self.safety[video.name].state != "failed":
                latents[job.name].clear()

    def _due(self, jobs: Sequence[Job], latents: Mapping[str, Latents]) -> list[Job]:
        """Those that are to be sampled, as the process that leads the team finds it."""
        due = torch.tensor([not latents[job.name].are_there() for job in jobs], device=self.context.device)
        if self.share.team and jobs:
            due = self.share.team.tell(due.int())
        found = [job for job, is_due in zip(jobs, due.tolist(), strict=True) if is_due]
        if len(found) < len(jobs):
            self.context.emit(Note("what was sampled before is not sampled again"))
        return found

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
