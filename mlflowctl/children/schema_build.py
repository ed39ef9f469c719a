"""Make the schema data of ``mlflowctl/stores/schema/data`` from MLflow's own migration scripts.

Run by path in an interpreter that has MLflow, Alembic and SQLAlchemy (and the drivers of the databases named)::

    python schema_build.py --out DIR --sqlite --postgresql URL --mysql URL

Each chain is walked revision by revision on an empty database (the servers' databases must be empty), and after each
step the catalog is read back. A table definition stands once, under a hash of its content; a revision names the
definitions that it has. ``--revisions A,B`` writes those alone, for a test that compares.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import re
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import mlflow
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

VERSION_TABLES = {"tracking": "alembic_version", "auth": "alembic_version_auth"}
BASE = "base"


def skip_auth_app() -> None:
    """Let the auth chain's scripts import their models without the auth app, which wants Flask extensions."""
    package = types.ModuleType("mlflow.server.auth")
    package.__path__ = [str(Path(mlflow.__path__[0]) / "server" / "auth")]
    sys.modules["mlflow.server.auth"] = package


def script_folder(chain: str) -> Path:
    """Where MLflow keeps the chain's scripts."""
    package = Path(mlflow.__path__[0])
    return package / ("store/db_migrations" if chain == "tracking" else "server/auth/db/migrations")


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


# -- reading a catalog ------------------------------------------------------------------------------------------------


def kind_of(sql_type: str, json_checked: bool = False) -> str:
    """The logical kind of a column's SQL type."""
    text = sql_type.lower()
    if json_checked or text.startswith("json"):
        return "json"
    if text.startswith(("bool", "tinyint(1)")):
        return "bool"
    if text.startswith(("float", "double", "real")):
        return "float"
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
        "kind": more.pop("kind", None) or kind_of(sql_type),
        "sql_type": sql_type,
        "nullable": nullable,
        "default": default,
        "length": length_of(sql_type),
        "bits": bits_of(sql_type),
        **more,
    }
    return {key: value for key, value in found.items() if value not in (None, False) or key == "nullable"}


def read_sqlite(connection: sa.Connection) -> dict[str, dict[str, Any]]:
    """Tables of a SQLite file, exactly as its own catalog words them."""

    def rows(sql: str) -> list[Any]:
        return list(connection.exec_driver_sql(sql).mappings())

    tables = {}
    for master in rows("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"):
        name, sql = master["name"], master["sql"]
        columns, key = [], []
        for row in rows(f"PRAGMA table_xinfo('{name}')"):
            kind = "int" if row["type"] == "" else None
            columns.append(column(row["name"], row["type"], not row["notnull"], row["dflt_value"], kind=kind, computed=row["hidden"] in (2, 3)))
            if row["pk"]:
                key.append((row["pk"], row["name"]))
        indexes, uniques, finish = [], [], []
        for row in rows(f"PRAGMA index_list('{name}')"):
            members = [r["name"] for r in rows(f"PRAGMA index_info('{row['name']}')")]
            found = {"name": row["name"], "columns": members, "unique": bool(row["unique"])}
            if row["origin"] == "c":
                indexes.append(found)
            elif row["origin"] == "u":
                uniques.append(found)
        for row in rows(f"SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = '{name}' AND sql IS NOT NULL ORDER BY rowid"):
            finish.append(row["sql"])
        links: dict[int, dict[str, Any]] = {}
        for row in rows(f"PRAGMA foreign_key_list('{name}')"):
            link = links.setdefault(row["id"], {"name": None, "columns": [], "table": row["table"], "ref_columns": [], "on_delete": row["on_delete"], "on_update": row["on_update"]})
            link["columns"].append(row["from"])
            link["ref_columns"].append(row["to"])
        checks = [{"name": m.group(1), "text": m.group(2)} for m in re.finditer(r"(?:CONSTRAINT \"?(\w+)\"? )?CHECK (\(.*\))", sql)]
        if len(key) == 1:
            for c in columns:
                if c["name"] == key[0][1] and c["sql_type"].upper() == "INTEGER":
                    c["identity"] = True
        tables[name] = table(columns, [n for _, n in sorted(key)], uniques, sorted(indexes, key=lambda i: i["name"]), list(links.values()), checks, [sql], finish, [])
    return tables


