"""Malformed files under ``skip`` and ``fix``: what is left out, what is mended, and what is written down of it."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlflowctl.stores.files import open_files
from mlflowctl.stores.files.rejects import FileReject
from tests.unit.test_files_store import MODEL, OTHER_RUN, RUN, TRACE, Rows, StoreBuilder, store

__all__ = ["store"]

BAD = b"caf\xe9"
BAD_CONTENT = {"bytes": BAD.hex()}


def only(rejects: list[FileReject]) -> FileReject:
    assert len(rejects) == 1, rejects
    json.dumps(rejects[0].document())
    return rejects[0]


def fill(store: StoreBuilder, run: str = RUN, experiment: str = "1") -> None:
    """Four files below a run."""
    store.write(f"{experiment}/{run}/params/p", "1")
    store.write(f"{experiment}/{run}/params/a/b", "1")
    store.write(f"{experiment}/{run}/tags/t", "1")
    store.write(f"{experiment}/{run}/metrics/m", "1 0.5 0\n")
    store.write(f"{experiment}/{run}/artifacts/model/tags/no", "an artifact is no row")


def trace(
    store: StoreBuilder, name: str = TRACE, place: str = "1", experiment: str | None = None, state: str = "OK"
) -> None:
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment or place.split("/")[-1]}}
    values = {"trace_id": name, "request_time": "2025-04-15T08:49:18.699Z", "trace_location": location, "state": state}
    store.write(f"{place}/traces/{name}/trace_info.yaml", values)


def model(store: StoreBuilder, name: str = MODEL, place: str = "1", experiment: str | None = None, **meta: Any) -> None:
    values = {
        "model_id": name,
        "experiment_id": experiment or place.split("/")[-1],
        "name": "model",
        "artifact_location": "/x",
        "creation_timestamp": 1,
        "last_updated_timestamp": 2,
        "status": 2,
        **meta,
    }
    store.write(f"{place}/models/{name}/meta.yaml", values)


def assessment(store: StoreBuilder, **meta: Any) -> None:
    values = {
        "assessment_name": "good",
        "source": {"source_type": "HUMAN", "source_id": "bob"},
        "create_time": "2025-04-15T08:49:18.699Z",
        "last_update_time": "2025-04-15T08:49:19Z",
        "feedback": {"value": 1},
        **meta,
    }
    store.write(f"1/traces/{TRACE}/assessments/a-1.yaml", values)


BELOW = {"metrics": 1, "params": 2, "tags": 1}


def dump(**values: Any) -> bytes:
    return yaml.safe_dump(values).encode()


def run_meta(**values: Any) -> bytes:
    return dump(**{"run_id": RUN, "experiment_id": "1", "artifact_uri": "/x", "status": 3, "start_time": 5, **values})


class TestRuns:
    @pytest.mark.parametrize("policy", ["skip", "fix"])
    @pytest.mark.parametrize(
        ("content", "rule", "text"),
        [
            (b"", "malformed_meta_yaml", "is empty"),
            (bytes(300), "malformed_meta_yaml", "is"),
            (b"status: 3\n<<<<<<< HEAD\n", "malformed_meta_yaml", "is no valid YAML"),
            (run_meta(start_time=1.5), "malformed_meta_yaml", "start_time"),
            (run_meta(start_time="soon"), "malformed_meta_yaml", "start_time"),
            (run_meta(start_time=1e40), "malformed_meta_yaml", "start_time"),
            (run_meta(start_time=True), "malformed_meta_yaml", "start_time"),
            (run_meta(status=[3]), "malformed_meta_yaml", "status"),
            (run_meta(lifecycle_stage="odd"), "malformed_meta_yaml", "lifecycle_stage"),
            (run_meta(user_id=["me"]), "malformed_meta_yaml", "user_id"),
            (run_meta(run_id=OTHER_RUN), "run_id_mismatch", OTHER_RUN),
            (run_meta(experiment_id="7"), "run_of_another_experiment", "7"),
        ],
    )
    def test_what_cannot_be_mended_is_rejected_with_all_below(
        self, store: StoreBuilder, policy: str, content: bytes, rule: str, text: str
    ) -> None:
        place = store.write(f"1/{RUN}/meta.yaml", content)
        fill(store)
        store.run(OTHER_RUN)
        fill(store, OTHER_RUN)
        rows, rejects = store.lenient(policy)
        reject = only(rejects)
        assert (reject.rule, reject.table, reject.key) == (rule, "runs", {"run_uuid": RUN})
        assert reject.where.startswith(str(place))
        assert text in reject.text
        assert reject.content == content.decode()
        assert (reject.below, reject.became) == (BELOW, None)
        for table in ("runs", "params", "tags", "metrics", "latest_metrics"):
            assert {r["run_uuid"] for r in rows[table]} == {OTHER_RUN}

    @pytest.mark.parametrize(
        ("values", "column", "value"),
        [
            ({"start_time": 12.0}, "start_time", 12),
            ({"start_time": " 12 "}, "start_time", 12),
            ({"end_time": "12.0"}, "end_time", 12),
            ({"end_time": 9007199254740993.0}, "end_time", 9007199254740992),
            ({"status": "3"}, "status", "FINISHED"),
            ({"status": 4.0}, "status", "FAILED"),
            ({"status": "KILLED"}, "status", "KILLED"),
            ({"status": "running"}, "status", "RUNNING"),
            ({"status": "FINISHD"}, "status", "FINISHED"),
            ({"status": "odd"}, "status", "FAILED"),
            ({"status": 0}, "status", "FAILED"),
            ({"status": 77}, "status", "FAILED"),
            ({"source_type": 77}, "source_type", "UNKNOWN"),
        ],
    )
    def test_values_that_can_be_mended(
        self, store: StoreBuilder, values: dict[str, Any], column: str, value: Any
    ) -> None:
        content = run_meta(**values)
        store.write(f"1/{RUN}/meta.yaml", content)
        fill(store)
        rows, rejects = store.lenient("fix")
        assert rows["runs"][0][column] == value
        reject = only(rejects)
        assert (reject.rule, reject.content, reject.became) == (
            "malformed_meta_yaml",
            content.decode(),
            {column: value},
        )
        assert (column in reject.text, reject.below) == (True, {})
        assert len(rows["params"]) == 2
        rows, rejects = store.lenient("skip")
        assert (rows["runs"], only(rejects).became) == ([], None)

    def test_invalid_utf8_and_nul_in_the_description(self, store: StoreBuilder) -> None:
        content = run_meta(user_id="USER", run_name="NAME").replace(b"USER", BAD).replace(b"NAME", b"a\0b")
        store.write(f"1/{RUN}/meta.yaml", content)
        rows, rejects = store.lenient("fix")
        assert (rows["runs"][0]["user_id"], rows["runs"][0]["name"]) == ("caf\ufffd", "ab")
        reject = only(rejects)
        assert reject.content == {"bytes": content.hex()}
        assert reject.text == "is not valid UTF-8; holds NUL characters"
        assert reject.became is not None
        assert (reject.became["user_id"], reject.became["name"]) == ("caf\ufffd", "ab")
        assert only(store.lenient("skip")[1]).became is None

    def test_only_what_changed_is_named(self, store: StoreBuilder) -> None:
        store.write(f"1/{RUN}/meta.yaml", run_meta(user_id="USER").replace(b"USER", BAD))
        assert only(store.lenient("fix")[1]).became == {"user_id": "caf\ufffd"}

    @pytest.mark.parametrize("policy", ["skip", "fix"])
    def test_of_one_run_in_two_experiments_the_first_whole_one_stays(self, store: StoreBuilder, policy: str) -> None:
        fill(store)
        for number in ("2", "3"):
            store.experiment(number)
            store.run(RUN, number, user_id=number)
            fill(store, RUN, number)
        rows, rejects = store.lenient(policy)
        assert [(r["experiment_id"], r["user_id"]) for r in rows["runs"]] == [(1, "me")]
        assert [len(rows[t]) for t in ("params", "tags", "metrics")] == [2, 1, 1]
        assert [(r.rule, r.where, r.below) for r in rejects] == [
            ("run_id_twice", f"{store.root}/{n}/{RUN}/meta.yaml", BELOW) for n in (2, 3)
        ]
        store.write(f"1/{RUN}/meta.yaml", "")
        rows, rejects = store.lenient(policy)
        assert [(r["experiment_id"], r["user_id"]) for r in rows["runs"]] == [(2, "2")]
        assert [r.rule for r in rejects] == ["malformed_meta_yaml", "run_id_twice"]


class TestKeys:
    @pytest.mark.parametrize(("place", "table"), [("params", "params"), ("tags", "tags")])
    def test_a_value_that_is_no_utf8(self, store: StoreBuilder, place: str, table: str) -> None:
        path = store.write(f"1/{RUN}/{place}/a/b", BAD)
        store.write(f"1/{RUN}/{place}/c", "fine")
        rows, rejects = store.lenient("skip")
        assert [(r["key"], r["value"]) for r in rows[table]] == [("c", "fine")]
        reject = only(rejects)
        assert (reject.rule, reject.where, reject.table) == ("invalid_utf8", str(path), table)
        assert (reject.key, reject.content, reject.became) == ({"run_uuid": RUN, "key": "a/b"}, BAD_CONTENT, None)
        rows, rejects = store.lenient("fix")
        assert [(r["key"], r["value"]) for r in rows[table]] == [("a/b", "caf\ufffd"), ("c", "fine")]
        assert (only(rejects).content, only(rejects).became) == (BAD_CONTENT, {"value": "caf\ufffd"})

    def test_every_folder_of_keys(self, store: StoreBuilder) -> None:
        trace(store)
        model(store)
        store.write("models/m/meta.yaml", {"name": "m", "creation_timestamp": 1, "last_updated_timestamp": 1})
        store.write("models/m/version-1/meta.yaml", {"name": "m", "version": 1, "creation_timestamp": 1})
        places = {
            "1/tags/k": ("experiment_tags", {"experiment_id": 1, "key": "k"}),
            f"1/traces/{TRACE}/tags/k": ("trace_tags", {"request_id": TRACE, "key": "k"}),
            f"1/traces/{TRACE}/request_metadata/k": ("trace_request_metadata", {"request_id": TRACE, "key": "k"}),
            f"1/models/{MODEL}/params/k": (
                "logged_model_params",
                {"model_id": MODEL, "experiment_id": 1, "param_key": "k"},
            ),
            f"1/models/{MODEL}/tags/k": ("logged_model_tags", {"model_id": MODEL, "experiment_id": 1, "tag_key": "k"}),
            "models/m/tags/k": ("registered_model_tags", {"name": "m", "workspace": "default", "key": "k"}),
            "models/m/version-1/tags/k": (
                "model_version_tags",
                {"name": "m", "workspace": "default", "version": 1, "key": "k"},
            ),
        }
        for place in places:
            store.write(place, BAD)
        skipped, rejects = store.lenient("skip")
        assert {(r.table, str(r.key)) for r in rejects} == {(t, str(k)) for t, k in places.values()}
        assert {r.where for r in rejects} == {f"{store.root}/{p}" for p in places}
        fixed, rejects = store.lenient("fix")
        assert len(rejects) == len(places)
        for table, _ in places.values():
            assert len(fixed[table]) == len(skipped[table]) + 1

    def test_columns_of_traces_that_come_from_keys(self, store: StoreBuilder) -> None:
        trace(store)
        store.write(f"1/traces/{TRACE}/tags/mlflow.traceName", BAD)
        store.write(f"1/traces/{TRACE}/request_metadata/mlflow.trace.session", BAD)
        rows, rejects = store.lenient("skip")
        assert (rows["trace_info"][0]["trace_name"], rows["trace_info"][0]["session_id"]) == (None, None)
        assert [(r.table, r.key["key"], r.became) for r in rejects] == [
            ("trace_tags", "mlflow.traceName", None),
            ("trace_request_metadata", "mlflow.trace.session", None),
        ]
        rows, rejects = store.lenient("fix")
        assert (rows["trace_info"][0]["trace_name"], rows["trace_info"][0]["session_id"]) == ("caf\ufffd", "caf\ufffd")
        assert [r.became for r in rejects] == [{"value": "caf\ufffd"}] * 2

    def test_the_name_of_a_run_that_its_tag_holds(self, store: StoreBuilder) -> None:
        store.run(run_name=None)
        store.write(f"1/{RUN}/tags/mlflow.runName", BAD)
        assert store.lenient("skip")[0]["runs"][0]["name"] is None
        rows, rejects = store.lenient("fix")
        assert (rows["runs"][0]["name"], rows["tags"][0]["value"]) == ("caf\ufffd", "caf\ufffd")
        assert only(rejects).table == "tags"

    def test_names_of_files_that_are_no_utf8(self, store: StoreBuilder) -> None:
        folder = store.write(f"1/{RUN}/params/a", "1").parent
        (folder / os.fsdecode(BAD)).write_text("2")
        (folder / os.fsdecode(b"caf\xe8")).write_text("3")
        (folder / "ok").mkdir()
        (folder / "ok" / os.fsdecode(BAD)).write_text("4")
        (folder / os.fsdecode(b"\xff")).mkdir()
        (folder / os.fsdecode(b"\xff") / "x").write_text("5")
        rows, rejects = store.lenient("skip")
        assert [r["value"] for r in rows["params"]] == ["1"]
        assert len(rejects) == 4
        assert {r.rule for r in rejects} == {"invalid_utf8"}
        assert [r.below for r in rejects if r.content is None] == [{"params": 1}]
        rows, rejects = store.lenient("fix")
        # Of two that become one key the first stays; a folder is no text.
        assert {r["key"]: r["value"] for r in rows["params"]} == {"a": "1", "caf\ufffd": "3", "ok/caf\ufffd": "4"}
        assert sorted((str(r.content), str(r.became)) for r in rejects) == [
            ("2", "None"),
            ("3", "{'key': 'caf\ufffd'}"),
            ("4", "{'key': 'ok/caf\ufffd'}"),
            ("None", "None"),
        ]
        for reject in rejects:
            json.dumps(reject.document()).encode()

    def test_a_metric_whose_name_is_no_utf8(self, store: StoreBuilder) -> None:
        folder = store.write(f"1/{RUN}/metrics/m", "1 2 3\n").parent
        (folder / os.fsdecode(BAD)).write_text("1 2 3\n")
        assert [r["key"] for r in store.lenient("fix")[0]["metrics"]] == ["caf\ufffd", "m"]
        rows, rejects = store.lenient("skip")
        assert [r["key"] for r in rows["latest_metrics"]] == ["m"]
        assert (only(rejects).table, only(rejects).key["run_uuid"]) == ("metrics", RUN)

    @pytest.mark.parametrize("policy", ["skip", "fix"])
    def test_a_file_where_a_folder_must_be(self, store: StoreBuilder, policy: str) -> None:
        store.write(f"1/{RUN}/params", "x")
        store.write(f"1/{RUN}/tags/t", "x")
        rows, rejects = store.lenient(policy)
        assert (only(rejects).rule, only(rejects).content) == ("not_a_folder", "x")
        assert [r["key"] for r in rows["tags"]] == ["t"]


class TestMetrics:
    @pytest.mark.parametrize("policy", ["skip", "fix"])
    @pytest.mark.parametrize(
        ("content", "rule", "text"),
        [
            (b"1 0.5 0\n2 0.5", "malformed_metric_line", "is cut"),
            (b"1 0.5 0\n\n2 0.5 1\nx\n", "malformed_metric_line", "2 such lines"),
            (b"1 0.5 0\n\0\0\0\0", "malformed_metric_line", ""),
            (b"1 0.5 0\n1 0.\xff 0\n", "invalid_utf8", "UTF-8"),
            (b"1 0.5 0\n" * 1000 + b"1.0 0.5 0\n", "malformed_metric_line", ""),
        ],
    )
    def test_a_file_is_rejected_whole(
        self, store: StoreBuilder, policy: str, content: bytes, rule: str, text: str
    ) -> None:
        path = store.write(f"1/{RUN}/metrics/m", content)
        store.write(f"1/{RUN}/metrics/other", "1 2 3\n")
        rows, rejects = store.lenient(policy)
        reject = only(rejects)
        assert (reject.rule, reject.table, reject.key) == (rule, "metrics", {"run_uuid": RUN, "key": "m"})
        assert (reject.where.startswith(str(path)), text in reject.text) == (True, True)
        assert (reject.became, reject.below) == (None, {})
        assert [r["key"] for r in rows["metrics"]] == [r["key"] for r in rows["latest_metrics"]] == ["other"]

    @pytest.mark.parametrize("policy", ["skip", "fix"])
    @pytest.mark.parametrize("content", [b"1 2 3\n", b"1 2 3 \xff\n", f"1 2 3 {RUN}\n1 2 3 {RUN}".encode()])
    def test_metrics_of_logged_models(self, store: StoreBuilder, policy: str, content: bytes) -> None:
        model(store)
        store.write(f"1/models/{MODEL}/metrics/m", content)
        store.write(f"1/models/{MODEL}/metrics/ok", f"1 2 3 {RUN}\n")
        rows, rejects = store.lenient(policy)
        reject = only(rejects)
        assert (reject.table, reject.key) == ("logged_model_metrics", {"model_id": MODEL, "metric_name": "m"})
        assert [r["metric_name"] for r in rows["logged_model_metrics"]] == ["ok"]


class TestExperiments:
    @pytest.mark.parametrize("policy", ["skip", "fix"])
    @pytest.mark.parametrize(
        ("place", "content", "rule"),
        [
            ("2", b"", "malformed_meta_yaml"),
            ("2", None, "experiment_without_meta_yaml"),
            ("2", dump(experiment_id="3", name="x", artifact_location="/x"), "experiment_id_mismatch"),
            ("2", dump(experiment_id="2", name="x"), "malformed_meta_yaml"),
            ("abc", dump(experiment_id="abc", name="x", artifact_location="/x"), "experiment_id_not_a_number"),
            ("007", b"{", "malformed_meta_yaml"),
        ],
    )
    def test_all_below_is_rejected(
        self, store: StoreBuilder, policy: str, place: str, content: bytes | None, rule: str
    ) -> None:
        fill(store)
        store.run(OTHER_RUN, place)
        fill(store, OTHER_RUN, place)
        trace(store, place=place)
        model(store, place=place)
        store.write(f"{place}/tags/t", "1")
        store.write(f"{place}/datasets/d/meta.yaml", "x")
        if content is not None:
            store.write(f"{place}/meta.yaml", content)
        rows, rejects = store.lenient(policy)
        reject = only(rejects)
        assert (reject.rule, reject.table) == (rule, "experiments")
        below = {**BELOW, "tags": 2, "runs": 1, "traces": 1, "logged models": 1, "datasets": 1}
        assert (reject.below, reject.became) == (below, None)
        assert [e["experiment_id"] for e in rows["experiments"]] == [1]
        assert [r["run_uuid"] for r in rows["runs"]] == [RUN]
        assert rows["trace_info"] == rows["logged_models"] == rows["experiment_tags"] == []

    def conflict(self, store: StoreBuilder) -> None:
        """ID 1 in the trash too, two deleted ones and an active one with one name."""
        fill(store)
        store.experiment("1", name="old", place=".trash/1")
        store.run(OTHER_RUN, "1", place=".trash/1")
        fill(store, OTHER_RUN, ".trash/1")
        trace(store, place=".trash/1")
        model(store, place=".trash/1")
        store.write(".trash/1/tags/t", "1")
        dataset = {"name": "d", "digest": "1", "source_type": "local", "source": "{}"}
        store.write(".trash/1/datasets/d/meta.yaml", dataset)
        store.experiment("5", name="experiment 1", place=".trash/5")
        store.experiment("6", name="experiment 1", place=".trash/6")
        store.experiment("9", name="experiment 1_DELETED_5")

    def test_skip_leaves_the_deleted_ones_out(self, store: StoreBuilder) -> None:
        self.conflict(store)
        rows, rejects = store.lenient("skip")
        assert [e["experiment_id"] for e in rows["experiments"]] == [1, 9]
        assert [(r.rule, r.key["experiment_id"], r.became) for r in rejects] == [
            ("experiment_id_twice", 1, None),
            ("experiment_name_twice", 5, None),
            ("experiment_name_twice", 6, None),
        ]
        assert rejects[0].where == f"{store.root}/.trash/1/meta.yaml"
        assert rejects[0].below == {**BELOW, "tags": 2, "runs": 1, "traces": 1, "logged models": 1, "datasets": 1}
        assert [r["run_uuid"] for r in rows["runs"]] == [RUN]
        assert rows["trace_info"] == rows["logged_models"] == rows["datasets"] == []

    def test_fix_gives_the_deleted_ones_a_new_id_or_name(self, store: StoreBuilder) -> None:
        self.conflict(store)
        rows, rejects = store.lenient("fix")
        assert [(e["experiment_id"], e["name"], e["lifecycle_stage"]) for e in rows["experiments"]] == [
            (1, "experiment 1", "active"),
            (9, "experiment 1_DELETED_5", "active"),
            (10, "old", "deleted"),
            # A server that folds case would call "_deleted_5" the same as what is there.
            (5, "experiment 1_deleted_5_2", "deleted"),
            (6, "experiment 1_deleted_6", "deleted"),
        ]
        assert [r.became for r in rejects] == [
            {"experiment_id": 10},
            {"name": "experiment 1_deleted_5_2"},
            {"name": "experiment 1_deleted_6"},
        ]
        # Everything below follows; artifact locations stay.
        assert {r["run_uuid"]: r["experiment_id"] for r in rows["runs"]} == {RUN: 1, OTHER_RUN: 10}
        for table in ("trace_info", "logged_models", "experiment_tags", "datasets"):
            assert [r["experiment_id"] for r in rows[table]] == [10], table
        assert rows["experiments"][2]["artifact_location"] == "file:///srv/ml/mlruns/1"
        assert len(rows["params"]) == 4

    def test_two_active_ones_with_one_name(self, store: StoreBuilder) -> None:
        store.experiment("3", name="experiment 1")
        store.experiment("20", name="experiment 1")
        rows, rejects = store.lenient("skip")
        assert [e["experiment_id"] for e in rows["experiments"]] == [1]
        assert [r.key["experiment_id"] for r in rejects] == [3, 20]
        names = {e["experiment_id"]: e["name"] for e in store.lenient("fix")[0]["experiments"]}
        assert names == {1: "experiment 1", 3: "experiment 1_3", 20: "experiment 1_20"}

    def test_id_and_name_at_once_and_the_largest_id(self, store: StoreBuilder) -> None:
        largest = str((1 << 63) - 1)
        long = "n" * 256
        store.experiment(largest, name=long)
        store.experiment(largest, name=long, place=f".trash/{largest}")
        rows, rejects = store.lenient("fix")
        reject = only(rejects)
        assert reject.rule == "experiment_id_twice"
        ending = f"_deleted_{largest}"
        assert reject.became == {"experiment_id": 2, "name": "n" * (256 - len(ending)) + ending}
        assert len(rows["experiments"][2]["name"]) == 256

    def test_a_malformed_one_takes_nobodys_name(self, store: StoreBuilder) -> None:
        store.experiment("0", name="experiment 1", creation_time="soon")
        rows, rejects = store.lenient("skip")
        assert [e["experiment_id"] for e in rows["experiments"]] == [1]
        assert only(rejects).rule == "malformed_meta_yaml"

    def test_one_run_in_the_trash_too(self, store: StoreBuilder) -> None:
        fill(store)
        store.experiment("1", name="old", place=".trash/1")
        store.run(RUN, "1", place=".trash/1")
        rows, rejects = store.lenient("fix")
        assert [(r.rule, r.became is None) for r in rejects] == [
            ("experiment_id_twice", False),
            ("run_id_twice", True),
        ]
        assert [r["experiment_id"] for r in rows["runs"]] == [1]


class TestObjects:
    """Traces, logged models, datasets and the registry."""

    CASES = (
        (f"1/traces/{TRACE}/trace_info.yaml", b"", "malformed_trace", "trace_info"),
        (f"1/models/{MODEL}/meta.yaml", b"{", "malformed_meta_yaml", "logged_models"),
        (f"1/traces/{TRACE}/assessments/a.yaml", b"x: 1\n", "malformed_assessment", "assessments"),
        ("1/datasets/d/meta.yaml", b"name: d\n", "malformed_meta_yaml", "datasets"),
        (f"1/{RUN}/inputs/i/meta.yaml", b"source_type: X\nsource_id: d\n", "malformed_meta_yaml", "inputs"),
        (f"1/{RUN}/inputs/i/other", b"", "input_without_meta_yaml", "inputs"),
        (f"1/{RUN}/outputs/o/other", b"", "output_without_meta_yaml", "inputs"),
        ("1/datasets/d/other", b"", "dataset_without_meta_yaml", "datasets"),
        ("models/m/meta.yaml", b"", "malformed_meta_yaml", "registered_models"),
        ("models/m/meta.yaml", b"name: other\n", "model_name_mismatch", "registered_models"),
        ("models/n/version-1/meta.yaml", b"x", "registered_model_without_meta_yaml", "registered_models"),
        ("models/m/version-2/meta.yaml", b"version: 3\n", "model_version_mismatch", "model_versions"),
        ("models/m/version-2/meta.yaml", b"version: two\n", "malformed_meta_yaml", "model_versions"),
        ("models/m/version-2/tags/t", b"x", "model_version_without_meta_yaml", "model_versions"),
        ("models/m/aliases/best", b"first", "alias_not_a_number", "registered_model_aliases"),
    )

    @pytest.mark.parametrize("policy", ["skip", "fix"])
    @pytest.mark.parametrize(("place", "content", "rule", "table"), CASES, ids=[f"{c[2]}-{c[3]}" for c in CASES])
    def test_one_is_rejected_and_the_rest_stays(
        self, store: StoreBuilder, policy: str, place: str, content: bytes, rule: str, table: str
    ) -> None:
        trace(store, "tr-2")
        store.write("1/traces/tr-2/tags/t", "1")
        model(store, "m-2")
        store.write("models/m/meta.yaml", {"name": "m", "creation_timestamp": 1, "last_updated_timestamp": 1})
        store.write("models/m/version-1/meta.yaml", {"name": "m", "version": 1, "creation_timestamp": 1})
        if "assessments" in place:
            trace(store)
        clean, none = store.lenient(policy)
        assert none == []
        written = store.write(place, content)
        rows, rejects = store.lenient(policy)
        reject = only(rejects)
        assert (reject.rule, reject.table, reject.became) == (rule, table, None)
        assert str(written).startswith(reject.where.rpartition(":")[0] or reject.where)
        for name, expected in clean.items():
            if not (place == "models/m/meta.yaml" and name.startswith(("registered_model", "model_version"))):
                assert rows[name] == expected, name

    def test_what_lies_below_a_registered_model_is_counted(self, store: StoreBuilder) -> None:
        store.write("models/m/meta.yaml", "")
        store.write("models/m/tags/a", "1")
        store.write("models/m/aliases/a", "1")
        store.write("models/m/version-1/meta.yaml", {"version": 1})
        store.write("models/m/version-1/tags/a", "1")
        assert only(store.lenient("skip")[1]).below == {"aliases": 1, "model versions": 1, "tags": 2}

    @pytest.mark.parametrize("policy", ["skip", "fix"])
    def test_an_input_of_a_rejected_dataset_is_rejected_too(self, store: StoreBuilder, policy: str) -> None:
        store.write("1/datasets/d/meta.yaml", "")
        store.write(
            f"1/{RUN}/inputs/i/meta.yaml",
            {"source_type": "DATASET", "source_id": "d", "destination_type": "RUN", "destination_id": RUN, "tags": {}},
        )
        rows, rejects = store.lenient(policy)
        assert [(r.rule, r.table) for r in rejects] == [
            ("malformed_meta_yaml", "datasets"),
            ("input_of_rejected_dataset", "inputs"),
        ]
        assert rows["inputs"] == []

    @pytest.mark.parametrize("policy", ["skip", "fix"])
    def test_one_trace_and_one_model_in_two_experiments(self, store: StoreBuilder, policy: str) -> None:
        store.experiment("2")
        for number in ("1", "2"):
            trace(store, place=number, experiment=number)
            model(store, place=number, experiment=number)
            store.write(f"{number}/traces/{TRACE}/tags/t", number)
            store.write(f"{number}/models/{MODEL}/tags/t", number)
        rows, rejects = store.lenient(policy)
        assert [(r.rule, r.below) for r in rejects] == [
            ("trace_id_twice", {"tags": 1}),
            ("logged_model_id_twice", {"tags": 1}),
        ]
        assert [r["experiment_id"] for r in rows["trace_info"] + rows["logged_models"]] == [1, 1]
        assert [r["value"] for r in rows["trace_tags"]] == ["1"]

    def test_states_that_nobody_knows(self, store: StoreBuilder) -> None:
        trace(store, state="ODD")
        model(store, status=9)
        assessment(store, source={"source_type": "ODD", "source_id": "x"})
        rows, rejects = store.lenient("fix")
        assert [r.became for r in rejects] == [
            {"state": "STATE_UNSPECIFIED"},
            {"source_type": "SOURCE_TYPE_UNSPECIFIED"},
            {"status": 0},
        ]
        assert rows["trace_info"][0]["status"] == "STATE_UNSPECIFIED"
        assert rows["logged_models"][0]["status"] == 0
        assert rows["assessments"][0]["source_type"] == "SOURCE_TYPE_UNSPECIFIED"
        assert [r.rule for r in store.lenient("skip")[1]] == ["malformed_trace", "malformed_meta_yaml"]

    def test_a_description_with_invalid_utf8(self, store: StoreBuilder) -> None:
        content = dump(name="m", creation_timestamp=1.0, last_updated_timestamp=1, description="TEXT")
        store.write("models/m/meta.yaml", content.replace(b"TEXT", BAD))
        rows, rejects = store.lenient("fix")
        assert rows["registered_models"][0]["description"] == "caf\ufffd"
        assert only(rejects).became == {"description": "caf\ufffd", "creation_timestamp": 1}


class TestWhatStopsAnyway:
    """What the system does not give: nobody can say what would be left out."""

    @pytest.mark.parametrize("policy", ["skip", "fix"])
    def test_a_link_that_leads_nowhere(self, store: StoreBuilder, policy: str) -> None:
        folder = store.write(f"1/{RUN}/params/a", "1").parent
        (folder / "b").symlink_to("nowhere")
        reader = open_files(store.root, policy)
        list(reader.batches())
        assert [(t.rule, t.text) for t in reader.report.troubles] == [
            ("unreadable_file", "is a link that leads nowhere")
        ]
        assert reader.rejects == []

    @pytest.mark.parametrize("policy", ["skip", "fix"])
    def test_a_file_that_may_not_be_read(
        self, store: StoreBuilder, policy: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from mlflowctl.stores.files import walk

        path = store.write(f"1/{RUN}/params/a", "1")
        real = walk.read_bytes

        def denied(name: str, see: Any = None) -> bytes:
            if name == str(path):
                raise PermissionError(13, "Permission denied")
            return real(name, see)

        monkeypatch.setattr(walk, "read_bytes", denied)
        reader = open_files(store.root, policy)
        list(reader.batches())
        assert [t.where for t in reader.report.troubles] == [str(path)]

    @pytest.mark.parametrize("policy", ["skip", "fix"])
    def test_a_folder_in_the_place_of_a_file_is_malformed(self, store: StoreBuilder, policy: str) -> None:
        (store.root / "1" / RUN / "meta.yaml").unlink()
        (store.root / "1" / RUN / "meta.yaml").mkdir()
        rows, rejects = store.lenient(policy)
        assert (only(rejects).key, rows["runs"]) == ({"run_uuid": RUN}, [])


def test_an_unknown_policy_is_refused(store: StoreBuilder) -> None:
    with pytest.raises(ValueError, match="no such policy"):
        open_files(store.root, "ask").batches()


@pytest.mark.parametrize("policy", ["skip", "fix"])
def test_a_whole_store_is_the_same_with_every_policy(store: StoreBuilder, policy: str) -> None:
    fill(store)
    trace(store)
    model(store)
    rows, rejects = store.lenient(policy)
    assert ({t: r for t, r in rows.items() if r}, rejects) == (store.clean(), [])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("policy", ["skip", "fix"])
def test_damage_at_random_is_the_same_at_each_reading(tmp_path: Path, policy: str, seed: int) -> None:
    """Files are cut, emptied, filled with noise, and folders copied; ``lenient`` reads each table alone as well."""
    randomly = random.Random(seed)
    store = StoreBuilder(tmp_path / "mlruns")
    for number in ("0", "1", "2", "3"):
        place = randomly.choice([number, f".trash/{number}"])
        store.experiment(number, name=randomly.choice("ab"), place=place)
        for _ in range(3):
            run = f"{randomly.randrange(6):032x}"
            store.run(run, number, place=place)
            fill(store, run, place)
        trace(store, f"tr-{randomly.randrange(3)}", place=place, experiment=number)
        model(store, f"m-{randomly.randrange(3)}", place=place, experiment=number)
    files = sorted(p for p in store.root.rglob("*") if p.is_file())
    for path in randomly.sample(files, 12):
        data = path.read_bytes()
        cut = randomly.randrange(len(data) + 1)
        noise = bytes(randomly.randrange(256) for _ in range(5))
        path.write_bytes(randomly.choice([data[:cut], b"", data[:cut] + noise + data[cut:], bytes(len(data))]))
    rows, rejects = store.lenient(policy)
    assert (rows, rejects) == store.lenient(policy)
    _no_orphans(rows)
    for reject in rejects:
        json.dumps(reject.document())
        assert policy == "fix" or reject.became is None


def _no_orphans(rows: Rows) -> None:
    experiments = {r["experiment_id"] for r in rows["experiments"]}
    runs = {r["run_uuid"] for r in rows["runs"]}
    assert len(experiments) == len(rows["experiments"])
    assert len({r["name"] for r in rows["experiments"]}) == len(rows["experiments"])
    assert len(runs) == len(rows["runs"])
    assert {r["experiment_id"] for t in ("runs", "trace_info", "logged_models") for r in rows[t]} <= experiments
    assert {r["run_uuid"] for t in ("params", "tags", "metrics", "latest_metrics") for r in rows[t]} <= runs
