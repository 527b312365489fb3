"""Which clips a recording gives, that each frame is the right one, and what is rejected and why."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

pytest.importorskip("forge_lerobot", reason="forge-lerobot is not installed")

import pyarrow as pa
import pyarrow.parquet as pq

from cosmos_forge import ForgeError, Problem
from cosmos_forge.testing import DatasetContract, make_context
from forge_lerobot.dataset import LeRobot
from forge_lerobot.plugin import LeRobotOptions


def build(folder, **options) -> LeRobot:
    values = {"num_frames": 5, "height": 48, "width": 64, **options}
    return LeRobot(LeRobotOptions(path=str(folder), **values), make_context(folder.parent))


def shades(dataset, index) -> list[int]:
    """The grey of each frame of a clip."""
    return [round(float(frame.float().mean())) for frame in dataset[index].frames_CTHW.movedim(1, 0)]


def expected(recordings, episode, start, count=5, stride=1, camera=None):
    camera = camera or recordings.cameras[0]
    return [recordings.shade(episode, start + stride * i, camera) for i in range(count)]


def close(found, wanted) -> bool:
    """Within what conversion of colours rounds; neighbouring frames are 4 apart."""
    return len(found) == len(wanted) and all(abs(a - b) <= 1 for a, b in zip(found, wanted, strict=True))


class TestContract(DatasetContract):
    use = "lerobot"

    @pytest.fixture(autouse=True)
    def _with_folder(self, folder):
        self.folder = folder

    def make_options(self, tmp_path):
        return {"path": str(self.folder), "num_frames": 5, "height": 32, "width": 48}


def test_episodes_are_cut_into_clips_of_the_right_frames(folder, recordings):
    dataset = build(folder)
    assert [dataset.key(i) for i in range(len(dataset))] == ["episode_000000#0", "episode_000000#5", "episode_000001#0"]
    for index, (episode, start) in enumerate([(0, 0), (0, 5), (1, 0)]):
        assert close(shades(dataset, index), expected(recordings, episode, start)), (episode, start)
        assert dataset[index].caption == recordings.tasks[episode]
        assert dataset[index].fps == recordings.fps
    (rejected,) = dataset.rejected
    assert (rejected.key, rejected.reason) == ("episode_000002", "it has 3 frames, and a clip needs 5")


def test_stride_and_overlap(folder, recordings):
    dataset = build(folder, frame_stride=3, start_frame_interval=1)
    assert [dataset.key(i) for i in range(len(dataset))] == ["episode_000000#0", "episode_000000#1"]
    assert close(shades(dataset, 1), expected(recordings, 0, 1, stride=3))
    assert dataset[0].fps == pytest.approx(recordings.fps / 3)


@pytest.mark.parametrize("camera", ["wrist", "observation.images.wrist"])
def test_the_camera_is_chosen(folder, recordings, camera):
    dataset = build(folder, camera=camera)
    assert close(shades(dataset, 1), expected(recordings, 0, 5, camera=recordings.cameras[1]))


def test_a_camera_that_is_not_there_names_those_that_are(folder):
    with pytest.raises(ForgeError, match=r"no camera `hand`\n  fix: its cameras: observation\.images\.top, "):
        build(folder, camera="hand")


def test_one_caption_for_all(folder):
    assert build(folder, caption="A robot works.")[0].caption == "A robot works."


def test_chunks_of_many_episodes(tmp_path, recordings):
    dataset = build(recordings.write_v21(tmp_path / "chunked", chunks_size=1))
    assert close(shades(dataset, 2), expected(recordings, 1, 0))


def test_v3_in_any_order_of_files(tmp_path, recordings):
    dataset = build(recordings.write_v30(tmp_path / "mixed", together=((1, 2, 0),)), num_frames=3)
    found = {dataset.key(i): shades(dataset, i) for i in range(len(dataset))}
    assert list(found) == [*(f"episode_000000#{s}" for s in (0, 3, 6, 9)), *(f"episode_000001#{s}" for s in (0, 3, 6)),
                           "episode_000002#0"]  # fmt: skip
    assert close(found["episode_000002#0"], expected(recordings, 2, 0, 3))
    assert close(found["episode_000000#9"], expected(recordings, 0, 9, 3))


def test_a_video_cut_short_costs_the_episodes_that_are_not_whole(tmp_path, recordings):
    folder = recordings.write_v30(tmp_path / "recording")
    table = folder / "meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(table).to_pylist()
    rows[1]["length"] += 4  # more frames than the video has
    pq.write_table(pa.Table.from_pylist(rows), table)
    dataset = build(folder)
    assert {dataset.key(i).split("#")[0] for i in range(len(dataset))} == {"episode_000000"}
    assert "file-000.mp4 has no frame at 2.300 s, the episode's 9" in dataset.rejected[0].reason


def test_damaged_and_missing_videos_are_rejected_with_the_reason(tmp_path, recordings):
    folder = recordings.write_v21(tmp_path / "recording")
    videos = folder / "videos/chunk-000" / recordings.cameras[0]
    (videos / "episode_000001.mp4").write_bytes(b"no video")
    (videos / "episode_000002.mp4").unlink()
    reasons = {each.key: each.reason for each in build(folder, num_frames=3).rejected}
    assert "episode_000001.mp4: this is no video" in reasons["episode_000001"]
    assert "episode_000002.mp4: there is no such file" in reasons["episode_000002"]


def test_a_codec_that_is_not_known_is_told(tmp_path, recordings):
    folder = recordings.write_v21(tmp_path / "recording")
    path = folder / "videos/chunk-000" / recordings.cameras[0] / "episode_000001.mp4"
    path.write_bytes(b"zzzz".join(path.read_bytes().rsplit(b"avc1", 1)))
    reasons = {each.key: each.reason for each in build(folder, num_frames=3).rejected}
    assert "episode_000001.mp4: it is encoded in a way that is not known here" in reasons["episode_000001"]


def test_an_episode_without_a_task_needs_a_caption(tmp_path, recordings):
    folder = recordings.write_v21(tmp_path / "recording")
    rows = [json.loads(line) for line in (folder / "meta/episodes.jsonl").read_text().splitlines()]
    rows[0]["tasks"], rows[1]["tasks"] = [""], ["Lift.", "Turn."]
    (folder / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = build(folder)
    assert dataset[0].caption == "Lift.; Turn."
    assert "it has no task" in dataset.rejected[0].reason


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"codebase_version": "v1.6"}, "is a LeRobot dataset of v1.6"),
        ({"features": {"cam": {"dtype": "image", "shape": [8, 8, 3]}}}, "kept as single pictures"),
        ({"features": {}}, "it has no camera"),
        ({"fps": None}, "cannot be read"),
    ],
)
def test_what_is_no_such_dataset(tmp_path, recordings, change, said):
    folder = recordings.write_v21(tmp_path / "recording")
    recordings.write_json(folder / "meta/info.json", {**json.loads((folder / "meta/info.json").read_text()), **change})
    with pytest.raises(ForgeError) as raised:
        build(folder)
    assert said in str(raised.value) and raised.value.problems[0].fix


def test_nothing_usable_lists_every_reason(folder):
    with pytest.raises(ForgeError) as raised:
        build(folder, num_frames=99)
    assert len(raised.value.problems) == 4


def test_a_folder_without_meta_is_found_before_the_run(tmp_path):
    class Plan:
        def problem(self, table: str, key: str, what: str, fix: str) -> Problem:
            return Problem(f"[{table}] {key}: {what}", fix=fix)

    (problem,) = LeRobotOptions(path=str(tmp_path)).check(Plan())
    assert "has no meta/info.json" in problem.what
    with pytest.raises(ForgeError, match=r"no meta/info\.json"):
        build(tmp_path)


def test_from_the_hub(folder):
    options = LeRobotOptions(path="hub:someone/arms", revision="v3.0", camera="top", num_frames=5, height=16, width=16)
    (need,) = options.needs()
    assert (need.repo, need.repo_type, need.revision) == ("someone/arms", "dataset", "v3.0")
    assert need.files == ("meta/*", "videos/*top/*.mp4")
    context = replace(make_context(folder.parent), files={need: folder}.__getitem__)
    assert len(LeRobot(options, context)) == 3
    assert LeRobotOptions(path="hub:a/b").needs()[0].files[1] == "videos/*.mp4"


def test_fingerprints_follow_frames(folder):
    before = build(folder).fingerprint(0)
    assert build(folder, caption="Other.").fingerprint(0) == before
    assert build(folder, width=48).fingerprint(0) != before
    assert build(folder, camera="wrist").fingerprint(0) != before
