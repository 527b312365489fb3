"""Videos and pictures written and read again, and the contact sheet's picture."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from cosmos_forge import ForgeError, video
from cosmos_forge.generation.sheet import contact_sheet, row, row_of_file
from cosmos_forge.video import Media, count_frames, probe, read_frames, read_last, write_lossless, write_mp4


def waves(frames: int = 9, height: int = 48, width: int = 64) -> np.ndarray:
    t, y, x = np.mgrid[:frames, :height, :width].astype(float)
    channels = [np.sin(x / 12 + t), np.cos(y / 10 - t), np.sin((x + y) / 15)]
    return np.stack([128 + 80 * channel for channel in channels], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("fps", [24, 12.5, 29.97])
def test_a_video_comes_back(tmp_path, fps):
    frames = waves()
    write_mp4(frames, fps, tmp_path / "a.mp4")
    again = np.stack(list(read_frames(tmp_path / "a.mp4")))
    assert again.shape == frames.shape and again.dtype == np.uint8
    assert np.abs(again.astype(int) - frames).mean() < 4
    assert probe(tmp_path / "a.mp4") == Media(9, 48, 64, pytest.approx(fps))


def test_some_frames_are_those_of_the_whole(tmp_path):
    write_mp4(waves(), 24, tmp_path / "a.mp4")
    whole, some = (list(read_frames(tmp_path / "a.mp4", numbers)) for numbers in (None, [0, 3, 8]))
    assert len(whole) == 9
    np.testing.assert_array_equal(some, [whole[number] for number in (0, 3, 8)])


@pytest.mark.parametrize("fps", [0.5, 240, 5000, 60000 / 1001])
def test_no_frame_is_lost_to_a_container_that_counts_milliseconds(tmp_path, fps):
    noise = np.random.default_rng(1).normal(0, 1, (17, 48, 48, 3)) * np.arange(17)[:, None, None, None]
    write_mp4((90 + noise).clip(0, 255).astype(np.uint8), fps, tmp_path / "a.mp4")
    assert len(list(read_frames(tmp_path / "a.mp4"))) == 17
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.duration / av.time_base == pytest.approx(17 / fps, abs=2e-6)


def test_a_foreign_letter_in_a_tag_is_no_damage(tmp_path):
    write_mp4(waves(), 24, tmp_path / "a.mp4")
    whole = (tmp_path / "a.mp4").read_bytes()
    assert b"Lavf" in whole
    (tmp_path / "tagged.mp4").write_bytes(whole.replace(b"Lavf", b"\xe9avf"))
    np.testing.assert_array_equal(read_last(tmp_path / "tagged.mp4", 9), read_last(tmp_path / "a.mp4", 9))


def test_a_lossless_video_comes_back_to_the_bit(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (5, 48, 80, 3), dtype=np.uint8)
    write_lossless(iter(noise), 12.5, tmp_path / "a.mkv")
    np.testing.assert_array_equal(np.stack(list(read_frames(tmp_path / "a.mkv"))), noise)
    np.testing.assert_array_equal(read_last(tmp_path / "a.mkv", 2), noise[-2:])


@pytest.mark.parametrize("settings", ["keyint=8:bframes=3", "keyint=250", "open-gop=1:keyint=7:bframes=3", "keyint=1"])
@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_the_last_frames_are_those_of_the_whole_video(tmp_path, settings, kind, monkeypatch):
    path = tmp_path / f"a.{kind}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"x264-params": settings})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in waves(41):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    whole = list(read_frames(path))
    assert count_frames(path) == probe(path).frames == len(whole) == 41
    for count in (1, 9, 17):
        np.testing.assert_array_equal(read_last(path, count), whole[-count:])
    assert len(read_last(path, 60)) == 41


def test_of_a_long_video_only_the_end_is_decoded(tmp_path, monkeypatch):
    write_mp4(waves(600, 16, 16), 24, tmp_path / "a.mp4")
    decoded = []
    upright = video._upright
    monkeypatch.setattr(video, "_upright", lambda frame: decoded.append(frame) or upright(frame))
    assert len(read_last(tmp_path / "a.mp4", 9)) == 9
    assert len(decoded) == 9


def test_browsers_can_play_it(tmp_path):
    write_mp4(waves(), 24, tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before it is loaded whole


def test_odd_sizes_are_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(ForgeError, match="even sizes, got 47x64"):
        write_mp4(waves(height=47), 24, tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="uint8"):
        write_mp4(waves().astype(float), 24, tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    write_mp4(waves(), 24, tmp_path / "a.mp4")
    before = (tmp_path / "a.mp4").read_bytes()

    def full(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("cosmos_forge.video.np.ascontiguousarray", full)
    with pytest.raises(OSError, match="disk full"):
        write_mp4(waves(5), 24, tmp_path / "a.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_a_picture_is_one_frame_turned_as_its_camera_says(tmp_path):
    frame = waves(1)[0]
    picture = Image.fromarray(frame)
    exif = picture.getexif()
    exif[0x0112] = 6  # the top of the scene is at the right: turn it a quarter clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    assert probe(tmp_path / "a.png") == Media(1, 64, 48, 24.0)
    np.testing.assert_array_equal(read_last(tmp_path / "a.png", 9), np.rot90(frame, -1)[None])


def test_what_is_transparent_becomes_white(tmp_path):
    picture = Image.new("RGBA", (4, 2), (200, 0, 0, 0))
    picture.putpixel((1, 1), (200, 0, 0, 255))
    picture.save(tmp_path / "a.png")
    frame = read_last(tmp_path / "a.png", 1)[0]
    assert frame[1, 1].tolist() == [200, 0, 0] and frame[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_of_16_bits_the_upper_8_count(tmp_path, name):
    levels = np.array([[0, 255, 256, 32768], [32767, 65279, 65280, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / name)
    expected = [[0, 0, 1, 128], [127, 254, 255, 255]]
    assert (read_last(tmp_path / name, 1)[0] == np.array(expected)[..., None]).all()


def test_a_picture_without_a_known_white_is_refused(tmp_path):
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ForgeError, match="mode F"):
        probe(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_a_picture_that_moves_is_no_picture(tmp_path, name):
    first, *others = [Image.fromarray(frame) for frame in waves(3)]
    first.save(tmp_path / name, save_all=True, append_images=others)
    with pytest.raises(ForgeError, match="holds 3 frames"):
        probe(tmp_path / name)


def test_a_telephones_jpeg_with_a_second_picture_inside_is_a_picture(tmp_path):
    first, second = [Image.fromarray(frame) for frame in waves(2)]
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert probe(tmp_path / "a.jpg") == Media(1, 48, 64, 24.0)


def test_a_picture_too_large_to_be_one(tmp_path, monkeypatch):
    Image.fromarray(waves(1)[0]).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ForgeError, match=r"cannot be read as a picture: .*pixels"):
        probe(tmp_path / "a.png")


def test_a_damaged_picture(tmp_path):
    Image.fromarray(waves(1)[0]).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    at = whole.index(b"IDAT")
    (tmp_path / "a.png").write_bytes(whole[: at - 4] + (100).to_bytes(4, "big") + whole[at:])  # of a shorter chunk
    with pytest.raises(ForgeError, match="cannot be read as a picture"):
        probe(tmp_path / "a.png")


def test_what_cannot_be_read_says_why(tmp_path):
    write_mp4(waves(), 24, tmp_path / "whole.mp4")
    whole = (tmp_path / "whole.mp4").read_bytes()
    files: dict[str, tuple[bytes, str]] = {
        "unknown.mp4": (b"zzzz".join(whole.rsplit(b"avc1", 1)), "encoded in a way that is not known here"),
        "cut.mp4": (whole[: len(whole) * 3 // 4], "cut short after"),
        "text.mp4": (b"hello " * 50, "cannot be read as a video"),
        "text.png": (b"hello " * 50, "cannot be read as a picture"),
    }
    for name, (data, words) in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ForgeError, match=words) as error:
            read_last(tmp_path / name, 9)
        assert name in str(error.value) and "fix:" in str(error.value)
    with pytest.raises(ForgeError, match="there is no file"):
        read_last(tmp_path / "missing.mp4", 1)


def sheet(tmp_path: Path, rows, given: int = 0) -> np.ndarray:
    contact_sheet([row(label, frames, given) for label, frames in rows], tmp_path / "sheet.png")
    return np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)


def plain(colour: tuple[int, int, int], frames: int = 17) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (frames, 64, 64, 3))


def test_a_sheet_shows_nine_frames_of_every_row(tmp_path):
    picture = sheet(tmp_path, [("a: generated", plain((200, 0, 0))), ("a: truth", plain((0, 0, 200)))])
    assert picture.shape[1] == 1200
    red = (picture == (200, 0, 0)).all(axis=2)
    blue = (picture == (0, 0, 200)).all(axis=2)
    assert red.sum() == blue.sum()
    assert np.flatnonzero(red.any(axis=1)).max() < np.flatnonzero(blue.any(axis=1)).min()
    columns = red.any(axis=0).astype(int)
    assert (np.diff(columns) == 1).sum() == 9


def test_a_short_video_shows_each_frame_once(tmp_path):
    picture = sheet(tmp_path, [("a", plain((200, 0, 0), frames=3))])
    columns = (picture == (200, 0, 0)).all(axis=2).any(axis=0).astype(int)
    assert (np.diff(columns) == 1).sum() == 3


def test_a_file_is_shown_as_the_video_in_memory(tmp_path):
    write_lossless(waves(30), 24, tmp_path / "a.mkv")
    one, other = row_of_file("a", tmp_path / "a.mkv", 9), row("a", waves(30), 9)
    assert (one.label, one.numbers, one.given) == (other.label, other.numbers, other.given)
    np.testing.assert_array_equal(one.frames_THWC, other.frames_THWC)


def test_given_frames_are_marked(tmp_path):
    green = (10, 125, 90)

    def borders(given: int) -> int:
        """Runs of green along the upper edge of the pictures."""
        picture = sheet(tmp_path, [("a", plain((200, 0, 0)))], given)
        top = np.flatnonzero((picture == (200, 0, 0)).all(axis=2).any(axis=1)).min()
        line = (picture[top + 5] == green).all(axis=1).astype(int)
        return int((np.diff(line) == 1).sum()) // 2

    assert (borders(0), borders(9), borders(17)) == (0, 5, 9)


def test_a_long_name_is_cut_to_its_column(tmp_path):
    short, long = (sheet(tmp_path, [(name, plain((200, 0, 0)))]) for name in ("a", "kitchen " * 30))
    start = np.flatnonzero((short == (200, 0, 0)).all(axis=2).any(axis=0)).min()
    np.testing.assert_array_equal(short[:, start - 6 :], long[:, start - 6 :])
