"""Rows that a target cannot hold as they are: each is named, and left out or mended by a rule, never in silence.

The rules for cells are in ``clean_cells``, those for rows beside other rows in ``clean_rows``; ``RULES`` lists them
all. ``Cleaning.prepare`` reads what must be known of other rows (parents' keys, keys that the target may call equal)
and reads no big table for it where its catalog or an index answers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlflowctl.migrate.clean_cells import CELL_RULES, LEFT_OUT, ODD_RULES, Finding, Place, shown
from mlflowctl.migrate.clean_rows import (
    LATEST_METRICS,
    ROW_RULES,
    Groups,
    Judged,
    Link,
    Series,
    Sheet,
    Twins,
    TwoLatest,
    folded,
    in_set,
    key_hash,
    must_reason,
    parents_first,
)
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.api import TableBatch
from mlflowctl.stores.sql import collate
from mlflowctl.stores.sql.reader import SqlReader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlflowctl.migrate.clean_cells import Mask
    from mlflowctl.stores.api import Reader
    from mlflowctl.stores.schema import Schema, Table

    U64 = NDArray[np.uint64]

RULES: Final[Mapping[str, str]] = {**ODD_RULES, **{rule.name: rule.what for rule in CELL_RULES}, **ROW_RULES}
"""Every rule by its name, with what it finds and what ``fix`` does."""

EqualTexts = Callable[[str, str, Sequence[str]], list[list[str]]]
"""(table, column, values) -> groups of values that the target's column calls equal. One with an attribute ``charset``
(``stores.sql.collate.TargetTexts``) also tells which characters the target lacks."""

# Names that programs make: lower-case hexadecimal with a short prefix. Two of them are equal in no collation.
_MADE_NAME: Final = re.compile(rb"([a-z]{1,3}-)?[0-9a-f-]{0,50}")
_MAX_BYTES_NAMED: Final = 256
_LARGEST_INT32: Final = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Reject:
    """One row that does not arrive as it was: a line of the rejects file.

    ``row`` is the row as the source holds it (bytes as ``{"bytes": hex}``, NaN as "NaN"), ``became`` the cells that
    were changed, or None when the row was left out.
    """

    rule: str
    table: str
    key: Mapping[str, Any]
    column: str | None
    text: str
    row: Mapping[str, Any]
    became: Mapping[str, Any] | None

    @property
    def where(self) -> str:
        """``table[key].column``."""
        key = ", ".join(f"{name}={value}" for name, value in self.key.items())
        return f"{self.table}[{key}]" + (f".{self.column}" if self.column else "")

    def document(self) -> dict[str, Any]:
        """The line, without the chunk's name that the file adds."""
        return {
            "rule": self.rule,
            "table": self.table,
            "key": dict(self.key),
            "column": self.column,
            "text": self.text,
            "row": dict(self.row),
            "became": None if self.became is None else dict(self.became),
        }


class Cleaning:
    """What is to be known about a source and a target before rows can be judged one by one; shared by threads."""

    def __init__(self, policy: str, sheets: Mapping[str, Sheet] | None = None) -> None:
        self.policy = policy
        self._sheets = dict(sheets or {})

    @classmethod
    def prepare(
        cls,
        reader: Reader,
        policy: str,
        target_kind: str,
        schema: Schema,
        final_revision: str,
        equal_texts: EqualTexts | None = None,
    ) -> Cleaning:
        """Read what the rules need (keys of parents, keys that the target may call equal).

        Args:
            reader: the source.
            policy: stop, skip or fix. With stop a bad row is left out of the stream, and the caller stops.
            target_kind: sqlite, postgresql or mysql.
            schema: the target's schema at the source's revision.
            final_revision: where the target is lifted to.
            equal_texts: how the target compares text, where it folds case or blanks.

        Raises:
            SourceError: the source cannot be read.
        """
        place = Place(
            policy=policy,
            source=reader.kind,
            target=target_kind,
            upgrades=frozenset(_between(schema.chain, reader.revision, final_revision)),
            charset=getattr(equal_texts, "charset", None),
            experiments=_experiments(reader, target_kind),
        )
        sheets = {
            name: Sheet(schema.tables[name], table.columns, place)
            for name, table in reader.schema.tables.items()
            if name in schema.tables
        }
        preparation = _Preparation(reader, place, sheets, equal_texts)
        preparation.keys()
        preparation.links()
        preparation.latest_points()
        return cls(policy, sheets)

    @property
    def doubled(self) -> frozenset[str]:
        """Tables with whole rows that stand more than once: one cleaner must see all of such a table."""
        return frozenset(
            name
            for name, sheet in self._sheets.items()
            if any(isinstance(rule, Twins) and rule.doubles for rule in sheet.row_rules)
        )

    def cleaner(self) -> Cleaner:
        """The working state for one chunk."""
        return Cleaner(self._sheets)


