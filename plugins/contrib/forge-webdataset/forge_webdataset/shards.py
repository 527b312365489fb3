"""What a tar shard holds, found by its headers and kept, so that a shard is searched once.

The format (webdataset's `tariterators.py`: `base_plus_ext`, `group_by_keys`): the name of a member up to the first dot
of its last part is the key of a sample, what follows tells which part of the sample it is.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cosmos_forge.frames import Unreadable, probe

VERSION = 1  # of what is kept


@dataclass(frozen=True)
class Sample:
    """offset, size: of the video in the shard, bytes. frames: how many it has, fps a second. reason: why it cannot be
    used, else empty."""

    key: str
    offset: int = 0
    size: int = 0
    frames: int = 0
    fps: float = 0.0
    caption: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Wanted:
    """Which members are read: the video's extension, the caption's (None: no caption), and its key within JSON."""

    video: str
    text: str | None
    text_key: str


class Slice(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self.file = path.open("rb")
        self.offset, self.size, self.place = offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence] + offset
        return self.place

    def readinto(self, buffer: Any) -> int:
        self.file.seek(self.offset + self.place)
        count = self.file.readinto(memoryview(buffer)[: max(self.size - self.place, 0)])
        self.place += count
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


def find_samples(shard: Path, wanted: Wanted, kept: Path) -> list[Sample]:
    """The samples of a shard, in its order; a shard that is no whole tar ends with one that says why. What is found is
    kept in the folder `kept` until the shard changes."""
    stat = shard.stat()
    what = [VERSION, str(shard.resolve()), stat.st_size, stat.st_mtime_ns, asdict(wanted)]
    path = kept / f"{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]}.json"
    try:
        return [Sample(**each) for each in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        samples = search(shard, wanted)
    try:
        kept.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps([asdict(sample) for sample in samples]), encoding="utf-8")
        partial.replace(path)
    except OSError:
        pass  # the shard is searched again next time, which is all that this is for
    return samples


def search(shard: Path, wanted: Wanted) -> list[Sample]:
    """As `find_samples`, by the shard's headers; of the videos the packets are read, nothing is decoded."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    twice, fault = set[str](), ""
    try:
        with shard.open("rb") as file:
            if file.read(2) == b"\x1f\x8b":
                raise tarfile.ReadError("it is compressed, so nothing in it can be found by its place; gunzip it")
        with tarfile.open(shard, "r:") as tar:
            for member in filter(tarfile.TarInfo.isfile, tar):
                key, extension = split(member.name)
                if extension in samples.setdefault(key, {}):
                    twice.add(key)
                samples[key][extension] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        fault = f"the tar is damaged after {len(samples)} samples: {error}"
    if not (samples or fault):
        fault = "the tar holds no files"
    found = [_sample(shard, wanted, key, members, key in twice) for key, members in samples.items()]
    return [*found, Sample("", reason=fault)] if fault else found


def split(name: str) -> tuple[str, str]:
    """Key and extension of a member's name: clips/a.left.mp4 -> clips/a, left.mp4."""
    found = re.fullmatch(r"((?:.*/)?[^/.]*)\.?(.*)", name)
    return (found[1], found[2].lower()) if found else (name, "")


def _sample(shard: Path, wanted: Wanted, key: str, members: dict[str, tuple[int, int]], twice: bool) -> Sample:
    """One sample, or why it cannot be used."""
    try:
        if twice:
            raise Unreadable("its key stands twice in the shard")
        if wanted.video not in members:
            there = ", ".join(f".{each}" if each else "one without a dot" for each in members)
            raise Unreadable(f"it has no member .{wanted.video}, only {there}")
        caption = _caption(shard, wanted, members) if wanted.text else ""
        offset, size = members[wanted.video]
        with Slice(shard, offset, size) as file:
            video = probe(file)
        return Sample(key, offset, size, len(video.times), video.fps, caption)
    except Unreadable as error:
        return Sample(key, reason=str(error))


def _caption(shard: Path, wanted: Wanted, members: dict[str, tuple[int, int]]) -> str:
    """Raises Unreadable."""
    name = wanted.text or ""
    if name not in members:
        raise Unreadable(f"it has no caption, a member .{name}; or set `caption` for all")
    try:
        with Slice(shard, *members[name]) as file:
            text: Any = file.read().decode("utf-8")
        if name.rpartition(".")[2] == "json":
            text = json.loads(text)[wanted.text_key]
    except (ValueError, KeyError, TypeError) as error:
        raise Unreadable(f"its .{name} holds no caption ({type(error).__name__}: {error})") from error
    if not (isinstance(text, str) and text.strip()):
        raise Unreadable(f"the caption in its .{name} is empty")
    return text.strip()
