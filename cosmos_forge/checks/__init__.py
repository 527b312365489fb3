"""What can be wrong across the tables of a plan, or between a plan and the machine.

Each check looks at the tables that are there, so that one faulty table hides no problem of the others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from cosmos_forge import machine
from cosmos_forge.checks import generate as generate_checks
from cosmos_forge.checks import validation as validation_checks
from cosmos_forge.errors import ForgeError, Problem, show_path
from cosmos_forge.forecast import disk
from cosmos_forge.generation import sharing
from cosmos_forge.generation.adapters import check as weights_to_load
from cosmos_forge.options import Download, nearest
from cosmos_forge.plan import SIZES, Plan
from cosmos_forge.recipe import ROOT, Recipe
from cosmos_forge.stages import STAGES
from cosmos_forge.tables import TABLES, Table, kind_of


def check(plan: Plan, recipe: Recipe, stages: tuple[str, ...]) -> list[Problem]:
    """Everything that keeps `stages` from being carried out."""
    problems = list(_run(plan, stages))
    stages = tuple(stage for stage in stages if stage in STAGES)
    missing = list(_missing(plan, recipe, stages))
    whole = not missing and plan.tables.keys() >= {ROOT, *recipe.values, *stages}
    problems += missing
    if "dataset" in recipe.values and "dataset" not in plan.tables:
        # Videos are as large as its clips, and how large these are is not known while the table is faulty.
        plan = replace(plan, tables={name: table for name, table in plan.tables.items() if name != "generate"})
    for part in (_prepare, _train, _sizes, _export, generate_checks.check, sharing.check, validation_checks.check):
        problems += part(plan, stages)
    problems += weights_to_load(plan, stages)
    problems += _plugins(plan, stages, whole)
    if whole:
        problems += _downloads(plan, stages)
    return problems


def needed_tables(plan: Plan, stages: tuple[str, ...]) -> list[str]:
    """The component tables that the stages build from."""
    needed = {table: None for stage in stages for table in STAGES[stage].tables}
    if "generate" in stages and "generate" in plan.tables and plan.generate.input is None:
        needed["dataset"] = None  # the held-out clips are its
    needed |= dict.fromkeys(validation_checks.sampled_with(plan, stages))
    optional = {"logger", *(kind for stage in stages for kind in STAGES[stage].optional)}
    return [*needed, *(table for table in plan.tables if kind_of(table) in optional)]


def needed_downloads(plan: Plan, stages: tuple[str, ...]) -> list[Download]:
    """What the stages need and is not on this machine."""
    tables = plan.tables if "fetch" in stages else needed_tables(plan, stages)
    needs = [need for table in tables for need in _needs(plan.tables[table])]
    return [need for need in dict.fromkeys(needs) if not machine.is_downloaded(need)]


def _run(plan: Plan, stages: tuple[str, ...]) -> Iterator[Problem]:
    """The run's name, its stages and its device."""
    if not re.fullmatch(r"\w[\w.+-]*", plan.name):
        yield Problem(
            f"`{plan.name}` cannot be the name of a run", fix="choose one of letters, digits, - and . by --name"
        )
    if ROOT not in plan.tables:
        return
    for stage in stages:
        if stage not in STAGES:
            yield plan.problem(ROOT, "stages", f"there is no stage `{stage}`", nearest(stage, STAGES))
    if len(set(stages)) < len(stages):
        yield plan.problem(ROOT, "stages", "a stage stands twice in stages", "name each once")
    if not stages:
        yield plan.problem(ROOT, "stages", "there are no stages to do", f"name some of {', '.join(STAGES)}")
    if plan.root.device == "cuda" and not machine.gpus():
        fix = 'device = "auto" takes the CPU where there is no GPU; `forge doctor` looks for GPUs'
        yield plan.problem(ROOT, "device", 'device is "cuda", but this machine shows no GPU', fix)


def _missing(plan: Plan, recipe: Recipe, stages: tuple[str, ...]) -> Iterator[Problem]:
    """Tables that the stages need and the recipe lacks, unless another is plainly meant to be it."""
    misspelt = set(map(kind_of, recipe.values)) - set(TABLES)
    for table in dict.fromkeys([*needed_tables(plan, stages), *stages]):
        if table in plan.tables or table in recipe.values or get_close_matches(table, misspelt, cutoff=0.5):
            continue
        if table in STAGES:
            fields = STAGES[table].options.model_fields
            keys = ", ".join(key for key, field in fields.items() if field.is_required())
            what, fix = "because it is a stage of this run", f"add [{table}] with {keys}"
        else:
            users = [stage for stage in stages if table in STAGES[stage].tables] or ["generate"]
            names = ", ".join(f'"{name}"' for name in plan.plugins.names(table)) or "no plugin offers one"
            what, fix = f"because of the stage `{users[0]}`", f"add [{table}] with `use`; installed here: {names}"
        where = plan.where(ROOT, "stages")
        yield Problem(f"[{table}] is missing from {show_path(recipe.path)}, needed {what}", where, fix)


def _prepare(plan: Plan, stages: tuple[str, ...]) -> Iterator[Problem]:
    """A cache that cannot be filled."""
    if "prepare" in stages and "prepare" in plan.tables and plan.prepare.cache and not machine.writable(plan.cache):
        what = f"cache = {plan.prepare.cache} is no folder that can be written to"
        yield plan.problem("prepare", "cache", what, "choose another; by default it is `cache` beside the runs")


