"""What MLflow's upgrade scripts make of a source's rows, so that a target at a later revision can be proven.

A revision that adds a column fills it with its default or NULL: both are predicted here and proven. The few that
rewrite rows have a rule of their own below; a rewritten column without a rule is named as not compared. No rule holds
more rows in memory than it must: what has to wait for other rows waits in SQLite's temporary file.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlflowctl.migrate.compare import TableComparison
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.api import TableBatch
from mlflowctl.stores.canonical import ARROW_TYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlflowctl.stores.schema import Column, Schema, Table

_USER_TAGS = "90e64c465722"
_LATEST_METRICS = "89d4b8295536"
_JOBS_CANCELED = "dc11669786a5"
_TRACE_ANALYTICS = "75868b020152"
_TOKENS = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation_input_tokens_above_1hr",
)
_COSTS = ("input_cost", "output_cost", "total_cost")
_MOVED_KEYS = {
    "trace_tags": frozenset({"mlflow.traceName"}),
    "trace_request_metadata": frozenset({"mlflow.trace.session", "mlflow.trace.tokenUsage", "mlflow.trace.cost"}),
    "trace_metrics": frozenset(_TOKENS),
    "span_metrics": frozenset(_COSTS),
}


@dataclass(slots=True)
class Lift:
    """How to carry a stream of source rows up to the target's revision, and what is compared there."""

    comparisons: dict[str, TableComparison] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    renamed_columns: dict[str, dict[str, str]] = field(default_factory=dict)
    added: dict[str, list[tuple[Column, Any]]] = field(default_factory=dict)
    """Target table -> columns that the source lacks, with the value that every row has."""
    seeds: list[TableBatch] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    """Tables and columns of the source for which the target, at the same revision, has no place."""

    def sources_of(self, tables: Sequence[str]) -> list[str]:
        """The source tables from which the named target tables are made, in the order in which to stream them."""
        back = {new: old for old, new in self.renamed.items()}
        needed = {back.get(t, t) for t in tables}
        for rule in self.rules:
            if rule.makes in needed or rule.makes in tables:
                needed |= set(rule.needs)
        return sorted((n for n in needed if n in self._source_tables), key=lambda n: (_place(n), n))

    untouched: frozenset[str] = frozenset()
    """Tables of which no upgrade changes anything: neither a row, nor a name, nor a column."""

    _source_tables: frozenset[str] = frozenset()

    def stream(self, batches: Iterator[TableBatch], tables: Sequence[str] | None) -> Iterator[TableBatch]:
        """Lifted batches, then the rows that the upgrade makes.

        ``batches`` come in the order of ``sources_of``, in any order of rows.

        Raises:
            RuntimeError: a table came too late for the rows that are made of it.
        """
        wanted = set(self.comparisons) if tables is None else set(tables)
        # Each stream is read afresh, so its rules must not remember another.
        rules = [rule.afresh() for rule in self.rules if rule.makes in wanted]
        try:
            for batch in batches:
                for rule in rules:
                    batch = rule.see(batch)
                lifted = self._lifted(batch)
                if lifted.table in wanted:
                    yield lifted
            for rule in rules:
                for batch in rule.rows():
                    yield self._lifted(batch)
        finally:
            for rule in rules:
                rule.close()
        for batch in self.seeds:
            if batch.table in wanted:
                yield batch

    def _lifted(self, batch: TableBatch) -> TableBatch:
        name = self.renamed.get(batch.table, batch.table)
        rows = batch.rows
        new_names = self.renamed_columns.get(name)
        if new_names:
            rows = rows.rename_columns([new_names.get(c, c) for c in rows.schema.names])
        for column, value in self.added.get(name, ()):
            if column.name not in rows.schema.names:
                filled = pa.repeat(pa.scalar(value, ARROW_TYPES[column.kind]), rows.num_rows)
                rows = rows.append_column(column.name, filled)
        return TableBatch(name, rows)


# Tables that others are filled from must be read before those.
_STREAMED_LATER = {"trace_info": 1, "spans": 1, "assessments": 2}


def _place(table: str) -> int:
    return _STREAMED_LATER.get(table, 0)


