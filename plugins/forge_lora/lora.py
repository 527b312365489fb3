"""LoRA: y = W x + scale * up(down(x)), with W frozen (Hu et al. 2021, arXiv 2106.09685), by way of peft.

DoRA (Liu et al. 2024, arXiv 2402.09353) replaces W + scale * up @ down = V by m V / |V|, row by row, and trains m too.
Upstream (cosmos-predict1, training/utils/peft/lora_net.py) multiplies by a scale of its own; alpha is that scale times
the rank.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from cosmos_forge import Context, ForgeError, Problem
from cosmos_forge.types import Result
from forge_lora.files import (
    CONFIG,
    PARTS,
    PREFIX,
    STEM,
    Adapters,
    by_layer,
    name_of,
    peft_config,
    read_adapters,
)
from forge_lora.plugin import LoraOptions

Change = Callable[[Tensor], Tensor]

ADAPTER = "default"  # peft's name for the one adapter there is; it stands in parameter names, not in files
TRAINED = re.compile(rf"(.+)\.(lora_A|lora_B|lora_magnitude_vector)\.{ADAPTER}\.weight")


class Lora:
    """`kinds.Method` that trains adapters in float32, whatever the dtype of the weights beside them."""

    def __init__(self, options: LoraOptions, context: Context) -> None:
        self.options = options
        self.seed = context.seed
        self.start = options.start and context.resolve(options.start)

    def adapt(self, net: nn.Module) -> str:
        """Puts an adapter beside every target and freezes the rest; up is zero, so outputs stay what they were, unless
        `start` names adapters to go on from.

        down ~ N(0, 1/rank) as upstream, drawn on the CPU from the run's seed: the same on any device, in every process.
        Raises ForgeError where a target matches no linear layer, or one narrower than the rank, or `start` holds other
        adapters than these.
        """
        o = self.options
        names = find_targets(net, o)
        found = read_adapters(self.start) if self.start else None
        if found:
            self._compare(found, names)
        config = LoraConfig(
            r=o.rank,
            rank_pattern={name: o.rank_of(name) for name in names},
            alpha_pattern={name: o.scale_of(name) * o.rank_of(name) for name in names},  # peft divides by the rank
            lora_dropout=o.dropout,
            use_dora=o.dora,
            target_modules=names,
            init_lora_weights="gaussian",
        )
        inject_adapter_in_model(config, net, ADAPTER)
        generator = torch.Generator().manual_seed(self.seed)
        layers = {name: layer for name in names if isinstance(layer := net.get_submodule(name), LoraLayer)}
        for name, layer in layers.items():
            _begin(layer, o.rank_of(name), generator)
            if found:
                _load(layer, found.tensors[name])
        trained = self.trainable(net)
        count = sum(parameter.numel() for parameter in trained.values())
        from_where = f", going on from {found.path}" if found else ""
        if found and not found.scales:
            from_where = f", scaled as set here, since the file does not tell its scale{from_where}"
        return (
            f"{len(layers)} of {len(names)} layers adapted, {count:,} parameters ({len(trained)} tensors){from_where}"
        )

    def trainable(self, net: nn.Module) -> dict[str, nn.Parameter]:
        """The adapters' weights."""
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(TRAINED.fullmatch(name) is not None)
        return {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}

    def result(self, state: Mapping[str, Tensor]) -> Result:
        """The adapters as a folder that `peft.PeftModel.from_pretrained` loads."""
        tensors, layers = {}, dict[str, None]()
        for name, tensor in state.items():
            layer, part = TRAINED.fullmatch(name).groups()  # type: ignore[union-attr]
            layers[layer] = None
            end = part if part == "lora_magnitude_vector" else f"{part}.weight"
            tensors[f"{PREFIX}{layer}.{end}"] = tensor.detach().cpu()
        config = peft_config(self.options, sorted(layers))
        return Result(STEM, tensors, {CONFIG: json.dumps(config, indent=2) + "\n"})

    def merge(self, base: Mapping[str, Tensor], result: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """V = W + scale * up @ down, with DoRA m V / |V|; computed in float32, in the base's dtype. Raises ForgeError
        for adapters of layers that the base has not."""
        changes = self.changes(result)
        if strangers := [name for name in changes if name not in base]:
            raise ForgeError(
                f"the adapter of `{strangers[0]}`, one of {len(strangers)}, has no such weight to be merged into",
                fix="merge it into the network that it was trained on",
            )
        merged = {name: base[name].float() + change(base[name].float()) for name, change in changes.items()}
        return {name: merged[name].to(weight.dtype) if name in merged else weight for name, weight in base.items()}

    def changes(self, result: Mapping[str, Tensor]) -> dict[str, Change]:
        """By the name of each adapted weight W, in float32, what is added to it: scale * up @ down, with DoRA
        m V / |V| - W. Raises ForgeError for tensors that are no part of an adapter."""
        return {
            f"{layer}.weight": partial(_change, layer, parts, self.options.scale_of(layer))
            for layer, parts in by_layer(result).items()
        }

    def read(self, path: Path, own_name: Callable[[str], str]) -> dict[str, Tensor]:
        """The adapters behind a path (see `files.read_adapters`) as `result` would have given them: of the network's
        own layers, and up multiplied so that this method's scale is the file's; 1 where a file does not say."""
        found, tensors = read_adapters(path), dict[str, Tensor]()
        for theirs, parts in found.tensors.items():
            layer = own_name(f"{theirs}.weight").removesuffix(".weight")
            factor = found.scales.get(theirs, 1.0) / self.options.scale_of(layer)
            for part, value in parts.items():
                tensors[name_of(layer, part)] = value * factor if part == "up" else value
        return tensors

    def _compare(self, found: Adapters, names: Sequence[str]) -> None:
        """Raises ForgeError where the adapters to start from are not those of the options."""
        o, problems = self.options, list[Problem]()
        if missing := [name for name in names if name not in found.tensors]:
            problems.append(Problem(f"{found.path} has no adapter of `{missing[0]}`, one of {len(missing)}"))
        if more := [name for name in found.tensors if name not in names]:
            problems.append(Problem(f"{found.path} has adapters of other layers too: {', '.join(more[:4])}"))
        if problems:
            problems[-1] = Problem(problems[-1].what, fix="choose the same `targets` as it was trained with")
        ranks = {name: len(parts["down"]) for name, parts in found.tensors.items()}
        if unlike := [name for name, rank in ranks.items() if rank != o.rank_of(name)]:
            there, here = ranks[unlike[0]], o.rank_of(unlike[0])
            what = f"{found.path} has rank {there}, not {here}, at `{unlike[0]}`, one of {len(unlike)}"
            problems.append(Problem(what, fix=_setting("rank", there, unlike, ranks)))
        scales = found.scales
        if unlike := [name for name, scale in scales.items() if abs(scale - o.scale_of(name)) > 1e-6 * abs(scale)]:
            was, now = scales[unlike[0]], o.scale_of(unlike[0])
            what = f"{found.path} has a scale of {was:g}, not {now:g}, at `{unlike[0]}`, one of {len(unlike)}"
            problems.append(Problem(what, fix=_setting("alpha", was * ranks[unlike[0]], unlike, scales)))
        if o.dora and not all("magnitude" in parts for parts in found.tensors.values()):
            problems.append(Problem(f"{found.path} was trained without DoRA", fix="dora = false"))
        elif not o.dora and any("magnitude" in parts for parts in found.tensors.values()):
            problems.append(Problem(f"{found.path} was trained with DoRA", fix="dora = true"))
        if problems:
            raise ForgeError(problems)


def _change(layer: str, parts: Mapping[str, Tensor], scale: float, weight: Tensor) -> Tensor:
    """What a layer's adapter adds to its weight, both float32."""
    down, up, *lengths = (parts[part].to(weight.device, torch.float32) for part in PARTS.values() if part in parts)
    if (len(up), down.shape[1]) != weight.shape:
        what = (
            f"the adapter of `{layer}` is of a layer of {[len(up), down.shape[1]]}, the network's is {[*weight.shape]}"
        )
        raise ForgeError(what, "choose the variant of the model that it was trained on")
    change = scale * (up @ down)
    if not lengths:
        return change
    whole = weight + change
    return whole * (lengths[0] / torch.linalg.norm(whole, dim=1))[:, None] - weight


@torch.no_grad()
def _begin(layer: LoraLayer, rank: int, generator: torch.Generator) -> None:
    """A fresh adapter, in float32, that changes nothing."""
    down: Tensor = layer.lora_A[ADAPTER].float().get_parameter("weight")
    up: Tensor = layer.lora_B[ADAPTER].float().get_parameter("weight")
    down.copy_(torch.randn(down.shape, generator=generator) / rank)
    up.zero_()
    if ADAPTER in layer.lora_magnitude_vector:
        magnitude = layer.lora_magnitude_vector[ADAPTER].float().get_parameter("weight")
        magnitude.copy_(torch.linalg.norm(layer.get_base_layer().get_parameter("weight").float(), dim=1))


@torch.no_grad()
def _load(layer: LoraLayer, parts: Mapping[str, Tensor]) -> None:
    """Fills the adapter."""
    homes = {"down": layer.lora_A, "up": layer.lora_B, "magnitude": layer.lora_magnitude_vector}
    for part, value in parts.items():
        homes[part][ADAPTER].get_parameter("weight").copy_(value)


def _setting(key: str, value: float, unlike: Sequence[str], every: Mapping[str, float]) -> str:
    """What to set so that a layer's value is what it was."""
    alike = len(unlike) == len(every) and len({every[name] for name in unlike}) == 1
    return f"{key} = {value:g}" if alike else f'{key}_pattern = {{ "{unlike[0]}" = {value:g}, .. }}'


def find_targets(net: nn.Module, options: LoraOptions) -> list[str]:
    """Names of the linear layers whose names end, at a dot, with what one of the targets matches, in the order of
    `net`. Raises ForgeError, naming all faults: see `LoraOptions.misfits`."""
    linear = {name: module.weight.shape for name, module in net.named_modules() if isinstance(module, nn.Linear)}
    if problems := [Problem(f"[method] {what}", fix=fix) for _, what, fix in options.misfits(linear)]:
        raise ForgeError(problems)
    return options.adapted(linear)
