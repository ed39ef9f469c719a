"""Compares what a database really has with the schema of the revision that it names, and explains the difference.

A migration reads the rows and makes the target anew from the schema data, so most harm (a lost index, a key of another
type) does not travel: that is a warning. Where rows would be lost or misread it is a ``stop``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from mlflowctl.core.errors import MlflowctlError
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.sql.circumstances import Circumstance

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mlflowctl.stores.schema import Chain, Dialect, Schema, Table
    from mlflowctl.stores.sql.backend import Backend

_TEMPORARY = "_alembic_tmp_"
_ANEW = "The target is made anew and has it right."
# Reading the first as the second keeps every value.
_SAFE = {("int", "text"), ("bool", "int"), ("int", "bool"), ("float", "text"), ("text", "json"), ("json", "text")}
_SAFE |= {("int", "float"), ("bool", "float"), ("date", "text"), ("bool", "text"), ("int", "json")}


@dataclass(slots=True)
class FoundColumn:
    """A column as the database has it."""

    sql_type: str
    nullable: bool
    collation: str | None = None


@dataclass(slots=True)
class FoundTable:
    """A table as the database has it."""

    columns: dict[str, FoundColumn] = field(default_factory=dict)
    primary_key: tuple[str, ...] = ()
    indexes: list[tuple[str, tuple[str, ...], bool]] = field(default_factory=list)
    """Name, columns, unique: unique constraints too, not the primary key."""
    foreign_keys: list[tuple[str, tuple[str, ...], str, tuple[str, ...]]] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Fit:
    """The known revision whose schema a database resembles most.

    ``differences`` counts tables, columns, keys and indexes that differ from it; none: it is exactly that.
    """

    revision: str
    differences: int


def examine(backend: Backend, chain: Chain, revision: str) -> list[Circumstance]:
    """Explain in what the database differs from the schema of ``revision``.

    Args:
        backend: the open database; nothing is written.
        chain: whose tables are meant; all others are left alone.
        revision: what the database's version row says, or ``base``.

    Returns:
        Nothing above ``info`` for an unharmed store.

    Raises:
        SourceError, TargetError: the database went away.
    """
    return list(_examined(backend, chain, revision))


def best_fit(backend: Backend, chain: Chain, revision: str) -> str:
    """A sentence about the revision that the database's structure fits best, to be added to an error.

    Args:
        backend: the open database.
        chain: whose tables are meant.
        revision: what the database's version row says.
    """
    return _fit_words(chain, revision, nearest_revision(found_tables(backend, chain), chain, backend.dialect, revision))


def nearest_revision(found: Mapping[str, FoundTable], chain: Chain, dialect: Dialect, stamped: str) -> Fit:
    """The revision whose schema differs least from ``found``; of equals the one nearest to ``stamped``."""
    actual = _features_found(found, dialect)
    order = [r.id for r in schemas.revisions(chain)]
    home = order.index(stamped) if stamped in order else len(order)
    scores = []
    for place, revision in enumerate(order):
        known = _features_known(chain, dialect, revision)
        scores.append((len(known ^ actual), abs(place - home), revision))
    differences, _, nearest = min(scores)
    return Fit(nearest, differences)


# -- explaining ----------------------------------------------------------------------------------------------------


def _examined(backend: Backend, chain: Chain, revision: str) -> Iterator[Circumstance]:
    found = found_tables(backend, chain)
    dialect = backend.dialect
    yield from _version_rows(backend, chain, revision, found)
    yield from _left_behind(backend, chain, found)
    if not schemas.known(chain, revision):
        if revision in schemas.installed_revisions(chain):
            return  # newer than the schema data: there is nothing to compare it with
        yield Circumstance(
            "unknown-revision",
            "stop",
            f"The revision {revision} is unknown. {best_fit(backend, chain, revision)}",
            "Install the MLflow that wrote it (pip install --upgrade mlflow).",
        )
        return
    try:
        known = schemas.schema_at(chain, dialect, revision)
    except KeyError:
        return  # users and permissions on MySQL: no such store exists
    yield from _revision_troubles(backend, known, found)
    for name, table in known.tables.items():
        if name in found:
            yield from _columns(table, found[name], dialect)
            yield from _keys(table, found[name])
            yield from _links(table, found)
            yield from _checks(table, found[name])
    yield from _indexes(known, found)
    yield from _ends(known, found, dialect)
    if dialect == "mysql":
        yield from _default_collation(backend, known, found)


def _version_rows(
    backend: Backend, chain: Chain, revision: str, found: Mapping[str, FoundTable]
) -> Iterator[Circumstance]:
    version_table = schemas.version_table(chain)
    if version_table not in backend.catalog():
        return
    named = [str(r["version_num"]) for r in backend.rows(f"SELECT version_num FROM {backend.quote(version_table)}")]
    installed = set(schemas.installed_revisions(chain))
    ours = sorted(r for r in named if schemas.known(chain, r) or r in installed)
    others = sorted(set(named) - set(ours))
    if len(ours) > 1:
        fit = nearest_revision(found, chain, backend.dialect, revision)
        yield Circumstance(
            "several-revisions",
            "stop",
            f"{version_table} names several revisions of MLflow: {', '.join(ours)}. {_fit_words(chain, revision, fit)}",
            f"DELETE FROM {version_table} WHERE version_num IN ({', '.join(repr(r) for r in ours if r != fit.revision)})",
        )
    if ours and others:
        yield Circumstance(
            "shared-version-table",
            "warning",
            f"{version_table} also holds {', '.join(others)}, the revision of another program in this database. MLflow's own "
            f"upgrade fails on that; the migration takes MLflow's row ({', '.join(ours)}) and MLflow's tables alone.",
            None,
        )


def _left_behind(backend: Backend, chain: Chain, found: Mapping[str, FoundTable]) -> Iterator[Circumstance]:
    """A table that Alembic rebuilds is made under another name first; a kill leaves it."""
    for name in sorted(backend.catalog()):
        if not name.startswith(_TEMPORARY):
            continue
        home = name.removeprefix(_TEMPORARY)
        if home not in schemas.tables_ever(chain):
            continue
        if home in found:
            yield Circumstance(
                "left-behind",
                "warning",
                f"An upgrade of {home} was interrupted and left {name}; {home} itself is whole. An upgrade in place "
                "would fail on it; the migration passes it over.",
                f"Before an upgrade in place: DROP TABLE {name}",
            )
        else:
            yield Circumstance(
                "left-behind",
                "stop",
                f"An upgrade was interrupted after it dropped {home}: its rows are in {name}.",
                f"ALTER TABLE {name} RENAME TO {home}",
            )


def _revision_troubles(backend: Backend, known: Schema, found: Mapping[str, FoundTable]) -> Iterator[Circumstance]:
    chain, dialect, revision = known.chain, known.dialect, known.revision
    lacking = [name for name in known.tables if name not in found]
    needed = bool(lacking)
    for name, table in known.tables.items():
        if name in found:
            absent = [c for c in table.columns if c.name not in found[name].columns]
            lacking += [f"{name}.{c.name}" for c in absent]
            needed = needed or any(not c.nullable and c.default is None and not c.computed for c in absent)
    of_others, strange = _beyond(known, found)
    if strange:
        yield Circumstance(
            "extra-columns",
            "warning",
            f"{_listed(strange)} is no column of MLflow: it is not carried."
            if len(strange) == 1
            else f"{_listed(strange)} are no columns of MLflow: they are not carried.",
            "Keep what they hold elsewhere, if it is needed.",
        )
    fit = nearest_revision(found, chain, dialect, revision)
    stamped = fit.revision != revision and fit.differences == 0
    if not lacking and not of_others and not stamped:
        return
    if not lacking and not of_others:
        yield Circumstance(
            "stamped-by-hand",
            "warning",
            f"The version row says {_named(chain, revision)}, but the structure is exactly that of {_named(chain, fit.revision)}: "
            "the revision was stamped by hand, or its changes were undone.",
            None,
        )
        return
    full = [thing for thing in of_others if _holds(backend, known, thing)]
    words = []
    if lacking:
        words.append(f"lacks {_listed(lacking)}")
    if of_others:
        words.append(f"has {_listed(of_others)} of other revisions")
    if full:
        words.append(f"with data in {_listed(full)}" if len(full) < len(of_others) else "with data in them")
    where = f"UPDATE {schemas.version_table(chain)} SET version_num = '{fit.revision}'"
    if stamped and fit.revision != schemas.BASE:
        next_step = f"Set the row right: {where}; then run the same command."
    elif lacking and not (needed or full):
        next_step = "Nothing, if that column was dropped on purpose: it arrives empty. Else restore it from a backup."
    elif lacking or full:
        version = schemas.last_version_of(chain, revision)
        next_step = "Restore the backup from before that upgrade, or finish it by hand" + (
            f" until the structure is that of MLflow {version}." if version else "."
        )
    else:
        next_step = "Nothing: what is beyond the revision holds no data, and the target is made anew without it."
    yield Circumstance(
        "stamped-by-hand" if stamped else "half-applied",
        "stop" if needed or full or (lacking and stamped) else "warning",
        f"The database says {_named(chain, revision)} but {', '.join(words)}. "
        + ("" if stamped else "An upgrade was cut short, or the revision was stamped by hand. ")
        + _fit_words(chain, revision, fit),
        next_step,
    )


def _beyond(known: Schema, found: Mapping[str, FoundTable]) -> tuple[list[str], list[str]]:
    """Tables and columns that the revision does not have: those of other revisions, and those of nobody."""
    of_others = sorted(set(found) - set(known.tables))
    strange: list[str] = []
    for name, table in known.tables.items():
        extra = sorted(set(found[name].columns) - {c.name for c in table.columns}) if name in found else []
        for column in extra:
            ever = _columns_ever(known.chain, known.dialect).get(name, frozenset())
            (of_others if column in ever else strange).append(f"{name}.{column}")
    return of_others, strange


def _holds(backend: Backend, known: Schema, thing: str) -> bool:
    """Whether there is anything in a table or column that the revision does not have."""
    table, _, column = thing.partition(".")
    name = backend.quote(table)
    if not column:
        seeded = max(
            (
                len(schemas.schema_at(known.chain, known.dialect, r.id).seed.get(table, ()))
                for r in schemas.revisions(known.chain)
            ),
            default=0,
        )
        return int(backend.rows(f"SELECT count(*) AS n FROM {name}")[0]["n"]) > seeded
    defaults = {None, *_defaults_ever(known.chain, known.dialect).get((table, column), ())} - {None}
    cell = backend.quote(column)
    # Where a default was filled in by the server, only another value is somebody's.
    tests = [f"{cell} IS NOT NULL", *(f"{cell} <> {default}" for default in sorted(defaults, key=str))]
    return bool(backend.rows(f"SELECT 1 AS n FROM {name} WHERE {' AND '.join(tests)} LIMIT 1"))


def _columns(table: Table, found: FoundTable, dialect: Dialect) -> Iterator[Circumstance]:
    for column in table.columns:
        actual = found.columns.get(column.name)
        if actual is None:
            continue
        place = f"{table.name}.{column.name}"
        if _type(actual.sql_type, dialect) != _type(column.sql_type, dialect):
            kind = kind_of(actual.sql_type)
            same = kind == column.kind or (kind, column.kind) in _SAFE
            # SQLite's types are wishes; each cell is read with the type that it has, and checked.
            own = dialect == "sqlite"
            safe = own or (same and not re.match(r"numeric|decimal|time", actual.sql_type.lower()))
            read = "Each value is read and checked by itself." if own and not same else "Its values are read unchanged."
            yield Circumstance(
                "column-type",
                "warning" if safe else "stop",
                f"{place} is {actual.sql_type}, where MLflow has {column.sql_type}. "
                + (f"{read} {_ANEW}" if safe else "Its values would not be read as they are."),
                None if safe else f"Give the column its type back: {column.sql_type}.",
            )
        if actual.nullable and not column.nullable and column.name not in table.primary_key:
            yield Circumstance(
                "column-nullable",
                "warning",
                f"{place} may be empty here, where MLflow requires a value. Rows without one are refused by the target.",
                "--scan names such rows.",
            )
        elif not actual.nullable and column.nullable:
            yield Circumstance(
                "column-nullable",
                "warning",
                f"{place} requires a value here, where MLflow allows none. {_ANEW}",
                None,
            )


def _keys(table: Table, found: FoundTable) -> Iterator[Circumstance]:
    if found.primary_key != table.primary_key:
        has = f"({', '.join(found.primary_key)})" if found.primary_key else "none"
        yield Circumstance(
            "primary-key",
            "warning",
            f"{table.name} has the primary key {has}, where MLflow has ({', '.join(table.primary_key)}). Rows that are alike in that are refused by the target.",
            "--scan names such rows.",
        )
    unique = {columns for _, columns, is_unique in found.indexes if is_unique} | {found.primary_key}
    for wanted in (*table.uniques, *table.indexes):
        if wanted.unique and wanted.columns not in unique:
            yield Circumstance(
                "lost-unique",
                "warning",
                f"{table.name} lacks the unique key on ({', '.join(wanted.columns)}). Rows that are alike in that are refused by the target.",
                "--scan names such rows.",
            )


def _indexes(known: Schema, found: Mapping[str, FoundTable]) -> Iterator[Circumstance]:
    lost: list[tuple[str, str]] = []
    own: list[str] = []
    for name, table in known.tables.items():
        if name not in found:
            continue
        there = {columns for _, columns, _ in found[name].indexes} | {found[name].primary_key}
        helpers = {label for link in table.foreign_keys for label in (link.name, link.columns[0])}
        for wanted in table.indexes:
            if wanted.unique or wanted.columns in there:
                continue
            # MySQL makes an index for a foreign key, and drops it when another begins with the same columns.
            if wanted.name in helpers and any(c[: len(wanted.columns)] == wanted.columns for c in there):
                continue
            lost.append((f"{wanted.name} on {name} ({', '.join(wanted.columns)})", _statement(table, wanted.name)))
        wanted_columns = {i.columns for i in (*table.indexes, *table.uniques)} | {table.primary_key}
        links = {link.columns for link in table.foreign_keys}
        own += [
            f"{label} on {name}"
            for label, columns, _ in found[name].indexes
            if columns not in wanted_columns and columns not in links
        ]
    if lost:
        yield Circumstance(
            "lost-index",
            "warning",
            f"The database lacks {len(lost)} of MLflow's indexes: {_listed([words for words, _ in lost])}. Queries that need "
            f"{'it' if len(lost) == 1 else 'them'} read whole tables. The target is made anew and has {'it' if len(lost) == 1 else 'them'}.",
            f"On the source itself: {lost[0][1]}" if lost[0][1] else None,
        )
    if own:
        yield Circumstance(
            "own-index",
            "info",
            f"Indexes that are not MLflow's are not made on the target: {_listed(sorted(own))}.",
            None,
        )


def _statement(table: Table, name: str | None) -> str:
    for statement in table.finish:
        if name and re.search(rf"\b{re.escape(name)}\b", statement) and statement.upper().startswith("CREATE"):
            return statement
        if name and (part := re.search(rf"ADD KEY `{re.escape(name)}` \([^)]*\)", statement)):
            return f"ALTER TABLE `{table.name}` {part.group(0)}"
    return ""


def _links(table: Table, found: Mapping[str, FoundTable]) -> Iterator[Circumstance]:
    there = {(own, other, others) for _, own, other, others in found[table.name].foreign_keys}
    lost = [
        f"({', '.join(link.columns)}) to {link.table}"
        for link in table.foreign_keys
        if (link.columns, link.table, link.ref_columns) not in there
    ]
    if lost:
        yield Circumstance(
            "lost-foreign-key",
            "warning",
            f"{table.name} lacks the foreign key {_listed(lost)}. Rows without their parent are refused by the target.",
            "--scan names such rows.",
        )


def _ends(known: Schema, found: Mapping[str, FoundTable], dialect: Dialect) -> Iterator[Circumstance]:
    """Both ends of a foreign key must be of one type; on MySQL of one character set and collation too."""
    if dialect == "sqlite":
        return
    for name, table in known.tables.items():
        for link in table.foreign_keys:
            for own, other in zip(link.columns, link.ref_columns, strict=True):
                here = found[name].columns.get(own) if name in found else None
                there = found[link.table].columns.get(other) if link.table in found else None
                if here is None or there is None:
                    continue
                left, right = _end(here, dialect), _end(there, dialect)
                if left != right:
                    yield Circumstance(
                        "foreign-key-type",
                        "warning",
                        f"{name}.{own} ({left}) refers to {link.table}.{other} ({right}): the two are of another type, so that "
                        f"MLflow's own upgrade fails on this key. {_ANEW}",
                        None,
                    )


def _end(column: FoundColumn, dialect: Dialect) -> str:
    kind = re.sub(r"\(.*\)", "", _type(column.sql_type, dialect))
    return f"{kind} {column.collation}" if dialect == "mysql" and column.collation else kind


def _default_collation(backend: Backend, known: Schema, found: Mapping[str, FoundTable]) -> Iterator[Circumstance]:
    """Tables that a later upgrade makes get the database's collation: a foreign key to an older table then fails."""
    default = str(backend.rows("SELECT @@collation_database AS c")[0]["c"])
    targets = {
        (link.table, column)
        for table in known.tables.values()
        for link in table.foreign_keys
        for column in link.ref_columns
    }
    other = sorted(
        f"{name}.{column} ({collation})"
        for name, column in targets
        if name in found
        and column in found[name].columns
        and (collation := found[name].columns[column].collation) not in (None, default)
    )
    if other:
        yield Circumstance(
            "default-collation",
            "info",
            f"The database's collation is {default}, that of {_listed(other)} another: an upgrade in place fails where it "
            f"adds a foreign key to them. {_ANEW}",
            None,
        )


