"""What a server's rights, limits and settings mean for a migration, said before the first byte is written.

Nothing here writes, and nothing is tried to see whether it fails: a failed statement would end the caller's transaction
on PostgreSQL, so the catalogs are asked. What may fail is asked over a short connection of its own.
"""

from __future__ import annotations

import re
import resource
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlflowctl.core.errors import MlflowctlError
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.sql.reader import CHUNK_TABLE, JOURNAL_TABLE
from mlflowctl.stores.uri import application_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from mlflowctl.stores.schema import Chain
    from mlflowctl.stores.sql.backend import Backend
    from mlflowctl.stores.uri import StoreUri

Level = Literal["stop", "warning", "info"]

# Writer, the lock's holder and two index builders, or the upgrade's child in the builders' place.
_CONNECTIONS = 4
_WEEK = 7 * 24 * 3600
# Off, or far longer than any statement, since a migration's statements take as long as the rows need. Waiting for
# somebody else's lock keeps an end, after which the error says so.
_POSTGRES_LIMITS = {
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "lock_timeout": "300000",
}
_MYSQL_LIMITS = {
    "wait_timeout": _WEEK,
    "net_read_timeout": 3600,
    "net_write_timeout": 3600,
    "innodb_lock_wait_timeout": 300,
    "lock_wait_timeout": 300,
    "max_execution_time": 0,
    "idle_transaction_timeout": 0,
    "idle_readonly_transaction_timeout": 0,
    "idle_write_transaction_timeout": 0,
    # These refuse statements that mlflowctl means.
    "sql_big_selects": 1,
    "sql_safe_updates": 0,
}
_MYSQL_RIGHTS = (
    *("SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER", "INDEX", "REFERENCES"),
    "CREATE TEMPORARY TABLES",  # the target is asked there which keys it calls equal
)
_GRANT = re.compile(r"^(GRANT|REVOKE) (.+?) ON (?:TABLE )?([`\"]?)(.*?)\3\.([`\"]?)(.*?)\5 (?:TO|FROM) ")


@dataclass(frozen=True, slots=True)
class Circumstance:
    """Something about a database that a person should know before the migration begins.

    ``rule`` is a stable word for machines; ``stop`` means that the migration cannot succeed, or not whole.
    """

    rule: str
    level: Level
    text: str
    next_step: str | None


def source_circumstances(backend: Backend, chain: Chain) -> list[Circumstance]:
    """What about the source would hinder a whole and true reading.

    Args:
        backend: the open source; only its catalogs are read.
        chain: whose tables are meant.

    Raises:
        SourceError: the database went away.
    """
    if backend.dialect == "postgresql":
        return list(_postgres_source(backend, chain))
    if backend.dialect == "mysql":
        return list(_mysql_source(backend, chain))
    return list(_sqlite_source(backend))


def target_circumstances(
    backend: Backend,
    chain: Chain,
    needed_bytes: int,
    longest_row_bytes: int | None,
    *,
    revision: str | None = None,
    connections: int = _CONNECTIONS,
) -> list[Circumstance]:
    """What about the target would refuse or endanger the copy.

    Args:
        backend: the open target; only its catalogs are read.
        chain: whose tables will be made.
        needed_bytes: the plan's estimate of the copy with its indexes.
        longest_row_bytes: of the source, where it is known.
        revision: at which the target will end; by default the last one known.
        connections: that mlflowctl will have open at once.

    Raises:
        TargetError: the database went away.
    """
    if backend.dialect == "postgresql":
        return list(_postgres_target(backend, chain, needed_bytes, connections))
    if backend.dialect == "mysql":
        return list(_mysql_target(backend, chain, needed_bytes, longest_row_bytes, revision, connections))
    assert backend.uri.path is not None
    return sqlite_target_circumstances(backend.uri.path, needed_bytes)


def sqlite_target_circumstances(file: Path, needed_bytes: int) -> list[Circumstance]:
    """Whether the disk of a SQLite target, which may not exist yet, holds the copy."""
    folder = file.absolute().parent
    if not folder.is_dir():
        return []
    found = []
    there = file.stat().st_size if file.is_file() else 0
    needed = needed_bytes + there  # another owner's tables are copied along
    disk = shutil.disk_usage(folder)
    free = disk.free
    if disk.total == 0:  # not a disk, such as /proc; whether it takes a file shows when one is made
        return []
    if free < needed:
        found.append(
            Circumstance(
                "disk-space",
                "stop",
                f"{folder} has {_size(free)} free; the copy needs about {_size(needed)}.",
                "Free space there, or name a file on another disk with --to.",
            )
        )
    elif free < 2 * needed:
        found.append(
            Circumstance(
                "disk-space",
                "warning",
                f"{folder} has {_size(free)} free; the copy needs about {_size(needed)}, and an upgrade writes large "
                "tables a second time.",
                "Free space there if the migration ends with a full disk; it carries on from where it was.",
            )
        )
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and limit < needed:
        found.append(
            Circumstance(
                "file-size-limit",
                "stop",
                f"This shell lets a file grow to {_size(limit)}; the copy needs about {_size(needed)}.",
                "Raise the limit (ulimit -f unlimited), then run the same command.",
            )
        )
    return found


