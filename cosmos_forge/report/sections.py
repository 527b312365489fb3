"""The parts of a run's page, each from its facts; None where there is nothing to tell."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

from cosmos_forge.errors import show_path
from cosmos_forge.report.facts import Facts, Setting
from cosmos_forge.report.html import Html, html, table, tag
from cosmos_forge.report.media import Media
from cosmos_forge.report.times import StageTime
from cosmos_forge.view.words import amount, duration, held_against, label, measured, number

_STATES = {"open": "cut short"}
REJECTED_SHOWN = 200


def section(title: str, *parts: object) -> Html | None:
    """With a heading that a link can lead to; None where all parts are."""
    given = [part for part in parts if part]
    return tag("section", tag("h2", title), *given, id=title.lower().replace(" ", "-")) if given else None


def head(facts: Facts) -> Html:
    picture = facts.picture
    state = tag("span", _STATES.get(picture.outcome, picture.outcome), class_=f"state {picture.outcome}")
    begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(picture.started))
    words = f"Last taken up {begun}, {duration(facts.seconds)} of work in all. Recipe: "
    return html(
        [
            tag("h1", facts.name, state),
            tag("p", words, tag("code", picture.recipe or "recipe.toml"), class_="soft"),
        ]
    )


def failure(facts: Facts) -> Html | None:
    failed = facts.picture.failure
    if failed is None:
        return None
    what = "was interrupted" if failed.interrupted else "failed"
    parts = [tag("b", f"{failed.stage} {what}")]
    parts += [tag("pre", "\n".join(failed.problems))] if failed.problems else []
    parts += [tag("p", "log: ", tag("code", failed.log))] if failed.log else []
    return tag("div", *parts, class_="box warn" if failed.interrupted else "box bad")


def cards(facts: Facts) -> Html | None:
    """The numbers that a person asks for first."""
    found: list[tuple[str, str]] = []
    if best := facts.best:
        base = f", before training {number(best.base_loss)}" if best.base_loss is not None else ""
        found.append((number(best.loss), f"held-out loss at step {best.step}, the best{base}"))
    if facts.steps:
        last = facts.steps[-1]
        found.append((number(last.loss), f"loss at step {last.step} of {last.steps}"))
    for name, value in facts.metrics.items():
        if name in ("psnr_db", "ssim"):
            found.append((amount(name, value), _against(name, facts.metrics)))
    if facts.steps:
        mfu = [step.mfu for step in facts.steps if step.mfu is not None]
        found.append(
            (f"{facts.pace:.3g} s", "a step, the median" + (f"; {max(mfu):.0%} of the GPU's peak" if mfu else ""))
        )
        found.append((f"{facts.memory_gib:.1f} GiB", "memory at its peak, one process"))
    if facts.rejected:
        found.append((str(len(facts.rejected)), "files or clips left out"))
    return (
        tag(
            "div",
            *(tag("div", tag("b", value), tag("span", what), class_="card") for value, what in found),
            class_="cards",
        )
        if found
        else None
    )


def _against(name: str, metrics: dict[str, float]) -> str:
    """ "PSNR; copying the last frame 21.1, before training 18.2"."""
    rivals = held_against(metrics)[name]
    told = [f"{what} {amount(rival, metrics[rival], unit=False)}" for rival, what in rivals.items()]
    return "; ".join([label(name), ", ".join(told)]) if told else label(name)


def timings(facts: Facts) -> Html | None:
    """A bar over all stages, then a table of their parts."""
    if not facts.times:
        return None
    total = facts.seconds or 1.0
    stages: dict[str, float] = defaultdict(float)
    for each in facts.times:
        stages[each.stage] += each.seconds
    colours = {stage: f"c{place % 8}" for place, stage in enumerate(stages)}
    bar = [
        tag("i", class_=colours[stage], style=f"flex:{max(seconds / total, 0.001):.4f}")
        for stage, seconds in stages.items()
    ]
    keys = [
        tag("span", tag("i", class_=colours[stage]), f"{stage} {duration(seconds)}")
        for stage, seconds in stages.items()
    ]
    rows = [row for each in facts.times for row in _time_rows(each)]
    return html(
        [
            tag("div", *bar, class_="bar"),
            tag("div", *keys, class_="keys"),
            table(["stage", "part", "time", "share"], rows),
        ]
    )


def _time_rows(each: StageTime) -> list[list[object]]:
    ended = "" if each.ended == "done" else f" ({each.ended})"
    rows: list[list[object]] = [[tag("b", each.stage + ended), "", tag("b", duration(each.seconds)), ""]]
    for part, seconds in sorted(each.parts.items(), key=lambda item: -item[1]):
        rows.append(["", part, duration(seconds), f"{seconds / each.seconds:.0%}" if each.seconds else ""])
        if part == "steps" and each.waited > 0:
            words = ("of them waiting for data", duration(each.waited), f"{each.waited / each.seconds:.0%}")
            rows.append(["", *(tag("span", word, class_="soft") for word in words)])
    return rows


def rejected(facts: Facts) -> Html | None:
    if not facts.rejected:
        return None
    shown = [[each.key, each.reason] for each in facts.rejected[:REJECTED_SHOWN]]
    more = len(facts.rejected) - len(shown)
    rest = tag("p", f"and {more} more; rejected.jsonl lists all", class_="soft") if more else None
    return html([table(["clip or file", "why it was left out"], shown), rest])


def notes(facts: Facts) -> Html | None:
    ordered = sorted(facts.notes, key=lambda note: not note.warning)
    return (
        tag("ul", *(tag("li", note.text, class_="warn" if note.warning else None) for note in ordered))
        if ordered
        else None
    )


def settings(facts: Facts) -> Html | None:
    """Those that somebody chose first; all of them behind."""
    if not facts.settings:
        return None
    chosen = [each for each in facts.settings if each.origin != "default"]
    every = tag("details", tag("summary", f"all {len(facts.settings)} settings"), _settings(facts.settings))
    alone = [tag("h3", "Stages done again with settings of their own"), _settings(facts.alone)] if facts.alone else []
    return html([_settings(chosen), *alone, every])


def _settings(found: Sequence[Setting]) -> Html:
    rows = [
        [tag("code", each.name), tag("code", each.value), tag("span", each.origin, class_="soft")] for each in found
    ]
    return table(["setting", "value", "from"], rows)


def environment(facts: Facts) -> Html | None:
    if not facts.environment:
        return None
    flat: dict[str, object] = {}
    for key, value in facts.environment.items():
        if isinstance(value, dict):
            flat |= value
        else:
            flat[key] = " ".join(map(str, value)) if isinstance(value, list) else value
    rows = [[tag("code", key), tag("code", value)] for key, value in flat.items()]
    return table(["what", "which"], rows)


def artifacts(facts: Facts, media: Media) -> Html | None:
    rows = [
        [name, tag("a", show_path(path), href=media.link(facts.folder / path))]
        for name, path in facts.picture.artifacts.items()
    ]
    return table(["what", "where"], rows) if rows else None


def metrics(facts: Facts) -> Html | None:
    return tag("ul", *(tag("li", sentence) for sentence in measured(facts.metrics))) if facts.metrics else None
