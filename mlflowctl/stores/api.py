"""The types at the borders of ``stores``: what a reader gives and what a writer takes.

Every store, whatever its kind, is MLflow's own tables at a schema revision, streamed as Arrow record batches. The
columns of a batch have the canonical Arrow type of their logical kind (``ARROW_TYPES`` in ``stores.canonical``):
int -> int64, float -> float64, bool -> bool, text, json and date (YYYY-MM-DD) -> string, bytes -> binary, datetime -> timestamp[us].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from mlflowctl.stores.schema import Chain, Schema


@dataclass(frozen=True, slots=True)
class OddRow:
    """A row with a cell that has no place in its column's canonical type: text in an integer column, a blob in text.

    ``cells`` has every column as the store holds it: int, float, str, bytes or None (bytes also for text that is not
    UTF-8).
    """

    cells: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TableBatch:
    """Some rows of one table: ``rows`` has the table's columns by name, canonical types, any order of rows.

    ``odd`` are rows that stand beside ``rows``, not in it.
    """

    table: str
    rows: pa.RecordBatch
    odd: tuple[OddRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a source that is read, hashed, written and journaled as one.

    ``id`` is its name in the journal; ``within`` restricts its one table in the store's own words (an SQL condition;
    None: everything of ``tables``). The chunks of a source do not overlap and leave no row out, also when rows came or
    went since they were drawn.
    """

    id: str
    tables: tuple[str, ...]
    within: str | None = None
    rows: int = 0
    """As far as it is known."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something in a source that stops a migration: a malformed file, a bad row.

    ``where`` is a path (with ``:line``) or ``table[key].column``; ``rule`` a short stable word such as
    ``malformed_meta_yaml``; ``text`` one sentence that says what is wrong.
    """

    rule: str
    where: str
    text: str


@dataclass(frozen=True, slots=True)
class NotCarried:
    """Something that a reader leaves behind on purpose, counted, with the reason. It never stops a migration."""

    what: str
    rows: int
    reason: str


@dataclass(frozen=True, slots=True)
class Count:
    """Rows of a table; ``estimated`` when the store was not asked for an exact count."""

    rows: int
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class ArtifactsUnderSource:
    """Artifact files that lie inside a folder source: they are not moved, so the folder must stay."""

    files: int
    bytes: int


@dataclass(slots=True)
class ReadReport:
    """Filled by a reader while it reads; complete when its stream is exhausted.

    ``collapsed`` counts by rule rows that MLflow's key cannot hold twice (``duplicate_metric_point``, ...); they are
    the same row, so nothing is lost. ``troubles`` non-empty at the end of the stream means: stop, exit 4.
    """

    troubles: list[Trouble] = field(default_factory=list)
    collapsed: dict[str, int] = field(default_factory=dict)
    normal: dict[str, int] = field(default_factory=dict)
    not_carried: list[NotCarried] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Reader(ABC):
    """One store (one chain of it), opened read-only at one instant."""

    kind: str
    """files, sqlite, postgresql, mysql"""
    uri: str
    """Redacted, for reports."""
    chain: Chain
    revision: str
    schema: Schema
    """The tables and columns that this reader gives (for a SQL source: those that it really has)."""
    snapshot: str
    """single, multiple or none"""
    report: ReadReport
    policy: str = "stop"
    """What a reader of files does with malformed ones: stop, skip or fix. Rows of databases are judged elsewhere."""

    @abstractmethod
    def counts(self, *, exact: bool) -> Mapping[str, Count]:
        """Rows per table. Quick estimates are allowed unless ``exact``."""

    @abstractmethod
    def batches(
        self, tables: Sequence[str] | None = None, columns: Mapping[str, Sequence[str]] | None = None
    ) -> Iterator[TableBatch]:
        """Stream the rows of ``tables`` (default: all), in any order of tables and rows; each call reads afresh.

        ``columns`` narrows the columns of a table. Raises SourceError when the store cannot be read.
        """

    def chunks(self) -> list[Chunk]:
        """The parts in which the store is copied, parents before children. Here: one, all of it."""
        return [Chunk("all", tuple(self.schema.tables), None, sum(c.rows for c in self.counts(exact=False).values()))]

    def read(self, chunk: Chunk) -> Iterator[TableBatch]:
        """Stream the rows of a chunk, odd ones included."""
        return self.batches(list(chunk.tables))

    def state(self) -> str | None:
        """A text that is the same as long as the store holds the same rows; None where the store cannot tell."""
        return None

    def changed(self) -> list[str]:
        """What changed in the store while it was read, for a store without one instant: names of runs or files."""
        return []

    def circumstances(self) -> list[Any]:
        """What a person should know before the store is read: objects like ``stores.sql.circumstances.Circumstance``."""
        return []

    def take_rejects(self) -> list[Any]:
        """What this reader itself left out or mended since the last call: objects like ``migrate.clean.Reject``."""
        return []

    def sibling(self) -> Reader | None:
        """Another reader at the same instant, for another thread; None where the store has no such thing."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Let go of the store. The source is left byte for byte as it was."""

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
