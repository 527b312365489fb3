"""Activation checkpointing from outside: what blocks compute in a forward pass is computed again in the backward pass.

none: a block keeps all that its gradients need. products: it keeps its input and what matrix products and attention
gave, and computes again what lies between them, which takes little. attention: it keeps its input and what attention
gave, and computes the rest again, which is cheap beside attention over many tokens. block: it keeps its input alone
(Chen et al. 2016, arXiv 1604.06174). Gradients are the same; `docs/measured.md` has figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from cosmos_forge.devices import free_memory, least
from cosmos_forge.events import Note
from cosmos_forge.memory import USABLE, Holdings, Level, Memory, fit, predict
from cosmos_forge.training.pieces import in_pieces, local
from cosmos_forge.types import Context

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

# What torch's scaled_dot_product_attention becomes, by device and kernel.
ATTENTION = [
    getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}").default
    for kernel in ("cudnn_attention", "flash_attention", "efficient_attention", "flash_attention_for_cpu")
]
PRODUCTS = [torch.ops.aten.mm.default, torch.ops.aten.addmm.default]
NARROW = 8  # so much wider than what it is made of is a product that is computed again: an adapter's second one


def recompute_blocks(net: nn.Module, blocks: Sequence[str], levels: Sequence[Level]) -> None:
    """Makes each of `blocks` forget what its level says. Names, parameters and hooks of `net` stay as they are.

    Blocks may be sharded, and told to compile themselves, but not have been called: compiling then sees what is
    computed again, and fuses it.
    """
    for name, level in zip(blocks, levels, strict=True):
        if level != "none":
            block = net.get_submodule(name)
            block.__class__ = _forgetful(type(block), level)  # type: ignore[arg-type]


@cache  # Blocks of one class must go on sharing it, for one compiled graph to serve them all.
def _forgetful(kind: type[nn.Module], level: Level) -> type[nn.Module]:
    """A subclass whose forward keeps what the level says."""
    options: dict[str, Any] = {"use_reentrant": False}
    if level in ("products", "attention"):
        keeps = _keeps_products if level == "products" else ATTENTION
        options["context_fn"] = partial(create_selective_checkpoint_contexts, keeps)

    def forward(self: nn.Module, *inputs: Any) -> Any:
        return checkpoint(partial(kind.forward, self), *inputs, **options)

    return type(kind.__name__, (kind,), {"forward": forward, "__doc__": kind.__doc__, "__module__": kind.__module__})


def _keeps_products(context: Any, operator: Any, *inputs: Any, **named: Any) -> CheckpointPolicy:
    """What of a block's operations is kept, for torch's selective checkpointing."""
    kept = operator in ATTENTION
    if operator in PRODUCTS:
        inner, outer = inputs[-1].shape
        kept = NARROW * inner >= outer
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def choose_levels(plan: Plan, net: nn.Module, blocks: Sequence[str], context: Context, compiled: bool) -> list[Level]:
    """The recipe's level for every block; `auto` is the least recomputation that is predicted to fit on the GPU.

    net: with this process's pieces of its parameters. compiled: whether its blocks will be. Says what `auto` chose and
    why. All processes choose alike.
    """
    choice = plan.train.recompute
    if choice != "auto":
        return [choice] * len(blocks)
    if context.device.type != "cuda":
        return ["none"] * len(blocks)
    if not hasattr(plan.options("model"), "activations"):
        context.emit(
            Note("recompute = auto: this model does not say what its blocks keep; they keep their input alone")
        )
        return ["block"] * len(blocks)

    usable = USABLE * least(free_memory(context.device), context)
    memory = predicted(plan, net, blocks, context, compiled)
    levels = fit(len(blocks), usable, memory)
    counts = ", ".join(f"{levels.count(level)} {level}" for level in dict.fromkeys(levels))
    text = f"recompute = auto: of {len(blocks)} blocks {counts}; needs at most {memory(levels)} of {usable / 2**30:.1f}"
    if memory(levels).total > usable:
        text += "; it may run out of memory: train.optimizer_state = 8bit, a smaller micro_batch_size or fsdp need less"
    context.emit(Note(text, warning=memory(levels).total > usable))
    return levels


def predicted(
    plan: Plan, net: nn.Module, blocks: Sequence[str], context: Context, compiled: bool
) -> Callable[[Sequence[Level]], Memory]:
    """How much memory this process will need, as a function of the blocks' levels."""
    options, world = plan.train, context.world
    latent_shape = plan.options("latent_tokenizer").latent_shape(*plan.clip_size)
    holdings = hold(net, blocks, context.dtype)
    frozen = sum(each.numel() for each in net.parameters() if not each.requires_grad)
    mostly_frozen = 2 * frozen > sum(each.numel() for each in net.parameters())
    block = net.get_submodule(blocks[0])
    adapted = [name for name, each in block.named_parameters() if each.requires_grad]
    return partial(
        predict,
        holdings,
        plan.options("model").activations(latent_shape, mostly_frozen, compiled, adapted),
        samples=options.micro_batch(world.data_size) * world.data_size / world.size,
        number_bytes=context.dtype.itemsize,
        optimizer_state=options.optimizer_state,
        average=options.ema,
        accumulated=options.accumulation(world.data_size) > 1,
    )


def hold(net: nn.Module, blocks: Sequence[str], dtype: torch.dtype) -> Holdings:
    """What this process holds of the network's parameters."""
    parameters = list(net.parameters())
    # A sharded block is put together in the computing dtype, the next one ahead of time; gradients also in float32.
    whole = max(sum(_gathered(each, dtype) for each in net.get_submodule(name).parameters()) for name in blocks)
    return Holdings(
        weights=sum(local(each).nbytes for each in parameters),
        trained=sum(local(each).numel() for each in parameters if each.requires_grad),
        gathered=whole,
    )


def _gathered(parameter: Tensor, dtype: torch.dtype) -> int:
    """Bytes that a sharded parameter takes while it is whole."""
    if not in_pieces(parameter):
        return 0
    return parameter.numel() * (2 * dtype.itemsize + parameter.requires_grad * (dtype.itemsize + 4))
