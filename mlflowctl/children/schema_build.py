"""Make the schema data of ``mlflowctl/stores/schema/data`` from MLflow's own migration scripts.

Run by path in an interpreter that has MLflow, Alembic and SQLAlchemy (and the drivers of the databases named)::

    python schema_build.py --out DIR --sqlite --postgresql URL --mysql URL --releases revisions.csv

The servers' databases must be empty, and are empty again at the end. Each chain is walked revision by revision, and
after each step the catalog is read back. A table definition stands once, under a hash of its content; a revision
names what changed against the one before. ``--only-revisions A B`` writes those alone, for a test that compares. A
later MLflow needs nothing more than to be the one that the interpreter imports.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import json
import logging
import os
import re
import sys
import tempfile
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

VERSION_TABLES = {"tracking": "alembic_version", "auth": "alembic_version_auth"}
# The auth scripts give two foreign keys of a database one name, which MySQL and MariaDB refuse: no such store exists.
NOWHERE = {("auth", "mysql")}
BASE = "base"

# A constraint among the items of SQLite's CREATE TABLE: its name, its first word and what is in its parentheses.
CONSTRAINT = re.compile(r"(?is)(?:CONSTRAINT\s+(\S+)\s+)?(PRIMARY|UNIQUE|FOREIGN|CHECK)\b[^(]*\((.*)$")

Tables = dict[str, dict[str, Any]]


def mlflow_folder() -> Path:
    """Where MLflow lies, found without importing it, which costs seconds and only the scripts need."""
    spec = importlib.util.find_spec("mlflow")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("MLflow is not installed in this interpreter")
    return Path(spec.submodule_search_locations[0])


def skip_auth_app() -> None:
    """Let the auth chain's scripts import their models without the auth app, which wants Flask extensions."""
    package = types.ModuleType("mlflow.server.auth")
    package.__path__ = [str(mlflow_folder() / "server" / "auth")]
    sys.modules["mlflow.server.auth"] = package


def script_folder(chain: str) -> Path:
    """Where MLflow keeps the chain's scripts."""
    return mlflow_folder() / ("store/db_migrations" if chain == "tracking" else "server/auth/db/migrations")


def alembic_config(chain: str, url: str) -> Config:
    """Alembic's configuration for one chain and database."""
    folder = script_folder(chain)
    config = Config(str(folder / "alembic.ini"))
    config.set_main_option("script_location", str(folder))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def in_order(chain: str) -> list[str]:
    """The chain's revisions, oldest first."""
    scripts = ScriptDirectory.from_config(alembic_config(chain, "sqlite://"))
    return [script.revision for script in reversed(list(scripts.walk_revisions()))]


# -- reading a catalog ----------------------------------------------------------------------------------------


def kind_of(sql_type: str) -> str:
    """The logical kind of a column's SQL type."""
    text = sql_type.lower()
    if text.startswith("json"):
        return "json"
    if text.startswith(("bool", "tinyint(1)")):
        return "bool"
    if text.startswith(("float", "double", "real")):
        return "float"
    # SQLite gives a column without a type INTEGER's rules nowhere but here: no script of MLflow makes one.
    if "int" in text:
        return "int"
    if text.startswith(("blob", "bytea", "longblob", "mediumblob", "varbinary")):
        return "bytes"
    if text.startswith(("varchar", "char", "text", "longtext", "mediumtext")):
        return "text"
    if text == "date":
        return "date"
    if text.startswith(("datetime", "timestamp")):
        return "datetime"
    raise ValueError(f"no logical kind for the SQL type {sql_type!r}")


def bits_of(sql_type: str) -> int | None:
    """16, 32 or 64 for an integer type."""
    text = sql_type.lower()
    if "int" not in text or text.startswith("tinyint(1)"):
        return None
    return 64 if "bigint" in text else 16 if "smallint" in text else 32


def length_of(sql_type: str) -> int | None:
    """Characters of a VARCHAR."""
    match = re.match(r"(?:var)?char(?:acter varying)?\((\d+)\)", sql_type.lower())
    return int(match.group(1)) if match else None


