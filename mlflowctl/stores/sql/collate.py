"""What a database says about its own keys and texts: what its catalog guarantees, what its collation calls equal."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlflowctl.core.errors import MlflowctlError, TargetError
from mlflowctl.stores.sql.backend import lost
from mlflowctl.stores.sql.reader import SqlReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mlflowctl.stores.api import Reader
    from mlflowctl.stores.schema import Table
    from mlflowctl.stores.sql.backend import Backend, WriteBackend
    from mlflowctl.stores.uri import StoreUri

_TEXTS = "mlflowctl_texts"
_INSERT_ROWS = 500
# Long enough for every text column of a key in MLflow's schemas (500 characters).
_TEXT_LENGTH = 1000


@dataclass(frozen=True, slots=True)
class Guarantees:
    """What a source's catalog promises about its rows."""

    everything: bool = False
    """A folder: its reader makes the keys and the links itself."""
    keys: dict[str, set[frozenset[str]]] = field(default_factory=dict)
    """Table -> sets of columns that are unique together."""
    links: set[tuple[str, tuple[str, ...], str]] = field(default_factory=set)
    """(table, columns, parent) of foreign keys that the database has checked for every row."""

    def unique(self, table: str, columns: Iterable[str]) -> bool:
        """Whether no two rows of the table can have the same values there (a NULL aside)."""
        wanted = set(columns)
        return self.everything or any(known <= wanted for known in self.keys.get(table, ()))

    def linked(self, table: str, columns: Sequence[str], parent: str) -> bool:
        """Whether every row of the table has its parent."""
        return self.everything or (table, tuple(columns), parent) in self.links


def guarantees(reader: Reader) -> Guarantees:
    """Ask the source's catalog.

    SQLite and MySQL check foreign keys only for those who ask for it, so theirs count for nothing.
    """
    if not isinstance(reader, SqlReader):
        return Guarantees(everything=True)
    backend = reader.backend
    found = Guarantees()
    if backend.dialect == "sqlite":
        for name in reader.schema.tables:
            found.keys[name] = _sqlite_keys(backend, name)
        return found
    if backend.dialect == "postgresql":
        # A partial or expression index promises nothing about whole rows; indkey 0 is an expression.
        for row in backend.rows(
            "SELECT t.relname::text AS t, i.indexrelid::bigint AS i, a.attname::text AS c FROM pg_index i "
            "JOIN pg_class t ON t.oid = i.indrelid JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = ANY (i.indkey) "
            "WHERE t.relnamespace = quote_ident(current_schema())::regnamespace AND i.indisunique AND i.indisvalid "
            "AND i.indpred IS NULL AND i.indexprs IS NULL ORDER BY 1, 2"
        ):
            _collect(found, row["t"], row["i"], row["c"])
        _settle(found)
        for row in backend.rows(
            "SELECT t.relname::text AS t, p.relname::text AS p, (SELECT string_agg(a.attname::text, ',' ORDER BY k.n) "
            "FROM unnest(c.conkey) WITH ORDINALITY AS k(attnum, n) JOIN pg_attribute a ON a.attrelid = c.conrelid "
            "AND a.attnum = k.attnum) AS c FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid "
            "JOIN pg_class p ON p.oid = c.confrelid WHERE c.contype = 'f' AND c.convalidated "
            "AND c.connamespace = quote_ident(current_schema())::regnamespace"
        ):
            found.links.add((row["t"], tuple(row["c"].split(",")), row["p"]))
        return found
    for row in backend.rows(
        "SELECT table_name AS t, index_name AS i, column_name AS c, sub_part AS s FROM information_schema.statistics "
        "WHERE table_schema = database() AND non_unique = 0 ORDER BY table_name, index_name, seq_in_index"
    ):
        _collect(found, row["t"], row["i"], row["c"])
    _settle(found)
    return found


def _collect(found: Guarantees, table: str, index: object, column: str) -> None:
    """Take in one column of an index; ``_settle`` makes sets of them."""
    parts = found.keys.setdefault(table, set())
    parts.add(frozenset({f"{index}\0{column}"}))


def _settle(found: Guarantees) -> None:
    for table, parts in found.keys.items():
        indexes: dict[str, set[str]] = {}
        for part in parts:
            for text in part:
                index, _, column = text.partition("\0")
                indexes.setdefault(index, set()).add(column)
        found.keys[table] = {frozenset(columns) for columns in indexes.values()}


def _sqlite_keys(backend: Backend, table: str) -> set[frozenset[str]]:
    literal = "'" + table.replace("'", "''") + "'"
    primary = {r["name"] for r in backend.rows(f"SELECT name FROM pragma_table_info({literal}) WHERE pk > 0")}
    keys = {frozenset(primary)} if primary else set()
    indexes: dict[str, set[str | None]] = {}
    for row in backend.rows(
        f'SELECT l.name AS i, x.name AS c FROM pragma_index_list({literal}) AS l JOIN pragma_index_info(l.name) AS x WHERE l."unique" AND NOT l.partial'
    ):
        indexes.setdefault(row["i"], set()).add(row["c"])
    keys |= {frozenset(c for c in columns if c) for columns in indexes.values() if None not in columns}
    return keys


