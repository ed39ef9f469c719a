"""Changes to rows on their way, each asked for or needed by the target, each counted.

Verification hashes the source's rows after the same changes, so a changed row is proven like any other.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from mlflowctl.stores.api import TableBatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlflowctl.stores.schema import Schema

# Columns that hold an artifact URI (facts from MLflow's code; first release that has each is in ARCHITECTURE.md).
ARTIFACT_COLUMNS: tuple[tuple[str, str], ...] = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("workspaces", "default_artifact_root"),
    ("workspaces", "trace_archival_location"),
)
ARTIFACT_TAGS = ("mlflow.artifactLocation", "mlflow.trace.archiveLocation")
_DATASET_URI_FIELDS = ("uri", "url", "path")
OLD_ID_TAG = "mlflowctl.source_experiment_id"
_RUN_ARTIFACTS = re.compile(r"[/\\]([^/\\]+)[/\\]([0-9a-f]{32})[/\\]artifacts$")
_MODEL_ARTIFACTS = re.compile(r"[/\\]([^/\\]+)[/\\]models[/\\](m-[0-9a-f]{32})[/\\]artifacts$")
_TRACE_ARTIFACTS = re.compile(r"[/\\]([^/\\]+)[/\\]traces[/\\]([^/\\]+)[/\\]artifacts$")
_RUN_BELOW = re.compile(r"[/\\]([^/\\]+)[/\\]([0-9a-f]{32})[/\\]artifacts([/\\].*)?$")


class Transform(ABC):
    """One kind of change. ``explain`` says afterwards what was changed and how often."""

    tables: frozenset[str]

    @abstractmethod
    def apply(self, batch: TableBatch) -> TableBatch:
        """The batch after the change; the same object where nothing changes."""

    def added(self, schema: Schema) -> Iterator[TableBatch]:
        """Rows that the change adds, after the last batch."""
        return iter(())


class Transforms:
    """Several changes in order, asked only for the tables that they concern."""

    def __init__(self, transforms: Sequence[Transform], schema: Schema) -> None:
        self.transforms = list(transforms)
        self._schema = schema

    def added(self) -> Iterator[TableBatch]:
        """The rows that the changes add."""
        for transform in self.transforms:
            yield from transform.added(self._schema)

    def apply(self, batch: TableBatch) -> TableBatch:
        for transform in self.transforms:
            if batch.table in transform.tables:
                batch = transform.apply(batch)
        return batch

    def concerns(self, table: str, kind: type[Transform]) -> bool:
        """Whether a change of this kind looks at the table."""
        return any(isinstance(t, kind) and table in t.tables for t in self.transforms)


@dataclass
class Mapping_:  # noqa: N801 - `Mapping` is the abstract base class
    """One prefix rewritten, with the rows it touched."""

    old: str
    new: str
    rows: int = 0


class ArtifactTransform(Transform):
    """Rewrites every place where MLflow stores an artifact URI: by prefix, or by the location's own end.

    A prefix matches on a path boundary alone: ``/a/b`` matches ``/a/b`` and ``/a/b/c``, never ``/a/bc``.
    """

    tables = frozenset({t for t, _ in ARTIFACT_COLUMNS} | {"trace_tags", "datasets"})

    def __init__(self, mappings: Sequence[tuple[str, str]], reroot: str | None) -> None:
        self.mappings = [Mapping_(old.rstrip("/\\") or old, new.rstrip("/")) for old, new in mappings]
        self.reroot = Mapping_("(by the location's end)", reroot.rstrip("/")) if reroot else None

    def apply(self, batch: TableBatch) -> TableBatch:
        rows = batch.rows
        for table, column in ARTIFACT_COLUMNS:
            if table == batch.table and column in rows.schema.names:
                rows = _with_column(rows, column, self._rewritten(rows.column(column), self.location))
        if batch.table == "trace_tags" and {"key", "value"} <= set(rows.schema.names):
            chosen = pc.is_in(rows.column("key"), pa.array(ARTIFACT_TAGS))
            rows = _with_column(rows, "value", self._rewritten(rows.column("value"), self.location, chosen))
        if batch.table == "datasets" and "dataset_source" in rows.schema.names:
            rows = _with_column(
                rows, "dataset_source", self._rewritten(rows.column("dataset_source"), self._dataset_source)
            )
        return batch if rows is batch.rows else TableBatch(batch.table, rows)

    def location(self, text: str) -> tuple[str, Mapping_ | None]:
        """A location after the first mapping that matches, and that mapping."""
        for mapping in self.mappings:
            rest = text[len(mapping.old) :]
            if text.startswith(mapping.old) and (not rest or rest[0] in "/\\" or mapping.old.endswith(("/", ":"))):
                # A Windows path goes on with backslashes, which no other place understands.
                return mapping.new + (rest.replace("\\", "/") if rest.startswith("\\") else rest), mapping
        if self.reroot is not None:
            end = _own_end(text)
            if end is not None:
                return self.reroot.new + end, self.reroot
        return text, None

    def _dataset_source(self, text: str) -> tuple[str, Mapping_ | None]:
        """Only the members that hold a place are rewritten; the text keeps its own spelling elsewhere."""
        if self.reroot is not None and not self.mappings:
            return text, None
        try:
            source = json.loads(text)
        except ValueError:
            return text, None
        if not isinstance(source, dict):
            return text, None
        used: Mapping_ | None = None
        for name in _DATASET_URI_FIELDS:
            value = source.get(name)
            if isinstance(value, str):
                new, mapping = self.location(value)
                if mapping is not None:
                    source[name], used = new, mapping
        return (json.dumps(source), used) if used is not None else (text, None)

    def _rewritten(
        self, column: pa.Array, rewrite: Callable[[str], tuple[str, Mapping_ | None]], chosen: pa.Array | None = None
    ) -> pa.Array:
        encoded = column.dictionary_encode()
        changes = [(text, *rewrite(text)) for text in encoded.dictionary.to_pylist()]
        if all(mapping is None for _, _, mapping in changes):
            return column
        values = pa.array([new for _, new, _ in changes], pa.string())
        indices = encoded.indices
        if chosen is not None:
            result = pc.if_else(chosen, values.take(indices), column)
            indices = indices.filter(chosen)
        else:
            result = values.take(indices)
        for entry in pc.value_counts(indices.drop_null()).to_pylist():
            mapping = changes[entry["values"]][2]
            if mapping is not None:
                mapping.rows += entry["counts"]
        return result

    def used(self) -> list[Mapping_]:
        """The mappings in a fixed order."""
        return [*self.mappings, *([self.reroot] if self.reroot else [])]

    def report(self, rows: Sequence[int]) -> list[dict[str, object]]:
        """The ``artifacts.mapped`` member of the result; ``rows`` counts each mapping's."""
        return [{"from": m.old, "to": m.new, "rows": n} for m, n in zip(self.used(), rows, strict=True)]


