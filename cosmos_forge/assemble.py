"""The one place that knows the order in which training is put together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from cosmos_forge import checkpoint, events
from cosmos_forge.compiling import compile_blocks
from cosmos_forge.ema import PowerEMA
from cosmos_forge.kinds import Method, Model, Parallelism
from cosmos_forge.worker import component

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan
    from cosmos_forge.run import Run
    from cosmos_forge.types import Context


@dataclass
class Assembly:
    """All that training changes. parameters: those that train, by name. step: optimizer steps done. pending: losses of
    steps that were not reported before the checkpoint."""

    model: Model
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    ema: PowerEMA | None
    step: int = 0
    pending: list[dict[str, float]] = field(default_factory=list)

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint holds, by name: `weights/`, `ema/` and `optimizer/`."""
        named: dict[str, Tensor] = {f"weights/{name}": value.data for name, value in self.parameters.items()}
        if self.ema:
            named |= {f"ema/{name}": value for name, value in self.ema.averages.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state[parameter].items():
                named[f"optimizer/{name}/{key}"] = value
        return named


def assemble(plan: Plan, run: Run, context: Context, parallelism: Parallelism) -> Assembly:
    """Load, adapt, compile, parallelise, optimizer, average, resume: in this order."""
    options = plan.train
    model: Model = component(plan, "model", context)
    method: Method = component(plan, "method", context)

    model.load()
    context.emit(events.Note(method.adapt(model.net)))
    parameters = method.trainable(model.net)
    for parameter in parameters.values():
        parameter.data = parameter.data.float()  # the optimizer's own copy is never below fp32

    plain = model.net
    compile_blocks(plain, model.blocks, plan.root.compile, context)
    model.net = parallelism.apply(plain, model.blocks)
    model.net.train()

    # Sharding replaces parameters, so they are looked up again.
    current = dict(plain.named_parameters())
    parameters = {name: current[name] for name in parameters}
    optimizer = torch.optim.AdamW(
        list(parameters.values()),
        lr=options.lr,
        betas=options.betas,
        eps=options.eps,
        weight_decay=options.weight_decay,
        fused=True,
    )
    ema = PowerEMA(cast("dict[str, Tensor]", parameters), options.ema_width) if options.ema else None
    assembly = Assembly(model, parameters, optimizer, ema)
    if newest := checkpoint.latest(run.checkpoints):
        _resume(assembly, newest)
        context.emit(events.Resumed(assembly.step, str(newest.relative_to(run.folder))))
    return assembly


def _resume(assembly: Assembly, folder: Path) -> None:
    """Restores weights, averages and optimizer state in place."""
    saved = checkpoint.read_state(folder)
    for name, parameter in assembly.parameters.items():
        for key, entry in saved["tensors"].items():
            prefix = f"optimizer/{name}/"
            if key.startswith(prefix):
                like = torch.zeros_like(parameter) if entry["shape"] else torch.zeros((), device=parameter.device)
                assembly.optimizer.state[parameter][key[len(prefix) :]] = like
    checkpoint.restore(folder, assembly.tensors())
    assembly.step, assembly.pending = saved["step"], saved["pending"]
