"""A thin layer over the ADBC driver manager.

The ``dbapi`` modules of the ADBC drivers are left alone: they import pandas and pyarrow.dataset, which costs seconds.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import adbc_driver_manager as manager
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Error = manager.Error


class StreamError(Exception):
    """A result broke off in the middle."""


class Connection:
    """One ADBC connection to one database. Raises ``Error`` (with ``sqlstate``) from the driver."""

    def __init__(self, driver: str, uri: str) -> None:
        self._streams: set[ExitStack] = set()
        self._database = manager.AdbcDatabase(driver=driver, uri=uri)
        try:
            self._connection = manager.AdbcConnection(self._database)
        except BaseException:
            self._database.close()
            raise

    def begin(self) -> None:
        """Leave autocommit: a transaction opens with the next statement."""
        self._connection.set_autocommit(False)

    def commit(self) -> None:
        self._connection.commit()

    def rollback(self) -> None:
        self._connection.rollback()

    def execute(self, sql: str) -> None:
        """Run a statement whose result nobody reads."""
        statement = manager.AdbcStatement(self._connection)
        try:
            statement.set_sql_query(sql)
            statement.execute_update()
        finally:
            statement.close()

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """The whole (small) result as dictionaries."""
        return [row for batch in self.stream(sql) for row in batch.to_pylist()]

    def scalar(self, sql: str) -> Any:
        """The first value of the first row, or None."""
        for row in self.rows(sql):
            return next(iter(row.values()))
        return None

    def stream(self, sql: str, options: Mapping[str, str] | None = None) -> Iterator[pa.RecordBatch]:
        """The result as record batches, fetched while they are taken."""
        statement = manager.AdbcStatement(self._connection)
        opened = ExitStack()
        opened.callback(statement.close)
        self._streams.add(opened)
        try:
            if options:
                statement.set_options(**options)
            statement.set_sql_query(sql)
            handle, _ = statement.execute_query()
            reader = pa.RecordBatchReader._import_from_c(handle.address)
            opened.callback(reader.close)
            yield from reader
        except (OSError, pa.ArrowException) as bad:
            # pyarrow raises these for an error of the driver in the middle of a result.
            raise StreamError(str(bad)) from bad
        finally:
            self._streams.discard(opened)
            opened.close()

    def append(self, table: str, rows: pa.RecordBatch) -> None:
        """Bulk-append ``rows`` to an existing table, matching columns by name."""
        statement = manager.AdbcStatement(self._connection)
        try:
            statement.set_options(
                **{
                    "adbc.ingest.target_table": table,
                    "adbc.ingest.mode": "adbc.ingest.mode.append",
                }
            )
            statement.bind(rows)
            statement.execute_update()
        finally:
            statement.close()

    def close(self) -> None:
        """Close; a stream that nobody read to its end is closed first."""
        for stream in list(self._streams):
            stream.close()
        self._connection.close()
        self._database.close()