def column(name: str, sql_type: str, nullable: bool, default: str | None, **more: Any) -> dict[str, Any]:
    """One column's definition, without members that say nothing."""
    found = {
        "name": name,
        "kind": kind_of(sql_type),
        "sql_type": sql_type,
        "nullable": nullable,
        "default": default,
        "length": length_of(sql_type),
        "bits": bits_of(sql_type),
        **more,
    }
    return {key: value for key, value in found.items() if value not in (None, False) or key == "nullable"}


def index(name: str | None, columns: Sequence[str], unique: bool) -> dict[str, Any]:
    """An index's or unique constraint's definition."""
    return {"name": name, "columns": list(columns), "unique": bool(unique)}


def foreign_key(
    name: str | None, columns: Sequence[str], table: str, others: Sequence[str], deleted: str, updated: str
) -> dict[str, Any]:
    """A foreign key's definition."""
    return {
        "name": name,
        "columns": list(columns),
        "table": table,
        "ref_columns": list(others),
        "on_delete": deleted,
        "on_update": updated,
    }


def read_sqlite(connection: sa.Connection) -> Tables:
    """Tables of a SQLite file, exactly as its own catalog words them."""

    def rows(sql: str) -> list[Any]:
        return list(connection.exec_driver_sql(sql).mappings())

    tables = {}
    for master in rows("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name"):
        name, sql = master["name"], master["sql"]
        if name.startswith("sqlite_"):
            continue
        names, checks = sqlite_constraints(sql)
        columns, key = [], []
        for row in rows(f"PRAGMA table_xinfo('{name}')"):
            computed = row["hidden"] in (2, 3)
            columns.append(column(row["name"], row["type"], not row["notnull"], row["dflt_value"], computed=computed))
            if row["pk"]:
                key.append((row["pk"], row["name"]))
        if len(key) == 1:
            for entry in columns:
                # INTEGER PRIMARY KEY is the row's own number, which SQLite counts.
                if entry["name"] == key[0][1] and entry["sql_type"].upper() == "INTEGER":
                    entry["identity"] = True
        indexes, uniques = [], []
        for row in rows(f"PRAGMA index_list('{name}')"):
            members = [r["name"] for r in rows(f"PRAGMA index_info('{row['name']}')")]
            if row["origin"] == "c":
                indexes.append(index(row["name"], members, row["unique"]))
            elif row["origin"] == "u":
                uniques.append(index(names.get(("UNIQUE", tuple(members))), members, True))
        links: dict[int, list[Any]] = {}
        for row in rows(f"PRAGMA foreign_key_list('{name}')"):
            links.setdefault(row["id"], []).append(row)
        foreign_keys = []
        for members in links.values():
            own = [r["from"] for r in members]
            first = members[0]
            label = names.get(("FOREIGN", tuple(own)))
            others = [r["to"] for r in members]
            foreign_keys.append(foreign_key(label, own, first["table"], others, first["on_delete"], first["on_update"]))
        late = rows(
            "SELECT type, name, sql FROM sqlite_master WHERE type IN ('index', 'trigger')"
            f" AND tbl_name = '{name}' AND sql IS NOT NULL ORDER BY type, name"
        )
        tables[name] = {
            "columns": columns,
            "primary_key": [member for _, member in sorted(key)],
            "uniques": sorted(uniques, key=lambda unique: str(unique["columns"])),
            "indexes": sorted(indexes, key=lambda entry: str(entry["name"])),
            "foreign_keys": sorted(foreign_keys, key=lambda link: str(link["columns"])),
            "checks": checks,
            "triggers": [row["name"] for row in late if row["type"] == "trigger"],
            "create": [in_one_order(sql)],
            "finish": [row["sql"] for row in late],
            "link": [],
        }
    return tables


