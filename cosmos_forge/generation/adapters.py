"""What `generate.adapters` names: results of fine-tuning, to be added to the weights. Imports no torch.

A name is that of a run ("run:kitchen", or one of its checkpoints, see `references`), or a path of what a method reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos_forge import trained
from cosmos_forge.errors import ForgeError, Problem, show_path

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


@dataclass(frozen=True)
class Adapter:
    """name: as the recipe calls it. source: what is added, which the method `use` reads."""

    name: str
    strength: float
    source: trained.Kept | Path
    use: str


def find_adapters(plan: Plan, strengths: Mapping[str, float]) -> list[Adapter]:
    """By name and strength. Raises ForgeError with all that is wrong."""
    found, problems = list[Adapter](), list[Problem]()
    for name, strength in strengths.items():
        try:
            source, use = _source(plan, name)
            found.append(Adapter(name, strength, source, use))
        except ForgeError as error:
            problems += error.problems
    if problems:
        raise ForgeError(problems)
    return found


def check(plan: Plan, stages: tuple[str, ...]) -> Iterator[Problem]:
    """Weights out of runs, and adapters, that are not there. Those of the very run that is about to be trained are
    looked for later."""
    yield from trained.check(plan, stages)
    if "generate" not in stages or "generate" not in plan.tables:
        return
    strengths = {
        name: strength
        for name, strength in plan.generate.adapters.items()
        if "train" not in stages or not trained.is_of(plan, name)
    }
    try:
        find_adapters(plan, strengths)
    except ForgeError as error:
        for problem in error.problems:
            yield plan.problem("generate", "adapters", f"adapters: {problem.what}", problem.fix)


def identity(plan: Plan, weights: trained.Weights) -> dict[str, Any]:
    """What weights are called, and what tells them from others that were called so."""
    told: dict[str, Any] = {"weights": weights.name or "published or fresh", "weights_files": []}
    if kept := trained.find(plan, weights.name):
        told |= {"weights_of": str(kept), "weights_files": _stamps(kept.folder)}
    elif weights.name:
        told["weights_files"] = _stamps(plan.resolve(weights.name))
    adapters = []
    for adapter in find_adapters(plan, weights.adapters):
        source = adapter.source
        of = {"of": str(source)} if isinstance(source, trained.Kept) else {}
        files = _stamps(source.folder if isinstance(source, trained.Kept) else source)
        adapters.append({"adapter": adapter.name, "strength": adapter.strength, **of, "files": files})
    return told | ({"adapters": adapters} if adapters else {})


def _stamps(path: Path) -> list[tuple[int, int]]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [(file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]


def _source(plan: Plan, name: str) -> tuple[trained.Kept | Path, str]:
    """Where an adapter lies, and the method that reads it."""
    readers = [
        use for use in plan.plugins.names("method") if hasattr(plan.plugins.find("method", use).options, "reads")
    ]
    if plan.of_run(name):
        run, kept = trained.run_of(plan, name), trained.find(plan, name)
        use = run.use("method")
        if use not in readers:
            what = f"{name} was trained with the method `{use}`, which leaves whole weights"
            raise ForgeError(what, f'generate.weights = "{name}" takes these')
        if fault := trained.unlike(plan, run, name):
            raise ForgeError(*fault)
        if kept:
            return kept, use
        path = plan.resolve(name).parent
        readers = [use]
    else:
        path = Path(name)
    if not path.exists():
        raise ForgeError(f"{name}: there is nothing at {show_path(path)}", f"relative paths start at {Path.cwd()}")
    for use in readers:
        if plan.plugins.find("method", use).options.reads(path):  # type: ignore[attr-defined]
            return path, use
    who = ", ".join(f"`{use}`" for use in readers)
    raise ForgeError(f"{name}: nothing there is an adapter", f"methods that were asked: {who}" if who else "")
