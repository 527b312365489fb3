"""Writes the page of a run, or one that compares several."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cosmos_forge import __version__, events
from cosmos_forge.errors import ForgeError, show_path
from cosmos_forge.files import write_text
from cosmos_forge.report import comparison, films, learning, sections
from cosmos_forge.report.facts import read_facts
from cosmos_forge.report.html import Html, html, page, tag
from cosmos_forge.report.media import EMBEDDED_BYTES, Media
from cosmos_forge.report.sections import section
from cosmos_forge.run import REPORT

COMPARISON = "report-compare.html"


def write_report(folder: Path, limit: int = EMBEDDED_BYTES, path: Path | None = None) -> Path:
    """The page of a run, by default `report.html` in its folder. limit: bytes of pictures and videos to put into it.
    Raises ForgeError where there is no run, or the page cannot be written."""
    facts, path = read_facts(folder), path or folder / REPORT
    media = Media(path, limit)
    parts = [
        section("Learning", learning.curves(facts)),
        section("Measured", sections.metrics(facts)),
        section("Videos", films.clips(facts.films, media), films.stopped(facts), films.sheets(facts.sheets, media)),
        section("Videos along the way", films.samples(facts, media)),
        section("Where the time went", sections.timings(facts)),
        section("Left out", sections.rejected(facts)),
        section("Notes and warnings", sections.notes(facts)),
        section("Settings", sections.settings(facts)),
        section("What came of it", sections.artifacts(facts, media)),
        section("Environment", sections.environment(facts)),
    ]
    opening = [sections.head(facts), _links(parts), sections.failure(facts), sections.cards(facts)]
    return _write(path, facts.name, [*opening, *parts, _foot(media)])


def write_comparison(folders: Sequence[Path], path: Path) -> Path:
    """One page over several runs. Raises ForgeError where one is none, or the page cannot be written."""
    runs, media = [read_facts(folder) for folder in folders], Media(path, EMBEDDED_BYTES)
    parts = [
        section("At a glance", comparison.overview(runs, media)),
        section("Learning", learning.compared(runs)),
        section("Settings that differ", comparison.differences(runs)),
        section("Videos", comparison.videos(runs, media)),
        section("Where the time went", comparison.timings(runs)),
    ]
    title = " and ".join(run.name for run in runs) if len(runs) == 2 else f"{len(runs)} runs"
    return _write(path, title, [tag("h1", title), _links(parts), *parts, _foot(media)])


def write_reports(folders: Sequence[Path], runs: Path, output: Path | None) -> Path:
    """The page of one run anew, where it belongs if not told; of several a comparison, in the folder of all runs."""
    if len(folders) == 1:
        return write_report(folders[0], path=output)
    return write_comparison(folders, output or runs / COMPARISON)


def keep_report(folder: Path, log: events.EventLog) -> None:
    """Writes a run's page at its end; whatever goes wrong is a note and nothing more."""
    try:
        write_report(folder)
    except Exception as error:
        said = " ".join(str(error).split())
        with suppress(OSError):  # a full disk is the run's own to tell
            log.emit(events.Note(f"{REPORT} was not written: {type(error).__name__}: {said}", warning=True))


def _links(parts: Sequence[Html | None]) -> Html:
    """To each section."""
    titles = [part.partition('id="')[2].partition('"')[0] for part in parts if part]
    return tag("nav", *(tag("a", name.replace("-", " "), href=f"#{name}") for name in titles))


def _foot(media: Media) -> Html:
    now = time.strftime("%Y-%m-%d %H:%M")
    return tag("footer", tag("p", media.told()), tag("p", f"Written by cosmos-forge {__version__}, {now}."))


def _write(path: Path, title: str, parts: Sequence[Html | None]) -> Path:
    try:
        text = page(title, html(parts))
        write_text(path, text.encode("utf-8", "replace").decode())  # names of files may be no text
    except OSError as error:
        raise ForgeError(
            f"cannot write {show_path(path)}: {error.strerror}", "choose another file by --output"
        ) from None
    return path
