"""A source in use: a real MLflow server writes to it during the whole migration."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.faults.killer import Process, run
from tests.faults.servers import Places
from tests.faults.sources import make_source
from tests.servers.test_golden import _server

pytestmark = [pytest.mark.slow, pytest.mark.server]

METRICS = 150_000


class Training:
    """A client that goes on creating runs and logging to them, until it is told to stop.

    Each step is logged as a metric first and as the tag ``at`` after that, so that at any instant the tag of a run is
    as far as its metric, or one step behind.
    """

    def __init__(self, url: str) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=url, registry_uri=url)
        self._stop = threading.Event()
        self._grown = threading.Condition()
        self._thread = threading.Thread(target=self._train, name="training")
        self.errors: list[Exception] = []
        self.runs: list[str] = []
        self.steps = 0
        self.experiment = self._client.create_experiment("in use")

    def _train(self) -> None:
        try:
            while not self._stop.is_set():
                self._one_run()
        except Exception as bad:  # noqa: BLE001 - whatever it is, the test is told
            self.errors.append(bad)
        finally:
            with self._grown:
                self._grown.notify_all()

    def _one_run(self) -> None:
        run_id = self._client.create_run(self.experiment, tags={"made": "live"}).info.run_id
        self.runs.append(run_id)
        self._client.log_param(run_id, "lr", 0.1)
        for step in range(1, 21):
            self._client.log_metric(run_id, "loss", 1 / step, timestamp=1_700_000_000_000 + step, step=step)
            self._client.set_tag(run_id, "at", str(step))
            with self._grown:
                self.steps += 1
                self._grown.notify_all()
            if self._stop.is_set():
                break
        self._client.set_terminated(run_id)

    def wait_for(self, more: int) -> None:
        """Until so many further steps have been logged."""
        with self._grown:
            end = self.steps + more
            assert self._grown.wait_for(lambda: self.steps >= end or self.errors, 120), self.steps
        assert self.errors == []

    def __enter__(self) -> Training:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(60)


@contextmanager
def _in_use(url: str, folder: Path) -> Iterator[Training]:
    with _server(url, folder) as address, Training(address) as training:
        training.wait_for(5)
        yield training


def _orphans(connection: sa.Connection) -> list[str]:
    """Foreign keys with a row whose parent is missing."""
    found = []
    inspector = sa.inspect(connection)
    links = 0
    for table in inspector.get_table_names():
        for link in inspector.get_foreign_keys(table):
            links += 1
            child, parent = sa.table(table), sa.table(link["referred_table"])
            own = [sa.column(c, _selectable=child) for c in link["constrained_columns"]]
            other = [sa.column(c, _selectable=parent) for c in link["referred_columns"]]
            matches = sa.exists(sa.select(sa.literal(1)).select_from(parent).where(*map(_equal, own, other)))
            count = sa.select(sa.func.count()).select_from(child).where(*(c.is_not(None) for c in own), ~matches)
            if rows := connection.execute(count).scalar():
                found.append(f"{table}{link['constrained_columns']}: {rows} rows")
    assert links > 30
    return found


def _equal(left: Any, right: Any) -> Any:
    return left == right


def _consistent(url: str, training: Training, least: int) -> int:
    """The target shows one instant; how many steps it holds."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        assert _orphans(connection) == []

        def ask(sql: str, **values: Any) -> list[Any]:
            return list(connection.execute(sa.text(sql), values))

        key = "`key`" if url.startswith("mysql") else "key"
        # By the runs, for the experiment may have got another ID.
        made = set(training.runs)
        there = [r[0] for r in ask("SELECT run_uuid FROM runs") if r[0] in made]
        # In the order in which they were made, and none left out between.
        assert set(there) == set(training.runs[: len(there)])
        steps = 0
        for run_id in there:
            points = ask(
                f"SELECT step, value FROM metrics WHERE run_uuid = :r AND {key} = 'loss' ORDER BY step", r=run_id
            )
            assert [(step, value) for step, value in points] == [(n, 1 / n) for n in range(1, len(points) + 1)]
            latest = ask(f"SELECT step, value FROM latest_metrics WHERE run_uuid = :r AND {key} = 'loss'", r=run_id)
            assert [tuple(row) for row in latest] == [tuple(row) for row in points[-1:]]
            tag = ask(f"SELECT value FROM tags WHERE run_uuid = :r AND {key} = 'at'", r=run_id)
            assert len(points) - (int(tag[0][0]) if tag else 0) in (0, 1)
            steps += len(points)
    engine.dispose()
    assert steps >= least
    return steps


