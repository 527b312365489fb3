"""What is to be generated: inputs of every kind, what is wrong with them, and the pieces of long videos."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from cosmos_forge import ForgeError, video
from cosmos_forge.checks.generate import described
from cosmos_forge.generation.chunks import Chunks
from cosmos_forge.generation.inputs import find_wishes, left_out
from cosmos_forge.generation.jobs import Video, find_videos, to_given_pixels, to_pixels
from cosmos_forge.generation.lengths import Lengths
from cosmos_forge.generation.outputs import check_names, file_name, sheet_of
from cosmos_forge.planning import make_plan
from cosmos_forge.recipe import read_recipe
from cosmos_forge.run import Run
from cosmos_forge.testing import make_context

SIZE = {"height": 32, "width": 48}


@pytest.fixture
def plan_of(workplace, plugins):
    """The plan of `r.toml` that generates from an input, changed by overrides."""

    def plan_of(*overrides):
        sizes = [f"{key}={value}" for key, value in {"given": 1, "frames": 17, "size": "32x48"}.items()]
        recipe = read_recipe(workplace / "r.toml", [*sizes, *overrides], ("generate",))
        return make_plan(recipe, plugins, stages=("generate",))

    return plan_of


def picture(path, height=32, width=48, colour=(200, 100, 50)):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path)


def clip(path, frames=10, height=32, width=48):
    path.parent.mkdir(exist_ok=True)
    video.write_mp4(np.full((frames, height, width, 3), 90, np.uint8), 12.5, path)


def jsonl(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))


def test_a_jsonl_is_read_as_the_references(workplace, plan_of):
    """From the working directory first, then from beside the file; a prompt may be absent, or one a chunk."""
    picture(workplace / "here.png")
    picture(workplace / "batch" / "there.png")
    lines = [
        {"visual_input": "here.png", "prompt": "a fox"},
        {"visual_input": "there.png"},
        "",
        {"prompt": ["a", "b"], "visual_input": str(workplace / "here.png")},
    ]
    jsonl(workplace / "batch" / "list.jsonl", *lines)
    wishes = find_wishes(plan_of("input=batch/list.jsonl", "frames=25", "generate.chunk_frames=17"))
    assert [wish.name for wish in wishes] == ["0-here", "1-there", "2-here"]
    assert [wish.prompts for wish in wishes] == [("a fox",), (), ("a", "b")]
    assert wishes[1].path.resolve() == workplace / "batch" / "there.png"
    assert [wish.where.line for wish in wishes] == [1, 2, 4]


def test_a_path_may_begin_at_home(workplace, plan_of, monkeypatch):
    """Not every shell writes out what stands behind `input=`."""
    monkeypatch.setenv("HOME", str(workplace))
    picture(workplace / "a.png")
    jsonl(workplace / "list.jsonl", {"visual_input": "~/a.png"})
    assert [wish.path for wish in find_wishes(plan_of("input=~/a.png"))] == [workplace / "a.png"]
    assert [wish.path for wish in find_wishes(plan_of("input=~/list.jsonl"))] == [workplace / "a.png"]


def test_everything_wrong_with_a_batch_is_said_at_once_with_its_line(workplace, plan_of):
    picture(workplace / "a.png")
    lines = [
        {"visual_input": "gone.mp4"},
        '{"visual_input": "a.png"',
        {"visual_input": "a.png", "promt": "a fox"},
        ["a.png"],
        {"visual_input": "a.png", "prompt": 3},
        {"prompt": "a fox"},
        {"visual_input": "a.png", "prompt": ["a", "b"]},
    ]
    jsonl(workplace / "list.jsonl", *lines)
    with pytest.raises(ForgeError) as error:
        plan_of("input=list.jsonl")
    said = [(problem.where.file, problem.where.line, problem.what) for problem in error.value.problems]
    assert said == [
        ("list.jsonl", 1, "visual_input gone.mp4 does not exist"),
        ("list.jsonl", 2, "this line is no JSON: Expecting ',' delimiter (column 25)"),
        ("list.jsonl", 3, "unknown key `promt`"),
        ("list.jsonl", 4, "this line is no object, but list"),
        ("list.jsonl", 5, "prompt must be text, or a list of texts for the chunks of a long video"),
        ("list.jsonl", 6, "visual_input must be the path of a picture or video"),
        ("list.jsonl", 7, "2 prompts for 1 chunk of a video"),
    ]
    assert error.value.problems[2].fix == "did you mean `prompt`?"


def test_a_folder_gives_its_pictures_and_videos_with_their_prompts(workplace, plan_of):
    picture(workplace / "in" / "b.JPG")
    clip(workplace / "in" / "a.mp4")
    (workplace / "in" / "a.txt").write_text(" a fox\n")
    (workplace / "in" / "alone.txt").write_text("nothing")
    (workplace / "in" / ".hidden.png").write_bytes(b"")
    wishes = find_wishes(plan_of("input=in"))
    assert [(wish.name, wish.prompts) for wish in wishes] == [("a", ("a fox",)), ("b", ())]
    assert left_out(workplace / "in") == ["alone.txt"]
    picture(workplace / "in" / "a.png")
    with pytest.raises(ForgeError, match=r"a\.mp4 and a\.png in in would both become a\.mp4"):
        plan_of("input=in")


def test_inputs_that_hold_nothing_are_told(workplace, plan_of):
    (workplace / "empty").mkdir()
    (workplace / "empty.jsonl").write_text("\n")
    for name, words in {"empty": "no picture or video", "empty.jsonl": "is empty", "gone": "does not exist"}.items():
        with pytest.raises(ForgeError, match=words) as error:
            plan_of(f"input={name}")
        assert error.value.problems[0].where.file == "command line"


def test_files_are_opened_before_anything_is_computed(workplace, plan_of):
    """All that is wrong with them is said, with the line that asks for each."""
    clip(workplace / "short.mp4", frames=5)
    clip(workplace / "good.mp4")
    picture(workplace / "a.png")
    (workplace / "text.mp4").write_text("hello " * 50)
    names = ["short.mp4", "good.mp4", "text.mp4", "a.png"]
    jsonl(workplace / "list.jsonl", *({"visual_input": name} for name in names))
    plan = plan_of("input=list.jsonl", "given=9")
    with pytest.raises(ForgeError) as error:
        find_videos(plan, Run(workplace), make_context(workplace))
    said = [(problem.where.line, problem.what) for problem in error.value.problems]
    assert said == [
        (1, "short.mp4 has 5 frames, generate.given_frames asks for 9"),
        (3, "text.mp4 cannot be read as a video: Invalid data found when processing input"),
    ]


def test_what_a_person_may_not_expect_is_noted(workplace, plan_of):
    clip(workplace / "in" / "a.mp4", height=64)
    picture(workplace / "in" / "b.png")
    (workplace / "in" / "b.txt").write_text("a fox")
    (workplace / "in" / "c.pdf").write_text("")
    said = []
    context = make_context(workplace, emit=said.append)
    videos = find_videos(plan_of("input=in", "given=9"), Run(workplace), context)
    assert [note.text for note in said] == [
        "left out, being neither picture, video nor the prompt of one: c.pdf",
        "a picture gives 1 frame, not 9: b.png",
        "given frames are stretched to 32x48 pixels: a.mp4 from 64x48",
        "no prompt says what happens in a",
    ]
    assert [(each.given, each.fps, each.prompt) for each in videos] == [(9, 12.5, ""), (1, 24.0, "a fox")]
    assert [each.source["resize"] for each in videos] == ["stretch", "none"]
    assert videos[0].read().shape == (3, 9, 32, 48)


def test_given_frames_keep_their_proportions_where_asked(workplace):
    """A black frame with a white square in its middle; black left and right of it is cut off."""
    frame = np.zeros((1, 40, 100, 3), np.uint8)
    frame[0, 10:30, 40:60] = 255
    stretched, cropped = (to_given_pixels(frame, 80, 80, crop) > 0.5 for crop in (False, True))
    for pixels, width in ((stretched, 16), (cropped, 40)):
        rows, columns = (pixels[0, 0].any(dim=dim).sum() for dim in (1, 0))
        assert (rows, columns) == (40, width)
    assert (stretched[0, 0].sum(0).nonzero().float().mean() - 39.5).abs() <= 0.5


def test_white_survives_from_chunk_to_chunk():
    """x / 128 - 1, as in the reference, makes given frames a little darker; chunk after chunk that would add up."""
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)

    def shown(pixels):  # as `sampling.decode` does
        return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0).numpy()

    np.testing.assert_array_equal(shown(to_pixels(every)), every)
    assert shown(to_given_pixels(every, 16, 16)).max() == 254


@pytest.mark.parametrize(
    ("lengths", "chunks", "surplus"),
    [
        (Lengths(121, 121, 9), 1, 0),
        (Lengths(122, 121, 9), 2, 111),
        (Lengths(233, 121, 9), 2, 0),
        (Lengths(234, 121, 9), 3, 111),
        (Lengths(41, 17, 1), 3, 8),
    ],
)
def test_chunks_cover_a_video(lengths, chunks, surplus):
    assert (lengths.chunks, lengths.surplus) == (chunks, surplus)


def test_seams_are_shown_once(tmp_path):
    """Frames counted through: each chunk begins with the last frames of the one before."""
    chunks = Chunks(tmp_path / "chunks" / "a", Lengths(36, 17, 9), {"seed": 1})
    for number, first in enumerate((0, 8, 16, 24)):
        frames = np.stack([np.full((16, 16, 3), 5 * (first + index), np.uint8) for index in range(17)])
        chunks.add(number, frames, 24.0)
        if number == 1:
            assert chunks.done() == 2 and Chunks(chunks.folder, chunks.lengths, {"seed": 2}).done() == 0
            np.testing.assert_allclose(chunks.last(1)[0, :, 0, 0], np.arange(80, 121, 5) / 127.5 - 1, atol=1e-6)
    assert chunks.done() == 4
    assert [int(frame[0, 0, 0]) for frame in chunks.frames()] == [5 * index for index in range(36)]
    chunks.clear()
    assert not list(tmp_path.iterdir())


def test_later_chunks_follow_the_prompts(tmp_path):
    made = Video("a", "one", 24.0, 1, torch.empty, {}, then=("two",))
    assert [made.job().prompt, *(made.further_job(chunk, 9, torch.empty).prompt for chunk in (1, 2))] == [
        *("one", "two", "two")
    ]
    assert len({made.job().name, *(made.further_job(chunk, 9, torch.empty).name for chunk in (1, 2))}) == 3


def test_prompts_beyond_the_chunks_and_bad_overlaps_are_problems(workplace, plan_of):
    picture(workplace / "a.png")
    with pytest.raises(ForgeError, match="prompt has 2 texts, but a video is made in one go"):
        plan_of("input=a.png", 'prompt=["a", "b"]')
    with pytest.raises(ForgeError, match=r"overlap must be 1, 9, 17, .. \(8k\+1\), got 10"):
        plan_of("input=a.png", "frames=40", "generate.chunk_frames=17", "generate.overlap=10")
    plan = plan_of("input=a.png", "frames=40", "generate.chunk_frames=17", 'prompt=["a", "b"]')
    assert (
        described(plan)[0]
        == "40 frames: 4 chunks of 17, each from the last 9 of the one before; 1 is cut off at the end"
    )


def test_names_that_would_share_a_file_are_told(tmp_path):
    run = Run(tmp_path)
    assert file_name("my clip.MP4#3") == "my-clip-3" and file_name("my.v2") == "my.v2"
    pair = [Video(name, "", 24.0, 1, torch.empty, {}) for name in ("a b", "a-b")]
    with pytest.raises(ForgeError, match=r"a b and a-b would both become a-b\.mp4"):
        check_names(run, pair, sheet_of(run, None))
    itself = Video("a", "", 24.0, 1, torch.empty, {"input": str(tmp_path / "videos" / "a.mp4")})
    with pytest.raises(ForgeError, match=r"a\.mp4 would be overwritten"):
        check_names(run, [itself], sheet_of(run, "a.mp4"))
    picture = str(tmp_path / "videos" / "a.png")
    with pytest.raises(ForgeError, match=r"a\.png would be overwritten"):
        check_names(run, [Video("a", "", 24.0, 1, torch.empty, {"input": picture})], sheet_of(run, picture))
