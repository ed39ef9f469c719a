"""Chooses experiments, runs and registered models, with everything that belongs to them.

What is chosen
    ``--only`` names experiments and registered models; without it all are meant. ``--exclude`` takes some away again
    and beats everything. ``--since`` leaves runs, traces and logged models behind that are older; one without a time
    is not known to be older and stays chosen. Datasets, registered models and what was set up in an experiment have
    no time of that kind. A name counts in every workspace.

What comes along
    The objects of ``_RULES``, each with the reason of the first rule that met it. A chosen run brings its whole line:
    its ancestors, its descendants (which count as chosen from there on), datasets, logged models, traces, prompts and
    the model versions that it made. An object that only comes along brings what it is made of or made from, and never
    what others made with it later; else one popular model would bring half the store. An experiment that comes along
    is its row and its tags. A model version comes along without its sisters, and its registered model with it; a
    chosen registered model has all its versions. What an excluded experiment or model holds never comes along: the
    link is cut and named under ``left``. The one thing of an excluded experiment that can come is its bare row, where
    a carried point of a logged model names it in a foreign key.

Which rows that means for each table is said in ``links``. Everything is kept as sorted 64-bit hashes of keys, so that
a million runs cost some tens of megabytes and a batch is tested by binary search. With ``--only`` the sets hold what
is carried; without it what stays behind, so that rows which belong to nothing reach the cleaning and are named there.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlflowctl.core.errors import SourceError, UsageError
from mlflowctl.migrate import links
from mlflowctl.stores.api import OddRow, TableBatch
from mlflowctl.stores.canonical import ARROW_TYPES
from mlflowctl.stores.hashing import row_hashes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mlflowctl.migrate.links import Link
    from mlflowctl.stores.api import Reader
    from mlflowctl.stores.schema import Schema

    U64 = NDArray[np.uint64]
    I32 = NDArray[np.int32]
    I64 = NDArray[np.int64]
    Mask = NDArray[np.bool_]

MAX_NAMED = 1000
"""Objects that a document names one by one; beyond that they are counted."""

_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_NO_TIME = np.iinfo(np.int64).max
_EXPERIMENTS = ("experiment", "chosen_experiment", "whole_experiment")
_FOLDED = ("registered_model", "model_version", "model_name")
_PARENT_TAG = "mlflow.parentRunId"
_PROMPTS_TAG = "mlflow.linkedPrompts"
_PROMPT_EXPERIMENTS_TAG = "_mlflow_experiment_ids"
_PROMPT_RUNS_TAG = "mlflow.prompt.associatedRunIds"
_SOURCE_RUN = "mlflow.sourceRun"
_TRACE_MODEL = "mlflow.modelId"
_JUDGED_BY_RUN = "mlflow.assessment.sourceRunId"
_JUDGED_IN_TRACE = "mlflow.assessment.scorerTraceId"
_PYTHON_TYPES: dict[str, type] = {"float": float, "bool": bool, "bytes": bytes}

_COLUMNS: dict[str, tuple[str, ...]] = {
    "experiments": ("experiment_id", "name"),
    "runs": ("run_uuid", "experiment_id", "start_time"),
    "tags": ("run_uuid", "key", "value"),
    "datasets": ("dataset_uuid", "experiment_id"),
    "inputs": ("input_uuid", "source_type", "source_id", "destination_type", "destination_id"),
    "logged_models": ("model_id", "experiment_id", "source_run_id", "creation_timestamp_ms"),
    "logged_model_params": ("model_id", "experiment_id"),
    "logged_model_tags": ("model_id", "experiment_id", "tag_key", "tag_value"),
    "logged_model_metrics": ("model_id", "run_id", "experiment_id", "dataset_uuid"),
    "trace_info": ("request_id", "experiment_id", "timestamp_ms"),
    "trace_tags": ("request_id", "key", "value"),
    "trace_request_metadata": ("request_id", "key", "value"),
    "spans": ("trace_id", "experiment_id"),
    "assessments": ("trace_id", "run_id", "assessment_metadata"),
    "entity_associations": ("source_type", "source_id", "destination_type", "destination_id"),
    "evaluation_datasets": ("dataset_id",),
    "registered_models": ("workspace", "name"),
    "registered_model_tags": ("workspace", "name", "key", "value"),
    "registered_model_aliases": ("workspace", "name", "version"),
    "model_versions": ("workspace", "name", "version", "run_id", "source"),
    "model_version_tags": ("workspace", "name", "version", "key", "value"),
    "issues": ("issue_id", "experiment_id", "source_run_id"),
    "scorers": ("scorer_id", "experiment_id"),
    "review_queues": ("queue_id", "experiment_id"),
    "endpoints": ("endpoint_id", "experiment_id"),
    "guardrails": ("guardrail_id", "scorer_id", "action_endpoint_id"),
    "jobs": ("id", "params"),
}
"""What is read to know which rows are chosen: keys, times and the few tags that name other objects."""


# -- the closure's rules ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rule:
    """Objects at one end of an edge bring those at the other end; ``{}`` in ``why`` is the one that brings."""

    edge: str
    source: str
    target: str
    why: str
    back: bool = False
    """The edge was gathered from the target to the source."""
    chosen: bool = False
    """Only a chosen object brings, not one that came along."""
    whole: bool = False
    """What is brought counts as chosen."""


_RULES = (
    _Rule("parent", "run", "run", "child of run {}", back=True, chosen=True, whole=True),
    _Rule("parent", "run", "run", "parent of run {}"),
    _Rule("dataset", "run", "dataset", "used by run {}"),
    _Rule("model_used", "run", "logged_model", "used by run {}"),
    _Rule("model_made", "run", "logged_model", "made by run {}"),
    _Rule("run_trace", "run", "trace", "trace of run {}"),
    _Rule("version_run", "run", "model_version", "made by run {}", back=True, chosen=True),
    _Rule("run_prompt", "run", "registered_model", "prompt of run {}", chosen=True, whole=True),
    _Rule("prompt_run", "run", "registered_model", "prompt of run {}", chosen=True, whole=True, back=True),
    _Rule("run_evaluation", "run", "evaluation_dataset", "used by run {}", chosen=True),
    _Rule("run_trace", "trace", "run", "run of trace {}", back=True, chosen=True),
    _Rule("judged_by", "trace", "run", "assessed trace {}", chosen=True),
    _Rule("judged_in", "trace", "trace", "trace of an assessment of trace {}", chosen=True),
    _Rule("trace_model", "trace", "logged_model", "model of trace {}", chosen=True),
    _Rule("trace_prompt", "trace", "registered_model", "prompt of trace {}", chosen=True, whole=True),
    _Rule("trace_evaluation", "trace", "evaluation_dataset", "holds trace {}", chosen=True),
    _Rule("model_made", "logged_model", "run", "made logged model {}", back=True),
    _Rule("model_run", "logged_model", "run", "logged a metric of logged model {}", chosen=True),
    _Rule("model_dataset", "logged_model", "dataset", "measured logged model {}"),
    _Rule("trace_model", "logged_model", "trace", "trace of logged model {}", back=True, chosen=True),
    _Rule("version_model", "logged_model", "model_version", "registered from logged model {}", back=True, chosen=True),
    _Rule("model_prompt", "logged_model", "registered_model", "prompt of logged model {}", chosen=True, whole=True),
    _Rule("version_of", "registered_model", "model_version", "version of model {}", back=True, chosen=True),
    _Rule("version_of", "model_version", "registered_model", "holds model version {}"),
    _Rule("version_run", "model_version", "run", "made model version {}"),
    _Rule("version_model", "model_version", "logged_model", "registered as model version {}"),
    _Rule("prompt_experiment", "experiment", "registered_model", "prompt of experiment {}", back=True, chosen=True, whole=True),
    _Rule("evaluation_experiment", "experiment", "evaluation_dataset", "evaluation dataset of experiment {}", back=True, chosen=True),
    _Rule("issue_run", "experiment", "run", "found an issue of experiment {}", chosen=True),
    _Rule("run_home", "run", "experiment", "holds run {}"),
    # Not followed like the others: see _bring_named_by_points.
    _Rule("run_points", "run", "experiment", "named by a point that run {} logged of a logged model"),
    _Rule("trace_home", "trace", "experiment", "holds trace {}"),
    _Rule("model_home", "logged_model", "experiment", "holds logged model {}"),
    _Rule("dataset_home", "dataset", "experiment", "holds dataset {}"),
    _Rule("endpoint_home", "endpoint", "experiment", "takes the usage of gateway endpoint {}"),
)  # fmt: skip
_NODE_KINDS = (
    "experiment",
    "run",
    "registered_model",
    "model_version",
    "logged_model",
    "trace",
    "dataset",
    "evaluation_dataset",
    "endpoint",
)
_UNNAMED = ("endpoint",)
"""Carried with the server-wide tables, so none of them comes along for a reason of its own."""


# -- keys ------------------------------------------------------------------------------------------------------------


class _Keys:
    """A set of key hashes; with ``left`` it lists those that are not in it."""

    __slots__ = ("_left", "_sorted")

    def __init__(self, hashes: U64, *, left: bool) -> None:
        self._sorted = np.unique(hashes)
        self._left = left

    def has(self, hashes: U64) -> Mask:
        """Which of the hashes are in the set."""
        if not len(self._sorted):
            return np.full(len(hashes), self._left)
        place = np.minimum(np.searchsorted(self._sorted, hashes), len(self._sorted) - 1)
        found: Mask = (self._sorted[place] == hashes) != self._left
        return found


def _hashes(kind: str, columns: Sequence[pa.Array], *, fold: bool) -> tuple[U64, Mask]:
    """Hashes of keys, and where a key is NULL. Experiments are their number, in text too."""
    null = np.zeros(len(columns[0]), dtype=np.bool_)
    for column in columns:
        if column.null_count:
            null |= column.is_null().to_numpy(zero_copy_only=False)
    if kind in _EXPERIMENTS:
        column = columns[0]
        if not pa.types.is_integer(column.type):
            column = _numbers(column)
            null = column.is_null().to_numpy(zero_copy_only=False)
        whole = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
        return np.ascontiguousarray(whole, dtype=np.int64).view(np.uint64), null
    if fold and kind in _FOLDED:
        columns = [_folded(c) for c in columns]
    named = {str(n): c for n, c in enumerate(columns)}
    kinds = {n: "int" if pa.types.is_integer(c.type) else "text" for n, c in named.items()}
    rows = pa.RecordBatch.from_arrays(list(named.values()), names=list(named))
    return row_hashes(kind, rows, kinds)[0], null


def _numbers(column: pa.Array) -> pa.Array:
    encoded = column.dictionary_encode()
    numbers = [int(text) if re.fullmatch(r"-?\d{1,18}", text) else None for text in encoded.dictionary.to_pylist()]
    return pa.array(numbers, pa.int64()).take(encoded.indices)


def _folded(column: pa.Array) -> pa.Array:
    """As MySQL compares names, more or less: its foreign keys join ``Churn`` and ``churn ``."""
    return pc.utf8_lower(pc.utf8_rtrim_whitespace(column)) if pa.types.is_string(column.type) else column


def _joined(*parts: pa.Array) -> pa.Array:
    texts = [p if pa.types.is_string(p.type) else p.cast(pa.string()) for p in parts]
    return texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, "/")


class _Nodes:
    """All objects of a kind, by position in the order of their hashes, and what is known of each."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._hashes: list[U64] = []
        self._texts: list[pa.Array] = []
        self._homes: list[U64] = []
        self._homeless: list[Mask] = []
        self._times: list[I64] = []

    def add(
        self,
        key: tuple[U64, Mask],
        texts: pa.Array,
        home: tuple[U64, Mask] | None = None,
        times: pa.Array | None = None,
    ) -> None:
        hashes, null = key
        count = len(hashes)
        homes, homeless = home or (np.zeros(count, dtype=np.uint64), np.ones(count, dtype=np.bool_))
        moments = (
            np.full(count, _NO_TIME) if times is None else pc.fill_null(times, _NO_TIME).to_numpy(zero_copy_only=False)
        )
        keep = ~null
        self._hashes.append(hashes[keep])
        # A copy: the driver's own buffers are larger than what is in them.
        self._texts.append(texts.filter(pa.array(keep)))
        self._homes.append(homes[keep])
        self._homeless.append(homeless[keep])
        self._times.append(np.asarray(moments, dtype=np.int64)[keep])

    def close(self, experiments: _Nodes) -> None:
        """Put everything in order, the experiments first; nothing is added any more."""
        self.hashes, row = np.unique(_concatenated(self._hashes, np.uint64), return_index=True)
        self._hashes, self._row = [], row.astype(np.int32)
        self.times = _concatenated(self._times, np.int64)[self._row]
        self._times = []
        self.home = np.full(len(self.hashes), -1, dtype=np.int32)
        if self is not experiments:
            homes, homeless = _concatenated(self._homes, np.uint64), _concatenated(self._homeless, np.bool_)
            self.home = np.where(homeless, np.int32(-1), experiments.index(homes))[self._row]
        self._homes, self._homeless = [], []
        count = len(self.hashes)
        self.carried = np.zeros(count, dtype=np.bool_)
        self.chosen = np.zeros(count, dtype=np.bool_)
        self.blocked = np.zeros(count, dtype=np.bool_)
        self.base = self.chosen
        self.why = np.full(count, -1, dtype=np.int8)
        self.via = np.zeros(count, dtype=np.int32)

    def index(self, hashes: U64) -> I32:
        """Positions, -1 where there is no such object."""
        if not len(self.hashes):
            return np.full(len(hashes), -1, dtype=np.int32)
        place = np.searchsorted(self.hashes, hashes).astype(np.int32)
        np.minimum(place, np.int32(len(self.hashes) - 1), out=place)
        place[self.hashes[place] != hashes] = -1
        return place

    def text(self, position: int) -> str:
        row = int(self._row[position])
        for part in self._texts:
            if row < len(part):
                return str(part[row].as_py())
            row -= len(part)
        raise IndexError(position)


