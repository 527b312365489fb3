"""Weights out of runs: what a checkpoint gives, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cosmos_forge import checkpoint, events
from cosmos_forge.errors import ForgeError
from cosmos_forge.loading import load_model
from cosmos_forge.plan import Plan, make_plan
from cosmos_forge.plugins import load_plugins
from cosmos_forge.recipe import read_recipe
from cosmos_forge.testing import make_context

LORA = ["method.use=lora", "method.rank=2", "method.alpha=3.0"]
STEPS = ["train.steps=6", "train.save_every=2", "train.log_every=6", "train.keep_checkpoints=2"]
STAGES = ("export",)  # what the plans of these tests are for: it needs the model and nothing of the dataset


@pytest.fixture(scope="module")
def runs(workplace, monkeypatch_module) -> Path:
    """`kitchen`: adapters with averages. `second`: all weights, without, from a checkpoint of `kitchen`."""
    only = "stages=['prepare', 'train', 'export']"
    workplace.run("kitchen", *LORA, *STEPS, "train.ema=true", only)
    workplace.run("second", *STEPS, "model.weights=run:kitchen@4-regular", only)
    monkeypatch_module.chdir(workplace.folder)
    return workplace.folder / "runs"


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def plan_with(weights: str, *overrides: str) -> Plan:
    recipe = read_recipe(Path("small.toml"), [f'model.weights="{weights}"', *overrides])
    return make_plan(recipe, load_plugins(), "another", stages=STAGES)


def loaded(weights: str, tmp_path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The network's tensors, and what was said."""
    plan, said = plan_with(weights), list[str]()
    context = make_context(tmp_path, resolve=plan.resolve, emit=lambda event: said.append(getattr(event, "text", "")))
    return load_model(plan, context, plan.options("model").weights).net.state_dict(), said


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["kitchen", "second"])
@pytest.mark.parametrize("which", ["newest", "6"])
def test_the_newest_is_what_was_exported(runs: Path, name: str, which: str, tmp_path: Path) -> None:
    """Bit by bit, without the file; averaged where the run keeps averages."""
    found, said = loaded(f"run:{name}@{which}", tmp_path)
    assert same(found, load_file(runs / name / "export" / "model.safetensors"))
    kind = "averaged" if name == "kitchen" else "regular"
    changed = 8 if name == "kitchen" else len(found) - 3  # the log-variance's features are constants, as are positions
    assert said[-1] == f"{kind} weights of step 6 of run {name}: {changed} of {len(found)} tensors are what it trained"
