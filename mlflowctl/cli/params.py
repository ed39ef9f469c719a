"""From options to flags: typer commands made of the option registry.

typer builds a command from a function's signature. Here the signature is made from ``Option`` objects, so a flag can
never say anything else than its variable and its key in a file. Every flag reaches the layers as raw text: typer would
report a bad value without knowing where it came from.
"""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import typer
import typer.core
import typer.main

from mlflowctl.config.options import CONFIG_VARIABLE, FROM, GLOBAL, TO, Kind, Option

# typer brings its own click under a private name; its public exception leads to the classes.
ClickError: type[Exception] = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")
CliUsageError: type[Exception] = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "UsageError")

_CONFIG = "config_file"
_OPTION = "o_"
_EVERYWHERE = {option.flag for option in GLOBAL} | {"--config", "--help"}


@dataclass(frozen=True, slots=True)
class Given:
    """What stood on the command line: raw flag values by ``Option.key``, and ``--config``."""

    flags: dict[str, Any]
    config: str | None


class _Help:
    """Help in two sections, the command's own options first. A mix-in for typer's command and group."""

    params: list[Any]

    def get_params(self, ctx: Any) -> list[Any]:
        """The flags, ``--help`` last."""
        return super().get_params(ctx)  # type: ignore[misc,no-any-return]

    def get_help_option(self, ctx: Any) -> Any:
        """``--help``."""
        if getattr(self, "_help", None) is None:
            self._help = switch(super().get_help_option(ctx))  # type: ignore[misc]
        return self._help

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, and for a group its commands."""
        own: list[Any] = []
        everywhere: list[Any] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                (everywhere if set(param.opts) & _EVERYWHERE else own).append(record)
        if own:
            with formatter.section("Options"):
                formatter.write_dl(own)
        with formatter.section("Options of every command"):
            formatter.write_dl(everywhere)
        if hasattr(self, "format_commands"):
            self.format_commands(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse; a mistyped flag comes back with what was probably meant."""
        try:
            return super().parse_args(ctx, args)  # type: ignore[misc]
        except CliUsageError as bad:
            name = getattr(bad, "option_name", None)
            if name and type(bad).__name__ == "NoSuchOption":
                flags = [flag for param in self.get_params(ctx) for flag in param.opts if flag.startswith("--")]
                bad.possibilities = difflib.get_close_matches(name, flags, n=2, cutoff=0.6)  # type: ignore[attr-defined]
            raise


class HelpfulCommand(_Help, typer.core.TyperCommand):
    """A leaf."""


class HelpfulGroup(_Help, typer.core.TyperGroup):
    """A command that has others below it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; a mistyped name comes back with what was probably meant."""
        name = args[0]
        if not name.startswith("-") and not ctx.resilient_parsing and name not in self.list_commands(ctx):
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1, cutoff=0.5)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)


def leaf(
    name: str, body: Callable[[Given], int], options: tuple[Option, ...], help_text: str, epilog: str | None = None
) -> Any:
    """A command without others below it. ``body`` gets what was given and returns the exit code."""
    app = _app()
    app.command(name, cls=HelpfulCommand, help=help_text, epilog=epilog)(_function(body, options))
    return _raw(typer.main.get_command(app))


def group(
    name: str,
    body: Callable[[Given], int] | None,
    options: tuple[Option, ...],
    help_text: str,
    commands: dict[str, Any],
    epilog: str | None = None,
    cls: type[HelpfulGroup] = HelpfulGroup,
    subcommand_metavar: str | None = None,
) -> Any:
    """A command with others below it; with ``body`` it does something by itself too."""
    app = _app()
    callback = app.callback(
        cls=cls,
        help=help_text,
        epilog=epilog,
        invoke_without_command=True,
        subcommand_metavar=subcommand_metavar,
    )
    callback(_function(body, options))
    made = _raw(typer.main.get_command(app))
    made.name = name
    for command_name, command in commands.items():
        made.add_command(command, command_name)
    return made


