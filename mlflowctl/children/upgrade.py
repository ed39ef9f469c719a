"""Lift a database to a revision with MLflow's own Alembic scripts.

Run by path in an interpreter that has MLflow: ``python upgrade.py --chain tracking --to REVISION``. The SQLAlchemy
URL comes in the environment variable MLFLOWCTL_CHILD_URL, for it may hold a password. Stdout gets one JSON object a
line:

- ``{"event": "begin", "id": ..., "atomic": ..., "by": "mlflow" | "equivalent"}`` before a revision is touched;
- ``{"event": "revision", "id": ..., "seconds": ...}`` when it is committed;
- ``{"event": "note", "id": ..., "text": ...}`` where something is worth telling, such as an equivalent not used;
- before exit 1 ``{"event": "error", "kind": ..., "message": ..., "id": ...}``, the ID being the revision's at which it
  happened, or null.

On SQLite and PostgreSQL a revision (``"atomic": true``) is one transaction with its row in the version table: whenever
this process is killed, the database stands at one revision or the next, and the same call carries on. MySQL commits
at each statement that changes a table, so one that was begun and not finished may be half-done there.

With ``--while-stdin`` it ends when its standard input does: the parent was killed. Not so on MySQL, which could not
take back what of a revision is done.

Where a script reads whole tables into memory, ``equivalents.py`` beside this file moves the rows instead.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import re
import sys
import threading
import time
import types
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

FOLDERS = {"tracking": ("store", "db_migrations"), "auth": ("server", "auth", "db", "migrations")}
VERSION_TABLES = {"tracking": "alembic_version", "auth": "alembic_version_auth"}
# Before MLflow 3.7 the auth database kept its one revision under Alembic's default name, or nowhere.
FIRST_AUTH_REVISION = "8606fa83a998"
ATOMIC = ("sqlite", "postgresql")
# How long a child waits for the statement of one that was killed, which its server may still be running.
LOCK_SECONDS = 3600
# "mlflowct" as a number: PostgreSQL's advisory locks have no names.
LOCK_NUMBER = int.from_bytes(b"mlflowct", "big")
# The server's limits that this session sets aside, as the parent does for its own: a revision's statements take as long
# as the rows need. First what would cut short even the look at the others (the comment is code to MariaDB alone).
MYSQL_FIRST = "SET SESSION sql_select_limit = 18446744073709551615 /*M!100102 , max_statement_time = 0 */"
MYSQL_LIMITS = {
    "max_execution_time": 0,
    "idle_transaction_timeout": 0,
    "idle_readonly_transaction_timeout": 0,
    "idle_write_transaction_timeout": 0,
    "wait_timeout": 7 * 24 * 3600,
    "net_read_timeout": 3600,
    "net_write_timeout": 3600,
    "lock_wait_timeout": 300,
    "innodb_lock_wait_timeout": 300,
    "sql_big_selects": 1,
    "sql_safe_updates": 0,
}
POSTGRES_LIMITS = (
    *("statement_timeout", "transaction_timeout"),
    *("idle_in_transaction_session_timeout", "idle_session_timeout"),
)
# A constant that does not grow with the store: sorting and indexing in SQLite's own 2 MB costs more time.
SQLITE_CACHE_KIB = 16_384


# The scripts, the drivers and what they import may print: the parent's stdout is kept for the events.
REPORT = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)


def say(**event: Any) -> None:
    """One line on the stdout that the parent reads."""
    print(json.dumps(event), file=REPORT, flush=True)


def with_tls(url: str) -> str:
    """Add what MLflow takes from its environment for MySQL, and the scripts' environment would miss."""
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    if parsed.get_backend_name() != "mysql":
        return url
    variables = {f"ssl_{part}": os.environ.get(f"MLFLOW_MYSQL_SSL_{part.upper()}") for part in ("ca", "cert", "key")}
    added = {name: value for name, value in variables.items() if value and name not in parsed.query}
    return str(parsed.update_query_dict(added).render_as_string(hide_password=False))


