"""Every option there is, each one object.

From the object derive the flag, the environment variable, the key in a file, the JSON Schema, the merge of the layers
and the origin that ``config show`` prints. ``GLOBAL`` and ``MIGRATE`` are the registry: what is not in them does not
exist.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

PREFIX = "MLFLOWCTL_"

_TRUE = frozenset(("true", "yes", "on", "1"))
_FALSE = frozenset(("false", "no", "off", "0"))
_REFERENCE = re.compile(r"(?:env|file|ssm|secretsmanager|vault)://\S.*", re.DOTALL)


class Kind(Enum):
    """What a value is, and how it is read from text."""

    TEXT = "text"
    PATH = "path"
    INTEGER = "integer"
    SWITCH = "switch"
    COUNT = "count"
    PAIR = "pair"
    SECRET = "secret"  # noqa: S105 - a kind, not a secret


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Args:
        name: its name in files, and the flag without ``--``.
        section: ``""`` for the options that every command has, else the section in a file.
        kind: how its text is read.
        help: one sentence for ``--help`` and for the file that ``config init`` writes.
        default: the value when no layer says anything; a callable where it depends on the machine.
        default_text: the default in words, for help, where the value alone says too little.
        metavar: the value's name in help.
        choices: the only allowed values.
        short: the one-letter flag.
        repeatable: the flag may be given several times; the value is a tuple. A layer replaces the ones below it.
        variables: MLflow's own variables that stand behind all other layers, first one wins.
        minimum: the least allowed integer.
    """

    name: str
    section: str
    kind: Kind
    help: str
    default: Any = None
    default_text: str | None = None
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    short: str | None = None
    repeatable: bool = False
    variables: tuple[str, ...] = ()
    minimum: int | None = None

    @property
    def key(self) -> str:
        """The full name: ``output``, ``migrate.jobs``."""
        return f"{self.section}.{self.name}" if self.section else self.name

    @property
    def flag(self) -> str:
        """The long flag."""
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable: ``MLFLOWCTL_MIGRATE_JOBS``."""
        return PREFIX + self.key.replace(".", "_").replace("-", "_").upper()

    @property
    def secret(self) -> bool:
        """Whether the value must never be shown."""
        return self.kind is Kind.SECRET

    def default_value(self) -> Any:
        """The default, worked out."""
        return self.default() if callable(self.default) else self.default

    def parse(self, text: str) -> Any:
        """One value from its text.

        Raises:
            ValueError: with one sentence that says what would be right.
        """
        if self.choices:
            if text not in self.choices:
                raise ValueError(f"{text!r} is not one of {', '.join(self.choices)}.")
            return text
        return _PARSERS[self.kind](self, text)

    def parse_many(self, text: str) -> Any:
        """The value from the one text that an environment variable can hold; a list as JSON or separated by ``;``."""
        if not self.repeatable:
            return self.parse(text)
        parts = text.split(";")
        if text.lstrip().startswith("["):
            try:
                parts = json.loads(text)
            except ValueError:
                raise ValueError("That begins like a JSON list and is none.") from None
            if not all(isinstance(part, str) for part in parts):
                raise ValueError("A JSON list of texts is expected.")
        return tuple(self.parse(part.strip()) for part in parts if part.strip())


def is_reference(text: str) -> bool:
    """Whether ``text`` has the form of a secret reference such as ``env://NAME``."""
    return _REFERENCE.fullmatch(text) is not None


def _text(_: Option, text: str) -> str:
    if not text.strip():
        raise ValueError("The value is empty.")
    return text


