"""Captions of a dataset: each encoded once, by one process, and anew when a component's local files have changed; and
clips whose latents would spoil every step."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from cosmos_forge import ForgeError, Options
from cosmos_forge.stages import prepare
from cosmos_forge.testing import make_context
from cosmos_forge.types import Clip, TextEmbedding, World

PROMPTS = ["b", "a", "c", "a", "b"]


class Files(Options):
    """Options whose component reads a file."""

    version: str = ""

    def fingerprint(self) -> str:
        return self.version


class Encoder:
    """The length of a prompt, as so many tokens."""

    def __init__(self, asked):
        self.asked = asked

    def encode(self, prompts):
        self.asked += prompts
        mask_BL = torch.arange(4)[None] < torch.tensor([[len(prompt)] for prompt in prompts])
        return TextEmbedding(mask_BL[..., None].float(), mask_BL)


@pytest.fixture
def asked(monkeypatch):
    """What the encoder was asked for, by all processes; they do not wait for each other."""
    asked = []
    monkeypatch.setattr(prepare, "component", lambda plan, table, context: Encoder(asked))
    monkeypatch.setattr(prepare.dist, "barrier", lambda: None)
    return asked


def encode(folder, rank=0, size=1, version="", prompts=PROMPTS):
    options = Files(version=version)
    plan = SimpleNamespace(cache=folder, use=lambda _: "e", values=lambda _: {}, options=lambda _: options)
    context = make_context(folder, world=World(rank, size))
    cache = prepare.Cache(plan, context, "text_encoder")
    prepare.encode_texts(plan, context, cache, prompts)
    return cache


def test_equal_captions_are_encoded_once(asked, tmp_path):
    cache = encode(tmp_path)
    assert asked == ["a", "b", "c"]
    encode(tmp_path, prompts=[*PROMPTS, "ddd"])
    assert asked == ["a", "b", "c", "ddd"]
    assert load_file(cache.path("ddd"))["tokens"].shape == (3, 1)


def test_processes_share_the_captions(asked, tmp_path):
    encode(tmp_path, rank=0, size=2)
    assert asked == ["a", "c"]
    encode(tmp_path, rank=1, size=2)
    assert asked == ["a", "c", "b"]


def test_what_changed_files_make_is_not_taken_from_the_cache(asked, tmp_path):
    one, again, other = (encode(tmp_path, version=version) for version in ("1", "1", "2"))
    assert asked == ["a", "b", "c"] * 2
    assert one.folder == again.folder != other.folder


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_are_refused(spoilt):
    class Tokenizer:
        def encode(self, video_BCTHW):
            return torch.where(video_BCTHW > 0.99, spoilt, video_BCTHW)

    frames_CTHW = torch.full((3, 5, 4, 4), 51, dtype=torch.uint8)
    clip, device = Clip("a", frames_CTHW, 24.0, "A."), torch.device("cpu")
    assert prepare.encode_clip(Tokenizer(), clip, device).sum() == pytest.approx(-0.6 * 3 * 5 * 16)
    frames_CTHW[0, 2, 1, 1] = 255
    with pytest.raises(ForgeError, match="not finite"):
        prepare.encode_clip(Tokenizer(), clip, device)
