"""The tables of a plan: what a recipe says, with everything filled in and every key checked by itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cosmos_forge.errors import ForgeError, Problem, Where
from cosmos_forge.options import Fault, Options, build_options, nearest
from cosmos_forge.plugins import KINDS, Component, Plugins
from cosmos_forge.recipe import ROOT, Origins, Recipe
from cosmos_forge.stages import STAGES
from cosmos_forge.stages.options import RunOptions

TABLES = (ROOT, *KINDS, *STAGES)  # in the order in which a plan is written


@dataclass(frozen=True)
class Table:
    """One table of a plan. use: the component's name, build: the import string of its factory; "" for a stage."""

    name: str
    options: Options
    use: str = ""
    build: str = ""

    def values(self) -> dict[str, Any]:
        """Every key with its value, as TOML knows them; those that are None are left out."""
        use = {"use": self.use} if self.use else {}
        return use | self.options.model_dump(mode="json", exclude_none=True)


def place(origins: Origins, table: str, key: str = "") -> Where | None:
    """Where the value of a key was given; for a default, where its table begins."""
    return origins.get((table, key)) or origins.get((table, ""))


def problem(origins: Origins, table: str, key: str, what: str, fix: str = "") -> Problem:
    """A problem with a key; `what` is the fault without the table's name."""
    return Problem(f"[{table}] {what}" if table else what, place(origins, table, key), fix)


def build_tables(recipe: Recipe, plugins: Plugins, problems: list[Problem]) -> dict[str, Table]:
    """All tables that are right by themselves, in the order of TABLES; adds what is wrong with others to `problems`.

    Stages that the recipe does not mention have their defaults, if they have one for every key.
    """
    for name in recipe.values:
        if name not in TABLES:
            what = "is not a table of recipes"
            problems.append(problem(recipe.origins, name, "", what, nearest(name, TABLES[1:])))
    tables = (_build(recipe, plugins, name, problems) for name in TABLES)
    return {table.name: table for table in tables if table}


def _build(recipe: Recipe, plugins: Plugins, name: str, problems: list[Problem]) -> Table | None:
    if name not in recipe.values and name in KINDS:
        return None
    values = dict(recipe.values.get(name, {}))
    cls: type[Options] = STAGES[name].options if name in STAGES else RunOptions
    use = build = ""
    if name in KINDS:
        use = values.pop("use", None)
        try:
            component = _component(plugins, name, use)
        except ForgeError as error:
            problems += [problem(recipe.origins, name, "use", each.what, each.fix) for each in error.problems]
            return None
        cls, build = component.options, component.build
    options, faults = build_options(cls, values)
    if options:
        return Table(name, options, use, build)
    if name in recipe.values:
        problems += [_problem(recipe, name, use, fault) for fault in faults]
    return None


def _component(plugins: Plugins, kind: str, use: Any) -> Component:
    """The component that a table asks for; raises ForgeError in words that follow the table's name."""
    if isinstance(use, str):
        return plugins.find(kind, use)
    names = ", ".join(f'"{name}"' for name in plugins.names(kind))
    what = "needs `use`, the name of a component" if use is None else f"use must be text, got {use!r}"
    raise ForgeError(what, f"installed here: {names}" if names else f"install a plugin that offers a {kind}")


def _problem(recipe: Recipe, table: str, use: str, fault: Fault) -> Problem:
    """A fault of one table, with what else may help."""
    key, what, fix = fault.key, fault.what, fault.fix
    if not key:  # several keys together: point at one of them
        key = next((given for given in recipe.values[table] if re.search(rf"\b{re.escape(given)}\b", what)), "")
    if not table and key in TABLES:
        what, fix = f"{key} is a table, not a key", f"write [{key}] on a line of its own"
    elif use:
        fix = f"{fix}; `forge plugins {use}` lists all keys".lstrip("; ")
    return problem(recipe.origins, table, key, what, fix)
