"""`forge data`: what it finds in folders that are as folders are, and what it recommends."""

import contextlib
import io
import json
import os
import pty
import random
import shutil
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from rich.console import Console

from cosmos_forge.errors import ForgeError
from cosmos_forge.frames import Unreadable
from cosmos_forge.plugins import load_plugins
from cosmos_forge.survey import advice, show
from cosmos_forge.survey.header import read_header
from cosmos_forge.survey.survey import repeated, survey
from cosmos_forge.types import Source

SHARED = Path(__file__).parents[2] / "../shared/data"
QUARTER_TURN = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)  # clockwise, ISO/IEC 14496-12, 8.3.2


def write(path, frames=12, height=32, width=48, fps=24, gaps=None, encoder="libx264"):
    """A video of grey frames, each brighter. gaps: ticks of 1/600 s between frames, in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            encoder, rate=fps, options={"threads": "1", "bf": "0"} if encoder == "libx264" else {}
        )
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 600)
        time = 0
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 5 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 600)
            time += gaps[number % len(gaps)] if gaps else 600 // fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn(path):
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", *QUARTER_TURN)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of the layout `videos/*.mp4` with `metas/*.txt`, with whatever goes wrong."""
    folder = tmp_path_factory.mktemp("data") / "kitchen"
    videos, metas = folder / "videos", folder / "metas"
    metas.mkdir(parents=True)
    write(videos / "good.mp4", frames=40)
    shutil.copy(videos / "good.mp4", videos / "twin.mp4")
    write(videos / "short.mp4", frames=5)
    write(videos / "uneven.mp4", frames=20, gaps=[20, 40])
    turn(write(videos / "upright.mp4", frames=20))
    whole = write(videos / "cut.mp4", frames=30).read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "fake.mp4").write_text("not a video")
    (videos / "empty.mp4").touch()
    write(videos / "silent.mp4", frames=20)
    shutil.copy(videos / "good.mp4", videos / "camera.mov")
    for video in videos.glob("*.mp4"):
        if video.stem != "silent":
            (metas / f"{video.stem}.txt").write_text(f"What {video.stem} shows.")
    (metas / "lost.txt").write_text("Where is it?")
    return folder


@pytest.fixture(scope="module")
def found(folder):
    overrides = ["dataset.num_frames=17", "dataset.height=32", "dataset.width=48"]
    return survey(folder, overrides, load_plugins(), lambda done, total: None)


def by_name(found):
    return {Path(entry.key).stem: entry for entry in found.entries}


def test_what_a_header_says(folder):
    header = read_header(folder / "videos" / "good.mp4")
    assert (header.frames, header.height, header.width, header.rotation) == (40, 32, 48, 0)
    assert header.codec == "h264" and not header.variable
    assert header.fps == pytest.approx(24) and header.seconds == pytest.approx(40 / 24)


@pytest.mark.parametrize(("encoder", "codec"), [("libsvtav1", "av1"), ("libx265", "hevc"), ("mpeg4", "mpeg4")])
def test_a_codec_is_told_by_its_own_name(tmp_path, encoder, codec):
    """Not by that of the library that decodes it here."""
    if encoder not in av.codecs_available:
        pytest.skip(f"this build of PyAV cannot encode with {encoder}")
    assert read_header(write(tmp_path / "a.mp4", frames=3, height=64, width=64, encoder=encoder)).codec == codec


def test_a_turned_video_has_its_size_as_shown(folder):
    header = read_header(folder / "videos" / "upright.mp4")
    assert (header.rotation, header.height, header.width) == (90, 48, 32)
    with av.open(str(folder / "videos" / "upright.mp4")) as container:
        assert -next(container.decode(video=0)).rotation % 360 == header.rotation


def test_a_rate_that_varies_is_told_by_the_frames_times(folder):
    header = read_header(folder / "videos" / "uneven.mp4")
    assert header.variable
    assert (header.slowest, header.fastest) == pytest.approx((15, 30))
    assert header.fps == pytest.approx(19 / (10 * 20 + 9 * 40) * 600)  # 19 gaps, of which 10 are of 20 ticks


def test_times_rounded_to_milliseconds_do_not_vary(tmp_path):
    assert not read_header(write(tmp_path / "rounded.mkv", fps=60)).variable


@pytest.mark.parametrize(
    ("name", "said"), [("cut", "part of the file is missing"), ("fake", "no video"), ("empty", "empty")]
)
def test_a_file_that_is_no_video_has_a_reason(folder, name, said):
    with pytest.raises(Unreadable, match=said):
        read_header(folder / "videos" / f"{name}.mp4")


