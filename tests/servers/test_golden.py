"""Stores that real releases wrote, to every kind of target; the newest server must answer what the old release answered."""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlflowctl import children
from mlflowctl.stores import schema as schemas
from tests.engine import run_migrate, run_verify
from tests.stores.golden import GOLDEN, GoldenStore, answers, auth_database, each, unpack

pytestmark = pytest.mark.golden

MAX_FLOAT = 1.7976931348623157e308
ALL = pytest.mark.parametrize("store", GOLDEN, ids=lambda s: s.name)
SQLITE = pytest.mark.parametrize(
    "store",
    each(
        [s for s in GOLDEN if s.kind == "sqlite"],
        always=("0.9.1-sqlite", "1.8.0-sqlite", "1.30.1-sqlite", "2.14.3-sqlite", "3.6.0-sqlite"),
    ),
)
SERVED = pytest.mark.parametrize(
    "store",
    each(
        GOLDEN,
        always=("0.9.1-files", "2.9.2-files", "3.17.2-files", "1.0.0-sqlite", "2.22.5-sqlite", "3.6.0-sqlite"),
    ),
)


@ALL
def test_it_arrives_whole_at_the_head(
    store: GoldenStore, tmp_path: Path, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = unpack(store, tmp_path)
    result = run_migrate(source, target_url)
    assert result.status == "verified"
    assert result.target["revision"] == schemas.installed_head("tracking")
    assert result.verify is not None
    assert {t["verdict"] for t in result.verify["tables"]} == {"="}
    assert sum(t["written_rows"] for t in result.tables if t["name"] in ("runs", "metrics", "params", "tags")) > 50
    again = run_verify(source, target_url)
    assert again.equal


@SQLITE
def test_it_equals_an_upgrade_in_place(store: GoldenStore, tmp_path: Path) -> None:
    source = unpack(store, tmp_path)
    in_place, target = tmp_path / "in_place.db", tmp_path / "target.db"
    shutil.copyfile(source, in_place)
    script = Path(children.__file__).with_name("upgrade.py")
    command = [sys.executable, str(script), "--chain", "tracking", "--to", schemas.installed_head("tracking")]
    subprocess.run(
        command, check=True, env={**os.environ, "MLFLOWCTL_CHILD_URL": f"sqlite:///{in_place}"}, capture_output=True
    )
    run_migrate(source, f"sqlite:///{target}")
    result = run_verify(in_place, f"sqlite:///{target}")
    different = [d for d in result.differences if not (d.table == "jobs" and d.columns == ("last_update_time",))]
    assert different == []
    assert not any(t.uncompared_columns for t in result.tables)


@pytest.mark.parametrize(
    "store", [s for s in GOLDEN if s.kind == "sqlite" and s.release >= (2, 9)], ids=lambda s: s.name
)
def test_its_users_arrive_too(store: GoldenStore, tmp_path: Path) -> None:
    source = unpack(store, tmp_path)
    users = auth_database(store, tmp_path)
    assert users is not None
    target, new_users = f"sqlite:///{tmp_path}/target.db", f"sqlite:///{tmp_path}/users.db"
    result = run_migrate(source, target, auth_source=f"sqlite:///{users}", auth_target=new_users)
    assert result.auth is not None
    assert result.auth["status"] == "verified"
    # What MLflow makes of the permissions (its roles) is named as not compared; everything else is proven.
    verdicts = {t["name"]: t["verdict"] for t in result.auth["verify"]["tables"]}
    assert {n for n, v in verdicts.items() if v != "="} <= {"roles", "role_permissions", "user_role_assignments"}
    assert result.auth["target"]["revision"] == schemas.installed_head("auth")
    assert next(t for t in result.auth["tables"] if t["name"] == "users")["written_rows"] >= 2


# -- the real server -------------------------------------------------------------------------------------------------


@contextmanager
def _server(store_uri: str, folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (folder / "server.log").open("wb")
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        store_uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"
    }
    server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        _wait_for(port, server, folder / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 15)
        server.wait(20)
        log.close()


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    import urllib.request

    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            assert server.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.2)


def _value(text: str) -> float:
    """A metric's value as SQL keeps it: infinities clamped."""
    number = float(text)
    return math.copysign(MAX_FLOAT, number) if math.isinf(number) else number


def _same_float(left: float, right: float) -> bool:
    return left == right or (math.isnan(left) and math.isnan(right))


@pytest.mark.slow
@SERVED
def test_the_newest_server_answers_what_the_old_release_answered(store: GoldenStore, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path}/target.db"
    run_migrate(unpack(store, tmp_path), target)
    with _server(target, tmp_path) as url:
        assert _compared_answers(url, store, answers(store, tmp_path)) > 0


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize(
    "store", [s for s in GOLDEN if s.version in ("1.30.1", "3.6.0") and s.kind == "sqlite"], ids=lambda s: s.name
)
def test_the_server_answers_the_same_on_postgresql(store: GoldenStore, tmp_path: Path, postgres_url: str) -> None:
    from mlflow import MlflowClient

    run_migrate(unpack(store, tmp_path), postgres_url)
    with _server(postgres_url, tmp_path) as url:
        assert _compared_answers(url, store, answers(store, tmp_path)) > 0
        # The sequence stands behind the copied IDs.
        new = int(MlflowClient(tracking_uri=url).create_experiment("made after the migration"))
    assert new > max(int(i) for i in answers(store, tmp_path)["experiments"])


