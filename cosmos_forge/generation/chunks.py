"""A long video while it is made: its finished chunks on disk, none of them in memory.

`chunks/NAME/` of the run holds `settings.json`, what the video is made with, and 0.mkv, 1.mkv, .., lossless. It goes
once the video is whole; till then, whoever goes on after an interruption begins with the first chunk that is missing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cosmos_forge.files import write_json
from cosmos_forge.generation.jobs import to_pixels
from cosmos_forge.generation.lengths import Lengths
from cosmos_forge.video import read_frames, read_last, write_lossless


@dataclass(frozen=True)
class Chunks:
    """Of one video, in `folder`. settings: all that decides what it looks like, as JSON knows it."""

    folder: Path
    lengths: Lengths
    settings: Mapping[str, Any]

    def done(self) -> int:
        """How many are there, from the first on, made with these settings."""
        record = self.folder / "settings.json"
        if not record.exists() or json.loads(record.read_text()) != self.settings:
            return 0
        return next(number for number in range(self.lengths.chunks + 1) if not self._path(number).exists())

    def add(self, number: int, frames_THWC: Iterable[np.ndarray], fps: float) -> None:
        """Keeps a chunk; the first one clears away what was made with other settings."""
        if number == 0:
            self.clear()
            write_json(self.folder / "settings.json", self.settings)
        write_lossless(frames_THWC, fps, self._path(number))

    def last(self, number: int) -> Tensor:
        """What the next one after `number` goes on from, CTHW, float32, -1 to 1."""
        return to_pixels(read_last(self._path(number), self.lengths.overlap))

    def frames(self) -> Iterator[np.ndarray]:
        """HWC, of the whole video: what chunks share comes once, and what is too much at the end does not."""
        return islice(self._all(), self.lengths.frames)

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # another video's lie beside it
            self.folder.parent.rmdir()

    def _all(self) -> Iterator[np.ndarray]:
        for number in range(self.lengths.chunks):
            yield from islice(read_frames(self._path(number)), self.lengths.overlap if number else 0, None)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.mkv"
