"""Which number of frames and which sizes lose least of the videos that there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cosmos_forge.plan import SIZES
from cosmos_forge.survey.header import Header
from cosmos_forge.survey.survey import Survey

TRAINED_FRAMES = SIZES["num_frames"]
# Height and width of the published models' videos, for 16:9, 9:16, 4:3, 3:4 and 1:1 (Cosmos-Predict1, 720p).
TRAINED_SIZES = ((704, 1280), (1280, 704), (704, 960), (960, 704), (960, 960))
FEWEST_FRAMES = 17  # fewer are hardly a movement
TOLERATED = 0.05  # share of the frames that may be lost for longer clips


@dataclass(frozen=True)
class Frames:
    """What clips of so many frames make of the videos. videos: that are long enough. used: share of all frames, 0 to
    1."""

    frames: int
    videos: int
    clips: int
    used: float


@dataclass(frozen=True)
class Size:
    """What a size makes of them. videos: whose proportions it is nearest to, of the sizes that it is named with. cut:
    share of their pictures that is lost where proportions are kept, 0 to 1. enlarged: how many are smaller."""

    height: int
    width: int
    videos: int
    cut: float
    enlarged: int
    trained: bool


@dataclass(frozen=True)
class Advice:
    """frames: those worth a thought, best: of which that one loses least. sizes: for each video the nearest one of the
    published models', most videos first; and the one nearest what the videos are."""

    frames: Sequence[Frames]
    best: Frames | None
    sizes: Sequence[Size]


def advise(survey: Survey) -> Advice:
    """For the videos that can be read, whether they are left out as yet or not; none on clips that were cut already."""
    headers = [entry.header for entry in survey.entries if entry.header and survey.files]
    if not headers:
        return Advice([], None, [])
    asked, height, width = survey.size
    lengths = [header.frames for header in headers]
    known = [
        count_frames(lengths, frames)
        for frames in range(1, min(TRAINED_FRAMES, max(lengths)) + 1)
        if frames % 8 == 1 and survey.fits(frames, height, width)
    ]
    best = best_frames(known)
    notable = {asked, TRAINED_FRAMES, best.frames if best else 0}
    rows = {row.frames: row for row in [count_frames(lengths, asked), count_frames(lengths, TRAINED_FRAMES), *known]}
    return Advice([rows[frames] for frames in sorted(notable & rows.keys())], best, _sizes(survey, headers))


def count_frames(lengths: Sequence[int], frames: int) -> Frames:
    """Clips that follow on one another."""
    clips = [length // frames for length in lengths]
    used = sum(clips) * frames / sum(lengths)
    return Frames(frames, sum(map(bool, clips)), sum(clips), used)


def best_frames(known: Sequence[Frames]) -> Frames | None:
    """The longest clips that lose little; where all lose more, those that lose least."""
    known = [each for each in known if each.frames >= FEWEST_FRAMES]
    if little := [each for each in known if each.used >= 1 - TOLERATED]:
        return max(little, key=lambda each: each.frames)
    return max(known, key=lambda each: (each.used, each.frames), default=None)


def cut(header: Header, height: int, width: int) -> float:
    """Share of the picture that lies outside the proportions of a size."""
    ratio = (header.width / header.height) / (width / height)
    return 1 - min(ratio, 1 / ratio)


def _sizes(survey: Survey, headers: Sequence[Header]) -> list[Size]:
    frames = survey.size[0]
    trained = [size for size in TRAINED_SIZES if survey.fits(frames, *size)]
    nearest = [min(trained, key=lambda size: cut(header, *size)) for header in headers] if trained else []
    sizes = [
        _size(size, [header for header, its in zip(headers, nearest, strict=True) if its == size], True)
        for size, _ in Counter(nearest).most_common()
    ]
    own = _own_size(survey, headers)
    return sizes if own is None or own in trained else [*sizes, _size(own, headers, False)]


def _own_size(survey: Survey, headers: Sequence[Header]) -> tuple[int, int] | None:
    """The commonest size of the videos in multiples of 16, made smaller where it has more pixels than any that was
    trained."""
    (height, width), _ = Counter((header.height, header.width) for header in headers).most_common(1)[0]
    shrink = min(1.0, (max(h * w for h, w in TRAINED_SIZES) / (height * width)) ** 0.5)
    own = int(height * shrink) // 16 * 16, int(width * shrink) // 16 * 16
    return own if min(own) > 0 and survey.fits(survey.size[0], *own) else None


def _size(size: tuple[int, int], headers: Sequence[Header], trained: bool) -> Size:
    height, width = size
    mean = sum(cut(header, *size) for header in headers) / len(headers)
    enlarged = sum(header.height < height or header.width < width for header in headers)
    return Size(height, width, len(headers), mean, enlarged, trained)
