"""Rows that MLflow's upgrade scripts treat in some way of their own, for any database."""

from __future__ import annotations

import random
from typing import Any

import sqlalchemy as sa

TEXTS = (None, "", "plain", "ünïcødé 名前 🚀", "x" * 5000, "🚀" * 4100, " blanks ", "s" * 251, "line\nbreak")
TOKENS = (
    '{"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}',
    '{"input_tokens": 2.5, "output_tokens": 2.0}',
    '{"input_tokens": "7", "output_tokens": " 12 ", "total_tokens": "1_000"}',
    '{"input_tokens": true, "output_tokens": null, "total_tokens": {"a": 1}}',
    '{"input_tokens": 1e3, "output_tokens": 1e400, "total_tokens": 0.1e1}',
    '{"input_tokens": 9223372036854775807, "output_tokens": 9223372036854775808, "total_tokens": -9223372036854775808}',
    '{"input_tokens": NaN, "output_tokens": Infinity, "total_tokens": -0.0}',
    '{"unknown": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 5}',
    '{"cache_creation_input_tokens_above_1hr": 9007199254740993, "input_tokens": 1, "input_tokens": 2}',
    '{"input_tokens": ' + "1" * 4500 + "}",
    "[1]",
    "not json",
    '"text"',
    "null",
    "",
    '{"input_tokens": 1',
    None,
)
COSTS = (
    '{"input_cost": 0.1, "output_cost": 0.2, "total_cost": 0.30000000000000004}',
    '{"input_cost": "0.2", "output_cost": " 1e-7 ", "total_cost": "nan"}',
    '{"input_cost": NaN, "output_cost": Infinity, "total_cost": 1e400}',
    '{"input_cost": true, "output_cost": null, "total_cost": [1]}',
    '{"input_cost": 3, "output_cost": -0.0, "unknown": 4}',
    '{"input_cost": ' + "9" * 400 + ', "output_cost": 1e308}',
    '{"input_cost": "inf", "output_cost": "abc"}',
    "cost",
    "[]",
    None,
)
COUNTS = (3.0, 2.5, 1e22, 9007199254740993.0, 0.0, None, 9223372036854774784.0, -4.0, 123456789012345680.0, 1e-12)
# The total ones are added up by the database: their sum is the same in any order.
COSTS_OF_SPANS = ((None, 0.5, -0.0, 0.12345678901234568, 1e-12, 3.3e-5), (None, 0.5, 2.25, -0.125, 1024.0))
DIMENSIONS = (
    None,
    sa.JSON.NULL,
    {},
    {"mlflow.llm.model": "gpt-ü", "mlflow.llm.provider": "open"},
    {"mlflow.llm.model": "m" * 600},
    {"mlflow.llm.model": None, "mlflow.llm.provider": "🚀" * 501},
)
VALUES = (
    *("true", "false", "1", "1.5", '"yes"', '" No "', '"YES"', "yes", " no ", "", "null", "-0.0", "1e400", "NaN"),
    *(
        "Infinity",
        "[1]",
        '{"a": 1}',
        '"0.5"',
        "0.1",
        "9" * 400,
        "1" * 5000,
        "not json",
        '"maybe"',
        "12345678901234567890",
    ),
)


