"""SQL stores to every kind of target, with the real databases."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflowctl.core.errors import DifferError, SourceError, TargetError
from mlflowctl.core.events import Engine
from mlflowctl.migrate import upgrade
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.sql.target import Target
from tests.engine import run_migrate, run_verify
from tests.generate import make_store

HEAD = "dc11669786a5"
REVISIONS = ("base", "90e64c465722", "89d4b8295536", "97727af70f4d", "0584bdc529eb", "bf29a5ff90ea", HEAD)


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_table_and_column_arrives_at_the_same_revision(revision: str, tmp_path: Path, target_url: str) -> None:
    source = tmp_path / "source.db"
    schema = make_store(source, revision)
    result = run_migrate(source, target_url, upgrade=False)
    assert result.status == "verified"
    assert {t["name"] for t in result.tables} == set(schema.tables)
    assert sum(t["written_rows"] for t in result.tables) > 10 * len(schema.tables) // 2
    assert result.verify is not None
    assert {t["verdict"] for t in result.verify["tables"]} == {"="}
    again = run_verify(source, target_url)
    assert again.equal
    assert not again.differences
    assert not any(t.uncompared_columns for t in again.tables)


def test_the_same_line_again_writes_nothing(tmp_path: Path, target_url: str) -> None:
    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=3)
    assert run_migrate(source, target_url).status == "verified"
    again = run_migrate(source, target_url)
    assert again.status == "already_complete"
    assert all(t["written_rows"] == 0 for t in again.tables)


def test_a_source_that_grew_is_never_called_complete(tmp_path: Path, target_url: str) -> None:
    import sqlite3

    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=3)
    run_migrate(source, target_url)
    connection = sqlite3.connect(source)
    connection.execute("INSERT INTO tags (key, value, run_uuid) SELECT 'later', 'x', run_uuid FROM runs LIMIT 1")
    connection.commit()
    connection.close()
    with pytest.raises(TargetError) as caught:
        run_migrate(source, target_url)
    assert caught.value.kind == "source_changed"
    verdicts = {t.name: t.verdict for t in run_verify(source, target_url).tables}
    assert verdicts["tags"] == "-"


def test_a_way_round_through_all_databases_changes_nothing(tmp_path: Path, postgres_url: str, mysql_url: str) -> None:
    source, end = tmp_path / "source.db", tmp_path / "end.db"
    make_store(source, HEAD, rows=15, seed=7)
    run_migrate(source, postgres_url)
    run_migrate(postgres_url, mysql_url)
    run_migrate(mysql_url, f"sqlite:///{end}")
    result = run_verify(source, f"sqlite:///{end}")
    assert result.equal
    assert len(result.tables) == len(schemas.schema_at("tracking", "sqlite", HEAD).tables)


@pytest.mark.slow
@pytest.mark.parametrize(
    "revision",
    [r.id for r in schemas.revisions("tracking") if r.id in schemas.installed_revisions("tracking") or r.id == "base"],
)
def test_every_revision_copies_to_sqlite(revision: str, tmp_path: Path) -> None:
    source = tmp_path / "source.db"
    make_store(source, revision, rows=5)
    assert run_migrate(source, f"sqlite:///{tmp_path}/t.db", upgrade=False).status == "verified"


def test_a_target_with_other_data_is_refused_untouched(tmp_path: Path, target_url: str) -> None:
    first, second = tmp_path / "one.db", tmp_path / "two.db"
    make_store(first, HEAD, rows=2)
    make_store(second, HEAD, rows=4, seed=2)
    run_migrate(first, target_url)
    with pytest.raises(TargetError) as caught:
        run_migrate(second, target_url)
    assert caught.value.kind == "foreign_data"
    assert run_verify(first, target_url).equal


def test_the_source_is_left_byte_for_byte(tmp_path: Path) -> None:
    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=3)
    before = source.read_bytes()
    run_migrate(source, f"sqlite:///{tmp_path}/t.db")
    assert source.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source.db", "t.db"]


def test_text_in_an_integer_column_is_named_and_stops(tmp_path: Path, target_url: str) -> None:
    import sqlite3

    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=3)
    connection = sqlite3.connect(source)
    connection.execute("UPDATE metrics SET step = 'seven' WHERE rowid = 1")
    connection.execute("UPDATE runs SET start_time = 1.5 WHERE rowid = 2")
    connection.commit()
    connection.close()
    with pytest.raises(SourceError) as caught:
        run_migrate(source, target_url)
    assert int(caught.value.exit_code) == 4
    text = "\n".join(caught.value.details)
    assert "metrics[" in text
    assert "'seven' is text" in text
    assert "runs[" in text
    assert "1.5 is real" in text


def _change(url: str, sql: str) -> None:
    import sqlalchemy as sa

    engine = sa.create_engine(url)
    with engine.begin() as connection:
        changed = connection.execute(sa.text(sql)).rowcount
    engine.dispose()
    assert changed == 1, (sql, changed)


@pytest.mark.parametrize(
    ("change", "table", "kind", "columns"),
    [
        ("UPDATE tags SET value = 'plainX' WHERE {key} = 'key-0'", "tags", "changed", ("value",)),
        ("DELETE FROM metrics WHERE {key} = 'key-1'", "metrics", "missing", ()),
        (
            "UPDATE runs SET start_time = start_time + 1 WHERE run_uuid = 'run_uuid-1'",
            "runs",
            "changed",
            ("start_time",),
        ),
        (
            "UPDATE latest_metrics SET value = 0.10000000000000002 WHERE {key} = 'key-0'",
            "latest_metrics",
            "changed",
            ("value",),
        ),
        ("UPDATE latest_metrics SET is_nan = {false} WHERE {key} = 'key-1'", "latest_metrics", "changed", ("is_nan",)),
        ("INSERT INTO params ({key}, value, run_uuid) VALUES ('new', 'x', 'run_uuid-0')", "params", "extra", ()),
    ],
)
def test_one_changed_thing_is_noticed_and_named(
    change: str, table: str, kind: str, columns: tuple[str, ...], tmp_path: Path, target_url: str
) -> None:
    source = tmp_path / "source.db"
    make_store(source, HEAD)
    run_migrate(source, target_url)
    _change(
        target_url,
        change.format(
            key="`key`" if target_url.startswith("mysql") else "key",
            false="false" if target_url.startswith("postgresql") else "0",
        ),
    )
    result = run_verify(source, target_url)
    assert not result.equal
    assert [(d.table, d.kind, d.columns) for d in result.differences] == [(table, kind, columns)]
    assert result.document()["exit_code"] == 11


def test_negative_zero_is_kept_or_named(tmp_path: Path, postgres_url: str) -> None:
    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=3)
    run_migrate(source, postgres_url)
    _change(postgres_url, "UPDATE latest_metrics SET value = '-0.0'::float8 WHERE key = 'key-0'")
    assert [d.columns for d in run_verify(source, postgres_url).differences] == [("value",)]
    back = run_migrate(postgres_url, f"sqlite:///{tmp_path}/back.db")
    assert back.status == "verified"
    assert [(e["rule"], e["rows"]) for e in back.explained] == [("negative_zero", 1)]


def test_a_changed_copy_fails_the_proof_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflowctl.stores.sql.target import Writer

    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=3)
    write = Writer.write

    def lossy(self: Writer, table: schemas.Table, rows: object) -> None:
        write(self, table, rows.slice(1) if table.name == "params" else rows)  # type: ignore[attr-defined]

    monkeypatch.setattr(Writer, "write", lossy)
    with pytest.raises(DifferError) as caught:
        run_migrate(source, f"sqlite:///{tmp_path}/t.db")
    assert int(caught.value.exit_code) == 11
    assert not (tmp_path / "t.db").exists()


def test_tables_of_other_owners_are_no_reason_to_refuse(tmp_path: Path, target_url: str) -> None:
    import sqlalchemy as sa

    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=2)
    engine = sa.create_engine(target_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE studies (study_id INTEGER PRIMARY KEY, study_name VARCHAR(20))"))
        connection.execute(sa.text("INSERT INTO studies VALUES (1, 'optuna')"))
    result = run_migrate(source, target_url)
    assert result.status == "verified"
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT study_name FROM studies")).scalar() == "optuna"
    engine.dispose()
    onward = run_migrate(target_url, f"sqlite:///{tmp_path}/onward.db")
    assert [(n["what"], n["rows"]) for n in onward.not_carried] == [("table studies", 1)]


def test_an_alembic_table_of_another_program_cannot_be_shared(tmp_path: Path, target_url: str) -> None:
    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=1)
    import sqlalchemy as sa

    engine = sa.create_engine(target_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
        connection.execute(sa.text("INSERT INTO alembic_version VALUES ('v3.0.0.d')"))
    engine.dispose()
    with pytest.raises(TargetError) as caught:
        run_migrate(source, target_url)
    assert caught.value.kind == "foreign_data"
    assert "v3.0.0.d" in str(caught.value.why)


def test_a_killed_migration_into_a_server_is_cleared_and_made_afresh(
    tmp_path: Path, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflowctl.stores.sql.target import Target

    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=4)
    with monkeypatch.context() as patched:

        def die(self: Target, statements: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(Target, "run", die)
        with pytest.raises(KeyboardInterrupt):
            run_migrate(source, target_url)
    assert run_migrate(source, target_url).status == "verified"
    assert run_verify(source, target_url).equal


def test_one_job_gives_the_same_store(tmp_path: Path) -> None:
    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=4)
    run_migrate(source, f"sqlite:///{tmp_path}/one.db", jobs=1)
    run_migrate(source, f"sqlite:///{tmp_path}/two.db", jobs=2)
    assert run_verify(tmp_path / "one.db", f"sqlite:///{tmp_path}/two.db").equal


def test_a_log_left_beside_the_target_is_not_played_back_over_it(tmp_path: Path) -> None:
    import sqlite3

    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=2)
    old = sqlite3.connect(tmp_path / "t.db")
    old.execute("PRAGMA journal_mode = WAL")
    old.execute("CREATE TABLE z (n INTEGER)")
    old.commit()
    wal = (tmp_path / "t.db-wal").read_bytes()
    old.close()
    (tmp_path / "t.db").unlink(missing_ok=True)
    (tmp_path / "t.db-wal").write_bytes(wal)
    with pytest.raises(TargetError) as caught:
        run_migrate(source, f"sqlite:///{tmp_path}/t.db")
    assert caught.value.kind == "foreign_data"
    assert "t.db-wal" in str(caught.value.where)
    (tmp_path / "t.db-wal").unlink()
    assert run_migrate(source, f"sqlite:///{tmp_path}/t.db").status == "verified"


def test_another_owner_s_wal_database_is_taken_over_whole(tmp_path: Path) -> None:
    import sqlite3

    source, target = tmp_path / "source.db", tmp_path / "t.db"
    make_store(source, HEAD, rows=2)
    owner = sqlite3.connect(target)
    owner.execute("PRAGMA journal_mode = WAL")
    owner.execute("CREATE TABLE studies (n INTEGER)")
    owner.execute("INSERT INTO studies VALUES (7)")
    owner.commit()
    owner.close()
    run_migrate(source, f"sqlite:///{target}")
    reopened = sqlite3.connect(target)
    assert reopened.execute("SELECT n FROM studies").fetchall() == [(7,)]
    assert reopened.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    reopened.close()


@pytest.mark.postgres
def test_a_target_put_to_use_before_it_was_finished_is_not_cleared(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflowctl.stores.sql.target import Target

    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=2)
    with monkeypatch.context() as patched:
        patched.setattr(Target, "complete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_migrate(source, postgres_url)
    _change(
        postgres_url,
        "INSERT INTO experiments (experiment_id, name, lifecycle_stage, workspace) VALUES (77, 'live', 'active', 'default')",
    )
    with pytest.raises(TargetError) as caught:
        run_migrate(source, postgres_url)
    assert caught.value.kind == "foreign_data"
    assert "experiments" in caught.value.what


@pytest.mark.postgres
def test_a_source_that_dies_is_said_in_words(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    from mlflowctl.migrate.copying import Copier

    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=30)
    run_migrate(source, postgres_url)
    copy = Copier.copy

    def kill_first(*arguments: object, **more: object) -> object:
        with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        return copy(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Copier, "copy", kill_first)
    with pytest.raises(SourceError) as caught:
        run_migrate(postgres_url, f"sqlite:///{tmp_path}/t.db")
    assert caught.value.kind == "unreachable"
    assert not (tmp_path / "t.db").exists()


def test_a_newer_source_is_never_equal_to_an_older_target(tmp_path: Path) -> None:
    newer, older = tmp_path / "newer.db", tmp_path / "older.db"
    make_store(newer, HEAD, rows=2)
    make_store(older, "b7e2c1a4d9f3", rows=2)
    with pytest.raises(TargetError) as caught:
        run_verify(newer, f"sqlite:///{older}")
    assert caught.value.kind == "older_revision"


def test_a_column_that_the_target_lost_is_a_difference(tmp_path: Path) -> None:
    import sqlite3

    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=3)
    run_migrate(source, f"sqlite:///{tmp_path}/t.db")
    connection = sqlite3.connect(tmp_path / "t.db")
    connection.execute("ALTER TABLE runs DROP COLUMN deleted_time")
    connection.close()
    result = run_verify(source, f"sqlite:///{tmp_path}/t.db")
    assert not result.equal
    assert "column runs.deleted_time" in result.lacking
    # The other way round the source is the poorer one: its rows arrive, the column is empty.
    poor = run_migrate(tmp_path / "t.db", f"sqlite:///{tmp_path}/again.db")
    assert poor.status == "verified"


def test_a_second_mlflowctl_on_one_target_is_refused(tmp_path: Path, target_url: str) -> None:
    from mlflowctl.stores.sql.target import Target
    from mlflowctl.stores.uri import parse_uri

    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=1)
    first = Target(parse_uri(target_url, side="target"), "tracking")
    first.lock()
    with pytest.raises(TargetError) as caught:
        run_migrate(source, target_url)
    assert caught.value.kind == "locked"
    first.close()
    assert run_migrate(source, target_url).status == "verified"


@pytest.mark.slow
@pytest.mark.parametrize("tampering", ["DELETE FROM metrics", "UPDATE params SET value = 'x'"])
def test_what_goes_wrong_in_an_upgrade_that_should_not_touch_a_table_is_noticed(
    tampering: str, tmp_path: Path, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof of such a table is left to the one after the upgrade."""
    source = tmp_path / "source.db"
    make_store(source, "97727af70f4d", rows=4)
    lift = upgrade.lift

    def badly(target: Target, revision: str, revisions: int) -> Engine[None]:
        yield from lift(target, revision, revisions)
        target.backend.execute(tampering)
        target.commit()

    monkeypatch.setattr(upgrade, "lift", badly)
    with pytest.raises(DifferError) as caught:
        run_migrate(source, target_url)
    table = "metrics" if "metrics" in tampering else "params"
    assert caught.value.where == table
    result = caught.value.result  # type: ignore[attr-defined]
    assert {d["table"] for d in result.verify["differences"]} == {table}
    monkeypatch.undo()
    assert run_migrate(source, target_url).status == "verified"
    assert run_verify(source, target_url).equal
