"""A model with its weights in it, wherever they come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from cosmos_forge import trained
from cosmos_forge.errors import ForgeError
from cosmos_forge.events import Note
from cosmos_forge.generation.adapters import Adapter, find_adapters
from cosmos_forge.kinds import Method, Model
from cosmos_forge.training import checkpoint
from cosmos_forge.worker import build, component, load

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan
    from cosmos_forge.types import Context

LISTED = 8  # names that an error shows


def load_model(plan: Plan, context: Context, weights: trained.Weights) -> Model:
    """The plan's model, filled.

    Weights of a checkpoint are put together in place: what their run began from is loaded, and what it trained is
    merged in, as `export` does. Adapters come last. Raises ForgeError where something is missing or does not fit.
    """
    entry = plan.table("model")
    checkpoints, adapters = trained.chain(plan, weights.name), find_adapters(plan, weights.adapters)
    options = entry.options.model_copy(update={"weights": weights.name})
    if checkpoints:
        begun = checkpoints[0].plan.options("model")
        fields = getattr(options, "beginning", ("weights",))
        options = options.model_copy(update={name: getattr(begun, name) for name in fields})
    model: Model = load(entry.build)(options, context)
    model.load()
    for kept in checkpoints:
        context.emit(Note(_put_in(model.net, kept, context)))
    for line in _add(model.net, adapters, plan, context):
        context.emit(Note(line))
    return model


def _put_in(net: nn.Module, kept: trained.Kept, context: Context) -> str:
    """Merges what a checkpoint holds into the weights that its run began from; returns a line that says so. On the
    host, so that a GPU needs no room for both."""
    method: Method = component(kept.plan, "method", context)
    base = {name: value.cpu() for name, value in net.state_dict().items()}
    merged = method.merge(base, method.result(_state(kept)).tensors)
    changed = sum(merged[name] is not value for name, value in base.items())
    net.load_state_dict(merged)
    return f"{kept}: {changed} of {len(base)} tensors are what it trained"


def _add(net: nn.Module, adapters: Sequence[Adapter], plan: Plan, context: Context) -> Iterator[str]:
    """W + sum of strength * change(W), summed in float32 and rounded once, so that the order of adapters does not
    matter; yields a line for each adapter. Raises ForgeError listing what an adapter would change and the network has
    not."""
    own, changes = dict(net.named_parameters()), []
    for adapter in adapters:
        each = _changes(adapter, plan, context)
        if strangers := [name for name in each if name not in own]:
            listed = ", ".join(strangers[:LISTED]) + (", .." if len(strangers) > LISTED else "")
            what = f"{adapter.name} changes {len(strangers)} of {len(each)} weights that the network has not: {listed}"
            raise ForgeError(what, "choose the variant of the model that it was trained on")
        changes.append((adapter.strength, each))
    for name, weight in own.items():
        before = weight.data.float()
        parts = [strength * each[name](before) for strength, each in changes if name in each]
        if parts:
            weight.data.copy_(before + sum(parts))
    for adapter, (strength, each) in zip(adapters, changes, strict=True):
        yield f"{adapter.name}: {len(each)} of {len(each)} layers, strength {strength:g}"


def _changes(adapter: Adapter, plan: Plan, context: Context) -> Any:
    """See `kinds.Adding.changes`."""
    source = adapter.source
    if isinstance(source, trained.Kept):
        method: Any = component(source.plan, "method", context)
        return method.changes(method.result(_state(source)).tensors)
    method = build(plan, "method", adapter.use, {}, context)
    return method.changes(method.read(source, getattr(plan.options("model"), "own_name", str)))


def _state(kept: trained.Kept) -> Any:
    """The trained parameters in a checkpoint, by name."""
    return checkpoint.load(kept.folder, "ema/" if kept.averaged else "weights/")
