"""Finds, loads and lists plugins. One that is broken is remembered with its reason and hurts nobody else."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import pluggy

from cosmos_forge import hookspecs
from cosmos_forge.errors import ForgeError
from cosmos_forge.options import Options, nearest

GROUP = "cosmos_forge"

# Kind of component, which is also its table in recipes -> the hook that offers it.
KINDS: dict[str, str] = {
    "model": "register_models",
    "latent_tokenizer": "register_latent_tokenizers",
    "text_encoder": "register_text_encoders",
    "dataset": "register_datasets",
    "method": "register_methods",
    "parallelism": "register_parallelisms",
    "sampler": "register_samplers",
    "prompt_upsampler": "register_prompt_upsamplers",
    "guardrail": "register_guardrails",
    "logger": "register_loggers",
}
# Kinds of which a recipe may have several, each in a table [kind.NAME]; `use` is NAME unless it says otherwise.
SEVERAL = ("guardrail", "logger")
# Kinds that every recipe may do without; `on = false` switches off what was inherited.
OPTIONAL = ("prompt_upsampler", *SEVERAL)

HOOKS = (*KINDS.values(), "register_commands")
_BUILD = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Component:
    """One thing a plugin offers. kind: the recipe's table. name: what follows `use =`. build: import string."""

    kind: str
    name: str
    options: type[Options]
    build: str
    plugin: str
    package: str
    version: str


@dataclass(frozen=True)
class Command:
    """A command that a plugin offers. help: one line. run: import string."""

    name: str
    help: str
    run: str
    plugin: str
    package: str
    version: str


@dataclass(frozen=True)
class Plugin:
    """A plugin that loaded: its entry point, who ships it, the hooks it implements."""

    name: str
    package: str
    version: str
    hooks: tuple[str, ...]


@dataclass(frozen=True)
class Broken:
    """A plugin that did not load, and why in one line."""

    name: str
    package: str
    version: str
    reason: str


@dataclass(frozen=True)
class Source:
    """Where a plugin comes from. load: returns the module (or object) that holds its hooks."""

    name: str
    package: str
    version: str
    load: Callable[[], Any]


