"""What differs from a revision's schema is found and explained, on real databases; unharmed stores give nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlflowctl.stores import schema as schemas
from mlflowctl.stores.schema import Chain, Dialect
from mlflowctl.stores.sql import sqlite
from mlflowctl.stores.sql.backend import Backend
from mlflowctl.stores.sql.circumstances import Circumstance
from mlflowctl.stores.sql.mysql import MysqlBackend
from mlflowctl.stores.sql.postgresql import PostgresBackend
from mlflowctl.stores.sql.structure import best_fit, examine, found_tables, kind_of, nearest_revision
from mlflowctl.stores.uri import parse_uri
from tests.engine import run_migrate
from tests.generate import make_store
from tests.stores.golden import GOLDEN, GoldenStore, auth_database, unpack

HEAD = "dc11669786a5"
REVISIONS = (
    "base",
    "90e64c465722",
    "89d4b8295536",
    "97727af70f4d",
    "0584bdc529eb",
    "bf29a5ff90ea",
    "1b5f0d9ad7c1",
    HEAD,
)
OLD = "97727af70f4d"  # MLflow 1.30
TRACES = "867495a8f9d4"  # makes three tables
BEFORE_TRACES = "acf3f17fdcc7"


@contextmanager
def opened(url: str) -> Iterator[Backend]:
    """The store, as a migration opens its source."""
    uri = parse_uri(url, side="source")
    backend: Backend
    if uri.kind == "sqlite":
        backend = sqlite.open_source(uri)[0]
    elif uri.kind == "postgresql":
        backend = PostgresBackend(uri, side="source")
    else:
        backend = MysqlBackend(uri, side="source")
    try:
        yield backend
    finally:
        backend.close()


@dataclass
class Store:
    """A database of one kind, made from the schema data; ``run`` harms it."""

    dialect: Dialect
    url: str

    def run(self, *statements: str) -> None:
        if self.dialect == "sqlite":
            with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as file, file:
                for statement in statements:
                    file.execute(statement)
        elif self.dialect == "postgresql":
            import psycopg

            with psycopg.connect(parse_uri(self.url, side="source").libpq(), autocommit=True) as server:
                for statement in statements:
                    server.execute(statement)  # type: ignore[call-overload]
        else:
            import pymysql

            arguments: dict[str, Any] = parse_uri(self.url, side="source").mysql_arguments()
            connection = pymysql.connect(autocommit=True, **arguments)
            with closing(connection), connection.cursor() as cursor:
                for statement in ("SET foreign_key_checks = 0", *statements):
                    cursor.execute(statement)

    def make(self, revision: str, stamp: str | None = None, chain: Chain = "tracking") -> None:
        schema = schemas.schema_at(chain, self.dialect, revision)
        statements = [
            s for phase in ("create", "finish", "link") for t in schema.tables.values() for s in getattr(t, phase)
        ]
        if self.dialect == "sqlite":
            statements = ["PRAGMA synchronous = OFF", *statements]
        version_table = schemas.version_table(chain)
        if (stamp or revision) != "base":
            statements.append(f"CREATE TABLE {version_table} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
            statements.append(f"INSERT INTO {version_table} VALUES ('{stamp or revision}')")
        self.run(*statements)

    def examine(self, revision: str, chain: Chain = "tracking") -> list[Circumstance]:
        with opened(self.url) as backend:
            return examine(backend, chain, revision)

    def one(self, revision: str, rule: str) -> Circumstance:
        found = self.examine(revision)
        assert [c.rule for c in found] == [rule], found
        return found[0]

    def definition(self, table: str, revision: str) -> tuple[str, ...]:
        return schemas.schema_at("tracking", self.dialect, revision).tables[table].create


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgres),
        pytest.param("mysql", marks=pytest.mark.mysql),
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "sqlite":
        return Store("sqlite", f"sqlite:///{tmp_path}/store.db")
    return Store(
        request.param, request.getfixturevalue("postgres_url" if request.param == "postgresql" else "mysql_url")
    )


@pytest.fixture
def only(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Store]:
    """A store of the kind named."""

    def make(dialect: str) -> Store:
        if dialect == "sqlite":
            return Store("sqlite", f"sqlite:///{tmp_path}/store.db")
        name = "postgres_url" if dialect == "postgresql" else "mysql_url"
        return Store(dialect, request.getfixturevalue(name))  # type: ignore[arg-type]

    return make


# -- unharmed stores -----------------------------------------------------------------------------------------------


@pytest.mark.golden
@pytest.mark.parametrize("golden", [g for g in GOLDEN if g.kind == "sqlite"], ids=lambda g: g.name)
def test_what_real_releases_wrote_gives_nothing(golden: GoldenStore, tmp_path: Path) -> None:
    places: list[tuple[Chain, Path | None]] = [
        ("tracking", unpack(golden, tmp_path)),
        ("auth", auth_database(golden, tmp_path)),
    ]
    for chain, file in places:
        if file is None:
            continue
        with opened(f"sqlite:///{file}") as backend:
            revision = schemas.head_of_version(chain, golden.version)
            assert examine(backend, chain, revision) == []
            fit = nearest_revision(found_tables(backend, chain), chain, "sqlite", revision)
            assert (fit.revision, fit.differences) == (revision, 0)


@pytest.mark.parametrize("revision", REVISIONS)
def test_an_unharmed_store_gives_nothing(revision: str, store: Store) -> None:
    store.make(revision)
    assert store.examine(revision) == []


@pytest.mark.parametrize("dialect", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
@pytest.mark.parametrize("revision", [r.id for r in schemas.revisions("auth")])
def test_an_unharmed_users_database_gives_nothing(dialect: str, revision: str, only: Callable[[str], Store]) -> None:
    store = only(dialect)
    store.make(revision, chain="auth")
    assert store.examine(revision, "auth") == []


@pytest.mark.slow
def test_every_revision_is_recognised_by_its_structure_alone(tmp_path: Path) -> None:
    same = {}
    for revision in (r.id for r in schemas.revisions("tracking")):
        file = tmp_path / f"{revision}.db"
        Store("sqlite", f"sqlite:///{file}").make(revision)
        with opened(f"sqlite:///{file}") as backend:
            assert examine(backend, "tracking", revision) == []
            fit = nearest_revision(found_tables(backend, "tracking"), "tracking", "sqlite", HEAD)
        assert fit.differences == 0
        if fit.revision != revision:
            same[revision] = fit.revision
    # These change rows alone, or what only a server has.
    order = [r.id for r in schemas.revisions("tracking")]
    assert all(abs(order.index(a) - order.index(b)) <= 2 for a, b in same.items()), same


@pytest.mark.parametrize("revision", ["89d4b8295536", HEAD])
def test_a_target_that_mlflowctl_made_gives_nothing(revision: str, tmp_path: Path, target_url: str) -> None:
    make_store(tmp_path / "source.db", revision, rows=3)
    run_migrate(tmp_path / "source.db", target_url, upgrade=False)
    with opened(target_url) as backend:
        assert examine(backend, "tracking", revision) == []


def test_checks_that_real_releases_left_out_or_worded_otherwise_give_nothing(only: Callable[[str], Store]) -> None:
    """latest_metrics.is_nan in 1.3 to 1.13, and the status of runs."""
    store = only("sqlite")
    store.make("89d4b8295536")
    store.run(
        "DROP TABLE latest_metrics",
        "CREATE TABLE latest_metrics (key VARCHAR(250) NOT NULL, value FLOAT NOT NULL, timestamp BIGINT, step BIGINT NOT NULL, "
        "is_nan BOOLEAN NOT NULL, run_uuid VARCHAR(32) NOT NULL, CONSTRAINT latest_metric_pk PRIMARY KEY (key, run_uuid), "
        "FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid), CHECK (is_nan IN (0, 1)))",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = replace(sql, '''FINISHED'', ''RUNNING''', '''FINISHED'', ''RUNNING'', ''KILLED''') WHERE name = 'runs'",
    )
    assert store.examine("89d4b8295536") == []


# -- harm ----------------------------------------------------------------------------------------------------------


def test_a_lost_index_is_named_and_the_target_has_it(store: Store, tmp_path: Path) -> None:
    """MLflow issue 14465."""
    store.make(HEAD)
    lost = next(i for i in schemas.schema_at("tracking", store.dialect, HEAD).tables["latest_metrics"].indexes)
    where = " ON latest_metrics" if store.dialect == "mysql" else ""
    if store.dialect == "mysql":  # it also serves the foreign key, for which another takes its place
        store.run("CREATE INDEX stand_in ON latest_metrics (run_uuid, step)")
    store.run(f"DROP INDEX {lost.name}{where}")
    found = [c for c in store.examine(HEAD) if c.level != "info"]
    assert [(c.rule, c.level) for c in found if c.rule != "stamped-by-hand"] == [("lost-index", "warning")]
    assert f"{lost.name} on latest_metrics (run_uuid)" in found[-1].text
    assert found[-1].next_step is not None
    step = found[-1].next_step.removeprefix("On the source itself: ")
    target = f"sqlite:///{tmp_path}/target.db"
    assert run_migrate(store.url, target, upgrade=False).status == "verified"
    with opened(target) as backend:
        assert examine(backend, "tracking", HEAD) == []
    store.run(step)
    assert not [c for c in store.examine(HEAD) if c.level != "info"]


def test_a_revision_stamped_too_far_says_which_one_it_is(store: Store) -> None:
    """MLflow issues 19299 and 12627: the advice makes it right."""
    store.make(BEFORE_TRACES, stamp=TRACES)
    found = store.one(TRACES, "stamped-by-hand")
    assert found.level == "stop"
    assert "lacks trace_info, trace_request_metadata, trace_tags" in found.text
    assert f"is exactly that of revision {BEFORE_TRACES} (MLflow 2.8 to 2.12)" in found.text
    assert found.next_step is not None
    store.run(found.next_step.removeprefix("Set the row right: ").split(";")[0])
    with opened(store.url) as backend:
        named = backend.rows("SELECT version_num FROM alembic_version")
    assert named == [{"version_num": BEFORE_TRACES}]
    assert store.examine(BEFORE_TRACES) == []


def test_a_revision_stamped_back_stops_only_where_rows_would_be_lost(store: Store) -> None:
    store.make(TRACES, stamp=BEFORE_TRACES)
    found = store.one(BEFORE_TRACES, "stamped-by-hand")
    assert found.level == "warning"
    assert f"is exactly that of revision {TRACES}" in found.text
    store.run(
        "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (7, 'seven', 'active')",
        "INSERT INTO trace_info (request_id, experiment_id, timestamp_ms, status) VALUES ('tr-1', 7, 1, 'OK')",
    )
    found = store.one(BEFORE_TRACES, "stamped-by-hand")
    assert found.level == "stop"
    assert "with data in trace_info" in found.text


def test_half_a_revision_is_told_from_a_whole_one(store: Store) -> None:
    """What a kill within a revision leaves on SQLite and MySQL: some of its tables, and the version before."""
    store.make(BEFORE_TRACES)
    store.run(*store.definition("trace_info", TRACES))
    found = store.one(BEFORE_TRACES, "half-applied")
    assert found.level == "warning"
    assert "has trace_info of other revisions" in found.text
    assert "An upgrade was cut short" in found.text
    assert "fits its structure better" in found.text
    store.run(*store.definition("trace_request_metadata", TRACES), *store.definition("trace_tags", TRACES))
    with opened(store.url) as backend:
        fit = nearest_revision(found_tables(backend, "tracking"), "tracking", store.dialect, BEFORE_TRACES)
        words = best_fit(backend, "tracking", BEFORE_TRACES)
    assert fit.revision == TRACES
    # The keys and indexes are what the last statements make.
    assert words.startswith(f"Its structure fits revision {TRACES} ") == (fit.differences > 0)


def test_a_column_of_a_later_revision_counts_by_what_is_in_it(store: Store) -> None:
    store.make(OLD)
    store.run("ALTER TABLE experiments ADD COLUMN workspace VARCHAR(63)")
    assert store.one(OLD, "half-applied").level == "warning"
    store.run(
        "INSERT INTO experiments (experiment_id, name, lifecycle_stage, workspace) VALUES (7, 'seven', 'active', 'mine')"
    )
    found = store.one(OLD, "half-applied")
    assert found.level == "stop"
    assert "experiments.workspace" in found.text


def test_a_default_that_the_server_filled_in_is_no_data(only: Callable[[str], Store]) -> None:
    store = only("sqlite")
    store.make("base", stamp="base")
    store.run("INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (7, 'seven', 'active')")
    store.run("INSERT INTO runs (run_uuid, experiment_id, lifecycle_stage) VALUES ('r', 7, 'active')")
    store.run("INSERT INTO metrics (key, value, timestamp, run_uuid) VALUES ('m', 1.0, 1, 'r')")
    store.run("ALTER TABLE metrics ADD COLUMN step BIGINT NOT NULL DEFAULT '0'")
    assert store.one("base", "half-applied").level == "warning"
    store.run("UPDATE metrics SET step = 3")
    assert store.one("base", "half-applied").level == "stop"


def test_a_lacking_column_that_may_be_empty_is_carried_empty(store: Store) -> None:
    store.make(OLD)
    store.run("ALTER TABLE runs DROP COLUMN deleted_time")
    found = store.examine(OLD)
    assert [c.level for c in found if c.rule in ("half-applied", "stamped-by-hand")] == ["warning"]
    assert "lacks runs.deleted_time" in found[0].text


def test_a_lacking_column_that_may_not_be_empty_stops(store: Store) -> None:
    store.make(OLD)
    store.run("ALTER TABLE latest_metrics DROP COLUMN value")
    found = store.examine(OLD)
    assert [c.level for c in found if c.rule in ("half-applied", "stamped-by-hand")] == ["stop"]
    assert "lacks latest_metrics.value" in found[0].text


def test_best_fit_words_name_the_revision(store: Store) -> None:
    store.make(BEFORE_TRACES, stamp=HEAD)
    with opened(store.url) as backend:
        words = best_fit(backend, "tracking", HEAD)
    assert words == f"Its structure is exactly that of revision {BEFORE_TRACES} (MLflow 2.8 to 2.12)."


def test_a_table_that_alembic_left_half_rebuilt(only: Callable[[str], Store]) -> None:
    store = only("sqlite")
    store.make(OLD)
    store.run("CREATE TABLE _alembic_tmp_metrics AS SELECT * FROM metrics")
    found = store.one(OLD, "left-behind")
    assert found.level == "warning"
    assert found.next_step == "Before an upgrade in place: DROP TABLE _alembic_tmp_metrics"
    store.run("DROP TABLE metrics")
    rules = {c.rule: c for c in store.examine(OLD)}
    assert rules["left-behind"].level == "stop"
    assert rules["half-applied"].level == "stop"
    assert rules["left-behind"].next_step is not None
    store.run(rules["left-behind"].next_step)
    assert "half-applied" not in {c.rule for c in store.examine(OLD)}


def test_a_version_table_shared_with_another_program(store: Store) -> None:
    """MLflow issue 2923: Optuna's revision beside MLflow's."""
    store.make(OLD)
    store.run("INSERT INTO alembic_version VALUES ('v3.0.0.d')", "CREATE TABLE studies (study_id INTEGER PRIMARY KEY)")
    found = store.one(OLD, "shared-version-table")
    assert found.level == "warning"
    assert "v3.0.0.d" in found.text


def test_version_tables_beside_each_other_are_no_matter(only: Callable[[str], Store]) -> None:
    store = only("sqlite")
    store.make(OLD)
    store.make("8606fa83a998", chain="auth")
    store.run(
        "CREATE TABLE alembic_version_optuna (version_num TEXT)", "INSERT INTO alembic_version_optuna VALUES ('v3')"
    )
    assert store.examine(OLD) == []
    assert store.examine("8606fa83a998", "auth") == []


def test_two_revisions_at_once_say_which_row_to_delete(only: Callable[[str], Store]) -> None:
    store = only("sqlite")
    store.make(OLD)
    store.run(f"INSERT INTO alembic_version VALUES ('{HEAD}')")
    found = store.one(OLD, "several-revisions")
    assert found.level == "stop"
    assert found.next_step == f"DELETE FROM alembic_version WHERE version_num IN ('{HEAD}')"


def test_a_revision_that_nobody_knows_is_placed_by_its_structure(only: Callable[[str], Store]) -> None:
    store = only("sqlite")
    store.make(OLD, stamp="0123456789ab")
    found = store.one("0123456789ab", "unknown-revision")
    assert found.level == "stop"
    assert f"is exactly that of revision {OLD} (MLflow 1.29 to 2.2)" in found.text


def test_a_foreign_key_of_another_type_on_postgresql(only: Callable[[str], Store]) -> None:
    """MLflow issue 17896."""
    pytest.importorskip("psycopg")
    store = only("postgresql")
    store.make(OLD)
    store.run("ALTER TABLE runs ALTER COLUMN experiment_id TYPE bigint")
    rules = {c.rule: c for c in store.examine(OLD)}
    assert {r: c.level for r, c in rules.items()} == {"column-type": "warning", "foreign-key-type": "warning"}
    assert "runs.experiment_id (bigint) refers to experiments.experiment_id (integer)" in rules["foreign-key-type"].text


@pytest.mark.mysql
def test_a_foreign_key_of_another_collation_on_mysql(only: Callable[[str], Store], tmp_path: Path) -> None:
    """MLflow issue 17896: carried all the same."""
    store = only("mysql")
    store.make(OLD)
    store.run(
        "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (7, 'seven', 'active')",
        "INSERT INTO runs (run_uuid, experiment_id, lifecycle_stage) VALUES ('r', 7, 'active')",
        "INSERT INTO tags (`key`, value, run_uuid) VALUES ('k', 'ü', 'r')",
        "ALTER TABLE tags DROP FOREIGN KEY tags_ibfk_1",
        "ALTER TABLE tags CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci",
    )
    found = [c for c in store.examine(OLD) if c.rule == "foreign-key-type"]
    assert [c.level for c in found] == ["warning"]
    assert (
        "tags.run_uuid (varchar utf8mb4_unicode_ci) refers to runs.run_uuid (varchar utf8mb4_general_ci)"
        in found[0].text
    )
    assert run_migrate(store.url, f"sqlite:///{tmp_path}/t.db", upgrade=False).status == "verified"


@pytest.mark.mysql
def test_a_database_whose_collation_was_changed_later_on_mysql(only: Callable[[str], Store]) -> None:
    store = only("mysql")
    store.make(OLD)
    store.run("ALTER DATABASE COLLATE utf8mb4_unicode_ci")
    assert store.one(OLD, "default-collation").level == "info"


def test_keys_that_were_lost(only: Callable[[str], Store]) -> None:
    store = only("sqlite")
    store.make(OLD)
    store.run(
        "CREATE TABLE new_params (key VARCHAR(250), value VARCHAR(500) NOT NULL, run_uuid VARCHAR(32) NOT NULL)",
        "DROP TABLE params",
        "ALTER TABLE new_params RENAME TO params",
    )
    found = store.examine(OLD)
    assert {c.rule for c in found} == {"primary-key", "lost-foreign-key", "lost-index"}
    assert {c.level for c in found} == {"warning"}


@pytest.mark.postgres
def test_constraints_that_were_lost_on_postgresql(only: Callable[[str], Store]) -> None:
    store = only("postgresql")
    store.make(OLD)
    store.run(
        "ALTER TABLE tags DROP CONSTRAINT tags_run_uuid_fkey",
        "ALTER TABLE experiments DROP CONSTRAINT experiments_name_key",
        "ALTER TABLE runs DROP CONSTRAINT runs_lifecycle_stage",
        "ALTER TABLE latest_metrics ALTER COLUMN is_nan DROP NOT NULL",
        "ALTER TABLE runs ALTER COLUMN name SET NOT NULL",
    )
    found = {(c.rule, c.level) for c in store.examine(OLD)}
    assert found == {
        ("lost-foreign-key", "warning"),
        ("lost-unique", "warning"),
        ("lost-check", "info"),
        ("column-nullable", "warning"),
    }


@pytest.mark.postgres
def test_a_type_that_would_be_misread_stops(only: Callable[[str], Store]) -> None:
    store = only("postgresql")
    store.make(OLD)
    store.run("ALTER TABLE metrics ALTER COLUMN value TYPE numeric", "ALTER TABLE tags ALTER COLUMN value TYPE text")
    found = {c.text.split(" is ")[0]: c.level for c in store.examine(OLD)}
    assert found == {"metrics.value": "stop", "tags.value": "warning"}


def test_what_the_owner_added(store: Store) -> None:
    store.make(OLD)
    store.run("ALTER TABLE runs ADD COLUMN team VARCHAR(20)", "CREATE INDEX of_mine ON runs (start_time, end_time)")
    rules = {c.rule: c for c in store.examine(OLD)}
    assert {r: c.level for r, c in rules.items()} == {"extra-columns": "warning", "own-index": "info"}
    assert "runs.team" in rules["extra-columns"].text
    assert "of_mine on runs" in rules["own-index"].text


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mysql"])
def test_kinds_are_those_of_the_schema_data(dialect: Dialect) -> None:
    columns = {
        (c.sql_type, c.kind)
        for r in schemas.revisions("tracking")
        for t in schemas.schema_at("tracking", dialect, r.id).tables.values()
        for c in t.columns
    }
    assert len(columns) > 20
    assert [(t, k, kind_of(t)) for t, k in columns if kind_of(t) != k] == []


def test_every_name_is_in_small_letters() -> None:
    """So that a server that folds the names of tables (lower_case_table_names) changes nothing."""
    names = {*schemas.tables_ever("tracking"), *schemas.tables_ever("auth")}
    assert len(names) > 60
    assert all(name == name.lower() for name in names)
