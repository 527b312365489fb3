"""What training left, in the forms of the reference and of diffusers, read by torch, diffusers and our own readers."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from cosmos_forge import ForgeError
from cosmos_forge.types import Result, Trained
from forge_cosmos1 import weights
from forge_cosmos1.plugin import Video2WorldOptions
from forge_cosmos1.variants import VARIANTS
from forge_cosmos1.video2world import Network
from forge_cosmos1.weights_export import diffusers, predict1
from forge_cosmos1.weights_files import open_weights
from forge_cosmos1.weights_names import to_diffusers

OPTIONS = Video2WorldOptions(variant="tiny")
RANK, SCALE = 3, 2.0
OWN_RANK, OWN_SCALE = 5, 0.5  # of cross-attention's layers, told by patterns
LAYERS = [f"net.blocks.block{b}.blocks.{part}.block.attn.to_{x}.0" for b in (0, 1) for part in (0, 1) for x in "qv"]
CROSS = "blocks.1.block.attn."
GOLDEN = Path(os.environ.get("FORGE_GOLDEN", Path(__file__).parents[4] / "shared" / "golden")) / "lora/b_checkpoint"


def state(seed: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        net = Network(VARIANTS["tiny"])
    weights.initialise(net, seed, torch.device("cpu"), torch.float32)
    return {name: value.detach() for name, value in net.state_dict().items()}


def adapters(seed: int, base: dict[str, Tensor], layers: list[str], dora: bool = False) -> Result:
    """Random ones in peft's layout."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for layer in layers:
        (out, into), name = base[f"{layer}.weight"].shape, f"base_model.model.{layer}"
        rank = OWN_RANK if CROSS in layer else RANK
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, into, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(out, rank, generator=generator) * 0.1
        if dora:
            tensors[f"{name}.lora_magnitude_vector"] = torch.rand(out, generator=generator)
    own = [layer for layer in layers if CROSS in layer]
    patterns = {
        "rank_pattern": dict.fromkeys(own, OWN_RANK),
        "alpha_pattern": dict.fromkeys(own, OWN_SCALE * OWN_RANK),
    }
    config = {"r": RANK, "lora_alpha": SCALE * RANK, **patterns, "use_dora": dora}
    return Result("adapter_model", tensors, {"adapter_config.json": json.dumps(config)})


def merged(base: dict[str, Tensor], result: Result) -> dict[str, Tensor]:
    """By the formula."""
    tensors, whole = result.tensors, dict(base)
    for layer in {name.removeprefix("base_model.model.").split(".lora_")[0] for name in tensors}:
        down, up = (tensors[f"base_model.model.{layer}.lora_{part}.weight"] for part in "AB")
        value = base[f"{layer}.weight"] + (OWN_SCALE if CROSS in layer else SCALE) * up @ down
        length = tensors.get(f"base_model.model.{layer}.lora_magnitude_vector")
        whole[f"{layer}.weight"] = value if length is None else value * (length / value.norm(dim=1))[:, None]
    return whole


def adapted(ema: bool = True, layers: list[str] = LAYERS, dora: bool = False) -> Trained:
    base = state(0)
    regular = adapters(1, base, layers, dora)
    averaged = adapters(2, base, layers, dora) if ema else None
    chosen = averaged or regular
    return Trained(700, 1400, base, regular, averaged, chosen, merged(base, chosen))


def write(files: dict[str, Any], folder: Path) -> None:
    for name, put in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        put(folder / name)


def test_whole_weights_for_the_reference(tmp_path: Path) -> None:
    """Two files, bare: regular ones in the network's precision, averages in float32; buffers are in both."""
    base = {name: value.bfloat16() for name, value in state(0).items()}
    trains = [name for name in base if name != "net.pos_embedder.seq" and "logvar.0" not in name]
    regular, averaged = ({name: state(seed)[name] for name in trains} for seed in (1, 2))
    reg, ema = Result("model", regular), Result("model", averaged)
    trained = Trained(2000, 16000, base, reg, ema, ema, base)
    write(predict1(OPTIONS, trained), tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "iter_000002000_ema_model.pt",
        "iter_000002000_reg_model.pt",
    ]
    for kind, dtype, expected in (("reg", torch.bfloat16, regular), ("ema", torch.float32, averaged)):
        file = torch.load(tmp_path / f"checkpoints/iter_000002000_{kind}_model.pt", weights_only=True)
        assert set(file) == set(base) and {value.dtype for value in file.values()} == {dtype}
        assert all(torch.equal(file[name], expected[name].to(dtype)) for name in trains)
    write(predict1(OPTIONS, Trained(1, 1, base, reg, None, reg, base)), tmp_path / "alone")
    assert [path.name for path in (tmp_path / "alone/checkpoints").iterdir()] == ["iter_000000001_reg_model.pt"]