def _sqlite_source(backend: Backend) -> Iterator[Circumstance]:
    mode = next(iter(backend.rows("PRAGMA journal_mode")[0].values()))
    if mode != "wal" and not backend.private:
        yield Circumstance(
            "writers-wait",
            "info",
            "The source is read in one transaction; a program that writes to the file waits meanwhile, and most give up "
            "after a few seconds (database is locked).",
            "Stop writers for the time, or let the file keep a log beside it, so that they need not wait: "
            "PRAGMA journal_mode = WAL",
        )


def session_settings(backend: Backend, side: str) -> Iterator[str]:
    """The statements that set a server's limits aside for mlflowctl's own session, each to be run before the next.

    Only what this server knows is named, so that none of them fails. On a PostgreSQL source they hold for the open
    transaction (nothing is left behind in a pooled connection); on a target they are to be run before the first
    transaction, for a rollback takes them back.

    Args:
        backend: an open PostgreSQL or MySQL connection.
        side: ``source`` or ``target``.
    """
    if backend.dialect == "postgresql":
        limits = dict(_POSTGRES_LIMITS)
        if side == "source":
            # A policy that hides rows then raises an error.
            limits["row_security"] = "off"
        # First and by itself: the look into the settings may take longer than a hard limit allows.
        yield f"SET {'LOCAL ' if side == 'source' else ''}statement_timeout = 0"
        cases = " ".join(f"WHEN '{name}' THEN '{value}'" for name, value in limits.items())
        local = "true" if side == "source" else "false"
        names = ", ".join(f"'{name}'" for name in limits)
        yield f"SELECT set_config(name, CASE name {cases} END, {local}) AS s FROM pg_settings WHERE name IN ({names})"
    elif backend.dialect == "mysql":
        # Both would also cut short the list of what the server knows. The comment is code to MariaDB alone.
        yield "SET SESSION sql_select_limit = 18446744073709551615 /*M!100102 , max_statement_time = 0 */"
        there = _variables(backend, _MYSQL_LIMITS)
        yield from (f"SET SESSION {name} = {value}" for name, value in _MYSQL_LIMITS.items() if name in there)


# -- PostgreSQL ----------------------------------------------------------------------------------------------------


def _postgres_source(backend: Backend, chain: Chain) -> Iterator[Circumstance]:
    yield from _search_path(backend, chain)
    if pooling(backend.uri) == "transaction":
        yield Circumstance(
            "pooler",
            "stop",
            "A pooler in transaction mode (such as PgBouncer) stands before the source: a session's settings and "
            "locks do not survive a transaction there.",
            "Name the server's own host and port in --from, or a pool in session mode.",
        )
    unreadable: list[str] = []
    hidden: list[str] = []
    others: dict[str, list[str]] = {}
    who = str(backend.rows("SELECT current_user::text AS who")[0]["who"])
    for row in backend.rows(
        "SELECT c.relname::text AS t, c.relkind::text AS kind, row_security_active(c.oid) AS policy, "
        "has_table_privilege(c.oid, 'SELECT') AS readable FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        f"WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relname IN ({_ours(chain)}) ORDER BY 1"
    ):
        if not row["readable"]:
            unreadable.append(row["t"])
        if row["policy"]:
            hidden.append(row["t"])
        if row["kind"] != "r":
            others.setdefault(row["kind"], []).append(row["t"])
    if unreadable:
        yield Circumstance(
            "no-select-right",
            "stop",
            f"The user {who} may not read {_listed(unreadable)}.",
            f"As the owner: GRANT SELECT ON ALL TABLES IN SCHEMA {_schema(backend)} TO {_quoted(who)}",
        )
    if hidden:
        yield Circumstance(
            "row-security",
            "stop",
            f"Row-level security hides rows of {_listed(hidden)} from the user {who}: the copy would lack them.",
            f"Use the owner of the tables or a user with BYPASSRLS: ALTER ROLE {_quoted(who)} BYPASSRLS",
        )
    views = [name for kind in ("v", "m") for name in others.get(kind, ())]
    if views:
        yield Circumstance(
            "views",
            "stop",
            f"{_listed(views)} is a view, where MLflow has a table: only tables are read."
            if len(views) == 1
            else f"{_listed(views)} are views, where MLflow has tables: only tables are read.",
            "Name the database or schema that has the tables (options=-csearch_path%3DNAME).",
        )
    if "f" in others:
        yield Circumstance(
            "foreign-tables",
            "stop",
            f"{_listed(others['f'])}: a foreign table, whose rows lie in another database and in no snapshot of this one.",
            "Name the database that has the rows.",
        )
    if "p" in others:
        yield Circumstance(
            "partitioned",
            "info",
            f"{_listed(others['p'])}: partitioned. All partitions are read; the target gets one plain table.",
            None,
        )
    facts = backend.rows(
        "SELECT pg_is_in_recovery() AS standby, current_setting('max_standby_streaming_delay') AS delay, "
        "(SELECT pg_encoding_to_char(encoding)::text FROM pg_database WHERE datname = current_database()) AS encoding"
    )[0]
    if facts["standby"] and facts["delay"] != "-1":
        yield Circumstance(
            "standby",
            "warning",
            f"The source is a standby, which ends a long reading when the primary's cleanup needs it to (after {facts['delay']}).",
            "Set hot_standby_feedback = on or max_standby_streaming_delay = -1 there, or name the primary.",
        )
    if facts["encoding"] == "SQL_ASCII":
        yield Circumstance(
            "encoding",
            "warning",
            "The database's encoding is SQL_ASCII: the server never checked that its text is UTF-8.",
            "Run with --scan first: text that is not UTF-8 is named there.",
        )
    yield from _postgres_timeouts(backend)
    yield from _postgres_sessions(backend, "info")


