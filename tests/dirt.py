"""Traps for a migration: what is put into a SQLite store, which rule must name it where, and what ``fix`` makes of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.generate import make_store

HEAD = "dc11669786a5"
# MLflow 1.30's eleven tables, which are made and proven in a fraction of the time that head's 64 take.
FEW_TABLES = "97727af70f4d"
BEFORE_KILLED = "2b4d017a5e9b"
BEFORE_LATEST = "7ac759974ad8"
BEFORE_ANALYTICS = "b7e2c1a4d9f3"
ALL = frozenset({"sqlite", "postgresql", "mysql"})
SERVERS = frozenset({"postgresql", "mysql"})
LEFT_OUT = None


@dataclass(frozen=True)
class Trap:
    """One kind of dirt."""

    name: str
    rule: str
    table: str
    column: str
    put: Callable[[sqlite3.Connection], None]
    key: Mapping[str, Any]
    """Of the bad row, as a reject names it."""
    fixed: Mapping[str, Any] | None = LEFT_OUT
    """The cells that fix changes; None: the row is left out."""
    targets: frozenset[str] = ALL
    revision: str = FEW_TABLES
    upgrade: bool = False
    others: Mapping[str, int] = field(default_factory=dict)
    """Rejects of other rows that come with it when the row is left out, by rule."""
    fixed_at: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Where fix makes something else of it."""

    def make(self, path: Path) -> None:
        """A store with this trap and nothing else that is wrong."""
        make_store(path, self.revision, rows=4)
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        if self.revision == BEFORE_ANALYTICS:
            # Made-up JSON that the upgrade refuses.
            connection.execute("UPDATE spans SET dimension_attributes = NULL")
        self.put(connection)
        connection.commit()
        connection.close()

    def outcome(self, target: str) -> Mapping[str, Any] | None:
        """What fix makes of it on a target."""
        return self.fixed_at.get(target, self.fixed)


def sql(*statements: str) -> Callable[[sqlite3.Connection], None]:
    """Changes one row with the last statement."""

    def put(connection: sqlite3.Connection) -> None:
        for statement in statements:
            cursor = connection.execute(statement)
        assert cursor.rowcount >= 1, statements

    return put


def loosened(table: str, old: str, new: str, *statements: str) -> Callable[[sqlite3.Connection], None]:
    """The table made anew with other words in its definition, as hand-made stores have them; then the statements."""

    def put(connection: sqlite3.Connection) -> None:
        text = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
        assert old in text, text
        columns = [
            r[1] for r in connection.execute(f"SELECT * FROM pragma_table_xinfo('{table}') WHERE hidden = 0").fetchall()
        ]
        names = ", ".join(f'"{c}"' for c in columns)
        rows = connection.execute(f'SELECT {names} FROM "{table}"').fetchall()
        connection.execute(f'DROP TABLE "{table}"')
        connection.execute(text.replace(old, new))
        connection.executemany(f'INSERT INTO "{table}" ({names}) VALUES ({", ".join("?" * len(columns))})', rows)
        sql(*statements)(connection)

    return put


RUN = "run_uuid-0"
METRIC = {"key": "key-0", "run_uuid": RUN}
PARAM = {"key": "key-0", "run_uuid": RUN}
_KEYS = "WHERE key = 'key-0'"
_INSERT_RUN_CHILD = "INSERT INTO {t} (key, value, run_uuid) VALUES ({k}, {v}, {r})"


def _param(key: str, value: str, run: str = RUN, table: str = "params") -> str:
    return _INSERT_RUN_CHILD.format(t=table, k=key, v=value, r=f"'{run}'")


