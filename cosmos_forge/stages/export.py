"""export: the trained weights as plain safetensors under the published names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors.torch import save_file

from cosmos_forge import checkpoint, events
from cosmos_forge.errors import ForgeError, show_path
from cosmos_forge.files import atomic, write_text
from cosmos_forge.kinds import Method, Model
from cosmos_forge.run import Run
from cosmos_forge.types import Context
from cosmos_forge.worker import component

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


def run(plan: Plan, run: Run, context: Context) -> None:
    """Leaves `export/<what the method trained>.safetensors`, and `export/model.safetensors` with it merged in."""
    newest = checkpoint.latest(run.checkpoints)
    if newest is None:
        raise ForgeError("there is no checkpoint to export", "run the stage `train` first")
    kept = plan.export.weights
    if kept == "auto":
        kept = "ema" if plan.train.ema else "regular"
    state = checkpoint.load(newest, "ema/" if kept == "ema" else "weights/")
    if not state:
        raise ForgeError("no averaged weights were kept", "set train.ema = true, or export.weights = 'regular'")
    context.emit(events.Note(f"{kept} weights of step {checkpoint.read_state(newest)['step']}"))

    method: Method = component(plan, "method", context)
    model: Model = component(plan, "model", context)
    model.load()
    base = {name: tensor.cpu() for name, tensor in model.net.state_dict().items()}
    method.adapt(model.net)
    result = method.result(state)

    whole = run.export / "model.safetensors"
    alone = run.export / f"{result.name}.safetensors"
    if alone != whole:
        with atomic(alone) as temporary:
            save_file(result.tensors, temporary)
        run.leave("trained weights", alone)
        for name, text in result.texts.items():
            write_text(run.export / name, text)
            run.leave(name, run.export / name)
    if plan.export.merge or alone == whole:
        merged = method.merge(base, result.tensors)
        unlike = list(base.keys() ^ merged.keys())
        if unlike:
            raise ForgeError(f"merging changed which weights there are: {', '.join(sorted(unlike)[:8])}")
        with atomic(whole) as temporary:
            save_file({name: merged[name].to(base[name].dtype).contiguous() for name in base}, temporary)
        run.leave("weights", whole)
        context.emit(events.Note(f"{len(base)} of {len(base)} tensors in {show_path(whole)}"))
