"""What a target is: rows, columns, keys, indexes, checks and next numbers, read without any of mlflowctl's own code.

Two targets made by the same command have equal fingerprints, however often one of the two makers was disturbed. What
differs between two undisturbed runs, and nothing else, is left out: the times and the ID in the row of
``mlflowctl_migrations``, and the columns that the caller names as volatile.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

JOURNAL = "mlflowctl_migrations"
#: What the journal's document says about the finished target; anything else in it tells how the way there was.
_OUTCOME = ("hashes", "revision", "experiment_ids", "map_artifacts", "reroot_artifacts")
_LANE = 1 << 128

Fingerprint = dict[str, Any]
Volatile = Mapping[str, Collection[str]]

#: MLflow's revision dc11669786a5 stamps the jobs that it cancels with the time of the upgrade.
UPGRADED: Volatile = {"jobs": ("last_update_time",)}


def fingerprint(url: str, volatile: Volatile | None = None) -> Fingerprint:
    """Everything that must be the same in two targets of the same source.

    Args:
        url: an SQLAlchemy URL of SQLite, PostgreSQL or MySQL.
        volatile: columns by table whose values are left out of the rows' hash.
    """
    if url.startswith("sqlite"):
        return _sqlite(Path(url.split("///", 1)[1]), volatile or {})
    if url.startswith("postgres"):
        return _postgresql(url, volatile or {})
    return _mysql(url, volatile or {})


def difference(left: Any, right: Any, where: str = "") -> list[str]:
    """Every place where two fingerprints differ, a line each; empty when they are equal."""
    if isinstance(left, dict) and isinstance(right, dict):
        lines = []
        for name in sorted({*left, *right}, key=str):
            here = f"{where}/{name}"
            if name not in left or name not in right:
                lines.append(f"{here}: only {'right' if name not in left else 'left'}")
            else:
                lines.extend(difference(left[name], right[name], here))
        return lines
    if isinstance(left, list) and isinstance(right, list) and left != right:
        only = [f"-{x!r}" for x in left if x not in right] + [f"+{x!r}" for x in right if x not in left]
        return [f"{where}: {'; '.join(only) or 'another order'}"]
    return [] if left == right else [f"{where}: {left!r} != {right!r}"]


def rows_hash(rows: Iterable[Sequence[Any]]) -> tuple[int, str]:
    """The number of rows and a hash that does not depend on their order."""
    total = count = 0
    for row in rows:
        count += 1
        digest = hashlib.blake2b(repr(tuple(row)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        total = (total + int.from_bytes(digest, "big")) % _LANE
    return count, f"{total:032x}"


def _journal(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The journal without what no two runs share."""
    kept = []
    for row in rows:
        document = json.loads(row["document"])
        outcome = {name: document[name] for name in _OUTCOME if name in document}
        kept.append(
            json.dumps(
                {"chain": row["chain"], "state": row["state"], "source": row["source"], **outcome}, sort_keys=True
            )
        )
    return sorted(kept)


def _leftovers(tables: Iterable[str]) -> list[str]:
    """Tables of mlflowctl or of an interrupted upgrade that a finished target must not hold."""
    return sorted(t for t in tables if (t.startswith("mlflowctl") and t != JOURNAL) or t.startswith("_alembic_tmp"))


# -- SQLite ----------------------------------------------------------------------------------------------------------


def _sqlite(file: Path, volatile: Volatile) -> Fingerprint:
    beside = sorted(p.name for p in file.parent.iterdir() if p.name.startswith(file.name) and p != file)
    if not file.exists():
        return {"exists": False, "files beside it": beside}
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        # Bytes show text that is no UTF-8, and tell text from numbers.
        connection.text_factory = bytes
        found = _sqlite_schema(connection)
        names = [n.decode() for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {}
        for table in sorted(names):
            if table == JOURNAL or table.startswith("sqlite_"):
                continue
            columns = [c for c in _sqlite_columns(connection, table) if c not in volatile.get(table, ())]
            rows[table] = rows_hash(
                connection.execute(f"SELECT {', '.join(map(_quoted, columns))} FROM {_quoted(table)}")
            )
        found["rows"] = rows
        connection.text_factory = str
        connection.row_factory = sqlite3.Row
        found["journal"] = _journal(connection.execute(f"SELECT * FROM {JOURNAL}")) if JOURNAL in names else None
        found["leftovers"] = _leftovers(names)
    return {"exists": True, "files beside it": beside, **found}


def _sqlite_schema(connection: sqlite3.Connection) -> Fingerprint:
    def text(value: Any) -> Any:
        return value.decode() if isinstance(value, bytes) else value

    def pragma(sql: str) -> list[tuple[Any, ...]]:
        return [tuple(map(text, row)) for row in connection.execute(sql)]

    objects = pragma("SELECT type, name, tbl_name, sql FROM sqlite_master")
    tables = sorted(name for kind, name, _, _ in objects if kind == "table")
    structure: dict[str, Any] = {}
    for table in tables:
        indexes = {}
        for _, name, unique, origin, partial in pragma(f"PRAGMA index_list({_quoted(table)})"):
            columns = [column[2:] for column in pragma(f"PRAGMA index_xinfo({_quoted(name)})")]
            # An automatic index is named by its place among the table's indexes.
            indexes[name] = {"unique": unique, "origin": origin, "partial": partial, "columns": columns}
        structure[table] = {
            "columns": pragma(f"PRAGMA table_xinfo({_quoted(table)})"),
            "foreign keys": sorted(pragma(f"PRAGMA foreign_key_list({_quoted(table)})")),
            "indexes": indexes,
        }
    numbered = "sqlite_sequence" in tables
    return {
        # The text holds the names of constraints and the checks, which no pragma tells.
        "sql": {f"{kind} {name}": " ".join((sql or "").split()) for kind, name, _, sql in objects},
        "structure": structure,
        "next numbers": dict(pragma("SELECT name, seq FROM sqlite_sequence")) if numbered else {},
        "integrity": [r[0] for r in pragma("PRAGMA integrity_check")],
        "orphans": pragma("PRAGMA foreign_key_check"),
        "settings": {
            name: pragma(f"PRAGMA {name}")[0][0]
            for name in ("user_version", "application_id", "journal_mode", "auto_vacuum", "encoding", "page_size")
        },
        "analysed": sorted(pragma("SELECT tbl, idx FROM sqlite_stat1"), key=str) if "sqlite_stat1" in tables else [],
    }


def _sqlite_columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1].decode() for row in connection.execute(f"PRAGMA table_xinfo({_quoted(table)})")]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# -- PostgreSQL ------------------------------------------------------------------------------------------------------

