"""Reads one chain (tracking, or users and permissions) of a SQL store at whatever revision it stands."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from mlflowctl.core.errors import SourceError
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.api import Chunk, Count, NotCarried, Reader, ReadReport, TableBatch
from mlflowctl.stores.canonical import arrow_schema
from mlflowctl.stores.schema import Schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlflowctl.stores.schema import Chain
    from mlflowctl.stores.sql.backend import Backend
    from mlflowctl.stores.sql.circumstances import Circumstance

JOURNAL_TABLE = "mlflowctl_migrations"
CHUNK_TABLE = "mlflowctl_chunks"
"""Stands in a target only while a migration into it is unfinished."""
_SMALL_ROWS = 20_000
CHUNK_ROWS = 250_000
# Of a table that is not small, so that a kill in the midst of it costs little.
_LEAST_CHUNKS = 8
"""Rows that are written and journaled as one: what a kill costs at most, for each thread."""
_CORE_TABLES = {"tracking": ("experiments", "runs", "metrics"), "auth": ("users", "experiment_permissions")}


class SqlReader(Reader):
    """A SQL store, opened by its backend at one instant."""

    def __init__(
        self,
        backend: Backend,
        chain: Chain,
        *,
        notes: Sequence[str] = (),
        check_types: bool = True,
        lifted: bool = False,
    ) -> None:
        self.backend = backend
        self.kind = backend.dialect
        self.uri = backend.uri.redacted
        self.chain = chain
        self.snapshot = "single"
        self.report = ReadReport(notes=list(notes))
        self._check_types = check_types
        self._borrowed = False
        catalog = backend.catalog()
        self.revision = _revision(backend, chain, catalog, beyond_data=lifted)
        self.schema = self._actual_schema(catalog)

    def _actual_schema(self, catalog: Mapping[str, tuple[str, ...]]) -> Schema:
        """The revision's schema, narrowed to what this database really has; what is beyond it is reported."""
        known = self._known_schema()
        beyond = known.revision != self.revision
        lost = [name for name in known.tables if name not in catalog]
        if lost and not beyond:
            raise SourceError(
                f"The source says revision {self.revision} but lacks {', '.join(sorted(lost))}.",
                where=self.uri,
                why=f"An upgrade was cut short, or the revision was stamped by hand. {self._best_fit()}",
                next_step=f"Restore the backup from before that upgrade, or finish it with: mlflow db upgrade (MLflow {schemas.versions_of(self.chain, self.revision)})",
                kind="half_applied_revision",
            )
        tables = {}
        for name, table in known.tables.items():
            if name in lost:
                continue
            there = set(catalog[name])
            columns = tuple(c for c in table.columns if c.name in there)
            for column in table.columns:
                if beyond:
                    break
                if column.name not in there and not column.nullable and column.default is None and not column.computed:
                    raise SourceError(
                        f"The source says revision {self.revision} but {name} lacks the column {column.name}.",
                        where=self.uri,
                        why=f"An upgrade was cut short, or the revision was stamped by hand. {self._best_fit()}",
                        next_step="Restore the backup from before that upgrade, or add the column.",
                        kind="half_applied_revision",
                    )
            for extra in () if beyond else sorted(there - {c.name for c in table.columns}):
                rows = self.backend.rows(
                    f"SELECT count({self.backend.quote(extra)}) AS n FROM {self.backend.quote(name)}"
                )[0]["n"]
                self.report.not_carried.append(
                    NotCarried(f"column {name}.{extra}", int(rows), "no column of MLflow at this revision")
                )
            tables[name] = replace(table, columns=columns)
        if not beyond:
            self._report_other_tables(catalog, set(known.tables))
        return replace(known, tables=tables)

    def _best_fit(self) -> str:
        from mlflowctl.stores.sql import structure

        return structure.best_fit(self.backend, self.chain, self.revision)

    def circumstances(self) -> list[Circumstance]:
        """What about this database a person should know before it is read: rights, limits, a harmed schema."""
        from mlflowctl.stores.sql import circumstances, structure

        return [
            *circumstances.source_circumstances(self.backend, self.chain),
            *structure.examine(self.backend, self.chain, self.revision),
        ]

    def _known_schema(self) -> Schema:
        """The data's schema of the revision, or of the last one before it that the data knows.

        The latter happens to a target lifted by an MLflow newer than this mlflowctl: it is read as far as it is known.

        Raises:
            SourceError: the users' database is on MySQL, for which MLflow has no such schema.
        """
        if self.chain == "auth" and self.backend.dialect == "mysql":
            raise SourceError(
                "MLflow keeps no users and permissions on MySQL or MariaDB.",
                where=self.uri,
                why="Its own scripts fail there: two foreign keys have one name.",
                next_step="Name the SQLite or PostgreSQL database of the basic-auth app.",
                kind="unsupported_store",
            )
        if schemas.known(self.chain, self.revision):
            return schemas.schema_at(self.chain, self.backend.dialect, self.revision)
        installed = schemas.installed_revisions(self.chain)
        before = [r for r in installed[: installed.index(self.revision)] if schemas.known(self.chain, r)]
        self.report.notes.append(
            f"Revision {self.revision} is newer than mlflowctl's data: tables and columns were compared as of {before[-1]}."
        )
        return schemas.schema_at(self.chain, self.backend.dialect, before[-1])

    def _report_other_tables(self, catalog: Mapping[str, tuple[str, ...]], ours: set[str]) -> None:
        chains: tuple[Chain, ...] = ("tracking", "auth")
        bookkeeping = {schemas.version_table(chain) for chain in chains} | {JOURNAL_TABLE, CHUNK_TABLE}
        other_chain: set[str] = set()
        for chain in chains:
            if chain != self.chain and schemas.version_table(chain) in catalog:
                other_chain = set(schemas.tables_ever(chain))
        for name in sorted(set(catalog) - ours - bookkeeping):
            if name in other_chain:
                if self.chain == "tracking":
                    rows = int(self.backend.rows(f"SELECT count(*) AS n FROM {self.backend.quote(name)}")[0]["n"])
                    self.report.not_carried.append(
                        NotCarried(
                            f"table {name}", rows, "users and permissions: carried with --auth-from and --auth-to"
                        )
                    )
                continue
            rows = int(self.backend.rows(f"SELECT count(*) AS n FROM {self.backend.quote(name)}")[0]["n"])
            self.report.not_carried.append(
                NotCarried(f"table {name}", rows, "not a table of MLflow; it belongs to another owner")
            )

    def counts(self, *, exact: bool) -> Mapping[str, Count]:
        if not exact:
            return self.backend.estimates(self.schema.tables)
        return {
            name: Count(int(self.backend.rows(f"SELECT count(*) AS n FROM {self.backend.quote(name)}")[0]["n"]))
            for name in self.schema.tables
        }

    def batches(
        self, tables: Sequence[str] | None = None, columns: Mapping[str, Sequence[str]] | None = None
    ) -> Iterator[TableBatch]:
        for name in self.schema.tables if tables is None else tables:
            yield from self._table(name, None if columns is None else columns.get(name), None)

    def _table(self, name: str, wanted: Sequence[str] | None, within: str | None) -> Iterator[TableBatch]:
        table = self.schema.tables[name]
        chosen = [c for c in table.columns if not c.computed and (wanted is None or c.name in wanted)]
        read = 0
        for rows in self.backend.stream(name, chosen, within):
            read += rows.num_rows
            yield TableBatch(name, rows)
        if self._check_types and self.backend.loose_types:
            where = f" WHERE {within}" if within else ""
            there = int(self.backend.rows(f"SELECT count(*) AS n FROM {self.backend.quote(name)}{where}")[0]["n"])
            if read != there:
                # Rows with a cell of another type were left out of the stream: whoever takes it decides on them.
                odd = tuple(self.backend.odd_rows(name, chosen, within))
                if read + len(odd) != there:
                    raise SourceError(
                        f"{there - read - len(odd)} rows of {name} could not be read.",
                        where=self.uri,
                        why="The file is damaged, or changed while it was read.",
                        next_step="Check it with: sqlite3 FILE 'PRAGMA integrity_check'",
                        kind="unreadable_rows",
                    )
                yield TableBatch(name, pa.RecordBatch.from_pylist([], schema=arrow_schema(chosen)), odd)

    def chunks(self) -> list[Chunk]:
        """Small tables together, large ones cut by ranges."""
        counts = self.counts(exact=False)
        found: list[Chunk] = []
        small: list[str] = []
        rows_of_small = 0
        for name, table in self.schema.tables.items():
            rows = counts[name].rows
            if rows <= _SMALL_ROWS:
                if rows_of_small + rows > _SMALL_ROWS:
                    found.append(Chunk(f"{small[0]}+", tuple(small), None, rows_of_small))
                    small, rows_of_small = [], 0
                small.append(name)
                rows_of_small += rows
                continue
            each = min(CHUNK_ROWS, max(_SMALL_ROWS, rows // _LEAST_CHUNKS))
            parts = self.backend.ranges(table, each) if rows > each else [None]
            found.extend(
                Chunk(f"{name}:{number}" if len(parts) > 1 else name, (name,), within, rows // len(parts))
                for number, within in enumerate(parts)
            )
        if small:
            found.append(Chunk(f"{small[0]}+", tuple(small), None, rows_of_small))
        return found

    def read(self, chunk: Chunk) -> Iterator[TableBatch]:
        for name in chunk.tables:
            yield from self._table(name, None, chunk.within)

    def state(self) -> str | None:
        return self.backend.state()

    def sibling(self) -> Reader | None:
        backend = self.backend.sibling()
        if backend is None:
            return None
        other = copy(self)
        other.backend = backend
        other.report = ReadReport()
        other._borrowed = backend is self.backend
        return other

    def close(self) -> None:
        if not self._borrowed:
            self.backend.close()


def _revision(backend: Backend, chain: Chain, catalog: Mapping[str, tuple[str, ...]], *, beyond_data: bool) -> str:
    """The one revision of the chain that the database names.

    Raises:
        SourceError: not an MLflow database, several revisions, or one that the installed MLflow does not know.
    """
    where = backend.uri.redacted
    version_table = schemas.version_table(chain)
    has_core = all(name in catalog for name in _CORE_TABLES[chain])
    if not has_core and version_table not in catalog:
        what = "The database is empty." if not catalog else "The database is not an MLflow store."
        why = (
            None
            if not catalog
            else f"It has {len(catalog)} tables, but none of MLflow's ({', '.join(_CORE_TABLES[chain])})."
        )
        raise SourceError(
            what, where=where, why=why, next_step="Check the name of the database (and schema).", kind="not_a_store"
        )
    named: list[str] = []
    if version_table in catalog:
        named = [row["version_num"] for row in backend.rows(f"SELECT version_num FROM {backend.quote(version_table)}")]
    installed = set(schemas.installed_revisions(chain))
    ours = [r for r in named if schemas.known(chain, r) or (beyond_data and r in installed)]
    if len(ours) > 1:
        raise SourceError(
            f"The database names several revisions of MLflow at once: {', '.join(ours)}.",
            where=where,
            next_step=f"Find the true one and delete the other rows of {version_table}.",
            kind="several_revisions",
        )
    if not ours:
        if named and not has_core:
            raise SourceError(
                "The database is not an MLflow store.",
                where=where,
                why=f"Its {version_table} belongs to another program.",
                next_step="Check the name of the database.",
                kind="not_a_store",
            )
        if not named and has_core:
            # MLflow 0.9 had no revision; the users' database named none under its own table before 3.7.
            return schemas.revisions(chain)[0].id
        raise SourceError(
            f"The source's revision {', '.join(named) or '(none)'} is unknown.",
            where=where,
            why=f"The installed MLflow knows revisions up to {schemas.installed_head(chain)}.",
            next_step="Install the MLflow that wrote it (pip install --upgrade mlflow), then run the same command.",
            kind="unknown_revision",
        )
    revision = ours[0]
    if revision != "base" and revision not in installed:
        raise SourceError(
            f"The source's revision {revision} is newer than the installed MLflow.",
            where=where,
            why=f"The installed MLflow ends at {schemas.installed_head(chain)}.",
            next_step=f"Install MLflow {schemas.versions_of(chain, revision)} or later, then run the same command.",
            kind="unknown_revision",
        )
    return revision
