"""Weights out of runs: what stands behind a recipe's references to them. Imports no torch.

What comes from a checkpoint is put together in memory when it is loaded: see `loading`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cosmos_forge import machine, references
from cosmos_forge.errors import ForgeError, Problem, show_path
from cosmos_forge.options import nearest
from cosmos_forge.plan import Plan, load_plan
from cosmos_forge.stages import STAGES
from cosmos_forge.training import checkpoint

WHICH = re.compile(r"(?P<step>\d+|best|newest)?(?:(?:^|(?<=.)-)(?P<kind>ema|regular))?")
FORMS = "@best, @newest, @ema, @regular, or a step such as @400 or @400-ema"


@dataclass(frozen=True)
class Weights:
    """What a model is filled with. name: as a recipe calls it; None for the model's own default. adapters: names of
    what is added, with strengths."""

    name: str | None
    adapters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    """A run's checkpoint. plan: of that run. averaged: whether its averaged weights are meant."""

    plan: Plan
    folder: Path
    step: int
    averaged: bool

    def __str__(self) -> str:
        return f"{'averaged' if self.averaged else 'regular'} weights of step {self.step} of run {self.plan.name}"

    @property
    def beginning(self) -> str | None:
        """The weights that the run began from, as a recipe calls them."""
        weights: str | None = self.plan.options("model").weights
        return weights


@dataclass(frozen=True)
class _Checkpoints:
    """What a run has kept."""

    folder: Path

    @cached_property
    def by_step(self) -> dict[int, Path]:
        """Oldest first."""
        return {checkpoint.step_of(each): each for each in checkpoint.committed(self.folder / "checkpoints")}

    @cached_property
    def newest(self) -> dict[str, Any]:
        """What the newest one says of itself. Raises ForgeError where it is damaged."""
        return checkpoint.read_state(list(self.by_step.values())[-1])

    @property
    def best(self) -> int | None:
        return self.newest.get("best")

    @property
    def averages(self) -> bool:
        return any(name.startswith("ema/") for name in self.newest["tensors"])

    def __str__(self) -> str:
        """What there is, for a person who asked for something else."""
        if not self.by_step:
            return "has no checkpoints"
        steps = f"has step{'s' * (len(self.by_step) > 1)} {', '.join(map(str, self.by_step))}"
        best = "no step is known to be the best" if self.best is None else f"the best is {self.best}"
        return f"{steps}; {best}; averaged weights are {'kept' if self.averages else 'not kept'}"


def run_of(plan: Plan, weights: str) -> Plan:
    """The plan of the run that a reference is about."""
    return _plan_of(plan, _run_of(plan, weights))


def is_of(plan: Plan, weights: str) -> bool:
    """Whether weights come out of the run that this plan makes."""
    return plan.of_run(weights) and _run_of(plan, weights) == plan.name


def find(plan: Plan, weights: str | None) -> Kept | None:
    """The checkpoint that a recipe's weights are to come from; None where they lie in a file: see `Plan.resolve`.

    Raises ForgeError, saying what there is, where it is none that was kept.
    """
    reference = references.read(weights)
    if reference is None or reference.which is None:
        return None
    name = reference.run or plan.name
    which = WHICH.fullmatch(reference.which)
    if which is None or not which[0]:
        raise ForgeError(f"`{weights}` names no weights of a run", f"a run's name may be followed by {FORMS}")
    there, run = _Checkpoints(plan.runs / name), _plan_of(plan, name)
    step, kind = _step(there, which["step"]), which["kind"] or _usual_kind(run)
    if step not in there.by_step or (kind == "ema" and not there.averages):
        raise ForgeError(f"{weights}: run {name} {there}", f"choose {FORMS}")
    return Kept(run, there.by_step[step], step, averaged=kind == "ema")


def chain(plan: Plan, weights: str | None) -> list[Kept]:
    """The checkpoints that make up `weights`, first the one that began from what lies in a file. Raises as `find`."""
    found: list[Kept] = []
    while kept := find(plan, weights):
        if any(kept.folder == other.folder for other in found):
            raise ForgeError(f"{weights} began from itself", "start from other weights")
        found.insert(0, kept)
        weights = kept.beginning
    return found


