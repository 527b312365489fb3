"""Full fine-tuning: the network as it is."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from cosmos_forge import Context
from cosmos_forge.types import Result
from forge_full.plugin import FullOptions


class Full:
    """`kinds.Method` that trains all that the model lets train."""

    def __init__(self, options: FullOptions, context: Context) -> None:
        pass

    def adapt(self, net: nn.Module) -> str:
        """Changes nothing."""
        total = sum(parameter.numel() for parameter in net.parameters())
        count = sum(parameter.numel() for parameter in self.trainable(net).values())
        return f"all {total:,} parameters train" if count == total else f"{count:,} of {total:,} parameters train"

    def trainable(self, net: nn.Module) -> dict[str, nn.Parameter]:
        """Every parameter but those that take no part in the loss."""
        return {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}

    def result(self, state: Mapping[str, Tensor]) -> Result:
        """The weights themselves."""
        return Result("model", {name: tensor.detach().cpu() for name, tensor in state.items()})

    def merge(self, base: Mapping[str, Tensor], result: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The base with trained weights in place of its own, in the base's dtype."""
        return {name: result[name].to(tensor.dtype) if name in result else tensor for name, tensor in base.items()}