def _checks(table: Table, found: FoundTable) -> Iterator[Circumstance]:
    """By the column alone: releases worded the conditions of one revision differently, and some left one out."""
    there = {_column_of(text) for text in found.checks}
    lost = sorted(
        {
            column
            for check in table.checks
            if (column := _column_of(check.text)) and column not in there and column != "is_nan"
        }
    )
    if lost:
        yield Circumstance(
            "lost-check",
            "info",
            f"{table.name} lacks the check of {_listed(lost)}. {_ANEW}",
            None,
        )


def _column_of(check: str) -> str | None:
    match = re.search(r"[(`\"\s]*(\w+)[`\"]?\)?(?:::\w+)?\s*(?:=|in\b|IN\b)", check)
    return match.group(1).lower() if match else None


def _fit_words(chain: Chain, revision: str, fit: Fit) -> str:
    if fit.revision == revision:
        if fit.differences == 0:
            return "Its structure is exactly that of this revision."
        return f"No other revision fits its structure better; from this one {_things(fit.differences)}."
    if fit.differences == 0:
        return f"Its structure is exactly that of {_named(chain, fit.revision)}."
    return f"Its structure fits {_named(chain, fit.revision)} best, from which {_things(fit.differences)}."


def _things(number: int) -> str:
    return "one thing differs" if number == 1 else f"{number} things differ"


