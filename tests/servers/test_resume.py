"""A migration that stopped is carried on with: what is noted as done is not done again, and what changed is noticed."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from mlflowctl.core.errors import SourceError, TargetError, UsageError
from mlflowctl.core.events import Note, drive
from mlflowctl.migrate import stand
from mlflowctl.migrate.api import MigrateResult, MigrateSettings
from mlflowctl.migrate.run import migrate
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.open import open_reader
from mlflowctl.stores.sql import reader as readers
from mlflowctl.stores.sql import target as targets
from mlflowctl.stores.sql.target import Target, Writer
from mlflowctl.stores.uri import parse_uri
from tests.engine import run_migrate, run_verify
from tests.generate import make_store

HEAD = "dc11669786a5"
OLD = "97727af70f4d"


class _Stop(BaseException):
    pass


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "CHUNK_ROWS", 300)
    monkeypatch.setattr(readers, "_SMALL_ROWS", 100)


def _many_metrics(store: Path, rows: int, *, keys: int = 7) -> None:
    connection = sqlite3.connect(store)
    run = connection.execute("SELECT run_uuid FROM runs LIMIT 1").fetchone()[0]
    connection.executemany(
        "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, 0)",
        [(f"k'{n % keys}%\\", n / 7, 1000 + n, run, n) for n in range(rows)],
    )
    connection.commit()
    connection.close()


def _notes(source: Path | str, target: str, **settings: Any) -> tuple[MigrateResult, list[str]]:
    said: list[str] = []
    uri = f"sqlite:///{source}" if isinstance(source, Path) else source
    result = drive(
        migrate(MigrateSettings(source=uri, target=target, **settings)),
        lambda event: said.append(event.text) if isinstance(event, Note) else None,
    )
    return result, said


@contextmanager
def _held_by_another_process(file: Path) -> Iterator[None]:
    """Locked as by a transaction that has begun to write; in this process SQLite's locks would not be seen."""
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN EXCLUSIVE'); print(flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", script, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        yield
    finally:
        holder.communicate()


def _unowned(rejects: Path) -> list[str]:
    """The lines without the migration that wrote them."""
    return [line.partition('"chunk"')[2] for line in rejects.read_text(encoding="utf-8").splitlines()]


def _stop_at_commit(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Stop in place of the chunk's commit number ``number``."""
    commit = Writer.commit
    count = 0

    def counted(self: Writer, chunk: str | None, document: Any) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise _Stop
        commit(self, chunk, document)

    monkeypatch.setattr(Writer, "commit", counted)


@pytest.mark.usefixtures("small_chunks")
def test_only_what_is_missing_is_copied(tmp_path: Path, target_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=3)
    _many_metrics(source, 3000)
    with monkeypatch.context() as patched:
        _stop_at_commit(patched, 8)
        with pytest.raises(_Stop):
            run_migrate(source, target_url, jobs=1)
    found = stand.status(target_url)
    assert found["status"] == "unfinished"
    assert found["phase"] == "copy"
    assert found["chunks"]["done"] == 7
    there = found["chunks"]["rows"]
    written = 0
    write = Writer.write

    def counting(self: Writer, table: Any, rows: Any) -> None:
        nonlocal written
        written += rows.num_rows
        write(self, table, rows)

    monkeypatch.setattr(Writer, "write", counting)
    result, said = _notes(source, target_url)
    assert result.status == "verified"
    assert result.source["snapshot"] == "single"
    assert any("Carrying on" in text for text in said)
    total = sum(table["written_rows"] for table in result.tables)
    assert total > 3000
    assert written == total - there
    assert 0 < there < total
    assert run_verify(source, target_url).equal
    assert stand.status(target_url)["status"] == "complete"


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("policy", ["skip", "fix"])
def test_what_was_copied_before_another_policy_is_judged_again(policy: str, tmp_path: Path, target_url: str) -> None:
    """The chunks of a run's many points are copied before the chunk that holds the bad run, on which they hang."""
    source = tmp_path / "source.db"
    make_store(source, OLD, rows=3)
    _many_metrics(source, 3000)
    with closing(sqlite3.connect(source)) as connection, connection:
        run = connection.execute("SELECT run_uuid FROM metrics WHERE key LIKE 'k%' LIMIT 1").fetchone()[0]
        connection.execute("UPDATE runs SET start_time = 'abc' WHERE run_uuid = ?", (run,))
    with pytest.raises(SourceError):
        run_migrate(source, target_url, upgrade=False)
    assert stand.status(target_url)["chunks"]["done"] > 5
    settings: dict[str, Any] = {"upgrade": False, "on_bad_row": policy}
    result, said = _notes(source, target_url, rejects_file=str(tmp_path / "rejects.jsonl"), **settings)
    assert result.status == "verified"
    assert result.source["snapshot"] == "single"
    assert any("judged again" in text for text in said)
    lines = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]
    assert Counter(line["rule"] for line in lines) == result.rejects["by_rule"]
    orphans = [line for line in lines if line["rule"] == "orphan" and line["table"] == "metrics"]
    assert len(orphans) >= 3000
    assert next(t for t in result.tables if t["name"] == "metrics")["skipped_rows"] == len(orphans)
    assert run_verify(source, target_url).equal
    fresh = run_migrate(
        source, f"sqlite:///{tmp_path}/fresh.db", rejects_file=str(tmp_path / "fresh.jsonl"), **settings
    )
    assert fresh.rejects["by_rule"] == result.rejects["by_rule"]


