"""Memory of a training step, told from a plan alone: what `recompute` finds out from the network once it is there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cosmos_forge.memory import Holdings, Level, Memory, fit, predict

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Weights:
    """How many numbers a network has, and how many train. frozen: whether most do not; those that train then lie beside
    them (adapters), else among them. block: numbers of the largest block, and those of them that train."""

    parameters: int
    trained: int
    frozen: bool
    block: tuple[int, int]


def weights(plan: Plan) -> Weights | None:
    """None where model or method cannot tell."""
    if not {"model", "method"} <= plan.tables.keys():
        return None
    model, count = plan.options("model"), getattr(plan.options("method"), "trained", None)
    if count is None or not hasattr(model, "parameter_shapes"):
        return None
    shapes: Shapes = model.parameter_shapes()
    total, trained = _numbers(shapes), count(shapes)
    largest = max(_by_block(shapes, model.blocks), key=_numbers)
    return Weights(total, trained, 2 * trained < total, (_numbers(largest), count(largest)))


def clip_size(plan: Plan) -> tuple[int, int, int]:
    """Frames, height and width of the largest clips."""
    data = plan.options("dataset")
    return data.num_frames, data.height, data.width


def pieces(plan: Plan) -> int:
    """Processes over which a copy of the weights is spread."""
    spread = getattr(plan.options("parallelism"), "pieces", None)
    return int(spread(plan.processes)) if spread else 1


def number_bytes(plan: Plan) -> int:
    """Of an element that the network computes with."""
    return 2 if plan.root.precision == "bf16" else 4


def holdings(plan: Plan, found: Weights) -> Holdings:
    """What a process holds of such weights; see `recompute.hold`."""
    number, spread = number_bytes(plan), pieces(plan)
    still = found.parameters if found.frozen else found.parameters - found.trained
    size, trained = found.block
    whole = 0
    if spread > 1:
        whole = (size + trained * found.frozen) * 2 * number + trained * (number + 4)
    elif number < 4:  # only what trains is kept in another dtype than it is computed with
        whole = trained * (3 * number + 4)
    return Holdings((still * number + found.trained * 4) // spread, found.trained // spread, whole)


def training_memory(plan: Plan, usable: float) -> tuple[Memory, list[Level]] | None:
    """Of a process that may fill so many bytes of its GPU, and what its blocks then recompute: as the recipe says, or
    the least that fits. None where model or method cannot tell."""
    model, found = plan.options("model"), weights(plan)
    if found is None or not hasattr(model, "activations"):
        return None
    options, latents = plan.train, plan.options("latent_tokenizer").latent_shape(*clip_size(plan))
    count = plan.options("method").trained
    names = _by_block(model.parameter_shapes(), model.blocks)[0]
    adapted = [name for name, shape in names.items() if count({name: shape})]
    memory = partial(
        predict,
        holdings(plan, found),
        model.activations(latents, found.frozen, plan.root.compile != "none", adapted),
        samples=options.micro_batch(plan.groups) * plan.groups / plan.processes,
        number_bytes=number_bytes(plan),
        optimizer_state=options.optimizer_state,
        average=options.ema,
        accumulated=options.accumulation(plan.groups) > 1,
    )
    blocks = len(model.blocks)
    levels = [options.recompute] * blocks if options.recompute != "auto" else []
    levels = levels or fit(blocks, usable, memory)
    return memory(levels), levels


def _numbers(shapes: Shapes) -> int:
    return sum(map(math.prod, shapes.values()))


def _by_block(shapes: Shapes, blocks: Sequence[str]) -> list[dict[str, Sequence[int]]]:
    """The parameters of each block."""
    found: dict[str, dict[str, Sequence[int]]] = {block: {} for block in blocks}
    depths = {block.count(".") + 1 for block in blocks}
    for name, shape in shapes.items():
        parts = name.split(".")
        for depth in depths:
            found.get(".".join(parts[:depth]), {})[name] = shape
    return list(found.values())
