"""Hooks, kinds, options and the tree: each is documented, and what the documentation names exists."""

import importlib
import inspect
import re

import pytest

from cosmos_forge import hookspecs, kinds, testing
from cosmos_forge.plugins import KINDS, Source, load_plugins

LANGUAGE = "python"
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("register_")}


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_names_a_plugin_that_implements_it_and_its_contract(name, root):
    text = inspect.getdoc(HOOKS[name]) or ""
    example = re.search(r"Example: (\w+)", text)
    assert example, text
    assert hasattr(importlib.import_module(f"{example[1]}.plugin"), name)
    if name in KINDS.values():
        contract = re.search(r"Contract: `testing\.(\w+)`", text)
        assert contract and inspect.getdoc(getattr(testing, contract[1])), text
    assert (root / "plugins" / example[1] / "README.md").exists()


def members(protocol: type) -> list[str]:
    return [name for name, each in vars(protocol).items() if name[0] != "_" and inspect.isfunction(each)]


def test_every_kind_and_all_it_does_is_documented():
    protocols = [each for _, each in inspect.getmembers(kinds, inspect.isclass) if each.__module__ == kinds.__name__]
    assert len(protocols) >= len(HOOKS)
    for protocol in protocols:
        assert protocol.__doc__, protocol
        for name, member in vars(protocol).items():
            if name in members(protocol):
                # What a class has but one of may be told in the class's own words.
                assert member.__doc__ or name in protocol.__doc__ or len(members(protocol)) == 1, name


def test_every_option_is_described_and_every_component_stands_in_its_readme(root):
    plugins = load_plugins()
    components = list(plugins.components)
    assert len(components) >= 10
    for component in components:
        assert component.options.summary(), component.name
        for name, field in component.options.model_fields.items():
            assert field.description, f"{component.name}.{name}"
        package = component.build.split(".")[0]
        contributed = root / "plugins" / "contrib" / package.replace("_", "-")
        page = (contributed if contributed.exists() else root / "plugins" / package) / "README.md"
        named = re.search(rf'[`"]{re.escape(component.name)}[`"]', page.read_text(encoding="utf-8"))
        assert named, f"{page}: {component.name}"


def test_files_that_a_page_names_exist_and_the_tree_is_whole(root, pages):
    readme = (root / "README.md").read_text(encoding="utf-8")
    tree = readme[readme.index("## What lies where") :]
    for name in re.findall(r"\b((?:[\w]+/)*\w+\.py)\b", tree[: tree.index("\n## ")]):
        assert list((root / "cosmos_forge").rglob(name)) or (root / name).exists(), name
    for folder in ("", "training", "generation"):
        for path in (root / "cosmos_forge" / folder).glob("[!_]*.py"):
            assert re.search(rf"\b{path.name}\b", tree), path
    for page in pages:
        for target in re.findall(r"\]\(([^):#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_a_plugin_that_is_shown_registers(block, tmp_path, monkeypatch):
    if "@hookimpl" not in block.text:
        compile(block.text, block.place, "exec")
        return
    (tmp_path / "shown_plugin.py").write_text(block.text)
    monkeypatch.syspath_prepend(tmp_path)
    source = Source("shown", "shown-package", "1.0", lambda: importlib.import_module("shown_plugin"))
    plugins = load_plugins([source])
    assert (plugins.components or plugins.commands) and not plugins.broken
    monkeypatch.delitem(importlib.sys.modules, "shown_plugin")
