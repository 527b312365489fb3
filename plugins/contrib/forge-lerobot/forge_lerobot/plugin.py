"""Offers the dataset `lerobot`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from cosmos_forge import Download, Options, Problem, hookimpl

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


class LeRobotOptions(Options):
    """Recordings of robots in LeRobot's format, v2 or v3: one camera's videos, with their tasks as captions."""

    path: str = Field(
        min_length=1,
        description="folder of the dataset, the one that holds `meta/info.json`; hub:OWNER/NAME for a dataset on the "
        "Hugging Face hub, which `fetch` downloads",
    )
    revision: str = Field("main", min_length=1, description="branch, tag or commit on the hub")
    gigabytes: float = Field(1.0, gt=0, description="about what videos on the hub weigh")
    camera: str | None = Field(
        None, min_length=1, description="observation.images.top, or just top; default: the first in `meta/info.json`"
    )
    num_frames: int = Field(121, ge=1, description="frames of a clip, 8k+1 for most latent tokenizers")
    height: int = Field(720, ge=16, description="pixels, after resizing")
    width: int = Field(1280, ge=16, description="pixels, after resizing")
    resize: Literal["stretch", "crop"] = Field(
        "stretch", description="stretch: proportions may change; crop: keeps them and cuts off the edges"
    )
    caption: str | None = Field(None, min_length=1, description="one caption for all, in place of the tasks' texts")
    frame_stride: int = Field(1, ge=1, description="take every n-th frame")
    start_frame_interval: int | None = Field(
        None, ge=1, description="frames between the starts of two clips of an episode; default: no overlap"
    )

    @field_validator("path")
    @classmethod
    def _hub(cls, path: str) -> str:
        if path.startswith(HUB) and not ON_HUB.fullmatch(path):
            raise ValueError(f"`{path}` is no dataset on the hub; hub:OWNER/NAME is meant")
        return path

    @property
    def span(self) -> int:
        """Frames of an episode from a clip's first to its last."""
        return (self.num_frames - 1) * self.frame_stride + 1

    def needs(self) -> list[Download]:
        """What a dataset on the hub says of its episodes, and the videos, of `camera` alone where it is named."""
        if not self.path.startswith(HUB):
            return []
        videos = f"videos/*{self.camera}/*.mp4" if self.camera else "videos/*.mp4"
        repo = self.path.removeprefix(HUB)
        return [Download(repo, ("meta/*", videos), self.gigabytes, "", self.revision, "dataset")]

    def check(self, plan: Plan) -> Iterable[Problem]:
        """Whether there is a dataset at `path`."""
        if not self.path.startswith(HUB) and (what := missing(Path(self.path).expanduser())):
            yield plan.problem("dataset", "path", what, LAYOUT)


HUB = "hub:"
ON_HUB = re.compile(r"hub:[\w-][\w.-]*/[\w.-]+")
LAYOUT = "name the folder of a LeRobot dataset, the one that holds `meta/` and `videos/`"


def missing(folder: Path) -> str:
    """What keeps `folder` from being a dataset at all; empty if nothing does."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    return "" if (folder / "meta" / "info.json").is_file() else f"{folder} has no meta/info.json"


@hookimpl
def register_datasets(register):
    register("lerobot", options=LeRobotOptions, build="forge_lerobot.dataset:LeRobot")
