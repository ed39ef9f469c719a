"""PostgreSQL through ADBC: binary COPY both ways."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mlflowctl.core.errors import MlflowctlError, SourceError, TargetError
from mlflowctl.core.redact import redact_text
from mlflowctl.stores.api import Count, Trouble
from mlflowctl.stores.canonical import arrow_schema
from mlflowctl.stores.sql import adbc
from mlflowctl.stores.sql.backend import WriteBackend, lost

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mlflowctl.stores.schema import Column, Dialect, Table
    from mlflowctl.stores.uri import StoreUri

_CASTS = {
    "int": "bigint",
    "float": "double precision",
    "bool": "boolean",
    "text": "text",
    "json": "text",
    "bytes": "bytea",
    "date": "text",
    "datetime": "timestamp",
}
_INTS = {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}
# Batches stay small enough that reader, hash and writer together hold few tens of MB.
_BATCH_BYTES = str(4 << 20)
# Counting fewer pages than this (16 MB) costs less than it is worth to guess.
_MANY_PAGES, _SAMPLE_PAGES = 2000, 100


class PostgresBackend(WriteBackend):
    """One PostgreSQL connection; the schema is the first of its search_path."""

    dialect: Dialect = "postgresql"

    def __init__(self, uri: StoreUri, *, side: str, snapshot: str | None = None) -> None:
        self.uri = uri
        self._side = side
        self._snapshot = snapshot
        self._error: type[MlflowctlError] = SourceError if side == "source" else TargetError
        from mlflowctl.stores.sql.circumstances import session_settings

        try:
            import adbc_driver_postgresql
        except ImportError:
            raise self._error(
                "The PostgreSQL driver is not installed.",
                where=uri.redacted,
                next_step="pip install 'mlflowctl[postgres]'",
                kind="missing_driver",
            ) from None
        try:
            self._connection = adbc.Connection(adbc_driver_postgresql._driver_path(), uri.libpq())
            if side == "source":
                self._connection.begin()
                self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                if snapshot is not None:
                    self._connection.execute(f"SET TRANSACTION SNAPSHOT {self.literal(snapshot)}")
            for statement in session_settings(self, side):
                self._connection.rows(statement)
            if side == "target":
                # Sorting for the indexes is most of the work; the server's default of 64 MB makes it spill often.
                self.execute("SET maintenance_work_mem = '256MB'")
                self.execute("SET standard_conforming_strings = on")
                self._connection.begin()
            self.schema = self._connection.scalar("SELECT current_schema() AS s")
        except adbc.Error as bad:
            raise self._connect_error(bad) from bad
        if self.schema is None:
            raise self._error(
                "The schema that the URI names does not exist.",
                where=uri.redacted,
                next_step="CREATE SCHEMA it first, or correct search_path in the URI's options.",
                kind="no_schema",
            )

    def _connect_error(self, bad: Exception) -> MlflowctlError:
        text = redact_text(str(bad)).strip()
        kind, next_step = "unreachable", "Check host, port and that the server runs; the same command carries on then."
        if "password authentication" in text or "no password supplied" in text:
            kind, next_step = (
                "wrong_password",
                "Check user and password; a password can come from a reference such as env://NAME.",
            )
        elif re.search(r'database ".*" does not exist', text):
            kind, next_step = "no_database", "Create the database first: createdb NAME"
        return self._error(
            "The PostgreSQL database cannot be opened.",
            where=self.uri.redacted,
            why=text,
            next_step=next_step,
            kind=kind,
        )

    def catalog(self) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {}
        sql = (
            "SELECT c.relname::text AS t, a.attname::text AS c FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
            "WHERE c.relnamespace = quote_ident(current_schema())::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0 "
            "AND NOT a.attisdropped ORDER BY c.relname, a.attnum"
        )
        for row in self.rows(sql):
            found.setdefault(row["t"], []).append(row["c"])
        return {name: tuple(columns) for name, columns in found.items()}

    def rows(self, sql: str) -> list[dict[str, Any]]:
        try:
            return self._connection.rows(sql)
        except (adbc.Error, adbc.StreamError) as bad:
            raise lost(self._error, self.uri, bad) from bad

    def stream(self, table: str, columns: Sequence[Column], within: str | None = None) -> Iterator[pa.RecordBatch]:
        schema = arrow_schema(columns)
        cells = ", ".join(f"{self.quote(c.name)}::{_CASTS[c.kind]} AS {self.quote(c.name)}" for c in columns)
        sql = f"SELECT {cells} FROM {self.quote(table)}" + (f" WHERE {within}" if within else "")
        try:
            for batch in self._connection.stream(sql, {"adbc.postgresql.batch_size_hint_bytes": _BATCH_BYTES}):
                if batch.num_rows:
                    arrays = [batch.column(i).cast(schema.field(i).type) for i in range(len(columns))]
                    yield pa.RecordBatch.from_arrays(arrays, schema=schema)
        except (adbc.Error, adbc.StreamError) as bad:
            raise lost(self._error, self.uri, bad) from bad

    def estimates(self, tables: Iterable[str]) -> Mapping[str, Count]:
        known = {
            row["t"]: (int(row["n"]), int(row["p"]))
            for row in self.rows(
                "SELECT relname::text AS t, reltuples::bigint AS n, "
                "pg_relation_size(oid) / current_setting('block_size')::bigint AS p FROM pg_class "
                "WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relkind IN ('r', 'p')"
            )
        }
        counts: dict[str, Count] = {}
        for table in tables:
            rows, pages = known.get(table, (-1, 0))
            if rows < 0 and pages >= _MANY_PAGES:  # loaded and not analysed yet
                rows = self._extrapolated(table, pages)
            if rows >= 100_000:
                counts[table] = Count(rows, estimated=True)
            else:
                counts[table] = Count(int(self._connection.scalar(f"SELECT count(*) AS n FROM {self.quote(table)}")))
        return counts

    def _extrapolated(self, table: str, pages: int) -> int:
        """A table's rows by those of its first pages. Before PostgreSQL 14 that reads all of it, as counting would."""
        sql = f"SELECT count(*) AS n FROM {self.quote(table)} WHERE ctid < '({_SAMPLE_PAGES},0)'::tid"
        return int(self._connection.scalar(sql)) * pages // _SAMPLE_PAGES

    def ranges(self, table: Table, rows_each: int) -> list[str | None]:
        """Ranges of the heap's pages: read in the order in which they lie, whatever the keys are."""
        name = self.literal(self.quote(table.name))
        facts = self.rows(
            "SELECT current_setting('server_version_num')::int AS version, "
            f"pg_relation_size({name}::regclass) / current_setting('block_size')::bigint AS pages, "
            f"(SELECT reltuples::bigint FROM pg_class WHERE oid = {name}::regclass) AS rows"
        )[0]
        # Before 14 a condition on ctid reads the whole table each time.
        if facts["version"] < 140000 or facts["pages"] < 2:
            return [None]
        rows = facts["rows"]
        if rows < 0 and facts["pages"] >= _MANY_PAGES:
            rows = self._extrapolated(table.name, facts["pages"])
        if rows < rows_each:
            return [None]
        parts = int(min(rows // rows_each + 1, facts["pages"]))
        cuts = [int(facts["pages"]) * n // parts for n in range(1, parts)]
        middle: list[str | None] = [
            f"ctid >= '({a},0)'::tid AND ctid < '({b},0)'::tid" for a, b in itertools.pairwise(cuts)
        ]
        return [f"ctid < '({cuts[0]},0)'::tid", *middle, f"ctid >= '({cuts[-1]},0)'::tid"]

    def sibling(self) -> PostgresBackend | None:
        """Another connection; on a source one that sees the same exported snapshot."""
        if self._side == "source" and self._snapshot is None:
            self._snapshot = str(self._connection.scalar("SELECT pg_export_snapshot() AS s"))
        return PostgresBackend(self.uri, side=self._side, snapshot=self._snapshot)

    def wrong_types(self, table: Table, columns: Sequence[Column]) -> list[Trouble]:
        return []

    def execute(self, sql: str) -> None:
        self._connection.execute(sql)

    def append(self, table: Table, rows: pa.RecordBatch) -> None:
        columns = {column.name: column for column in table.columns}
        arrays = []
        for name, array in zip(rows.schema.names, rows.columns, strict=True):
            column = columns[name]
            if column.kind == "int":
                array = array.cast(_INTS[column.bits or 64])
            elif column.kind == "date":
                array = array.cast(pa.date32())
            elif column.kind == "float" and column.sql_type == "real":
                array = array.cast(pa.float32())
            arrays.append(array)
        self._connection.append(table.name, pa.RecordBatch.from_arrays(arrays, names=rows.schema.names))

    def commit(self) -> None:
        try:
            self._connection.commit()
        except adbc.Error as bad:
            raise lost(self._error, self.uri, bad) from bad

    def rollback(self) -> None:
        self._connection.rollback()

    def set_sequences(self, tables: Iterable[Table]) -> None:
        for table in tables:
            for column in table.columns:
                if column.identity:
                    name = self.quote(column.name)
                    owner = self.literal(self.quote(table.name))
                    self.execute(
                        f"SELECT setval(pg_get_serial_sequence({owner}, {self.literal(column.name)}), "
                        f"GREATEST((SELECT max({name}) FROM {self.quote(table.name)}), 1), "
                        f"(SELECT count(*) > 0 FROM {self.quote(table.name)} WHERE {name} >= 1))"
                    )

    def analyze(self, tables: Iterable[str]) -> None:
        for table in tables:
            self.execute(f"ANALYZE {self.quote(table)}")

    def literal(self, value: str | int | float | None) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        return super().literal(value)

    def close(self) -> None:
        self._connection.close()
