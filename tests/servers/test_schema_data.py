"""The shipped schema data against MLflow's own scripts and against real databases."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import sqlalchemy as sa

from mlflowctl import children
from mlflowctl.stores import schema
from mlflowctl.stores.schema import Chain, Dialect, Schema

BUILDER = Path(children.__file__).with_name("schema_build.py")
# First, a batch rebuild, triggers, many foreign keys, identities and covering indexes.
SOME = ["base", "90e64c465722", "cfd24bdc0731", "97727af70f4d", "1bd49d398cd23", "1b5f0d9ad7c1", "dc11669786a5"]
HEAD = {"tracking": "dc11669786a5", "auth": "f1a2b3c4d5e6"}
SERVERS = [
    "sqlite",
    pytest.param("postgresql", marks=pytest.mark.postgres),
    pytest.param("mysql", marks=pytest.mark.mysql),
]


@cache
def builder() -> ModuleType:
    """The script that made the data, as a module: its catalog readers serve here too."""
    spec = importlib.util.spec_from_file_location("schema_build", BUILDER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pooled(data: dict[str, Any], revision: str) -> dict[str, dict[str, Any]]:
    """The definitions of one revision in a data file."""
    digests: dict[str, str] = {}
    for passed, change in data["revisions"].items():
        digests.update(change["set"])
        for name in change.get("drop", ()):
            del digests[name]
        if passed == revision:
            return {name: data["pool"][digest] for name, digest in digests.items()}
    raise KeyError(revision)


@cache
def shipped(chain: str, dialect: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(
        Path(schema.__file__).with_name("data").joinpath(f"{chain}-{dialect}.json").read_text()
    )
    return data


def make(engine: sa.Engine, wanted: Schema) -> None:
    """Make a schema by its own statements, as a migration does around the rows."""
    with engine.begin() as connection:
        for phase in ("create", "finish", "link"):
            for table in wanted.tables.values():
                for statement in getattr(table, phase):
                    connection.exec_driver_sql(statement)
        for name, rows in wanted.seed.items():
            connection.execute(sa.table(name, *(sa.column(c) for c in rows[0])).insert(), [dict(row) for row in rows])


def read(engine: sa.Engine, chain: str) -> dict[str, dict[str, Any]]:
    with engine.connect() as connection:
        tables = builder().READERS[engine.dialect.name](connection)
    tables.pop(schema.version_table(chain), None)  # type: ignore[arg-type]
    return {name: {"name": name, **definition} for name, definition in tables.items()}


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """A new, empty database of the parameter's kind."""
    kind = request.param
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path / 'schema.db'}"
    else:
        url = request.getfixturevalue("postgres_url" if kind == "postgresql" else "mysql_url")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    if kind == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def _fast(connection: Any, _: Any) -> None:
            connection.execute("PRAGMA synchronous = OFF")

    yield engine
    engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("chain", get_args(Chain))
def test_alembic_and_the_scripts_text_give_one_chain(chain: Chain) -> None:
    assert tuple(builder().in_order(chain)) == schema.installed_revisions(chain)


