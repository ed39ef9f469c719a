"""Experiments and runs, with their tags, parameters and metrics."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mlflowctl.stores.files import datasets
from mlflowctl.stores.files.experiments import STAGES, WORKSPACE, conflicts, experiment_row
from mlflowctl.stores.files.layout import (
    DATASETS,
    INPUTS,
    KNOWN_IN_RUN,
    META,
    METRICS,
    MODELS,
    OUTPUTS,
    PARAMS,
    RESERVED_IN_EXPERIMENT,
    TAGS,
    TRACE_INFO,
    TRACES,
    looks_like_run_id,
)
from mlflowctl.stores.files.neighbours import is_store, note_inside
from mlflowctl.stores.files.pairs import give_pairs
from mlflowctl.stores.files.stamps import RUN
from mlflowctl.stores.files.walk import read_bytes
from mlflowctl.stores.files.yamls import Fields, MalformedError

if TYPE_CHECKING:
    from mlflowctl.stores.files.ids import Ids
    from mlflowctl.stores.files.layout import ExperimentFolder
    from mlflowctl.stores.files.metrics import MetricFiles
    from mlflowctl.stores.files.walk import Walk

# Numbers of MLflow's enumerations, as the files have them.
STATUSES = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
SOURCE_TYPES = {1: "NOTEBOOK", 2: "JOB", 3: "PROJECT", 4: "LOCAL", 5: "UNKNOWN"}
RUN_NAME_TAG = "mlflow.runName"
_NO_NUMBER = "is named by no whole number, which MLflow's SQL store needs"


class Experiments:
    """Decides which folders are experiments, and gives their rows."""

    def __init__(self, walk: Walk, folders: Sequence[ExperimentFolder]) -> None:
        self._walk = walk
        self._ids: dict[int, str] = {}
        self._names: dict[str, str] = {}
        self._conflicts = conflicts(walk, folders) if walk.lenient else {}

    def open(self, folder: ExperimentFolder) -> tuple[int, bool] | None:
        """The experiment's number, and whether rows may be given for what lies below; None for a foreign folder."""
        walk = self._walk
        walk.about(
            "experiments", {"experiment_id": folder.name if folder.number is None else folder.number}, folder.path
        )
        names = (walk.listing if walk.lenient else walk.names)(folder.path) or []
        if META not in names:
            held = _held_without_meta(folder.path, names)
            if held:
                walk.trouble("experiment_without_meta_yaml", folder.path, f"has no meta.yaml, but holds {held}")
                return folder.number or 0, False
            walk.normal("experiment_folder_without_meta_yaml" if folder.number is not None else "foreign_folder")
            if folder.number is not None and any(walk.names(f"{folder.path}/{n}") for n in (TAGS, DATASETS)):
                walk.left_behind(
                    "experiment folders without meta.yaml and runs that hold tags or datasets",
                    "no file says what the experiment was; MLflow does not show it either",
                )
            return None
        fields = walk.fields(f"{folder.path}/{META}")
        if walk.lenient:
            return self._open_leniently(folder, fields)
        number = folder.number
        if number is None:
            walk.trouble("experiment_id_not_a_number", folder.path, _NO_NUMBER)
        elif number in self._ids:
            walk.trouble("experiment_id_twice", folder.path, f"has the ID {number}, which {self._ids[number]} has too")
            number = None
        else:
            self._ids[number] = folder.path
        if fields is None:
            return folder.number or 0, False
        walk.muted = number is None
        try:
            self._give(folder, number or 0, fields)
            whole = not walk.muted
        except MalformedError as bad:
            walk.malformed(f"{folder.path}/{META}", bad)
            whole = False
        walk.muted = False
        return folder.number or 0, whole

    def _give(self, folder: ExperimentFolder, number: int, fields: Fields) -> None:
        walk = self._walk
        row = experiment_row(folder, number, fields, self._name_twice)
        self._take_note(folder, fields)
        walk.tables.add("experiments", **row)

    def _name_twice(self, folder: ExperimentFolder, name: str) -> None:
        if name in self._names:
            text = f"has the name {name!r}, which {self._names[name]} has too"
            self._walk.trouble("experiment_name_twice", f"{folder.path}/{META}", text)
        else:
            self._names[name] = folder.path

    def _open_leniently(self, folder: ExperimentFolder, fields: Fields | None) -> tuple[int, bool]:
        walk = self._walk
        number = folder.number
        if fields is None:
            return number or 0, False
        if number is None:
            walk.trouble("experiment_id_not_a_number", folder.path, _NO_NUMBER)
            return 0, False
        meta = f"{folder.path}/{META}"
        try:
            row = experiment_row(folder, number, fields)
        except MalformedError as bad:
            walk.malformed(meta, bad)
            return number, False
        conflict = self._conflicts.get(folder.path)
        if conflict is not None:
            walk.reject(conflict.rule, meta, conflict.text, became=conflict.became)
            if conflict.became is None:
                return number, False
            row.update(conflict.became)
        walk.mended(meta, fields, row)
        self._take_note(folder, fields)
        walk.tables.add("experiments", **row)
        return int(row["experiment_id"]), True

    def _take_note(self, folder: ExperimentFolder, fields: Fields) -> None:
        walk = self._walk
        stage = fields.text("lifecycle_stage") or "active"
        if folder.trashed and stage == "active":
            # Every MLflow before 2.3: the folder alone said deleted, and the runs were left as they were.
            walk.normal("experiment_in_trash_marked_active")
        elif not folder.trashed and stage == "deleted":
            walk.normal("experiment_outside_trash_marked_deleted")
        for column in ("trace_location", "effective_trace_archival_retention"):
            if fields.values.get(column) is not None:
                walk.left_behind(f"{column} of experiments", "MLflow computes it; its tables have no column for it")
        if fields.text("workspace") not in (None, "", WORKSPACE):
            walk.left_behind("workspaces named by experiments", "a file store has no workspaces; all becomes 'default'")


