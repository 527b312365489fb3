"""What `auto` chooses on a GPU of a given size, and what it says. The GPU is imagined."""

from types import SimpleNamespace

import pytest
import torch

from cosmos_forge.stages.options import TrainOptions
from cosmos_forge.testing import TinyNet, make_context
from cosmos_forge.training import recompute
from cosmos_forge.training.recompute import choose_levels
from cosmos_forge.types import Activations

BLOCKS = ["blocks.0", "blocks.1"]
WEIGHTS = 12 * sum(each.numel() for each in TinyNet().parameters())  # with moments; gradients come later
MODEL = SimpleNamespace(activations=lambda *of: Activations(5000, 3500, 2000, 1000, 500, 400))


def chosen(tmp_path, monkeypatch, size, model=MODEL, device="cuda", choice="auto"):
    """Levels and notes for a GPU on which `size` bytes are free."""
    monkeypatch.setattr(recompute, "free_memory", lambda device: size)
    tables = {
        "model": model,
        "latent_tokenizer": SimpleNamespace(latent_shape=lambda *size: (16, 2, 2, 2)),
    }
    options = TrainOptions(steps=1, lr=1, recompute=choice)
    plan = SimpleNamespace(train=options, options=tables.get, clip_size=(9, 16, 16))
    notes = []
    context = make_context(tmp_path, device=torch.device(device), emit=notes.append)
    return choose_levels(plan, TinyNet(), BLOCKS, context, True), notes


@pytest.mark.parametrize(
    ("elements", "levels", "warns"),
    [
        (10_400, ["none", "none"], False),  # 5000 + 5000 kept, 400 for a block in its backward pass
        (8_900, ["products", "none"], False),  # 3500 + 5000, 400
        (7_400, ["products", "products"], False),  # 3500 + 3500, 400
        (5_900, ["attention", "products"], False),  # 2000 + 3500, 400; then 2000, 3000 again, 500
        (5_898, ["block", "block"], True),
    ],
)
def test_auto_takes_what_fits_and_says_so(tmp_path, monkeypatch, elements, levels, warns):
    found, notes = chosen(tmp_path, monkeypatch, (WEIGHTS + 4 * elements + 4) / 0.92)
    assert found == levels
    assert [note.warning for note in notes] == [warns]
    assert f"{levels.count(levels[0])} {levels[0]}" in notes[0].text
    assert ("run out of memory" in notes[0].text) == warns


def test_a_model_that_does_not_say_what_it_keeps(tmp_path, monkeypatch):
    found, notes = chosen(tmp_path, monkeypatch, 10**9, model=SimpleNamespace())
    assert found == ["block", "block"]
    assert "does not say" in notes[0].text


@pytest.mark.parametrize(("device", "choice", "level"), [("cpu", "auto", "none"), ("cuda", "attention", "attention")])
def test_nothing_to_choose(tmp_path, monkeypatch, device, choice, level):
    assert chosen(tmp_path, monkeypatch, 0, device=device, choice=choice) == ([level] * 2, [])
