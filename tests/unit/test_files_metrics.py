"""Metric files: every form of line, what SQL makes of them, and what is malformed."""

from __future__ import annotations

import math

import pytest

from mlflowctl.stores.files import points
from mlflowctl.stores.files.points import LARGEST
from tests.unit.test_files_store import OTHER_RUN, RUN, StoreBuilder, store

__all__ = ["store"]

Point = tuple[int, float, int, bool]


def history(store: StoreBuilder, content: bytes | str, key: str = "m") -> list[Point]:
    store.write(f"1/{RUN}/metrics/{key}", content)
    return [(m["timestamp"], m["value"], m["step"], m["is_nan"]) for m in store.clean("metrics")["metrics"]]


def latest(store: StoreBuilder, content: str) -> Point:
    store.write(f"1/{RUN}/metrics/m", content)
    (row,) = store.clean("latest_metrics")["latest_metrics"]
    return row["timestamp"], row["value"], row["step"], row["is_nan"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("5 0.5\n6 0.25\n", [(5, 0.5, 0, False), (6, 0.25, 0, False)]),
        ("5 0.5 1\n", [(5, 0.5, 1, False)]),
        ("5 0.5 -1\n", [(5, 0.5, -1, False)]),
        # MLflow's FileStore reads these with step 0.
        ("5 0.5 7 train abc\n", [(5, 0.5, 7, False)]),
        ("5 0.5\n6 1 1\n7 2.0 3 train abc\n", [(5, 0.5, 0, False), (6, 1.0, 1, False), (7, 2.0, 3, False)]),
        ("5 0.5 1\r\n6 0.25 2\r\n", [(5, 0.5, 1, False), (6, 0.25, 2, False)]),
        (" 5 0.5 1 \n", [(5, 0.5, 1, False)]),
        ("5 1e-05 1\n6 1E+3 2\n7 +2 3\n", [(5, 1e-05, 1, False), (6, 1000.0, 2, False), (7, 2.0, 3, False)]),
        ("5 nan 1\n", [(5, 0.0, 1, True)]),
        ("5 inf 1\n5 -inf 2\n", [(5, LARGEST, 1, False), (5, -LARGEST, 2, False)]),
        ("5 1e400 1\n", [(5, LARGEST, 1, False)]),
        ("5 5e-324 1\n", [(5, 5e-324, 1, False)]),
        ("5 0.1 1\n", [(5, 0.1, 1, False)]),
        ("9223372036854775807 1 -9223372036854775808\n", [(2**63 - 1, 1.0, -(2**63), False)]),
    ],
)
def test_lines(store: StoreBuilder, content: str, found: list[Point]) -> None:
    assert history(store, content) == found


def test_negative_zero_is_kept(store: StoreBuilder) -> None:
    assert math.copysign(1, history(store, "1 -0.0 0\n")[0][1]) == -1


def test_a_final_line_without_its_end(store: StoreBuilder) -> None:
    store.write(f"1/{RUN}/metrics/m", "1 0.5 0\n2 0.5 1")
    rows, report = store.read()
    assert len(rows["metrics"]) == 2
    assert report.normal == {"metric_file_without_final_newline": 1}
    assert report.troubles == []


def test_an_empty_file_is_normal(store: StoreBuilder) -> None:
    store.write(f"1/{RUN}/metrics/m", "")
    rows, report = store.read()
    assert rows["metrics"] == rows["latest_metrics"] == []
    assert report.normal == {"empty_metric_file": 1}


def test_datasets_in_lines_are_reported(store: StoreBuilder) -> None:
    store.write(f"1/{RUN}/metrics/m", "5 0.5 7 train abc\n6 0.5 7 train abc\n")
    report = store.read()[1]
    assert [(n.what, n.rows) for n in report.not_carried] == [("datasets named in metric lines of runs", 2)]


@pytest.mark.parametrize(
    ("content", "kept", "collapsed"),
    [
        ("1 0.5 0\n1 0.5 0\n1 0.5 0\n", 1, 2),
        ("1 nan 0\n1 nan 0\n", 1, 1),
        ("1 nan 0\n1 0 0\n", 2, 0),
        (f"1 inf 0\n1 {LARGEST!r} 0\n", 1, 1),
        ("1 0.0 0\n1 -0.0 0\n", 1, 1),
        ("1 0.5\n1 0.5 0\n", 1, 1),
        ("1 0.5 0\n1 0.5 0 train abc\n", 1, 1),
        ("1 0.5 0\n1 0.5 1\n2 0.5 0\n1 0.6 0\n", 4, 0),
    ],
)
def test_points_that_the_key_cannot_hold_twice(store: StoreBuilder, content: str, kept: int, collapsed: int) -> None:
    store.write(f"1/{RUN}/metrics/m", content)
    rows, report = store.read()
    assert len(rows["metrics"]) == kept
    assert report.collapsed == ({"duplicate_metric_point": collapsed} if collapsed else {})
    assert report.troubles == []


