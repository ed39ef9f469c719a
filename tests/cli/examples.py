"""Documents as the engine gives them, for screens and schemas."""

from __future__ import annotations

import copy
from typing import Any

Document = dict[str, Any]

_H = "9f86d081884c7d659a2feaa0c55ad015"


def _table(name: str, rows: int, verdict: str = "=", **more: Any) -> Document:
    hashed = {"source_hash": _H, "target_hash": _H if verdict == "=" else "0" * 32}
    return {
        "name": name,
        "source_rows": rows,
        "target_rows": rows,
        **hashed,
        "verdict": verdict,
        "uncompared_columns": [],
        **more,
    }


def _copied(name: str, rows: int, **more: int) -> Document:
    return {"name": name, "source_rows": rows, "written_rows": rows, "skipped_rows": 0, "fixed_rows": 0, **more}


VERIFY: Document = {
    "schema": "mlflowctl.verify.result/v1",
    "exit_code": 0,
    "error": None,
    "equal": True,
    "source": {"uri": "sqlite:///old.db", "kind": "sqlite", "revision": "acf3f17fdcc7", "snapshot": "single"},
    "target": {"uri": "postgresql://ada:***@db/ml", "kind": "postgresql", "revision": "dc11669786a5"},
    "tables": [_table("experiments", 6), _table("metrics", 1234567), _table("inputs", 0), _table("traces", 0)],
    "differences": [],
    "truncated": False,
    "explained": [],
    "notes": [],
    "seconds": 1.5,
}

DIFFERENT: Document = {
    **copy.deepcopy(VERIFY),
    "exit_code": 11,
    "equal": False,
    "tables": [
        _table("experiments", 6),
        _table("metrics", 100, "-", target_rows=99),
        _table("params", 5, "+", target_rows=6),
        _table("tags", 1000000, "*"),
        _table("traces", 3, "!", target_hash="", uncompared_columns=["request_preview"]),
    ],
    "differences": [
        {"table": "metrics", "key": {"run_uuid": "a1", "key": "loss", "step": "7"}, "kind": "missing", "columns": []},
        {"table": "params", "key": {"run_uuid": "a1", "key": "[prod] x"}, "kind": "extra", "columns": []},
        {"table": "tags", "key": {"run_uuid": "b2", "key": "[/foo]\x1b[2J"}, "kind": "changed", "columns": ["value"]},
    ],
    "truncated": True,
}

VERIFIED: Document = {
    "schema": "mlflowctl.migrate.result/v1",
    "exit_code": 0,
    "error": None,
    "resumable": False,
    "status": "verified",
    "source": {"uri": "./mlruns", "kind": "files", "revision": "97727af70f4d", "snapshot": "none"},
    "target": {
        "uri": "postgresql://ada:***@db/ml",
        "kind": "postgresql",
        "revision": "dc11669786a5",
        "mlflow_version": "3.17.2",
    },
    "tables": [_copied("experiments", 3), _copied("runs", 1200), _copied("metrics", 1234567), _copied("traces", 0)],
    "rejects": {"count": 0, "file": None, "by_rule": {}},
    "renumbered": {"experiments": 2, "file": "mlflowctl-experiment-ids.csv"},
    "not_carried": [{"what": "stray files", "rows": 2, "reason": "they belong to no run"}],
    "artifacts": {
        "under_source": 42,
        "bytes": 1234567,
        "mapped": [{"from": "file:///C:/old", "to": "s3://bucket/new", "rows": 12}],
    },
    "verify": {
        **VERIFY,
        "tables": [
            _table("experiments", 3),
            _table("runs", 1200),
            _table("metrics", 1234567),
            _table("traces", 0),
            _table("workspaces", 0),
        ],
    },
    "plan": {
        "notes": [
            "gateway secrets are carried encrypted: the new server needs the old server's MLFLOW_CRYPTO_KEK_PASSPHRASE."
        ]
    },
    "collapsed": {"duplicate_metric_point": 17},
    "normal": {"empty_metric_file": 1, "absent_tags_folder": 3},
    "explained": [{"rule": "negative_zero", "rows": 1, "text": "SQLite cannot hold -0.0 and keeps it as 0.0"}],
    "notes": ["Another store lies inside: ./mlruns/mlruns."],
    "troubles": [],
    "next_command": "mlflow server --backend-store-uri 'postgresql://ada:***@db/ml'",
    "auth": None,
    "seconds": 12.34,
    "cpu_seconds": 20.5,
    "peak_rss_bytes": 210_000_000,
}