def _concatenated(parts: Sequence[NDArray[Any]], kind: type) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=kind)


# -- reading the source ----------------------------------------------------------------------------------------------


class _Survey:
    """One pass over the small columns of a source: its objects, and which of them name which."""

    def __init__(self, reader: Reader) -> None:
        self.schema = reader.schema
        self.fold = reader.kind == "mysql"
        self.nodes = {kind: _Nodes(kind) for kind in _NODE_KINDS}
        self.experiment_names: dict[int, list[str]] = {}
        self.edges: dict[str, list[tuple[U64, U64]]] = {}
        self.aliases: list[tuple[U64, U64]] = []
        self.points: list[tuple[U64, U64, U64]] = []
        self.jobs: list[tuple[U64, U64, Mask]] = []
        self.inputs: list[tuple[U64, U64, Mask]] = []
        self.derived: dict[str, list[pa.RecordBatch]] = {}
        wanted = {
            table: [c for c in columns if c in {x.name for x in self.schema.tables[table].columns}]
            for table, columns in _COLUMNS.items()
            if table in self.schema.tables
        }
        take = {table: getattr(self, f"_{table}") for table in wanted}
        for batch in reader.batches(list(wanted), wanted):
            if batch.table not in take:
                continue
            for rows in _all_rows(batch, self.schema):
                if rows.num_rows:
                    take[batch.table](rows)
        for nodes in self.nodes.values():
            nodes.close(self.nodes["experiment"])

    def key(self, kind: str, rows: pa.RecordBatch, *columns: str) -> tuple[U64, Mask]:
        """The hashes of a kind's keys in ``rows``; columns that the revision lacks do not count."""
        there = [rows.column(c) for c in columns if c in rows.schema.names]
        return _hashes(kind, there, fold=self.fold)

    def edge(self, name: str, source: tuple[U64, Mask], target: tuple[U64, Mask], where: Mask | None = None) -> None:
        """Remember pairs, each once a batch."""
        keep = ~(source[1] | target[1])
        if where is not None:
            keep &= where
        if not keep.any():
            return
        left, right = source[0][keep], target[0][keep]
        mixed = (left * np.uint64(0x9E3779B97F4A7C15)) ^ right
        first = np.unique(mixed, return_index=True)[1]
        self.edges.setdefault(name, []).append((left[first], right[first]))

    # One method a table, named after it.

    def _experiments(self, rows: pa.RecordBatch) -> None:
        ids = rows.column("experiment_id")
        self.nodes["experiment"].add(self.key("experiment", rows, "experiment_id"), ids.cast(pa.string()))
        for number, name in zip(ids.to_pylist(), rows.column("name").to_pylist(), strict=True):
            if number is not None:
                self.experiment_names.setdefault(number, []).append(name or "")

    def _runs(self, rows: pa.RecordBatch) -> None:
        self.nodes["run"].add(
            self.key("run", rows, "run_uuid"),
            rows.column("run_uuid"),
            self.key("experiment", rows, "experiment_id"),
            rows.column("start_time") if "start_time" in rows.schema.names else None,
        )

    def _tags(self, rows: pa.RecordBatch) -> None:
        rows = _with_keys(rows, "key", _PARENT_TAG, _PROMPTS_TAG)
        if rows.num_rows:
            parent = _equal(rows.column("key"), _PARENT_TAG)
            run = self.key("run", rows, "run_uuid")
            self.edge("parent", run, self.key("run", rows, "value"), parent)
            self._prompts("run_prompt", run, rows.column("value"), ~parent)

    def _datasets(self, rows: pa.RecordBatch) -> None:
        self.nodes["dataset"].add(
            self.key("dataset", rows, "dataset_uuid"),
            rows.column("dataset_uuid"),
            self.key("experiment", rows, "experiment_id"),
        )

    def _inputs(self, rows: pa.RecordBatch) -> None:
        own, null = self.key("input", rows, "input_uuid")
        for one, other in (("source", "destination"), ("destination", "source")):
            kind, far = rows.column(f"{one}_type"), rows.column(f"{other}_type")
            is_run = _equal(kind, *links.RUN_ENDS)
            run = self.key("run", rows, f"{one}_id")
            model = self.key("logged_model", rows, f"{other}_id")
            to_model = is_run & _equal(far, *links.MODEL_ENDS)
            made = _equal(kind, "RUN_OUTPUT") | _equal(far, "MODEL_OUTPUT")
            self.edge("model_made", run, model, to_model & made)
            self.edge("model_used", run, model, to_model & ~made)
            self.edge("dataset", run, self.key("dataset", rows, f"{other}_id"), is_run & _equal(far, "DATASET"))
            named = is_run & ~null & ~run[1]
            self.inputs.append((own[named], run[0][named], np.ones(int(named.sum()), dtype=np.bool_)))
        neither = ~null & ~_equal(rows.column("source_type"), *links.RUN_ENDS)
        neither &= ~_equal(rows.column("destination_type"), *links.RUN_ENDS)
        count = int(neither.sum())
        self.inputs.append((own[neither], np.zeros(count, dtype=np.uint64), np.zeros(count, dtype=np.bool_)))

    def _logged_models(self, rows: pa.RecordBatch) -> None:
        model = self.key("logged_model", rows, "model_id")
        self.nodes["logged_model"].add(
            model,
            rows.column("model_id"),
            self.key("experiment", rows, "experiment_id"),
            rows.column("creation_timestamp_ms"),
        )
        self.edge("model_made", self.key("run", rows, "source_run_id"), model)

    def _logged_model_params(self, rows: pa.RecordBatch) -> None:
        self.edge(
            "model_home", self.key("logged_model", rows, "model_id"), self.key("experiment", rows, "experiment_id")
        )

    def _logged_model_tags(self, rows: pa.RecordBatch) -> None:
        self._logged_model_params(rows)
        rows = _with_keys(rows, "tag_key", _PROMPTS_TAG)
        if rows.num_rows:
            self._prompts("model_prompt", self.key("logged_model", rows, "model_id"), rows.column("tag_value"))

    def _logged_model_metrics(self, rows: pa.RecordBatch) -> None:
        model, run = self.key("logged_model", rows, "model_id"), self.key("run", rows, "run_id")
        self.edge("model_run", model, run)
        home, homeless = self.key("experiment", rows, "experiment_id")
        keep = ~(model[1] | run[1] | homeless)
        triples = np.unique(np.stack([model[0][keep], run[0][keep], home[keep]]), axis=1)
        self.points.append((triples[0], triples[1], triples[2]))
        self.edge("model_dataset", model, self.key("dataset", rows, "dataset_uuid"))

    def _trace_info(self, rows: pa.RecordBatch) -> None:
        self.nodes["trace"].add(
            self.key("trace", rows, "request_id"),
            rows.column("request_id"),
            self.key("experiment", rows, "experiment_id"),
            rows.column("timestamp_ms"),
        )

    def _trace_tags(self, rows: pa.RecordBatch) -> None:
        rows = _with_keys(rows, "key", _PROMPTS_TAG)
        if rows.num_rows:
            self._prompts("trace_prompt", self.key("trace", rows, "request_id"), rows.column("value"))

    def _trace_request_metadata(self, rows: pa.RecordBatch) -> None:
        rows = _with_keys(rows, "key", _SOURCE_RUN, _TRACE_MODEL)
        if rows.num_rows:
            trace, of_run = self.key("trace", rows, "request_id"), _equal(rows.column("key"), _SOURCE_RUN)
            self.edge("run_trace", self.key("run", rows, "value"), trace, of_run)
            self.edge("trace_model", trace, self.key("logged_model", rows, "value"), ~of_run)

    def _spans(self, rows: pa.RecordBatch) -> None:
        self.edge("trace_home", self.key("trace", rows, "trace_id"), self.key("experiment", rows, "experiment_id"))

    def _assessments(self, rows: pa.RecordBatch) -> None:
        self.edge("judged_by", self.key("trace", rows, "trace_id"), self.key("run", rows, "run_id"))
        rows = rows.filter(pc.match_substring(rows.column("assessment_metadata"), '"mlflow.assessment.'))
        if not rows.num_rows:
            return
        trace = self.key("trace", rows, "trace_id")
        found = [_json_object(text) for text in rows.column("assessment_metadata").to_pylist()]
        for name, word, kind in (("judged_by", _JUDGED_BY_RUN, "run"), ("judged_in", _JUDGED_IN_TRACE, "trace")):
            values = [v if isinstance(v := entry.get(word), str) else None for entry in found]
            self.edge(name, trace, _hashes(kind, [pa.array(values, pa.string())], fold=False))

    def _entity_associations(self, rows: pa.RecordBatch) -> None:
        for one, other in (("source", "destination"), ("destination", "source")):
            kind, far = rows.column(f"{one}_type"), rows.column(f"{other}_type")

            def pair(
                name: str,
                left: str,
                right: str,
                one: str = one,
                other: str = other,
                kind: pa.Array = kind,
                far: pa.Array = far,
            ) -> None:
                where = _equal(kind, left) & _equal(far, right)
                if where.any():
                    self.edge(name, self.key(left, rows, f"{one}_id"), self.key(right, rows, f"{other}_id"), where)

            pair("run_trace", "run", "trace")
            pair("evaluation_experiment", "evaluation_dataset", "experiment")
            pair("run_evaluation", "run", "evaluation_dataset")
            pair("trace_evaluation", "trace", "evaluation_dataset")
            prompts = _equal(far, "prompt_version")
            for name, word in (("trace_prompt", "trace"), ("run_prompt", "run")):
                where = prompts & _equal(kind, word)
                if where.any():
                    names = pc.replace_substring_regex(rows.column(f"{other}_id"), r"/[^/]*$", "")
                    to = _hashes("model_name", [names], fold=self.fold)
                    self.edge(name, self.key(word, rows, f"{one}_id"), to, where)

    def _evaluation_datasets(self, rows: pa.RecordBatch) -> None:
        self.nodes["evaluation_dataset"].add(
            self.key("evaluation_dataset", rows, "dataset_id"), rows.column("dataset_id")
        )

    def _registered_models(self, rows: pa.RecordBatch) -> None:
        model = self.key("registered_model", rows, "workspace", "name")
        self.nodes["registered_model"].add(model, rows.column("name"))
        self.edge("names", self.key("model_name", rows, "name"), model)

    def _registered_model_tags(self, rows: pa.RecordBatch) -> None:
        self._prompt_tags(rows)

    def _model_version_tags(self, rows: pa.RecordBatch) -> None:
        self._prompt_tags(rows)

    def _prompt_tags(self, rows: pa.RecordBatch) -> None:
        """Experiments and runs that a prompt, or a version of it, says that it was used in: lists with commas."""
        rows = _with_keys(rows, "key", _PROMPT_EXPERIMENTS_TAG, _PROMPT_RUNS_TAG)
        if not rows.num_rows:
            return
        hashes, null = self.key("registered_model", rows, "workspace", "name")
        lists = pc.split_pattern(pc.replace_substring(rows.column("value"), " ", ""), ",")
        of, flat = pc.list_parent_indices(lists).to_numpy(), pc.list_flatten(lists)
        model = (hashes[of], null[of])
        given = pc.not_equal(flat, "").to_numpy(zero_copy_only=False)
        to_experiment = _equal(rows.column("key"), _PROMPT_EXPERIMENTS_TAG)[of]
        self.edge("prompt_experiment", model, _hashes("experiment", [flat], fold=False), to_experiment & given)
        self.edge("prompt_run", model, _hashes("run", [flat], fold=False), ~to_experiment & given)

    def _registered_model_aliases(self, rows: pa.RecordBatch) -> None:
        model, version = (
            self.key("registered_model", rows, "workspace", "name"),
            self.key("model_version", rows, "workspace", "name", "version"),
        )
        keep = ~(model[1] | version[1])
        self.aliases.append((model[0][keep], version[0][keep]))

    def _model_versions(self, rows: pa.RecordBatch) -> None:
        version = self.key("model_version", rows, "workspace", "name", "version")
        self.nodes["model_version"].add(version, _joined(rows.column("name"), rows.column("version")))
        self.edge("version_of", version, self.key("registered_model", rows, "workspace", "name"))
        if "run_id" in rows.schema.names:
            self.edge("version_run", version, self.key("run", rows, "run_id"))
        if "source" in rows.schema.names:
            found = pc.struct_field(pc.extract_regex(rows.column("source"), r"^models:/+(?P<id>[^/@]+)$"), "id")
            self.edge("version_model", version, _hashes("logged_model", [found], fold=False))

    def _issues(self, rows: pa.RecordBatch) -> None:
        self.derived.setdefault("issue", []).append(rows)
        self.edge("issue_run", self.key("experiment", rows, "experiment_id"), self.key("run", rows, "source_run_id"))

    def _scorers(self, rows: pa.RecordBatch) -> None:
        self.derived.setdefault("scorer", []).append(rows)

    def _review_queues(self, rows: pa.RecordBatch) -> None:
        self.derived.setdefault("queue", []).append(rows)

    def _endpoints(self, rows: pa.RecordBatch) -> None:
        self.derived.setdefault("endpoint", []).append(rows)
        endpoint = self.key("endpoint", rows, "endpoint_id")
        self.nodes["endpoint"].add(endpoint, rows.column("endpoint_id"))
        if "experiment_id" in rows.schema.names:
            self.edge("endpoint_home", endpoint, self.key("experiment", rows, "experiment_id"))

    def _guardrails(self, rows: pa.RecordBatch) -> None:
        self.derived.setdefault("guardrail", []).append(rows)

    def _jobs(self, rows: pa.RecordBatch) -> None:
        own, null = self.key("job", rows, "id")
        found = pc.extract_regex(rows.column("params"), r'"experiment_id"\s*:\s*"?(?P<id>\d+)')
        home, homeless = _hashes("experiment", [pc.struct_field(found, "id")], fold=False)
        self.jobs.append((own[~null], home[~null], homeless[~null]))

    def _prompts(self, name: str, source: tuple[U64, Mask], values: pa.Array, where: Mask | None = None) -> None:
        """Edges from objects to the prompts of ``mlflow.linkedPrompts``, a JSON list of names and versions."""
        if where is not None:
            values = pc.if_else(pa.array(where), values, pa.scalar(None, pa.string()))
        encoded = values.dictionary_encode()
        names = [
            [e["name"] for e in _json_list(text) if isinstance(e, dict) and isinstance(e.get("name"), str)]
            for text in encoded.dictionary.to_pylist()
        ]
        lists = pa.array(names, pa.list_(pa.string())).take(encoded.indices)
        of = pc.list_parent_indices(lists).to_numpy()
        if len(of):
            to = _hashes("model_name", [pc.list_flatten(lists)], fold=self.fold)
            self.edge(name, (source[0][of], source[1][of]), to)