def _named(chain: Chain, revision: str) -> str:
    if revision == schemas.BASE:
        return "no revision (MLflow 0.9)"
    if not schemas.known(chain, revision):
        return f"revision {revision}"
    versions = schemas.versions_of(chain, revision)
    return f"revision {revision} ({versions if versions[0].isalpha() else f'MLflow {versions}'})"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


# -- comparing -----------------------------------------------------------------------------------------------------

_Feature = tuple[object, ...]


def _features_found(found: Mapping[str, FoundTable], dialect: Dialect) -> frozenset[_Feature]:
    features: set[_Feature] = set()
    for name, table in found.items():
        features.add(("table", name))
        for column, actual in table.columns.items():
            features.add(("column", name, column))
            filled = column in table.primary_key or not actual.nullable
            features.add(("type", name, column, _type(actual.sql_type, dialect), filled))
        features.add(("key", name, table.primary_key))
        features |= {("index", name, columns, unique) for label, columns, unique in table.indexes if unique or label}
        features |= {("link", name, own, other, others) for _, own, other, others in table.foreign_keys}
    return _without_helpers(features, dialect)


@cache
def _features_known(chain: Chain, dialect: Dialect, revision: str) -> frozenset[_Feature]:
    features: set[_Feature] = set()
    for name, table in schemas.schema_at(chain, dialect, revision).tables.items():
        features.add(("table", name))
        for column in table.columns:
            features.add(("column", name, column.name))
            filled = column.name in table.primary_key or not column.nullable
            features.add(("type", name, column.name, _type(column.sql_type, dialect), filled))
        features.add(("key", name, table.primary_key))
        features |= {("index", name, i.columns, i.unique) for i in (*table.indexes, *table.uniques)}
        features |= {("link", name, k.columns, k.table, k.ref_columns) for k in table.foreign_keys}
    return _without_helpers(features, dialect)