def _postgres_target(backend: Backend, chain: Chain, needed: int, connections: int) -> Iterator[Circumstance]:
    yield from _search_path(backend, chain)
    if pooling(backend.uri) == "transaction":
        yield Circumstance(
            "pooler",
            "stop",
            "A pooler in transaction mode (such as PgBouncer) stands before the target: a session's settings and "
            "locks do not survive a transaction there.",
            "Name the server's own host and port in --to, or a pool in session mode.",
        )
    facts = backend.rows(
        "SELECT current_user::text AS who, current_database()::text AS db, "
        "current_setting('server_version_num')::int AS version, "
        "has_schema_privilege(current_schema()::text, 'CREATE') AS creates, "
        "has_database_privilege(current_database()::text, 'TEMP') AS temporary, pg_is_in_recovery() AS standby, "
        "current_setting('default_transaction_read_only') AS read_only, current_setting('temp_file_limit') AS temp_limit, "
        "(SELECT setting::bigint FROM pg_settings WHERE name = 'temp_file_limit') AS temp_kb, "
        "(SELECT pg_encoding_to_char(encoding)::text FROM pg_database WHERE datname = current_database()) AS encoding"
    )[0]
    who, schema = facts["who"], _schema(backend)
    if facts["standby"]:
        yield Circumstance(
            "read-only", "stop", "The target is a standby: it takes no writes.", "Name the primary server in --to."
        )
    elif facts["read_only"] == "on":
        yield Circumstance(
            "read-only",
            "stop",
            "default_transaction_read_only is on for this user or database: the target takes no writes.",
            f"ALTER ROLE {_quoted(who)} SET default_transaction_read_only = off, or ALTER DATABASE {_quoted(facts['db'])} RESET default_transaction_read_only; a provider may set it on a full disk.",
        )
    if facts["encoding"] != "UTF8":
        yield Circumstance(
            "encoding",
            "stop",
            f"The target database's encoding is {facts['encoding']}: it cannot hold every text that a store has.",
            "Create one with: createdb --encoding=UTF8 --template=template0 NAME",
        )
    if not facts["creates"]:
        since = (
            " Since PostgreSQL 15 only the database's owner may, unless it is granted." if schema == "public" else ""
        )
        yield Circumstance(
            "no-create-right",
            "stop",
            f"The user {who} may not create tables in the schema {schema}.{since}",
            f"As the owner: GRANT CREATE ON SCHEMA {schema} TO {_quoted(who)}",
        )
    theirs = backend.rows(
        "SELECT c.relname::text AS t, pg_get_userbyid(c.relowner)::text AS owner FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') "
        f"AND c.relname IN ({_ours(chain)}) AND NOT pg_has_role(c.relowner, 'USAGE') ORDER BY 1"
    )
    if theirs:
        yield Circumstance(
            "not-the-owner",
            "stop",
            f"{_listed([r['t'] for r in theirs])} belongs to {theirs[0]['owner']}: {who} may not alter or drop it.",
            f"Connect as {theirs[0]['owner']}, or GRANT {_quoted(theirs[0]['owner'])} TO {_quoted(who)}",
        )
    if not facts["temporary"]:
        yield Circumstance(
            "no-temporary-tables",
            "info",
            f"The user {who} may not make temporary tables in this database.",
            f"If a step needs one: GRANT TEMP ON DATABASE {_quoted(facts['db'])} TO {_quoted(who)}",
        )
    if facts["temp_kb"] is not None and 0 <= facts["temp_kb"] * 1024 < needed:
        yield Circumstance(
            "temp-file-limit",
            "warning",
            f"temp_file_limit is {facts['temp_limit']}: sorting for the indexes may need up to {_size(needed)}.",
            "As a superuser: ALTER ROLE NAME SET temp_file_limit = -1",
        )
    yield from _postgres_connections(backend, connections)
    yield from _postgres_timeouts(backend)
    yield from _postgres_sessions(backend, "warning")


