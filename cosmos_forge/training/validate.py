"""Is it learning? Loss on held-out clips at fixed noise levels, held against the weights before training, and videos.

Validation draws nothing that training draws and leaves all as it found it, so that a run with it ends bit by bit where
one without it does. All processes take part; each group of them judges clips of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from cosmos_forge import events
from cosmos_forge.devices import release
from cosmos_forge.errors import ForgeError
from cosmos_forge.training.data import PreparedClip, generator, load_batch, read_index, to_device
from cosmos_forge.training.groups import from_all, turns
from cosmos_forge.training.samples import Samples, find_samples

if TYPE_CHECKING:
    from cosmos_forge.kinds import Parallelism
    from cosmos_forge.plan import Plan
    from cosmos_forge.run import Run
    from cosmos_forge.training.assemble import Assembly
    from cosmos_forge.types import Context

CLIPS = 32  # to judge at most, spread over all that are held out

Item = TypeVar("Item")


class Validation:
    """Judges what training has made so far.

    known: what checkpoints keep of it. `base`: the losses at step 0. `best`: the step with the lowest mean loss, and
    `loss`, that mean. `of`: a digest of what is judged, without which these could not be compared.
    """

    def __init__(self, plan: Plan, run: Run, context: Context, work: Assembly, parallelism: Parallelism) -> None:
        self.plan, self.context, self.work, self.parallelism = plan, context, work, parallelism
        held_out = [clip for clip in read_index(run.prepared) if clip.held_out]
        if not held_out:
            raise ForgeError("no clips are held out to validate on", "set prepare.held_out")
        self.clips = spread(held_out, CLIPS)
        self.samples: Samples | None = find_samples(plan, run, context, held_out)
        self.known: dict[str, Any] = self._known()
        levels = ", ".join(f"{sigma:.2g}" for sigma in work.model.sigmas)
        what = f"{'averaged weights' if work.ema else 'weights'}, {len(self.clips)} of {len(held_out)} held-out clips"
        context.emit(events.Note(f"validation: {what}, sigma {levels}"))

    def due(self, step: int) -> bool:
        """Whether the weights after `step` are judged: at every `validate_every`-th and the last."""
        every = self.plan.train.validate_every
        return every is not None and (step % every == 0 or step == self.plan.train.steps)

    def judge(self) -> None:
        """Measures, remembers and reports. Called by all processes."""
        step = self.work.step
        with self._aside():
            losses = self._losses()
            metrics, sheet = self.samples.make(step, self.work.model) if self.samples else ({}, "")
        if step == 0:
            self.known = {**self.known, "base": losses}
        best = step > 0 and fmean(losses) < self.known.get("loss", math.inf)
        if best:
            self.known = {**self.known, "best": step, "loss": fmean(losses)}
        base, levels = self.known.get("base", []), list(self.work.model.sigmas)
        self.context.emit(events.Validated(step, levels, losses, base, metrics, sheet, best))

    def state(self) -> dict[str, Any]:
        """For a checkpoint: `validated`, what is known, and `best`, the step of the best one if there is one."""
        return {"validated": self.known, "best": self.known.get("best")}

    def _known(self) -> dict[str, Any]:
        """What an earlier attempt has found; of no use on other clips, noise levels or kinds of weights."""
        judged = [[clip.key for clip in self.clips], list(self.work.model.sigmas), self.work.ema is not None]
        digest = hashlib.sha256(json.dumps(judged).encode()).hexdigest()[:16]
        known: dict[str, Any] = self.work.saved.get("validated", {})
        if known.get("of") == digest:
            return known
        if self.work.step > 0:
            what = f"validation begins at step {self.work.step}: there are no losses before training to compare with"
            self.context.emit(events.Note(what))
        return {"of": digest}

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """The network as it is judged: averaged weights where they are kept, nothing dropped out, no gradients. Nothing
        is compiled, since other shapes and modes would change the graphs of training. Then all is as before."""
        net, device = self.work.model.net, self.context.device
        modes = {module: module.training for module in net.modules()}
        gpus = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(gpus), torch.compiler.set_stance("force_eager"), torch.no_grad():
            net.eval()
            self._exchange_weights()
            try:
                yield
            finally:
                self._exchange_weights()
                for module, mode in modes.items():
                    module.training = mode
        release(self.context)

    def _exchange_weights(self) -> None:
        if self.work.ema:
            self.work.ema.swap()
        self.parallelism.renew(self.work.model.net)

    def _losses(self) -> list[float]:
        """Of each noise level the mean over the clips, the same in every process. Each clip is judged alone, so that
        its loss does not depend on its company."""
        found, total, world = {}, len(self.clips), self.context.world
        for turn in turns(total, world):
            losses = self._losses_of(self.clips[turn % total])
            if turn < total:
                found[turn] = losses
            if turn + 1 < total:
                self.context.emit(events.Progress("held-out clips", turn + 1, total, "clips"))
        return [fmean(level) for level in zip(*from_all(found, world), strict=True)]

    def _losses_of(self, clip: PreparedClip) -> list[float]:
        """At each noise level."""
        model = self.work.model
        batch = to_device(load_batch([clip], self.plan.max_tokens), self.context.device)
        losses = [
            model.loss(batch, [generator(self.context.seed, "held out", clip.key, level)], sigma).total
            for level, sigma in enumerate(model.sigmas)
        ]
        values: list[float] = torch.stack(losses).tolist()
        return values


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of them, evenly over all."""
    return [items[index * len(items) // count] for index in range(count)] if len(items) > count else list(items)
