"""Fills a network that was built on the meta device: from a file of weights, or afresh.

Read are safetensors (one file, or several with an index) and the reference's `.pt` files, never by unpickling code.
Every key is accounted for: the reference's own loader drops what does not fit without a word, and the result is noise.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from cosmos_forge import ForgeError

CONSTANTS = {"net.pos_embedder.seq"}  # 0, 1, 2, ..: known without a file
WRAPPERS = ("model", "module", "state_dict")  # under which training files keep the weights
LISTED = 8  # keys that an error shows of each sort


@dataclass(frozen=True)
class Entry:
    """A tensor of a file, not read yet."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def load(net: nn.Module, path: Path, device: torch.device, dtype: torch.dtype) -> str:
    """Fills `net` from `path` (a file, or a folder with one), tensor by tensor; returns a line that says so.

    Parameters get `dtype`, buffers stay float32. Raises ForgeError listing every missing, unexpected or misshapen key.
    """
    wanted, found = net.state_dict(), entries(path)
    _require_match(wanted, found, path)
    for name in wanted:
        if name in found:
            place(net, name, found[name].read(), device, dtype)
        else:
            place(net, name, fresh(name, wanted[name].shape, torch.Generator()), device, dtype)
    total = sum(name.startswith("net.") for name in wanted)
    read = sum(name.startswith("net.") for name in found)
    return f"{read} of {total} tensors of the network read from {path}"


def initialise(net: nn.Module, seed: int, device: torch.device, dtype: torch.dtype) -> None:
    """Fills `net` afresh. Numbers are drawn on the CPU, so they are the same on any device."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        place(net, name, fresh(name, tensor.shape, generator), device, dtype)


def place(net: nn.Module, name: str, value: Tensor, device: torch.device, dtype: torch.dtype) -> None:
    """Puts `value` where a tensor on the meta device stood."""
    path, _, leaf = name.rpartition(".")
    module = net.get_submodule(path)
    is_parameter = leaf in dict(module.named_parameters(recurse=False))
    value = value.to(device, dtype if is_parameter else torch.float32)
    setattr(module, leaf, nn.Parameter(value) if is_parameter else value)


def fresh(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """A tensor as training from scratch begins with it, float32 (`initialize_weights` of the reference's networks).

    Modulations start at what all blocks share. Upstream: the log-variance starts at random, here at zero.
    """
    value = torch.zeros(shape)
    if name.endswith("pos_embedder.seq"):
        return torch.arange(shape[0], dtype=torch.float32)
    if name.endswith((".adaLN_modulation.2.weight", "logvar.1.weight")):
        return value
    if "extra_pos_embedder." in name:
        return nn.init.trunc_normal_(value, std=0.02, generator=generator)
    if ".linear_1." in name or ".linear_2." in name:
        return nn.init.normal_(value, std=0.02, generator=generator)
    if name.endswith("logvar.0.freqs"):
        return 2 * math.pi * torch.randn(shape, generator=generator)
    if name.endswith("logvar.0.phases"):
        return 2 * math.pi * torch.rand(shape, generator=generator)
    if value.ndim == 1:
        return value + 1  # a norm
    return nn.init.xavier_uniform_(value, generator=generator)


def entries(path: Path) -> dict[str, Entry]:
    """The tensors behind `path`, by the network's names for them; nothing is read yet. Raises ForgeError."""
    if path.is_dir():
        path = _in_folder(path)
    if not path.exists():
        raise ForgeError(f"there are no weights at {path}", "give the path of a .safetensors or .pt file")
    if path.suffix == ".safetensors":
        found = _safetensors(path)
    elif path.suffix == ".json":
        files = set(json.loads(path.read_text())["weight_map"].values())
        found = {name: entry for file in sorted(files) for name, entry in _safetensors(path.parent / file).items()}
    else:
        found = _checkpoint(path)
    return {_plain(name): entry for name, entry in found.items() if "_extra_state" not in name}


def _in_folder(folder: Path) -> Path:
    names = ("model.safetensors", "model.safetensors.index.json", "model.pt")
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise ForgeError(f"{folder} holds no weights", f"it must hold one of {', '.join(names)}")


def _plain(name: str) -> str:
    """Without the traces of torch.compile, and with dots where averaged weights have dashes."""
    name = name.replace("_orig_mod.", "")
    return name if "." in name else name.replace("-", ".")


def _safetensors(path: Path) -> dict[str, Entry]:
    file = safe_open(path, framework="pt")
    names = file.keys()
    return {name: Entry(tuple(file.get_slice(name).get_shape()), partial(file.get_tensor, name)) for name in names}


def _checkpoint(path: Path) -> dict[str, Entry]:
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        raise ForgeError(f"{path} cannot be read as tensors only: {error}", "convert it to safetensors") from error
    for wrapper in WRAPPERS:
        if isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return {name: Entry(tuple(value.shape), partial(_same, value)) for name, value in tensors.items()}


def _same(value: Tensor) -> Tensor:
    return value


def _require_match(wanted: Mapping[str, Tensor], found: Mapping[str, Entry], path: Path) -> None:
    sorts = {
        "missing": [name for name in wanted if name not in found and name not in CONSTANTS],
        "unexpected": [name for name in found if name not in wanted],
        "of another shape": [
            f"{name} ({list(found[name].shape)}, not {list(value.shape)})"
            for name, value in wanted.items()
            if name in found and found[name].shape != tuple(value.shape)
        ],
    }
    lines = [
        f"{len(names)} {sort}: {', '.join(names[:LISTED])}{', ..' if len(names) > LISTED else ''}"
        for sort, names in sorts.items()
        if names
    ]
    if lines:
        raise ForgeError(
            f"{path} does not fit the network: {'; '.join(lines)}", "choose the variant that the weights are of"
        )
