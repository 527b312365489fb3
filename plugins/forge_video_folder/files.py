"""Which videos and captions lie in a folder. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cosmos_forge.types import Source
from forge_video_folder.reader import Unreadable

if TYPE_CHECKING:
    from forge_video_folder.plugin import VideoFolderOptions

NO_MP4 = "only *.mp4 files are read"
NO_VIDEO = "there is no video of this name"


def list_sources(options: VideoFolderOptions, folder: Path) -> list[Source]:
    """Every file of the dataset, with its caption; videos first."""
    sources = [_source(options, folder, path) for path in list_files(folder / options.videos)]
    if options.caption is None:
        alone = captions_alone(folder, folder / options.videos)
        sources += [Source(f"metas/{path.name}", path, reason=NO_VIDEO) for path in alone]
    return sources


def _source(options: VideoFolderOptions, folder: Path, path: Path) -> Source:
    key = f"{options.videos}/{path.name}"
    if not is_mp4(path):
        return Source(key, path, reason=NO_MP4)
    try:
        return Source(key, path, options.caption or read_caption(folder / "metas" / f"{path.stem}.txt"))
    except Unreadable as error:
        return Source(key, path, reason=str(error))


def list_files(videos: Path) -> list[Path]:
    return sorted(path for path in videos.iterdir() if not path.name.startswith("."))


def is_mp4(path: Path) -> bool:
    return path.suffix.lower() == ".mp4"


def read_caption(path: Path) -> str:
    """The whole text of the file, without space around it. Raises Unreadable."""
    try:
        caption = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise Unreadable(f"there is no caption metas/{path.name}; write one, or set `caption` for all videos") from None
    except UnicodeDecodeError:
        raise Unreadable(f"the caption metas/{path.name} is not UTF-8 text") from None
    if not caption:
        raise Unreadable(f"the caption metas/{path.name} is empty")
    return caption


def captions_alone(folder: Path, videos: Path) -> list[Path]:
    """Captions without a video."""
    stems = {path.stem for path in list_files(videos) if is_mp4(path)}
    return [path for path in sorted((folder / "metas").glob("*.txt")) if path.stem not in stems]