def _all_rows(batch: TableBatch, schema: Schema) -> Iterator[pa.RecordBatch]:
    """The rows of a batch, and the odd ones with what can be read of them."""
    yield batch.rows
    if batch.odd:
        kinds = {c.name: c.kind for c in schema.tables[batch.table].columns}
        fields = [pa.field(n, ARROW_TYPES[kinds[n]]) for n in batch.rows.schema.names]
        rows = [{f.name: _readable(f.name, kinds[f.name], row.cells.get(f.name)) for f in fields} for row in batch.odd]
        yield pa.RecordBatch.from_arrays(
            [pa.array([r[f.name] for r in rows], f.type) for f in fields], schema=pa.schema(fields)
        )


def _readable(name: str, kind: str, cell: Any) -> Any:
    if name == "name" and isinstance(cell, bytes):
        return cell.decode("utf-8", "replace")
    return cell if _is_kind(cell, kind) else None


def _is_kind(cell: Any, kind: str) -> bool:
    if kind == "int":
        return isinstance(cell, int) and -(2**63) <= cell < 2**63
    return isinstance(cell, _PYTHON_TYPES.get(kind, str))


def _equal(column: pa.Array, *words: str) -> Mask:
    found: Mask = pc.is_in(column, pa.array(words, pa.string())).to_numpy(zero_copy_only=False)
    return found


