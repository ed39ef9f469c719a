"""Logged models (MLflow 3): their parameters, tags and metrics."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mlflowctl.stores.files.experiments import STAGES
from mlflowctl.stores.files.layout import META, METRICS, MODELS, PARAMS, TAGS
from mlflowctl.stores.files.metrics import report_bad_lines
from mlflowctl.stores.files.pairs import give_pairs
from mlflowctl.stores.files.points import BadLine, for_sql
from mlflowctl.stores.files.rows import MAX_ROWS, int_array
from mlflowctl.stores.files.stamps import MODEL
from mlflowctl.stores.files.yamls import Fields, MalformedError

if TYPE_CHECKING:
    from mlflowctl.stores.files.ids import Ids
    from mlflowctl.stores.files.layout import ExperimentFolder
    from mlflowctl.stores.files.walk import Walk

_TABLES = ("logged_models", "logged_model_params", "logged_model_tags", "logged_model_metrics")
_STATUSES = {0: "UNSPECIFIED", 1: "PENDING", 2: "READY", 3: "FAILED"}
_INT64 = range(-(1 << 63), 1 << 63)
# Time, value, step, run, dataset's name, dataset's digest.
_Point = tuple[int, float, int, str, "str | None", "str | None"]


class Finder:
    """Whether a run or logged model with a given ID is in the store, asked of the disk and not of a list of all."""

    def __init__(self, folders: list[ExperimentFolder]) -> None:
        self._folders = [f.path for f in folders]
        self.run = lru_cache(maxsize=4096)(self._run)
        self.model = lru_cache(maxsize=4096)(self._model)

    def _run(self, experiment: str, run: str) -> bool:
        """``experiment``: the folder where it most likely is."""
        return self._found(experiment, f"{run}/{META}")

    def _model(self, experiment: str, model: str) -> bool:
        return self._found(experiment, f"{MODELS}/{model}/{META}")

    def _found(self, experiment: str, entry: str) -> bool:
        return os.path.exists(f"{experiment}/{entry}") or any(os.path.exists(f"{f}/{entry}") for f in self._folders)


def give_models(walk: Walk, folder: ExperimentFolder, number: int, ids: Ids, *, points: ModelPoints) -> Iterator[None]:
    """Model after model of an experiment; yields whenever rows may be ready."""
    if not walk.tables.wants(*_TABLES):
        return
    base = f"{folder.path}/{MODELS}"
    for name in walk.names(base, "logged_models") or []:
        path = f"{base}/{name}"
        names = walk.names(path)
        if names is None:
            walk.normal("stray_file")
            continue
        if META not in names:
            walk.normal("logged_model_folder_without_meta_yaml")
            if any(walk.names(f"{path}/{n}") for n in (PARAMS, TAGS, METRICS) if n in names):
                walk.left_behind(
                    "folders of logged models without meta.yaml that hold params, tags or metrics",
                    "no file says which model it was; MLflow does not show them either",
                )
            continue
        whole = _give_model(walk, folder, number, name, path, ids)
        if walk.lenient and not whole:
            walk.stamps.unread_thing(MODEL, folder, name)
            continue
        muted, walk.muted = walk.muted, walk.muted or not whole
        owner = {"model_id": name, "experiment_id": number}
        give_pairs(walk, "logged_model_params", f"{path}/{PARAMS}", owner, key="param_key", value="param_value")
        give_pairs(walk, "logged_model_tags", f"{path}/{TAGS}", owner, key="tag_key", value="tag_value")
        if walk.tables.wants("logged_model_metrics"):
            walk.about("logged_model_metrics", {"model_id": name})
            for key, file, data in walk.files(f"{path}/{METRICS}"):
                points.add(folder, (name, number, key), file, data)
        walk.muted = muted
        walk.stamps.thing(MODEL, folder, name)
        if not walk.lenient:
            ids.add(name, folder.path)
        yield


def _give_model(walk: Walk, folder: ExperimentFolder, number: int, name: str, path: str, ids: Ids) -> bool:
    meta = f"{path}/{META}"
    walk.about("logged_models", {"model_id": name}, path)
    fields = walk.fields(meta)
    if fields is None:
        return False
    try:
        row = _model_row(walk, folder, number, name, meta, fields)
    except MalformedError as bad:
        walk.malformed(meta, bad)
        return False
    if row is None:
        return False
    twice = ids.claimed(name, folder.path) if walk.lenient else None
    if twice is not None:
        walk.reject(ids.rule, meta, twice)
        return False
    walk.mended(meta, fields, row)
    walk.tables.add("logged_models", **row)
    return True


def _model_row(
    walk: Walk, folder: ExperimentFolder, number: int, name: str, meta: str, fields: Fields
) -> dict[str, Any] | None:
    identity = fields.required_text("model_id")
    if identity != name:
        walk.trouble("model_id_mismatch", meta, f"names the model {identity}, but lies in {name}")
        return None
    experiment = fields.required_text("experiment_id")
    if experiment != folder.name:
        walk.trouble(
            "model_of_another_experiment", meta, f"names the experiment {experiment}, but lies in {folder.name}"
        )
        return None
    stage = fields.text("lifecycle_stage") or "active"
    if stage not in STAGES:
        raise MalformedError(f"has the unknown lifecycle_stage {stage!r}")
    status = fields.required_integer("status")
    if status not in _STATUSES:
        fault = f"has {status} under 'status', which is none of {sorted(_STATUSES)}"
        status = 0
        if not fields.mend("status", status, fault):
            raise MalformedError(fault)
    return {
        "model_id": name,
        "experiment_id": number,
        "name": fields.required_text("name"),
        "artifact_location": fields.required_text("artifact_location"),
        "creation_timestamp_ms": fields.required_integer("creation_timestamp"),
        "last_updated_timestamp_ms": fields.required_integer("last_updated_timestamp"),
        "status": status,
        "lifecycle_stage": stage,
        "model_type": fields.text("model_type"),
        "source_run_id": fields.text("source_run_id"),
        "status_message": fields.text("status_message"),
    }


class ModelPoints:
    """Metric points of logged models, gathered and then given together."""

    def __init__(self, walk: Walk, finder: Finder) -> None:
        self._walk = walk
        self._finder = finder
        self._clear()

    def _clear(self) -> None:
        self._owners: list[tuple[str, int, str]] = []
        self._counts: list[int] = []
        self._times, self._steps, self._values = array("q"), array("q"), array("d")
        self._runs: list[str] = []
        self._datasets: list[str | None] = []
        self._digests: list[str | None] = []

    def add(self, folder: ExperimentFolder, owner: tuple[str, int, str], path: str, data: bytes) -> None:
        """The file of one metric of one model (ID, experiment, metric): ``time value step run [dataset digest]``."""
        walk = self._walk
        if not data:
            walk.normal("empty_metric_file")
            return
        if walk.lenient:
            walk.about("logged_model_metrics", {"model_id": owner[0], "metric_name": owner[2]})
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as bad:
            walk.trouble("invalid_utf8", path, "is not valid UTF-8", data.count(b"\n", 0, bad.start) + 1)
            return
        points, faults = _parsed(text)
        if report_bad_lines(walk, path, data, faults) or walk.muted or not points:
            return
        stored, nan = for_sql(np.array([p[1] for p in points], np.float64))
        best: dict[tuple[int, int, str], int] = {}
        for index, point in enumerate(points):
            key = (point[0], point[2], point[3])
            first = best.setdefault(key, index)
            if first != index:
                best[key] = _better(walk, first, index, stored, points)
        runs = {run: self._finder.run(folder.path, run) for run in {key[2] for key in best}}
        before = len(self._runs)
        for (time, step, run), index in best.items():
            if not runs[run]:
                walk.left_behind(
                    "metric points of logged models whose run is gone",
                    "MLflow's table ties each point to its run and deletes them together",
                )
                continue
            if nan[index]:
                walk.left_behind(
                    "NaN among the metrics of logged models",
                    "MLflow's table has no column for NaN; it holds 0.0 instead, as MLflow itself writes it",
                )
            self._times.append(time)
            self._steps.append(step)
            self._values.append(stored[index])
            self._runs.append(run)
            self._datasets.append(points[index][4])
            self._digests.append(points[index][5])
        self._owners.append(owner)
        self._counts.append(len(self._runs) - before)
        if len(self._runs) >= MAX_ROWS:
            self.flush()

    def flush(self) -> None:
        """Give the rows of what is gathered."""
        size = len(self._runs)
        owners = int_array(np.repeat(np.arange(len(self._owners), dtype=np.int64), self._counts), pa.int64())
        columns = {
            "model_id": pa.array([o[0] for o in self._owners], pa.string()).take(owners),
            "experiment_id": pa.array([o[1] for o in self._owners], pa.int64()).take(owners),
            "metric_name": pa.array([o[2] for o in self._owners], pa.string()).take(owners),
            "metric_timestamp_ms": int_array(np.array(self._times, np.int64), pa.int64()),
            "metric_step": int_array(np.array(self._steps, np.int64), pa.int64()),
            "metric_value": int_array(np.array(self._values, np.float64), pa.float64()),
            "run_id": pa.array(self._runs, pa.string()),
            "dataset_name": pa.array(self._datasets, pa.string()),
            "dataset_digest": pa.array(self._digests, pa.string()),
        }
        self._clear()
        for start in range(0, size, MAX_ROWS):
            part = {name: column.slice(start, MAX_ROWS) for name, column in columns.items()}
            self._walk.tables.give("logged_model_metrics", part)


def _parsed(text: str) -> tuple[list[_Point], list[BadLine]]:
    points: list[_Point] = []
    faults: list[BadLine] = []
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        parts = line.strip().split(" ")
        try:
            if len(parts) not in (4, 6):
                raise ValueError(f"{len(parts)} fields; 4 or 6 make a point")
            time, value, step = int(parts[0]), float(parts[1]), int(parts[2])
            if time not in _INT64 or step not in _INT64:
                raise ValueError("a number that 64 bits cannot hold")
            if number == len(lines) and not text.endswith(("\n", "\r")):
                # The last field is a run's ID or a digest, of which a part looks like a whole.
                raise ValueError("cut: no end of line")
        except ValueError as bad:
            faults.append(BadLine(number, f"{line[:80]!r} is no metric point: {bad}"))
            continue
        dataset, digest = (parts[4], parts[5]) if len(parts) == 6 else (None, None)
        points.append((time, value, step, parts[3], dataset, digest))
    return points, faults


def _better(walk: Walk, first: int, second: int, values: Any, points: list[_Point]) -> int:
    """Which of two points with one key stays: the greater value, as MLflow shows it; the first of equal ones."""
    if values[first] == values[second] and points[first][4:] == points[second][4:]:
        walk.collapsed("duplicate_logged_model_metric_point", 1)
        return first
    walk.left_behind(
        "metric points of logged models that differ only in value or dataset",
        "MLflow's key for them is model, metric, time, step and run; the greatest value is carried",
    )
    return second if values[second] > values[first] else first