def sqlite_constraints(sql: str) -> tuple[dict[tuple[str, tuple[str, ...]], str], list[dict[str, Any]]]:
    """What no pragma tells: the names of unique constraints and foreign keys, and the checks."""
    names: dict[tuple[str, tuple[str, ...]], str] = {}
    checks = []
    for item in outer_items(sql[sql.index("(") + 1 : sql.rindex(")")]):
        match = CONSTRAINT.match(item)
        if not match or match.group(2).upper() == "PRIMARY":
            continue
        name = match.group(1).strip('"`[]') if match.group(1) else None
        word = match.group(2).upper()
        if word == "CHECK":
            checks.append({"name": name, "text": item[match.start(3) - 1 :]})
        elif name:
            listed = match.group(3).split(")")[0].split(",")
            names[word, tuple(part.strip().strip('"`[]') for part in listed)] = name
    return names, sorted(checks, key=lambda check: str(check["name"]))


def in_one_order(sql: str) -> str:
    """Sort the constraints of a CREATE TABLE: Alembic takes them from sets, so that their order is chance."""
    body = sql[sql.index("(") + 1 : sql.rindex(")")]
    items = list(outer_items(body))
    first = next((i for i, item in enumerate(items) if CONSTRAINT.match(item)), len(items))
    if not all(CONSTRAINT.match(item) for item in items[first:]):
        raise ValueError(f"a column after a constraint: {sql}")
    words = ("PRIMARY", "UNIQUE", "FOREIGN", "CHECK")
    constraints = sorted(items[first:], key=lambda item: (words.index(word_of(item)), item))
    return sql[: sql.index("(")] + "(\n\t" + ", \n\t".join(items[:first] + constraints) + "\n)"


def word_of(item: str) -> str:
    """The first word of a constraint after its name."""
    match = CONSTRAINT.match(item)
    assert match, item
    return match.group(2).upper()


def outer_items(body: str) -> Iterator[str]:
    """Split the body of a CREATE TABLE at the commas that lie in no parentheses and no quotes."""
    depth, quote, start = 0, "", 0
    for place, character in enumerate(body):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"`":
            quote = character
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "," and depth == 0:
            yield body[start:place].strip()
            start = place + 1
    yield body[start:].strip()


def read_postgresql(connection: sa.Connection) -> Tables:
    """Tables of the current schema of a PostgreSQL database, worded by the server's own functions."""

    def rows(sql: str, **values: Any) -> list[Any]:
        return list(connection.execute(sa.text(sql), values).mappings())

    return {
        entry["name"]: read_postgresql_table(rows, entry["oid"], entry["name"])
        for entry in rows(
            "SELECT c.oid, c.relname::text AS name FROM pg_class c"
            " WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' ORDER BY 2"
        )
    }


