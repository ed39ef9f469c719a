"""What MLflow's upgrade scripts make of a source's rows, so that a target at a later revision can be proven.

A revision that adds a column fills it with its default or NULL: both are predicted here and proven. The few that
rewrite rows have a rule of their own below; a rewritten column without a rule is named as not compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from mlflowctl.migrate.compare import TableComparison
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.api import TableBatch
from mlflowctl.stores.canonical import ARROW_TYPES

if TYPE_CHECKING:
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
        """The source tables from which the named target tables are made."""
        back = {new: old for old, new in self.renamed.items()}
        needed = {back.get(t, t) for t in tables}
        for rule in self.rules:
            if rule.makes in needed or rule.makes in tables:
                needed |= set(rule.needs)
        return sorted(n for n in needed if n in self._source_tables)

    _source_tables: frozenset[str] = frozenset()

    def stream(self, batches: Iterator[TableBatch], tables: Sequence[str] | None) -> Iterator[TableBatch]:
        """Lifted batches, then the rows that the upgrade makes."""
        wanted = set(self.comparisons) if tables is None else set(tables)
        rules = [rule for rule in self.rules if rule.makes in wanted]
        for batch in batches:
            for rule in rules:
                batch = rule.see(batch)
            lifted = self._lifted(batch)
            if lifted.table in wanted:
                yield lifted
        for rule in rules:
            for batch in rule.rows():
                yield self._lifted(batch)
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


class Rule:
    """One upgrade script's effect on rows: it sees the source's batches and makes rows of one table."""

    makes: str
    needs: tuple[str, ...] = ()

    def see(self, batch: TableBatch) -> TableBatch:
        """Look at a batch of the source; return it, changed where the script changes it."""
        return batch

    def rows(self) -> Iterator[TableBatch]:
        """Rows that the script adds."""
        return iter(())


class UserTags(Rule):
    """90e64c465722: a run's ``user_id`` becomes the tag ``mlflow.user`` where the run has no such tag."""

    makes = "tags"
    needs = ("runs", "tags")

    def __init__(self) -> None:
        self._users: dict[str, str] = {}
        self._tagged: set[str] = set()

    def see(self, batch: TableBatch) -> TableBatch:
        if batch.table == "runs":
            for run, user in zip(
                batch.rows.column("run_uuid").to_pylist(), batch.rows.column("user_id").to_pylist(), strict=True
            ):
                if user:
                    self._users[run] = user
        elif batch.table == "tags":
            with_user = batch.rows.filter(pc.equal(batch.rows.column("key"), "mlflow.user"))
            self._tagged.update(with_user.column("run_uuid").to_pylist())
        return batch

    def rows(self) -> Iterator[TableBatch]:
        new = {run: user for run, user in self._users.items() if run not in self._tagged}
        if new:
            keys = pa.array(["mlflow.user"] * len(new))
            yield TableBatch(
                "tags",
                pa.record_batch(
                    {
                        "key": keys,
                        "value": pa.array(new.values(), pa.string()),
                        "run_uuid": pa.array(new.keys(), pa.string()),
                    }
                ),
            )


class LatestMetrics(Rule):
    """89d4b8295536: of each run's metric the point with the greatest (step, timestamp, value)."""

    makes = "latest_metrics"
    needs = ("metrics",)
    _COLUMNS = ("key", "value", "timestamp", "step", "is_nan", "run_uuid")

    def __init__(self) -> None:
        self._best: pa.Table | None = None

    def see(self, batch: TableBatch) -> TableBatch:
        if batch.table == "metrics":
            points = _filled(batch.rows, {"step": pa.scalar(0, pa.int64()), "is_nan": pa.scalar(False)}).select(
                list(self._COLUMNS)
            )
            together = pa.Table.from_batches([points])
            if self._best is not None:
                together = pa.concat_tables([self._best, together])
            self._best = _greatest(together)
        return batch

    def rows(self) -> Iterator[TableBatch]:
        if self._best is not None:
            for batch in self._best.to_batches(max_chunksize=65_536):
                yield TableBatch("latest_metrics", batch)


def _greatest(points: pa.Table) -> pa.Table:
    order = [
        ("run_uuid", "ascending"),
        ("key", "ascending"),
        ("step", "descending"),
        ("timestamp", "descending"),
        ("value", "descending"),
    ]
    ranked = points.take(pc.sort_indices(points, sort_keys=order)).combine_chunks()
    if ranked.num_rows < 2:
        return ranked
    run, key = ranked.column("run_uuid"), ranked.column("key")
    changes = pc.or_(
        pc.not_equal(run.slice(1), run.slice(0, len(run) - 1)), pc.not_equal(key.slice(1), key.slice(0, len(key) - 1))
    )
    first = pa.chunked_array([pa.array([True]), *changes.chunks])
    return ranked.filter(first)


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

    def __init__(self, table: str, keys: frozenset[str]) -> None:
        self.makes = table
        self.needs = (table,)
        self._keys = pa.array(sorted(keys))

    def see(self, batch: TableBatch) -> TableBatch:
        if batch.table != self.makes:
            return batch
        return TableBatch(batch.table, batch.rows.filter(pc.invert(pc.is_in(batch.rows.column("key"), self._keys))))


def _filled(rows: pa.RecordBatch, defaults: dict[str, pa.Scalar]) -> pa.RecordBatch:
    for name, value in defaults.items():
        if name not in rows.schema.names:
            rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
    return rows


# A revision's rule, and the columns of its table that the rule predicts.
_RULES: tuple[tuple[str, Callable[[], Rule], frozenset[str]], ...] = (
    (_USER_TAGS, UserTags, frozenset({"*"})),
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
            rule = make()
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
        lifted.comparisons[name] = _comparison(lifted, name, sources.get(name), table, rewritten.get(name, set()))
    if source.revision == target.revision:
        lifted.lacking = _lacking(source, target)
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


def _comparison(lifted: Lift, name: str, source: Table | None, target: Table, rewritten: set[str]) -> TableComparison:
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
        uncompared.extend(c for c in ours if c not in there)
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
