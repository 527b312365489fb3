"""What views say, as plain text: durations, numbers, curves, measurements. Imports no rich."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from cosmos_forge.events import Progress, Step
from cosmos_forge.view_picture import Meter

_BARS = "▁▂▃▄▅▆▇█"
_UNITS = {"db": "dB", "gib": "GiB", "gb": "GB", "seconds": "s"}
# What a metric may be held against: the same metric's name with this word in it.
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
    """At most `width` bars from the least of `values` to the greatest; each is the mean of as many neighbours as must share
    one, "!" where that is not finite."""
    columns = min(width, len(values))
    edges = [len(values) * column // columns for column in range(columns + 1)] if columns > 0 else []
    means = [statistics.fmean(values[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, span = (min(finite), max(finite) - min(finite)) if finite else (0.0, 0.0)
    return "".join(
        _BARS[round((mean - low) / span * (len(_BARS) - 1)) if span else 0] if math.isfinite(mean) else "!"
        for mean in means
    )


def counted(progress: Progress) -> str:
    """ "12/40 clips"."""
    unit = "" if progress.unit == progress.what else f" {progress.unit}"
    return f"{number(progress.done)}/{number(progress.total)}{unit}".rstrip()


def pace(meter: Meter) -> str:
    """ "3.1/s", or "12s each" for what takes longer than a second."""
    if not meter.rate:
        return ""
    return f"{meter.rate:.1f}/s" if meter.rate >= 1 else f"{duration(1 / meter.rate)} each"


def step_facts(step: Step) -> list[tuple[str, str]]:
    """What a report says besides its number, by name."""
    return [
        ("loss", number(step.loss)),
        *((name, number(value)) for name, value in step.metrics.items()),
        ("lr", number(step.lr)),
        ("grad norm", number(step.grad_norm)),
        ("samples/s", number(step.samples_per_second)),
        ("s/step", number(step.seconds)),
        ("memory", f"{step.memory_gib:.1f} GiB"),
        ("data wait", f"{step.data_wait:.0%}"),
    ]


def measured(metrics: dict[str, float]) -> list[str]:
    """A sentence for each metric, held against its rivals: `psnr_db` against `psnr_copy_db` and `psnr_base_db`."""
    rivals = {name: _rival_of(name, metrics) for name in metrics}
    sentences = []
    for name, value in metrics.items():
        if rivals[name]:
            continue
        label, unit = _label(name)
        parts = [f"{label} {_amount(value, unit)}"]
        for other, rival in rivals.items():
            if rival and rival[0] == name:
                parts.append(
                    f"{rival[1]} {_amount(metrics[other], '')}: {_compared(name, value - metrics[other], unit)}"
                )
        sentences.append("; ".join(parts))
    return sentences


def _rival_of(name: str, metrics: dict[str, float]) -> tuple[str, str] | None:
    """The metric that `name` is a yardstick of, and what the yardstick is."""
    for word, what in _RIVALS.items():
        main = "_".join(part for part in name.split("_") if part != word)
        if main != name and main in metrics:
            return main, what
    return None


def _label(name: str) -> tuple[str, str]:
    """ "psnr_db" -> ("PSNR", "dB"): what is measured, and the unit."""
    words = name.split("_")
    unit = _UNITS.get(words[-1], "")
    words = words[:-1] if unit else words
    return " ".join(word.upper() if word in _MORE_IS_BETTER else word for word in words), unit


def _amount(value: float, unit: str) -> str:
    text = f"{value:.1f}" if unit == "dB" else number(value)
    return f"{text} {unit}".rstrip()


def _compared(name: str, gain: float, unit: str) -> str:
    if _amount(abs(gain), unit) == _amount(0.0, unit):
        return "no difference"
    known = name.split("_")[0] in _MORE_IS_BETTER
    above, below = ("better", "worse") if known else ("higher", "lower")
    return f"{_amount(abs(gain), unit)} {above if gain >= 0 else below}"
