"""Rows on their way into record batches: bounded buffers, one a table."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlflowctl.stores.api import TableBatch
from mlflowctl.stores.canonical import ARROW_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from mlflowctl.stores.schema import Schema, Table

MAX_ROWS = 65_536
_MAX_BYTES = 4 << 20


def int_array(values: np.ndarray[Any, Any], kind: pa.DataType) -> pa.Array:
    """An Arrow array over numpy's memory. ``pa.array`` would import pandas first, where it is installed."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


class Tables:
    """The buffers of all tables that are asked for."""

    def __init__(self, schema: Schema, wanted: Collection[str], columns: Mapping[str, Sequence[str]]) -> None:
        self._schema = schema
        self._columns = columns
        self._wanted = frozenset(wanted)
        self._rows: dict[str, _Rows] = {}
        self._pairs: dict[str, _Pairs] = {}
        self._ready: list[TableBatch] = []
        self.muted = False
        """Take no rows for now."""

    def wants(self, *tables: str) -> bool:
        """Whether any of these tables is asked for."""
        return not self._wanted.isdisjoint(tables)

    def add(self, table: str, **values: Any) -> None:
        """A row; columns that are not named are NULL."""
        if self.muted or table not in self._wanted:
            return
        rows = self._rows.get(table)
        if rows is None:
            rows = self._rows[table] = _Rows(self._schema.tables[table])
        if rows.add(values):
            self.give(table, rows.take())

    def add_pairs(
        self,
        table: str,
        key: str,
        value: str,
        owner: Mapping[str, Any],
        keys: list[str],
        values: list[bytes],
        invalid: Callable[[str, bytes], str | None],
    ) -> None:
        """Keys and values that belong to one owner.

        ``invalid`` is asked what becomes of a key's value that is not UTF-8: a text, or None for no row.
        """
        if self.muted or table not in self._wanted or not keys:
            return
        pairs = self._pairs.get(table)
        if pairs is None:
            pairs = self._pairs[table] = _Pairs(self._schema.tables[table], key, value)
        if pairs.add(owner, keys, values, invalid):
            self.give(table, pairs.take())

    def give(self, table: str, columns: Mapping[str, pa.Array]) -> None:
        """Whole columns of a batch, in any order; those that are missing are NULL."""
        chosen = self._columns.get(table)
        arrays, names = [], []
        rows = len(next(iter(columns.values()))) if columns else 0
        if not rows:
            return
        for column in self._schema.tables[table].columns:
            if chosen is not None and column.name not in chosen:
                continue
            array = columns.get(column.name)
            arrays.append(pa.nulls(rows, ARROW_TYPES[column.kind]) if array is None else array)
            names.append(column.name)
        self._ready.append(TableBatch(table, pa.RecordBatch.from_arrays(arrays, names)))

    def ready(self) -> list[TableBatch]:
        """The batches that are full."""
        ready, self._ready = self._ready, []
        return ready

    def rest(self) -> list[TableBatch]:
        """All that is left, at the end of a walk."""
        for table, rows in self._rows.items():
            self.give(table, rows.take())
        for table, pairs in self._pairs.items():
            self.give(table, pairs.take())
        return self.ready()


class _Rows:
    def __init__(self, table: Table) -> None:
        self._names = [c.name for c in table.columns]
        self._types = [ARROW_TYPES[c.kind] for c in table.columns]
        self._lists: list[list[Any]] = [[] for _ in self._names]
        self._known = frozenset(self._names)
        self._count = 0
        self._size = 0

    def add(self, values: Mapping[str, Any]) -> bool:
        if not self._known.issuperset(values):
            raise KeyError(f"no such column: {set(values) - self._known}")
        for name, column in zip(self._names, self._lists, strict=True):
            column.append(values.get(name))
        self._count += 1
        self._size += sum([len(v) for v in values.values() if type(v) is str])
        return self._count >= MAX_ROWS or self._size >= _MAX_BYTES

    def take(self) -> dict[str, pa.Array]:
        if not self._count:
            return {}
        columns = {n: pa.array(v, t) for n, v, t in zip(self._names, self._lists, self._types, strict=True)}
        self._lists = [[] for _ in self._names]
        self._count = self._size = 0
        return columns


class _Pairs:
    def __init__(self, table: Table, key: str, value: str) -> None:
        self._key = key
        self._value = value
        self._types = {c.name: ARROW_TYPES[c.kind] for c in table.columns}
        self._clear()

    def _clear(self) -> None:
        self._keys: list[str] = []
        self._values: list[bytes] = []
        self._owners: list[Mapping[str, Any]] = []
        self._counts: list[int] = []
        self._invalid: list[Callable[[str, bytes], str | None]] = []
        self._size = 0

    def add(
        self,
        owner: Mapping[str, Any],
        keys: list[str],
        values: list[bytes],
        invalid: Callable[[str, bytes], str | None],
    ) -> bool:
        self._keys += keys
        self._values += values
        self._owners.append(owner)
        self._counts.append(len(keys))
        self._invalid.append(invalid)
        self._size += sum(map(len, values))
        return len(self._keys) >= MAX_ROWS or self._size >= _MAX_BYTES

    def take(self) -> dict[str, pa.Array]:
        if not self._keys:
            return {}
        try:
            # The cast checks the UTF-8 of the whole column at once.
            values = pa.array(self._values, pa.binary()).cast(pa.string())
        except pa.ArrowInvalid:
            values = pa.array(self._valid_values(), pa.string())
        keys = pa.array(self._keys, pa.string())
        owner = int_array(np.repeat(np.arange(len(self._owners), dtype=np.int64), self._counts), pa.int64())
        order = pc.sort_indices(
            pa.RecordBatch.from_arrays([keys, owner], ["key", "owner"]),
            sort_keys=[("key", "ascending"), ("owner", "ascending")],
        )
        owner = owner.take(order)
        columns = {self._key: keys.take(order), self._value: values.take(order)}
        for name in self._owners[0]:
            columns[name] = pa.array([o[name] for o in self._owners], self._types[name]).take(owner)
        self._clear()
        if values.null_count:
            there = values.take(order).is_valid()
            columns = {name: column.filter(there) for name, column in columns.items()}
        return columns

    def _valid_values(self) -> list[str | None]:
        tellers = (teller for t, n in zip(self._invalid, self._counts, strict=True) for teller in repeat(t, n))
        found: list[str | None] = []
        for key, value, tell in zip(self._keys, self._values, tellers, strict=True):
            try:
                found.append(value.decode("utf-8"))
            except UnicodeDecodeError:
                found.append(tell(key, value))
        return found
