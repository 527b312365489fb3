"""The learning rate and averaged weights against recorded curves."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
import torch

from cosmos_forge.training.ema import PowerEMA, ema_beta, ema_gamma
from cosmos_forge.training.schedule import lr_factor

TOLERANCE = 1e-12


@pytest.mark.golden("f_training/f_lr_*")
def test_learning_rate(case: Any, check: Callable[..., None]) -> None:
    """A cycle with a peak other than 1 is ours, scaled; several cycles are ours, one after another."""
    schedule = case.record["config"]["scheduler"]
    ends = list(accumulate(schedule["cycle_lengths"]))
    for iteration, recorded in case.record["scalars"]["factor_at_iteration"].items():
        cycle = next(index for index, end in enumerate(ends) if int(iteration) <= end)
        length, peak = schedule["cycle_lengths"][cycle], schedule["f_max"][cycle]
        factor = peak * lr_factor(
            int(iteration) - (ends[cycle] - length),
            schedule["warm_up_steps"][cycle],
            steps=length,
            start=schedule["f_start"][cycle] / peak,
            final=schedule["f_min"][cycle] / peak,
        )
        check(f"factor at {iteration}", factor, recorded, TOLERANCE)
        if "lr_at_iteration" in case.record["scalars"] and iteration in case.record["scalars"]["lr_at_iteration"]:
            lr = case.record["scalars"]["lr_at_iteration"][iteration]
            check(f"learning rate at {iteration}", factor * case.record["config"]["base_lr"], lr, TOLERANCE)


@pytest.mark.golden("f_training/f_ema_power_*")
def test_average(case: Any, check: Callable[..., None]) -> None:
    width, scalars = case.record["config"]["s"], case.record["scalars"]
    check("exponent", ema_gamma(width), scalars["exponent"], TOLERANCE, relative=True)
    for iteration, recorded in scalars["beta_at_iteration"].items():
        check(f"beta at {iteration}", ema_beta(int(iteration), width), recorded, TOLERANCE)
    parameter = torch.zeros(case.tensors["params"].shape[1:])
    average = PowerEMA({"weight": parameter}, width)
    for iteration, (value, recorded) in enumerate(zip(case.tensors["params"], case.tensors["ema"], strict=True)):
        parameter.copy_(value)
        average.update(iteration)
        check(f"average at {iteration}", average.averages["weight"], recorded, 1e-6)