def _insert(connection: sa.Connection, table: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        # MariaDB shows JSON as text; None is SQL's NULL, and sa.JSON.NULL JSON's.
        own = [sa.Column("dimension_attributes", sa.JSON(none_as_null=True))] if table == "spans" else []
        reflected = sa.Table(table, sa.MetaData(), *own, autoload_with=connection)
        connection.execute(reflected.insert(), rows)


def fill_users(engine: sa.Engine) -> None:
    """Runs with and without a user, some with the tag that the upgrade would make."""
    users = ["ann", None, "", "b" * 250, " ", "ünï 名前 🚀", "eve"]
    with engine.begin() as connection:
        _insert(
            connection,
            "experiments",
            [{"experiment_id": e, "name": f"e{e}", "lifecycle_stage": "active"} for e in range(1, 6)],
        )
        runs = [
            {
                "run_uuid": f"{index:032x}",
                "experiment_id": index % 5 + 1,
                "user_id": users[index % 7],
                "status": "FINISHED",
                "lifecycle_stage": "active",
            }
            for index in range(60)
        ]
        _insert(connection, "runs", runs)
        tags = [{"run_uuid": run["run_uuid"], "key": "mlflow.user", "value": "tagged"} for run in runs[5::11]]
        tags += [{"run_uuid": runs[3]["run_uuid"], "key": "mlflow.user", "value": "own"}]
        tags += [{"run_uuid": run["run_uuid"], "key": "other", "value": "x"} for run in runs]
        _insert(connection, "tags", tags)


def fill_metrics(engine: sa.Engine) -> None:
    """Metrics with every kind of tie that MLflow's script can bear."""
    randomly = random.Random(3)
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in range(12):
        for key in range(12):
            for _ in range(30):
                step, time = randomly.choice((0, 0, 1, -2, 5, 2**40)), randomly.choice((0, 1, 1_600_000_000_000))
                value = randomly.choice((0.1, -1.5, 1e-300, 1.7976931348623157e308, -1.7976931348623157e308, 3.0))
                point = {"run_uuid": f"{run:032x}", "key": f"m{key}", "step": step, "timestamp": time, "is_nan": False}
                rows[run, key, step, time, value] = {**point, "value": value}
            if key == 5:  # alone at the latest instant
                late = {"run_uuid": f"{run:032x}", "key": "m5", "step": 2**41, "timestamp": 5, "is_nan": True}
                rows[run, key, "nan"] = {**late, "value": 0.0}
    if engine.dialect.name == "postgresql":
        # As MLflow 1.0 wrote it there, for which is_nan later became false.
        late = {"run_uuid": f"{1:032x}", "key": "m1", "step": 2**41, "timestamp": 5, "is_nan": False}
        rows["raw"] = {**late, "value": float("nan")}  # type: ignore[index]
        rows["raw1"] = {**late, "value": 7.0}  # type: ignore[index]
    with engine.begin() as connection:
        runs = [{"run_uuid": f"{run:032x}", "status": "FINISHED", "lifecycle_stage": "active"} for run in range(12)]
        _insert(connection, "runs", runs)
        _insert(connection, "metrics", list(rows.values()))


def fill_traces(engine: sa.Engine, traces: int = 2300, seed: int = 5) -> None:
    """Traces, spans and assessments with what JSON and text can hold."""
    randomly = random.Random(seed)
    tables: dict[str, list[dict[str, Any]]] = {
        name: []
        for name in (
            *("trace_info", "trace_tags", "trace_request_metadata", "trace_metrics"),
            *("spans", "span_metrics", "assessments"),
        )
    }
    for number in range(traces):
        trace = f"tr-{number:05d}"
        tables["trace_info"].append(
            {
                "request_id": trace,
                "experiment_id": number % 3,
                "timestamp_ms": 1_700_000_000_000 + number,
                "status": "OK",
            }
        )
        _facts(trace, tables, randomly)
        for index in range(randomly.choice((0, 1, 1, 3))):
            span = f"{randomly.getrandbits(64):016x}"
            tables["spans"].append(
                {
                    "trace_id": trace,
                    "span_id": span,
                    "experiment_id": number % 3,
                    "status": "OK",
                    "start_time_unix_nano": number,
                    "end_time_unix_nano": number + index,
                    "content": "{}",
                    "dimension_attributes": randomly.choice(DIMENSIONS),
                }
            )
            tables["span_metrics"] += [
                {
                    "trace_id": trace,
                    "span_id": span,
                    "key": key,
                    "value": randomly.choice(COSTS_OF_SPANS[key == "total_cost"]),
                }
                for key in ("input_cost", "output_cost", "total_cost", "latency")
                if randomly.random() < 0.6
            ]
        for _ in range(randomly.choice((0, 0, 1, 2))):
            tables["assessments"].append(
                {
                    "assessment_id": f"a-{randomly.getrandbits(96):024x}",
                    "trace_id": trace,
                    "name": "quality",
                    "assessment_type": "feedback",
                    "value": randomly.choice(VALUES),
                    "created_timestamp": 1,
                    "last_updated_timestamp": 2,
                    "source_type": "HUMAN",
                    "valid": True,
                }
            )
    if engine.dialect.name == "postgresql":
        for row in tables["span_metrics"][::50]:
            row["value"] = randomly.choice((float("nan"), float("inf")))
    with engine.begin() as connection:
        _insert(
            connection,
            "experiments",
            [{"experiment_id": e, "name": f"e{e}", "lifecycle_stage": "active"} for e in (1, 2)],
        )
        # MySQL would number an experiment 0 itself.
        for table in ("trace_info", "spans"):
            for row in tables[table]:
                row["experiment_id"] = row["experiment_id"] % 2 + 1
        for name, rows in tables.items():
            _insert(connection, name, rows)


def _facts(trace: str, tables: dict[str, list[dict[str, Any]]], randomly: random.Random) -> None:
    if randomly.random() < 0.8:
        tables["trace_tags"].append({"request_id": trace, "key": "mlflow.traceName", "value": randomly.choice(TEXTS)})
    tables["trace_tags"].append({"request_id": trace, "key": "other", "value": "kept"})
    for key, choices in (
        ("mlflow.trace.session", TEXTS),
        ("mlflow.trace.tokenUsage", TOKENS),
        ("mlflow.trace.cost", COSTS),
        ("mlflow.gateway.endpointId", ("e-1",)),
        ("kept", ("as it is",)),
    ):
        if randomly.random() < 0.7:
            tables["trace_request_metadata"].append(
                {"request_id": trace, "key": key, "value": randomly.choice(choices)}
            )
    tables["trace_metrics"] += [
        {"request_id": trace, "key": key, "value": randomly.choice(COUNTS)}
        for key in ("input_tokens", "total_tokens", "cache_read_input_tokens", "latency")
        if randomly.random() < 0.4
    ]


def fill_permissions(engine: sa.Engine, users: int = 40) -> None:
    """Every permission table, with permissions that are dropped, rewritten and fanned out."""
    randomly = random.Random(7)
    words = ("READ", "USE", "EDIT", "MANAGE", "NO_PERMISSIONS", "STRANGE")
    people = range(1, users + 1)
    with engine.begin() as connection:
        _insert(
            connection,
            "users",
            [{"id": u, "username": f"u{u}", "password_hash": "x", "is_admin": False} for u in people],
        )
        # Two roles that were there before: one of the synthetic name with its user, one without any.
        _insert(
            connection,
            "roles",
            [
                {"id": 1, "name": "__user_5__", "workspace": "default"},
                {"id": 2, "name": "__user_6__", "workspace": "w1"},
                {"id": 3, "name": "people", "workspace": "default"},
            ],
        )
        _insert(connection, "user_role_assignments", [{"user_id": 5, "role_id": 1}, {"user_id": 9, "role_id": 3}])
        _insert(
            connection,
            "role_permissions",
            [{"role_id": 1, "resource_type": "experiment", "resource_pattern": "3", "permission": "MANAGE"}],
        )
        if engine.dialect.name == "postgresql":
            for table in ("users", "roles"):
                connection.exec_driver_sql(
                    f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
                )
        _insert(
            connection,
            "workspace_permissions",
            [
                {"workspace": f"w{w}", "user_id": u, "permission": randomly.choice(words)}
                for u in people
                for w in range(3)
                if randomly.random() < 0.7
            ],
        )
        for table, column, names in (
            ("experiment_permissions", "experiment_id", [str(n) for n in range(60)]),
            ("gateway_secret_permissions", "secret_id", ["s1", "s2"]),
            ("gateway_endpoint_permissions", "endpoint_id", ["p1", "p2"]),
            ("gateway_model_definition_permissions", "model_definition_id", ["d1"]),
        ):
            _insert(
                connection,
                table,
                [
                    {column: name, "user_id": u, "permission": randomly.choice(words)}
                    for u in people
                    for name in names
                    if randomly.random() < 0.8
                ],
            )
        _insert(
            connection,
            "registered_model_permissions",
            [
                {"name": f"m {n}", "workspace": f"w{n % 3}", "user_id": u, "permission": randomly.choice(words)}
                for u in people
                for n in range(20)
            ],
        )
        _insert(
            connection,
            "scorer_permissions",
            [
                {"experiment_id": "1", "scorer_name": name, "user_id": u, "permission": randomly.choice(words)}
                for u in people
                for name in ("a/b c", "ünï", "plain", "%")
            ],
        )
