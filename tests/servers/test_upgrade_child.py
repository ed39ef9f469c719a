"""The child that runs MLflow's own upgrade scripts, on databases made from the schema data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from mlflowctl import children
from mlflowctl.stores import schema
from mlflowctl.stores.schema import Chain, Dialect
from tests.servers.test_schema_data import HEAD, SERVERS, database, make, pooled, read, shipped

__all__ = ["database"]

# Each starts MLflow at least once.
pytestmark = pytest.mark.slow

CHILD = Path(children.__file__).with_name("upgrade.py")


def lift(url: str | sa.URL, to: str, chain: Chain = "tracking") -> tuple[int, list[dict[str, Any]], str]:
    """Run the child: its exit code, the events on stdout, and stderr."""
    text = url if isinstance(url, str) else url.render_as_string(hide_password=False)
    done = subprocess.run(
        [sys.executable, str(CHILD), "--chain", chain, "--to", to],
        env={**os.environ, "MLFLOWCTL_CHILD_URL": text},
        capture_output=True,
        text=True,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


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
    with engine.connect() as connection:
        if schema.version_table(chain) not in sa.inspect(connection).get_table_names():
            return None
        return connection.exec_driver_sql(f"SELECT version_num FROM {schema.version_table(chain)}").scalar()


def after(revision: str, end: str, chain: Chain = "tracking") -> list[str]:
    order = [r.id for r in schema.revisions(chain)]
    return order[order.index(revision) + 1 : order.index(end) + 1]


@pytest.mark.parametrize("revision", ["base", "90e64c465722", "97727af70f4d", "0584bdc529eb"])
@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_a_store_of_an_old_release_ends_at_the_schema_of_the_newest(database: sa.Engine, revision: str) -> None:
    begin_at(database, revision)
    code, events, _ = lift(database.url, HEAD["tracking"])
    assert code == 0, events
    assert [event["event"] for event in events] == ["revision"] * len(events)
    assert [event["id"] for event in events] == after(revision, HEAD["tracking"])
    assert all(event["seconds"] >= 0 for event in events)
    assert standing(database) == HEAD["tracking"]
    assert read(database, "tracking") == pooled(shipped("tracking", database.dialect.name), HEAD["tracking"])


def test_it_stops_where_it_is_told_and_does_nothing_twice(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/x.db", poolclass=sa.NullPool)
    begin_at(engine, "0584bdc529eb")
    code, events, _ = lift(engine.url, "770bee3ae1dd")
    assert (code, [event["id"] for event in events]) == (0, after("0584bdc529eb", "770bee3ae1dd"))
    assert read(engine, "tracking") == pooled(shipped("tracking", "sqlite"), "770bee3ae1dd")
    assert lift(engine.url, "770bee3ae1dd")[:2] == (0, [])
    assert standing(engine) == "770bee3ae1dd"


def test_rows_are_lifted_with_the_tables(tmp_path: Path) -> None:
    """From 0.9: the user becomes a tag, the last point of a metric stands in latest_metrics."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/x.db", poolclass=sa.NullPool)
    begin_at(engine, "base")
    with engine.begin() as connection:
        for statement in (
            "INSERT INTO experiments VALUES (0, 'Default', '/a', 'active')",
            "INSERT INTO runs (run_uuid, experiment_id, user_id, status, lifecycle_stage)"
            " VALUES ('r', 0, 'ann', 'FINISHED', 'active')",
            "INSERT INTO metrics (key, value, timestamp, run_uuid) VALUES ('m', 1.5, 1, 'r'), ('m', 0.1, 2, 'r')",
        ):
            connection.exec_driver_sql(statement)
    code, events, _ = lift(engine.url, HEAD["tracking"])
    assert code == 0, events
    with engine.connect() as connection:
        tags = connection.exec_driver_sql("SELECT key, value, run_uuid FROM tags").fetchall()
        latest = connection.exec_driver_sql("SELECT key, value, timestamp, step, is_nan FROM latest_metrics").fetchall()
        workspaces = connection.exec_driver_sql("SELECT name FROM workspaces").fetchall()
    assert tags == [("mlflow.user", "ann", "r")]
    assert latest == [("m", 0.1, 2, 0, 0)]
    assert workspaces == [("default",)]


