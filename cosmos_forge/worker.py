"""`python -m cosmos_forge.worker RUN STAGE`: one process of one stage.

It reads the plan, builds components and calls the stage. This is the debugger's door too: with the run directory of an
earlier `forge run` it works by itself.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos_forge import events, machine
from cosmos_forge.errors import DONE, FAILED, NO_SPACE, ForgeError
from cosmos_forge.files import no_space, write_json
from cosmos_forge.plugins import load
from cosmos_forge.run import Run, digest
from cosmos_forge.stages import STAGES
from cosmos_forge.types import Context, World

if TYPE_CHECKING:
    import torch

    from cosmos_forge.options import Download
    from cosmos_forge.plan import Plan

NEEDS_LESS = {
    "train": 'train.recompute = "block", train.optimizer_state = "8bit", a smaller micro_batch_size or `fsdp` on more '
    "GPUs need less",
    "generate": 'generate.memory = "streamed" or a smaller video needs less',
}


def main(folder: str, stage: str) -> int:
    """Returns the process's exit code."""
    run = Run(Path(folder))
    rank = int(os.environ.get("RANK", 0))
    _die_with_parent()
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        work(run, stage, rank)
    except ForgeError as error:
        write_json(run.failure(stage, rank), str(error).splitlines())
        return error.code
    except Exception as error:
        if no_space(error):
            return NO_SPACE
        import traceback

        traceback.print_exc()
        write_json(
            run.failure(stage, rank), [*_told(error, stage), f"  the traceback stands in {run.log(stage, rank)}"]
        )
        return FAILED
    return DONE


def _told(error: Exception, stage: str) -> list[str]:
    """An error that nobody foresaw, for a person."""
    what = f"{type(error).__name__}: {error}".splitlines()
    if type(error).__name__ != "OutOfMemoryError":  # torch's, which may not be imported
        return [f"error: {what[0]}", *what[1:6]]
    least = NEEDS_LESS.get(stage, "smaller clips need less")
    return [
        f"error: the GPU's memory does not suffice for the stage `{stage}`",
        f"  {what[0]}",
        f"  fix: {least}; other programs may hold some of it; `forge explain` tells what takes how much",
    ]


def work(run: Run, stage: str, rank: int) -> None:
    """Does this process's part of the stage; rank 0 records its end."""
    from cosmos_forge.plan import load_plan

    plan = load_plan(run.folder, stage)
    log = events.EventLog(run.events)
    emit = log.emit if rank == 0 else _silent
    if not STAGES[stage].tables:  # no component, no torch
        load(STAGES[stage].run)(plan, run, emit)
    else:
        _with_components(plan, run, stage, emit)
    if rank == 0:
        for artifact in run.finish(stage, digest(plan, stage)):
            emit(artifact)


def _with_components(plan: Plan, run: Run, stage: str, emit: Callable[[events.Event], None]) -> None:
    # What is imported stays: to look through it for garbage takes a quarter of a second each time.
    gc.disable()
    import torch

    carry_out = load(STAGES[stage].run)
    gc.freeze()
    gc.enable()
    device = "cuda" if plan.root.device != "cpu" and torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if plan.root.precision == "bf16" else torch.float32

    alone = make_context(plan, World(device=device), dtype, emit)
    if not STAGES[stage].parallel:
        carry_out(plan, run, alone)
        return
    parallelism = component(plan, "parallelism", alone)
    world = parallelism.start()
    try:
        carry_out(plan, run, make_context(plan, world, dtype, emit), parallelism)
    finally:
        parallelism.stop()


def make_context(plan: Plan, world: World, dtype: torch.dtype, emit: Callable[[events.Event], None]) -> Context:
    """What the plan's components are built with in this process."""
    import torch

    context = Context(
        device=torch.device(world.device),
        dtype=dtype,
        world=world,
        seed=plan.root.seed,
        folder=plan.folder,
        files=files,
        resolve=plan.resolve,
        component=lambda kind, use, **options: build(plan, kind, use, options, context),
        emit=emit,
    )
    return context


def component(plan: Plan, table: str, context: Context) -> Any:
    """The object of a recipe's component table."""
    entry = plan.tables[table]
    return load(entry.build)(entry.options, context)


def build(plan: Plan, kind: str, use: str, values: dict[str, Any], context: Context) -> Any:
    """A component by kind and name, with options as a recipe would give them."""
    from cosmos_forge.options import build_options

    entry = plan.plugins.find(kind, use)
    options, faults = build_options(entry.options, values)
    if options is None:
        raise ForgeError("; ".join(f"{kind} {use}: {fault.what}" for fault in faults), faults[0].fix)
    return load(entry.build)(options, context)


def files(download: Download) -> Path:
    """The folder in which `fetch` has put a download. Raises ForgeError where it is not there."""
    folder = machine.snapshot(download)
    if folder is None:
        raise ForgeError(
            f"{download.repo} is not on this machine", "put `fetch` first in the recipe's stages, or run `forge fetch`"
        )
    return folder


def _silent(event: events.Event) -> None:
    """Processes other than the first report nothing."""


def _on_sigterm(signum: int, frame: object) -> None:
    # Unwinds through every `finally`, so that temporary files go and locks are left. Training handles it better itself.
    raise SystemExit(128 + signum)


def _die_with_parent() -> None:
    """Ends this process soon after the launcher is gone, however it went."""
    parent = int(os.environ.get("FORGE_PARENT", 0))
    if not parent:
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # gloo's threads outlive the process group where DTensors hold it, and would abort Python's own way out.
    os._exit(code)