class Cleaner:
    """Judges rows one batch after another."""

    def __init__(self, sheets: Mapping[str, Sheet] | None = None) -> None:
        self._sheets = sheets or {}
        self._rejects: list[Reject] = []
        self._seen: dict[str, set[bytes]] = {}

    def apply(self, batch: TableBatch) -> TableBatch:
        """The batch without its bad rows, or with them mended."""
        sheet = self._sheets.get(batch.table)
        if sheet is None or not (batch.rows.num_rows or batch.odd):
            return batch
        judged = sheet.judge(batch)
        seen = self._seen.setdefault(batch.table, set())
        for rule in sheet.row_rules:
            rule.look(judged, seen)
        if not judged.findings:
            return TableBatch(batch.table, judged.rows) if batch.odd else batch
        rows = judged.rows
        left_out = judged.doomed_mask()
        self._rejects.extend(_reject(judged, row) for row in sorted(judged.findings))
        if left_out.any():
            rows = rows.filter(pa.array(~left_out))
        return TableBatch(batch.table, rows)

    def take(self) -> list[Reject]:
        """What was rejected or mended since the last call."""
        taken, self._rejects = self._rejects, []
        return taken


def _reject(judged: Judged, row: int) -> Reject:
    whole = {name: _json(judged.cell(row, name)) for name in judged.raw.schema.names}
    found = judged.findings[row]
    column, first = found[0]
    texts = [f"{c}: {f.text}" if c is not None and len(found) > 1 else f.text for c, f in found]
    key = {name: _short(whole.get(name)) for name in judged.table.primary_key or judged.raw.schema.names[:1]}
    became = None
    if not judged.doomed(row):
        became = {name: _json(value) for name, value in judged.changed.get(row, {}).items()}
    return Reject(first.rule, judged.table.name, key, column, "; ".join(texts), whole, became)


def _json(value: Any) -> Any:
    """A cell as JSON has it, nothing lost."""
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _short(value: Any) -> Any:
    """A key's cell as far as it names the row; the whole stands in the row."""
    if isinstance(value, dict):
        return {"bytes": _short(value["bytes"])}
    if isinstance(value, str) and len(value) > _MAX_BYTES_NAMED:
        return value[:_MAX_BYTES_NAMED] + "..."
    return value


def _between(chain: schemas.Chain, start: str, end: str) -> Iterator[str]:
    order = [r.id for r in schemas.revisions(chain)]
    if start in order and end in order:
        yield from order[order.index(start) + 1 : order.index(end) + 1]


def _experiments(reader: Reader, target_kind: str) -> frozenset[int]:
    """IDs beyond 32 bits, which are renumbered after the cleaning."""
    if target_kind == "sqlite" or "experiments" not in reader.schema.tables:
        return frozenset()
    found: set[int] = set()
    for batch in reader.batches(["experiments"], {"experiments": ["experiment_id"]}):
        found.update(batch.rows.column("experiment_id").drop_null().to_pylist())
    return frozenset(i for i in found if abs(i) > _LARGEST_INT32)


