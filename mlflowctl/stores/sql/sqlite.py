"""SQLite through ADBC: the source read-only at one instant, the target built beside its name."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import adbc_driver_sqlite
import pyarrow as pa

from mlflowctl.core.errors import SourceError, TargetError
from mlflowctl.stores.api import Count, OddRow, Trouble
from mlflowctl.stores.canonical import arrow_schema
from mlflowctl.stores.sql import adbc
from mlflowctl.stores.sql.backend import Backend, WriteBackend, lost
from mlflowctl.stores.uri import quoted_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mlflowctl.stores.schema import Column, Dialect, Table
    from mlflowctl.stores.uri import StoreUri

_BATCH_ROWS = 65_536
_BATCH_BYTES = 16 << 20
_SHORT = 1000
# A first row of the right types: the driver takes a column's type from the first rows it sees.
_PRIMES = {
    "int": "0",
    "float": "0.0",
    "bool": "0",
    "text": "''",
    "json": "''",
    "bytes": "x''",
    "date": "''",
    "datetime": "0",
}
_CELL_TYPES = {
    "int": "'integer', 'null'",
    "float": "'real', 'integer', 'null'",
    "bool": "'integer', 'null'",
    "text": "'text', 'null'",
    "json": "'text', 'integer', 'real', 'null'",
    "bytes": "'blob', 'null'",
    "date": "'text', 'null'",
    "datetime": "'integer', 'null'",
}
_MAX_NAMED_ROWS = 1000
_MAX_ODD_ROWS = 1_000_000
_MAX_PARTS = 100_000


class SqliteBackend(WriteBackend):
    """One SQLite file over one ADBC connection."""

    dialect: Dialect = "sqlite"
    loose_types = True

    def __init__(
        self,
        uri: StoreUri,
        *,
        file: Path,
        side: str,
        copy: tempfile.TemporaryDirectory[str] | None = None,
        state: str | None = None,
    ) -> None:
        self.uri = uri
        self.file = file
        self._side = side
        self._copy = copy
        self.private = copy is not None
        # Before the first read, so that what is written meanwhile makes a difference.
        self._state = (state or _state_of(file)) if side == "source" else None
        mode = "ro" if side == "source" and copy is None else "rwc" if side == "target" else "rw"
        self._connection = adbc.Connection(
            adbc_driver_sqlite._driver_path(), f"file:{quoted_path(file.absolute())}?mode={mode}"
        )
        if side == "source":
            # A writer holds its lock for moments; it is waited for.
            self._connection.scalar("PRAGMA busy_timeout = 10000")
            self._connection.execute("PRAGMA query_only = 1")
            self._connection.begin()

    def catalog(self) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        names = self.rows(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        )
        for row in names:
            # table_xinfo also lists generated columns.
            columns = self.rows(f"SELECT name FROM pragma_table_xinfo({self.literal(row['name'])}) ORDER BY cid")
            found[row["name"]] = tuple(column["name"] for column in columns)
        return found

    def rows(self, sql: str) -> list[dict[str, Any]]:
        try:
            return self._connection.rows(sql)
        except (adbc.Error, adbc.StreamError) as bad:
            raise lost(SourceError if self._side == "source" else TargetError, self.uri, bad) from bad

    def stream(self, table: str, columns: Sequence[Column], within: str | None = None) -> Iterator[pa.RecordBatch]:
        schema = arrow_schema(columns)
        primes = ", ".join(f"{_PRIMES[c.kind]} AS {self.quote(c.name)}" for c in columns)
        cells = ", ".join(self._cell(c) for c in columns)
        sql = f"SELECT {primes} UNION ALL SELECT {cells} FROM {self.quote(table)}"
        tests = [within] if within else []
        if self._side == "source":
            tests.append(f"NOT ({' OR '.join(self._wrong_cell(c) for c in columns)})")
        if tests:
            sql += f" WHERE {' AND '.join(tests)}"
        first = True
        options = {"adbc.sqlite.query.batch_rows": str(self._batch_rows(table, columns))}
        try:
            for batch in self._connection.stream(sql, options):
                rows = batch.slice(1) if first else batch
                first = False
                if rows.num_rows:
                    arrays = [rows.column(i).cast(schema.field(i).type) for i in range(len(columns))]
                    yield pa.RecordBatch.from_arrays(arrays, schema=schema)
        except (adbc.Error, adbc.StreamError) as bad:
            raise lost(SourceError if self._side == "source" else TargetError, self.uri, bad) from bad

    def _batch_rows(self, table: str, columns: Sequence[Column]) -> int:
        """Rows of a batch: fewer where text without a limit makes rows long (spans)."""
        long = [c for c in columns if c.kind in ("text", "json", "bytes") and (c.length is None or c.length > _SHORT)]
        if not long:
            return _BATCH_ROWS
        size = " + ".join(f"coalesce(length(CAST({self.quote(c.name)} AS BLOB)), 0)" for c in long)
        name = self.quote(table)
        ends = " UNION ALL ".join(
            f"SELECT * FROM (SELECT {size} AS n FROM {name} ORDER BY rowid {way} LIMIT 200)" for way in ("ASC", "DESC")
        )
        average = self._connection.scalar(f"SELECT avg(n) FROM ({ends})") or 0
        return int(max(64, min(_BATCH_ROWS, _BATCH_BYTES // max(1, int(average)))))

    def _cell(self, column: Column) -> str:
        name = self.quote(column.name)
        if column.kind == "json":
            # A JSON column has numeric affinity: SQLite keeps a bare number as a number.
            return (
                f"CASE typeof({name}) WHEN 'real' THEN printf('%!.17g', {name}) "
                f"WHEN 'null' THEN NULL ELSE CAST({name} AS TEXT) END"
            )
        return name

    def estimates(self, tables: Iterable[str]) -> Mapping[str, Count]:
        return {t: Count(int(self._connection.scalar(f"SELECT count(*) FROM {self.quote(t)}"))) for t in tables}

    def wrong_types(self, table: Table, columns: Sequence[Column]) -> list[Trouble]:
        tests = [self._wrong_cell(c) for c in columns]
        if not tests:
            return []
        name = self.quote(table.name)
        if not self._connection.scalar(f"SELECT EXISTS (SELECT 1 FROM {name} WHERE {' OR '.join(tests)})"):
            return []
        troubles: list[Trouble] = []
        key = table.primary_key or ("rowid",)
        keys = ", ".join(f"CAST({self.quote(k)} AS TEXT) AS {self.quote(k)}" for k in key)
        for column, test in zip(columns, tests, strict=True):
            cell = self.quote(column.name)
            sql = (
                f'SELECT typeof({cell}) AS "  type", substr(quote({cell}), 1, 80) AS "  shown", {keys} '
                f"FROM {name} WHERE {test} LIMIT {_MAX_NAMED_ROWS}"
            )
            for row in self.rows(sql):
                where = ", ".join(f"{k}={row[k]}" for k in key)
                troubles.append(
                    Trouble(
                        "wrong_type",
                        f"{table.name}[{where}].{column.name}",
                        f"{row['  shown']} is {row['  type']}, the column is {column.kind}",
                    )
                )
        return troubles

    def odd_rows(self, table: str, columns: Sequence[Column], within: str | None = None) -> list[OddRow]:
        """The rows that ``stream`` left out, each cell as it is stored; text that is not UTF-8 as bytes."""
        test = " OR ".join(self._wrong_cell(c) for c in columns)
        cells = []
        for number, column in enumerate(columns):
            cell = self.quote(column.name)
            # One text for any type: the driver gives a column one type, and these rows have several.
            shown = f"CASE typeof({cell}) WHEN 'real' THEN printf('%!.17g', {cell}) ELSE hex(CAST({cell} AS BLOB)) END"
            cells.append(f"typeof({cell}) AS t{number}, {shown} AS v{number}")
        where = f"({within}) AND ({test})" if within else test
        encoding = str(self._connection.scalar("PRAGMA encoding"))
        found = self.rows(f"SELECT {', '.join(cells)} FROM {self.quote(table)} WHERE {where} LIMIT {_MAX_ODD_ROWS}")
        return [
            OddRow({c.name: _as_stored(row[f"t{n}"], row[f"v{n}"], encoding) for n, c in enumerate(columns)})
            for row in found
        ]

    def ranges(self, table: Table, rows_each: int) -> list[str | None]:
        name = self.quote(table.name)
        ends = self.rows(f"SELECT (SELECT min(rowid) FROM {name}) AS low, (SELECT max(rowid) FROM {name}) AS high")[0]
        if ends["low"] is None or ends["high"] - ends["low"] < rows_each:
            return [None]
        low, high = int(ends["low"]), int(ends["high"])
        parts = (high - low) // rows_each + 1
        if parts > _MAX_PARTS:
            # Row numbers are far apart: IDs that somebody chose. Such tables are small, unless they are not.
            parts = min(int(self.rows(f"SELECT count(*) AS n FROM {name}")[0]["n"]) // rows_each + 1, _MAX_PARTS)
            if parts == 1:
                return [None]
        step = (high - low) // parts + 1
        cuts = [low + step * n for n in range(1, parts)]
        middle: list[str | None] = [f"rowid >= {a} AND rowid < {b}" for a, b in itertools.pairwise(cuts)]
        return [f"rowid < {cuts[0]}", *middle, f"rowid >= {cuts[-1]}"]

    def state(self) -> str | None:
        """What identified the file's content when it was opened: size, time and SQLite's own change counter, and the log's."""
        return self._state

    def sibling(self) -> Backend | None:
        """The connection itself: SQLite takes statements of several threads in turn, within one transaction."""
        return self

    def _wrong_cell(self, column: Column) -> str:
        cell = self.quote(column.name)
        test = f"typeof({cell}) NOT IN ({_CELL_TYPES[column.kind]})"
        if column.kind == "bool":
            return f"({test} OR coalesce({cell} NOT IN (0, 1), 0))"
        if column.kind == "float":  # an integer of more than 53 bits would be rounded
            real = f"CAST(CAST({cell} AS REAL) AS INTEGER)"
            return f"({test} OR (typeof({cell}) = 'integer' AND {real} IS NOT {cell}))"
        if column.kind == "json":  # infinity is a number to SQLite, and none to JSON
            return f"({test} OR (typeof({cell}) = 'real' AND abs({cell}) = 9e999))"
        return test

    def execute(self, sql: str) -> None:
        self._connection.execute(sql)

    def begin(self) -> None:
        """Open a transaction that later writes join."""
        self._connection.begin()

    def append(self, table: Table, rows: pa.RecordBatch) -> None:
        arrays = [a.cast(pa.int64()) if pa.types.is_boolean(a.type) else a for a in rows.columns]
        self._connection.append(table.name, pa.RecordBatch.from_arrays(arrays, names=rows.schema.names))

    def commit(self) -> None:
        try:
            self._connection.commit()
        except adbc.Error as bad:
            raise lost(TargetError, self.uri, bad) from bad

    def rollback(self) -> None:
        self._connection.rollback()

    def set_sequences(self, tables: Iterable[Table]) -> None:
        """Nothing to set: an INTEGER PRIMARY KEY goes on after the greatest one; AUTOINCREMENT is kept by SQLite."""

    def analyze(self, tables: Iterable[str]) -> None:
        self.execute("ANALYZE")

    def close(self) -> None:
        self._connection.close()
        if self._copy is not None:
            self._copy.cleanup()