PLANNED: Document = {
    **copy.deepcopy(VERIFIED),
    "status": "planned",
    "verify": None,
    "tables": [_copied("experiments", 3, written_rows=0), _copied("metrics", 1234567, written_rows=0)],
    "plan": {
        "source_versions": "0.8.0 to 3.17.2",
        "revision_from": "97727af70f4d",
        "revision_to": "dc11669786a5",
        "upgrade_revisions": 1,
        "tables": [
            {"name": "experiments", "rows": 3, "estimated": False},
            {"name": "metrics", "rows": 1200000, "estimated": True},
            {"name": "traces", "rows": 0, "estimated": False},
        ],
        "transforms": [
            "upgrade of the copy by 1 of MLflow's own revisions",
            "artifact locations below /a become s3://b",
        ],
        "space_bytes": 312_000_000,
        "seconds_estimate": 41.0,
        "estimated": True,
        "notes": [
            "The recorded artifact root file:///C:/x does not exist here, but the folder does; this mends it: --map-artifacts file:///C:/x=./mlruns"
        ],
    },
    "next_command": None,
    "seconds": 0.4,
}

FAILED: Document = {
    **copy.deepcopy(VERIFIED),
    "exit_code": 4,
    "error": {
        "kind": "bad_rows",
        "message": "2 things in the source cannot be carried.",
        "where": "./mlruns",
        "next": "Mend them.",
    },
    "status": "failed",
    "tables": [],
    "verify": None,
    "plan": None,
    "collapsed": {},
    "normal": {},
    "explained": [],
    "notes": [],
    "not_carried": [],
    "renumbered": {"experiments": 0, "file": None},
    "artifacts": {"under_source": 0, "bytes": 0, "mapped": []},
    "troubles": [
        {"rule": "malformed_meta_yaml", "where": "./mlruns/1/meta.yaml:3", "text": "That is not YAML."},
        {"rule": "name_twice", "where": "./mlruns/2", "text": "The name 'a' stands for two experiments."},
    ],
    "next_command": None,
    "seconds": 0.2,
}

COMPLETE: Document = {
    **copy.deepcopy(VERIFIED),
    "status": "already_complete",
    "tables": [_copied("experiments", 3, written_rows=0)],
    "verify": None,
    "plan": {"notes": []},
    "collapsed": {},
    "normal": {},
    "explained": [],
    "not_carried": [],
    "renumbered": {"experiments": 0, "file": None},
    "artifacts": {"under_source": 0, "bytes": 0, "mapped": []},
    "notes": ["This migration was completed on 2026-11-26T02:15:13Z."],
}

SKIPPED: Document = {
    **copy.deepcopy(VERIFIED),
    "tables": [_copied("runs", 1200, written_rows=1198, skipped_rows=2), _copied("params", 10, fixed_rows=1)],
    "verify": {**VERIFY, "tables": [_table("runs", 1198), _table("params", 10)]},
    "rejects": {"count": 2, "file": "rejects.ndjson", "by_rule": {"dangling_run": 2}},
    "resumable": False,
}

EXAMPLES: dict[str, Document] = {
    "verify-equal": VERIFY,
    "verify-different": DIFFERENT,
    "migrate-verified": VERIFIED,
    "migrate-planned": PLANNED,
    "migrate-failed": FAILED,
    "migrate-complete": COMPLETE,
    "migrate-skipped": SKIPPED,
}
