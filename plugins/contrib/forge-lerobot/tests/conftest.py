"""Datasets in LeRobot's published formats, written here by hand: nothing of the reader takes part.

A frame is one shade of grey that tells its episode, camera and place: see `shade`.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

FPS = 10
CAMERAS = ("observation.images.top", "observation.images.wrist")
LENGTHS = (14, 9, 3)  # frames of the episodes
TASKS = ("Put the cube into the box.", "Open the drawer.", "Wave.")
FEATURES = {
    "action": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
    "observation.images.depth": {
        "dtype": "video", "shape": [48, 64, 1], "names": ["height", "width", "channels"],
        "info": {"video.is_depth_map": True},
    },
    **{
        name: {
            "dtype": "video", "shape": [48, 64, 3], "names": ["height", "width", "channels"],
            "info": {"video.fps": float(FPS), "video.codec": "h264", "video.pix_fmt": "yuv420p", "has_audio": False},
        }
        for name in CAMERAS
    },
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}  # fmt: skip


def shade(episode: int, frame: int, camera: str = CAMERAS[0]) -> int:
    """16 to 235, another for every frame of a camera's first three episodes."""
    return 30 + 60 * episode + 4 * frame + 2 * CAMERAS.index(camera)


def write_video(path: Path, shades: list[int]) -> None:
    """H.264 with a key frame every second frame, as lerobot encodes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS), options={"crf": "4", "g": "2", "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for each in shades:
            frame = np.full((48, 64, 3), each, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=4))


def info(version: str, **paths: object) -> dict[str, object]:
    return {
        "codebase_version": version,
        "robot_type": "so101",
        "total_episodes": len(LENGTHS),
        "total_frames": sum(LENGTHS),
        "total_tasks": len(TASKS),
        "chunks_size": 1000,
        "fps": FPS,
        "splits": {"train": f"0:{len(LENGTHS)}"},
        "features": FEATURES,
        **paths,
    }


def write_v21(folder: Path, chunks_size: int = 1000) -> Path:
    """A video an episode and camera; episodes and tasks as lines of JSON."""
    paths = {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "chunks_size": chunks_size,
    }
    write_json(folder / "meta/info.json", info("v2.1", **paths))
    episodes = [{"episode_index": i, "tasks": [TASKS[i]], "length": length} for i, length in enumerate(LENGTHS)]
    (folder / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in episodes))
    tasks = [{"task_index": i, "task": task} for i, task in enumerate(TASKS)]
    (folder / "meta/tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tasks))
    for i, length in enumerate(LENGTHS):
        for camera in CAMERAS:
            path = folder / f"videos/chunk-{i // chunks_size:03d}/{camera}/episode_{i:06d}.mp4"
            write_video(path, [shade(i, frame, camera) for frame in range(length)])
    return folder


def write_v30(folder: Path, together: tuple[tuple[int, ...], ...] = ((0, 1), (2,))) -> Path:
    """together: the episodes that share a video file, one group a file."""
    import pyarrow as pa  # where the package is not installed, neither may this be
    import pyarrow.parquet as pq

    paths = {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
    }
    write_json(folder / "meta/info.json", info("v3.0", **paths))
    rows = []
    for file, group in enumerate(together):
        begin = 0
        for i in group:
            row = {"episode_index": i, "tasks": [TASKS[i]], "length": LENGTHS[i]}
            row |= {"data/chunk_index": 0, "data/file_index": 0, "stats/action/min": [0.0, 0.0]}
            for camera in (*CAMERAS, "observation.images.depth"):
                times = {"from_timestamp": begin / FPS, "to_timestamp": (begin + LENGTHS[i]) / FPS}
                row |= {f"videos/{camera}/{key}": value for key, value in times.items()}
                row |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": file}
            rows.append({**row, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
            begin += LENGTHS[i]
        for camera in CAMERAS:
            shades = [shade(i, frame, camera) for i in group for frame in range(LENGTHS[i])]
            write_video(folder / f"videos/{camera}/chunk-000/file-{file:03d}.mp4", shades)
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "meta/episodes/chunk-000/file-000.parquet")
    tasks = {"task_index": list(range(len(TASKS))), "__index_level_0__": list(TASKS)}
    pq.write_table(pa.table(tasks), folder / "meta/tasks.parquet")
    return folder


class Recordings:
    """The helpers above, as one fixture."""

    cameras, tasks, lengths, fps = CAMERAS, TASKS, LENGTHS, FPS
    shade = staticmethod(shade)
    write_json = staticmethod(write_json)
    write_v21 = staticmethod(write_v21)
    write_v30 = staticmethod(write_v30)


@pytest.fixture
def recordings() -> type[Recordings]:
    return Recordings


@pytest.fixture(params=["v21", "v30"])
def folder(request, tmp_path) -> Path:
    """A dataset of two cameras and three episodes, in each format."""
    write = {"v21": write_v21, "v30": write_v30}[request.param]
    return write(tmp_path / "recording")