@pytest.mark.parametrize(
    ("kind", "target_kind"),
    [
        ("sqlite", "sqlite"),
        pytest.param("sqlite", "postgresql", marks=pytest.mark.postgres),
        pytest.param("postgresql", "sqlite", marks=pytest.mark.postgres),
        pytest.param("mysql", "sqlite", marks=pytest.mark.mysql),
    ],
)
def test_a_source_in_use_arrives_as_it_was_at_one_instant(
    kind: str, target_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    places = Places(tmp_path / "targets")
    if "postgresql" in (kind, target_kind):
        places.postgres = request.getfixturevalue("postgres_server")
    if "mysql" in (kind, target_kind):
        places.mysql = request.getfixturevalue("mysql_server")
    source = places.new(kind)
    _fill(source, tmp_path)
    target = places.new(target_kind)
    with _in_use(source, tmp_path) as training:
        before = training.steps
        with Process(["migrate", "--from", source, "--to", target], tmp_path) as process:
            assert process.wait_for_phase("copy")
            started = training.steps
            ended = process.end()
        during = training.steps - started
        # Go on: what comes now is not in the target.
        training.wait_for(30)
    assert training.errors == []
    assert ended.code == 0, ended.said()
    assert ended.document is not None
    assert ended.document["status"] == "verified"
    assert ended.document["source"]["snapshot"] == "single"
    assert during > 0, "the training did nothing while the rows were copied"
    assert before <= _consistent(target, training, before) <= training.steps - 30 + 1

    verified = run(["migrate", "verify", "--from", source, "--to", target], tmp_path)
    assert verified.code == 11, verified.said()
    document = verified.document
    assert document is not None
    assert document["error"] is None
    assert document["equal"] is False
    assert {d["kind"] for d in document["differences"]} <= {"missing", "changed"}
    missing = [d for d in document["differences"] if d["kind"] == "missing" and d["table"] == "metrics"]
    assert len(missing) >= 29
    # What was changed is only what a later step changes: the latest value, the tag, the end of the run at hand.
    assert {d["table"] for d in document["differences"] if d["kind"] == "changed"} <= {"latest_metrics", "tags", "runs"}

    again = run(["migrate", "--from", source, "--to", target], tmp_path)
    assert (again.code, again.error.get("kind")) == (5, "source_changed"), again.said()


def _fill(source: str, folder: Path) -> None:
    """A store at the head: real objects of the sample, and metrics enough that the copy lasts."""
    sample = make_source(folder, "folder")
    store = folder / "filled.db"
    filled = run(["migrate", "--from", sample, "--to", f"sqlite:///{store}"], folder)
    assert filled.code == 0, filled.said()
    _add_metrics(store)
    if source.startswith("sqlite"):
        place = Path(source.split("///")[1])
        shutil.copyfile(store, place)
        with closing(sqlite3.connect(place)) as connection:
            assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
            connection.execute("DROP TABLE mlflowctl_migrations")
            connection.commit()
    else:
        moved = run(["migrate", "--from", f"sqlite:///{store}", "--to", source], folder)
        assert moved.code == 0, moved.said()


def _add_metrics(store: Path) -> None:
    from tests.faults.sources import add_metrics

    add_metrics(store, METRICS)


@pytest.mark.postgres
def test_a_server_may_be_stopped_in_the_middle(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The last moments of an old server: killed while its store is copied; what it had committed arrives."""
    places = Places(tmp_path / "targets", request.getfixturevalue("postgres_server"))
    source, target = places.new("postgresql"), places.new("sqlite")
    _fill(source, tmp_path)
    script = tmp_path / "writer.py"
    script.write_text(
        "import sys, uuid\n"
        "import psycopg\n"
        "with psycopg.connect(sys.argv[1], autocommit=True) as c:\n"
        "    run = c.execute('SELECT run_uuid FROM runs LIMIT 1').fetchone()[0]\n"
        "    n = 0\n"
        "    while True:\n"
        "        n += 1\n"
        "        c.execute('INSERT INTO params (key, value, run_uuid) VALUES (%s, %s, %s)', (f'p{n}', 'v', run))\n"
        "        print(n, flush=True)\n"
    )
    url = source.replace("+psycopg", "")
    writer = subprocess.Popen([sys.executable, str(script), url], stdout=subprocess.PIPE, text=True, env={**os.environ})
    assert writer.stdout is not None
    try:
        assert writer.stdout.readline() == "1\n"
        with Process(["migrate", "--from", source, "--to", target], tmp_path) as process:
            assert process.wait_for_phase("copy")
            writer.kill()
            ended = process.end()
    finally:
        writer.kill()
        writer.wait(30)
        written = writer.stdout.read().splitlines()
        writer.stdout.close()
    assert ended.code == 0, ended.said()
    engine = sa.create_engine(target)
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT count(*) FROM params WHERE key LIKE 'p%' AND value = 'v'")).scalar()
    engine.dispose()
    assert rows is not None
    assert 1 <= rows <= len(written) + 2
