"""Weights out of runs: what checkpoints and adapters give, and what is said where there are none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cosmos_forge import events
from cosmos_forge.errors import ForgeError
from cosmos_forge.generation.loading import load_model
from cosmos_forge.plan import Plan
from cosmos_forge.planning import make_plan
from cosmos_forge.plugins import load_plugins
from cosmos_forge.recipe import read_recipe
from cosmos_forge.testing import make_context
from cosmos_forge.trained import Weights, chain

LORA = ["method.use=lora", "method.rank=2", "method.alpha=3.0"]
STEPS = ["train.steps=6", "train.save_every=2", "train.log_every=6", "train.keep_checkpoints=2", "train.lr=1e-2"]
LAYER = "net.blocks.block1.blocks.0.block.attn.to_q.0.weight"


@pytest.fixture(scope="module")
def runs(workplace):
    """`kitchen`: adapters with averages. `second`: all weights, without, from a checkpoint of `kitchen`."""
    only = "stages=['prepare', 'train', 'export']"
    workplace.run("kitchen", *LORA, *STEPS, "train.ema=true", only)
    workplace.run("second", *STEPS, "model.weights=run:kitchen@4-regular", only)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace.folder)
        yield workplace.folder / "runs"


def plan_with(*overrides: str, name: str = "another", stages: tuple[str, ...] = ("export",)) -> Plan:
    """For stages that need the model and nothing of the dataset."""
    return make_plan(read_recipe(Path("small.toml"), overrides), load_plugins(), name, stages=stages)


def loaded(weights: Weights, tmp_path: Path, name: str = "another") -> tuple[dict[str, Tensor], list[str]]:
    """The network's tensors, and what was said."""
    plan, said = plan_with(name=name), list[events.Event]()
    context = make_context(tmp_path, resolve=plan.resolve, emit=said.append)
    state = load_model(plan, context, weights).net.state_dict()
    return state, [event.text for event in said if isinstance(event, events.Note)]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["kitchen", "second"])
@pytest.mark.parametrize("which", ["newest", "6"])
def test_the_newest_is_what_was_exported(runs: Path, name: str, which: str, tmp_path: Path) -> None:
    """Bit by bit, without the file; averaged where the run keeps averages."""
    found, said = loaded(Weights(f"run:{name}@{which}"), tmp_path)
    assert same(found, load_file(runs / name / "export" / "model.safetensors"))
    assert same(found, loaded(Weights(f"run:{name}"), tmp_path)[0])
    kind = "averaged" if name == "kitchen" else "regular"
    changed = 8 if name == "kitchen" else len(found) - 3  # the log-variance's features are constants, as are positions
    assert said[-1] == f"{kind} weights of step 6 of run {name}: {changed} of {len(found)} tensors are what it trained"


def test_every_kind_and_step_differs(runs: Path, tmp_path: Path) -> None:
    names = ["run:kitchen@4-regular", "run:kitchen@4-ema", "run:kitchen@6-regular", "run:kitchen@ema", "run:second@4"]
    layers = [loaded(Weights(name), tmp_path)[0][LAYER] for name in names]
    assert all(not torch.equal(a, b) for at, a in enumerate(layers) for b in layers[:at])
    assert torch.equal(loaded(Weights("run:kitchen@4"), tmp_path)[0][LAYER], layers[1])
    assert torch.equal(loaded(Weights("run:kitchen@regular"), tmp_path)[0][LAYER], layers[2])
    assert torch.equal(loaded(Weights("@4-regular"), tmp_path, "kitchen")[0][LAYER], layers[0])


