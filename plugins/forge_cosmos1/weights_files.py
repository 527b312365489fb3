"""Opens the files in which weights are kept, whatever wrote them, under the names of the reference's `model.pt`.

Read are safetensors (one file, or several with an index), the reference's released and training files, and a folder of
diffusers. Nothing is loaded yet: an `Entry` reads its tensor when asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cosmos_forge import ForgeError
from forge_cosmos1.archive import Stored, read_archive
from forge_cosmos1.weights_names import from_diffusers

WRAPPERS = ("model", "module", "state_dict")  # under which training files keep the weights
IN_FOLDERS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "model.pt",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
)
DTYPES = {
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I32": torch.int32,
    "I64": torch.int64,
    "U8": torch.uint8,
}
# Adapters of the reference (`training/utils/peft`): y = W x + scale * up(down(x)).
DOWN = re.compile(r"(.+\.to_[a-z]+)_lora\.net\.0\.weight")


@dataclass(frozen=True)
class Entry:
    """A tensor of a file, not read yet. read: may give more precision than `dtype`, where adapters are merged in."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Weights:
    """The tensors behind a path, by the network's names for them.

    notes: what a person should know of how they were read. lacks: patterns of names that this kind of file never has.
    """

    path: Path
    entries: dict[str, Entry]
    notes: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


def open_weights(path: Path, averaged: bool = False, lora_scale: float = 1.0) -> Weights:
    """Opens a file, or a folder that holds one.

    averaged: take the averaged weights (EMA) of a training file that holds both. lora_scale: of adapters in the file,
    which are merged into their layers. Raises ForgeError where there is nothing to read, or not what was asked for.
    """
    path = _file(path)
    notes: list[str] = []
    if path.suffix in (".safetensors", ".json"):
        if averaged:
            _no_average(path)
        found = _safetensors(path) if path.suffix == ".safetensors" else _sharded(path)
    else:
        found = _checkpoint(path, averaged, notes)
    found = {_plain(name): entry for name, entry in found.items() if "_extra_state" not in name}
    if not found:
        raise ForgeError(f"{path} holds no weights", "give the path of a .safetensors or .pt file")
    if any(name.startswith("transformer_blocks.") for name in found):
        found = {from_diffusers(name): entry for name, entry in found.items()}
        return Weights(path, found, tuple(notes), lacks=("logvar.*",))
    if merged := _merge_adapters(found, lora_scale):
        notes.append(f"layers with adapters merged in: {merged}, at scale {lora_scale:g}")
    return Weights(path, found, tuple(notes))


def _file(path: Path) -> Path:
    if path.is_dir():
        if (path / "transformer").is_dir():
            path = path / "transformer"
        for name in IN_FOLDERS:
            if (path / name).exists():
                return path / name
        raise ForgeError(f"{path} holds no weights", f"it must hold one of {', '.join(IN_FOLDERS)}")
    if not path.exists():
        raise ForgeError(f"there are no weights at {path}", "give the path of a .safetensors or .pt file")
    return path


def _plain(name: str) -> str:
    """Without the traces of torch.compile, and with dots where averaged weights have dashes."""
    name = name.replace("_orig_mod.", "")
    return name if "." in name else name.replace("-", ".")


def _safetensors(path: Path) -> dict[str, Entry]:
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
            return {
                name: Entry(tuple(each.get_shape()), DTYPES[each.get_dtype()], partial(_from_safetensors, path, name))
                for name, each in slices.items()
            }
    except (OSError, KeyError, SafetensorError) as error:
        raise ForgeError(f"{path} cannot be read: {error}", "write or download it again") from error


def _from_safetensors(path: Path, name: str) -> Tensor:
    # The file is mapped anew for each tensor: one mapping for all would come to occupy as much memory as the file.
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def _sharded(index: Path) -> dict[str, Entry]:
    try:
        place: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ForgeError(f"{index} cannot be read: {error!r}", "write or download it again") from error
    shards = {file: _safetensors(_file(index.parent / file)) for file in sorted(set(place.values()))}
    absent = [f"{name} in {file}" for name, file in place.items() if name not in shards[file]]
    if absent:
        raise ForgeError(f"{index} names what is not there: {', '.join(absent[:8])}", "write or download it again")
    return {name: shards[file][name] for name, file in place.items()}


def _checkpoint(path: Path, averaged: bool, notes: list[str]) -> dict[str, Entry]:
    content = read_archive(path)
    if not isinstance(content, dict):
        raise ForgeError(f"{path} holds no weights but a {type(content).__name__}", "give a file of named tensors")
    state = content
    for wrapper in WRAPPERS:
        if isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    found, average = _entries(state), content.get("ema")
    if averaged:
        if not (isinstance(average, dict) and average):
            _no_average(path)
        found = {_plain(name): entry for name, entry in found.items()}
        replaced = {_plain(name): entry for name, entry in _entries(average).items()}
        found |= replaced
        notes.append(f"averaged weights for {len(replaced)} of {len(found)} tensors")
    elif average:
        notes.append("its regular weights, not the averaged ones it also holds")
    return found


def _entries(state: Mapping[str, Any]) -> dict[str, Entry]:
    return {
        name: Entry(value.shape, value.dtype, value.read) for name, value in state.items() if isinstance(value, Stored)
    }


def _no_average(path: Path) -> NoReturn:
    raise ForgeError(
        f"{path} holds no averaged weights beside the regular ones",
        "ask for the regular ones, or name the file that holds the averaged ones",
    )


def _merge_adapters(found: dict[str, Entry], scale: float) -> int:
    """Replaces layers and their adapters by the sum. What has no layer, or another shape, stays to be complained of."""
    merged = 0
    for name in list(found):
        match = DOWN.fullmatch(name)
        layer = f"{match[1]}.0.weight" if match else ""
        ups = name.replace(".net.0.", ".net.1.")
        if layer not in found or ups not in found:
            continue
        down, up, weight = found[name], found[ups], found[layer]
        if (up.shape[0], down.shape[1]) == weight.shape and up.shape[1] == down.shape[0]:
            del found[name], found[ups]
            found[layer] = replace(weight, read=partial(_merged, weight, up, down, scale))
            merged += 1
    return merged


def _merged(weight: Entry, up: Entry, down: Entry, scale: float) -> Tensor:
    return weight.read().float() + scale * (up.read().float() @ down.read().float())
