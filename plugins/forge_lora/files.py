"""Adapters in files: peft's layout is read and written, those of diffusers and of the reference are read.

In peft's names `lora_A` is down, of (rank, in), `lora_B` is up, of (out, rank), and DoRA's `lora_magnitude_vector` is
of (out,). The reference (cosmos-predict1, training/utils/peft) keeps base and adapters in one `iter_N_model.pt`, where
the adapter of the layer `to_q.0` is `to_q_lora.net.0` (down) and `to_q_lora.net.1` (up). diffusers has one file with
peft's names, each behind its part of the pipeline, and peft's configuration, if at all, in the file's metadata.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from cosmos_forge import ForgeError
from forge_lora.plugin import LoraOptions, ends

PREFIX = "base_model.model."  # what peft puts before every name in a file
STEM = "adapter_model"
CONFIG = "adapter_config.json"
PARTS = {"lora_A.weight": "down", "lora_B.weight": "up", "lora_magnitude_vector": "magnitude"}
END_OF = {part: end for end, part in PARTS.items()}
OF_DIFFUSERS = "pytorch_lora_weights.safetensors"
METADATA = "lora_adapter_metadata"  # where diffusers' file has peft's configuration, each key behind its part's name
THERE = re.compile(r"(?P<layer>.+\.to_[a-z]+)_lora\.net\.(?P<part>[01])\.weight")


@dataclass(frozen=True)
class Adapters:
    """tensors: by layer and part ("down", "up", "magnitude"). scales: by which each layer's product is multiplied,
    where the file says it."""

    path: Path
    tensors: dict[str, dict[str, Tensor]]
    scales: dict[str, float]


def read_adapters(path: Path) -> Adapters:
    """The adapters behind a path: peft's folder, a file in it, or the reference's training file (its regular ones, not
    the averaged). Raises ForgeError where there are none."""
    if path.name == "model.safetensors":  # what a run exports whole, beside its adapter
        path = path.parent
    if path.suffix == ".pt":
        found, scales = _from_reference(path), {}
    else:
        file = path / f"{STEM}.safetensors" if path.is_dir() else path
        if path.is_dir() and not file.exists() and (path / OF_DIFFUSERS).exists():
            file = path / OF_DIFFUSERS
        if not file.exists():
            raise ForgeError(f"there are no adapters at {file}", "give a folder that holds adapter_model.safetensors")
        found = by_layer(load_file(file))
        scales = _scales(_config(file), found)
    if halves := [layer for layer, parts in found.items() if not {"down", "up"} <= parts.keys()]:
        raise ForgeError(f"{path} holds half an adapter: {', '.join(halves)}", "write or download it again")
    if not found:
        raise ForgeError(f"{path} holds no adapters", "give peft's folder, or a training file of Cosmos")
    return Adapters(path, found, scales)


def by_layer(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """peft's tensors by the layer that they stand beside, and their part in it. Raises ForgeError, listing them, for
    those that are no part of an adapter."""
    layers: dict[str, dict[str, Tensor]] = {}
    strangers = []
    for name, tensor in tensors.items():
        end = next((end for end in PARTS if name.endswith(f".{end}")), None)
        if end:
            layers.setdefault(name.removeprefix(PREFIX).removesuffix(f".{end}"), {})[PARTS[end]] = tensor
        else:
            strangers.append(name)
    if layers and strangers:
        what = f"{len(strangers)} of {len(tensors)} tensors are no part of an adapter: {', '.join(strangers)}"
        raise ForgeError(what, "lora_A.weight, lora_B.weight and lora_magnitude_vector are known")
    return layers


def name_of(layer: str, part: str) -> str:
    """peft's name of a part of a layer's adapter."""
    return f"{PREFIX}{layer}.{END_OF[part]}"


def peft_config(options: LoraOptions, layers: list[str]) -> dict[str, Any]:
    """What `adapter_config.json` says of adapters of these layers."""
    ranks = {layer: options.rank_of(layer) for layer in layers}
    alphas = {layer: options.scale_of(layer) * rank for layer, rank in ranks.items()}
    alpha = options.rank if options.alpha is None else options.alpha
    return {
        "peft_type": "LORA",
        "r": options.rank,
        "lora_alpha": alpha,
        "rank_pattern": {layer: rank for layer, rank in ranks.items() if rank != options.rank},
        "alpha_pattern": {layer: each for layer, each in alphas.items() if each != alpha},
        "lora_dropout": options.dropout,
        "use_dora": options.dora,
        "bias": "none",
        "target_modules": layers,
        "base_model_name_or_path": None,
        "inference_mode": True,
    }


def _config(file: Path) -> dict[str, Any]:
    """What peft's configuration says, which lies beside its file or, with diffusers, within; empty where it is lost."""
    beside = file.parent / CONFIG
    if beside.exists():
        return dict(json.loads(beside.read_text(encoding="utf-8")))
    with safe_open(file, framework="pt") as opened:
        said = json.loads((opened.metadata() or {}).get(METADATA, "{}"))
    return {key.rpartition(".")[2]: value for key, value in said.items()}


def _scales(said: Mapping[str, Any], layers: Iterable[str]) -> dict[str, float]:
    """What each layer's product is multiplied by, as peft reads its configuration; none where there is none."""
    if not said:
        return {}

    def of(layer: str, patterns: dict[str, float], otherwise: float) -> float:
        return next((value for end, value in patterns.items() if ends(layer, end)), otherwise)

    def divisor(rank: float) -> float:
        return math.sqrt(rank) if said.get("use_rslora") else rank

    return {
        layer: of(layer, said.get("alpha_pattern") or {}, said["lora_alpha"])
        / divisor(of(layer, said.get("rank_pattern") or {}, said["r"]))
        for layer in layers
    }


def _from_reference(path: Path) -> dict[str, dict[str, Tensor]]:
    """Nothing in the file is run: besides tensors it may hold bytes, which transformer_engine leaves there."""
    try:
        with torch.serialization.safe_globals([io.BytesIO]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # there is no end to what a damaged pickle can raise
        raise ForgeError(
            f"{path} cannot be read: {str(error).splitlines()[0]}", "write or download it again"
        ) from error
    state = content.get("model", content) if isinstance(content, dict) else {}
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if match := THERE.fullmatch(name):
            part = ("down", "up")[int(match["part"])]
            layers.setdefault(f"{match['layer']}.0", {})[part] = tensor.float()
        elif "_lora." in name:
            raise ForgeError(
                f"{path} has an adapter of another kind: {name}", "those of to_q, to_k, to_v, to_out are known"
            )
    return layers
