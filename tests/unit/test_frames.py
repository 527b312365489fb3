"""Frames of video files: each is the one asked for, however the file is encoded and whatever it is read from."""

import io
from pathlib import Path

import av
import numpy as np
import pytest

from cosmos_forge.frames import Unreadable, content_hash, probe, read


def write(path: Path, frames: int, groups: str) -> Path:
    """A grey video that brightens by 4 levels a frame, in groups of 12."""
    options = {"crf": "4", "threads": "1", "x264-params": f"keyint=12:min-keyint=12:scenecut=0:bframes=3:{groups}"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20, options=options)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number in range(frames):
            picture = np.full((48, 64, 3), 4 * number, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("groups", ["open-gop=0", "open-gop=1"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("opened", [False, True], ids=["a path", "a file"])
def test_every_frame_is_the_one_asked_for(tmp_path, groups, name, opened):
    path = write(tmp_path / name, 50, groups)
    file = io.BytesIO(path.read_bytes()) if opened else path
    video = probe(file)
    assert (len(video.times), video.height, video.width, video.codec) == (50, 48, 64, "h264")
    assert video.plain == (groups == "open-gop=0")
    for number, time in enumerate(video.times):
        (frame,) = read(file, [time], video.begin(time))
        assert round(frame.mean() / 4) == number
    several = [video.times[number] for number in (11, 12, 13, 40)]
    assert [round(each.mean() / 4) for each in read(file, several, video.begin(several[0]))] == [11, 12, 13, 40]


def test_of_a_file_that_is_cut_short_what_is_there_is_read_where_that_will_do(tmp_path):
    path = write(tmp_path / "a.mkv", 50, "open-gop=0")
    with av.open(str(path)) as container:
        middle = sorted(packet.pos for packet in container.demux(video=0) if packet.size)[30]
    path.write_bytes(path.read_bytes()[:middle])
    times = probe(path, cut_short=True).times
    assert 20 < len(times) < 40
    with pytest.raises(Unreadable, match="there is no such file"):
        probe(tmp_path / "none.mp4")


def test_a_hash_follows_the_content(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = content_hash(path)
    path.write_bytes(b"other")
    assert content_hash(path) != first
