"""Rows of ``metrics`` and ``latest_metrics``, some hundred files at a time."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlflowctl.stores.files.points import BadLine, Points, for_sql, parse_lines, parse_regular
from mlflowctl.stores.files.rows import int_array

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mlflowctl.stores.files.walk import Walk

# About 100,000 points; a single larger file makes a larger chunk (some 130 bytes of memory a point).
_CHUNK_BYTES = 3 << 20
_CHUNK_FILES = 20_000
_BATCH_ROWS = 131_072
# A file smaller than this is read by Python faster than Arrow's reader starts.
_WORTH_ARROW = 2048
MAX_BAD_LINES = 100

_Owner = tuple[str, str]
"""A metric's key and its run."""
_File = tuple[str, str, str, bytes]
"""The same with the file's path and content."""


class MetricFiles:
    """Metric files of runs, gathered and then turned into rows together.

    The rows of a chunk come out in the order of MLflow's primary key, in which databases take them fastest.
    """

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._files: list[_File] = []
        self._size = 0
        self.full = False

    def add(self, run: str, key: str, path: str, data: bytes) -> None:
        """One metric's file of one run. When ``full`` is true afterwards, ``flush`` comes next."""
        if not data:
            self._walk.normal("empty_metric_file")
            return
        if self._walk.muted:
            self._checked((key, run, path, data))
            return
        self._files.append((key, run, path, data))
        self._size += len(data)
        self.full = self._size >= _CHUNK_BYTES or len(self._files) >= _CHUNK_FILES

    def flush(self) -> Iterator[None]:
        """Give the rows of what is gathered; yields whenever a batch of them is ready."""
        self.full = False
        files, self._files, self._size = self._files, [], 0
        if not files:
            return
        files.sort(key=itemgetter(0, 1))
        counts, points = self._parsed(files)
        owners = [(key, run) for key, run, _, _ in files]
        del files  # and with it the files' bytes, a quarter of the memory of a large one
        if not len(points.times):
            return
        values, nan = for_sql(points.values)
        tables = self._walk.tables
        if tables.wants("latest_metrics"):
            self._latest(owners, counts, points, values, nan)
        if tables.wants("metrics"):
            yield from self._all(owners, counts, points, values, nan)

    def _parsed(self, files: list[_File]) -> tuple[NDArray[np.int64], Points]:
        data = b"".join([f[3] for f in files])
        counts = np.array([f[3].count(b"\n") for f in files], np.int64)
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        points = parse_regular(data, int(counts.sum()), _fields_of_first_line(data))
        # Files glued together must not make one whole line of two halves.
        if points is not None and all(f[3][-1] == 10 for f in files):
            return counts, points
        del data, points
        each = [self._checked(file) for file in files]
        counts = np.array([len(p.times) for p in each], np.int64)
        return counts, Points(
            np.concatenate([p.times for p in each]),
            np.concatenate([p.values for p in each]),
            np.concatenate([p.steps for p in each]),
        )

    def _checked(self, file: _File) -> Points:
        key, run, path, data = file
        if len(data) > _WORTH_ARROW:
            content = data.replace(b"\r\n", b"\n")
            points = parse_regular(content, content.count(b"\n"), _fields_of_first_line(content))
            if points is not None:
                return points
        if self._walk.lenient:  # what is rejected here was gathered a while ago
            self._walk.about("metrics", {"key": key, "run_uuid": run})
        return read_points(self._walk, path, data)

    def _latest(
        self, files: list[_Owner], counts: NDArray[np.int64], points: Points, values: NDArray[Any], nan: NDArray[Any]
    ) -> None:
        holding = np.flatnonzero(counts)
        sizes = counts[holding]
        starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
        # The greatest step, of those the greatest time, of those the greatest value, of those the first.
        best = points.steps == np.repeat(np.maximum.reduceat(points.steps, starts), sizes)
        for column, least in ((points.times, np.iinfo(np.int64).min), (values, -np.inf)):
            candidates = np.where(best, column, least)
            best &= column == np.repeat(np.maximum.reduceat(candidates, starts), sizes)
        rows = np.flatnonzero(best)
        owners = np.repeat(holding, sizes)[rows]
        first = np.concatenate(([True], owners[1:] != owners[:-1]))
        rows, owners = rows[first], owners[first]
        self._walk.tables.give(
            "latest_metrics",
            {
                "key": pa.array([files[i][0] for i in owners], pa.string()),
                "run_uuid": pa.array([files[i][1] for i in owners], pa.string()),
                "value": int_array(values[rows], pa.float64()),
                "timestamp": int_array(points.times[rows], pa.int64()),
                "step": int_array(points.steps[rows], pa.int64()),
                "is_nan": _booleans(nan[rows]),
            },
        )

    def _all(
        self, files: list[_Owner], counts: NDArray[np.int64], points: Points, values: NDArray[Any], nan: NDArray[Any]
    ) -> Iterator[None]:
        keys = sorted({f[0] for f in files})
        runs = sorted({f[1] for f in files})
        key_ranks = {key: rank for rank, key in enumerate(keys)}
        run_ranks = {run: rank for rank, run in enumerate(runs)}
        key_of_row = np.repeat(np.array([key_ranks[f[0]] for f in files], np.int32), counts)
        columns = {
            "key": int_array(key_of_row, pa.int32()),
            "timestamp": int_array(points.times, pa.int64()),
            "step": int_array(points.steps, pa.int64()),
            "run_uuid": int_array(np.repeat(np.array([run_ranks[f[1]] for f in files], np.int32), counts), pa.int32()),
            "value": int_array(values, pa.float64()),
            "is_nan": _booleans(nan),
        }
        rows = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
        if not _increasing(key_of_row, points.times):
            rows = rows.take(pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in columns]))
            repeated = _repeated(rows)
            if repeated is not None:
                self._walk.collapsed("duplicate_metric_point", pc.sum(repeated).as_py())
                rows = rows.filter(pc.invert(repeated))
        key_names, run_names = pa.array(keys, pa.string()), pa.array(runs, pa.string())
        for start in range(0, rows.num_rows, _BATCH_ROWS):
            part = rows.slice(start, _BATCH_ROWS)
            given = dict(zip(columns, part.columns, strict=True))
            given["key"] = key_names.take(given["key"])
            given["run_uuid"] = run_names.take(given["run_uuid"])
            self._walk.tables.give("metrics", given)
            yield


