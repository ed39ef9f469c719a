"""The way in: the table of commands, loaded when they are called."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import typer

from mlflowctl.cli import params
from mlflowctl.core.errors import ExitCode

PROGRAM = "mlflowctl"
COMPLETION_VARIABLE = "_MLFLOWCTL_COMPLETE"


@dataclass(frozen=True, slots=True)
class Entry:
    """A command of the table. ``module`` has a function ``command()`` that makes it."""

    name: str
    module: str
    help: str


COMMANDS: tuple[Entry, ...] = (
    Entry("migrate", "mlflowctl.cli.migrate", "Bring a store into a database, whole and proven."),
    Entry("config", "mlflowctl.cli.config", "Show, check and begin a configuration."),
)

_HELP = """A toolkit for the people who run MLflow.

Try: mlflowctl migrate --from ./mlruns --dry-run
"""
_EPILOG = (
    "Exit codes: 0 ok, 1 bug, 2 usage, 3 configuration, 4 source, 5 target, 6 incomplete, 11 stores differ, "
    "130 and 143 signals."
)


class LazyGroup(params.HelpfulGroup):
    """The root: knows names and one-line helps, imports a command's module only when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the table's order."""
        return [entry.name for entry in COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and make the command."""
        for entry in COMMANDS:
            if entry.name == cmd_name:
                return importlib.import_module(entry.module).command()
        return None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The table; typer's own would import every command for its help."""
        with formatter.section("Commands"):
            formatter.write_dl([(entry.name, entry.help) for entry in COMMANDS])


def root() -> Any:
    """The root command."""
    made = params.group(PROGRAM, None, (), _HELP, {}, epilog=_EPILOG, cls=LazyGroup)
    made.params.insert(0, _version_option())
    return made


def _version_option() -> Any:
    """``--version``, made by typer and taken out of a command of its own: its class is typer's affair."""

    def show(value: bool) -> None:
        if value:
            typer.echo(version_text())
            raise typer.Exit

    def holder(
        version: bool = typer.Option(
            False, "--version", callback=show, is_eager=True, help="Show the versions and exit.", show_default=False
        ),
    ) -> None:
        del version

    app = typer.Typer(add_completion=False)
    app.command()(holder)
    import typer.main as maker

    option = next(param for param in maker.get_command(app).params if param.name == "version")
    option.expose_value = False  # the root's function does not know it
    return params.switch(option)


def version_text() -> str:
    """Versions of mlflowctl, MLflow and Python; MLflow's from its metadata, since importing it takes seconds."""
    from importlib import metadata

    from mlflowctl import __version__

    try:
        mlflow = metadata.version("mlflow")
    except metadata.PackageNotFoundError:
        mlflow = "not installed"
    return f"mlflowctl {__version__}\nmlflow {mlflow}\nPython {platform.python_version()}"


def run(argv: Sequence[str]) -> int:
    """Run a command line; the exit code."""
    _patient_streams()
    if COMPLETION_VARIABLE in os.environ:
        # Without typer's own --install-completion its shells are not registered.
        from typer.completion import get_completion_inspect_parameters

        get_completion_inspect_parameters()
    try:
        code = root().main(args=list(argv), prog_name=PROGRAM, standalone_mode=False)
    except params.ClickError as bad:
        return _usage(bad)
    except typer.Abort:
        return ExitCode.SIGINT
    return code if isinstance(code, int) else 0


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The console script."""
    from mlflowctl.core import signals

    signals.nothing_follows()
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def _patient_streams() -> None:
    """A terminal that cannot show a character is no reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _usage(bad: Exception) -> int:
    """Mistyped flags and commands, in the words of every other error."""
    from mlflowctl.core.redact import redact_text

    ctx = getattr(bad, "ctx", None)
    path = ctx.command_path if ctx is not None else PROGRAM
    near = getattr(bad, "possibilities", None) or []
    if type(bad).__name__ == "NoSuchOption":
        text = f"No such option: {getattr(bad, 'option_name', '')}"
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
    else:
        text = getattr(bad, "format_message", bad.__str__)()
        hint = ""
    sys.stderr.write(f"error: {redact_text(text)}\n  next: {hint}{path} --help\n")
    return ExitCode.USAGE
