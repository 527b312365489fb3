"""What keeps a plan from fitting, or else from being done sooner, and the nearest change that helps.

Changes are tried: the recipe is planned anew with each, as if it stood on the command line, and forecast again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from cosmos_forge import machine
from cosmos_forge.checks import disk_demands
from cosmos_forge.errors import ForgeError
from cosmos_forge.forecast.forecast import Forecast, forecast
from cosmos_forge.gpus import Gpu, known, several

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

Replan = Callable[[list[str]], "Plan"]  # the plan with changes as on the command line; raises as `make_plan`

SOONER = 0.75  # of the time; a change that leaves more is not worth telling
MOST_GPUS = 16


@dataclass(frozen=True)
class Change:
    """settings: as on the command line. gpus: how many. found: what comes of both."""

    settings: list[str]
    gpus: int
    found: Forecast


@dataclass(frozen=True)
class Limit:
    """what: short of what a plan is, or "time" where all fits. why: in words, where something is short. change: what
    helps; None where nothing does that is known here."""

    what: Literal["memory", "disk", "time"]
    why: str = ""
    change: Change | None = None


@dataclass(frozen=True)
class Outlook:
    """What a plan will take of so many GPUs, and what limits it: first what binds."""

    found: Forecast
    gpus: int
    limits: list[Limit]


@contextmanager
def supposed(said: str | None) -> Iterator[Gpu | None]:
    """The GPU that a person names, as in "h100-80gb:8", and within, a machine that has so many; for None those that are
    here. None where there are none, or of a kind that is not known. Raises ForgeError for a name that is none."""
    if said is None:
        name = machine.gpu_name() if machine.gpus() else None
        yield known(name) if name else None
        return
    gpu, count = several(said)
    with machine.supposed(count):
        yield gpu


def look(plan: Plan, gpu: Gpu | None, replan: Replan) -> Outlook | None:
    """None where no GPU is used, or none that is known."""
    if gpu is None or not plan.gpus:
        return None
    found = forecast(plan, gpu)
    return Outlook(found, plan.gpus, list(_limits(plan, found, plan.gpus, replan)))


def _limits(plan: Plan, found: Forecast, gpus: int, replan: Replan) -> Iterator[Limit]:
    """Of memory and of disk where they are short; of time where memory is not. gpus: as many as the plan may use."""

    def fits(change: Change) -> bool:
        return not _too_much(change.found)

    def sooner(change: Change) -> bool:
        return fits(change) and change.found.seconds < SOONER * found.seconds

    why = _too_much(found)
    if why:
        methods = [[f"method.use={name}"] for name in _others(plan, "method")] if "train" in plan.stages else []
        yield Limit("memory", why, _first(plan, found.gpu, gpus, _for_memory(plan), methods, fits, replan))
    for each in disk_demands(plan, plan.stages):
        if not each.fits:
            yield Limit("disk", str(each), _for_disk(plan, found, gpus, replan))
    if found.seconds and not why:
        yield Limit("time", "", _first(plan, found.gpu, gpus, [], [], sooner, replan))


def _too_much(found: Forecast) -> str:
    """What does not fit on the GPU, in words."""
    for what, memory in (("training", found.training), ("generating", found.generating)):
        if memory and memory.total > found.gpu.usable:
            return (
                f"{what} takes {memory.total / 2**30:.1f} GiB of {found.gpu.usable / 2**30:.1f} that a GPU has for it"
            )
    return ""


def _first(
    plan: Plan,
    gpu: Gpu,
    gpus: int,
    before: list[list[str]],
    after: list[list[str]],
    helps: Callable[[Change], bool],
    replan: Replan,
) -> Change | None:
    """The first change that helps, on the GPUs there are and then on more of them: one of those `before`, or the work
    spread in another way, or one of those `after`."""
    doubled = max(1, math.ceil(math.log2(MOST_GPUS / gpus)) + 1)
    for count in (gpus * 2**each for each in range(doubled)):
        with machine.supposed(count):
            for settings in [*before, *_spread(plan, count), *after]:
                change = _try(settings, count, gpu, replan)
                if change and helps(change):
                    return change
    return None


def _try(settings: list[str], count: int, gpu: Gpu, replan: Replan) -> Change | None:
    try:
        return Change(settings, count, forecast(replan(settings), gpu))
    except (ForgeError, ValueError):
        return None  # one that this recipe cannot take


def _for_memory(plan: Plan) -> list[list[str]]:
    """Changes that need less memory, by how little they change what comes out; then two together."""
    single = []
    if "train" in plan.stages:
        single += [["train.recompute=auto"]] if plan.train.recompute != "auto" else []
        single += [["train.micro_batch_size=1"]] if plan.train.micro_batch_size != 1 else []
        single += [["train.optimizer_state=8bit"]] if plan.train.optimizer_state != "8bit" else []
    if "generate" in plan.stages:
        single += [[f"generate.memory={each}"] for each in ("auto", "fp8") if each != plan.generate.memory]
    return [[], *single, *(one + other for one, other in combinations(single, 2))]


def _others(plan: Plan, kind: str) -> list[str]:
    return [name for name in plan.plugins.names(kind) if kind in plan.tables and name != plan.use(kind)]


def _spread(plan: Plan, count: int) -> Iterator[list[str]]:
    """Ways to use so many GPUs, with the recipe's clips a step where that goes; then with as many as there are GPUs."""
    names = [name for name in plan.plugins.names("parallelism") if count > 1]
    for name in names:
        yield [f"parallelism.use={name}"]
        yield [f"parallelism.use={name}", f"parallelism.context={count}"]
    for name in names if "train" in plan.stages and plan.train.batch_size < count else ():
        yield [f"parallelism.use={name}", f"train.batch_size={count}"]


def _for_disk(plan: Plan, found: Forecast, gpus: int, replan: Replan) -> Change | None:
    single = []
    if "train" in plan.stages:
        single += [["train.keep_checkpoints=1"]] if plan.train.keep_checkpoints > 1 else []
    if "export" in plan.stages:
        single += [["export.merge=false"]] if plan.export.merge and "generate" not in plan.stages else []
        single += [["export.forms=[]"]] if plan.export.forms else []
    for settings in [*single, *(one + other for one, other in combinations(single, 2))]:
        try:
            other = replan(settings)
        except ForgeError:
            continue
        if all(each.fits for each in disk_demands(other, other.stages)):
            return Change(settings, gpus, found)
    return None