def test_whatever_a_damaged_file_holds_it_has_a_reason(folder, tmp_path):
    """Changed bytes, in the index above all; a foreign letter in a tag is no damage."""
    whole, chance, read = (folder / "videos" / "good.mp4").read_bytes(), random.Random(0), 0
    index = whole.index(b"moov")
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(4):
            data[chance.randrange(index, len(data))] = chance.choice([0, 1, 255, chance.randrange(256)])
        (tmp_path / "damaged.mp4").write_bytes(data)
        with contextlib.suppress(Unreadable):
            read += read_header(tmp_path / "damaged.mp4").frames > 0
    assert 0 < read < 300
    (tmp_path / "tagged.mp4").write_bytes(whole.replace(b"Lavf", b"\xe9avf"))
    assert read_header(tmp_path / "tagged.mp4").frames == 40


def test_a_file_whose_end_is_missing_after_its_index_is_cut_short(tmp_path):
    path = tmp_path / "early.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=24, options={"threads": "1"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for seed in range(24):
            noise = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(Unreadable, match="cut short after"):
        read_header(path)


def test_what_is_used_and_why_the_rest_is_not(found):
    entries = by_name(found)
    assert {name: entry.clips for name, entry in entries.items() if entry.clips} == {
        "good": 2,
        "twin": 2,
        "uneven": 1,
        "upright": 1,
    }
    said = {
        "short": "5 frames, and a clip needs 17",
        "cut": "part of the file is missing",
        "fake": "this is no video",
        "empty": "the file is empty",
        "silent": "no caption",
        "camera": "only *.mp4",
        "lost": "no video of this name",
    }
    for name, reason in said.items():
        assert reason in entries[name].reason
    assert entries["silent"].header and entries["camera"].header, "a reason does not hide what the file is"
    assert entries["good"].caption == "What good shows."


def test_it_says_what_the_dataset_says(found, tmp_path):
    """The dataset itself, built as training builds it, uses and leaves out the very same."""
    from cosmos_forge.testing import make_context
    from cosmos_forge.worker import load

    table = found.plan.tables["dataset"]
    dataset = load(table.build)(table.options, make_context(tmp_path))
    assert len(dataset) == found.clips
    assert {each.key: each.reason for each in dataset.rejected if not each.key.endswith(("cut.mp4", "fake.mp4"))} == {
        entry.key: entry.reason
        for entry in found.entries
        if not entry.clips and not entry.key.endswith(("cut.mp4", "fake.mp4"))
    }
    assert {each.key for each in dataset.rejected} == {entry.key for entry in found.entries if not entry.clips}


def test_same_content_is_found_and_only_that(found, tmp_path):
    entries = by_name(found)
    assert {name: entry.same_as for name, entry in entries.items() if entry.same_as} == {"twin": "videos/good.mp4"}
    # Of one size, with the same ends: only the whole tells.
    data = bytes(300_000)
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(data)
    (tmp_path / "c").write_bytes(data[:150_000] + b"\1" + data[150_001:])
    sources = [Source(path.name, path) for path in sorted(tmp_path.iterdir())]
    assert repeated(sources) == {"b": "a"}


def test_recommended_frames_lose_least():
    """Against all counts, by arithmetic of its own."""
    lengths = [60, 60, 60, 121, 130]
    rows = [advice.count_frames(lengths, frames) for frames in range(1, 122, 8)]
    best = advice.best_frames(rows)
    used = {frames: sum(length - length % frames for length in lengths) / sum(lengths) for frames in range(17, 122, 8)}
    assert best.frames == max(used, key=used.get) == 57
    assert best.used == pytest.approx(used[57]) and best.clips == 7 and best.videos == 5
    # Longer clips are worth a little loss.
    assert advice.best_frames([advice.count_frames([124] * 9, frames) for frames in range(1, 122, 8)]).frames == 121


def test_recommended_sizes(found):
    sizes = advice.advise(found).sizes
    trained = next(size for size in sizes if size.trained)
    assert (trained.height, trained.width) == (704, 960), "of the published proportions 4:3 is nearest 3:2"
    own = sizes[-1]
    assert (own.height, own.width, own.trained, own.enlarged) == (32, 48, False, 1), "the upright one is narrower"


def test_a_plain_folder_of_videos_can_be_looked_at(tmp_path):
    write(tmp_path / "mine" / "a.mp4", frames=20)
    overrides = ["dataset.num_frames=17", "dataset.height=32", "dataset.width=48"]
    found = survey(tmp_path / "mine", overrides, load_plugins(), lambda *_: None)
    assert found.clips == 1 and found.entries[0].header.frames == 20
    with pytest.raises(ForgeError, match="no dataset that is installed reads"):
        survey(tmp_path, [], load_plugins(), lambda *_: None)
    with pytest.raises(ForgeError, match="there is no folder or recipe"):
        survey(tmp_path / "nothing", [], load_plugins(), lambda *_: None)


