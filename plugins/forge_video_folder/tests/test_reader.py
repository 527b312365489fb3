"""The readers against the frames that were written, each other, and files that are not whole."""

from __future__ import annotations

import contextlib
import random

import av
import numpy as np
import pytest

from cosmos_forge.frames import Unreadable, probe
from cosmos_forge.survey.header import read_header
from forge_video_folder import reader
from forge_video_folder.reader import read_frames, read_with_decord, read_with_pyav

needs_decord = pytest.mark.skipif(reader.decord is None, reason="decord is not installed; PyAV alone is tested")


def far(one: np.ndarray, other: np.ndarray) -> float:
    """Mean distance in levels; frames that follow each other in `waves` are about 70 apart."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other).mean())


@pytest.fixture(params=["decord", "pyav"])
def read(request, monkeypatch):
    """`read_frames`, with and without decord."""
    if request.param == "pyav":
        monkeypatch.setattr(reader, "decord", None)
    elif reader.decord is None:
        pytest.skip("decord is not installed")
    return read_frames


@pytest.mark.parametrize(
    "x264",
    ["keyint=8", "keyint=250:bframes=3:b-pyramid=normal", "keyint=10:open-gop=1:bframes=3"],
    ids=["short groups", "one group", "open groups"],
)
def test_every_frame_is_the_one_asked_for(tmp_path, videos, read, x264):
    frames = videos.waves(33)
    path = videos.write(tmp_path / "a.mp4", frames, x264=x264)
    for indices in ([0], [32], [7, 8, 9, 10, 11], [9, 19, 20, 29], list(range(33))):
        assert far(read(path, indices), frames[indices]) < 5


def test_what_an_edit_list_hides_is_not_counted(tmp_path, videos, read):
    frames = videos.waves(30)
    path = videos.write(tmp_path / "a.mp4", frames, x264="keyint=10")
    videos.cut_beginning(path, 5, of=30)
    assert len(probe(path).times) == 25
    assert far(read(path, [0, 1, 20]), frames[[5, 6, 25]]) < 5


def test_a_turned_video_is_upright(tmp_path, videos, read):
    frames = videos.waves(5)
    path = videos.write(tmp_path / "a.mp4", frames)
    videos.turn(path)
    assert far(read(path, [0, 4]), np.rot90(frames[[0, 4]], -1, axes=(1, 2))) < 5


@needs_decord
def test_both_readers_give_the_same_pixels(tmp_path, videos):
    path = videos.write(tmp_path / "a.mp4", videos.waves(30), x264="keyint=12")
    indices = [3, 11, 12, 29]
    np.testing.assert_array_equal(read_with_decord(path, indices), read_with_pyav(path, probe(path), indices))


def test_probe_knows_length_and_rate(tmp_path, videos):
    video = probe(videos.write(tmp_path / "a.mp4", videos.waves(14), fps=15))
    assert (len(video.times), video.fps) == (14, 15.0)


@pytest.mark.parametrize("movflags", ["faststart", "frag_keyframe+empty_moov", ""])
def test_a_cut_file_is_found_without_decoding(tmp_path, videos, movflags):
    path = videos.write(tmp_path / "a.mp4", videos.waves(30), x264="keyint=10", movflags=movflags)
    probe(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(Unreadable, match=r"cut short after|a part of the file is missing"):
        probe(path)


def test_a_video_that_begins_in_the_middle_is_told(tmp_path, videos):
    """Its first key frame was cut off without encoding it again."""
    whole, cut = videos.write(tmp_path / "a.mp4", videos.waves(20), x264="keyint=10"), tmp_path / "b.mp4"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in list(source.demux(video=0))[1:-1]:
            packet.stream = stream
            container.mux(packet)
    for read in (probe, read_header):
        with pytest.raises(Exception, match="its first frames need others, which are missing"):
            read(cut)


def test_a_codec_that_is_not_known_is_told(tmp_path, videos):
    path = videos.write(tmp_path / "a.mp4", videos.waves(5))
    path.write_bytes(b"zzzz".join(path.read_bytes().rsplit(b"avc1", 1)))
    for look in (probe, read_header):
        with pytest.raises(Exception, match="encoded in a way that is not known here"):
            look(path)


def test_whatever_a_damaged_file_holds_it_has_a_reason(tmp_path, videos, read):
    """Changed bytes, in the index above all. decord has errors of two kinds."""
    path = videos.write(tmp_path / "a.mp4", videos.waves(20))
    whole, chance, count = path.read_bytes(), random.Random(3), 0
    index = whole.index(b"moov")
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(4):
            begin = index if chance.random() < 0.8 else 0
            data[chance.randrange(begin, len(data))] = chance.choice([0, 1, 255, chance.randrange(256)])
        path.write_bytes(data)
        with contextlib.suppress(Unreadable):
            frames = len(probe(path).times)
            count += len(read(path, range(min(5, frames)))) > 0
    assert 0 < count < 60


def test_what_is_no_video_says_so(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("hello " * 100)
    with pytest.raises(Unreadable, match="no video"):
        probe(path)
    path.write_bytes(b"")
    with pytest.raises(Unreadable, match="empty"):
        probe(path)