TRAPS = [
    Trap(
        "a word in an integer column",
        "wrong_type",
        "metrics",
        "step",
        sql(f"UPDATE metrics SET step = 'seven' {_KEYS}"),
        {"key": "key-0", "step": "seven"},
    ),
    Trap(
        "an empty text in an integer column",
        "wrong_type",
        "metrics",
        "timestamp",
        sql(f"UPDATE metrics SET timestamp = '' {_KEYS}"),
        {"key": "key-0", "timestamp": ""},
    ),
    Trap(
        "a number as text in an integer column",
        "wrong_type",
        "metrics",
        "step",
        loosened("metrics", "step BIGINT", "step BLOB", f"UPDATE metrics SET step = '12' {_KEYS}"),
        {"key": "key-0", "step": "12"},
        {"step": 12},
    ),
    Trap(
        "a fraction in an integer column",
        "fraction_in_integer",
        "metrics",
        "step",
        sql(f"UPDATE metrics SET step = 1.5 {_KEYS}"),
        {"key": "key-0", "step": 1.5},
    ),
    Trap(
        "nan as text in a float column",
        "wrong_type",
        "latest_metrics",
        "value",
        sql(f"UPDATE latest_metrics SET value = 'nan', is_nan = 0 {_KEYS}"),
        METRIC,
        {"value": 0.0, "is_nan": True},
        fixed_at={"postgresql": {"value": "NaN"}},
    ),
    Trap(
        "infinity in a float column",
        "unstorable_float",
        "latest_metrics",
        "value",
        sql(f"UPDATE latest_metrics SET value = -9e999, is_nan = 0 {_KEYS}"),
        METRIC,
        {"value": -1.7976931348623157e308},
        frozenset({"mysql"}),
    ),
    Trap(
        "bytes in text",
        "bytes_in_text",
        "params",
        "value",
        sql(f"UPDATE params SET value = x'41ff42' {_KEYS}"),
        PARAM,
        {"value": "A\ufffdB"},
    ),
    Trap(
        "bytes in a key",
        "bytes_in_text",
        "params",
        "key",
        sql(_param("x'6b6579'", "'v'")),
        {"key": {"bytes": "6b6579"}, "run_uuid": RUN},
        {"key": "key"},
    ),
    Trap(
        "text that is not UTF-8",
        "invalid_utf8",
        "tags",
        "value",
        sql(f"UPDATE tags SET value = CAST(x'c3a4ff' AS TEXT) {_KEYS}"),
        PARAM,
        {"value": "ä\ufffd"},
    ),
    Trap(
        "text that is not UTF-8 where NULL may not stand",
        "invalid_utf8",
        "params",
        "value",
        sql(f"UPDATE params SET value = CAST(x'61ff' AS TEXT) {_KEYS}"),
        PARAM,
        {"value": "a\ufffd"},
    ),
    Trap(
        "an integer of 54 bits in a float column",
        "wrong_type",
        "metrics",
        "value",
        loosened("metrics", "value FLOAT", "value BLOB", f"UPDATE metrics SET value = 9007199254740993 {_KEYS}"),
        {"key": "key-0", "value": 9007199254740993},
    ),
    Trap(
        "a NUL byte",
        "nul_byte",
        "params",
        "value",
        sql(f"UPDATE params SET value = 'a' || char(0) || 'b' {_KEYS}"),
        PARAM,
        {"value": "ab"},
        frozenset({"postgresql"}),
    ),
    Trap(
        "a long parameter",
        "over_length",
        "params",
        "value",
        sql(f"UPDATE params SET value = replace(hex(zeroblob(4001)), '00', 'öx') {_KEYS}"),
        PARAM,
        {"value": ("öx" * 4001)[:8000]},
        SERVERS,
        revision=HEAD,
    ),
    Trap(
        "a long tag at an old revision",
        "over_length",
        "tags",
        "value",
        sql(f"UPDATE tags SET value = replace(hex(zeroblob(5001)), '00', 't') {_KEYS}"),
        PARAM,
        {"value": "t" * 5000},
        SERVERS,
        "97727af70f4d",
    ),
    Trap(
        "a long artifact URI",
        "over_length",
        "runs",
        "artifact_uri",
        sql(
            f"INSERT INTO runs (run_uuid, experiment_id, artifact_uri) SELECT 'long', experiment_id, 's3://{'u' * 200}' FROM experiments LIMIT 1"
        ),
        {"run_uuid": "long"},
        {"artifact_uri": ("s3://" + "u" * 200)[:200]},
        SERVERS,
    ),
    Trap(
        "100 KB in a tag of a model version",
        "over_length",
        "model_version_tags",
        "value",
        sql(f"UPDATE model_version_tags SET value = 'ä' || replace(hex(zeroblob(50000)), '00', 'éx') {_KEYS}"),
        {"key": "key-0"},
        {"value": ("ä" + "éx" * 50000).encode()[:65535].decode(errors="ignore")},
        frozenset({"mysql"}),
        revision=HEAD,
    ),
    Trap(
        "a long key that another one begins with",
        "over_length",
        "params",
        "key",
        sql(
            f"INSERT INTO params (key, value, run_uuid) VALUES ('{'k' * 250}', 'short', '{RUN}')",
            f"INSERT INTO params (key, value, run_uuid) VALUES ('{'k' * 251}', 'long', '{RUN}')",
        ),
        {"key": "k" * 251, "run_uuid": RUN},
        LEFT_OUT,
        SERVERS,
    ),
    Trap(
        "an integer beyond 32 bits",
        "out_of_range",
        "jobs",
        "retry_count",
        sql("UPDATE jobs SET retry_count = 4294967296 WHERE id = 'id-0'"),
        {"id": "id-0"},
        LEFT_OUT,
        SERVERS,
        others={"orphan": 1},
        revision=HEAD,
    ),
    Trap(
        "a boolean of two",
        "bad_boolean",
        "metrics",
        "is_nan",
        sql(f"UPDATE metrics SET is_nan = 2 {_KEYS}"),
        {"key": "key-0", "is_nan": 2},
    ),
    Trap(
        "true as text in a boolean column",
        "bad_boolean",
        "metrics",
        "is_nan",
        sql(f"UPDATE metrics SET is_nan = 'true' {_KEYS}"),
        {"key": "key-0", "is_nan": "true"},
        {"is_nan": True},
    ),
    Trap(
        "a bare NaN in JSON",
        "bare_nan_in_json",
        "evaluation_dataset_records",
        "inputs",
        sql(
            """UPDATE evaluation_dataset_records SET inputs = '{"a NaN": [1.50, NaN, -Infinity]}' WHERE dataset_record_id = 'dataset_record_id-0'"""
        ),
        {"dataset_record_id": "dataset_record_id-0"},
        {"inputs": '{"a NaN": [1.50, null, null]}'},
        SERVERS,
        revision=HEAD,
    ),
    Trap(
        "JSON that is none",
        "invalid_json",
        "evaluation_dataset_records",
        "inputs",
        sql("UPDATE evaluation_dataset_records SET inputs = '{oops' WHERE dataset_record_id = 'dataset_record_id-0'"),
        {"dataset_record_id": "dataset_record_id-0"},
        LEFT_OUT,
        SERVERS,
        revision=HEAD,
    ),
    Trap(
        "a day that is none",
        "bad_date",
        "sql_trace_metric_daily_rollups",
        "rollup_day",
        sql("UPDATE sql_trace_metric_daily_rollups SET rollup_day = '2026-02-30' WHERE id = 1"),
        {"id": 1},
        LEFT_OUT,
        SERVERS,
        revision=HEAD,
    ),
    Trap(
        "NULL in a column that is NOT NULL",
        "null_in_not_null",
        "params",
        "value",
        loosened(
            "params", "value VARCHAR(500) NOT NULL", "value VARCHAR(500)", f"UPDATE params SET value = NULL {_KEYS}"
        ),
        PARAM,
    ),
    Trap(
        "a tag of a run that is gone",
        "orphan",
        "tags",
        "run_uuid",
        sql(_param("'k'", "'v'", "gone", "tags")),
        {"key": "k", "run_uuid": "gone"},
        LEFT_OUT,
        SERVERS,
    ),
    Trap(
        "a span without a trace",
        "orphan",
        "spans",
        "trace_id",
        sql(
            "INSERT INTO spans (trace_id, experiment_id, span_id, status, start_time_unix_nano, content) "
            "SELECT 'gone', experiment_id, 's', 'OK', 1, '{}' FROM experiments LIMIT 1"
        ),
        {"trace_id": "gone", "span_id": "s"},
        LEFT_OUT,
        revision=BEFORE_ANALYTICS,
        upgrade=True,
    ),
    Trap(
        "an assessment without a trace",
        "orphan",
        "assessments",
        "trace_id",
        sql("UPDATE assessments SET trace_id = 'gone' WHERE assessment_id = 'assessment_id-0'"),
        {"assessment_id": "assessment_id-0"},
        LEFT_OUT,
        revision=BEFORE_ANALYTICS,
        upgrade=True,
    ),
    Trap(
        "dimensions of a span that an upgrade refuses",
        "unsupported_dimensions",
        "spans",
        "dimension_attributes",
        sql(
            """UPDATE spans SET dimension_attributes = '{"mlflow.llm.model": "m", "mine": 1}' WHERE span_id = 'span_id-0'"""
        ),
        {"span_id": "span_id-0"},
        {"dimension_attributes": '{"mlflow.llm.model": "m"}'},
        revision=BEFORE_ANALYTICS,
        upgrade=True,
        others={"orphan": 1},
    ),
    Trap(
        "a run that was left out, with all below it",
        "wrong_type",
        "runs",
        "start_time",
        sql(
            "INSERT INTO runs (run_uuid, experiment_id, start_time) SELECT 'bad', experiment_id, 'noon' FROM experiments LIMIT 1",
            _param("'p'", "'v'", "bad"),
            _param("'t'", "'v'", "bad", "tags"),
        ),
        {"run_uuid": "bad"},
        others={"orphan": 2},
    ),
    Trap(
        "a key in another case",
        "duplicate_key",
        "params",
        "key",
        sql(_param("'P0'", "'first'"), _param("'p0'", "'second'")),
        {"key": "p0", "run_uuid": RUN},
        LEFT_OUT,
        frozenset({"mysql"}),
    ),
    Trap(
        "a key with a blank at its end",
        "duplicate_key",
        "tags",
        "key",
        sql(_param("'P0'", "'first'", table="tags"), _param("'P0 '", "'second'", table="tags")),
        {"key": "P0 ", "run_uuid": RUN},
        LEFT_OUT,
        frozenset({"mysql"}),
    ),
    Trap(
        "a metric's name with an accent",
        "duplicate_key",
        "latest_metrics",
        "key",
        sql(
            f"INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('cafe', 1, 1, 1, 0, '{RUN}')",
            f"INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('café', 1, 1, 1, 0, '{RUN}')",
        ),
        {"key": "café", "run_uuid": RUN},
        LEFT_OUT,
        frozenset({"mysql"}),
    ),
    Trap(
        "a registered model in another case",
        "duplicate_key",
        "registered_models",
        "name",
        sql(
            "INSERT INTO registered_models (name) VALUES ('Mod')",
            "INSERT INTO registered_model_tags (key, name) VALUES ('k', 'Mod')",
            "INSERT INTO registered_models (name) VALUES ('mod')",
            "INSERT INTO registered_model_tags (key, name) VALUES ('k', 'mod')",
        ),
        {"name": "mod"},
        LEFT_OUT,
        frozenset({"mysql"}),
        others={"orphan": 1},
    ),
    Trap(
        "an active experiment in another case",
        "duplicate_key",
        "experiments",
        "name",
        sql(
            "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (70, 'Exp-A', 'active')",
            "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (71, 'exp-a', 'active')",
            "INSERT INTO runs (run_uuid, experiment_id) VALUES ('below', 71)",
        ),
        {"experiment_id": 71},
        LEFT_OUT,
        frozenset({"mysql"}),
        others={"orphan": 1},
    ),
    Trap(
        "a deleted experiment with an active one's name",
        "duplicate_key",
        "experiments",
        "name",
        loosened(
            "experiments",
            "CONSTRAINT uq_experiments_workspace_name UNIQUE (workspace, name)",
            "CHECK (1)",
            "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (71, 'twice', 'active')",
            "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (70, 'twice', 'deleted')",
        ),
        {"experiment_id": 70},
        {"name": "twice_deleted_70"},
        revision=HEAD,
    ),
    Trap(
        "a row that stands twice, its key lost",
        "duplicate_key",
        "tags",
        "key",
        loosened(
            "tags",
            'CONSTRAINT tag_pk PRIMARY KEY ("key", run_uuid)',
            "CHECK (1)",
            "INSERT INTO tags (key, value, run_uuid) SELECT key, value, run_uuid FROM tags WHERE key = 'key-0'",
        ),
        PARAM,
    ),
    Trap(
        "two values of one tag, its key lost",
        "duplicate_key",
        "tags",
        "key",
        loosened(
            "tags",
            'CONSTRAINT tag_pk PRIMARY KEY ("key", run_uuid)',
            "CHECK (1)",
            "INSERT INTO tags (key, value, run_uuid) SELECT key, 'zzz', run_uuid FROM tags WHERE key = 'key-0'",
        ),
        PARAM,
    ),
    Trap(
        "a status older than its check",
        "old_status",
        "runs",
        "status",
        sql(
            "INSERT INTO runs (run_uuid, experiment_id, status) SELECT 'killed', experiment_id, 'KILLED' FROM experiments LIMIT 1"
        ),
        {"run_uuid": "killed"},
        {"status": "FAILED"},
        revision=BEFORE_KILLED,
        upgrade=True,
    ),
    Trap(
        "a source type of another program",
        "bad_check",
        "runs",
        "source_type",
        sql(
            "INSERT INTO runs (run_uuid, experiment_id, source_type) SELECT 'other', experiment_id, 'Kubeflow' FROM experiments LIMIT 1"
        ),
        {"run_uuid": "other"},
        {"source_type": "UNKNOWN"},
    ),
    Trap(
        "two latest points of a metric before 1.3",
        "two_latest_points",
        "metrics",
        "value",
        sql(
            f"INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('loss', 0.5, 9, 9, 0, '{RUN}')",
            f"INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('loss', 0.25, 9, 9, 0, '{RUN}')",
            f"INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('loss', 0.0, 9, 9, 1, '{RUN}')",
            f"INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('loss', 0.0, 3, 3, 1, '{RUN}')",
        ),
        {"key": "loss", "is_nan": 1, "step": 9},
        revision=BEFORE_LATEST,
        upgrade=True,
    ),
]
