"""export: the trained weights as plain safetensors under the published names, and in forms that the model offers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from cosmos_forge import events
from cosmos_forge.errors import ForgeError, show_path
from cosmos_forge.files import atomic, write_text
from cosmos_forge.generation.loading import load_model
from cosmos_forge.kinds import Method
from cosmos_forge.run import Run
from cosmos_forge.trained import Weights
from cosmos_forge.training import checkpoint
from cosmos_forge.types import Context, Result, Trained
from cosmos_forge.worker import component, load

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


def run(plan: Plan, run: Run, context: Context) -> None:
    """Leaves `export/<what the method trained>.safetensors`, and `export/model.safetensors` with it merged in."""
    chosen = checkpoint.latest(run.checkpoints)
    if chosen is None:
        raise ForgeError("there is no checkpoint to export", "run the stage `train` first")
    if plan.export.checkpoint == "best":
        chosen = checkpoint.best(run.checkpoints)
        if chosen is None:
            raise ForgeError(
                "no checkpoint was judged", "train with validate_every, or set export.checkpoint = 'newest'"
            )
    kept = plan.export.weights
    if kept == "auto":
        kept = "ema" if plan.train.ema else "regular"
    step = checkpoint.read_state(chosen)["step"]
    why = ", whose held-out loss was lowest" if plan.export.checkpoint == "best" else ""
    context.emit(events.Note(f"{kept} weights of step {step}{why}"))

    method: Method = component(plan, "method", context)
    model = load_model(plan, context, Weights(plan.options("model").weights))
    base = {name: tensor.cpu() for name, tensor in model.net.state_dict().items()}
    method.adapt(model.net)
    results = _results(method, chosen, ["regular", "ema"] if plan.export.forms else [kept])
    if kept not in results:
        raise ForgeError("no averaged weights were kept", "set train.ema = true, or export.weights = 'regular'")
    result = results[kept]
    merged = _merge(method, base, result)
    context.emit(events.Note(change(base, merged)))

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
        with atomic(whole) as temporary:
            save_file(merged, temporary)
        run.leave("weights", whole)
        context.emit(events.Note(f"{len(base)} of {len(base)} tensors in {show_path(whole)}"))
    samples = step * plan.train.batch_size
    regular, averaged = results.get("regular", result), results.get("ema")
    _write_forms(plan, run, Trained(step, samples, base, regular, averaged, result, merged))


def change(base: Mapping[str, Tensor], merged: Mapping[str, Tensor]) -> str:
    """The line that proves that training took hold: how many tensors it changed, and by what share of their length
    (L2 norm). Raises ForgeError where it changed none."""
    shares = []
    for name, before in base.items():
        after = merged[name]
        if after is not before and not torch.equal(after, before):
            lengths = [torch.linalg.vector_norm(each.float()) for each in (after, before)]
            shares.append(float(torch.linalg.vector_norm(after.float() - before.float()) / max(lengths)))
    if not shares:
        raise ForgeError(
            f"training changed nothing: all {len(base)} tensors are what they were before",
            "train for more steps or with a larger train.lr",
        )
    least, most = min(shares), max(shares)
    return f"training changed {len(shares)} of {len(base)} tensors, by {least:.1e} to {most:.1e} of their length"


def _results(method: Method, checkpoint_: Path, kinds: list[str]) -> dict[str, Result]:
    """What the method keeps of each kind of weights that the checkpoint has."""
    prefixes = {"regular": "weights/", "ema": "ema/"}
    states = {kind: checkpoint.load(checkpoint_, prefixes[kind]) for kind in kinds}
    return {kind: method.result(state) for kind, state in states.items() if state}


def _merge(method: Method, base: Mapping[str, Tensor], result: Result) -> dict[str, Tensor]:
    """Whole weights in the base's names and dtypes."""
    merged = method.merge(base, result.tensors)
    unlike = list(base.keys() ^ merged.keys())
    if unlike:
        raise ForgeError(f"merging changed which weights there are: {', '.join(sorted(unlike)[:8])}")
    return {name: merged[name].to(value.dtype).contiguous() for name, value in base.items()}


def _write_forms(plan: Plan, run: Run, trained: Trained) -> None:
    """What else was asked for, as the model writes it."""
    options = plan.options("model")
    folder = Path(plan.export.folder).expanduser() if plan.export.folder else run.export
    for form in plan.export.forms:
        for name, write in load(options.forms[form])(options, trained).items():
            path = folder.resolve() / name
            with atomic(path) as temporary:
                write(temporary)
            run.leave(f"{form}: {path.name}", path)