def test_json_holds_everything(found):
    told = json.loads(json.dumps(show.survey_json(found)))
    assert told["totals"]["clips"] == 6 and told["totals"]["found"] == len(told["videos"]) == 11
    upright = next(video for video in told["videos"] if video["key"].endswith("upright.mp4"))
    assert upright["used"] and upright["header"]["rotation"] == 90 and upright["caption"] == "What upright shows."
    assert told["settings"]["num_frames"] == 17 and told["advice"]["best"] == 17


@pytest.mark.parametrize("width", [60, 100, 160])
def test_every_file_and_reason_is_shown_in_any_width(found, width):
    console = Console(width=width, record=True, file=io.StringIO())
    for part in show._parts(found, width):
        console.print(part)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    run_together = "".join(text.split())
    for entry in found.entries:
        assert "".join(entry.key.split()) in run_together
    assert "the same content as another" in text and "varying frame rate" in text


def forge(*arguments):
    return subprocess.run([sys.executable, "-m", "cosmos_forge", "data", *arguments], capture_output=True, text=True)


def test_the_command_ends_with_2_where_nothing_is_usable(folder, tmp_path):
    done = forge(str(folder), "dataset.num_frames=25")
    assert done.returncode == 0 and "2 of 11 can be used: 2 clips of 25 frames" in done.stdout
    assert "…" not in next(line for line in done.stdout.splitlines() if "cut.mp4" in line)
    assert not done.stderr, "no progress without a terminal"
    none = forge(str(folder), "--json", "dataset.num_frames=121")
    assert none.returncode == 2 and json.loads(none.stdout)["totals"]["clips"] == 0
    wrong = forge(str(folder), "dataset.num_frame=25")
    assert wrong.returncode == 2 and "did you mean `num_frames`?" in wrong.stderr


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are Unicode there")
def test_a_name_that_is_no_text(folder, tmp_path):
    """Bytes that no encoding explains stand in JSON so that Python finds the file by them."""
    (tmp_path / "videos").mkdir()
    shutil.copy(folder / "videos/good.mp4", tmp_path / os.fsdecode(b"videos/caf\xe9.mp4"))
    asked = (str(tmp_path), "dataset.num_frames=17", "dataset.caption=Coffee.")
    (video,) = json.loads(forge(*asked, "--json").stdout)["videos"]
    assert os.fsencode(video["key"]) == b"videos/caf\xe9.mp4" and video["used"]
    assert "videos/caf?.mp4" in forge(*asked).stdout


def test_a_terminal_that_lacks_signs_still_gets_the_words(folder):
    command = [sys.executable, "-m", "cosmos_forge", "data", str(folder), "dataset.num_frames=25"]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and b"What good shows." in done.stdout and b"?" in done.stdout


def test_a_terminal_sees_progress(folder):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cosmos_forge", "data", str(folder)], stderr=theirs, stdout=subprocess.DEVNULL
    )
    os.close(theirs)
    said = b""
    try:
        while chunk := os.read(ours, 4096):
            said += chunk
    except OSError:  # the other end is closed
        pass
    assert process.wait() == 2
    assert b"11/11 looked at" in said and said.endswith(b"\r\x1b[K")


def test_any_dataset_can_be_looked_at_through_a_recipe(tmp_path):
    recipe = tmp_path / "toy.toml"
    recipe.write_text(f'[dataset]\nuse = "toy-physics"\npath = "{tmp_path}/made"\nclips = 3\nheight = 32\nwidth = 32\n')
    found = survey(recipe, [], load_plugins(), lambda *_: None)
    assert found.clips == 3 and not found.files
    assert {entry.header.frames for entry in found.entries} == {17} and found.entries[0].caption
    assert advice.advise(found).frames == []


def test_it_imports_no_torch(folder):
    code = (
        "import sys; from pathlib import Path; from cosmos_forge.plugins import load_plugins;"
        "from cosmos_forge.survey.survey import survey; from cosmos_forge.survey import show;"
        f"show.show(survey(Path({str(folder)!r}), [], load_plugins(), print));"
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real clips in {SHARED}")
def test_real_clips():
    found = survey(SHARED / "clips", ["dataset.num_frames=57"], load_plugins(), lambda *_: None)
    assert found.clips == 11 and advice.advise(found).best.frames == 57
