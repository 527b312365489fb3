"""Reads recipes: TOML with one table a component, `extends`, and overrides; remembers where each value stands."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli

from cosmos_forge.aliases import expand
from cosmos_forge.errors import ForgeError, Problem, Where, show_path
from cosmos_forge.options import nearest
from cosmos_forge.plugins import SEVERAL

ROOT = ""  # the table of the keys above the first table
COMMAND_LINE = "command line"  # the file of an override; its line is its place among the overrides

Values = dict[str, dict[str, Any]]
Origins = dict[tuple[str, str], Where]


@dataclass(frozen=True)
class Recipe:
    """What a person asks for, and where.

    values: by table and key; keys above the first table are in the table "", and tables of a kind of which there may
    be several are called "logger.csv" and the like. origins: the place of each (table, key), and of each table under
    the key "". path: the file that was asked for.
    """

    values: Values
    origins: Origins
    path: Path


def read_recipe(path: Path | str, overrides: Sequence[str] = (), stages: Sequence[str] | None = None) -> Recipe:
    """The recipe at `path`, or the shipped one of that name: over its parents, under `overrides` ("table.key=value", or
    with a short name of `aliases`). stages: what is about to be done, if not all that the recipe says.

    Raises ForgeError with all problems of the files and overrides.
    """
    path = _find(Path(path), Path())
    problems: list[Problem] = []
    values, origins = _read_file(path, [], problems)
    for number, override in enumerate(overrides, 1):
        ahead = stages or values.get(ROOT, {}).get("stages")
        trains = not isinstance(ahead, (list, tuple)) or "train" in ahead
        where = Where(COMMAND_LINE, number, override)
        try:
            children = [_read_override(each, where, problems) for each in expand(override, trains)]
        except ValueError as error:
            problems.append(Problem(str(error), where, "`forge generate` knows short names; other commands need keys"))
            continue
        for child in children:
            values, origins = _merge(values, origins, *child)
    if problems:
        raise ForgeError(problems)
    return Recipe(values, origins, path)


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by file name."""
    package = Path(__file__).parent
    folders = (package / "recipes", package.parent / "recipes")  # in a wheel; in a checkout
    folder = next((each for each in folders if each.is_dir()), None)
    return {path.name: path for path in sorted(folder.glob("*.toml"))} if folder else {}


def toml_value(value: Any) -> str:
    """`value` (str, bool, int, float, list or dict of these) as TOML on one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return f"[{', '.join(map(toml_value, value))}]"
        case dict():
            return f"{{{', '.join(f'{json.dumps(key)} = {toml_value(each)}' for key, each in value.items())}}}"
        case _:
            return str(value)


def _find(path: Path, folder: Path, where: Where | None = None) -> Path:
    """`path` relative to `folder`, else the shipped recipe of that name."""
    if (folder / path).is_file():
        return folder / path
    shipped = shipped_recipes()
    if str(path) in shipped:
        return shipped[str(path)]
    what = "is a folder, not a recipe" if (folder / path).is_dir() else "does not exist"
    there = {each.name for each in (folder / path).parent.glob("*.toml")}
    raise ForgeError(
        Problem(f"recipe {show_path(folder / path)} {what}", where, nearest(path.name, there | set(shipped)))
    )


def _read_file(path: Path, children: list[Path], problems: list[Problem]) -> tuple[Values, Origins]:
    """One file over its parents; adds what is wrong to `problems`."""
    file = show_path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        problems.append(Problem(f"cannot read {file}: {reason}", fix="a recipe is a TOML file in UTF-8"))
        return {}, {}
    values, origins = _parse(text, file, problems)
    parent = values.get(ROOT, {}).pop("extends", None)
    where = origins.pop((ROOT, "extends"), None)
    if parent is None:
        return values, origins
    if not isinstance(parent, str):
        problems.append(Problem(f"extends must be one path, got {parent!r}", where, 'write extends = "base.toml"'))
        return values, origins
    try:
        parent_path = _find(Path(parent), path.parent, where)
    except ForgeError as error:
        problems.extend(error.problems)
        return values, origins
    chain = [*children, path]
    if parent_path.resolve() in [each.resolve() for each in chain]:
        names = " -> ".join(show_path(each) for each in [*chain, parent_path])
        problems.append(Problem(f"recipes extend each other in a circle: {names}", where, "remove one `extends`"))
        return values, origins
    return _merge(*_read_file(parent_path, chain, problems), values, origins)


def _merge(values: Values, origins: Origins, child: Values, places: Origins) -> tuple[Values, Origins]:
    """Parent under child: tables merge, values (lists too) replace; another `use` drops a table's inherited options."""
    values = {table: dict(entries) for table, entries in values.items()}
    origins = dict(origins)
    for table, entries in child.items():
        inherited = values.setdefault(table, {})
        if "use" in entries and entries["use"] != inherited.get("use", table.partition(".")[2] or None):
            inherited.clear()
            origins = {place: where for place, where in origins.items() if place[0] != table}
        inherited.update(entries)
    # An override does not move the place of a table that a file opens.
    heads = {place for place, where in places.items() if where.file == COMMAND_LINE and not place[1]} & origins.keys()
    return values, origins | {place: where for place, where in places.items() if place not in heads}


