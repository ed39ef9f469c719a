"""The row hash: stable to the bit, and sensitive to everything that is not the same."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflowctl.stores.hashing import TableHash, canonical_json

KINDS = {"key": "text", "value": "float", "step": "int", "is_nan": "bool"}


def _hash(rows: list[tuple[str | None, float | None, int | None, bool | None]]) -> str:
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    types = (pa.string(), pa.float64(), pa.int64(), pa.bool_())
    batch = pa.record_batch({n: pa.array(c, t) for n, c, t in zip(KINDS, columns, types, strict=True)})
    table = TableHash("metrics", KINDS)
    table.add(batch)
    return table.hexdigest


def test_it_never_changes_with_a_library() -> None:
    assert _hash([("a", 0.1, 1, False), (None, float("nan"), None, None)]) == STABLE


STABLE = "33a65f0822d963b06c58a74ba72c5ecb"

row = st.tuples(
    st.none() | st.text(max_size=8),
    st.none() | st.floats(),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.booleans(),
)


@given(st.lists(row, max_size=12), st.randoms())
def test_order_does_not_matter_and_repeats_count(rows: list, randomly) -> None:  # type: ignore[no-untyped-def,type-arg]
    shuffled = rows[:]
    randomly.shuffle(shuffled)
    assert _hash(rows) == _hash(shuffled)
    if rows:
        assert _hash(rows) != _hash([*rows, rows[0]])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (("a", 0.1, 1, False), ("b", 0.1, 1, False)),
        (("a", 0.1, 1, False), ("a", 0.10000000000000002, 1, False)),
        (("a", 0.0, 1, False), ("a", -0.0, 1, False)),
        (("a", 0.0, 1, False), ("a", float("nan"), 1, False)),
        (("a", 0.0, 1, False), ("a", None, 1, False)),
        (("a", 0.1, 1, False), ("a", 0.1, 2, False)),
        (("a", 0.1, 0, False), ("a", 0.1, None, False)),
        (("a", 0.1, 1, False), ("a", 0.1, 1, True)),
        (("", 0.1, 1, False), (None, 0.1, 1, False)),
        (("a", 0.1, 1, False), ("a ", 0.1, 1, False)),
    ],
)
def test_one_difference_shows(left: tuple, right: tuple) -> None:  # type: ignore[type-arg]
    assert _hash([left]) != _hash([right])


def test_json_is_compared_by_value() -> None:
    assert canonical_json('{"b": 1.0, "a": [1, 2]}') == canonical_json('{"a":[1,2],"b":1}')
    for left, right in [
        ('{"a":1,"a":2}', '{"a":2}'),
        ("1e400", "1e999"),
        ("0.1", "0.10000000000000000001"),
        ("[1]", "[2]"),
    ]:
        assert canonical_json(left) != canonical_json(right)
    assert canonical_json("not json") == "not json"
    deep = "[" * 100_000
    assert canonical_json(deep) == deep
    table = TableHash("t", {"j": "json"})
    table.add(pa.record_batch({"j": pa.array(['["\\ud83d"]'])}))
    assert table.rows == 1
