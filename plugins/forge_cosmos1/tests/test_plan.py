"""What a recipe's other tables must be for the model to fit, found before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosmos_forge import ForgeError
from cosmos_forge.planning import make_plan
from cosmos_forge.plugins import load_plugins
from cosmos_forge.recipe import read_recipe
from forge_cosmos1.plugin import Video2WorldOptions

RECIPE = """
stages = ["prepare", "train"]
[dataset]
use = "toy-physics"
[latent_tokenizer]
use = "toy"
[text_encoder]
use = "toy"
[model]
use = "cosmos1-video2world"
variant = "tiny"
[method]
use = "full"
[parallelism]
use = "single"
[prepare]
[train]
steps = 1
lr = 1e-4
"""


def problems(tmp_path: Path, *overrides: str) -> list[str]:
    """What `forge run` would say."""
    (tmp_path / "r.toml").write_text(RECIPE)
    recipe = read_recipe(tmp_path / "r.toml", overrides)
    try:
        make_plan(recipe, load_plugins(), runs=tmp_path / "runs")
    except ForgeError as error:
        return [problem.what for problem in error.problems]
    return []


def test_the_tiny_recipe_is_right(tmp_path: Path) -> None:
    assert problems(tmp_path) == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["text_encoder.width=32"], "text of width 32 does not fit the model's variant tiny, which takes 64"),
        (["dataset.num_frames=9"], "given_frames_max = 2 leaves nothing to learn of 2 latent frames"),
        (["dataset.height=968"], "height = 968 gives 242 latents, the model takes at most 240"),
        (["generate.height=968"], "[generate] height = 968 gives 242 latents, the model takes at most 240"),
        (["latent_tokenizer.use=cosmos-cv8x8x8", "dataset.width=72"], "width = 72 gives 9 latents"),
        (["model.weights=nowhere.safetensors"], "there is nothing at nowhere.safetensors"),
        (["model.weights=run:never"], "there is no run never"),
        (["model.given_frames_min=3"], "given_frames_min must be at most given_frames_max = 2"),
        (["model.variant=8b"], "variant must be"),
    ],
)
def test_misfits_are_said(tmp_path: Path, overrides: list[str], said: str) -> None:
    assert any(said in what for what in problems(tmp_path, *overrides)), problems(tmp_path, *overrides)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ([17, 72, 80], "other_sizes: height = 72 gives 9 latents"),
        ([9, 64, 80], "given_frames_max = 2 leaves nothing to learn of 2 latent frames"),
        ([17, 64, 80], ""),
    ],
)
def test_further_sizes_must_fit_too(tmp_path: Path, size: list[int], said: str) -> None:
    (tmp_path / "a.mp4").touch()
    folder = ["dataset.use=video-folder", f"dataset.path={tmp_path}", "dataset.caption=A video."]
    sizes = ["dataset.num_frames=17", "dataset.height=64", "dataset.width=96", f"dataset.other_sizes=[{size}]"]
    found = problems(tmp_path, "latent_tokenizer.use=cosmos-cv8x8x8", *folder, *sizes)
    found = [what for what in found if "not on this machine" not in what]
    assert len(found) == bool(said) and all(said in what for what in found), found


def test_downloads() -> None:
    """Published weights unless the recipe names others; there are none for tiny."""
    assert [need.repo for need in Video2WorldOptions().needs()] == ["nvidia/Cosmos-Predict1-7B-Video2World"]
    assert Video2WorldOptions(weights="w.pt").needs() == Video2WorldOptions(weights="fresh").needs() == []
    assert Video2WorldOptions(variant="tiny").needs() == []
    assert Video2WorldOptions(variant="tiny").fresh
    assert not Video2WorldOptions(variant="tiny", weights="w.pt").fresh


def test_what_the_published_weights_have_not_seen_is_said() -> None:
    published = Video2WorldOptions()
    assert list(published.untried(121, 704, 1280, 24, 9)) == []
    said = [each.split(";")[0] for each in published.untried(57, 512, 512, 60, 17)]
    assert said == ["57 frames in one go", "512x512 pixels", "60 frames a second", "17 given frames"]
    assert list(Video2WorldOptions(variant="tiny").untried(57, 512, 512, 60, 17)) == []
