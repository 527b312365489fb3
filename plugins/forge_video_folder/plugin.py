"""Offers the dataset `video-folder`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cosmos_forge import Options, Problem, hookimpl

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


class VideoFolderOptions(Options):
    """Your videos: `videos/*.mp4` with captions in `metas/*.txt`, as in Cosmos post-training."""

    path: str = Field(description="folder that holds `videos/*.mp4` and `metas/*.txt`, one name for both")
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

    @property
    def folder(self) -> Path:
        return Path(self.path).expanduser()

    @property
    def span(self) -> int:
        """Frames of a video from a clip's first to its last."""
        return (self.num_frames - 1) * self.frame_stride + 1

    def check(self, plan: Plan) -> Iterable[Problem]:
        what = missing(self.folder)
        if what:
            yield plan.problem("dataset", "path", what, LAYOUT)


LAYOUT = "put videos into `videos/*.mp4` and captions into `metas/*.txt` below the folder that `path` names"


def missing(folder: Path) -> str:
    """What keeps `folder` from being a dataset at all; empty if nothing does."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    if not (folder / "videos").is_dir():
        return f"{folder} has no folder `videos`"
    if not any(is_video(path) for path in (folder / "videos").iterdir()):
        return f"{folder / 'videos'} holds no *.mp4"
    return ""


def is_video(path: Path) -> bool:
    return path.suffix.lower() == ".mp4" and not path.name.startswith(".")


@hookimpl
def register_datasets(register):
    register("video-folder", options=VideoFolderOptions, build="forge_video_folder.folder:VideoFolder")
