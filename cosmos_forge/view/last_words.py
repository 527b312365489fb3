"""What a view says at the end of a run: what came of it, how good it is, what to try next. Imports no rich."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from cosmos_forge.errors import show_path
from cosmos_forge.run import REPORT
from cosmos_forge.view.picture import Picture
from cosmos_forge.view.words import duration, held_out, measured, number


@dataclass(frozen=True)
class Closing:
    """title: how it ended. problems: lines of the failure, in full. files: name and path. words: sentences.
    tries: commands worth typing now, as (purpose, command)."""

    title: str
    problems: list[str] = field(default_factory=list)
    files: list[tuple[str, str]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    tries: list[tuple[str, str]] = field(default_factory=list)


def closing(picture: Picture, folder: Path) -> Closing:
    """The closing words of the run in `folder`, of which nothing more will be heard."""
    took = duration(picture.time - picture.started)
    failure = picture.failure
    if failure is not None:
        if failure.interrupted:
            words = ["The same command goes on."]
            return Closing(f"{failure.stage} interrupted after {took}", words=words, tries=_tries(picture, folder))
        files = [*_page(folder), *([("log", failure.log)] if failure.log else [])]
        words = ["Once that is mended, the same command goes on."]
        return Closing(f"{failure.stage} failed after {took}", failure.problems, files, words, _tries(picture, folder))
    if picture.outcome == "open":
        words = ["The run ended without a word, as when it is killed. The same command goes on."]
        return Closing(f"stopped after {took}", words=words, tries=_tries(picture, folder))
    left = [name for name in reversed(picture.artifacts) if picture.is_about(name)]
    files = [(name, show_path(folder / picture.artifacts[name])) for name in left]
    files.sort(key=lambda file: file[0] not in ("video", "videos"))
    files = [*_page(folder), *files]
    words = [*_held_out(picture), *(measured(picture.metrics) if picture.is_about("metrics") else [])]
    if picture.rejected:
        words.append(f"{picture.rejected} clip{'s were' if picture.rejected > 1 else ' was'} left out.")
    return Closing(f"done in {took}", files=files, words=words, tries=_tries(picture, folder))


def _page(folder: Path) -> list[tuple[str, str]]:
    """The run as a page, where there is one."""
    return [("report", show_path(folder / REPORT))] if (folder / REPORT).exists() else []


def _held_out(picture: Picture) -> list[str]:
    """What training was judged by, if it was."""
    if "train" not in picture.stages or not picture.training.judged:
        return []
    last, best = picture.training.judged[-1], picture.training.best
    words = f"{held_out(last).capitalize()}"
    return [words if best in (None, last) else f"{words}; at step {best.step} it was {number(best.loss)}, the lowest"]


def _tries(picture: Picture, folder: Path) -> list[tuple[str, str]]:
    """Commands on the run's own recipe, which holds what was said on the command line too and continues this run."""
    recipe = shlex.quote(show_path(folder / "recipe.toml"))
    parent = show_path(folder.parent)
    where = recipe if parent == "runs" else f"{recipe} --runs {shlex.quote(parent)}"
    watched = shlex.quote(folder.name if parent == "runs" else show_path(folder))
    if picture.outcome == "failed":
        return [("check this machine", f"forge doctor {recipe}")]
    if picture.outcome != "done":  # a single stage may have had settings of its own, which the recipe has not
        return [("go on", f"forge run {where}")] if len(picture.stages) > 1 else []
    if "generate" not in picture.stages:
        return [("do the other stages", f"forge run {where}")]
    tries = [("continue a video of yours", f"forge generate {where} input=my.mp4")]
    if "train" in picture.stages and picture.training.latest is not None:
        steps = 2 * picture.training.latest.steps
        tries.append(("train twice as long", f"forge run {where} --continue train.steps={steps}"))
    best = picture.training.best if "train" in picture.stages else None
    if best and best is not picture.training.judged[-1]:
        tries.append((f"go back to step {best.step}", f"forge run {where} --continue export.checkpoint=best"))
    explain = ("see where each setting is from", f"forge explain {shlex.quote(picture.recipe)}")
    return [*tries, *([explain] if picture.recipe else []), ("see this again", f"forge watch {watched}")]