def read_postgresql_table(rows: Any, oid: int, name: str) -> dict[str, Any]:
    """One table of PostgreSQL."""
    columns, lines, owned = [], [], []
    for row in rows(
        "SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS filled,"
        " a.attgenerated::text AS generated, a.attidentity::text AS identity,"
        " pg_get_expr(d.adbin, d.adrelid) AS expr FROM pg_attribute a"
        " LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
        " WHERE a.attrelid = :oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        oid=oid,
    ):
        serial = re.match(r"nextval\('\"?(?:\w+\.)?([^'\"]+)\"?'", row["expr"] or "")
        computed = row["generated"] == "s"
        default = None if serial or computed else row["expr"]
        counted = bool(serial) or row["identity"] != ""
        columns.append(
            column(row["name"], row["type"], not row["filled"], default, computed=computed, identity=counted)
        )
        line = f'"{row["name"]}" {row["type"]}'
        if serial:
            owned.append((serial.group(1), row["name"], row["type"]))
            line += f" DEFAULT nextval('\"{serial.group(1)}\"'::regclass)"
        elif row["identity"]:
            line += f" GENERATED {'ALWAYS' if row['identity'] == 'a' else 'BY DEFAULT'} AS IDENTITY"
        elif computed:
            line += f" GENERATED ALWAYS AS ({row['expr']}) STORED"
        elif default is not None:
            line += f" DEFAULT {default}"
        lines.append(line + (" NOT NULL" if row["filled"] else ""))
    create = [f'CREATE SEQUENCE "{sequence}" AS {kind}' for sequence, _, kind in owned]
    create.append(f'CREATE TABLE "{name}" (' + ", ".join(lines) + ")")
    create += [f'ALTER SEQUENCE "{sequence}" OWNED BY "{name}"."{owner}"' for sequence, owner, _ in owned]

    members = (
        "(SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest({0}) WITH ORDINALITY k(num, n)"
        " JOIN pg_attribute a ON a.attrelid = {1} AND a.attnum = k.num)"
    )
    actions = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}
    key: list[str] = []
    uniques, links, checks, finish, link = [], [], [], [], []
    # PostgreSQL 18 lists NOT NULL among the constraints too; the columns hold that fact, for every version.
    for row in rows(
        "SELECT conname::text AS name, contype::text AS type, pg_get_constraintdef(oid) AS text,"
        f" {members.format('conkey', 'conrelid')} AS columns, confrelid::regclass::text AS other,"
        f" confdeltype::text AS deleted, confupdtype::text AS updated,"
        f" {members.format('confkey', 'confrelid')} AS others FROM pg_constraint"
        " WHERE conrelid = :oid AND contype IN ('p', 'u', 'c', 'f') ORDER BY contype = 'p' DESC, conname",
        oid=oid,
    ):
        add = f'ALTER TABLE "{name}" ADD CONSTRAINT "{row["name"]}" '
        if row["type"] == "p":
            key = list(row["columns"])
            finish.append(add + row["text"])
        elif row["type"] == "u":
            uniques.append(index(row["name"], row["columns"], True))
            finish.append(add + row["text"])
        elif row["type"] == "c":
            checks.append({"name": row["name"], "text": row["text"].removeprefix("CHECK ")})
            finish.append(add + check_as_written(row["text"]))
        else:
            other = row["other"].split(".")[-1].strip('"')
            deleted, updated = actions[row["deleted"]], actions[row["updated"]]
            links.append(foreign_key(row["name"], row["columns"], other, row["others"], deleted, updated))
            link.append(add + row["text"])
    indexes = []
    for row in rows(
        "SELECT c.relname::text AS name, i.indisunique AS uniq, pg_get_indexdef(i.indexrelid) AS text,"
        " (SELECT array_agg(pg_get_indexdef(i.indexrelid, k, true) ORDER BY k)"
        "  FROM generate_series(1, i.indnkeyatts) k) AS columns"
        " FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = :oid AND NOT EXISTS"
        " (SELECT 1 FROM pg_constraint o WHERE o.conindid = i.indexrelid AND o.contype IN ('p', 'u', 'x'))"
        " ORDER BY 1",
        oid=oid,
    ):
        indexes.append(index(row["name"], [c.strip('"') for c in row["columns"]], row["uniq"]))
        # The index must land in whatever schema the search path names; so must a trigger and its function.
        finish.append(re.sub(r' ON (ONLY )?("[^"]+"|\w+)\.', " ON ", row["text"]))
    triggers = []
    for row in rows(
        "SELECT tgname::text AS name, pg_get_triggerdef(oid, true) AS text,"
        " pg_get_functiondef(tgfoid) AS function FROM pg_trigger"
        " WHERE tgrelid = :oid AND NOT tgisinternal ORDER BY 1",
        oid=oid,
    ):
        triggers.append(row["name"])
        finish.append(re.sub(r'(OR REPLACE FUNCTION )("[^"]+"|\w+)\.', r"\1", row["function"].strip()))
        finish.append(re.sub(r'(EXECUTE FUNCTION )("[^"]+"|\w+)\.', r"\1", row["text"]))
    return {
        "columns": columns,
        "primary_key": key,
        "uniques": uniques,
        "indexes": indexes,
        "foreign_keys": links,
        "checks": checks,
        "triggers": triggers,
        "create": create,
        "finish": finish,
        "link": link,
    }


def check_as_written(text: str) -> str:
    """Turn PostgreSQL's ``= ANY (ARRAY[...])`` back into ``IN (...)``.

    The server does not give its own wording back when it reads it: a second copy would carry another text.
    """
    match = re.fullmatch(r"CHECK \(\(\((\w+)\)::text = ANY \(\(ARRAY\[(.*)\]\)::text\[\]\)\)\)", text)
    if not match:
        return text
    return f"CHECK ({match.group(1)} IN ({match.group(2).replace('::character varying', '')}))"


