"""Offers the dataset `video-folder`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from cosmos_forge import Download, Options, Problem, hookimpl

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan
    from cosmos_forge.types import Source


class VideoFolderOptions(Options):
    """Your videos: `videos/*.mp4` with captions in `metas/*.txt`, as in Cosmos post-training."""

    path: str = Field(
        min_length=1,
        description="folder of `videos/*.mp4` and `metas/*.txt`, one name for both, or of videos with texts beside "
        "them; hub:OWNER/NAME/FOLDER for one in a dataset on the Hugging Face hub, which `fetch` downloads",
    )
    gigabytes: float = Field(1.0, gt=0, description="about what videos on the hub weigh")
    num_frames: int = Field(121, ge=1, description="frames of a clip, 8k+1 for most latent tokenizers")
    height: int = Field(720, ge=16, description="pixels, after resizing; as in Cosmos post-training")
    width: int = Field(1280, ge=16, description="pixels, after resizing; as in Cosmos post-training")
    other_sizes: list[tuple[int, int, int]] = Field(
        [],
        description="further sizes, [num_frames, height, width] each: a video gets the one nearest its own "
        "proportions, of the most frames, that it is long enough for",
    )
    caption: str | None = Field(
        None, min_length=1, description="for videos without a text of their own; default: these are left out"
    )
    resize: Literal["stretch", "crop"] = Field(
        "stretch", description="stretch: proportions may change, as in Cosmos; crop: keeps them and cuts off the edges"
    )
    frame_stride: int = Field(1, ge=1, description="take every n-th frame")
    start_frame_interval: int | None = Field(
        None, ge=1, description="frames between the starts of two clips of a video; default: no overlap. 1 in Cosmos"
    )

    @field_validator("path")
    @classmethod
    def _hub(cls, path: str) -> str:
        if path.startswith(HUB) and not ON_HUB.fullmatch(path):
            raise ValueError(f"`{path}` is no dataset on the hub; hub:OWNER/NAME or hub:OWNER/NAME/FOLDER is meant")
        return path

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
            return f"the video has {frames} frame{'s' * (frames > 1)}, and a clip needs {shortest}"
        span = self.span(size[0])
        return size, range(0, frames - span + 1, self.start_frame_interval or span)

    def clips(self, frames: int, height: int, width: int) -> int | str:
        places = self.places(frames, height, width)
        return places if isinstance(places, str) else len(places[1])

    def sources(self, files: Callable[[Download], Path]) -> list[Source]:
        from forge_video_folder.files import list_sources

        return list_sources(self, self.folder(files))

    def folder(self, files: Callable[[Download], Path]) -> Path:
        """Where it lies on this machine. files: finds downloads."""
        hub = ON_HUB.fullmatch(self.path)
        return files(self.needs()[0]) / (hub["folder"] or "") if hub else Path(self.path).expanduser()

    @classmethod
    def reads(cls, folder: Path) -> dict[str, str] | None:
        """A folder of either layout; without any text its videos get a caption that stands for those to be written."""
        if folder.name == "videos" and any(folder.parent.glob("metas/*.txt")):
            folder = folder.parent
        if missing(folder):
            return None
        return {"path": str(folder)} | ({} if any(texts_of(folder).glob("*.txt")) else {"caption": "A video."})

    def needs(self) -> list[Download]:
        """What lies on the hub: videos alone where `caption` serves all, else the layout with `metas`."""
        hub = ON_HUB.fullmatch(self.path)
        if hub is None:
            return []
        within = f"{hub['folder']}/" if hub["folder"] else ""
        files = (f"{within}*.mp4",) if self.caption else (f"{within}videos/*.mp4", f"{within}metas/*.txt")
        return [Download(hub["repo"], files, self.gigabytes, repo_type="dataset")]

    def check(self, plan: Plan) -> Iterable[Problem]:
        if not self.path.startswith(HUB) and (what := missing(Path(self.path).expanduser())):
            yield plan.problem("dataset", "path", what, LAYOUT)
        for size in self.other_sizes:
            try:
                plan.options("latent_tokenizer").latent_shape(*size)
            except ValueError as error:
                what = f"other_sizes: {list(size)} does not fit the latent tokenizer: {error}"
                yield plan.problem("dataset", "other_sizes", what, "frames, height and width are meant")


HUB = "hub:"
ON_HUB = re.compile(r"hub:(?P<repo>[\w-][\w.-]*/[\w.-]+)(?:/(?P<folder>[\w-][\w.-]*(?:/[\w-][\w.-]*)*))?")
LAYOUT = (
    "put videos into `videos/*.mp4` and captions into `metas/*.txt` below the folder that `path` names, or videos and "
    "texts of the same names straight into it"
)


def videos_of(folder: Path) -> Path:
    """Where the videos lie: in `videos`, if there is such a folder, else in the folder itself."""
    return folder / "videos" if (folder / "videos").is_dir() else folder


def texts_of(folder: Path) -> Path:
    """Where their captions lie: in `metas` beside `videos`, else beside the videos."""
    return folder / "metas" if (folder / "videos").is_dir() else folder


def missing(folder: Path) -> str:
    """What keeps `folder` from being a dataset at all; empty if nothing does."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    if not any(is_video(path) for path in videos_of(folder).iterdir()):
        return f"{videos_of(folder)} holds no *.mp4"
    return ""


def is_video(path: Path) -> bool:
    return path.suffix.lower() == ".mp4" and not path.name.startswith(".")


@hookimpl
def register_datasets(register):
    register("video-folder", options=VideoFolderOptions, build="forge_video_folder.folder:VideoFolder")