_PG_COLUMNS = """
SELECT c.relname, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text,
       a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid), co.collname
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
LEFT JOIN pg_collation co ON co.oid = a.attcollation
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0
  AND NOT a.attisdropped"""
_PG_CONSTRAINTS = """
SELECT c.relname, k.conname, k.contype::text, pg_get_constraintdef(k.oid), k.convalidated, k.condeferrable
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid WHERE c.relnamespace = current_schema()::regnamespace"""
_PG_INDEXES = """
SELECT t.relname, i.relname, pg_get_indexdef(x.indexrelid), x.indisvalid, x.indisready, x.indisprimary, x.indisunique,
       x.indisclustered, x.indisreplident
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
WHERE t.relnamespace = current_schema()::regnamespace"""
_PG_SEQUENCES = """
SELECT s.sequencename, s.data_type::text, s.start_value, s.min_value, s.max_value, s.increment_by, s.cycle, s.last_value,
       d.refobjid::regclass::text, d.refobjsubid
FROM pg_sequences s LEFT JOIN pg_depend d
  ON d.objid = (quote_ident(s.schemaname) || '.' || quote_ident(s.sequencename))::regclass AND d.deptype IN ('a', 'i')
WHERE s.schemaname = current_schema()"""
_PG_RELATIONS = """
SELECT relname, relkind::text, relpersistence::text, relhastriggers, relrowsecurity, coalesce(reloptions::text, ''),
       pg_get_userbyid(relowner), reltablespace
FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind <> 'i'"""
_PG_OTHERS = """
SELECT 'type ' || typname || ' ' || typtype::text FROM pg_type
WHERE typnamespace = current_schema()::regnamespace AND typtype IN ('e', 'd')
UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
UNION ALL SELECT 'trigger ' || pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace
UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%'
UNION ALL SELECT 'prepared ' || gid FROM pg_prepared_xacts WHERE database = current_database()"""


def _postgresql(url: str, volatile: Volatile) -> Fingerprint:
    import psycopg
    from psycopg.rows import dict_row

    with psycopg.connect(re.sub(r"^\w+(\+\w+)?://", "postgresql://", url, count=1)) as connection:
        found: Fingerprint = {
            "columns": _by_name(connection.execute(_PG_COLUMNS), 2),
            "constraints": _by_name(connection.execute(_PG_CONSTRAINTS), 2),
            "indexes": _by_name(connection.execute(_PG_INDEXES), 2),
            "next numbers": _by_name(connection.execute(_PG_SEQUENCES), 1),
            "relations": _by_name(connection.execute(_PG_RELATIONS), 1),
            "others": sorted(row[0] for row in connection.execute(_PG_OTHERS)),
        }
        columns: dict[str, list[str]] = {}
        for table, name in connection.execute(f"SELECT relname, attname FROM ({_PG_COLUMNS}) x ORDER BY 1, attnum"):
            columns.setdefault(table, []).append(name)
        # Told to the planner or not; the numbers are estimates.
        found["analysed"] = sorted(
            row[0]
            for row in connection.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' "
                f"AND reltuples >= 0 AND relname <> '{JOURNAL}'"
            )
        )
        rows = {}
        for table in sorted(columns):
            if table == JOURNAL:
                continue
            cells = ", ".join(f"{_quoted(c)}::text" for c in columns[table] if c not in volatile.get(table, ()))
            with connection.cursor(f"rows of {table}") as cursor:
                cursor.itersize = 20_000
                rows[table] = rows_hash(cursor.execute(f"SELECT {cells} FROM {_quoted(table)}"))
        found["rows"] = rows
        journal = None
        if JOURNAL in columns:
            with connection.cursor(row_factory=dict_row) as cursor:
                journal = _journal(cursor.execute(f"SELECT * FROM {JOURNAL}"))
        found["journal"] = journal
        found["leftovers"] = _leftovers(columns)
    return found


