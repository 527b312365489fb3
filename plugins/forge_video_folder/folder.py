"""A folder of videos as a dataset: which clips there are, and their frames."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cosmos_forge import ForgeError, Problem
from cosmos_forge.events import Note
from cosmos_forge.frames import Unreadable, content_hash, probe, resize
from cosmos_forge.types import Clip, Rejected
from forge_video_folder.files import NO_VIDEO, captions_alone, list_files, name_in, read_caption, why_not
from forge_video_folder.plugin import LAYOUT, VideoFolderOptions, missing, texts_of, videos_of
from forge_video_folder.reader import read_frames

if TYPE_CHECKING:
    from cosmos_forge import Context


@dataclass(frozen=True)
class Window:
    """Where a clip lies: its video, the first frame (from 0), and what is said of it. size: frames, height, width."""

    video: Path
    start: int
    size: tuple[int, int, int]
    fps: float
    caption: str


class VideoFolder:
    """Clips in the order of their file's name and their first frame; a video may hold several.

    Raises ForgeError where there is no usable clip, with the reason for every file.
    """

    def __init__(self, options: VideoFolderOptions, context: Context) -> None:
        self.options = options
        self.folder = options.folder(context.files)
        if what := missing(self.folder):
            raise ForgeError(what, fix=LAYOUT)
        self.windows: list[Window] = []
        self.rejected: list[Rejected] = []
        files = list_files(self.folder)
        with ThreadPoolExecutor(8) as pool:
            for path, found in zip(files, pool.map(self._windows, files), strict=True):
                if isinstance(found, str):
                    self.rejected.append(Rejected(name_in(self.folder, path), found))
                else:
                    self.windows.extend(found)
        self.rejected.extend(Rejected(name_in(self.folder, path), NO_VIDEO) for path in captions_alone(self.folder))
        if not self.windows:
            none = Problem(f"none of the videos in {videos_of(self.folder)} can be used", fix="see what follows")
            raise ForgeError([none, *(Problem(f"{item.key}: {item.reason}") for item in self.rejected)])
        self._tell_captions(context)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Clip:
        """The clip; fps is that of its frames, so a stride divides it. Upstream: fps of the file."""
        options, window = self.options, self.windows[index]
        num_frames, height, width = window.size
        indices = range(window.start, window.start + options.span(num_frames), options.frame_stride)
        try:
            frames_TCHW = torch.from_numpy(read_frames(window.video, indices)).movedim(3, 1)
        except Unreadable as error:
            raise ForgeError(
                f"{self.key(index)}: frames {indices[0]} to {indices[-1]} of {window.video}: {error}",
                fix="encode the video again, or take it out of the folder",
            ) from error
        frames_TCHW = resize(frames_TCHW, height, width, crop=options.resize == "crop")
        frames_CTHW = frames_TCHW.movedim(1, 0).contiguous()
        return Clip(self.key(index), frames_CTHW, window.fps / options.frame_stride, window.caption)

    def key(self, index: int) -> str:
        window = self.windows[index]
        return f"{window.video.name}#{window.start}"

    def caption(self, index: int) -> str:
        return self.windows[index].caption

    def fingerprint(self, index: int) -> str:
        """SHA-256 over the file's content, the place of the clip in it, and all else that decides frames."""
        options, window = self.options, self.windows[index]
        content = content_hash(window.video)
        num_frames, height, width = window.size
        shape = (num_frames, options.frame_stride, height, width, options.resize)
        return hashlib.sha256(repr((content, window.start, shape)).encode()).hexdigest()

    def _tell_captions(self, context: Context) -> None:
        """Which videos get the caption for those without one: it may come from a recipe that was written for others."""
        used = {window.video for window in self.windows}
        without = [path for path in used if not (texts_of(self.folder) / f"{path.stem}.txt").exists()]
        if without:
            what = f"{len(without)} of {len(used)} videos have no text of their own"
            context.emit(Note(f"{what}; their caption is `{self.options.caption}`"))

    def _windows(self, video: Path) -> list[Window] | str:
        """The clips of a video, or why there are none."""
        options = self.options
        if reason := why_not(video):
            return reason
        try:
            found = probe(video)
            height, width = picture_size(video) if options.other_sizes else options.size[1:]
            caption = read_caption(self.folder, video, options.caption)
        except Unreadable as error:
            return str(error)
        places = options.places(len(found.times), height, width)
        if isinstance(places, str):
            return places
        size, starts = places
        return [Window(video, start, size, found.fps, caption) for start in starts]


def picture_size(video: Path) -> tuple[int, int]:
    """Height and width as shown: only a decoded frame tells whether the video is turned. Raises Unreadable."""
    _, height, width, _ = read_frames(video, [0]).shape
    return height, width
