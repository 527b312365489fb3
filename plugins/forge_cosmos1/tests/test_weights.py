"""Reading weights: every name is accounted for, and no code runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cosmos_forge import ForgeError
from cosmos_forge.testing import make_context
from forge_cosmos1.plugin import Video2WorldOptions
from forge_cosmos1.video2world import Video2World


def model(folder: Path, weights: Path | None = None, **context: object) -> Video2World:
    options = Video2WorldOptions(variant="tiny", weights=str(weights) if weights else None)
    return Video2World(options, make_context(folder, **context))


@pytest.fixture
def state(tmp_path: Path) -> dict[str, Tensor]:
    fresh = model(tmp_path, seed=11)
    fresh.load()
    return fresh.net.state_dict()


def assert_loads(tmp_path: Path, weights: Path, state: dict[str, Tensor]) -> None:
    notes: list[str] = []
    loaded = model(tmp_path, weights, emit=lambda event: notes.append(event.text))
    loaded.load()
    for name, value in loaded.net.state_dict().items():
        assert torch.equal(value, state[name]), name
    count = sum(name.startswith("net.") for name in state)
    assert notes == [f"{count} of {count} tensors of the network read from {weights}"]


def test_safetensors(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "w.safetensors")
    assert_loads(tmp_path, tmp_path / "w.safetensors", state)


def test_folder_with_index(tmp_path: Path, state: dict[str, Tensor]) -> None:
    halves = {"a.safetensors": list(state)[::2], "b.safetensors": list(state)[1::2]}
    for file, names in halves.items():
        save_file({name: state[name] for name in names}, tmp_path / file)
    index = {name: file for file, names in halves.items() for name in names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert_loads(tmp_path, tmp_path, state)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", [None, "model"])
def test_reference_file(tmp_path: Path, state: dict[str, Tensor], wrapper: str | None, zipped: bool) -> None:
    """As training leaves it: wrapped, with entries that carry no weights and names of a compiled module."""
    named = {name.replace("net.blocks", "net._orig_mod.blocks"): value for name, value in state.items()}
    named["net.blocks.block0.blocks.0.block.attn.attn_op._extra_state"] = torch.zeros(1)
    content = {wrapper: named, "iteration": 10} if wrapper else named
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert_loads(tmp_path, tmp_path / "w.pt", state)


def test_averaged_weights_with_dashes(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save({name.replace(".", "-"): value for name, value in state.items()}, tmp_path / "w.pt")
    assert_loads(tmp_path, tmp_path / "w.pt", state)


def test_precision_of_the_context(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "w.safetensors")
    loaded = model(tmp_path, tmp_path / "w.safetensors", dtype=torch.bfloat16)
    loaded.load()
    assert {parameter.dtype for parameter in loaded.net.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in loaded.net.buffers()} == {torch.float32}


def test_every_misfit_is_listed(tmp_path: Path, state: dict[str, Tensor]) -> None:
    del state["net.affline_norm.weight"]
    state["net.extra"] = torch.zeros(1)
    state["net.final_layer.linear.weight"] = torch.zeros(64, 100)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ForgeError) as error:
        model(tmp_path, tmp_path / "w.safetensors").load()
    message = str(error.value)
    assert "1 missing: net.affline_norm.weight" in message
    assert "1 unexpected: net.extra" in message
    assert "net.final_layer.linear.weight ([64, 100], not [64, 128])" in message


def test_code_in_a_file_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "touched",)  # type: ignore[return-value]

    torch.save({"model": Evil()}, tmp_path / "w.pt")
    with pytest.raises(ForgeError, match="cannot be read as tensors only"):
        model(tmp_path, tmp_path / "w.pt").load()
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["nothing.safetensors", "."])
def test_no_weights_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ForgeError, match="weights"):
        model(tmp_path, tmp_path / name).load()
