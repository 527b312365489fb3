"""Curves as SVG, drawn by hand: no library, no script needed to see them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from cosmos_forge.report.html import Html, tag
from cosmos_forge.view.words import number

WIDTH, HEIGHT = 440, 210
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 24  # room around the curves
POINTS = 400  # of a curve at most; more than there are pixels
SMOOTHED = 10  # reports
MANY_TIMES = 30.0  # from this ratio of greatest to least on, the scale is logarithmic

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """points: x ascending; those that are not finite are left out. look: a class of the style sheet, "c0" to "c7" for
    colours, with "faint", "dashed" or "dots"."""

    name: str
    points: Points
    look: str = "c0"


def chart(title: str, curves: Sequence[Curve], log: bool = True) -> Html | None:
    """A figure, None where there is nothing to draw. log: whether its scale may be logarithmic. Moving over it reads
    values, where scripts may run."""
    curves = [Curve(each.name, _finite(each.points), each.look) for each in curves]
    curves = [each for each in curves if each.points]
    if not curves:
        return None
    xs = [x for each in curves for x, _ in each.points]
    shown = (_usual(each.points) if "faint" in each.look else [y for _, y in each.points] for each in curves)
    scale = Scale([y for values in shown for y in values], log)
    low, high = min(xs), max(xs)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - low) / (high - low) if high > low else 0.5
        inner = HEIGHT - TOP - BOTTOM
        return LEFT + across * (WIDTH - LEFT - RIGHT), TOP + (1 - scale.share(y)) * inner

    parts = [_grid(scale), *_foot(low, high)]
    for each in curves:
        spots = [place(x, y) for x, y in thin(each.points)]
        if "dots" in each.look or len(spots) == 1:
            parts += [tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3, class_=each.look) for x, y in spots]
        if len(spots) > 1:
            line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
            parts.append(tag("path", d=line, class_=f"curve {each.look}"))
    data = json.dumps([{"name": each.name, "look": each.look, "points": thin(each.points)} for each in curves])
    box = {"low": low, "high": high, "left": LEFT, "right": WIDTH - RIGHT, "width": WIDTH}
    svg = tag(
        "svg",
        *parts,
        view_box=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{title}: {_words(curves)}",
        data_curves=data,
        data_box=json.dumps(box),
    )
    return tag("figure", tag("figcaption", title, _legend(curves)), svg, class_="chart")


@dataclass
class Scale:
    """Of the vertical axis, with `ticks`, round numbers. log: at first whether it may be logarithmic, then whether it
    is."""

    values: Sequence[float]
    log: bool

    def __post_init__(self) -> None:
        low, high = min(self.values), max(self.values)
        self.log = self.log and low > 0 and high / low > MANY_TIMES
        if self.log:
            first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
            every = max(1, round((last - first) / 4))
            self.ticks = [10.0**power for power in range(first, last + 1, every)]
            self.low, self.high = math.log10(low), math.log10(high)
        else:
            self.ticks = round_ticks(low, high)
            self.low, self.high = min(low, self.ticks[0]), max(high, self.ticks[-1])
        self.ticks = [tick for tick in self.ticks if -0.01 <= self.share(tick) <= 1.01]

    def share(self, value: float) -> float:
        """0 at the bottom to 1 at the top."""
        if self.log:
            value = math.log10(value) if value > 0 else -math.inf
        if self.high == self.low:
            return 0.5
        return min(1.05, max(-0.05, (value - self.low) / (self.high - self.low)))


def round_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers from at most `low` to at least `high`."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1, 2, 2.5, 5, 10) if each * power >= rough * 0.999)
    return [step * each for each in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def smooth(points: Points) -> list[tuple[float, float]]:
    """Each with the mean of the last ten."""
    points = _finite(points)
    return [
        (x, statistics.fmean(y for _, y in points[max(0, place - SMOOTHED + 1) : place + 1]))
        for place, (x, _) in enumerate(points)
    ]


def thin(points: Points) -> list[tuple[float, float]]:
    """At most about `POINTS` of them: the least and the greatest of each stretch, so that no peak is lost."""
    if len(points) <= POINTS:
        return [(x, float(f"{y:.6g}")) for x, y in points]
    size = math.ceil(len(points) / (POINTS // 2))
    kept = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(ends)
    return [(x, float(f"{y:.6g}")) for x, y in kept]


def _usual(points: Points) -> list[float]:
    """The middle nine tenths: what is beyond may leave the picture, where it would press all else flat."""
    values = sorted(y for _, y in points)
    beyond = len(values) // 20
    return values[beyond : len(values) - beyond]


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(y)]


def _grid(scale: Scale) -> Html:
    lines = []
    for tick in scale.ticks:
        y = TOP + (1 - scale.share(tick)) * (HEIGHT - TOP - BOTTOM)
        lines.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}"))
        lines.append(tag("text", f"{tick:.4g}", x=LEFT - 6, y=f"{y + 4:.1f}", class_="end"))
    return tag("g", *lines, class_="grid")


def _foot(low: float, high: float) -> list[Html]:
    y = HEIGHT - 6
    right = tag("text", number(high), x=WIDTH - RIGHT, y=y, class_="end")
    middle = tag("text", "step", x=(LEFT + WIDTH - RIGHT) / 2, y=y, class_="middle")
    return [tag("text", number(low), x=LEFT, y=y), middle, right] if high > low else [middle]


def _legend(curves: Sequence[Curve]) -> Html | None:
    named = [each for each in curves if each.name and "faint" not in each.look]
    if len(named) < 2:
        return None
    return tag("span", *(tag("span", tag("i", class_=each.look), each.name) for each in named), class_="legend")


def _words(curves: Sequence[Curve]) -> str:
    return ", ".join(f"{each.name} from {number(each.points[0][1])} to {number(each.points[-1][1])}" for each in curves)
