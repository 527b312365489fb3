"""How a plan differs from the one that a run directory was made with, and whether that is accepted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos_forge.errors import ForgeError, Problem, show_path
from cosmos_forge.files import write_text
from cosmos_forge.recipe import ROOT, read_recipe, toml_value
from cosmos_forge.stages import STAGES
from cosmos_forge.tables import kind_of

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

# Settings that change how a run is carried out but not what comes out of it.
INDIFFERENT = {
    ("", "stages"),
    ("", "device"),
    ("", "compile"),
    ("train", "deterministic"),
    ("train", "validate_every"),
    ("train", "validate_samples"),
    ("train", "log_every"),
    ("train", "keep_checkpoints"),
    ("generate", "processes_per_video"),
}


@dataclass(frozen=True)
class Change:
    """A key whose value differs between two plans; values as TOML, or "unset"."""

    table: str
    key: str
    old: str
    new: str

    @property
    def name(self) -> str:
        return f"{self.table}.{self.key}" if self.table else self.key


def changes(recipe: Path, plan: Plan) -> list[Change]:
    """How `plan` differs from an earlier one, written to `recipe`. A default that is newer than that is no change."""
    old = read_recipe(recipe).values
    new = {table: plan.values(table) for table in plan.tables}
    return [
        Change(table, key, *(toml_value(each[key]) if key in each else "unset" for each in (before, after)))
        for table in dict.fromkeys([*old, *new])
        for before, after in [(old.get(table, {}), new.get(table, {}))]
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key) and (key in before or key in plan.settings(table))
    ]


def accept(plan: Plan, stages: tuple[str, ...], accept_changes: bool) -> None:
    """Compares the plan with the one its run directory was made with, and writes it there. Raises ForgeError where they
    differ in what comes out, unless `accept_changes`."""
    recipe = plan.folder / "recipe.toml"
    if recipe.exists() and not accept_changes:
        changed = changes(recipe, plan)
        if not _trained(recipe) and not {*plan.stages} - {"fetch", "generate"}:
            changed = []  # nothing was built on the settings, and each video says itself what it was made with
        if stages != plan.stages:
            # A single stage may be done again with other settings, as long as no other stage has read them.
            others = {table for name in STAGES if name not in stages for table in (name, *STAGES[name].tables)}
            changed = [change for change in changed if change.table in others]
        changed = [change for change in changed if (change.table, change.key) not in INDIFFERENT]
        changed = [change for change in changed if kind_of(change.table) != "logger"]
        if changed:
            raise ForgeError(
                [
                    Problem(
                        f"{change.name} is {change.new}, but run {plan.name} was started with {change.old}",
                        plan.where(change.table, change.key),
                    )
                    for change in changed
                ]
                + [
                    Problem(
                        f"{show_path(plan.folder)} holds a run of another recipe",
                        fix="--name NAME starts a run of its own; --continue goes on here with the new settings",
                    )
                ]
            )
    own = {stage: plan.folder / "stages" / f"{stage}.toml" for stage in STAGES}
    alone = stages != plan.stages and recipe.exists() and not accept_changes
    for stage in stages if alone else STAGES:
        own[stage].unlink(missing_ok=True)
    # A stage that is done again by itself keeps its settings to itself: the run's recipe stays what made the run.
    text = plan.dumps()
    for path in [own[stage] for stage in stages] if alone else [recipe]:
        if not path.exists() or path.read_text() != text:
            write_text(path, text)


def _trained(recipe: Path) -> bool:
    """Whether a run's recipe has more in it than generating."""
    return bool({*read_recipe(recipe).values[ROOT]["stages"]} - {"fetch", "generate"})
