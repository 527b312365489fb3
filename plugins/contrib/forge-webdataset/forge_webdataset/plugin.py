"""Offers the dataset `webdataset`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from glob import glob
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cosmos_forge import Options, Problem, hookimpl

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


class WebDatasetOptions(Options):
    """Tar shards in the WebDataset format: members of one key are a video and its caption."""

    shards: str = Field(min_length=1, description="tar files: data/train-{000000..000099}.tar, or data/*.tar")
    video: str = Field("mp4", min_length=1, description="the member that is the video, by what follows the key's dot")
    text: str = Field("txt", min_length=1, description="the member that is the caption, or holds it: txt, json, ..")
    text_key: str = Field("caption", min_length=1, description="the caption's key, where `text` is a json member")
    caption: str | None = Field(None, min_length=1, description="one caption for all videos; then `text` is not read")
    index: str | None = Field(
        None, description="folder of what is found in the shards; default: forge-webdataset in the user's cache folder"
    )
    num_frames: int = Field(121, ge=1, description="frames of a clip, 8k+1 for most latent tokenizers")
    height: int = Field(720, ge=16, description="pixels, after resizing")
    width: int = Field(1280, ge=16, description="pixels, after resizing")
    resize: Literal["stretch", "crop"] = Field(
        "stretch", description="stretch: proportions may change; crop: keeps them and cuts off the edges"
    )
    frame_stride: int = Field(1, ge=1, description="take every n-th frame")
    start_frame_interval: int | None = Field(
        None, ge=1, description="frames between the starts of two clips of a video; default: no overlap"
    )

    @property
    def span(self) -> int:
        """Frames of a video from a clip's first to its last."""
        return (self.num_frames - 1) * self.frame_stride + 1

    def files(self) -> list[Path]:
        """The shards that are meant, by name. One that braces name is among them whether or not it is there."""
        found = [path for pattern in expand(str(Path(self.shards).expanduser())) for path in _matches(pattern)]
        return sorted(dict.fromkeys(found))

    def check(self, plan: Plan) -> Iterable[Problem]:
        """Whether all shards are there."""
        files = self.files()
        if not files:
            yield plan.problem(
                "dataset", "shards", f"{self.shards} matches no file", "paths start at the working directory"
            )
        elif missing := [path for path in files if not path.is_file()]:
            what = f"there is no {missing[0]}, one of {len(missing)} shards that are missing"
            yield plan.problem("dataset", "shards", what, "name those that are there")


def expand(pattern: str) -> list[str]:
    """`a{0..2}.tar` -> a0.tar a1.tar a2.tar, leading zeros kept; `{x,y}` -> x y; several braces multiply."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [[part] if index % 2 == 0 else _choices(part) for index, part in enumerate(parts)]
    return ["".join(each) for each in product(*choices)]


def _choices(inside: str) -> list[str]:
    if found := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        width = max(map(len, found.groups())) if any(each.startswith("0") for each in found.groups()) else 0
        return [f"{number:0{width}d}" for number in range(int(found[1]), int(found[2]) + 1)]
    return inside.split(",")


def _matches(pattern: str) -> list[Path]:
    return [Path(path) for path in glob(pattern)] if re.search(r"[*?\[]", pattern) else [Path(pattern)]


@hookimpl
def register_datasets(register):
    register("webdataset", options=WebDatasetOptions, build="forge_webdataset.dataset:WebDataset")