def without_secrets(words: str, url: str) -> str:
    """A message that may be shown: neither the URL nor its password, in whatever spelling."""
    from urllib.parse import unquote

    words = words.replace(url, "(the target)")
    found = re.match(r"[^:]+://[^:@/]*:([^@/]+)@", url)
    for secret in {found.group(1), unquote(found.group(1))} if found else ():
        words = words.replace(secret, "***")
    return words


def engine_for(url: str) -> Any:
    """An engine whose transactions hold the DDL too, where the database can, and that waits for a killed child's end.

    Raises:
        RuntimeError: another upgrade of the same MySQL database has not ended within an hour.
    """
    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import NullPool

    engine = create_engine(url, poolclass=NullPool)
    dialect = engine.dialect.name

    def connected(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        if dialect == "sqlite":
            # Python's own handling commits before DDL. SQLAlchemy's recipe: none of it, and an explicit BEGIN.
            connection.isolation_level = None
            cursor.execute("PRAGMA busy_timeout = 60000")
            # A process that is killed loses nothing that it wrote, so no fsync; but without a journal a killed
            # transaction could not be taken back.
            cursor.execute("PRAGMA synchronous = OFF")
            if cursor.execute("PRAGMA journal_mode").fetchone()[0] in ("off", "memory"):
                cursor.execute("PRAGMA journal_mode = DELETE")
            cursor.execute(f"PRAGMA cache_size = -{SQLITE_CACHE_KIB}")
            cursor.execute("PRAGMA temp_store = FILE")
        elif dialect == "postgresql":
            # Between two transactions the session is idle while a script is imported.
            cursor.execute(
                "SELECT set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'idle_session_timeout'"
            )
            connection.commit()
        elif dialect == "mysql":
            cursor.execute(MYSQL_FIRST)
            for name, value in MYSQL_LIMITS.items():
                # MySQL and MariaDB know some of them each, and no name that one does not know may be set.
                if cursor.execute("SHOW SESSION VARIABLES LIKE %s", (name,)):
                    cursor.execute(f"SET SESSION {name} = {value}")
            # The server runs a killed client's statement to its end; this lock falls when it is done.
            cursor.execute("SELECT GET_LOCK(LEFT(CONCAT('mlflowctl ', MD5(DATABASE())), 64), %s)", (LOCK_SECONDS,))
            if cursor.fetchone()[0] != 1:
                raise RuntimeError("another upgrade of this database is still running")
        cursor.close()

    def begun(connection: Any) -> None:
        if dialect == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif dialect == "postgresql":
            # A transaction's lock and settings, for a pooler may give each transaction another session.
            # The first by itself: the look at what this version knows may take longer than a hard limit allows.
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            names = ", ".join(f"'{name}'" for name in POSTGRES_LIMITS)
            connection.exec_driver_sql(
                f"SELECT set_config(name, '0', true) FROM pg_catalog.pg_settings WHERE name IN ({names})"
            )
            # A killed child's statement may run long; for a stranger's lock an end is better, with its error.
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_SECONDS * 1000}")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK_NUMBER})")
            connection.exec_driver_sql("SET LOCAL lock_timeout = 300000")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    return engine


def end_with_stdin() -> None:
    """End this process when the parent is gone, in the middle of whatever it does: the database takes that back."""
    os.read(0, 1)
    os._exit(1)