def _increasing(keys: NDArray[np.int32], times: NDArray[np.int64]) -> bool:
    """Whether each point is later than the one before, or of a later key: then nothing is to sort, nothing repeated."""
    return bool(((keys[1:] > keys[:-1]) | (times[1:] > times[:-1]) & (keys[1:] == keys[:-1])).all())


def _repeated(rows: pa.RecordBatch) -> pa.Array | None:
    """Which rows of sorted ones equal the row before, or None when no one does."""
    size = rows.num_rows
    if size < 2:
        return None
    same = None
    for column in rows.columns:
        equal = pc.equal(column.slice(1), column.slice(0, size - 1))
        same = equal if same is None else pc.and_(same, equal)
    if not pc.any(same).as_py():
        return None
    return pa.concat_arrays([pa.array([False]), same])


def _booleans(values: NDArray[np.bool_]) -> pa.Array:
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(np.packbits(values, bitorder="little"))])


def _fields_of_first_line(data: bytes) -> int:
    return 2 if data.count(b" ", 0, data.find(b"\n")) == 1 else 3


def read_points(walk: Walk, path: str, data: bytes) -> Points:
    """The points of one file, line by line, its faults reported."""
    try:
        points = parse_lines(data)
    except UnicodeDecodeError as bad:
        line = data.count(b"\n", 0, bad.start) + 1
        if walk.lenient:
            walk.reject("invalid_utf8", path, "is not valid UTF-8", line, data=data)
        else:
            walk.trouble("invalid_utf8", path, "is not valid UTF-8", line)
        return _no_points()
    if report_bad_lines(walk, path, data, points.bad):
        return _no_points()
    if points.with_dataset:
        walk.left_behind(
            "datasets named in metric lines of runs",
            "the table metrics has no column for them; the points themselves are carried",
            points.with_dataset,
        )
    if points.unfinished:
        walk.normal("metric_file_without_final_newline")
    return points


def report_bad_lines(walk: Walk, path: str, data: bytes, bad: list[BadLine]) -> bool:
    """A trouble a line; of a file that is bad throughout the first hundred. Or the file is rejected, which is returned."""
    if walk.lenient and bad:
        more = f"; {len(bad)} such lines" if len(bad) > 1 else ""
        walk.reject("malformed_metric_line", path, bad[0].text + more, bad[0].line, data=data)
        return True
    for line in bad[:MAX_BAD_LINES]:
        walk.trouble("malformed_metric_line", path, line.text, line.line)
    if len(bad) > MAX_BAD_LINES:
        walk.trouble("malformed_metric_line", path, f"has {len(bad) - MAX_BAD_LINES} more malformed lines")
    return False


def _no_points() -> Points:
    empty = np.empty(0, np.int64)
    return Points(empty, np.empty(0, np.float64), empty)
