"""Datasets of an experiment, and what its runs took in and put out."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from mlflowctl.stores.files.layout import DATASETS, INPUTS, META, OUTPUTS
from mlflowctl.stores.files.yamls import Fields, MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflowctl.stores.files.walk import Walk

    ModelFinder = Callable[[str, str], bool]

# MLflow's SQL store invents a random ID for each dataset and input. Here it follows from what never changes, so that
# every reading of a store gives the same rows.
_NAMESPACE = uuid.UUID("5b0c3a52-7a8e-4f0e-9d56-3c1f6b0e2a77")


def stable_id(*parts: str) -> str:
    """A UUID of 32 hex digits that follows from ``parts``."""
    return uuid.uuid5(_NAMESPACE, "\0".join(parts)).hex


class Inputs:
    """The datasets of one experiment (given at once), then the inputs and outputs of its runs."""

    def __init__(self, walk: Walk, path: str, number: int, has_model: ModelFinder) -> None:
        self._walk = walk
        self._path = path
        self._number = number
        self._has_model = has_model
        self._ids: dict[str, str] = {}
        self._rejected: set[str] = set()
        by_name: dict[tuple[str, str], str] = {}
        for name in walk.names(f"{path}/{DATASETS}", "datasets") or []:
            self._dataset(name, f"{path}/{DATASETS}/{name}", by_name)

    def _dataset(self, name: str, path: str, by_name: dict[tuple[str, str], str]) -> None:
        walk = self._walk
        walk.about("datasets", {"experiment_id": self._number}, path)
        before = walk.rejected
        fields = _described(walk, path, "dataset")
        if fields is None:
            if walk.rejected > before:
                self._rejected.add(name)
            return
        meta = f"{path}/{META}"
        try:
            dataset, digest = fields.required_text("name"), fields.required_text("digest")
            identity = by_name.get((dataset, digest))
            if identity is not None:
                walk.collapsed("duplicate_dataset", 1)
                self._ids[name] = identity
                return
            identity = stable_id("dataset", str(self._number), name)
            row: dict[str, Any] = {
                "dataset_uuid": identity,
                "experiment_id": self._number,
                "name": dataset,
                "digest": digest,
                "dataset_source_type": fields.required_text("source_type"),
                "dataset_source": fields.required_text("source"),
                "dataset_schema": fields.text("schema"),
                "dataset_profile": fields.text("profile"),
            }
        except MalformedError as bad:
            walk.malformed(meta, bad)
            self._rejected.add(name)
            return
        walk.mended(meta, fields, row)
        self._ids[name] = by_name[dataset, digest] = identity
        walk.tables.add("datasets", **row)

    def give(self, run: str, path: str) -> None:
        """The inputs and outputs of one run: they name their run by the folder they lie in."""
        for folder, give in ((INPUTS, self._input), (OUTPUTS, self._output)):
            seen: set[tuple[str, str]] = set()
            for name in self._walk.names(f"{path}/{folder}", "inputs") or []:
                entry = f"{path}/{folder}/{name}"
                self._walk.about("inputs", {"run_uuid": run}, entry)
                fields = _described(self._walk, entry, folder[:-1])
                if fields is None:
                    continue
                try:
                    give(run, name, fields, seen)
                    self._walk.mended(f"{entry}/{META}", fields, fields.values)
                except MalformedError as bad:
                    self._walk.malformed(f"{entry}/{META}", bad)

    def _input(self, run: str, name: str, fields: Fields, seen: set[tuple[str, str]]) -> None:
        walk = self._walk
        kind = fields.required_text("source_type")
        source = fields.required_text("source_id")
        tags = _texts(fields)
        if kind == "DATASET":
            dataset = self._ids.get(source)
            if source in self._rejected and walk.lenient:
                raise MalformedError("names a dataset that was rejected", rule="input_of_rejected_dataset")
            if dataset is None:
                walk.left_behind(
                    "inputs of runs that name an absent dataset",
                    "nothing says which dataset it was; MLflow does not show them either",
                )
                return
            edge = ("DATASET", dataset, "RUN", run)
        elif kind == "MODEL":
            if not self._has_model(self._path, source):
                walk.normal("input_of_absent_model")
            edge = ("RUN_INPUT", run, "MODEL_INPUT", source)
        else:
            raise MalformedError(f"has the unknown source_type {kind!r}")
        if _again(walk, seen, (kind, edge[1] if kind == "DATASET" else source)):
            return
        identity = stable_id("input", run, name)
        walk.tables.add("inputs", **_edge(identity, edge, 0))
        for key, value in tags.items():
            walk.tables.add("input_tags", input_uuid=identity, name=key, value=value)

    def _output(self, run: str, name: str, fields: Fields, seen: set[tuple[str, str]]) -> None:
        walk = self._walk
        kind = fields.required_text("destination_type")
        if kind != "MODEL_OUTPUT":
            raise MalformedError(f"has the unknown destination_type {kind!r}")
        model = fields.required_text("destination_id")
        step = fields.integer("step") or 0
        if not self._has_model(self._path, model):
            walk.normal("output_of_absent_model")
        if _again(walk, seen, (kind, model)):
            return
        walk.tables.add(
            "inputs", **_edge(stable_id("output", run, name), ("RUN_OUTPUT", run, "MODEL_OUTPUT", model), step)
        )


def _again(walk: Walk, seen: set[tuple[str, str]], edge: tuple[str, str]) -> bool:
    if edge in seen:
        walk.collapsed("duplicate_input", 1)
        return True
    seen.add(edge)
    return False


def _edge(identity: str, edge: tuple[str, str, str, str], step: int) -> dict[str, Any]:
    return {
        "input_uuid": identity,
        "source_type": edge[0],
        "source_id": edge[1],
        "destination_type": edge[2],
        "destination_id": edge[3],
        "step": step,
    }


def _texts(fields: Fields) -> dict[str, str]:
    tags = fields.mapping("tags")
    for key, value in tags.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise MalformedError(f"has a tag that is no text: {key!r}: {value!r}")
    return tags


def _described(walk: Walk, path: str, what: str) -> Fields | None:
    """The meta.yaml of a folder; None for a stray file, an empty folder, or after a trouble."""
    names = walk.names(path)
    if names is None:
        walk.normal("stray_file")
        return None
    if META not in names:
        if names:
            walk.trouble(f"{what}_without_meta_yaml", path, "has no meta.yaml")
        else:
            walk.normal("empty_folder")
        return None
    return walk.fields(f"{path}/{META}")
