"""Rows that a target cannot hold beside other rows: orphans, keys that it calls equal, two latest points.

What is to be known about other rows is read once, before the first row is judged, and never changes afterwards. So the
verdict on a row depends on the source, the policy and the target alone, whatever thread judges it and when.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from mlflowctl.migrate.clean_cells import (
    LEFT_OUT,
    TEXTUAL,
    TRACE_ANALYTICS,
    CellRule,
    Cells,
    Finding,
    Place,
    judge_odd,
    rules_for,
    shown,
    some,
)
from mlflowctl.stores.canonical import arrow_schema
from mlflowctl.stores.hashing import row_hashes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlflowctl.migrate.clean_cells import Mask
    from mlflowctl.stores.api import OddRow, TableBatch
    from mlflowctl.stores.schema import Column, Table

    U64 = NDArray[np.uint64]

LATEST_METRICS = "89d4b8295536"
"""The revision that makes latest_metrics and fails where a metric has two latest points."""


def in_set(values: U64, sorted_set: U64) -> Mask:
    """Which values stand in a sorted set."""
    if not len(sorted_set):
        return np.zeros(len(values), np.bool_)
    places = np.searchsorted(sorted_set, values)
    places[places == len(sorted_set)] = 0
    found: Mask = sorted_set[places] == values
    return found


def key_hash(arrays: Sequence[pa.Array], kinds: Sequence[str]) -> tuple[U64, Mask | None]:
    """A 64-bit hash of some cells of every row, the same in every table, and which rows have a NULL among them."""
    null: Mask | None = None
    for array in arrays:
        if array.null_count:
            here = array.is_null().to_numpy(zero_copy_only=False)
            null = here if null is None else null | here
    names = [str(n) for n in range(len(arrays))]
    # Text is hashed by its bytes, whatever they are.
    logical = {n: "bytes" if kind in TEXTUAL else kind for n, kind in zip(names, kinds, strict=True)}
    if len(arrays) > 1:
        return row_hashes("key", pa.RecordBatch.from_arrays(list(arrays), names), logical)[0], null
    # The same few parents stand in many rows.
    encoded = arrays[0].dictionary_encode()
    distinct = row_hashes("key", pa.RecordBatch.from_arrays([encoded.dictionary], names), logical)[0]
    if not len(distinct):
        return np.zeros(len(arrays[0]), np.uint64), null
    return distinct[pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)], null


def folded(array: pa.Array) -> pa.Array:
    """Text as a collation that folds case and trailing blanks sees it, roughly."""
    if not pa.types.is_string(array.type):
        return array
    encoded = array.dictionary_encode()
    plain = [
        raw.decode("utf-8", "replace").casefold().rstrip(" ")
        for raw in encoded.dictionary.cast(pa.binary()).to_pylist()
    ]
    return pa.array(plain, pa.string()).take(encoded.indices)


@dataclass(slots=True)
class Judged:
    """A batch under judgement: the rows as they were and as ``fix`` makes them, and what was found about each."""

    table: Table
    policy: str
    raw: pa.RecordBatch
    rows: pa.RecordBatch
    origins: dict[int, OddRow] = field(default_factory=dict)
    """Row number -> the row as an odd one."""
    findings: dict[int, list[tuple[str | None, Finding]]] = field(default_factory=dict)
    changed: dict[int, dict[str, Any]] = field(default_factory=dict)

    def doomed(self, row: int) -> bool:
        """Whether the row is left out."""
        found = self.findings.get(row)
        return bool(found) and (self.policy != "fix" or any(f.value is LEFT_OUT for _, f in found or ()))

    def doomed_mask(self) -> Mask:
        mask = np.zeros(self.rows.num_rows, np.bool_)
        for row in self.findings:
            mask[row] = self.doomed(row)
        return mask

    def twin_mask(self) -> Mask:
        """Rows whose place another row has."""
        mask = np.zeros(self.rows.num_rows, np.bool_)
        for row, found in self.findings.items():
            mask[row] = any(finding.twin for _, finding in found)
        return mask

    def note(self, row: int, column: str | None, finding: Finding) -> None:
        """Write down what is wrong with a row."""
        self.findings.setdefault(row, []).append((column, finding))
        if finding.value is not LEFT_OUT:
            if column is not None:
                self.changed.setdefault(row, {})[column] = finding.value
            self.changed.setdefault(row, {}).update(finding.also)

    def note_text_in_bytes(self, row: int, columns: Sequence[Column]) -> None:
        """Name an odd row without another reason: text that is not UTF-8, given as bytes, in a column of bytes."""
        cells = self.origins[row].cells
        found = [c.name for c in columns if c.kind == "bytes" and isinstance(cells.get(c.name), bytes)]
        if found:
            which = f"or one of {', '.join(found[1:])} " if len(found) > 1 else ""
            text = f"{shown(cells[found[0]])} {which}is text that is not UTF-8, the column is bytes"
            self.note(row, found[0], Finding("wrong_type", text, cells[found[0]]))

    def cell(self, row: int, column: str) -> Any:
        """A cell as it was: bytes for text that is not UTF-8."""
        if row in self.origins:
            return self.origins[row].cells.get(column)
        return _plain(self.raw.column(column), row)

    def identity(self, rows: Sequence[int]) -> list[bytes]:
        """What tells rows apart by their whole content, as it was."""
        names = {c.name: c.kind for c in self.table.columns}
        kinds = {n: "bytes" if names[n] in TEXTUAL else names[n] for n in self.raw.schema.names}
        high, low = row_hashes(self.table.name, self.raw.take(pa.array(rows, pa.int64())), kinds)
        found = []
        for number, row in enumerate(rows):
            if row in self.origins:
                found.append(xxhash.xxh3_128_digest(repr(sorted(self.origins[row].cells.items())).encode()))
            else:
                found.append(int(high[number]).to_bytes(8, "big") + int(low[number]).to_bytes(8, "big"))
        return found

    def apply_changes(self) -> None:
        """Bring what ``fix`` makes of cells into ``rows``."""
        if self.policy != "fix" or not self.changed:
            return
        by_column: dict[str, dict[int, Any]] = {}
        for row, cells in self.changed.items():
            for column, value in cells.items():
                by_column.setdefault(column, {})[row] = value
        for column, values in by_column.items():
            index = self.rows.schema.get_field_index(column)
            if index < 0:
                continue
            array = self.rows.column(index)
            mask = np.zeros(len(array), np.bool_)
            mask[list(values)] = True
            put = pa.array([values[row] for row in sorted(values)], array.type)
            self.rows = self.rows.set_column(index, column, pc.replace_with_mask(array, pa.array(mask), put))


def _plain(array: pa.Array, row: int) -> Any:
    if pa.types.is_string(array.type):
        raw = array.slice(row, 1).cast(pa.binary())[0].as_py()
        try:
            return None if raw is None else raw.decode()
        except UnicodeDecodeError:
            return raw
    return array[row].as_py()


class RowRule(Protocol):
    """A rule for whole rows of one table."""

    def look(self, judged: Judged, seen: set[bytes]) -> None:
        """Note what is wrong. ``seen`` is the memory of one pass over the table."""


class Sheet:
    """The rules of one table."""

    def __init__(self, table: Table, columns: Sequence[Column], place: Place) -> None:
        self.table = table
        self.place = place
        self.columns = {c.name: c for c in columns}
        # What the target says of the column counts: its length, its bits, whether NULL may stand there.
        target = {c.name: c for c in table.columns}
        self.cell_rules: dict[str, list[CellRule]] = {
            c.name: rules_for(table, target[c.name], place) for c in columns if c.name in target and not c.computed
        }
        self.row_rules: list[RowRule] = []

    def judge(self, batch: TableBatch) -> Judged:
        """Look at every cell, and mend what can be mended."""
        judged = self._with_odd(batch)
        for name, rules in self.cell_rules.items():
            if rules and name in judged.rows.schema.names:
                self._column(judged, name, rules)
        judged.apply_changes()
        return judged

    def _with_odd(self, batch: TableBatch) -> Judged:
        if not batch.odd:
            return Judged(self.table, self.place.policy, batch.rows, batch.rows)
        names = batch.rows.schema.names
        columns = [self.columns[n] for n in names]
        start = batch.rows.num_rows
        judged = Judged(self.table, self.place.policy, batch.rows, batch.rows)
        values: dict[str, list[Any]] = {n: [] for n in names}
        raw: dict[str, list[Any]] = {n: [] for n in names}
        for number, odd in enumerate(batch.odd, start):
            judged.origins[number] = odd
            others = sum(judge_odd(c, odd.cells.get(c.name), alone=True)[1] is not None for c in columns)
            for column in columns:
                cell = odd.cells.get(column.name)
                value, finding = judge_odd(column, cell, alone=others == 1)
                values[column.name].append(value)
                textual = column.kind in TEXTUAL
                raw[column.name].append(cell if textual and isinstance(cell, bytes) else value)
                if finding is not None:
                    judged.note(number, column.name, finding)
            if number not in judged.findings:
                judged.note_text_in_bytes(number, columns)
        schema = arrow_schema(columns)
        mended = [pa.array(values[f.name], f.type) for f in schema]
        as_was = [
            pa.array([v.encode() if isinstance(v, str) else v for v in raw[f.name]], pa.binary()).view(pa.string())
            if pa.types.is_string(f.type)
            else pa.array(raw[f.name], f.type)
            for f in schema
        ]
        judged.rows = _joined(batch.rows, pa.RecordBatch.from_arrays(mended, schema=schema))
        judged.raw = _joined(batch.rows, pa.RecordBatch.from_arrays(as_was, schema=schema))
        return judged

    def _column(self, judged: Judged, name: str, rules: Sequence[CellRule]) -> None:
        cells = Cells(judged.rows.column(name))
        suspects: Mask | None = None
        for rule in rules:
            mask = rule.suspects(cells)
            if mask is not None:
                suspects = mask if suspects is None else suspects | mask
        if suspects is None:
            return
        textual = self.columns[name].kind in TEXTUAL
        for row in np.flatnonzero(suspects).tolist():
            value = _plain(cells.array, row)
            known = any(column == name for column, _ in judged.findings.get(row, ()))
            for rule in rules:
                if value is None and (known or not rule.judges_null):
                    # The cell of an odd row whose own value has no place in the column.
                    continue
                # The bytes stay for the rule of encodings, whatever rule looks before it.
                readable = isinstance(value, bytes) and textual and not rule.judges_bytes
                finding = rule.judge(value.decode("utf-8", "replace") if readable else value)
                if finding is None:
                    continue
                judged.note(row, name, finding)
                if finding.value is LEFT_OUT:
                    break
                value = finding.value


def _joined(first: pa.RecordBatch, second: pa.RecordBatch) -> pa.RecordBatch:
    if not first.num_rows:
        return second
    batches = pa.Table.from_batches([first, second.cast(first.schema)]).combine_chunks().to_batches()
    return batches[0]


# -- foreign keys --------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Link:
    """A foreign key whose rows are checked.

    ``must``: every row needs its parent. Without it (the source itself sees to that, or nobody minds) only the
    children of parents that are left out are left out with them.
    """

    columns: tuple[str, ...]
    kinds: tuple[str, ...]
    parent: str
    ref_columns: tuple[str, ...]
    must: bool
    why: str = ""
    fold: bool = False
    known: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))
    refused: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))

    @property
    def idle(self) -> bool:
        """Whether no row can break it."""
        return not self.must and not len(self.refused)

    def orphans(self, rows: pa.RecordBatch) -> tuple[Mask, Mask] | None:
        """Rows whose parent was left out, and rows whose parent does not exist; None where there is neither."""
        arrays = [rows.column(name) for name in self.columns]
        hashes, null = key_hash(arrays, self.kinds)
        refused = in_set(hashes, self.refused)
        missing = np.zeros(len(hashes), np.bool_)
        if self.must:
            if self.fold:
                hashes, _ = key_hash([folded(a) for a in arrays], self.kinds)
            missing = ~in_set(hashes, self.known)
        if null is not None:
            refused &= ~null
            missing &= ~null
        missing &= ~refused
        return (refused, missing) if refused.any() or missing.any() else None

    def look(self, judged: Judged, seen: set[bytes]) -> None:
        """Note orphans."""
        if self.idle or not set(self.columns) <= set(judged.rows.schema.names):
            return
        found = self.orphans(judged.rows)
        if found is None:
            return
        refused, missing = found
        for row in np.flatnonzero(refused | missing).tolist():
            key = ", ".join(
                f"{other}={shown(judged.cell(row, own))}"
                for own, other in zip(self.columns, self.ref_columns, strict=True)
            )
            if refused[row]:
                text = f"its parent {self.parent}[{key}] is left out"
            else:
                text = f"{self.parent}[{key}] does not exist{self.why}"
            judged.note(row, self.columns[0], Finding("orphan", text, twin=bool(refused[row])))


# -- keys ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Groups:
    """Texts of some columns that the target cannot tell apart: column -> text (as it would arrive) -> one for all."""

    texts: Mapping[str, Mapping[bytes, bytes]]

    def mapped(self, rows: pa.RecordBatch, column: str) -> tuple[pa.Array, Mask | None]:
        """The column with one text for each group, and the rows whose text is in a group."""
        array = rows.column(column)
        groups = self.texts.get(column)
        if not groups:
            return array, None
        encoded = array.dictionary_encode()
        values = encoded.dictionary.cast(pa.binary()).to_pylist()
        inside = np.fromiter((value in groups for value in values), np.bool_, len(values))
        if not inside.any():
            return array, None
        codes = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
        new = pa.array([groups.get(value, value) for value in values], pa.binary()).view(pa.string())
        return new.take(encoded.indices), some(inside[codes])


@dataclass(slots=True)
class Twins:
    """Rows with one key in the target's eyes: all but the first are left out (a deleted experiment gets a new name).

    ``losers`` names them by their whole content; ``doubles`` are contents that stand in several rows, of which each
    pass keeps one.
    """

    table: str
    key: tuple[str, ...]
    kinds: tuple[str, ...]
    groups: Groups
    everything: bool
    suspicious: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))
    losers: dict[bytes, Finding] = field(default_factory=dict)
    doubles: set[bytes] = field(default_factory=set)

    def hashes(self, rows: pa.RecordBatch) -> tuple[U64, Mask] | None:
        """The key's hash of every row and which rows matter; None where none does."""
        arrays, inside = [], None
        for column in self.key:
            array, mask = self.groups.mapped(rows, column)
            arrays.append(array)
            if mask is not None:
                inside = mask if inside is None else inside | mask
        if inside is None and not self.everything:
            return None
        hashes, null = key_hash(arrays, self.kinds)
        matter = np.ones(len(hashes), np.bool_) if self.everything or inside is None else inside
        return hashes, matter & ~null if null is not None else matter

    def rows_of(self, judged: Judged) -> list[int]:
        """The rows whose key stands more than once."""
        found = self.hashes(judged.rows)
        if found is None:
            return []
        hashes, matter = found
        return [int(row) for row in np.flatnonzero(matter & in_set(hashes, self.suspicious))]

    def look(self, judged: Judged, seen: set[bytes]) -> None:
        """Note rows whose key belongs to another row."""
        if not set(self.key) <= set(judged.rows.schema.names):
            return
        rows = self.rows_of(judged)
        if not rows:
            return
        renamed = False
        for row, identity in zip(rows, judged.identity(rows), strict=True):
            finding = self.losers.get(identity)
            if finding is not None:
                judged.note(row, self._column(), finding)
                renamed = renamed or finding.value is not LEFT_OUT
            elif identity in self.doubles:
                mark = repr(self.key).encode() + identity
                if mark in seen:
                    text = "the row stands more than once, the first stays"
                    judged.note(row, self._column(), Finding("duplicate_key", text, twin=True))
                seen.add(mark)
        if renamed:
            judged.apply_changes()

    def _column(self) -> str:
        """The column of the key that a message names."""
        if "name" in self.key:
            return "name"
        return next((c for c in self.key if c in self.groups.texts), self.key[0])


