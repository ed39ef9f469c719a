"""Compares two streams of tables by content hash, and finds the rows that differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mlflowctl.core import signals
from mlflowctl.core.pipeline import ahead
from mlflowctl.migrate.api import Difference, TableVerdict
from mlflowctl.stores.hashing import TableHash, row_hashes

if TYPE_CHECKING:
    from mlflowctl.stores.api import TableBatch

BUCKETS = 4096
_FIRST_DIFFERENCES = 20
_BUCKETS_AT_ONCE = 64
# Rows of one group of buckets that are held at once while differences are located.

Stream = Callable[[Sequence[str]], Iterator["TableBatch"]]
"""Streams the named tables afresh, with the columns of the comparison."""


@dataclass(frozen=True, slots=True)
class TableComparison:
    """What of one table is compared: its columns with their kinds, the key, and what nobody compares."""

    name: str
    kinds: Mapping[str, str]
    key: tuple[str, ...]
    uncompared: tuple[str, ...] = ()


def narrowed(comparison: TableComparison, columns: Mapping[str, str]) -> TableComparison:
    """The comparison over those of its columns that ``columns`` has; the others are named as not compared."""
    kinds = {name: kind for name, kind in comparison.kinds.items() if name in columns}
    left_out = tuple(name for name in comparison.kinds if name not in columns)
    return TableComparison(comparison.name, kinds, comparison.key, (*comparison.uncompared, *left_out))


def hash_stream(batches: Iterator[TableBatch], tables: Mapping[str, TableComparison]) -> dict[str, TableHash]:
    """One hash a table over the compared columns."""
    hashes = {name: TableHash(name, comparison.kinds) for name, comparison in tables.items()}
    with closing(ahead(batches)) as stream:
        for batch in stream:
            signals.check()
            if batch.table in hashes:
                hashes[batch.table].add(batch.rows.select(list(tables[batch.table].kinds)))
    return hashes


def verdicts(
    tables: Mapping[str, TableComparison], source: Mapping[str, TableHash], target: Mapping[str, TableHash]
) -> list[TableVerdict]:
    """= the same, - rows missing in the target, + rows too many, * same count but changed, ! nothing was compared."""
    result = []
    for name, comparison in tables.items():
        left, right = source[name], target[name]
        if not comparison.kinds:
            verdict = "!"
        elif left.rows != right.rows:
            verdict = "-" if right.rows < left.rows else "+"
        else:
            verdict = "=" if left.hexdigest == right.hexdigest else "*"
        result.append(
            TableVerdict(name, left.rows, right.rows, left.hexdigest, right.hexdigest, verdict, comparison.uncompared)
        )
    return result


def locate(
    comparison: TableComparison, source: Stream, target: Stream, *, everything: bool
) -> tuple[list[Difference], bool]:
    """The rows of one table that differ, and whether more were left out.

    Both sides are read once to find the buckets of keys that differ, then once for each group of such buckets, so
    memory holds the rows of one group alone.
    """
    left, right = (_bucket_sums(comparison, side) for side in (source, target))
    differing = np.flatnonzero((left != right).any(axis=0))
    found: list[Difference] = []
    for start in range(0, len(differing), _BUCKETS_AT_ONCE):
        group = differing[start : start + _BUCKETS_AT_ONCE]
        found.extend(_compare_group(comparison, source, target, group))
        if not everything and len(found) > _FIRST_DIFFERENCES:
            break
    if everything or len(found) <= _FIRST_DIFFERENCES:
        return found, False
    return found[:_FIRST_DIFFERENCES], True


def _bucket_sums(comparison: TableComparison, side: Stream) -> np.ndarray[Any, Any]:
    sums = np.zeros((3, BUCKETS), dtype=np.uint64)
    for rows in _rows(comparison, side):
        buckets = _buckets(comparison, rows)
        high, low = row_hashes(comparison.name, rows, comparison.kinds)
        np.add.at(sums[0], buckets, high)
        np.add.at(sums[1], buckets, low)
        np.add.at(sums[2], buckets, np.uint64(1))
    return sums


def _rows(comparison: TableComparison, side: Stream) -> Iterator[pa.RecordBatch]:
    with closing(ahead(side([comparison.name]))) as stream:
        for batch in stream:
            signals.check()
            if batch.table == comparison.name:
                yield batch.rows.select(list(comparison.kinds))


def _key_of(comparison: TableComparison) -> tuple[str, ...]:
    key = tuple(c for c in comparison.key if c in comparison.kinds)
    return key or tuple(comparison.kinds)


def _buckets(comparison: TableComparison, rows: pa.RecordBatch) -> np.ndarray[Any, Any]:
    key = _key_of(comparison)
    _, low = row_hashes(comparison.name, rows.select(list(key)), {c: comparison.kinds[c] for c in key})
    buckets: np.ndarray[Any, Any] = (low % np.uint64(BUCKETS)).astype(np.int64)
    return buckets


def _compare_group(
    comparison: TableComparison, source: Stream, target: Stream, group: np.ndarray[Any, Any]
) -> list[Difference]:
    left, right = (_group_rows(comparison, side, group) for side in (source, target))
    key = _key_of(comparison)
    differences = []
    for identity in sorted(left.keys() | right.keys(), key=repr):
        ours, theirs = left.get(identity, Counter()), right.get(identity, Counter())
        if ours == theirs:
            continue
        shown = {c: _shown(v) for c, v in zip(key, identity, strict=True)}
        gone, new = list((ours - theirs).elements()), list((theirs - ours).elements())
        for old, fresh in zip(gone, new, strict=False):
            columns = tuple(c for c, a, b in zip(comparison.kinds, old, fresh, strict=True) if a != b)
            differences.append(Difference(comparison.name, shown, "changed", columns))
        differences.extend(Difference(comparison.name, shown, "missing") for _ in gone[len(new) :])
        differences.extend(Difference(comparison.name, shown, "extra") for _ in new[len(gone) :])
    return differences


def _group_rows(
    comparison: TableComparison, side: Stream, group: np.ndarray[Any, Any]
) -> dict[tuple[Any, ...], Counter[tuple[Any, ...]]]:
    """Rows of the chosen buckets by key; a float is held as its bits, so NaN equals NaN and -0.0 differs from 0.0."""
    found: dict[tuple[Any, ...], Counter[tuple[Any, ...]]] = {}
    key = _key_of(comparison)
    places = [list(comparison.kinds).index(c) for c in key]
    for rows in _rows(comparison, side):
        chosen = rows.filter(pa.array(np.isin(_buckets(comparison, rows), group)))
        if not chosen.num_rows:
            continue
        columns = [_comparable(chosen.column(c), kind) for c, kind in comparison.kinds.items()]
        for values in zip(*columns, strict=True):
            found.setdefault(tuple(values[i] for i in places), Counter())[values] += 1
    return found


class _Bits(float):
    """A float that equals another by its bits."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and np.float64(self).tobytes() == np.float64(other).tobytes()

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(np.float64(self).tobytes())


def _comparable(column: pa.Array, kind: str) -> list[Any]:
    values: list[Any] = column.to_pylist()
    if kind == "float":
        return [None if v is None else _Bits("nan") if v != v else _Bits(v) for v in values]
    if kind == "json":
        from mlflowctl.stores.hashing import canonical_json

        return [None if v is None else canonical_json(v) for v in values]
    return values


def _shown(value: Any) -> Any:
    """A key's value as JSON documents show it: 64-bit numbers and floats beyond JSON as text."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        return (
            float(value)
            if np.isfinite(value)
            else {True: "NaN"}.get(value != value, "Infinity" if value > 0 else "-Infinity")
        )
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    return value
