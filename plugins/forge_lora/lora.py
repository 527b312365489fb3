"""LoRA: y = W x + scale * up(down(x)), with W frozen (Hu et al. 2021, arXiv 2106.09685), by way of peft.

In peft's names `lora_A` is down, of (rank, in), and `lora_B` is up, of (out, rank). Upstream (cosmos-predict1,
training/utils/peft/lora_net.py) multiplies by a scale of its own; alpha is that scale times the rank.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from cosmos_forge import Context, ForgeError, Problem
from cosmos_forge.types import Result
from forge_lora.plugin import LoraOptions

ADAPTER = "default"  # peft's name for the one adapter there is; it stands in parameter names, not in files
PREFIX = "base_model.model."  # what peft puts before every name in a file


class Lora:
    """`kinds.Method` that trains adapters in float32, whatever the dtype of the weights beside them."""

    def __init__(self, options: LoraOptions, context: Context) -> None:
        self.options = options
        self.seed = context.seed

    def adapt(self, net: nn.Module) -> str:
        """Puts an adapter beside every target and freezes the rest; up is zero, so outputs stay what they were.

        down ~ N(0, 1/rank) as upstream, drawn on the CPU from the run's seed: the same on any device, in every process.
        Raises ForgeError where a target matches no linear layer, or one narrower than the rank.
        """
        names = find_targets(net, self.options.targets, self.options.rank)
        config = LoraConfig(
            r=self.options.rank,
            lora_alpha=self.options.scale * self.options.rank,  # type: ignore[arg-type]  # peft divides by the rank
            target_modules=names,
            init_lora_weights="gaussian",
        )
        inject_adapter_in_model(config, net, ADAPTER)
        generator = torch.Generator().manual_seed(self.seed)
        layers = [net.get_submodule(name) for name in names]
        adapted = [layer for layer in layers if isinstance(layer, LoraLayer)]
        for layer in adapted:
            down: Tensor = layer.lora_A[ADAPTER].float().get_parameter("weight").data
            up: Tensor = layer.lora_B[ADAPTER].float().get_parameter("weight").data
            down.copy_(torch.randn(down.shape, generator=generator) / self.options.rank)
            up.zero_()
        count = sum(parameter.numel() for parameter in self.trainable(net).values())
        return f"{len(adapted)} of {len(names)} layers adapted, {count:,} parameters"

    def trainable(self, net: nn.Module) -> dict[str, nn.Parameter]:
        """The adapters' weights."""
        ends = tuple(f".{which}.{ADAPTER}.weight" for which in ("lora_A", "lora_B"))
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name.endswith(ends))
        return {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}

    def result(self, state: Mapping[str, Tensor]) -> Result:
        """The adapters as a folder that `peft.PeftModel.from_pretrained` loads."""
        tensors = {
            PREFIX + name.replace(f".{ADAPTER}.weight", ".weight"): tensor.detach().cpu()
            for name, tensor in state.items()
        }
        config = {
            "peft_type": "LORA",
            "r": self.options.rank,
            "lora_alpha": self.options.scale * self.options.rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": sorted({name.rsplit(".lora_", 1)[0] for name in state}),
            "base_model_name_or_path": None,
            "inference_mode": True,
        }
        return Result("adapter_model", tensors, {"adapter_config.json": json.dumps(config, indent=2) + "\n"})

    def merge(self, base: Mapping[str, Tensor], result: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """W + scale * up @ down, computed in float32, in the base's dtype. Raises ForgeError for adapters of layers
        that the base has not."""
        merged = dict(base)
        for key in (key for key in result if key.endswith(".lora_A.weight")):
            name = key.removeprefix(PREFIX).removesuffix("lora_A.weight") + "weight"
            if name not in base:
                raise ForgeError(
                    f"the adapter of `{name}` has no such weight to be merged into",
                    fix="merge it into the network that it was trained on",
                )
            down, up = result[key].float(), result[key.replace("lora_A", "lora_B")].float()
            weight = base[name]
            change = self.options.scale * (up.to(weight.device) @ down.to(weight.device))
            merged[name] = (weight.float() + change).to(weight.dtype)
        return merged


def find_targets(net: nn.Module, targets: Sequence[str], rank: int) -> list[str]:
    """Names of the linear layers whose names end, at a dot, with one of `targets`, in the order of `net`."""
    linear = {name: module for name, module in net.named_modules() if isinstance(module, nn.Linear)}
    problems = [
        Problem(f"[method] targets: no linear layer's name ends with `{target}`", fix=_nearest(target, list(linear)))
        for target in targets
        if not any(_ends(name, target) for name in linear)
    ]
    names = [name for name in linear if any(_ends(name, target) for target in targets)]
    for name in names:
        narrow = min(linear[name].in_features, linear[name].out_features)
        if rank > narrow:
            problems.append(Problem(f"[method] rank {rank} is more than `{name}` has, {narrow}", fix="lower the rank"))
    if problems:
        raise ForgeError(problems)
    return names


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def _nearest(target: str, names: Sequence[str]) -> str:
    """The ends of names, of about its length, that look most like `target`."""
    if not names:
        return "this network has no linear layers"
    parts = target.count(".") + 1
    ends = {".".join(name.split(".")[-length:]) for name in names for length in (parts, parts + 1)}
    close = difflib.get_close_matches(target, sorted(ends), n=3, cutoff=0.5) or sorted(names)[:3]
    return "there are, for example, " + ", ".join(f"`{name}`" for name in close)
