"""``mlflowctl config show|check|schema|init``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflowctl.cli import params, run
from mlflowctl.config import schema
from mlflowctl.core.errors import ConfigError, ExitCode, UsageError

if TYPE_CHECKING:
    from mlflowctl.cli.run import Document, Session

_HELP = """Show, check and begin a configuration.

Order, highest first: flags, environment (MLFLOWCTL_MIGRATE_JOBS), .env, ./mlflowctl.yaml,
$XDG_CONFIG_HOME/mlflowctl/config.yaml, MLflow's own variables, default.
"""
_FILE = Path("mlflowctl.yaml")


def show(session: Session) -> Document:
    """Every value with its origin."""
    values = session.settings.values.values()
    return {
        "files": session.settings.files,
        "values": [
            {"name": v.option.key, "value": _plain(v.shown), "origin": v.origin, "layer": v.layer.name.lower()}
            for v in values
        ],
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def check(session: Session) -> Document:
    """All problems at once."""
    errors = session.settings.errors(strict=True)
    warnings = [problem for problem in session.settings.problems if problem.warning]
    document: Document = {
        "files": session.settings.files,
        "problems": [problem.document() for problem in [*errors, *warnings]],
    }
    if errors:
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        first = errors[0]
        document["exit_code"] = int(ExitCode.CONFIG)
        document["error"] = ConfigError(
            f"The configuration has {count}.", where=first.where, why=first.text, next_step=first.hint
        ).document()
    return document


def show_schema(_: Session) -> Document:
    """The JSON Schema of a file."""
    return schema.json_schema()


def init(session: Session) -> Document:
    """Write a commented file."""
    if _FILE.exists() or _FILE.is_symlink():
        session.confirm(f"{_FILE} exists. Overwrite it?")
    try:
        _FILE.write_text(schema.template(), encoding="utf-8")
    except OSError as bad:
        raise UsageError("The file cannot be written.", where=str(_FILE.absolute()), why=f"{bad.strerror}.") from bad
    return {"file": str(_FILE)}


COMMANDS: tuple[tuple[str, run.Command, str], ...] = (
    (
        "show",
        run.Command("mlflowctl.config.show/v1", show, {"files": [], "values": []}),
        "Show every value and where it comes from.",
    ),
    (
        "check",
        run.Command("mlflowctl.config.check/v1", check, {"files": [], "problems": []}, tolerant=True),
        "Report all mistakes in files and variables at once; exit code 3 when there are any.",
    ),
    (
        "schema",
        run.Command("mlflowctl.config.schema/v1", show_schema, plain=True, tolerant=True),
        "Print the JSON Schema of a configuration file, for editors.",
    ),
    (
        "init",
        run.Command("mlflowctl.config.init/v1", init, tolerant=True),
        "Write a commented ./mlflowctl.yaml.",
    ),
)


def command() -> Any:
    """The command, for the table of ``main``."""
    leaves = {name: _leaf(name, it, text) for name, it, text in COMMANDS}
    return params.group("config", None, (), _HELP, leaves)


def _leaf(name: str, it: run.Command, text: str) -> Any:
    return params.leaf(name, lambda given: run.execute(it, given), (), text)
