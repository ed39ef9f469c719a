"""The way of every command: flags -> settings -> events -> result -> report -> exit code.

The only place where a failure becomes an exit code and a JSON document.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflowctl.cli.render import terminal
from mlflowctl.config import layers, options
from mlflowctl.core import signals
from mlflowctl.core.errors import ExitCode, Interrupted, MlflowctlError, UsageError
from mlflowctl.core.logfile import LogFile
from mlflowctl.core.redact import redact_text, redact_value

if TYPE_CHECKING:
    from mlflowctl.cli.params import Given
    from mlflowctl.core.events import Engine, Event

_log = logging.getLogger("mlflowctl.cli")

Document = dict[str, Any]


@dataclass(slots=True)
class Session:
    """What a command's body works with."""

    settings: layers.Settings
    verbosity: int
    output: str

    def drive(self, engine: Engine[Any]) -> Any:
        """Run an engine with progress on standard error; its result."""
        from mlflowctl.cli.render import progress
        from mlflowctl.core.events import drive

        sink = progress.make(self.settings[options.PROGRESS], sys.stderr, self.verbosity, os.environ)

        def both(event: Event) -> None:
            _log.debug("%s", event)
            sink(event)

        with sink:
            return drive(engine, both)

    def confirm(self, question: str, *, unasked: bool = False) -> None:
        """Ask before something is overwritten or destroyed.

        ``unasked``: where nobody can be asked the command itself is the answer.

        Raises:
            UsageError: the answer is no, or nobody can be asked and ``--yes`` was not given.
        """
        if self.settings[options.YES]:
            return
        if self.settings[options.NO_INPUT] or not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
            if unasked:
                return
            raise UsageError(question, why="Nobody can be asked here.", next_step="Add --yes.", kind="not_confirmed")
        sys.stderr.write(f"{redact_text(question)} [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise UsageError("Stopped: the answer was no.", kind="not_confirmed")


@dataclass(frozen=True, slots=True)
class Command:
    """A command: ``body`` does the work and returns the document; ``empty`` is the document of a run that never began.

    ``plain`` marks a document that is the result itself and gets no envelope (a JSON Schema).
    """

    schema: str
    body: Callable[[Session], Document]
    empty: Document = field(default_factory=dict)
    plain: bool = False
    tolerant: bool = False
    """The body deals with configuration errors itself."""


def execute(command: Command, given: Given) -> int:
    """Run a command from its flags to its exit code."""
    settings = layers.resolve(given.flags, config=given.config)
    output = settings[options.OUTPUT]
    verbosity = -1 if settings[options.QUIET] else settings[options.VERBOSE]
    session = Session(settings, verbosity, output)
    printer = _Printer(command, session)
    log_file = settings[options.LOG_FILE]
    with LogFile(Path(log_file).expanduser() if log_file else None) as log, _console_log(verbosity):
        restore = _take_signals(printer)
        try:
            # What was found out is told, also when a signal comes while it is.
            return printer.finish(_attempt(command, session, printer, log))
        finally:
            restore()


def _attempt(command: Command, session: Session, printer: _Printer, log: LogFile) -> Document:
    try:
        session.settings.raise_problems(only_flags=command.tolerant)
        if not command.tolerant:
            for warning in session.settings.warnings():
                printer.warn(warning.line())
        _check_places(session)
        _log.info(
            "%s", " ".join([command.schema, *(f"{v.option.key}={v.shown!r}" for v in session.settings.values.values())])
        )
        document = command.body(session)
    except MlflowctlError as error:
        _log.info("failed: %s", error.what, exc_info=True)
        return _failure(command, error)
    except (KeyboardInterrupt, BrokenPipeError) as stopped:
        if isinstance(stopped, BrokenPipeError):
            raise
        return _failure(command, Interrupted(2))
    except Exception as bug:  # noqa: BLE001 - the last net: a bug is one line for people, the traceback is for the log
        return _failure(command, _bug(bug, log))
    if not command.plain:
        document = {"schema": command.schema, "exit_code": 0, "error": None, **document}
    return document


def _failure(command: Command, error: MlflowctlError) -> Document:
    """The document of a failure; the engine may have attached what is known by then."""
    result = getattr(error, "result", None)
    document: Document = {"schema": command.schema, **command.empty}
    if result is not None:
        known = {
            key: value for key, value in result.document().items() if value not in (None, {}) or key not in document
        }
        document.update(known)
    document["exit_code"] = int(error.exit_code)
    document["error"] = error.document()
    if "resumable" in command.empty:
        document["resumable"] = error.resumable
    if error.details and not document.get("troubles"):
        document["details"] = list(error.details)
    document["_error"] = error
    return document


def _bug(bug: Exception, log: LogFile) -> MlflowctlError:
    path = log.traceback("unexpected", bug)
    words = " ".join(redact_text(f"{type(bug).__name__}: {bug}").split())
    next_step = f"The traceback is in {path}; please report it." if path else "Run again with --log-file FILE."
    return MlflowctlError("This is a bug in mlflowctl.", why=words, next_step=next_step)


def _check_places(session: Session) -> None:
    """Refuse before the work begins what would fail after it."""
    place = session.settings[options.OUT_FILE]
    if not place:
        return
    path = Path(place).expanduser()
    if path.is_dir() or not path.absolute().parent.is_dir():
        why = "It is a folder." if path.is_dir() else "Its folder does not exist."
        raise UsageError(
            "The result cannot be written there.", where=str(path), why=why, next_step="Name another --out-file."
        )
    if path.exists() and path.stat().st_size:
        session.confirm(f"{path} exists. Overwrite it?")


class _Printer:
    """Writes the one document of a run, once."""

    def __init__(self, command: Command, session: Session) -> None:
        self._command = command
        self._session = session
        self._written = False
        self._lock = threading.Lock()

    def warn(self, text: str) -> None:
        if self._session.verbosity >= 0:
            self._to_stderr("warning", redact_text(text))

    def finish(self, document: Document) -> int:
        """Print result and error; the exit code."""
        error = document.pop("_error", None)
        code = int(document.get("exit_code", 0))
        if error is not None:
            self._complain(error)
        try:
            self._write(document, error)
        except BrokenPipeError:  # ``| head``: nobody is left to tell
            _abandon_stdout()
        except OSError as bad:
            _abandon_stdout()
            self._to_stderr("error", f"The result cannot be written: {bad.strerror}.")
            return code or int(ExitCode.USAGE)
        return code

    def ended_at_once(self, number: int) -> None:
        """A second signal: the document, and no more."""
        document = _failure(self._command, Interrupted(number))
        error = document.pop("_error")
        if self._session.output != "table":
            self._write(document, error)

    def _write(self, document: Document, error: MlflowctlError | None) -> None:
        from mlflowctl.cli.render import documents

        with self._lock:
            if self._written:
                return
            self._written = True
            if not self._command.plain or error is not None:
                document = redact_value(document)
            place = self._session.settings[options.OUT_FILE]
            stream = None if place else sys.stdout
            screen = terminal.screen(stream, os.environ)
            text = documents.render(document, self._session.output, screen, verbosity=self._session.verbosity)
            if not text:
                return
            if place:
                _write_whole(Path(place).expanduser(), text)
            else:
                sys.stdout.write(text)
                sys.stdout.flush()

    def _complain(self, error: MlflowctlError) -> None:
        if self._session.settings[options.PROGRESS] == "json":
            import json

            line = {"event": "error", **error.document(), "exit_code": int(error.exit_code)}
            sys.stderr.write(json.dumps(redact_value(line)) + "\n")
            return
        sys.stderr.write(terminal.error_text(error, terminal.screen(sys.stderr, os.environ)))
        sys.stderr.flush()

    def _to_stderr(self, level: str, text: str) -> None:
        if self._session.settings[options.PROGRESS] == "json":
            import json

            sys.stderr.write(json.dumps({"event": level, "message": text}) + "\n")
        else:
            sys.stderr.write(f"{level}: {text}\n")


def _abandon_stdout() -> None:
    """Send what is still buffered nowhere: Python would try once more at its end, and complain."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _write_whole(path: Path, text: str) -> None:
    """Write beside the name and rename: a reader never sees half a document."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _take_signals(printer: _Printer) -> Callable[[], None]:
    if threading.current_thread() is not threading.main_thread():
        return lambda: None

    def first(number: int) -> None:
        word = "Ctrl-C" if number == 2 else "the signal"
        printer.warn(f"Stopping at a safe point; {word} again stops at once.")

    return signals.install(first, printer.ended_at_once)


class _console_log:  # noqa: N801 - reads as the block it opens
    """Log records on standard error for -v (info) and -vv (everything)."""

    def __init__(self, verbosity: int) -> None:
        self._level = {1: logging.INFO, 2: logging.DEBUG}.get(min(verbosity, 2))
        self._handler: logging.Handler | None = None

    def __enter__(self) -> None:
        if self._level is None:
            return
        from mlflowctl.core.logfile import LOGGER, RedactingFormatter

        self._handler = logging.StreamHandler(sys.stderr)
        self._handler.setLevel(self._level)
        self._handler.setFormatter(RedactingFormatter("%(levelname)s %(name)s: %(message)s"))
        logging.getLogger(LOGGER).addHandler(self._handler)

    def __exit__(self, *exc: object) -> None:
        if self._handler is not None:
            from mlflowctl.core.logfile import LOGGER

            logging.getLogger(LOGGER).removeHandler(self._handler)
