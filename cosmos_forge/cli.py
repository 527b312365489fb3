"""The commands. No logic: each calls one function of the house and prints what it returns. The only file with typer."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperGroup

from cosmos_forge import __version__, completion
from cosmos_forge.aliases import told
from cosmos_forge.errors import ForgeError
from cosmos_forge.stages import STAGES

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan
    from cosmos_forge.plugins import Command

FAILED, WRONG = 1, 2  # exit codes: something broke; the recipe or machine is not right


class Commands(TyperGroup):
    """The commands below and those of plugins, which are looked for only when somebody asks for another."""

    def list_commands(self, context: Any) -> list[str]:
        own = super().list_commands(context)
        return [*own, *sorted(_offered().keys() - own)]

    def get_command(self, context: Any, name: str) -> Any:
        own = super().get_command(context, name)
        command = None if own else _offered().get(name)
        return _plugin_command(command) if command else own


app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

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


def main() -> None:
    """The entry point of `forge`: shows mistakes as text, and everything else in one line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a sign that a terminal lacks is no reason to end
    # --traceback may stand anywhere.
    arguments = sorted(sys.argv[1:], key=lambda argument: argument != "--traceback")
    try:
        app(arguments, prog_name="forge")
    except ForgeError as error:
        if "--traceback" in arguments:
            raise
        _print_problems(error)
        sys.exit(WRONG)
    except Exception as error:
        if "--traceback" in arguments:
            raise
        _print_problems(ForgeError(f"{type(error).__name__}: {error}", "not your fault; --traceback shows where it is"))
        sys.exit(FAILED)


@app.callback(invoke_without_command=True)
def forge(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="show where an error comes from; stands anywhere")
    ] = False,
) -> None:
    """Post-train a video model on your own clips, and generate videos with the result."""
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        from cosmos_forge.catalogue import first_steps

        typer.echo(first_steps(), nl=False)


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    name: Name = None,
    runs: Runs = Path("runs"),
    continue_: Continue = False,
) -> None:
    """Do all stages of a recipe; the same command again goes on where it stopped."""
    from cosmos_forge.launch import run_plan

    raise typer.Exit(run_plan(_plan(recipe, overrides, name, runs), accept_changes=continue_))


def _stage_command(stage: str) -> Callable[..., None]:
    def command(
        recipe: RecipePath,
        overrides: Overrides = None,
        name: Name = None,
        runs: Runs = Path("runs"),
        continue_: Continue = False,
    ) -> None:
        from cosmos_forge.launch import run_plan

        plan = _plan(recipe, overrides, name, runs, stages=(stage,))
        raise typer.Exit(run_plan(plan, stages=(stage,), accept_changes=continue_))

    return command


for _stage in STAGES.values():
    _short = told() if _stage.name == "generate" else None
    app.command(_stage.name, help=_stage.options.summary(), epilog=_short)(_stage_command(_stage.name))


@app.command()
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
    from cosmos_forge.plan import make_plan
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


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
def watch(
    run: Annotated[str, typer.Argument(help="a run's name, or its folder", autocompletion=completion.runs)],
    runs: Runs = Path("runs"),
) -> None:
    """Show how a run fares, running or finished."""
    from cosmos_forge import view

    raise typer.Exit(view.watch(_run_folder(run, runs)))


@app.command()
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


@app.command()
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


for _command in app.registered_commands:  # typer would cut these off
    _command.short_help = _command.help or inspect.getdoc(cast(Any, _command.callback))


def _run_folder(run: str, runs: Path) -> Path:
    return Path(run) if Path(run).is_dir() and not (runs / run).is_dir() else runs / run


def _offered() -> dict[str, Command]:
    from cosmos_forge.plugins import load_plugins

    return {command.name: command for command in load_plugins().commands}


def _plugin_command(command: Command) -> Any:
    try:
        module, _, attribute = command.run.partition(":")
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a stranger's module does when imported
        reason = f"command `{command.name}` of {command.plugin} ({command.package}) does not load: {error}"

        def function() -> None:
            raise ForgeError(reason)

    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(command.name, short_help=command.help)(function)
    return typer.main.get_command(alone)


def _plan(
    recipe: Path, overrides: list[str] | None, name: str | None, runs: Path, stages: tuple[str, ...] | None = None
) -> Plan:
    from cosmos_forge.plan import make_plan
    from cosmos_forge.plugins import load_plugins
    from cosmos_forge.recipe import read_recipe

    return make_plan(read_recipe(recipe, overrides or [], stages), load_plugins(), name, runs, stages)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def _print_problems(error: ForgeError) -> None:
    for number, problem in enumerate(error.problems):
        if number:
            typer.echo(err=True)
        first, *rest = problem.lines()
        typer.secho("error:", fg=typer.colors.RED, bold=True, err=True, nl=False)
        typer.secho(first.removeprefix("error:"), bold=True, err=True)
        for line in rest:
            colour = typer.colors.GREEN if line.startswith("  fix:") else typer.colors.BLUE
            typer.secho(line, fg=colour, err=True)
