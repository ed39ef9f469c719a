"""What each database does in its own way; everything above it is written once."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from mlflowctl.core.redact import redact_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from mlflowctl.core.errors import MlflowctlError
    from mlflowctl.stores.api import Count, Trouble
    from mlflowctl.stores.schema import Column, Dialect, Table
    from mlflowctl.stores.uri import StoreUri


DISK_FULL = re.compile(r"no space|disk.*full|is full|disk i/o error|file too large", re.IGNORECASE)


def lost(error: type[MlflowctlError], uri: StoreUri, bad: Exception) -> MlflowctlError:
    """A driver's error in the middle of the work, in the words of the side that it concerns."""
    text = redact_text(str(bad)).strip()
    if DISK_FULL.search(text):
        return error(
            "The disk is full, or a limit on the size of files was met.",
            where=uri.redacted,
            why=text,
            next_step="Free space, then run the same command.",
            kind="disk_full",
            resumable=True,
        )
    if re.search(r"lock", text, re.IGNORECASE):
        return error(
            "The database is locked by another program.",
            where=uri.redacted,
            why=text,
            next_step="Let the other program finish or stop it, then run the same command.",
            kind="locked",
            resumable=True,
        )
    return error(
        "The database failed while it was used.",
        where=uri.redacted,
        why=text,
        next_step="See that it runs and can be reached, then run the same command.",
        kind="unreachable",
        resumable=True,
    )


class Backend(ABC):
    """One open database.

    ``rows``, ``stream`` and ``commit`` raise ``SourceError`` or ``TargetError`` according to the side it was opened
    for; ``execute`` and ``append`` raise the driver's own error, which ``Target`` puts into words.
    """

    dialect: Dialect
    uri: StoreUri
    loose_types: ClassVar[bool] = False
    """Whether a cell may hold a value of another type than its column's."""

    @abstractmethod
    def catalog(self) -> Mapping[str, tuple[str, ...]]:
        """Tables of the current schema with their columns in order."""

    @abstractmethod
    def rows(self, sql: str) -> list[dict[str, Any]]:
        """A small result."""

    @abstractmethod
    def stream(self, table: str, columns: Sequence[Column]) -> Iterator[pa.RecordBatch]:
        """Rows of a table in canonical Arrow types, in batches of bounded size.

        Where types are loose, rows with a cell of another type are left out: the caller counts, and names them with
        ``wrong_types``.
        """

    @abstractmethod
    def estimates(self, tables: Iterable[str]) -> Mapping[str, Count]:
        """Rows per table, as exact as the database can say at once."""

    @abstractmethod
    def wrong_types(self, table: Table, columns: Sequence[Column]) -> list[Trouble]:
        """Cells whose value is not of the column's kind (SQLite alone lets that happen)."""

    def quote(self, name: str) -> str:
        """``name`` as an identifier."""
        return '"' + name.replace('"', '""') + '"'

    @abstractmethod
    def close(self) -> None: ...


class WriteBackend(Backend):
    """An open database that can be written."""

    @abstractmethod
    def execute(self, sql: str) -> None: ...

    @abstractmethod
    def append(self, table: Table, rows: pa.RecordBatch) -> None:
        """Bulk-append canonical rows, within the open transaction."""

    @abstractmethod
    def commit(self) -> None: ...

    @abstractmethod
    def rollback(self) -> None: ...

    @abstractmethod
    def set_sequences(self, tables: Iterable[Table]) -> None:
        """Make the next generated IDs follow the copied ones."""

    @abstractmethod
    def analyze(self, tables: Iterable[str]) -> None:
        """Refresh the planner's statistics."""

    def literal(self, value: str | int | float | None) -> str:
        """``value`` as an SQL literal."""
        if value is None:
            return "NULL"
        if isinstance(value, bool):
            return "1" if value else "0"
        if isinstance(value, (int, float)):
            return repr(value)
        return "'" + value.replace("'", "''") + "'"
