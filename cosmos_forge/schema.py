"""The JSON schema of recipes, with every installed component: what editors complete and check by."""

from __future__ import annotations

from typing import Any

from cosmos_forge.options import Options
from cosmos_forge.plugins import KINDS, OPTIONAL, SEVERAL, Component, Plugins
from cosmos_forge.stages import STAGES
from cosmos_forge.stages.options import RunOptions


def recipe_schema(plugins: Plugins) -> dict[str, Any]:
    """A JSON schema, draft 2020-12. No key is required, for a recipe may inherit it by `extends`."""
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {
        "extends": {"type": "string", "description": "a recipe to start from; its path relative to this file"},
        **_properties(RunOptions, "run", definitions),
    }
    for stage in STAGES.values():
        properties[stage.name] = _table(stage.options, stage.name, definitions)
    for kind in KINDS:
        components = [each for each in plugins.components if each.kind == kind]
        properties[kind] = _component_table(components, definitions)
        if kind in SEVERAL:
            properties[kind] = _named_tables(properties[kind])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "cosmos-forge recipe",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": definitions,
    }


def _component_table(components: list[Component], definitions: dict[str, Any]) -> dict[str, Any]:
    """One of the components by its `use`, or, where `use` is inherited, keys of any of them."""
    tables = []
    inherited: dict[str, Any] = {}
    for component in components:
        table = _table(component.options, f"{component.kind}.{component.name}", definitions)
        inherited |= dict.fromkeys(table["properties"], True)
        on = {"on": {"type": "boolean", "default": True}} if component.kind in OPTIONAL else {}
        inherited |= on
        table["properties"] = {"use": {"const": component.name}, **on, **table["properties"]}
        tables.append({**table, "required": ["use"]})
    tables.append({"type": "object", "properties": inherited, "additionalProperties": False})
    return {"oneOf": tables}


def _named_tables(table: dict[str, Any]) -> dict[str, Any]:
    """Tables of the kind under names of their own, where `use` may be left out."""
    choices = [{key: value for key, value in each.items() if key != "required"} for each in table["oneOf"]]
    return {"type": "object", "additionalProperties": {"anyOf": choices}}


def _table(options: type[Options], name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    properties = _properties(options, name, definitions)
    return {
        "type": "object",
        "description": options.summary(),
        "properties": properties,
        "additionalProperties": False,
    }


def _properties(options: type[Options], name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """The keys of a table; definitions they share go to `definitions` under names of their own."""
    schema = options.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
    definitions.update({f"{name}.{model}": entry for model, entry in schema.get("$defs", {}).items()})
    return dict(schema.get("properties", {}))