def _search_path(backend: Backend, chain: Chain) -> Iterator[Circumstance]:
    """A schema that does not exist is passed over by the server in silence: the next one would be used."""
    facts = backend.rows("SELECT current_setting('search_path') AS path, current_schema()::text AS schema")[0]
    path = [part[1:-1].replace('""', '"') if part.startswith('"') else part for part in _path_parts(facts["path"])]
    named = [part for part in path if part != "$user"]
    if named and "$user" not in path[:1] and named[0] != facts["schema"]:
        meant = "search_path" in backend.uri.libpq()
        yield Circumstance(
            "schema-passed-over",
            "stop" if meant else "warning",
            f"The schema {named[0]} of the search path does not exist or may not be used; {facts['schema']} would be taken instead.",
            f"CREATE SCHEMA {_quoted(named[0])} (or GRANT USAGE on it), or correct search_path.",
        )
    core = "'experiments', 'runs'" if chain == "tracking" else "'users', 'experiment_permissions'"
    further = backend.rows(
        "SELECT DISTINCT n.nspname::text AS s FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = "
        f"ANY (current_schemas(false)) AND n.nspname <> current_schema() AND c.relname IN ({core}) ORDER BY 1"
    )
    if further:
        yield Circumstance(
            "several-schemas",
            "warning",
            f"{_listed([r['s'] for r in further])} on the search path has tables of MLflow too; those of {facts['schema']} are meant.",
            "Name one schema alone: options=-csearch_path%3DNAME",
        )


def _path_parts(path: str) -> list[str]:
    return [part.strip() for part in re.findall(r'\s*("(?:[^"]|"")*"|[^,]+)\s*(?:,|$)', path)]


def _postgres_timeouts(backend: Backend) -> Iterator[Circumstance]:
    names = ", ".join(f"'{name}'" for name in _POSTGRES_LIMITS)
    # What a new session begins with: the present one has set them aside already.
    limits = backend.rows(
        f"SELECT name::text AS name, reset_val::text AS value, unit::text AS unit FROM pg_settings WHERE name IN ({names}) "
        "AND reset_val <> '0' ORDER BY 1"
    )
    if limits:
        words = ", ".join(f"{r['name']} ({r['value']} {r['unit']})" for r in limits)
        yield Circumstance("timeouts", "info", f"The server's {words}: set aside for mlflowctl's own sessions.", None)