def _without_helpers(features: Iterable[_Feature], dialect: Dialect) -> frozenset[_Feature]:
    """MySQL's own indexes for foreign keys come and go with other indexes: they tell nothing."""
    if dialect != "mysql":
        return frozenset(features)
    features = set(features)
    links = {(f[1], f[2]) for f in features if f[0] == "link"}
    return frozenset(f for f in features if not (f[0] == "index" and not f[3] and (f[1], f[2]) in links))


@cache
def _columns_ever(chain: Chain, dialect: Dialect) -> dict[str, frozenset[str]]:
    ever: dict[str, set[str]] = {}
    for revision in schemas.revisions(chain):
        for name, table in schemas.schema_at(chain, dialect, revision.id).tables.items():
            ever.setdefault(name, set()).update(c.name for c in table.columns)
    return {name: frozenset(columns) for name, columns in ever.items()}


@cache
def _defaults_ever(chain: Chain, dialect: Dialect) -> dict[tuple[str, str], frozenset[str]]:
    ever: dict[tuple[str, str], set[str]] = {}
    for revision in schemas.revisions(chain):
        for name, table in schemas.schema_at(chain, dialect, revision.id).tables.items():
            for column in table.columns:
                if column.default is not None and column.kind != "json":
                    ever.setdefault((name, column.name), set()).add(column.default)
    return {place: frozenset(defaults) for place, defaults in ever.items()}


