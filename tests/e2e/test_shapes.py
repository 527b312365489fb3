"""Clips of several sizes, from files to a video: batched by shape, captions changed without encoding a video again."""

import json

import numpy as np
import pytest

from cosmos_forge import video

FOLDER = [
    *("dataset.use=video-folder", "dataset.path=data", "dataset.num_frames=17", "dataset.height=32"),
    *("dataset.width=48", "dataset.other_sizes=[[17, 48, 32], [9, 32, 48]]", "model.given_frames_max=1"),
    "prepare.held_out=2",
]
TRAIN = ["train.steps=6", "train.batch_size=2", "prepare.cache=shared", "stages=['prepare', 'train', 'export']"]


@pytest.fixture(scope="module")
def data(workplace):
    """Videos that lie, stand or are short, with captions."""
    sizes = [(17, 32, 48)] * 4 + [(17, 48, 32)] * 3 + [(10, 32, 48)] * 2
    (workplace.folder / "data" / "metas").mkdir(parents=True)
    for number, (frames, height, width) in enumerate(sizes):
        pixels = np.full((frames, height, width, 3), 20 * number, dtype=np.uint8)
        for index, frame in enumerate(pixels):
            frame[8:16, index : index + 8] = 250
        video.write_mp4(pixels, 12.0, workplace.folder / "data" / "videos" / f"{number}.mp4")
        (workplace.folder / "data" / "metas" / f"{number}.txt").write_text(f"square {number}")
    return workplace.folder / "data"


def index(workplace, name):
    lines = (workplace.of(name) / "prepared" / "index.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_trains_on_all_and_resumes_in_the_same_order(workplace, data):
    workplace.run("mixed", *FOLDER, *TRAIN, "train.save_every=4")
    shapes = [clip["shape"] for clip in index(workplace, "mixed")]
    assert shapes == [[16, 3, 8, 12]] * 4 + [[16, 3, 12, 8]] * 3 + [[16, 2, 8, 12]] * 2
    workplace.run("shorter", *FOLDER, *TRAIN, "train.steps=3", "train.save_every=3")
    workplace.forge(*workplace.command("shorter", *FOLDER, *TRAIN, "train.save_every=3"), "--continue")
    assert workplace.weights("shorter") == workplace.weights("mixed")


def test_a_new_caption_encodes_no_video_again(workplace, data):
    workplace.run("before", *FOLDER, *TRAIN, "stages=['prepare']")
    latents = {path: path.stat().st_mtime_ns for path in (workplace.folder / "shared").glob("latent_tokenizer-*/*")}
    (data / "metas" / "0.txt").write_text("another square")
    workplace.run("after", *FOLDER, *TRAIN, "stages=['prepare']")
    assert {path: path.stat().st_mtime_ns for path in latents} == latents
    assert len(list((workplace.folder / "shared").glob("latent_tokenizer-*/*"))) == len(latents) == 9
    before, after = (index(workplace, name) for name in ("before", "after"))
    assert [clip["latents"] for clip in after] == [clip["latents"] for clip in before]
    assert after[0]["caption"] == "another square" and after[0]["text"] != before[0]["text"]
    assert [clip["text"] for clip in after[1:]] == [clip["text"] for clip in before[1:]]
