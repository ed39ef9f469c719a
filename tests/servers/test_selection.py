"""Selected migrations end to end: proven, repeatable, whole in themselves, and good enough for a real server."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from mlflowctl.core.errors import TargetError, UsageError
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.open import open_reader
from mlflowctl.stores.uri import parse_uri
from tests.engine import run_migrate, run_verify
from tests.generate import make_store
from tests.servers.test_golden import _server
from tests.stores.golden import GOLDEN, SAMPLE, GoldenStore, unpack
from tests.unit.test_select import HEAD, Store

SINCE = "1970-01-02"
DAY = 86_400_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two experiments that are entangled in every way, and one that is not."""
    empty = tmp_path / "empty.db"
    make_store(empty, HEAD, rows=0)
    made = Store(tmp_path / "source.db", empty)
    for number, name in ((1, "fraud"), (2, "churn"), (3, "alone")):
        made.experiment(number, name)
    made.run("parent", 2, at=5)
    made.run("chosen", 1, parent="parent")
    made.run("child", 2, at=6, parent="chosen")
    made.run("early", 1, at=7)
    made.run("stranger", 2)
    made.run("lonely", 3)
    made.logged_model("m-used", 2, "stranger")
    made.logged_model("m-made", 1, "chosen")
    made.link(("RUN_INPUT", "chosen"), ("MODEL_INPUT", "m-used"), "inputs")
    made.link(("RUN_OUTPUT", "chosen"), ("MODEL_OUTPUT", "m-made"), "inputs")
    made.add("datasets", dataset_uuid="d", experiment_id=2, name="d")
    made.link(("DATASET", "d"), ("RUN", "chosen"), "inputs")
    made.add("logged_model_metrics", model_id="m-made", run_id="lonely", experiment_id=3, dataset_uuid="d")
    made.model("scorecard", {1: "stranger", 2: "chosen"}, note="x")
    made.model("other", {1: "lonely"})
    made.trace("t-chosen", 1, sourceRun="chosen")
    made.trace("t-far", 2, sourceRun="chosen")
    made.trace("t-stranger", 3)
    for number in (1, 3):
        made.add("scorers", experiment_id=number, scorer_id=f"s{number}")
        made.add("scorer_versions", scorer_id=f"s{number}", scorer_version=1)
        made.add("issues", experiment_id=number, issue_id=f"i{number}", source_run_id="lonely" if number == 3 else None)
    made.add("endpoints", endpoint_id="e", experiment_id=2)
    return made


def _column(url: str, table: str, column: str) -> list[Any]:
    with open_reader(parse_uri(url, side="target")) as reader:
        return sorted(v for b in reader.batches([table], {table: [column]}) for v in b.rows.column(column).to_pylist())


