"""Offers the dataset `video-folder`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from cosmos_forge import Download, Options, Problem, hookimpl

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


class VideoFolderOptions(Options):
    """Your videos: `videos/*.mp4` with captions in `metas/*.txt`, as in Cosmos post-training."""

    path: str | None = Field(None, description="folder that holds `videos/*.mp4` and `metas/*.txt`, one name for both")
    repo: str | None = Field(
        None,
        pattern=r"^[\w-][\w.-]*/[\w.-]+$",
        description="instead of `path`: owner/name of a dataset on the Hugging Face hub, which `fetch` downloads",
    )
    videos: str = Field("videos", min_length=1, description="the folder of the videos, within `path` or `repo`")
    gigabytes: float = Field(1.0, gt=0, description="about what the videos of `repo` weigh")
    num_frames: int = Field(121, ge=1, description="frames of a clip, 8k+1 for most latent tokenizers")
    height: int = Field(720, ge=16, description="pixels, after resizing; as in Cosmos post-training")
    width: int = Field(1280, ge=16, description="pixels, after resizing; as in Cosmos post-training")
    caption: str | None = Field(None, min_length=1, description="one caption for all videos; then `metas` is not read")
    resize: Literal["stretch", "crop"] = Field(
        "stretch", description="stretch: proportions may change, as in Cosmos; crop: keeps them and cuts off the edges"
    )
    frame_stride: int = Field(1, ge=1, description="take every n-th frame")
    start_frame_interval: int | None = Field(
        None, ge=1, description="frames between the starts of two clips of a video; default: no overlap. 1 in Cosmos"
    )

    @model_validator(mode="after")
    def _from_one_place(self) -> VideoFolderOptions:
        if (self.path is None) == (self.repo is None):
            raise ValueError("give either `path`, a folder, or `repo`, a dataset on the Hugging Face hub")
        return self

    @property
    def span(self) -> int:
        """Frames of a video from a clip's first to its last."""
        return (self.num_frames - 1) * self.frame_stride + 1

    def needs(self) -> list[Download]:
        """The videos of `repo`, and their captions unless one serves all."""
        if self.repo is None:
            return []
        files = (f"{self.videos}/*.mp4",) if self.caption else (f"{self.videos}/*.mp4", "metas/*.txt")
        return [Download(self.repo, files, self.gigabytes, repo_type="dataset")]

    def check(self, plan: Plan) -> Iterable[Problem]:
        if self.path is not None:
            what = missing(Path(self.path).expanduser(), self.videos)
            if what:
                yield plan.problem("dataset", "path", what, LAYOUT)


LAYOUT = (
    "put videos into `videos/*.mp4` and captions into `metas/*.txt` below the folder that `path` names; `videos` and "
    "`caption` say it where they lie elsewhere or have one caption"
)


def missing(folder: Path, videos: str) -> str:
    """What keeps `folder` from being a dataset at all; empty if nothing does."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    if not (folder / videos).is_dir():
        return f"{folder} has no folder `{videos}`"
    if not any(is_video(path) for path in (folder / videos).iterdir()):
        return f"{folder / videos} holds no *.mp4"
    return ""


def is_video(path: Path) -> bool:
    return path.suffix.lower() == ".mp4" and not path.name.startswith(".")


@hookimpl
def register_datasets(register):
    register("video-folder", options=VideoFolderOptions, build="forge_video_folder.folder:VideoFolder")
