"""Recipes plan: those that are shipped, and those that the documentation shows."""

import os
import subprocess
import sys

import pytest

LANGUAGE = "toml"


@pytest.fixture
def explain(root, tmp_path):
    """What `forge explain` says of a recipe, in a folder with clips in `data/clips`."""
    (tmp_path / "data" / "clips" / "videos").mkdir(parents=True)
    (tmp_path / "data" / "clips" / "videos" / "0.mp4").touch()
    (tmp_path / "recipes").symlink_to(root / "recipes")

    def run(recipe: str, *overrides: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "cosmos_forge", "explain", recipe, *overrides],
            cwd=tmp_path,
            env={**os.environ, "FORGE_GPUS": "8", "HF_HUB_CACHE": str(tmp_path / "hub")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_every_shipped_recipe_plans(root, explain):
    shipped = sorted((root / "recipes").rglob("*.toml"))
    assert len(shipped) >= 6 and {path.parent for path in shipped} == {root / "recipes"}
    for recipe in shipped:
        # A recipe that goes on from another run's weights plans once that run is there.
        said = explain(
            f"recipes/{recipe.name}", *(["model.weights=recipes/ball.jpg"] if "run:" in recipe.read_text() else [])
        )
        assert "stages = " in said, recipe


def test_every_recipe_of_the_documentation_plans(block, explain, tmp_path):
    if "extends" not in block.text:
        pytest.skip("a part of a recipe")
    (tmp_path / "mine.toml").write_text(block.text)
    assert "stages = " in explain("mine.toml")
