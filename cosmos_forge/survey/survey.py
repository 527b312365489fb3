"""Looks at every clip of a dataset: what it is, whether it will be used, and if not, why. Imports no torch.

A dataset that tells its files (`kinds.DatasetOptions`) is read from their headers; any other is built by a process of
its own, which reads the clips themselves.
"""

from __future__ import annotations

import hashlib
import mimetypes
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cosmos_forge import machine
from cosmos_forge.errors import ForgeError, Problem, show_path
from cosmos_forge.frames import Unreadable
from cosmos_forge.options import Download, nearest
from cosmos_forge.plan import Plan
from cosmos_forge.plugins import Component, Plugins
from cosmos_forge.recipe import read_recipe, toml_value
from cosmos_forge.survey.header import Header, read_header
from cosmos_forge.survey.listing import list_clips
from cosmos_forge.tables import build_tables
from cosmos_forge.types import Source

PART = 1 << 16  # bytes at either end of a file that tell most files of one size apart

Told = Callable[[int, int], None]  # done and total, while a survey goes on


@dataclass(frozen=True)
class Entry:
    """A file of the dataset, or a clip where it does not tell its files.

    header: None where it cannot be read. clips: that come of it. reason: why there are none. same_as: the key of an
    earlier one, used as well, with the same content.
    """

    key: str
    caption: str | None = None
    header: Header | None = None
    clips: int = 0
    reason: str = ""
    same_as: str = ""


@dataclass(frozen=True)
class Survey:
    """plan: of which only the dataset and, for what fits, the latent tokenizer count. files: whether the entries are
    files as they are; else they are clips, already cut and resized."""

    plan: Plan
    entries: Sequence[Entry]
    files: bool = True

    @property
    def clips(self) -> int:
        return sum(entry.clips for entry in self.entries)

    @property
    def size(self) -> tuple[int, int, int]:
        """Frames, height and width of a clip, as the dataset is asked for them."""
        return self.plan.clip_size

    def fits(self, num_frames: int, height: int, width: int) -> bool:
        """Whether the recipe's latent tokenizer takes clips of that size; without one, 8k+1 frames and multiples of 16
        pixels fit."""
        if "latent_tokenizer" not in self.plan.tables:
            return num_frames % 8 == 1 and height % 16 == width % 16 == 0
        try:
            self.plan.options("latent_tokenizer").latent_shape(num_frames, height, width)
        except ValueError:
            return False
        return True


def survey(path: Path, overrides: Sequence[str], plugins: Plugins, told: Told) -> Survey:
    """Of a folder, or of the dataset of a recipe. Raises ForgeError where there is none, or nothing to look at."""
    if path.is_dir():
        plan = _plan_of_folder(path, overrides, plugins)
    elif path.exists() or path.suffix == ".toml":
        plan = _plan_of_recipe(path, overrides, plugins)
        if problems := list(plan.options("dataset").check(plan)):
            raise ForgeError(problems)
    else:
        there = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ForgeError(f"there is no folder or recipe {show_path(path)}", nearest(path.name, there))
    options = plan.options("dataset")
    if not hasattr(options, "sources"):
        return Survey(plan, _listed(plan, told), files=False)

    def files(download: Download) -> Path:
        folder = machine.snapshot(download)
        if folder is None:
            raise ForgeError(f"{download.repo} is not on this machine", f"`forge fetch {show_path(path)}` gets it")
        return folder

    return Survey(plan, look(options.sources(files), getattr(options, "clips", None), told))


def look(sources: Sequence[Source], clips: Callable[[int, int, int], int | str] | None, told: Told) -> list[Entry]:
    """An entry for each source, in their order. clips: as `kinds.DatasetOptions` has it; without it a readable file is
    one clip."""
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        entries = []
        for done, entry in enumerate(pool.map(lambda source: _look(source, clips), sources)):
            told(done, len(sources))
            entries.append(entry)
    told(len(sources), len(sources))
    same = repeated(source for source, entry in zip(sources, entries, strict=True) if entry.clips)
    return [replace(entry, same_as=same.get(entry.key, "")) for entry in entries]


def repeated(sources: Iterable[Source]) -> dict[str, str]:
    """By key, for each source whose content an earlier one has too, the key of that one."""
    groups = [list(sources)]
    for tell in (_weigh, _both_ends, _whole):  # each finer and dearer than the one before
        groups = [group for several in groups for group in _grouped(several, tell) if len(group) > 1]
    return {other.key: group[0].key for group in groups for other in group[1:]}


