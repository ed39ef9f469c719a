"""The target of a migration: what stands there, and the way from empty to finished.

Nothing unfinished looks finished. A SQLite target is built beside its name and renamed when proven. On a server the
journal row says ``running`` from before the first table until after the proof. What a chunk of rows and its note in
the journal change is one transaction, so a kill at any instant leaves whole chunks.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import queue
import re
import socket
import sqlite3
import threading
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mlflowctl.core import signals
from mlflowctl.core.errors import MlflowctlError, TargetError
from mlflowctl.core.redact import redact_text
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.sql import adbc, circumstances, sqlite
from mlflowctl.stores.sql.backend import DISK_FULL, GONE, lost
from mlflowctl.stores.sql.journal import Journal, Record
from mlflowctl.stores.sql.reader import CHUNK_TABLE, JOURNAL_TABLE, SqlReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    import pyarrow as pa

    from mlflowctl.stores.schema import Chain, Schema, Table
    from mlflowctl.stores.sql.backend import WriteBackend
    from mlflowctl.stores.sql.circumstances import Circumstance
    from mlflowctl.stores.uri import StoreUri

# How long a run waits for the end of a killed run's upgrade on MySQL before it says so.
_CHILD_SECONDS = 60
_PRIMARY_KEY = re.compile(r"^ALTER TABLE (?:ONLY )?(\S+) ADD CONSTRAINT (\S+) PRIMARY KEY (\(.*\));?$", re.DOTALL)
# MySQL's and MariaDB's words for: there is one of that name.
_THERE_ALREADY = re.compile(
    r"\b(1050|1061|1068|1826|3822)\b|errno: 121|already exists|[Dd]uplicate (key|foreign|CHECK)"
)


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands at the target: ``empty``, ``complete``, ``unfinished`` (both of mlflowctl) or ``foreign``."""

    state: str
    record: Record | None = None
    reason: str | None = None
    tables: tuple[str, ...] = ()
    chunks: Mapping[str, Mapping[str, Any]] | None = None
    """Of an unfinished migration: what is done."""


@dataclass(frozen=True, slots=True)
class Step:
    """One statement after the load: a key, an index, a constraint."""

    statement: str

    @property
    def id(self) -> str:
        """Its name in the journal."""
        return "step:" + hashlib.sha256(self.statement.encode()).hexdigest()[:24]

    @property
    def shown(self) -> str:
        """For people, short."""
        return " ".join(self.statement.split())[:60]


class Writer:
    """Appends rows over one connection; what ``commit`` makes final is a chunk with its note, or nothing."""

    def __init__(self, target: Target, backend: WriteBackend, *, owned: bool) -> None:
        self._target = target
        self._backend = backend
        self._owned = owned

    def write(self, table: Table, rows: pa.RecordBatch) -> None:
        """Append canonical rows.

        Raises:
            TargetError: the target refused a row (kind ``refused_row``), is full or went away.
        """
        try:
            self._backend.append(table, rows)
        except Exception as bad:
            raise self._target.refused(bad, table.name) from bad

    def empty(self, tables: Iterable[str]) -> None:
        """Remove all rows of the tables, within the open transaction."""
        for name in tables:
            self._backend.execute(f"DELETE FROM {self._backend.quote(name)}")

    def commit(self, chunk: str | None, document: Mapping[str, Any]) -> None:
        """Make the rows since the last commit final, with the chunk's note; without a chunk the rows alone."""
        try:
            if chunk is not None:
                Journal(self._backend, self._target.chain).chunk_done(chunk, document)
            self._backend.commit()
        except MlflowctlError:
            raise
        except Exception as bad:
            raise self._target.refused(bad, "the end of a chunk") from bad

    def rollback(self) -> None:
        """Undo what was not committed; a connection that is gone has undone it."""
        with suppress(Exception):
            self._backend.rollback()

    def close(self) -> None:
        if self._owned:
            with suppress(Exception):
                self._backend.close()


