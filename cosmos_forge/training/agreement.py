"""Whether the processes of a training step did the same where they should have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cosmos_forge.errors import ForgeError
from cosmos_forge.training.pieces import in_pieces
from cosmos_forge.types import World

TOLERANCE = 1e-4  # relative; the same numbers on the same hardware come out far closer


def check_agreement(
    world: World, losses: Iterable[Tensor], grad_norm: Tensor, parameters: Iterable[nn.Parameter]
) -> str:
    """Compares, after gradients were exchanged and clipped: the loss among processes that share a sample, gradients
    among those that hold the same piece of the weights, and the whole gradient's norm among all. Called by all of them.

    Returns a line for the person. Raises ForgeError, in every process, where they differ.
    """
    mine = {"norm": [float(grad_norm)], f"loss of group {world.data_rank}": [float(loss) for loss in losses]}
    everyone: list[Any] = [None] * world.size
    dist.all_gather_object(everyone, mine | _gradients(parameters))
    told: dict[str, dict[int, list[float]]] = {}
    for rank, numbers in enumerate(everyone):
        for what, values in numbers.items():
            told.setdefault(what, {})[rank] = values
    for what, by_rank in told.items():
        _compare(what, by_rank)
    return f"gradients agree across {world.size} processes"


def _gradients(parameters: Iterable[nn.Parameter]) -> dict[str, list[float]]:
    """For each place in a mesh of pieces, the sum and the norm of the gradients' pieces that this process has there."""
    sums: dict[str, Tensor] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            piece, where = _piece(parameter.grad)
            each = torch.stack([piece.sum(dtype=torch.float64), piece.double().square().sum()])
            sums[where] = sums.get(where, torch.zeros_like(each)) + each
    return {where: [float(total), float(squares) ** 0.5] for where, (total, squares) in sums.items()}


def _piece(gradient: Tensor) -> tuple[Tensor, str]:
    """What this process holds of a gradient, and a name for it that copies of it share."""
    if not in_pieces(gradient):
        return gradient, "gradients"
    where = gradient.device_mesh.get_coordinate() or ()
    shards = [index for index, placement in zip(where, gradient.placements, strict=True) if placement.is_shard()]
    return gradient.to_local(), f"gradients of piece {', '.join(map(str, shards))}"


def _compare(what: str, by_rank: Mapping[int, list[float]]) -> None:
    """Every process that told of `what` must have told the same; not being finite is a matter of its own."""
    (first, expected), *others = by_rank.items()
    scale = max((abs(value) for value in expected if math.isfinite(value)), default=0.0)
    for rank, found in others:
        same = torch.allclose(
            torch.tensor(found), torch.tensor(expected), rtol=TOLERANCE, atol=TOLERANCE * scale, equal_nan=True
        )
        if not same:
            raise ForgeError(
                f"processes {first} and {rank} disagree after the first step: {what} {expected} and {found}",
                "are weights, data and versions the same on all machines?",
            )
