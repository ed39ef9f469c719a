"""Experiment IDs, artifact locations and users, on real targets."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from mlflowctl.core.errors import TargetError
from tests.engine import run_migrate, run_verify
from tests.generate import make_store

HEAD = "dc11669786a5"
LARGE = 123456789012345678


def _edit(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def _query(url: str, sql: str) -> list[tuple[Any, ...]]:
    import sqlalchemy as sa

    engine = sa.create_engine(url)
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(sa.text(sql))]
    engine.dispose()
    return rows


@pytest.fixture
def large_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store in which experiment 2 has an ID of 18 digits everywhere."""
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "source.db"
    schema = make_store(source, HEAD, rows=6)
    _edit(
        source,
        *(
            f"UPDATE {t.name} SET experiment_id = {LARGE} WHERE experiment_id = 2"
            for t in schema.tables.values()
            if any(c.name == "experiment_id" for c in t.columns)
        ),
        "INSERT INTO registered_models (name, workspace) VALUES ('prompt', 'default')",
        f"INSERT INTO registered_model_tags (key, value, name, workspace) VALUES ('_mlflow_experiment_ids', ',1,{LARGE},', 'prompt', 'default')",
        f"""UPDATE spans SET content = '{{"attributes": {{"mlflow.experimentId": "\\"{LARGE}\\""}}}}' WHERE rowid = 1""",
        f"""UPDATE jobs SET params = '{{"experiment_id": "{LARGE}", "n": {LARGE}}}' WHERE rowid = 1""",
    )
    return source


@pytest.mark.parametrize(
    "url",
    [pytest.param("postgres_url", marks=pytest.mark.postgres), pytest.param("mysql_url", marks=pytest.mark.mysql)],
)
def test_ids_beyond_32_bits_are_renumbered_everywhere(
    url: str, large_ids: Path, request: pytest.FixtureRequest
) -> None:
    target = request.getfixturevalue(url)
    result = run_migrate(large_ids, target)
    assert result.renumbered["experiments"] == 1
    new = json.loads(Path(result.renumbered["file"]).read_text())[str(LARGE)]
    assert int(new) == 7  # the next after the greatest that is kept
    tags = _query(target, f"SELECT value FROM experiment_tags WHERE experiment_id = {new}")
    assert (str(LARGE),) in tags
    assert _query(target, "SELECT value FROM registered_model_tags WHERE value LIKE ',1,%'") == [(f",1,{new},",)]
    assert len(_query(target, f"SELECT 1 FROM runs WHERE experiment_id = {new}")) == len(
        sqlite3.connect(large_ids).execute(f"SELECT 1 FROM runs WHERE experiment_id = {LARGE}").fetchall()
    )
    assert f'"{new}\\"' in _query(target, "SELECT content FROM spans WHERE content LIKE '%experimentId%'")[0][0]
    params = json.loads(_query(target, "SELECT params FROM jobs WHERE params LIKE '%experiment_id%'")[0][0])
    assert params == {"experiment_id": new, "n": LARGE}
    assert run_verify(large_ids, target).equal
    assert run_migrate(large_ids, target).status == "already_complete"


def test_sqlite_keeps_large_ids(large_ids: Path, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path}/t.db"
    result = run_migrate(large_ids, target)
    assert result.renumbered == {"experiments": 0, "file": None}
    assert _query(target, f"SELECT count(*) FROM experiments WHERE experiment_id = {LARGE}") == [(1,)]