def _as_stored(kind: str, shown: str | None, encoding: str) -> int | float | str | bytes | None:
    """A cell from ``typeof`` and its text (a real's digits, else the bytes in hexadecimal, text in the file's encoding)."""
    if kind == "null" or shown is None:
        return None
    if kind == "real":
        return float(shown)
    raw = bytes.fromhex(shown)
    if kind == "blob":
        return raw
    try:
        text = raw.decode({"UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}.get(encoding, "utf-8"))
    except UnicodeDecodeError:
        return raw
    return int(text) if kind == "integer" else text


def open_source(uri: StoreUri) -> tuple[SqliteBackend, list[str]]:
    """Open a SQLite file for reading; the file, its WAL and its journal stay byte for byte as they are.

    Returns the backend and notes for the report.

    Raises:
        SourceError: no such file, not readable, not a database.
    """
    file = uri.path
    assert file is not None
    if not file.exists():
        raise SourceError(
            "There is no such SQLite file.",
            where=str(file),
            next_step="Check the path given to --from.",
            kind="not_found",
        )
    if file.is_dir():
        raise SourceError(
            "That is a folder, not a SQLite file.",
            where=str(file),
            next_step="Name the .db file inside it, or give the folder as a path.",
            kind="not_a_store",
        )
    if not os.access(file, os.R_OK):
        raise SourceError(
            "The SQLite file cannot be read.",
            where=str(file),
            why="Permission denied.",
            next_step="Run as a user who may read it.",
            kind="unreadable",
        )
    if file.stat().st_size == 0 and not Path(f"{file}-wal").exists():
        raise SourceError(
            "The SQLite file is empty (0 bytes).",
            where=str(file),
            next_step="Check the path; nothing can be migrated from it.",
            kind="not_a_store",
        )
    notes: list[str] = []
    wal, shm, journal = (Path(f"{file}-{end}") for end in ("wal", "shm", "journal"))
    pending = journal.exists() and journal.stat().st_size > 0
    left_wal = wal.exists() and wal.stat().st_size > 0 and not shm.exists()
    if pending and _readable_in_place(uri, file):
        pending = False
    if not pending and not left_wal:
        return _opened(uri, file, None, None), notes
    # To read such a file SQLite must write (roll back the journal, index the WAL), so a private copy is read instead.
    copy = tempfile.TemporaryDirectory(prefix="mlflowctl-")
    private = Path(copy.name) / file.name
    state = _state_of(file)
    before = _marks(file, wal, journal)
    try:
        for original in (file, wal, journal):
            with suppress(FileNotFoundError):
                shutil.copyfile(original, Path(copy.name) / original.name)
    except OSError as bad:
        copy.cleanup()
        raise SourceError(
            "There is no room for the private copy through which this SQLite file must be read.",
            where=str(Path(copy.name).parent),
            why=f"{bad.strerror}: the file has {'a hot journal' if pending else 'a write-ahead log and no writer'}.",
            next_step="Free space there or name another folder in TMPDIR, then run the same command.",
            kind="disk_full" if bad.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) else "unreadable",
            resumable=True,
        ) from bad
    if _marks(file, wal, journal) != before:
        copy.cleanup()
        raise SourceError(
            "The SQLite file changed while it was copied.",
            where=str(file),
            why="Another program writes to it.",
            next_step="Stop the writer, or run the same command again.",
            kind="locked",
            resumable=True,
        )
    what = (
        "a hot journal: an unfinished transaction was rolled back"
        if pending
        else "a write-ahead log: its committed rows were read"
    )
    notes.append(f"{file.name} had {what} in a private copy, the original is untouched.")
    return _opened(uri, private, copy, state), notes


def _marks(*files: Path) -> list[tuple[int, int] | None]:
    """Size and time of each file, to see that nobody wrote meanwhile."""
    found: list[tuple[int, int] | None] = []
    for file in files:
        try:
            stat = file.stat()
            found.append((stat.st_size, stat.st_mtime_ns))
        except FileNotFoundError:
            found.append(None)
    return found


def _state_of(file: Path) -> str:
    marks = _marks(file, Path(f"{file}-wal"), Path(f"{file}-journal"))
    with file.open("rb") as stream:
        counter = stream.read(28)[24:28].hex()
    return f"{marks} {counter}"


def _readable_in_place(uri: StoreUri, file: Path) -> bool:
    """Whether the journal belongs to a writer at work (the file reads well) and is not hot."""
    try:
        backend = SqliteBackend(uri, file=file, side="source")
    except adbc.Error:
        return False
    try:
        backend.rows("SELECT count(*) AS n FROM sqlite_master")
        return True
    except SourceError as bad:
        if bad.kind == "locked":
            raise
        return False
    finally:
        backend.close()


def _opened(
    uri: StoreUri, file: Path, copy: tempfile.TemporaryDirectory[str] | None, state: str | None
) -> SqliteBackend:
    try:
        backend = SqliteBackend(uri, file=file, side="source", copy=copy, state=state)
        backend.rows("SELECT count(*) AS n FROM sqlite_master")
    except SourceError as bad:
        if bad.kind == "locked":
            raise
        raise _no_database(uri, bad.why or "") from bad
    except adbc.Error as bad:
        raise _no_database(uri, str(bad)) from bad
    return backend


def _no_database(uri: StoreUri, why: str) -> SourceError:
    return SourceError(
        "The file cannot be read as a SQLite database.",
        where=str(uri.path),
        why=why,
        next_step="Check it with: sqlite3 FILE 'PRAGMA integrity_check'",
        kind="not_a_store",
    )


def open_target(uri: StoreUri, file: Path) -> SqliteBackend:
    """Open ``file`` (the build file beside the target's name) for bulk writing.

    Nothing is flushed while it is built: a kill leaves what was committed, a power cut may not, and nobody looks at
    it before it is proven, flushed and renamed.
    """
    try:
        backend = SqliteBackend(uri, file=file, side="target")
        for pragma in (
            "locking_mode = EXCLUSIVE",
            "journal_mode = TRUNCATE",
            "synchronous = OFF",
            "cache_size = -65536",
            "foreign_keys = OFF",
            "temp_store = FILE",
        ):
            backend.rows(f"PRAGMA {pragma}")
        backend.begin()
    except adbc.Error as bad:
        raise TargetError(
            "The SQLite target cannot be written.",
            where=str(file),
            why=str(bad),
            next_step="Check the folder's rights and free space.",
            kind="unwritable",
        ) from bad
    return backend
