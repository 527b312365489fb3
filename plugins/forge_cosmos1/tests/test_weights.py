"""Reading weights: every name is accounted for, and no code runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cosmos_forge import ForgeError
from cosmos_forge.testing import make_context
from forge_cosmos1.archive import Inert, Stored, read_archive
from forge_cosmos1.plugin import Video2WorldOptions
from forge_cosmos1.video2world import Video2World

LAYER = "net.blocks.block1.blocks.0.block.attn.to_v"


def model(folder: Path, weights: Path | None = None, options: dict[str, object] | None = None, **context: object):
    chosen = Video2WorldOptions(variant="tiny", weights=str(weights) if weights else None, **(options or {}))
    return Video2World(chosen, make_context(folder, **context))


@pytest.fixture
def state(tmp_path: Path) -> dict[str, Tensor]:
    fresh = model(tmp_path, seed=11)
    fresh.load()
    return fresh.net.state_dict()


def read(tmp_path: Path, weights: Path, **options: object) -> tuple[dict[str, Tensor], str]:
    """What the model holds after loading, and what it says."""
    notes: list[str] = []
    loaded = model(tmp_path, weights, options, emit=lambda event: notes.append(event.text))
    loaded.load()
    (said,) = notes
    return loaded.net.state_dict(), said


def assert_loads(tmp_path: Path, weights: Path, state: dict[str, Tensor], file: Path | None = None) -> None:
    found, said = read(tmp_path, weights)
    for name, value in found.items():
        assert torch.equal(value, state[name]), name
    count = sum(name.startswith("net.") for name in state)
    assert said == f"{count} of {count} tensors of the network read from {file or weights}"


def test_safetensors(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "w.safetensors")
    assert_loads(tmp_path, tmp_path / "w.safetensors", state)


def test_folder_with_index(tmp_path: Path, state: dict[str, Tensor]) -> None:
    halves = {"a.safetensors": list(state)[::2], "b.safetensors": list(state)[1::2]}
    for file, names in halves.items():
        save_file({name: state[name] for name in names}, tmp_path / file)
    index = {name: file for file, names in halves.items() for name in names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert_loads(tmp_path, tmp_path, state, tmp_path / "model.safetensors.index.json")
    index["net.more"] = "b.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ForgeError, match=r"net\.more in b\.safetensors"):
        model(tmp_path, tmp_path).load()


@pytest.mark.parametrize("wrapper", [None, "model"])
def test_reference_file(tmp_path: Path, state: dict[str, Tensor], wrapper: str | None) -> None:
    """As training leaves it: wrapped, with entries that carry no weights and names of a compiled module."""
    named = {name.replace("net.blocks", "net._orig_mod.blocks"): value for name, value in state.items()}
    named["net.blocks.block0.blocks.0.block.attn.attn_op._extra_state"] = io.BytesIO(bytes(range(256)))
    named["net.blocks.block0.blocks.1.block.attn.attn_op._extra_state"] = torch.zeros(1)
    content = {wrapper: named, "iteration": 10} if wrapper else named
    torch.save(content, tmp_path / "w.pt")
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


class Command:
    """Runs a command when an ordinary unpickler reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("where", ["model", "other"])
def test_code_in_a_file_is_refused(tmp_path: Path, state: dict[str, Tensor], where: str) -> None:
    torch.save({"model": state} | {where: Command(tmp_path / "touched")}, tmp_path / "w.pt")
    with pytest.raises(ForgeError, match=r"names posix\.system"):
        model(tmp_path, tmp_path / "w.pt").load()
    assert not (tmp_path / "touched").exists()


