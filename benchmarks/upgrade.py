"""Claims: an upgrade to the newest schema holds constant memory from 1,000,000 to 10,000,000 metric rows, and is no slower.

The peer is ``mlflow db upgrade`` on a copy of the same SQLite store. From revision 90e64c465722 (MLflow 1.0) the
script that fills ``latest_metrics`` reads them all into Python there; from 97727af70f4d (1.30) none does. Both leave
the same rows, which is counted.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import Figures, measure

from mlflowctl import children
from mlflowctl.stores import schema as schemas

KEYS, STEPS = 10, 100


def make(path: Path, revision: str, rows: int) -> None:
    """A store at ``revision`` with ``rows`` metric rows in runs of 1,000."""
    schema = schemas.schema_at("tracking", "sqlite", revision)
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
    for table in schema.tables.values():
        for statement in table.create:
            connection.execute(statement)
    connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    connection.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
    connection.execute("INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (0, 'Default', 'active')")
    randomly = random.Random(1)
    runs = [f"{randomly.getrandbits(128):032x}" for _ in range(rows // (KEYS * STEPS))]
    connection.executemany(
        "INSERT INTO runs (run_uuid, user_id, status, lifecycle_stage, experiment_id) VALUES (?, 'ann', 'FINISHED', 'active', 0)",
        [(run,) for run in runs],
    )

    def points() -> Iterator[tuple[object, ...]]:
        for run in runs:
            for key in range(KEYS):
                for step in range(STEPS):
                    yield (f"metric_{key}", randomly.random(), 1_700_000_000_000 + step * 1000, run, step)

    connection.executemany(
        "INSERT INTO metrics (key, value, timestamp, run_uuid, step) VALUES (?, ?, ?, ?, ?)", points()
    )
    if "latest_metrics" in schema.tables:
        connection.execute(
            "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)"
            f" SELECT key, value, timestamp, step, is_nan, run_uuid FROM metrics WHERE step = {STEPS - 1}"
        )
    for table in schema.tables.values():
        for statement in table.finish:
            connection.execute(statement)
    connection.commit()
    connection.close()


def ours(store: Path) -> Figures:
    script = Path(children.__file__).with_name("upgrade.py")
    command = [sys.executable, str(script), "--chain", "tracking", "--to", schemas.installed_head("tracking")]
    return measure(command, env={**os.environ, "MLFLOWCTL_CHILD_URL": f"sqlite:///{store}"})


def peer(store: Path) -> Figures:
    return measure([sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{store}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--revisions", nargs="+", default=["90e64c465722", "97727af70f4d"])
    parser.add_argument("--no-peer", action="store_true", help="leave mlflow db upgrade out")
    arguments = parser.parse_args()
    for revision in arguments.revisions:
        first: Figures | None = None
        for rows in arguments.rows:
            with tempfile.TemporaryDirectory(prefix="mlflowctl-b-", dir="/tmp") as folder:
                store = Path(folder) / "store.db"
                make(store, revision, rows)
                copy = Path(folder) / "copy.db"
                if not arguments.no_peer:
                    shutil.copyfile(store, copy)
                figures = ours(store)
                assert figures.exit_code == 0
                latest = sqlite3.connect(store).execute("SELECT count(*) FROM latest_metrics").fetchone()[0]
                assert latest == rows // STEPS
                print(
                    f"{revision} {rows:>10,} rows  mlflowctl          wall {figures.wall:7.2f} s  cpu {figures.cpu:7.2f} s"
                    f"  memory {figures.memory_mb:5.0f} MB",
                    flush=True,
                )
                if first is not None:
                    print(f"  memory grew by {figures.memory_mb / first.memory_mb - 1:.1%}", flush=True)
                first = first or figures
                if not arguments.no_peer:
                    theirs = peer(copy)
                    assert theirs.exit_code == 0
                    print(
                        f"{revision} {rows:>10,} rows  mlflow db upgrade  wall {theirs.wall:7.2f} s  cpu {theirs.cpu:7.2f} s"
                        f"  memory {theirs.memory_mb:5.0f} MB  ratio {theirs.wall / figures.wall:.2f} wall,"
                        f" {theirs.cpu / figures.cpu:.2f} CPU",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