def _compared_answers(url: str, store: GoldenStore, expected: dict[str, Any]) -> int:
    """The server's answers are those of the old release; how many experiments and runs were asked for."""
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    client = MlflowClient(tracking_uri=url, registry_uri=url)
    experiments = {e.experiment_id: e for e in client.search_experiments(view_type=ViewType.ALL)}
    assert set(expected["experiments"]) <= set(experiments)
    for number, old in expected["experiments"].items():
        new = experiments[number]
        assert (new.name, new.artifact_location) == (old["name"], old["artifact_location"])
        assert new.tags == (old.get("tags") or {})
    assert expected["runs"]
    for run_id, old in expected["runs"].items():
        _compare_run(client, client.get_run(run_id), old, stripped=store.kind == "files" and store.release < (1, 1))
    for name, old in (expected.get("registered_models") or {}).items():
        model = client.get_registered_model(name)
        assert (model.description or "") == (old.get("description") or "")
        assert model.tags == (old.get("tags") or {})
        if old.get("aliases") is not None:
            assert {k: str(v) for k, v in model.aliases.items()} == {k: str(v) for k, v in old["aliases"].items()}
    for model_id, old in (expected.get("logged_models") or {}).items():
        if "refused" not in old and old.get("lifecycle_stage", "active") == "active":
            _compare_logged_model(client.get_logged_model(model_id), old)
    for trace_id, old in (expected.get("traces") or {}).items():
        _compare_trace(client, trace_id, old)
    return len(expected["experiments"]) + len(expected["runs"])


def _compare_run(client: Any, new: Any, old: dict[str, Any], *, stripped: bool) -> None:
    info = old["info"]
    assert (new.info.start_time, new.info.end_time, new.info.status) == (
        info["start_time"],
        info["end_time"],
        info["status"],
    )
    assert new.info.artifact_uri == info["artifact_uri"]
    assert new.info.user_id == info["user_id"]
    # MLflow 0.9 and 1.0 stripped some of what they read; the files, and we, have the blanks.
    bare = str.strip if stripped else str
    assert {k: bare(v) for k, v in new.data.params.items()} == {k: bare(v) for k, v in old["data"]["params"].items()}
    tags = {k: bare(v) for k, v in old["data"]["tags"].items()}
    assert {k: bare(v) for k, v in new.data.tags.items() if k in tags} == tags
    # 1.0's upgrade turns a run's user into a tag, and a run's name is shown as one.
    assert set(new.data.tags) - set(tags) <= {"mlflow.user", "mlflow.runName"}
    for key, history in old["metric_history"].items():
        points = sorted(
            (p["timestamp"], p.get("step") or 0, _value(p["value"])) for p in history if p["value"] != "nan"
        )
        answered = client.get_metric_history(new.info.run_id, key)
        new_points = {(m.timestamp, m.step, m.value) for m in answered if not math.isnan(m.value)}
        # MLflow 3's FileStore reads a point that names a dataset with step 0; the file, and we, have the step.
        assert {(t, v) for t, _, v in new_points} == {(t, v) for t, _, v in points}, key
        assert {p for p in points if p[1]} <= new_points, key
        assert any(math.isnan(m.value) for m in answered) == any(p["value"] == "nan" for p in history)
    for key, value in old["data"]["metrics"].items():
        latest = new.data.metrics[key]
        points_at = old["metric_history"].get(key, [])
        # With a NaN among the latest points the folder's answer depends on their order; SQL's rule is fixed.
        if any(p["value"] == "nan" for p in points_at):
            continue
        assert _same_float(latest, _value(value)), key


def _compare_trace(client: Any, trace_id: str, old: dict[str, Any]) -> None:
    info = client._tracing_client.get_trace_info(trace_id)
    for key, value in (old.get("tags") or {}).items():
        assert info.tags.get(key) == value, key
    for key, value in (old.get("trace_metadata") or old.get("request_metadata") or {}).items():
        assert info.trace_metadata.get(key) == value, key
    if "request_preview" in old and info.request_preview is not None:  # 3.1's store had no place for it
        assert info.request_preview == old["request_preview"]
    assert info.execution_duration == old.get("execution_duration", info.execution_duration)
    expected = {a["assessment_id"]: a for a in old.get("assessments") or []}
    answered = {a.assessment_id: a.to_dictionary() for a in info.assessments}
    assert set(expected) <= set(answered)
    for identity, assessment in expected.items():
        for key, value in assessment.items():
            if key == "valid" and value:
                continue  # left out of the REST answer where it is true
            assert answered[identity].get(key) == value, (identity, key)


def _compare_logged_model(new: Any, old: dict[str, Any]) -> None:
    assert (new.name, new.experiment_id, new.artifact_location) == (
        old["name"],
        old["experiment_id"],
        old["artifact_location"],
    )
    assert new.params == old["params"]
    assert (new.creation_timestamp, new.last_updated_timestamp) == (
        old["creation_timestamp"],
        old["last_updated_timestamp"],
    )
    assert str(new.status) == old["status"]
    for key, value in old["tags"].items():
        assert new.tags.get(key) == value
    points = {
        (m["run_id"], m["step"], m["timestamp"], m["dataset_name"], _value(m["value"]))
        for m in old["metrics"]
        if m["value"] != "nan"
    }
    answered = {(m.run_id, m.step, m.timestamp, m.dataset_name, m.value) for m in new.metrics or []}
    assert points <= answered