def read_mysql(connection: sa.Connection) -> Tables:
    """Tables of the current MySQL or MariaDB database, from SHOW CREATE TABLE."""

    def rows(sql: str) -> list[Any]:
        return list(connection.exec_driver_sql(sql).mappings())

    tables = {}
    for row in rows(
        "SELECT table_name AS name FROM information_schema.tables"
        " WHERE table_schema = database() AND table_type = 'BASE TABLE' ORDER BY 1"
    ):
        text = rows(f"SHOW CREATE TABLE `{row['name']}`")[0]["Create Table"]
        tables[row["name"]] = parse_mysql(row["name"], text)
    for row in rows(
        "SELECT event_object_table AS home, trigger_name AS name, action_timing AS timing,"
        " event_manipulation AS event, action_statement AS body FROM information_schema.triggers"
        " WHERE trigger_schema = database() ORDER BY 2"
    ):
        home = tables[row["home"]]
        home["triggers"].append(row["name"])
        # Without DEFINER, the account that runs it is meant.
        home["finish"].append(
            f"CREATE TRIGGER `{row['name']}` {row['timing']} {row['event']} ON `{row['home']}`"
            f" FOR EACH ROW\n{row['body']}"
        )
    return tables


def parse_mysql(name: str, text: str) -> dict[str, Any]:
    """A table from the words of SHOW CREATE TABLE."""
    columns: list[dict[str, Any]] = []
    key: list[str] = []
    uniques: list[tuple[dict[str, Any], str]] = []
    indexes: list[tuple[dict[str, Any], str]] = []
    links: list[dict[str, Any]] = []
    checks: list[dict[str, Any]] = []
    create, link = [], []
    for raw in text[text.index("(\n") + 2 : text.rindex("\n)")].split("\n"):
        line = raw.strip().rstrip(",")
        quoted = re.findall(r"`([^`]+)`", line)
        if line.startswith("`"):
            definition, statement = parse_mysql_column(line)
            columns.append(definition)
            create.append(statement)
        elif line.startswith("PRIMARY KEY"):
            key = quoted
            create.append(line)
        elif line.startswith(("UNIQUE KEY", "KEY")):
            unique = line.startswith("UNIQUE")
            (uniques if unique else indexes).append((index(quoted[0], quoted[1:], unique), line))
        elif " FOREIGN KEY " in line:
            match = re.match(
                r"CONSTRAINT `([^`]+)` (FOREIGN KEY \(([^)]*)\) REFERENCES `([^`]+)` \(([^)]*)\)(.*))$", line
            )
            assert match, line
            label, statement, own, table, others, rest = match.groups()
            deleted, updated = (
                found.group(1) if (found := re.search(rf"ON {word} (CASCADE|SET \w+|RESTRICT|NO ACTION)", rest))
                else "NO ACTION"
                for word in ("DELETE", "UPDATE")
            )  # fmt: skip
            links.append(
                foreign_key(
                    label, re.findall(r"`([^`]+)`", own), table, re.findall(r"`([^`]+)`", others), deleted, updated
                )
            )
            # A name that the server made must be made again: with it goes the name of the key's hidden index.
            made = re.fullmatch(rf"{re.escape(name)}_ibfk_\d+", label)
            link.append(f"ADD {statement}" if made else f"ADD {line}")
        elif line.startswith("CONSTRAINT") and " CHECK " in line:
            match = re.match(r"CONSTRAINT `([^`]+)` (CHECK .*)$", line)
            assert match, line
            # MariaDB numbers unnamed checks for each table, MySQL for the database.
            made = re.fullmatch(rf"CONSTRAINT_\d+|{re.escape(name)}_chk_\d+", match.group(1))
            checks.append({"name": None if made else match.group(1), "text": match.group(2).removeprefix("CHECK ")})
            create.append(match.group(2) if made else line)
        else:
            raise ValueError(f"{name}: cannot read {line!r}")
    # InnoDB adds an index for a foreign key that has none, and drops it when a later one serves. One that we made
    # would stay, so that an upgrade would end with other indexes than MLflow's.
    hidden = {(label, tuple(k["columns"])) for k in links for label in (k["name"], k["columns"][0])}
    late = sorted(uniques, key=lambda pair: pair[0]["name"]) + sorted(indexes, key=lambda pair: pair[0]["name"])
    added = [f"ADD {line}" for entry, line in late if (entry["name"], tuple(entry["columns"])) not in hidden]
    return {
        "columns": columns,
        "primary_key": key,
        "uniques": [entry for entry, _ in late if entry["unique"]],
        "indexes": [entry for entry, _ in late if not entry["unique"]],
        "foreign_keys": links,
        "checks": checks,
        "triggers": [],
        "create": [f"CREATE TABLE `{name}` (" + ", ".join(create) + ")"],
        # One statement each: every ALTER TABLE may read the table anew.
        "finish": [f"ALTER TABLE `{name}` " + ", ".join(added)] if added else [],
        "link": [f"ALTER TABLE `{name}` " + ", ".join(link)] if link else [],
    }