class _Preparation:
    """Reads what the row rules of all tables need, and hangs the rules into their sheets."""

    def __init__(
        self, reader: Reader, place: Place, sheets: Mapping[str, Sheet], equal_texts: EqualTexts | None
    ) -> None:
        self._reader = reader
        self._place = place
        self._sheets = sheets
        self._equal_texts = equal_texts
        self._promised = collate.guarantees(reader)
        self._filled: dict[str, bool] = {}
        self._walked: dict[tuple[str, str], set[bytes]] = {}
        self._followed: set[str] = set()
        """Tables of which the children of rows that are left out are left out too."""

    def _has_rows(self, table: str) -> bool:
        if table not in self._filled:
            self._filled[table] = collate.has_rows(self._reader, table)
        return self._filled[table]

    def _judged(self, table: str, columns: Iterable[str] | None) -> Iterator[Judged]:
        """The table's rows after the rules for cells, and after those for keys that are ready."""
        sheet = self._sheets[table]
        wanted = None if columns is None else {table: [c for c in sheet.columns if c in set(columns)]}
        with closing(self._reader.batches([table], wanted)) as batches:  # type: ignore[type-var]
            for batch in batches:
                if batch.table == table and (batch.rows.num_rows or batch.odd):
                    yield sheet.judge(batch)

    # -- keys that are equal in the target's eyes ---------------------------------------------------------------------

    def keys(self) -> None:
        """Find rows whose key the target would call another row's."""
        if not isinstance(self._reader, SqlReader) and (self._place.target == "mysql" or self._place.policy == "fix"):
            self._walk()
        for name, sheet in self._sheets.items():
            keys = _keys(sheet.table)
            lost = [key for key in keys if not self._promised.unique(name, key)]
            if not lost and self._place.target != "mysql" and self._place.policy != "fix":
                continue
            if not self._has_rows(name):
                continue
            for key in keys:
                if set(key) <= set(sheet.columns):
                    self._key(sheet, key, lost=key in lost)

    def _key(self, sheet: Sheet, key: tuple[str, ...], *, lost: bool) -> None:
        table = sheet.table
        kinds = {c.name: c.kind for c in table.columns}
        texts = self._texts(sheet, key)
        groups = Groups({c: found for c in texts if (found := self._groups(sheet, c))})
        if table.name == "metrics" and groups.texts.get("key"):
            self._series(sheet, Groups({"key": groups.texts["key"]}))
            groups = Groups({})
        everything = lost or self._mended_numbers(sheet, key)
        if not everything and not groups.texts:
            return
        twins = Twins(table.name, key, tuple(kinds[c] for c in key), groups, everything)
        self._find_suspicious(twins)
        if len(twins.suspicious):
            self._decide(sheet, twins)
            sheet.row_rules.append(twins)

    def _mended_numbers(self, sheet: Sheet, key: tuple[str, ...]) -> bool:
        """Whether ``fix`` may make a key of another cell (``'12'``, NaN) that another row has."""
        if self._place.policy != "fix" or not isinstance(self._reader, SqlReader):
            return False
        condition = collate.odd_keys(self._reader, sheet.table, key)
        return condition is not None and collate.any_row(self._reader, sheet.table.name, condition)

    def _groups(self, sheet: Sheet, column: str) -> dict[bytes, bytes]:
        """Texts of a column that arrive as equal ones, each with one for all of its group."""
        raws = self._distinct(sheet, column)
        arrives: dict[str, list[bytes]] = {}
        for raw, text in self._as_arriving(sheet, column, raws):
            arrives.setdefault(text, []).append(raw)
        groups: dict[bytes, bytes] = {}
        for text, of in arrives.items():
            if len(of) > 1:
                groups[text.encode()] = text.encode()
        if self._equal_texts is not None and self._place.target == "mysql":
            for equal in self._equal_texts(sheet.table.name, column, sorted(arrives)):
                first = min(t.encode() for t in equal)
                groups.update({t.encode(): first for t in equal})
        return groups

    def _distinct(self, sheet: Sheet, column: str) -> list[bytes]:
        """The column's different values, or none where they are all names that programs make."""
        name = sheet.table.name
        if not isinstance(self._reader, SqlReader):
            found = self._walked.get((name, column), set())
            if not found or not _made(sheet.table, column):
                return sorted(found)
        elif not _made(sheet.table, column):
            return sorted(set(collate.distinct_texts(self._reader, name, column)))
        elif not any(by_people(_distinct(judged, column)) for judged in self._judged(name, [column])):
            return []
        return sorted({raw for judged in self._judged(name, [column]) for raw in _distinct(judged, column)})

    def _walk(self) -> None:
        """Collect the texts of all keys of a folder in one walk: there is no index to leap through."""
        columns = {
            n: sorted({c for key in _keys(s.table) for c in self._texts(s, key)}) for n, s in self._sheets.items()
        }
        wanted = {name: texts for name, texts in columns.items() if texts}
        for batch in self._reader.batches(list(wanted), wanted):
            sheet = self._sheets[batch.table]
            judged = sheet.judge(batch)
            for column in wanted[batch.table]:
                raws = _distinct(judged, column)
                found = self._walked.setdefault((batch.table, column), set())
                found.update(by_people(raws) if _made(sheet.table, column) else raws)

    def _texts(self, sheet: Sheet, key: tuple[str, ...]) -> list[str]:
        """The key's columns of text that must be looked at here.

        What a foreign key covers is as distinct as the parents' keys, which are looked at in their own table.
        """
        kinds = {c.name: c.kind for c in sheet.table.columns}
        linked = {c for link in sheet.table.foreign_keys if link.table in self._sheets for c in link.columns}
        return [c for c in key if c in sheet.columns and kinds[c] == "text" and (c not in linked or key == (c,))]

    def _as_arriving(self, sheet: Sheet, column: str, raws: Sequence[bytes]) -> Iterator[tuple[bytes, str]]:
        """Each text with what becomes of it; those that are left out are missing."""
        if not raws:
            return
        array = pa.array(raws, pa.binary()).view(pa.string())
        judged = sheet.judge(TableBatch(sheet.table.name, pa.RecordBatch.from_arrays([array], [column])))
        left_out = judged.doomed_mask()
        arriving = judged.rows.column(column).cast(pa.binary()).to_pylist()
        for raw, text, gone in zip(raws, arriving, left_out.tolist(), strict=True):
            if not gone:
                yield raw, text.decode()

    def _series(self, sheet: Sheet, groups: Groups) -> None:
        names: dict[int, set[bytes]] = {}
        pairs: dict[tuple[int, bytes], int] = {}
        for judged in self._judged("metrics", ["run_uuid", "key"]):
            found = Series.pairs(judged, groups)
            if found is None:
                continue
            together, apart, matter = found
            rows = np.flatnonzero(matter)
            _, first = np.unique(apart[rows], return_index=True)
            chosen = rows[first]
            raws = judged.raw.column("key").take(pa.array(chosen)).cast(pa.binary()).to_pylist()
            for row, raw in zip(chosen.tolist(), raws, strict=True):
                names.setdefault(int(together[row]), set()).add(raw)
                pairs[(int(together[row]), raw)] = int(apart[row])
        arriving = {raw: text.encode() for raw, text in self._as_arriving(sheet, "key", sorted({r for _, r in pairs}))}
        losers = [
            pairs[(run, raw)]
            for run, raws_of in names.items()
            if len(raws_of) > 1
            for raw in sorted(raws_of, key=lambda raw: (arriving.get(raw) != raw, raw))[1:]
        ]
        if losers:
            sheet.row_rules.append(Series(groups, np.array(sorted(losers), np.uint64)))

    def _find_suspicious(self, twins: Twins) -> None:
        """The keys that stand more than once, as sorted hashes."""
        parts: list[U64] = []
        for judged in self._judged(twins.table, twins.key):
            found = twins.hashes(judged.rows)
            if found is not None:
                hashes, matter = found
                parts.append(hashes[matter & ~judged.doomed_mask()])
        if parts:
            values, counts = np.unique(np.concatenate(parts), return_counts=True)
            twins.suspicious = values[counts > 1]

    def _decide(self, sheet: Sheet, twins: Twins) -> None:
        """Of the rows with one key the first stays: whole before mended, active before deleted, then by their bytes."""
        rivals: dict[int, list[_Rival]] = {}
        names: set[str] = set()
        last_id = 0
        for judged in self._judged(twins.table, None):
            if twins.table == "experiments":
                names.update(n for n in _texts(judged.rows, "name") if n is not None)
                ids = judged.rows.column("experiment_id").drop_null().to_numpy(zero_copy_only=False)
                small = ids[np.abs(ids) <= _LARGEST_INT32]
                last_id = max(last_id, int(small.max()) if small.size else 0)
            rows = [row for row in twins.rows_of(judged) if not judged.doomed(row)]
            if not rows:
                continue
            found = twins.hashes(judged.rows)
            assert found is not None
            for row, identity in zip(rows, judged.identity(rows), strict=True):
                rivals.setdefault(int(found[0][row]), []).append(_Rival.of(judged, row, identity, twins.key))
        for _, group in sorted(rivals.items(), key=lambda item: min(r.order for r in item[1])):
            if len(group) < 2:
                continue
            group.sort(key=lambda rival: rival.order)
            first = group[0]
            for rival in group[1:]:
                if rival.identity == first.identity:
                    twins.doubles.add(rival.identity)
                    continue
                text = f"the target takes its key for that of {sheet.table.name}[{first.shown}], which stays"
                value: Any = LEFT_OUT
                if sheet.table.name == "experiments" and self._place.policy == "fix" and rival.deleted:
                    if "name" in twins.key:
                        value = _suffixed(rival, names, sheet)
                        names.add(value)
                    else:
                        last_id += 1
                        value = last_id if last_id <= _LARGEST_INT32 else LEFT_OUT
                twins.losers[rival.identity] = Finding("duplicate_key", text, value, twin=value is LEFT_OUT)

    # -- parents ------------------------------------------------------------------------------------------------------

    def links(self) -> None:
        """Read the keys of parents, in one pass over their tables, and find those that are left out."""
        self._followed = set(self._sheets) if self._place.policy != "stop" else self._below_twins()
        links = {name: self._links_of(sheet) if self._has_rows(name) else [] for name, sheet in self._sheets.items()}
        wanted: dict[str, list[Link]] = {}
        for own in links.values():
            for link in own:
                wanted.setdefault(link.parent, []).append(link)
        self._read_parents(wanted, {name: links[name] for name in wanted})
        for name, own in links.items():
            self._sheets[name].row_rules[:0] = [link for link in own if not link.idle]

    def _below_twins(self) -> set[str]:
        """Tables with rows whose key the target takes for another's, and all below.

        What hangs on such a row would be taken for the other's, and the target might refuse it before the row itself is
        named.
        """
        found = {name for name, sheet in self._sheets.items() if any(isinstance(r, Twins) for r in sheet.row_rules)}
        before = -1
        while len(found) > before:
            before = len(found)
            for name, sheet in self._sheets.items():
                if any(key.table in found for key in sheet.table.foreign_keys):
                    found.add(name)
        return found

    def _links_of(self, sheet: Sheet) -> list[Link]:
        found: list[Link] = []
        kinds = {c.name: c.kind for c in sheet.table.columns}
        for key in sheet.table.foreign_keys:
            parent = self._sheets.get(key.table)
            if (
                parent is None
                or not set(key.columns) <= set(sheet.columns)
                or not set(key.ref_columns) <= set(parent.columns)
            ):
                continue
            why = must_reason(sheet.table.name, key.table, self._place)
            must = why is not None and not self._promised.linked(sheet.table.name, key.columns, key.table)
            if not must and key.table not in self._followed:
                # With stop a bad parent is named itself, and nothing more is copied.
                continue
            link = Link(
                key.columns,
                tuple(kinds[c] for c in key.columns),
                key.table,
                key.ref_columns,
                must,
                why or "",
                fold=must and self._folds(sheet.table.name, key.columns, kinds),
            )
            found.append(link)
        return found

    def _folds(self, table: str, columns: Sequence[str], kinds: Mapping[str, str]) -> bool:
        """Whether the target finds a parent whatever its case."""
        text = next((c for c in columns if kinds[c] == "text"), None)
        if text is None or self._equal_texts is None or self._place.target != "mysql":
            return False
        return bool(self._equal_texts(table, text, ["a", "A"]))

    def _read_parents(self, wanted: Mapping[str, list[Link]], own: Mapping[str, list[Link]]) -> None:
        stop = self._place.policy == "stop"
        for name in parents_first(own):
            keys = {link.ref_columns for link in wanted[name]}
            whole = name in self._followed
            columns = None if whole else {c for key in keys for c in key}
            parents = _Parents({(link.ref_columns, link.kinds, link.fold) for link in wanted[name]})
            for judged in self._judged(name, columns):
                for rule in (*own[name], *self._sheets[name].row_rules) if whole else ():
                    rule.look(judged, parents.seen)
                # With stop a bad row's children are not bad for that.
                parents.add(judged, judged.twin_mask() if stop else judged.doomed_mask())
            for link in wanted[name]:
                parents.give(link)

    # -- latest points ------------------------------------------------------------------------------------------------

    def latest_points(self) -> None:
        """Find points on which the making of latest_metrics would fail."""
        sheet = self._sheets.get("metrics")
        if LATEST_METRICS not in self._place.upgrades or sheet is None or "is_nan" not in sheet.columns:
            return
        columns = (*TwoLatest.COLUMNS, "value", "is_nan")
        metrics = self._latest(columns, self._names_with_nan())
        losers: dict[bool, list[int]] = {True: [], False: []}
        for point in metrics:
            if point.number is not None and point.nan is not None:
                # MLflow's store compares (step, time, value) and writes NaN as 0; of equal ones a number stays.
                nan_stays = point.nan > point.number
                losers[not nan_stays].append(point.place)
        if losers[True] or losers[False]:
            rule = TwoLatest({nan: np.array(sorted(places), np.uint64) for nan, places in losers.items()})
            sheet.row_rules.append(rule)

    def _names_with_nan(self) -> U64:
        """Hashes of (run, name) of metrics that were NaN once."""
        parts: list[U64] = []
        for judged in self._judged("metrics", ("run_uuid", "key", "value", "is_nan")):
            nan = pc.fill_null(judged.rows.column("is_nan"), False)
            if pc.any(nan).as_py():
                rows = judged.rows.filter(nan)
                parts.append(np.unique(key_hash([rows.column("run_uuid"), rows.column("key")], ("text", "text"))[0]))
        return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.uint64)

    def _latest(self, columns: Sequence[str], names: U64) -> list[_Point]:
        """The last point or points of each of those metrics."""
        found: dict[int, _Point] = {}
        if not len(names):
            return []
        for judged in self._judged("metrics", columns):
            metrics, _ = key_hash([judged.rows.column("run_uuid"), judged.rows.column("key")], ("text", "text"))
            rows = np.flatnonzero(in_set(metrics, names) & ~judged.doomed_mask())
            if not rows.size:
                continue
            places = TwoLatest.hashes(judged.rows)
            chosen = judged.rows.take(pa.array(rows)).select(["step", "timestamp", "value", "is_nan"]).to_pylist()
            for row, cells in zip(rows.tolist(), chosen, strict=True):
                order = (cells["step"], cells["timestamp"])
                point = found.get(int(metrics[row]))
                if point is None or order > point.order:
                    point = found[int(metrics[row])] = _Point(order, int(places[row]))
                if order == point.order:
                    point.take(cells["value"], bool(cells["is_nan"]))
        return list(found.values())


