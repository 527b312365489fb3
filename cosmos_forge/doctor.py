"""Looks at the machine, and at what a recipe needs of it: one line a check. Imports no torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement

from cosmos_forge import machine
from cosmos_forge.errors import ForgeError, Problem, show_path
from cosmos_forge.plugins import Plugins, load_plugins

PACKAGE = "cosmos-forge"
LEAST_DRIVER = {"12": 525, "13": 580}  # by CUDA major version; NVIDIA's table of minor version compatibility


@dataclass(frozen=True)
class Check:
    """One line of the report. fix: what to do about it, unless it is ok."""

    status: Literal["ok", "warn", "fail"]
    what: str
    fix: str = ""


def examine(recipe: Path | None, overrides: Sequence[str], runs: Path) -> Iterator[Check]:
    """The checks of this machine; of a recipe too, if one is given."""
    yield _python()
    yield from _packages()
    gpus = 0
    try:
        gpus = machine.gpus()
    except ForgeError as error:
        yield from (_of_problem(problem) for problem in error.problems)
    if util.find_spec("torch"):
        yield _torch(gpus)
    yield _gpus(gpus)
    yield _memory()
    yield _video()
    yield _disk(runs)
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


def _torch(gpus: int) -> Check:
    """torch's CUDA build against the driver, read from their files."""
    version = metadata.version("torch")
    spec = util.find_spec("torch")
    text = (Path(spec.origin).parent / "version.py").read_text() if spec and spec.origin else ""
    found = re.search(r"^cuda\b.*?=\s*'([\d.]+)'", text, re.MULTILINE)
    if not found:
        if gpus:
            return Check("fail", f"torch {version} is built without CUDA, but there are GPUs", "install a CUDA build")
        return Check("ok", f"torch {version} without CUDA")
    cuda = found[1]
    driver = driver_version()
    least = LEAST_DRIVER.get(cuda.partition(".")[0])
    if gpus and driver and least and int(driver.partition(".")[0]) < least:
        fix = f"update the driver, or install a torch for an older CUDA than {cuda}"
        return Check("fail", f"torch {version} for CUDA {cuda} needs driver {least} or newer, this is {driver}", fix)
    return Check("ok", f"torch {version} for CUDA {cuda}" + (f", driver {driver}" if driver else ", no NVIDIA driver"))


def driver_version() -> str | None:
    """Of the NVIDIA kernel driver, as in "580.65.06"."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = re.search(r"(\d+\.\d+(?:\.\d+)?)", text)
    return found[1] if found else None


def _gpus(count: int) -> Check:
    if not count:
        return Check("warn", "no GPU", "tiny models run on the CPU; for published ones use a machine with GPUs")
    what = f"{count} GPU{'s' if count > 1 else ''}"
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Check("warn", f"{what}, but nvidia-smi does not answer: {error}", "check that the driver works")
    return Check("ok", f"{what}: {'; '.join(sorted(set(told.strip().splitlines())))}")


def _memory() -> Check:
    memory = psutil.virtual_memory()
    what = f"memory: {memory.available / 2**30:.0f} of {memory.total / 2**30:.0f} GiB free"
    if memory.available < 8 * 2**30:
        return Check("warn", what, "tiny models fit; published ones want 32 GiB or more")
    return Check("ok", what)


def _video() -> Check:
    readers = [name for name in ("decord", "av") if util.find_spec(name)]
    if not readers:
        return Check("fail", "neither decord nor av is installed, so videos cannot be read", "pip install av")
    return Check("ok", f"videos are read by {' or '.join(readers)}")


def _disk(runs: Path) -> Check:
    free = machine.free_gigabytes(runs)
    what = f"disk: {free:.0f} GB free for {show_path(runs)}"
    if free < 1:
        return Check("fail", what, "free some, or choose another folder with --runs")
    if free < 50:
        return Check("warn", what, "tiny models fit; published weights and checkpoints take tens of GB")
    return Check("ok", what)


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
    """What keeps the recipe from running, then what it will download and under which licence."""
    from cosmos_forge.checks import shortages
    from cosmos_forge.plan import make_plan
    from cosmos_forge.recipe import read_recipe

    try:
        plan = make_plan(read_recipe(recipe, overrides), plugins, runs=runs)
    except ForgeError as error:
        yield from (_of_problem(problem) for problem in error.problems)
        return
    if short := shortages(plan, plan.stages):
        yield from (_of_problem(problem) for problem in short)
    else:
        yield Check("ok", f"{show_path(plan.recipe)} can run; processes: {plan.processes}")
    for download in plan.downloads():
        what = f"{download.repo}, {download.gigabytes:.1f} GB" + (f", {download.licence}" if download.licence else "")
        if machine.is_downloaded(download):
            yield Check("ok", f"{what}: already here")
        elif download.licence and not has_hub_token():
            yield Check("warn", f"{what}: to be fetched", "if it asks to accept its licence, do so and `hf auth login`")
        else:
            yield Check("ok", f"{what}: to be fetched")


def _of_problem(problem: Problem) -> Check:
    place = f" ({problem.where.file}:{problem.where.line})" if problem.where else ""
    return Check("fail", problem.what + place, problem.fix)