class Builders:
    """Builds indexes in threads; leaving the block waits for them and raises what went wrong.

    PostgreSQL's own parallel workers stay on: most stores have one table that is larger than all others together, and
    its primary key would be sorted by one core while the others wait.
    """

    def __init__(self, target: Target, steps: Sequence[Step], connections: int) -> None:
        self._target = target
        self._line: queue.SimpleQueue[Step] = queue.SimpleQueue()
        for step in steps:
            self._line.put(step)
        self._failures: list[BaseException] = []
        self._given_up = False
        self.done = 0
        self._threads = [
            threading.Thread(target=self._work, name="mlflowctl-index", daemon=True) for _ in range(connections)
        ]

    def _work(self) -> None:
        try:
            builder = _open_server(self._target.uri)
        except BaseException as bad:  # noqa: BLE001 - raised by the thread that waits
            self._failures.append(bad)
            return
        try:
            while not self._failures and not self._given_up and signals.pending() is None:
                try:
                    step = self._line.get_nowait()
                except queue.Empty:
                    return
                self._target.run_step(builder, step)
                self.done += 1
        except BaseException as bad:  # noqa: BLE001 - raised by the thread that waits
            self._failures.append(bad)
        finally:
            with suppress(Exception):
                builder.close()

    def busy(self) -> bool:
        """Whether a thread is still at work."""
        return any(thread.is_alive() for thread in self._threads)

    def __enter__(self) -> Builders:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._given_up = kind is not None
        for thread in self._threads:
            thread.join()
        if kind is not None:
            return
        for failure in self._failures:
            if isinstance(failure, MlflowctlError) or not isinstance(failure, Exception):
                raise failure
            raise self._target.refused(failure, "an index") from failure


