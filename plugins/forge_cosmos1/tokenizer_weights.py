"""Reads the tokenizer's weights and the statistics of its latents from the forms in which they are published."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cosmos_forge import ForgeError
from forge_cosmos1.archive import Stored, read_archive, read_torchscript
from forge_cosmos1.tokenizer_options import LATENT_CHANNELS

LISTED = 12  # keys that an error shows

Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]


@dataclass(frozen=True)
class Statistics:
    """Mean and deviation of latents a channel and latent frame, float32, of shape (16, frames)."""

    mean_CT: Tensor
    std_CT: Tensor


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The state of both encoder and decoder, under the reference's names, in the dtype it was published in.

    Buffers of the reference that are constants are left out. Raises ForgeError where there is nothing to read.
    """
    pair = [folder / "encoder.jit", folder / "decoder.jit"]
    tensors = sorted(folder.glob("*.safetensors"))
    if all(path.exists() for path in pair):
        parts = [read_torchscript(path) for path in pair]
    elif (folder / "autoencoder.jit").exists():
        parts = [read_torchscript(folder / "autoencoder.jit")]
    elif (folder / "model.pt").exists():
        parts = [_load_pt(folder / "model.pt")]
    elif tensors:
        parts = [_load_safetensors(path) for path in tensors]
    else:
        raise ForgeError(
            f"{folder} holds no weights of a tokenizer",
            "it should hold encoder.jit and decoder.jit, autoencoder.jit, model.pt or *.safetensors",
        )
    state = {name: tensor for part in parts for name, tensor in part.items() if "patcher3d." not in name}
    return from_diffusers(state) if any(".resnets." in name for name in state) else state


def read_statistics(folder: Path, frames: int, pictures: bool = False) -> Statistics:
    """Of videos of that many latent frames at most, or of single pictures. Raises ForgeError where they are missing or
    too few."""
    name = "image_mean_std.pt" if pictures else "mean_std.pt"
    config = folder / "config.json"
    if (folder / name).exists():
        path, (mean, std) = folder / name, _load_pt(folder / name)
    elif config.exists() and not pictures:
        values = json.loads(config.read_text())
        path, mean, std = config, *(torch.tensor(values.get(f"latents_{what}") or []) for what in ("mean", "std"))
    else:
        raise ForgeError(f"{folder / name} is missing", "it is published beside the weights and scales the latents")
    if mean.numel() != std.numel() or mean.numel() % LATENT_CHANNELS or mean.numel() < LATENT_CHANNELS * frames:
        raise ForgeError(
            f"{path} should hold a mean and a deviation for {LATENT_CHANNELS} channels x {frames} latent frames, "
            f"found {mean.numel()} and {std.numel()}",
            "take the file published beside the weights, or lower chunk_frames",
        )
    return Statistics(mean.float().view(LATENT_CHANNELS, -1), std.float().view(LATENT_CHANNELS, -1))


def load_state(net: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Puts `state` in place of the parameters of `net`. Raises ForgeError with keys that do not fit."""
    wanted = {name: tensor.shape for name, tensor in net.state_dict().items()}
    faults = [f"missing {name}" for name in wanted if name not in state]
    faults += [f"unexpected {name}" for name in state if name not in wanted]
    faults += [
        f"{name} is {list(tensor.shape)}, not {list(wanted[name])}"
        for name, tensor in state.items()
        if name in wanted and tensor.shape != wanted[name]
    ]
    if faults:
        raise ForgeError(
            f"{source} does not fit the tokenizer in {len(faults)} of {len(wanted)} tensors: "
            f"{'; '.join(faults[:LISTED])}{'; ..' if len(faults) > LISTED else ''}",
            "this tokenizer is CV8x8x8; weights of other compressions have other layers",
        )
    net.load_state_dict(state, assign=True)


# Applied in this order to names that diffusers' `AutoencoderKLCosmos` uses. Its `up_blocks` count from the latents.
FROM_DIFFUSERS: Rules = (
    (r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}"),
    (r"mid_block\.attentions\.0", "mid.attn_1.0"),
    (r"mid_block\.temp_attentions\.0", "mid.attn_1.1"),
    (r"up_blocks\.(\d)", lambda match: f"up.{2 - int(match[1])}"),
    (r"down_blocks\.", "down."),
    (r"\.resnets\.", ".block."),
    (r"(down|up)samplers\.0", r"\1sample"),
    (r"conv_s\.", "0."),
    (r"conv_t\.", "1."),
    (r"conv_shortcut\.", "nin_shortcut."),
    (r"to_([qkv])\.", r"\1."),
    (r"to_out\.0\.", "proj_out."),
    (r"(?<!\.norm)\.(weight|bias)$", r".conv3d.\1"),
)


# The way back.
TO_DIFFUSERS: Rules = (
    (r"\.conv3d\.", "."),
    (r"mid\.block_(\d)", lambda match: f"mid_block.resnets.{int(match[1]) - 1}"),
    (r"mid\.attn_1\.0\.", "mid_block.attentions.0."),
    (r"mid\.attn_1\.1\.", "mid_block.temp_attentions.0."),
    (r"(?<=attentions\.0\.)([qkv])\.", r"to_\1."),
    (r"proj_out\.", "to_out.0."),
    (r"\bup\.(\d)", lambda match: f"up_blocks.{2 - int(match[1])}"),
    (r"\bdown\.", "down_blocks."),
    (r"\.block\.", ".resnets."),
    (r"(down|up)sample\.", r"\1samplers.0."),
    (r"nin_shortcut\.", "conv_shortcut."),
    (r"(conv\w*)\.0\.", r"\1.conv_s."),
    (r"(conv\w*)\.1\.", r"\1.conv_t."),
)


def from_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the reference's names."""
    return {_renamed(name, FROM_DIFFUSERS): tensor for name, tensor in state.items()}


def to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under diffusers' names."""
    return {_renamed(name, TO_DIFFUSERS): tensor for name, tensor in state.items()}


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _load_pt(path: Path) -> Any:
    """The tensors of a dict or of a sequence of them."""
    content = read_archive(path)
    if isinstance(content, dict):
        return {name: value.read() for name, value in content.items() if isinstance(value, Stored)}
    return [value.read() for value in content]


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ForgeError(f"{path} cannot be read: {error}", "download it again") from error
