"""Videos and pictures as files: write one, read one, lay many out on a sheet. Frames are THWC, uint8 RGB, 0 to 255."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from cosmos_forge.errors import ForgeError, show_path
from cosmos_forge.files import atomic

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
PICTURE_FPS = 24.0  # of a video that continues a picture, unless it is told
BT709 = 1  # of ITU-T H.273: primaries, transfer and matrix of HD video

# The contact sheet, in pixels.
SHEET_WIDTH, MARGIN, GAP, GROUP_GAP = 1200, 24, 6, 14
LABELS = 184  # width of the column of labels
NUMBERS = 18  # height of the frame numbers above a row
LINE = 20
COLUMNS = 9
CELL = (SHEET_WIDTH - 2 * MARGIN - LABELS - (COLUMNS - 1) * GAP) // COLUMNS
PAPER, INK, FAINT, ACCENT = "#ffffff", "#1f2328", "#6e7781", "#0a7d5a"
SMALL, LARGE = ImageFont.load_default(12), ImageFont.load_default(14)


def write_mp4(frames_THWC: np.ndarray, fps: float, path: Path) -> None:
    """H.264 in yuv420p with BT.709 colours, as every browser plays it; whole or not there.

    Raises ForgeError for odd heights and widths, which yuv420p cannot hold, and ValueError for what is no video.
    """
    if frames_THWC.dtype != np.uint8 or frames_THWC.ndim != 4 or frames_THWC.shape[3] != 3 or not len(frames_THWC):
        raise ValueError(f"expected frames THWC, uint8 RGB, got {frames_THWC.dtype} {frames_THWC.shape}")
    height, width = frames_THWC.shape[1:3]
    if height % 2 or width % 2:
        raise ForgeError(f"{show_path(path)}: H.264 needs even sizes, got {height}x{width}", "choose an even size")
    with atomic(path) as temporary, av.open(str(temporary), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "14"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        codec = stream.codec_context
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = 1  # 16 to 235, the usual one
        for frame in frames_THWC:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode())


def read_media(path: Path) -> tuple[np.ndarray, float]:
    """The frames of a video, or of a picture as one frame, upright, and frames a second (24 for a picture).

    Raises ForgeError where there is no such file, it is neither, or a part of it is missing.
    """
    if not path.is_file():
        raise ForgeError(f"there is no file {show_path(path)}", "name a video (such as .mp4) or a picture (.png, .jpg)")
    if path.suffix.lower() in PICTURES:
        return _read_picture(path)[None], PICTURE_FPS
    try:
        return _read_video(path)
    except (av.error.FFmpegError, OSError) as error:
        raise ForgeError(
            f"{show_path(path)} cannot be read as a video: {error.strerror}",
            "name a video or a picture; if it is one, a part of the file may be missing: copy or encode it again",
        ) from error


def _read_video(path: Path) -> tuple[np.ndarray, float]:
    frames: list[np.ndarray] = []
    packets = 0
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        if stream is None:
            raise ForgeError(f"there is no video in {show_path(path)}", "name a video or a picture")
        for packet in container.demux(stream):
            if packet.is_corrupt:
                break
            packets += bool(packet.size)
            frames += [np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90) for frame in packet.decode()]
        if packet.is_corrupt or packets < stream.frames or not frames:
            raise ForgeError(f"{show_path(path)} is cut short after {packets} frames", "copy or encode it again")
        return np.stack(frames), float(stream.average_rate or PICTURE_FPS)


def _read_picture(path: Path) -> np.ndarray:
    """HWC, turned as its camera says."""
    try:
        with Image.open(path) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise ForgeError(f"{show_path(path)} cannot be read as a picture: {error}", "save it again as PNG") from error


def contact_sheet(rows: Sequence[tuple[str, np.ndarray]], path: Path, given: int = 0) -> None:
    """A PNG, 1200 pixels wide: one row a video, its label on the left, up to nine frames with their numbers (from 0).

    rows: label and frames; what a label says before its last ": " groups the rows and is written once. given: how many
    frames at the beginning were given to the model; they get a coloured border.
    """
    strips = [_strip(frames_THWC, given) for _, frames_THWC in rows]
    names = [label.rpartition(": ") for label, _ in rows]
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
    if given:
        draw.text((MARGIN + LABELS, y), f"bordered: the {given} given frames", ACCENT, SMALL)
    with atomic(path) as temporary:
        sheet.crop((0, 0, SHEET_WIDTH, y + MARGIN)).save(temporary)


def _strip(frames_THWC: np.ndarray, given: int) -> Image.Image:
    """Frames spread evenly over the video, side by side, each below its number."""
    total, height, width = frames_THWC.shape[:3]
    cell_height = max(1, round(CELL * height / width))
    strip = Image.new("RGB", (SHEET_WIDTH - MARGIN - LABELS, NUMBERS + cell_height), PAPER)
    draw = ImageDraw.Draw(strip)
    chosen = np.unique(np.linspace(0, total - 1, COLUMNS).round().astype(int))
    for column, number in enumerate(chosen.tolist()):
        x = column * (CELL + GAP)
        picture = Image.fromarray(np.ascontiguousarray(frames_THWC[number]))
        strip.paste(picture.resize((CELL, cell_height), Image.Resampling.LANCZOS), (x, NUMBERS))
        is_given = number < given
        draw.text((x, 1), str(number), ACCENT if is_given else FAINT, SMALL)
        if is_given:
            draw.rectangle((x, NUMBERS, x + CELL - 1, NUMBERS + cell_height - 1), outline=ACCENT, width=2)
    return strip


def _write(draw: ImageDraw.ImageDraw, y: int, text: str, colour: str) -> None:
    """A line in the column of labels, cut to fit."""
    while draw.textlength(text, LARGE) > LABELS - GAP:
        text = text.rstrip("…")[:-1] + "…"
    draw.text((MARGIN, y), text, colour, LARGE)
