"""Canonical Arrow types: how a value of each logical kind travels between stores, whatever database it came from."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlflowctl.stores.schema import Column


class _WithoutPandas:
    """An import finder to which pandas is absent."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ImportError(name)


def _spare_pandas() -> None:
    """Keep pyarrow from importing pandas.

    Its first ``pa.array()`` does so (half a second) to recognise a Series. Nothing here makes one, so pyarrow tries
    once while pandas seems absent and remembers the answer; pandas stays importable for everyone else.
    """
    if "pandas" in sys.modules:
        return
    finder = _WithoutPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(finder)


_spare_pandas()

ARROW_TYPES: dict[str, pa.DataType] = {
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "text": pa.string(),
    "json": pa.string(),
    "bytes": pa.binary(),
    "date": pa.string(),
    "datetime": pa.timestamp("us"),
}


def arrow_schema(columns: Iterable[Column]) -> pa.Schema:
    """The Arrow schema of a batch with these columns, in their order."""
    return pa.schema([pa.field(column.name, ARROW_TYPES[column.kind]) for column in columns])
