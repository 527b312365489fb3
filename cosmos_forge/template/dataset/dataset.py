"""Folders of pictures as clips.

Shape suffixes: C channels, T time, H height, W width.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cosmos_forge import Context, ForgeError, Problem
from cosmos_forge.types import Clip, Rejected
from new_plugin.plugin import NewPluginOptions


class NewPlugin:
    """See `cosmos_forge.kinds.Dataset`: clips by index, and what cannot be used with its reason."""

    def __init__(self, options: NewPluginOptions, context: Context) -> None:
        self.options = options
        self.clips: list[Path] = []
        self.rejected: list[Rejected] = []
        for folder in sorted(path for path in Path(options.path).iterdir() if path.is_dir()):
            if reason := self.unusable(folder):
                self.rejected.append(Rejected(folder.name, reason))
            else:
                self.clips.append(folder)
        if not self.clips:
            none = Problem(f"no folder in {options.path} can be used", fix="see what follows")
            raise ForgeError([none, *(Problem(f"{each.key}: {each.reason}") for each in self.rejected)])

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Clip:
        """The clip: uint8 RGB. Raises ForgeError, naming the picture that cannot be read."""
        frames = [self.read(path) for path in self.pictures(self.clips[index])]
        frames_CTHW = torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).contiguous()
        return Clip(self.key(index), frames_CTHW, self.options.fps, self.caption(index))

    def key(self, index: int) -> str:
        """Names the clip in every list and file, now and next time."""
        return self.clips[index].name

    def caption(self, index: int) -> str:
        return (self.clips[index] / "caption.txt").read_text(encoding="utf-8").strip()

    def fingerprint(self, index: int) -> str:
        """Of all that decides the frames: encoded clips are kept under it. Reads files' dates, not the files."""
        files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.pictures(self.clips[index])]
        size = (self.options.height, self.options.width, self.options.fps)
        return hashlib.sha256(repr((self.key(index), files, size)).encode()).hexdigest()

    def pictures(self, folder: Path) -> list[Path]:
        """The files of a clip's frames, in order."""
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
        return found[: self.options.num_frames]

    def unusable(self, folder: Path) -> str:
        """Why a folder is no clip; empty where it is one."""
        count = len(self.pictures(folder))
        if count < self.options.num_frames:
            return f"it holds {count} pictures, and a clip needs {self.options.num_frames}"
        return "" if (folder / "caption.txt").is_file() else "it has no caption.txt"

    def read(self, path: Path) -> np.ndarray:
        """A picture of the right size, HWC."""
        try:
            with Image.open(path) as picture:
                size = (self.options.width, self.options.height)
                return np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC))
        except OSError as error:
            raise ForgeError(f"{path} cannot be read: {error}", "save it again, or take the clip out") from error
