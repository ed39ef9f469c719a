"""What some of MLflow's upgrade scripts do to rows, done by the database or in bounded pages.

Loaded by ``upgrade.py``. MLflow's own DDL of those scripts runs as it is; only the functions that move rows are
replaced while the script runs, and MLflow's own conversions of single values are called. A replacement is used only
where the text of the installed script (and of the modules that it stands on) is one against which it was proven
(tests/servers/test_upgrade_equivalents.py compares all rows); else MLflow's script runs as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

# Rows of a page: enough that a round trip does not count, few enough that their JSON does not either.
PAGE = 1000
# An assessment's value may be any text.
PAGE_OF_VALUES = 250


@dataclass(frozen=True)
class Equivalent:
    """How one script's rows are moved instead, and the texts of the script that this equals."""

    run: Callable[[Any, sa.Connection], None]
    """Takes the script's module and the connection; does all that the module's ``upgrade()`` does."""
    digests: frozenset[str]
    """SHA-256 of the script's file followed by those of ``beside``."""
    beside: tuple[str, ...] = ()
    """Modules that the script takes its conversions from, as files under MLflow's package."""
    dialects: frozenset[str] = frozenset({"sqlite", "postgresql", "mysql"})


def find(revision: str, script: Path, root: Path, dialect: str) -> tuple[Equivalent | None, str | None]:
    """The replacement for a revision's script, or why MLflow's own runs although there is one.

    Args:
        revision: the revision's ID.
        script: the script's file.
        root: MLflow's package.
        dialect: SQLAlchemy's name of the database.
    """
    known = EQUIVALENTS.get(revision)
    if known is None or dialect not in known.dialects:
        return None, None
    try:
        text = digest(script, *(root / name for name in known.beside))
    except OSError:
        text = ""
    if text in known.digests:
        return known, None
    return None, (
        f"The installed MLflow's script {script.name} is not one against which the set-based equivalent was proven: "
        "MLflow's own script runs, which may need more time and memory."
    )


def digest(*files: Path) -> str:
    """One SHA-256 over the files' texts."""
    total = hashlib.sha256()
    for file in files:
        total.update(hashlib.sha256(file.read_text(encoding="utf-8").encode()).digest())
    return total.hexdigest()


@contextmanager
def _replaced(module: Any, **functions: Callable[..., Any]) -> Iterator[None]:
    """The module with some of its functions swapped, for the time of its ``upgrade()``."""
    own = {name: getattr(module, name) for name in functions}
    try:
        for name, function in functions.items():
            setattr(module, name, function)
        yield
    finally:
        for name, function in own.items():
            setattr(module, name, function)


# -- 90e64c465722: runs.user_id becomes the tag mlflow.user --------------------------------------------------------

# The script declares experiment_id as the primary key of its runs, so SQLAlchemy gives it one run an experiment: the
# first in the order in which the database reads the table. The other runs get no tag. That is what MLflow's users
# have, so it is kept, its order made explicit.
_FIRST_RUNS = {
    "sqlite": "r.rowid IN (SELECT min(rowid) FROM runs GROUP BY experiment_id)",
    "postgresql": "r.ctid IN (SELECT DISTINCT ON (experiment_id) ctid FROM runs ORDER BY experiment_id, ctid)",
    "mysql": "r.run_uuid IN (SELECT first_run FROM (SELECT min(run_uuid) AS first_run FROM runs GROUP BY experiment_id) f)",
}


def _user_tags(_: Any, bind: sa.Connection) -> None:
    dialect = bind.dialect.name
    key = bind.dialect.identifier_preparer.quote("key")
    # To MySQL a blank equals an empty text; to the script it is a name.
    some = "length(r.user_id) > 0" if dialect == "mysql" else "r.user_id <> ''"
    bind.exec_driver_sql(
        f"INSERT INTO tags ({key}, value, run_uuid) SELECT 'mlflow.user', r.user_id, r.run_uuid FROM runs r"
        f" WHERE r.experiment_id IS NOT NULL AND {some} AND {_FIRST_RUNS[dialect]}"
        f" AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.run_uuid = r.run_uuid AND t.{key} = 'mlflow.user')"
    )