def _grouped(sources: Iterable[Source], tell: Callable[[Path], Hashable]) -> list[list[Source]]:
    groups = defaultdict(list)
    for source in sources:
        groups[tell(source.path)].append(source)
    return list(groups.values())


def _weigh(path: Path) -> int:
    return path.stat().st_size


def _both_ends(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(PART)
        file.seek(max(0, _weigh(path) - PART))
        return hashlib.sha256(start + file.read()).digest()


def _whole(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


def _look(source: Source, clips: Callable[[int, int, int], int | str] | None) -> Entry:
    header, fault = None, ""
    if not source.reason or (mimetypes.guess_type(source.path.name)[0] or "").startswith("video/"):
        try:
            header = read_header(source.path)
        except Unreadable as error:
            fault = str(error)
    if header is None or source.reason:
        return Entry(source.key, source.caption, header, reason=source.reason or fault)
    verdict = clips(header.frames, header.height, header.width) if clips else 1
    if isinstance(verdict, str):
        return Entry(source.key, source.caption, header, reason=verdict)
    return Entry(source.key, source.caption, header, verdict)


def _listed(plan: Plan, told: Told) -> list[Entry]:
    """The clips of a dataset that does not tell its files."""
    entries: list[Entry] = []
    first: dict[str, str] = {}
    for item in list_clips(plan):
        if "problems" in item:
            raise ForgeError([Problem(**problem) for problem in item["problems"]])
        told(len(entries), item.get("total", 0))
        if "reason" in item:
            entries.append(Entry(item["key"], item.get("caption"), reason=item["reason"]))
            continue
        fps, frames = item["fps"], item["frames"]
        header = Header(frames, fps, fps, fps, item["height"], item["width"], 0, "", frames / fps)
        same_as = first.setdefault(item["fingerprint"], item["key"])
        same_as = "" if same_as == item["key"] else same_as
        entries.append(Entry(item["key"], item["caption"], header, 1, same_as=same_as))
    return entries


def _plan_of_recipe(path: Path, overrides: Sequence[str], plugins: Plugins) -> Plan:
    """As far as the dataset goes: what else is wrong with the recipe does not matter here."""
    recipe = read_recipe(path, overrides)
    problems: list[Problem] = []
    tables = build_tables(recipe, plugins, problems)
    if "dataset" not in tables:
        own = [problem for problem in problems if problem.what.startswith("[dataset]")]
        raise ForgeError(own or f"{show_path(path)} has no table [dataset]", "add one, or name a folder of videos")
    return Plan(path.stem, recipe.path, Path("runs"), tables, recipe.origins, plugins)


def _plan_of_folder(folder: Path, overrides: Sequence[str], plugins: Plugins) -> Plan:
    """Of the dataset that reads the folder; `dataset.use=NAME` chooses where several would."""
    found = _readers(folder, plugins)
    asked = [name for name in found if f"dataset.use={name}" in overrides]
    if len(found) > 1 and not asked:
        names = ", ".join(f"`{name}`" for name in found)
        raise ForgeError(f"several datasets read {show_path(folder)}: {names}", f"add dataset.use={next(iter(found))}")
    if not found:
        known = [each.name for each in plugins.components if each.kind == "dataset"]
        raise ForgeError(
            f"no dataset that is installed reads the folder {show_path(folder)}",
            f"put videos into it (*.mp4), or into `videos` in it; or name a recipe. Installed here: {', '.join(known)}",
        )
    use = (asked or list(found))[0]
    lines = ["[dataset]", *(f"{key} = {toml_value(value)}" for key, value in ({"use": use} | found[use]).items())]
    with TemporaryDirectory() as scratch:
        recipe = Path(scratch) / f"{folder.resolve().name or 'data'}.toml"
        recipe.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return _plan_of_recipe(recipe, overrides, plugins)


def _readers(folder: Path, plugins: Plugins) -> dict[str, dict[str, Any]]:
    """By name of a dataset that would read the folder, its settings for that."""
    shown = Path(show_path(folder))
    folder = shown if shown.name else folder.resolve()

    def settings(component: Component) -> dict[str, Any] | None:
        reads = getattr(component.options, "reads", None)
        return reads(folder) if reads else None

    datasets = [each for each in plugins.components if each.kind == "dataset"]
    return {each.name: found for each in datasets if (found := settings(each)) is not None}
