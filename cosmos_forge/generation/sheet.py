"""Videos laid out on one picture: a row each, so that a person sees at a glance what a batch became."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cosmos_forge.files import atomic
from cosmos_forge.video import count_frames, read_frames

# In pixels.
SHEET_WIDTH, MARGIN, GAP, GROUP_GAP = 1200, 24, 6, 14
LABELS = 184  # width of the column of labels
NUMBERS = 18  # height of the frame numbers above a row
LINE = 20
COLUMNS = 9
CELL = (SHEET_WIDTH - 2 * MARGIN - LABELS - (COLUMNS - 1) * GAP) // COLUMNS
PAPER, INK, FAINT, ACCENT = "#ffffff", "#1f2328", "#6e7781", "#0a7d5a"
SMALL, LARGE = ImageFont.load_default(12), ImageFont.load_default(14)


@dataclass(frozen=True)
class Row:
    """A video on the sheet. label: what it says before its last ": " groups rows, and is written once. frames_THWC:
    uint8 RGB, those at `numbers` of the video. given: how many at its beginning the model was given."""

    label: str
    frames_THWC: np.ndarray
    numbers: Sequence[int]
    given: int = 0


def row(label: str, frames_THWC: np.ndarray, given: int = 0) -> Row:
    """Of a video in memory."""
    numbers = _spread(len(frames_THWC))
    return Row(label, frames_THWC[numbers], numbers, given)


def row_of_file(label: str, path: Path, given: int = 0) -> Row:
    """Of a video file, of which only the frames that are shown are ever in memory."""
    numbers = _spread(count_frames(path))
    return Row(label, np.stack(list(read_frames(path, numbers))), numbers, given)


def _spread(total: int) -> list[int]:
    """Numbers of at most nine frames, evenly over a video of `total`."""
    return np.unique(np.linspace(0, total - 1, COLUMNS).round().astype(int)).tolist()


def contact_sheet(rows: Sequence[Row], path: Path) -> None:
    """A PNG, 1200 pixels wide: one row a video, its label on the left, up to nine frames with their numbers (from 0);
    given ones have a coloured border."""
    strips = [_strip(each) for each in rows]
    names = [each.label.rpartition(": ") for each in rows]
    height = MARGIN + sum(strip.height + GAP for strip in strips) + GROUP_GAP * len(rows) + MARGIN
    sheet = Image.new("RGB", (SHEET_WIDTH, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    y, group = MARGIN, None
    for strip, (name, _, kind) in zip(strips, names, strict=True):
        y += GROUP_GAP if group not in (None, name) else 0
        line = y + NUMBERS
        if name and name != group:
            _write(draw, line, name, INK)
            line += LINE
        _write(draw, line, kind, FAINT if name else INK)
        sheet.paste(strip, (MARGIN + LABELS, y))
        y, group = y + strip.height + GAP, name
    if given := sorted({each.given for each in rows if each.given}):
        of = f"the {given[0]} given frame{'s' * (given[0] > 1)}" if len(given) == 1 else "given frames"
        draw.text((MARGIN + LABELS, y), f"bordered: {of}", ACCENT, SMALL)
    with atomic(path) as temporary:
        sheet.crop((0, 0, SHEET_WIDTH, y + MARGIN)).save(temporary)


def _strip(row: Row) -> Image.Image:
    """The row's frames side by side, each below its number."""
    _, height, width, _ = row.frames_THWC.shape
    cell_height = max(1, round(CELL * height / width))
    strip = Image.new("RGB", (SHEET_WIDTH - MARGIN - LABELS, NUMBERS + cell_height), PAPER)
    draw = ImageDraw.Draw(strip)
    for column, (number, frame_HWC) in enumerate(zip(row.numbers, row.frames_THWC, strict=True)):
        x = column * (CELL + GAP)
        picture = Image.fromarray(np.ascontiguousarray(frame_HWC))
        strip.paste(picture.resize((CELL, cell_height), Image.Resampling.LANCZOS), (x, NUMBERS))
        is_given = number < row.given
        draw.text((x, 1), str(number), ACCENT if is_given else FAINT, SMALL)
        if is_given:
            draw.rectangle((x, NUMBERS, x + CELL - 1, NUMBERS + cell_height - 1), outline=ACCENT, width=2)
    return strip


def _write(draw: ImageDraw.ImageDraw, y: int, text: str, colour: str) -> None:
    """A line in the column of labels, cut to fit."""
    while draw.textlength(text, LARGE) > LABELS - GAP:
        text = text.rstrip("…")[:-1] + "…"
    draw.text((MARGIN, y), text, colour, LARGE)
