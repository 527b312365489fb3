"""The command `forge clips`."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from cosmos_forge import ForgeError


def clips(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO...", help="long videos")],
    output: Annotated[Path, typer.Option(help="folder that gets `videos/` and, with --caption, `metas/`")],
    threshold: Annotated[float, typer.Option(min=0, max=1, help="how much two frames differ across a cut")] = 0.1,
    shortest: Annotated[float, typer.Option(min=0, help="seconds; shorter shots are left out, and told")] = 1.0,
    caption: Annotated[str | None, typer.Option(help="for all; else write metas/NAME.txt for each yourself")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="tell the shots and write nothing")] = False,
) -> None:
    """Cut long videos into shots, a file each, ready to train on.

    Finds hard cuts; dissolves and fades are none. What is written is what the dataset video-folder reads. Nothing is
    overwritten.
    """
    from forge_clips.shots import find_shots, write_shots

    if twice := {video.stem for video in videos if sum(other.stem == video.stem for other in videos) > 1}:
        raise ForgeError(f"two videos are called {sorted(twice)[0]}, and so would be their shots", "rename one")
    written = 0
    for video in videos:
        shots, fps = find_shots(video, threshold)
        targets = {}
        for number, shot in enumerate(shots):
            seconds, name = float((shot.stop - shot.start) / fps), f"{video.stem}-{number:03d}"
            told = f"{name}  {float(shot.start / fps):8.2f} s  {seconds:7.2f} s  {shot.stop - shot.start:6d} frames"
            typer.echo(told if seconds >= shortest else f"{told}  left out, it is too short")
            if seconds >= shortest:
                targets[shot] = output / "videos" / f"{name}.mp4"
        if dry_run:
            continue
        _free(targets.values())
        try:
            (output / "videos").mkdir(parents=True, exist_ok=True)
            write_shots(video, targets, fps)
            if caption:
                (output / "metas").mkdir(exist_ok=True)
                for path in targets.values():
                    (output / "metas" / f"{path.stem}.txt").write_text(caption + "\n", encoding="utf-8")
        except OSError as error:
            raise ForgeError(f"cannot write to {output}: {error.strerror}", "choose another --output") from None
        written += len(targets)
    if not dry_run:
        captions = "" if caption else ' dataset.caption="what they show"'
        place = shlex.quote(f"dataset.path={output}")
        typer.echo(f"{written} clips in {output}; in a recipe: dataset.use=video-folder {place}{captions}")


def _free(paths: Iterable[Path]) -> None:
    """Raises ForgeError where a file would be overwritten."""
    if there := [path for path in paths if path.exists()]:
        raise ForgeError(f"{there[0]} is there already, and nothing is overwritten", "choose another --output")