def _raw(command: Any) -> Any:
    """Let flags through as they stand.

    typer 0.29 sends even a plain text through pydantic, whose import takes longer than all the rest of ``--help``.
    """
    for param in command.params:
        if param.name.startswith(_OPTION) or param.name == _CONFIG:
            param.process_value = lambda ctx, value: value
    return command


def switch(param: Any) -> Any:
    """The same for a flag that acts by its callback, such as ``--help``: unless it stands there it does nothing."""
    act = param.process_value
    param.process_value = lambda ctx, value: act(ctx, True) if value is True else None
    return param


def _app() -> typer.Typer:
    # Rich tracebacks print local variables, secrets too; rich help costs 80 ms and writes ANSI into CI's pipes.
    return typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _function(body: Callable[[Given], int] | None, options: tuple[Option, ...]) -> Callable[..., Any]:
    """A function whose signature has one parameter a flag."""
    everything = (*options, *GLOBAL)

    def run(**raw: Any) -> int | None:
        ctx = raw["ctx"]
        if ctx.invoked_subcommand is not None:
            return None
        if body is None:
            typer.echo(ctx.get_help())
            return 0
        return body(_given(ctx))

    parameters = [inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
    for option in everything:
        annotation, default = _typer_option(option)
        parameters.append(
            inspect.Parameter(
                _parameter(option), inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation, default=default
            )
        )
    config = typer.Option(
        None,
        "--config",
        metavar="FILE",
        help=f"Read FILE instead of ./mlflowctl.yaml. ({CONFIG_VARIABLE})",
        show_default=False,
        autocompletion=_paths,
    )
    parameters.append(
        inspect.Parameter(
            _CONFIG,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            annotation=str | None,
            default=config,
        )
    )
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _parameter(option: Option) -> str:
    """The Python name; a prefix, because ``from`` is a keyword."""
    return _OPTION + option.key.replace(".", "_").replace("-", "_")


def _typer_option(option: Option) -> tuple[Any, Any]:
    declarations = [option.flag, *([f"-{option.short}"] if option.short else [])]
    text = option.help
    if option.default_text:
        text += f" Default: {option.default_text}."
    elif isinstance(option.default, str):
        text += f" Default: {option.default}."
    words: dict[str, Any] = {"help": text, "show_default": False}
    if option.kind is Kind.SWITCH:
        return bool, typer.Option(False, *declarations, **words)
    if option.kind is Kind.COUNT:
        return int, typer.Option(0, *declarations, count=True, **words)
    words["metavar"] = option.metavar or "|".join(option.choices) or "TEXT"
    if option.choices:
        choices = option.choices
        words["autocompletion"] = lambda incomplete: [c for c in choices if c.startswith(incomplete)]
    elif option.kind is Kind.PATH or option in (FROM, TO):
        words["autocompletion"] = _paths
    if option.repeatable:
        return list[str] | None, typer.Option(None, *declarations, **words)
    return str | None, typer.Option(None, *declarations, **words)


def _paths(incomplete: str) -> list[str]:
    """Files and folders that begin like that."""
    folder, beginning = os.path.split(incomplete)
    try:
        entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
    except OSError:
        return []
    return [
        os.path.join(folder, entry.name) + ("/" if entry.is_dir() else "")  # noqa: PTH118 - a text stays as typed
        for entry in entries
        if entry.name.startswith(beginning) and (beginning or not entry.name.startswith("."))
    ]


def _given(ctx: Any) -> Given:
    """Flags of the command and of those above it: ``migrate --from A verify`` is ``migrate verify --from A``."""
    flags: dict[str, Any] = {}
    config: str | None = None
    contexts = []
    while ctx is not None:
        contexts.append(ctx)
        ctx = ctx.parent
    for context in reversed(contexts):
        for name, value in context.params.items():
            if value in (None, False, 0, (), []) and value != "":
                continue
            if name == _CONFIG:
                config = value
            elif name in _keys():
                flags[_keys()[name]] = value
    return Given(flags, config)


def _keys() -> dict[str, str]:
    from mlflowctl.config.options import OPTIONS

    return {_parameter(option): option.key for option in OPTIONS}
