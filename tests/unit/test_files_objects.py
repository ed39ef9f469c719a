"""Datasets, inputs, outputs, traces, assessments, logged models and the registry."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlflowctl.stores.files.traces import milliseconds
from tests.unit.test_files_store import MODEL, OTHER_RUN, RUN, TRACE, StoreBuilder, store

__all__ = ["store"]

DATASET = "0" * 32


def dataset(store: StoreBuilder, **meta: Any) -> None:
    values = {"name": "d", "digest": "1", "source_type": "local", "source": "{}", "schema": None, "profile": "{}"}
    store.write(f"1/datasets/{DATASET}/meta.yaml", values | meta)


def graph(store: StoreBuilder, place: str, **meta: Any) -> None:
    store.write(f"1/{RUN}/{place}/meta.yaml", {"tags": {}, **meta})


class TestDatasets:
    def test_a_dataset_with_its_input_and_tags(self, store: StoreBuilder) -> None:
        dataset(store)
        graph(
            store,
            "inputs/i",
            source_type="DATASET",
            source_id=DATASET,
            destination_type="RUN",
            destination_id=DATASET,
            tags={"mlflow.data.context": "train"},
        )
        rows = store.clean()
        (found,) = rows["datasets"]
        (edge,) = rows["inputs"]
        assert (found["name"], found["digest"], found["dataset_source_type"]) == ("d", "1", "local")
        assert (found["dataset_source"], found["dataset_schema"], found["dataset_profile"]) == ("{}", None, "{}")
        assert len(found["dataset_uuid"]) == 32
        # The run is the folder: destination_id repeats the source.
        assert edge == {
            "input_uuid": edge["input_uuid"],
            "source_type": "DATASET",
            "source_id": found["dataset_uuid"],
            "destination_type": "RUN",
            "destination_id": RUN,
            "step": 0,
        }
        assert rows["input_tags"] == [
            {"input_uuid": edge["input_uuid"], "name": "mlflow.data.context", "value": "train"}
        ]

    def test_one_dataset_in_two_experiments_is_two(self, store: StoreBuilder) -> None:
        store.experiment("2")
        for number in "12":
            values = {"name": "d", "digest": "1", "source_type": "local", "source": "{}"}
            store.write(f"{number}/datasets/{DATASET}/meta.yaml", values)
        assert len({d["dataset_uuid"] for d in store.clean()["datasets"]}) == 2

    def test_model_inputs_and_outputs(self, store: StoreBuilder) -> None:
        logged_model(store)
        graph(store, "inputs/x", source_type="MODEL", source_id=MODEL, destination_type="RUN", destination_id=MODEL)
        graph(
            store,
            f"outputs/{MODEL}",
            source_type="RUN_OUTPUT",
            source_id=MODEL,
            destination_type="MODEL_OUTPUT",
            destination_id=MODEL,
            step=4,
        )
        rows, report = store.read()
        assert report.normal == {}
        assert [tuple(e[c] for c in EDGE) for e in rows["inputs"]] == [
            ("RUN_INPUT", RUN, "MODEL_INPUT", MODEL, 0),
            ("RUN_OUTPUT", RUN, "MODEL_OUTPUT", MODEL, 4),
        ]

    def test_an_output_of_an_absent_model_is_normal(self, store: StoreBuilder) -> None:
        graph(store, "outputs/m", destination_type="MODEL_OUTPUT", destination_id="m", step=0)
        rows, report = store.read()
        assert len(rows["inputs"]) == 1
        assert report.normal == {"output_of_absent_model": 1}
        assert report.troubles == []

    def test_a_model_of_another_experiment_is_found(self, store: StoreBuilder) -> None:
        store.experiment("2", place=".trash/2", lifecycle_stage="deleted")
        logged_model(store, experiment="2", place=".trash/2")
        graph(store, f"outputs/{MODEL}", destination_type="MODEL_OUTPUT", destination_id=MODEL, step=0)
        assert store.read()[1].normal == {}

    def test_an_input_of_an_absent_dataset_is_left_behind(self, store: StoreBuilder) -> None:
        graph(store, "inputs/i", source_type="DATASET", source_id="gone", destination_type="RUN", destination_id="x")
        rows, report = store.read()
        assert rows["inputs"] == []
        assert [n.what for n in report.not_carried] == ["inputs of runs that name an absent dataset"]

    @pytest.mark.parametrize(
        ("place", "content", "rule"),
        [
            (f"1/datasets/{DATASET}/meta.yaml", "name: d\n", "malformed_meta_yaml"),
            (f"1/datasets/{DATASET}/other", "", "dataset_without_meta_yaml"),
            (f"1/{RUN}/inputs/i/meta.yaml", "", "malformed_meta_yaml"),
            (f"1/{RUN}/inputs/i/meta.yaml", "source_type: X\nsource_id: a\n", "malformed_meta_yaml"),
            (f"1/{RUN}/inputs/i/meta.yaml", "source_type: MODEL\nsource_id: a\ntags: 1\n", "malformed_meta_yaml"),
            (f"1/{RUN}/inputs/i/meta.yaml", "source_type: MODEL\nsource_id: a\ntags: {a: 1}\n", "malformed_meta_yaml"),
            (f"1/{RUN}/inputs/i/x", "", "input_without_meta_yaml"),
            (f"1/{RUN}/outputs/m/meta.yaml", "destination_type: RUN\n", "malformed_meta_yaml"),
            (f"1/{RUN}/outputs/m/x", "", "output_without_meta_yaml"),
        ],
    )
    def test_malformed(self, store: StoreBuilder, place: str, content: str, rule: str) -> None:
        store.write(place, content)
        assert store.rules() == [rule]


EDGE = ("source_type", "source_id", "destination_type", "destination_id", "step")


def trace_v2(store: StoreBuilder, **meta: Any) -> None:
    values = {
        "request_id": TRACE,
        "experiment_id": "1",
        "timestamp_ms": 1700000000123,
        "execution_time_ms": 45,
        "status": "OK",
    }
    store.write(f"1/traces/{TRACE}/trace_info.yaml", values | meta)


def trace_v3(store: StoreBuilder, **meta: Any) -> None:
    values = {
        "trace_id": TRACE,
        "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "1"}},
        "request_time": "2025-04-15T08:49:18.699Z",
        "execution_duration_ms": 7,
        "state": "ERROR",
        "request_preview": '{"q": "hi"}',
        "response_preview": None,
        "client_request_id": "c",
    }
    store.write(f"1/traces/{TRACE}/trace_info.yaml", values | meta)


def assessment(store: StoreBuilder, **meta: Any) -> dict[str, Any]:
    """Write an assessment and read its row."""
    values = {
        "assessment_id": "a-1",
        "assessment_name": "good",
        "trace_id": TRACE,
        "source": {"source_type": "HUMAN", "source_id": "bob"},
        "create_time": "2025-04-15T08:49:18.699Z",
        "last_update_time": "2025-04-15T08:49:19Z",
        **meta,
    }
    store.write(f"1/traces/{TRACE}/assessments/a-1.yaml", values)
    (row,) = store.clean("assessments", "trace_info")["assessments"]
    return row


class TestTraces:
    def test_the_form_of_2_13_to_3_1(self, store: StoreBuilder) -> None:
        trace_v2(store)
        store.write(f"1/traces/{TRACE}/tags/mlflow.traceName", "predict")
        store.write(f"1/traces/{TRACE}/tags/mlflow.artifactLocation", "/x")
        store.write(f"1/traces/{TRACE}/request_metadata/mlflow.sourceRun", RUN)
        rows = store.clean()
        (row,) = rows["trace_info"]
        assert {k: v for k, v in row.items() if v is not None} == {
            "request_id": TRACE,
            "experiment_id": 1,
            "timestamp_ms": 1700000000123,
            "execution_time_ms": 45,
            "status": "OK",
            "db_payload_generation": 0,
            "trace_name": "predict",
        }
        assert rows["trace_tags"] == [{"key": "mlflow.artifactLocation", "value": "/x", "request_id": TRACE}]
        assert rows["trace_request_metadata"] == [{"key": "mlflow.sourceRun", "value": RUN, "request_id": TRACE}]

    def test_the_form_since_3_2(self, store: StoreBuilder) -> None:
        trace_v3(store)
        (row,) = store.clean()["trace_info"]
        assert {k: v for k, v in row.items() if v is not None} == {
            "request_id": TRACE,
            "experiment_id": 1,
            "timestamp_ms": 1744706958699,
            "execution_time_ms": 7,
            "status": "ERROR",
            "request_preview": '{"q": "hi"}',
            "client_request_id": "c",
            "db_payload_generation": 0,
        }

    def test_a_trace_that_never_ended(self, store: StoreBuilder) -> None:
        trace_v2(store, execution_time_ms=None, status="IN_PROGRESS")
        (row,) = store.clean()["trace_info"]
        assert (row["execution_time_ms"], row["status"]) == (None, "IN_PROGRESS")

    def test_the_unspecified_state_has_two_words(self, store: StoreBuilder) -> None:
        trace_v2(store, status="TRACE_STATUS_UNSPECIFIED")
        assert store.clean()["trace_info"][0]["status"] == "STATE_UNSPECIFIED"

    def test_a_duration_as_protobuf_writes_it(self, store: StoreBuilder) -> None:
        trace_v3(store, execution_duration_ms=None, execution_duration="1.5s")
        assert store.clean()["trace_info"][0]["execution_time_ms"] == 1500

    def test_metadata_that_became_columns(self, store: StoreBuilder) -> None:
        trace_v3(store)
        usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
        store.write(f"1/traces/{TRACE}/request_metadata/mlflow.trace.session", "s1")
        store.write(f"1/traces/{TRACE}/request_metadata/mlflow.trace.tokenUsage", json.dumps(usage))
        store.write(f"1/traces/{TRACE}/request_metadata/mlflow.trace.cost", '{"total_cost": 0.25}')
        rows, report = store.read()
        (row,) = rows["trace_info"]
        assert (row["session_id"], row["total_cost"], row["input_cost"]) == ("s1", 0.25, None)
        assert {k: row[k] for k in usage} == usage
        assert rows["trace_request_metadata"] == []
        assert report.not_carried == []

    @pytest.mark.parametrize("text", ['{"input_tokens": 1, "other": 2}', "no json", "[]", '{"input_tokens": 1.5}'])
    def test_token_usage_without_columns_is_reported(self, store: StoreBuilder, text: str) -> None:
        trace_v3(store)
        store.write(f"1/traces/{TRACE}/request_metadata/mlflow.trace.tokenUsage", text)
        report = store.read()[1]
        assert [n.what for n in report.not_carried] == ["parts of the trace metadata mlflow.trace.tokenUsage"]

    def test_a_folder_without_trace_info_is_normal(self, store: StoreBuilder) -> None:
        store.write(f"1/traces/{TRACE}/artifacts/traces.json", "{}")
        store.write("1/traces/other/tags/a", "1")
        rows, report = store.read()
        assert rows["trace_info"] == []
        assert report.normal == {"trace_folder_without_trace_info": 2}
        assert [n.rows for n in report.not_carried] == [1]

    def test_malformed(self, store: StoreBuilder) -> None:
        for change, rule in (
            ({"status": "ODD"}, "malformed_trace"),
            ({"timestamp_ms": None}, "malformed_trace"),
            ({"request_id": "x"}, "trace_id_mismatch"),
            ({"experiment_id": "2"}, "trace_of_another_experiment"),
        ):
            trace_v2(store, **change)
            assert store.rules() == [rule]
            assert store.read()[0]["trace_info"] == []
        trace_v3(store, request_time="yesterday")
        assert store.rules() == ["malformed_trace"]

    def test_one_trace_in_two_experiments(self, store: StoreBuilder) -> None:
        trace_v2(store)
        store.experiment("2")
        values = {"request_id": TRACE, "experiment_id": "2", "timestamp_ms": 1, "status": "OK"}
        store.write(f"2/traces/{TRACE}/trace_info.yaml", values)
        assert store.rules() == ["trace_id_twice"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2025-04-15T08:49:18.699Z", 1744706958699),
        ("2025-04-15T08:49:18Z", 1744706958000),
        ("2025-04-15T10:49:18.6999+02:00", 1744706958699),
        ("2025-04-15T06:49:18.699123456-02:00", 1744706958699),
        ("1969-12-31T23:59:59.999Z", -1),
        ("0001-01-01T00:00:00Z", -62135596800000),
        ("2025-13-15T08:49:18Z", None),
        ("2025-04-15", None),
        ("", None),
        (5, None),
        (None, None),
    ],
)
def test_milliseconds(text: object, found: int | None) -> None:
    assert milliseconds(text) == found


class TestAssessments:
    @pytest.fixture(autouse=True)
    def _trace(self, store: StoreBuilder) -> None:
        trace_v2(store)

    def test_times_and_all_columns(self, store: StoreBuilder) -> None:
        row = assessment(
            store,
            feedback={"value": 0.5},
            rationale="because",
            metadata={"mlflow.assessment.sourceRunId": RUN},
            span_id="s",
            overrides="a-0",
            valid=False,
        )
        assert row == {
            "assessment_id": "a-1",
            "trace_id": TRACE,
            "name": "good",
            "assessment_type": "feedback",
            "value": "0.5",
            "error": None,
            "created_timestamp": 1744706958699,
            "last_updated_timestamp": 1744706959000,
            "source_type": "HUMAN",
            "source_id": "bob",
            "run_id": RUN,
            "span_id": "s",
            "rationale": "because",
            "overrides": "a-0",
            "valid": False,
            "assessment_metadata": json.dumps({"mlflow.assessment.sourceRunId": RUN}),
            "experiment_id": 1,
            "trace_timestamp_ms": 1700000000123,
            "aggregate_value": 0.5,
            "is_numeric_value": True,
        }

    @pytest.mark.parametrize(
        ("value", "aggregate", "numeric"),
        [
            (5, 5.0, True),
            (1.5, 1.5, True),
            (True, 1.0, False),
            (False, 0.0, False),
            ("yes", 1.0, False),
            (" No ", 0.0, False),
            ("maybe", None, False),
            (None, None, False),
            ([1.0, "a"], None, False),
            ({"a": 1.0}, None, False),
            (10**400, None, False),
        ],
    )
    def test_feedback(self, store: StoreBuilder, value: Any, aggregate: float | None, numeric: bool) -> None:
        row = assessment(store, feedback={"value": value})
        assert (json.loads(row["value"]), row["valid"]) == (value, True)
        assert (row["aggregate_value"], row["is_numeric_value"]) == (aggregate, numeric)

    def test_an_error(self, store: StoreBuilder) -> None:
        row = assessment(store, feedback={"value": None, "error": {"error_code": "E", "error_message": "m"}})
        assert json.loads(row["error"]) == {"error_code": "E", "error_message": "m", "stack_trace": None}
        assert row["value"] == "null"

    @pytest.mark.parametrize("value", [[1, 2, {"a": None}], {"k": [1.5]}, []])
    def test_expectations_that_are_no_scalars(self, store: StoreBuilder, value: Any) -> None:
        serialized = {"serialization_format": "JSON_FORMAT", "value": json.dumps(value)}
        row = assessment(store, expectation={"serialized_value": serialized})
        assert (row["assessment_type"], json.loads(row["value"])) == ("expectation", value)

    @pytest.mark.parametrize("value", ["x", "2020-01-01", "1e5", 3.0, False])
    def test_expectations(self, store: StoreBuilder, value: Any) -> None:
        row = assessment(store, expectation={"value": value})
        assert json.loads(row["value"]) == value

    def test_an_issue(self, store: StoreBuilder) -> None:
        row = assessment(store, issue={"issue_name": "slow"}, run_id=RUN)
        assert (row["assessment_type"], json.loads(row["value"])) == ("issue", {"issue_name": "slow"})
        assert (row["run_id"], row["aggregate_value"]) == (RUN, None)

    def test_sources(self, store: StoreBuilder) -> None:
        row = assessment(store, feedback={"value": 1}, source={"source_type": "ai_judge"})
        assert (row["source_type"], row["source_id"]) == ("LLM_JUDGE", "default")

    @pytest.mark.parametrize(
        "meta",
        [
            {},
            {"feedback": {"value": 1}, "create_time": "soon"},
            {"feedback": {"value": 1}, "source": {"source_type": "ODD"}},
            {"feedback": {"value": 1}, "valid": "maybe"},
            {"feedback": {"value": 1, "error": "x"}},
            {"expectation": {"other": 1}},
            {"expectation": {"serialized_value": {"value": "{"}}},
        ],
    )
    def test_malformed(self, store: StoreBuilder, meta: dict[str, Any]) -> None:
        with pytest.raises((AssertionError, ValueError)):
            assessment(store, **meta)
        assert store.rules() == ["malformed_assessment"]

    def test_below_a_malformed_trace(self, store: StoreBuilder) -> None:
        assessment(store, feedback={"value": 1})
        store.write(f"1/traces/{TRACE}/trace_info.yaml", "")
        rows, report = store.read()
        assert [t.rule for t in report.troubles] == ["malformed_trace"]
        assert rows["assessments"] == []


def logged_model(store: StoreBuilder, experiment: str = "1", place: str | None = None, **meta: Any) -> None:
    values = {
        "model_id": MODEL,
        "experiment_id": experiment,
        "name": "model",
        "artifact_location": "/x",
        "creation_timestamp": 1,
        "last_updated_timestamp": 2,
        "status": 2,
        "model_type": "",
        "source_run_id": RUN,
        "status_message": None,
    }
    store.write(f"{place or experiment}/models/{MODEL}/meta.yaml", values | meta)


class TestLoggedModels:
    @pytest.fixture(autouse=True)
    def _model(self, store: StoreBuilder) -> None:
        logged_model(store)

    def points(self, store: StoreBuilder, content: str) -> list[tuple[Any, ...]]:
        store.write(f"1/models/{MODEL}/metrics/val/acc", content)
        columns = ("metric_timestamp_ms", "metric_value", "metric_step", "run_id", "dataset_name", "dataset_digest")
        return [tuple(m[c] for c in columns) for m in store.clean()["logged_model_metrics"]]

    def test_a_model(self, store: StoreBuilder) -> None:
        store.write(f"1/models/{MODEL}/params/a/b", "1\r\n")
        store.write(f"1/models/{MODEL}/tags/t", "2")
        rows = store.clean()
        assert rows["logged_models"] == [
            {
                "model_id": MODEL,
                "experiment_id": 1,
                "name": "model",
                "artifact_location": "/x",
                "creation_timestamp_ms": 1,
                "last_updated_timestamp_ms": 2,
                "status": 2,
                "lifecycle_stage": "active",
                "model_type": "",
                "source_run_id": RUN,
                "status_message": None,
            }
        ]
        owner = {"model_id": MODEL, "experiment_id": 1}
        assert rows["logged_model_params"] == [{**owner, "param_key": "a/b", "param_value": "1\r\n"}]
        assert rows["logged_model_tags"] == [{**owner, "tag_key": "t", "tag_value": "2"}]

    def test_a_deleted_model(self, store: StoreBuilder) -> None:
        logged_model(store, lifecycle_stage="deleted", status=3)
        (row,) = store.clean()["logged_models"]
        assert (row["lifecycle_stage"], row["status"]) == ("deleted", 3)

    def test_lines_of_metrics(self, store: StoreBuilder) -> None:
        assert self.points(store, f"1 0.5 2 {RUN}\n3 inf 4 {RUN} train abc\n") == [
            (1, 0.5, 2, RUN, None, None),
            (3, 1.7976931348623157e308, 4, RUN, "train", "abc"),
        ]

    def test_nan_becomes_zero_and_is_reported(self, store: StoreBuilder) -> None:
        assert self.points(store, f"1 nan 2 {RUN}\n") == [(1, 0.0, 2, RUN, None, None)]
        assert [n.what for n in store.read()[1].not_carried] == ["NaN among the metrics of logged models"]

    def test_repeats_collapse(self, store: StoreBuilder) -> None:
        assert len(self.points(store, f"1 0.5 2 {RUN}\n" * 3)) == 1
        assert store.read()[1].collapsed == {"duplicate_logged_model_metric_point": 2}

    def test_points_that_the_key_cannot_tell_apart(self, store: StoreBuilder) -> None:
        assert self.points(store, f"1 0.5 2 {RUN}\n1 0.75 2 {RUN} d 1\n1 0.25 2 {RUN}\n") == [
            (1, 0.75, 2, RUN, "d", "1")
        ]
        assert [n.rows for n in store.read()[1].not_carried] == [2]

    def test_points_of_a_run_that_is_gone(self, store: StoreBuilder) -> None:
        assert self.points(store, f"1 0.5 2 {OTHER_RUN}\n") == []
        assert [n.what for n in store.read()[1].not_carried] == ["metric points of logged models whose run is gone"]

    def test_points_of_a_run_of_another_experiment(self, store: StoreBuilder) -> None:
        store.experiment("2", place=".trash/2")
        store.run(OTHER_RUN, "2", place=".trash/2")
        assert len(self.points(store, f"1 0.5 2 {OTHER_RUN}\n")) == 1

    @pytest.mark.parametrize(
        "content", ["1 2 3\n", "\n", "x 2 3 r\n", f"1 2 3 {RUN}", f"1 2 3 {RUN} d\n", f"1 2 {2**63} {RUN}\n"]
    )
    def test_malformed_lines(self, store: StoreBuilder, content: str) -> None:
        store.write(f"1/models/{MODEL}/metrics/m", content)
        assert store.rules() == ["malformed_metric_line"]

    @pytest.mark.parametrize(
        ("change", "rule"),
        [
            ({"status": "READY"}, "malformed_meta_yaml"),
            ({"status": 9}, "malformed_meta_yaml"),
            ({"creation_timestamp": None}, "malformed_meta_yaml"),
            ({"lifecycle_stage": "odd"}, "malformed_meta_yaml"),
            ({"model_id": "m-x"}, "model_id_mismatch"),
            ({"experiment_id": "5"}, "model_of_another_experiment"),
        ],
    )
    def test_malformed(self, store: StoreBuilder, change: dict[str, Any], rule: str) -> None:
        logged_model(store, **change)
        store.write(f"1/models/{MODEL}/params/p", "1")
        rows, report = store.read()
        assert [t.rule for t in report.troubles] == [rule]
        assert rows["logged_models"] == rows["logged_model_params"] == []

    def test_a_folder_without_meta_yaml_is_normal(self, store: StoreBuilder) -> None:
        store.write("1/models/m-x/artifacts/MLmodel", "x")
        assert store.read()[1].normal == {"logged_model_folder_without_meta_yaml": 1}


def registered(store: StoreBuilder, name: str = "m", **meta: Any) -> None:
    values = {"name": name, "creation_timestamp": 1, "last_updated_timestamp": 2, "description": None, "aliases": {}}
    store.write(f"models/{name}/meta.yaml", values | meta)


def version(store: StoreBuilder, number: int = 1, name: str = "m", **meta: Any) -> None:
    values = {
        "name": name,
        "version": number,
        "creation_timestamp": 3,
        "last_updated_timestamp": 4,
        "current_stage": "None",
        "description": None,
        "source": "/x",
        "run_id": RUN,
        "run_link": "",
        "status": "READY",
        "status_message": None,
        "user_id": None,
        "aliases": ["stale"],
        "params": None,
        "metrics": None,
    }
    store.write(f"models/{name}/version-{number}/meta.yaml", values | meta)


class TestRegistry:
    def test_a_model_with_all_that_belongs_to_it(self, store: StoreBuilder) -> None:
        registered(store, description="what it is")
        version(store, storage_location="/y", current_stage="Production", user_id="me", description="d")
        store.write("models/m/tags/mlflow.prompt.is_prompt", "true")
        store.write("models/m/version-1/tags/mlflow.prompt.text", "Hello\r\n{{name}}")
        store.write("models/m/aliases/champion", "1")
        rows = store.clean()
        owner = {"name": "m", "workspace": "default"}
        assert rows["registered_models"] == [
            {**owner, "creation_time": 1, "last_updated_time": 2, "description": "what it is"}
        ]
        assert rows["registered_model_tags"] == [{**owner, "key": "mlflow.prompt.is_prompt", "value": "true"}]
        assert rows["registered_model_aliases"] == [{**owner, "alias": "champion", "version": 1}]
        assert rows["model_versions"] == [
            {
                **owner,
                "version": 1,
                "creation_time": 3,
                "last_updated_time": 4,
                "description": "d",
                "user_id": "me",
                "current_stage": "Production",
                "source": "/x",
                "run_id": RUN,
                "status": "READY",
                "status_message": None,
                "run_link": "",
                "storage_location": "/y",
            }
        ]
        assert rows["model_version_tags"] == [
            {**owner, "version": 1, "key": "mlflow.prompt.text", "value": "Hello\r\n{{name}}"}
        ]

    def test_a_deleted_version_is_kept(self, store: StoreBuilder) -> None:
        registered(store)
        version(store, current_stage="Deleted_Internal")
        assert store.clean()["model_versions"][0]["current_stage"] == "Deleted_Internal"

    def test_versions_of_several_digits(self, store: StoreBuilder) -> None:
        registered(store)
        for number in (1, 2, 10):
            version(store, number)
        assert sorted(v["version"] for v in store.clean()["model_versions"]) == [1, 2, 10]

    def test_a_logged_model_that_only_model_id_names(self, store: StoreBuilder) -> None:
        registered(store)
        version(store, 1, source=f"models:/{MODEL}", model_id=MODEL)
        assert store.read()[1].not_carried == []
        version(store, 2, model_id=MODEL)
        assert [n.what for n in store.read()[1].not_carried] == ["logged models named by model versions"]

    def test_an_alias_of_an_absent_version(self, store: StoreBuilder) -> None:
        registered(store)
        store.write("models/m/aliases/a", "7\n")
        rows, report = store.read()
        assert rows["registered_model_aliases"][0]["version"] == 7
        assert report.normal == {"alias_of_absent_version": 1}

    def test_one_name_in_two_unicode_forms(self, store: StoreBuilder) -> None:
        registered(store, "mode\u0301le")
        values = {"name": "mod\u00e9le", "creation_timestamp": 1, "last_updated_timestamp": 2}
        store.write("models/mode\u0301le/meta.yaml", values)
        assert store.clean()["registered_models"][0]["name"] == "mod\u00e9le"

    @pytest.mark.parametrize(
        ("place", "content", "rule"),
        [
            ("models/m/meta.yaml", "", "malformed_meta_yaml"),
            ("models/m/meta.yaml", "name: other\n", "model_name_mismatch"),
            ("models/m/version-1/meta.yaml", "", "malformed_meta_yaml"),
            ("models/m/version-1/meta.yaml", "name: m\nversion: 2\n", "model_version_mismatch"),
            ("models/m/version-2/tags/a", "1", "model_version_without_meta_yaml"),
            ("models/m/aliases/a", "one", "alias_not_a_number"),
            ("models/m/aliases/a", "", "alias_not_a_number"),
            ("models/x/version-1/meta.yaml", "name: x\nversion: 1\n", "registered_model_without_meta_yaml"),
        ],
    )
    def test_malformed(self, store: StoreBuilder, place: str, content: str, rule: str) -> None:
        registered(store)
        version(store)
        store.write(place, content)
        assert store.rules() == [rule]

    def test_nothing_becomes_an_orphan(self, store: StoreBuilder) -> None:
        registered(store)
        version(store)
        store.write("models/m/version-1/tags/a", "1")
        store.write("models/m/aliases/a", "1")
        store.write("models/m/meta.yaml", "")
        rows = store.read()[0]
        assert rows["model_versions"] == rows["model_version_tags"] == rows["registered_model_aliases"] == []

    def test_a_foreign_folder(self, store: StoreBuilder) -> None:
        store.write("models/stuff/a.bin", "x")
        assert store.read()[1].normal == {"foreign_folder": 1}
