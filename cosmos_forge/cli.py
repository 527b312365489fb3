"""The program `forge`: its own commands, those of plugins, and what becomes of mistakes."""

from __future__ import annotations

import inspect
import io
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cosmos_forge import __version__
from cosmos_forge.aliases import told
from cosmos_forge.commands import COMMANDS
from cosmos_forge.errors import FAILED, WRONG, ForgeError
from cosmos_forge.plugins import Command, load


class Commands(TyperGroup):
    """Forge's own commands and those of plugins, which are looked for only when somebody asks for another."""

    def list_commands(self, context: Any) -> list[str]:
        own = super().list_commands(context)
        return [*own, *sorted(_offered(context).keys() - own)]

    def get_command(self, context: Any, name: str) -> Any:
        own = super().get_command(context, name)
        command = None if own else _offered(context).get(name)
        return _plugin_command(command) if command else own


app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


for _name, _command in COMMANDS.items():
    _short_names = told() if _name == "generate" else None
    _about = inspect.getdoc(_command)  # all of it, where typer by itself would cut off the end
    app.command(_name, short_help=_about, epilog=_short_names)(_command)


def _offered(context: typer.Context) -> dict[str, Command]:
    """Commands of plugins, by name; looked for once in a call of `forge`."""
    found: dict[str, Command] | None = context.meta.get("cosmos_forge.commands")
    if found is None:
        from cosmos_forge.plugins import load_plugins

        found = {command.name: command for command in load_plugins().commands}
        context.meta["cosmos_forge.commands"] = found
    return found


def _plugin_command(command: Command) -> Any:
    try:
        function = load(command.run)
    except Exception as error:  # whatever a stranger's module does when imported
        reason = f"command `{command.name}` of {command.plugin} ({command.package}) does not load: {error}"

        def function() -> None:
            raise ForgeError(reason)

    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(command.name, short_help=command.help)(function)
    return typer.main.get_command(alone)


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