@pytest.mark.usefixtures("small_chunks")
def test_what_is_written_after_the_instant_is_noticed_by_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that commits between the first read and the copy, and is quiet from then on."""
    source, target = tmp_path / "source.db", f"sqlite:///{tmp_path}/target.db"
    make_store(source, OLD, rows=3)
    _many_metrics(source, 3000)
    with closing(sqlite3.connect(source)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("UPDATE tags SET value = value")
        writer.commit()
        begin = Target.begin

        def begun(self: Target, *given: Any) -> None:
            run = writer.execute("SELECT run_uuid FROM metrics WHERE key LIKE 'k%' LIMIT 1").fetchone()[0]
            writer.execute(
                "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('late', 1, 1, ?, 1, 0)",
                (run,),
            )
            writer.commit()
            begin(self, *given)

        with monkeypatch.context() as patched:
            patched.setattr(Target, "begin", begun)
            _stop_at_commit(patched, 12)
            with pytest.raises(_Stop):
                run_migrate(source, target, upgrade=False, jobs=1)
        result, _ = _notes(source, target, upgrade=False)
        assert result.source["snapshot"] == "multiple"
        with closing(sqlite3.connect(tmp_path / "target.db")) as found:
            assert found.execute("SELECT count(*) FROM metrics WHERE key = 'late'").fetchone()[0] == 1
        assert run_verify(source, target).equal


@pytest.mark.usefixtures("small_chunks")
def test_a_source_that_gained_experiments_between_two_kills(
    tmp_path: Path, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source.db"
    make_store(source, OLD, rows=3)
    _many_metrics(source, 3000)
    with monkeypatch.context() as patched:
        _stop_at_commit(patched, 3)
        with pytest.raises(_Stop):
            run_migrate(source, target_url, upgrade=False, jobs=1)
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute(
            "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (777, 'new', 'active')"
        )

    def stopped(*_: Any) -> None:
        raise _Stop

    with monkeypatch.context() as patched:
        patched.setattr(Target, "complete", stopped)
        with pytest.raises(_Stop):
            run_migrate(source, target_url, upgrade=False)
    assert run_migrate(source, target_url, upgrade=False).status == "verified"
    assert run_verify(source, target_url).equal


@pytest.mark.mysql
def test_the_upgrade_of_a_killed_run_is_waited_for(
    mysql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MySQL cannot take half a revision back, so there the child goes on; nobody may drop tables under it."""
    source = tmp_path / "source.db"
    make_store(source, OLD, rows=3)
    monkeypatch.setattr(targets, "_CHILD_SECONDS", 1)
    engine = sa.create_engine(mysql_url, poolclass=sa.NullPool)
    with engine.connect() as child:
        assert child.exec_driver_sql("SELECT GET_LOCK(LEFT(CONCAT('mlflowctl ', MD5(DATABASE())), 64), 0)").scalar()
        with pytest.raises(TargetError) as caught:
            run_migrate(source, mysql_url, upgrade=False)
    assert caught.value.kind == "locked"
    assert "still at work" in caught.value.what
    assert int(caught.value.exit_code) == 5
    assert run_migrate(source, mysql_url, upgrade=False).status == "verified"


