"""Tables of kinds that a recipe may have several of, or none: [logger.NAME], and `on = false`."""

import json

import pytest

from cosmos_forge.catalogue import help_on
from cosmos_forge.changes import changes
from cosmos_forge.errors import ForgeError
from cosmos_forge.explain import explain
from cosmos_forge.planning import make_plan
from cosmos_forge.recipe import read_recipe
from cosmos_forge.run import digest
from cosmos_forge.schema import recipe_schema

CHILD = """\
extends = "r.toml"

[logger.tiny-logger]

[logger.second]
use = "tiny-logger"
every = 3
"""


@pytest.fixture
def plan_of(workplace, plugins):
    def plan_of(text=CHILD, overrides=()):
        (workplace / "child.toml").write_text(text)
        return make_plan(read_recipe("child.toml", overrides), plugins)

    return plan_of


def problem_of(plan_of, *args) -> tuple[str, str, int]:
    with pytest.raises(ForgeError) as error:
        plan_of(*args)
    (problem,) = error.value.problems
    return problem.what, problem.fix, problem.where.line


def test_a_table_is_named_and_uses_what_it_is_named_after(plan_of):
    plan = plan_of()
    assert [(table.name, table.use, table.options.every) for table in plan.each("logger")] == [
        ("logger.tiny-logger", "tiny-logger", 1),
        ("logger.second", "tiny-logger", 3),
    ]
    assert plan.origin("logger.second", "every") == "child.toml:7"
    assert plan.origin("logger.second", "use") == "child.toml:6"
    assert '[logger.second]\nuse = "tiny-logger"  # child.toml:6\nevery = 3  # child.toml:7\n' in explain(plan)
    assert plan.name_of(plan.options("logger.second")) == "logger.second"


def test_the_plan_written_down_is_the_same_plan(plan_of, workplace, plugins):
    plan = plan_of(CHILD, ["logger.second.on=false"])
    (workplace / "again.toml").write_text(plan.dumps())
    again = make_plan(read_recipe("again.toml"), plugins)
    assert {name: table.values() for name, table in again.tables.items()} == {
        name: table.values() for name, table in plan.tables.items()
    }
    assert changes(workplace / "again.toml", plan) == []


def test_a_child_changes_adds_and_switches_off(plan_of, workplace, plugins):
    plan_of()
    (workplace / "grandchild.toml").write_text(
        'extends = "child.toml"\n[logger]\ntiny-logger.on = false\nsecond.every = 5\n'
        '[logger.third]\nuse="tiny-logger"\n'
    )
    plan = make_plan(read_recipe("grandchild.toml", ["logger.third.every=7"]), plugins)
    assert [(table.name, table.options.every) for table in plan.each("logger")] == [
        ("logger.second", 5),
        ("logger.third", 7),
    ]
    assert plan.values("logger.tiny-logger") == {"use": "tiny-logger", "on": False}
    assert plan.origin("logger.second", "every") == "grandchild.toml:4"
    assert plan.origin("logger.third", "every") == "command line"


def test_naming_what_is_used_already_keeps_the_options(plan_of):
    plan = plan_of(CHILD + "\n[logger.third]\nuse = 'tiny-logger'\n", ['logger.second.use="tiny-logger"'])
    assert plan.options("logger.second").every == 3


def test_what_is_off_need_not_be_installed(plan_of):
    plan = plan_of(CHILD, ["logger.elsewhere.on=false", "logger.elsewhere.mood=3"])
    assert "logger.elsewhere" not in [table.name for table in plan.each("logger")]


def test_loggers_do_not_change_results(plan_of, workplace):
    with_them = plan_of()
    without = plan_of('extends = "r.toml"\n')
    assert all(digest(with_them, stage) == digest(without, stage) for stage in with_them.stages)


@pytest.mark.parametrize(
    ("added", "overrides", "what", "fix", "line"),
    [
        ("[logger.x]\nuse = 'tiny-loger'", [], "[logger.x] no installed plugin offers the logger", "`tiny-logger`?", 3),
        ("[logger.tiny-loger]", [], "no installed plugin offers the logger `tiny-loger`", "`tiny-logger`?", 2),
        ("[logger]\nuse = 'tiny-logger'", [], "[logger] needs a name, for there may be several", "[logger.NAME]", 2),
        ("", ["logger=tiny-logger"], "logger is a table, not a key", "[logger.NAME]", 1),
        ("", ["logger.use=tiny-logger"], "[logger] needs a name", '"tiny-logger"', 1),
        ("[logger.'a b']", [], "[logger.a b] is named by letters, digits", "[logger.NAME]", 2),
        ("[loger.x]", [], "[loger] is not a table of recipes", "`logger`?", 2),
        ("[logger.tiny-logger]\nevry = 3", [], "[logger.tiny-logger] unknown key `evry`", "`every`?", 3),
        ("[logger.tiny-logger]\non = 'no'", [], "on must be true or false, got 'no'", "leaves", 3),
        ("[logger.mine]\nuse='tiny-logger'\nevery = 100", [], "[logger.mine] every = 100 is hardly ever", "", 4),
        ("", ["logger.tiny-logger.every=0"], "[logger.tiny-logger] every must be at least 1, got 0", "events", 1),
        ("", ["sampler.on=false"], "[sampler] unknown key `on`", "steps", 1),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_at_its_place(plan_of, added, overrides, what, fix, line):
    told = problem_of(plan_of, f'extends = "r.toml"\n{added}\n', overrides)
    assert what in told[0] and fix in told[1] and line == told[2]


def test_help_and_schema(plugins):
    said = help_on("tiny-logger", plugins)
    assert said.startswith("[logger.tiny-logger]  # tiny-package 1.0\n") and "on = false" in said
    schema = recipe_schema(plugins)
    choices = schema["properties"]["logger"]["additionalProperties"]["anyOf"]
    assert json.dumps(choices[0]["properties"]["use"]) == '{"const": "tiny-logger"}'
    assert {"on", "every"} < choices[0]["properties"].keys() and "required" not in choices[0]