@pytest.mark.parametrize("ema", [False, True])
def test_adapters_for_the_reference(tmp_path: Path, ema: bool) -> None:
    """Base and adapters in one file, which merged gives what training gave; the averages beside them, in float32."""
    trained = adapted(ema)
    write(predict1(OPTIONS, trained), tmp_path)
    path = tmp_path / "checkpoints" / "iter_000000700_model.pt"
    file = torch.load(path, weights_only=True)
    assert file["trained_data_record"] == {"image": 0, "video": 1400, "iteration": 700}
    assert (file["ema"] is not None) == ema
    for averaged, result in [(False, trained.regular)] + ([(True, trained.averaged)] if ema else []):
        expected = merged(dict(trained.base), result)
        found = open_weights(path, averaged=averaged).entries
        assert set(found) == set(expected)
        for name, value in expected.items():
            torch.testing.assert_close(found[name].read(), value, rtol=0, atol=1e-6)


def test_adapters_are_called_as_in_a_file_of_the_reference(tmp_path: Path) -> None:
    """The same names as in a recorded file, of as many blocks, but for what transformer_engine leaves there."""
    if not GOLDEN.is_dir():
        pytest.skip(f"no recorded files of the reference in {GOLDEN}")
    recorded = json.loads((GOLDEN / "k2_ema.json").read_text())["iter_000000010_model.pt"]
    write(predict1(OPTIONS, adapted()), tmp_path)
    file = torch.load(tmp_path / "checkpoints" / "iter_000000700_model.pt", weights_only=True)
    assert set(file["model"]) == {name for name in recorded["model"] if not name.endswith("_extra_state")}
    assert set(file["ema"]) == set(recorded["ema"])
    assert set(file["trained_data_record"]) == set(recorded["top_level"]["trained_data_record"])


def test_what_the_reference_has_no_name_for() -> None:
    with pytest.raises(ForgeError, match="no name for an adapter of `net"):
        predict1(OPTIONS, adapted(layers=["net.blocks.block0.blocks.2.block.layer1"]))
    with pytest.raises(ForgeError, match="no name for the lengths that DoRA trains"):
        predict1(OPTIONS, adapted(dora=True))
    with pytest.raises(ForgeError, match=r"diffusers has no name for the layer `logvar\.1`"):
        diffusers(OPTIONS, adapted(layers=["logvar.1"]))


@pytest.mark.parametrize("dora", [False, True])
def test_diffusers_loads_adapters(tmp_path: Path, dora: bool) -> None:
    """Its own loader puts them beside its own layers, which then give what the merged weights give."""
    theirs = pytest.importorskip("diffusers", minversion="0.36")  # whose network takes adapters
    more = ["net.blocks.block1.blocks.2.block.layer1", "net.blocks.block0.blocks.1.block.attn.to_out.0"]
    trained = adapted(layers=LAYERS + more, dora=dora)
    write(diffusers(OPTIONS, trained), tmp_path)
    model = theirs.CosmosTransformer3DModel(
        in_channels=17, num_attention_heads=4, attention_head_dim=32, num_layers=2,
        text_embed_dim=64, adaln_lora_dim=32,
    )  # fmt: skip
    named = {to_diffusers(name): value for name, value in trained.base.items() if to_diffusers(name)}
    model.load_state_dict(named)
    model.load_lora_adapter(str(tmp_path), weight_name="pytorch_lora_weights.safetensors")
    for layer in LAYERS + more:
        module = model.get_submodule(to_diffusers(f"{layer}.weight").removesuffix(".weight"))
        x = torch.randn(5, module.in_features, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(module(x), F.linear(x, trained.merged[f"{layer}.weight"]), rtol=0, atol=1e-4)
        assert (module(x) - F.linear(x, trained.base[f"{layer}.weight"])).abs().max() > 0.1


def test_diffusers_gets_the_weights_that_the_export_chose(tmp_path: Path) -> None:
    """The regular ones, where they were asked for and averages are kept too."""
    trained = adapted()
    write(diffusers(OPTIONS, replace(trained, chosen=trained.regular)), tmp_path)
    down = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    name = f"transformer.{to_diffusers(f'{LAYERS[0]}.weight').removesuffix('weight')}lora_A.weight"
    assert torch.equal(down[name], trained.regular.tensors[f"base_model.model.{LAYERS[0]}.lora_A.weight"])


def test_diffusers_loads_whole_weights(tmp_path: Path) -> None:
    theirs, after = pytest.importorskip("diffusers"), state(1)
    result = Result("model", after)
    write(diffusers(OPTIONS, Trained(1, 1, state(0), result, None, result, after)), tmp_path)
    model = theirs.CosmosTransformer3DModel.from_pretrained(tmp_path / "diffusers" / "transformer")
    for name, value in after.items():
        if there := to_diffusers(name):
            assert torch.equal(model.state_dict()[there], value), name