# -- 89d4b8295536: latest_metrics ----------------------------------------------------------------------------------


def _latest_metrics(module: Any, bind: sa.Connection) -> None:
    """Of each run's metric the row with the greatest (step, timestamp, value).

    Where a number and a NaN (kept as value 0) stand at the same latest step and time, MLflow's script fails. Here the
    greater value stays, as MLflow's server decides when it logs; of an equal 0 the number.
    """
    with _replaced(
        module, _describe_migration_if_necessary=lambda session: None, _get_latest_metrics_for_runs=lambda session: ()
    ):
        module.upgrade()
    key, time = (bind.dialect.identifier_preparer.quote(name) for name in ("key", "timestamp"))
    columns = f"{key}, value, {time}, step, is_nan, run_uuid"
    bind.exec_driver_sql(
        f"INSERT INTO latest_metrics ({columns}) SELECT {columns} FROM (SELECT {columns}, ROW_NUMBER() OVER"
        f" (PARTITION BY run_uuid, {key} ORDER BY step DESC, {time} DESC, value DESC, is_nan) AS place"
        " FROM metrics) ranked WHERE place = 1"
    )


# -- 75868b020152: trace analytics ---------------------------------------------------------------------------------


def _trace_analytics(module: Any, bind: sa.Connection) -> None:
    with _replaced(
        module,
        _validate_dimension_attributes=lambda: _validate_dimensions(module, bind),
        _backfill_trace_analytics=lambda: _fill_traces(module, bind),
        _backfill_span_analytics=lambda: _fill_spans(module, bind),
        _backfill_assessment_analytics=lambda: _fill_assessments(module, bind),
        _cleanup_legacy_analytics=lambda: _delete_moved(module, bind),
    ):
        module.upgrade()


def _table(bind: sa.Connection, name: str) -> sa.Table:
    return sa.Table(name, sa.MetaData(), autoload_with=bind)


def _validate_dimensions(module: Any, bind: sa.Connection) -> None:
    spans = _table(bind, "spans")
    columns = [spans.c.trace_id, spans.c.span_id, spans.c.dimension_attributes]
    wanted = sa.select(*columns).where(spans.c.dimension_attributes.isnot(None))
    for page in _pages(bind, wanted, [spans.c.trace_id, spans.c.span_id], PAGE):
        for row in page:
            module._validated_dimension_attributes(row.dimension_attributes, (row.trace_id, row.span_id))


def _fill_traces(module: Any, bind: sa.Connection) -> None:
    traces, tags, metadata, metrics = (
        _table(bind, name) for name in ("trace_info", "trace_tags", "trace_request_metadata", "trace_metrics")
    )
    tokens, costs = module._TOKEN_COLUMNS, module._COST_COLUMNS
    columns = ["trace_name", "session_id", *tokens.values(), *costs.values()]
    kinds = ["varchar", "varchar", *("bigint" for _ in tokens), *("float8" for _ in costs)]
    moved = [
        module._TRACE_SESSION_METADATA_KEY,
        module._TOKEN_USAGE_METADATA_KEY,
        module._COST_METADATA_KEY,
    ]
    with _updater(bind, traces, {"request_id": "varchar"}, dict(zip(columns, kinds, strict=True))) as update:
        wanted = sa.select(traces.c.request_id, *(traces.c[name] for name in columns))
        before = None
        for page in _pages(bind, wanted, [traces.c.request_id], PAGE):
            names: dict[str, Any] = {row.request_id: None for row in page}
            facts: dict[str, dict[str, Any]] = {row.request_id: {} for row in page}
            counts: dict[str, dict[str, Any]] = {row.request_id: {} for row in page}
            within = (before, page[-1].request_id)
            for row in _beside(bind, tags, [module._TRACE_NAME_TAG_KEY], within):
                if row.request_id in names:
                    names[row.request_id] = row.value
            for row in _beside(bind, metadata, moved, within):
                if row.request_id in facts:
                    facts[row.request_id][row.key] = row.value
            for row in _beside(bind, metrics, list(tokens), within):
                if row.request_id in counts:
                    counts[row.request_id][tokens[row.key]] = module._token_count_or_none(row.value)
            changed = []
            for row in page:
                trace = row.request_id
                name, _ = module._bounded_string_or_none(names[trace], module.TRACE_NAME_MAX_LENGTH)
                values = {"trace_name": name, **module.trace_analytics_values(facts[trace], counts[trace])}
                if any(row._mapping[column] != values[column] for column in columns):
                    changed.append((trace, *(values[column] for column in columns)))
            update(changed)
            before = page[-1].request_id


