"""Tensors that are in pieces. DTensors, whose import takes half a second, are imported only where somebody made one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.placement_types import Placement
    from typing_extensions import TypeIs


def in_pieces(tensor: Any) -> TypeIs[DTensor]:
    """Whether this is a DTensor."""
    made = sys.modules.get("torch.distributed.tensor")
    return made is not None and isinstance(tensor, made.DTensor)


def place_of(
    shape: Sequence[int], mesh: DeviceMesh, placements: Sequence[Placement]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape of what this process holds of a tensor that is in pieces, and where in the whole it begins."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    piece, offset = compute_local_shape_and_global_offset(tuple(shape), mesh, placements)
    return tuple(piece), tuple(offset)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a DTensor; any other tensor itself. Changing it changes the tensor."""
    return tensor.to_local() if in_pieces(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A DTensor put together, for which all processes meet; any other tensor itself."""
    return tensor.full_tensor() if in_pieces(tensor) else tensor