@dataclass(slots=True)
class Series:
    """Metrics of one run whose names the target calls equal: mixed up, they would be one metric there."""

    groups: Groups
    losers: U64
    """Hashes of (run, name as it was)."""

    @staticmethod
    def pairs(judged: Judged, groups: Groups) -> tuple[U64, U64, Mask] | None:
        """(run, group) and (run, name) of every row as hashes, and which rows matter."""
        if not {"run_uuid", "key"} <= set(judged.rows.schema.names):
            return None
        mapped, inside = groups.mapped(judged.rows, "key")
        if inside is None:
            return None
        kinds = ("text", "text")
        together, null = key_hash([judged.rows.column("run_uuid"), mapped], kinds)
        apart, _ = key_hash([judged.rows.column("run_uuid"), judged.raw.column("key")], kinds)
        return together, apart, inside & ~null if null is not None else inside

    def look(self, judged: Judged, seen: set[bytes]) -> None:
        """Note the points of a metric whose name belongs to another one."""
        found = self.pairs(judged, self.groups)
        if found is None:
            return
        _, apart, matter = found
        for row in np.flatnonzero(matter & in_set(apart, self.losers)).tolist():
            name = _plain(judged.rows.column("key"), row)
            text = f"the target takes {shown(name)} for another metric of the run, and the first stays"
            judged.note(row, "key", Finding("duplicate_key", text))


