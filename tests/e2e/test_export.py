"""What the stage export leaves of a run with adapters, and that it says whether training changed anything."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from cosmos_forge import events

LORA = ["method.use=lora", "method.rank=4", "method.targets=['attn.to_[qv].0']", "train.steps=3", "train.ema=true"]
FORMS = ["export.forms=['predict1', 'diffusers']", "stages=['prepare', 'train', 'export']"]


@pytest.fixture(scope="module")
def first(workplace):
    """A run whose adapters are also left in other forms, below the folder of a job of the reference."""
    workplace.run("first", *LORA, *FORMS, "export.folder=out/posttraining/group/first")
    return workplace.of("first")


def notes(workplace, name):
    return [event.text for event in workplace.events(name) if isinstance(event, events.Note)]


def test_says_what_is_adapted_and_that_it_changed(workplace, first):
    said = "\n".join(notes(workplace, "first"))
    assert "8 of 8 layers adapted, 7,680 parameters (16 tensors)" in said
    assert re.search(r"training changed 8 of \d+ tensors, by \d\.\de-\d\d to \d\.\de-\d\d of their length", said)


def test_forms_lie_where_they_were_asked_for(workplace, first):
    out = workplace.folder / "out" / "posttraining" / "group" / "first"
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == ["checkpoints/iter_000000003_model.pt", "pytorch_lora_weights.safetensors"]
    file = torch.load(out / files[0], weights_only=True)
    assert len(file["ema"]) == 16 and file["trained_data_record"]["video"] == 12
    alone = load_file(first / "export" / "adapter_model.safetensors")
    name = "net.blocks.block0.blocks.1.block.attn.to_v{}.weight"
    averaged = alone["base_model.model." + name.format(".0.lora_B")]
    assert torch.equal(file["ema"][name.format("_lora.net.1").replace(".", "-")], averaged) and averaged.any()
    left = json.loads((first / "stages" / "export.json").read_text())["artifacts"]
    assert {"predict1: iter_000000003_model.pt", "diffusers: pytorch_lora_weights.safetensors"} <= set(left)
    workplace.run("first", *LORA, *FORMS, "export.folder=out/posttraining/group/first")
    assert isinstance(workplace.events("first")[-1], events.RunFinished)
    assert [event.stage for event in workplace.events("first") if isinstance(event, events.StageSkipped)][
        -1
    ] == "export"


def test_another_run_goes_on_from_the_adapters(workplace, first):
    """From those of a run, with the weights that this one started from; training begins where it ended."""
    base = ["model.weights=run:plain", "stages=['prepare', 'train', 'export']"]
    workplace.run("plain", "train.steps=1", "stages=['prepare', 'train', 'export']")
    workplace.run("begun", *LORA, *base, "train.ema=false")
    workplace.run("gone-on", *LORA, *base, "method.start=run:begun", "train.ema=false", "train.lr=1e-30")
    assert any(text.endswith("going on from runs/begun/export") for text in notes(workplace, "gone-on"))
    before, after = (
        load_file(workplace.of(name) / "export/adapter_model.safetensors") for name in ("begun", "gone-on")
    )
    assert all(torch.allclose(after[name], value, rtol=1e-6, atol=1e-12) for name, value in before.items())


def test_training_that_changes_nothing_is_told(workplace):
    said = workplace.run(
        "nothing", *LORA[:3], "train.steps=1", "train.lr=1e-30", "stages=['prepare', 'train', 'export']", code=2
    )
    assert "training changed nothing: all" in said


def test_forms_that_the_model_has_not(workplace):
    said = workplace.run("wrong", "export.forms=['predict2']", code=2)
    assert "offers no form `predict2`" in said and "did you mean `predict1`?" in said