def _with_keys(rows: pa.RecordBatch, column: str, *words: str) -> pa.RecordBatch:
    return rows.filter(pc.is_in(rows.column(column), pa.array(words, pa.string())))


def _json_object(text: str) -> dict[str, Any]:
    value = _json(text)
    return value if isinstance(value, dict) else {}


def _json_list(text: str) -> list[Any]:
    value = _json(text)
    return value if isinstance(value, list) else []


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


# -- names and times -------------------------------------------------------------------------------------------------


def _since(text: str) -> int:
    """A date or an RFC 3339 time as milliseconds, rounded up; UTC where no zone is given.

    Raises:
        UsageError: it is neither.
    """
    shape = r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?)?\s*(?:([Zz])|([+-])(\d\d):?(\d\d))?"
    found = re.fullmatch(shape, text.strip())
    try:
        if found is None:
            raise ValueError("not of that form")
        day, minutes, seconds, fraction, _, sign, hours, rest = found.groups()
        moment = datetime.fromisoformat(f"{day}T{minutes or '00:00'}:{seconds or '00'}+00:00")
        offset = timedelta(hours=int(hours or 0), minutes=int(rest or 0))
        whole = (moment - _EPOCH - (-offset if sign == "-" else offset)) // timedelta(seconds=1)
    except (ValueError, OverflowError) as bad:
        raise UsageError(
            f"--since {text!r} is no time that can be read.",
            why=f"It should be a date or a time as in RFC 3339 ({bad})." if found else None,
            next_step="Write a date (2026-01-31) or a time (2026-01-31T18:00:00Z); without a zone it is UTC.",
            kind="since",
        ) from None
    nanoseconds = int((fraction or "0").ljust(9, "0"))
    return whole * 1000 + -(-nanoseconds // 1_000_000)


class _Names:
    """The names of experiments and registered models, and what a pattern means among them."""

    def __init__(self, survey: _Survey) -> None:
        experiments, models = survey.nodes["experiment"], survey.nodes["registered_model"]
        self.experiments: list[tuple[str, int]] = []
        """Name and position."""
        self.ids: dict[str, int] = {}
        for position in range(len(experiments.hashes)):
            text = experiments.text(position)
            self.ids[text] = position
            self.experiments.extend((name, position) for name in survey.experiment_names[int(text)])
        self.models = [(models.text(position), position) for position in range(len(models.hashes))]

    def find(self, option: str, spec: str) -> tuple[list[int], list[int]]:
        """Positions of the experiments and of the registered models that ``spec`` means.

        Raises:
            UsageError: it means none.
        """
        kind, pattern = _kind_of(spec)
        experiments = [p for n, p in self.experiments if n == spec or (kind != "model" and _matches(n, pattern))]
        models = [p for n, p in self.models if n == spec or (kind != "experiment" and _matches(n, pattern))]
        if not experiments and not models and kind != "model" and pattern.isdigit() and pattern in self.ids:
            experiments = [self.ids[pattern]]
        if not experiments and not models:
            self._refuse(option, spec, kind, pattern)
        return experiments, models

    def _refuse(self, option: str, spec: str, kind: str | None, pattern: str) -> None:
        of_kind = {"experiment": [n for n, _ in self.experiments], "model": [n for n, _ in self.models]}
        known = dict.fromkeys(n for word, names in of_kind.items() if kind in (None, word) for n in names)
        near = difflib.get_close_matches(pattern, list(known), n=3, cutoff=0.6)
        if not near:  # only the case differs, or the name is a part of a longer one
            small = pattern.lower()
            near = [n for n in known if small and small in n.lower()][:3]
        what = {"experiment": "experiment", "model": "registered model"}.get(
            kind or "", "experiment or registered model"
        )
        hint = f"Did you mean {', '.join(repr(n) for n in near)}?" if near else None
        raise UsageError(
            f"--{option} {spec!r} matches no {what} of the source.",
            why=f"It has {len(self.experiments)} experiments and {len(self.models)} registered models; capitals count.",
            next_step=hint or "Name an experiment or registered model of the source, or a glob such as 'prod-*'.",
            kind="no_match",
        )


def _kind_of(spec: str) -> tuple[Literal["experiment", "model"] | None, str]:
    head, colon, rest = spec.partition(":")
    if colon and head == "experiment":
        return "experiment", rest
    if colon and head == "model":
        return "model", rest
    return None, spec


def _matches(name: str, pattern: str) -> bool:
    # A name may itself hold brackets or stars.
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


# -- the closure -----------------------------------------------------------------------------------------------------


class _Closure:
    """Which objects are carried, and why."""

    def __init__(self, survey: _Survey, only: Sequence[str], exclude: Sequence[str], since: str | None) -> None:
        self.nodes = survey.nodes
        self._experiment_names = survey.experiment_names
        self._pairs: dict[str, tuple[I32, I32]] = {}
        moment = None if since is None else _since(since)
        self.positive = bool(only)
        self._edges(survey)
        self._choose(survey, only, exclude, moment)
        self._spread()
        self._bring_named_by_points(survey)

    def _edges(self, survey: _Survey) -> None:
        """Pairs of hashes become pairs of positions; a pair of which one end is not in the source is dropped."""
        ends = {rule.edge: (rule.target, rule.source) if rule.back else (rule.source, rule.target) for rule in _RULES}
        by_name = survey.edges.pop("names", [])
        name_hashes = _concatenated([n for n, _ in by_name], np.uint64)
        models = self.nodes["registered_model"].index(_concatenated([m for _, m in by_name], np.uint64))
        order = np.argsort(name_hashes, kind="stable")
        name_hashes, models = name_hashes[order], models[order]
        for name, (source, target) in ends.items():
            nodes = self.nodes[source]
            froms: list[I32] = []
            to: list[I32] = []
            at_home = name.endswith("_home") and source != "endpoint"
            if at_home:
                housed = np.flatnonzero(nodes.home >= 0).astype(np.int32)
                froms.append(housed)
                to.append(nodes.home[housed])
            parts = survey.edges.pop(name, [])
            while parts:  # a part at a time, each let go of
                left, right = parts.pop()
                if name in ("run_prompt", "trace_prompt", "model_prompt"):
                    # A prompt is named without its workspace, and several may have the name.
                    low, high = (np.searchsorted(name_hashes, right, side) for side in ("left", "right"))
                    counts = high - low
                    inner = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
                    one, other = np.repeat(nodes.index(left), counts), models[np.repeat(low, counts) + inner]
                else:
                    one, other = nodes.index(left), self.nodes[target].index(right)
                keep = (one >= 0) & (other >= 0)
                if source == target:
                    keep &= one != other
                if at_home:
                    one, other = one[keep], other[keep]
                    keep = nodes.home[one] != other
                froms.append(one[keep])
                to.append(other[keep])
            self._pairs[name] = _concatenated(froms, np.int32), _concatenated(to, np.int32)

    def _choose(self, survey: _Survey, only: Sequence[str], exclude: Sequence[str], moment: int | None) -> None:
        names = _Names(survey)
        experiments, models = self.nodes["experiment"], self.nodes["registered_model"]
        experiments.chosen[:] = not only
        models.chosen[:] = not only
        for spec in only:
            found = names.find("only", spec)
            experiments.chosen[found[0]] = True
            models.chosen[found[1]] = True
        for spec in exclude:
            found = names.find("exclude", spec)
            experiments.blocked[found[0]] = True
            models.blocked[found[1]] = True
        experiments.chosen &= ~experiments.blocked
        models.chosen &= ~models.blocked
        if (only or exclude) and not experiments.chosen.any() and not models.chosen.any():
            raise UsageError(
                "Nothing is left to carry: --exclude takes away all that is chosen.",
                next_step="Name fewer with --exclude.",
                kind="nothing_chosen",
            )
        for kind in ("run", "trace", "logged_model", "dataset"):
            nodes = self.nodes[kind]
            home = nodes.home
            # Without an experiment in the source it belongs to none that was named.
            nodes.chosen[:] = np.where(
                home >= 0, experiments.chosen[home] if len(experiments.chosen) else False, not only
            )
            edge = {"logged_model": "model_home"}.get(kind, f"{kind}_home")
            froms, to = self._pairs[edge]
            nodes.blocked[froms[experiments.blocked[to]]] = True
            nodes.chosen &= ~nodes.blocked
            if moment is not None and kind != "dataset":
                nodes.chosen &= nodes.times >= moment
        froms, to = self._pairs["version_of"]
        versions, evaluations = self.nodes["model_version"], self.nodes["evaluation_dataset"]
        versions.blocked[froms[models.blocked[to]]] = True
        versions.chosen[froms[models.chosen[to]]] = True
        froms, to = self._pairs["evaluation_experiment"]
        somewhere, kept = np.zeros(len(evaluations.chosen), np.bool_), np.zeros(len(evaluations.chosen), np.bool_)
        somewhere[froms] = True
        kept[froms[~experiments.blocked[to]]] = True
        evaluations.blocked[:] = somewhere & ~kept
        if only:
            evaluations.chosen[froms[experiments.chosen[to]]] = True
        else:
            versions.chosen[:] = ~versions.blocked
            evaluations.chosen[:] = ~evaluations.blocked
        endpoints = self.nodes["endpoint"]
        endpoints.chosen[:] = True
        froms, to = self._pairs["endpoint_home"]
        endpoints.chosen[froms[experiments.blocked[to]]] = False
        whole = experiments.chosen.copy() if moment is None else np.zeros(len(experiments.chosen), np.bool_)
        froms, to = self._pairs["trace_home"]
        whole[to[~self.nodes["trace"].chosen[froms]]] = False
        self.whole = whole
        for nodes in self.nodes.values():
            nodes.base = nodes.chosen.copy()
            nodes.carried |= nodes.chosen

    def _spread(self) -> None:
        """Follow the rules until nothing new comes."""
        changed = True
        while changed:
            changed = False
            for number, rule in enumerate(_RULES):
                changed = self._follow(number, rule) or changed

    def _bring_named_by_points(self, survey: _Survey) -> None:
        """The experiments that points of logged models name, as bare rows, excluded or not.

        MLflow 3.1 wrote the default experiment there whatever the run's, and the column is a foreign key.
        """
        number = next(n for n, rule in enumerate(_RULES) if rule.edge == "run_points")
        experiments = self.nodes["experiment"]
        for models, runs, homes in survey.points:
            model, run, home = (
                self.nodes[kind].index(keys)
                for kind, keys in (("logged_model", models), ("run", runs), ("experiment", homes))
            )
            there = np.flatnonzero((model >= 0) & (run >= 0) & (home >= 0))
            model, run, home = model[there], run[there], home[there]
            hit = (
                self.nodes["logged_model"].carried[model] & self.nodes["run"].carried[run] & ~experiments.carried[home]
            )
            reached, first = np.unique(home[hit], return_index=True)
            experiments.carried[reached] = True
            experiments.why[reached] = number
            experiments.via[reached] = run[hit][first]

    def _ends(self, rule: _Rule) -> tuple[I32, I32]:
        froms, to = self._pairs[rule.edge]
        return (to, froms) if rule.back else (froms, to)

    def _follow(self, number: int, rule: _Rule) -> bool:
        froms, to = self._ends(rule)
        if not len(froms):
            return False
        source, target = self.nodes[rule.source], self.nodes[rule.target]
        lacking = ~(target.chosen if rule.whole else target.carried) & ~target.blocked
        hit = np.flatnonzero((source.chosen if rule.chosen else source.carried)[froms] & lacking[to])
        if not len(hit):
            return False
        reached, first = np.unique(to[hit], return_index=True)
        fresh = ~target.carried[reached]
        target.carried[reached] = True
        if rule.whole:
            target.chosen[reached] = True
        target.why[reached[fresh]] = number
        target.via[reached[fresh]] = froms[hit][first][fresh]
        return True

    def along(self) -> tuple[list[dict[str, str]], dict[str, int]]:
        """The objects that come along, the first of them with the reason, and the count of each kind."""
        named: list[dict[str, str]] = []
        counts: dict[str, int] = {}
        for kind in _NODE_KINDS:
            nodes = self.nodes[kind]
            extra = np.flatnonzero(nodes.carried & ~nodes.base)
            if not len(extra):
                continue
            counts[kind] = len(extra)
            for position in extra[: MAX_NAMED - len(named)]:
                rule = _RULES[nodes.why[position]]
                via = self.nodes[rule.source].text(int(nodes.via[position]))
                entry = {"kind": kind, "id": nodes.text(int(position)), "why": rule.why.format(via)}
                if kind == "experiment":
                    entry["name"] = self._experiment_names[int(entry["id"])][0]
                named.append(entry)
        return named, counts

    def left(self) -> tuple[list[dict[str, str]], int]:
        """What carried objects name and what stays behind all the same, because it is excluded; and how many."""
        named: list[dict[str, str]] = []
        count = 0
        seen = {kind: np.zeros(len(nodes.blocked), np.bool_) for kind, nodes in self.nodes.items()}
        for rule in _RULES:
            froms, to = self._ends(rule)
            source, target = self.nodes[rule.source], self.nodes[rule.target]
            mask = source.chosen if rule.chosen else source.carried
            hit = np.flatnonzero(mask[froms] & target.blocked[to] & ~seen[rule.target][to])
            reached, first = np.unique(to[hit], return_index=True)
            seen[rule.target][reached] = True
            count += len(reached)
            for position, place in zip(reached, hit[first], strict=True):
                if len(named) == MAX_NAMED:
                    break
                why = f"excluded, though {rule.why.format(source.text(int(froms[place])))}"
                named.append({"kind": rule.target, "id": target.text(int(position)), "why": why})
        froms, to = self._pairs["model_run"]
        models, runs = self.nodes["logged_model"], self.nodes["run"]
        hit = np.flatnonzero(models.carried[froms] & ~runs.carried[to])
        count += len(hit)
        for place in hit[: MAX_NAMED - len(named)]:
            why = f"logged by run {runs.text(int(to[place]))}, which stays behind"
            named.append({"kind": "logged_model_metrics", "id": models.text(int(froms[place])), "why": why})
        return named, count


def users_cannot_be_selected() -> UsageError:
    """The refusal of a selection that goes with a store of users and permissions."""
    return UsageError(
        "Users and permissions cannot be selected.",
        why="They speak of experiments and models by number and name; those that stay behind would be named too.",
        next_step="Leave out --auth-from and --auth-to, or --only, --exclude and --since.",
        kind="selection_auth",
    )


# -- the selection ---------------------------------------------------------------------------------------------------


class Selection:
    """The rows that are carried, as sets of keys; shared by threads, never changed after ``make``."""

    def __init__(
        self,
        schema: Schema,
        keys: Mapping[str, _Keys],
        document: Mapping[str, Any],
        *,
        fold: bool,
        experiments: frozenset[int],
    ) -> None:
        self._keys = dict(keys)
        self._document = dict(document)
        self._fold = fold
        self._kinds = {name: {c.name: c.kind for c in table.columns} for name, table in schema.tables.items()}
        self._links = {
            name: [(link, [c for c in link.columns if c in kinds]) for link in links.LINKS.get(name, ())]
            for name, kinds in self._kinds.items()
        }
        self.experiments = experiments
        """The IDs of all experiments that are carried, for whatever counts or renumbers them."""

    @classmethod
    def make(cls, reader: Reader, only: Sequence[str], exclude: Sequence[str], since: str | None) -> Selection:
        """Read what is needed to know which rows are chosen: keys, times and some tags, in one pass.

        The result depends on the source and the criteria alone.

        Raises:
            UsageError: a name or glob that matches nothing, a time that cannot be read, nothing left to carry, or a
                store of users and permissions (kind ``selection_auth``).
            SourceError: a table of the source whose links are unknown (kind ``unknown_links``).
        """
        if reader.chain != "tracking":
            raise users_cannot_be_selected()
        if since is not None:
            _since(since)
        unknown = links.unknown(reader.schema)
        if unknown:
            raise SourceError(
                f"mlflowctl does not know what {', '.join(unknown)} belongs to, so it cannot select.",
                where=reader.uri,
                why="The table is newer than this mlflowctl, or not of the shape that MLflow gave it.",
                next_step="Migrate everything (without --only, --exclude and --since), or install a newer mlflowctl.",
                kind="unknown_links",
            )
        survey = _Survey(reader)
        closure = _Closure(survey, only, exclude, since)
        experiments = closure.nodes["experiment"]
        selection = cls(
            reader.schema,
            # A folder may grow while it is read: there what is not known stays behind too.
            _key_sets(survey, closure, left=not closure.positive and reader.kind != "files"),
            _document(closure, only, exclude, since),
            fold=survey.fold,
            experiments=frozenset(experiments.hashes[experiments.carried].view(np.int64).tolist()),
        )
        selection._derive(survey, left=not closure.positive and reader.kind != "files")
        return selection

    def apply(self, batch: TableBatch) -> TableBatch:
        """The chosen rows of a batch, odd rows too; a row whose key itself cannot be read stays, to be named."""
        if not self._links.get(batch.table):
            return batch
        rows = batch.rows
        if rows.num_rows:
            mask = self._passes(batch.table, rows)
            if not mask.all():
                rows = rows.filter(pa.array(mask))
        odd = batch.odd
        if odd:
            odd = tuple(row for row in odd if self._odd_passes(batch.table, row))
        return batch if rows is batch.rows and len(odd) == len(batch.odd) else TableBatch(batch.table, rows, odd)

    def document(self) -> dict[str, Any]:
        """For the plan: what was chosen, what comes along and why, and what stays behind though it was named.

        ``along`` and ``left`` list at most ``MAX_NAMED`` objects; ``along_by_kind`` and ``left_count`` count all.
        """
        return dict(self._document)

    def _passes(self, table: str, rows: pa.RecordBatch) -> Mask:
        mask = np.ones(rows.num_rows, dtype=np.bool_)
        for link, columns in self._links[table]:
            if columns:  # a column that came with a later revision
                mask &= self._linked(link, rows, columns)
        return mask

    def _linked(self, link: Link, rows: pa.RecordBatch, columns: Sequence[str]) -> Mask:
        keys = self._keys[link.kind]
        cells = [rows.column(c) for c in columns]
        if len(cells) == 1 and pa.types.is_string(cells[0].type):
            # Keys repeat: each distinct one is looked up once.
            encoded = cells[0].dictionary_encode()
            hashes, null = _hashes(link.kind, [encoded.dictionary], fold=self._fold)
            known = keys.has(hashes) | null
            places = encoded.indices
            if not len(known):
                mask = np.ones(rows.num_rows, dtype=np.bool_)
            else:
                mask = known[pc.fill_null(places, 0).to_numpy(zero_copy_only=False)]
                if places.null_count:
                    mask |= places.is_null().to_numpy(zero_copy_only=False)
        else:
            hashes, null = _hashes(link.kind, cells, fold=self._fold)
            mask = keys.has(hashes) | null
        if link.when is not None:
            mask |= ~_equal(rows.column(link.when[0]), *link.when[1])
        return mask

    def _odd_passes(self, table: str, row: OddRow) -> bool:
        kinds = self._kinds[table]
        for link, columns in self._links[table]:
            cells = [row.cells.get(c) for c in columns]
            if not cells or not all(_is_kind(cell, kinds[c]) for c, cell in zip(columns, cells, strict=True)):
                continue
            if link.when is not None and row.cells.get(link.when[0]) not in link.when[1]:
                continue
            arrays = [pa.array([cell], ARROW_TYPES[kinds[c]]) for c, cell in zip(columns, cells, strict=True)]
            hashes, null = _hashes(link.kind, arrays, fold=self._fold)
            if not (self._keys[link.kind].has(hashes) | null)[0]:
                return False
        return True

    def _derive(self, survey: _Survey, *, left: bool) -> None:
        """The kinds that are carried when their own row is, in the order in which they depend on each other."""
        for kind, (table, column) in links.DERIVED.items():
            parts = survey.derived.get(kind, [])
            hashes: list[U64] = []
            for rows in parts:
                own, null = _hashes(kind, [rows.column(column)], fold=False)
                passes = self._passes(table, rows)
                hashes.append(own[~null & (passes != left)])
            self._keys[kind] = _Keys(_concatenated(hashes, np.uint64), left=left)


def _key_sets(survey: _Survey, closure: _Closure, *, left: bool) -> dict[str, _Keys]:
    found: dict[str, _Keys] = {}
    for kind, nodes in closure.nodes.items():
        found[kind] = _Keys(nodes.hashes[nodes.carried != left], left=left)
    experiments, models = closure.nodes["experiment"], closure.nodes["registered_model"]
    found["chosen_experiment"] = _Keys(experiments.hashes[experiments.chosen != left], left=left)
    found["whole_experiment"] = _Keys(experiments.hashes[closure.whole != left], left=left)
    if not left:
        # An alias of a whole model goes with it, even one of a version that is gone.
        versions = closure.nodes["model_version"]
        kept = [versions.hashes[versions.carried]]
        for model, version in survey.aliases:
            place = models.index(model)
            kept.append(version[(place >= 0) & models.chosen[place]] if len(models.chosen) else version[:0])
        found["model_version"] = _Keys(np.concatenate(kept), left=False)
    found["input"] = _owned(survey.inputs, found["run"], left=left)
    found["job"] = _owned(
        [(own, home, ~none) for own, home, none in survey.jobs], found["chosen_experiment"], left=left
    )
    return found


def _owned(parts: Sequence[tuple[U64, U64, Mask]], owners: _Keys, *, left: bool) -> _Keys:
    """Keys whose owner is carried, or that name none."""
    own = _concatenated([o for o, _, _ in parts], np.uint64)
    owner = _concatenated([o for _, o, _ in parts], np.uint64)
    named = _concatenated([n for _, _, n in parts], np.bool_)
    carried = owners.has(owner) | ~named
    kept = own[carried]
    return _Keys(np.setdiff1d(own[~carried], kept) if left else kept, left=left)


def _document(closure: _Closure, only: Sequence[str], exclude: Sequence[str], since: str | None) -> dict[str, Any]:
    counted = {
        "experiments": "experiment",
        "runs": "run",
        "registered_models": "registered_model",
        "traces": "trace",
        "logged_models": "logged_model",
    }
    along, by_kind = closure.along()
    left, left_count = closure.left()
    return {
        "only": list(only),
        "exclude": list(exclude),
        "since": since,
        "chosen": {name: int(closure.nodes[kind].base.sum()) for name, kind in counted.items()},
        "along": along,
        "along_by_kind": by_kind,
        "along_more": sum(by_kind.values()) - len(along),
        "left": left,
        "left_count": left_count,
    }