@pytest.mark.slow
@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_mlflows_scripts_give_the_shipped_data_again(database: sa.Engine, tmp_path: Path) -> None:
    dialect = database.dialect.name
    place = ["--sqlite"] if dialect == "sqlite" else [f"--{dialect}", database.url.render_as_string(False)]
    command = [sys.executable, str(BUILDER), "--out", str(tmp_path / "out"), *place]
    done = subprocess.run(
        [*command, "--only-revisions", *SOME, "a1b2c3d4e5f6", HEAD["auth"]], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for chain in ("tracking",) if dialect == "mysql" else ("tracking", "auth"):
        made = json.loads((tmp_path / "out" / f"{chain}-{dialect}.json").read_text())
        assert made["revisions"].keys() >= ({*SOME} if chain == "tracking" else {HEAD["auth"]})
        for revision in made["revisions"]:
            assert pooled(made, revision) == pooled(shipped(chain, dialect), revision), revision
    with database.connect() as connection:
        assert sa.inspect(connection).get_table_names() == []


@pytest.mark.slow
@pytest.mark.parametrize("chain", get_args(Chain))
def test_every_schema_on_sqlite_made_from_data_reads_back_as_the_data(chain: Chain, tmp_path: Path) -> None:
    for revision in schema.revisions(chain):
        engine = sa.create_engine("sqlite://")
        make(engine, schema.schema_at(chain, "sqlite", revision.id))
        assert read(engine, chain) == pooled(shipped(chain, "sqlite"), revision.id), revision.id
        engine.dispose()


@pytest.mark.parametrize("revision", [*SOME, "f4a9b2c7d1e6"])
@pytest.mark.parametrize("database", SERVERS[1:], indirect=True)
def test_a_schema_made_from_data_reads_back_as_the_data(database: sa.Engine, revision: str) -> None:
    dialect: Dialect = database.dialect.name  # type: ignore[assignment]
    make(database, schema.schema_at("tracking", dialect, revision))
    assert read(database, "tracking") == pooled(shipped("tracking", dialect), revision)


@pytest.mark.postgres
@pytest.mark.parametrize("revision", [r.id for r in schema.revisions("auth")])
def test_an_auth_schema_made_from_data_reads_back_as_the_data(postgres_url: str, revision: str) -> None:
    engine = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    make(engine, schema.schema_at("auth", "postgresql", revision))
    assert read(engine, "auth") == pooled(shipped("auth", "postgresql"), revision)


@pytest.mark.slow
@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_a_database_that_mlflow_itself_made_is_the_shipped_one(database: sa.Engine, tmp_path: Path) -> None:
    head = schema.installed_head("tracking")
    if not schema.known("tracking", head):
        pytest.skip(f"the data does not know {head} yet: make it anew with schema_build.py")
    dialect: Dialect = database.dialect.name  # type: ignore[assignment]
    code = (
        "import sys; from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore;"
        "SqlAlchemyStore(sys.argv[1], sys.argv[2])"
    )
    url = database.url.render_as_string(hide_password=False)
    subprocess.run([sys.executable, "-c", code, url, str(tmp_path / "artifacts")], check=True, capture_output=True)
    assert read(database, "tracking") == pooled(shipped("tracking", dialect), head)
    with database.connect() as connection:
        held = connection.execute(sa.text("SELECT * FROM workspaces")).mappings().all()
    assert [dict(row) for row in held] == [
        dict(row) for row in schema.schema_at("tracking", dialect, head).seed["workspaces"]
    ]


@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_the_database_counts_on_and_guards_its_secrets(database: sa.Engine) -> None:
    """What the catalog says is also what happens: numbers, checks, cascades and the trigger."""
    dialect: Dialect = database.dialect.name  # type: ignore[assignment]
    make(database, schema.schema_at("tracking", dialect, HEAD["tracking"]))

    def run(statement: str) -> Any:
        with database.begin() as connection:
            if dialect == "sqlite":
                connection.exec_driver_sql("PRAGMA foreign_keys = ON")
            result = connection.execute(sa.text(statement))
            return [tuple(row) for row in result] if result.returns_rows else None

    run("INSERT INTO experiments (name, lifecycle_stage) VALUES ('a', 'active'), ('b', 'active')")
    assert run("SELECT experiment_id, workspace FROM experiments ORDER BY 1") == [(1, "default"), (2, "default")]
    with pytest.raises((sa.exc.IntegrityError, sa.exc.OperationalError)):
        run("INSERT INTO experiments (name, lifecycle_stage) VALUES ('c', 'asleep')")
    with pytest.raises(sa.exc.IntegrityError):
        run("INSERT INTO experiments (name, lifecycle_stage) VALUES ('a', 'active')")
    run("INSERT INTO trace_info (request_id, experiment_id, timestamp_ms, status) VALUES ('t', 1, 5, 'OK')")
    run(
        "INSERT INTO spans (trace_id, experiment_id, span_id, status, start_time_unix_nano, end_time_unix_nano,"
        " content) VALUES ('t', 1, 's', 'OK', 5, 12, '{}')"
    )
    assert run("SELECT duration_ns FROM spans") == [(7,)]
    run("DELETE FROM trace_info")
    assert run("SELECT count(*) FROM spans") == [(0,)]
    run(
        "INSERT INTO secrets (secret_id, secret_name, encrypted_value, wrapped_dek, kek_version, masked_value,"
        " created_at, last_updated_at) VALUES ('i', 'n', 'x', 'y', 1, '*', 1, 1)"
    )
    run("UPDATE secrets SET masked_value = '**'")
    with pytest.raises(sa.exc.DBAPIError, match="immutable"):
        run("UPDATE secrets SET secret_name = 'm'")


@pytest.mark.postgres
def test_a_schema_lands_where_the_search_path_points(postgres_url: str) -> None:
    plain = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    with plain.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA elsewhere")
    url = f"{postgres_url}&options=-csearch_path%3Delsewhere"
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    make(engine, schema.schema_at("tracking", "postgresql", HEAD["tracking"]))
    assert read(plain, "tracking") == {}
    assert read(engine, "tracking") == pooled(shipped("tracking", "postgresql"), HEAD["tracking"])
    with engine.connect() as connection:
        owner = connection.exec_driver_sql("SELECT pg_get_serial_sequence('experiments', 'experiment_id')").scalar()
    assert owner == "elsewhere.experiments_experiment_id_seq"