def give_experiment_tags(walk: Walk, folder: ExperimentFolder, number: int) -> None:
    """The tags of an experiment: those in its folder; a map in its meta.yaml is a stale copy."""
    give_pairs(walk, "experiment_tags", f"{folder.path}/{TAGS}", {"experiment_id": number})


class Runs:
    """Gives the rows of an experiment's runs."""

    def __init__(self, walk: Walk, metrics: MetricFiles, has_model: datasets.ModelFinder, ids: Ids) -> None:
        self._walk = walk
        self._metrics = metrics
        self._has_model = has_model
        self._ids = ids

    def give(self, folder: ExperimentFolder, number: int) -> Iterator[None]:
        """Run after run; yields whenever rows may be ready."""
        walk = self._walk
        inputs = None
        if walk.tables.wants("datasets", "inputs", "input_tags"):
            inputs = datasets.Inputs(walk, folder.path, number, self._has_model)
            walk.stamps.experiment(folder)
        for name in walk.names(folder.path, "runs") or []:
            if name in RESERVED_IN_EXPERIMENT:
                continue
            path = f"{folder.path}/{name}"
            names = walk.names(path)
            if names is None:
                walk.normal("stray_file")
                continue
            if META not in names:
                self._without_meta(name, path, names)
                continue
            whole = self._give_run(folder, number, name, path)
            if walk.lenient and not whole:
                walk.stamps.unread_thing(RUN, folder, name)
                continue
            muted, walk.muted = walk.muted, walk.muted or not whole
            if PARAMS in names:
                give_pairs(walk, "params", f"{path}/{PARAMS}", {"run_uuid": name})
            if TAGS in names:
                give_pairs(walk, "tags", f"{path}/{TAGS}", {"run_uuid": name})
            if METRICS in names and walk.tables.wants("metrics", "latest_metrics"):
                metrics = self._metrics
                walk.about("metrics", {"run_uuid": name})
                for key, file, data in walk.files(f"{path}/{METRICS}"):
                    metrics.add(name, key, file, data)
                    if metrics.full:
                        yield from metrics.flush()
            if inputs is not None and (INPUTS in names or OUTPUTS in names):
                inputs.give(name, path)
            for other in names:
                if other not in KNOWN_IN_RUN:
                    walk.normal("unknown_entry_in_run_folder")
            walk.muted = muted
            walk.stamps.thing(RUN, folder, name)
            if not walk.lenient:
                self._ids.add(name, folder.path)
            yield

    def _without_meta(self, name: str, path: str, names: list[str]) -> None:
        walk = self._walk
        held = [n for n in (PARAMS, METRICS, TAGS, INPUTS, OUTPUTS) if n in names and walk.names(f"{path}/{n}")]
        if not (held or looks_like_run_id(name)):
            walk.normal("foreign_folder_in_experiment")
            if is_store(path):
                walk.report.notes.append(note_inside(path))
            return
        walk.normal("run_folder_without_meta_yaml")
        if held:
            walk.left_behind(
                "run folders without meta.yaml that hold params, metrics or tags",
                "no file says whose they are: no status, no times, no name; MLflow does not show them either",
            )

    def _give_run(self, folder: ExperimentFolder, number: int, name: str, path: str) -> bool:
        """The row of one run; whether its file says what it must."""
        walk = self._walk
        # Whether what lies below is rejected must not depend on the tables that are asked for.
        if not (walk.lenient or walk.tables.wants("runs")):
            return True
        meta = f"{path}/{META}"
        walk.about("runs", {"run_uuid": name}, path)
        fields = walk.fields(meta)
        if fields is None:
            return False
        try:
            row = self._row(folder, number, name, path, fields)
        except MalformedError as bad:
            walk.malformed(meta, bad)
            return False
        if walk.lenient:
            twice = self._ids.claimed(name, folder.path)
            if twice is not None:
                walk.reject(self._ids.rule, meta, twice)
                return False
            walk.mended(meta, fields, row)
        walk.tables.add("runs", **row)
        return True

    def _row(self, folder: ExperimentFolder, number: int, name: str, path: str, fields: Fields) -> dict[str, Any]:
        # run_uuid: 0.8 to 2.22; run_id: from 1.0, alone from 3.0.
        ids = {i for i in (fields.text("run_id"), fields.text("run_uuid")) if i}
        if not ids:
            raise MalformedError("names no 'run_id'")
        if ids != {name}:
            text = f"names the run {', '.join(sorted(ids))}, but lies in {name}"
            raise MalformedError(text, rule="run_id_mismatch")
        experiment = fields.required_text("experiment_id")
        if experiment != folder.name:
            text = f"names the experiment {experiment}, but lies in {folder.name}"
            raise MalformedError(text, rule="run_of_another_experiment")
        stage = fields.text("lifecycle_stage") or "active"
        if stage not in STAGES:
            raise MalformedError(f"has the unknown lifecycle_stage {stage!r}")
        run_name = fields.text("run_name")
        if not run_name:  # 1.30 brought run_name; an empty "name" of before means that the run has none
            run_name = fields.text("name") or self._name_from_tag(path) or run_name
        return {
            "run_uuid": name,
            "name": run_name,
            "source_type": fields.choice("source_type", SOURCE_TYPES, 4, unknown=5),
            "source_name": fields.text("source_name") or "",
            "entry_point_name": fields.text("entry_point_name") or "",
            "user_id": fields.text("user_id"),
            "status": fields.choice("status", STATUSES, 1, unknown=4),
            "start_time": fields.integer("start_time"),
            "end_time": fields.integer("end_time"),
            "source_version": fields.text("source_version") or "",
            "lifecycle_stage": stage,
            "artifact_uri": fields.text("artifact_uri"),
            "experiment_id": number,
            "deleted_time": fields.integer("deleted_time"),
        }

    def _name_from_tag(self, path: str) -> str | None:
        # An unreadable tag is reported where the tags are read.
        try:
            data = read_bytes(f"{path}/{TAGS}/{RUN_NAME_TAG}")
            name = data.decode("utf-8", "replace" if self._walk.mends else "strict")
        except (OSError, UnicodeDecodeError):
            return None
        if name:
            self._walk.normal("run_name_only_in_tag")
        return name


def _held_without_meta(path: str, names: list[str]) -> str:
    """What an experiment's folder without meta.yaml holds that would be lost, in words."""
    runs = [n for n in names if n not in RESERVED_IN_EXPERIMENT and _is_run(f"{path}/{n}/{META}")]
    traces = _with_file(f"{path}/{TRACES}", TRACE_INFO)
    models = _with_file(f"{path}/{MODELS}", META)
    counted = ((len(runs), "run"), (traces, "trace"), (models, "logged model"))
    held = ", ".join(f"{n} {word}{'s' if n > 1 else ''}" for n, word in counted if n)
    return f"{held} (the first: {runs[0]})" if runs else held


def _is_run(meta: str) -> bool:
    try:
        data = read_bytes(meta)
    except OSError:
        return False
    return any(line.startswith((b"run_id:", b"run_uuid:")) for line in data.splitlines())


def _with_file(folder: str, file: str) -> int:
    try:
        names = os.listdir(folder)
    except OSError:
        return 0
    return sum(os.path.exists(f"{folder}/{n}/{file}") for n in names)
