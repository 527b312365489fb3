"""Samples of tar shards as clips."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cosmos_forge import ForgeError, Problem
from cosmos_forge.frames import Unreadable, probe, read, resize
from cosmos_forge.types import Clip, Rejected
from forge_webdataset.plugin import WebDatasetOptions
from forge_webdataset.shards import Sample, Slice, Wanted, find_samples

if TYPE_CHECKING:
    from cosmos_forge import Context

EDGE = 1 << 16  # bytes at each end of a video that tell it from others


@dataclass(frozen=True)
class Window:
    """A clip: its shard and sample, and the frame of the video that it starts with, from 0."""

    shard: Path
    sample: Sample
    start: int


class WebDataset:
    """Clips in the order of shards, samples and frames. Raises ForgeError, with all reasons, where none is usable."""

    def __init__(self, options: WebDatasetOptions, context: Context) -> None:
        self.options = options
        self.windows: list[Window] = []
        self.rejected: list[Rejected] = []
        shards = options.files()
        if not shards:
            raise ForgeError(f"{options.shards} matches no file", "paths start at the working directory")
        self.folder = Path(os.path.commonpath([shard.parent.resolve() for shard in shards]))
        wanted = Wanted(options.video.lower(), None if options.caption else options.text.lower(), options.text_key)
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(partial(_search, wanted=wanted, kept=index_folder(options)), shards)
            for shard, samples in zip(shards, found, strict=True):
                for sample in samples:
                    self._add(shard, sample)
        if not self.windows:
            none = Problem(f"nothing in {options.shards} can be used", fix="see what follows")
            raise ForgeError([none, *(Problem(f"{each.key}: {each.reason}") for each in self.rejected)])

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Clip:
        """The clip; fps is that of its frames, so a stride divides it."""
        options, window = self.options, self.windows[index]
        indices = range(window.start, window.start + options.span, options.frame_stride)
        try:
            with Slice(window.shard, window.sample.offset, window.sample.size) as file:
                video = probe(file)
                shown = [video.times[place] for place in indices]
                frames_TCHW = torch.from_numpy(read(file, shown, video.begin(shown[0]))).movedim(3, 1)
        except (Unreadable, OSError) as error:
            what = f"{self.key(index)}: frames {indices[0]} to {indices[-1]}: {error}"
            raise ForgeError(what, "copy or download the shard again") from error
        frames_TCHW = resize(frames_TCHW, options.height, options.width, crop=options.resize == "crop")
        frames_CTHW = frames_TCHW.movedim(1, 0).contiguous()
        return Clip(self.key(index), frames_CTHW, window.sample.fps / options.frame_stride, self.caption(index))

    def key(self, index: int) -> str:
        window = self.windows[index]
        return f"{self._name(window.shard, window.sample)}#{window.start}"

    def caption(self, index: int) -> str:
        return self.options.caption or self.windows[index].sample.caption

    def fingerprint(self, index: int) -> str:
        """SHA-256 over the video's size and both its ends, where MP4 keeps its index, the place of the clip in it, and
        all else that decides frames. A shard that was packed anew or copied leaves it as it was."""
        options, window = self.options, self.windows[index]
        with Slice(window.shard, window.sample.offset, window.sample.size) as file:
            ends = file.read(EDGE)
            file.seek(max(window.sample.size - EDGE, 0))
            ends += file.read(EDGE)
        shape = (options.num_frames, options.frame_stride, options.height, options.width, options.resize)
        place = (window.sample.size, hashlib.sha256(ends).hexdigest(), window.start, shape)
        return hashlib.sha256(repr(place).encode()).hexdigest()

    def _add(self, shard: Path, sample: Sample) -> None:
        """The clips of a sample, or why there are none."""
        span, reason = self.options.span, sample.reason
        if not reason and sample.frames < span:
            reason = f"the video has {sample.frames} frames, and a clip needs {span}"
        if reason:
            self.rejected.append(Rejected(self._name(shard, sample), reason))
            return
        starts = range(0, sample.frames - span + 1, self.options.start_frame_interval or span)
        self.windows += [Window(shard, sample, start) for start in starts]

    def _name(self, shard: Path, sample: Sample) -> str:
        """The shard below the folder that all have in common, and the sample's key."""
        name = shard.resolve().relative_to(self.folder).as_posix()
        return f"{name}/{sample.key}" if sample.key else name


def index_folder(options: WebDatasetOptions) -> Path:
    """Where what is found in shards is kept."""
    if options.index:
        return Path(options.index).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "forge-webdataset"


def _search(shard: Path, wanted: Wanted, kept: Path) -> list[Sample]:
    try:
        return find_samples(shard, wanted, kept)
    except OSError as error:
        return [Sample("", reason=f"the shard cannot be read: {error.strerror}")]