def _beside(
    bind: sa.Connection, table: sa.Table, keys: Sequence[str], within: tuple[str | None, str]
) -> Iterator[sa.Row[Any]]:
    """The rows of a trace's side table with these keys, for one page of traces."""
    after, until = within
    wanted = sa.select(table.c.request_id, table.c.key, table.c.value).where(
        table.c.key.in_(keys), table.c.request_id <= until
    )
    if after is not None:
        wanted = wanted.where(table.c.request_id > after)
    return iter(bind.execute(wanted))


def _fill_spans(module: Any, bind: sa.Connection) -> None:
    spans, metrics = _table(bind, "spans"), _table(bind, "span_metrics")
    costs = module._COST_COLUMNS
    columns = [*costs.values(), "model_name", "model_provider"]
    kinds = [*("float8" for _ in costs), "varchar", "varchar"]
    with _updater(
        bind, spans, {"trace_id": "varchar", "span_id": "varchar"}, dict(zip(columns, kinds, strict=True))
    ) as update:
        wanted = sa.select(
            spans.c.trace_id, spans.c.span_id, spans.c.dimension_attributes, *(spans.c[name] for name in columns)
        )
        key = [spans.c.trace_id, spans.c.span_id]
        key_of_metrics = [metrics.c.trace_id, metrics.c.span_id]
        before = None
        for page in _pages(bind, wanted, key, PAGE):
            found: dict[tuple[str, str], dict[str, Any]] = {(row.trace_id, row.span_id): {} for row in page}
            until = (page[-1].trace_id, page[-1].span_id)
            beside = sa.select(*key_of_metrics, metrics.c.key, metrics.c.value).where(
                metrics.c.key.in_(list(costs)), _until(bind, key_of_metrics, until)
            )
            if before is not None:
                beside = beside.where(_after(bind, key_of_metrics, before))
            for row in bind.execute(beside):
                if (row.trace_id, row.span_id) in found:
                    found[row.trace_id, row.span_id][costs[row.key]] = module._finite_float_or_none(row.value)
            changed = []
            for row in page:
                span = (row.trace_id, row.span_id)
                dimensions = module._validated_dimension_attributes(row.dimension_attributes, span)
                values = {column: found[span].get(column) for column in costs.values()}
                for column, attribute in (
                    ("model_name", module._SPAN_MODEL_ATTRIBUTE_KEY),
                    ("model_provider", module._SPAN_MODEL_PROVIDER_ATTRIBUTE_KEY),
                ):
                    values[column], _ = module._bounded_string_or_none(
                        dimensions.get(attribute), module.MODEL_DIMENSION_MAX_LENGTH
                    )
                if any(row._mapping[column] != values[column] for column in columns):
                    changed.append((*span, *(values[column] for column in columns)))
            update(changed)
            before = until


def _fill_assessments(module: Any, bind: sa.Connection) -> None:
    traces, assessments = _table(bind, "trace_info"), _table(bind, "assessments")
    columns = {
        "experiment_id": "integer",
        "trace_timestamp_ms": "bigint",
        "aggregate_value": "float8",
        "is_numeric_value": "boolean",
    }
    with _updater(bind, assessments, {"assessment_id": "varchar"}, columns) as update:
        wanted = sa.select(
            assessments.c.assessment_id,
            assessments.c.value,
            traces.c.experiment_id.label("its_experiment"),
            traces.c.timestamp_ms.label("its_time"),
            *(assessments.c[name] for name in columns),
        ).join(traces, traces.c.request_id == assessments.c.trace_id)
        for page in _pages(bind, wanted, [assessments.c.assessment_id], PAGE_OF_VALUES):
            changed = []
            for row in page:
                new = (row.its_experiment, row.its_time, *module._assessment_aggregate(row.value))
                if any(row._mapping[column] != value for column, value in zip(columns, new, strict=True)):
                    changed.append((row.assessment_id, *new))
            update(changed)


