"""Forge's own commands. No logic: each calls one function of the house and prints what it returns.

They are functions with arguments and options as typer reads them off a signature, like the commands of plugins; `cli`
makes a program of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cosmos_forge import completion
from cosmos_forge.errors import WRONG, ForgeError
from cosmos_forge.stages import STAGES

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

RecipePath = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE", help="a TOML file, or the name of a shipped recipe", autocompletion=completion.recipes
    ),
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="as in train.steps=100")]
Name = Annotated[str | None, typer.Option(help="of the run; default: the recipe's file name")]
Runs = Annotated[Path, typer.Option(help="folder of all runs")]
Continue = Annotated[bool, typer.Option("--continue", help="go on with changed settings")]
Json = Annotated[bool, typer.Option("--json", help="for programs")]


def _carry_out(stages: tuple[str, ...] | None, about: str) -> Callable[..., None]:
    """The command that does these stages; None: all that the recipe says."""

    def command(
        recipe: RecipePath,
        overrides: Overrides = None,
        name: Name = None,
        runs: Runs = Path("runs"),
        continue_: Continue = False,
    ) -> None:
        from cosmos_forge.launch import run_plan
        from cosmos_forge.planning import make_plan
        from cosmos_forge.plugins import load_plugins
        from cosmos_forge.recipe import read_recipe

        plan = make_plan(read_recipe(recipe, overrides or [], stages), load_plugins(), name, runs, stages)
        raise typer.Exit(run_plan(plan, stages=stages, accept_changes=continue_))

    command.__doc__ = about
    return command


def explain(
    recipe: RecipePath,
    overrides: Overrides = None,
    name: Name = None,
    runs: Runs = Path("runs"),
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:COUNT]",
            help="suppose these GPUs, as h100-80gb:8; default: those here",
            autocompletion=completion.gpus,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what `run` would do: every setting with its origin, shapes, downloads, memory, time. Does nothing else."""
    from cosmos_forge import explain
    from cosmos_forge.forecast.limits import look, supposed
    from cosmos_forge.planning import make_plan
    from cosmos_forge.plugins import load_plugins
    from cosmos_forge.recipe import read_recipe

    installed = load_plugins()

    def plan(changes: Sequence[str] = ()) -> Plan:
        return make_plan(read_recipe(recipe, [*(overrides or []), *changes]), installed, name, runs)

    with supposed(gpu) as kind:
        told = plan()
        outlook = look(told, kind, plan)
        text = _json(explain.explain_json(told, outlook)) if as_json else explain.explain(told, outlook)
    typer.echo(text, nl=False)


def plugins(
    name: Annotated[
        str | None,
        typer.Argument(help="a component or stage, to list its options", autocompletion=completion.components),
    ] = None,
    as_json: Json = False,
    schema: Annotated[bool, typer.Option("--schema", help="a JSON schema of recipes, for editors")] = False,
) -> None:
    """List what is installed, or the options of one component."""
    from cosmos_forge import catalogue
    from cosmos_forge.plugins import load_plugins
    from cosmos_forge.schema import recipe_schema

    if sum(map(bool, (name, as_json, schema))) > 1:
        raise ForgeError("a name, --json and --schema ask for different lists", "choose one of them")
    installed = load_plugins()
    if schema:
        typer.echo(_json(recipe_schema(installed)), nl=False)
    elif as_json:
        typer.echo(_json(catalogue.plugin_json(installed)), nl=False)
    elif name:
        typer.echo(catalogue.help_on(name, installed), nl=False)
    else:
        typer.echo(catalogue.plugin_table(installed), nl=False)


def data(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER_OR_RECIPE",
            help="videos, or the recipe whose dataset it is",
            autocompletion=completion.recipes,
        ),
    ],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Look at every clip of a dataset: what it is, whether it will be used, and which sizes lose least."""
    from cosmos_forge.plugins import load_plugins
    from cosmos_forge.survey import show
    from cosmos_forge.survey.survey import survey

    with show.progress(sys.stderr) as told:
        found = survey(path, overrides or [], load_plugins(), told)
    if as_json:
        typer.echo(_json(show.survey_json(found)), nl=False)
    else:
        show.show(found)
    raise typer.Exit(0 if found.clips else WRONG)


def doctor(
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="[RECIPE]", help="look at what it needs too", autocompletion=completion.recipes),
    ] = None,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
) -> None:
    """Check this machine, and whether a recipe would run on it."""
    from cosmos_forge.doctor import examine

    failed = False
    colours = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}
    for check in examine(recipe, overrides or [], runs):
        failed |= check.status == "fail"
        typer.echo(f"{typer.style(f'{check.status:<4}', fg=colours[check.status])}  {check.what}")
        if check.fix and check.status != "ok":
            typer.echo(f"      fix: {check.fix}")
    raise typer.Exit(WRONG if failed else 0)


def watch(
    run: Annotated[str, typer.Argument(help="a run's name, or its folder", autocompletion=completion.runs)],
    runs: Runs = Path("runs"),
) -> None:
    """Show how a run fares, running or finished."""
    from cosmos_forge import view

    raise typer.Exit(view.watch(_run_folder(run, runs)))


def report(
    run: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="a run's name, or its folder; several to compare", autocompletion=completion.runs
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="default: report.html in the run's folder; of several report-compare.html")
    ] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write a run as an HTML page that opens anywhere, or a page that compares several."""
    from cosmos_forge.errors import show_path
    from cosmos_forge.report.write import write_reports

    typer.echo(show_path(write_reports([_run_folder(each, runs) for each in run], runs, output)))


def new(
    kind: Annotated[
        str,
        typer.Argument(
            help="of component, as `forge plugins` lists them: sampler, dataset, ..", autocompletion=completion.kinds
        ),
    ],
    name: Annotated[str, typer.Argument(help="of the component, and of its package: my-sampler")],
    folder: Annotated[Path, typer.Option(help="where the package's folder goes")] = Path("."),
) -> None:
    """Write a plugin package that works and passes its contract test, to go on from."""
    from cosmos_forge.new import write_package
    from cosmos_forge.plugins import load_plugins

    typer.echo(write_package(kind, name, folder, load_plugins()), nl=False)


def _run_folder(run: str, runs: Path) -> Path:
    return Path(run) if Path(run).is_dir() and not (runs / run).is_dir() else runs / run


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


# In the order in which help lists them.
COMMANDS: dict[str, Callable[..., None]] = {
    "run": _carry_out(None, "Do all stages of a recipe; the same command again goes on where it stopped."),
    **{name: _carry_out((name,), stage.options.summary()) for name, stage in STAGES.items()},
    "explain": explain,
    "plugins": plugins,
    "data": data,
    "doctor": doctor,
    "watch": watch,
    "report": report,
    "new": new,
}