@dataclass
class Plugins:
    """Everything that is installed."""

    loaded: list[Plugin] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    components: list[Component] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)

    def names(self, kind: str) -> list[str]:
        """What may follow `use =` in the kind's table."""
        return sorted({each.name for each in self.components if each.kind == kind})

    def find(self, kind: str, name: str) -> Component:
        """The component; raises ForgeError where there is none, or more than one."""
        found = [each for each in self.components if (each.kind, each.name) == (kind, name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ForgeError(
                f"{kind} `{name}` is offered by {_offerers(found)}",
                "uninstall one, or name the plugins in FORGE_PLUGINS",
            )
        hint = "; `forge plugins` says why some did not load" if self.broken else ""
        raise ForgeError(f"no installed plugin offers the {kind} `{name}`", nearest(name, self.names(kind)) + hint)


def load_plugins(sources: Iterable[Source] | None = None) -> Plugins:
    """Loads `sources`, by default every installed package's entry points that FORGE_PLUGINS admits. Never raises."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    if os.environ.get("FORGE_TRACE"):
        manager.trace.root.setwriter(sys.stderr.write)
        manager.enable_tracing()
    plugins = Plugins()
    for source in installed(plugins.broken) if sources is None else sources:
        try:
            _load(source, manager, plugins)
        except (Exception, SystemExit) as error:  # whatever a stranger's module does when imported
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            plugins.broken.append(Broken(source.name, source.package, source.version, reason))
    plugins.broken.extend(_twice(plugins))
    return plugins


def installed(broken: list[Broken]) -> list[Source]:
    """The entry points to load, by name; those that FORGE_PLUGINS names in vain are added to `broken`."""
    entries = sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name)
    chosen = os.environ.get("FORGE_PLUGINS")
    if chosen is not None:
        wanted = [name.strip() for name in chosen.split(",") if name.strip()]
        there = {entry.name for entry in entries}
        for name in wanted:
            if name not in there:
                broken.append(
                    Broken(name, "", "", f"FORGE_PLUGINS names it, but it is not installed; {nearest(name, there)}")
                )
        entries = [entry for entry in entries if entry.name in wanted]
    return [
        Source(entry.name, entry.dist.name if entry.dist else "", entry.dist.version if entry.dist else "", entry.load)
        for entry in entries
    ]


def load(target: str) -> Any:
    """The object behind an import string "package.module:name"."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _load(source: Source, manager: pluggy.PluginManager, plugins: Plugins) -> None:
    """Adds the plugin and its components; all of them or, raising, none."""
    module = source.load()
    offered: list[Component] = []
    commands: list[Command] = []
    try:
        manager.register(module, source.name)
        marked = [name for name in dir(module) if manager.parse_hookimpl_opts(module, name) is not None]
        if strange := [name for name in marked if name not in HOOKS]:
            raise TypeError(f"there is no hook `{strange[0]}`; {nearest(strange[0], HOOKS)}")
        hooks = tuple(sorted(caller.name for caller in manager.get_hookcallers(module) or []))
        if not hooks:
            raise TypeError("it implements no hook: mark functions with @hookimpl, named as in cosmos_forge.hookspecs")
        others = [plugin for plugin in manager.get_plugins() if plugin is not module]
        for kind, hook in KINDS.items():
            register = _registrar(source, kind, offered)
            manager.subset_hook_caller(hook, others)(register=register)
        manager.subset_hook_caller("register_commands", others)(register=_command_registrar(source, commands))
    except BaseException:
        if manager.get_plugin(source.name) is module:
            manager.unregister(module)
        raise
    plugins.loaded.append(Plugin(source.name, source.package, source.version, hooks))
    plugins.components.extend(offered)
    plugins.commands.extend(commands)


def _registrar(source: Source, kind: str, offered: list[Component]) -> Callable[..., None]:
    """The `register` that a hook of this kind is called with."""

    def register(name: str, *, options: type[Options], build: str) -> None:
        if not (isinstance(name, str) and name):
            raise TypeError(f"the name of a {kind} must be text, got {name!r}")
        if not (isinstance(options, type) and issubclass(options, Options)):
            raise TypeError(f"options of {kind} `{name}` must be a subclass of cosmos_forge.Options, got {options!r}")
        if not (isinstance(build, str) and _BUILD.fullmatch(build)):
            raise ValueError(f"build of {kind} `{name}` must read 'package.module:attribute', got {build!r}")
        offered.append(Component(kind, name, options, build, source.name, source.package, source.version))

    return register


def _command_registrar(source: Source, commands: list[Command]) -> Callable[..., None]:
    """The `register` that `register_commands` is called with."""

    def register(name: str, *, help: str, run: str) -> None:
        if not (isinstance(name, str) and name):
            raise TypeError(f"the name of a command must be text, got {name!r}")
        if not (isinstance(run, str) and _BUILD.fullmatch(run)):
            raise ValueError(f"run of command `{name}` must read 'package.module:attribute', got {run!r}")
        commands.append(Command(name, help, run, source.name, source.package, source.version))

    return register


def _twice(plugins: Plugins) -> list[Broken]:
    """Names that more than one registration claims."""
    by_name: dict[str, list[Component | Command]] = {}
    for component in plugins.components:
        by_name.setdefault(f"{component.kind} {component.name}", []).append(component)
    for command in plugins.commands:
        by_name.setdefault(f"command {command.name}", []).append(command)
    return [Broken(name, "", "", f"offered by {_offerers(found)}") for name, found in by_name.items() if len(found) > 1]


def _offerers(found: Iterable[Component | Command]) -> str:
    return " and by ".join(f"{each.plugin} ({each.package} {each.version})" for each in found)