def _delete_moved(module: Any, bind: sa.Connection) -> None:
    moved = {
        "trace_tags": [module._TRACE_NAME_TAG_KEY],
        "trace_request_metadata": [
            module._TRACE_SESSION_METADATA_KEY,
            module._TOKEN_USAGE_METADATA_KEY,
            module._COST_METADATA_KEY,
        ],
        "trace_metrics": list(module._TOKEN_COLUMNS),
        "span_metrics": list(module._COST_COLUMNS),
    }
    for name, keys in moved.items():
        table = _table(bind, name)
        bind.execute(table.delete().where(table.c.key.in_(keys)))


# -- auth e5f6a7b8c9d0: roles --------------------------------------------------------------------------------------


def _roles(module: Any, _: sa.Connection) -> None:
    with _replaced(module, _backfill_table=lambda conn, query, grants: _grant(module, conn, query, grants)):
        module.upgrade()


def _grant(module: Any, bind: sa.Connection, query: str, grants_of: Callable[[Any], Sequence[Any]]) -> None:
    """One permission table into roles, page by page.

    New rows are inserted in the order in which the script would, so that their numbers are the same too.
    """
    # A statement of its own options: stream_results on the connection would hold for the inserts as well.
    rows = bind.execute(sa.text(query), execution_options={"stream_results": True, "max_row_buffer": PAGE})
    for page in rows.partitions(PAGE):
        granted = [grant for row in page for grant in grants_of(row)]
        if not granted:
            continue
        roles = _roles_of(module, bind, list(dict.fromkeys((user, workspace) for user, workspace, *_ in granted)))
        wanted: dict[tuple[int, str, str], str] = {}
        for user, workspace, kind, pattern, permission in granted:
            wanted.setdefault((roles[user, workspace], kind, pattern), permission)
        there = {
            tuple(row)
            for some in _chunks(sorted({role for role, _, _ in wanted}))
            for patterns in _chunks(sorted({pattern for _, _, pattern in wanted}))
            for row in bind.execute(
                sa.text(
                    "SELECT role_id, resource_type, resource_pattern FROM role_permissions WHERE role_id IN :roles"
                    " AND resource_pattern IN :patterns"
                ).bindparams(sa.bindparam("roles", expanding=True), sa.bindparam("patterns", expanding=True)),
                {"roles": some, "patterns": patterns},
            )
        }
        _insert(
            bind,
            "role_permissions",
            ("role_id", "resource_type", "resource_pattern", "permission"),
            [(*target, permission) for target, permission in wanted.items() if target not in there],
        )


def _roles_of(module: Any, bind: sa.Connection, pairs: list[tuple[int, str]]) -> dict[tuple[int, str], int]:
    """The synthetic role of each (user, workspace), made and assigned where there is none.

    Raises:
        MlflowException: by the script's own function, for a role of that name that other users have.
    """
    names = {
        (workspace, module._SYNTHETIC_ROLE_NAME.format(user_id=user)): (user, workspace) for user, workspace in pairs
    }
    roles = _existing_roles(bind, names)
    _insert(
        bind,
        "roles",
        ("name", "workspace"),
        [(name, workspace) for (workspace, name), pair in names.items() if pair not in roles],
    )
    old = dict(roles)
    roles = _existing_roles(bind, names)
    assigned: dict[int, set[int]] = {}
    for chunk in _chunks(sorted(old.values())):
        for role, user in bind.execute(
            sa.text("SELECT role_id, user_id FROM user_role_assignments WHERE role_id IN :roles").bindparams(
                sa.bindparam("roles", expanding=True)
            ),
            {"roles": chunk},
        ):
            assigned.setdefault(role, set()).add(user)
    for (user, workspace), role in old.items():
        if assigned.get(role, set()) - {user}:
            module._get_or_create_synthetic_role(bind, user, workspace)
    missing = [(user, roles[user, workspace]) for user, workspace in pairs]
    _insert(
        bind,
        "user_role_assignments",
        ("user_id", "role_id"),
        [(user, role) for user, role in missing if user not in assigned.get(role, ())],
    )
    return roles


