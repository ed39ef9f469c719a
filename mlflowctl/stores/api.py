"""The types at the borders of ``stores``: what a reader gives and what a writer takes.

Every store, whatever its kind, is MLflow's own tables at a schema revision, streamed as Arrow record batches. The
columns of a batch have the canonical Arrow type of their logical kind (``ARROW_TYPES`` in ``stores.canonical``):
int -> int64, float -> float64, bool -> bool, text, json and date (YYYY-MM-DD) -> string, bytes -> binary, datetime -> timestamp[us].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from mlflowctl.stores.schema import Chain, Schema


@dataclass(frozen=True, slots=True)
class TableBatch:
    """Some rows of one table: ``rows`` has the table's columns by name, canonical types, any order of rows."""

    table: str
    rows: pa.RecordBatch


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

    @abstractmethod
    def close(self) -> None:
        """Let go of the store. The source is left byte for byte as it was."""

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
