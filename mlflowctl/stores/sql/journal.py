"""The journal that a migration keeps in its target: one row a migration, and one a chunk while it is unfinished."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflowctl.stores.sql.reader import CHUNK_TABLE, JOURNAL_TABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlflowctl.stores.sql.backend import WriteBackend


@dataclass(frozen=True, slots=True)
class Record:
    """One row of the journal table ``mlflowctl_migrations``.

    ``document`` is JSON: the options that shaped the rows, the experiment map, the chunks, the phase, the hashes.
    """

    id: str
    chain: str
    state: str
    """running or complete"""
    source: str
    started: str
    finished: str | None
    document: Mapping[str, Any]

    @property
    def phase(self) -> str:
        """How far it is: schema, copy, index, upgrade, lifted or complete."""
        return "complete" if self.state == "complete" else str(self.document.get("phase", "schema"))


class Journal:
    """The journal of one chain, over an open connection; nothing is committed here."""

    def __init__(self, backend: WriteBackend, chain: str) -> None:
        self._backend = backend
        self._chain = chain

    def create(self) -> None:
        """Make the two tables where they are missing."""
        catalog = self._backend.catalog()
        text = "LONGTEXT" if self._backend.dialect == "mysql" else "TEXT"
        if JOURNAL_TABLE not in catalog:
            self._backend.execute(
                f"CREATE TABLE {JOURNAL_TABLE} (id VARCHAR(64) NOT NULL PRIMARY KEY, chain VARCHAR(16) NOT NULL, "
                f"state VARCHAR(16) NOT NULL, source {text} NOT NULL, started VARCHAR(32) NOT NULL, "
                f"finished VARCHAR(32), document {text} NOT NULL)"
            )
        if CHUNK_TABLE not in catalog:
            self._backend.execute(
                f"CREATE TABLE {CHUNK_TABLE} (chain VARCHAR(16) NOT NULL, id VARCHAR(160) NOT NULL, "
                f"document {text} NOT NULL, PRIMARY KEY (chain, id))"
            )

    def latest(self) -> Record | None:
        """The chain's last migration, if the table is there."""
        backend = self._backend
        if JOURNAL_TABLE not in backend.catalog():
            return None
        rows = backend.rows(
            f"SELECT id, chain, state, source, started, finished, document FROM {JOURNAL_TABLE} "
            f"WHERE chain = {backend.literal(self._chain)} ORDER BY started DESC"
        )
        if not rows:
            return None
        row = rows[0]
        return Record(
            row["id"],
            row["chain"],
            row["state"],
            row["source"],
            row["started"],
            row["finished"],
            json.loads(row["document"]),
        )

    def write(self, record: Record) -> None:
        """Put ``record`` in the place of the chain's earlier ones."""
        backend = self._backend
        backend.execute(f"DELETE FROM {JOURNAL_TABLE} WHERE chain = {backend.literal(self._chain)}")
        values = (
            record.id,
            record.chain,
            record.state,
            record.source,
            record.started,
            record.finished,
            json.dumps(record.document),
        )
        backend.execute(
            f"INSERT INTO {JOURNAL_TABLE} (id, chain, state, source, started, finished, document) "
            f"VALUES ({', '.join(backend.literal(v) for v in values)})"
        )

    def chunks(self) -> dict[str, dict[str, Any]]:
        """What is done: chunk or step to its document."""
        backend = self._backend
        if CHUNK_TABLE not in backend.catalog():
            return {}
        rows = backend.rows(f"SELECT id, document FROM {CHUNK_TABLE} WHERE chain = {backend.literal(self._chain)}")
        return {row["id"]: json.loads(row["document"]) for row in rows}

    def chunk_done(self, identity: str, document: Mapping[str, Any]) -> None:
        """Note a chunk (or step), in the transaction of its rows."""
        backend = self._backend
        values = (self._chain, identity, json.dumps(document))
        backend.execute(
            f"INSERT INTO {CHUNK_TABLE} (chain, id, document) VALUES ({', '.join(backend.literal(v) for v in values)})"
        )

    def empty_chunks(self) -> None:
        """Drop the notes of all chunks; the table stays."""
        self._backend.execute(f"DELETE FROM {CHUNK_TABLE} WHERE chain = {self._backend.literal(self._chain)}")

    def forget_chunk(self, identity: str) -> None:
        """Drop the note of one chunk."""
        backend = self._backend
        where = f"chain = {backend.literal(self._chain)} AND id = {backend.literal(identity)}"
        backend.execute(f"DELETE FROM {CHUNK_TABLE} WHERE {where}")

    def forget_chunks(self) -> None:
        """Drop the notes of all chunks, and the table when no other chain has any."""
        backend = self._backend
        if CHUNK_TABLE not in backend.catalog():
            return
        self.empty_chunks()
        if not backend.rows(f"SELECT id FROM {CHUNK_TABLE} LIMIT 1"):
            backend.execute(f"DROP TABLE {CHUNK_TABLE}")