def _postgres_sessions(backend: Backend, level: Level) -> Iterator[Circumstance]:
    rows = backend.rows(
        "SELECT coalesce(nullif(application_name, ''), usename::text, 'unknown') AS who, count(*) AS n FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND coalesce(backend_type, 'client backend') = "
        f"'client backend' AND coalesce(application_name, '') <> '{application_name()}' GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    yield from _sessions([(str(r["who"]), int(r["n"])) for r in rows], level)


def _sessions(found: list[tuple[str, int]], level: Level) -> Iterator[Circumstance]:
    if not found:
        return
    number = sum(n for _, n in found)
    words = ", ".join(f"{who} ({n})" for who, n in found[:5]) + (", …" if len(found) > 5 else "")
    text = f"{number} other session{'s are' if number > 1 else ' is'} connected to this database: {words}."
    if level == "info":
        yield Circumstance("other-sessions", "info", f"{text} What they write from now on is not in the copy.", None)
    else:
        yield Circumstance(
            "other-sessions",
            level,
            f"{text} What they write into MLflow's tables meanwhile makes the proof fail.",
            "Stop whatever uses the target (an MLflow server on it?) until the migration is done.",
        )


def _postgres_connections(backend: Backend, needed: int) -> Iterator[Circumstance]:
    facts = backend.rows(
        "SELECT current_setting('max_connections')::int AS most, current_setting('superuser_reserved_connections')::int "
        "+ coalesce(current_setting('reserved_connections', true), '0')::int AS kept, r.rolsuper AS super, "
        "r.rolconnlimit AS of_role, d.datconnlimit AS of_database, r.rolname::text AS who, "
        "(SELECT count(*) FROM pg_stat_activity WHERE coalesce(backend_type, 'client backend') = 'client backend') AS used, "
        "(SELECT count(*) FROM pg_stat_activity WHERE usesysid = r.oid) AS used_by_role, "
        "(SELECT count(*) FROM pg_stat_activity WHERE datid = d.oid) AS used_in_database "
        "FROM pg_roles r, pg_database d WHERE r.rolname = session_user AND d.datname = current_database()"
    )
    for row in facts:
        limits = [(row["most"] - (0 if row["super"] else row["kept"]), row["used"], "max_connections")]
        if not row["super"]:
            if row["of_role"] >= 0:
                limits.append((row["of_role"], row["used_by_role"], f"the connection limit of {row['who']}"))
            if row["of_database"] >= 0:
                limits.append((row["of_database"], row["used_in_database"], "the connection limit of the database"))
        yield from _connections(limits, needed)


def _connections(limits: list[tuple[int, int, str]], needed: int) -> Iterator[Circumstance]:
    for most, used, what in limits:
        if most - used < needed:
            yield Circumstance(
                "connections",
                "stop",
                f"{what} leaves {max(0, most - used)} more connections ({used} of {most} are in use); mlflowctl needs {needed}.",
                "Close idle sessions, raise the limit, or lower --jobs.",
            )


def pooling(uri: StoreUri) -> Literal["session", "transaction"] | None:
    """How the pooler that stands before a PostgreSQL server hands out its connections; None: there is no pooler.

    A pooler makes up the process number that it greets a client with, so the server's own number differs from it. In
    transaction mode two clients get the same server process in turn, or one client two. That is looked at over short
    connections: in the caller's transaction nothing would show.
    """
    try:
        import psycopg
    except ImportError:
        return None
    ask = "SELECT pg_backend_pid()"

    def number(connection: psycopg.Connection[tuple[int, ...]]) -> int:
        row = connection.execute(ask).fetchone()
        return row[0] if row else 0

    try:
        with psycopg.connect(uri.libpq(), autocommit=True, connect_timeout=15, prepare_threshold=None) as first:
            mine = number(first)
            if first.info.backend_pid == mine:
                return None
            if number(first) != mine:
                return "transaction"
            with psycopg.connect(uri.libpq(), connect_timeout=15, prepare_threshold=None) as second:
                try:
                    theirs = number(second)  # holds its transaction, and with it the process
                except psycopg.Error:
                    return "transaction"  # even a transaction is refused: statement mode
                if theirs == mine or number(first) != mine:
                    return "transaction"
            return "session"
    except psycopg.Error:
        return None  # no further connection to be had: the rule about connections says so


# -- MySQL and MariaDB ---------------------------------------------------------------------------------------------


def _mysql_source(backend: Backend, chain: Chain) -> Iterator[Circumstance]:
    yield from _tls(backend)
    rights = _Rights(backend)
    if not rights.database & {"SELECT"}:
        by_column = sorted(t for t, names in rights.columns.items() if "SELECT" in names)
        if by_column:
            yield Circumstance(
                "no-select-right",
                "stop",
                f"The user {rights.who} may read only some columns of {_listed(by_column)}: the copy would lack the others.",
                f"GRANT SELECT ON {rights.place}.* TO {rights.who}",
            )
        else:
            tables = sorted(t for t, names in rights.tables.items() if "SELECT" in names)
            yield Circumstance(
                "no-select-right",
                "warning",
                f"The user {rights.who} sees only {_listed(tables) or 'what a role lets it see'}: a table that it may not read looks like one that is not there.",
                f"GRANT SELECT ON {rights.place}.* TO {rights.who}",
            )
    ours = f"table_schema = database() AND table_name IN ({_ours(chain)})"
    other = backend.rows(
        f"SELECT table_name AS t, engine AS e FROM information_schema.tables WHERE {ours} AND table_type = 'BASE TABLE' "
        "AND engine <> 'InnoDB' ORDER BY 1"
    )
    if other:
        yield Circumstance(
            "engine",
            "warning",
            f"{_listed([r['t'] for r in other])} uses {other[0]['e']}, which has no snapshots: what is written meanwhile is read half.",
            "Stop what writes to it during the migration, or: ALTER TABLE NAME ENGINE = InnoDB",
        )
    views = backend.rows(
        f"SELECT table_name AS t FROM information_schema.tables WHERE {ours} AND table_type LIKE '%VIEW%' ORDER BY 1"
    )
    if views:
        yield Circumstance(
            "views",
            "stop",
            f"{_listed([r['t'] for r in views])}: a view, where MLflow has a table. Only tables are read.",
            "Name the database that has the tables.",
        )
    sets = backend.rows(
        f"SELECT character_set_name AS c, count(DISTINCT table_name) AS n FROM information_schema.columns WHERE {ours} "
        "AND character_set_name IS NOT NULL AND character_set_name <> 'utf8mb4' GROUP BY character_set_name ORDER BY 1"
    )
    if sets:
        words = _listed([f"{r['c']} ({r['n']} table{'s' if r['n'] > 1 else ''})" for r in sets])
        yield Circumstance(
            "character-set",
            "warning",
            f"Columns are in the character set {words}. The server turns them into UTF-8 as it sends them; text that was "
            "written in another encoding than the column says arrives as MLflow shows it now, garbled as it is.",
            None,
        )
    yield from _mysql_timeouts(backend)
    yield from _mysql_sessions(backend, "info")


def _mysql_target(
    backend: Backend, chain: Chain, needed: int, longest: int | None, revision: str | None, connections: int
) -> Iterator[Circumstance]:
    yield from _tls(backend)
    rights = _Rights(backend)
    variables = _variables(
        backend,
        (
            *("read_only", "super_read_only", "innodb_read_only", "transaction_read_only", "tx_read_only"),
            *("local_infile", "max_allowed_packet", "sql_mode", "innodb_default_row_format", "innodb_page_size"),
            *("default_storage_engine", "log_bin", "log_bin_trust_function_creators", "max_connections"),
            *("max_user_connections", "datadir"),
        ),
        scope="GLOBAL",
    )
    triggers = _has_triggers(chain, revision)
    wanted = {*_MYSQL_RIGHTS, *(("TRIGGER",) if triggers else ())}
    missing = [right for right in (*_MYSQL_RIGHTS, "TRIGGER") if right in wanted - rights.database]
    if missing:
        yield Circumstance(
            "no-create-right",
            "warning" if rights.roles else "stop",
            f"The user {rights.who} lacks the right{'s' if len(missing) > 1 else ''} {', '.join(missing)} on {rights.place}"
            + (", unless a role gives them." if rights.roles else "."),
            f"GRANT {', '.join(missing)} ON {rights.place}.* TO {rights.who}",
        )
    closed = next((v for v in ("super_read_only", "innodb_read_only") if variables.get(v) == "ON"), None)
    if closed is None and variables.get("read_only", "OFF") not in ("OFF", "0"):
        closed = None if rights.everywhere & {"SUPER", "READ_ONLY ADMIN", "CONNECTION_ADMIN"} else "read_only"
    if closed is None:
        closed = next((v for v in ("transaction_read_only", "tx_read_only") if variables.get(v) == "ON"), None)
    if closed:
        yield Circumstance(
            "read-only",
            "stop",
            f"{closed} is on: the target takes no writes (it may be a replica).",
            f"Name the primary server in --to, or: SET GLOBAL {closed} = OFF",
        )
    engine = variables.get("default_storage_engine", "InnoDB")
    if engine.lower() != "innodb":
        yield Circumstance(
            "engine",
            "stop",
            f"The server makes {engine} tables by default, which have neither foreign keys nor transactions.",
            "SET GLOBAL default_storage_engine = InnoDB",
        )
    row_format = variables.get("innodb_default_row_format", "dynamic")
    if row_format in ("compact", "redundant"):
        yield Circumstance(
            "row-format",
            "stop",
            f"innodb_default_row_format is {row_format}: a column of a key may have 767 bytes there, and MLflow's have up to 2,000.",
            "SET GLOBAL innodb_default_row_format = dynamic",
        )
    page = int(variables.get("innodb_page_size", 16384))
    if page < 16384:
        yield Circumstance(
            "page-size",
            "stop",
            f"The server's pages have {page} bytes, so that a key may have {page * 3 // 16} bytes; MLflow's keys have more.",
            "Use a server whose innodb_page_size is 16384 (it is chosen when the server's data is first made).",
        )
    makes_triggers = rights.everywhere & {"SUPER", "SET_USER_ID", "SET_ANY_DEFINER"}
    distrusts = variables.get("log_bin") == "ON" and variables.get("log_bin_trust_function_creators") == "OFF"
    if triggers and distrusts and not makes_triggers:
        yield Circumstance(
            "triggers",
            "stop",
            "The server keeps a binary log and lets only an administrator make triggers; MLflow's schema has one.",
            "SET GLOBAL log_bin_trust_function_creators = 1",
        )
    if variables.get("local_infile") == "OFF":
        yield Circumstance(
            "local-infile",
            "info",
            "local_infile is off: rows go in by INSERT statements, several times slower than LOAD DATA.",
            "SET GLOBAL local_infile = 1",
        )
    yield from _packet(variables, longest)
    yield from _mysql_texts(backend)
    mode = variables.get("sql_mode", "")
    if "STRICT_TRANS_TABLES" not in mode and "STRICT_ALL_TABLES" not in mode:
        yield Circumstance(
            "sql-mode",
            "warning",
            "The server's sql_mode is not strict: mlflowctl's own session is, but an MLflow server on this database would have over-long values cut in silence.",
            "SET GLOBAL sql_mode = CONCAT(@@GLOBAL.sql_mode, ',STRICT_TRANS_TABLES')",
        )
    used = {r["Variable_name"]: r["Value"] for r in backend.rows("SHOW GLOBAL STATUS LIKE 'Threads_connected'")}
    limits = [
        (int(variables.get("max_connections", 0)), int(used.get("Threads_connected", 0)), "max_connections"),
        (int(variables.get("max_user_connections", 0)), 1, "max_user_connections"),
    ]
    yield from _connections([limit for limit in limits if limit[0]], connections)
    yield from _mysql_space(backend, variables.get("datadir", ""), needed)
    yield from _mysql_timeouts(backend)
    yield from _mysql_sessions(backend, "warning")


class _Rights:
    """What SHOW GRANTS says of this user's rights on the current database."""

    def __init__(self, backend: Backend) -> None:
        row = backend.rows("SELECT CURRENT_USER() AS who, DATABASE() AS place, VERSION() AS version")[0]
        self.who: str = "@".join(f"'{part}'" for part in str(row["who"]).rsplit("@", 1))
        self.place: str = "`" + str(row["place"]).replace("`", "``") + "`"
        self.everywhere: set[str] = set()
        self.database: set[str] = set()
        self.tables: dict[str, set[str]] = {}
        self.columns: dict[str, set[str]] = {}
        self.roles = False
        self._take(backend.rows("SHOW GRANTS"), str(row["place"]))
        if self.roles and "mariadb" not in str(row["version"]).lower():
            # MySQL shows what a role gives only when asked for it; MariaDB shows it at once.
            try:
                active = str(backend.rows("SELECT CURRENT_ROLE() AS role")[0]["role"])
                if active != "NONE":
                    self._take(backend.rows(f"SHOW GRANTS FOR CURRENT_USER() USING {active}"), str(row["place"]))
            except MlflowctlError:
                return

    def _take(self, rows: Iterable[Mapping[str, str]], place: str) -> None:
        for row in rows:
            line = str(next(iter(row.values())))
            match = _GRANT.match(line)
            if match is None:
                self.roles = self.roles or (line.startswith("GRANT ") and " ON " not in line)
                continue
            verb, words, _, scope, _, table = match.groups()
            if scope != "*" and not _covers(scope, place):
                continue
            named: set[str] = set()
            for word in re.findall(r"((?:[A-Z_]+ ?)+)(\([^)]*\))?", words):
                name = word[0].strip()
                if word[1]:
                    self.columns.setdefault(table, set()).add(name)
                elif name in ("ALL", "ALL PRIVILEGES"):
                    named |= {*_MYSQL_RIGHTS, "TRIGGER", *(("SUPER", "READ_ONLY ADMIN") if scope == "*" else ())}
                else:
                    named.add(name)
            if verb == "REVOKE":
                self.database -= named
            elif table != "*":
                self.tables.setdefault(table, set()).update(named)
            else:
                self.database |= named
                if scope == "*":
                    self.everywhere |= named


def _covers(pattern: str, place: str) -> bool:
    """Whether a grant's database, in which ``%`` and ``_`` stand for others, means this one."""
    tokens = re.findall(r"\\.|.", pattern)
    text = "".join(".*" if t == "%" else "." if t == "_" else re.escape(t[1] if len(t) == 2 else t) for t in tokens)
    return re.fullmatch(text, place, re.IGNORECASE | re.DOTALL) is not None


def _tls(backend: Backend) -> Iterator[Circumstance]:
    if not backend.uri.requires_tls:
        return
    cipher = [str(r["Value"]) for r in backend.rows("SHOW SESSION STATUS LIKE 'Ssl_cipher'")]
    if not any(cipher):
        yield Circumstance(
            "tls",
            "stop",
            "The URI asks for TLS, but the connection is in the clear: the driver is too old to insist.",
            "pip install --upgrade 'pymysql>=1.2'",
        )


def _packet(variables: Mapping[str, str], longest: int | None) -> Iterator[Circumstance]:
    """LOAD DATA is not bound by the limit, nor is reading back; a single INSERT is."""
    packet = int(variables.get("max_allowed_packet", 0))
    if not packet or longest is None or 2 * longest < packet:
        return
    inserts = variables.get("local_infile") == "OFF"
    if longest < packet and not inserts:
        return
    words = f"max_allowed_packet is {_size(packet)}, and the source's longest row has {_size(longest)}: "
    if longest < packet:
        level: Level = "warning"
        meaning = "as an INSERT, with its quotes escaped, it may not fit."
    elif inserts:
        level, meaning = "stop", "the server does not take it."
    else:
        level, meaning = "warning", "LOAD DATA brings it in, but an MLflow server could not write such a row itself."
    size = min(1 << 30, _power(2 * longest + 1))
    yield Circumstance("packet", level, words + meaning, f"SET GLOBAL max_allowed_packet = {size}")


def _mysql_texts(backend: Backend) -> Iterator[Circumstance]:
    for row in backend.rows(
        "SELECT default_character_set_name AS c, default_collation_name AS o FROM information_schema.schemata "
        "WHERE schema_name = database()"
    ):
        charset, collation = str(row["c"]), str(row["o"])
        if charset != "utf8mb4":
            yield Circumstance(
                "character-set",
                "stop",
                f"The database's character set is {charset}: it cannot hold every text that a store has.",
                "ALTER DATABASE NAME CHARACTER SET utf8mb4",
            )
            continue
        folds = "_ci" in collation or "_ai" in collation
        pads = "nopad" not in collation and "_0900_" not in collation
        if folds or pads:
            alike = " and ".join(
                word for word, true in (("'P' and 'p'", folds), ("'p' and 'p ' (a blank at the end)", pads)) if true
            )
            yield Circumstance(
                "collation",
                "warning",
                f"The database's collation {collation} takes {alike} for the same: keys that differ only so cannot both be kept.",
                "--scan names such keys. To keep both: ALTER DATABASE NAME COLLATE utf8mb4_nopad_bin (MariaDB) or utf8mb4_0900_bin (MySQL), before the migration.",
            )


def _mysql_timeouts(backend: Backend) -> Iterator[Circumstance]:
    cuts = _variables(
        backend,
        (
            *("max_statement_time", "max_execution_time", "idle_transaction_timeout"),
            *("idle_readonly_transaction_timeout", "idle_write_transaction_timeout"),
        ),
        scope="GLOBAL",
    )
    found = [
        f"{name} ({value} {'ms' if name == 'max_execution_time' else 's'})"
        for name, value in cuts.items()
        if float(value)
    ]
    waits = _variables(backend, ("wait_timeout", "net_write_timeout"), scope="GLOBAL")
    found += [f"{name} ({value} s)" for name, value in waits.items() if int(value) < 60]
    if found:
        yield Circumstance(
            "timeouts", "info", f"The server's {', '.join(found)}: set aside for mlflowctl's own sessions.", None
        )


def _mysql_sessions(backend: Backend, level: Level) -> Iterator[Circumstance]:
    me = backend.rows("SELECT CONNECTION_ID() AS id, DATABASE() AS place")[0]
    found: dict[str, int] = {}
    for row in backend.rows("SHOW PROCESSLIST"):
        if row["Id"] != me["id"] and row["db"] == me["place"]:
            found[str(row["User"])] = found.get(str(row["User"]), 0) + 1
    yield from _sessions(sorted(found.items(), key=lambda item: (-item[1], item[0])), level)


def _mysql_space(backend: Backend, folder: str, needed: int) -> Iterator[Circumstance]:
    """Free space, where MariaDB's plugin ``disks`` tells it."""
    if not backend.rows(
        "SELECT plugin_name AS p FROM information_schema.plugins WHERE plugin_name = 'DISKS' AND plugin_status = 'ACTIVE'"
    ):
        return
    try:
        disks = backend.rows("SELECT path AS p, available AS a FROM information_schema.disks")
    except MlflowctlError:
        return
    home = [d for d in disks if folder.startswith(str(d["p"]).rstrip("/") + "/") or d["p"] == "/"]
    if home:
        free = int(max(home, key=lambda d: len(str(d["p"])))["a"]) * 1024
        if free < needed:
            yield Circumstance(
                "disk-space",
                "stop",
                f"The server's disk has {_size(free)} free; the copy needs about {_size(needed)}.",
                "Free space on the server, or choose another one.",
            )


def _variables(backend: Backend, names: Iterable[str], *, scope: str = "SESSION") -> dict[str, str]:
    listed = ", ".join(f"'{name}'" for name in names)
    rows = backend.rows(f"SHOW {scope} VARIABLES WHERE Variable_name IN ({listed})")
    return {str(r["Variable_name"]): str(r["Value"]) for r in rows}


def _has_triggers(chain: Chain, revision: str | None) -> bool:
    at = revision if revision is not None and schemas.known(chain, revision) else schemas.revisions(chain)[-1].id
    try:
        return any(table.triggers for table in schemas.schema_at(chain, "mysql", at).tables.values())
    except KeyError:
        return False


# -- words ---------------------------------------------------------------------------------------------------------


def _ours(chain: Chain) -> str:
    names = sorted({*schemas.tables_ever(chain), schemas.version_table(chain), JOURNAL_TABLE, CHUNK_TABLE})
    return ", ".join(f"'{name}'" for name in names)


def _schema(backend: Backend) -> str:
    return _quoted(str(backend.rows("SELECT current_schema()::text AS s")[0]["s"]))


def _quoted(name: str) -> str:
    """A PostgreSQL name as one types it."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _size(number: int) -> str:
    value = float(number)
    for unit in ("bytes", "KB", "MB", "GB"):
        if value < 1024 or unit == "GB":
            return f"{int(value)} {unit}" if unit == "bytes" else f"{value:,.1f} {unit}"
        value /= 1024
    raise AssertionError


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length()