def table(columns: Any, key: Any, uniques: Any, indexes: Any, links: Any, checks: Any, create: Any, finish: Any, link: Any) -> dict[str, Any]:
    """One table's definition."""
    return {
        "columns": columns,
        "primary_key": key,
        "uniques": uniques,
        "indexes": indexes,
        "foreign_keys": links,
        "checks": checks,
        "create": create,
        "finish": finish,
        "link": link,
    }


def read_postgresql(connection: sa.Connection) -> dict[str, dict[str, Any]]:
    """Tables of the current schema of a PostgreSQL database, worded by the server's own functions."""

    def rows(sql: str, **values: Any) -> list[Any]:
        return list(connection.execute(sa.text(sql), values).mappings())

    tables = {}
    names = rows("SELECT c.oid, c.relname::text AS name FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' ORDER BY 2")
    for entry in names:
        oid, name = entry["oid"], entry["name"]
        columns, lines, owned = [], [], []
        for row in rows(
            "SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS filled, a.attgenerated::text AS generated, "
            "a.attidentity::text AS identity, pg_get_expr(d.adbin, d.adrelid) AS expr FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum "
            "WHERE a.attrelid = :oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            oid=oid,
        ):
            serial = bool(row["expr"] and row["expr"].startswith("nextval("))
            computed = row["generated"] == "s"
            default = None if serial else row["expr"]
            columns.append(column(row["name"], row["type"], not row["filled"], default, computed=computed, identity=serial or row["identity"] != ""))
            line = f'"{row["name"]}" {row["type"]}'
            if serial:
                sequence = re.search(r"nextval\('\"?(?:\w+\.)?([^'\"]+)\"?'", row["expr"]).group(1)  # type: ignore[union-attr]
                owned.append((sequence, row["name"], row["type"]))
                line += f" DEFAULT nextval('\"{sequence}\"'::regclass)"
            elif row["identity"]:
                line += f" GENERATED {'ALWAYS' if row['identity'] == 'a' else 'BY DEFAULT'} AS IDENTITY"
            elif computed:
                line += f" GENERATED ALWAYS AS ({row['expr']}) STORED"
            elif default is not None:
                line += f" DEFAULT {default}"
            if row["filled"]:
                line += " NOT NULL"
            lines.append(line)
        create = [f'CREATE SEQUENCE "{sequence}" AS {kind}' for sequence, _, kind in owned]
        create.append(f'CREATE TABLE "{name}" (' + ", ".join(lines) + ")")
        create += [f'ALTER SEQUENCE "{sequence}" OWNED BY "{name}"."{owner}"' for sequence, owner, _ in owned]
        key, uniques, links, checks, finish, link = [], [], [], [], [], []
        constraint_indexes = set()
        for row in rows(
            "SELECT conname::text AS name, contype::text AS type, pg_get_constraintdef(oid) AS text, conindid, "
            "(SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(conkey) WITH ORDINALITY k(num, n) JOIN pg_attribute a ON a.attrelid = conrelid AND a.attnum = k.num) AS columns, "
            "confrelid::regclass::text AS other, confdeltype::text AS deleted, confupdtype::text AS updated, "
            "(SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(confkey) WITH ORDINALITY k(num, n) JOIN pg_attribute a ON a.attrelid = confrelid AND a.attnum = k.num) AS others "
            "FROM pg_constraint WHERE conrelid = :oid AND contype IN ('p', 'u', 'c', 'f') ORDER BY contype = 'p' DESC, conname",
            oid=oid,
        ):
            statement = f'ALTER TABLE "{name}" ADD CONSTRAINT "{row["name"]}" {row["text"]}'
            if row["type"] == "p":
                key = list(row["columns"])
                constraint_indexes.add(row["conindid"])
                finish.append(statement)
            elif row["type"] == "u":
                uniques.append({"name": row["name"], "columns": list(row["columns"]), "unique": True})
                constraint_indexes.add(row["conindid"])
                finish.append(statement)
            elif row["type"] == "c":
                checks.append({"name": row["name"], "text": row["text"]})
                finish.append(statement)
            else:
                actions = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}
                links.append({"name": row["name"], "columns": list(row["columns"]), "table": row["other"].strip('"'), "ref_columns": list(row["others"]), "on_delete": actions[row["deleted"]], "on_update": actions[row["updated"]]})
                link.append(statement)
        indexes = []
        for row in rows(
            "SELECT i.indexrelid, c.relname::text AS name, i.indisunique AS uniq, pg_get_indexdef(i.indexrelid) AS text, "
            "(SELECT array_agg(pg_get_indexdef(i.indexrelid, k, true) ORDER BY k) FROM generate_series(1, i.indnkeyatts) k) AS columns "
            "FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = :oid ORDER BY 2",
            oid=oid,
        ):
            if row["indexrelid"] in constraint_indexes:
                continue
            indexes.append({"name": row["name"], "columns": [c.strip('"') for c in row["columns"]], "unique": row["uniq"]})
            # The index must land in whatever schema the search path names.
            finish.append(re.sub(r" ON (ONLY )?\w+\.", " ON ", row["text"]))
        tables[name] = table(columns, key, uniques, indexes, links, checks, create, finish, link)
    return tables


