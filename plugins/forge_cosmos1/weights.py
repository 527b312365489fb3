"""Fills a network that was built on the meta device: from a file of weights, or afresh.

Every name is accounted for: the reference's own loader drops what does not fit without a word, and the result is noise.
Tensors are read one at a time, straight into their place; so the host never holds more than one beside the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from cosmos_forge import ForgeError
from forge_cosmos1.weights_files import Weights, open_weights

CONSTANTS = ("net.pos_embedder.seq",)  # 0, 1, 2, ..: known without a file
LISTED = 8  # names that an error shows of each sort


def load(
    net: nn.Module,
    path: Path,
    device: torch.device,
    dtype: torch.dtype,
    *,
    averaged: bool = False,
    lora_scale: float = 1.0,
    allow_missing: Sequence[str] = (),
) -> str:
    """Fills `net` from `path` (see `open_weights`), tensor by tensor; returns a line that says how.

    Parameters get `dtype`, buffers stay float32. allow_missing: patterns of names that the file may lack. Raises
    ForgeError listing every missing, unexpected or misshapen name.
    """
    weights, wanted = open_weights(path, averaged, lora_scale), net.state_dict()
    missing = match({name: value.shape for name, value in wanted.items()}, weights, allow_missing)
    generator = torch.Generator().manual_seed(0)
    for name, value in wanted.items():
        entry = weights.entries.get(name)
        place(net, name, entry.read() if entry else absent(name, value.shape, generator), device, dtype)
    return account(wanted, weights, missing)


def match(wanted: Mapping[str, torch.Size], weights: Weights, allow_missing: Sequence[str] = ()) -> list[str]:
    """Names that the file may lack and does, constants aside. Raises ForgeError listing all that does not fit."""
    found = weights.entries
    lacking = [name for name in wanted if name not in found and name not in CONSTANTS]
    excused = [name for name in lacking if any(fnmatchcase(name, each) for each in (*weights.lacks, *allow_missing))]
    sorts = {
        "missing": [name for name in lacking if name not in excused],
        "unexpected": [name for name in found if name not in wanted],
        "of another shape": [
            f"{name} ({list(found[name].shape)}, not {list(shape)})"
            for name, shape in wanted.items()
            if name in found and found[name].shape != tuple(shape)
        ],
    }
    lines = [f"{len(names)} {sort}: {_listed(names)}" for sort, names in sorts.items() if names]
    if lines:
        fix = "choose the variant that the weights are of"
        if sorts["missing"]:
            fix += "; what the file may lack is named in allow_missing"
        raise ForgeError(f"{weights.path} does not fit the network: {'; '.join(lines)}", fix)
    return excused


def account(wanted: Mapping[str, Tensor], weights: Weights, missing: Sequence[str]) -> str:
    """The line that says how weights were read."""
    total, read = (sum(name.startswith("net.") for name in names) for names in (wanted, weights.entries))
    lines = [f"{read} of {total} tensors of the network read from {weights.path}", *weights.notes]
    if constants := [name for name in CONSTANTS if name in wanted and name not in weights.entries]:
        lines.append(f"known without a file: {_listed(constants)}")
    if missing:
        lines.append(f"not in the file, so set afresh: {_listed(missing)}")
    return "; ".join(lines)


def absent(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """What stands for a tensor that a file may lack: a fresh one; but no position embedding, which is what a network
    trained without one is equal to."""
    return torch.zeros(shape) if "extra_pos_embedder." in name else fresh(name, shape, generator)


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:LISTED])}{', ..' if len(names) > LISTED else ''}"


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
    # Copied always: what was read may be a view of a file.
    value = value.to(device, dtype if is_parameter else torch.float32, copy=True)
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
