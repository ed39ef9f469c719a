"""Metric files: lines of ``time value step``, as numbers.

``parse_lines`` says what a file means, line by line, as MLflow's FileStore reads it. ``parse_regular`` reads the lines
that MLflow itself writes some hundred times faster, many files at once, and gives up on anything else. A property test
holds the two against each other.

| fields | who writes them | meaning |
|---|---|---|
| 2 | MLflow 0.8 and 0.9 | time value; the step is 0 |
| 3 | MLflow 1.0 and later | time value step |
| 5 | MLflow 3.0 and later | time value step dataset digest: MLflow reads these with step 0, which loses the step |
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]
    Floats = NDArray[np.float64]

# The largest double: MLflow's SQL store keeps it in place of infinity.
LARGEST = 1.7976931348623157e308
_INT64 = range(-(1 << 63), 1 << 63)
_REGULAR = b"0123456789.-+e \n"
_COLUMNS = (("time", pa.int64()), ("value", pa.float64()), ("step", pa.int64()))


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no metric point; ``line`` counts from 1."""

    line: int
    text: str


@dataclass(slots=True)
class Points:
    """Metric points in the order of their lines; values as the file has them, NaN and infinities included."""

    times: Integers
    values: Floats
    steps: Integers
    bad: list[BadLine] = field(default_factory=list)
    with_dataset: int = 0
    """Points whose line names a dataset."""
    unfinished: bool = False
    """The last line has no end of line, but as many fields as the one before."""


def parse_regular(data: bytes, lines: int, fields: int = 3) -> Points | None:
    """Points of many files put together, or None when any line is not as MLflow writes it.

    Args:
        data: one or more whole files.
        lines: the number of line ends in ``data``.
        fields: 2 or 3, of every line.
    """
    if not data or data[-1] != 10:
        return None
    rest = data.translate(None, _REGULAR)
    # "nan" and "inf" are all that may be left: Arrow would also read hexadecimal numbers and a lone CR as a line end.
    if rest and rest.translate(None, b"nainf"):
        return None
    columns = _COLUMNS[:fields]
    try:
        table = csv.read_csv(
            pa.BufferReader(data),
            read_options=csv.ReadOptions(
                column_names=[name for name, _ in columns], use_threads=False, block_size=max(len(data), 1 << 16)
            ),
            parse_options=csv.ParseOptions(
                delimiter=" ", quote_char=False, escape_char=False, newlines_in_values=False, ignore_empty_lines=False
            ),
            convert_options=csv.ConvertOptions(column_types=dict(columns), null_values=[], strings_can_be_null=False),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != lines:
        return None
    steps = _numbers(table, "step", np.int64) if fields == 3 else np.zeros(lines, np.int64)
    return Points(_numbers(table, "time", np.int64), _numbers(table, "value", np.float64), steps)


def _numbers(table: pa.Table, name: str, kind: type) -> NDArray[Any]:
    # Not to_numpy(): that imports pandas, which costs half a second.
    parts: list[NDArray[Any]] = [
        np.frombuffer(chunk.buffers()[1], kind, count=len(chunk), offset=chunk.offset * 8)
        for chunk in table.column(name).chunks
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def parse_lines(data: bytes) -> Points:
    """Points of one file, with the lines that are none.

    Raises:
        UnicodeDecodeError: the file is not valid UTF-8.
    """
    text = data.decode("utf-8")
    times, values, steps = array("q"), array("d"), array("q")
    points = Points(_EMPTY_INTEGERS, _EMPTY_FLOATS, _EMPTY_INTEGERS)
    lines = text.splitlines()
    before = 0
    for number, line in enumerate(lines, 1):
        parts = line.strip().split(" ")
        count = len(parts)
        last_is_open = number == len(lines) and not text.endswith(("\n", "\r"))
        if last_is_open and count in (2, 3) and count < max(before, 3 if not before else 0):
            # A whole line "ts value step" of which the disk took only a part.
            points.bad.append(BadLine(number, f"{line!r} is cut: {count} fields and no end of line"))
            continue
        if count not in (2, 3, 5):
            points.bad.append(
                BadLine(number, f"{_short(line)} has {count if line.strip() else 0} fields; 2, 3 or 5 make a point")
            )
            continue
        try:
            time, value, step = int(parts[0]), float(parts[1]), int(parts[2]) if count > 2 else 0
        except ValueError as bad:
            points.bad.append(BadLine(number, f"{_short(line)} is no metric point: {bad}"))
            continue
        if time not in _INT64 or step not in _INT64:
            points.bad.append(BadLine(number, f"{_short(line)} has a number that 64 bits cannot hold"))
            continue
        times.append(time)
        values.append(value)
        steps.append(step)
        points.with_dataset += count == 5
        points.unfinished = last_is_open
        before = count
    points.times = np.array(times, np.int64)
    points.values = np.array(values, np.float64)
    points.steps = np.array(steps, np.int64)
    return points


_EMPTY_INTEGERS = np.empty(0, np.int64)
_EMPTY_FLOATS = np.empty(0, np.float64)


def _short(line: str) -> str:
    return repr(line) if len(line) <= 80 else repr(line[:77]) + "…"


def for_sql(values: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Values as MLflow's SQL store keeps them, and which were NaN: NaN as 0, infinities as the largest double."""
    nan = np.isnan(values)
    if np.isfinite(values).all():
        return values, nan
    return np.where(nan, 0.0, np.clip(values, -LARGEST, LARGEST)), nan
