"""train: fine-tunes the model on the prepared clips. The loop stands here, whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from cosmos_forge import events
from cosmos_forge.errors import ForgeError
from cosmos_forge.kinds import Parallelism
from cosmos_forge.run import Run
from cosmos_forge.stages.options import TrainOptions
from cosmos_forge.training.agreement import check_agreement
from cosmos_forge.training.assemble import assemble
from cosmos_forge.training.data import Order, batches, generator, read_index, require_tensors, to_device
from cosmos_forge.training.deterministic import be_deterministic
from cosmos_forge.training.pieces import whole
from cosmos_forge.training.report_steps import Report, average
from cosmos_forge.training.saving import Saver
from cosmos_forge.training.schedule import lr_factor, why_never_reached
from cosmos_forge.training.speed import Speed
from cosmos_forge.training.validate import Validation
from cosmos_forge.types import Context, World

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


def run(plan: Plan, run: Run, context: Context, parallelism: Parallelism) -> None:
    """Leaves `checkpoints/`, of which the newest is taken up if there is one.

    Raises ForgeError where there is nothing to train on. All randomness is a function of the seed and of a sample's
    place in training, so a resumed run repeats an undisturbed one bit by bit, and any number of processes sees the same
    samples.
    """
    options, world = plan.train, context.world
    prepared = read_index(run.prepared)
    require_tensors(prepared)
    clips = [clip for clip in prepared if not clip.held_out]
    if not clips:
        raise ForgeError("no clips are left to train on", "lower prepare.held_out, or add clips")

    if what := why_never_reached(options):
        context.emit(events.Note(what, warning=True))

    if options.deterministic:
        be_deterministic()

    work = assemble(plan, run, context, parallelism)
    if work.step > options.steps:
        what = f"train.steps = {options.steps}, but the newest checkpoint is of step {work.step}"
        raise ForgeError(what, f"train.steps = {work.step} or more, or a run of its own with --name")
    model, net, optimizer, parameters = work.model, work.model.net, work.optimizer, list(work.parameters.values())
    share = Share(options, world)
    stop = StopRequest()
    order = Order([clip.shape for clip in clips], options.batch_size, context.seed)
    data = batches(clips, order, share.positions(work.step), plan.max_tokens, pin=context.device.type == "cuda")
    speed = Speed(plan, net.parameters(), context)
    report = Report(options, context, speed, work.step, work.saved.get("report", {}))

    validation = Validation(plan, run, context, work, parallelism) if options.validate_every else None
    if validation and work.step == 0:
        with report.aside():
            validation.judge()

    first = work.step
    with Saver(run.checkpoints, options.keep_checkpoints, context.emit) as saver:
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

            grad_norm = whole(torch.nn.utils.clip_grad_norm_(parameters, options.clip_norm))
            if world.size > 1 and step == first:
                totals = [loss.total.detach() for loss in losses]
                context.emit(events.Note(check_agreement(world, totals, grad_norm, parameters)))
            # A step with gradients that are not finite is left out without asking the device: AdamW reads the flag.
            left_out = (~torch.isfinite(grad_norm)).float()
            optimizer.grad_scale, optimizer.found_inf = None, left_out  # type: ignore[attr-defined]
            # Where moments are rounded by chance, copies of the weights must meet the same.
            torch.manual_seed(generator(context.seed, "rounding", step).initial_seed())
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if work.ema:
                work.ema.update(step)
            work.step = step + 1

            saver.check()
            report.add(losses, grad_norm, left_out, batch.latents_BCTHW.shape[1:])
            if report.due(work.step):
                report.emit(work.step, options.lr * factor)
            if world.size == 1 or report.due(work.step):
                stop.agree(world)
            judged = validation is not None and validation.due(work.step)
            if validation and judged:
                with report.aside():
                    validation.judge()
            if work.step % options.save_every == 0 or work.step == options.steps or judged or stop.agreed:
                extra = {"report": report.state(), **(validation.state() if validation else {})}
                saver.save(work.step, work.tensors(), extra)
            if stop.agreed and work.step < options.steps:
                saver.wait()
                raise SystemExit(128 + signal.SIGTERM)
    run.leave("checkpoints", run.checkpoints)
    if run.samples.exists():
        run.leave("samples", run.samples)


class Share:
    """What this process takes of each global batch: a contiguous part, in `accumulate` micro-batches."""

    def __init__(self, options: TrainOptions, world: World) -> None:
        self.options, self.world = options, world
        self.size = options.batch_size // world.data_size
        self.micro, self.accumulate = options.micro_batch(world.data_size), options.accumulation(world.data_size)

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
        self.agreed = bool(average(torch.tensor(float(self.asked)), world) > 0)
