"""What is installed and what comes along: `forge plugins` and `forge` by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cosmos_forge.errors import ForgeError
from cosmos_forge.options import Options, nearest
from cosmos_forge.plugins import KINDS, OPTIONAL, SEVERAL, Component, Plugins
from cosmos_forge.recipe import shipped_recipes, toml_value
from cosmos_forge.stages import STAGES


def plugin_table(plugins: Plugins) -> str:
    """All components and commands, one a line; what is broken stands last, with the reason."""
    rows = [("KIND", "NAME", "PACKAGE", "VERSION", "SUMMARY")]
    kinds = list(KINDS)
    components = sorted(plugins.components, key=lambda each: kinds.index(each.kind))
    rows += [(each.kind, each.name, each.package, each.version, each.options.summary()) for each in components]
    rows += [("command", each.name, each.package, each.version, each.help) for each in plugins.commands]
    text = _columns(rows)
    if plugins.broken:
        broken = [(f"  {each.name}", f"{each.package} {each.version}".strip(), each.reason) for each in plugins.broken]
        text += "\nbroken:\n" + _columns(broken)
    return text


def plugin_json(plugins: Plugins) -> list[dict[str, Any]]:
    """Every plugin: name, package, version, hooks and components; broken ones with the error instead."""
    loaded = [
        {
            "name": plugin.name,
            "package": plugin.package,
            "version": plugin.version,
            "hooks": list(plugin.hooks),
            "components": [
                {"kind": each.kind, "name": each.name, "summary": each.options.summary(), "build": each.build}
                for each in plugins.components
                if each.plugin == plugin.name
            ],
        }
        for plugin in plugins.loaded
    ]
    broken = [
        {"name": each.name, "package": each.package, "version": each.version, "error": each.reason}
        for each in plugins.broken
    ]
    return loaded + broken


def help_on(name: str, plugins: Plugins) -> str:
    """What a recipe may say about the components or the stage of that name. Raises ForgeError where there is none."""
    helps = [_component_help(each) for each in plugins.components if each.name == name]
    if name in STAGES:
        helps.append(f"[{name}]\n\n{options_help(STAGES[name].options)}")
    if not helps:
        known = {each.name for each in plugins.components} | set(STAGES)
        raise ForgeError(f"no component or stage is called `{name}`", nearest(name, known))
    return "\n".join(helps)


def _component_help(component: Component) -> str:
    """The head of its table, and its options."""
    package = f"  # {component.package} {component.version}"
    head = f'[{component.kind}]\nuse = "{component.name}"{package}'
    if component.kind in SEVERAL:
        head = f"[{component.kind}.{component.name}]{package}"
    off = "\non = false leaves out what a parent recipe has\n" if component.kind in OPTIONAL else ""
    return f"{head}\n\n{options_help(component.options)}{off}"


def options_help(options: type[Options]) -> str:
    """Summary, then a line for each key: name, type with range, default, description."""
    schema = options.model_json_schema()
    required = schema.get("required", [])
    rows = [
        (
            f"  {key}",
            type_of(entry),
            default_of(entry, key in required),
            entry.get("description", ""),
        )
        for key, entry in schema.get("properties", {}).items()
    ]
    return f"{options.summary()}\n\n{_columns(rows) if rows else '  it has no options' + chr(10)}"


def default_of(entry: dict[str, Any], required: bool) -> str:
    default = entry.get("default")
    if required:
        return "required"
    return "" if default is None else f"= {toml_value(default)}"


def type_of(entry: dict[str, Any]) -> str:
    """A property of a JSON schema in words."""
    entry = next((each for each in entry.get("anyOf", []) if each.get("type") != "null"), entry)
    if "enum" in entry or "const" in entry:
        return " | ".join(map(str, entry.get("enum", [entry.get("const")])))
    words = {"integer": "int", "number": "float", "string": "text", "boolean": "true | false", "array": "list"}
    name = words.get(entry.get("type", ""), "value")
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = ", ".join(f"{sign} {entry[key]:g}" for key, sign in signs.items() if key in entry)
    return f"{name} {limits}".rstrip()


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows with their columns aligned; the last column is left as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"


def first_steps() -> str:
    """What to do first, with the recipes that come along: their names and first comments."""
    shipped = shipped_recipes()
    first = "quickstart.toml" if "quickstart.toml" in shipped else "recipe.toml"
    steps = [
        ("  forge doctor", "checks this machine"),
        (f"  forge explain {first}", "shows what would be done"),
        (f"  forge run {first}", "does it"),
        ("  forge plugins", "lists what recipes can use"),
        ("  forge --help", "lists all commands"),
    ]
    recipes = [(f"  {name}", _first_comment(path)) for name, path in shipped.items()]
    return "Start here:\n" + _columns(steps) + ("\nRecipes that come along:\n" + _columns(recipes) if recipes else "")


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
