"""Errors that carry their own exit code and words.

An error says what, where, why and what to do next, in that order, in at most four lines. The exit codes are those
of the pinned interface; the code is turned into a process exit in one place, ``mlflowctl.cli``.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes that scripts rely on."""

    OK = 0
    BUG = 1
    USAGE = 2
    CONFIG = 3
    SOURCE = 4
    TARGET = 5
    INCOMPLETE = 6
    FINDINGS = 10
    DIFFER = 11
    THRESHOLD = 12
    INVALID = 13
    SIGINT = 130
    SIGTERM = 143


class MlflowctlError(Exception):
    """An expected failure.

    Args:
        what: one sentence: what went wrong.
        where: the place: a URI (redacted), a path, ``file:line:column``.
        why: the cause as far as it is known.
        next_step: what the person should do now, with the exact command where there is one.
        kind: a short stable word for machines; defaults to the class's own.
        details: further lines for the report (all bad rows, all malformed files); never needed to understand the error.
        resumable: the same command carries on from here.
    """

    exit_code: ExitCode = ExitCode.BUG
    default_kind = "bug"

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        why: str | None = None,
        next_step: str | None = None,
        kind: str | None = None,
        details: tuple[str, ...] = (),
        resumable: bool = False,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.next_step = next_step
        self.kind = kind or self.default_kind
        self.details = details
        self.resumable = resumable

    def document(self) -> dict[str, str | None]:
        """The ``error`` member of every JSON document: kind, message, where, next."""
        message = self.what if self.why is None else f"{self.what} {self.why}"
        return {"kind": self.kind, "message": message, "where": self.where, "next": self.next_step}


class UsageError(MlflowctlError):
    """Flags that make no sense together, or an unsafe step that nobody confirmed."""

    exit_code = ExitCode.USAGE
    default_kind = "usage"


class ConfigError(MlflowctlError):
    """A configuration file, variable or secret reference that cannot be used."""

    exit_code = ExitCode.CONFIG
    default_kind = "config"


class SourceError(MlflowctlError):
    """The source cannot be read, is of an unknown revision, or holds bad rows."""

    exit_code = ExitCode.SOURCE
    default_kind = "source"


class TargetError(MlflowctlError):
    """The target cannot be reached or refuses, holds foreign data, or is locked."""

    exit_code = ExitCode.TARGET
    default_kind = "target"


class IncompleteError(MlflowctlError):
    """The work stopped before its end without a cause on either side."""

    exit_code = ExitCode.INCOMPLETE
    default_kind = "incomplete"


class DifferError(MlflowctlError):
    """Source and target are not the same."""

    exit_code = ExitCode.DIFFER
    default_kind = "differ"


class Interrupted(MlflowctlError):
    """Ctrl-C or SIGTERM, after the work at hand was brought to a safe point."""

    default_kind = "interrupted"

    def __init__(self, signal_number: int, **words: str | None) -> None:
        name = "SIGTERM" if signal_number == 15 else "Ctrl-C"
        super().__init__(
            f"Stopped by {name}.", next_step=words.get("next_step"), where=words.get("where"), resumable=True
        )
        self.exit_code = ExitCode.SIGTERM if signal_number == 15 else ExitCode.SIGINT