def parse_mysql_column(line: str) -> tuple[dict[str, Any], str]:
    """A column's definition and its words for CREATE TABLE."""
    match = re.match(r"`([^`]+)` ([a-z]+(?:\([^)]*\))?(?: unsigned)?)(.*)$", line)
    assert match, line
    name, sql_type, rest = match.groups()
    rest = re.sub(r" CHARACTER SET \w+", "", rest)
    if "json_valid" in rest:
        # MariaDB's JSON is LONGTEXT with a check; written as JSON it is that again, and MySQL has its own.
        sql_type = "json"
        rest = re.sub(r" COLLATE \w+| CHECK \(json_valid\(.*?\)\)", "", rest)
    if sql_type != "tinyint(1)":
        # MySQL 8 has dropped the display width, and warns of it.
        sql_type = re.sub(r"int\(\d+\)", "int", sql_type)
    default = re.search(r" DEFAULT ('(?:[^']|'')*'|\([^)]*\)|[^ ]+)", rest)
    definition = column(
        name,
        sql_type,
        "NOT NULL" not in rest,
        default.group(1) if default and default.group(1) != "NULL" else None,
        computed="GENERATED ALWAYS AS" in rest,
        identity="AUTO_INCREMENT" in rest,
    )
    return definition, f"`{name}` {sql_type}{rest}"


READERS = {"sqlite": read_sqlite, "postgresql": read_postgresql, "mysql": read_mysql}


