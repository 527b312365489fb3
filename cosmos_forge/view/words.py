"""What views say, as plain text: durations, numbers, curves, measurements. Imports no rich."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from cosmos_forge.events import Progress, Step, Validated
from cosmos_forge.view.picture import Meter

_BARS = "▁▂▃▄▅▆▇█"
_UNITS = {"db": "dB", "seconds": "s"}
# What a metric may be held against: the metric of its name with this word after the first.
_RIVALS = {"copy": "copying the last frame", "base": "before training"}
_MORE_IS_BETTER = ("psnr", "ssim")


def duration(seconds: float) -> str:
    """ "4.2s", "1m 02s", "3h 05m" or "2d 04h"."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole // 60 % 60:02d}m"
    return f"{whole // 86400}d {whole // 3600 % 24:02d}h"


def number(value: float) -> str:
    """Four significant digits; whole numbers in full."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"


def sparkline(values: Sequence[float], width: int) -> str:
    """At most `width` bars, scaled from the least to the greatest. Each is the mean of as many neighbours as must share
    one; "!" where that is not finite."""
    columns = min(width, len(values))
    edges = [len(values) * column // columns for column in range(columns + 1)] if columns > 0 else []
    means = [statistics.fmean(values[a:b]) for a, b in pairwise(edges)]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, span = (min(finite), max(finite) - min(finite)) if finite else (0.0, 0.0)
    return "".join(
        _BARS[round((mean - low) / span * (len(_BARS) - 1)) if span else 0] if math.isfinite(mean) else "!"
        for mean in means
    )


def counted(progress: Progress) -> str:
    """ "12/40", "1.5/14 GB": parts to a tenth, and the unit where the name does not say it."""
    done, total = (f"{value:.1f}".removesuffix(".0") for value in (progress.done, progress.total))
    unit = "" if progress.unit in progress.what else f" {progress.unit}"
    return f"{done}/{total}{unit}"


def pace(meter: Meter) -> str:
    """ "3.1/s", "12s each" for what takes longer than a second, or "85.2 MB/s"."""
    if not meter.rate:
        return ""
    if meter.latest.unit == "GB":
        return f"{number(round(meter.rate * 1000, 1))} MB/s"
    return f"{meter.rate:.1f}/s" if meter.rate >= 1 else f"{duration(1 / meter.rate)} each"


def time_left(seconds: float | None) -> str:
    """ "4.2s left"; nothing where it is not known."""
    return "" if seconds is None else f"{duration(seconds)} left"


def step_facts(step: Step) -> list[tuple[str, str]]:
    """What a report says besides its number, by name."""
    return [
        ("loss", number(step.loss)),
        *((name, number(value)) for name, value in step.metrics.items()),
        ("lr", number(step.lr)),
        ("grad norm", number(step.grad_norm)),
        ("samples/s", number(step.samples_per_second)),
        ("s/step", number(step.seconds)),
        *([("tokens/s", number(round(step.tokens_per_second)))] if step.tokens_per_second is not None else []),
        *([("TFLOP/s", number(step.tflops))] if step.tflops is not None else []),
        *([("MFU", f"{step.mfu:.1%}")] if step.mfu is not None else []),
        ("memory", f"{step.memory_gib:.1f} GiB"),
        ("data wait", f"{step.data_wait:.0%}"),
        *([("left out", f"{step.left_out} steps")] if step.left_out else []),
    ]


def held_out(judged: Validated) -> str:
    """ "held-out loss 0.31 (0.44 before training), the lowest so far"."""
    loss, base = number(judged.loss), judged.base_loss
    if judged.step == 0:
        return f"held-out loss {loss} before training"
    before = "" if base is None else f" ({number(base)} before training)"
    if base is not None and judged.loss > base:  # what was learned by heart does not help elsewhere
        return f"held-out loss {loss}{before}: WORSE than before training"
    return f"held-out loss {loss}{before}{', the lowest so far' if judged.best else ''}"


def held_against(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Of each metric those that it may be held against, as `psnr_db` against `psnr_copy_db`, and what these are. They
    have no entry of their own."""
    known, found = list(names), {}
    for name in known:
        first, *unit = name.split("_")
        rivals = {"_".join([first, word, *unit]): what for word, what in _RIVALS.items()}
        found[name] = {rival: what for rival, what in rivals.items() if rival in known}
    yardsticks = {rival for rivals in found.values() for rival in rivals}
    return {name: rivals for name, rivals in found.items() if name not in yardsticks}


def measured(metrics: Mapping[str, float]) -> list[str]:
    """A sentence for each metric with rivals, one for the rest."""
    sentences, rest = [], []
    for name, rivals in held_against(metrics).items():
        value, what = metrics[name], f"{label(name)} {amount(name, metrics[name])}"
        against = [
            f"{_compared(name, value, metrics[rival])} {it} ({amount(rival, metrics[rival], unit=False)})"
            for rival, it in rivals.items()
        ]
        if against:
            sentences.append(f"{what}: {', '.join(against)}")
        else:
            rest.append(what)
    return [*sentences, ", ".join(rest)] if rest else sentences


def _unit(name: str) -> str:
    """ "psnr_db" -> "db": the last word, if it is a unit."""
    word = name.rpartition("_")[2]
    return word if word in _UNITS else ""


def label(name: str) -> str:
    """ "psnr_db" -> "PSNR": the words before the unit."""
    words = name.removesuffix("_" + _unit(name)).split("_")
    return " ".join(word.upper() if word in _MORE_IS_BETTER else word for word in words)


def amount(name: str, value: float, unit: bool = True) -> str:
    kind = _unit(name)
    if kind == "seconds":
        return duration(value)
    text = f"{value:.1f}" if kind == "db" else number(value)
    return f"{text} {_UNITS.get(kind, '')}".rstrip() if unit else text


def _compared(name: str, value: float, rival: float) -> str:
    gap = amount(name, abs(value - rival))
    if gap == amount(name, 0.0):
        return "the same as"
    more, less = ("better", "worse") if name.split("_")[0] in _MORE_IS_BETTER else ("more", "less")
    return f"{gap} {more if value > rival else less} than"
