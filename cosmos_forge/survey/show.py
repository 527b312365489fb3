"""A survey for a person, in a terminal of any width or as plain text; and for programs."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cosmos_forge.recipe import toml_value
from cosmos_forge.survey.advice import TOLERATED, TRAINED_FRAMES, Advice, advise
from cosmos_forge.survey.header import Header
from cosmos_forge.survey.survey import Entry, Survey, Told
from cosmos_forge.view.words import duration

_WIDE = 100  # columns from which an entry takes one line
_CAPTION = 80  # letters of a caption, at most
_SIGNS = {"used": ("✓", "green"), "odd": ("!", "yellow"), "left out": ("✗", "red")}
_NUMBERS = {"frames", "fps", "length", "clips", "videos", "frames used", "cut off", "enlarged"}


@contextmanager
def progress(stream: TextIO) -> Iterator[Told]:
    """A line that counts, where `stream` is a terminal; it is gone afterwards."""
    shown = False

    def told(done: int, total: int) -> None:
        nonlocal shown
        if stream.isatty() and (done % 16 == 0 or done == total):
            shown = True
            stream.write(f"\r{done}/{total} looked at")
            stream.flush()

    try:
        yield told
    finally:
        if shown:
            stream.write("\r\x1b[K")


def show(survey: Survey, stream: TextIO | None = None) -> None:
    """Prints it: settings, clips, totals, advice."""
    stream = stream or sys.stdout
    terminal = stream.isatty()
    # Elsewhere than in a terminal lines are as long as they are.
    console = Console(file=stream, highlight=False, width=None if terminal else 10_000)
    for part in _parts(survey, console.width if terminal else 10_000):
        if terminal:
            console.print(part)
            continue
        with console.capture() as capture:
            console.print(part)
        stream.write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()))


def survey_json(survey: Survey) -> dict[str, Any]:
    """Everything that `show` says, and each file's facts in full."""
    frames, height, width = survey.size
    advice = advise(survey)
    return {
        "settings": survey.plan.values("dataset"),
        "size": {"num_frames": frames, "height": height, "width": width},
        "videos": [_entry_json(entry) for entry in survey.entries],
        "totals": {
            "found": len(survey.entries),
            "used": sum(bool(entry.clips) for entry in survey.entries),
            "left_out": sum(not entry.clips for entry in survey.entries),
            "same": sum(bool(entry.same_as) for entry in survey.entries),
            "clips": survey.clips,
            "frames": sum(header.frames for header in _headers(survey)),
            "seconds": round(sum(header.seconds for header in _headers(survey)), 3),
        },
        "advice": {
            "num_frames": [asdict(each) for each in advice.frames],
            "best": advice.best.frames if advice.best else None,
            "sizes": [asdict(each) for each in advice.sizes],
        },
    }


def _entry_json(entry: Entry) -> dict[str, Any]:
    header = asdict(entry.header) | {"variable": entry.header.variable} if entry.header else None
    return {
        "key": entry.key,
        "used": bool(entry.clips),
        "clips": entry.clips,
        "reason": entry.reason or None,
        "caption": entry.caption,
        "same_as": entry.same_as or None,
        "header": header,
    }


def _parts(survey: Survey, width: int) -> Iterator[Table | Text]:
    yield _settings(survey)
    yield _wide(survey, width) if width >= _WIDE else _narrow(survey)
    yield Text()
    yield _totals(survey)
    yield _troubles(survey)
    advice = advise(survey)
    if advice.frames:
        yield Text()
        yield _frames(survey, advice)
    if advice.sizes:
        yield Text()
        yield _sizes(advice)


def _settings(survey: Survey) -> Text:
    """The dataset as a recipe has it, as far as it differs from the defaults."""
    given = survey.plan.settings("dataset")
    text = Text.assemble(("[dataset]", "bold"), "\n")
    for key, value in given.items():
        text.append(f"{key} = {toml_value(value)}\n")
    return text


def _state(entry: Entry) -> Text:
    odd = entry.same_as or (entry.header and entry.header.variable)
    return Text(*_SIGNS["left out" if not entry.clips else "odd" if odd else "used"])


def _facts(header: Header) -> list[str]:
    """frames, fps, size, length, codec."""
    fps = f"{header.fps:.4g}" + (f" ({header.slowest:.3g}-{header.fastest:.3g})" if header.variable else "")
    size = f"{header.height}x{header.width}" + (f" turned {header.rotation}" if header.rotation else "")
    return [str(header.frames), fps, size, duration(header.seconds), header.codec]


def _remarks(entry: Entry) -> list[str]:
    """What a person should know of it besides."""
    remarks = [entry.reason] if entry.reason else []
    if entry.same_as:
        remarks.append(f"the same content as {entry.same_as}")
    if entry.header and entry.header.variable:
        remarks.append("its frame rate varies, and its frames will count as evenly spaced")
    return remarks


