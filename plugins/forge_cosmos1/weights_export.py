"""What training left, in forms that others read: the reference's training files, and diffusers'.

Each form is a function of the model's options and of `Trained`; it says which files there are to be, and how each is
written. Adapters come in peft's layout: `base_model.model.LAYER.lora_A.weight` is down, of (rank, in), `lora_B` is up,
of (out, rank).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cosmos_forge import ForgeError
from cosmos_forge.types import Result, Trained
from forge_cosmos1.variants import VARIANTS
from forge_cosmos1.weights_diffusers import write_pipeline
from forge_cosmos1.weights_files import Entry
from forge_cosmos1.weights_names import to_diffusers

if TYPE_CHECKING:
    from forge_cosmos1.plugin import Video2WorldOptions

Files = dict[str, Callable[[Path], None]]

PEFT_CONFIG = "adapter_config.json"  # lies beside adapters, not beside whole weights
PEFT = re.compile(r"base_model\.model\.(?P<layer>.+)\.(?P<part>lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?")
ADAPTED = re.compile(r"(?P<path>.+\.attn\.to_(?:q|k|v|out))\.0")  # layers whose adapters have a name in the reference


def predict1(options: Video2WorldOptions, trained: Trained) -> Files:
    """`checkpoints/iter_NNNNNNNNN_*.pt`, as the reference's checkpointers leave them in the folder of a job.

    Whole weights are two files of bare names: `_reg_model.pt` in the network's precision and, where averages were kept,
    `_ema_model.pt` in float32 (`FSDPCheckpointer`). Adapters are one `_model.pt` with base, adapters and their averages
    (`peft_checkpointer.Checkpointer`). It has no place for a scale, so that is multiplied into up; the reference's
    scale is then 1. Raises ForgeError for adapters that it has no name for.
    """
    stem = f"checkpoints/iter_{trained.step:09d}"
    if PEFT_CONFIG not in trained.regular.texts:
        regular = {
            name: trained.regular.tensors.get(name, value).to(value.dtype) for name, value in trained.base.items()
        }
        files: Files = {f"{stem}_reg_model.pt": partial(torch.save, regular)}
        if trained.averaged:
            averaged = {name: trained.averaged.tensors.get(name, value).float() for name, value in trained.base.items()}
            files[f"{stem}_ema_model.pt"] = partial(torch.save, averaged)
        return files
    dtype = next(iter(trained.base.values())).dtype
    adapters = {name: value.to(dtype) for name, value in _reference_names(trained.regular).items()}
    averages = trained.averaged and {
        name.replace(".", "-"): value.float() for name, value in _reference_names(trained.averaged).items()
    }
    content = {
        "model": {**trained.base, **adapters},
        "ema": averages,
        "trained_data_record": {"image": 0, "video": trained.samples, "iteration": trained.step},
    }
    return {f"{stem}_model.pt": partial(torch.save, content)}


def diffusers(options: Video2WorldOptions, trained: Trained) -> Files:
    """Of whole weights a folder from which diffusers loads a pipeline; of adapters a file that
    `CosmosTransformer3DModel.load_lora_adapter` takes. Raises ForgeError for adapters of layers that it has not.

    The file has no place for a scale either.
    """
    if PEFT_CONFIG not in trained.regular.texts:
        entries = {
            name: Entry(tuple(value.shape), value.dtype, partial(torch.clone, value))
            for name, value in trained.merged.items()
        }
        return {"diffusers": lambda folder: _pipeline(options, entries, folder)}
    tensors = {}
    for layer, part, value in _scaled(trained.chosen):
        theirs = to_diffusers(f"{layer}.weight")
        if theirs is None:
            raise ForgeError(f"diffusers has no name for the layer `{layer}`", "export without the form diffusers")
        end = part if part == "lora_magnitude_vector" else f"{part}.weight"
        tensors[f"transformer.{theirs.removesuffix('weight')}{end}"] = value.contiguous()
    return {"pytorch_lora_weights.safetensors": partial(save_file, tensors)}


def _pipeline(options: Video2WorldOptions, entries: Mapping[str, Entry], folder: Path) -> None:
    folder.mkdir()
    write_pipeline(folder, VARIANTS[options.variant], entries, None, None, lambda: None)


def _reference_names(result: Result) -> dict[str, Tensor]:
    """Adapters under the reference's names, scale multiplied in."""
    named = {}
    for layer, part, value in _scaled(result):
        match = ADAPTED.fullmatch(layer)
        number = {"lora_A": 0, "lora_B": 1}.get(part)
        if match is None or number is None:
            what = f"an adapter of `{layer}`" if match is None else "the lengths that DoRA trains"
            raise ForgeError(f"the reference has no name for {what}", "export without the form predict1, or merged")
        named[f"{match['path']}_lora.net.{number}.weight"] = value
    return named


def _scaled(result: Result) -> list[tuple[str, str, Tensor]]:
    """Layer, part and value of peft's tensors; up is multiplied by the layer's alpha / rank."""
    config = json.loads(result.texts[PEFT_CONFIG])
    found = []
    for name, value in result.tensors.items():
        match = PEFT.fullmatch(name)
        if match is None:
            raise ForgeError(f"`{name}` is none of an adapter's tensors", "export without other forms")
        layer, part = match["layer"], match["part"]
        alpha, rank = (_own(layer, config, *keys) for keys in (("alpha_pattern", "lora_alpha"), ("rank_pattern", "r")))
        found.append((layer, part, value * alpha / rank if part == "lora_B" else value))
    return found


def _own(layer: str, config: Mapping[str, Any], patterns: str, otherwise: str) -> float:
    """A layer's alpha or rank, as peft reads its configuration: the first pattern that its name ends with counts."""
    found = config.get(patterns) or {}
    return next((value for end, value in found.items() if re.fullmatch(rf"(.*\.)?({end})", layer)), config[otherwise])
