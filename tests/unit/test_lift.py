"""What the parent predicts of MLflow's upgrades, without any database; the databases' own answers are tested elsewhere."""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from mlflowctl.migrate import lift
from mlflowctl.stores import schema
from mlflowctl.stores.api import TableBatch
from mlflowctl.stores.canonical import ARROW_TYPES

HEAD = "dc11669786a5"


def batches(
    source: schema.Schema, rows: dict[str, list[dict[str, Any]]], lifted: lift.Lift, size: int = 7
) -> Iterator[TableBatch]:
    """The rows as a reader gives them, in small batches and the order that is asked for."""
    for name in lifted.sources_of(list(lifted.comparisons)):
        columns = {c.name: ARROW_TYPES[c.kind] for c in source.tables[name].columns if not c.computed}
        given = rows.get(name, [])
        for start in range(0, max(1, len(given)), size):
            part = given[start : start + size]
            arrays = {n: pa.array([row.get(n) for row in part], kind) for n, kind in columns.items()}
            yield TableBatch(name, pa.record_batch(arrays))


def lifted_rows(
    start: str,
    end: str,
    rows: dict[str, list[dict[str, Any]]],
    table: str,
    dialect: schema.Dialect = "sqlite",
    **options: Any,
) -> list[dict[str, Any]]:
    source, target = schema.schema_at("tracking", "sqlite", start), schema.schema_at("tracking", dialect, end)
    plan = lift.plan(source, target)
    found: list[dict[str, Any]] = []
    for batch in plan.stream(batches(source, rows, plan, **options), [table]):
        assert batch.table == table
        found += batch.rows.to_pylist()
    return found


# -- the latest point of a metric ------------------------------------------------------------------------------------


def _point(run: str, key: str, step: int, time: int, value: float, is_nan: bool = False) -> dict[str, Any]:
    return {"run_uuid": run, "key": key, "step": step, "timestamp": time, "value": value, "is_nan": is_nan}