@pytest.mark.postgres
def test_keep_refuses_what_does_not_fit(large_ids: Path, postgres_url: str) -> None:
    with pytest.raises(TargetError) as caught:
        run_migrate(large_ids, postgres_url, experiment_ids="keep")
    assert caught.value.kind == "experiment_id_range"
    assert str(LARGE) in caught.value.what
    assert _query(postgres_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_renumber_renumbers_all_but_the_default(large_ids: Path, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path}/t.db"
    result = run_migrate(large_ids, target, experiment_ids="renumber")
    ids = sorted(i for (i,) in _query(target, "SELECT experiment_id FROM experiments"))
    assert ids == list(range(1, len(ids) + 1))
    assert result.status == "verified"


@pytest.fixture
def located(tmp_path: Path) -> Path:
    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=4)
    run = "ab" * 16
    _edit(
        source,
        "UPDATE experiments SET artifact_location = '/old/place/1' WHERE experiment_id = 1",
        "UPDATE experiments SET artifact_location = '/old/places/2' WHERE experiment_id = 2",
        f"UPDATE runs SET artifact_uri = 'file:///C:/Users/me/mlruns/1/{run}/artifacts' WHERE rowid = 1",
        "UPDATE runs SET artifact_uri = '/old/place/1/x/artifacts' WHERE rowid = 2",
        "UPDATE trace_tags SET key = 'mlflow.artifactLocation', value = '/old/place/1/traces/t/artifacts' WHERE rowid = 1",
        "UPDATE trace_tags SET key = 'other', value = '/old/place/kept' WHERE rowid = 2",
        """UPDATE datasets SET dataset_source = '{"uri": "/old/place/data.csv", "x": "/old/place"}' WHERE rowid = 1""",
        "UPDATE model_versions SET source = '/old/place/m', storage_location = '/old/place/m' WHERE rowid = 1",
        "UPDATE logged_models SET artifact_location = '/old/place/1/models/m-1/artifacts' WHERE rowid = 1",
    )
    return source


def test_map_artifacts_rewrites_every_place_on_a_path_boundary(located: Path, target_url: str) -> None:
    result = run_migrate(located, target_url, map_artifacts=(("/old/place", "s3://bucket/new"),))
    assert result.artifacts["mapped"] == [{"from": "/old/place", "to": "s3://bucket/new", "rows": 7}]

    def column(sql: str) -> set[str]:
        return {row[0] for row in _query(target_url, sql)}

    assert {"s3://bucket/new/1", "/old/places/2"} <= column("SELECT artifact_location FROM experiments")
    assert "s3://bucket/new/1/x/artifacts" in column("SELECT artifact_uri FROM runs")
    assert {"s3://bucket/new/1/traces/t/artifacts", "/old/place/kept"} <= column("SELECT value FROM trace_tags")
    assert "s3://bucket/new/m" in column("SELECT source FROM model_versions") & column(
        "SELECT storage_location FROM model_versions"
    )
    assert "s3://bucket/new/1/models/m-1/artifacts" in column("SELECT artifact_location FROM logged_models")
    sources = [json.loads(s) for s in column("SELECT dataset_source FROM datasets") if s.startswith("{")]
    assert {"uri": "s3://bucket/new/data.csv", "x": "/old/place"} in sources
    assert run_verify(located, target_url).equal


def test_reroot_keeps_each_location_s_own_end(located: Path, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path}/t.db"
    run_migrate(located, target, reroot_artifacts="/srv/mlruns")
    uris = {row[0] for row in _query(target, "SELECT artifact_uri FROM runs")}
    assert f"/srv/mlruns/1/{'ab' * 16}/artifacts" in uris
    assert run_verify(located, target).equal


@pytest.mark.postgres
def test_users_and_permissions_come_along_when_asked(tmp_path: Path, postgres_url: str) -> None:
    source, users = tmp_path / "source.db", tmp_path / "auth.db"
    make_store(source, HEAD, rows=2)
    make_store(users, "f1a2b3c4d5e6", rows=5, chain="auth")
    result = run_migrate(source, postgres_url, auth_source=f"sqlite:///{users}", auth_target=postgres_url)
    assert result.status == "verified"
    assert result.auth is not None
    assert result.auth["status"] == "verified"
    assert _query(postgres_url, "SELECT count(*) FROM users") == [(5,)]
    assert _query(postgres_url, "SELECT version_num FROM alembic_version_auth") == [("f1a2b3c4d5e6",)]
    assert run_verify(source, postgres_url, auth_source=f"sqlite:///{users}", auth_target=postgres_url).equal
