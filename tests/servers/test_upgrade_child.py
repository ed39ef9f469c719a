"""The child that runs MLflow's own upgrade scripts, on databases made from the schema data."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from itertools import accumulate
from pathlib import Path

import pytest
import sqlalchemy as sa

from mlflowctl.stores import schema
from tests.servers.awkward import fill_metrics, fill_traces
from tests.servers.lifting import after, all_rows, another, begin_at, command_for, finished, lift, standing
from tests.servers.test_schema_data import HEAD, SERVERS, database, make, pooled, read, shipped

__all__ = ["database"]

# Each starts MLflow at least once.
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("revision", ["base", "90e64c465722", "97727af70f4d", "0584bdc529eb"])
@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_a_store_of_an_old_release_ends_at_the_schema_of_the_newest(database: sa.Engine, revision: str) -> None:
    begin_at(database, revision)
    code, events, _ = lift(database.url, HEAD["tracking"])
    assert code == 0, events
    assert {event["event"] for event in events} == {"begin", "revision"}
    assert finished(events) == after(revision, HEAD["tracking"])
    assert all(event["seconds"] >= 0 for event in events if event["event"] == "revision")
    atomic = {event["atomic"] for event in events if event["event"] == "begin"}
    assert atomic == {database.dialect.name != "mysql"}
    assert standing(database) == HEAD["tracking"]
    assert read(database, "tracking") == pooled(shipped("tracking", database.dialect.name), HEAD["tracking"])


def test_it_stops_where_it_is_told_and_does_nothing_twice(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/x.db", poolclass=sa.NullPool)
    begin_at(engine, "0584bdc529eb")
    code, events, _ = lift(engine.url, "770bee3ae1dd")
    assert (code, finished(events)) == (0, after("0584bdc529eb", "770bee3ae1dd"))
    assert read(engine, "tracking") == pooled(shipped("tracking", "sqlite"), "770bee3ae1dd")
    assert lift(engine.url, "770bee3ae1dd")[:2] == (0, [])
    assert standing(engine) == "770bee3ae1dd"


@pytest.mark.parametrize("database", [d for d in SERVERS if "mysql" not in str(d)], indirect=True)
def test_it_ends_with_the_parent_that_held_its_input(database: sa.Engine) -> None:
    """Else the upgrade of a killed run would go on while the next one is at work."""
    begin_at(database, "97727af70f4d")
    command, environment = command_for(database.url, HEAD["tracking"], "tracking", "--while-stdin")
    child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    assert json.loads(child.stdout.readline())["event"] == "begin"
    child.stdin.close()
    assert child.wait(60) == 1
    child.stdout.close()
    reached = standing(database)
    assert reached != HEAD["tracking"]
    code, events, _ = lift(database.url, HEAD["tracking"])
    assert (code, finished(events)) == (0, after(str(reached), HEAD["tracking"]))
    assert read(database, "tracking") == pooled(shipped("tracking", database.dialect.name), HEAD["tracking"])


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
    assert finished(events) == after(revision, HEAD["auth"], "auth")
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
    assert [event["event"] for event in events] == ["begin", "error"]
    assert events[1]["id"] == events[0]["id"] == "75868b020152"
    assert "span_metrics" in events[1]["message"]
    assert events[1]["kind"]
    assert standing(database) == "b7e2c1a4d9f3"
    if events[0]["atomic"]:
        # One transaction: nothing of the revision is left, so that it can simply be run again.
        left = read(database, "tracking")
        before = pooled(shipped("tracking", database.dialect.name), "b7e2c1a4d9f3")
        assert left == {name: table for name, table in before.items() if name != "span_metrics"}


@pytest.mark.parametrize("database", SERVERS[:2], indirect=True)
def test_a_failure_keeps_the_revisions_before_it_and_the_same_call_carries_on(database: sa.Engine) -> None:
    begin_at(database, "1971f2d9a75b")
    fill_traces(database, traces=30)
    with database.begin() as connection:
        connection.exec_driver_sql("DROP TABLE span_metrics")
    code, events, _ = lift(database.url, HEAD["tracking"])
    assert (code, finished(events)) == (1, after("1971f2d9a75b", "b7e2c1a4d9f3"))
    assert standing(database) == "b7e2c1a4d9f3"
    with database.begin() as connection:
        again = schema.schema_at("tracking", database.dialect.name, "b7e2c1a4d9f3").tables["span_metrics"]  # type: ignore[arg-type]
        for statement in (*again.create, *again.finish, *again.link):
            connection.exec_driver_sql(statement)
    code, events, _ = lift(database.url, HEAD["tracking"])
    assert (code, finished(events)) == (0, after("b7e2c1a4d9f3", HEAD["tracking"]))
    assert read(database, "tracking") == pooled(shipped("tracking", database.dialect.name), HEAD["tracking"])


# -- kills -----------------------------------------------------------------------------------------------------------


def kill_at(url: sa.URL, revision: str, seconds: float) -> bool:
    """Start the child and end it with SIGKILL so long after a revision was begun; False when it had ended before."""
    command, environment = command_for(url, HEAD["tracking"])
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        event = json.loads(line)
        if event["event"] == "begin" and event["id"] == revision:
            time.sleep(seconds)
            break
    child.send_signal(signal.SIGKILL)
    child.communicate()
    return child.returncode == -signal.SIGKILL


def settled(engine: sa.Engine) -> None:
    """Wait until the server has noticed that its client is gone."""
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            others = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            deadline = time.monotonic() + 60
            while connection.exec_driver_sql(others).scalar():
                assert time.monotonic() < deadline, "the killed child's session does not end"
                # Within one transaction the server answers as it did the first time.
                connection.rollback()
                time.sleep(0.01)


@pytest.mark.parametrize(
    ("start", "seed", "kills"),
    [("c8d9e0f1a2b3", 2, 4), pytest.param("base", 1, 8, marks=(pytest.mark.wide, pytest.mark.slow))],
)
@pytest.mark.parametrize("database", SERVERS[:2], indirect=True)
def test_killed_at_any_instant_it_stands_at_one_revision_and_carries_on(
    database: sa.Engine, start: str, seed: int, kills: int
) -> None:
    dialect = database.dialect.name
    fill = _fill_base if start == "base" else _fill_both
    definitions = shipped("tracking", dialect)
    with another(database) as undisturbed:
        begin_at(undisturbed, start)
        fill(undisturbed)
        code, events, _ = lift(undisturbed.url, HEAD["tracking"])
        assert code == 0, events
        expected = all_rows(undisturbed)
    times = {event["id"]: event["seconds"] for event in events if event["event"] == "revision"}
    begin_at(database, start)
    fill(database)
    randomly = random.Random(seed)
    killed = 0
    for turn in range(kills):
        here = standing(database) or "base"
        left = after(here, HEAD["tracking"])
        if not left:
            break
        # An instant among those that remain, evenly in time, so that the last kills come near the end.
        instant = randomly.random() * sum(times[r] for r in left) / (kills - turn)
        ends = list(accumulate(times[r] for r in left))
        place = next(i for i, end in enumerate(ends) if end >= instant)
        killed += kill_at(database.url, left[place], instant - (ends[place - 1] if place else 0))
        settled(database)
        now = standing(database) or "base"
        assert now in [here, *left]
        assert read(database, "tracking") == pooled(definitions, now), now
    assert killed >= kills // 2
    code, events, _ = lift(database.url, HEAD["tracking"])
    assert code == 0, events
    assert all_rows(database) == expected
    assert read(database, "tracking") == pooled(definitions, HEAD["tracking"])


def _fill_base(engine: sa.Engine) -> None:
    """Enough metrics that rewriting them takes a while."""
    with engine.begin() as connection:
        metrics, runs = (sa.Table(n, sa.MetaData(), autoload_with=connection) for n in ("metrics", "runs"))
        names = [f"{number:032x}" for number in range(20)]
        connection.execute(
            runs.insert(),
            [{"run_uuid": n, "user_id": "ann", "status": "FINISHED", "lifecycle_stage": "active"} for n in names],
        )
        points = [
            {"run_uuid": run, "key": f"m{point % 10}", "timestamp": point, "value": point / 7}
            for run in names
            for point in range(1500)
        ]
        connection.execute(metrics.insert(), points)


def _fill_both(engine: sa.Engine) -> None:
    fill_traces(engine, traces=1500)
    fill_metrics(engine)


def test_a_child_that_is_killed_within_one_transaction_of_many_statements(tmp_path: Path) -> None:
    """SQLite alone, at every statement of one revision: that is what its own transactions did not survive."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/x.db", poolclass=sa.NullPool)
    begin_at(engine, "7ac759974ad8")
    fill_metrics(engine)
    before = all_rows(engine)
    definitions = shipped("tracking", "sqlite")
    for statements in range(1, 200):
        command, environment = command_for(engine.url, "89d4b8295536")
        done = subprocess.run(
            [command[0], "-c", _DIES, str(statements), *command[1:]], env=environment, capture_output=True
        )
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert standing(engine) == "7ac759974ad8"
        assert read(engine, "tracking") == pooled(definitions, "7ac759974ad8")
        assert all_rows(engine) == before
    assert statements > 6
    assert standing(engine) == "89d4b8295536"
    assert read(engine, "tracking") == pooled(definitions, "89d4b8295536")


# Runs the child, which kills itself before its Nth statement.
_DIES = """
import os, runpy, signal, sys
from sqlalchemy import Engine, event
left = int(sys.argv[1])
@event.listens_for(Engine, "before_cursor_execute")
def count(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_revision_that_the_scripts_do_not_have_is_an_error(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/x.db", poolclass=sa.NullPool)
    begin_at(engine, HEAD["tracking"])
    code, events, _ = lift(engine.url, "ffffffffffff")
    assert (code, [event["event"] for event in events]) == (1, ["error"])
    assert events[0]["id"] is None
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
