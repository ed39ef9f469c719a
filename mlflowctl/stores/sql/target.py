"""The target of a migration: what stands there, the journal in it, and the way from empty to finished.

Nothing unfinished looks finished. A SQLite target is built beside its name and renamed when proven. On a server the
journal row says ``running`` from before the first table until after the proof.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import re
import sqlite3
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mlflowctl.core.errors import TargetError
from mlflowctl.core.redact import redact_text
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.sql import adbc, sqlite
from mlflowctl.stores.sql.backend import DISK_FULL, lost
from mlflowctl.stores.sql.reader import JOURNAL_TABLE, SqlReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from mlflowctl.stores.schema import Chain, Schema, Table
    from mlflowctl.stores.sql.backend import WriteBackend
    from mlflowctl.stores.uri import StoreUri

_PRIMARY_KEY = re.compile(r"^ALTER TABLE (?:ONLY )?(\S+) ADD CONSTRAINT (\S+) PRIMARY KEY (\(.*\));?$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Record:
    """One row of the journal table ``mlflowctl_migrations``.

    ``document`` is JSON: the options that shaped the rows, the experiment map, the tables made, the hashes.
    """

    id: str
    chain: str
    state: str
    """running or complete"""
    source: str
    started: str
    finished: str | None
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands at the target: ``empty``, ``complete``, ``unfinished`` (both of mlflowctl) or ``foreign``."""

    state: str
    record: Record | None = None
    reason: str | None = None
    tables: tuple[str, ...] = ()