@pytest.mark.parametrize("revision", ["8606fa83a998", "a1b2c3d4e5f6"])
@pytest.mark.parametrize("database", SERVERS[:2], indirect=True)
def test_the_auth_chain_is_lifted_too(database: sa.Engine, revision: str) -> None:
    begin_at(database, revision, "auth")
    code, events, _ = lift(database.url, HEAD["auth"], "auth")
    assert code == 0, events
    assert [event["id"] for event in events] == after(revision, HEAD["auth"], "auth")
    assert standing(database, "auth") == HEAD["auth"]
    assert read(database, "auth") == pooled(shipped("auth", database.dialect.name), HEAD["auth"])


def test_an_auth_store_from_before_version_tables_is_at_its_first_revision(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/auth.db", poolclass=sa.NullPool)
    make(engine, schema.schema_at("auth", "sqlite", "8606fa83a998"))
    code, events, _ = lift(engine.url, HEAD["auth"], "auth")
    assert code == 0, events
    assert read(engine, "auth") == pooled(shipped("auth", "sqlite"), HEAD["auth"])


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_a_script_that_fails_is_one_event_and_exit_1(database: sa.Engine) -> None:
    """The script 75868b020152 refuses an assessment without its trace; here it finds no table at all."""
    begin_at(database, "b7e2c1a4d9f3")
    with database.begin() as connection:
        connection.exec_driver_sql("DROP TABLE span_metrics")
    code, events, _ = lift(database.url, HEAD["tracking"])
    assert code == 1
    assert [event["event"] for event in events] == ["error"]
    assert "span_metrics" in events[0]["message"]
    assert events[0]["kind"]
    assert standing(database) == "b7e2c1a4d9f3"
    if database.dialect.name == "postgresql":
        # One transaction: nothing of the upgrade is left, so that it can simply be run again.
        left = read(database, "tracking")
        before = pooled(shipped("tracking", "postgresql"), "b7e2c1a4d9f3")
        assert left == {name: table for name, table in before.items() if name != "span_metrics"}


@pytest.mark.postgres
def test_a_failure_on_postgresql_takes_back_the_revisions_before_it(postgres_url: str) -> None:
    engine = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    begin_at(engine, "1971f2d9a75b")
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE span_metrics")
    code, events, _ = lift(engine.url, HEAD["tracking"])
    assert code == 1
    assert [event["event"] for event in events] == ["revision", "revision", "error"]
    assert standing(engine) == "1971f2d9a75b"


def test_a_revision_that_the_scripts_do_not_have_is_an_error(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/x.db", poolclass=sa.NullPool)
    begin_at(engine, HEAD["tracking"])
    code, events, _ = lift(engine.url, "ffffffffffff")
    assert (code, [event["event"] for event in events]) == (1, ["error"])
    assert "ffffffffffff" in events[0]["message"]
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'eeeeeeeeeeee'")
    code, events, _ = lift(engine.url, HEAD["tracking"])
    assert (code, [event["event"] for event in events]) == (1, ["error"])
    assert "eeeeeeeeeeee" in events[0]["message"]


@pytest.mark.parametrize("url", ["postgresql+psycopg://ann:s3cr%40t@127.0.0.1:1/db", "nonsense://ann:s3cr%40t@h/db"])
def test_no_password_is_told(url: str) -> None:
    code, events, words = lift(url, HEAD["tracking"])
    assert code == 1
    assert events[-1]["event"] == "error"
    for secret in ("s3cr%40t", "s3cr@t"):
        assert secret not in json.dumps(events) + words


@pytest.mark.postgres
def test_the_schema_that_the_url_names_is_lifted_and_no_other(postgres_url: str) -> None:
    plain = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    with plain.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA elsewhere")
    url = f"{postgres_url}&options=-csearch_path%3Delsewhere"
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    begin_at(engine, "97727af70f4d")
    code, events, _ = lift(url, HEAD["tracking"])
    assert code == 0, events
    assert read(engine, "tracking") == pooled(shipped("tracking", "postgresql"), HEAD["tracking"])
    with plain.connect() as connection:
        assert sa.inspect(connection).get_table_names() == []
