"""What holds for components of every kind."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from cosmos_forge import kinds
from cosmos_forge.options import Download, Options, build_options
from cosmos_forge.plugins import Component, load_plugins
from cosmos_forge.testing.fakes import build, make_context

HEAVY = ("torch", "transformers", "diffusers", "peft", "decord", "av", "cv2")

# Run by itself, so that nothing but the plugin can have imported anything. Prints what heavy modules were.
_REGISTER = """
import json, sys
from cosmos_forge.options import build_options
from cosmos_forge.plugins import load_plugins
kind, use, values, heavy = json.loads(sys.argv[1])
options, faults = build_options(load_plugins().find(kind, use).options, values)
assert options is not None, faults
options.needs()
print(json.dumps([name for name in heavy if name in sys.modules]))
"""


class Contract:
    """Base of the contract classes. use: the component's name. options: as a recipe's table would give them."""

    kind: ClassVar[str]
    use: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    optional: ClassVar[tuple[str, ...]] = ()  # what `kinds` names of this kind, and a component may be without

    def make_options(self, tmp_path: Path) -> dict[str, Any]:
        """The table of options; override it where they name files, and make these files in `tmp_path`."""
        return self.options

    def make(self, tmp_path: Path, **context: Any) -> Any:
        """The component, built anew; `context` changes fields of `make_context`."""
        return build(self.kind, self.use, self.make_options(tmp_path), make_context(tmp_path, **context))

    def read_options(self, tmp_path: Path) -> Any:
        """The validated options."""
        options, faults = build_options(self.registration().options, self.make_options(tmp_path))
        assert options is not None, f"the test's own options are refused: {[fault.what for fault in faults]}"
        return options

    def registration(self) -> Component:
        """What the plugin registered. Raises ForgeError, naming what there is, where it did not."""
        return load_plugins().find(self.kind, self.use)

    def test_is_registered(self) -> None:
        plugins = load_plugins()
        broken = [f"{plugin.name}: {plugin.reason}" for plugin in plugins.broken]
        assert self.use in plugins.names(self.kind), (
            f"no installed plugin registers the {self.kind} `{self.use}`; is the package installed, and does its entry "
            f"point in the group cosmos_forge name the module with the hook? Broken plugins: {broken or 'none'}"
        )
        plugins.find(self.kind, self.use)

    def test_build_resolves(self) -> None:
        target = self.registration().build
        module, _, name = target.partition(":")
        try:
            found = getattr(importlib.import_module(module), name, None)
        except Exception as error:
            raise AssertionError(f"build={target!r}: `{module}` cannot be imported: {error!r}") from error
        assert callable(found), f"build={target!r}: `{module}` has no callable `{name}`"
        try:
            inspect.signature(found).bind("options", "context")
        except TypeError as error:
            raise AssertionError(f"build={target!r}: it is called with (options, context): {error}") from None

    def test_has_what_its_kind_asks_for(self, tmp_path: Path) -> None:
        protocol = "".join(word.capitalize() for word in self.kind.split("_"))
        made = {protocol: self.make(tmp_path), f"{protocol}Options": self.read_options(tmp_path)}
        for name, each in made.items():
            asked = [*_members(getattr(kinds, name, None))]
            missing = [member for member in asked if member not in self.optional and not hasattr(each, member)]
            assert not missing, (
                f"{type(each).__name__} has no {', '.join(f'`{member}`' for member in missing)}; `{name}` in "
                "cosmos_forge/kinds.py says what is asked for"
            )

    def test_registering_is_light(self, tmp_path: Path) -> None:
        heavy = self.imports(_REGISTER, self.kind, self.use, self.make_options(tmp_path))
        assert not heavy, (
            f"registering, or the options' `needs`, imported {heavy}; import them in the module that `build` names, "
            "which only workers load"
        )

    def imports(self, script: str, *values: Any) -> list[str]:
        """Those of HEAVY that a script imports, in a process without other plugins. Its argument is `values` and HEAVY
        as JSON, and what it prints last the answer."""
        done = subprocess.run(
            [sys.executable, "-c", script, json.dumps([*values, HEAVY], default=str)],
            env={**os.environ, "FORGE_PLUGINS": self.registration().plugin},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"the {self.kind} does not work by itself, without other plugins:\n{done.stderr}"
        return list(json.loads(done.stdout.splitlines()[-1]))

    def test_options_explain_themselves(self) -> None:
        cls = self.registration().options
        assert cls.__doc__ and cls.summary() != Options.summary(), (
            f"{cls.__name__} needs a docstring; its first line is the summary in `forge plugins`"
        )
        silent = [name for name, field in cls.model_fields.items() if not field.description]
        assert not silent, f"{cls.__name__}: give {silent} a `Field(..., description=...)`; it is shown beside errors"

    def test_options_are_strict(self, tmp_path: Path) -> None:
        values = {**self.make_options(tmp_path), "no_such_option": 1}
        options, _ = build_options(self.registration().options, values)
        assert options is None, "options take unknown keys: do not change `model_config` of cosmos_forge.Options"

    def test_needs_are_downloads(self, tmp_path: Path) -> None:
        needs = self.read_options(tmp_path).needs()
        wrong = [need for need in needs if not (isinstance(need, Download) and need.files and need.gigabytes > 0)]
        assert not wrong, f"`needs` must give Downloads that name their files and how much they weigh, got {wrong}"


def _members(protocol: type | None) -> Iterable[str]:
    """The public attributes and methods that a Protocol names."""
    names = {**vars(protocol), **protocol.__annotations__} if protocol else {}
    return (name for name in names if name[0] != "_" or name in ("__len__", "__getitem__"))