def test_averaged_and_regular(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """One file of both: which one is read is chosen, and said."""
    average = {name.replace(".", "-"): value + 1 for name, value in state.items() if name.endswith("weight")}
    torch.save({"model": state, "ema": average, "trained_data_record": {"video": 10}}, tmp_path / "w.pt")
    regular, said = read(tmp_path, tmp_path / "w.pt")
    assert "; its regular weights, not the averaged ones it also holds" in said
    averaged, said = read(tmp_path, tmp_path / "w.pt", averaged=True)
    assert f"; averaged weights for {len(average)} of {len(state)} tensors" in said
    for name, value in state.items():
        assert torch.equal(regular[name], value), name
        assert torch.equal(averaged[name], value + name.endswith("weight")), name


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_no_averaged_weights(tmp_path: Path, state: dict[str, Tensor], name: str) -> None:
    save_file(state, tmp_path / name) if name == "w.safetensors" else torch.save(state, tmp_path / name)
    with pytest.raises(ForgeError, match="holds no averaged weights"):
        model(tmp_path, tmp_path / name, {"averaged": True}).load()


def test_adapters_are_merged(tmp_path: Path, state: dict[str, Tensor]) -> None:
    down, up = torch.randn(3, 128), torch.randn(128, 3)
    torch.save(state | {f"{LAYER}_lora.net.0.weight": down, f"{LAYER}_lora.net.1.weight": up}, tmp_path / "w.pt")
    found, said = read(tmp_path, tmp_path / "w.pt", lora_scale=0.5)
    assert said.endswith("; layers with adapters merged in: 1, at scale 0.5")
    for name, value in state.items():
        change = 0.5 * up @ down if name == f"{LAYER}.0.weight" else 0
        torch.testing.assert_close(found[name], value + change)


def test_adapters_that_fit_nothing_are_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    more = {f"{LAYER}_lora.net.0.weight": torch.zeros(3, 64), f"{LAYER}_lora.net.1.weight": torch.zeros(128, 3)}
    torch.save(state | more, tmp_path / "w.pt")
    with pytest.raises(ForgeError, match=f"2 unexpected: {re.escape(', '.join(more))}"):
        model(tmp_path, tmp_path / "w.pt").load()


def test_what_a_file_may_lack(tmp_path: Path, state: dict[str, Tensor]) -> None:
    lacking = {name: value for name, value in state.items() if "extra_pos" not in name and "logvar" not in name}
    save_file(lacking, tmp_path / "w.safetensors")
    with pytest.raises(ForgeError, match=r"3 missing: logvar\.0\.freqs"):
        read(tmp_path, tmp_path / "w.safetensors", allow_missing=["net.extra_pos_embedder.*"])
    allowed = ["net.extra_pos_embedder.*", "logvar.*"]
    found, said = read(tmp_path, tmp_path / "w.safetensors", allow_missing=allowed)
    absent = [name for name in state if name not in lacking]
    assert said.endswith(f"; not in the file, so set afresh: {', '.join(absent)}")
    assert all(not found[name].any() for name in absent if "logvar.0" not in name)
    assert found["logvar.0.freqs"].std() > 1


def test_folder_of_diffusers(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """As diffusers writes one. The log-variance, which it does not know, starts afresh, aloud."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.CosmosTransformer3DModel(
        in_channels=17, num_attention_heads=4, attention_head_dim=32, num_layers=2,
        text_embed_dim=64, adaln_lora_dim=32,
    )  # fmt: skip
    theirs.save_pretrained(tmp_path / "pipeline" / "transformer")
    found, said = read(tmp_path, tmp_path / "pipeline")
    count = sum(name.startswith("net.") for name in state)
    assert said.startswith(f"{count - 1} of {count} tensors of the network read from {tmp_path}/pipeline/transformer")
    assert "known without a file: net.pos_embedder.seq; not in the file, so set afresh: logvar.0.freqs" in said
    weight = theirs.transformer_blocks[1].attn2.to_out[0].weight
    assert torch.equal(found["net.blocks.block1.blocks.1.block.attn.to_out.0.weight"], weight)


CONTENT = {
    "plain": torch.arange(6).view(2, 3),
    "turned": torch.arange(12.0).view(3, 4).T,
    "part": torch.arange(20, dtype=torch.int32)[3:9:2],
    "one": torch.tensor(3.5, dtype=torch.float64),
    "none": torch.zeros(0, 4, dtype=torch.bfloat16),
    "flags": torch.tensor([True, False]),
    "parameter": torch.nn.Parameter(torch.ones(2, dtype=torch.float16)),
    "numbers": [1, 2.5, "text", None, (True, {"deep": OrderedDict(a=1)})],
    "state": io.BytesIO(b"bytes"),
}


def test_archive_equals_torch(tmp_path: Path) -> None:
    torch.save(CONTENT, tmp_path / "w.pt")
    with torch.serialization.safe_globals([io.BytesIO]):
        expected = torch.load(tmp_path / "w.pt", weights_only=True)
    found = read_archive(tmp_path / "w.pt")
    assert list(found) == list(expected)
    assert found["numbers"] == expected["numbers"]
    assert isinstance(found["state"], Inert)
    for name, value in expected.items():
        if isinstance(value, Tensor):
            assert isinstance(found[name], Stored)
            assert torch.equal(found[name].read(), value) and found[name].dtype == value.dtype, name


def edited(path: Path, **records: bytes) -> Path:
    """The archive with records replaced, by the end of their names."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, records.get(name.rpartition("/")[2], content))
    return path


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "not a zip file"),
        (lambda path: path.write_bytes(b"PK"), "not a zip file"),
        (lambda path: path.write_bytes(b""), "no zip archive"),
        (lambda path: torch.save(CONTENT, path, _use_new_zipfile_serialization=False), "no zip archive"),
        (lambda path: edited(path, **{"0": b"12"}), "compressed or too short"),
        (lambda path: edited(path, **{"data.pkl": pickle.dumps([1])[:-1]}), "Ran out of input|truncated"),
        (lambda path: edited(path, **{"data.pkl": pickle.dumps([1])}), "no weights but a list"),
        (lambda path: edited(path, **{"data.pkl": pickle.dumps({"a": 1})}), "holds no weights"),
        (lambda path: edited(path, byteorder=b"big"), "big-endian"),
    ],
)
def test_damaged_files(tmp_path: Path, damage, what: str) -> None:
    torch.save(CONTENT, tmp_path / "w.pt")
    damage(tmp_path / "w.pt")
    with pytest.raises(ForgeError, match=what):
        model(tmp_path, tmp_path / "w.pt").load()


def test_a_tensor_does_not_reach_beyond_its_numbers(tmp_path: Path) -> None:
    class Reaching:
        def __reduce__(self) -> tuple[object, ...]:
            rebuild, (storage, _, *rest) = torch.zeros(4).__reduce_ex__(2)
            return rebuild, (storage, 1, *rest)

    torch.save({"w": Reaching()}, tmp_path / "w.pt")
    with pytest.raises(ForgeError, match="reaches beyond its numbers"):
        read_archive(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["nothing.safetensors", "."])
def test_no_weights_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ForgeError, match="weights"):
        model(tmp_path, tmp_path / name).load()
