"""The videos of a run: what was generated beside what really happened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cosmos_forge.report.facts import Facts, Film
from cosmos_forge.report.html import Html, html, tag
from cosmos_forge.report.media import Media
from cosmos_forge.view.words import measured


def clips(films: Sequence[Film], media: Media) -> Html | None:
    """Each beside the truth, where that is known."""
    if not films:
        return None
    return tag("div", *(clip(film, media) for film in films), class_="clips")


def clip(film: Film, media: Media) -> Html:
    shown = [player("generated", film.name, film.path, media)]
    if film.truth:
        shown.append(player("truth", film.name, film.truth, media))
    button = tag("button", "play", type="button", hidden=True, data_together=True)
    prompt = film.record.get("prompt")
    return tag(
        "div",
        tag("p", tag("span", film.name), button, class_="name"),
        tag("div", *shown, class_="pair"),
        tag("p", prompt) if prompt else None,
        tag("p", "; ".join(measured(numbers)), class_="soft") if (numbers := _numbers(film)) else None,
        tag("details", tag("summary", "settings"), tag("pre", _record(film))) if film.record else None,
        class_="clip",
    )


def player(what: str, name: str, path: Path, media: Media) -> Html:
    attributes = {"controls": True, "muted": True, "loop": True, "playsinline": True, "preload": "metadata"}
    video = tag("video", src=media.url(path), aria_label=f"{name}: {what}", **attributes)
    return tag("figure", tag("figcaption", what), video)


def _numbers(film: Film) -> dict[str, float]:
    found = film.record.get("metrics") or {}
    return {name: value for name, value in found.items() if isinstance(value, (int, float))}


def _record(film: Film) -> str:
    return json.dumps(
        {key: value for key, value in film.record.items() if key != "metrics"}, indent=2, ensure_ascii=False
    )


def stopped(facts: Facts) -> Html | None:
    """What guardrails kept from being made."""
    items = [tag("li", tag("b", name), f": {why}", class_="warn") for name, why in facts.stopped.items()]
    return tag("ul", *items) if items else None


def samples(facts: Facts, media: Media) -> Html | None:
    """What validation made: before training, at the best and at the last step in full; sheets of all others."""
    if not facts.samples:
        return None
    steps = list(facts.samples)
    best = min(facts.validated, key=lambda each: each.loss).step if facts.validated else None
    parts: list[Html | None] = []
    for step in dict.fromkeys(each for each in (steps[-1], best, steps[0]) if each in facts.samples):
        words = [f"step {step}"] + (["the best"] if step == best else []) + (["before training"] if step == 0 else [])
        parts.append(tag("h3", ", ".join(words)))
        parts.append(clips(facts.samples[step], media))
    found = [facts.folder / each.sheet for each in facts.validated if each.sheet]
    return html([*parts, sheets([path for path in found if path.exists()], media, "Contact sheet of every step")])


def sheets(paths: Sequence[Path], media: Media, title: str = "Contact sheets") -> Html | None:
    pictures = [
        tag(
            "figure", tag("figcaption", _place(path)), tag("img", src=media.url(path), alt=f"contact sheet {path.name}")
        )
        for path in paths
    ]
    return tag("details", tag("summary", f"{title} ({len(pictures)})"), *pictures) if pictures else None


def _place(path: Path) -> str:
    return path.parent.name if path.parent.name.startswith("step-") else path.name