def load_equivalents() -> Any:
    """The script beside this one, which holds what replaces parts of MLflow's scripts."""
    spec = importlib.util.spec_from_file_location("equivalents", Path(__file__).with_name("equivalents.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses looks its module up there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Upgrade:
    """One run of a chain's scripts; ``current`` is the revision that was begun last and is not committed."""

    def __init__(self, chain: str, url: str, target: str, *, own_scripts_only: bool = False) -> None:
        self.chain = chain
        self.url = with_tls(url)
        self.target = target
        self.own_scripts_only = own_scripts_only
        self.current: str | None = None

    def run(self) -> None:
        """Run the chain's scripts up to the target, reporting each."""
        import mlflow
        from alembic.config import Config
        from alembic.runtime.environment import EnvironmentContext
        from alembic.script import ScriptDirectory

        root = Path(mlflow.__path__[0])
        if self.chain == "auth":
            # The scripts need the auth app's models alone; its package wants Flask extensions.
            package = types.ModuleType("mlflow.server.auth")
            package.__path__ = [str(root / "server" / "auth")]
            sys.modules["mlflow.server.auth"] = package
        folder = root.joinpath(*FOLDERS[self.chain])
        config = Config(str(folder / "alembic.ini"))
        config.set_main_option("script_location", str(folder))
        scripts = ScriptDirectory.from_config(config)
        engine = engine_for(self.url)
        atomic = engine.dialect.name in ATOMIC

        # MLflow's env.py is not used: it configures nothing of this, and its imports cost as much as the upgrade.
        with engine.connect() as connection:
            if self.chain == "auth":
                self._stamp_first(connection, scripts)

            def steps(heads: Any, _: Any) -> Iterator[Any]:
                return self._steps(scripts, heads, root, connection)

            with EnvironmentContext(config, scripts, fn=steps, destination_rev=self.target) as context:
                context.configure(
                    connection=connection,
                    version_table=VERSION_TABLES[self.chain],
                    render_as_batch=True,
                    transaction_per_migration=True,
                    transactional_ddl=atomic,
                )
                with context.begin_transaction():
                    context.run_migrations()

    def _stamp_first(self, connection: Any, scripts: Any) -> None:
        from alembic.runtime.migration import MigrationContext
        from sqlalchemy import inspect

        name = VERSION_TABLES["auth"]
        with connection.begin():
            there = set(inspect(connection).get_table_names())
            context = MigrationContext.configure(connection, opts={"version_table": name})
            if "users" in there and not context.get_current_heads():
                context.stamp(scripts, FIRST_AUTH_REVISION)

    def _steps(self, scripts: Any, heads: Any, root: Path, connection: Any) -> Iterator[Any]:
        """Alembic asks for the next step when the one before is committed, which is when that is told."""
        equivalents = None if self.own_scripts_only else load_equivalents()
        dialect = connection.dialect.name
        for step in scripts._upgrade_revs(self.target, heads):
            revision = step.revision.revision
            instead, reason = None, None
            if equivalents is not None:
                instead, reason = equivalents.find(revision, Path(step.revision.path), root, dialect)
            if instead is not None:
                step.migration_fn = partial(_run_equivalent, instead, step.revision.module, connection)
            self.current = revision
            say(event="begin", id=revision, atomic=dialect in ATOMIC, by="equivalent" if instead else "mlflow")
            if reason:
                say(event="note", id=revision, text=reason)
            started = time.perf_counter()
            yield step
            self.current = None
            say(event="revision", id=revision, seconds=round(time.perf_counter() - started, 3))


def _run_equivalent(instead: Any, module: Any, connection: Any, **_: Any) -> None:
    instead.run(module, connection)


def main() -> int:
    """Read the arguments, upgrade, report; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chain", choices=sorted(FOLDERS), required=True)
    parser.add_argument("--to", required=True)
    parser.add_argument("--own-scripts-only", action="store_true", help="run MLflow's scripts as they are")
    parser.add_argument("--while-stdin", action="store_true", help="end when standard input does")
    arguments = parser.parse_args()
    url = os.environ["MLFLOWCTL_CHILD_URL"]
    if arguments.while_stdin and not url.startswith("mysql"):
        threading.Thread(target=end_with_stdin, name="mlflowctl-parent", daemon=True).start()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    work: Upgrade | None = None
    try:
        work = Upgrade(arguments.chain, url, arguments.to, own_scripts_only=arguments.own_scripts_only)
        work.run()
    except Exception as error:  # noqa: BLE001 - reported whole to the parent
        words = str(getattr(error, "orig", None) or error).strip()
        at = work.current if work is not None else None
        say(event="error", kind=type(error).__name__, message=without_secrets(words, url), id=at)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
