"""What replaces parts of MLflow's upgrade scripts gives, row for row, what MLflow's own scripts give."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from mlflowctl import children
from mlflowctl.stores import schema
from mlflowctl.stores.schema import Chain
from tests.engine import run_migrate, run_verify
from tests.generate import make_store
from tests.servers.awkward import fill_metrics, fill_permissions, fill_traces, fill_users
from tests.servers.lifting import CHILD, after, all_rows, another, begin_at, finished, lift, standing
from tests.servers.test_schema_data import HEAD, SERVERS, database, read
from tests.stores.golden import GOLDEN, GoldenStore, auth_database, each, unpack

__all__ = ["database"]

# Each starts MLflow at least once.
pytestmark = pytest.mark.slow

EQUIVALENTS = Path(children.__file__).with_name("equivalents.py")


def both(database: sa.Engine, start: str, end: str, fill: Any, chain: Chain = "tracking") -> dict[str, list[Any]]:
    """Lift the same rows by MLflow's own scripts and by the equivalents; the rows, which must be the same."""
    found = []
    with another(database) as other:
        for engine, flags in ((database, ["--own-scripts-only"]), (other, [])):
            begin_at(engine, start, chain)
            fill(engine)
            code, events, words = lift(engine.url, end, chain, *flags)
            assert code == 0, (events, words)
            assert finished(events) == after(start, end, chain)
            by = {event["by"] for event in events if event["event"] == "begin"}
            assert by == ({"mlflow"} if flags else {"equivalent"})
            found.append((all_rows(engine), read(engine, chain)))
    for table, rows in found[0][0].items():
        assert found[1][0][table] == rows, table
    assert found[1] == found[0]
    return found[0][0]


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_users_become_tags_where_mlflow_makes_them(database: sa.Engine) -> None:
    rows = both(database, "451aebb31d03", "90e64c465722", fill_users)
    # MLflow's script sees the first run of each of the five experiments; two have no user, one has a tag of its own.
    made = [(run, value) for key, value, run in rows["tags"] if key == "mlflow.user" and value not in ("tagged", "own")]
    assert sorted(made) == [(f"{0:032x}", "ann"), (f"{4:032x}", " ")]


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_the_latest_point_of_each_metric(database: sa.Engine) -> None:
    rows = both(database, "7ac759974ad8", "89d4b8295536", fill_metrics)
    assert len(rows["latest_metrics"]) == len({(r[0], r[3]) for r in rows["metrics"]}) > 100


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_of_a_nan_and_a_number_at_one_instant_the_greater_value_stays(database: sa.Engine) -> None:
    """MLflow's own script fails on such rows, which its releases before 1.3 wrote."""
    begin_at(database, "7ac759974ad8")
    with database.begin() as connection:
        table = sa.Table("metrics", sa.MetaData(), autoload_with=connection)
        runs = sa.Table("runs", sa.MetaData(), autoload_with=connection)
        connection.execute(runs.insert(), [{"run_uuid": "r", "status": "FINISHED", "lifecycle_stage": "active"}])
        points = [("above", 1.0, False), ("above", 0.0, True), ("below", -1.0, False), ("below", 0.0, True)]
        points += [("zero", 0.0, False), ("zero", 0.0, True)]
        connection.execute(
            table.insert(),
            [{"key": k, "value": v, "is_nan": n, "timestamp": 1, "step": 0, "run_uuid": "r"} for k, v, n in points],
        )
    code, events, _ = lift(database.url, "89d4b8295536", "tracking", "--own-scripts-only")
    assert (code, events[-1]["event"], events[-1]["id"]) == (1, "error", "89d4b8295536")
    if database.dialect.name == "mysql":
        # What the failed script had made is there to stay.
        with database.begin() as connection:
            connection.exec_driver_sql("DROP TABLE latest_metrics")
    assert lift(database.url, "89d4b8295536")[0] == 0
    with database.connect() as connection:
        latest = sa.Table("latest_metrics", sa.MetaData(), autoload_with=connection)
        rows = connection.execute(sa.select(latest.c.key, latest.c.value, latest.c.is_nan)).all()
    assert sorted((k, v, bool(n)) for k, v, n in rows) == [
        ("above", 1.0, False),
        ("below", 0.0, True),
        ("zero", 0.0, False),
    ]


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_trace_analytics(database: sa.Engine) -> None:
    rows = both(database, "b7e2c1a4d9f3", "75868b020152", fill_traces)
    # More than a page of each, and awkward ones among them.
    assert len(rows["trace_info"]) > 2000
    assert len(rows["spans"]) > 2000
    assert len(rows["assessments"]) > 1000


@pytest.mark.parametrize("database", SERVERS[:2], indirect=True)
def test_permissions_become_the_same_roles_with_the_same_numbers(database: sa.Engine) -> None:
    rows = both(database, "c3d4e5f6a7b8", "e5f6a7b8c9d0", fill_permissions, "auth")
    assert len(rows["roles"]) > 30
    assert len(rows["role_permissions"]) > 2000


def _orphan_span(connection: sa.Connection) -> None:
    connection.exec_driver_sql("DELETE FROM trace_info WHERE request_id = 'tr-00007'")


