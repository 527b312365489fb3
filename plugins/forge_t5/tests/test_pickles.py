"""Stored embeddings: what is read, what is refused, and the encoder `t5-pickles` against its contract."""

import functools
import json
import os
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cosmos_forge import ForgeError, Problem
from cosmos_forge.testing import TextEncoderContract, make_context
from forge_t5.pickles import read_pickle, to_pickle
from forge_t5.plugin import T5PicklesOptions
from forge_t5.stored import T5Pickles

WIDTH, TOKENS = 6, 16
GOLDEN = Path(os.environ.get("FORGE_GOLDEN", Path(__file__).parents[4] / "shared" / "golden"))
RECORDED = GOLDEN / "j_data" / "j1_dataset_synthetic.json"


def array(tokens: int, width: int = WIDTH) -> np.ndarray:
    return np.random.RandomState(tokens).standard_normal((tokens, width)).astype(np.float16)


def dataset(folder: Path, **clips: tuple[str, int | None]) -> Path:
    """Captions with their number of tokens; None for no pickle. As numpy and pickle write by themselves."""
    for name in ("metas", "t5_xxl"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for stem, (caption, tokens) in clips.items():
        (folder / "metas" / f"{stem}.txt").write_text(f"{caption}\n")
        if tokens is not None:
            (folder / "t5_xxl" / f"{stem}.pickle").write_bytes(pickle.dumps([array(tokens)]))
    return folder


def encoder(folder: Path, **options):
    values = {"path": str(folder), "width": WIDTH, "max_tokens": TOKENS, **options}
    return T5Pickles(T5PicklesOptions(**values), make_context(folder))


class TestT5Pickles(TextEncoderContract):
    use = "t5-pickles"
    prompts = ("a red ball", "two robots carry a box", "a box")

    def make_options(self, tmp_path):
        lengths = {caption: 3 + index for index, caption in enumerate(self.prompts)}
        lengths["word " * (2 * TOKENS)] = TOKENS
        dataset(tmp_path, **{f"clip{index}": item for index, item in enumerate(lengths.items())})
        return {"path": str(tmp_path), "width": WIDTH, "max_tokens": TOKENS}


@pytest.mark.skipif(not RECORDED.exists(), reason=f"no recorded dataset at {RECORDED}")
def test_recorded_dataset(tmp_path):
    """What the reference's dataset makes of a pickle, recorded: zero rows after the last token, float32 throughout."""
    record = json.loads(RECORDED.read_text())
    known, shape = record["scalars"]["values"], record["scalars"]["keys"]["t5_text_embeddings"]["shape"]
    tokens = record["config"]["t5_tokens"]
    stored = np.random.RandomState(tokens).standard_normal((tokens, 1024)).astype(np.float32)
    dataset(tmp_path, clip=("A test clip.", 1))
    (tmp_path / "t5_xxl/clip.pickle").write_bytes(pickle.dumps([stored]))
    text = encoder(tmp_path, width=1024, max_tokens=512).encode(["A test clip."])
    assert list(text.tokens_BLD.shape[1:]) == shape and text.tokens_BLD.dtype == torch.float32
    assert text.mask_BL.sum() == known["t5_text_mask_sum"]
    assert (text.tokens_BLD[0] == 0).all(dim=1).sum() == known["t5_zero_rows"]
    assert torch.equal(text.tokens_BLD[0, :tokens], torch.from_numpy(stored))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f8"])
def test_every_spelling_of_an_array_is_read(protocol, dtype, tmp_path):
    path = tmp_path / "a.pickle"
    for stored in (array(5).astype(dtype), array(5).astype(dtype).T, array(5).astype(dtype)[:, ::2]):
        path.write_bytes(pickle.dumps([stored], protocol=protocol))
        assert np.array_equal(read_pickle(path), stored) and read_pickle(path).dtype == stored.dtype


def test_both_names_that_numpy_had_for_itself(tmp_path):
    content = pickle.dumps([array(5)], protocol=2)
    one, two = b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n"
    for here, there in ((one, two), (two, one)):
        (tmp_path / "a.pickle").write_bytes(content.replace(here, there))
        assert there in (tmp_path / "a.pickle").read_bytes()
        assert np.array_equal(read_pickle(tmp_path / "a.pickle"), array(5))


class Calls:
    """Pickles to a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def setting(name: str) -> bytes:
    """A pickle that sets an attribute of a global that it may name."""
    module, attribute = name.rsplit(".", 1)
    return b"c" + f"{module}\n{attribute}\n".encode() + b"N}X\x05\x00\x00\x00arrayK\x01s\x86b."


MALICIOUS = {
    "posix.mkdir": [Calls(os.mkdir, "done")],
    "builtins.eval": [array(3), Calls(eval, "__import__('os').mkdir('done')")],
    "builtins.getattr": [Calls(getattr, array(3), "tofile")],
    "functools.partial": {"a": Calls(functools.partial, os.mkdir, "done")},
    "dtype 'O8'": [np.array([[Calls(os.mkdir, "done")]], dtype=object)],
    "dtype 'V4'": [np.zeros((3, 2), dtype=[("a", "<f2"), ("b", "<f2")])],
    "dtype 'i8'": [np.zeros((3, 2), dtype=np.int64)],
    "shape": [array(3)[0]],
    "list of one array": [array(3), array(3)],
    "not finite": [np.full((3, 2), np.inf, np.float16)],
    "cannot be read": b"\x80\x04no pickle",
    "numpy.load": b"cnumpy\nload\n(S'a'\ntR.",
    "__setstate__": setting("numpy.ndarray"),
    "missing 1 required positional argument": setting("numpy.core.multiarray._reconstruct"),
    "persistent": b"Pdone\n.",
}


@pytest.mark.parametrize("refused", MALICIOUS)
def test_nothing_else_is_read_or_run(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = MALICIOUS[refused]
    path = Path("a.pickle")
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    with pytest.raises(ForgeError, match=re.escape(refused)):
        read_pickle(path)
    assert os.listdir() == ["a.pickle"]
    path.write_bytes(pickle.dumps([array(4)]))
    assert np.array_equal(read_pickle(path), array(4)), "the reader is what it was"


def test_what_the_reference_unpickles(tmp_path):
    """Written for `pickle.load`, which needs a numpy of the module's name; the reference's 1.26 reads protocol 4."""
    (found,) = pickle.loads(to_pickle(array(5).T))
    assert found.dtype == np.float16 and np.array_equal(found, array(5).T)
    assert to_pickle(array(5))[:2] == b"\x80\x04"


def test_prompts_without_an_embedding(tmp_path):
    found = encoder(dataset(tmp_path, a=("a red ball rolls", 3), b=("two robots", 4)))
    assert torch.equal(found.encode([" two robots\n"]).tokens_BLD, found.encode(["two robots"]).tokens_BLD)
    with pytest.raises(ForgeError, match=r"(?s)no caption reads 'a red bell'.*nearest is 'a red ball rolls'.*\"t5\""):
        found.encode(["a red bell"])


def test_embeddings_that_do_not_fit(tmp_path):
    dataset(tmp_path, a=("a", 5))
    with pytest.raises(ForgeError, match=r"(?s)holds 6 numbers a token.*width = 6"):
        encoder(tmp_path, width=1024).encode(["a"])
    with pytest.raises(ForgeError, match=r"(?s)holds 5 tokens.*max_tokens = 5"):
        encoder(tmp_path, max_tokens=4).encode(["a"])


def test_equal_captions(tmp_path):
    """One embedding serves all; two that differ are an error, each pair told."""
    dataset(tmp_path, a=("a", 3), b=("a", None), c=("a", 3))
    (tmp_path / "t5_xxl/c.pickle").write_bytes(pickle.dumps([array(3)], protocol=5))
    assert encoder(tmp_path).encode(["a"]).mask_BL.sum() == 3
    dataset(tmp_path, b=("a", 4), c=("a", 5))
    with pytest.raises(ForgeError, match=r"(?s)a\.pickle and .*b\.pickle hold different.*a\.pickle and .*c\.pickle"):
        encoder(tmp_path)


def test_files_that_are_not_used_are_told(tmp_path):
    dataset(tmp_path, a=("a", 3), b=("", 3), c=("c", 3))
    (tmp_path / "metas/c.txt").write_bytes(b"\xff")
    told = []
    options = T5PicklesOptions(path=str(tmp_path), width=WIDTH, max_tokens=TOKENS)
    T5Pickles(options, make_context(tmp_path, emit=told.append))
    text = "\n".join(note.text for note in told)
    for name in (
        "metas/b.txt is empty",
        "metas/c.txt is not UTF-8",
        "t5_xxl/b.pickle has no",
        "t5_xxl/c.pickle has no",
    ):
        assert name in text
    assert len(told) == 4 and all(note.warning for note in told)


def problems(folder: Path, **generate):
    plan = SimpleNamespace(
        problem=lambda table, key, what, fix="": Problem(f"[{table}] {key}: {what}", fix=fix),
        stages=("prepare", "generate"),
        tables=("generate",),
        generate=SimpleNamespace(**{"prompt": None, "negative_prompt": None, **generate}),
    )
    return [problem.what for problem in T5PicklesOptions(path=str(folder)).check(plan)]


def test_checks_before_anything_runs(tmp_path):
    assert "there is no folder" in problems(tmp_path / "none")[0]
    assert "holds no captions" in problems(tmp_path)[0]
    dataset(tmp_path, a=("a", 3), b=("b", None), c=("c", None), d=("a", None))
    (what,) = problems(tmp_path)
    assert "2 of 4 captions" in what and what.endswith("metas/b.txt, metas/c.txt")
    dataset(tmp_path, b=("b", 3), c=("c", 3))
    assert problems(tmp_path, prompt="a", negative_prompt="") == []
    assert "[generate] prompt: no caption reads 'ab'" in problems(tmp_path, prompt="ab")[0]
    assert "[generate] negative_prompt" in problems(tmp_path, negative_prompt="blurred")[0]


def test_an_embedding_written_anew_is_not_taken_from_the_cache(tmp_path):
    dataset(tmp_path, a=("a", 3))
    options = T5PicklesOptions(path=str(tmp_path))
    before = options.fingerprint()
    assert options.fingerprint() == before
    dataset(tmp_path, a=("a", 4))
    assert options.fingerprint() != before
