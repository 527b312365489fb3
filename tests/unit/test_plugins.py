"""Loading plugins: what they offer, and that a broken one hurts nobody."""

import importlib.metadata
import sys
from types import ModuleType

import pytest

from cosmos_forge import ForgeError, Options, hookimpl, hookspecs
from cosmos_forge.plugins import KINDS, Source, load_plugins
from cosmos_forge.tables import TABLES


class SomeOptions(Options):
    """Options of a test."""


def module(**hooks):
    made = ModuleType("a_plugin")
    vars(made).update(hooks)
    return made


def offering(*names, options=SomeOptions, build="package.module:Thing"):
    @hookimpl
    def register_samplers(register):
        for name in names:
            register(name, options=options, build=build)

    return module(register_samplers=register_samplers)


def source(name, held, package="a-package"):
    return Source(name, package, "1.2", lambda: held)


def raising(error):
    def load():
        raise error

    return Source("bad", "bad-package", "0.1", load)


def test_kinds_agree_with_the_hooks():
    hooks = {name for name in vars(hookspecs) if name.startswith("register_")}
    assert {*KINDS.values(), "register_commands"} == hooks
    assert all(hook == f"register_{kind}s" for kind, hook in KINDS.items())
    assert set(KINDS) < set(TABLES)


def test_components_know_who_offers_them():
    plugins = load_plugins([source("p", offering("slow", "fast"))])
    assert plugins.broken == []
    assert [(each.name, each.package, each.version, each.hooks) for each in plugins.loaded] == [
        ("p", "a-package", "1.2", ("register_samplers",))
    ]
    assert plugins.names("sampler") == ["fast", "slow"] and plugins.names("model") == []
    found = plugins.find("sampler", "fast")
    assert (found.kind, found.name, found.options, found.build) == (
        "sampler",
        "fast",
        SomeOptions,
        "package.module:Thing",
    )


def commanding(name="convert", help="Converts.", run="package.module:run"):
    @hookimpl
    def register_commands(register):
        register(name, help=help, run=run)

    return module(register_commands=register_commands)


def test_commands_know_who_offers_them():
    plugins = load_plugins([source("p", commanding()), source("q", commanding("report"))])
    assert plugins.broken == []
    assert [(each.name, each.help, each.run, each.plugin) for each in plugins.commands] == [
        ("convert", "Converts.", "package.module:run", "p"),
        ("report", "Converts.", "package.module:run", "q"),
    ]


@pytest.mark.parametrize(
    ("faulty", "reason"), [({"name": ""}, "must be text"), ({"run": "no import string"}, "package.module:attribute")]
)
def test_a_faulty_command_is_not_offered(faulty, reason):
    plugins = load_plugins([source("p", commanding(**faulty))])
    assert plugins.commands == [] and reason in plugins.broken[0].reason


def test_a_command_offered_twice_names_both():
    plugins = load_plugins([source("p", commanding()), source("q", commanding(), "b-package")])
    (broken,) = plugins.broken
    assert broken.name == "command convert"
    assert broken.reason == "offered by p (a-package 1.2) and by q (b-package 1.2)"


@pytest.mark.parametrize(
    "error",
    [ImportError("no module named x"), SyntaxError("invalid syntax"), RuntimeError("two\nlines"), SystemExit(3)],
)
def test_a_plugin_that_does_not_import_hurts_nobody(error):
    plugins = load_plugins([raising(error), source("good", offering("fast"))])
    (broken,) = plugins.broken
    assert (broken.name, broken.package, broken.version) == ("bad", "bad-package", "0.1")
    assert type(error).__name__ in broken.reason and "\n" not in broken.reason
    assert plugins.names("sampler") == ["fast"]


@hookimpl
def register_sampler(register):
    """Misspelt: the hook is register_samplers."""


@hookimpl
def register_models(register, extra):
    """Asks for an argument that no caller has."""


@hookimpl
def register_datasets(register):
    register("data", SomeOptions, "a.b:C")


@pytest.mark.parametrize(
    ("faulty", "reason"),
    [
        (
            module(register_sampler=register_sampler),
            "there is no hook `register_sampler`; did you mean `register_samplers`?",
        ),
        (module(register_models=register_models), "extra"),
        (module(register_datasets=register_datasets), "positional"),
        (module(), "implements no hook"),
        (offering("ok", "x", options=dict), "must be a subclass of cosmos_forge.Options"),
        (offering("ok", "x", build="no.colon"), "package.module:attribute"),
        (offering("ok", ""), "must be text"),
    ],
)
def test_faults_of_registering_break_the_plugin_as_a_whole(faulty, reason):
    plugins = load_plugins([source("bad", faulty), source("good", offering("fast"))])
    assert [each.name for each in plugins.broken] == ["bad"] and reason in plugins.broken[0].reason
    assert [each.name for each in plugins.loaded] == ["good"]
    assert plugins.names("sampler") == ["fast"] and not plugins.names("dataset")


def test_one_name_from_two_packages_is_an_error_only_when_used():
    plugins = load_plugins(
        [
            source("p", offering("fast", "slow"), "one"),
            source("q", offering("fast"), "two"),
            source("r", offering("mid")),
        ]
    )
    (broken,) = plugins.broken
    assert broken.name == "sampler fast" and "p (one 1.2)" in broken.reason and "q (two 1.2)" in broken.reason
    assert plugins.find("sampler", "slow").package == "one"
    with pytest.raises(ForgeError, match=r"p \(one 1.2\) and by q \(two 1.2\)"):
        plugins.find("sampler", "fast")


def test_unknown_names_are_told_with_the_nearest():
    plugins = load_plugins([source("p", offering("fast", "slow"))])
    with pytest.raises(ForgeError, match="did you mean `fast`"):
        plugins.find("sampler", "fats")


@pytest.fixture
def entry_points(monkeypatch):
    points = [
        importlib.metadata.EntryPoint("one", "forge_test_one", "cosmos_forge"),
        importlib.metadata.EntryPoint("two", "forge_test_missing", "cosmos_forge"),
    ]
    monkeypatch.setitem(sys.modules, "forge_test_one", offering("fast"))
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points if group == "cosmos_forge" else [])


def test_entry_points_are_loaded_by_name(entry_points, monkeypatch):
    monkeypatch.delenv("FORGE_PLUGINS", raising=False)
    plugins = load_plugins()
    assert plugins.names("sampler") == ["fast"]
    assert [each.name for each in plugins.broken] == ["two"] and "forge_test_missing" in plugins.broken[0].reason


def test_forge_plugins_limits_what_is_loaded(entry_points, monkeypatch):
    monkeypatch.setenv("FORGE_PLUGINS", " one, tow")
    plugins = load_plugins()
    assert [each.name for each in plugins.loaded] == ["one"]
    (broken,) = plugins.broken
    assert broken.name == "tow" and "did you mean `two`?" in broken.reason
    monkeypatch.setenv("FORGE_PLUGINS", "")
    assert load_plugins().loaded == []


def test_forge_trace_writes_hooks_to_stderr(monkeypatch, capsys):
    monkeypatch.setenv("FORGE_TRACE", "1")
    load_plugins([source("p", offering("fast"))])
    out, err = capsys.readouterr()
    assert "register_samplers" in err and out == ""