def _integer(option: Option, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number.") from None
    if option.minimum is not None and number < option.minimum:
        raise ValueError(f"{number} is less than {option.minimum}.")
    return number


def _switch(_: Option, text: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"{text!r} is neither true nor false.")


def _count(option: Option, text: str) -> int:
    word = text.strip().lower()
    if word in _TRUE - {"1"}:
        return 1
    if word in _FALSE - {"0"}:
        return 0
    return _integer(option, text)


def _pair(option: Option, text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals or not old.strip() or not new.strip():
        raise ValueError(f"{text!r} is not of the form {option.metavar}.")
    return old.strip(), new.strip()


_PARSERS: dict[Kind, Callable[[Option, str], Any]] = {
    Kind.TEXT: _text,
    Kind.PATH: _text,
    Kind.SECRET: _text,
    Kind.INTEGER: _integer,
    Kind.SWITCH: _switch,
    Kind.COUNT: _count,
    Kind.PAIR: _pair,
}


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


OUTPUT = Option(
    "output", "", Kind.TEXT, "Format of the result.", default="table", choices=("table", "json", "yaml"), short="o"
)
OUT_FILE = Option("out-file", "", Kind.PATH, "Write the result to FILE instead of standard output.", metavar="FILE")
PROGRESS = Option(
    "progress",
    "",
    Kind.TEXT,
    "How progress is shown on standard error.",
    default="auto",
    choices=("auto", "plain", "json", "none"),
)
LOG_FILE = Option(
    "log-file",
    "",
    Kind.PATH,
    "Write a detailed log to FILE.",
    default_text="a file in the state folder, only when something unexpected happens",
    metavar="FILE",
)
QUIET = Option("quiet", "", Kind.SWITCH, "Say nothing but the result and errors.", default=False, short="q")
VERBOSE = Option(
    "verbose", "", Kind.COUNT, "Say more: -v for details, -vv for everything.", default=0, short="v", minimum=0
)
YES = Option("yes", "", Kind.SWITCH, "Answer every question with yes.", default=False, short="y")
NO_INPUT = Option("no-input", "", Kind.SWITCH, "Never ask; refuse what would need an answer.", default=False)

GLOBAL: tuple[Option, ...] = (OUTPUT, OUT_FILE, PROGRESS, LOG_FILE, QUIET, VERBOSE, YES, NO_INPUT)

FROM = Option(
    "from",
    "migrate",
    Kind.TEXT,
    "Store to read: a folder, sqlite:///FILE, postgresql://..., mysql://..., or a reference such as env://NAME.",
    metavar="SRC",
    variables=("MLFLOW_TRACKING_URI",),
)
TO = Option(
    "to",
    "migrate",
    Kind.TEXT,
    "Database to fill: new, empty, or one that this migration has begun.",
    default="sqlite:///mlflow.db",
    metavar="DST",
)
FROM_PASSWORD = Option(
    "from-password",
    "migrate",
    Kind.SECRET,
    "Where the source's password is: env://NAME, file://PATH, ssm://NAME, secretsmanager://ID#FIELD, vault://PATH#FIELD.",
    metavar="REF",
)
TO_PASSWORD = Option(
    "to-password", "migrate", Kind.SECRET, "Where the target's password is, in the same forms.", metavar="REF"
)
DRY_RUN = Option(
    "dry-run", "migrate", Kind.SWITCH, "Show the plan, quickly, and write nothing.", default=False, short="n"
)
SCAN = Option(
    "scan", "migrate", Kind.SWITCH, "Show the plan after reading the whole source; write nothing.", default=False
)
TARGET_VERSION = Option(
    "target-version",
    "migrate",
    Kind.TEXT,
    "MLflow version whose schema the target gets.",
    default_text="the installed MLflow's",
    metavar="V",
)
JOBS = Option(
    "jobs",
    "migrate",
    Kind.INTEGER,
    "Work on so many things at once (1: read, hash and write in turn).",
    default=_cores,
    default_text="the number of CPU cores",
    metavar="N",
    minimum=1,
)
MAP_ARTIFACTS = Option(
    "map-artifacts",
    "migrate",
    Kind.PAIR,
    "Rewrite artifact locations that begin with OLD so that they begin with NEW. May be repeated.",
    default=(),
    metavar="OLD=NEW",
    repeatable=True,
)
REROOT_ARTIFACTS = Option(
    "reroot-artifacts",
    "migrate",
    Kind.TEXT,
    "Rewrite artifact locations by their end, EXPERIMENT/RUN/artifacts, onto ROOT.",
    metavar="ROOT",
)
EXPERIMENT_IDS = Option(
    "experiment-ids",
    "migrate",
    Kind.TEXT,
    "Experiment IDs that PostgreSQL and MySQL cannot hold: renumber only those, refuse, or renumber all.",
    default="auto",
    choices=("auto", "keep", "renumber"),
)
AUTH_FROM = Option(
    "auth-from", "migrate", Kind.TEXT, "Database of users and permissions to read as well.", metavar="SRC"
)
AUTH_TO = Option("auth-to", "migrate", Kind.TEXT, "Database of users and permissions to fill.", metavar="DST")
AUTH_FROM_PASSWORD = Option(
    "auth-from-password", "migrate", Kind.SECRET, "Where the password of --auth-from is.", metavar="REF"
)
AUTH_TO_PASSWORD = Option(
    "auth-to-password", "migrate", Kind.SECRET, "Where the password of --auth-to is.", metavar="REF"
)
NO_UPGRADE = Option(
    "no-upgrade", "migrate", Kind.SWITCH, "Leave the target at the source's schema revision.", default=False
)
ON_BAD_ROW = Option(
    "on-bad-row",
    "migrate",
    Kind.TEXT,
    "Rows that the target cannot hold as they are: name them all and stop, leave them out, or mend them by rule. "
    "What is left out or mended is written whole to a rejects file.",
    default="stop",
    choices=("stop", "skip", "fix"),
)
ONLY = Option(
    "only",
    "migrate",
    Kind.TEXT,
    "Carry only the experiments and registered models of this name or glob, with all that belongs to them "
    "(experiment:NAME or model:NAME for one kind). May be repeated.",
    default=(),
    metavar="NAME",
    repeatable=True,
)
EXCLUDE = Option(
    "exclude",
    "migrate",
    Kind.TEXT,
    "Leave out the experiments and registered models of this name or glob. May be repeated.",
    default=(),
    metavar="NAME",
    repeatable=True,
)
SINCE = Option(
    "since",
    "migrate",
    Kind.TEXT,
    "Carry only runs that started at or after TIME (2026-01-31, or RFC 3339).",
    metavar="TIME",
)
RETRY_SECONDS = Option(
    "retry-seconds",
    "migrate",
    Kind.INTEGER,
    "How long to wait for a target that went away before giving up.",
    default=120,
    metavar="S",
    minimum=0,
)
REJECTS = Option(
    "rejects-file",
    "migrate",
    Kind.PATH,
    "File for the rows that were left out or mended.",
    default_text="mlflowctl-rejects-ID.jsonl in the current folder",
    metavar="FILE",
)
FORGET = Option(
    "forget",
    "migrate",
    Kind.SWITCH,
    "Remove mlflowctl's own table from a finished target as well.",
    default=False,
)

MIGRATE: tuple[Option, ...] = (
    FROM,
    TO,
    DRY_RUN,
    SCAN,
    TARGET_VERSION,
    NO_UPGRADE,
    JOBS,
    MAP_ARTIFACTS,
    REROOT_ARTIFACTS,
    EXPERIMENT_IDS,
    ONLY,
    EXCLUDE,
    SINCE,
    ON_BAD_ROW,
    REJECTS,
    RETRY_SECONDS,
    FROM_PASSWORD,
    TO_PASSWORD,
    AUTH_FROM,
    AUTH_TO,
    AUTH_FROM_PASSWORD,
    AUTH_TO_PASSWORD,
)
ABORT: tuple[Option, ...] = (TO, TO_PASSWORD, AUTH_TO, AUTH_TO_PASSWORD, FORGET)

OPTIONS: tuple[Option, ...] = (*GLOBAL, *MIGRATE, FORGET)

SECTIONS: tuple[tuple[str, str], ...] = (("migrate", "mlflowctl migrate, and migrate verify where it has the option."),)
"""The sections of a file, with what they belong to."""

CONFIG_VARIABLE = PREFIX + "CONFIG"
"""Names a configuration file, as ``--config`` does."""

FOREIGN_VARIABLES: tuple[str, ...] = ("MLFLOWCTL_WILD_STORES", "MLFLOWCTL_REQUIRE_SERVERS", "MLFLOWCTL_SOAK_KILLS")
"""Variables of the project's own tests, which are no options."""