def read_mysql(connection: sa.Connection) -> dict[str, dict[str, Any]]:
    """Tables of the current MySQL or MariaDB database, from SHOW CREATE TABLE."""

    def rows(sql: str) -> list[Any]:
        return list(connection.exec_driver_sql(sql).mappings())

    tables = {}
    names = [r["t"] for r in rows("SELECT table_name AS t FROM information_schema.tables WHERE table_schema = database() AND table_type = 'BASE TABLE' ORDER BY 1")]
    for name in names:
        text = rows(f"SHOW CREATE TABLE `{name}`")[0]["Create Table"]
        tables[name] = parse_mysql(name, text)
    return tables


def parse_mysql(name: str, text: str) -> dict[str, Any]:
    """A table from the words of SHOW CREATE TABLE."""
    body = text[text.index("(\n") + 2 : text.rindex("\n)")]
    columns, key, uniques, indexes, links, checks = [], [], [], [], [], []
    create, finish, link = [], [], []
    for raw in body.split("\n"):
        line = raw.strip().rstrip(",")
        if line.startswith("`"):
            found = re.match(r"`([^`]+)` ([a-z]+(?:\([^)]*\))?(?: unsigned)?)(.*)$", line)
            assert found, line
            column_name, sql_type, rest = found.groups()
            as_json = "json_valid" in rest
            rest = re.sub(r" CHARACTER SET \w+", "", rest)
            if as_json:
                rest = re.sub(r" COLLATE \w+| CHECK \(json_valid\(.*?\)\)", "", rest)
                sql_type = "json"
            default = re.search(r" DEFAULT ('(?:[^']|'')*'|\([^)]*\)|[^ ]+)", rest)
            generated = re.search(r"GENERATED ALWAYS AS \((.*)\) (?:STORED|VIRTUAL|PERSISTENT)", rest)
            columns.append(
                column(column_name, sql_type, "NOT NULL" not in rest, default.group(1) if default else None, kind="json" if as_json else None, computed=bool(generated), identity="AUTO_INCREMENT" in rest)
            )
            create.append(f"`{column_name}` {sql_type}{rest}")
        elif line.startswith("PRIMARY KEY"):
            key = re.findall(r"`([^`]+)`", line)
            create.append(line)
        elif line.startswith(("UNIQUE KEY", "KEY")):
            quoted = re.findall(r"`([^`]+)`", line)
            unique = line.startswith("UNIQUE")
            (uniques if unique else indexes).append({"name": quoted[0], "columns": quoted[1:], "unique": unique})
            finish.append(f"ADD {line}")
        elif " FOREIGN KEY " in line:
            found = re.match(r"CONSTRAINT `([^`]+)` FOREIGN KEY \(([^)]*)\) REFERENCES `([^`]+)` \(([^)]*)\)(.*)$", line)
            assert found, line
            actions = found.group(5)

            def action(word: str, actions: str = actions) -> str:
                match = re.search(rf"ON {word} (CASCADE|SET NULL|RESTRICT|NO ACTION|SET DEFAULT)", actions)
                return match.group(1) if match else "NO ACTION"

            links.append({"name": found.group(1), "columns": re.findall(r"`([^`]+)`", found.group(2)), "table": found.group(3), "ref_columns": re.findall(r"`([^`]+)`", found.group(4)), "on_delete": action("DELETE"), "on_update": action("UPDATE")})
            link.append(f"ADD {line}")
        elif line.startswith("CONSTRAINT") and " CHECK " in line:
            found = re.match(r"CONSTRAINT `([^`]+)` CHECK (.*)$", line)
            assert found, line
            checks.append({"name": found.group(1), "text": found.group(2)})
            create.append(line)
        else:
            raise ValueError(f"{name}: cannot read {line!r}")
    statements = [f"CREATE TABLE `{name}` (" + ", ".join(create) + ")"]
    together = [f"ALTER TABLE `{name}` " + ", ".join(finish)] if finish else []
    linked = [f"ALTER TABLE `{name}` " + ", ".join(link)] if link else []
    return table(columns, key, uniques, indexes, links, checks, statements, together, linked)


