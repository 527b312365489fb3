"""The one place that knows the order in which training is put together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from cosmos_forge import events
from cosmos_forge.compiling import compile_blocks, wake_compiler
from cosmos_forge.devices import converts_float8
from cosmos_forge.generation.loading import load_model
from cosmos_forge.kinds import Method, Model, Parallelism
from cosmos_forge.trained import Weights
from cosmos_forge.training import checkpoint
from cosmos_forge.training.adamw8bit import AdamW8bit
from cosmos_forge.training.ema import PowerEMA
from cosmos_forge.training.recompute import choose_levels, recompute_blocks
from cosmos_forge.worker import component

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan
    from cosmos_forge.run import Run
    from cosmos_forge.stages.options import TrainOptions
    from cosmos_forge.types import Context


@dataclass
class Assembly:
    """All that training changes. parameters: those that train, by name. step: optimizer steps done. saved: what else
    the checkpoint says that training goes on from (its `state.json`); empty where there is none."""

    model: Model
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    ema: PowerEMA | None
    step: int = 0
    saved: dict[str, Any] = field(default_factory=dict)

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
    """Load, adapt, compile, parallelise, recompute, optimizer, average, resume: in this order."""
    options = plan.train
    wake_compiler(plan.root.compile, context.device)
    model = load_model(plan, context, Weights(plan.options("model").weights))
    method: Method = component(plan, "method", context)

    context.emit(events.Note(method.adapt(model.net)))
    parameters = method.trainable(model.net)
    for parameter in parameters.values():
        parameter.data = parameter.data.float()  # the optimizer's own copy is never below fp32

    plain = model.net
    compiled = compile_blocks(plain, model.blocks, plan.root.compile, context)
    model.net = parallelism.apply(plain, model.blocks)
    model.net.train()

    # Sharding replaces parameters, so they are looked up again.
    current = dict(plain.named_parameters())
    parameters = {name: current[name] for name in parameters}
    # Last of what changes the network: what is to be forgotten depends on how much of it this process holds.
    recompute_blocks(plain, model.blocks, choose_levels(plan, plain, model.blocks, context, compiled))
    optimizer = _optimizer(parameters, options, compiled and converts_float8(context.device))
    ema = PowerEMA(cast("dict[str, Tensor]", parameters), options.ema_width) if options.ema else None
    assembly = Assembly(model, parameters, optimizer, ema)
    if newest := checkpoint.latest(run.checkpoints):
        _resume(assembly, newest)
        context.emit(events.Resumed(assembly.step, str(newest.relative_to(run.folder))))
    return assembly


def _optimizer(parameters: dict[str, nn.Parameter], options: TrainOptions, compiled: bool) -> torch.optim.Optimizer:
    """AdamW, which leaves out a step without asking the device where its `found_inf` is not 0."""
    trained = list(parameters.values())
    settings: dict[str, Any] = {key: getattr(options, key) for key in ("lr", "betas", "eps", "weight_decay")}
    if options.optimizer_state == "8bit":
        return AdamW8bit(trained, **settings, compiled=compiled)
    return torch.optim.AdamW(trained, **settings, fused=True)


def _resume(assembly: Assembly, folder: Path) -> None:
    """Restores weights, averages and optimizer state in place. A parameter that never got a gradient has no state."""
    saved = checkpoint.read_state(folder)
    optimizer = assembly.optimizer
    for name, parameter in assembly.parameters.items():
        if f"optimizer/{name}/step" not in saved["tensors"]:
            continue
        if isinstance(optimizer, AdamW8bit):
            optimizer.state[parameter] = optimizer.start(parameter)
        else:
            step, like = torch.zeros((), device=parameter.device), torch.zeros_like(parameter)
            optimizer.state[parameter] = {"step": step, "exp_avg": like, "exp_avg_sq": like.clone()}
    checkpoint.restore(folder, assembly.tensors())
    del saved["tensors"]
    assembly.step, assembly.saved = saved["step"], saved
