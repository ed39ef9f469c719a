"""``migrate status`` and ``migrate abort`` as README's page has them: in a script, where nobody can be asked."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_bad_input import HEAD, check, run
from tests.generate import make_store

TARGET = ("--to", "sqlite:///mlflow.db")


@pytest.fixture
def dirty(tmp_path: Path) -> Path:
    source = tmp_path / "old.db"
    make_store(source, HEAD, rows=4)
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("UPDATE metrics SET step = 'seven' WHERE key = 'key-0'")
    return source


def migrate(source: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    return run("migrate", "--from", f"sqlite:///{source}", *TARGET, *more, cwd=source.parent)


def stand(word: str, folder: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    return run("migrate", word, *TARGET, *more, cwd=folder)


def test_an_unfinished_migration_is_told_and_removed(dirty: Path) -> None:
    folder = dirty.parent
    check(migrate(dirty), 4, "bad_rows")
    code, document, _ = stand("status", folder)
    assert (code, document["status"]) == (0, "unfinished")
    assert document["owner"]["pid"] > 0
    code, document, _ = stand("abort", folder)
    assert (code, document["status"]) == (0, "aborted")
    assert list(folder.glob("mlflow.db*")) == []
    assert stand("status", folder)[1]["status"] == "empty"
    code, document, _ = stand("abort", folder)
    assert (code, document["status"], document["removed"]) == (0, "nothing", [])


def test_a_finished_target_is_kept(dirty: Path) -> None:
    folder = dirty.parent
    assert migrate(dirty, "--on-bad-row", "skip")[1]["status"] == "verified"
    assert stand("status", folder)[1]["status"] == "complete"
    code, document, _ = stand("abort", folder)
    assert (code, document["error"]["kind"], document["removed"]) == (2, "complete", [])
    code, document, _ = stand("abort", folder, "--forget")
    assert (code, document["status"]) == (0, "forgotten")
    assert stand("status", folder)[1]["status"] == "foreign"
    code, document, _ = stand("abort", folder)
    assert (code, document["status"], document["removed"]) == (0, "nothing", [])
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (4,)
