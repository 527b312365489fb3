"""What several runs have in common and where they differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from cosmos_forge.report.facts import Facts
from cosmos_forge.report.films import player
from cosmos_forge.report.html import Html, html, table, tag
from cosmos_forge.report.media import Media
from cosmos_forge.run import REPORT
from cosmos_forge.view.words import amount, duration, label, number


def overview(runs: Sequence[Facts], media: Media) -> Html:
    """A row a number, a column a run."""
    outcomes = [run.picture.outcome for run in runs]
    rows: list[list[object]] = [["outcome", *(tag("span", outcome, class_=outcome) for outcome in outcomes)]]

    def row(name: str, *values: str) -> None:
        if any(values):
            rows.append([name, *values])

    row("steps", *(f"{run.steps[-1].step} of {run.steps[-1].steps}" if run.steps else "" for run in runs))
    row("last loss", *(number(run.steps[-1].loss) if run.steps else "" for run in runs))
    row("best held-out loss", *(_best(run) for run in runs))
    for name in dict.fromkeys(name for run in runs for name in run.metrics):
        row(label(name), *(amount(name, run.metrics[name]) if name in run.metrics else "" for run in runs))
    row("seconds a step, median", *(f"{run.pace:.3g}" if run.steps else "" for run in runs))
    row("memory at its peak", *(f"{run.memory_gib:.1f} GiB" if run.steps else "" for run in runs))
    row("left out", *(str(len(run.rejected)) if run.rejected else "" for run in runs))
    row("time in all", *(duration(run.seconds) for run in runs))
    return table(["", *(_name(run, media) for run in runs)], rows)


def differences(runs: Sequence[Facts]) -> Html:
    """Settings that are not the same in all."""
    values: dict[str, dict[int, str]] = defaultdict(dict)
    for place, run in enumerate(runs):
        for setting in run.settings:
            values[setting.name][place] = setting.value
    rows = [
        [tag("code", name), *(tag("code", found.get(place, "unset")) for place in range(len(runs)))]
        for name, found in values.items()
        if len({found.get(place) for place in range(len(runs))}) > 1
    ]
    return (
        table(["setting", *(run.name for run in runs)], rows) if rows else tag("p", "None: the recipes are the same.")
    )


def videos(runs: Sequence[Facts], media: Media) -> Html | None:
    """Those of one name side by side, and the truth where it is known."""
    names = dict.fromkeys(film.name for run in runs for film in run.films)
    cards = []
    for name in names:
        films = [(run, film) for run in runs for film in run.films if film.name == name]
        shown = [player(run.name, name, film.path, media) for run, film in films]
        truth = next((film.truth for _, film in films if film.truth), None)
        if truth:
            shown.append(player("truth", name, truth, media))
        button = tag("button", "play", type="button", hidden=True, data_together=True)
        prompt = next((film.record["prompt"] for _, film in films if film.record.get("prompt")), None)
        words = tag("p", prompt) if prompt else None
        title = tag("p", tag("span", name), button, class_="name")
        cards.append(tag("div", title, tag("div", *shown, class_="pair"), words, class_="clip"))
    return tag("div", *cards, class_="clips broad") if cards else None


def timings(runs: Sequence[Facts]) -> Html:
    stages = dict.fromkeys(each.stage for run in runs for each in run.times)
    rows = [
        [stage, *(duration(sum(each.seconds for each in run.times if each.stage == stage)) for run in runs)]
        for stage in stages
    ]
    return html([table(["stage, all attempts", *(run.name for run in runs)], rows)])


def _name(run: Facts, media: Media) -> Html:
    page = run.folder / REPORT
    return tag("a", run.name, href=media.link(page)) if page.exists() else html(run.name)


def _best(run: Facts) -> str:
    best = run.best
    if best is None:
        return ""
    base = f", before {number(best.base_loss)}" if best.base_loss is not None else ""
    return f"{number(best.loss)} at step {best.step}{base}"