def has_rows(reader: Reader, table: str) -> bool:
    """Whether the table holds a row; True where only reading would tell."""
    if not isinstance(reader, SqlReader):
        return True
    return bool(
        reader.backend.rows(f"SELECT count(*) AS n FROM (SELECT 1 FROM {reader.backend.quote(table)} LIMIT 1) AS x")[0][
            "n"
        ]
    )


def any_row(reader: SqlReader, table: str, condition: str) -> bool:
    """Whether the condition holds for any row of the table."""
    backend = reader.backend
    return bool(
        backend.rows(
            f"SELECT count(*) AS n FROM (SELECT 1 FROM {backend.quote(table)} WHERE {condition} LIMIT 1) AS x"
        )[0]["n"]
    )


def odd_keys(reader: SqlReader, table: Table, columns: Sequence[str]) -> str | None:
    """A condition that finds rows of whose key columns a cell is of another type, or a number that is not finite.

    SQLite orders numbers before text and text before bytes, so one comparison a column tells, which costs a tenth of
    a microsecond where asking for the type of each would cost half of one.
    """
    backend = reader.backend
    kinds = {c.name: c.kind for c in table.columns}
    ends = {
        "int": "-9223372036854775808 AND 9223372036854775807",
        "bool": "0 AND 1",
        "float": "-1.7976931348623157e308 AND 1.7976931348623157e308",
    }
    tests: list[str] = []
    for name in columns:
        cell, kind = backend.quote(name), kinds[name]
        if backend.dialect == "sqlite":
            tests.append(f"{cell} NOT BETWEEN {ends[kind]}" if kind in ends else f"{cell} >= x''")
        elif backend.dialect == "postgresql" and kind == "float":
            tests.append(f"{cell} IN ('NaN', 'Infinity', '-Infinity')")
    return " OR ".join(tests) or None


def distinct_texts(reader: SqlReader, table: str, column: str) -> list[bytes]:
    """The different values of a text column, as bytes.

    Where an index begins with the column, the database leaps from one value to the next (a few thousand names of
    metrics among millions of rows).
    """
    backend = reader.backend
    cell, name = backend.quote(column), backend.quote(table)
    if backend.dialect == "mysql":
        rows = backend.rows(f"SELECT DISTINCT CAST({cell} AS BINARY) AS v FROM {name} WHERE {cell} IS NOT NULL")
        return [bytes(row["v"]) for row in rows]
    raw = "hex(CAST(k AS BLOB))" if backend.dialect == "sqlite" else "encode(convert_to(k, 'UTF8'), 'hex')"
    if _leads_an_index(backend, table, column):
        sql = (
            f"WITH RECURSIVE t(k) AS (SELECT min({cell}) FROM {name} UNION ALL "
            f"SELECT (SELECT min({cell}) FROM {name} WHERE {cell} > t.k) FROM t WHERE t.k IS NOT NULL) "
            f"SELECT {raw} AS v FROM t WHERE k IS NOT NULL"
        )
    else:
        sql = f"SELECT {raw} AS v FROM (SELECT DISTINCT {cell} AS k FROM {name} WHERE {cell} IS NOT NULL) AS x"
    return [bytes.fromhex(row["v"]) for row in backend.rows(sql)]


def _leads_an_index(backend: Backend, table: str, column: str) -> bool:
    if backend.dialect == "sqlite":
        literal = "'" + table.replace("'", "''") + "'"
        return any(
            row["c"] == column
            for row in backend.rows(
                f"SELECT x.name AS c FROM pragma_index_list({literal}) AS l JOIN pragma_index_info(l.name) AS x WHERE x.seqno = 0 AND NOT l.partial"
            )
        )
    return any(
        row["c"] == column
        for row in backend.rows(
            "SELECT a.attname::text AS c FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid JOIN pg_attribute a "
            "ON a.attrelid = t.oid AND a.attnum = i.indkey[0] WHERE t.relnamespace = quote_ident(current_schema())::regnamespace "
            f"AND i.indpred IS NULL AND t.relname = '{table}'"
        )
    )