def _own_end(text: str) -> str | None:
    """The part of a location that MLflow itself appends to a root, with forward slashes, or None."""
    for pattern in (_MODEL_ARTIFACTS, _TRACE_ARTIFACTS, _RUN_ARTIFACTS, _RUN_BELOW):
        match = pattern.search(text)
        if match:
            return match.group(0).replace("\\", "/")
    # An experiment's own location ends in its ID.
    match = re.search(r"[/\\](\d+)[/\\]?$", text)
    return match.group(0).replace("\\", "/").rstrip("/") if match else None


class RenumberTransform(Transform):
    """Gives experiments new IDs and rewrites every reference to them; artifact locations stay, for bytes do not move."""

    # The experiment's ID as a number in its own column.
    _COLUMNS = "experiment_id"
    tables: frozenset[str]

    def __init__(self, ids: Mapping[int, int], schema: Schema) -> None:
        self.ids = dict(ids)
        holders = {name for name, table in schema.tables.items() if any(c.name == self._COLUMNS for c in table.columns)}
        self._text_tables = {"experiment_permissions", "scorer_permissions"}
        self.tables = frozenset(
            holders | {"registered_model_tags", "model_version_tags", "spans", "jobs", "role_permissions"}
        )
        self._kinds = {
            name: next(c.kind for c in schema.tables[name].columns if c.name == self._COLUMNS) for name in holders
        }
        self._old = pa.array(list(self.ids), pa.int64())
        self._new = pa.array(list(self.ids.values()), pa.int64())
        self._text_ids = {str(old): str(new) for old, new in self.ids.items()}

    def apply(self, batch: TableBatch) -> TableBatch:
        rows = batch.rows
        names = rows.schema.names
        if batch.table in self._kinds and self._COLUMNS in names:
            column = rows.column(self._COLUMNS)
            if self._kinds[batch.table] == "int":
                place = pc.index_in(column, self._old)
                column = pc.coalesce(self._new.take(place), column)
            else:
                column = _each(column, lambda text: self._text_ids.get(text, text))
            rows = _with_column(rows, self._COLUMNS, column)
        if batch.table in ("registered_model_tags", "model_version_tags") and {"key", "value"} <= set(names):
            chosen = pc.equal(rows.column("key"), "_mlflow_experiment_ids")
            changed = _each(rows.column("value"), self._comma_list)
            rows = _with_column(rows, "value", pc.if_else(chosen, changed, rows.column("value")))
        if batch.table == "spans" and "content" in names:
            rows = _with_column(rows, "content", _each(rows.column("content"), self._span_content))
        if batch.table == "jobs" and "params" in names:
            rows = _with_column(rows, "params", _each(rows.column("params"), self._job_params))
        if batch.table == "role_permissions" and {"resource_type", "resource_pattern"} <= set(names):
            chosen = pc.is_in(rows.column("resource_type"), pa.array(["experiment", "scorer"]))
            changed = _each(rows.column("resource_pattern"), self._pattern)
            rows = _with_column(rows, "resource_pattern", pc.if_else(chosen, changed, rows.column("resource_pattern")))
        return batch if rows is batch.rows else TableBatch(batch.table, rows)

    def _comma_list(self, text: str) -> str:
        return ",".join(self._text_ids.get(part, part) for part in text.split(","))

    def _pattern(self, text: str) -> str:
        head, slash, rest = text.partition("/")
        return self._text_ids.get(head, head) + slash + rest

    def _span_content(self, text: str) -> str:
        # The attribute's value is JSON inside JSON: "mlflow.experimentId": "\"123\"" or "123".
        if "mlflow.experimentId" not in text:
            return text
        return re.sub(
            r'("mlflow\.experimentId"\s*:\s*"(?:\\")?)(\d+)',
            lambda m: m.group(1) + self._text_ids.get(m.group(2), m.group(2)),
            text,
        )

    def _job_params(self, text: str) -> str:
        return re.sub(
            r'("experiment_id"\s*:\s*"?)(\d+)',
            lambda m: m.group(1) + self._text_ids.get(m.group(2), m.group(2)),
            text,
        )

    def added(self, schema: Schema) -> Iterator[TableBatch]:
        table = schema.tables.get("experiment_tags")
        changed = {old: new for old, new in self.ids.items() if old != new}
        if table is None or not changed or schema.chain != "tracking":
            return
        rows = pa.record_batch(
            {
                "key": pa.array([OLD_ID_TAG] * len(changed)),
                "value": pa.array([str(old) for old in changed]),
                "experiment_id": pa.array(list(changed.values()), pa.int64()),
            }
        )
        yield TableBatch("experiment_tags", rows)