def _type(sql_type: str, dialect: Dialect) -> str:
    """One word for types that a database or release words differently."""
    text = " ".join(sql_type.lower().split())
    if dialect == "mysql":
        if text != "tinyint(1)":
            text = re.sub(r"int\(\d+\)", "int", text)  # MySQL 8 shows no display width
        # mlflowctl's own targets have DOUBLE where MLflow has FLOAT; MariaDB's JSON is LONGTEXT.
        return {"float": "double", "json": "longtext"}.get(text, text)
    if dialect == "sqlite":
        return re.sub(r"^(?:float|double|real)\b.*", "float", text)
    return text


def kind_of(sql_type: str) -> str | None:
    """The logical kind (as ``schema.Kind``) of a type that a database names, or None for one that MLflow never has."""
    text = sql_type.lower()
    for pattern, kind in (
        (r"json", "json"),
        (r"bool|tinyint\(1\)|bit\(1\)", "bool"),
        (r"float|double|real|numeric|decimal", "float"),
        (r"(tiny|small|medium|big)?int|integer|serial", "int"),
        (r"(tiny|medium|long)?blob|bytea|(var)?binary", "bytes"),
        (r"(var)?char|character|(tiny|medium|long)?text|name|uuid|enum|clob", "text"),
        (r"date$", "date"),
        (r"datetime|timestamp", "datetime"),
    ):
        if re.match(pattern, text):
            return kind
    return None


