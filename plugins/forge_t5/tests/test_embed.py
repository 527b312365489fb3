"""`forge embed`: what it writes is read by pickle and by `t5-pickles`, and it knows when a caption has changed."""

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cosmos_forge import ForgeError, cli
from cosmos_forge.testing import make_context
from cosmos_forge.types import TextEmbedding
from forge_t5 import embed
from forge_t5.captions import faults
from forge_t5.embed import embed_captions
from forge_t5.plugin import T5Options, T5PicklesOptions
from forge_t5.stored import T5Pickles
from forge_t5.t5 import build


class Words:
    """A text encoder: a token a word, four letters a token. Remembers what it was asked for."""

    def __init__(self):
        self.asked = []

    def encode(self, prompts):
        self.asked += prompts
        tokens_BLD, mask_BL = torch.zeros(len(prompts), 9, 4), torch.zeros(len(prompts), 9, dtype=torch.bool)
        for index, prompt in enumerate(prompts):
            for place, word in enumerate(prompt.split()):
                tokens_BLD[index, place] = torch.tensor([ord(letter) for letter in word.ljust(4)[:4]])
                mask_BL[index, place] = True
        return TextEmbedding(tokens_BLD, mask_BL)


@pytest.fixture
def words():
    return Words()


@pytest.fixture
def run(tmp_path, words):
    """Embeds the captions of `tmp_path`; returns what was said."""
    return lambda model="words", **more: "\n".join(embed_captions(tmp_path, model, lambda: words, **more))


def captions(folder: Path, **texts: str) -> None:
    (folder / "metas").mkdir(exist_ok=True)
    for stem, text in texts.items():
        (folder / "metas" / f"{stem}.txt").write_text(text)


def stored(folder: Path, stem: str) -> np.ndarray:
    """As the reference's dataset reads it."""
    with (folder / "t5_xxl" / f"{stem}.pickle").open("rb") as file:
        return pickle.load(file)[0]


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    """From captions to embeddings with a whole T5: what `t5` gives, in float16, cut to its real tokens."""
    captions(tmp_path, a=" a red ball\n", b="the ball rolls")
    monkeypatch.setattr(sys, "argv", ["forge", "embed", str(tmp_path), "--model", str(folder)])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    out = capsys.readouterr().out
    assert not ending.value.code and "2 embeddings written" in out and f"encoded by {folder} in fp32" in out
    t5 = build(T5Options(model=str(folder), width=24), make_context(tmp_path))
    looked_up = T5Pickles(T5PicklesOptions(path=str(tmp_path), width=24), make_context(tmp_path))
    for stem, caption in (("a", "a red ball"), ("b", "the ball rolls")):
        expected, found = t5.encode([caption]), looked_up.encode([caption])
        real = expected.tokens_BLD[0, expected.mask_BL[0]].half()
        assert stored(tmp_path, stem).dtype == np.float16
        assert np.array_equal(stored(tmp_path, stem), real.numpy())
        assert torch.equal(found.mask_BL, expected.mask_BL)
        torch.testing.assert_close(found.tokens_BLD, expected.tokens_BLD, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("model", ["google-t5/t5-11b", "./t5", "someone/t5"])
def test_a_model_that_is_not_here(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    captions(tmp_path, a="a")
    monkeypatch.setattr(sys, "argv", ["forge", "embed", str(tmp_path), "--model", model])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    assert ending.value.code == 2
    assert f"{model} is no folder here, nor has it been downloaded" in capsys.readouterr().err
    assert not (tmp_path / "t5_xxl").exists()


def test_equal_captions_are_encoded_once(run, words, tmp_path):
    captions(tmp_path, a="one", b="two words", c="one")
    steps = []
    said = run(begin=lambda count: (steps.append(count), lambda: steps.append("step"))[1])
    assert words.asked == ["one", "two words"] and steps == [2, "step", "step"]
    assert "3 embeddings written" in said and "2 captions encoded by words" in said and "0 embeddings kept" in said
    assert np.array_equal(stored(tmp_path, "a"), stored(tmp_path, "c")) and stored(tmp_path, "b").shape == (2, 4)


def test_what_is_there_stays(run, words, tmp_path):
    captions(tmp_path, a="one", b="two words")
    run()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "t5_xxl").iterdir()}
    assert len(before) == 4
    captions(tmp_path, c="one")
    said = run()
    assert words.asked == ["one", "two words"], "nothing is encoded that has an embedding"
    assert "1 embeddings written" in said and "2 embeddings kept" in said and "elsewhere" not in said
    assert np.array_equal(stored(tmp_path, "a"), stored(tmp_path, "c"))
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_a_changed_caption(run, words, tmp_path):
    captions(tmp_path, a="one", b="two words")
    run()
    captions(tmp_path, b="now three words")
    ((what, fix),) = faults(tmp_path)
    assert "1 captions have changed since they were encoded: metas/b.txt" in what and "forge embed" in fix
    assert "written anew, for their captions had changed: b" in run()
    assert words.asked == ["one", "two words", "now three words"] and stored(tmp_path, "b").shape == (3, 4)
    assert list(faults(tmp_path)) == []


def test_embeddings_made_elsewhere(run, words, tmp_path):
    """By the reference, or another model: kept, and said."""
    captions(tmp_path, a="one", b="two words")
    run()
    for content in (tmp_path / "t5_xxl/a.pickle",):
        content.write_bytes(pickle.dumps([np.ones((7, 4), np.float16)]))
    captions(tmp_path, a="something else", c="something else")
    said = run("other")
    assert "made elsewhere, so that a changed caption would not show: a; delete" in said
    assert "made by words: b; delete" in said
    assert words.asked == ["one", "two words"]
    assert np.array_equal(stored(tmp_path, "c"), stored(tmp_path, "a")) and stored(tmp_path, "a").shape == (7, 4)


def test_videos_without_a_caption(run, words, tmp_path):
    captions(tmp_path, a="one")
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4", "c.MP4", "notes.txt"):
        (tmp_path / "videos" / name).touch()
    assert "videos without a caption, and so without an embedding: b, c; --caption gives them one" in run()
    assert "captions written to metas: b, c" in run(caption="A video of a robot.")
    assert words.asked == ["one", "A video of a robot."]
    assert (tmp_path / "metas/a.txt").read_text() == "one" and len(stored(tmp_path, "c")) == 5


def test_interrupted(run, words, tmp_path, monkeypatch):
    """What is done stays done, and nothing is half written."""
    captions(tmp_path, a="one", b="two words", c="now three words")
    replace = os.replace

    def full(source, target):
        if Path(target).name == "b.pickle":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(embed.os, "replace", full)
    with pytest.raises(ForgeError, match=r"(?s)b\.pickle cannot be written: No space left.*goes on"):
        run()
    assert sorted(path.name for path in (tmp_path / "t5_xxl").iterdir()) == ["a.json", "a.pickle"]
    monkeypatch.undo()
    run()
    assert words.asked == ["one", "two words", "two words", "now three words"]


def test_numbers_that_float16_has_not(run, words, tmp_path):
    captions(tmp_path, a="\U00010000")
    with pytest.raises(ForgeError, match=r"metas/a\.txt is too large for float16"):
        run()
    assert not (tmp_path / "t5_xxl").exists()


def test_a_folder_without_captions(run, tmp_path):
    with pytest.raises(ForgeError, match="holds no captions"):
        run()
