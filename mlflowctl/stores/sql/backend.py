"""What each database does in its own way; everything above it is written once."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from mlflowctl.core.errors import SourceError
from mlflowctl.core.redact import redact_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from mlflowctl.core.errors import MlflowctlError
    from mlflowctl.stores.api import Count, OddRow, Trouble
    from mlflowctl.stores.schema import Column, Dialect, Table
    from mlflowctl.stores.uri import StoreUri


DISK_FULL = re.compile(r"no space|disk.*full|is full|disk i/o error|file too large", re.IGNORECASE)
GONE = re.compile(
    r"server closed|connection.*(lost|closed|refused|reset|aborted|timed out|invalid)|lost connection|gone away"
    r"|no connection|terminat|can't connect|could not connect|could not (receive|send) data|broken pipe|EOF detected"
    r"|shutting down|starting up|in recovery mode|packet sequence|interface ?error|not (yet )?accepting connections",
    re.IGNORECASE,
)
_LOCKED = re.compile(r"\block(ed|s)?\b|deadlock|lock wait", re.IGNORECASE)


def lost(error: type[MlflowctlError], uri: StoreUri, bad: Exception) -> MlflowctlError:
    """A driver's error in the middle of the work, in the words of the side that it concerns.

    Its kind is ``disk_full``, ``unreachable`` (the connection broke: it may be tried again), ``locked`` or ``failed``.
    """
    text = redact_text(str(bad)).strip()
    what, kind = "The database failed while it was used.", "failed"
    next_step = "See the database's own log, mend the cause, then run the same command."
    if DISK_FULL.search(text):
        what, kind = "The disk is full, or a limit on the size of files was met.", "disk_full"
        next_step = "Free space, then run the same command."
    elif GONE.search(text) or text == "(0, '')":
        what, kind = f"The {'source' if error is SourceError else 'target'} went away.", "unreachable"
        next_step = "Bring it back, then run the same command: it carries on."
    elif _LOCKED.search(text):
        what, kind = "The database is locked by another program.", "locked"
        next_step = "Let the other program finish or stop it, then run the same command."
    return error(what, where=uri.redacted, why=text, next_step=next_step, kind=kind, resumable=True)


class Backend(ABC):
    """One open database.

    ``rows``, ``stream`` and ``commit`` raise ``SourceError`` or ``TargetError`` according to the side it was opened
    for; ``execute`` and ``append`` raise the driver's own error, which ``Target`` puts into words.
    """

    dialect: Dialect
    uri: StoreUri
    loose_types: ClassVar[bool] = False
    """Whether a cell may hold a value of another type than its column's."""
    private: bool = False
    """Whether a copy is read that nobody else uses, so that nobody waits."""

    @abstractmethod
    def catalog(self) -> Mapping[str, tuple[str, ...]]:
        """Tables of the current schema with their columns in order."""

    @abstractmethod
    def rows(self, sql: str) -> list[dict[str, Any]]:
        """A small result."""

    @abstractmethod
    def stream(self, table: str, columns: Sequence[Column], within: str | None = None) -> Iterator[pa.RecordBatch]:
        """Rows of a table (those for which the condition ``within`` holds) in canonical Arrow types.

        Batches are of bounded size. Where types are loose, rows with a cell of another type are left out: the caller
        counts, and asks ``odd_rows`` for them.
        """

    def odd_rows(self, table: str, columns: Sequence[Column], within: str | None = None) -> list[OddRow]:
        """The rows that ``stream`` left out."""
        return []

    def ranges(self, table: Table, rows_each: int) -> list[str | None]:
        """Conditions that cut a table into parts of about ``rows_each`` rows, without gap or overlap.

        A table that the database cannot cut cheaply is one part: ``[None]``.
        """
        return [None]

    def state(self) -> str | None:
        """A text that changes whenever the rows may have; None where the database cannot tell."""
        return None

    def sibling(self) -> Backend | None:
        """Another connection that sees the same instant, for another thread; None where there is none."""
        return None

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
