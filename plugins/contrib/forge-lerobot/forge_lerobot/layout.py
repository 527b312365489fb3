"""Which episodes a LeRobot dataset has, and where their frames lie.

v2 keeps an MP4 an episode and `meta/episodes.jsonl`; v3 keeps several episodes in each MP4, and in
`meta/episodes/*/*.parquet` from when to when each lasts. Source of both: `lerobot/datasets/utils.py` and
`dataset_metadata.py` of the lerobot package, releases 0.3 (v2.1) and 0.4 (v3.0).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cosmos_forge import ForgeError


@dataclass(frozen=True)
class Episode:
    """index: as the dataset counts. video: relative path. start: seconds from the video's beginning. frames: how many.
    tasks: what the robot was told."""

    index: int
    video: str
    start: float
    frames: int
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Recording:
    """One camera of a dataset. fps: frames a second."""

    fps: float
    episodes: list[Episode]


def read_recording(folder: Path, camera: str | None) -> Recording:
    """What `folder` holds of a camera. Raises ForgeError where it is no dataset of these versions, or has no such
    camera, or its tables are damaged."""
    try:
        info = json.loads((folder / "meta" / "info.json").read_text(encoding="utf-8"))
        version = str(info["codebase_version"])
        if not version.startswith(("v2.", "v3.")):
            raise ForgeError(f"{folder} is a LeRobot dataset of {version}", "convert it with lerobot to v2.1 or v3.0")
        name = choose_camera(info["features"], camera)
        read = _episodes_of_v2 if version.startswith("v2.") else _episodes_of_v3
        episodes = read(folder, info, name)
        return Recording(float(info["fps"]), sorted(episodes, key=lambda episode: episode.index))
    except (KeyError, TypeError, ValueError, OSError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ForgeError(f"meta/ of {folder} cannot be read ({reason})", "copy or download it again") from error


def choose_camera(features: dict[str, Any], camera: str | None) -> str:
    """The feature that `camera` means, its name or the last part of it; None means the first that is no depth map."""
    videos = [name for name, feature in features.items() if feature["dtype"] == "video" and not _is_depth(feature)]
    found = [name for name in videos if camera in (None, name, name.rpartition(".")[2])]
    if found:
        return found[0]
    if not videos:
        pictures = any(feature["dtype"] == "image" for feature in features.values())
        kept = "its cameras are kept as single pictures" if pictures else "it has no camera"
        raise ForgeError(f"the dataset holds no video: {kept}", "record or convert it with `use_videos=True`")
    raise ForgeError(f"the dataset has no camera `{camera}`", f"its cameras: {', '.join(videos)}")


def _is_depth(feature: dict[str, Any]) -> bool:
    info = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    return bool(info.get("is_depth_map") or info.get("video.is_depth_map"))


def _episodes_of_v2(folder: Path, info: dict[str, Any], camera: str) -> list[Episode]:
    lines = (folder / "meta" / "episodes.jsonl").read_text(encoding="utf-8").splitlines()
    episodes = []
    for row in map(json.loads, filter(None, lines)):
        index = int(row["episode_index"])
        video = info["video_path"].format(
            episode_chunk=index // int(info["chunks_size"]), episode_index=index, video_key=camera
        )
        episodes.append(Episode(index, video, 0.0, int(row["length"]), tuple(row["tasks"])))
    return episodes


def _episodes_of_v3(folder: Path, info: dict[str, Any], camera: str) -> list[Episode]:
    at = f"videos/{camera}"
    columns = ["episode_index", "length", "tasks", f"{at}/chunk_index", f"{at}/file_index", f"{at}/from_timestamp"]
    episodes = []
    for path in sorted((folder / "meta" / "episodes").glob("*/*.parquet")):
        for row in pq.read_table(path, columns=columns).to_pylist():
            video = info["video_path"].format(
                video_key=camera, chunk_index=row[f"{at}/chunk_index"], file_index=row[f"{at}/file_index"]
            )
            start = float(row[f"{at}/from_timestamp"])
            episodes.append(Episode(row["episode_index"], video, start, row["length"], tuple(row["tasks"])))
    return episodes