@dataclass(slots=True)
class TwoLatest:
    """Points for which MLflow's revision 89d4b8295536 would write two latest points of one metric."""

    losers: Mapping[bool, U64]
    """Whether the point is NaN -> hashes of (run, name, step, time)."""
    COLUMNS = ("run_uuid", "key", "step", "timestamp")

    @classmethod
    def hashes(cls, rows: pa.RecordBatch) -> U64:
        """Where each point stands."""
        return key_hash([rows.column(name) for name in cls.COLUMNS], ("text", "text", "int", "int"))[0]

    def look(self, judged: Judged, seen: set[bytes]) -> None:
        """Note the points that are not the latest by MLflow's rule."""
        if not {*self.COLUMNS, "is_nan"} <= set(judged.rows.schema.names):
            return
        nan = pc.fill_null(judged.rows.column("is_nan"), False).to_numpy(zero_copy_only=False)
        hashes = self.hashes(judged.rows)
        mask = (nan & in_set(hashes, self.losers[True])) | (~nan & in_set(hashes, self.losers[False]))
        for row in np.flatnonzero(mask).tolist():
            what = "NaN" if nan[row] else "a number"
            other = "a number" if nan[row] else "NaN"
            text = (
                f"{what} beside {other} at the metric's last step and time: MLflow's revision {LATEST_METRICS} would "
                "fail on two latest points, and the greater one (NaN counts as 0) is the latest"
            )
            judged.note(row, "value", Finding("two_latest_points", text))