class Rule:
    """One upgrade script's effect on rows: it sees the source's batches and makes rows of one table."""

    makes: str
    needs: tuple[str, ...] = ()
    moves: tuple[str, ...] = ()
    """Columns of ``makes`` that the script drops when others hold all that they said."""

    def __init__(self, dialect: str = "sqlite") -> None:
        self._dialect = dialect

    def afresh(self) -> Rule:
        """The same rule, to which nothing was shown yet."""
        return type(self)(self._dialect)

    def see(self, batch: TableBatch) -> TableBatch:
        """Look at a batch of the source; return it, changed where the script changes it."""
        return batch

    def rows(self) -> Iterator[TableBatch]:
        """Rows that the script adds."""
        return iter(())

    def close(self) -> None:
        """Let go of what was kept."""


_SPILL_MEMORY_KIB = 16_384


# SQLite would keep a plain 0; no text that is kept is bytes.
_NEGATIVE_ZERO = b"-0.0"


def _kept(fact: tuple[str, str, Any]) -> tuple[str, str, Any]:
    identity, name, value = fact
    negative = isinstance(value, float) and value == 0 and math.copysign(1, value) < 0
    return identity, name, _NEGATIVE_ZERO if negative else value


class _Spill:
    """Facts that wait for their rows, in a temporary file of SQLite's own that needs no tidying up."""

    def __init__(self) -> None:
        self._file: sqlite3.Connection | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing was kept."""
        return self._file is None

    def put(self, facts: Iterable[tuple[str, str, Any]]) -> None:
        """Keep ``(id, name, value)``; a value that is named twice is the last one."""
        for some in _slices(facts, 10_000):
            if self._file is None:
                # An empty name: a private file, made only when the cache is full, gone with the connection. One
                # thread at a time uses it, but not always the one that made it.
                self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
                self._file.execute(f"PRAGMA cache_size = -{_SPILL_MEMORY_KIB}")
                self._file.execute("PRAGMA journal_mode = OFF")
                self._file.execute("CREATE TABLE facts (id, name, value, PRIMARY KEY (id, name)) WITHOUT ROWID")
                self._file.execute("CREATE TABLE wanted (place INTEGER PRIMARY KEY, id)")
            self._file.execute("BEGIN")
            self._file.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", map(_kept, some))
            self._file.execute("COMMIT")

    def of(self, ids: Sequence[str]) -> Iterator[tuple[int, str, Any]]:
        """``(place in ids, name, value)`` of every fact that is known of these."""
        if self._file is None:
            return
        self._file.execute("BEGIN")
        self._file.executemany("INSERT INTO wanted VALUES (?, ?)", enumerate(ids))
        # CROSS JOIN: the ids in their order, each one sought.
        found = self._file.execute("SELECT w.place, f.name, f.value FROM wanted w CROSS JOIN facts f ON f.id = w.id")
        for place, name, value in found.fetchall():
            yield place, name, -0.0 if value == _NEGATIVE_ZERO else value
        self._file.execute("DELETE FROM wanted")
        self._file.execute("COMMIT")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _slices(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


class UserTags(Rule):
    """90e64c465722: a run's ``user_id`` becomes the tag ``mlflow.user`` where the run has no such tag.

    MLflow's script takes the experiment for its runs' key, so it sees the first run of each experiment alone: the first
    in the order in which the database keeps them. That is the order of copying, on MySQL the order of run IDs.
    """

    makes = "tags"
    needs = ("runs", "tags")

    def __init__(self, dialect: str = "sqlite") -> None:
        super().__init__(dialect)
        self._first: dict[int, tuple[str, str | None]] = {}
        self._tagged = _Spill()

    def see(self, batch: TableBatch) -> TableBatch:
        rows = batch.rows
        if batch.table == "runs":
            for run, user, experiment in zip(
                *(rows.column(name).to_pylist() for name in ("run_uuid", "user_id", "experiment_id")), strict=True
            ):
                if experiment is None:
                    continue
                known = self._first.get(experiment)
                if known is None or (self._dialect == "mysql" and run.lower() < known[0].lower()):
                    self._first[experiment] = (run, user)
        elif batch.table == "tags":
            with_user = rows.filter(pc.equal(rows.column("key"), "mlflow.user"))
            self._tagged.put((run, "tag", None) for run in with_user.column("run_uuid").to_pylist())
        return batch

    def rows(self) -> Iterator[TableBatch]:
        users = [(run, user) for run, user in self._first.values() if user]
        tagged = {place for place, _, _ in self._tagged.of([run for run, _ in users])}
        new = [pair for place, pair in enumerate(users) if place not in tagged]
        if new:
            columns = {
                "key": pa.array(["mlflow.user"] * len(new)),
                "value": pa.array([user for _, user in new], pa.string()),
                "run_uuid": pa.array([run for run, _ in new], pa.string()),
            }
            yield TableBatch("tags", pa.record_batch(columns))

    def close(self) -> None:
        self._tagged.close()


class LatestMetrics(Rule):
    """89d4b8295536: of each run's metric the point with the greatest (step, timestamp, value), of equal ones the number.

    Memory holds each metric's latest point, and as many again that wait to be compared with them.
    """

    makes = "latest_metrics"
    needs = ("metrics",)
    _COLUMNS = ("key", "value", "timestamp", "step", "is_nan", "run_uuid")
    _WAITING = 65_536

    def __init__(self, dialect: str = "sqlite") -> None:
        super().__init__(dialect)
        self._best: pa.Table | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._rows_waiting = 0

    def see(self, batch: TableBatch) -> TableBatch:
        if batch.table == "metrics":
            defaults = {"step": pa.scalar(0, pa.int64()), "is_nan": pa.scalar(False)}
            points = _latest(_filled(batch.rows, defaults).select(list(self._COLUMNS)))
            self._waiting.append(points)
            self._rows_waiting += points.num_rows
            # So much waits as is known: each point is compared a few times only, however many metrics there are.
            if self._rows_waiting > max(self._WAITING, self._best.num_rows if self._best is not None else 0):
                self._merge()
        return batch

    def rows(self) -> Iterator[TableBatch]:
        self._merge()
        if self._best is not None:
            for batch in self._best.to_batches(max_chunksize=65_536):
                yield TableBatch("latest_metrics", batch)

    def _merge(self) -> None:
        if not self._waiting:
            return
        parts = [*(self._best.to_batches() if self._best is not None else ()), *self._waiting]
        self._waiting, self._rows_waiting = [], 0
        together = pa.Table.from_batches(parts)
        del parts
        self._best = together.take(pa.array(_latest_places(together)))


def _latest(points: pa.RecordBatch) -> pa.RecordBatch:
    return points.take(pa.array(_latest_places(points)))


def _latest_places(points: pa.RecordBatch | pa.Table) -> NDArray[np.int64]:
    """The places of each (run, key)'s latest row."""
    if not points.num_rows:
        return np.zeros(0, np.int64)
    runs, keys = (_codes(points.column(name)) for name in ("run_uuid", "key"))
    groups = runs * (int(np.max(keys)) + 1) + keys
    _, groups = np.unique(groups, return_inverse=True)
    left = np.arange(points.num_rows)
    # Most points fall away by their step alone, so that few are left to be sorted.
    for name in ("step", "timestamp"):
        values = _numbers(points.column(name), np.int64)[left]
        greatest = np.full(int(np.max(groups)) + 1, np.iinfo(np.int64).min)
        np.maximum.at(greatest, groups[left], values)
        left = left[values == greatest[groups[left]]]
    values = _numbers(points.column("value"), np.float64)[left]
    nans = np.isnan(values)
    # A database that has NaN calls it greater than all numbers.
    order = np.lexsort(
        (_numbers(points.column("is_nan"), np.bool_)[left], -np.where(nans, 0, values), ~nans, groups[left])
    )
    ranked = left[order]
    first = np.ones(len(ranked), np.bool_)
    first[1:] = groups[ranked][1:] != groups[ranked][:-1]
    chosen: NDArray[np.int64] = np.sort(ranked[first]).astype(np.int64)
    return chosen


