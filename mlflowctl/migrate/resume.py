"""Decides whether an unfinished migration can be carried on with, and what of it still holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflowctl import __version__
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.api import Chunk

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from mlflowctl.stores.sql.target import Standing, Target

EXTRA = "extra"
"""The chunk of rows that no source gives: those that a change adds, and those of a fresh schema."""
PHASES = ("schema", "copy", "index", "upgrade", "lifted", "complete")
"""The phases that a journal names, in order; each is noted when it begins."""
# What shapes the rows: with another value the copied ones may be other rows.
_SHAPING = {
    "map_artifacts": "--map-artifacts",
    "reroot_artifacts": "--reroot-artifacts",
    "experiment_ids": "the experiments' new IDs",
    "only": "--only",
    "exclude": "--exclude",
    "since": "--since",
    "revision": "the wanted revision",
    "source_revision": "the source's revision",
    "mlflowctl": "another version of mlflowctl",
}


def shaping(journal: Mapping[str, Any], revision: str, source_revision: str) -> dict[str, Any]:
    """The part of a journal's document that a resumed run must repeat."""
    return {**journal, "revision": revision, "source_revision": source_revision, "mlflowctl": __version__}


def why_afresh(standing: Standing, wanted: Mapping[str, Any]) -> str | None:
    """Why an unfinished migration cannot be carried on with; None where it can."""
    record = standing.record
    if record is None:
        return "its journal is gone"
    if record.phase not in PHASES[1:]:
        return "it had not begun to copy" if record.phase == "schema" else "its proof had failed"
    for name, words in _SHAPING.items():
        if record.document.get(name) != wanted.get(name):
            return f"{words} differs from when it was begun"
    before, now = record.document.get("on_bad_row"), wanted.get("on_bad_row")
    if before != now and before != "stop":
        return f"it was begun with --on-bad-row {before}"
    return None


def whole(chunks: Sequence[Chunk], tables: Collection[str]) -> list[Chunk]:
    """The chunks, those of some tables put together to one a table."""
    found: list[Chunk] = []
    for chunk in chunks:
        name = chunk.tables[0]
        if chunk.within is None or name not in tables:
            found.append(chunk)
        elif not any(c.tables == (name,) for c in found):
            rows = sum(c.rows for c in chunks if c.tables == (name,))
            found.append(Chunk(name, (name,), None, rows))
    return found


def chunks_of(document: Mapping[str, Any]) -> list[Chunk]:
    """The chunks that a journal names."""
    return [Chunk(c["id"], tuple(c["tables"]), c["within"], c["rows"]) for c in document.get("chunks", ())]


def chunk_documents(chunks: Sequence[Chunk]) -> list[dict[str, Any]]:
    """The chunks, for a journal."""
    return [{"id": c.id, "tables": list(c.tables), "within": c.within, "rows": c.rows} for c in chunks]


@dataclass(frozen=True, slots=True)
class Again:
    """What is to be copied once more."""

    tables: set[str]
    """to be emptied before"""
    doomed: set[str]
    """IDs of the old chunks that no longer count"""
    fresh: list[Chunk]


def affected(
    changed: set[str],
    chunks: Sequence[Chunk],
    now: Sequence[Chunk],
    extra: Mapping[str, Any] | None,
    seed: Mapping[str, Any],
) -> Again:
    """Everything that must be copied once more because some tables changed: chunks hold several tables.

    Args:
        changed: tables of which the source has other rows than before.
        chunks: as the journal has them.
        now: as the source would be cut now.
        extra: the note of the rows that no chunk gives, if they are written.
        seed: tables that the target's schema fills.
    """
    tables, before = set(changed), set[str]()
    added = set(extra.get("hashes", {})) if extra is not None else set[str]()
    while tables != before:
        before = set(tables)
        for chunk in (*chunks, *now):
            if tables & set(chunk.tables):
                tables.update(chunk.tables)
        if tables & added:
            tables |= added
    doomed = {c.id for c in chunks if tables & set(c.tables)}
    if tables & added:
        given = {name for c in chunks for name in c.tables}
        tables |= set(seed) - given
        doomed.add(EXTRA)
    return Again(tables, doomed, [c for c in now if tables & set(c.tables)])


def half_applied(target: Target) -> str | None:
    """On MySQL: what shows that an upgrade was cut inside of a revision; None where the schema is whole.

    MySQL commits each change of a schema by itself, so a kill can leave some changes of a revision without the rest.
    """
    revision = target.revision()
    if target.kind != "mysql" or not schemas.known(target.chain, revision):
        return None
    catalog = target.backend.catalog()
    expected = schemas.schema_at(target.chain, "mysql", revision)
    for name, table in expected.tables.items():
        if set(catalog.get(name, ())) != {c.name for c in table.columns}:
            return f"table {name} is not as at revision {revision}"
    extra = sorted(set(catalog) & schemas.tables_ever(target.chain) - set(expected.tables))
    extra += sorted(n for n in catalog if n.startswith("_alembic_tmp_"))
    return f"table {extra[0]} is ahead of revision {revision}" if extra else None