def _strange_dimension(connection: sa.Connection) -> None:
    spans = sa.Table("spans", sa.MetaData(), autoload_with=connection)
    where = spans.c.trace_id == sa.select(sa.func.min(spans.c.trace_id)).scalar_subquery()
    connection.execute(spans.update().where(where).values(dimension_attributes={"mlflow.other": "x"}))


@pytest.mark.parametrize("harm", [_orphan_span, _strange_dimension])
def test_what_mlflow_refuses_is_refused_in_the_same_words(tmp_path: Path, harm: Any) -> None:
    said = []
    for flags in (["--own-scripts-only"], []):
        engine = sa.create_engine(f"sqlite:///{tmp_path}/{len(flags)}.db", poolclass=sa.NullPool)
        begin_at(engine, "b7e2c1a4d9f3")
        fill_traces(engine, traces=20)
        with engine.begin() as connection:
            harm(connection)
        before = all_rows(engine), read(engine, "tracking")
        code, events, _ = lift(engine.url, "75868b020152", "tracking", *flags)
        assert code == 1
        said.append((events[-1]["kind"], events[-1]["message"]))
        assert (all_rows(engine), read(engine, "tracking")) == before
        assert standing(engine) == "b7e2c1a4d9f3"
    assert said[0] == said[1]


@pytest.mark.parametrize("database", SERVERS[:2], indirect=True)
def test_a_role_of_the_reserved_name_is_refused_in_the_same_words(database: sa.Engine) -> None:
    said = []
    with another(database) as other:
        for engine, flags in ((database, ["--own-scripts-only"]), (other, [])):
            begin_at(engine, "c3d4e5f6a7b8", "auth")
            fill_permissions(engine)
            with engine.begin() as connection:
                connection.exec_driver_sql(
                    "INSERT INTO roles (id, name, workspace) VALUES (900, '__user_3__', 'default')"
                )
                connection.exec_driver_sql("INSERT INTO user_role_assignments (user_id, role_id) VALUES (4, 900)")
            code, events, _ = lift(engine.url, "e5f6a7b8c9d0", "auth", *flags)
            assert (code, events[-1]["event"]) == (1, "error")
            said.append((events[-1]["kind"], events[-1]["message"]))
    assert said[0] == said[1]


@pytest.mark.golden
@pytest.mark.parametrize(
    "store",
    each(
        [s for s in GOLDEN if s.kind == "sqlite"],
        always=("0.9.1-sqlite", "1.20.2-sqlite", "2.3.2-sqlite", "2.22.5-sqlite", "3.6.0-sqlite"),
    ),
)
def test_golden_stores_are_lifted_alike(store: GoldenStore, tmp_path: Path) -> None:
    databases: list[tuple[Chain, Path | None]] = [
        ("tracking", unpack(store, tmp_path)),
        ("auth", auth_database(store, tmp_path)),
    ]
    for chain, source in databases:
        if source is not None:
            by_mlflow, by_ours = _lifted(source, chain, tmp_path)
            assert by_mlflow == by_ours


@pytest.mark.parametrize("revision", ["base", "7ac759974ad8", "c8d9e0f1a2b3", "b7e2c1a4d9f3"])
def test_generated_stores_are_lifted_alike(revision: str, tmp_path: Path) -> None:
    make_store(tmp_path / "made.db", revision, rows=40)
    with sa.create_engine(f"sqlite:///{tmp_path}/made.db", poolclass=sa.NullPool).begin() as connection:
        # What MLflow's own script refuses, as the generator does not know it.
        if revision in ("c8d9e0f1a2b3", "b7e2c1a4d9f3"):
            connection.exec_driver_sql('UPDATE spans SET dimension_attributes = \'{"mlflow.llm.model": "m"}\'')
    by_mlflow, by_ours = _lifted(tmp_path / "made.db", "tracking", tmp_path)
    assert by_mlflow == by_ours


def _lifted(source: Path, chain: Chain, folder: Path) -> list[Any]:
    """Rows and schema at the head, by MLflow's own scripts alone and with the equivalents."""
    found = []
    for number, flags in enumerate((["--own-scripts-only"], [])):
        copy = folder / f"{chain}-{number}.db"
        shutil.copyfile(source, copy)
        engine = sa.create_engine(f"sqlite:///{copy}", poolclass=sa.NullPool)
        code, events, _ = lift(engine.url, HEAD[chain], chain, *flags)
        assert code == 0, events
        assert standing(engine, chain) == HEAD[chain]
        found.append((all_rows(engine), read(engine, chain)))
    return found


