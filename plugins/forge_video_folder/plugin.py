"""Offers the dataset `video-folder`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from cosmos_forge import Download, Options, Problem, hookimpl

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan
    from cosmos_forge.types import Source


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
    other_sizes: list[tuple[int, int, int]] = Field(
        [],
        description="further sizes, [num_frames, height, width] each: a video gets the one nearest its own "
        "proportions, of the most frames, that it is long enough for",
    )
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

    @model_validator(mode="after")
    def _largest_first(self) -> VideoFolderOptions:
        for size in self.other_sizes:
            if size[0] < 1 or min(size[1:]) < 16:
                raise ValueError(f"other_sizes: {list(size)} is no [num_frames, height, width] of 16 pixels or more")
            if math.prod(size) > math.prod(self.size):
                raise ValueError(f"other_sizes: {list(size)} is larger than num_frames, height and width say")
        return self

    @property
    def size(self) -> tuple[int, int, int]:
        """Frames, height and width of the largest clips."""
        return self.num_frames, self.height, self.width

    def span(self, num_frames: int) -> int:
        """Frames of a video from a clip's first to its last."""
        return (num_frames - 1) * self.frame_stride + 1

    def size_for(self, frames: int, height: int, width: int) -> tuple[int, int, int] | None:
        """The size of the clips of a video; None where it is too short for any."""
        fitting = [size for size in (self.size, *self.other_sizes) if self.span(size[0]) <= frames]

        def misfit(size: tuple[int, int, int]) -> tuple[float, int]:
            return round(abs(math.log(width / height * size[1] / size[2])), 2), -size[0]

        return min(fitting, key=misfit, default=None)

    def places(self, frames: int, height: int, width: int) -> tuple[tuple[int, int, int], range] | str:
        """The size of the clips of a video, as shown, and the first frame of each; or why there are none."""
        size = self.size_for(frames, height, width)
        if size is None:
            shortest = min(self.span(size[0]) for size in (self.size, *self.other_sizes))
            return f"the video has {frames} frames, and a clip needs {shortest}"
        span = self.span(size[0])
        return size, range(0, frames - span + 1, self.start_frame_interval or span)

    def clips(self, frames: int, height: int, width: int) -> int | str:
        places = self.places(frames, height, width)
        return places if isinstance(places, str) else len(places[1])

    def sources(self, files: Callable[[Download], Path]) -> list[Source]:
        from forge_video_folder.files import list_sources

        return list_sources(self, files(self.needs()[0]) if self.path is None else Path(self.path).expanduser())

    @classmethod
    def reads(cls, folder: Path) -> dict[str, str] | None:
        """A folder of the layout, or of videos alone, which get a caption that stands for one to be written."""
        if not missing(folder, "videos"):
            return {"path": str(folder)}
        if missing(folder.parent, folder.name):
            return None
        captions = {} if any((folder.parent / "metas").glob("*.txt")) else {"caption": "A video."}
        return {"path": str(folder.parent), "videos": folder.name} | captions

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
        for size in self.other_sizes:
            try:
                plan.options("latent_tokenizer").latent_shape(*size)
            except ValueError as error:
                what = f"other_sizes: {list(size)} does not fit the latent tokenizer: {error}"
                yield plan.problem("dataset", "other_sizes", what, "frames, height and width are meant")


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
