"""Fills any revision's schema with rows that touch every table and column, from the schema data alone."""

from __future__ import annotations

import random
import re
import sqlite3
from pathlib import Path
from typing import Any

from mlflowctl.stores import schema as schemas
from mlflowctl.stores.schema import Column, Schema, Table

TEXTS = (
    "plain",
    "ünïcødé 名前 🚀",
    "two\nlines\r\n",
    "tab\tand \\backslash\\",
    "'quotes\" and %s",
    " blanks ",
    "",
    "NULL",
    "\\N",
)
FLOATS = (0.1, -1.5, 1e-300, 1.7976931348623157e308, 3.0, 0.0, 123456789.123456789)
JSONS = ('{"a": [1, 2.5, null], "ü": "x\\ny"}', "[]", '"text"', "3", "true", '{"nested": {"deep": {"er": 1e10}}}')


def make_store(path: Path, revision: str, rows: int = 12, seed: int = 1, chain: schemas.Chain = "tracking") -> Schema:
    """A SQLite store at ``revision`` with about ``rows`` rows in every table."""
    schema = schemas.schema_at(chain, "sqlite", revision)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA foreign_keys = OFF")
    for table in schema.tables.values():
        for statement in table.create:
            connection.execute(statement)
    if revision != "base":
        connection.execute(
            f"CREATE TABLE {schemas.version_table(chain)} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
        )
        connection.execute(f"INSERT INTO {schemas.version_table(chain)} VALUES (?)", (revision,))
    made: dict[str, list[dict[str, Any]]] = {}
    randomly = random.Random(seed)
    for table in _parents_first(schema):
        made[table.name] = [dict(r) for r in schema.seed.get(table.name, ())]
        for number in range(rows):
            row = _row(table, number, made, randomly)
            if row is not None and _fits(table, row, made[table.name]):
                made[table.name].append(row)
        for row in made[table.name]:
            names = ", ".join(f'"{n}"' for n in row)
            connection.execute(
                f'INSERT INTO "{table.name}" ({names}) VALUES ({", ".join("?" * len(row))})', list(row.values())
            )
    for table in schema.tables.values():
        for statement in table.finish:
            connection.execute(statement)
    assert not connection.execute("PRAGMA foreign_key_check").fetchall()
    connection.commit()
    connection.close()
    return schema


def _parents_first(schema: Schema) -> list[Table]:
    done: list[Table] = []
    left = dict(schema.tables)
    while left:
        ready = [t for t in left.values() if all(f.table == t.name or f.table not in left for f in t.foreign_keys)]
        assert ready, f"a cycle of foreign keys among {sorted(left)}"
        done.extend(left.pop(table.name) for table in ready)
    return done


def _row(
    table: Table, number: int, made: dict[str, list[dict[str, Any]]], randomly: random.Random
) -> dict[str, Any] | None:
    row = {c.name: _value(table, c, number, randomly) for c in table.columns if not c.computed}
    for link in table.foreign_keys:
        parents = made.get(link.table, [])
        nullable = all(next(c for c in table.columns if c.name == n).nullable for n in link.columns)
        if not parents:
            if not nullable:
                return None
            row.update(dict.fromkeys(link.columns))
            continue
        parent = parents[number % len(parents)]
        row.update({own: parent[other] for own, other in zip(link.columns, link.ref_columns, strict=True)})
    return row


def _fits(table: Table, row: dict[str, Any], before: list[dict[str, Any]]) -> bool:
    keys = [table.primary_key, *(u.columns for u in (*table.uniques, *table.indexes) if u.unique)]
    return not any(key and any(all(_same(old.get(c), row.get(c)) for c in key) for old in before) for key in keys)


def _same(left: Any, right: Any) -> bool:
    return left == right if left is not None else right is None


def _value(table: Table, column: Column, number: int, randomly: random.Random) -> Any:
    key = column.name in table.primary_key or any(
        column.name in u.columns for u in (*table.uniques, *table.indexes) if u.unique
    )
    allowed = _allowed(table, column)
    if allowed:
        return allowed[number % len(allowed)]
    if column.nullable and not key and number % 4 == 3:
        return None
    if column.kind == "bool":
        return number % 2
    if column.kind == "int":
        return (
            number + 1
            if key or column.bits != 64
            else randomly.choice((0, -5, 2**40 + number, 1_700_000_000_000 + number))
        )
    if column.kind == "float":
        return FLOATS[number % len(FLOATS)]
    if column.kind == "json":
        return JSONS[number % len(JSONS)]
    if column.kind == "bytes":
        return bytes(randomly.randrange(256) for _ in range(number * 7 + 1))
    if column.kind == "date":
        return f"2026-01-{number % 28 + 1:02d}"
    text = f"{column.name}-{number}" if key else TEXTS[number % len(TEXTS)] + (f" {number}" if number % 2 else "")
    return text[: column.length] if column.length else text


def _allowed(table: Table, column: Column) -> list[str]:
    for check in table.checks:
        match = re.search(rf"\b{column.name}\"? IN \(([^)]*)\)", check.text)
        if match and "'" in match.group(1):
            return [v.strip().strip("'") for v in match.group(1).split(",")]
    return []
