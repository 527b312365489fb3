"""What a shell completes behind `forge`; where nothing here begins so, it goes on with files. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cosmos_forge.recipe import shipped_recipes


def recipes(incomplete: str) -> list[str]:
    """Those that come along, and those of the folder that is being typed."""
    folder = incomplete[: incomplete.rfind("/") + 1]
    here = [folder + path.name for path in sorted(Path(folder).glob("*.toml"))]
    return _begun(incomplete, [*here, *shipped_recipes()])


def runs(ctx: Any, incomplete: str) -> list[str]:
    """By name, in the folder of all runs."""
    folder = Path(ctx.params.get("runs") or "runs")
    return _begun(incomplete, sorted(path.parent.name for path in folder.glob("*/events.jsonl")))


def components(incomplete: str) -> list[str]:
    """And stages: what has options to list."""
    from cosmos_forge.plugins import load_plugins
    from cosmos_forge.stages import STAGES

    return _begun(incomplete, sorted({each.name for each in load_plugins().components} | set(STAGES)))


def kinds(incomplete: str) -> list[str]:
    from cosmos_forge.new import kinds

    return _begun(incomplete, kinds())


def gpus(incomplete: str) -> list[str]:
    from cosmos_forge.gpus import GPUS

    return _begun(incomplete, [each.name for each in GPUS])


def _begun(incomplete: str, names: list[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