def _greatest(points: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    def rank(point: dict[str, Any]) -> tuple[Any, ...]:
        nan = math.isnan(point["value"])
        return (point["step"], point["timestamp"], nan, 0 if nan else point["value"], not point["is_nan"])

    best: dict[tuple[str, str], dict[str, Any]] = {}
    for point in points:
        group = (point["run_uuid"], point["key"])
        if group not in best or rank(point) > rank(best[group]):
            best[group] = point
    return best


@pytest.mark.parametrize("size", [1, 7, 1000, 100_000])
def test_the_latest_point_by_any_size_of_batch(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lift.LatestMetrics, "_WAITING", 50)
    randomly = random.Random(size)
    steps = (0, 0, 1, -1, 2**62, -(2**63), 2**63 - 1)
    values = (0.0, -1.5, 1e308, -1e308, 3.0, math.inf, -math.inf)
    points = [
        _point(
            f"r{randomly.randrange(9)}",
            f"k{randomly.randrange(9)}",
            randomly.choice(steps),
            randomly.choice(steps),
            randomly.choice(values),
        )
        for _ in range(3000)
    ]
    rows = lifted_rows("7ac759974ad8", "89d4b8295536", {"metrics": points}, "latest_metrics", size=size)
    expected = _greatest(points)
    assert len(rows) == len(expected)
    for row in rows:
        assert row == expected[row["run_uuid"], row["key"]]


def test_nan_and_equal_values_are_ranked_as_the_databases_rank_them() -> None:
    points = [
        *(_point("r", "kept as 0", 1, 1, 0.0, nan) for nan in (True, False)),
        *(_point("r", "below", 1, 1, value, nan) for value, nan in ((-1.0, False), (0.0, True))),
        # PostgreSQL before 1.1: a real NaN is greater than all numbers there.
        *(_point("r", "raw", 1, 1, value) for value in (5.0, math.nan, math.inf)),
    ]
    rows = lifted_rows("7ac759974ad8", "89d4b8295536", {"metrics": points}, "latest_metrics")
    found = {row["key"]: (row["value"], row["is_nan"]) for row in rows}
    assert found.pop("raw")[0] != 0
    assert found == {"kept as 0": (0.0, False), "below": (0.0, True)}
    assert math.isnan(next(row["value"] for row in rows if row["key"] == "raw"))


def test_points_before_steps_and_no_points_at_all() -> None:
    points = [{"run_uuid": "r", "key": "k", "timestamp": time, "value": time / 2} for time in (3, 1, 2)]
    (row,) = lifted_rows("base", "89d4b8295536", {"metrics": points}, "latest_metrics")
    assert (row["timestamp"], row["value"], row["step"], row["is_nan"]) == (3, 1.5, 0, False)
    assert lifted_rows("base", "89d4b8295536", {}, "latest_metrics") == []


def test_what_waits_to_be_compared_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ever the same metrics: what is held follows their number, not the points'."""
    monkeypatch.setattr(lift.LatestMetrics, "_WAITING", 100)
    rule = lift.LatestMetrics()
    held = []
    for step in range(300):
        part = [_point("r", f"k{key}", step, step, 1.0) for key in range(20)]
        names = ("key", "value", "timestamp", "step", "is_nan", "run_uuid")
        rule.see(TableBatch("metrics", pa.record_batch({name: pa.array([p[name] for p in part]) for name in names})))
        held.append(rule._rows_waiting + (rule._best.num_rows if rule._best is not None else 0))
    assert max(held) <= 100 + 20 + 20
    assert sum(batch.rows.num_rows for batch in rule.rows()) == 20


# -- users -----------------------------------------------------------------------------------------------------------


def _run(run: str, experiment: int | None, user: str | None) -> dict[str, Any]:
    return {"run_uuid": run, "experiment_id": experiment, "user_id": user}


@pytest.mark.parametrize(
    ("dialect", "expected"), [("sqlite", {"r9": "ann"}), ("postgresql", {"r9": "ann"}), ("mysql", {"r1": "eve"})]
)
def test_the_first_run_of_each_experiment_gets_its_user_as_a_tag(
    dialect: schema.Dialect, expected: dict[str, str]
) -> None:
    runs = [
        _run("r9", 1, "ann"),
        _run("r1", 1, "eve"),
        _run("r2", 2, ""),
        _run("r3", 2, "bob"),
        _run("r4", 3, "tim"),
        _run("r5", None, "x"),
    ]
    tags = [{"run_uuid": "r4", "key": "mlflow.user", "value": "own"}, {"run_uuid": "r9", "key": "other", "value": "x"}]
    rows = lifted_rows("451aebb31d03", "90e64c465722", {"runs": runs, "tags": tags}, "tags", dialect)
    made = {row["run_uuid"]: row["value"] for row in rows if row not in tags}
    assert made == expected
    assert len(rows) == len(tags) + len(made)


# -- trace analytics -------------------------------------------------------------------------------------------------


def test_single_values_are_read_as_mlflow_reads_them() -> None:
    from mlflow.store.db import trace_analytics_backfill_75868b020152 as mlflows

    from tests.servers.awkward import COSTS, COUNTS, TOKENS, VALUES

    for text in (*TOKENS, *COSTS, *VALUES):
        assert lift._json_object(text) == mlflows.json_object(text) or "NaN" in str(text)
    members = [v for text in (*TOKENS, *COSTS) for v in mlflows.json_object(text).values()]
    for value in (*members, *COUNTS, math.nan, math.inf, 10**400, "١٢", "0x10", "1e5", [], {}):
        assert repr(lift._token_count(value)) == repr(mlflows.token_count_or_none(value))
        assert repr(lift._finite_float(value)) == repr(mlflows.finite_float_or_none(value))


TRACES = [{"request_id": f"t{n}", "experiment_id": n, "timestamp_ms": 100 + n, "status": "OK"} for n in range(20)]
START, END = "b7e2c1a4d9f3", "75868b020152"


def test_a_traces_columns_come_from_its_tags_metadata_and_metrics() -> None:
    rows = {
        "trace_info": TRACES,
        "trace_tags": [
            {"request_id": "t1", "key": "mlflow.traceName", "value": "n" * 5000},
            {"request_id": "t2", "key": "k", "value": "v"},
        ],
        "trace_request_metadata": [
            {"request_id": "t1", "key": "mlflow.trace.session", "value": "s" * 300},
            {
                "request_id": "t1",
                "key": "mlflow.trace.tokenUsage",
                "value": '{"input_tokens": 1, "output_tokens": 2, "total_tokens": 2.5}',
            },
            {
                "request_id": "t1",
                "key": "mlflow.trace.cost",
                "value": '{"input_cost": 0.1, "output_cost": NaN, "total_cost": 3}',
            },
        ],
        # Above the metadata, also where it is no count.
        "trace_metrics": [
            {"request_id": "t1", "key": "input_tokens", "value": 7.0},
            {"request_id": "t1", "key": "output_tokens", "value": 0.5},
        ],
    }
    found = {row["request_id"]: row for row in lifted_rows(START, END, rows, "trace_info")}
    assert len(found) == len(TRACES)
    one = found["t1"]
    assert (one["trace_name"], one["session_id"]) == ("n" * 4096, "s" * 250)
    assert (one["input_tokens"], one["output_tokens"], one["total_tokens"]) == (7, None, None)
    assert (one["input_cost"], one["output_cost"]) == (0.1, None)
    assert all(found["t2"][name] is None for name in lift.TraceAnalytics.PREDICTS)
    for table in ("trace_tags", "trace_request_metadata", "trace_metrics"):
        assert [row["key"] for row in lifted_rows(START, END, rows, table)] == (["k"] if table == "trace_tags" else [])


@pytest.mark.parametrize(("dialect", "sign"), [("sqlite", 1), ("mysql", 1), ("postgresql", -1)])
def test_the_sign_of_a_zero_is_the_one_that_the_target_keeps(dialect: schema.Dialect, sign: int) -> None:
    rows = {
        "trace_info": TRACES,
        "trace_request_metadata": [{"request_id": "t1", "key": "mlflow.trace.cost", "value": '{"input_cost": -0.0}'}],
        "spans": [{"trace_id": "t1", "span_id": "s", "content": ""}],
        "span_metrics": [{"trace_id": "t1", "span_id": "s", "key": "input_cost", "value": -0.0}],
        "assessments": [{"assessment_id": "a", "trace_id": "t1", "value": "-0.0"}],
    }
    trace = next(r for r in lifted_rows(START, END, rows, "trace_info", dialect) if r["request_id"] == "t1")
    (span,) = lifted_rows(START, END, rows, "spans", dialect)
    (assessment,) = lifted_rows(START, END, rows, "assessments", dialect)
    found = (trace["input_cost"], span["input_cost"], assessment["aggregate_value"])
    assert found == (0.0, 0.0, 0.0)
    assert {math.copysign(1, number) for number in found} == {sign}


def test_mysqls_floats_reach_the_script_with_ten_places() -> None:
    rows = {
        "trace_info": TRACES,
        "trace_metrics": [
            {"request_id": "t1", "key": "input_tokens", "value": 9223372036854774784.0},
            {"request_id": "t1", "key": "output_tokens", "value": 1e-12},
        ],
        "spans": [{"trace_id": "t1", "span_id": "s", "content": ""}],
        "span_metrics": [{"trace_id": "t1", "span_id": "s", "key": "input_cost", "value": 0.12345678901234568}],
    }
    found = []
    for dialect in ("sqlite", "mysql"):
        trace = next(r for r in lifted_rows(START, END, rows, "trace_info", dialect) if r["request_id"] == "t1")
        (span,) = lifted_rows(START, END, rows, "spans", dialect)
        found.append((trace["input_tokens"], trace["output_tokens"], span["input_cost"]))
    assert found == [(9223372036854775000, None, 0.12345678901234568), (9223372036854774784, 0, 0.123456789)]


def test_a_spans_columns_come_from_its_metrics_and_dimensions() -> None:
    spans = [
        {
            "trace_id": f"t{n % 5}",
            "span_id": f"s{n}",
            "content": "{}",
            "dimension_attributes": json.dumps(dimensions) if dimensions is not ... else None,
        }
        for n, dimensions in enumerate(
            [{"mlflow.llm.model": "m" * 600, "mlflow.llm.provider": None}, None, ..., {}] * 5
        )
    ]
    metrics = [
        {"trace_id": "t0", "span_id": "s0", "key": key, "value": value}
        for key, value in (("input_cost", 0.5), ("output_cost", math.inf), ("latency", 3.0))
    ]
    found = {row["span_id"]: row for row in lifted_rows(START, END, {"spans": spans, "span_metrics": metrics}, "spans")}
    assert len(found) == 20
    assert [found["s0"][n] for n in ("input_cost", "output_cost", "total_cost", "model_provider")] == [
        0.5,
        None,
        None,
        None,
    ]
    assert found["s0"]["model_name"] == "m" * 500
    assert {found[f"s{n}"][c] for n in (1, 2, 3) for c in lift.SpanAnalytics.PREDICTS} == {None}


def test_an_assessments_columns_come_from_its_trace_and_value() -> None:
    values = {
        "true": (1.0, False),
        '" No "': (0.0, False),
        "2.5": (2.5, True),
        "NaN": (None, False),
        "words": (None, False),
        "1" * 400: (None, False),
    }
    assessments = [{"assessment_id": f"a{n}", "trace_id": f"t{n}", "value": value} for n, value in enumerate(values)]
    found = lifted_rows(START, END, {"trace_info": TRACES, "assessments": assessments}, "assessments")
    assert [(row["experiment_id"], row["trace_timestamp_ms"]) for row in found] == [
        (n, 100 + n) for n in range(len(values))
    ]
    assert [(row["aggregate_value"], row["is_numeric_value"]) for row in found] == list(values.values())


def test_nothing_but_a_sum_and_a_time_is_left_uncompared() -> None:
    for dialect in ("sqlite", "postgresql", "mysql"):
        plan = lift.plan(
            schema.schema_at("tracking", "sqlite", "97727af70f4d"), schema.schema_at("tracking", dialect, END)
        )
        assert {n: c.uncompared for n, c in plan.comparisons.items() if c.uncompared} == {}
        plan = lift.plan(
            schema.schema_at("tracking", "sqlite", START), schema.schema_at("tracking", dialect, "dc11669786a5")
        )
        # Jobs are canceled at an unknown time.
        assert {n: c.uncompared for n, c in plan.comparisons.items() if c.uncompared} == {
            "jobs": ("last_update_time",),
            "trace_info": ("total_cost",),
        }


def test_a_stream_in_another_order_is_refused_rather_than_misjudged() -> None:
    source, target = (schema.schema_at("tracking", "sqlite", r) for r in (START, END))
    plan = lift.plan(source, target)
    given = list(
        batches(source, {"trace_info": TRACES, "trace_tags": [{"request_id": "t1", "key": "k", "value": "v"}]}, plan)
    )
    with pytest.raises(RuntimeError, match="trace_info came after assessments"):
        list(plan.stream(reversed(given), None))


def test_every_stream_begins_anew_and_may_change_its_thread() -> None:
    rows = {
        "trace_info": TRACES,
        "trace_tags": [{"request_id": "t1", "key": "mlflow.traceName", "value": "name"}],
    }
    source, target = (schema.schema_at("tracking", "sqlite", r) for r in (START, END))
    plan = lift.plan(source, target)
    seen = []
    for given in (rows, {"trace_info": TRACES}):
        stream = plan.stream(batches(source, given, plan), ["trace_info"])
        first = next(stream)
        others: list[TableBatch] = []
        thread = threading.Thread(target=lambda s=stream, o=others: o.extend(s))  # type: ignore[misc]
        thread.start()
        thread.join()
        seen.append([row["trace_name"] for batch in (first, *others) for row in batch.rows.to_pylist()])
    assert seen == [[None, "name", *[None] * 18], [None] * 20]


def test_facts_beyond_the_memory_are_found_again() -> None:
    spill = lift._Spill()
    assert spill.empty
    assert list(spill.of(["x"])) == []
    spill.put((f"id-{n}", "name", "v" * 1000 + str(n)) for n in range(30_000))
    spill.put([("id-5", "name", "newer"), ("id-5", "other", 2.0)])
    assert not spill.empty
    assert sorted(spill.of(["id-29999", "nobody", "id-5", "id-5"])) == [
        (0, "name", "v" * 1000 + "29999"),
        (2, "name", "newer"),
        (2, "other", 2.0),
        (3, "name", "newer"),
        (3, "other", 2.0),
    ]
    spill.close()
    assert spill.empty


def test_tables_that_no_upgrade_touches() -> None:
    old, head = schema.schema_at("tracking", "sqlite", "97727af70f4d"), schema.schema_at("tracking", "postgresql", HEAD)
    untouched = lift.plan(old, head).untouched
    assert {"metrics", "params", "latest_metrics", "tags"} <= untouched
    # New columns, and a table that the old release did not have.
    assert not untouched & {"experiments", "model_versions", "traces", "trace_info", "spans"}
    # Before steps and latest metrics, the metrics change and others are made of them.
    assert not lift.plan(schema.schema_at("tracking", "sqlite", "90e64c465722"), head).untouched & {
        "metrics",
        "latest_metrics",
    }
    assert lift.plan(head, head).untouched == set(head.tables)
