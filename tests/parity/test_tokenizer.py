"""The video tokenizer against recorded clips, with weights under either set of names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cosmos_forge.testing import make_context
from forge_cosmos1.tokenizer import CosmosTokenizer
from forge_cosmos1.tokenizer_layers import Past, patch
from forge_cosmos1.tokenizer_network import Autoencoder
from forge_cosmos1.tokenizer_options import TokenizerOptions
from forge_cosmos1.tokenizer_weights import from_diffusers

TOLERANCE = 2e-5  # values are of size 4


def weights(case: Any) -> dict[str, torch.Tensor]:
    """The network's tensors, as recorded: under diffusers' names, perhaps beside another case."""
    other = case.record["config"].get("weights")
    return (case.beside(other) if other else case).part("weights/")


@pytest.mark.golden("i_tokenizer/key_map")
def test_names(case: Any, check: Callable[..., None]) -> None:
    pairs = case.record["keys"]
    ours = {theirs: name for name, theirs in pairs.items() if theirs}
    wrong = {name for theirs, name in ours.items() if name not in from_diffusers({theirs: torch.empty(0)})}
    check("names that differ", len(wrong), 0, 0)
    check("names missing", len(set(Autoencoder(4).state_dict()) ^ set(ours.values())), 0, 0)


@pytest.mark.golden("i_tokenizer/t[0-9]_*f_*")
def test_network(case: Any, check: Callable[..., None]) -> None:
    state = from_diffusers(weights(case))
    net = Autoencoder(len(state["encoder.conv_in.0.conv3d.weight"])).requires_grad_(False)
    net.load_state_dict(state)
    recorded = case.tensors
    if "mid/patches" in recorded:
        check("patches", patch(recorded["in/video"], Past()), recorded["mid/patches"], 1e-6)
    for at_once in (None, 1):
        how = f", {at_once} at once" if at_once else ""
        check(f"latents{how}", net.encode(recorded["in/video"], at_once), recorded["out/latent"], TOLERANCE)
        check(f"video{how}", net.decode(recorded["out/latent"], at_once), recorded["out/video"], TOLERANCE)


@pytest.mark.golden("i_tokenizer/*wrapper*")
def test_normalised_and_cut(case: Any, check: Callable[..., None], tmp_path: Path) -> None:
    recorded = case.tensors
    save_file(weights(case), tmp_path / "tokenizer.safetensors")
    torch.save((recorded["in/mean"], recorded["in/std"]), tmp_path / "mean_std.pt")
    torch.save((recorded["in/image_mean"], recorded["in/image_std"]), tmp_path / "image_mean_std.pt")
    options = TokenizerOptions(
        weights=str(tmp_path), chunk_frames=case.record["config"]["pixel_chunk_duration"], single_pictures=True
    )
    tokenizer = CosmosTokenizer(options, make_context(tmp_path))
    for what, latents, video in (("image", "out/image_latent", "image"), ("video", "out/latent", "video")):
        check(f"{what}: latents", tokenizer.encode(recorded[f"in/{video}"]), recorded[latents], TOLERANCE)
        check(f"{what}: decoded", tokenizer.decode(recorded[latents]), recorded[f"out/{video}"], TOLERANCE)