def _train(plan: Plan, stages: tuple[str, ...]) -> Iterator[Problem]:
    """Training that would change nothing, and batches that do not divide."""
    if "train" in stages and "train" in plan.tables:
        options = plan.train
        if options.lr == 0:
            yield plan.problem("train", "lr", "lr = 0 trains nothing", "1e-4 is usual for LoRA, 5e-5 for full")
    if not any(STAGES[stage].parallel for stage in stages) or not {"parallelism", ROOT} <= plan.tables.keys():
        return
    try:
        groups = plan.groups
    except ValueError as error:
        yield plan.problem("parallelism", "processes", str(error))
        return
    except ForgeError as error:
        yield from error.problems
        return
    if "train" in stages and "train" in plan.tables:
        batch, micro = plan.train.batch_size, plan.train.micro_batch_size or 1
        if batch % (groups * micro):
            key = "micro_batch_size" if batch % groups == 0 else "batch_size"
            who = f"{groups} processes" if groups == plan.processes else f"{groups} groups of processes"
            at_once = f" and micro_batch_size = {micro}" if plan.train.micro_batch_size else ""
            what = f"batch_size = {batch} cannot be shared out: {who}{at_once} take multiples of"
            up = -(-batch // (groups * micro)) * groups * micro
            yield plan.problem("train", key, f"{what} {groups * micro}", f"batch_size = {up}")


def _sizes(plan: Plan, stages: tuple[str, ...]) -> Iterator[Problem]:
    """Clips and videos that the latent tokenizer cannot take."""
    if "latent_tokenizer" not in plan.tables:
        return
    wanted = []
    if {"prepare", "generate"} & set(stages) and "dataset" in plan.tables:
        wanted.append(("dataset", {size: getattr(plan.options("dataset"), size) for size in SIZES}))
    if "generate" in stages and "generate" in plan.tables:
        frames, height, width = plan.video_size()
        key = "chunk_frames" if plan.generate.chunk_frames == frames else "num_frames"
        wanted.append(("generate", {key: frames, "height": height, "width": width}))
    for table, sizes in wanted:
        try:
            plan.options("latent_tokenizer").latent_shape(*sizes.values())
        except ValueError as error:
            named = [key for key in sizes if key.rpartition("_")[2] in str(error)]
            given = [key for key in named or sizes if (table, key) in plan.origins]
            if table == "dataset" or given:  # where generate inherits a size, the dataset's table is told
                use = plan.use("latent_tokenizer")
                what = f"latent tokenizer `{use}` does not fit clips of {'x'.join(map(str, sizes.values()))}: {error}"
                yield plan.problem(table, (given or ["use"])[0], what, "frames x height x width are meant")


def _export(plan: Plan, stages: tuple[str, ...]) -> Iterator[Problem]:
    """Forms that the model does not offer."""
    if "export" in stages and {"export", "model"} <= plan.tables.keys():
        offered = getattr(plan.options("model"), "forms", {})
        for form in plan.export.forms:
            if form not in offered:
                what = f"the model `{plan.use('model')}` offers no form `{form}`"
                yield plan.problem("export", "forms", what, nearest(form, offered))


def _plugins(plan: Plan, stages: tuple[str, ...], whole: bool) -> Iterator[Problem]:
    """What components say of their options, and of those of others; while tables are missing, they cannot know."""
    needed = {*needed_tables(plan, stages), *stages}
    for name, table in plan.tables.items():
        try:
            yield from list(table.options.check(plan)) if name in needed else []
            table.options.needs()
        except ForgeError as error:
            yield from error.problems if whole else []
        except Exception as error:
            what = f"the check of `{table.use or name}` failed: {type(error).__name__}: {error}"
            fix = "this is the plugin's fault, tell its author; `forge plugins` names the package"
            yield from [plan.problem(name, "use", what, fix)] if whole else []


def _needs(table: Table) -> list[Download]:
    """The table's downloads; none where asking fails, which `_plugins` tells."""
    try:
        return table.options.needs()
    except Exception:
        return []


def _downloads(plan: Plan, stages: tuple[str, ...]) -> Iterator[Problem]:
    """Downloads that cannot come."""
    absent = needed_downloads(plan, stages)
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}
    for download in absent:
        if "fetch" not in stages:
            fix = 'put "fetch" first in `stages`, or run `forge fetch` before'
            yield Problem(f"{download.repo} is not on this machine", plan.where(ROOT, "stages"), fix)
        elif offline:
            yield Problem(
                f"{download.repo} is not on this machine, and HF_HUB_OFFLINE forbids fetching it", fix="unset it"
            )


@dataclass(frozen=True)
class Demand:
    """What will be written to a folder's disk, and what is free there; 10^9 bytes."""

    folder: Path
    gigabytes: float
    free: float

    @property
    def fits(self) -> bool:
        return self.gigabytes <= self.free

    def __str__(self) -> str:
        return f"{self.gigabytes:.1f} GB are needed in {show_path(self.folder)}, {self.free:.1f} GB are free"


def disk_demands(plan: Plan, stages: tuple[str, ...]) -> list[Demand]:
    """A line a disk: downloads that are to come, and what the stages leave beyond what they have left already."""
    coming = sum(download.gigabytes for download in needed_downloads(plan, stages)) if "fetch" in stages else 0.0
    parts = disk.written(plan, stages)
    written = parts.pop("logs") + max(0.0, sum(parts.values()) - disk.left(plan))
    cache, runs = machine.hub_cache(), plan.runs
    folders = [(runs, coming + written)] if machine.same_disk(cache, runs) else [(cache, coming), (runs, written)]
    return [Demand(folder, gigabytes, machine.free_gigabytes(folder)) for folder, gigabytes in folders]


def shortages(plan: Plan, stages: tuple[str, ...]) -> list[Problem]:
    """Disks of this machine that cannot hold what will be written. No fault of the recipe: asked before a run only."""
    fix = "free some, or choose another disk: --runs DIR for runs, HF_HOME for downloads"
    return [Problem(f"no disk space: {each}", fix=fix) for each in disk_demands(plan, stages) if not each.fits]