class TargetTexts:
    """How a target compares and stores text; called with (table, column, values) it gives the groups of equal ones.

    On PostgreSQL and SQLite only a text itself is equal to it. MySQL and MariaDB are asked, under the collation of
    the column, or of the database while the table does not exist (tables are made without a collation of their own).
    """

    def __init__(self, backend: WriteBackend) -> None:
        self._backend = backend
        self.charset: str | None = None
        """The target's character set where it cannot hold every character, else None."""
        self._collations: dict[tuple[str, str], tuple[str, str]] = {}
        self._default = ("utf8mb4", "utf8mb4_bin")
        if backend.dialect == "postgresql":
            encoding = backend.rows("SELECT current_setting('server_encoding') AS e")[0]["e"]
            self.charset = None if encoding in ("UTF8", "SQL_ASCII") else str(encoding)
        elif backend.dialect == "mysql":
            row = backend.rows("SELECT @@character_set_database AS c, @@collation_database AS o")[0]
            self._default = (row["c"], row["o"])
            self.charset = None if row["c"] in ("utf8mb4", "utf16", "utf32") else str(row["c"])
            for row in backend.rows(
                "SELECT table_name AS t, column_name AS n, character_set_name AS c, collation_name AS o "
                "FROM information_schema.columns WHERE table_schema = database() AND collation_name IS NOT NULL"
            ):
                self._collations[(row["t"], row["n"])] = (row["c"], row["o"])

    def __call__(self, table: str, column: str, values: Sequence[str]) -> list[list[str]]:
        """Groups of two or more of ``values`` that the target's column calls equal."""
        if self._backend.dialect != "mysql" or len(values) < 2:
            return []
        try:
            return self._ask(table, column, values)
        except MlflowctlError:
            raise
        except Exception as bad:
            raise lost(TargetError, self._backend.uri, bad) from bad

    def _ask(self, table: str, column: str, values: Sequence[str]) -> list[list[str]]:
        charset, collation = self._collations.get((table, column), self._default)
        assert re.fullmatch(r"\w+", charset)
        assert re.fullmatch(r"\w+", collation)
        backend = self._backend
        backend.execute(
            f"CREATE TEMPORARY TABLE {_TEXTS} (n INT NOT NULL, t VARCHAR({_TEXT_LENGTH}) CHARACTER SET {charset} COLLATE {collation})"
        )
        try:
            numbered = [
                (n, text) for n, text in enumerate(values) if len(text) <= _TEXT_LENGTH and holds(charset, text)
            ]
            for start in range(0, len(numbered), _INSERT_ROWS):
                rows = ", ".join(
                    f"({n}, {backend.literal(text)})" for n, text in numbered[start : start + _INSERT_ROWS]
                )
                backend.execute(f"INSERT INTO {_TEXTS} (n, t) VALUES {rows}")
            # Numbers of ten digits at most and a comma for each value.
            backend.execute(f"SET SESSION group_concat_max_len = {max(1024, 11 * len(values))}")
            groups = backend.rows(f"SELECT GROUP_CONCAT(n) AS ns FROM {_TEXTS} GROUP BY t HAVING count(*) > 1")
            return [[values[int(n)] for n in _text(row["ns"]).split(",")] for row in groups]
        finally:
            backend.execute(f"DROP TEMPORARY TABLE IF EXISTS {_TEXTS}")


@contextmanager
def target_texts(uri: StoreUri | None) -> Iterator[TargetTexts | None]:
    """How the target at ``uri`` compares and stores text, asked over a connection of its own; None for SQLite.

    Raises:
        TargetError: it cannot be reached.
    """
    if uri is None or uri.kind not in ("postgresql", "mysql"):
        yield None
        return
    backend: WriteBackend
    if uri.kind == "postgresql":
        from mlflowctl.stores.sql.postgresql import PostgresBackend

        backend = PostgresBackend(uri, side="target")
    else:
        from mlflowctl.stores.sql.mysql import MysqlBackend

        backend = MysqlBackend(uri, side="target")
    try:
        yield TargetTexts(backend)
    finally:
        backend.close()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


# MySQL's latin1 is Windows's code page 1252; PostgreSQL's names are the others.
_CODECS = {
    "latin1": "cp1252",
    "ascii": "ascii",
    "latin2": "iso8859-2",
    "cp1250": "cp1250",
    "cp1251": "cp1251",
    "koi8r": "koi8-r",
    "sjis": "shift_jis",
    "cp932": "cp932",
    "gbk": "gbk",
    "gb2312": "gb2312",
    "big5": "big5",
    "euckr": "euc-kr",
    "ujis": "euc-jp",
    "LATIN1": "iso8859-1",
    "LATIN2": "iso8859-2",
    "LATIN9": "iso8859-15",
    "WIN1250": "cp1250",
    "WIN1251": "cp1251",
    "WIN1252": "cp1252",
    "EUC_JP": "euc-jp",
    "EUC_KR": "euc-kr",
    "KOI8R": "koi8-r",
}


def holds(charset: str | None, text: str) -> bool:
    """Whether a database with that character set can hold the text; True for a set that is not known here."""
    if charset is None or text.isascii():
        return True
    if charset in ("utf8", "utf8mb3", "ucs2"):
        return max(text) <= "\uffff"
    codec = _CODECS.get(charset)
    if codec is None:
        return True
    try:
        text.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def squeezed(charset: str | None, text: str) -> str:
    """The text with U+FFFD, or ``?`` where the character set lacks even that, for every character that it lacks."""
    mark = "\ufffd" if holds(charset, "\ufffd") else "?"
    return "".join(c if holds(charset, c) else mark for c in text)
