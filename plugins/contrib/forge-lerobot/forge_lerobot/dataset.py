"""Episodes as clips."""

from __future__ import annotations

import bisect
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cosmos_forge import ForgeError, Problem
from cosmos_forge.frames import Unreadable, Video, content_hash, probe, read, resize
from cosmos_forge.types import Clip, Rejected
from forge_lerobot.layout import Episode, read_recording
from forge_lerobot.plugin import LAYOUT, LeRobotOptions, missing

if TYPE_CHECKING:
    from cosmos_forge import Context


@dataclass(frozen=True)
class Window:
    """A clip: its episode, the episode's frame that it starts with (from 0), when its frames are shown, in units of the
    video's stream, and where decoding has to begin for them."""

    episode: Episode
    start: int
    shown: tuple[int, ...]
    begin: int


class LeRobot:
    """Clips in the order of episodes and their frames. Raises ForgeError, with all reasons, where none is usable."""

    def __init__(self, options: LeRobotOptions, context: Context) -> None:
        self.options = options
        needs = options.needs()
        self.folder = context.files(needs[0]) if needs else Path(options.path).expanduser()
        if what := missing(self.folder):
            raise ForgeError(what, LAYOUT)
        recording = read_recording(self.folder, options.camera)
        self.fps = recording.fps
        self.windows: list[Window] = []
        self.rejected: list[Rejected] = []
        videos = self._probe({episode.video for episode in recording.episodes})
        for episode in recording.episodes:
            try:
                self.windows += self._cut(episode, videos[episode.video])
            except Unreadable as error:
                self.rejected.append(Rejected(name(episode), str(error)))
        if not self.windows:
            none = Problem(f"none of the episodes in {self.folder} can be used", fix="see what follows")
            raise ForgeError([none, *(Problem(f"{each.key}: {each.reason}") for each in self.rejected)])

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Clip:
        """The clip; fps is that of its frames, so a stride divides it."""
        options, window = self.options, self.windows[index]
        path = self.folder / window.episode.video
        try:
            frames_TCHW = torch.from_numpy(read(path, window.shown, window.begin)).movedim(3, 1)
        except Unreadable as error:
            what = f"{self.key(index)}: frames from {window.start} on in {window.episode.video}: {error}"
            raise ForgeError(what, "copy or download the video again") from error
        frames_TCHW = resize(frames_TCHW, options.height, options.width, crop=options.resize == "crop")
        frames_CTHW = frames_TCHW.movedim(1, 0).contiguous()
        return Clip(self.key(index), frames_CTHW, self.fps / options.frame_stride, self.caption(index))

    def key(self, index: int) -> str:
        window = self.windows[index]
        return f"{name(window.episode)}#{window.start}"

    def caption(self, index: int) -> str:
        return self.options.caption or caption(self.windows[index].episode)

    def fingerprint(self, index: int) -> str:
        """SHA-256 over the video's content, the clip's times in it, and all else that decides frames."""
        options, window = self.options, self.windows[index]
        content = content_hash(self.folder / window.episode.video)
        shape = (options.height, options.width, options.resize, options.frame_stride, self.fps)
        return hashlib.sha256(repr((content, window.shown, shape)).encode()).hexdigest()

    def _probe(self, videos: set[str]) -> dict[str, Video | str]:
        """What each video says of itself, or why it cannot be used. One that is cut short has its first episodes."""

        def probed(video: str) -> Video | str:
            try:
                return probe(self.folder / video, cut_short=True)
            except Unreadable as error:
                return f"{video}: {error}"

        ordered = sorted(videos)
        with ThreadPoolExecutor(8) as pool:
            return dict(zip(ordered, pool.map(probed, ordered), strict=True))

    def _cut(self, episode: Episode, video: Video | str) -> list[Window]:
        """The clips of an episode. Raises Unreadable where there are none."""
        options = self.options
        if isinstance(video, str):
            raise Unreadable(video)
        if not (options.caption or caption(episode)):
            raise Unreadable("it has no task, so there is no caption; set `caption` for all")
        if episode.frames < options.span:
            raise Unreadable(f"it has {episode.frames} frames, and a clip needs {options.span}")
        shown = find_times(video, episode, self.fps)
        starts = range(0, episode.frames - options.span + 1, options.start_frame_interval or options.span)
        clips = ((start, tuple(shown[start : start + options.span : options.frame_stride])) for start in starts)
        return [Window(episode, start, times, video.begin(times[0])) for start, times in clips]


def find_times(video: Video, episode: Episode, fps: float) -> list[int]:
    """When each frame of the episode is shown: the video's frame nearest to start + i / fps. Raises Unreadable where
    one is more than half a frame away, for then the video is another or a part of it is missing."""
    found: list[int] = []
    times, unit = video.times, float(video.unit)
    for index in range(episode.frames):
        wanted = (episode.start + index / fps) / unit
        after = bisect.bisect_left(times, wanted)
        near = min(times[max(after - 1, 0) : after + 1], key=lambda time: abs(time - wanted), default=None)
        if near is None or abs(near - wanted) * unit > 0.5 / fps or (found and near <= found[-1]):
            raise Unreadable(
                f"{episode.video} has no frame at {episode.start + index / fps:.3f} s, the episode's {index}"
            )
        found.append(near)
    return found


def name(episode: Episode) -> str:
    """What keys call an episode."""
    return f"episode_{episode.index:06d}"


def caption(episode: Episode) -> str:
    """Its tasks; most episodes have one."""
    return "; ".join(task.strip() for task in episode.tasks if task.strip())
