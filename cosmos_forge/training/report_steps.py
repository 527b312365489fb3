"""What training says of its steps: gathered on the device, told at intervals."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cosmos_forge import events
from cosmos_forge.errors import ForgeError
from cosmos_forge.stages.options import TrainOptions
from cosmos_forge.training.speed import Speed
from cosmos_forge.types import Context, Loss, World

HOPELESS = 20  # steps in a row without finite gradients, after which training ends

# Of a step: means of its loss and metrics, `grad_norm`, and `left_out`, 1 where it changed nothing.
Row = dict[str, float]


class Report:
    """Gathers what the steps say and emits it at intervals: the only place where the loop waits for the device."""

    def __init__(
        self, options: TrainOptions, context: Context, speed: Speed, step: int, saved: Mapping[str, Any]
    ) -> None:
        """saved: what `state` gave, of a run that goes on after `step`."""
        self.options, self.context, self.speed = options, context, speed
        self.last_step, self.last_time, self.waited = step, time.perf_counter(), 0.0
        self.before: list[Row] = saved.get("rows", [])
        self.left_out, self.in_a_row = saved.get("left_out", 0), saved.get("in_a_row", 0)
        self.names: list[str] = []
        self.rows: list[Tensor] = []

    @contextmanager
    def aside(self) -> Iterator[None]:
        """A block whose time is not the steps'."""
        begin = time.perf_counter()
        yield
        self.last_time += time.perf_counter() - begin

    def waiting(self) -> Report:
        """A block that waits for data."""
        return self

    def __enter__(self) -> None:
        self.waited -= time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.waited += time.perf_counter()

    def add(self, losses: Sequence[Loss], grad_norm: Tensor, left_out: Tensor, latent_shape: Sequence[int]) -> None:
        """Takes up a step: losses and metrics of its micro-batches, and whether it changed nothing (a float, the same
        in all processes). All stays on the device."""
        self.speed.add(latent_shape, self.options.batch_size)
        self.names = ["loss", *losses[0].metrics, "grad_norm", "left_out"]
        each = [
            torch.stack([loss.total.detach().float(), *map(Tensor.float, loss.metrics.values())]) for loss in losses
        ]
        self.rows.append(torch.cat([torch.stack(each).mean(0), torch.stack([grad_norm.detach().float(), left_out])]))

    def due(self, step: int) -> bool:
        """Whether this step is reported: every `log_every`-th, the first and the last."""
        return step % self.options.log_every == 0 or step in (1, self.options.steps)

    def state(self) -> dict[str, Any]:
        """What was added since the last report, for a checkpoint: a resumed run then reports the very same numbers.
        Called by all processes."""
        return {"rows": self._means(), "left_out": self.left_out, "in_a_row": self.in_a_row}

    def emit(self, step: int, lr: float) -> None:
        """Means over the processes and over the steps since the last report that changed something. Called by all
        processes. Raises ForgeError where gradients have not been finite for many steps."""
        rows = self._means()
        good = [row for row in rows if not row["left_out"]]
        metrics = {name: fmean(row[name] for row in good) if good else math.nan for name in rows[-1]}
        steps, seconds = step - self.last_step, time.perf_counter() - self.last_time
        del metrics["left_out"], metrics["grad_norm"]
        self.context.emit(
            events.Step(
                step=step,
                steps=self.options.steps,
                loss=metrics.pop("loss"),
                metrics=metrics,
                lr=lr,
                grad_norm=rows[-1]["grad_norm"],
                seconds=seconds / steps,
                samples_per_second=steps * self.options.batch_size / seconds,
                data_wait=self.waited / seconds,
                memory_gib=_peak_memory(self.context.world.device) / 2**30,
                left_out=len(rows) - len(good),
                **self.speed.take(seconds),
            )
        )
        self._warn(rows, step)
        self.last_step, self.last_time, self.waited = step, time.perf_counter(), 0.0
        self.before, self.rows = [], []

    def _means(self) -> list[Row]:
        """Of each step since the last report, means over the processes; one copy from the device."""
        if not self.rows:
            return self.before
        here = average(torch.stack(self.rows), self.context.world).tolist()
        return self.before + [dict(zip(self.names, row, strict=True)) for row in here]

    def _warn(self, rows: Sequence[Row], step: int) -> None:
        """Tells of steps that were left out, and gives up where there were too many in a row."""
        lost = sum(bool(row["left_out"]) for row in rows)
        if not lost:
            self.in_a_row = 0
            return
        longest = 0
        for row in rows:
            self.in_a_row = self.in_a_row + 1 if row["left_out"] else 0
            longest = max(longest, self.in_a_row)
        self.left_out += lost
        text = f"gradients were not finite in {lost} of steps {step - len(rows) + 1} to {step}, which changed nothing"
        self.context.emit(events.Note(f"{text}; {self.left_out} in all", warning=True))
        if longest >= HOPELESS:
            raise ForgeError(
                f"gradients were not finite in {longest} steps in a row",
                'a lower train.lr, a longer train.warmup_steps or precision = "fp32" may help; checkpoints hold the '
                "weights as they were before. If it begins at step 1, look for clips or weights that are not finite",
            )


def average(values: Tensor, world: World) -> Tensor:
    """Mean over all processes."""
    if world.size > 1:
        values = values.to(world.device)
        dist.all_reduce(values)
        values = values / world.size
    return values


def _peak_memory(device: str) -> int:
    """Bytes: of the GPU since the start, or of this process."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