# -- the proof -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "fill", "tables"),
    [
        ("451aebb31d03", fill_users, {"tags"}),
        ("7ac759974ad8", fill_metrics, {"latest_metrics"}),
        ("b7e2c1a4d9f3", fill_traces, {"trace_info", "spans", "assessments", "trace_tags", "trace_request_metadata"}),
    ],
)
def test_a_migration_proves_what_the_upgrade_made(
    start: str, fill: Any, tables: set[str], tmp_path: Path, target_url: str
) -> None:
    source = tmp_path / "source.db"
    engine = sa.create_engine(f"sqlite:///{source}", poolclass=sa.NullPool)
    begin_at(engine, start)
    fill(engine)
    result = run_migrate(source, target_url)
    assert result.status == "verified"
    assert result.verify is not None
    verdicts = {t["name"]: t["verdict"] for t in result.verify["tables"]}
    assert {verdicts[name] for name in tables} == {"="}
    left = {t["name"]: t["uncompared_columns"] for t in result.verify["tables"] if t["uncompared_columns"]}
    known = {"trace_info": ["total_cost"], "jobs": ["last_update_time"]} if "spans" in tables else {}
    assert left == known
    # A change in any predicted column is found.
    if "spans" in tables:
        with sa.create_engine(target_url, poolclass=sa.NullPool).begin() as connection:
            for statement in (
                "UPDATE trace_info SET output_tokens = 1 WHERE output_tokens = 7 AND request_id < 'tr-00100'",
                "UPDATE spans SET model_provider = 'other' WHERE model_provider = 'open' AND trace_id < 'tr-00100'",
                "UPDATE assessments SET aggregate_value = 2 WHERE aggregate_value = 1 AND trace_id < 'tr-00100'",
            ):
                assert connection.exec_driver_sql(statement).rowcount > 0
        found = run_verify(source, target_url, all_differences=True)
        assert {(d.table, d.columns) for d in found.differences} == {
            ("trace_info", ("output_tokens",)),
            ("spans", ("model_provider",)),
            ("assessments", ("aggregate_value",)),
        }


# -- the guard -------------------------------------------------------------------------------------------------------


def test_every_equivalent_was_proven_against_the_installed_mlflow(tmp_path: Path) -> None:
    """When this fails with a new MLflow: compare its script, run this file with its digest added, then keep that."""
    used: set[str] = set()
    chains: list[tuple[Chain, str]] = [("tracking", "base"), ("auth", "8606fa83a998")]
    for chain, start in chains:
        engine = sa.create_engine(f"sqlite:///{tmp_path}/{chain}.db", poolclass=sa.NullPool)
        begin_at(engine, start, chain)
        code, events, _ = lift(engine.url, schema.installed_head(chain), chain)
        assert code == 0, events
        assert not [event for event in events if event["event"] == "note"]
        used |= {event["id"] for event in events if event.get("by") == "equivalent"}
    assert used == {"90e64c465722", "89d4b8295536", "75868b020152", "e5f6a7b8c9d0"}


def test_a_script_of_another_text_runs_itself(tmp_path: Path) -> None:
    child = tmp_path / CHILD.name
    shutil.copyfile(CHILD, child)
    text = EQUIVALENTS.read_text()
    (tmp_path / EQUIVALENTS.name).write_text(re.sub(r'"([0-9a-f]{63})[0-9a-f]"', r'"\1x"', text))
    engine = sa.create_engine(f"sqlite:///{tmp_path}/x.db", poolclass=sa.NullPool)
    begin_at(engine, "7ac759974ad8")
    fill_metrics(engine)
    code, events, _ = lift(engine.url, "89d4b8295536", child=child)
    assert code == 0, events
    assert [(event["event"], event.get("by")) for event in events] == [
        ("begin", "mlflow"),
        ("note", None),
        ("revision", None),
    ]
    assert "MLflow's own script runs" in events[1]["text"]
    assert "89d4b8295536" in events[1]["text"]
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM latest_metrics").scalar() > 100  # type: ignore[operator]


# -- at size ---------------------------------------------------------------------------------------------------------


def test_the_childs_memory_does_not_follow_the_rows(tmp_path: Path) -> None:
    """A small and a larger store: MLflow's own script needs about 600 bytes a latest metric, this needs none."""
    peaks = []
    for runs in (20, 1500):
        engine = sa.create_engine(f"sqlite:///{tmp_path}/{runs}.db", poolclass=sa.NullPool)
        begin_at(engine, "7ac759974ad8")
        _many_metrics(engine, runs, random.Random(runs))
        command = [sys.executable, "-c", _PEAK, str(CHILD), "--chain", "tracking", "--to", "89d4b8295536"]
        environment = {"MLFLOWCTL_CHILD_URL": str(engine.url), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        peaks.append(int(done.stderr.split()[-1]))
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM latest_metrics").scalar() == runs * 100
    # SQLite's cache and its sorter fill up to their bound of 16 MiB each in the larger one.
    assert peaks[1] - peaks[0] < 48 * 1024


# Runs the child in the same process, then says its peak.
_PEAK = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    code = end.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def _many_metrics(engine: sa.Engine, runs: int, randomly: random.Random) -> None:
    with engine.begin() as connection:
        for number in range(runs):
            run = f"{number:032x}"
            connection.exec_driver_sql(
                f"INSERT INTO runs (run_uuid, status, lifecycle_stage) VALUES ('{run}', 'FINISHED', 'active')"
            )
            connection.exec_driver_sql(
                'INSERT INTO metrics ("key", value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, 0)',
                [(f"m{key}", randomly.random(), step, run, step) for key in range(100) for step in range(2)],
            )