def check(plan: Plan, stages: tuple[str, ...]) -> Iterator[Problem]:
    """Weights out of runs that are not there, or are of another model."""
    if "model" not in plan.tables or not any("model" in STAGES[stage].tables for stage in stages):
        return
    wanted = [("model", "weights", plan.options("model").weights)]
    if "generate" in stages and "generate" in plan.tables:
        wanted.append(("generate", "weights", plan.generate.weights))
    for table, key, weights in wanted:
        if not (weights and plan.of_run(weights)):
            continue
        own = is_of(plan, weights)
        if own and table == "model" and "train" in plan.tables:
            fix = "name another run, or other weights; generate.weights may be this run's"
            yield plan.problem(table, key, f"{key} = {weights}: a run cannot begin from itself", fix)
        elif not own or "train" not in stages:
            yield from (plan.problem(table, key, *fault) for fault in _faults(plan, weights))


def _faults(plan: Plan, weights: str) -> Iterator[tuple[str, str]]:
    """What is wrong with weights out of a run, and how to mend it."""
    name = _run_of(plan, weights)
    try:
        checkpoints = chain(plan, weights)
        if fault := unlike(plan, run_of(plan, weights), weights):
            yield fault
        yield from _beginning_is_gone(plan, checkpoints[0]) if checkpoints else ()
        if not checkpoints and not plan.resolve(weights).exists():
            what = f"{weights}: there is nothing at {show_path(plan.resolve(weights))}; run {name}"
            yield f"{what} {_Checkpoints(plan.runs / name)}", f"`forge export`, or choose {FORMS}"
    except ForgeError as error:
        yield from ((problem.what, problem.fix) for problem in error.problems)


def _beginning_is_gone(plan: Plan, first: Kept) -> Iterator[tuple[str, str]]:
    """Whether the file that a run began from is still there."""
    options, begun = first.plan.options("model"), f"run {first.plan.name} began from"
    if first.beginning and plan.of_run(first.beginning) and not plan.resolve(first.beginning).exists():
        yield f"{begun} {first.beginning}, which is gone", "export it again"
    for problem in options.check(first.plan):
        yield f"{begun} what is no longer there: {problem.what}", problem.fix
    for need in options.needs():
        if not machine.is_downloaded(need):
            fix = f"`forge fetch {show_path(first.plan.folder / 'recipe.toml')}`"
            yield f"{begun} {need.repo}, which is not on this machine", fix


def unlike(plan: Plan, other: Plan, weights: str) -> tuple[str, str] | None:
    """What makes a run's network another than this plan's, if it is one, and how to mend it."""
    ours, theirs = plan.table("model"), other.table("model")
    shapes = [getattr(table.options, "parameter_shapes", lambda: None)() for table in (ours, theirs)]
    if ours.use == theirs.use and shapes[0] == shapes[1]:
        return None
    mine, its = ours.values(), theirs.values()
    keys = [key for key in its if key != "weights" and its[key] != mine.get(key)]
    told = ", ".join(f"{key} = {its[key]}, here {mine.get(key)}" for key in keys)
    return f"{weights} is of another network: {told}", "make [model] what it is in that run"


def _step(there: _Checkpoints, said: str | None) -> int | None:
    if not there.by_step:
        return None
    if said == "best":
        return there.best
    return max(there.by_step) if said in (None, "newest") else int(said)


def _usual_kind(run: Plan) -> str:
    """The kind of weights that a run exports."""
    kind = run.export.weights
    return ("ema" if run.train.ema else "regular") if kind == "auto" else kind


def _run_of(plan: Plan, weights: str) -> str:
    """The name of the run that a reference is about."""
    reference = references.read(weights)
    return (reference and reference.run) or plan.name


def _plan_of(plan: Plan, name: str) -> Plan:
    """The plan of a run beside this one."""
    folder = plan.runs / name
    if not (folder / "recipe.toml").exists():
        runs = [path.parent.name for path in plan.runs.glob("*/recipe.toml")]
        raise ForgeError(f"there is no run {name} in {show_path(plan.runs)}", nearest(name, runs))
    return load_plan(folder, "train")
