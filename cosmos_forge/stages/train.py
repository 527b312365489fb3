"""train: fine-tunes the model on the prepared clips. The loop stands here, whole."""

from __future__ import annotations

import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from cosmos_forge import checkpoint, events
from cosmos_forge.agreement import check_agreement
from cosmos_forge.assemble import assemble
from cosmos_forge.data import Order, batches, generator, read_index, to_device
from cosmos_forge.errors import ForgeError
from cosmos_forge.kinds import Parallelism
from cosmos_forge.run import Run
from cosmos_forge.schedule import lr_factor
from cosmos_forge.stages.options import TrainOptions
from cosmos_forge.types import Context, Loss, World

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


def run(plan: Plan, run: Run, context: Context, parallelism: Parallelism) -> None:
    """Leaves `checkpoints/`, of which the newest is taken up if there is one.

    Raises ForgeError where there is nothing to train on. All randomness is a function of the seed and of a sample's
    place in training, so a resumed run repeats an undisturbed one bit by bit, and any number of processes sees the same
    samples.
    """
    options, world = plan.train, context.world
    clips = [clip for clip in read_index(run.prepared) if not clip.held_out]
    if not clips:
        raise ForgeError("no clips are left to train on", "lower prepare.held_out, or add clips")

    work = assemble(plan, run, context, parallelism)
    model, net, optimizer, parameters = work.model, work.model.net, work.optimizer, list(work.parameters.values())
    share = Share(options, world)
    stop = StopRequest()
    order = Order([clip.shape for clip in clips], options.batch_size, context.seed)
    data = batches(clips, order, share.positions(work.step), plan.max_tokens, pin=context.device.type == "cuda")
    report = Report(options, context, work.step, work.pending)

    first = work.step
    for step in range(first, options.steps):
        factor = lr_factor(step, options.warmup_steps, final=options.final_lr_factor, steps=options.steps)
        optimizer.param_groups[0]["lr"] = options.lr * factor
        torch.manual_seed(generator(context.seed, "step", step, world.data_rank).initial_seed())  # dropout, if any

        losses = []
        for micro in range(share.accumulate):
            with report.waiting():
                places, batch = next(data)
            parallelism.exchange(net, on=micro == share.accumulate - 1)
            noise = [generator(context.seed, "noise", place) for place in places]
            loss = model.loss(to_device(batch, context.device), noise)
            (loss.total / share.accumulate).backward()
            losses.append(loss)

        grad_norm = torch.nn.utils.clip_grad_norm_(parameters, options.clip_norm)
        if world.size > 1 and step == first:
            totals = [loss.total.detach() for loss in losses]
            context.emit(events.Note(check_agreement(world, totals, _whole(grad_norm), parameters)))
        # A step with gradients that are not finite is left out without asking the device: fused AdamW reads the flag.
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.found_inf = (~torch.isfinite(_whole(grad_norm))).float()  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if work.ema:
            work.ema.update(step)
        work.step = step + 1

        report.add(losses, grad_norm)
        if report.due(work.step):
            report.emit(work.step, options.lr * factor)
        if world.size == 1 or report.due(work.step):
            stop.agree(world)
        if work.step % options.save_every == 0 or work.step == options.steps or stop.agreed:
            folder = checkpoint.save(run.checkpoints, work.step, work.tensors(), {"pending": report.pending()})
            checkpoint.prune(run.checkpoints, options.keep_checkpoints)
            context.emit(events.Saved(work.step, str(folder.relative_to(run.folder))))
        if stop.agreed and work.step < options.steps:
            raise SystemExit(128 + signal.SIGTERM)
    run.leave("checkpoints", run.checkpoints)


class Share:
    """What this process takes of each global batch: a contiguous part, in `accumulate` micro-batches."""

    def __init__(self, options: TrainOptions, world: World) -> None:
        self.options, self.world = options, world
        self.size = options.batch_size // world.data_size
        self.micro = options.micro_batch_size or self.size
        self.accumulate = self.size // self.micro

    def positions(self, step: int) -> Iterator[Sequence[int]]:
        """Places in training (0-based count of samples) of each micro-batch from `step` on."""
        for now in range(step, self.options.steps):
            first = now * self.options.batch_size + self.world.data_rank * self.size
            for micro in range(self.accumulate):
                yield range(first + micro * self.micro, first + (micro + 1) * self.micro)


class StopRequest:
    """Turns SIGTERM into a wish to stop after the step, on which all processes agree."""

    def __init__(self) -> None:
        self.asked = self.agreed = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, signum: int, frame: object) -> None:
        self.asked = True

    def agree(self, world: World) -> None:
        """Whether anyone was asked; called by all processes at the same step."""
        self.agreed = bool(_mean(torch.tensor(float(self.asked)), world) > 0)


class Report:
    """Gathers what the steps say and emits it at intervals: the only place where the loop waits for the device."""

    def __init__(self, options: TrainOptions, context: Context, step: int, pending: list[dict[str, float]]) -> None:
        self.options, self.context = options, context
        self.last_step, self.last_time, self.waited = step, time.perf_counter(), 0.0
        self.values = [{name: torch.tensor(value) for name, value in each.items()} for each in pending]
        self.grad_norm = torch.zeros(())

    def waiting(self) -> Report:
        """A block that waits for data."""
        return self

    def __enter__(self) -> None:
        self.waited -= time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.waited += time.perf_counter()

    def add(self, losses: Sequence[Loss], grad_norm: Tensor) -> None:
        """Takes up a step's losses and metrics; they stay on the device."""
        self.grad_norm = grad_norm
        self.values += [{"loss": loss.total.detach(), **loss.metrics} for loss in losses]

    def due(self, step: int) -> bool:
        """Whether this step is reported: every `log_every`-th, the first and the last."""
        return step % self.options.log_every == 0 or step in (1, self.options.steps)

    def pending(self) -> list[dict[str, float]]:
        """What was added since the last report, for a checkpoint: a resumed run then reports the very same means."""
        if not self.values:
            return []
        names, world = list(self.values[0]), self.context.world
        rows = torch.stack([torch.stack([each[name].float() for name in names]) for each in self.values])
        return [dict(zip(names, row, strict=True)) for row in _mean(rows, world).tolist()]

    def emit(self, step: int, lr: float) -> None:
        """Means over the steps and processes since the last report."""
        world, names = self.context.world, list(self.values[0])
        means = [torch.stack([each[name].float().cpu() for each in self.values]).mean() for name in names]
        metrics = dict(zip(names, _mean(torch.stack(means), world).tolist(), strict=True))
        steps, seconds = step - self.last_step, time.perf_counter() - self.last_time
        self.context.emit(
            events.Step(
                step=step,
                steps=self.options.steps,
                loss=metrics.pop("loss"),
                metrics=metrics,
                lr=lr,
                grad_norm=float(_whole(self.grad_norm)),
                seconds=seconds / steps,
                samples_per_second=steps * self.options.batch_size / seconds,
                data_wait=self.waited / seconds,
                memory_gib=_peak_memory(world.device) / 2**30,
            )
        )
        self.last_step, self.last_time, self.waited = step, time.perf_counter(), 0.0
        self.values = []


def _mean(values: Tensor, world: World) -> Tensor:
    """Mean over all processes."""
    if world.size > 1:
        values = values.to(world.device)
        dist.all_reduce(values)
        values = values / world.size
    return values


def _whole(tensor: Tensor) -> Tensor:
    """A DTensor put together; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _peak_memory(device: str) -> int:
    """Bytes: of the GPU since the start, or of this process."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
