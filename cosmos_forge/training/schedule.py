"""The learning rate over a run. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cosmos_forge.stages.options import TrainOptions

WARMUP_START = 1e-6  # upstream's f_start


def lr_factor(step: int, warmup_steps: int, *, steps: int, start: float = WARMUP_START, final: float = 1.0) -> float:
    """What the learning rate is multiplied by in the update after `step` finished ones (the first is step 0).

    Linear from `start` to 1 over `warmup_steps`, then linear to `final`, reached at step `steps`, the first one that is
    no longer taken. Upstream: cosmos-predict1, training/functional/lr_scheduler.py, LambdaLinearScheduler, one cycle of
    length `steps` with f_max 1.
    """
    if step < warmup_steps:
        return start + (1.0 - start) * step / warmup_steps
    if steps <= warmup_steps:
        return 1.0
    return final + (1.0 - final) * (steps - step) / (steps - warmup_steps)


def why_never_reached(options: TrainOptions) -> str:
    """That the warm-up outlasts training, so that the learning rate is never reached; empty where it does not."""
    steps, warmup_steps = options.steps, options.warmup_steps
    if warmup_steps <= steps:
        return ""
    last = f"the last at {lr_factor(steps - 1, warmup_steps, steps=steps):.4g} of it"
    return f"train.lr is never reached: its warm-up has {warmup_steps} steps, training {steps}, {last}"