def test_equal_points_of_other_runs_and_keys_stay(store: StoreBuilder) -> None:
    store.run(OTHER_RUN)
    for run in (RUN, OTHER_RUN):
        for key in ("a", "b"):
            store.write(f"1/{run}/metrics/{key}", "1 0.5 0\n")
    assert len(store.clean()["metrics"]) == 4


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("1 0.5 0\n2 0.25 1\n", (2, 0.25, 1, False)),
        # The step comes first, then the time, then the value.
        ("9 0.5 1\n2 0.25 2\n", (2, 0.25, 2, False)),
        ("1 9 5\n2 1 5\n", (2, 1.0, 5, False)),
        ("1 1 5\n1 9 5\n1 4 5\n", (1, 9.0, 5, False)),
        # NaN counts as 0: MLflow's FileStore would say -1 here, whatever comes first.
        ("1 -1 0\n1 nan 0\n1 -2 0\n", (1, 0.0, 0, True)),
        ("1 1 0\n1 nan 0\n", (1, 1.0, 0, False)),
        # A tie keeps the first.
        ("1 nan 0\n1 0 0\n", (1, 0.0, 0, True)),
        ("1 0 0\n1 nan 0\n", (1, 0.0, 0, False)),
        ("1 inf 0\n1 5 0\n", (1, LARGEST, 0, False)),
        ("1 -inf 0\n1 nan 0\n", (1, 0.0, 0, True)),
        ("1 5 -3\n1 4 -9\n", (1, 5.0, -3, False)),
        ("3 5\n4 4\n", (4, 4.0, 0, False)),
    ],
)
def test_latest(store: StoreBuilder, content: str, found: Point) -> None:
    assert latest(store, content) == found


def test_rows_come_in_the_order_of_the_key(store: StoreBuilder) -> None:
    store.run(OTHER_RUN)
    store.write(f"1/{OTHER_RUN}/metrics/a", "3 1 0\n1 1 0\n")
    store.write(f"1/{RUN}/metrics/a", "2 1 1\n2 1 0\n")
    store.write(f"1/{RUN}/metrics/B", "9 1 0\n")
    rows = store.clean()["metrics"]
    order = [(m["key"], m["timestamp"], m["step"], m["run_uuid"], m["value"], m["is_nan"]) for m in rows]
    assert order == sorted(order)
    assert len(order) == 5


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("1 0.5 0\n\n2 0.5 1\n", [2]),
        ("\n", [1]),
        ("5.0 0.5 0\n", [1]),
        ("1 x 0\n", [1]),
        ("1 0.5 0 4\n", [1]),
        ("1 0.5 0 a b c\n", [1]),
        ("1\n", [1]),
        ("1  0.5 0\n", [1]),
        ("1\t0.5\t0\n", [1]),
        ("1 0.5 0.0\n", [1]),
        ("0x10 1 1\n", [1]),
        ("1 nan(1) 1\n", [1]),
        ("1,5 2 3\n", [1]),
        ("99999999999999999999 1 1\n", [1]),
        ("1 1 99999999999999999999\n", [1]),
        # The disk took only a part of the last line.
        ("1 0.5 0\n6 3", [2]),
        ("1 0.5 0\n6", [2]),
        ("6 3", [1]),
        ("1 0.5 0 train abc\n6 3 1", [2]),
        ("1 0.5 0\nbad\n2 0.5 1\nworse\n", [2, 4]),
    ],
)
def test_malformed_lines_are_named(store: StoreBuilder, content: str, lines: list[int]) -> None:
    path = store.write(f"1/{RUN}/metrics/m", content)
    store.write(f"1/{RUN}/metrics/fine", "1 2 3\n")
    report = store.read()[1]
    assert [(t.rule, t.where) for t in report.troubles] == [
        ("malformed_metric_line", f"{path}:{line}") for line in lines
    ]


def test_large_malformed_files(store: StoreBuilder) -> None:
    path = store.write(f"1/{RUN}/metrics/m", "".join(f"{i} 0.5 {i}\n" for i in range(5000)) + "broken\n")
    assert [t.where for t in store.read()[1].troubles] == [f"{path}:5001"]
    store.write(f"1/{RUN}/metrics/m", "broken\n" * 5000)
    troubles = store.read()[1].troubles
    assert len(troubles) == 101
    assert "4900 more" in troubles[-1].text


def test_invalid_utf8(store: StoreBuilder) -> None:
    path = store.write(f"1/{RUN}/metrics/m", b"1 2 3\n\xff 2 3\n")
    assert [(t.rule, t.where) for t in store.read()[1].troubles] == [("invalid_utf8", f"{path}:2")]


def test_two_halves_of_lines_in_two_files_make_no_whole(store: StoreBuilder) -> None:
    store.write(f"1/{RUN}/metrics/a", "1 0.5 1")
    store.write(f"1/{RUN}/metrics/b", " 2 0.5 1\n")
    assert sorted(history(store, "1 1 1\n", "c")) == [
        (1, 0.5, 1, False),
        (1, 1.0, 1, False),
        (2, 0.5, 1, False),
    ]


@pytest.mark.parametrize("odd", ["1 0.5 1 train abc\n", "1 +0.5 1\n", "1 0.5\n", "1 0.5 1\r\n"])
def test_one_odd_file_does_not_change_the_others(store: StoreBuilder, odd: str) -> None:
    for number in range(20):
        run = f"{number:032x}"
        store.run(run)
        store.write(f"1/{run}/metrics/m", "".join(f"{t} {t / 8} {t}\n" for t in range(number * 20)))
    store.write(f"1/{RUN}/metrics/odd", odd)
    rows = store.clean()
    assert len(rows["metrics"]) == sum(n * 20 for n in range(20)) + 1
    assert len(rows["latest_metrics"]) == 20
    assert all(m["value"] == m["timestamp"] / 8 for m in rows["metrics"] if m["key"] == "m")
    assert {m["run_uuid"]: m["step"] for m in rows["latest_metrics"] if m["key"] == "m"} == {
        f"{n:032x}": n * 20 - 1 for n in range(1, 20)
    }


def test_the_fast_path_is_taken_for_what_mlflow_writes() -> None:
    for content in (b"1 0.5 0\n2 nan 1\n3 -inf 2\n4 1e-05 3\n", b"1700000000000 0.123 0\n" * 3):
        assert points.parse_regular(content, content.count(b"\n")) is not None
    assert points.parse_regular(b"1 0.5\n", 1, 2) is not None
