"""What the command line hands to the migration engine, and what it gets back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class MigrateSettings:
    """The settings of one migration; URIs are resolved (no secret references) and hold their passwords."""

    source: str
    target: str
    dry_run: bool = False
    scan: bool = False
    target_version: str | None = None
    jobs: int = 2
    map_artifacts: tuple[tuple[str, str], ...] = ()
    reroot_artifacts: str | None = None
    experiment_ids: str = "auto"
    auth_source: str | None = None
    auth_target: str | None = None
    upgrade: bool = True
    on_bad_row: str = "stop"
    """stop, skip or fix"""
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    since: str | None = None
    rejects_file: str | None = None
    retry_seconds: int = 120


@dataclass(frozen=True, slots=True)
class VerifySettings:
    """The settings of one verification. ``all_differences`` lifts the limit on named rows."""

    source: str
    target: str
    auth_source: str | None = None
    auth_target: str | None = None
    all_differences: bool = False


@dataclass(frozen=True, slots=True)
class TableVerdict:
    """One table's comparison; ``verdict`` is one of = - + * !."""

    name: str
    source_rows: int
    target_rows: int
    source_hash: str
    target_hash: str
    verdict: str
    uncompared_columns: tuple[str, ...] = ()

    def document(self) -> Document:
        return {
            "name": self.name,
            "source_rows": self.source_rows,
            "target_rows": self.target_rows,
            "source_hash": self.source_hash,
            "target_hash": self.target_hash,
            "verdict": self.verdict,
            "uncompared_columns": list(self.uncompared_columns),
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """One row that is not the same on both sides."""

    table: str
    key: dict[str, Any]
    kind: str
    """missing, extra or changed"""
    columns: tuple[str, ...] = ()

    def document(self) -> Document:
        return {"table": self.table, "key": self.key, "kind": self.kind, "columns": list(self.columns)}


@dataclass(slots=True)
class VerifyResult:
    """The outcome of comparing two stores."""

    tables: list[TableVerdict] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    truncated: bool = False
    explained: list[Document] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    source: Document = field(default_factory=dict)
    target: Document = field(default_factory=dict)
    seconds: float = 0.0
    lacking: list[str] = field(default_factory=list)
    """Tables and columns of the source that the target lacks although it stands at the same revision."""

    @property
    def equal(self) -> bool:
        # '!' is a table that no rule can compare across these revisions: named, never called equal.
        return all(t.verdict in "=!" for t in self.tables) and not self.differences and not self.lacking

    def document(self) -> Document:
        """The ``mlflowctl.verify.result/v1`` document."""
        return {
            "schema": "mlflowctl.verify.result/v1",
            "exit_code": 0 if self.equal else 11,
            "error": None,
            "equal": self.equal,
            "source": self.source,
            "target": self.target,
            "tables": [t.document() for t in self.tables],
            "differences": [d.document() for d in self.differences],
            "truncated": self.truncated,
            "explained": self.explained,
            "notes": [*self.notes, *(f"The target lacks the {what} of the source." for what in self.lacking)],
            "seconds": round(self.seconds, 3),
        }


@dataclass(slots=True)
class MigrateResult:
    """The outcome of a migration; filled as the engine goes, so that a failure reports what is known."""

    status: str = "incomplete"
    exit_code: int = 0
    source: Document = field(default_factory=dict)
    target: Document = field(default_factory=dict)
    tables: list[Document] = field(default_factory=list)
    rejects: Document = field(default_factory=lambda: {"count": 0, "file": None, "by_rule": {}})
    renumbered: Document = field(default_factory=lambda: {"experiments": 0, "file": None})
    not_carried: list[Document] = field(default_factory=list)
    artifacts: Document = field(default_factory=lambda: {"under_source": 0, "bytes": 0, "mapped": []})
    verify: Document | None = None
    plan: Document | None = None
    collapsed: dict[str, int] = field(default_factory=dict)
    normal: dict[str, int] = field(default_factory=dict)
    explained: list[Document] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    troubles: list[Document] = field(default_factory=list)
    next_command: str | None = None
    auth: Document | None = None
    resumable: bool = False
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss_bytes: int = 0

    def document(self) -> Document:
        """The ``mlflowctl.migrate.result/v1`` document."""
        return {
            "schema": "mlflowctl.migrate.result/v1",
            "exit_code": self.exit_code,
            "error": None,
            "resumable": self.resumable,
            "status": self.status,
            "source": self.source,
            "target": self.target,
            "tables": self.tables,
            "rejects": self.rejects,
            "renumbered": self.renumbered,
            "not_carried": self.not_carried,
            "artifacts": self.artifacts,
            "verify": self.verify,
            "plan": self.plan,
            "collapsed": self.collapsed,
            "normal": self.normal,
            "explained": self.explained,
            "notes": self.notes,
            "troubles": self.troubles,
            "next_command": self.next_command,
            "auth": self.auth,
            "seconds": round(self.seconds, 3),
            "cpu_seconds": round(self.cpu_seconds, 3),
            "peak_rss_bytes": self.peak_rss_bytes,
        }
