"""A model with its weights in it, wherever they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from cosmos_forge import checkpoint, trained
from cosmos_forge.events import Note
from cosmos_forge.kinds import Method, Model
from cosmos_forge.worker import component, load

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan
    from cosmos_forge.types import Context


def load_model(plan: Plan, context: Context, weights: str | None) -> Model:
    """The plan's model with `weights`, as a recipe calls them; None for the model's own default.

    Those of a checkpoint are put together in place: what their run began from is loaded, and what it trained is merged
    in, as `export` does. Raises ForgeError where they are not there, or are of another network.
    """
    entry = plan.table("model")
    checkpoints = trained.chain(plan, weights)
    if checkpoints:
        begun = checkpoints[0].plan.options("model")
        fields = getattr(entry.options, "beginning", ("weights",))
        options = entry.options.model_copy(update={name: getattr(begun, name) for name in fields})
    else:
        options = entry.options.model_copy(update={"weights": weights})
    model: Model = load(entry.build)(options, context)
    model.load()
    for kept in checkpoints:
        context.emit(Note(_put_in(model.net, kept, context)))
    return model


def _put_in(net: nn.Module, kept: trained.Kept, context: Context) -> str:
    """Merges what a checkpoint holds into the weights that its run began from; returns a line that says so. On the
    host, so that a GPU needs no room for both."""
    method: Method = component(kept.plan, "method", context)
    state = checkpoint.load(kept.folder, "ema/" if kept.averaged else "weights/")
    base = {name: value.cpu() for name, value in net.state_dict().items()}
    merged = method.merge(base, method.result(state).tensors)
    changed = sum(merged[name] is not value for name, value in base.items())
    net.load_state_dict(merged)
    return f"{kept}: {changed} of {len(base)} tensors are what it trained"