def _existing_roles(bind: sa.Connection, names: dict[tuple[str, str], tuple[int, str]]) -> dict[tuple[int, str], int]:
    found: dict[tuple[int, str], int] = {}
    query = sa.text("SELECT workspace, name, id FROM roles WHERE name IN :names").bindparams(
        sa.bindparam("names", expanding=True)
    )
    for chunk in _chunks(sorted({name for _, name in names})):
        for workspace, name, identity in bind.execute(query, {"names": chunk}):
            if (workspace, name) in names:
                found[names[workspace, name]] = identity
    return found


def _chunks(values: list[Any]) -> Iterator[list[Any]]:
    # SQLite before 3.32 takes 999 parameters.
    for start in range(0, len(values), 400):
        yield values[start : start + 400]


def _insert(bind: sa.Connection, table: str, columns: Sequence[str], rows: list[tuple[Any, ...]]) -> None:
    if rows:
        names = ", ".join(columns)
        places = ", ".join(f":{name}" for name in columns)
        bind.execute(
            sa.text(f"INSERT INTO {table} ({names}) VALUES ({places})"),
            [dict(zip(columns, row, strict=True)) for row in rows],
        )


# -- pages and bulk updates ----------------------------------------------------------------------------------------


def _after(bind: sa.Connection, key: Sequence[sa.ColumnElement[Any]], last: Sequence[Any]) -> sa.ColumnElement[bool]:
    """Rows behind a key, worded so that the database seeks it in the key's index."""
    if len(key) == 1:
        return key[0] > last[0]
    if bind.dialect.name == "mysql":
        (first, second), (high, low) = key, last
        return sa.and_(first >= high, sa.or_(first > high, second > low))
    return sa.tuple_(*key) > sa.tuple_(*(sa.literal(value) for value in last))


def _until(bind: sa.Connection, key: Sequence[sa.ColumnElement[Any]], last: Sequence[Any]) -> sa.ColumnElement[bool]:
    """Rows up to a key of two columns."""
    if bind.dialect.name == "mysql":
        (first, second), (high, low) = key, last
        return sa.and_(first <= high, sa.or_(first < high, second <= low))
    return sa.tuple_(*key) <= sa.tuple_(*(sa.literal(value) for value in last))


def _pages(
    bind: sa.Connection, wanted: sa.Select[Any], key: Sequence[sa.ColumnElement[Any]], size: int
) -> Iterator[list[sa.Row[Any]]]:
    """The rows in pages by ascending key; the key's columns are the first ones selected."""
    page = list(bind.execute(wanted.order_by(*key).limit(size)))
    while page:
        last = tuple(page[-1])[: len(key)]
        yield page
        if len(page) < size:
            return
        page = list(bind.execute(wanted.where(_after(bind, key, last)).order_by(*key).limit(size)))


@contextmanager
def _updater(
    bind: sa.Connection, table: sa.Table, key: dict[str, str], columns: dict[str, str]
) -> Iterator[Callable[[list[tuple[Any, ...]]], None]]:
    """A function that sets columns of many rows at once; its rows begin with the key. The kinds are PostgreSQL's.

    Raises:
        RuntimeError: the database found fewer rows than it was given, as MLflow's script would.
    """
    how = {"postgresql": _update_from_arrays, "mysql": _update_from_table}.get(bind.dialect.name, _update_each)
    statement = how(bind, table.name, key, columns)

    def update(rows: list[tuple[Any, ...]]) -> None:
        if not rows:
            return
        done = statement(rows)
        if done != len(rows):
            raise RuntimeError(f"Trace analytics backfill of {table.name} updated {done} of {len(rows)} rows")

    yield update


