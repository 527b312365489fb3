"""The curves of training, of one run or of several over one another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cosmos_forge.events import Step, Validated
from cosmos_forge.report.curves import Curve, chart, smooth
from cosmos_forge.report.facts import Facts
from cosmos_forge.report.html import Html, tag
from cosmos_forge.view.words import held_against, label, number

COLOURS = 8


def curves(facts: Facts) -> Html | None:
    """Loss, held-out loss, learning rate, gradient norm, seconds a step; other metrics behind."""
    steps, judged = facts.steps, facts.validated
    charts = [
        _raw_and_smooth("loss", steps, lambda step: step.loss),
        _held_out(judged),
        _by_noise_level(judged),
        *(_sample_metric(name, rivals, judged) for name, rivals in _sample_metrics(judged).items()),
        chart("learning rate", [Curve("learning rate", _of(steps, lambda step: step.lr))], log=False),
        _raw_and_smooth("gradient norm, before clipping", steps, lambda step: step.grad_norm),
        chart("seconds a step", [Curve("seconds", _of(steps, lambda step: step.seconds))]),
    ]
    others = [
        _raw_and_smooth(name, steps, lambda step, name=name: step.metrics[name])  # type: ignore[misc]
        for name in (steps[-1].metrics if steps else {})
        if all(name in step.metrics for step in steps)
    ]
    waits = chart("share of time spent waiting for data", [Curve("share", _of(steps, lambda step: step.data_wait))])
    shown, more = [each for each in charts if each], [each for each in (*others, waits) if each]
    if not shown:
        return None
    behind = tag("details", tag("summary", f"{len(more)} more"), tag("div", *more, class_="charts")) if more else ""
    return tag("div", tag("div", *shown, class_="charts"), behind)


def compared(runs: Sequence[Facts]) -> Html | None:
    """The same of several runs, a colour each."""

    def each(title: str, points: Callable[[Facts], Sequence[tuple[float, float]]]) -> Html | None:
        lines = [Curve(run.name, points(run), f"c{place % COLOURS}") for place, run in enumerate(runs)]
        return chart(title, lines)

    names = dict.fromkeys(name for run in runs for name in _sample_metrics(run.validated))
    charts = [
        each("loss, mean of ten reports", lambda run: smooth(_of(run.steps, lambda step: step.loss))),
        each("held-out loss", lambda run: [(judged.step, judged.loss) for judged in run.validated]),
        *(
            each(
                f"{label(name)} of sample videos",
                lambda run, name=name: _metric(name, run.validated),  # type: ignore[misc]
            )
            for name in names
        ),
        each("gradient norm, mean of ten reports", lambda run: smooth(_of(run.steps, lambda step: step.grad_norm))),
        each("learning rate", lambda run: _of(run.steps, lambda step: step.lr)),
        each("seconds a step", lambda run: _of(run.steps, lambda step: step.seconds)),
    ]
    shown = [each for each in charts if each]
    return tag("div", *shown, class_="charts") if shown else None


def _of(steps: Sequence[Step], value: Callable[[Step], float]) -> list[tuple[float, float]]:
    return [(step.step, value(step)) for step in steps]


def _raw_and_smooth(title: str, steps: Sequence[Step], value: Callable[[Step], float]) -> Html | None:
    points = _of(steps, value)
    return chart(title, [Curve("as reported", points, "c0 faint"), Curve("mean of ten reports", smooth(points))])


def _held_out(judged: Sequence[Validated]) -> Html | None:
    lines = [Curve("held-out loss", [(each.step, each.loss) for each in judged], "c0 dots")]
    base = next((each.base_loss for each in judged if each.base_loss is not None), None)
    if base is not None:
        lines.append(Curve("before training", [(judged[0].step, base), (judged[-1].step, base)], "c7 dashed"))
    return chart("held-out loss", lines)


def _by_noise_level(judged: Sequence[Validated]) -> Html | None:
    """Each level less what it was before training, since they lie far apart."""
    known = [each for each in judged if each.base]
    if not known or len(known[-1].sigmas) < 2:
        return None
    levels = known[-1].sigmas
    return chart(
        "held-out loss by noise level, less that before training",
        [
            Curve(
                f"sigma {number(sigma)}",
                [(each.step, each.losses[place] - each.base[place]) for each in known if each.sigmas == levels],
                f"c{(place + 1) % COLOURS}",
            )
            for place, sigma in enumerate(levels)
        ],
    )


def _sample_metrics(judged: Sequence[Validated]) -> dict[str, dict[str, str]]:
    """Of sample videos, with what each is held against."""
    return held_against(dict.fromkeys(name for each in judged for name in each.metrics))


def _sample_metric(name: str, rivals: Mapping[str, str], judged: Sequence[Validated]) -> Html | None:
    lines = [Curve(label(name), _metric(name, judged), "c1 dots")]
    lines += [Curve(what, _metric(rival, judged), "c7 dashed") for rival, what in rivals.items()]
    return chart(f"{label(name)} of sample videos", lines)


def _metric(name: str, judged: Sequence[Validated]) -> list[tuple[float, float]]:
    return [(each.step, each.metrics[name]) for each in judged if name in each.metrics]
