"""Looks at the machine, and at what a recipe needs of it: one line a check. Imports no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from cosmos_forge import machine
from cosmos_forge.doctor import gpus
from cosmos_forge.doctor.check import Check, of_problem
from cosmos_forge.errors import ForgeError, show_path
from cosmos_forge.options import Download
from cosmos_forge.plugins import Plugins, load_plugins

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

PACKAGE = "cosmos-forge"


def examine(recipe: Path | None, overrides: Sequence[str], runs: Path) -> Iterator[Check]:
    """The checks of this machine; of a recipe too, if one is given."""
    yield _python()
    yield from _packages()
    yield from gpus.look()
    yield _memory()
    yield _video()
    yield from _disk(runs)
    plugins = load_plugins()
    yield from _plugins(plugins)
    yield _hub()
    if recipe is not None:
        yield from _recipe(recipe, overrides, runs, plugins)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    supported = metadata.metadata(PACKAGE)["Requires-Python"]
    if Requirement(f"python{supported}").specifier.contains(version):
        return Check("ok", f"Python {version}")
    return Check("fail", f"Python {version} is not supported", f"use Python {supported}")


def _packages() -> Iterator[Check]:
    """Every requirement of this package, by its metadata."""
    needed = [Requirement(line) for line in metadata.requires(PACKAGE) or []]
    needed = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    wrong = False
    for requirement in needed:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong = True
            fix = f"pip install '{requirement.name}{requirement.specifier}'"
            yield Check("fail", f"{requirement.name} is not installed", fix)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong = True
            fix = f"pip install '{requirement.name}{requirement.specifier}'"
            yield Check("fail", f"{requirement.name} {version} does not satisfy {requirement.specifier}", fix)
    if not wrong:
        yield Check("ok", f"{len(needed)} required packages")


def _memory() -> Check:
    free, total = machine.host_memory()
    what = f"memory: {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
    if free < 8 * 2**30:
        return Check("warn", what, "tiny models fit; published ones want 32 GiB or more")
    return Check("ok", what)


def _video() -> Check:
    readers = [name for name in ("decord", "av") if util.find_spec(name)]
    if not readers:
        return Check("fail", "neither decord nor av is installed, so videos cannot be read", "pip install av")
    return Check("ok", f"videos are read by {' or '.join(readers)}")


def _disk(runs: Path) -> Iterator[Check]:
    """Room for runs, and whether they and downloads may be written."""
    free = machine.free_gigabytes(runs)
    what = f"disk: {free:.0f} GB free for {show_path(runs)}"
    if free < 1:
        yield Check("fail", what, "free some, or choose another folder with --runs")
    elif free < 50:
        yield Check("warn", what, "tiny models fit; published weights and checkpoints take tens of GB")
    else:
        yield Check("ok", what)
    cache = machine.hub_cache()
    if not machine.writable(runs):
        yield Check("fail", f"cannot write to {show_path(runs)}", "choose another folder with --runs")
    if not machine.writable(cache):
        yield Check("warn", f"cannot write to {show_path(cache)}", "HF_HOME chooses another folder for downloads")


def _plugins(plugins: Plugins) -> Iterator[Check]:
    yield Check("ok", f"{len(plugins.loaded)} plugins with {len(plugins.components)} components")
    for broken in plugins.broken:
        owner = f" of {broken.package} {broken.version}" if broken.package else ""
        yield Check("warn", f"plugin {broken.name}{owner}: {broken.reason}", "reinstall or uninstall its package")


def has_hub_token() -> bool:
    """Whether huggingface_hub would find a token; its value is not looked at."""
    home = machine.hub_cache().parent if "HF_HOME" not in os.environ else Path(os.environ["HF_HOME"])
    place = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").expanduser()
    return bool(os.environ.get("HF_TOKEN")) or place.is_file()


def _hub() -> Check:
    if os.environ.get("HF_HUB_OFFLINE"):
        return Check("warn", "HF_HUB_OFFLINE is set: nothing will be downloaded", "unset it to download")
    if not has_hub_token():
        return Check("warn", "no Hugging Face token", "`hf auth login`, for repositories that ask to accept a licence")
    return Check("ok", "a Hugging Face token is there")


def _recipe(recipe: Path, overrides: Sequence[str], runs: Path, plugins: Plugins) -> Iterator[Check]:
    """What keeps the recipe from running, whether it fits on the GPUs, then what it will download."""
    from cosmos_forge.checks import shortages
    from cosmos_forge.planning import make_plan
    from cosmos_forge.recipe import read_recipe

    def replan(changes: Sequence[str]) -> Plan:
        return make_plan(read_recipe(recipe, [*overrides, *changes]), plugins, runs=runs)

    try:
        plan = replan([])
    except ForgeError as error:
        yield from map(of_problem, error.problems)
        return
    if short := shortages(plan, plan.stages):
        yield from map(of_problem, short)
    else:
        yield Check("ok", f"{show_path(plan.recipe)} can run; processes: {plan.processes}")
    yield from _fits(plan, replan)
    yield from _downloads(plan.downloads())


def _fits(plan: Plan, replan: Callable[[list[str]], Plan]) -> Iterator[Check]:
    """Memory of the GPUs that are here, if it is known how much these have."""
    from cosmos_forge.forecast import limits, words

    with limits.supposed(None) as gpu:
        outlook = limits.look(plan, gpu, replan)
    for limit in outlook.limits if outlook else []:
        if limit.what == "memory":
            helps = words.remedy(limit.change, plan.gpus) if limit.change else ""
            fix = f"it fits with {helps}" if helps else "no change is known here; a smaller model or size takes less"
            yield Check("warn", limit.why, fix)


def _downloads(downloads: Sequence[Download]) -> Iterator[Check]:
    """What is here, and whether the hub would give what is not."""
    absent = [each for each in downloads if not machine.is_downloaded(each)]
    for each in downloads:
        licence = f", {each.licence}" if each.licence else ""
        state = "to be fetched" if each in absent else "already here"
        yield Check("ok", f"{each.repo}, {each.gigabytes:.1f} GB{licence}: {state}")
    if absent:
        from cosmos_forge import hub

        yield from map(of_problem, hub.barred(absent))
