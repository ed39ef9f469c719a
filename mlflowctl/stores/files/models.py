"""Logged models (MLflow 3): their parameters, tags and metrics."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflowctl.stores.files.layout import META, METRICS, MODELS, PARAMS, TAGS
from mlflowctl.stores.files.metrics import report_bad_lines
from mlflowctl.stores.files.pairs import give_pairs
from mlflowctl.stores.files.points import BadLine, for_sql
from mlflowctl.stores.files.tracking import STAGES
from mlflowctl.stores.files.yamls import Fields, MalformedError

if TYPE_CHECKING:
    from mlflowctl.stores.files.layout import ExperimentFolder
    from mlflowctl.stores.files.walk import Walk

_TABLES = ("logged_models", "logged_model_params", "logged_model_tags", "logged_model_metrics")
_STATUSES = {0: "UNSPECIFIED", 1: "PENDING", 2: "READY", 3: "FAILED"}
_INT64 = range(-(1 << 63), 1 << 63)


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


def give_models(walk: Walk, folder: ExperimentFolder, number: int, finder: Finder) -> Iterator[str]:
    """Model after model of an experiment; yields each one's ID when its rows are given."""
    if not walk.tables.wants(*_TABLES):
        return
    base = f"{folder.path}/{MODELS}"
    for name in walk.names(base) or []:
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
        muted, walk.muted = walk.muted, walk.muted or not _give_model(walk, folder, number, name, path)
        owner = {"model_id": name, "experiment_id": number}
        give_pairs(walk, "logged_model_params", f"{path}/{PARAMS}", owner, key="param_key", value="param_value")
        give_pairs(walk, "logged_model_tags", f"{path}/{TAGS}", owner, key="tag_key", value="tag_value")
        if walk.tables.wants("logged_model_metrics"):
            for key, file, data in walk.files(f"{path}/{METRICS}"):
                _give_metric(walk, folder, {**owner, "metric_name": key}, file, data, finder)
        walk.muted = muted
        yield name


def _give_model(walk: Walk, folder: ExperimentFolder, number: int, name: str, path: str) -> bool:
    meta = f"{path}/{META}"
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
        raise MalformedError(f"has {status} under 'status', which is none of {sorted(_STATUSES)}")
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


def _give_metric(
    walk: Walk, folder: ExperimentFolder, owner: dict[str, Any], path: str, data: bytes, finder: Finder
) -> None:
    """The points of one metric of one model: lines of ``time value step run [dataset digest]``."""
    if not data:
        walk.normal("empty_metric_file")
        return
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as bad:
        walk.trouble("invalid_utf8", path, "is not valid UTF-8", data.count(b"\n", 0, bad.start) + 1)
        return
    times, values, steps = array("q"), array("d"), array("q")
    origins: list[tuple[str, str | None, str | None]] = []
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
        times.append(time)
        values.append(value)
        steps.append(step)
        origins.append((parts[3], parts[4], parts[5]) if len(parts) == 6 else (parts[3], None, None))
    report_bad_lines(walk, path, faults)
    if walk.muted or not times:
        return
    stored, nan = for_sql(np.array(values, np.float64))
    best: dict[tuple[int, int, str], int] = {}
    for index, (run, _, _) in enumerate(origins):
        key = (times[index], steps[index], run)
        first = best.setdefault(key, index)
        if first != index:
            best[key] = _better(walk, first, index, stored, origins)
    for (time, step, run), index in best.items():
        if not finder.run(folder.path, run):
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
        walk.tables.add(
            "logged_model_metrics",
            **owner,
            metric_timestamp_ms=time,
            metric_step=step,
            metric_value=float(stored[index]),
            run_id=run,
            dataset_name=origins[index][1],
            dataset_digest=origins[index][2],
        )


def _better(walk: Walk, first: int, second: int, values: Any, origins: list[tuple[str, str | None, str | None]]) -> int:
    """Which of two points with one key stays: the greater value, as MLflow shows it; the first of equal ones."""
    if values[first] == values[second] and origins[first] == origins[second]:
        walk.collapsed("duplicate_logged_model_metric_point", 1)
        return first
    walk.left_behind(
        "metric points of logged models that differ only in value or dataset",
        "MLflow's key for them is model, metric, time, step and run; the greatest value is carried",
    )
    return second if values[second] > values[first] else first
