"""Which videos and captions lie in a folder. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cosmos_forge.frames import Unreadable
from cosmos_forge.types import Source
from forge_video_folder.plugin import is_video, texts_of, videos_of

if TYPE_CHECKING:
    from forge_video_folder.plugin import VideoFolderOptions

NO_MP4 = "only *.mp4 files are read"
NOWHERE = "it is a link to nothing"
A_FOLDER = "it is a folder; only *.mp4 files beside it are read"
NO_VIDEO = "there is no video of this name"


def list_sources(options: VideoFolderOptions, folder: Path) -> list[Source]:
    """Every file of the dataset, with its caption; videos first."""
    sources = [_source(options, folder, path) for path in list_files(folder)]
    return sources + [Source(name_in(folder, path), path, reason=NO_VIDEO) for path in captions_alone(folder)]


def _source(options: VideoFolderOptions, folder: Path, path: Path) -> Source:
    name = name_in(folder, path)
    if reason := why_not(path):
        return Source(name, path, reason=reason)
    try:
        return Source(name, path, read_caption(folder, path, options.caption))
    except Unreadable as error:
        return Source(name, path, reason=str(error))


def name_in(folder: Path, path: Path) -> str:
    """A file as it is called where files are told."""
    return path.relative_to(folder).as_posix()


def list_files(folder: Path) -> list[Path]:
    """Videos, and what does not belong with them; not the texts beside them."""
    files = sorted(path for path in videos_of(folder).iterdir() if not path.name.startswith("."))
    beside = texts_of(folder) == videos_of(folder)
    return [path for path in files if not (beside and path.suffix == ".txt")]


def why_not(path: Path) -> str:
    """Why a file is none of the videos, unopened; empty if it may be one."""
    if path.is_dir():
        return A_FOLDER
    if not is_video(path):
        return NO_MP4
    return "" if path.exists() else NOWHERE


def read_caption(folder: Path, video: Path, otherwise: str | None) -> str:
    """The whole text of the video's file, without space around it; `otherwise` where there is none. Raises
    Unreadable."""
    path = texts_of(folder) / f"{video.stem}.txt"
    name = name_in(folder, path)
    try:
        caption = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        if otherwise is None:
            raise Unreadable(f"there is no caption {name}; write one, or set `caption` for such videos") from None
        return otherwise
    except OSError as error:
        raise Unreadable(f"the caption {name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Unreadable(f"the caption {name} is not UTF-8 text") from None
    if not caption:
        raise Unreadable(f"the caption {name} is empty")
    return caption


def captions_alone(folder: Path) -> list[Path]:
    """Captions without a video."""
    stems = {path.stem for path in list_files(folder) if is_video(path)}
    return [path for path in sorted(texts_of(folder).glob("*.txt")) if path.stem not in stems]
