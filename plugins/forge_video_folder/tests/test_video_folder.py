"""Which clips a folder gives, what is rejected and why, and pixels against numbers recorded from upstream."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cosmos_forge import ForgeError, Problem
from cosmos_forge.frames import probe, resize
from cosmos_forge.testing import DatasetContract, make_context
from forge_video_folder.folder import VideoFolder
from forge_video_folder.plugin import VideoFolderOptions
from forge_video_folder.reader import read_with_pyav

SHARED = Path(__file__).parents[3] / "../shared"
GOLDEN = Path(os.environ.get("FORGE_GOLDEN", SHARED / "golden")) / "j_data"
CLIPS = SHARED / "data/clips"


@pytest.fixture
def folder(tmp_path, videos) -> Path:
    """Two videos of 14 frames, with captions."""
    for name in ("a", "b"):
        videos.write(tmp_path / f"data/videos/{name}.mp4", videos.waves(14)[:: 1 if name == "a" else -1])
        caption(tmp_path / "data", name, f"Waves {name}.\n")
    return tmp_path / "data"


def caption(folder: Path, name: str, text: str) -> None:
    (folder / "metas").mkdir(exist_ok=True)
    (folder / "metas" / f"{name}.txt").write_text(text, encoding="utf-8")


def build(folder: Path, **options) -> VideoFolder:
    values = {"num_frames": 5, "height": 32, "width": 32, **options}
    return VideoFolder(VideoFolderOptions(path=str(folder), **values), make_context(folder.parent))


def reasons(dataset: VideoFolder) -> dict[str, str]:
    return {each.key: each.reason for each in dataset.rejected}


class TestContract(DatasetContract):
    use = "video-folder"

    @pytest.fixture(autouse=True)
    def _with_folder(self, folder):
        self.folder = folder

    def make_options(self, tmp_path):
        return {"path": str(self.folder), "num_frames": 5, "height": 32, "width": 48}


def test_windows_do_not_overlap_by_default(folder):
    dataset = build(folder)
    assert [dataset.key(i) for i in range(len(dataset))] == ["a.mp4#0", "a.mp4#5", "b.mp4#0", "b.mp4#5"]
    assert (dataset[0].caption, dataset[3].caption) == ("Waves a.", "Waves b.")


def test_windows_as_upstream(folder):
    # Upstream's 10 windows of 5 in 14 frames: the recorded case j1_dataset_synthetic, number_of_samples.
    assert len(build(folder, start_frame_interval=1)) == 2 * 10
    assert len(build(folder, start_frame_interval=1, frame_stride=3)) == 2 * 2


def test_a_stride_takes_every_nth_frame_and_divides_fps(folder):
    every, third = build(folder, num_frames=13)[0], build(folder, frame_stride=3)[0]
    assert torch.equal(third.frames_CTHW, every.frames_CTHW[:, ::3])
    assert (every.fps, third.fps) == (20.0, pytest.approx(20 / 3))


def test_videos_get_the_size_nearest_theirs(folder, videos):
    """By proportions as shown, a turned video's too, then by length; nothing of a video too short for any."""
    videos.write(folder / "videos/short.mp4", videos.waves(4))
    videos.write(folder / "videos/upright.mp4", videos.waves(9, height=64, width=48))
    videos.turn(videos.write(folder / "videos/turned.mp4", videos.waves(9)))
    videos.write(folder / "videos/tiny.mp4", videos.waves(2))
    sizes = [[5, 64, 48], [3, 48, 64]]
    dataset = build(folder, num_frames=5, height=48, width=64, caption="Waves.", other_sizes=sizes)
    found = {dataset.key(i): tuple(dataset[i].frames_CTHW.shape[1:]) for i in range(len(dataset))}
    assert found == {
        **{f"{name}.mp4#{start}": (5, 48, 64) for name in "ab" for start in (0, 5)},
        "short.mp4#0": (3, 48, 64),
        "turned.mp4#0": (5, 64, 48),
        "upright.mp4#0": (5, 64, 48),
    }
    assert reasons(dataset)["videos/tiny.mp4"] == "the video has 2 frames, and a clip needs 3"
    assert len({dataset.fingerprint(i) for i in range(len(dataset))}) == len(dataset)


@pytest.mark.parametrize(("size", "what"), [([5, 64, 64], "is larger than"), ([5, 8, 64], "is no")])
def test_other_sizes_are_smaller(size, what):
    with pytest.raises(ValueError, match=what):
        VideoFolderOptions(path=".", num_frames=5, height=48, width=64, other_sizes=[size])


def test_other_sizes_fit_the_latent_tokenizer(folder):
    class Tokenizer:
        def latent_shape(self, num_frames: int, height: int, width: int) -> None:
            if num_frames % 8 != 1:
                raise ValueError(f"{num_frames} frames are not 8k+1")

    class Plan:
        def options(self, table: str) -> Tokenizer:
            return Tokenizer()

        def problem(self, table: str, key: str, what: str, fix: str) -> Problem:
            return Problem(what, fix=fix)

    sizes = [[9, 32, 32], [16, 32, 32]]
    options = VideoFolderOptions(path=str(folder), num_frames=17, height=32, width=32, other_sizes=sizes)
    (problem,) = options.check(Plan())  # type: ignore[arg-type]
    assert "[16, 32, 32] does not fit the latent tokenizer: 16 frames are not 8k+1" in problem.what


