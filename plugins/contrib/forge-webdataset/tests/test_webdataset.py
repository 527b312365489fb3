"""What shards give, that each frame is the right one, and what is rejected and why."""

from __future__ import annotations

import io
import json
import os
import tarfile

import pytest

pytest.importorskip("forge_webdataset", reason="forge-webdataset is not installed")

import av
import numpy as np

from cosmos_forge import ForgeError, Problem
from cosmos_forge.testing import DatasetContract, make_context
from forge_webdataset import shards as shards_module
from forge_webdataset.dataset import WebDataset
from forge_webdataset.plugin import WebDatasetOptions, expand
from forge_webdataset.shards import split

GROUPS = {"crf": "4", "threads": "1", "g": "4"}


def video(first: int, frames: int = 11, options: dict[str, str] = GROUPS) -> bytes:
    """An MP4 whose frame i is grey of shade first + 4 i."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=20, options=dict(options))
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for i in range(frames):
            picture = np.full((48, 64, 3), first + 4 * i, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def pack(path, members: dict[str, bytes]):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path


@pytest.fixture(scope="session")
def videos() -> dict[str, bytes]:
    return {"a": video(20), "b": video(100), "c": video(180, frames=7)}


@pytest.fixture
def folder(tmp_path, videos):
    """Two shards; in the second a JSON caption beside a text."""
    pack(tmp_path / "data/train-000000.tar", {
        "clips/a.mp4": videos["a"], "clips/a.txt": b"Grey a.\n", "clips/b.mp4": videos["b"], "clips/b.txt": b"Grey b.",
    })  # fmt: skip
    meta = json.dumps({"caption": "From JSON.", "id": 3}).encode()
    pack(tmp_path / "data/train-000001.tar", {"c.json": meta, "c.txt": b"Grey c.", "c.mp4": videos["c"]})
    return tmp_path / "data"


def build(folder, shards="*.tar", **options) -> WebDataset:
    values = {"num_frames": 5, "height": 48, "width": 64, "index": str(folder.parent / "index"), **options}
    return WebDataset(WebDatasetOptions(shards=str(folder / shards), **values), make_context(folder.parent))


def shades(dataset, index) -> list[int]:
    return [round(float(frame.float().mean())) for frame in dataset[index].frames_CTHW.movedim(1, 0)]


def keys(dataset) -> list[str]:
    return [dataset.key(index) for index in range(len(dataset))]


def reasons(dataset) -> dict[str, str]:
    return {each.key: each.reason for each in dataset.rejected}


class TestContract(DatasetContract):
    use = "webdataset"

    @pytest.fixture(autouse=True)
    def _with_folder(self, folder):
        self.folder = folder

    def make_options(self, tmp_path):
        return {
            "shards": str(self.folder / "*.tar"),
            "index": str(tmp_path / "index"),
            "num_frames": 5,
            "height": 32,
            "width": 48,
        }


def test_samples_are_cut_into_clips_of_the_right_frames(folder):
    dataset = build(folder)
    assert keys(dataset) == [
        "train-000000.tar/clips/a#0",
        "train-000000.tar/clips/a#5",
        "train-000000.tar/clips/b#0",
        "train-000000.tar/clips/b#5",
        "train-000001.tar/c#0",
    ]
    for index, first in enumerate([20, 40, 100, 120, 180]):
        assert np.allclose(shades(dataset, index), [first + 4 * i for i in range(5)], atol=1)
    assert (dataset[1].caption, dataset[4].caption, dataset[0].fps) == ("Grey a.", "Grey c.", 20.0)
    assert not dataset.rejected


def test_frames_are_the_right_ones_in_open_groups_too(tmp_path):
    """Where what is stored after a key frame is shown before it."""
    x264 = "keyint=12:min-keyint=12:scenecut=0:bframes=3:open-gop=1"
    content = video(20, frames=50, options={"crf": "4", "threads": "1", "x264-params": x264})
    pack(tmp_path / "data/x.tar", {"a.mp4": content, "a.txt": b"Grey."})
    dataset = build(tmp_path / "data", num_frames=1)
    assert [round(shades(dataset, index)[0] / 4) for index in range(50)] == list(range(5, 55))


def test_stride_overlap_and_one_caption(folder):
    dataset = build(folder, frame_stride=2, start_frame_interval=1, caption="Grey.")
    assert keys(dataset)[:3] == [f"train-000000.tar/clips/a#{start}" for start in range(3)]
    assert np.allclose(shades(dataset, 1), [24, 32, 40, 48, 56], atol=1)
    assert (dataset[0].fps, dataset[0].caption) == (10.0, "Grey.")
    assert reasons(dataset) == {"train-000001.tar/c": "the video has 7 frames, and a clip needs 9"}


def test_captions_from_json(folder):
    dataset = build(folder, text="json")
    assert [dataset.caption(i) for i in range(len(dataset))] == ["From JSON."]
    assert "no caption, a member .json" in reasons(dataset)["train-000000.tar/clips/a"]
    with pytest.raises(ForgeError, match="holds no caption \\(KeyError: 'title'\\)"):
        build(folder, shards="train-000001.tar", text="json", text_key="title")


def test_a_shard_is_searched_once(folder, monkeypatch):
    first = build(folder)
    monkeypatch.setattr(shards_module, "search", lambda *_: pytest.fail("it was searched again"))
    again = build(folder)
    assert keys(again) == keys(first) and again.fingerprint(0) == first.fingerprint(0)
    monkeypatch.undo()
    members = {"d.mp4": video(60), "d.txt": b"Grey d."}
    pack(folder / "train-000001.tar", members)
    assert keys(build(folder))[-1] == "train-000001.tar/d#5"
    for path in (folder.parent / "index").iterdir():
        path.write_text("damaged")
    assert keys(build(folder))[-1] == "train-000001.tar/d#5"


def test_a_damaged_shard_gives_what_stands_before_the_damage(folder):
    whole = (folder / "train-000000.tar").read_bytes()
    (folder / "train-000000.tar").write_bytes(whole[: len(whole) // 2])
    (folder / "none.tar").write_bytes(b"no tar at all" * 100)
    (folder / "zip.tar").write_bytes(b"\x1f\x8b" + b"\0" * 600)
    (folder / "blank.tar").write_bytes(bytes(20_480))
    dataset = build(folder)
    assert keys(dataset) == ["train-000000.tar/clips/a#0", "train-000000.tar/clips/a#5", "train-000001.tar/c#0"]
    assert "damaged after 2 samples: unexpected end of data" in reasons(dataset)["train-000000.tar"]
    assert "damaged after 0 samples" in reasons(dataset)["none.tar"]
    assert "it is compressed" in reasons(dataset)["zip.tar"]
    assert reasons(dataset)["blank.tar"] == "the tar holds no files"


def test_samples_that_cannot_be_used_say_why(tmp_path, videos):
    pack(tmp_path / "data/x.tar", {
        "fine.mp4": videos["a"], "fine.txt": b"Grey.",
        "mute.mp4": videos["a"],
        "empty.mp4": videos["a"], "empty.txt": b" \n",
        "latin.mp4": videos["a"], "latin.txt": "gr\xe4u".encode("latin-1"),
        "words.txt": b"Grey.",
        "README": b"Grey.",
        "fake.mp4": b"no video", "fake.txt": b"Grey.",
        "cut.mp4": videos["b"][: len(videos["b"]) // 2], "cut.txt": b"Grey.",
        "odd.mp4": b"zzzz".join(videos["a"].rsplit(b"avc1", 1)), "odd.txt": b"Grey.",
        "twice.mp4": videos["a"], "twice.txt": b"Grey.", "other/twice.mp4": videos["a"], "other/twice.txt": b"Grey.",
    })  # fmt: skip
    with tarfile.open(tmp_path / "data/x.tar", "a") as tar:
        header = tarfile.TarInfo("twice.mp4")
        header.size = len(videos["b"])
        tar.addfile(header, io.BytesIO(videos["b"]))
    dataset = build(tmp_path / "data")
    assert {key.split("#")[0] for key in keys(dataset)} == {"x.tar/fine", "x.tar/other/twice"}
    found = reasons(dataset)
    expected = {
        "mute": "no caption, a member .txt",
        "empty": "caption in its .txt is empty",
        "latin": "holds no caption (UnicodeDecodeError",
        "words": "no member .mp4, only .txt",
        "fake": "this is no video, or a part of the file is missing (Invalid data found when processing input)",
        "README": "it has no member .mp4, only one without a dot",
        "cut": "missing",
        "odd": "encoded in a way that is not known here",
        "twice": "stands twice",
    }
    assert found.keys() == {f"x.tar/{name}" for name in expected}
    for name, words in expected.items():
        assert words in found[f"x.tar/{name}"]


def test_shards_of_one_name_in_two_folders_have_keys_of_their_own(folder):
    os.renames(folder / "train-000001.tar", folder / "more/train-000000.tar")
    dataset = build(folder.parent, shards="data/{.,more}/*.tar", index=str(folder.parent / "index"))
    assert "train-000000.tar/clips/a#0" in keys(dataset) and "more/train-000000.tar/c#0" in keys(dataset)


def test_fingerprints_follow_the_video_not_the_shard(folder, videos):
    before = build(folder)
    pack(folder / "train-000002.tar", {"z.mp4": videos["a"], "z.txt": b"Other words."})
    after = build(folder, shards="train-000002.tar")
    assert after.fingerprint(0) == before.fingerprint(0)
    assert build(folder, width=48).fingerprint(0) != before.fingerprint(0)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a-{000..002}.tar", ["a-000.tar", "a-001.tar", "a-002.tar"]),
        ("a-{8..10}.tar", ["a-8.tar", "a-9.tar", "a-10.tar"]),
        ("{x,y}/{0..1}.tar", ["x/0.tar", "x/1.tar", "y/0.tar", "y/1.tar"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_braces(pattern, names):
    assert expand(pattern) == names


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.mp4", ("a", "mp4")),
        ("clips/a.left.MP4", ("clips/a", "left.mp4")),
        ("v1.0/a.txt", ("v1.0/a", "txt")),
        ("README", ("README", "")),
    ],
)
def test_keys_end_at_the_first_dot_of_the_last_part(name, parts):
    assert split(name) == parts


def test_shards_that_are_not_there_are_told_before_the_run(folder):
    class Plan:
        def problem(self, table: str, key: str, what: str, fix: str) -> Problem:
            return Problem(f"[{table}] {key}: {what}", fix=fix)

    (missing,) = WebDatasetOptions(shards=str(folder / "train-{000000..000003}.tar")).check(Plan())
    assert "train-000002.tar, one of 2 shards" in missing.what
    (none,) = WebDatasetOptions(shards=str(folder / "*.zip")).check(Plan())
    assert "matches no file" in none.what
    assert not list(WebDatasetOptions(shards=str(folder / "*.tar")).check(Plan()))
    assert "cannot be read" in reasons(build(folder, shards="train-{000000..000002}.tar"))["train-000002.tar"]


def test_nothing_usable_lists_every_reason(folder):
    with pytest.raises(ForgeError) as raised:
        build(folder, num_frames=99)
    assert len(raised.value.problems) == 4
