"""Every trap, with every policy, into every kind of target: named, left out or mended, and proven."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from mlflowctl.core.errors import SourceError
from mlflowctl.migrate.api import MigrateResult
from mlflowctl.stores.sql import reader as readers
from tests.dirt import ALL, HEAD, RUN, TRAPS, Trap
from tests.engine import run_migrate, run_verify
from tests.generate import make_store

_IDS = [trap.name.replace(" ", "-") for trap in TRAPS]


def _kind(url: str) -> str:
    return url.partition(":")[0].partition("+")[0]


def _matches(row: Mapping[str, Any], cells: Mapping[str, Any]) -> bool:
    return all(row.get(name) == value for name, value in cells.items())


def _lines(result: MigrateResult) -> list[dict[str, Any]]:
    if result.rejects["file"] is None:
        return []
    return [json.loads(line) for line in Path(result.rejects["file"]).read_text(encoding="utf-8").splitlines()]


def _count(path: Path, table: str) -> int:
    connection = sqlite3.connect(path)
    count = connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]
    connection.close()
    return int(count)


@pytest.mark.parametrize("trap", TRAPS, ids=_IDS)
def test_stop_names_the_row_and_finishes_nothing(trap: Trap, tmp_path: Path, target_url: str) -> None:
    source = tmp_path / "source.db"
    trap.make(source)
    if _kind(target_url) not in trap.targets:
        result = run_migrate(source, target_url, upgrade=trap.upgrade)
        assert result.status == "verified"
        assert result.rejects["count"] == 0
        return
    with pytest.raises(SourceError) as caught:
        run_migrate(source, target_url, upgrade=trap.upgrade, rejects_file=str(tmp_path / "rejects.jsonl"))
    assert int(caught.value.exit_code) == 4
    named = [line for line in caught.value.details if line.startswith(f"{trap.rule}: {trap.table}[")]
    assert len(named) == 1, caught.value.details
    assert f"].{trap.column}: " in named[0]
    words = str(caught.value.next_step)
    assert "--on-bad-row skip" in words or "--on-bad-row" in words
    assert not (tmp_path / "rejects.jsonl").exists()
    assert not (tmp_path / "target.db").exists()


@pytest.mark.parametrize("policy", ["skip", "fix"])
@pytest.mark.parametrize("trap", TRAPS, ids=_IDS)
def test_the_rest_arrives_and_the_row_is_written_down(trap: Trap, policy: str, tmp_path: Path, target_url: str) -> None:
    source, kind = tmp_path / "source.db", _kind(target_url)
    trap.make(source)
    before = source.read_bytes()
    result = run_migrate(
        source, target_url, upgrade=trap.upgrade, on_bad_row=policy, rejects_file=str(tmp_path / "rejects.jsonl")
    )
    assert result.status == "verified"
    assert result.exit_code == 0
    assert source.read_bytes() == before
    expected: Counter[str] = Counter()
    outcome = trap.outcome(kind) if policy == "fix" else None
    if kind in trap.targets:
        expected[trap.rule] += 1
        if outcome is None:
            expected.update(trap.others)
    lines = _lines(result)
    assert Counter(line["rule"] for line in lines) == expected
    assert result.rejects["by_rule"] == dict(expected)
    assert result.rejects["count"] == sum(expected.values())
    for line in lines:
        if line["rule"] == trap.rule:
            assert line["table"] == trap.table
            assert line["column"] == trap.column
            assert _matches({**line["row"], **line["key"]}, trap.key), line
            assert set(line["key"]) < set(line["row"]) or set(line["key"]) == set(line["row"])
            assert line["became"] == (None if outcome is None else dict(outcome))
            assert line["text"]
    for table in result.tables:
        gone = sum(1 for line in lines if line["table"] == table["name"] and line["became"] is None)
        mended = sum(1 for line in lines if line["table"] == table["name"] and line["became"] is not None)
        assert table["source_rows"] == _count(source, table["name"])
        assert table["written_rows"] == table["source_rows"] - gone
        assert (table["skipped_rows"], table["fixed_rows"]) == (gone, mended)
    again = run_verify(source, target_url)
    assert again.equal, again.document()


def _execute(url: str, *statements: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    engine.dispose()


@pytest.mark.postgres
@pytest.mark.parametrize("policy", ["stop", "skip", "fix"])
@pytest.mark.parametrize("revision", ["90e64c465722", HEAD])
def test_nan_of_a_postgresql_store(
    revision: str, policy: str, tmp_path: Path, postgres_url: str, target_url: str
) -> None:
    """Only PostgreSQL holds a NaN; MLflow 1.0 wrote it there, and had no is_nan to say so elsewhere."""
    made, source = tmp_path / "made.db", postgres_url
    make_store(made, revision, rows=4)
    run_migrate(made, source, upgrade=False)
    _execute(
        source,
        "UPDATE metrics SET value = 'NaN' WHERE key = 'key-0'",
        "UPDATE metrics SET value = '-Infinity' WHERE key = 'key-1'",
    )
    if target_url == postgres_url:
        return
    settings: dict[str, Any] = {"upgrade": False, "rejects_file": str(tmp_path / "rejects.jsonl"), "on_bad_row": policy}
    infinity_too = _kind(target_url) == "mysql"
    if policy == "stop":
        with pytest.raises(SourceError) as caught:
            run_migrate(source, target_url, **settings)
        assert [d.partition(":")[0] for d in caught.value.details] == ["unstorable_float"] * (1 + infinity_too)
        return
    result = run_migrate(source, target_url, **settings)
    assert result.status == "verified"
    found = {line["row"]["value"]: line["became"] for line in _lines(result)}
    mended = policy == "fix" and revision == HEAD
    expected = {"NaN": {"value": 0.0, "is_nan": True} if mended else None}
    if infinity_too:
        expected["-Infinity"] = {"value": -1.7976931348623157e308} if mended else None
    assert found == expected
    assert run_verify(source, target_url).equal


@pytest.mark.postgres
@pytest.mark.parametrize("policy", ["stop", "skip", "fix"])
def test_keys_that_only_postgresql_tells_apart(policy: str, tmp_path: Path, postgres_url: str, mysql_url: str) -> None:
    made = tmp_path / "made.db"
    make_store(made, HEAD, rows=4)
    run_migrate(made, postgres_url, upgrade=False)
    _execute(
        postgres_url,
        f"INSERT INTO params (key, value, run_uuid) VALUES ('Lr', '1', '{RUN}'), ('lr', '2', '{RUN}'), ('LR ', '3', '{RUN}')",
        f"INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('Loss', 1, 1, 1, false, '{RUN}'), ('loss', 2, 2, 2, false, '{RUN}'), ('loss', 3, 3, 3, false, '{RUN}')",
    )
    settings: dict[str, Any] = {"on_bad_row": policy, "rejects_file": str(tmp_path / "rejects.jsonl")}
    if policy == "stop":
        with pytest.raises(SourceError) as caught:
            run_migrate(postgres_url, mysql_url, **settings)
        assert {d.partition(":")[0] for d in caught.value.details} == {"duplicate_key"}
        return
    result = run_migrate(postgres_url, mysql_url, **settings)
    assert result.status == "verified"
    # The first in binary order stays: 'LR ' of the parameters, 'Loss' of the metrics (mixed series would be one there).
    assert sorted((line["table"], line["row"]["key"]) for line in _lines(result)) == [
        ("metrics", "loss"),
        ("metrics", "loss"),
        ("params", "Lr"),
        ("params", "lr"),
    ]
    assert run_verify(postgres_url, mysql_url).equal


def test_every_bad_row_of_every_table_is_found_by_a_scan(tmp_path: Path, target_url: str) -> None:
    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=4)
    connection = sqlite3.connect(source)
    connection.execute("UPDATE metrics SET step = 'seven', timestamp = 'eight' WHERE key = 'key-0'")
    connection.execute("UPDATE tags SET value = CAST(x'ff' AS TEXT) WHERE key = 'key-1'")
    connection.execute("UPDATE params SET value = x'00' WHERE key IN ('key-0', 'key-2')")
    connection.commit()
    connection.close()
    with pytest.raises(SourceError) as caught:
        run_migrate(source, target_url, scan=True)
    found = sorted(d.split("[")[0] for d in caught.value.details)
    assert found == ["bytes_in_text: params"] * 2 + ["invalid_utf8: tags", "wrong_type: metrics"]
    both = next(d for d in caught.value.details if d.startswith("wrong_type"))
    assert "'seven' is text" in both
    assert "'eight' is text" in both


def test_a_second_run_of_a_stopped_migration_mends_with_another_policy(tmp_path: Path, target_url: str) -> None:
    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=4)
    connection = sqlite3.connect(source)
    connection.execute("UPDATE tags SET value = CAST(x'ff' AS TEXT) WHERE key = 'key-1'")
    connection.commit()
    connection.close()
    with pytest.raises(SourceError):
        run_migrate(source, target_url)
    result = run_migrate(source, target_url, on_bad_row="fix", rejects_file=str(tmp_path / "rejects.jsonl"))
    assert result.status == "verified"
    assert result.rejects["by_rule"] == {"invalid_utf8": 1}


def test_the_traps_name_every_target() -> None:
    assert {kind for trap in TRAPS for kind in trap.targets} == ALL


@pytest.mark.parametrize("policy", ["skip", "fix"])
def test_rows_that_stand_twice_in_a_table_of_many_chunks(
    policy: str, tmp_path: Path, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "CHUNK_ROWS", 300)
    monkeypatch.setattr(readers, "_SMALL_ROWS", 100)
    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=4)
    with closing(sqlite3.connect(source)) as connection, connection:
        text = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'tags'").fetchone()[0]
        connection.execute("DROP TABLE tags")
        connection.execute(text.replace('CONSTRAINT tag_pk PRIMARY KEY ("key", run_uuid)', "CHECK (1)"))
        connection.executemany(
            "INSERT INTO tags (key, value, run_uuid) VALUES (?, 'v', ?)", [(f"k{n % 900}", RUN) for n in range(1000)]
        )
    result = run_migrate(source, target_url, on_bad_row=policy, rejects_file=str(tmp_path / "rejects.jsonl"))
    assert result.rejects["by_rule"] == {"duplicate_key": 100}
    assert next(t for t in result.tables if t["name"] == "tags")["written_rows"] == 900
    assert run_verify(source, target_url).equal


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_odd_rows_of_a_file_in_utf_16(encoding: str, tmp_path: Path) -> None:
    plain, source = tmp_path / "plain.db", tmp_path / "source.db"
    make_store(plain, HEAD, rows=4)
    with closing(sqlite3.connect(plain)) as connection, closing(sqlite3.connect(source)) as wide:
        wide.execute(f"PRAGMA encoding = '{encoding}'")
        for statement in connection.iterdump():
            wide.execute(statement)
        wide.execute("UPDATE metrics SET step = 'sieben ä' WHERE key = 'key-0'")
        wide.commit()
    rejects = tmp_path / "rejects.jsonl"
    target = f"sqlite:///{tmp_path}/target.db"
    result = run_migrate(source, target, on_bad_row="fix", rejects_file=str(rejects))
    assert result.rejects["by_rule"] == {"wrong_type": 1}
    row = json.loads(rejects.read_text(encoding="utf-8"))["row"]
    assert (row["key"], row["step"], row["timestamp"]) == ("key-0", "sieben ä", 1)
    assert run_verify(source, target).equal


@pytest.mark.parametrize("policy", ["stop", "skip", "fix"])
def test_infinity_in_a_json_column(policy: str, tmp_path: Path, target_url: str) -> None:
    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=4)
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute(
            "UPDATE evaluation_dataset_records SET inputs = 9e999 WHERE dataset_record_id = 'dataset_record_id-0'"
        )
    if policy == "stop":
        with pytest.raises(SourceError) as caught:
            run_migrate(source, target_url)
        assert [d.partition("[")[0].partition(": ")[2] for d in caught.value.details] == ["evaluation_dataset_records"]
        return
    result = run_migrate(source, target_url, on_bad_row=policy, rejects_file=str(tmp_path / "rejects.jsonl"))
    (line,) = _lines(result)
    assert line["became"] == ({"inputs": "null"} if policy == "fix" else None)
    assert run_verify(source, target_url).equal
