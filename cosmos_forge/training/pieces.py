"""Tensors that are in pieces."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a DTensor; any other tensor itself. Changing it changes the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