class Target:
    """One chain's place in a target database."""

    def __init__(self, uri: StoreUri, chain: Chain) -> None:
        self.uri = uri
        self.chain = chain
        self.kind = uri.kind
        self._backend: WriteBackend | None = None
        self._lock: int | None = None
        self._guard: WriteBackend | None = None
        self.resumed = False

    # -- looking ---------------------------------------------------------------------------------------------------

    def standing(self) -> Standing:
        """Look at the target without changing it.

        Raises:
            TargetError: it cannot be reached or opened, or another mlflowctl is building it.
        """
        if self.kind == "sqlite":
            file = self._file
            there = file.exists() and (file.stat().st_size > 0 or Path(f"{file}-wal").exists())
            if there:
                backend = self._look()
                try:
                    found = self._standing_of(backend)
                finally:
                    backend.close()
            else:
                self._check_folder(file)
                found = Standing("empty")
            if found.state == "empty":
                unfinished = self._standing_of_build()
                if unfinished is not None:
                    return unfinished
                self._refuse_leftovers(file)
            return found
        backend = self._look()
        try:
            return self._standing_of(backend)
        finally:
            backend.close()

    def _standing_of_build(self) -> Standing | None:
        """What an earlier run built beside the target's name, if it can be carried on with."""
        build = self.build_file
        if not build.exists() or build.stat().st_size == 0:
            return None
        held = self._lock is not None
        if not held:
            self._take_build_lock()
        try:
            # Opening it rolls back what a killed run had not committed.
            backend = sqlite.open_target(self.uri, build)
            try:
                journal = Journal(backend, self.chain)
                record = journal.latest()
                if record is None or record.document.get("boot") != _boot():
                    # Nothing of it was flushed to the disk, so it is trusted only as long as the machine is up.
                    return None
                catalog = backend.catalog()
                tables = tuple(sorted(schemas.tables_ever(self.chain) & set(catalog)))
                return Standing("unfinished", record, tables=tables, chunks=journal.chunks())
            finally:
                backend.close()
        except (TargetError, adbc.Error) as bad:
            refused = self.refused(bad, "the unfinished file")
            if refused.kind == "deadlock":
                # The upgrade of a run that was killed, about to notice it: what it holds is no ruin.
                raise refused from bad
            return None
        finally:
            if not held:
                self._release_build_lock()

    def circumstances(self, needed_bytes: int, revision: str, connections: int) -> list[Circumstance]:
        """What about the target would refuse or endanger a copy of ``needed_bytes`` that ends at ``revision``.

        Raises:
            TargetError: it cannot be reached.
        """
        if self.kind == "sqlite":
            return circumstances.sqlite_target_circumstances(self._file, needed_bytes)
        backend = _open_server(self.uri)
        try:
            return circumstances.target_circumstances(
                backend, self.chain, needed_bytes, None, revision=revision, connections=connections
            )
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
        journal = Journal(backend, self.chain)
        record = journal.latest()
        if record is not None and record.state == "complete":
            return Standing("complete", record, tables=there)
        if record is not None:
            return Standing("unfinished", record, tables=there, chunks=journal.chunks())
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

    def lock(self) -> None:
        """Keep every other mlflowctl out until ``close``.

        Raises:
            TargetError: another one is in (kind ``locked``), named as far as it is known.
        """
        if self.kind == "sqlite":
            self._take_build_lock()
        else:
            self._take_server_lock()

    def open(self, *, resume: bool) -> dict[str, Any]:
        """Open the locked target for writing; what only this place knows comes back, for the journal.

        A SQLite file of another owner is copied, so that its tables stay.
        """
        self.resumed = resume
        if self.kind != "sqlite":
            self._backend = _open_server(self.uri)
            return {}
        build = self.build_file
        taken = None
        if not resume:
            for leftover in _with_side_files(build):
                leftover.unlink(missing_ok=True)
            if self._file.exists() and self._file.stat().st_size:
                taken = self._copy_owners_tables(build)
        self._backend = sqlite.open_target(self.uri, build)
        return {"boot": _boot(), "taken": taken}

    def _copy_owners_tables(self, build: Path) -> list[int]:
        """Take over the tables of another owner; the file's log is emptied into it, so that none is left behind."""
        try:
            with closing(sqlite3.connect(self._file, timeout=5)) as source, closing(sqlite3.connect(build)) as copy:
                source.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                source.execute("PRAGMA journal_mode = DELETE")
                # Before the copy: whatever is written from here on shows when the name is taken.
                marks = self._marks()
                source.backup(copy)
            return marks
        except sqlite3.Error as bad:
            raise self.refused(bad, "its own tables") from bad

    def _marks(self) -> list[int]:
        stat = self._file.stat()
        return [stat.st_size, stat.st_mtime_ns]

    def _take_server_lock(self) -> None:
        """Hold the server's own lock on a connection of its own until the end, through the upgrade in the child too."""
        self._guard = _open_server(self.uri)
        if self.kind == "postgresql":
            # Locks are the database's; the schema and the chain tell targets apart.
            ask = f"SELECT pg_try_advisory_lock(hashtext('mlflowctl'), hashtext(current_schema() || '{self.chain}')) AS got"
        else:
            ask = f"SELECT GET_LOCK(CONCAT('mlflowctl.', MD5(database()), '.{self.chain}'), 0) AS got"
        got = self._guard.rows(ask)[0]["got"]
        if not got:
            record = Journal(self._guard, self.chain).latest()
            raise self._locked((record.document.get("owner") if record else None) or {})
        if self.kind == "mysql":
            self._wait_for_a_killed_upgrade(self._guard)
        self._guard.commit()

    def _wait_for_a_killed_upgrade(self, guard: WriteBackend) -> None:
        """MySQL cannot take half a revision back, so the child of a run that was killed goes on to its end.

        Raises:
            TargetError: it is still at work after a minute (kind ``locked``).
        """
        name = "LEFT(CONCAT('mlflowctl ', MD5(DATABASE())), 64)"
        if guard.rows(f"SELECT GET_LOCK({name}, {_CHILD_SECONDS}) AS got")[0]["got"] != 1:
            raise TargetError(
                "The upgrade of a migration that was killed is still at work in this target.",
                where=self.uri.redacted,
                why="MySQL cannot take half a revision back, so it goes on to the revision's end.",
                next_step="Wait for it (SHOW PROCESSLIST shows its statement), then run the same command.",
                kind="locked",
                resumable=True,
            )
        guard.rows(f"SELECT RELEASE_LOCK({name}) AS released")

    def _take_build_lock(self) -> None:
        lock_file = self._lock_file
        try:
            while True:
                self._lock = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o600)
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Its last holder may have removed the file between the two calls; then the lock is nobody's.
                with suppress(FileNotFoundError):
                    if os.stat(lock_file).st_ino == os.fstat(self._lock).st_ino:  # noqa: PTH116
                        break
                os.close(self._lock)
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, json.dumps(owner()).encode(), 0)
        except BlockingIOError:
            assert self._lock is not None
            words = os.pread(self._lock, 4096, 0)
            os.close(self._lock)
            self._lock = None
            try:
                raise self._locked(json.loads(words)) from None
            except ValueError:
                raise self._locked({}) from None
        except OSError as bad:
            raise TargetError(
                "The target's folder cannot be written.",
                where=str(lock_file.parent),
                why=str(bad.strerror),
                next_step="Choose another place with --to.",
                kind="unwritable",
            ) from bad

    def _locked(self, by: Mapping[str, Any]) -> TargetError:
        who = f"process {by['pid']} on {by['host']}, since {by['since']}" if {"pid", "host", "since"} <= set(by) else ""
        return TargetError(
            f"Another mlflowctl writes this target{f' ({who})' if who else ''}.",
            where=self.uri.redacted,
            next_step="Wait for it to end, or stop it, then run the same command.",
            kind="locked",
        )

    @property
    def _lock_file(self) -> Path:
        return self.build_file.with_name(self.build_file.name + ".lock")

    def _release_build_lock(self) -> None:
        if self._lock is not None:
            self._lock_file.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    @property
    def journal(self) -> Journal:
        """The journal over the open connection."""
        return Journal(self.backend, self.chain)

    def clear(self, unfinished: Standing, schema: Schema) -> None:
        """Remove what an unfinished migration made, and its journal row.

        Raises:
            TargetError: somebody has put the unfinished target to use.
        """
        self.refuse_strangers_rows(unfinished)
        made = set(unfinished.record.document.get("tables", ())) if unfinished.record else set()
        if unfinished.record is not None:
            # MySQL drops without a transaction: after a kill in the middle nobody must carry on with what is left.
            self.advance(unfinished.record, phase="schema")
        self._drop(made, schema.chain)
        self.journal.forget_chunks()
        self.backend.execute(f"DELETE FROM {JOURNAL_TABLE} WHERE chain = {self.backend.literal(self.chain)}")
        self.backend.commit()

    def begin(self, record: Record, schema: Schema) -> None:
        """Journal the beginning, create the tables.

        The journal row is committed before the first table, and names the tables that are about to be made: only
        those does a later run remove.
        """
        backend = self.backend
        self.journal.create()
        self.journal.empty_chunks()
        self.advance(record, phase="schema")
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

    def advance(self, record: Record, *, phase: str, **more: Any) -> Record:
        """Journal that ``phase`` has begun, with what was learnt; commits."""
        new = Record(
            record.id,
            record.chain,
            record.state,
            record.source,
            record.started,
            record.finished,
            {**record.document, **more, "phase": phase},
        )
        self.journal.write(new)
        self.backend.commit()
        return new

    def _adapted(self, statement: str) -> str:
        if self.kind == "mysql":
            # Where MLflow asks for FLOAT, MySQL makes 4 bytes and would round what other databases hold in 8.
            return re.sub(r"(\s)float(\s|,)", r"\1double\2", statement)
        return statement

    def refuse_strangers_rows(self, unfinished: Standing) -> None:
        """An unfinished target that somebody has put to use is not touched.

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

    def _drop(self, made: set[str], chain: Chain) -> None:
        backend = self.backend
        catalog = backend.catalog()
        if self.kind == "mysql":
            backend.execute("SET SESSION foreign_key_checks = 0")
        doomed: list[str] = []
        for name in sorted((made | {schemas.version_table(self.chain)}) & set(catalog)):
            if name == schemas.version_table(self.chain) and chain == "tracking":
                known = ", ".join(backend.literal(r.id) for r in schemas.revisions(self.chain))
                others = backend.rows(
                    f"SELECT version_num FROM {backend.quote(name)} WHERE version_num NOT IN ({known})"
                )
                if others:
                    backend.execute(f"DELETE FROM {backend.quote(name)} WHERE version_num IN ({known})")
                    continue
            doomed.append(backend.quote(name))
        # What a killed upgrade leaves on SQLite and MySQL: the copy of a table that it was about to change.
        doomed.extend(backend.quote(n) for n in sorted(catalog) if n.startswith("_alembic_tmp_") and n[13:] in made)
        if doomed:
            # All at once: foreign keys among them do not matter then, and nothing beyond them is touched.
            if self.kind == "sqlite":
                for name in doomed:
                    backend.execute(f"DROP TABLE {name}")
            else:
                backend.execute(f"DROP TABLE {', '.join(doomed)}")

    def writer(self) -> Writer:
        """A writer for one thread: on a server over a connection of its own, on SQLite over the one that there is."""
        if self.kind == "sqlite":
            return Writer(self, self.backend, owned=False)
        return Writer(self, _open_server(self.uri), owned=True)

    def refused(self, bad: Exception, what: str) -> TargetError:
        """The database's own words as a TargetError."""
        text = redact_text(str(bad)).strip()
        deadlock = re.search(r"deadlock|lock wait timeout|database is locked", text, re.IGNORECASE)
        if DISK_FULL.search(text) or GONE.search(text) or text == "(0, '')":
            return cast("TargetError", lost(TargetError, self.uri, bad))
        if deadlock:
            return TargetError(
                "The target gave up waiting for a lock.",
                where=self.uri.redacted,
                why=text,
                next_step="See who else uses the target, then run the same command.",
                kind="deadlock",
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

    def steps(self, schema: Schema) -> tuple[list[Step], list[Step]]:
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
        return [Step(s) for s in early], [Step(s) for s in late]

    def commit(self) -> None:
        """Commit what was written so far."""
        self.backend.commit()

    def builders(self, steps: Sequence[Step], connections: int) -> Builders:
        """Threads that build indexes on connections of their own while the tables are read."""
        return Builders(self, steps, connections)

    def run(self, step: Step) -> None:
        """Run a step and note it.

        Raises:
            TargetError: the target refused it.
        """
        try:
            self.run_step(self.backend, step)
        except MlflowctlError:
            raise
        except Exception as bad:
            raise self.refused(bad, f"a key or constraint ({' '.join(step.statement.split())[:120]})") from bad

    def run_step(self, backend: WriteBackend, step: Step) -> None:
        """Run a step over a connection and note it, in one transaction where the database has that for schemas."""
        try:
            backend.execute(step.statement)
        except Exception as bad:
            # MySQL commits a change of the schema by itself: a kill may have come before its note.
            if not (self.resumed and self.kind == "mysql" and _THERE_ALREADY.search(str(bad))):
                raise
        Journal(backend, self.chain).chunk_done(step.id, {})
        backend.commit()

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

    def revision(self) -> str:
        """The revision at which the target stands now; ``base`` without one."""
        table = schemas.version_table(self.chain)
        if table not in self.backend.catalog():
            return schemas.BASE
        named = [r["version_num"] for r in self.backend.rows(f"SELECT version_num FROM {self.backend.quote(table)}")]
        known = set(schemas.installed_revisions(self.chain)) | {r.id for r in schemas.revisions(self.chain)}
        return next((n for n in named if n in known), schemas.BASE)

    def complete(self, record: Record, tables: Iterable[Table]) -> None:
        """Sequences, statistics, the journal's last word; then a SQLite file takes its name, atomically."""
        backend = self.backend
        names = list(tables)
        backend.set_sequences(names)
        backend.analyze(t.name for t in names)
        if self.kind == "mysql":
            # Dropping a table commits there, so the record comes first.
            self.journal.write(record)
            backend.commit()
            self.journal.forget_chunks()
        else:
            self.journal.forget_chunks()
            self.journal.write(record)
        backend.commit()
        if self.kind == "sqlite":
            self.take_name(record)

    def take_name(self, record: Record) -> None:
        """Flush the finished SQLite build and give it the target's name."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None
        _flush(self.build_file)
        self._refuse_leftovers(self._file)
        taken = record.document.get("taken")
        if taken is not None and taken != self._marks():
            raise TargetError(
                "Another program wrote to the target file meanwhile.",
                where=str(self._file),
                next_step="Stop it and run the same command again, or name a file of its own with --to.",
                kind="locked",
                resumable=True,
            )
        # SQLite leaves its journal empty, which means: nothing to roll back.
        journal = Path(f"{self.build_file}-journal")
        if journal.exists() and journal.stat().st_size == 0:
            journal.unlink()
        self.build_file.replace(self._file)
        _flush(self._file.absolute().parent)

    def tidy(self) -> None:
        """Remove what a kill after the last word left behind."""
        if self.kind == "sqlite":
            if self._lock_file.exists():
                with suppress(TargetError):
                    self._take_build_lock()
                    self._release_build_lock()
            return
        backend = _open_server(self.uri)
        try:
            if CHUNK_TABLE in backend.catalog():
                Journal(backend, self.chain).forget_chunks()
                backend.commit()
        finally:
            backend.close()

    def remove_unfinished(self, standing: Standing) -> list[str]:
        """Remove what the unfinished migration ``standing`` made, and nothing else; what it was comes back.

        The target is locked. Raises:
            TargetError: somebody has put the unfinished target to use.
        """
        if self.kind == "sqlite":
            removed = [f for f in _with_side_files(self.build_file) if f.exists()]
            for file in removed:
                file.unlink()
            return [str(f) for f in removed]
        self._backend = _open_server(self.uri)
        self.refuse_strangers_rows(standing)
        made = set(standing.record.document.get("tables", ())) if standing.record else set()
        if standing.record is not None:
            self.advance(standing.record, phase="schema")
        removed_tables = sorted(made & set(self.backend.catalog()))
        self._drop(made, self.chain)
        self.backend.commit()
        self.forget()
        return [f"table {name}" for name in removed_tables]

    def forget(self) -> None:
        """Remove mlflowctl's own tables; those of another chain in the same database stay."""
        if self._backend is None:
            self._backend = (
                sqlite.open_target(self.uri, self._file) if self.kind == "sqlite" else _open_server(self.uri)
            )
        backend = self.backend
        self.journal.forget_chunks()
        backend.execute(f"DELETE FROM {JOURNAL_TABLE} WHERE chain = {backend.literal(self.chain)}")
        if not backend.rows(f"SELECT id FROM {JOURNAL_TABLE} LIMIT 1"):
            backend.execute(f"DROP TABLE {JOURNAL_TABLE}")
        backend.commit()

    def close(self) -> None:
        """Let go. An unfinished SQLite build stays under its own name; the next run carries on with it."""
        if self._backend is not None:
            with suppress(Exception):
                self._backend.close()
            self._backend = None
        if self._guard is not None:
            with suppress(Exception):
                self._guard.close()
            self._guard = None
        self._release_build_lock()

    def discard(self) -> None:
        """Remove the unfinished SQLite build at once (after a failure that no rerun mends)."""
        if self.kind == "sqlite":
            if self._backend is not None:
                self._backend.close()
                self._backend = None
            for file in _with_side_files(self.build_file):
                file.unlink(missing_ok=True)


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


def find_record(uri: StoreUri, chain: Chain) -> Record | None:
    """The journal row that a migration left at ``uri``, or None."""
    return Target(uri, chain).standing().record


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _with_side_files(build: Path) -> list[Path]:
    return [build, *(Path(f"{build}-{end}") for end in ("journal", "wal", "shm"))]


def _boot() -> str:
    """What identifies the time since the machine started; empty where the system does not tell."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def owner() -> dict[str, Any]:
    """Who works on a target: for whoever finds it locked."""
    since = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


__all__ = ["Record", "Standing", "Step", "Target", "Writer", "find_record", "owner"]
