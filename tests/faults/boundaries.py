"""Kills at an exact call: before the n-th commit, statement, rename or removal of a migration.

Run as a script it is a nursery: it imports mlflowctl once, and for each line of JSON on its standard input forks a
process that runs one command line, patched so that it kills itself at the call that is asked for. Forking saves
Python's start, so that every single boundary can be tried. Nothing in mlflowctl knows of it.

A line asks ``{"arguments": [...], "kill_at": 3, "calls": ["commit", "file"]}`` (0: never) and is answered
``{"code": ..., "signal": ..., "calls": [...], "document": {...}}``, the calls in their order.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
#: Groups of calls.
COMMITS = ("commit", "file")
STATEMENTS = ("execute", "append")


class Nursery:
    """The test's side: starts the script, asks it."""

    def __init__(self, folder: Path) -> None:
        from tests.faults.killer import environment

        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.boundaries"],
            cwd=folder,
            env=environment(folder, OPENBLAS_NUM_THREADS="1"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, arguments: Sequence[str], kill_at: int = 0, calls: Sequence[str] = COMMITS) -> dict[str, Any]:
        """Run one command line in a process of its own, killed before its ``kill_at``-th call of these kinds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = {"arguments": [*arguments, "-o", "json", "--progress", "none"], "kill_at": kill_at, "calls": list(calls)}
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def __enter__(self) -> Nursery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


# -- in the script ---------------------------------------------------------------------------------------------------


class _Counter:
    """Counts calls and kills its own process before the one that is asked for."""

    def __init__(self, kill_at: int, kinds: Sequence[str], report: int) -> None:
        self._kill_at = kill_at
        self._kinds = kinds
        self._report = report
        self._count = 0
        self._lock = threading.Lock()

    def wrap(self, owner: Any, name: str, kind: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            self._see(kind, f"{name} {_what(arguments)}"[:120])
            return original(*arguments, **named)

        setattr(owner, name, call)

    def _see(self, kind: str, what: str) -> None:
        if kind not in self._kinds:
            return
        # Whoever is second waits here and dies with the first.
        with self._lock:
            self._count += 1
            os.write(self._report, f"{kind}: {' '.join(what.split())}\n".encode())
            if self._count == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


def _what(arguments: Sequence[Any]) -> str:
    return " ".join(str(a) for a in arguments if isinstance(a, (str, Path)))


def _patch(counter: _Counter) -> None:
    import pymysql.connections
    import pymysql.cursors

    from mlflowctl.stores.sql import adbc

    for name, kind in (("commit", "commit"), ("execute", "execute"), ("append", "append")):
        counter.wrap(adbc.Connection, name, kind)
    counter.wrap(pymysql.connections.Connection, "commit", "commit")
    counter.wrap(pymysql.cursors.Cursor, "execute", "execute")
    for name in ("replace", "rename", "unlink", "remove", "fsync"):
        counter.wrap(os, name, "file")
    if sys.version_info < (3, 11):
        # There pathlib has taken hold of them already.
        for name in ("replace", "rename", "unlink"):
            counter.wrap(Path, name, "file")


def _child(asked: dict[str, Any], report: int, output: Any) -> None:
    from mlflowctl.cli import main

    os.dup2(output.fileno(), 1)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    _patch(_Counter(asked["kill_at"], asked["calls"], report))
    code = main.run(asked["arguments"])
    sys.stdout.flush()
    os._exit(code)


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                _child(asked, writing, output)
            finally:
                os._exit(99)
        os.close(writing)
        with os.fdopen(reading, "r", encoding="utf-8", errors="replace") as calls:
            seen = calls.read().splitlines()
        _, status = os.waitpid(child, 0)
        output.seek(0)
        text = output.read()
    killed = os.WIFSIGNALED(status)
    return {
        "signal": os.WTERMSIG(status) if killed else None,
        "code": None if killed else os.WEXITSTATUS(status),
        "calls": seen,
        "document": json.loads(text) if text.strip() else None,
    }


def main() -> None:
    """Answer until standard input ends."""
    import adbc_driver_postgresql  # noqa: F401 - imported once for all
    import adbc_driver_sqlite  # noqa: F401
    import pymysql  # noqa: F401

    import mlflowctl.cli.main
    import mlflowctl.migrate.run
    import mlflowctl.stores.sql.mysql
    import mlflowctl.stores.sql.postgresql  # noqa: F401

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
