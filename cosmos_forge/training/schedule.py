"""The learning rate over a run."""

from __future__ import annotations

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
