"""Stores to be migrated, large enough that every phase lasts."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.generate import make_store
from tests.stores.golden import SAMPLE

#: What a source is called in the tests, with its revision.
REVISIONS = {
    "1.30": "97727af70f4d",
    "2.22": "0584bdc529eb",
    "3.16": "b7e2c1a4d9f3",
    "3.17": "dc11669786a5",
}


def make_source(folder: Path, name: str, metric_rows: int = 100_000) -> str:
    """A store to migrate, made once in ``folder``; what ``--from`` takes.

    Args:
        folder: gets the store.
        name: one of ``REVISIONS``, or ``folder`` for the sample FileStore.
        metric_rows: rows of the table of metrics, besides a dozen of every table.
    """
    if name == "folder":
        place = folder / "mlruns"
        if not place.exists():
            shutil.copytree(SAMPLE, place)
        return str(place)
    file = folder / f"{name}.db"
    if not file.exists():
        make_store(file, REVISIONS[name], rows=12, seed=3)
        with closing(sqlite3.connect(file)) as connection:
            # Revision 75868b020152 refuses the generated JSON that no MLflow would write there.
            if any(c[1] == "dimension_attributes" for c in connection.execute("PRAGMA table_info(spans)")):
                connection.execute("UPDATE spans SET dimension_attributes = NULL")
                connection.commit()
        add_metrics(file, metric_rows)
    return f"sqlite:///{file}"


def add_metrics(file: Path, rows: int) -> None:
    """Metric rows for the runs that are there, none of them twice."""
    randomly = random.Random(rows)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        runs = [run for (run,) in connection.execute("SELECT run_uuid FROM runs ORDER BY 1")]
        connection.executemany(
            "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, 0)",
            (
                (f"m{n % 7}", randomly.random(), 1_700_000_000_000 + n, runs[n % len(runs)], n // len(runs))
                for n in range(rows)
            ),
        )
        connection.commit()