READERS = {"sqlite": read_sqlite, "postgresql": read_postgresql, "mysql": read_mysql}


def seeds(connection: sa.Connection, names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Rows that the scripts themselves put into a fresh schema."""
    found = {}
    for name in names:
        rows = [dict(r) for r in connection.execute(sa.select(sa.text("*")).select_from(sa.table(name))).mappings()]
        if rows:
            found[name] = rows
    return found


# -- walking a chain --------------------------------------------------------------------------------------------------


def walk(chain: str, dialect: str, url: str, wanted: set[str] | None) -> dict[str, Any]:
    """Every wanted revision of a chain on one dialect, as the data file holds it."""
    engine = sa.create_engine(url)
    pool: dict[str, dict[str, Any]] = {}
    revisions: dict[str, Any] = {}

    def take(revision: str) -> None:
        if wanted is not None and revision not in wanted:
            return
        with engine.connect() as connection:
            tables = READERS[dialect](connection)
            tables.pop(VERSION_TABLES[chain], None)
            entry: dict[str, Any] = {"tables": {}}
            for name, definition in tables.items():
                digest = hashlib.sha256(json.dumps([name, definition], sort_keys=True).encode()).hexdigest()[:12]
                pool[digest] = {"name": name, **definition}
                entry["tables"][name] = digest
            rows = seeds(connection, list(tables))
            if rows:
                entry["seed"] = rows
            revisions[revision] = entry

    if chain == "tracking":
        from mlflow.store.tracking.dbmodels.initial_models import Base

        Base.metadata.create_all(engine)
        take(BASE)
    config = alembic_config(chain, url)
    for revision in in_order(chain):
        command.upgrade(config, revision)
        take(revision)
        print(f"{chain} {dialect} {revision}", file=sys.stderr)
    engine.dispose()
    return {"pool": pool, "revisions": revisions}


def write(path: Path, data: dict[str, Any]) -> None:
    """One table definition a line, so that a change shows as a change of lines."""
    lines = ['{"pool": {']
    lines.append(",\n".join(f" {json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in sorted(data["pool"].items(), key=lambda kv: (kv[1]["name"], kv[0]))))
    lines.append('},\n"revisions": {')
    lines.append(",\n".join(f" {json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in data["revisions"].items()))
    lines.append("}}\n")
    path.write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chain", choices=sorted(VERSION_TABLES), action="append")
    parser.add_argument("--sqlite", action="store_true")
    parser.add_argument("--postgresql", metavar="URL", help="an empty database; for both chains give --chain one at a time")
    parser.add_argument("--mysql", metavar="URL")
    parser.add_argument("--revisions", help="only these, comma-separated")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    skip_auth_app()
    wanted = set(arguments.revisions.split(",")) if arguments.revisions else None
    arguments.out.mkdir(parents=True, exist_ok=True)
    for chain in arguments.chain or sorted(VERSION_TABLES):
        with tempfile.TemporaryDirectory() as folder:
            urls = {"postgresql": arguments.postgresql, "mysql": arguments.mysql}
            if arguments.sqlite:
                urls["sqlite"] = f"sqlite:///{os.path.join(folder, 'schema.db')}"
            for dialect, url in urls.items():
                if url:
                    write(arguments.out / f"{chain}-{dialect}.json", walk(chain, dialect, url, wanted))


if __name__ == "__main__":
    main()
