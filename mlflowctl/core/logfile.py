"""The log file: everything that is too long for a terminal, without secrets.

Nobody wants a file for every run that went well. Without ``--log-file`` the last records are kept in memory, and the
file appears only when something is written at level ERROR, such as the traceback of an unexpected exception.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from io import TextIOWrapper
from pathlib import Path

from mlflowctl.core.redact import redact_text

LOGGER = "mlflowctl"
_REMEMBERED = 1000
_KEPT_FILES = 20


class RedactingFormatter(logging.Formatter):
    """Formats a record, traceback included, and takes every secret out of the whole."""

    def __init__(self, fmt: str = "%(asctime)s %(levelname)s %(name)s: %(message)s") -> None:
        super().__init__(fmt)

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, redacted."""
        return redact_text(super().format(record))

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """RFC 3339 in UTC, whatever the machine's zone."""
        return datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")


class _LazyFile(logging.FileHandler):
    """A file that is made, with its folders, for its owner alone, when the first record comes."""

    def __init__(self, path: Path, *, tidy: bool) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)
        self._tidy = tidy

    def _open(self) -> TextIOWrapper:
        path = Path(self.baseFilename)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._tidy:
            _remove_old(path.parent)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")


class _Remembering(logging.handlers.MemoryHandler):
    """Keeps the last records and lets them go to the file only together with an ERROR."""

    def __init__(self, target: logging.Handler) -> None:
        super().__init__(_REMEMBERED, flushLevel=logging.ERROR, target=target, flushOnClose=False)

    def shouldFlush(self, record: logging.LogRecord) -> bool:  # noqa: N802
        """Only at an ERROR; a full memory forgets its oldest record instead."""
        if record.levelno >= self.flushLevel:
            return True
        if len(self.buffer) > self.capacity:
            del self.buffer[0]
        return False


def default_path(environ: Mapping[str, str] | None = None) -> Path:
    """Where the log of this process goes when nobody says otherwise."""
    environ = os.environ if environ is None else environ
    state = environ.get("XDG_STATE_HOME") or "~/.local/state"
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    return Path(state).expanduser() / "mlflowctl" / "log" / f"mlflowctl-{stamp}-{os.getpid()}.log"


class LogFile:
    """The log of one run. Use as a context manager; leaving it takes the handler off again."""

    def __init__(self, path: Path | None = None, environ: Mapping[str, str] | None = None) -> None:
        self.path = path or default_path(environ)
        file = _LazyFile(self.path, tidy=path is None)
        file.setFormatter(RedactingFormatter())
        self._file = file
        self._handler: logging.Handler = file if path is not None else _Remembering(file)
        self._logger = logging.getLogger(LOGGER)

    def __enter__(self) -> LogFile:
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(logging.DEBUG)
        self._logger.propagate = False  # a root logger of a library must not print our records unredacted
        self._logger.addHandler(self._handler)
        return self

    def __exit__(self, *exc: object) -> None:
        self._logger.removeHandler(self._handler)
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)
        with contextlib.suppress(OSError):
            self._handler.close()
            self._file.close()

    def traceback(self, message: str, error: BaseException) -> Path | None:
        """Write the traceback of ``error``; the path of the log, or None where it cannot be written."""
        try:
            # logging swallows a handler's failures and prints them; here the caller must know.
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        except OSError:
            return None
        self._logger.error(message, exc_info=(type(error), error, error.__traceback__))
        return self.path


def _remove_old(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for old in sorted(folder.glob("mlflowctl-*.log"))[: -_KEPT_FILES + 1]:
            old.unlink()
