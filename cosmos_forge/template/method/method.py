"""Fine-tuning of a few parameters, as of biases in BitFit (Ben Zaken et al. 2021, arXiv 2106.10199)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from cosmos_forge import Context, ForgeError
from cosmos_forge.types import Result
from new_plugin.plugin import NewPluginOptions


class NewPlugin:
    """See `cosmos_forge.kinds.Method`."""

    def __init__(self, options: NewPluginOptions, context: Context) -> None:
        self.options = options

    def adapt(self, net: nn.Module) -> str:
        """Changes nothing but what trains. Raises ForgeError where no parameter matches."""
        names = [name for name, _ in net.named_parameters()]
        trained = self.trainable(net)
        if not trained:
            raise ForgeError(
                f"[method] match = {self.options.match} matches none of {len(names)} parameters",
                f"there are, for example, {', '.join(names[:3])}",
            )
        numbers = sum(parameter.numel() for parameter in trained.values())
        return f"{len(trained)} of {len(names)} parameters train, {numbers:,} numbers"

    def trainable(self, net: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that match; requires_grad is set on exactly these."""
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(self.options.matches(name))
        return {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}

    def result(self, state: Mapping[str, Tensor]) -> Result:
        """What to publish: `state` holds the trained parameters, by name."""
        return Result("new_plugin", {name: tensor.detach().cpu() for name, tensor in state.items()})

    def merge(self, base: Mapping[str, Tensor], result: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The base with trained parameters in place of its own, in the base's dtype."""
        return {name: result[name].to(tensor.dtype) if name in result else tensor for name, tensor in base.items()}