def test_one_caption_for_all_needs_no_metas(folder):
    shutil.rmtree(folder / "metas")
    dataset = build(folder, caption="The same.")
    assert {dataset[i].caption for i in range(len(dataset))} == {"The same."}
    assert not dataset.rejected


def test_what_is_rejected_says_why(folder, videos):
    whole = (folder / "videos/a.mp4").read_bytes()
    (folder / "videos/cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "videos/text.mp4").write_text("no video")
    (folder / "videos/other.avi").write_bytes(whole)
    (folder / "videos/folder.mp4").mkdir()
    videos.write(folder / "videos/short.mp4", videos.waves(4))
    for name in ("silent", "empty", "latin", "deep"):
        shutil.copy(folder / "videos/a.mp4", folder / f"videos/{name}.mp4")
    for name in ("cut", "text", "short", "alone", "gone", "loop"):
        caption(folder, name, "Waves.")
    caption(folder, "empty", " \n")
    (folder / "metas/latin.txt").write_bytes("Wäves".encode("latin-1"))
    (folder / "metas/deep.txt").mkdir()
    (folder / "videos/gone.mp4").symlink_to("nowhere")
    (folder / "videos/loop.mp4").symlink_to("loop.mp4")
    (folder / "videos/more").mkdir()

    dataset = build(folder)
    assert len(dataset) == 4
    found = reasons(dataset)
    expected = {
        "videos/cut.mp4": "a part of the file is missing",
        "videos/text.mp4": "no video",
        "videos/other.avi": "only *.mp4",
        "videos/folder.mp4": "a folder",
        "videos/short.mp4": "has 4 frames, and a clip needs 5",
        "videos/silent.mp4": "no caption metas/silent.txt",
        "videos/empty.mp4": "metas/empty.txt is empty",
        "videos/latin.mp4": "not UTF-8",
        "videos/deep.mp4": "the caption metas/deep.txt cannot be read: Is a directory",
        "videos/gone.mp4": "it is a link to nothing",
        "videos/loop.mp4": "it is a link to nothing",
        "videos/more": "it is a folder; only *.mp4 files beside it are read",
        "metas/alone.txt": "no video of this name",
    }
    assert found.keys() == expected.keys()
    for key, words in expected.items():
        assert words in found[key]
    told = {source.key: source.reason for source in dataset.options.sources(lambda download: folder)}
    unread = {"videos/cut.mp4", "videos/text.mp4", "videos/short.mp4"}  # which only a look into them tells
    assert {name for name, reason in told.items() if reason} == expected.keys() - unread


def test_nothing_usable_is_an_error_that_lists_every_reason(folder):
    with pytest.raises(ForgeError) as error:
        build(folder, num_frames=15)
    assert [problem.what.split(":")[0] for problem in error.value.problems[1:]] == ["videos/a.mp4", "videos/b.mp4"]


@pytest.mark.parametrize(
    ("make", "what"), [("", "no folder"), ("data", "data holds no *.mp4"), ("data/videos", "holds no *.mp4")]
)
def test_a_folder_that_is_none_is_found_before_and_at_the_start(tmp_path, make, what):
    (tmp_path / make).mkdir(parents=True, exist_ok=True)

    class Plan:
        def problem(self, table: str, key: str, what: str, fix: str) -> Problem:
            return Problem(f"[{table}] {key}: {what}", fix=fix)

    (problem,) = VideoFolderOptions(path=str(tmp_path / "data")).check(Plan())  # type: ignore[arg-type]
    assert problem.what.startswith("[dataset] path: ") and what in problem.what and problem.fix
    with pytest.raises(ForgeError, match="folder") as error:
        build(tmp_path / "data")
    assert what in str(error.value)


def test_a_clip_that_cannot_be_read_says_which_frames(folder):
    dataset = build(folder)
    (folder / "videos/a.mp4").write_bytes(b"gone bad")
    with pytest.raises(ForgeError, match=r"a\.mp4#5: frames 5 to 9"):
        dataset[1]


def test_fingerprint_follows_frames_and_nothing_else(folder, videos):
    before = build(folder)
    prints = [before.fingerprint(i) for i in range(len(before))]
    (folder / "videos/a.mp4").touch()
    assert build(folder).fingerprint(0) == prints[0]
    assert build(folder, caption="Other.").fingerprint(0) == prints[0]
    for changed in ({"height": 48}, {"resize": "crop"}):
        assert build(folder, **changed).fingerprint(0) != prints[0]
    assert build(folder, frame_stride=2).fingerprint(0) != prints[0]
    videos.write(folder / "videos/a.mp4", videos.waves(14)[::-1])
    after = build(folder)
    assert after.fingerprint(0) != prints[0]
    assert after.fingerprint(2) == prints[2]


def test_crop_keeps_proportions():
    frames = torch.zeros(1, 3, 40, 80, dtype=torch.uint8)
    frames[..., 30:50] = 255  # a square of 40x40 in the middle would show it with 10 pixels on each side
    cropped = resize(frames, 20, 20, crop=True)[0, 0, 0]
    assert cropped[:4].max() == 0 and cropped[6:14].min() == 255 and cropped[16:].max() == 0
    stretched = resize(frames, 20, 20, crop=False)[0, 0, 0]
    assert stretched[8:12].min() == 255 and stretched[:6].max() == 0


@pytest.mark.skipif(not GOLDEN.exists(), reason=f"no recorded numbers at {GOLDEN}")
def test_pixels_are_upstreams(tmp_path):
    source = GOLDEN / "media/clip_96x64_14f_20fps.mp4"
    recorded = load_file(GOLDEN / "j1_dataset_synthetic.safetensors")
    (tmp_path / "videos").mkdir()
    shutil.copy(source, tmp_path / "videos")
    dataset = build(tmp_path, height=40, width=56, start_frame_interval=1, caption="A test clip.")
    clip = dataset[2]
    assert (len(dataset), clip.key, clip.fps) == (10, "clip_96x64_14f_20fps.mp4#2", 20.0)
    assert torch.equal(
        resize(recorded["in/decoded_frames"].movedim(3, 1), 40, 56, False), recorded["out/video"].movedim(1, 0)
    )
    # Another decoder's colour conversion may differ by a level or two.
    assert (clip.frames_CTHW.int() - recorded["out/video"].int()).abs().max() <= 2
    decoded = torch.from_numpy(read_with_pyav(source, probe(source), range(2, 7)))
    assert (decoded.int() - recorded["in/decoded_frames"].int()).abs().max() <= 2


@pytest.mark.skipif(not CLIPS.exists(), reason=f"no real clips at {CLIPS}")
def test_real_clips(tmp_path):
    dataset = build(CLIPS, num_frames=57, height=128, width=208)
    assert not dataset.rejected
    assert [dataset.key(i) for i in (0, 6, 7, 8)] == [
        "driving_0.mp4#0",
        "driving_6.mp4#0",
        "highway.mp4#0",
        "highway.mp4#57",
    ]
    clip = dataset[8]
    assert (clip.frames_CTHW.shape, clip.fps) == ((3, 57, 128, 208), 24.0)
    assert clip.frames_CTHW.float().std() > 20


def test_videos_from_the_hub(folder):
    """As Cosmos-NeMo-Assets keeps them: a folder of videos with a name of its own, and no captions."""
    shutil.rmtree(folder / "metas")
    (folder / "videos").rename(folder / "example_data")
    options = VideoFolderOptions(
        path="hub:someone/clips/example_data", caption="Waves.", num_frames=5, height=32, width=32
    )
    (need,) = options.needs()
    assert (need.repo, need.repo_type, need.files) == ("someone/clips", "dataset", ("example_data/*.mp4",))
    context = replace(make_context(folder.parent), files={need: folder}.__getitem__)
    assert len(VideoFolder(options, context)) == 4
    assert VideoFolderOptions(path="hub:a/b").needs()[0].files == ("videos/*.mp4", "metas/*.txt")
    assert VideoFolderOptions(path="data").needs() == []


@pytest.mark.parametrize("path", ["hub:someone", "hub:a/b/../c", "hub:", ""])
def test_places_that_are_none(path):
    with pytest.raises(ValueError, match=r"no dataset on the hub|at least 1 character"):
        VideoFolderOptions(path=path)


def test_texts_beside_videos(folder):
    """A folder without `videos` and `metas` is read as it is."""
    for text in (folder / "metas").iterdir():
        text.rename(folder / "videos" / text.name)
    (folder / "videos" / "alone.txt").write_text("Nobody's.")
    dataset = build(folder / "videos")
    assert len(dataset) == 4 and reasons(dataset) == {"alone.txt": "there is no video of this name"}
    assert VideoFolderOptions.reads(folder / "videos") == {"path": str(folder / "videos")}


def test_a_caption_for_videos_without_a_text(folder):
    """A text of its own goes before, and who gets the other is told."""
    next(iter((folder / "metas").glob("a.txt"))).unlink()
    told = []
    options = VideoFolderOptions(path=str(folder), caption="Waves.", num_frames=5, height=32, width=32)
    dataset = VideoFolder(options, replace(make_context(folder.parent), emit=told.append))
    captions = {dataset.key(index): dataset.caption(index) for index in range(len(dataset))}
    assert {caption for key, caption in captions.items() if key.startswith("a.mp4")} == {"Waves."}
    assert "Waves." not in {caption for key, caption in captions.items() if not key.startswith("a.mp4")}
    (note,) = told
    assert note.text.startswith("1 of ") and note.text.endswith("their caption is `Waves.`")