@dataclass(slots=True)
class _Point:
    """Where a metric ends, with the greatest number and the NaN that stand there."""

    order: tuple[int, int]
    place: int
    number: float | None = None
    nan: float | None = None

    def take(self, value: float, is_nan: bool) -> None:
        if is_nan:
            self.nan = value if self.nan is None else max(self.nan, value)
        else:
            self.number = value if self.number is None else max(self.number, value)


@dataclass(slots=True)
class _Rival:
    """One of several rows with one key."""

    identity: bytes
    order: tuple[Any, ...]
    shown: str
    deleted: bool
    cells: Mapping[str, Any]

    @classmethod
    def of(cls, judged: Judged, row: int, identity: bytes, key: Sequence[str]) -> _Rival:
        cells = {name: judged.cell(row, name) for name in judged.raw.schema.names}
        deleted = cells.get("lifecycle_stage") == "deleted"
        bytes_of_key = [_bytes(cells[name]) for name in key]
        whole = [_bytes(value) for _, value in sorted(cells.items())]
        order = (
            row in judged.findings,
            judged.table.name == "experiments" and deleted,
            bytes_of_key,
            [_bytes(cells.get(name)) for name in judged.table.primary_key],
            whole,
        )
        named = ", ".join(f"{n}={shown(cells[n])}" for n in dict.fromkeys((*judged.table.primary_key, *key)))
        return cls(identity, order, named, deleted, cells)


