"""A store that MLflow's own FileStore wrote: its SQL store reads from our rows what the FileStore reads from the files."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mlflowctl.stores.files import open_files

pytestmark = pytest.mark.slow

LARGEST = 1.7976931348623157e308


class Stores:
    """The same experiments in MLflow's two kinds of store."""

    def __init__(self, root: Path, database: Path) -> None:
        from mlflow.store.model_registry.file_store import FileStore as FileRegistry
        from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as SqlRegistry
        from mlflow.store.tracking.file_store import FileStore
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        self.files = FileStore(str(root))
        self.file_registry = FileRegistry(str(root))
        _fill(self, root)
        self.sql = SqlAlchemyStore(f"sqlite:///{database}", str(database.parent))
        self.reader = open_files(root)
        _load(self.reader, database)
        self.sql_registry = SqlRegistry(f"sqlite:///{database}")


def _load(reader: Any, database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM experiments")
        connection.execute("DELETE FROM workspaces")
        for batch in reader.batches():
            names = ", ".join(f'"{n}"' for n in batch.rows.schema.names)
            marks = ", ".join("?" * len(batch.rows.schema.names))
            rows = zip(*(c.to_pylist() for c in batch.rows.columns), strict=True)
            connection.executemany(f"INSERT INTO {batch.table} ({names}) VALUES ({marks})", rows)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()
    assert reader.report.troubles == []


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    folder = tmp_path_factory.mktemp("peer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setenv("MLFLOW_TRACKING_URI", (folder / "mlruns").as_uri())
        patch.chdir(folder)
        yield Stores(folder / "mlruns", folder / "mlflow.db")


def _fill(stores: Stores, root: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, LoggedModelOutput, Metric

    client = MlflowClient(root.as_uri())
    experiment = client.create_experiment("exp ünï: #1", tags={"a": "b", "sub/key": "x\r\ny"})
    gone, later = client.create_experiment("gone"), client.create_experiment("later")
    client.delete_experiment(later)
    client.restore_experiment(later)
    client.rename_experiment(later, "renamed")

    run = client.create_run(experiment, run_name="nice: name #1", start_time=123).info.run_id
    for index, value in enumerate([1.0, math.nan, -1.0, 2.5e-300]):
        client.log_metric(run, "m", value, timestamp=1000 + index // 2, step=index // 2)
    for value in (math.inf, -math.inf, LARGEST):
        client.log_metric(run, "infinite", value, timestamp=5, step=1)
    client.log_metric(run, "sub/metric", 0.1 + 0.2, timestamp=5, step=-3)
    client.log_metric(run, "m", 1.0, timestamp=1000, step=0)
    client.log_param(run, "p/q", "line1\r\nline2\n")
    client.log_param(run, "ü", "é" * 200)
    client.log_param(run, "empty", "")
    client.set_tag(run, "long", "x" * 7000)
    child = client.create_run(experiment, tags={"mlflow.parentRunId": run}).info.run_id
    client.set_terminated(child, "FAILED", end_time=999)
    client.delete_run(client.create_run(experiment).info.run_id)
    client.create_run(gone)
    client.delete_experiment(gone)

    first = Dataset("ds", "abc123", "local", json.dumps({"uri": "/x"}), schema='{"a": 1}', profile=None)
    second = Dataset("ds2", "abc124", "code", '{"tags": {"a": "b: c"}}', None, '{"n": 5}')
    tags = [InputTag("mlflow.data.context", "train"), InputTag("n", "1")]
    client.log_inputs(run, [DatasetInput(first, tags), DatasetInput(second, [])])
    client.log_inputs(child, [DatasetInput(first, [])])

    models = [
        client.create_logged_model(experiment, name=f"lm{n}", source_run_id=run, params={"a": "1\r\n2"})
        for n in range(3)
    ]
    client.finalize_logged_model(models[0].model_id, "READY")
    client.delete_logged_model(models[2].model_id)
    for time, value in enumerate([0.5, 0.7, math.inf]):
        dataset = {"dataset_name": "ds", "dataset_digest": "abc123"} if time == 1 else {}
        point = Metric("acc", value, time, 1, model_id=models[0].model_id, run_id=run, **dataset)
        stores.files._log_model_metric(experiment, models[0].model_id, run, point)
    stores.files.log_inputs(run, models=[LoggedModelInput(models[1].model_id)])
    stores.files.log_outputs(run, [LoggedModelOutput(m.model_id, n) for n, m in enumerate(models[:2])])
    _fill_traces(stores, experiment, run)

    client.create_registered_model("model A", tags={"k": "v\r\n"}, description="desc: #1")
    client.create_model_version("model A", f"models:/{models[0].model_id}", run_id=run, tags={"vt": "x"})
    client.create_model_version("model A", "file:///x/y", run_id=run, description="multi\nline")
    client.create_model_version("model A", "s3://b/c")
    client.transition_model_version_stage("model A", "1", "Production")
    client.set_registered_model_alias("model A", "champion", "2")
    client.delete_model_version("model A", "3")
    client.create_registered_model("without versions")


def _fill_traces(stores: Stores, experiment: str, run: str) -> None:
    from mlflow.entities import AssessmentError, AssessmentSource, Expectation, Feedback
    from mlflow.entities.trace_info import TraceInfo
    from mlflow.entities.trace_location import TraceLocation
    from mlflow.entities.trace_state import TraceState

    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    columns = {
        "mlflow.trace.session": "s1",
        "mlflow.trace.tokenUsage": json.dumps(usage),
        "mlflow.trace.cost": '{"total_cost": 0.25}',
    }
    for number, state in enumerate(TraceState):
        trace = TraceInfo(
            trace_id=f"tr-{number:032x}",
            trace_location=TraceLocation.from_experiment_id(experiment),
            request_time=1700000000123 + number,
            state=state,
            request_preview='{"q": "hi\\n"}' if number else None,
            client_request_id="c" if number == 1 else None,
            execution_duration=[None, 0, 1234, 5][number],
            trace_metadata={"mlflow.sourceRun": run, "k": "v\r\n", **(columns if number else {})},
            tags={"mlflow.traceName": f"name {number}", "z": "1"},
        )
        stores.files.start_trace(trace)
    human, identity = AssessmentSource("HUMAN", "bob"), f"tr-{1:032x}"
    run_of = {"a": "b", "mlflow.assessment.sourceRunId": run}
    old = stores.files.create_assessment(Feedback("good", True, source=human, trace_id=identity, metadata=run_of))
    judge = AssessmentSource("LLM_JUDGE")
    stores.files.create_assessment(
        Feedback("good", 0.5, source=judge, trace_id=identity, overrides=old.assessment_id, rationale="why: not")
    )
    for value in (5, "yes", [1, "a"], {"a": 1}):
        stores.files.create_assessment(Feedback("f", value, source=human, trace_id=identity, span_id="s"))
    error = AssessmentError("CODE", "message", "stack\ntrace")
    stores.files.create_assessment(Feedback("e", error=error, source=AssessmentSource("CODE"), trace_id=identity))
    for value in ("x", 3, 3.5, False, [1, 2, {"a": None}], {"k": [1.5]}, "2020-01-01", "1e5"):
        stores.files.create_assessment(Expectation("x", value, source=human, trace_id=identity))


def as_sql(value: float) -> float | str:
    return "nan" if math.isnan(value) else max(-LARGEST, min(LARGEST, value))


def experiments(store: Any) -> dict[str, Any]:
    from mlflow.entities import ViewType

    found = store.search_experiments(ViewType.ALL)
    names = ("name", "artifact_location", "lifecycle_stage", "creation_time", "last_update_time", "tags")
    return {e.experiment_id: [getattr(e, n) for n in names] for e in found}


def test_experiments(stores: Stores) -> None:
    assert experiments(stores.files) == experiments(stores.sql)
    assert len(experiments(stores.sql)) == 4


def runs(store: Any, experiment: str) -> dict[str, Any]:
    from mlflow.entities import ViewType

    found = {}
    for hit in store.search_runs([experiment], "", ViewType.ALL, max_results=100):
        run = store.get_run(hit.info.run_id)
        found[run.info.run_id] = {
            "info": dict(run.info),
            "params": run.data.params,
            "tags": run.data.tags,
            "latest": {m.key: (as_sql(m.value), m.timestamp, m.step) for m in run.data._metric_objs},
            "history": {
                key: sorted(
                    {
                        (str(as_sql(m.value)), m.timestamp, m.step)
                        for m in store.get_metric_history(run.info.run_id, key)
                    }
                )
                for key in run.data.metrics
            },
            "datasets": sorted(
                (dict(d.dataset)["name"], str(dict(d.dataset)), sorted((t.key, t.value) for t in d.tags))
                for d in run.inputs.dataset_inputs
            ),
            "model inputs": sorted(m.model_id for m in run.inputs.model_inputs),
            "model outputs": sorted((m.model_id, m.step) for m in run.outputs.model_outputs) if run.outputs else [],
        }
    return found


def test_runs(stores: Stores) -> None:
    number = 0
    for experiment in experiments(stores.files):
        expected, found = runs(stores.files, experiment), runs(stores.sql, experiment)
        assert found == expected
        number += len(found)
    assert number == 4


def traces(store: Any, experiment: str) -> dict[str, Any]:
    found, _ = store.search_traces(experiment_ids=[experiment], max_results=100)
    return {t.trace_id: t for t in found}


def test_traces_and_assessments(stores: Stores) -> None:
    number = 0
    for experiment in experiments(stores.files):
        expected, found = traces(stores.files, experiment), traces(stores.sql, experiment)
        assert set(found) == set(expected)
        for identity, trace in expected.items():
            number += 1
            names = {f for f in trace.__dataclass_fields__ if f != "assessments"}
            assert {n: getattr(found[identity], n) for n in names} == {n: getattr(trace, n) for n in names}
            sql = {a.assessment_id: asdict(a) for a in found[identity].assessments}
            for assessment in trace.assessments:
                values = asdict(assessment)
                # The FileStore writes whether an expectation is valid, and forgets to read it.
                values["valid"] = True if values["valid"] is None else values["valid"]
                assert sql.pop(assessment.assessment_id) == values
            assert sql == {}
    assert number == 4


def test_logged_models(stores: Stores) -> None:
    def models(found: Any) -> dict[str, Any]:
        return {m.model_id: {k: v for k, v in dict(m).items() if k != "metrics"} for m in found}

    def points(model: Any) -> set[tuple[Any, ...]]:
        return {
            (m.key, as_sql(m.value), m.timestamp, m.step, m.run_id, m.dataset_name, m.dataset_digest)
            for m in model.metrics or []
        }

    for experiment in experiments(stores.files):
        files = stores.files._list_models(experiment)
        sql = list(stores.sql.search_logged_models([experiment]))
        assert models(sql) == models(files)
        by_id = {m.model_id: m for m in sql}
        # The FileStore shows the latest point of each dataset, the SQL store every one.
        assert all(points(m) <= points(by_id[m.model_id]) for m in files)


def test_registry(stores: Stores) -> None:
    def registered(store: Any) -> dict[str, Any]:
        names = ("creation_timestamp", "last_updated_timestamp", "description", "tags")
        found = {}
        for model in store.search_registered_models("", max_results=100):
            aliases = {a: int(v) for a, v in model.aliases.items()}
            latest = sorted(int(v.version) for v in model.latest_versions)
            found[model.name] = [*(getattr(model, n) for n in names), aliases, latest]
        return found

    def versions(store: Any) -> dict[int, Any]:
        skipped = {"version", "model_id", "metrics", "params", "deployment_job_state", "workspace"}
        return {
            int(v.version): {
                **{k: x for k, x in dict(v).items() if k not in skipped},
                "download": store.get_model_version_download_uri(v.name, v.version),
            }
            for v in (store.get_model_version("model A", str(n)) for n in (1, 2))
        }

    assert registered(stores.sql_registry) == registered(stores.file_registry)
    assert versions(stores.sql_registry) == versions(stores.file_registry)


def test_what_is_collapsed_and_left_behind(stores: Stores) -> None:
    assert stores.reader.report.collapsed == {"duplicate_metric_point": 2}
    assert stores.reader.report.not_carried == []
