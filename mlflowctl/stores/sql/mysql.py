"""MySQL and MariaDB through PyMySQL: LOAD DATA where the server allows it, multi-row INSERT where not."""

from __future__ import annotations

import itertools
import os
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from mlflowctl.core.errors import MlflowctlError, SourceError, TargetError
from mlflowctl.core.redact import redact_text
from mlflowctl.stores.api import Count, Trouble
from mlflowctl.stores.canonical import arrow_schema
from mlflowctl.stores.sql.backend import WriteBackend, lost
from mlflowctl.stores.uri import KEEPALIVE_COUNT, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, UNANSWERED_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mlflowctl.stores.schema import Column, Dialect, Table
    from mlflowctl.stores.uri import StoreUri

_FETCH_ROWS = 20_000
_FIRST_ROWS = 200
# Rows may be long (spans): a batch grows or shrinks towards this size.
_BATCH_BYTES = 8 << 20
_INSERT_ROWS = 500
_UNREACHABLE = {2002, 2003, 2005, 2006, 2013}
_DENIED = {1044, 1045, 1698}
# The server's words for: LOAD DATA LOCAL is off here.
_NO_LOCAL_INFILE = {1148, 3948, 4166, 2068}


class MysqlBackend(WriteBackend):
    """One MySQL or MariaDB connection."""

    dialect: Dialect = "mysql"

    def __init__(self, uri: StoreUri, *, side: str) -> None:
        self.uri = uri
        self._side = side
        self._error: type[MlflowctlError] = SourceError if side == "source" else TargetError
        from mlflowctl.stores.sql.circumstances import session_settings

        try:
            import pymysql
            import pymysql.cursors
        except ImportError:
            raise self._error(
                "The MySQL driver is not installed.",
                where=uri.redacted,
                next_step="pip install 'mlflowctl[mysql]'",
                kind="missing_driver",
            ) from None
        self._cursors = pymysql.cursors
        self._driver_error = pymysql.err.Error
        self._local_infile = True
        arguments = uri.mysql_arguments()
        if "unix_socket" in arguments and not any(name.startswith("ssl") for name in arguments):
            # The driver would read the system's list of authorities for each connection, for a socket of this machine.
            arguments["ssl_disabled"] = True
        try:
            self._connection: Any = pymysql.connect(
                charset="utf8mb4",
                autocommit=False,
                local_infile=True,
                binary_prefix=True,
                program_name=f"mlflowctl {os.getpid()}@{socket.gethostname()}",
                **arguments,
            )
            _notice_silence(self._connection)
            # Zero is a value (experiment 0), backslashes and zero dates mean what they mean everywhere.
            self.execute("SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ANSI_QUOTES'")
            self.execute("SET SESSION time_zone = '+00:00'")
            for statement in session_settings(self, side):
                self.execute(statement)
            if side == "source":
                self.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                self.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            else:
                # Unique keys are checked all the same: without, InnoDB may store a duplicate.
                self.execute("SET SESSION foreign_key_checks = 0")
        except pymysql.err.Error as bad:
            raise self._connect_error(bad) from bad

    def _connect_error(self, bad: Exception) -> MlflowctlError:
        number = bad.args[0] if bad.args else 0
        kind, next_step = "refused", "See the server's words above."
        if number in _UNREACHABLE:
            kind, next_step = (
                "unreachable",
                "Check host, port and that the server runs; the same command carries on then.",
            )
        elif number in _DENIED:
            kind, next_step = (
                "wrong_password",
                "Check user, password and rights; a password can come from a reference such as env://NAME.",
            )
        elif number == 1049:
            kind, next_step = "no_database", "Create it first: CREATE DATABASE name CHARACTER SET utf8mb4"
        words = redact_text(str(bad.args[1] if len(bad.args) > 1 else bad))
        return self._error(
            "The MySQL database cannot be opened.", where=self.uri.redacted, why=words, next_step=next_step, kind=kind
        )

    @contextmanager
    def _cursor(self, kind: Any = None) -> Iterator[Any]:
        cursor = self._connection.cursor(kind)
        try:
            yield cursor
        except AttributeError as bad:
            # PyMySQL stumbles over the socket that a broken connection no longer has.
            if self._connection.open:
                raise
            raise self._broken() from bad
        finally:
            if self._connection.open:
                cursor.close()
            else:
                # There is nothing left to read to its end, neither for the cursor nor for the result.
                cursor.connection = None
                if (result := getattr(cursor, "_result", None)) is not None:
                    result.unbuffered_active = False

    def _broken(self) -> Exception:
        error: Exception = self._driver_error(2013, "Lost connection to MySQL server")
        return error

    def catalog(self) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {}
        sql = (
            "SELECT c.table_name AS t, c.column_name AS c FROM information_schema.columns c JOIN information_schema.tables t "
            "ON t.table_schema = c.table_schema AND t.table_name = c.table_name WHERE c.table_schema = database() "
            "AND t.table_type = 'BASE TABLE' ORDER BY c.table_name, c.ordinal_position"
        )
        for row in self.rows(sql):
            found.setdefault(row["t"], []).append(row["c"])
        return {name: tuple(columns) for name, columns in found.items()}

    def rows(self, sql: str) -> list[dict[str, Any]]:
        try:
            with self._cursor(self._cursors.DictCursor) as cursor:
                cursor.execute(sql)
                return list(cursor.fetchall())
        except self._driver_error as bad:
            raise lost(self._error, self.uri, bad) from bad

    def stream(self, table: str, columns: Sequence[Column], within: str | None = None) -> Iterator[pa.RecordBatch]:
        schema = arrow_schema(columns)
        # A product with a double shows every bit; a bare FLOAT column comes rounded to six digits.
        cells = ", ".join(f"({self.quote(c.name)} * 1e0)" if c.kind == "float" else self.quote(c.name) for c in columns)
        take = _FIRST_ROWS
        try:
            with self._cursor(self._cursors.SSCursor) as cursor:
                cursor.execute(f"SELECT {cells} FROM {self.quote(table)}" + (f" WHERE {within}" if within else ""))
                while rows := cursor.fetchmany(take):
                    arrays = [
                        _array(values, c.kind) for values, c in zip(zip(*rows, strict=True), columns, strict=True)
                    ]
                    batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
                    yield batch
                    take = max(1, min(_FETCH_ROWS, take * 4, _BATCH_BYTES * len(rows) // max(1, batch.nbytes)))
        except self._driver_error as bad:
            raise lost(self._error, self.uri, bad) from bad

    def estimates(self, tables: Iterable[str]) -> Mapping[str, Count]:
        known = {
            r["t"]: int(r["n"] or 0)
            for r in self.rows(
                "SELECT table_name AS t, table_rows AS n FROM information_schema.tables WHERE table_schema = database()"
            )
        }
        counts: dict[str, Count] = {}
        for table in tables:
            if known.get(table, 0) >= 100_000:
                counts[table] = Count(known[table], estimated=True)
            else:
                counts[table] = Count(int(self.rows(f"SELECT count(*) AS n FROM {self.quote(table)}")[0]["n"]))
        return counts

    def ranges(self, table: Table, rows_each: int) -> list[str | None]:
        """Ranges of the primary key, in whose order InnoDB keeps the rows.

        Cuts lie between values of the key's first column; where one value has many rows, between numbers of the
        second.
        """
        kinds = {c.name: c.kind for c in table.columns}
        key = table.primary_key
        if not key or kinds[key[0]] not in ("text", "int"):
            return [None]
        first, name = self.quote(key[0]), self.quote(table.name)
        cuts: list[_Cut] = []
        large: list[tuple[int, str, int]] = []
        since = 0
        try:
            with self._cursor(self._cursors.SSCursor) as cursor:
                cursor.execute(f"SELECT {first}, count(*) FROM {name} GROUP BY {first} ORDER BY {first}")
                for place, (value, count) in enumerate(cursor):
                    if since >= rows_each:
                        cuts.append((place, self.literal(value), None))
                        since = 0
                    since += count
                    if count > 2 * rows_each:
                        large.append((place, self.literal(value), count))
        except self._driver_error as bad:
            raise lost(self._error, self.uri, bad) from bad
        if len(key) > 1 and kinds[key[1]] == "int":
            second = self.quote(key[1])
            for place, value, count in large:
                ends = self.rows(
                    f"SELECT min({second}) AS low, max({second}) AS high FROM {name} WHERE {first} = {value}"
                )[0]
                parts = count // rows_each + 1
                step = (ends["high"] - ends["low"]) // parts + 1
                cuts.extend((place, value, ends["low"] + step * n) for n in range(1, parts))
        if not cuts:
            return [None]
        # The places are those of the server's own order, which no other program knows.
        cuts.sort(key=lambda cut: (cut[0], cut[2] is not None, cut[2] or 0))
        return _between(first, self.quote(key[1]) if len(key) > 1 else "", cuts)

    def sibling(self) -> MysqlBackend | None:
        """Another connection to a target; a source's snapshot cannot be shared on MySQL."""
        return MysqlBackend(self.uri, side=self._side) if self._side == "target" else None

    def wrong_types(self, table: Table, columns: Sequence[Column]) -> list[Trouble]:
        return []

    def execute(self, sql: str) -> None:
        with self._cursor() as cursor:
            # PyMySQL formats only when arguments are given, so a % stands for itself.
            cursor.execute(sql)

    def append(self, table: Table, rows: pa.RecordBatch) -> None:
        if self._local_infile:
            try:
                self._load_data(table, rows)
                return
            except self._driver_error as bad:
                if not bad.args or bad.args[0] not in _NO_LOCAL_INFILE:
                    raise
                self._local_infile = False
        self._insert(table, rows)

    def _load_data(self, table: Table, rows: pa.RecordBatch) -> None:
        kinds = {c.name: c.kind for c in table.columns}
        names = rows.schema.names
        fields = [_load_field(array, kinds[name]) for name, array in zip(names, rows.columns, strict=True)]
        lines = pc.binary_join_element_wise(*fields, pa.scalar(b"\t", pa.binary()))
        lines = pc.binary_join_element_wise(lines, pa.scalar(b"", pa.binary()), pa.scalar(b"\n", pa.binary()))
        targets, sets = [], []
        for index, name in enumerate(names):
            if kinds[name] == "bytes":
                targets.append(f"@c{index}")
                sets.append(f"{self.quote(name)} = UNHEX(@c{index})")
            else:
                targets.append(self.quote(name))
        set_clause = f" SET {', '.join(sets)}" if sets else ""
        charset = "utf8mb4"
        handle, path = tempfile.mkstemp(prefix="mlflowctl-load-")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(_content(lines))
            with self._cursor() as cursor:
                cursor.execute(
                    f"LOAD DATA LOCAL INFILE {self.literal(path)} INTO TABLE {self.quote(table.name)} CHARACTER SET {charset} "
                    f"FIELDS TERMINATED BY '\\t' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' ({', '.join(targets)}){set_clause}"
                )
                # LOAD DATA LOCAL turns errors into warnings (duplicate keys, cut text), so every warning is one.
                cursor.execute("SHOW WARNINGS LIMIT 5")
                warnings = cursor.fetchall()
        finally:
            Path(path).unlink()
        if warnings:
            raise self._driver_error(int(warnings[0][1]), f"{table.name}: {warnings[0][2]}")

    def _insert(self, table: Table, rows: pa.RecordBatch) -> None:
        names = ", ".join(self.quote(n) for n in rows.schema.names)
        places = ", ".join(["%s"] * rows.num_columns)
        sql = f"INSERT INTO {self.quote(table.name).replace('%', '%%')} ({names.replace('%', '%%')}) VALUES ({places})"
        values = list(zip(*(column.to_pylist() for column in rows.columns), strict=True))
        with self._cursor() as cursor:
            for start in range(0, len(values), _INSERT_ROWS):
                cursor.executemany(sql, values[start : start + _INSERT_ROWS])

    def commit(self) -> None:
        try:
            self._connection.commit()
        except self._driver_error as bad:
            raise lost(self._error, self.uri, bad) from bad

    def rollback(self) -> None:
        self._connection.rollback()

    def set_sequences(self, tables: Iterable[Table]) -> None:
        """Nothing to set: AUTO_INCREMENT follows the greatest value that was loaded."""

    def analyze(self, tables: Iterable[str]) -> None:
        for table in tables:
            self.rows(f"ANALYZE TABLE {self.quote(table)}")

    def literal(self, value: str | int | float | None) -> str:
        return super().literal(value.replace("\\", "\\\\") if isinstance(value, str) else value)

    def close(self) -> None:
        self._connection.close()


_Cut = tuple[int, str, "int | None"]
"""The place of a value in the key's order, the value as a literal, and where in the second column to cut within it."""


def _notice_silence(connection: Any) -> None:
    """Let the system notice a host that is gone without a word, as libpq is told to for PostgreSQL."""
    line = getattr(connection, "_sock", None)  # PyMySQL has no option for it
    if line is None or line.family not in (socket.AF_INET, socket.AF_INET6):
        return
    options = {
        "TCP_KEEPIDLE": KEEPALIVE_IDLE,
        "TCP_KEEPINTVL": KEEPALIVE_INTERVAL,
        "TCP_KEEPCNT": KEEPALIVE_COUNT,
        "TCP_USER_TIMEOUT": UNANSWERED_SECONDS * 1000,
    }
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in options.items():
        if hasattr(socket, name):  # not every system has each
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _between(first: str, second: str, cuts: Sequence[_Cut]) -> list[str | None]:
    """The conditions of the parts between cuts."""

    def below(cut: _Cut) -> str:
        _, value, more = cut
        if more is None:
            return f"{first} < {value}"
        # The first half alone lets the server use the key.
        return f"{first} <= {value} AND ({first} < {value} OR {second} < {more})"

    def from_on(cut: _Cut) -> str:
        _, value, more = cut
        if more is None:
            return f"{first} >= {value}"
        return f"{first} >= {value} AND ({first} > {value} OR {second} >= {more})"

    middle: list[str | None] = [f"{from_on(a)} AND {below(b)}" for a, b in itertools.pairwise(cuts)]
    return [below(cuts[0]), *middle, from_on(cuts[-1])]


def _array(values: Sequence[Any], kind: str) -> pa.Array:
    if kind == "bool":
        return pa.array(values, pa.int64()).cast(pa.bool_())
    if kind == "bytes":
        return pa.array(values, pa.binary())
    if kind in ("text", "json"):
        return pa.array([v.decode() if isinstance(v, bytes) else v for v in values], pa.string())
    if kind == "date":
        return pa.array([None if v is None else str(v) for v in values], pa.string())
    if kind == "float":
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    return pa.array(values, pa.int64() if kind == "int" else pa.timestamp("us"))


def _content(values: pa.Array) -> memoryview:
    """All values of a binary array, one after the other, without a copy."""
    _, offsets, data = values.buffers()
    ends = memoryview(offsets).cast("i")
    return memoryview(data)[ends[values.offset] : ends[values.offset + len(values)]]


def _load_field(array: pa.Array, kind: str) -> pa.Array:
    """The column as LOAD DATA reads it: backslashes escape, and one before an N is NULL."""
    if kind == "bytes":
        text = pa.array([None if v is None else v.hex() for v in array.to_pylist()], pa.string())
    elif kind == "bool":
        text = array.cast(pa.int64()).cast(pa.string())
    else:
        text = array.cast(pa.string())
    field = text.cast(pa.binary())
    if kind in ("text", "json"):
        for raw, escaped in ((b"\\", b"\\\\"), (b"\t", b"\\t"), (b"\n", b"\\n"), (b"\r", b"\\r"), (b"\0", b"\\0")):
            field = pc.replace_substring(field, raw, escaped)
    return pc.fill_null(field, pa.scalar(b"\\N", pa.binary()))