# -- reading the catalogs ------------------------------------------------------------------------------------------


def found_tables(backend: Backend, chain: Chain) -> dict[str, FoundTable]:
    """The chain's tables (of whatever revision) as the database has them."""
    readers = {"sqlite": _read_sqlite, "postgresql": _read_postgresql, "mysql": _read_mysql}
    ours = schemas.tables_ever(chain)
    catalog = backend.catalog()
    found = {name: FoundTable() for name in sorted(ours & set(catalog))}
    if found:
        readers[backend.dialect](backend, found)
    return found


def _read_sqlite(backend: Backend, found: dict[str, FoundTable]) -> None:
    names = ", ".join("'" + name + "'" for name in found)
    tables = f"(SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name IN ({names})) m"
    keys: dict[str, list[tuple[int, str]]] = {}
    for row in backend.rows(
        f'SELECT m.name AS t, x.name AS c, x.type AS type, x."notnull" AS filled, x.pk AS pk FROM {tables}, '
        "pragma_table_xinfo(m.name) x ORDER BY m.name, x.cid"
    ):
        found[row["t"]].columns[row["c"]] = FoundColumn(row["type"] or "", not row["filled"])
        if row["pk"]:
            keys.setdefault(row["t"], []).append((row["pk"], row["c"]))
    for name, members in keys.items():
        found[name].primary_key = tuple(column for _, column in sorted(members))
    indexes: dict[tuple[str, str, bool], list[str]] = {}
    for row in backend.rows(
        f'SELECT m.name AS t, l.name AS i, l."unique" AS u, i.name AS c FROM {tables}, pragma_index_list(m.name) l, '
        "pragma_index_info(l.name) i WHERE l.origin <> 'pk' ORDER BY m.name, l.name, i.seqno"
    ):
        indexes.setdefault((row["t"], row["i"], bool(row["u"])), []).append(row["c"] or "(expression)")
    for (name, label, unique), columns in indexes.items():
        found[name].indexes.append((label, tuple(columns), unique))
    links: dict[tuple[str, int, str], list[tuple[str, str]]] = {}
    for row in backend.rows(
        f'SELECT m.name AS t, f.id AS id, f."table" AS other, f."from" AS own, f."to" AS theirs FROM {tables}, '
        "pragma_foreign_key_list(m.name) f ORDER BY m.name, f.id, f.seq"
    ):
        links.setdefault((row["t"], row["id"], row["other"]), []).append((row["own"], row["theirs"] or ""))
    for (name, _, other), pairs in links.items():
        theirs = tuple(t for _, t in pairs)
        if not any(theirs) and other in found:
            theirs = found[other].primary_key  # REFERENCES without columns means the key
        found[name].foreign_keys.append(("", tuple(own for own, _ in pairs), other, theirs))
    for row in backend.rows(f"SELECT m.name AS t, m.sql AS text FROM {tables}"):
        found[row["t"]].checks = [m.group(1) for m in re.finditer(r"(?i)\bCHECK\s*(\(.*)", row["text"])]