def seeds(connection: sa.Connection, names: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Rows that the scripts themselves put into a fresh schema."""
    found = {}
    for name in names:
        rows = connection.execute(sa.select(sa.text("*")).select_from(sa.table(name))).mappings()
        if held := [dict(row) for row in rows]:
            found[name] = held
    return found


# -- walking a chain ------------------------------------------------------------------------------------------


def walk(chain: str, dialect: str, url: str, only: Iterable[str] = ()) -> Iterator[tuple[str, Tables, Any]]:
    """Yield each wanted revision of a chain with its tables and the rows that it begins with."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        if sa.inspect(connection).get_table_names():
            raise SystemExit(f"{engine.url.render_as_string()} is not empty")
    wanted = set(only)
    config = alembic_config(chain, url)
    for revision in ([BASE] if chain == "tracking" else []) + in_order(chain):
        if revision == BASE:
            from mlflow.store.tracking.dbmodels.initial_models import Base

            # InitialBase is 0.9's schema but for this key, in which the real stores have the value too: two values of
            # one metric at one time are two points.
            metrics = Base.metadata.tables["metrics"]
            key = [*metrics.primary_key.columns, metrics.c.value]
            for member in key:
                member.primary_key = False
            metrics.append_constraint(sa.PrimaryKeyConstraint(*key, name="metric_pk"))
            Base.metadata.create_all(engine)
        elif not wanted or revision in wanted:
            command.upgrade(config, revision)
        if not wanted or revision in wanted:
            with engine.connect() as connection:
                tables = READERS[dialect](connection)
                tables.pop(VERSION_TABLES[chain], None)
                yield revision, tables, seeds(connection, tables)
    clear(engine)


def clear(engine: sa.Engine) -> None:
    """Drop what the walk made."""
    with engine.begin() as connection:
        quote = engine.dialect.identifier_preparer.quote
        if engine.dialect.name == "mysql":
            connection.exec_driver_sql("SET foreign_key_checks = 0")
        cascade = " CASCADE" if engine.dialect.name == "postgresql" else ""
        for name in sa.inspect(connection).get_table_names():
            connection.exec_driver_sql(f"DROP TABLE {quote(name)}{cascade}")
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("DROP FUNCTION IF EXISTS prevent_secrets_aad_mutation()")


def pooled(walked: Iterable[tuple[str, Tables, Any]]) -> dict[str, dict[str, Any]]:
    """Each definition once, and for each revision what changed."""
    pool: dict[str, Any] = {}
    revisions: dict[str, Any] = {}
    before: dict[str, str] = {}
    seeded: Any = {}
    for revision, tables, seed in walked:
        now = {}
        for name, definition in tables.items():
            text = json.dumps([name, definition], sort_keys=True)
            now[name] = hashlib.sha256(text.encode()).hexdigest()[:12]
            pool[now[name]] = {"name": name, **definition}
        change: dict[str, Any] = {"set": {n: d for n, d in now.items() if before.get(n) != d}}
        if gone := sorted(set(before) - set(now)):
            change["drop"] = gone
        if seed != seeded:
            change["seed"] = seed
        revisions[revision] = change
        before, seeded = now, seed
    return {"pool": dict(sorted(pool.items(), key=lambda item: (item[1]["name"], item[0]))), "revisions": revisions}


def write(path: Path, data: dict[str, dict[str, Any]]) -> None:
    """One table definition a line, so that a change shows as a change of lines."""
    sections = []
    for name, entries in data.items():
        lines = [f" {json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in entries.items()]
        sections.append(f"{json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n}")
    path.write_text("{" + ",\n".join(sections) + "}\n", encoding="utf-8")


def releases(path: Path) -> list[list[str | None]]:
    """Each release of MLflow that has a SQL store: its version and the heads of both chains."""
    found: list[list[str | None]] = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            head: str | None = row["head_revision"]
            if head and head.startswith("("):
                head = BASE if head.startswith("(none") else None
            exact = {
                version.strip(): revision.strip()
                for part in row["head_changes_within_minor"].split("|")
                if part.strip()
                for revision, _, versions in [part.partition(":")]
                for version in versions.split(",")
            }
            found.extend(
                [version, exact.get(version, head), row["auth_head_revision"] or None]
                for version in row["versions_seen"].split()
                if head
            )
    return found


def main() -> None:
    """Walk what the arguments name, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chain", choices=sorted(VERSION_TABLES), action="append", help="default: both")
    parser.add_argument("--sqlite", action="store_true")
    parser.add_argument("--postgresql", metavar="URL")
    parser.add_argument("--mysql", metavar="URL")
    parser.add_argument("--only-revisions", nargs="+", default=[], metavar="REV")
    parser.add_argument("--releases", type=Path, metavar="CSV", help="the releases with their heads: revisions.csv")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    skip_auth_app()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for chain in arguments.chain or sorted(VERSION_TABLES):
        only = [r for r in [BASE, *in_order(chain)] if r in arguments.only_revisions]
        if arguments.only_revisions and not only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            urls = {
                "sqlite": f"sqlite:///{os.path.join(folder, 'schema.db')}" if arguments.sqlite else None,  # noqa: PTH118
                "postgresql": arguments.postgresql,
                "mysql": arguments.mysql,
            }
            for dialect, url in urls.items():
                if url and (chain, dialect) not in NOWHERE:
                    data = pooled(walk(chain, dialect, url, only))
                    write(arguments.out / f"{chain}-{dialect}.json", data)
                    print(chain, dialect, len(data["revisions"]), len(data["pool"]), file=sys.stderr)
    if arguments.releases:
        lines = ",\n".join(f" {json.dumps(row)}" for row in releases(arguments.releases))
        (arguments.out / "releases.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
