"""How the tests make a store at a revision, run the child on it, and read it whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mlflowctl import children
from mlflowctl.stores import schema
from mlflowctl.stores.schema import Chain, Dialect
from tests.servers.test_schema_data import make

CHILD = Path(children.__file__).with_name("upgrade.py")
# When a job was canceled by an upgrade.
_NOW = {("jobs", "last_update_time")}


def command_for(
    url: str | sa.URL, to: str, chain: Chain = "tracking", *flags: str, child: Path = CHILD
) -> tuple[list[str], dict[str, str]]:
    """The child's command line and environment."""
    text = url if isinstance(url, str) else url.render_as_string(hide_password=False)
    command = [sys.executable, str(child), "--chain", chain, "--to", to, *flags]
    return command, {**os.environ, "MLFLOWCTL_CHILD_URL": text}


def lift(
    url: str | sa.URL, to: str, chain: Chain = "tracking", *flags: str, child: Path = CHILD
) -> tuple[int, list[dict[str, Any]], str]:
    """Run the child: its exit code, the events on stdout, and stderr."""
    command, environment = command_for(url, to, chain, *flags, child=child)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def finished(events: list[dict[str, Any]]) -> list[str]:
    """The revisions that were told to be done, each of them begun just before."""
    steps = [event for event in events if event["event"] in ("begin", "revision")]
    done = [event["id"] for event in steps if event["event"] == "revision"]
    begun = [event["id"] for event in steps if event["event"] == "begin"]
    assert begun[: len(done)] == done
    assert len(begun) - len(done) in (0, 1)
    return done


def begin_at(engine: sa.Engine, revision: str, chain: Chain = "tracking") -> None:
    """Make a store as the release of that revision left it."""
    dialect: Dialect = engine.dialect.name  # type: ignore[assignment]
    make(engine, schema.schema_at(chain, dialect, revision))
    if revision != schema.BASE:
        table = schema.version_table(chain)
        with engine.begin() as connection:
            connection.exec_driver_sql(
                f"CREATE TABLE {table} (version_num VARCHAR(32) NOT NULL, CONSTRAINT {table}_pkc"
                " PRIMARY KEY (version_num))"
            )
            connection.exec_driver_sql(f"INSERT INTO {table} VALUES ('{revision}')")


def standing(engine: sa.Engine, chain: Chain = "tracking") -> str | None:
    """The revision that the store's version table tells."""
    with engine.connect() as connection:
        if schema.version_table(chain) not in sa.inspect(connection).get_table_names():
            return None
        return connection.exec_driver_sql(f"SELECT version_num FROM {schema.version_table(chain)}").scalar()


def after(revision: str, end: str, chain: Chain = "tracking") -> list[str]:
    """The revisions behind one, up to another."""
    order = [r.id for r in schema.revisions(chain)]
    return order[order.index(revision) + 1 : order.index(end) + 1]


def all_rows(engine: sa.Engine) -> dict[str, list[tuple[str, ...]]]:
    """Every row of every table, in one order; each value as its repr, for NaN equals nothing and 1 equals True."""
    found = {}
    with engine.connect() as connection:
        for name in sa.inspect(connection).get_table_names():
            table = sa.Table(name, sa.MetaData(), autoload_with=connection)
            columns = [c for c in table.c if (name, c.name) not in _NOW]
            # Types are taken off, so that text in a JSON column is seen as it stands.
            plain = [sa.type_coerce(c, sa.types.NullType()).label(c.name) for c in columns]
            found[name] = sorted(tuple(_shown(v) for v in row) for row in connection.execute(sa.select(*plain)))
    return found


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


@contextmanager
def another(database: sa.Engine) -> Iterator[sa.Engine]:
    """A second empty database beside a test's own."""
    if database.dialect.name == "sqlite":
        path = Path(str(database.url.database))
        yield sa.create_engine(f"sqlite:///{path.with_name('other.db')}", poolclass=sa.NullPool)
        return
    name = f"{database.url.database}_b"
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        encoded = " CHARACTER SET utf8mb4" if database.dialect.name == "mysql" else ""
        connection.exec_driver_sql(f"CREATE DATABASE {name}{encoded}")
        try:
            yield sa.create_engine(database.url.set(database=name), poolclass=sa.NullPool)
        finally:
            connection.exec_driver_sql(f"DROP DATABASE {name}")