def _wide(survey: Survey, width: int) -> Table:
    table = _table("", "video", "frames", "fps", "size", "length", "codec", "clips", "caption or what is wrong")
    table.columns[1].min_width = min(width // 3, max((len(entry.key) for entry in survey.entries), default=0))
    for entry in survey.entries:
        facts = _facts(entry.header) if entry.header else [""] * 5
        remarks = "; ".join(_remarks(entry))
        last = Text(remarks, "yellow") if remarks else _caption(entry)
        table.add_row(_state(entry), Text(entry.key, overflow="fold"), *facts, str(entry.clips), last)
    return table


def _narrow(survey: Survey) -> Table:
    """Three lines an entry."""
    table = Table.grid(padding=(0, 1))
    for entry in survey.entries:
        table.add_row(_state(entry), Text(entry.key, "bold", overflow="fold"))
        if entry.header:
            frames, fps, *rest = _facts(entry.header)
            words = [f"{frames} frames", f"{fps} fps", *filter(None, rest), f"{entry.clips} clips"]
            table.add_row("", Text(", ".join(words)))
        for remark in _remarks(entry):
            table.add_row("", Text(remark, "yellow"))
        if entry.caption:
            table.add_row("", _caption(entry))
    return table


def _totals(survey: Survey) -> Text:
    used, (frames, height, width) = sum(bool(entry.clips) for entry in survey.entries), survey.size
    headers = _headers(survey)
    return Text.assemble(
        (f"{used} of {len(survey.entries)}", "bold green" if used else "bold red"),
        f" can be used: {survey.clips} clips of {frames} frames, {height}x{width}."
        f" What can be read has {sum(header.frames for header in headers)} frames,"
        f" {duration(sum(header.seconds for header in headers))}.",
    )


def _troubles(survey: Survey) -> Table:
    """Why files are left out, and what is odd, each with how often."""
    table = Table.grid(padding=(0, 1))
    reasons = [entry.reason for entry in survey.entries if entry.reason]
    for alike in sorted(_alike(reasons), key=len, reverse=True):
        table.add_row(" ", str(len(alike)), Text(f"left out: {_common(alike)}", "red"))
    if same := sum(bool(entry.same_as) for entry in survey.entries):
        what = "with the same content as another: each counts for itself in training"
        table.add_row(" ", str(same), Text(what, "yellow"))
    if varied := sum(header.variable for header in _headers(survey)):
        table.add_row(" ", str(varied), Text("with a varying frame rate", "yellow"))
    return table


def _alike(reasons: Iterable[str]) -> list[list[str]]:
    """Reasons that are the same but for numbers and files."""
    groups = defaultdict(list)
    for reason in reasons:
        groups[re.sub(r"\S*[\d/]\S*", "", reason)].append(reason)
    return list(groups.values())


def _common(reasons: Sequence[str]) -> str:
    """What reasons that are alike have in common."""
    words = zip(*(reason.split() for reason in reasons), strict=False)
    return " ".join(each[0] if len(set(each)) == 1 else "…" for each in words)


def _frames(survey: Survey, advice: Advice) -> Table:
    table = _table("frames a clip", "videos", "clips", "frames used", "")
    for row in advice.frames:
        words = ["as asked for"] if row.frames == survey.size[0] else []
        words += ["as the model was trained"] if row.frames == TRAINED_FRAMES else []
        if advice.best and row.frames == advice.best.frames:
            little = row.used >= 1 - TOLERATED
            words.append(f"the longest that lose at most {TOLERATED:.0%}" if little else "lose least")
        best = bool(advice.best and row.frames == advice.best.frames)
        cells = [str(row.frames), str(row.videos), str(row.clips), f"{row.used:.0%}", ", ".join(words)]
        table.add_row(*cells, style="bold" if best else "")
    return table


def _sizes(advice: Advice) -> Table:
    table = _table("size", "videos", "cut off", "enlarged", "")
    for size in advice.sizes:
        words = "as the model was trained" if size.trained else "nearest what most videos are"
        cells = [f"{size.height}x{size.width}", str(size.videos), f"{size.cut:.0%}", str(size.enlarged), words]
        table.add_row(*cells)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for column in columns:
        number = column in _NUMBERS
        table.add_column(column, justify="right" if number else "left", no_wrap=number or column in ("size", "codec"))
    return table


def _headers(survey: Survey) -> list[Header]:
    return [entry.header for entry in survey.entries if entry.header]


def _caption(entry: Entry) -> Text:
    line = " ".join((entry.caption or "no caption").split())
    return Text(line[:_CAPTION], "dim", no_wrap=True, overflow="ellipsis")
