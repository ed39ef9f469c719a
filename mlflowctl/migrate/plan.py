"""The plan of a migration: what is there, what will change, what stays behind, and what it will cost."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflowctl.core.errors import SourceError, TargetError
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.api import Count

if TYPE_CHECKING:
    from mlflowctl.migrate.api import Document, MigrateSettings
    from mlflowctl.migrate.select import Selection
    from mlflowctl.stores.api import Reader
    from mlflowctl.stores.sql.circumstances import Circumstance
    from mlflowctl.stores.sql.target import Standing, Target
    from mlflowctl.stores.uri import StoreUri

# Rough sizes on disk with keys and indexes, bytes a row, measured on SQLite with 1,000,000 metric rows; other tables
# by the same yardstick. Estimates are marked as such.
_BYTES_A_ROW = {"metrics": 250, "params": 150, "tags": 180, "spans": 2000}
_BYTES_OTHERWISE = 200
# Rows a second, proof included, on two cores: an order of magnitude for a person who waits.
_ROWS_A_SECOND = {"sqlite": 150_000, "postgresql": 120_000, "mysql": 30_000}
_UPGRADE_SECONDS = {"sqlite": 8, "postgresql": 10, "mysql": 20}
# Tables whose secrets stay encrypted with a passphrase that only the old server knows.
_PASSPHRASES = (
    ("secrets", "MLFLOW_CRYPTO_KEK_PASSPHRASE", "gateway secrets"),
    ("webhooks", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", "webhook secrets"),
)
_MAX_INT32 = 2**31 - 1


@dataclass(slots=True)
class Plan:
    """Everything that is known before the first byte is written."""

    source_versions: str
    counts: dict[str, Count]
    target_kind: str
    revision_from: str
    revision_to: str
    experiment_ids: dict[int, int] = field(default_factory=dict)
    journal: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, Any] = field(default_factory=dict)
    transforms_text: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    circumstances: list[tuple[str, Circumstance]] = field(default_factory=list)
    """Side and what is so there."""
    selection: dict[str, Any] | None = None
    upgrades: int = 0

    def take_exact(self, rows: Mapping[str, int]) -> None:
        """Replace estimates by what a scan counted."""
        self.counts = {name: Count(rows.get(name, 0)) for name in self.counts}

    @property
    def space_bytes(self) -> int:
        return sum(c.rows * _BYTES_A_ROW.get(n, _BYTES_OTHERWISE) for n, c in self.counts.items()) + (1 << 20)

    @property
    def seconds(self) -> float:
        rows = sum(c.rows for c in self.counts.values())
        return (
            1 + rows / _ROWS_A_SECOND[self.target_kind] + (_UPGRADE_SECONDS[self.target_kind] if self.upgrades else 0)
        )

    def document(self) -> Document:
        return {
            "source_versions": self.source_versions,
            "revision_from": self.revision_from,
            "revision_to": self.revision_to,
            "upgrade_revisions": self.upgrades,
            "tables": [{"name": n, "rows": c.rows, "estimated": c.estimated} for n, c in self.counts.items()],
            "transforms": self.transforms_text,
            "space_bytes": self.space_bytes,
            "seconds_estimate": round(self.seconds, 1),
            "estimated": True,
            "circumstances": [
                {"side": side, "rule": c.rule, "level": c.level, "text": c.text, "next": c.next_step}
                for side, c in self.circumstances
            ],
            "selection": self.selection,
            "notes": self.notes,
        }

    def look_around(self, source: Reader, target: Target, connections: int) -> None:
        """Take in what rights, limits and settings on both sides mean for the migration.

        Raises:
            SourceError, TargetError: a side went away.
        """
        self.circumstances = [("source", c) for c in source.circumstances()]
        self.circumstances += [
            ("target", c) for c in target.circumstances(self.space_bytes, self.revision_to, connections)
        ]

    def raise_stops(self) -> None:
        """Refuse what cannot succeed, before anything is written.

        Raises:
            SourceError, TargetError: a circumstance of the level ``stop``; all of them are in the details.
        """
        stops = [(side, c) for side, c in self.circumstances if c.level == "stop"]
        if not stops:
            return
        side, first = stops[0]
        error = SourceError if side == "source" else TargetError
        raise error(
            first.text,
            why=f"{len(stops) - 1} more stand in the way; the report names them." if len(stops) > 1 else None,
            next_step=first.next_step,
            kind=first.rule.replace("-", "_"),
            details=tuple(f"{s}: {c.rule}: {c.text} {c.next_step or ''}".strip() for s, c in stops),
        )


def make(
    settings: MigrateSettings,
    source: Reader,
    target_kind: str,
    revision: str,
    standing: Standing,
    selection: Selection | None,
) -> Plan:
    """Look at the source, quickly, and decide everything that is to be decided.

    Raises:
        TargetError: the target cannot hold the source's experiment IDs and ``--experiment-ids keep`` was given.
    """
    plan = Plan(
        source_versions=schemas.versions_of(source.chain, source.revision),
        counts=dict(source.counts(exact=False)),
        target_kind=target_kind,
        revision_from=source.revision,
        revision_to=revision,
    )
    order = [r.id for r in schemas.revisions(source.chain)]
    if revision in order and source.revision in order:
        plan.upgrades = order.index(revision) - order.index(source.revision)
    if standing.state == "complete" and standing.record is not None:
        plan.journal = dict(standing.record.document)
        plan.experiment_ids = {int(o): int(n) for o, n in plan.journal.get("experiment_ids", {}).items()}
        return plan
    if source.chain == "tracking":
        plan.experiment_ids = _experiment_ids(settings.experiment_ids, source, target_kind, selection)
    plan.journal = {
        "map_artifacts": [list(m) for m in settings.map_artifacts],
        "reroot_artifacts": settings.reroot_artifacts,
        "experiment_ids": {str(o): str(n) for o, n in plan.experiment_ids.items()},
        "only": list(settings.only),
        "exclude": list(settings.exclude),
        "since": settings.since,
        "on_bad_row": settings.on_bad_row,
    }
    plan.selection = selection.document() if selection is not None else None
    _describe(plan, settings, source)
    return plan


def _experiment_ids(policy: str, source: Reader, target_kind: str, selection: Selection | None) -> dict[int, int]:
    """Old to new IDs, for every experiment that is carried when any is renumbered, else nothing."""
    if "experiments" not in source.schema.tables or (target_kind == "sqlite" and policy != "renumber"):
        return {}
    columns = {c.name for c in source.schema.tables["experiments"].columns}
    ids: list[tuple[int, int]] = []
    for batch in source.batches(["experiments"]):
        if batch.table != "experiments":
            continue
        created = (
            batch.rows.column("creation_time").to_pylist()
            if "creation_time" in columns
            else [None] * batch.rows.num_rows
        )
        ids.extend(
            (at or 0, number)
            for at, number in zip(created, batch.rows.column("experiment_id").to_pylist(), strict=True)
            if selection is None or number in selection.experiments
        )
    ids.sort()
    large = [number for _, number in ids if not -_MAX_INT32 - 1 <= number <= _MAX_INT32]
    if policy != "renumber" and not large:
        return {}
    if policy == "keep":
        raise TargetError(
            f"{len(large)} experiments have IDs that the target's 32-bit column cannot hold, for example {large[0]}.",
            next_step="Use --experiment-ids auto (renumbers those) or renumber (all), or a SQLite target, which keeps them.",
            kind="experiment_id_range",
        )
    renumbered = [n for _, n in ids if n != 0] if policy == "renumber" else [n for _, n in ids if n in set(large)]
    kept = {n for _, n in ids} - set(renumbered)
    following = max((n for n in kept if n > 0), default=0) + 1
    if following + len(renumbered) > _MAX_INT32:  # a kept ID near the end of the range: use the gaps below it
        free: Iterator[int] = (n for n in range(1, _MAX_INT32) if n not in kept)
    else:
        free = iter(range(following, following + len(renumbered)))
    return {n: n for n in kept} | dict(zip(renumbered, free, strict=False))


def _describe(plan: Plan, settings: MigrateSettings, source: Reader) -> None:
    if plan.upgrades:
        plan.transforms_text.append(
            f"upgrade of the copy from {plan.revision_from} to {plan.revision_to} by {plan.upgrades} of MLflow's own revisions"
        )
    changed = sum(o != n for o, n in plan.experiment_ids.items())
    if changed:
        plan.transforms_text.append(
            f"{changed} experiments get new IDs, each tagged with its old one; a map file is written"
        )
    for old, new in settings.map_artifacts:
        plan.transforms_text.append(f"artifact locations below {old} become {new}")
    if settings.reroot_artifacts:
        plan.transforms_text.append(f"artifact locations move to {settings.reroot_artifacts}, keeping their own end")
    for table, variable, what in _PASSPHRASES:
        if plan.counts.get(table, Count(0)).rows:
            plan.notes.append(f"{what} are carried encrypted: the new server needs the old server's {variable}.")
    facts = getattr(source, "quick_facts", None)
    if facts is not None:
        quick = facts()
        plan.artifacts = {"under_source": quick.artifacts.files, "bytes": quick.artifacts.bytes}
        if not settings.map_artifacts and not settings.reroot_artifacts:
            for old, new in quick.suggestions:
                plan.notes.append(
                    f"The recorded artifact root {old} does not exist here, but the folder does; this mends it: --map-artifacts {shlex.quote(f'{old}={new}')}"
                )


def server_command(target: StoreUri, plan: Plan, settings: MigrateSettings) -> str:
    """The exact command that serves the new store."""
    return f"mlflow server --backend-store-uri {shlex.quote(target.redacted)}"