def _parse(text: str, file: str, problems: list[Problem]) -> tuple[Values, Origins]:
    """Values of one TOML text with the place of each."""
    lines = text.replace("\r\n", "\n").split("\n")
    try:
        document = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        number = min(error.lineno, len(lines))
        what = f"not valid TOML: {error.msg[:1].lower()}{error.msg[1:]} (column {error.colno})"
        problems.append(Problem(what, Where(file, number, lines[number - 1]), _syntax_fix(error.msg)))
        return {}, {}
    values: Values = {ROOT: {key: value for key, value in document.items() if not isinstance(value, dict)}}
    for table, entries in document.items():
        values |= _tables(table, entries) if isinstance(entries, dict) else {}
    origins: Origins = {}
    for place, number in _places(lines):
        origins.setdefault(place, Where(file, number, lines[number - 1].rstrip()))
    return values, origins


def _tables(name: str, entries: dict[str, Any]) -> Values:
    """A table of the document by itself, or one by one those of a kind of which there may be several."""
    if name not in SEVERAL:
        return {name: entries}
    tables = {f"{name}.{each}": inner for each, inner in entries.items() if isinstance(inner, dict)}
    loose = {key: value for key, value in entries.items() if not isinstance(value, dict)}
    return tables if tables and not loose else {name: loose} | tables


def _syntax_fix(message: str) -> str:
    if "overwrite" in message or "twice" in message or "Cannot mutate" in message:
        return "each key and each [table] may stand in a file once"
    if "value" in message.lower():
        return 'text is written in quotes: key = "text"; numbers, true and false without'
    return "a line is `[table]`, `key = value` or `# a comment`"


def _places(lines: Sequence[str]) -> Iterator[tuple[tuple[str, str], int]]:
    """(table, key) and 1-based line of every key, and (table, "") of every table, of a text that is valid TOML.

    tomli tells no places, so lines are fed to it until those so far parse: that is one statement.
    """
    header: list[str] = []
    start = 0
    for end in range(1, len(lines) + 1):
        try:
            statement = tomli.loads("\n".join(lines[start:end]))
        except tomli.TOMLDecodeError:
            continue
        number, start = start + 1, end
        is_header = lines[number - 1].lstrip().startswith("[")
        for key, value in statement.items():
            for place in _set_by([key] if is_header else [*header, key], value):
                yield place, number
        header = _path_of(statement) if is_header else header


def _set_by(path: list[str], value: Any) -> Iterator[tuple[str, str]]:
    """(table, key) of every key, and (table, "") of every table, that `value` at `path` of the document holds."""
    depth = 2 if path[0] in SEVERAL else 1
    if len(path) > depth or not isinstance(value, dict):
        cut = min(depth, len(path) - 1)
        yield ".".join(path[:cut]), path[cut]
        return
    yield ".".join(path), ""
    for key, inner in value.items():
        yield from _set_by([*path, key], inner)


def _path_of(header: dict[str, Any]) -> list[str]:
    """The keys of a parsed `[a.b]` or `[[a.b]]`."""
    path = []
    node: Any = header
    while node:
        if isinstance(node, list):
            node = node[0]
            continue
        key, node = next(iter(node.items()))
        path.append(key)
    return path


def _read_override(override: str, where: Where, problems: list[Problem]) -> tuple[Values, Origins]:
    """`table.key=value` as a recipe of one line; a value that is no TOML is text."""
    key, equals, value = override.partition("=")
    fix = "write table.key=value, as in train.steps=100, or key=value for a key above the tables"
    if not equals:
        problems.append(Problem(f"`{override}` sets nothing", where, fix))
        return {}, {}
    attempts = [f"{key}={value}"] if "\n" not in value else []
    for line in [*attempts, f"{key}={toml_value(value)}"]:
        try:
            tomli.loads(line)
        except tomli.TOMLDecodeError:
            continue
        values, places = _parse(line, COMMAND_LINE, problems)
        return values, dict.fromkeys(places, where)
    problems.append(Problem(f"`{key}` is not the name of a key", where, fix))
    return {}, {}
