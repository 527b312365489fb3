"""Pages of the site that are made when it is built: the reference from the Options, a page a hook from the hookspecs,
commands, recipes, README as the first page and those of the plugins. A hook of mkdocs; see mkdocs.yml.

Hand-written pages link to files of the repository, as they must to be read there. Here those links lead to the page
that a file has become.
"""

from __future__ import annotations

import inspect
import posixpath
import re
from pathlib import Path
from typing import Any

import tomli
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from typer.testing import CliRunner

from cosmos_forge import hookspecs, kinds, testing
from cosmos_forge.catalogue import default_of, type_of
from cosmos_forge.cli import app
from cosmos_forge.options import Options
from cosmos_forge.plugins import KINDS, OPTIONAL, SEVERAL, Component, load_plugins
from cosmos_forge.stages import STAGES
from cosmos_forge.stages.options import RunOptions

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()([^):#\s]+)(?=[)#])")


def on_config(config: Any) -> Any:
    """Adds what is made to what is written by hand."""
    nav = {next(iter(each)): next(iter(each.values())) for each in config.nav}
    nav["Recipes"] += ["recipes.md", "commands.md", "reference/run.md", *(_reference(kind) for kind in KINDS)]
    nav["Plugins"] += [
        {"Hooks": [_hook(name) for name in _hooks()]},
        {"Packages": [_package(each) for each in _readmes()]},
    ]
    config.nav = [{name: pages} for name, pages in nav.items()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leads links to files of the repository to their pages."""
    here = page.file.src_uri
    written = {path: file for file, path in _files().items() if file.endswith("README.md")}
    source = written.get(here) or (f"docs/{here}" if (ROOT / "docs" / here).exists() else None)
    return LINK.sub(lambda link: _led(link[1], source, here), markdown) if source else markdown


def pages() -> dict[str, str]:
    """Every page that is made, by its path in the site."""
    plugins = load_plugins()
    made = {
        path: (ROOT / file).read_text(encoding="utf-8") for file, path in _files().items() if file.endswith("README.md")
    }
    made["recipes.md"] = _recipes()
    made["commands.md"] = _commands()
    made["reference/run.md"] = _run()
    for kind in KINDS:
        made[_reference(kind)] = _kind(kind, [each for each in plugins.components if each.kind == kind])
    for name, hook in _hooks().items():
        made[_hook(name)] = _hook_page(name, hook, [each for each in plugins.components if KINDS[each.kind] == name])
    return made


def _led(target: str, source: str, here: str) -> str:
    """A link as it stands in a file of the repository -> as it has to stand on the page `here`."""
    file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    path = _files().get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
    if path is None and file.startswith("recipes/"):
        path = "recipes.md"
    if path is None:
        raise PluginError(f"{source} links to {file}, which has no page: add it to docs/pages.py")
    return posixpath.relpath(path, posixpath.dirname(here) or ".")


def _files() -> dict[str, str]:
    """Files of the repository that have become pages -> their pages, but for those in `docs`."""
    found = {"README.md": "index.md", "cosmos_forge/kinds.py": "hooks/datasets.md"}
    return found | {f"{each}/README.md": _package(each) for each in _readmes()}


def _readmes() -> list[str]:
    """Folders of plugins that have a README."""
    return [path.parent.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("plugins/**/README.md"))]


def _package(folder: str) -> str:
    return f"packages/{posixpath.basename(folder)}.md"


def _reference(kind: str) -> str:
    return f"reference/{kind}.md"


def _hook(name: str) -> str:
    return f"hooks/{name.removeprefix('register_')}.md"


def _hooks() -> dict[str, Any]:
    return {name: hook for name, hook in vars(hookspecs).items() if name.startswith("register_")}


def _recipes() -> str:
    """What is shipped: its first comments, and the text."""
    lines = ["# Recipes that come along", "", "`forge run NAME.toml` takes them by name; `extends` does too.", ""]
    for path in sorted((ROOT / "recipes").glob("*.toml")):
        text = path.read_text(encoding="utf-8")
        stages = ", ".join(tomli.loads(text).get("stages", [])) or "as its parent"
        lines += [f"## {path.name}", "", f"Stages: {stages}.", "", "```toml", text.rstrip(), "```", ""]
    return "\n".join(lines)


def _commands() -> str:
    """Every command with its help."""
    runner = CliRunner()
    listed = runner.invoke(app, ["--help"]).output.partition("Commands:")[2]
    lines = ["# Commands", "", "As `forge COMMAND --help` tells.", ""]
    for name in re.findall(r"^  (\w[\w-]*)  ", listed, re.MULTILINE):
        told = runner.invoke(app, [name, "--help"], prog_name="forge").output
        lines += [f"## forge {name}", "", "```text", told.strip(), "```", ""]
    return "\n".join(lines)


def _run() -> str:
    """The keys above the first table, and the tables of stages."""
    text = ["# The run and its stages", "", RunOptions.summary(), "", *_keys(RunOptions)]
    for stage in STAGES.values():
        text += [f"## [{stage.name}]", "", stage.options.summary(), "", *_keys(stage.options)]
    return "\n".join(text)


def _kind(kind: str, components: list[Component]) -> str:
    """Every component of a kind with its keys."""
    table = f"[{kind}.NAME]" if kind in SEVERAL else f"[{kind}]"
    told = (
        ["A recipe may have several, under names of their own; `use` is the name by default."]
        if kind in SEVERAL
        else []
    )
    told += ["`on = false` leaves out what a parent recipe has."] if kind in OPTIONAL else []
    text = [
        f"# {table}",
        "",
        f"Offered by plugins through [{KINDS[kind]}](../{_hook(KINDS[kind])}). {' '.join(told)}",
        "",
    ]
    for each in components:
        text += [f"## {each.name}", "", f"{each.options.summary()} Package: {each.package}.", "", *_keys(each.options)]
    return "\n".join(text)


def _keys(options: type[Options]) -> list[str]:
    """A row a key."""
    schema = options.model_json_schema()
    rows = [
        (
            f"`{key}`",
            type_of(entry),
            default_of(entry, key in schema.get("required", [])).removeprefix("= "),
            entry.get("description", ""),
        )
        for key, entry in schema.get("properties", {}).items()
    ]
    return _table(("key", "values", "default", ""), rows) if rows else ["It has no keys.", ""]


def _hook_page(name: str, hook: Any, components: list[Component]) -> str:
    """The hookspec, the contract behind it and the tests of that, and who implements it."""
    told = inspect.getdoc(hook) or ""
    text = [f"# {name}", "", "```python", "@hookspec", _signature(name, hook), "```", "", told, ""]
    for protocol in dict.fromkeys(re.findall(r"`kinds\.(\w+)`", told)):
        options = getattr(kinds, f"{protocol}Options", None)
        for each in filter(None, (getattr(kinds, protocol), options)):
            text += [f"## {each.__name__}", "", *_protocol(each)]
    if contract := re.search(r"`testing\.(\w+)`", told):
        case = getattr(testing, contract[1])
        text += [f"## testing.{contract[1]}", "", inspect.getdoc(case) or "", ""]
        tests = [each.removeprefix("test_").replace("_", " ") for each in dir(case) if each.startswith("test_")]
        text += [*(f"- {each}" for each in tests), ""]
    if components:
        text += ["## Components", ""]
        text += [f"- [`{each.name}`](../{_reference(each.kind)}): {each.options.summary()}" for each in components]
    return "\n".join(text)


def _protocol(protocol: type) -> list[str]:
    """What it says of itself, and each method with its signature."""
    text = [inspect.getdoc(protocol) or "", ""]
    for name, member in vars(protocol).items():
        function = member.fget if isinstance(member, property) else member
        if name[0] != "_" and inspect.isfunction(function):
            text += ["```python", _signature(name, function), "```", "", inspect.getdoc(function) or "", ""]
    return text


def _signature(name: str, function: Any) -> str:
    """As in the source, a line for each parameter where one is not enough."""
    signature = inspect.signature(function)
    told = _plain(f"def {name}{signature}: ...")
    if len(told) <= 88:
        return told
    after = told.rpartition(")")[2]
    each = [_plain(str(parameter)) for parameter in signature.parameters.values()]
    keyword_only = [index for index, one in enumerate(signature.parameters.values()) if one.kind == one.KEYWORD_ONLY]
    if keyword_only:
        each.insert(keyword_only[0], "*")
    return f"def {name}(\n" + "".join(f"    {one},\n" for one in each) + f"){after}"


def _plain(annotation: str) -> str:
    """Without what Python's own rendering adds: quotes, and where functions lie in memory."""
    return re.sub(r"<function (\w+) at \w+>", r"\1", annotation).replace("'", "")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    def line(cells: tuple[str, ...]) -> str:
        return (
            "| " + " | ".join(each.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;") for each in cells) + " |"
        )

    return [line(head), line(("---",) * len(head)), *map(line, rows), ""]
