"""Modules build on one another: none imports another in a circle, not even late, inside a function."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import cosmos_forge

CORE = Path(cosmos_forge.__file__).parent
MODULES = {
    ".".join(path.relative_to(CORE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in CORE.rglob("*.py")
    if "template" not in path.parts  # skeletons of other packages
}


def at_run_time(node: ast.AST) -> Iterator[ast.ImportFrom | ast.Import]:
    """All that is imported below a node, but for what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom | ast.Import):
            yield child
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from at_run_time(child)


def needed(path: Path) -> set[str]:
    """The core's modules that a file imports."""
    named = set()
    for found in at_run_time(ast.parse(path.read_text())):
        module = f"{found.module}." if isinstance(found, ast.ImportFrom) else ""
        named |= {module + alias.name for alias in found.names}
    return {name if name in MODULES else name.rpartition(".")[0] for name in named} & MODULES.keys()


def test_nothing_is_imported_in_a_circle():
    graph = {name: needed(path) - {name} for name, path in MODULES.items()}
    assert graph["cosmos_forge.planning"] >= {"cosmos_forge.checks", "cosmos_forge.plan"}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_late_imports_count():
    late = ast.parse("def run():\n    from cosmos_forge.plan import Plan\nif TYPE_CHECKING:\n    import torch\n")
    assert [ast.unparse(found) for found in at_run_time(late)] == ["from cosmos_forge.plan import Plan"]