def _read_postgresql(backend: Backend, found: dict[str, FoundTable]) -> None:
    home = "JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()"
    names = ", ".join("'" + name + "'" for name in found)
    for row in backend.rows(
        "SELECT c.relname::text AS t, a.attname::text AS c, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS filled "
        f"FROM pg_class c {home} JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relkind IN ('r', 'p') AND c.relname IN ({names}) "
        "AND a.attnum > 0 AND NOT a.attisdropped ORDER BY c.relname, a.attnum"
    ):
        found[row["t"]].columns[row["c"]] = FoundColumn(row["type"], not row["filled"])
    members = (
        "(SELECT string_agg(a.attname::text, chr(31) ORDER BY k.n) FROM unnest(o.{0}) WITH ORDINALITY k(num, n) "
        "JOIN pg_attribute a ON a.attrelid = o.{1} AND a.attnum = k.num)"
    )
    for row in backend.rows(
        "SELECT c.relname::text AS t, o.conname::text AS name, o.contype::text AS type, pg_get_constraintdef(o.oid) AS text, "
        f"{members.format('conkey', 'conrelid')} AS own, {members.format('confkey', 'confrelid')} AS theirs, "
        "(SELECT r.relname::text FROM pg_class r WHERE r.oid = o.confrelid) AS other "
        f"FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid {home} WHERE o.contype IN ('p', 'u', 'c', 'f') AND c.relname IN ({names})"
    ):
        table, own = found[row["t"]], tuple((row["own"] or "").split("\x1f"))
        if row["type"] == "p":
            table.primary_key = own
        elif row["type"] == "u":
            table.indexes.append((row["name"], own, True))
        elif row["type"] == "c":
            table.checks.append(row["text"])
        else:
            table.foreign_keys.append((row["name"], own, row["other"], tuple(row["theirs"].split("\x1f"))))
    for row in backend.rows(
        "SELECT c.relname::text AS t, x.relname::text AS name, i.indisunique AS uniq, (SELECT "
        "string_agg(pg_get_indexdef(i.indexrelid, k, true), chr(31) ORDER BY k) FROM generate_series(1, i.indnkeyatts) k) AS columns "
        f"FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid {home} JOIN pg_class x ON x.oid = i.indexrelid "
        f"WHERE c.relname IN ({names}) AND i.indisvalid AND NOT EXISTS "
        "(SELECT 1 FROM pg_constraint o WHERE o.conindid = i.indexrelid AND o.contype IN ('p', 'u', 'x'))"
    ):
        columns = tuple(c.strip('"') for c in row["columns"].split("\x1f"))
        found[row["t"]].indexes.append((row["name"], columns, row["uniq"]))


