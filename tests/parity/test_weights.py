"""Training files that the reference wrote, and its names in diffusers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cosmos_forge import ForgeError
from forge_cosmos1 import weights
from forge_cosmos1.dit import DiTConfig
from forge_cosmos1.video2world import Network
from forge_cosmos1.weights_files import open_weights
from forge_cosmos1.weights_names import from_diffusers, to_diffusers

TOLERANCE = 1e-5
POSITIONS = "net.extra_pos_embedder.*"
BF16 = 2.0**-8  # what rounding to bfloat16 changes, relatively


def load(config: DiTConfig, path: Path, **options: Any) -> tuple[Network, str]:
    with torch.device("meta"):
        net = Network(config)
    return net, weights.load(net, path, torch.device("cpu"), torch.float32, **options)


@torch.no_grad()
def output(net: Network, case: Any) -> Tensor:
    given = case.part("in/")
    names = ("x", "timesteps", "crossattn_emb", "fps", "condition_video_input_mask", "padding_mask")
    return net(*(given[name] for name in names))[0]


@pytest.mark.golden("b_checkpoint/*")
def test_training_file(case: Any, check: Callable[..., None]) -> None:
    """Adapters are merged on reading, regular or averaged, and nothing is left over."""
    folder, config = case.path.with_suffix(""), case.dit_config()
    file, scale = folder / "iter_000000010_model.pt", case.record["config"]["peft_control"]["scale"]
    net, said = load(config, folder / "base_model.pt", allow_missing=["logvar.*"])
    check("base", output(net, case), case.tensors["out/training_net_lora_off"], TOLERANCE)
    assert "adapters" not in said

    net, said = load(config, file, lora_scale=scale)
    count = sum(name.startswith("net.") for name in net.state_dict())
    assert f"{count} of {count} tensors" in said and f"layers with adapters merged in: 8, at scale {scale}" in said
    check("adapted", output(net, case), case.tensors["out/training_net_regular_lora"], TOLERANCE)
    if case.record["config"]["ema"]:
        assert "its regular weights, not the averaged ones" in said
        net, said = load(config, file, averaged=True, lora_scale=scale)
        assert "averaged weights for 16 of" in said
        # The reference rounds the averages to bfloat16, the size of whose effect is that of the adapters' times 2^-8.
        effect = case.tensors["out/loaded"] - case.tensors["out/training_net_lora_off"]
        tolerance = BF16 * effect.abs().max().item()
        check("averaged", output(net, case), case.tensors["out/loaded"], tolerance)
    else:
        with pytest.raises(ForgeError, match="holds no averaged weights"):
            load(config, file, averaged=True)


@pytest.mark.golden("b_checkpoint/k1*")
def test_file_without_positions(case: Any, check: Callable[..., None]) -> None:
    """Refused by the published network, unless the recipe allows it; then read as what it was trained as."""
    file = case.path.with_suffix("") / "iter_000000010_model.pt"
    config = replace(case.dit_config(), extra_per_block_abs_pos_emb=True)
    with pytest.raises(ForgeError) as error:
        load(config, file)
    assert all(name in str(error.value) for name in case.record["load_report"]["missing"])
    net, said = load(config, file, allow_missing=[POSITIONS])
    assert "not in the file, so set afresh: net.extra_pos_embedder.pos_emb_t" in said
    check("adapted", output(net, case), case.tensors["out/training_net_regular_lora"], TOLERANCE)


@pytest.mark.golden("b_checkpoint/k2*")
def test_averaged_adapters(case: Any, check: Callable[..., None]) -> None:
    file = case.path.with_suffix("") / "iter_000000010_model.pt"
    base = open_weights(file.with_name("base_model.pt")).entries
    merged = open_weights(file, averaged=True, lora_scale=0.5).entries
    layer = "net.blocks.block1.blocks.1.block.attn.to_v"
    down, up = (case.tensors[f"ckpt/ema/{layer}_lora.net.{i}.weight".replace(".", "-")] for i in (0, 1))
    layer += ".0.weight"
    check("merged at half scale", merged[layer].read(), base[layer].read().float() + 0.5 * (up @ down), 1e-7)


@pytest.mark.golden("h_diffusers/key_map")
def test_names_in_diffusers(case: Any, check: Callable[..., None]) -> None:
    dropped = case.record["dropped"]
    assert [to_diffusers(name if "logvar" in name else f"net.{name}") for name in dropped] == [None] * len(dropped)
    kept = {f"net.{ours}": theirs for ours, theirs in case.record["patterns"].items() if ours not in dropped}
    ours, theirs = ([name.format(i=17) for name in names] for names in (kept, kept.values()))
    assert [to_diffusers(name) for name in ours] == theirs
    assert [from_diffusers(name) for name in theirs] == ours
    check("names", len(set(ours)), len(theirs), 0)
