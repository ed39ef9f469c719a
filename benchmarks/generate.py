"""Makes the benchmarks' data: a FileStore as MLflow writes it, or a SQLite store.

``python benchmarks/generate.py files DIR --runs 1000 --keys 10 --points 100`` (40 files a run with 14 params and tags each)
``python benchmarks/generate.py sqlite FILE --rows 5000000``
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mlflowctl.stores import schema as schemas

REVISION = "dc11669786a5"


def make_files(root: Path, runs: int, keys: int, points: int, params: int = 14, tags: int = 14) -> int:
    """One experiment of ``runs`` runs, each with ``keys`` metrics of ``points`` points; returns the number of files."""
    randomly = random.Random(1)
    files = 1
    experiment = root / "123456789012345678"
    experiment.mkdir(parents=True)
    (experiment / "meta.yaml").write_text(
        f"artifact_location: file:///data/mlruns/{experiment.name}\ncreation_time: 1700000000000\nexperiment_id: '{experiment.name}'\n"
        "last_update_time: 1700000000000\nlifecycle_stage: active\nname: benchmark\n"
    )
    for number in range(runs):
        run = f"{randomly.getrandbits(128):032x}"
        folder = experiment / run
        for part in ("params", "tags", "metrics", "artifacts"):
            (folder / part).mkdir(parents=True)
        (folder / "meta.yaml").write_text(
            f"artifact_uri: file:///data/mlruns/{experiment.name}/{run}/artifacts\nend_time: {1700000100000 + number}\nentry_point_name: ''\n"
            f"experiment_id: '{experiment.name}'\nlifecycle_stage: active\nrun_id: {run}\nrun_name: run-{number}\nsource_name: ''\nsource_type: 4\n"
            f"source_version: ''\nstart_time: {1700000000000 + number}\nstatus: 3\ntags: []\nuser_id: someone\n"
        )
        for index in range(params):
            (folder / "params" / f"param_{index}").write_text(f"{randomly.random()}")
        for index in range(tags - 1):
            (folder / "tags" / f"tag_{index}").write_text(f"value {randomly.randrange(100)}")
        (folder / "tags" / "mlflow.runName").write_text(f"run-{number}")
        for index in range(keys):
            lines = [f"{1700000000000 + step * 1000} {randomly.random()} {step}\n" for step in range(points)]
            (folder / "metrics" / f"metric_{index}").write_text("".join(lines))
        files += 1 + params + tags + keys
    return files


def make_sqlite(path: Path, rows: int, revision: str = REVISION) -> None:
    """A store at one revision (of MLflow 1.30 or later) with ``rows`` metric rows in runs of 1,000."""
    schema = schemas.schema_at("tracking", "sqlite", revision)
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
    for table in schema.tables.values():
        for statement in table.create:
            connection.execute(statement)
    connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    connection.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
    connection.execute(
        "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) VALUES (0, 'Default', 'file:///d/0', 'active')"
    )
    if "workspaces" in schema.tables:
        connection.execute("INSERT INTO workspaces (name) VALUES ('default')")
        connection.execute("UPDATE experiments SET workspace = 'default'")
    randomly = random.Random(1)
    runs = [f"{randomly.getrandbits(128):032x}" for _ in range(max(1, rows // 1000))]
    connection.executemany(
        "INSERT INTO runs (run_uuid, name, source_type, status, start_time, lifecycle_stage, artifact_uri, experiment_id) VALUES (?, ?, 'LOCAL', 'FINISHED', 1700000000000, 'active', ?, 0)",
        [(run, run[:8], f"file:///d/0/{run}/artifacts") for run in runs],
    )

    def points() -> Iterator[tuple[object, ...]]:
        for run in runs:
            for key in range(10):
                for step in range(100):
                    yield (f"metric_{key}", randomly.random(), 1700000000000 + step * 1000, run, step, 0)

    connection.executemany(
        "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)", points()
    )
    # Each metric ends with its greatest step.
    connection.execute(
        "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) "
        "SELECT key, value, timestamp, step, is_nan, run_uuid FROM metrics WHERE step = 99"
    )
    for table in schema.tables.values():
        for statement in table.finish:
            connection.execute(statement)
    connection.commit()
    connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    files = kinds.add_parser("files")
    files.add_argument("path", type=Path)
    files.add_argument("--runs", type=int, default=1000)
    files.add_argument("--keys", type=int, default=10)
    files.add_argument("--points", type=int, default=100)
    files.add_argument("--params", type=int, default=14)
    files.add_argument("--tags", type=int, default=14)
    sqlite = kinds.add_parser("sqlite")
    sqlite.add_argument("path", type=Path)
    sqlite.add_argument("--rows", type=int, default=1_000_000)
    sqlite.add_argument("--revision", default=REVISION)
    arguments = parser.parse_args()
    if arguments.kind == "files":
        count = make_files(
            arguments.path, arguments.runs, arguments.keys, arguments.points, arguments.params, arguments.tags
        )
        print(f"{count} files")
    else:
        make_sqlite(arguments.path, arguments.rows, arguments.revision)


if __name__ == "__main__":
    main()
