"""Reading metric files fast gives what reading them line by line gives, or gives up."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlflowctl.stores.files.points import LARGEST, Points, for_sql, parse_lines, parse_regular

INTEGERS = st.integers(-(2**63) - 2, 2**63 + 1).map(str)
FLOATS = st.floats(width=64).map(repr)
# Texts that a parser may take for numbers, and characters that may trip one.
ODD_NUMBERS = st.sampled_from(
    [
        "",
        "-",
        "+1",
        "1.",
        ".5",
        "1e5",
        "1e",
        "1E5",
        "0x1F",
        "1_0",
        "nan",
        "NaN",
        "-nan",
        "nan(1)",
        "inf",
        "Inf",
        "infinity",
        "-inf",
        "1e400",
        "1e-400",
        "007",
        "-0",
        "--1",
        "1-",
        "e5",
        "1.5.2",
        "naninf",
        "fan",
        "5.0",
        "\t1",
    ]
)
ODD_TEXT = st.text(st.sampled_from("0123456789.-+eE xXnaif\t\r\n\0_,'\"é\u2028"), max_size=12)
NUMBERS = st.one_of(FLOATS, INTEGERS, ODD_NUMBERS)
REGULAR = st.tuples(st.integers(-(2**63), 2**63 - 1).map(str), FLOATS, st.integers(-(2**63), 2**63 - 1).map(str))
LINES = st.one_of(REGULAR.map(" ".join), st.lists(NUMBERS, max_size=6).map(" ".join), ODD_TEXT)
ENDS = st.sampled_from(["\n", "\n", "\n", "\r\n", "\r", ""])
FILES = st.lists(st.tuples(LINES, ENDS).map("".join), min_size=1, max_size=6).map("".join)


def same(fast: Points, slow: Points) -> bool:
    return (
        fast.times.tolist() == slow.times.tolist()
        and fast.steps.tolist() == slow.steps.tolist()
        and fast.values.dtype == slow.values.dtype
        # Bits, for NaN and the sign of zero; the bits of a NaN are nobody's.
        and np.array_equal(np.isnan(fast.values), np.isnan(slow.values))
        and np.array_equal(np.nan_to_num(fast.values).view(np.int64), np.nan_to_num(slow.values).view(np.int64))
    )


@settings(max_examples=600, deadline=None)
@given(FILES, st.sampled_from([2, 3]))
@example("0x1F 1 1\n", 3)
@example("1 nan(1) 1\n", 3)
@example("1 1 1\r2 2 2\n", 3)
@example("\ufeff1 1 1\n", 3)
def test_the_fast_way_gives_the_same_or_nothing(text: str, fields: int) -> None:
    data = text.encode()
    fast = parse_regular(data, data.count(b"\n"), fields)
    if fast is None:
        return
    slow = parse_lines(data)
    assert slow.bad == []
    assert same(fast, slow)


@settings(deadline=None)
@given(st.lists(REGULAR, min_size=1, max_size=50))
def test_whole_numbers_and_floats_go_the_fast_way(lines: list[tuple[str, str, str]]) -> None:
    data = "".join(" ".join(line) + "\n" for line in lines).encode()
    fast = parse_regular(data, len(lines))
    # Numbers that Arrow calls too small for a double are left to the slow way.
    assert fast is None or same(fast, parse_lines(data))


@given(st.lists(st.floats(), max_size=20))
def test_values_for_sql(values: list[float]) -> None:
    stored, nan = for_sql(np.array(values, np.float64))
    for value, held, was_nan in zip(values, stored.tolist(), nan.tolist(), strict=True):
        assert was_nan == math.isnan(value)
        if was_nan:
            assert held == 0
        elif math.isinf(value):
            assert held == math.copysign(LARGEST, value)
        else:
            assert (held, math.copysign(1, held)) == (value, math.copysign(1, value))