Statement = Callable[[list[tuple[Any, ...]]], int]


def _update_each(bind: sa.Connection, table: str, key: dict[str, str], columns: dict[str, str]) -> Statement:
    sets = ", ".join(f"{name} = :{name}" for name in columns)
    where = " AND ".join(f"{name} = :{name}" for name in key)
    names = (*key, *columns)

    def run(rows: list[tuple[Any, ...]]) -> int:
        values = [dict(zip(names, row, strict=True)) for row in rows]
        return int(bind.execute(sa.text(f"UPDATE {table} SET {sets} WHERE {where}"), values).rowcount)

    return run


def _update_from_arrays(bind: sa.Connection, table: str, key: dict[str, str], columns: dict[str, str]) -> Statement:
    kinds = {**key, **columns}
    arrays = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in kinds.items())
    sets = ", ".join(f"{name} = new.{name}" for name in columns)
    where = " AND ".join(f"t.{name} = new.{name}" for name in key)
    text = f"UPDATE {table} AS t SET {sets} FROM unnest({arrays}) AS new({', '.join(kinds)}) WHERE {where}"

    def run(rows: list[tuple[Any, ...]]) -> int:
        values = {name: list(column) for name, column in zip(kinds, zip(*rows, strict=True), strict=True)}
        return int(bind.execute(sa.text(text), values).rowcount)

    return run


def _update_from_table(bind: sa.Connection, table: str, key: dict[str, str], columns: dict[str, str]) -> Statement:
    # A temporary table ends no transaction and writes no binary log; made of the table itself it has its collations.
    names = (*key, *columns)
    new = f"mlflowctl_new_{table}"
    try:
        bind.exec_driver_sql(f"CREATE TEMPORARY TABLE {new} AS SELECT {', '.join(names)} FROM {table} WHERE 1 = 0")
    except sa.exc.DBAPIError as refused:
        if re.search(r"denied", str(refused)):
            return _update_each(bind, table, key, columns)
        raise
    insert = sa.text(f"INSERT INTO {new} ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})")
    sets = ", ".join(f"t.{name} = n.{name}" for name in columns)
    where = " AND ".join(f"t.{name} = n.{name}" for name in key)

    def run(rows: list[tuple[Any, ...]]) -> int:
        bind.execute(insert, [dict(zip(names, row, strict=True)) for row in rows])
        done = bind.exec_driver_sql(f"UPDATE {new} n STRAIGHT_JOIN {table} t ON {where} SET {sets}").rowcount
        bind.exec_driver_sql(f"DELETE FROM {new}")
        return int(done)

    return run


EQUIVALENTS: dict[str, Equivalent] = {
    # Each digest: the MLflow releases whose script it is.
    "90e64c465722": Equivalent(
        _user_tags, frozenset({"0ec45d22fe7f715d79eab3f79f51a5cd6c6c8b36e1ce7ab116e03b6e4118f454"})
    ),  # 3.17.0 to 3.18.0
    "89d4b8295536": Equivalent(
        _latest_metrics, frozenset({"200560b0a19410a3240b62a49a96082fe172075df0ae469f91e6d6af878420c9"})
    ),  # 3.17.0 to 3.18.0
    "75868b020152": Equivalent(
        _trace_analytics,
        frozenset(
            {
                "1974d2f02c176f061fc9b4e6533ad9379e34215ec68077e5f1bd75f29aa07173",  # 3.17.0 to 3.17.2
                "be22bf2a5dad55c6bf58575c12908e43699d9e1a301d1be6f6edff33627cb163",  # 3.18.0
            }
        ),
        (
            "store/db/trace_analytics_backfill_75868b020152.py",
            "store/db/trace_analytics_schema_75868b020152.py",
        ),
    ),
    # MLflow's users' chain does not run on MySQL at all.
    "e5f6a7b8c9d0": Equivalent(
        _roles,
        frozenset({"fa45e9effe9fb85f17352955b716cb42ddf04c115d2aba9f9dc872cc9b9ff093"}),
        dialects=frozenset({"sqlite", "postgresql"}),
    ),  # 3.17.0 to 3.18.0
}