def _bytes(value: Any) -> tuple[int, int | float, bytes]:
    """A cell in binary order: NULL, numbers, text and bytes."""
    if value is None:
        return (0, 0, b"")
    if isinstance(value, (int, float)):
        return (1, value if value == value else -math.inf, b"")
    return (2, 0, value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass"))


def _suffixed(rival: _Rival, names: set[str], sheet: Sheet) -> str:
    """A new name for a deleted experiment."""
    name = rival.cells["name"]
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
    limit = next((c.length for c in sheet.table.columns if c.name == "name"), None) or len(text) + 64
    number = 1
    while True:
        ending = f"_deleted_{rival.cells['experiment_id']}" + (f"_{number}" if number > 1 else "")
        new = text.rstrip()[: limit - len(ending)] + ending
        if new not in names:
            return new
        number += 1


def _texts(rows: pa.RecordBatch, column: str) -> list[str | None]:
    raws = rows.column(column).cast(pa.binary()).to_pylist()
    return [None if raw is None else raw.decode("utf-8", "replace") for raw in raws]


def _distinct(judged: Judged, column: str) -> list[bytes]:
    values = pc.unique(judged.raw.column(column)).drop_null()
    return values.cast(pa.binary()).to_pylist()  # type: ignore[no-any-return]


def _made(table: Table, column: str) -> bool:
    """Whether programs make the column's texts."""
    return column.endswith(("id", "uuid", "hash", "digest")) or table.primary_key == (column,)


def by_people(raws: Iterable[bytes]) -> list[bytes]:
    """The texts that no program has made: only they can be equal to another one in a collation's eyes."""
    return [raw for raw in raws if not _MADE_NAME.fullmatch(raw)]


def _keys(table: Table) -> list[tuple[str, ...]]:
    keys = [table.primary_key, *(i.columns for i in (*table.uniques, *table.indexes) if i.unique)]
    return list(dict.fromkeys(key for key in keys if key))


class _Parents:
    """The keys of one table: those that arrive and those that are left out."""

    def __init__(self, keys: set[tuple[tuple[str, ...], tuple[str, ...], bool]]) -> None:
        self._keys = keys
        self._arrive: dict[tuple[Any, ...], list[U64]] = {key: [] for key in keys}
        self._refused: dict[tuple[Any, ...], list[U64]] = {key: [] for key in keys}
        self.seen: set[bytes] = set()

    def add(self, judged: Judged, gone: Mask) -> None:
        """Take in a batch of which ``gone`` is left out."""
        for key in self._keys:
            columns, kinds, fold = key
            arrays = [judged.rows.column(c) for c in columns]
            hashes, null = key_hash(arrays, kinds)
            there = ~gone if null is None else ~gone & ~null
            refused = gone if null is None else gone & ~null
            if refused.any():
                self._refused[key].append(np.unique(hashes[refused]))
            if fold:
                hashes, _ = key_hash([folded(a) for a in arrays], kinds)
            self._arrive[key].append(hashes[there])

    def give(self, link: Link) -> None:
        """Tell a foreign key which parents there are."""
        key = (link.ref_columns, link.kinds, link.fold)
        known = _sorted(self._arrive[key])
        refused = _sorted(self._refused[key])
        # A key of which one row arrives has its parent, whatever became of the other rows.
        link.refused = refused if link.fold else refused[~in_set(refused, known)] if len(refused) else refused
        if link.must:
            link.known = known


def _sorted(parts: Sequence[U64]) -> U64:
    return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.uint64)