def _by_name(rows: Iterable[Sequence[Any]], key: int) -> dict[str, Any]:
    return {" ".join(map(str, row[:key])): list(row[key:]) for row in rows}


# -- MySQL and MariaDB -----------------------------------------------------------------------------------------------

_MY_TABLES = """
SELECT table_name, table_type, engine, row_format, table_collation, auto_increment, create_options, table_comment
FROM information_schema.tables WHERE table_schema = database()"""
_MY_COLUMNS = """
SELECT table_name, column_name, ordinal_position, column_type, is_nullable, column_default, extra, character_set_name,
       collation_name, column_key, generation_expression, column_comment
FROM information_schema.columns WHERE table_schema = database()"""
_MY_INDEXES = """
SELECT table_name, index_name, seq_in_index, non_unique, column_name, collation, sub_part, nullable, index_type
FROM information_schema.statistics WHERE table_schema = database()"""
_MY_CONSTRAINTS = """
SELECT table_name, constraint_name, constraint_type FROM information_schema.table_constraints
WHERE table_schema = database()"""
_MY_KEYS = """
SELECT table_name, constraint_name, ordinal_position, column_name, referenced_table_name, referenced_column_name
FROM information_schema.key_column_usage WHERE table_schema = database()"""
_MY_REFERENCES = """
SELECT table_name, constraint_name, unique_constraint_name, update_rule, delete_rule, referenced_table_name
FROM information_schema.referential_constraints WHERE constraint_schema = database()"""
_MY_OTHERS = """
SELECT concat('trigger ', trigger_name) FROM information_schema.triggers WHERE trigger_schema = database()
UNION ALL SELECT concat('routine ', routine_name) FROM information_schema.routines WHERE routine_schema = database()"""


def _mysql(url: str, volatile: Volatile) -> Fingerprint:
    import pymysql
    import pymysql.cursors

    with closing(connect_mysql(url)) as connection, connection.cursor() as cursor:

        def ask(sql: str) -> list[tuple[Any, ...]]:
            cursor.execute(sql)
            return list(cursor.fetchall())

        tables = sorted(r[0] for r in ask(_MY_TABLES) if r[1] == "BASE TABLE")
        columns: dict[str, list[str]] = {}
        for table, name, *_ in sorted(ask(_MY_COLUMNS), key=lambda r: (r[0], r[2])):
            columns.setdefault(table, []).append(name)
        created = {}
        for table in tables:
            if table != JOURNAL:
                # The only place that shows everything (checks, too); a key's line may stand anywhere among the keys.
                ((_, text),) = ask(f"SHOW CREATE TABLE `{table}`")
                created[table] = sorted(line.strip().rstrip(",") for line in text.splitlines())
        found: Fingerprint = {
            "tables": _by_name(ask(_MY_TABLES), 1),
            "columns": _by_name(ask(_MY_COLUMNS), 2),
            "indexes": _by_name(ask(_MY_INDEXES), 3),
            "constraints": _by_name(ask(_MY_CONSTRAINTS), 2),
            "keys": _by_name(ask(_MY_KEYS), 3),
            "references": _by_name(ask(_MY_REFERENCES), 2),
            "created": created,
            "others": sorted(r[0] for r in ask(_MY_OTHERS)),
            "leftovers": _leftovers(tables),
        }
        rows = {}
        for table in tables:
            if table == JOURNAL:
                continue
            # A product with a double shows every bit; a bare FLOAT comes rounded.
            cells = ", ".join(f"`{c}`" for c in columns[table] if c not in volatile.get(table, ()))
            with connection.cursor(pymysql.cursors.SSCursor) as stream:
                stream.execute(f"SELECT {cells} FROM `{table}`")
                rows[table] = rows_hash(stream)
        found["rows"] = rows
        found["journal"] = None
        if JOURNAL in tables:
            with connection.cursor(pymysql.cursors.DictCursor) as named:
                named.execute(f"SELECT * FROM {JOURNAL}")
                found["journal"] = _journal(named.fetchall())
    return found


def connect_mysql(url: str, **more: Any) -> Any:
    """A PyMySQL connection to an SQLAlchemy URL."""
    import pymysql

    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    place: dict[str, Any] = (
        {"unix_socket": query["unix_socket"]}
        if "unix_socket" in query
        else {"host": parts.hostname, "port": parts.port or 3306}
    )
    return pymysql.connect(
        user=unquote(parts.username or "root"),
        database=parts.path.strip("/") or None,
        charset="utf8mb4",
        **place,
        **more,
    )
