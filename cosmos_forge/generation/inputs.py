"""What a person wants continued: a picture, a video, a folder of them, or a JSONL. Imports no torch, opens no video."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos_forge.errors import ForgeError, Problem, Where, show_path
from cosmos_forge.options import nearest

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".gif"}
KEYS = ("visual_input", "prompt")  # of a JSONL's lines, as in Cosmos inference
PICTURE_FPS = 24.0  # of a video that continues a picture, unless it is told
SHOWN = 100  # characters of a line that an error shows


@dataclass(frozen=True)
class Wish:
    """A video to make. name: of its files. path: what it goes on from. prompts: one a chunk, or none. where: the line
    that asks for it."""

    name: str
    path: Path
    prompts: tuple[str, ...] = ()
    where: Where | None = None


def find_wishes(plan: Plan) -> list[Wish]:
    """What `generate.input` asks for, in order. Raises ForgeError with everything that is wrong with it."""
    path = Path(plan.generate.input or "").expanduser()
    problems: list[Problem] = []
    if path.is_dir():
        wishes = list(_of_folder(plan, path, problems))
    elif path.suffix.lower() == ".jsonl" and path.is_file():
        wishes = list(_of_lines(plan, path, problems))
    else:
        wishes = [Wish(_file_name(path.stem), path)]
        if not path.is_file():
            problems.append(_problem(plan, f"input {path} does not exist", f"relative paths start at {Path.cwd()}"))
    chunks = plan.lengths.chunks
    for wish in wishes:
        if len(wish.prompts) > chunks:
            what = f"{len(wish.prompts)} prompts for {chunks} chunk{'s' * (chunks > 1)} of a video"
            problems.append(
                Problem(what, wish.where, "one a chunk at most; generate.num_frames says how many there are")
            )
    if problems:
        raise ForgeError(problems)
    return wishes


def left_out(folder: Path) -> list[str]:
    """Names in a folder that nothing is made of."""
    there = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    stems = {path.stem for path in there if _is_media(path)}
    return [path.name for path in there if not _is_media(path) and not (path.suffix == ".txt" and path.stem in stems)]


def _of_folder(plan: Plan, folder: Path, problems: list[Problem]) -> Iterator[Wish]:
    """Its pictures and videos by name; NAME.txt beside one is its prompt."""
    media = [path for path in sorted(folder.iterdir()) if _is_media(path) and not path.name.startswith(".")]
    if not media:
        known = ", ".join(sorted(PICTURES | VIDEOS))
        problems.append(_problem(plan, f"input {show_path(folder)} holds no picture or video", f"known are {known}"))
    names: dict[str, Path] = {}
    for path in media:
        name = _file_name(path.stem)
        if other := names.get(name):
            what = f"{other.name} and {path.name} in {show_path(folder)} would both become {name}.mp4"
            problems.append(_problem(plan, what, "rename one of them"))
        names[name] = path
        text = path.with_suffix(".txt")
        try:
            prompt = text.read_text(encoding="utf-8").strip() if text.is_file() else ""
        except UnicodeDecodeError:
            prompt = ""
            problems.append(Problem(f"{show_path(text)} is not UTF-8 text", fix="save the prompt as UTF-8"))
        yield Wish(name, path, (prompt,) if prompt else ())


def _of_lines(plan: Plan, file: Path, problems: list[Problem]) -> Iterator[Wish]:
    """One video a line: {"visual_input": path, "prompt": text}, or a list of texts, one a chunk."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        problems.append(_problem(plan, f"input {show_path(file)} is not UTF-8 text", "save it as UTF-8"))
        return
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        problems.append(_problem(plan, f"input {show_path(file)} is empty", 'a line is {"visual_input": "a.jpg"}'))
    width = len(str(len(lines) - 1))
    for index, (number, line) in enumerate(lines):
        where = Where(show_path(file), number, line if len(line) <= SHOWN else f"{line[:SHOWN]}…")
        faults = [Problem(what, where, fix) for what, fix in _faults(line, file)]
        problems += faults
        if not faults:
            values = json.loads(line)
            path, prompt = _locate(values["visual_input"], file), values.get("prompt", [])
            prompts = tuple([prompt] if isinstance(prompt, str) else prompt)
            yield Wish(_file_name(f"{index:0{width}d}-{path.stem}"), path, tuple(filter(None, prompts)), where)


def _faults(line: str, file: Path) -> Iterator[tuple[str, str]]:
    """What is wrong with a line, and how to mend it."""
    example = 'a line is {"visual_input": "a.jpg", "prompt": "what happens"}'
    try:
        values: Any = json.loads(line)
    except json.JSONDecodeError as error:
        yield f"this line is no JSON: {error.msg} (column {error.colno})", example
        return
    if not isinstance(values, dict):
        yield f"this line is no object, but {type(values).__name__}", example
        return
    for key in values.keys() - set(KEYS):
        yield f"unknown key `{key}`", nearest(key, KEYS)
    prompt = values.get("prompt", "")
    if not isinstance(prompt, str) and not (isinstance(prompt, list) and all(isinstance(each, str) for each in prompt)):
        yield "prompt must be text, or a list of texts for the chunks of a long video", example
    if not isinstance(values.get("visual_input"), str):
        yield "visual_input must be the path of a picture or video", example
    elif not _locate(values["visual_input"], file).is_file():
        places = " and in ".join(dict.fromkeys((str(Path.cwd()), str(file.parent.resolve()))))
        yield f"visual_input {values['visual_input']} does not exist", f"relative paths are looked for in {places}"


def _locate(path: str, file: Path) -> Path:
    """A path of a JSONL: from the working directory, as in Cosmos inference, else from the file's folder."""
    here, beside = Path(path).expanduser(), file.parent / path
    return beside if beside.is_file() and not here.is_file() else here


def _is_media(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in PICTURES | VIDEOS


def _file_name(stem: str) -> str:
    """A name without what file systems dislike."""
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "video"


def _problem(plan: Plan, what: str, fix: str) -> Problem:
    return plan.problem("generate", "input", what, fix)