ROW_RULES: Mapping[str, str] = {
    "orphan": "a row whose parent does not exist (PostgreSQL, MySQL, or MLflow's 75868b020152) or is left out; left out",
    "duplicate_key": "a key that the target calls equal to another row's, or that stands twice; the first stays, a deleted experiment gets a suffix or a new ID",
    "two_latest_points": "NaN and a number as a metric's latest point before 1.3; what is not the latest is left out",
}
"""Rules for rows beside others."""


def must_reason(table: str, parent: str, place: Place) -> str | None:
    """Why every row of the table needs its parent, or None where nobody minds."""
    if place.target != "sqlite":
        return ""
    if TRACE_ANALYTICS in place.upgrades and table in ("spans", "assessments") and parent == "trace_info":
        return f", and MLflow's revision {TRACE_ANALYTICS} refuses such a row"
    return None


def parents_first(parents: Mapping[str, Sequence[Link]]) -> Iterator[str]:
    """The tables, each after those that its links name."""
    done: set[str] = set()
    left = list(parents)
    while left:
        ready = [
            t for t in left if all(k.parent in done or k.parent == t or k.parent not in parents for k in parents[t])
        ]
        # A circle of foreign keys: no revision of MLflow's schema has one.
        for table in ready or left[:1]:
            done.add(table)
            left.remove(table)
            yield table
