"""Lift a database to a revision with MLflow's own Alembic scripts.

Run by path in an interpreter that has MLflow: ``python upgrade.py --chain tracking --to REVISION``. The SQLAlchemy
URL comes in the environment variable MLFLOWCTL_CHILD_URL, for it may hold a password. Stdout gets one JSON object a
line: ``{"event": "revision", "id": ..., "seconds": ...}`` when a revision is done and, before exit 1,
``{"event": "error", "kind": ..., "message": ...}``. On PostgreSQL the whole upgrade is one transaction, as it is for
``mlflow db upgrade``: only exit 0 says that it is committed. SQLite and MySQL commit each revision.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import time
import types
import warnings
from pathlib import Path
from typing import Any

FOLDERS = {"tracking": ("store", "db_migrations"), "auth": ("server", "auth", "db", "migrations")}
VERSION_TABLES = {"tracking": "alembic_version", "auth": "alembic_version_auth"}
# Before MLflow 3.7 the auth database kept its one revision under Alembic's default name, or nowhere.
FIRST_AUTH_REVISION = "8606fa83a998"


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


def upgrade(chain: str, url: str, target: str) -> None:
    """Run the chain's scripts up to ``target``, reporting each."""
    import mlflow
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.pool import NullPool

    url = with_tls(url)
    root = Path(mlflow.__path__[0])
    if chain == "auth":
        # The scripts need the auth app's models alone; its package wants Flask extensions.
        package = types.ModuleType("mlflow.server.auth")
        package.__path__ = [str(root / "server" / "auth")]
        sys.modules["mlflow.server.auth"] = package
    folder = root.joinpath(*FOLDERS[chain])
    config = Config(str(folder / "alembic.ini"))
    config.set_main_option("script_location", str(folder))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    engine = create_engine(url, poolclass=NullPool)
    if chain == "auth":
        with engine.connect() as connection:
            there = set(inspect(connection).get_table_names())
        if "users" in there and VERSION_TABLES["auth"] not in there:
            command.stamp(config, FIRST_AUTH_REVISION)
    last = time.perf_counter()

    def done(step: Any, **_: Any) -> None:
        nonlocal last
        now = time.perf_counter()
        say(event="revision", id=step.up_revision_id, seconds=round(now - last, 3))
        last = now

    def scripts_to_run(revision: Any, _: Any) -> Any:
        return scripts._upgrade_revs(target, revision)

    # MLflow's env.py is not used: it configures no callback, and its imports cost as much as the upgrade.
    with (
        EnvironmentContext(config, scripts, fn=scripts_to_run, destination_rev=target) as context,
        engine.connect() as connection,
    ):
        context.configure(
            connection=connection,
            version_table=VERSION_TABLES[chain],
            render_as_batch=True,
            on_version_apply=done,
        )
        with context.begin_transaction():
            context.run_migrations()


def main() -> int:
    """Read the arguments, upgrade, report; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chain", choices=sorted(FOLDERS), required=True)
    parser.add_argument("--to", required=True)
    arguments = parser.parse_args()
    url = os.environ["MLFLOWCTL_CHILD_URL"]
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    try:
        upgrade(arguments.chain, url, arguments.to)
    except Exception as error:  # noqa: BLE001 - reported whole to the parent
        words = str(getattr(error, "orig", None) or error).strip()
        say(event="error", kind=type(error).__name__, message=without_secrets(words, url))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