def test_best(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the newest checkpoint names it."""
    shutil.copytree(runs / "kitchen", tmp_path / "runs" / "kitchen")
    shutil.copy("small.toml", tmp_path)
    monkeypatch.chdir(tmp_path)
    state = sorted(Path("runs/kitchen/checkpoints").glob("*/state.json"))[-1]
    state.write_text(json.dumps({**json.loads(state.read_text()), "best": 4}))
    assert [str(each) for each in chain(plan_with(), "run:kitchen@best")] == [
        "averaged weights of step 4 of run kitchen"
    ]


WRONG = {
    "run:kitchn@6": "there is no run kitchn in runs",
    "run:kitchen@5": "run kitchen has steps 4, 6; no step is known to be the best; averaged weights are kept",
    "run:kitchen@best": "run kitchen has steps 4, 6; no step is known to be the best",
    "run:second@4-ema": "averaged weights are not kept",
    "run:kitchen@last": "`run:kitchen@last` names no weights of a run",
    "@6": "a run cannot begin from itself",
}


@pytest.mark.parametrize("weights", WRONG)
def test_what_is_not_there_is_told_before_anything_begins(runs: Path, weights: str) -> None:
    with pytest.raises(ForgeError) as raised:
        plan_with(f'model.weights="{weights}"')
    problem = raised.value.problems[0]
    assert WRONG[weights] in problem.what and problem.where and problem.fix


def test_other_networks_and_lost_beginnings(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ForgeError, match="is of another network: variant = tiny, here 7b-video2world"):
        plan_with('model.weights="run:second@6"', 'model.variant="7b-video2world"')
    recipe = runs / "kitchen" / "recipe.toml"
    text = recipe.read_text()
    monkeypatch.setattr("cosmos_forge.machine.is_downloaded", lambda need: False)
    try:
        recipe.write_text(text.replace("[model]\n", '[model]\nweights = "gone.pt"\n'))
        with pytest.raises(ForgeError, match=r"run kitchen began from what is no longer there: .*at gone.pt"):
            plan_with('model.weights="run:second@6"')
    finally:
        recipe.write_text(text)


def delta(folder: Path, layer: str = LAYER) -> Tensor:
    """What an exported adapter adds to a layer, by hand."""
    tensors = load_file(folder / "adapter_model.safetensors")
    up, down = (tensors[f"base_model.model.{layer.removesuffix('weight')}lora_{x}.weight"] for x in "BA")
    return 3.0 / 2 * up @ down


def in_diffusers(folder: Path, path: Path, scale: float) -> None:
    """The adapter as diffusers writes one: its own names, its configuration in the metadata."""
    from forge_cosmos1.weights_names import to_diffusers

    tensors = {}
    for name, value in load_file(folder / "adapter_model.safetensors").items():
        layer, end = name.removeprefix("base_model.model.").split(".lora_")
        tensors[f"transformer.{to_diffusers(layer + '.weight').removesuffix('.weight')}.lora_{end}"] = value
    said = {"transformer.r": 2, "transformer.lora_alpha": 2 * scale}
    save_file(tensors, path, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(said)})


def as_reference(folder: Path, path: Path) -> None:
    """The adapter as the reference's training leaves it: beside the base, without its scale."""
    content = {"net.affline_norm.weight": torch.ones(128)}
    for name, value in load_file(folder / "adapter_model.safetensors").items():
        layer, part = name.removeprefix("base_model.model.").split(".0.lora_")
        content[f"{layer}_lora.net.{'AB'.index(part[0])}.weight"] = value
    torch.save({"model": content, "ema": None}, path)


def test_adapters_add_up(runs: Path, tmp_path: Path) -> None:
    """Of a run's export, of a checkpoint, of peft's folder, diffusers' file and the reference's, each with a strength
    of its own."""
    export = runs / "kitchen" / "export"
    shutil.copytree(export, tmp_path / "peft", ignore=shutil.ignore_patterns("model.safetensors"))
    in_diffusers(export, tmp_path / "theirs.safetensors", scale=0.5)
    as_reference(export, tmp_path / "iter_000000006_model.pt")
    adapters = {
        "run:kitchen": 0.6,
        "run:kitchen@newest": -0.3,
        str(tmp_path / "peft"): 2.0,
        str(tmp_path / "theirs.safetensors"): 1.5,
        str(tmp_path / "iter_000000006_model.pt"): 1.2,
    }
    base, _ = loaded(Weights("run:second"), tmp_path)
    found, said = loaded(Weights("run:second", adapters), tmp_path)
    expected = base[LAYER] + (0.6 - 0.3 + 2.0 + 1.5 * 0.5 / 1.5 + 1.2 / 1.5) * delta(export)
    torch.testing.assert_close(found[LAYER], expected, atol=1e-6, rtol=1e-6)
    assert (found[LAYER] - base[LAYER]).abs().max() > 1e-4
    assert sum(not torch.equal(found[name], base[name]) for name in base) == 8
    assert said[-5:] == [f"{name}: 8 of 8 layers, strength {strength:g}" for name, strength in adapters.items()]
    other = loaded(Weights("run:second", dict(reversed(adapters.items()))), tmp_path)[0]
    torch.testing.assert_close(other[LAYER], found[LAYER], atol=1e-7, rtol=1e-6)


def test_adapters_that_do_not_fit(runs: Path, tmp_path: Path) -> None:
    tensors = load_file(runs / "kitchen" / "export" / "adapter_model.safetensors")
    save_file({name.replace("block1", "block7"): value for name, value in tensors.items()}, tmp_path / "w.safetensors")
    with pytest.raises(ForgeError, match=r"changes 4 of 8 weights that the network has not: net\.blocks\.block7"):
        loaded(Weights("fresh", {str(tmp_path / "w.safetensors"): 1.0}), tmp_path)
    save_file({**tensors, "some.bias": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(ForgeError, match=r"1 of 17 tensors are no part of an adapter: some\.bias"):
        loaded(Weights("fresh", {str(tmp_path / "w.safetensors"): 1.0}), tmp_path)
    given = "{ 'run:second' = 1.0, 'run:nobody' = 0.5, 'nowhere' = 0.5, 'small.toml' = 1.0, 'run:kitchen@6' = 1 }"
    with pytest.raises(ForgeError) as raised:
        plan_with(f"generate.adapters={given}", stages=("generate",))
    said = [problem.what for problem in raised.value.problems]
    assert [line.partition("adapters: ")[2][:44] for line in said] == [
        "run:second was trained with the method `full`"[:44],
        "there is no run nobody in runs",
        "nowhere: there is nothing at nowhere",
        "small.toml: nothing there is an adapter",
    ]


def test_generates_with_them(workplace, runs: Path) -> None:
    """Through the command, with the recipe of the run itself; what was used stands beside the video."""
    one = ["dataset.clips=6", "prepare.held_out=1", "generate.num_frames=9", "generate.given_frames=1"]
    command = ["generate", "runs/second/recipe.toml", "generate.weights=@4", *one]
    workplace.forge(*command, "generate.adapters={ 'run:kitchen@4-ema' = 0.5 }", "--continue")
    record = json.loads(next((runs / "second" / "videos").glob("*.json")).read_text())
    assert record["weights"] == "@4" and record["weights_of"] == "regular weights of step 4 of run second"
    [adapter] = record["adapters"]
    assert (adapter["adapter"], adapter["strength"]) == ("run:kitchen@4-ema", 0.5)
    notes = [event.text for event in workplace.events("second") if isinstance(event, events.Note)]
    assert "run:kitchen@4-ema: 8 of 8 layers, strength 0.5" in notes


def test_a_damaged_checkpoint_is_told_before_anything_is_loaded(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "second", runs / "spoilt")
    state = max((runs / "spoilt" / "checkpoints").glob("step-*/state.json"))
    state.write_text(state.read_text()[:30])
    with pytest.raises(ForgeError, match=r"model.*state.json is damaged"):
        plan_with("model.weights=run:spoilt@best")