def test_a_build_that_is_held_is_no_ruin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the upgrade's child of a killed run, say: it is waited for, and nothing is removed under it."""
    source, target = tmp_path / "source.db", tmp_path / "target.db"
    make_store(source, OLD, rows=3)
    with monkeypatch.context() as patched:
        _stop_before_phase(patched, "upgrade")
        with pytest.raises(_Stop):
            run_migrate(source, f"sqlite:///{target}")
    build = target.with_name("target.db.mlflowctl-partial")
    before = build.stat().st_ino
    with _held_by_another_process(build):
        with pytest.raises(TargetError) as caught:
            run_migrate(source, f"sqlite:///{target}", retry_seconds=0)
        assert caught.value.kind == "deadlock"
        assert int(caught.value.exit_code) == 5
        assert build.stat().st_ino == before
    result, said = _notes(source, f"sqlite:///{target}")
    assert result.status == "verified"
    assert any("Carrying on" in text for text in said)


def test_a_rejects_file_holds_the_lines_of_both_chains_and_keeps_what_it_held(tmp_path: Path) -> None:
    source, users, rejects = tmp_path / "source.db", tmp_path / "users.db", tmp_path / "rejects.jsonl"
    make_store(source, OLD, rows=3)
    make_store(users, schemas.installed_head("auth"), rows=3, chain="auth")
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("UPDATE tags SET value = CAST(x'ff' AS TEXT) WHERE key = 'key-1'")
    with closing(sqlite3.connect(users)) as connection, connection:
        connection.execute("UPDATE users SET password_hash = x'00' WHERE id = 1")
    # A last line without its end, too.
    before = b'notes of mine\n{"chunk": "x"}\n\xff {"migr'
    rejects.write_bytes(before)
    result = run_migrate(
        source,
        f"sqlite:///{tmp_path}/target.db",
        upgrade=False,
        on_bad_row="fix",
        rejects_file=str(rejects),
        auth_source=f"sqlite:///{users}",
        auth_target=f"sqlite:///{tmp_path}/new-users.db",
    )
    assert rejects.read_bytes().startswith(before + b"\n")
    lines = [json.loads(line) for line in rejects.read_bytes()[len(before) + 1 :].splitlines()]
    assert result.rejects["count"] == 1
    assert result.auth is not None
    assert [line["table"] for line in lines if line["table"] == "tags"] == ["tags"]
    assert [line["column"] for line in lines if line["table"] == "users"] == ["password_hash"]
    assert len({line["migration"] for line in lines}) == 2


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("phase", ["index", "upgrade", "lifted", "complete"])
def test_a_stop_after_the_copy_copies_nothing_again(
    phase: str, tmp_path: Path, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if target_url.startswith("mysql") and phase == "upgrade":
        # The chain costs a quarter of a minute there; test_kills has it.
        phase = "lifted"
    source = tmp_path / "source.db"
    make_store(source, "534353b11cbc" if target_url.startswith("mysql") else OLD, rows=3)
    settings = {"upgrade": False} if target_url.startswith("mysql") else {}
    with monkeypatch.context() as patched:
        if phase == "complete":
            patched.setattr(Target, "complete", lambda *_: (_ for _ in ()).throw(_Stop()))
        else:
            advance = Target.advance

            def stopping(self: Target, record: Any, *, phase: str, **more: Any) -> Any:
                new = advance(self, record, phase=phase, **more)
                if phase == wanted:
                    raise _Stop
                return new

            wanted = phase
            patched.setattr(Target, "advance", stopping)
        with pytest.raises(_Stop):
            run_migrate(source, target_url, **settings)
    monkeypatch.setattr(Writer, "write", lambda *_: pytest.fail("a finished table was written again"))
    result = run_migrate(source, target_url, **settings)
    assert result.status == "verified"
    assert sum(table["written_rows"] for table in result.tables) > 10
    assert run_verify(source, target_url).equal


@pytest.mark.usefixtures("small_chunks")
def test_a_source_that_changed_in_between_is_checked_again(
    tmp_path: Path, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=3)
    _many_metrics(source, 2000)
    with monkeypatch.context() as patched:
        _stop_at_commit(patched, 9)
        with pytest.raises(_Stop):
            run_migrate(source, target_url, jobs=1)
    _many_metrics_later(source)
    result, said = _notes(source, target_url)
    assert result.status == "verified"
    assert result.source["snapshot"] == "multiple"
    assert any("another instant" in text for text in said)
    assert run_verify(source, target_url).equal


def _many_metrics_later(store: Path) -> None:
    connection = sqlite3.connect(store)
    connection.execute("UPDATE metrics SET value = value + 1 WHERE step = 5")
    connection.execute("DELETE FROM metrics WHERE step = 77")
    connection.execute("UPDATE runs SET status = 'FAILED' WHERE rowid = 1")
    connection.commit()
    connection.close()


@pytest.mark.usefixtures("small_chunks")
def test_tables_that_share_a_chunk_with_a_changed_one_are_not_doubled(
    tmp_path: Path, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=3)
    _many_metrics(source, 500)
    with monkeypatch.context() as patched:
        _stop_before_phase(patched, "index")
        with pytest.raises(_Stop):
            run_migrate(source, target_url, experiment_ids="renumber")
    connection = sqlite3.connect(source)
    connection.execute("INSERT INTO tags (key, value, run_uuid) SELECT 'late', 'v', run_uuid FROM runs LIMIT 1")
    connection.commit()
    connection.close()
    result = run_migrate(source, target_url, experiment_ids="renumber")
    assert result.status == "verified"
    assert result.source["snapshot"] == "multiple"
    assert run_verify(source, target_url).equal


def _stop_before_phase(patched: pytest.MonkeyPatch, phase: str) -> None:
    advance = Target.advance

    def until(self: Target, record: Any, **more: Any) -> Any:
        if more["phase"] == phase:
            raise _Stop
        return advance(self, record, **more)

    patched.setattr(Target, "advance", until)


@pytest.mark.parametrize("stopped_before", ["index", "upgrade"])
@pytest.mark.usefixtures("small_chunks")
def test_a_rejects_file_that_got_lost_is_made_again(
    stopped_before: str, tmp_path: Path, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, rejects = tmp_path / "source.db", tmp_path / "rejects.jsonl"
    make_store(source, OLD, rows=3)
    _many_metrics(source, 500)
    connection = sqlite3.connect(source)
    connection.execute("UPDATE tags SET value = x'41ff' WHERE key = 'key-1'")
    connection.execute("UPDATE metrics SET step = 'seven' WHERE step = 7")
    connection.commit()
    connection.close()
    settings: dict[str, Any] = {"on_bad_row": "fix", "rejects_file": str(rejects)}
    with monkeypatch.context() as patched:
        _stop_before_phase(patched, stopped_before)
        with pytest.raises(_Stop):
            run_migrate(source, target_url, **settings)
    before = sorted(_unowned(rejects))
    assert len(before) >= 2
    rejects.unlink()
    result = run_migrate(source, target_url, **settings)
    assert result.status == "verified"
    assert result.rejects["count"] == len(before)
    assert sorted(_unowned(rejects)) == before


@pytest.mark.usefixtures("small_chunks")
def test_another_rejects_file_takes_over_the_lines(
    tmp_path: Path, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, first, second = tmp_path / "source.db", tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    make_store(source, HEAD, rows=3)
    connection = sqlite3.connect(source)
    connection.execute("UPDATE tags SET value = x'41ff' WHERE key = 'key-1'")
    connection.commit()
    connection.close()
    with monkeypatch.context() as patched:
        _stop_before_phase(patched, "index")
        with pytest.raises(_Stop):
            run_migrate(source, target_url, on_bad_row="skip", rejects_file=str(first))
    result = run_migrate(source, target_url, on_bad_row="skip", rejects_file=str(second))
    assert result.rejects == {"count": 1, "file": str(second), "by_rule": {"bytes_in_text": 1}}
    assert second.read_text() == first.read_text()


def test_a_source_that_changed_after_the_copy_is_copied_afresh(
    tmp_path: Path, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=3)
    with monkeypatch.context() as patched:
        patched.setattr(Target, "complete", lambda *_: (_ for _ in ()).throw(_Stop()))
        with pytest.raises(_Stop):
            run_migrate(source, target_url)
    _many_metrics_later(source)
    result, said = _notes(source, target_url)
    assert result.status == "verified"
    assert any("made afresh" in text and "runs" in text for text in said)
    assert run_verify(source, target_url).equal


def test_other_options_begin_afresh(tmp_path: Path, target_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=3)
    with monkeypatch.context() as patched:
        _stop_at_commit(patched, 1)
        with pytest.raises(_Stop):
            run_migrate(source, target_url)
    result, said = _notes(source, target_url, map_artifacts=(("plain", "s3://new"),))
    assert result.status == "verified"
    assert any("--map-artifacts differs" in text for text in said)


def test_abort_removes_what_was_made_and_nothing_else(
    tmp_path: Path, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlalchemy as sa

    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=3)
    engine = sa.create_engine(target_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE studies (study_id INTEGER PRIMARY KEY)"))
        connection.execute(sa.text("INSERT INTO studies VALUES (7)"))
    engine.dispose()
    assert stand.status(target_url)["status"] == "empty"
    assert stand.abort(target_url)["status"] == "nothing"
    with monkeypatch.context() as patched:
        patched.setattr(Target, "complete", lambda *_: (_ for _ in ()).throw(_Stop()))
        with pytest.raises(_Stop):
            run_migrate(source, target_url)
    assert stand.status(target_url)["status"] == "unfinished"
    done = stand.abort(target_url)
    assert done["status"] == "aborted"
    assert done["removed"]
    assert stand.status(target_url)["status"] == "empty"
    engine = sa.create_engine(target_url)
    assert sa.inspect(engine).get_table_names() == ["studies"]
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT study_id FROM studies")).scalar() == 7
    engine.dispose()
    assert not list(tmp_path.glob("*.mlflowctl-partial*"))
    assert run_migrate(source, target_url).status == "verified"


def test_a_finished_target_is_not_aborted_but_can_be_forgotten(tmp_path: Path, target_url: str) -> None:
    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=3)
    run_migrate(source, target_url)
    with pytest.raises(UsageError) as caught:
        stand.abort(target_url)
    assert "--forget" in str(caught.value.next_step)
    done = stand.abort(target_url, forget=True)
    assert done == {**done, "status": "forgotten", "removed": ["table mlflowctl_migrations"]}
    assert run_verify(source, target_url).equal
    assert stand.status(target_url)["status"] == "foreign"
    with pytest.raises(TargetError) as refused:
        run_migrate(source, target_url)
    assert refused.value.kind == "foreign_data"


def test_a_second_mlflowctl_names_the_first(tmp_path: Path, target_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import socket

    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=3)
    seen: list[str] = []
    complete = Target.complete

    def meanwhile(self: Target, *arguments: Any) -> None:
        with pytest.raises(TargetError) as caught:
            run_migrate(source, target_url)
        assert caught.value.kind == "locked"
        seen.append(caught.value.what)
        seen.append(stand.status(target_url)["status"])
        complete(self, *arguments)

    monkeypatch.setattr(Target, "complete", meanwhile)
    assert run_migrate(source, target_url).status == "verified"
    assert f"process {os.getpid()} on {socket.gethostname()}" in seen[0]
    assert seen[1] == "busy"


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_any_number_of_jobs_gives_the_same_store(jobs: int, tmp_path: Path, target_url: str) -> None:
    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=4)
    _many_metrics(source, 5000)
    result = run_migrate(source, target_url, jobs=jobs)
    assert result.status == "verified"
    onward = run_migrate(target_url, f"sqlite:///{tmp_path}/onward.db", jobs=jobs)
    assert onward.status == "verified"
    assert run_verify(source, f"sqlite:///{tmp_path}/onward.db").equal


@pytest.mark.usefixtures("small_chunks")
def test_ranges_have_no_gap_and_no_overlap(tmp_path: Path, target_url: str) -> None:
    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=4)
    # Values that a collation may order otherwise than Python; one of them has most of the rows.
    connection = sqlite3.connect(source)
    run = connection.execute("SELECT run_uuid FROM runs LIMIT 1").fetchone()[0]
    keys = ["c", "B", "ä", "zz", "'q", "%s", "\\x", "10", "9", "名前", "_", "big"]
    connection.executemany(
        "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, 0)",
        [(keys[n % len(keys)] if n < 2400 else "big", n / 7, n, run, n) for n in range(6000)],
    )
    connection.commit()
    connection.close()
    run_migrate(source, target_url)
    if target_url.startswith("postgresql"):
        import psycopg

        with psycopg.connect(target_url.replace("+psycopg", ""), autocommit=True) as server:
            server.execute("ANALYZE metrics")
    with open_reader(parse_uri(target_url, side="source")) as reader:
        chunks = [c for c in reader.chunks() if "metrics" in c.tables]
        if not target_url.startswith("mysql"):
            assert len(chunks) > 3
        rows: Counter[tuple[Any, ...]] = Counter()
        for chunk in chunks:
            for batch in reader.read(chunk):
                if batch.table == "metrics":
                    rows.update(zip(*(c.to_pylist() for c in batch.rows.columns), strict=True))
        assert set(rows.values()) == {1}
        assert len(rows) == reader.counts(exact=True)["metrics"].rows >= 6000