class Target:
    """One chain's place in a target database."""

    def __init__(self, uri: StoreUri, chain: Chain) -> None:
        self.uri = uri
        self.chain = chain
        self.kind = uri.kind
        self._backend: WriteBackend | None = None
        self._lock: int | None = None
        self._guard: WriteBackend | None = None
        self._taken: tuple[int, int] | None = None

    # -- looking ---------------------------------------------------------------------------------------------------

    def standing(self) -> Standing:
        """Look at the target without changing it.

        Raises:
            TargetError: it cannot be reached or opened.
        """
        if self.kind == "sqlite":
            file = self._file
            self._refuse_leftovers(file)
            if not file.exists() or (file.stat().st_size == 0 and not Path(f"{file}-wal").exists()):
                self._check_folder(file)
                return Standing("empty")
        backend = self._look()
        try:
            return self._standing_of(backend)
        finally:
            backend.close()

    def _refuse_leftovers(self, file: Path) -> None:
        """A log or journal without its database would be replayed over the new file by the next program that opens it.

        Raises:
            TargetError: there is one.
        """
        if file.exists() and file.stat().st_size:
            return
        for end in ("-wal", "-journal", "-shm"):
            leftover = Path(f"{file}{end}")
            if leftover.exists():
                raise TargetError(
                    f"A file of an earlier database lies beside the target: {leftover.name}.",
                    where=str(leftover),
                    why="SQLite would play it back over the new file.",
                    next_step="Move it away, or name another target with --to.",
                    kind="foreign_data",
                )

    def _look(self) -> WriteBackend:
        if self.kind == "sqlite":
            try:
                return sqlite.open_source(self.uri)[0]
            except Exception as bad:
                raise TargetError(
                    "The target file is not a SQLite database.",
                    where=self.uri.redacted,
                    why=str(bad),
                    next_step="Name a new file with --to.",
                    kind="foreign_data",
                ) from bad
        return _open_server(self.uri)

    def _standing_of(self, backend: WriteBackend) -> Standing:
        catalog = backend.catalog()
        ours = schemas.tables_ever(self.chain)
        there = tuple(sorted(ours & set(catalog)))
        record = _latest(backend, self.chain) if JOURNAL_TABLE in catalog else None
        if record is not None and record.state == "complete":
            return Standing("complete", record, tables=there)
        if record is not None:
            return Standing("unfinished", record, tables=there)
        if there:
            rows = {t: int(backend.rows(f"SELECT count(*) AS n FROM {backend.quote(t)}")[0]["n"]) for t in there}
            full = [f"{t} ({n} rows)" for t, n in rows.items() if n]
            reason = (
                f"It holds MLflow tables with {', '.join(full[:4])}."
                if full
                else f"It holds {len(there)} empty MLflow tables."
            )
            return Standing("foreign", reason=reason, tables=there)
        version_table = schemas.version_table(self.chain)
        if version_table in catalog:
            strangers = [
                r["version_num"] for r in backend.rows(f"SELECT version_num FROM {backend.quote(version_table)}")
            ]
            if strangers:
                reason = f"Its table {version_table} belongs to another program (revision {strangers[0]}), and MLflow cannot share it."
                return Standing("foreign", reason=reason)
        return Standing("empty")

    @property
    def _file(self) -> Path:
        assert self.uri.path is not None
        return self.uri.path

    @property
    def build_file(self) -> Path:
        """Where a SQLite target is built until it is proven."""
        return self._file.with_name(self._file.name + ".mlflowctl-partial")

    def _check_folder(self, file: Path) -> None:
        folder = file.absolute().parent
        if not folder.is_dir():
            raise TargetError(
                "The target's folder does not exist.",
                where=str(folder),
                next_step=f"mkdir -p {folder}",
                kind="not_found",
            )
        if not os.access(folder, os.W_OK):
            raise TargetError(
                "The target's folder cannot be written.",
                where=str(folder),
                why="Permission denied or a read-only disk.",
                next_step="Choose another place with --to.",
                kind="unwritable",
            )

    # -- building --------------------------------------------------------------------------------------------------

    @property
    def backend(self) -> WriteBackend:
        """The open connection that writes; ``open`` comes first."""
        assert self._backend is not None
        return self._backend

    def open(self) -> None:
        """Open the target for writing. A SQLite file of another owner is copied, so that its tables stay."""
        if self.kind != "sqlite":
            self._take_server_lock()
            self._backend = _open_server(self.uri)
            return
        self._take_build_lock()
        build = self.build_file
        for leftover in (build, Path(f"{build}-journal"), Path(f"{build}-wal"), Path(f"{build}-shm")):
            leftover.unlink(missing_ok=True)
        if self._file.exists() and self._file.stat().st_size:
            self._copy_owners_tables(build)
        self._backend = sqlite.open_target(self.uri, build)

    def _copy_owners_tables(self, build: Path) -> None:
        """Take over the tables of another owner; the file's log is emptied into it, so that none is left behind."""
        try:
            with closing(sqlite3.connect(self._file, timeout=5)) as source, closing(sqlite3.connect(build)) as copy:
                source.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                source.execute("PRAGMA journal_mode = DELETE")
                source.backup(copy)
            self._taken = self._marks()
        except sqlite3.Error as bad:
            raise self.refused(bad, "its own tables") from bad

    def _marks(self) -> tuple[int, int]:
        stat = self._file.stat()
        return stat.st_size, stat.st_mtime_ns

    def _take_server_lock(self) -> None:
        """Hold the server's own lock on a connection of its own until the end, through the upgrade in the child too."""
        self._guard = _open_server(self.uri)
        if self.kind == "postgresql":
            # Locks are the database's; the schema and the chain tell targets apart.
            ask = f"SELECT pg_try_advisory_lock(hashtext('mlflowctl'), hashtext(current_schema() || '{self.chain}')) AS got"
        else:
            ask = f"SELECT GET_LOCK(CONCAT('mlflowctl.', MD5(database()), '.{self.chain}'), 0) AS got"
        got = self._guard.rows(ask)[0]["got"]
        self._guard.commit()
        if not got:
            raise TargetError(
                "Another mlflowctl writes this target.",
                where=self.uri.redacted,
                next_step="Wait for it to end, or stop it, then run the same command.",
                kind="locked",
            )

    def _take_build_lock(self) -> None:
        lock_file = self.build_file.with_name(self.build_file.name + ".lock")
        try:
            self._lock = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TargetError(
                "Another mlflowctl writes this target.",
                where=self.uri.redacted,
                next_step="Wait for it to end, or stop it, then run the same command.",
                kind="locked",
            ) from None
        except OSError as bad:
            raise TargetError(
                "The target's folder cannot be written.",
                where=str(lock_file.parent),
                why=str(bad.strerror),
                next_step="Choose another place with --to.",
                kind="unwritable",
            ) from bad

    def prepare(self, record: Record, schema: Schema, unfinished: Standing | None) -> None:
        """Journal the beginning, clear what an unfinished migration left, create the tables.

        The journal row is committed before the first table, and names the tables that are about to be made: only
        those does a later run remove.
        """
        backend = self.backend
        if JOURNAL_TABLE not in backend.catalog():
            backend.execute(
                f"CREATE TABLE {JOURNAL_TABLE} (id VARCHAR(64) NOT NULL PRIMARY KEY, chain VARCHAR(16) NOT NULL, state VARCHAR(16) NOT NULL, "
                f"source {self._long_text} NOT NULL, started VARCHAR(32) NOT NULL, finished VARCHAR(32), document {self._long_text} NOT NULL)"
            )
        if unfinished is not None:
            self._refuse_strangers_rows(unfinished)
            self._drop(set(unfinished.record.document.get("tables", ())) if unfinished.record else set(), schema)
            backend.execute(f"DELETE FROM {JOURNAL_TABLE} WHERE chain = {backend.literal(self.chain)}")
        self._insert(record)
        backend.commit()
        for table in schema.tables.values():
            for statement in table.create:
                backend.execute(self._adapted(statement))
        version_table = schemas.version_table(self.chain)
        if version_table not in backend.catalog() and schema.revision != "base":
            backend.execute(
                f"CREATE TABLE {version_table} (version_num VARCHAR(32) NOT NULL, CONSTRAINT {version_table}_pkc PRIMARY KEY (version_num))"
            )
        if schema.revision != "base":
            backend.execute(f"INSERT INTO {version_table} (version_num) VALUES ({backend.literal(schema.revision)})")
        backend.commit()

    @property
    def _long_text(self) -> str:
        return "LONGTEXT" if self.kind == "mysql" else "TEXT"

    def _adapted(self, statement: str) -> str:
        if self.kind == "mysql":
            # Where MLflow asks for FLOAT, MySQL makes 4 bytes and would round what other databases hold in 8.
            return re.sub(r"(\s)float(\s|,)", r"\1double\2", statement)
        return statement

    def _refuse_strangers_rows(self, unfinished: Standing) -> None:
        """An unfinished target that somebody has put to use is not cleared.

        Raises:
            TargetError: a table has more rows than the source had when the migration began.
        """
        ceilings = unfinished.record.document.get("source_rows", {}) if unfinished.record else {}
        catalog = self.backend.catalog()
        for name, ceiling in ceilings.items():
            if name in catalog:
                rows = int(self.backend.rows(f"SELECT count(*) AS n FROM {self.backend.quote(name)}")[0]["n"])
                if rows > ceiling:
                    raise TargetError(
                        f"The unfinished target has been written to: {name} has {rows} rows, the source had {ceiling}.",
                        where=self.uri.redacted,
                        why="Clearing it for a fresh start would lose those rows.",
                        next_step="Name a new database with --to, or drop the tables yourself if they are not needed.",
                        kind="foreign_data",
                    )

    def _drop(self, made: set[str], schema: Schema) -> None:
        backend = self.backend
        catalog = backend.catalog()
        if self.kind == "mysql":
            backend.execute("SET SESSION foreign_key_checks = 0")
        doomed: list[str] = []
        for name in sorted((made | {schemas.version_table(self.chain)}) & set(catalog)):
            if name == schemas.version_table(self.chain) and schema.chain == "tracking":
                known = ", ".join(backend.literal(r.id) for r in schemas.revisions(self.chain))
                others = backend.rows(
                    f"SELECT version_num FROM {backend.quote(name)} WHERE version_num NOT IN ({known})"
                )
                if others:
                    backend.execute(f"DELETE FROM {backend.quote(name)} WHERE version_num IN ({known})")
                    continue
            doomed.append(backend.quote(name))
        if doomed:
            # All at once: foreign keys among them do not matter then, and nothing beyond them is touched.
            if self.kind == "sqlite":
                for name in doomed:
                    backend.execute(f"DROP TABLE {name}")
            else:
                backend.execute(f"DROP TABLE {', '.join(doomed)}")

    def write(self, table: Table, rows: pa.RecordBatch) -> None:
        """Append canonical rows.

        Raises:
            TargetError: the target refused a row (kind ``refused_row``), is full or went away.
        """
        try:
            self.backend.append(table, rows)
        except Exception as bad:
            raise self.refused(bad, table.name) from bad

    def refused(self, bad: Exception, what: str) -> TargetError:
        """The database's own words as a TargetError."""
        text = redact_text(str(bad)).strip()
        gone = re.search(
            r"server closed|connection.*(lost|closed|refused)|gone away|terminating connection", text, re.IGNORECASE
        )
        if DISK_FULL.search(text):
            return cast("TargetError", lost(TargetError, self.uri, bad))
        if gone:
            return TargetError(
                "The target went away.",
                where=self.uri.redacted,
                why=text,
                next_step="Bring it back, then run the same command.",
                kind="unreachable",
                resumable=True,
            )
        return TargetError(
            f"The target refused {what}.",
            where=self.uri.redacted,
            why=text,
            next_step="Mend the row in the source, or choose a target that can hold it; then run the same command.",
            kind="refused_row",
            resumable=True,
        )

    def index_statements(self, schema: Schema) -> tuple[list[str], list[str]]:
        """What is left to do after the load: first what may run while the tables are read, then the rest.

        On PostgreSQL a primary key is built as a unique index (which lets readers in) and attached later.
        """
        early: list[str] = []
        late: list[str] = []
        for table in schema.tables.values():
            for statement in table.finish:
                key = _PRIMARY_KEY.match(statement) if self.kind == "postgresql" else None
                if key:
                    early.append(f"CREATE UNIQUE INDEX {key.group(2)} ON {key.group(1)} {key.group(3)}")
                    late.append(
                        f"ALTER TABLE {key.group(1)} ADD CONSTRAINT {key.group(2)} PRIMARY KEY USING INDEX {key.group(2)}"
                    )
                elif statement.upper().startswith(("CREATE INDEX", "CREATE UNIQUE INDEX")):
                    early.append(statement)
                else:
                    late.append(statement)
        for table in schema.tables.values():
            late.extend(table.link)
        return early, late

    def commit(self) -> None:
        """Commit what was written so far."""
        self.backend.commit()

    @contextmanager
    def building(self, statements: Sequence[str]) -> Iterator[None]:
        """Build indexes on two connections of their own while the body reads; leaving waits for them.

        PostgreSQL's own parallel workers are off meanwhile: two whole builds at once keep two cores busier than one
        build with workers, whose last part runs alone.
        """
        line: queue.SimpleQueue[str] = queue.SimpleQueue()
        for statement in statements:
            line.put(statement)
        failures: list[BaseException] = []

        def work() -> None:
            try:
                builder = _open_server(self.uri)
            except BaseException as bad:  # noqa: BLE001 - raised by the thread that waits
                failures.append(bad)
                return
            try:
                builder.execute("SET max_parallel_maintenance_workers = 0")
                while not failures:
                    try:
                        statement = line.get_nowait()
                    except queue.Empty:
                        return
                    builder.execute(statement)
                    builder.commit()
            except BaseException as bad:  # noqa: BLE001 - raised by the thread that waits
                failures.append(bad)
            finally:
                builder.close()

        workers = [threading.Thread(target=work, name="mlflowctl-index", daemon=True) for _ in range(2)]
        for worker in workers:
            worker.start()
        try:
            yield
        finally:
            for worker in workers:
                worker.join()
        if failures:
            raise self.refused(failures[0] if isinstance(failures[0], Exception) else Exception(), "an index")

    def run(self, statements: Iterable[str]) -> None:
        """Run DDL, one commit at the end."""
        for statement in statements:
            try:
                self.backend.execute(statement)
            except Exception as bad:
                raise self.refused(bad, f"a key or constraint ({' '.join(statement.split())[:120]})") from bad
        self.commit()

    def reader(self) -> SqlReader:
        """Read back what was written, as any store is read. On SQLite over the same connection."""
        if self.kind == "sqlite":
            return _BorrowedReader(self.backend, self.chain)
        return SqlReader(_open_server(self.uri), self.chain, check_types=False, lifted=True)

    def child_url(self) -> str:
        """The SQLAlchemy URL under which a child process upgrades the target."""
        if self.kind == "sqlite":
            return f"sqlite:///{self.build_file.absolute()}"
        return self.uri.sqlalchemy()

    def release(self) -> None:
        """Commit and let go of the connection, so that a child process can upgrade the target."""
        self.backend.commit()
        self.backend.close()
        self._backend = None

    def reopen(self) -> None:
        """Open again after a child's work."""
        self._backend = (
            sqlite.open_target(self.uri, self.build_file) if self.kind == "sqlite" else _open_server(self.uri)
        )

    def complete(self, record: Record, tables: Iterable[Table]) -> None:
        """Sequences, statistics, the journal's last word; then a SQLite file takes its name, atomically."""
        backend = self.backend
        names = list(tables)
        backend.set_sequences(names)
        backend.analyze(t.name for t in names)
        backend.execute(f"DELETE FROM {JOURNAL_TABLE} WHERE id = {backend.literal(record.id)}")
        self._insert(record)
        backend.commit()
        if self.kind == "sqlite":
            backend.close()
            self._backend = None
            _flush(self.build_file)
            self._refuse_leftovers(self._file)
            if self._taken is not None and self._taken != self._marks():
                raise TargetError(
                    "Another program wrote to the target file meanwhile.",
                    where=str(self._file),
                    next_step="Stop it and run the same command again, or name a file of its own with --to.",
                    kind="locked",
                    resumable=True,
                )
            self.build_file.replace(self._file)
            _flush(self._file.absolute().parent)

    def _insert(self, record: Record) -> None:
        backend = self.backend
        values = (
            record.id,
            record.chain,
            record.state,
            record.source,
            record.started,
            record.finished,
            json.dumps(record.document),
        )
        backend.execute(
            f"INSERT INTO {JOURNAL_TABLE} (id, chain, state, source, started, finished, document) VALUES ({', '.join(backend.literal(v) for v in values)})"
        )

    def close(self) -> None:
        """Let go. An unfinished SQLite build stays under its own name; the next run clears it."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None
        if self._guard is not None:
            self._guard.close()
            self._guard = None
        if self._lock is not None:
            self.build_file.with_name(self.build_file.name + ".lock").unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def discard(self) -> None:
        """Remove the unfinished SQLite build at once (after a failure that no rerun mends)."""
        if self.kind == "sqlite":
            if self._backend is not None:
                self._backend.close()
                self._backend = None
            self.build_file.unlink(missing_ok=True)


class _BorrowedReader(SqlReader):
    """A reader over the writer's own connection, which stays open."""

    def __init__(self, backend: WriteBackend, chain: Chain) -> None:
        super().__init__(backend, chain, check_types=False, lifted=True)

    def close(self) -> None:
        """The writer closes the connection."""


def _open_server(uri: StoreUri) -> WriteBackend:
    if uri.kind == "postgresql":
        from mlflowctl.stores.sql.postgresql import PostgresBackend

        return PostgresBackend(uri, side="target")
    from mlflowctl.stores.sql.mysql import MysqlBackend

    return MysqlBackend(uri, side="target")


def _latest(backend: WriteBackend, chain: str) -> Record | None:
    rows = backend.rows(
        f"SELECT id, chain, state, source, started, finished, document FROM {JOURNAL_TABLE} WHERE chain = {backend.literal(chain)} ORDER BY started DESC"
    )
    if not rows:
        return None
    row = rows[0]
    return Record(
        row["id"],
        row["chain"],
        row["state"],
        row["source"],
        row["started"],
        row["finished"],
        json.loads(row["document"]),
    )


def find_record(uri: StoreUri, chain: Chain) -> Record | None:
    """The journal row that a migration left at ``uri``, or None."""
    return Target(uri, chain).standing().record


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


__all__ = ["Record", "Standing", "Target", "adbc", "find_record"]