def _check_target(url: str) -> None:
    """No foreign key dangles; servers enforce theirs, SQLite checks on demand."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        connection.close()


def _check_selected(source: str | Path, url: str, **criteria: Any) -> Any:
    result = run_migrate(source, url, **criteria)
    assert result.status == "verified"
    assert result.verify is not None
    assert {t["verdict"] for t in result.verify["tables"]} == {"="}
    _check_target(url)
    again = run_verify(source, url)
    assert again.equal
    assert not again.differences
    return result


def test_only_one_experiment_with_all_that_belongs_to_it(store: Store, target_url: str) -> None:
    _check_selected(store.path, target_url, only=("fraud",), upgrade=False)
    assert _column(target_url, "runs", "run_uuid") == ["child", "chosen", "early", "lonely", "parent", "stranger"]
    assert _column(target_url, "metrics", "run_uuid") == ["child", "chosen", "early", "lonely", "parent", "stranger"]
    assert _column(target_url, "logged_models", "model_id") == ["m-made", "m-used"]
    assert _column(target_url, "model_versions", "version") == [2]
    assert _column(target_url, "trace_info", "request_id") == ["t-chosen", "t-far"]
    assert _column(target_url, "spans", "trace_id") == ["t-chosen", "t-far"]
    assert _column(target_url, "scorer_versions", "scorer_id") == ["s1"]
    assert _column(target_url, "issues", "issue_id") == ["i1"]
    assert _column(target_url, "experiments", "experiment_id") == [1, 2, 3]


def test_exclude_and_since(store: Store, target_url: str) -> None:
    _check_selected(store.path, target_url, exclude=("alone", "model:other"), since=SINCE)
    # The parent and the child are older, and come along.
    assert _column(target_url, "runs", "run_uuid") == ["child", "chosen", "parent", "stranger"]
    assert _column(target_url, "experiments", "name") == ["churn", "fraud"]
    assert _column(target_url, "registered_models", "name") == ["scorecard"]
    assert _column(target_url, "model_versions", "version") == [1, 2]
    assert _column(target_url, "issues", "issue_id") == ["i1"]


def test_a_selection_is_lifted_to_the_head(tmp_path: Path, target_url: str) -> None:
    source = tmp_path / "old.db"
    make_store(source, "97727af70f4d", rows=12)
    name = _column(f"sqlite:///{source}", "experiments", "name")[3]
    result = _check_selected(source, target_url, only=(name,), since="1970-01-01")
    assert result.target["revision"] == schemas.installed_head("tracking")
    assert name in _column(target_url, "experiments", "name")


@pytest.mark.golden
@pytest.mark.parametrize(
    "golden",
    [g for g in GOLDEN if g.name in ("0.9.1-sqlite", "1.30.1-sqlite", "2.14.3-files", "3.1.4-sqlite", "3.17.2-sqlite")],
    ids=lambda g: g.name,
)
def test_golden_stores(golden: GoldenStore, tmp_path: Path, target_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = unpack(golden, tmp_path)
    with open_reader(
        parse_uri(str(source) if golden.kind == "files" else f"sqlite:///{source}", side="source")
    ) as all_:
        homes = [
            b.rows.column("experiment_id").to_pylist() for b in all_.batches(["runs"], {"runs": ["experiment_id"]})
        ]
        names = {row["experiment_id"]: row["name"] for b in all_.batches(["experiments"]) for row in b.rows.to_pylist()}
    flat = [home for batch in homes for home in batch]
    busiest = max(sorted(set(flat)), key=flat.count)
    _check_selected(source, target_url, only=(f"experiment:{names[busiest]}",))
    assert flat.count(busiest) <= len(_column(target_url, "runs", "run_uuid")) <= len(flat)
    assert names[busiest] in _column(target_url, "experiments", "name")


def test_verify_repeats_the_selection_and_sees_only_that(store: Store, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path}/target.db"
    run_migrate(store.path, target, only=("alone",))
    store.run("later-elsewhere", 1)
    assert run_verify(store.path, target).equal
    store.run("later-here", 3)
    result = run_verify(store.path, target)
    assert not result.equal
    assert {(d.table, d.kind) for d in result.differences} == {
        (table, "missing") for table in ("runs", "params", "metrics", "latest_metrics", "tags")
    }


def test_the_same_line_again_is_complete_and_other_criteria_are_refused(store: Store, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path}/target.db"
    run_migrate(store.path, target, only=("alone",))
    assert run_migrate(store.path, target, only=("alone",)).status == "already_complete"
    with pytest.raises(TargetError):
        run_migrate(store.path, target, only=("fraud",))
    assert run_verify(store.path, target).equal


def test_a_folder_is_selected_from(tmp_path: Path, target_url: str) -> None:
    with open_reader(parse_uri(str(SAMPLE), side="source")) as reader:
        names = sorted(n for b in reader.batches(["experiments"]) for n in b.rows.column("name").to_pylist())
    _check_selected(SAMPLE, target_url, only=(f"experiment:{names[0]}",))
    assert names[0] in _column(target_url, "experiments", "name")
    assert len(_column(target_url, "experiments", "name")) < len(names)


def test_the_plan_says_what_comes_along(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "target.db"
    result = run_migrate(store.path, f"sqlite:///{target}", only=("fraud",), dry_run=True)
    assert result.plan is not None
    selection = result.plan["selection"]
    assert selection["chosen"]["runs"] == 2
    assert {"kind": "run", "id": "parent", "why": "parent of run chosen"} in selection["along"]
    assert not target.exists()


def test_a_name_that_matches_nothing_stops_before_the_target_is_touched(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "target.db"
    with pytest.raises(UsageError) as caught:
        run_migrate(store.path, f"sqlite:///{target}", only=("fruad",))
    assert int(caught.value.exit_code) == 2
    assert list(tmp_path.glob("target*")) == []


def test_users_beside_a_selection_are_refused_before_anything_is_written(store: Store, tmp_path: Path) -> None:
    users, target = tmp_path / "users.db", tmp_path / "target.db"
    make_store(users, schemas.installed_head("auth"), rows=2, chain="auth")
    with pytest.raises(UsageError) as caught:
        run_migrate(
            store.path, f"sqlite:///{target}", only=("fraud",), auth_source=f"sqlite:///{users}",
            auth_target=f"sqlite:///{tmp_path}/new-users.db",
        )  # fmt: skip
    assert caught.value.kind == "selection_auth"
    assert list(tmp_path.glob("target*")) == list(tmp_path.glob("new-users*")) == []


def test_renumbered_experiments_that_stay_behind_leave_no_tag(tmp_path: Path, store: Store, postgres_url: str) -> None:
    store.experiment(2**40, "far")
    store.experiment(2**41, "farther")
    store.run("r-far", 2**40)
    _check_selected(store.path, postgres_url, only=("far",), upgrade=False)
    assert _column(postgres_url, "experiments", "name") == ["churn", "far"]
    assert all(number < 2**31 for number in _column(postgres_url, "experiment_tags", "experiment_id"))


@pytest.mark.slow
def test_a_real_server_answers_from_a_selected_target(tmp_path: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    source, target = f"sqlite:///{tmp_path}/source.db", f"sqlite:///{tmp_path}/target.db"
    old = MlflowClient(tracking_uri=source, registry_uri=source)
    mine, theirs = old.create_experiment("fraud"), old.create_experiment("churn")
    parent = old.create_run(theirs, run_name="parent").info.run_id
    chosen = old.create_run(mine, tags={"mlflow.parentRunId": parent}).info.run_id
    child = old.create_run(theirs, tags={"mlflow.parentRunId": chosen}).info.run_id
    stranger = old.create_run(theirs).info.run_id
    for run in (parent, chosen, child, stranger):
        old.log_param(run, "p", run)
        old.log_metric(run, "loss", 0.5, step=3)
    old.create_registered_model("scorecard")
    old.create_model_version("scorecard", f"file://{tmp_path}/one", run_id=stranger)
    old.create_model_version("scorecard", f"file://{tmp_path}/two", run_id=chosen)
    old.set_registered_model_alias("scorecard", "champion", "2")
    run_migrate(source, target, only=("fraud",))
    with _server(target, tmp_path) as url:
        new = MlflowClient(tracking_uri=url, registry_uri=url)
        for run in (parent, chosen, child):
            answered, before = new.get_run(run), old.get_run(run)
            assert answered.data.params == before.data.params == {"p": run}
            assert answered.data.metrics == before.data.metrics
            assert answered.data.tags == before.data.tags
            assert answered.info.experiment_id == before.info.experiment_id
            assert [(m.step, m.value) for m in new.get_metric_history(run, "loss")] == [(3, 0.5)]
        children = new.search_runs([mine, theirs], f"tags.mlflow.parentRunId = '{chosen}'")
        assert [r.info.run_id for r in children] == [child]
        assert {r.info.run_id for r in new.search_runs([mine, theirs])} == {parent, chosen, child}
        with pytest.raises(MlflowException, match="not found"):
            new.get_run(stranger)
        version = new.get_model_version_by_alias("scorecard", "champion")
        assert (version.version, version.run_id) == ("2", chosen)
        assert [v.version for v in new.search_model_versions("name = 'scorecard'")] == ["2"]
        # The new store goes on where the old one was.
        assert int(new.create_experiment("later")) > int(theirs)
        assert new.get_experiment(mine).name == "fraud"