class NegativeZeroTransform(Transform):
    """SQLite and MariaDB keep -0.0 as 0.0 (SQLite's whole reals are integers on disk); here it is done knowingly."""

    def __init__(self, schema: Schema) -> None:
        self._columns = {name: [c.name for c in t.columns if c.kind == "float"] for name, t in schema.tables.items()}
        self.tables = frozenset(name for name, columns in self._columns.items() if columns)
        self.rows = 0

    def apply(self, batch: TableBatch) -> TableBatch:
        rows = batch.rows
        for name in self._columns[batch.table]:
            if name not in rows.schema.names:
                continue
            column = rows.column(name)
            bits = column.view(pa.int64())
            # The sign bit alone: the bits of -0.0.
            negative = pc.equal(bits, pa.scalar(-(1 << 63), pa.int64()))
            count = pc.sum(negative).as_py() or 0
            if count:
                self.rows += count
                rows = _with_column(rows, name, pc.if_else(negative, pa.scalar(0.0), column))
        return batch if rows is batch.rows else TableBatch(batch.table, rows)

    @staticmethod
    def explanation(rows: int) -> dict[str, object]:
        """One entry of a document's ``explained``."""
        text = "SQLite and MariaDB cannot hold -0.0 and keep it as 0.0"
        return {"rule": "negative_zero", "rows": rows, "text": text}


def _each(column: pa.Array, change: Callable[[str], str]) -> pa.Array:
    encoded = column.dictionary_encode()
    old = encoded.dictionary.to_pylist()
    new = [change(text) for text in old]
    return column if new == old else pa.array(new, pa.string()).take(encoded.indices)


def _with_column(rows: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    index = rows.schema.get_field_index(name)
    return rows if column is rows.column(index) else rows.set_column(index, name, column)
