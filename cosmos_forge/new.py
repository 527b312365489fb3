"""`forge new`: writes a plugin package that works and passes its contract test, to go on from.

The skeletons in `template/` are real code: only the words of `_words` are put in place. Imports no torch.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
import shlex
from pathlib import Path

from cosmos_forge import __version__
from cosmos_forge.errors import ForgeError, Problem, show_path
from cosmos_forge.files import atomic
from cosmos_forge.options import nearest
from cosmos_forge.plugins import KINDS, SEVERAL, Plugins

TEMPLATE = Path(__file__).parent / "template"


def write_package(kind: str, name: str, folder: Path, plugins: Plugins) -> str:
    """Writes a plugin that offers a `kind` called `name` to `folder`/`name`; returns what to do next.

    Raises ForgeError with all that is wrong with the names or the place; then nothing is written.
    """
    kind, target = kind.replace("-", "_"), folder / name
    if problems := [*_wrong_kind(kind), *_wrong_name(kind, name, plugins), *_wrong_place(target)]:
        raise ForgeError(problems)
    words = _words(kind, name)
    try:
        with atomic(target) as temporary:
            for source, path in _files(kind, words["new_plugin"]).items():
                (temporary / path).parent.mkdir(parents=True, exist_ok=True)
                text = (TEMPLATE / source).read_text(encoding="utf-8")
                (temporary / path).write_text(_replace(text, words), encoding="utf-8")
    except OSError as error:
        raise ForgeError(
            f"cannot write to {show_path(folder)}: {error.strerror}", "choose another by --folder"
        ) from None
    return _next_steps(kind, name, target)


def kinds() -> list[str]:
    """What can be written, as a person types it."""
    return [kind.replace("_", "-") for kind in KINDS]


def _wrong_kind(kind: str) -> list[Problem]:
    if kind in KINDS:
        return []
    return [Problem(f"`{kind}` is no kind of component", fix=nearest(kind.replace("_", "-"), kinds()))]


def _wrong_name(kind: str, name: str, plugins: Plugins) -> list[Problem]:
    """What keeps `name` from being that of a component, a distribution and, with _ for -, a Python package."""
    module = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        fix = "lower-case letters and digits, in words joined by -: my-sampler"
        return [Problem(f"`{name}` cannot be the name of a component and of a Python package", fix=fix)]
    if keyword.iskeyword(module):
        return [Problem(f"`{name}` is a word of Python itself and cannot be imported", fix=f"as in my-{name}")]
    problems = [
        Problem(
            f"{kind} `{name}` is there already, offered by {each.package} {each.version}", fix="choose another name"
        )
        for each in plugins.components
        if (each.kind, each.name) == (kind, name)
    ]
    if not problems and importlib.util.find_spec(module):
        what = f"a Python package `{module}` is installed here, and yours would hide it or be hidden"
        problems.append(Problem(what, fix="choose another name, or uninstall that package"))
    return problems


def _wrong_place(target: Path) -> list[Problem]:
    if not (target.exists() or target.is_symlink()):
        return []
    what = f"{show_path(target)} is there already, and nothing is overwritten"
    return [Problem(what, fix="choose another name, or another place by --folder")]


def _words(kind: str, name: str) -> dict[str, str]:
    """What stands in a skeleton, and what comes in its place."""
    words = {
        "new-plugin": name,
        "new_plugin": name.replace("-", "_"),
        "NewPlugin": "".join(word.capitalize() for word in name.split("-")),
        "cosmos-forge>=0.0.0": f"cosmos-forge>={__version__}",
        "KIND": kind.replace("_", " "),
        "MODULE": kind,
        "HEADER": f"[{kind}.{name}]" if kind in SEVERAL else f'[{kind}]\nuse = "{name}"',
    }
    plugin = (TEMPLATE / kind / "plugin.py").read_text(encoding="utf-8")
    summary = re.search(r'class \w+Options\(\w+\):\n    """(.+)"""', plugin)
    return words | {"SUMMARY": _replace(summary[1], words) if summary else ""}


def _replace(text: str, words: dict[str, str]) -> str:
    return re.sub("|".join(map(re.escape, words)), lambda found: words[found[0]], text)


def _files(kind: str, module: str) -> dict[str, str]:
    """Paths within the template -> paths within the package's folder."""
    modules = {path.name for path in (TEMPLATE / kind).glob("*.py")} - {"test.py"}
    return {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        "init.py": f"{module}/__init__.py",
        **{f"{kind}/{name}": f"{module}/{name}" for name in sorted(modules)},
        f"{kind}/test.py": f"tests/test_{module}.py",
    }


def _next_steps(kind: str, name: str, target: Path) -> str:
    module, place = name.replace("-", "_"), shlex.quote(show_path(target))
    table = f"[{kind}.{name}]" if kind in SEVERAL else f'[{kind}] with use = "{name}"'
    files = [
        (f"{module}/plugin.py", "what a recipe may say about it"),
        (f"{module}/{kind}.py", "what it does; cosmos_forge/kinds.py says what it must"),
        (f"tests/test_{module}.py", "the contract of its kind"),
    ]
    steps = [
        (f"pip install -e {place}", "into the environment that `forge` lies in"),
        (f"pytest {place}", "its contract holds as written"),
        (f"forge plugins {name}", f"it is found; in a recipe {table} uses it"),
    ]
    heading = f"wrote {show_path(target)}, a {kind.replace('_', ' ')} that works\n"
    return heading + _columns(files, "  ") + "next\n" + _columns(steps, "  # ")


def _columns(rows: list[tuple[str, str]], gap: str) -> str:
    width = max(len(left) for left, _ in rows)
    return "".join(f"  {left:<{width}}{gap}{right}\n" for left, right in rows)
