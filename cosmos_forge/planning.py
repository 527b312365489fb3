"""Recipe + plugins -> Plan, or all problems at once. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import cast

from cosmos_forge.checks import check
from cosmos_forge.errors import ForgeError, Problem
from cosmos_forge.plan import Plan
from cosmos_forge.plugins import Plugins
from cosmos_forge.recipe import ROOT, Recipe
from cosmos_forge.stages.options import RunOptions
from cosmos_forge.tables import build_tables


def make_plan(
    recipe: Recipe,
    plugins: Plugins,
    name: str | None = None,
    runs: Path = Path("runs"),
    stages: Iterable[str] | None = None,
) -> Plan:
    """The plan of a recipe. stages: what is about to be done, if not all that the recipe says; only what these need has
    to be there. name: of the run, by default the recipe's stem. Raises ForgeError with all problems, in recipe order.
    """
    problems: list[Problem] = []
    tables = build_tables(recipe, plugins, problems)
    plan = Plan(_name(recipe, name, runs), recipe.path, runs, tables, recipe.origins, plugins)
    problems += check(plan, recipe, tuple(_stages(recipe) if stages is None else stages))
    if problems:
        raise ForgeError(_in_order(problems, recipe))
    return plan


def _name(recipe: Recipe, name: str | None, runs: Path) -> str:
    """The run's name. The recipe that lies in a run's directory continues that run."""
    path = recipe.path.resolve()
    if name is not None:
        return name
    return path.parent.name if path.parent.parent == runs.resolve() else path.stem


def _stages(recipe: Recipe) -> list[str]:
    """The stages that the recipe asks for, even where another key beside them is wrong."""
    asked = recipe.values.get(ROOT, {}).get("stages")
    well = isinstance(asked, list) and all(isinstance(stage, str) for stage in asked)
    return cast("list[str]", asked if well else RunOptions.model_fields["stages"].default)


def _in_order(problems: Iterable[Problem], recipe: Recipe) -> list[Problem]:
    """Each problem once: parents before children, top to bottom; those without a place come last."""
    files = list(dict.fromkeys(where.file for where in recipe.origins.values()))

    def rank(problem: Problem) -> tuple[int, int]:
        where = problem.where
        return (files.index(where.file), where.line) if where and where.file in files else (len(files), 0)

    return sorted(dict.fromkeys(problems), key=rank)