def _read_mysql(backend: Backend, found: dict[str, FoundTable]) -> None:
    within = f"IN ({', '.join(repr(name) for name in found)})"
    for row in backend.rows(
        "SELECT table_name AS t, column_name AS c, column_type AS type, is_nullable AS nullable, collation_name AS collation "
        f"FROM information_schema.columns WHERE table_schema = database() AND table_name {within} ORDER BY table_name, ordinal_position"
    ):
        found[row["t"]].columns[row["c"]] = FoundColumn(_words(row["type"]), row["nullable"] == "YES", row["collation"])
    indexes: dict[tuple[str, str, bool], list[str]] = {}
    for row in backend.rows(
        "SELECT table_name AS t, index_name AS i, non_unique AS many, column_name AS c FROM information_schema.statistics "
        f"WHERE table_schema = database() AND table_name {within} ORDER BY table_name, index_name, seq_in_index"
    ):
        indexes.setdefault((row["t"], row["i"], not int(row["many"])), []).append(row["c"] or "(expression)")
    for (name, label, unique), columns in indexes.items():
        if label == "PRIMARY":
            found[name].primary_key = tuple(columns)
        else:
            found[name].indexes.append((label, tuple(columns), unique))
    links: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for row in backend.rows(
        "SELECT table_name AS t, constraint_name AS name, column_name AS own, referenced_table_name AS other, "
        "referenced_column_name AS theirs FROM information_schema.key_column_usage WHERE table_schema = database() "
        f"AND referenced_table_name IS NOT NULL AND table_name {within} ORDER BY table_name, constraint_name, ordinal_position"
    ):
        links.setdefault((row["t"], row["name"], row["other"]), []).append((row["own"], row["theirs"]))
    for (name, label, other), pairs in links.items():
        found[name].foreign_keys.append((label, tuple(o for o, _ in pairs), other, tuple(t for _, t in pairs)))
    maria = "mariadb" in str(backend.rows("SELECT VERSION() AS v")[0]["v"]).lower()
    same = " AND t.table_name = c.table_name" if maria else ""  # MariaDB numbers unnamed checks for each table
    try:
        checks = backend.rows(
            "SELECT t.table_name AS t, c.check_clause AS text FROM information_schema.check_constraints c JOIN "
            "information_schema.table_constraints t ON t.constraint_schema = c.constraint_schema AND t.constraint_name = "
            f"c.constraint_name{same} WHERE c.constraint_schema = database() AND t.table_name {within}"
        )
    except MlflowctlError:
        return  # MySQL 5.7 has no checks
    for row in checks:
        found[row["t"]].checks.append(_words(row["text"]))


def _words(value: str | bytes) -> str:
    """MySQL 8 sends some of its catalog's texts as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