def _codes(column: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = whole.dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    codes: NDArray[np.int64] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def _numbers(column: pa.Array | pa.ChunkedArray, kind: Any) -> NDArray[Any]:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values: NDArray[Any] = np.asarray(whole.to_numpy(zero_copy_only=False), dtype=kind)
    return values


class JobsCanceled(Rule):
    """dc11669786a5: unfinished jobs (PENDING 0, RUNNING 1) become CANCELED."""

    makes = "jobs"
    needs = ("jobs",)
    _PENDING, _RUNNING, _CANCELED = 0, 1, 5

    def see(self, batch: TableBatch) -> TableBatch:
        if batch.table != "jobs":
            return batch
        status = batch.rows.column("status")
        open_jobs = pc.is_in(status, pa.array([self._PENDING, self._RUNNING], status.type))
        index = batch.rows.schema.get_field_index("status")
        changed = pc.if_else(open_jobs, pa.scalar(self._CANCELED, status.type), status)
        return TableBatch("jobs", batch.rows.set_column(index, "status", changed))


class MovedToColumns(Rule):
    """75868b020152: rows whose facts moved into columns of trace_info and spans are removed from one table."""

    def __init__(self, table: str, keys: frozenset[str], dialect: str = "sqlite") -> None:
        super().__init__(dialect)
        self.makes = table
        self.needs = (table,)
        self._keys = pa.array(sorted(keys))

    def afresh(self) -> Rule:
        # It remembers nothing.
        return self

    def see(self, batch: TableBatch) -> TableBatch:
        if batch.table != self.makes:
            return batch
        return TableBatch(batch.table, batch.rows.filter(pc.invert(pc.is_in(batch.rows.column("key"), self._keys))))


class _Waiting(Rule):
    """A rule whose table is filled from others, which must have been read before."""

    def __init__(self, dialect: str = "sqlite") -> None:
        super().__init__(dialect)
        self._facts = _Spill()
        self._begun = False

    def see(self, batch: TableBatch) -> TableBatch:
        if batch.table == self.makes:
            self._begun = True
            return TableBatch(batch.table, self._with_columns(batch.rows))
        if batch.table in self.needs and batch.rows.num_rows:
            if self._begun:
                raise RuntimeError(f"{batch.table} came after {self.makes}, whose rows it fills")
            self._facts.put(self._facts_of(batch))
        return batch

    def close(self) -> None:
        self._facts.close()

    def _float(self, value: float | None) -> float | None:
        """As the target keeps it: SQLite and MySQL do not know the sign of a zero."""
        return 0.0 if value == 0 and self._dialect != "postgresql" else value

    def _as_read(self, value: float | None) -> Any:
        """A float of the target as the script reads it: on MySQL SQLAlchemy makes it a decimal of ten places."""
        if self._dialect != "mysql" or value is None or not math.isfinite(value):
            return value
        return Decimal(f"{value:.10f}")

    def _facts_of(self, batch: TableBatch) -> Iterable[tuple[str, str, Any]]:
        raise NotImplementedError

    def _with_columns(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        raise NotImplementedError


def _with(rows: pa.RecordBatch, columns: dict[str, tuple[list[Any], pa.DataType]]) -> pa.RecordBatch:
    for name, (values, kind) in columns.items():
        if name in rows.schema.names:
            rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(values, kind))
        else:
            rows = rows.append_column(name, pa.array(values, kind))
    return rows


def _with_keys(rows: pa.RecordBatch, keys: Sequence[str]) -> pa.RecordBatch:
    return rows.filter(pc.is_in(rows.column("key"), pa.array(keys)))


def _lists(rows: pa.RecordBatch, *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(rows.column(name).to_pylist() for name in names), strict=True)


# 75868b020152's lengths, in characters.
_NAME_LENGTH, _SESSION_LENGTH, _MODEL_LENGTH = 4096, 250, 500
_NAME_TAG, _SESSION, _TOKEN_USAGE, _COST = (
    "mlflow.traceName",
    "mlflow.trace.session",
    "mlflow.trace.tokenUsage",
    "mlflow.trace.cost",
)


class TraceAnalytics(_Waiting):
    """75868b020152 on trace_info: name, session, tokens and costs, out of tags, metadata and metrics.

    ``total_cost`` is left out: of a gateway's trace without one it is the sum of its spans' costs in the order in which
    the database adds them, whose last digit nobody can know.
    """

    makes = "trace_info"
    needs = ("trace_tags", "trace_request_metadata", "trace_metrics", "trace_info")
    PREDICTS = frozenset({"trace_name", "session_id", *_TOKENS, *_COSTS}) - {"total_cost"}

    def _facts_of(self, batch: TableBatch) -> Iterator[tuple[str, str, Any]]:
        if batch.table == "trace_tags":
            for trace, value in _lists(_with_keys(batch.rows, [_NAME_TAG]), "request_id", "value"):
                if value is not None:
                    yield trace, "trace_name", value[:_NAME_LENGTH]
        elif batch.table == "trace_metrics":
            # A metric stands above the metadata, also where it is no count.
            for trace, key, value in _lists(_with_keys(batch.rows, _TOKENS), "request_id", "key", "value"):
                yield trace, f"metric {key}", _token_count(self._as_read(value))
        else:
            moved = _with_keys(batch.rows, [_SESSION, _TOKEN_USAGE, _COST])
            for trace, key, value in _lists(moved, "request_id", "key", "value"):
                if key == _SESSION:
                    if value is not None:
                        yield trace, "session_id", value[:_SESSION_LENGTH]
                    continue
                members = _json_object(value)
                names, convert = (_TOKENS, _token_count) if key == _TOKEN_USAGE else (_COSTS, _finite_float)
                for name in names:
                    number = convert(members.get(name))
                    if number is not None:
                        yield trace, name, number

    def _with_columns(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        values: dict[str, list[Any]] = {name: [None] * rows.num_rows for name in sorted(self.PREDICTS)}
        # By name: "metric ..." comes before every column, and a column must not cover it.
        above: set[tuple[int, str]] = set()
        for place, name, value in self._facts.of(rows.column("request_id").to_pylist()):
            if name.startswith("metric "):
                column = name.removeprefix("metric ")
                above.add((place, column))
                values[column][place] = value
            elif name in values and (place, name) not in above:
                values[name][place] = self._float(value) if name in _COSTS else value
        kinds = {name: pa.int64() if name in _TOKENS else pa.string() for name in values}
        kinds |= {name: pa.float64() for name in values if name in _COSTS}
        return _with(rows, {name: (column, kinds[name]) for name, column in values.items()})


class SpanAnalytics(_Waiting):
    """75868b020152 on spans: costs out of span_metrics, the model out of dimension_attributes."""

    makes = "spans"
    needs = ("span_metrics", "spans")
    # The script refuses anything but the model and its provider in there.
    moves = ("dimension_attributes",)
    PREDICTS = frozenset({*_COSTS, "model_name", "model_provider"})
    _MODEL = (("model_name", "mlflow.llm.model"), ("model_provider", "mlflow.llm.provider"))

    @staticmethod
    def _id(trace: str, span: str) -> str:
        return f"{trace}\x1f{span}"

    def _facts_of(self, batch: TableBatch) -> Iterator[tuple[str, str, Any]]:
        costs = _with_keys(batch.rows, _COSTS)
        for trace, span, key, value in _lists(costs, "trace_id", "span_id", "key", "value"):
            number = _finite_float(self._as_read(value))
            if number is not None:
                yield self._id(trace, span), key, number

    def _with_columns(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        costs: dict[str, list[Any]] = {name: [None] * rows.num_rows for name in _COSTS}
        models: dict[str, list[Any]] = {name: [None] * rows.num_rows for name, _ in self._MODEL}
        if not self._facts.empty:
            ids = [self._id(trace, span) for trace, span in _lists(rows, "trace_id", "span_id")]
            for place, name, value in self._facts.of(ids):
                costs[name][place] = self._float(value)
        if "dimension_attributes" in rows.schema.names:
            for place, text in enumerate(rows.column("dimension_attributes").to_pylist()):
                members = _json_object(text)
                for name, attribute in self._MODEL if members else ():
                    value = members.get(attribute)
                    if isinstance(value, str):
                        models[name][place] = value[:_MODEL_LENGTH]
        return _with(
            rows,
            {name: (column, pa.float64()) for name, column in costs.items()}
            | {name: (column, pa.string()) for name, column in models.items()},
        )


class AssessmentAnalytics(_Waiting):
    """75868b020152 on assessments: their trace's experiment and time, and the value as a number."""

    makes = "assessments"
    needs = ("trace_info", "assessments")
    PREDICTS = frozenset({"experiment_id", "trace_timestamp_ms", "aggregate_value", "is_numeric_value"})

    def _facts_of(self, batch: TableBatch) -> Iterator[tuple[str, str, Any]]:
        for trace, experiment, time in _lists(batch.rows, "request_id", "experiment_id", "timestamp_ms"):
            yield trace, "experiment_id", experiment
            yield trace, "trace_timestamp_ms", time

    def _with_columns(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        found: dict[str, list[Any]] = {n: [None] * rows.num_rows for n in ("experiment_id", "trace_timestamp_ms")}
        for place, name, value in self._facts.of(rows.column("trace_id").to_pylist()):
            found[name][place] = value
        numbers = [_aggregate(value) for value in rows.column("value").to_pylist()]
        return _with(
            rows,
            {name: (column, pa.int64()) for name, column in found.items()}
            | {
                "aggregate_value": ([self._float(number) for number, _ in numbers], pa.float64()),
                "is_numeric_value": ([numeric for _, numeric in numbers], pa.bool_()),
            },
        )


# How 75868b020152 reads single values: MLflow's words, for it cannot be imported here.


def _json_object(text: Any) -> dict[str, Any]:
    if not isinstance(text, str):
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _finite_float(value: Any) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _token_count(value: Any) -> int | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        number = Decimal(str(value))
    except (InvalidOperation, TypeError, ValueError):
        return None
    if not number.is_finite() or number != number.to_integral_value() or not -(2**63) <= number <= 2**63 - 1:
        return None
    return int(number)


def _aggregate(text: str) -> tuple[float | None, bool]:
    value: Any
    try:
        value = json.loads(text)
    except (TypeError, ValueError):
        value = text
    if isinstance(value, bool):
        return (1.0 if value else 0.0), False
    if isinstance(value, (int, float)):
        try:
            number = float(value)
        except OverflowError:
            return None, False
        return (number, True) if math.isfinite(number) else (None, False)
    if isinstance(value, str) and value.strip().lower() in ("yes", "no"):
        return (1.0 if value.strip().lower() == "yes" else 0.0), False
    return None, False


def _filled(rows: pa.RecordBatch, defaults: dict[str, pa.Scalar]) -> pa.RecordBatch:
    for name, value in defaults.items():
        if name not in rows.schema.names:
            rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
    return rows


# A revision's rule, and the columns of its table that the rule predicts.
_RULES: tuple[tuple[str, Callable[..., Rule], frozenset[str]], ...] = (
    (_USER_TAGS, UserTags, frozenset({"*"})),
    # Before those that take away what they look at.
    (_TRACE_ANALYTICS, TraceAnalytics, TraceAnalytics.PREDICTS),
    (_TRACE_ANALYTICS, SpanAnalytics, SpanAnalytics.PREDICTS),
    (_TRACE_ANALYTICS, AssessmentAnalytics, AssessmentAnalytics.PREDICTS),
    (_LATEST_METRICS, LatestMetrics, frozenset({"*"})),
    (_JOBS_CANCELED, JobsCanceled, frozenset({"status"})),
    *(
        (_TRACE_ANALYTICS, partial(MovedToColumns, table, keys), frozenset({"*"}))
        for table, keys in _MOVED_KEYS.items()
    ),
)


# Tables of the users' chain that e5f6a7b8c9d0 fills from the permission tables, for which there is no rule: the
# permission tables themselves stay and are compared.
_MADE_OF_OTHERS = frozenset({"roles", "role_permissions", "user_role_assignments"})


def plan(source: Schema, target: Schema) -> Lift:
    """How ``source``'s rows stand at ``target``'s revision (later or the same), and what can be compared."""
    lifted = Lift()
    lifted._source_tables = frozenset(source.tables)
    between = _between(source, target)
    rewritten: dict[str, set[str]] = {}
    if between:
        for changed, columns in schemas.rewritten(source.chain, source.revision, target.revision).items():
            rewritten.setdefault(changed, set()).update(columns)
        _take_renames(lifted, source, target)
    for revision, make, predicts in _RULES:
        if revision in between and source.chain == "tracking":
            rule = make(dialect=target.dialect)
            if all(n in source.tables for n in rule.needs):
                lifted.rules.append(rule)
                rewritten[rule.makes] = (
                    rewritten.get(rule.makes, set()) - predicts - ({"*"} if "*" in predicts else set())
                )
    made = {rule.makes for rule in lifted.rules}
    sources = {lifted.renamed.get(name, name): table for name, table in source.tables.items()}
    for name, table in target.tables.items():
        if name not in sources and name in _MADE_OF_OTHERS and source.revision != target.revision:
            unproven = tuple(c.name for c in table.columns if not c.computed)
            lifted.comparisons[name] = TableComparison(name, {}, table.primary_key, unproven)
            continue
        if name not in sources and name not in made:
            _take_new_table(lifted, target, name, table, covered=source.revision != target.revision)
            continue
        moved = {column for rule in lifted.rules if rule.makes == name for column in rule.moves}
        lifted.comparisons[name] = _comparison(
            lifted, name, sources.get(name), table, rewritten.get(name, set()), moved
        )
    if source.revision == target.revision:
        lifted.lacking = _lacking(source, target)
    lifted.untouched = frozenset(
        name
        for name, comparison in lifted.comparisons.items()
        if (between or source.revision == target.revision)
        and name not in made
        and sources.get(name) is source.tables.get(name, False)
        and name not in lifted.renamed_columns
        and not comparison.uncompared
        and comparison.kinds == {c.name: c.kind for c in sources[name].columns if not c.computed}
    )
    return lifted


def _lacking(source: Schema, target: Schema) -> list[str]:
    found = []
    for name, table in source.tables.items():
        if name not in target.tables:
            found.append(f"table {name}")
            continue
        there = {c.name for c in target.tables[name].columns}
        found.extend(f"column {name}.{c.name}" for c in table.columns if c.name not in there)
    return found


def _between(source: Schema, target: Schema) -> set[str]:
    order = [r.id for r in schemas.revisions(source.chain)]
    if source.revision not in order or target.revision not in order:
        return set()
    start, end = order.index(source.revision), order.index(target.revision)
    return set(order[start + 1 : end + 1])


def _take_renames(lifted: Lift, source: Schema, target: Schema) -> None:
    for old, new in schemas.renamed(source.chain, source.revision, target.revision).items():
        if "." in old:
            table, column = old.split(".", 1)
            lifted.renamed_columns.setdefault(table, {})[column] = new.split(".", 1)[-1]
        else:
            lifted.renamed[old] = new


def _take_new_table(lifted: Lift, target: Schema, name: str, table: Table, *, covered: bool) -> None:
    """A table that the source's revision did not have: it must hold exactly the rows of a fresh schema."""
    if not covered:
        return
    kinds = {c.name: c.kind for c in table.columns if not c.computed}
    lifted.comparisons[name] = TableComparison(name, kinds, table.primary_key)
    seed = target.seed.get(name, ())
    if seed:
        columns = {
            c.name: pa.array([row.get(c.name) for row in seed], ARROW_TYPES[c.kind])
            for c in table.columns
            if not c.computed
        }
        lifted.seeds.append(TableBatch(name, pa.record_batch(columns)))


def _comparison(
    lifted: Lift, name: str, source: Table | None, target: Table, rewritten: set[str], moved: set[str]
) -> TableComparison:
    kinds: dict[str, str] = {}
    uncompared: list[str] = []
    ours = None
    if source is not None:
        new_names = lifted.renamed_columns.get(name, {})
        ours = {new_names.get(c.name, c.name): c for c in source.columns if not c.computed}
    for column in target.columns:
        if column.computed:
            continue
        if "*" in rewritten or column.name in rewritten:
            uncompared.append(column.name)
        elif ours is None or column.name in ours:
            kinds[column.name] = column.kind
        else:
            known, value = _default(column)
            if known:
                lifted.added.setdefault(name, []).append((column, value))
                kinds[column.name] = column.kind
            else:
                uncompared.append(column.name)
    if ours is not None:
        there = {c.name for c in target.columns}
        uncompared.extend(c for c in ours if c not in there and c not in moved)
    return TableComparison(name, kinds, target.primary_key, tuple(uncompared))


def _default(column: Column) -> tuple[bool, Any]:
    """The value that an upgrade gives to an added column, when it is a constant."""
    text = column.default
    if text is None or text.strip().upper() == "NULL":
        return column.nullable, None
    bare = re.sub(r"::[a-z ]+(\(\d+\))?$", "", text.strip()).strip("()")
    quoted = re.fullmatch(r"'(.*)'", bare, re.DOTALL)
    raw = quoted.group(1).replace("''", "'") if quoted else bare
    if column.kind == "text":
        return bool(quoted), raw
    if column.kind == "bool":
        return raw.lower() in ("0", "1", "true", "false"), raw.lower() in ("1", "true")
    if column.kind in ("int", "float") and re.fullmatch(r"-?\d+(\.\d+)?", raw):
        return True, int(float(raw)) if column.kind == "int" else float(raw)
    return False, None
