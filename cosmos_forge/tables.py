"""The tables of a plan: what a recipe says, with everything filled in and every key checked by itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cosmos_forge.aliases import ALIASES
from cosmos_forge.errors import ForgeError, Problem, Where
from cosmos_forge.options import Fault, Options, build_options, nearest
from cosmos_forge.plugins import KINDS, OPTIONAL, SEVERAL, Component, Plugins
from cosmos_forge.recipe import COMMAND_LINE, ROOT, Origins, Recipe
from cosmos_forge.stages import STAGES
from cosmos_forge.stages.options import RunOptions

TABLES = (ROOT, *KINDS, *STAGES)  # in the order in which a plan is written

_NAME = re.compile(r"[\w-]+", re.ASCII)


@dataclass(frozen=True)
class Table:
    """One table of a plan. use: the component's name, build: the import string of its factory; "" for a stage. on:
    whether the component takes part; of one that is switched off no other key is looked at.
    """

    name: str
    options: Options
    use: str = ""
    build: str = ""
    on: bool = True

    def head(self) -> dict[str, Any]:
        """The keys that are not the component's own."""
        return ({"use": self.use} if self.use else {}) | ({} if self.on else {"on": False})

    def values(self) -> dict[str, Any]:
        """Every key with its value, as TOML knows them; those that are None are left out."""
        return self.head() | self.options.model_dump(mode="json", exclude_none=True)


def kind_of(table: str) -> str:
    """The kind of component that a table is about, or its stage: "logger" of "logger.csv"."""
    return table.partition(".")[0]


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
        if fault := _misnamed(name, plugins):
            problems.append(problem(recipe.origins, name, "", *fault))
    tables = (_build(recipe, plugins, name, problems) for kind in TABLES for name in _of_kind(kind, recipe))
    return {table.name: table for table in tables if table}


def _misnamed(table: str, plugins: Plugins) -> tuple[str, str] | None:
    """What is wrong with a table's name, in words that follow it, and how to mend it."""
    kind, _, name = table.partition(".")
    if kind not in TABLES:
        return "is not a table of recipes", nearest(kind, TABLES[1:])
    if kind not in SEVERAL or _NAME.fullmatch(name):
        return None
    what = "is named by letters, digits, - and _" if name else "needs a name, for there may be several"
    return what, f"write [{kind}.NAME]; NAME is free, and what `use` is by default; {_installed(plugins, kind)}"


def _of_kind(kind: str, recipe: Recipe) -> list[str]:
    """The names of a plan's tables of that kind; a stage has its table even where the recipe does not mention it."""
    if kind in SEVERAL:
        return [name for name in recipe.values if kind_of(name) == kind and _NAME.fullmatch(name.partition(".")[2])]
    return [kind] if kind in recipe.values or kind not in KINDS else []


def _build(recipe: Recipe, plugins: Plugins, name: str, problems: list[Problem]) -> Table | None:
    values, kind = dict(recipe.values.get(name, {})), kind_of(name)
    cls: type[Options] = STAGES[name].options if name in STAGES else RunOptions
    use = build = ""
    if kind in KINDS:
        use = values.pop("use", name.partition(".")[2] or None)
        on = values.pop("on", True) if kind in OPTIONAL else True
        if on is False:
            return Table(name, Options(), str(use or ""), on=False)
        if on is not True:
            fix = "on = false leaves the component out"
            problems.append(problem(recipe.origins, name, "on", f"on must be true or false, got {on!r}", fix))
            return None
        try:
            component = _component(plugins, kind, use)
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
    what = "needs `use`, the name of a component" if use is None else f"use must be text, got {use!r}"
    raise ForgeError(what, _installed(plugins, kind))


def _installed(plugins: Plugins, kind: str) -> str:
    names = ", ".join(f'"{name}"' for name in plugins.names(kind))
    return f"installed here: {names}" if names else f"install a plugin that offers a {kind}"


def _problem(recipe: Recipe, table: str, use: str, fault: Fault) -> Problem:
    """A fault of one table, with what else may help."""
    key, what, fix = fault.key, fault.what, fault.fix
    if not key:  # several keys together: point at one of them
        key = next((given for given in recipe.values[table] if re.search(rf"\b{re.escape(given)}\b", what)), "")
    if not table and key in TABLES:
        what, fix = f"{key} is a table, not a key", f"write [{key}{'.NAME' * (key in SEVERAL)}] on a line of its own"
    elif not table and what.startswith("unknown key") and _is_override(recipe, key):
        fix = nearest(key, {*RunOptions.model_fields, *ALIASES})
    elif use:
        fix = f"{fix}; `forge plugins {use}` lists all keys".lstrip("; ")
    return problem(recipe.origins, table, key, what, fix)


def _is_override(recipe: Recipe, key: str) -> bool:
    where = recipe.origins.get((ROOT, key))
    return where is not None and where.file == COMMAND_LINE
