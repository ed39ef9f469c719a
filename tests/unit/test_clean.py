"""The cleaning's parts alone: what becomes of a cell, which rows stay, and that nothing changes without a line."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlflowctl.migrate.clean import RULES, Cleaning, Reject
from mlflowctl.migrate.clean_cells import (
    LEFT_OUT,
    BadJson,
    CellRule,
    Cells,
    Finding,
    InvalidUtf8,
    NulByte,
    OverLength,
    Place,
    allowed_values,
    judge_odd,
    nearest,
    shown,
    without_nan,
)
from mlflowctl.migrate.clean_rows import Sheet
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.api import OddRow, TableBatch
from mlflowctl.stores.canonical import arrow_schema
from mlflowctl.stores.schema import Check, Column, Dialect, Table

HEAD = "dc11669786a5"
BEFORE_KILLED = "2b4d017a5e9b"
TARGETS: tuple[Dialect, ...] = ("sqlite", "postgresql", "mysql")
TEXT = Column("value", "text", "TEXT", nullable=True)
quick = settings(max_examples=150, deadline=None)


def _table(name: str, target: Dialect = "sqlite") -> Table:
    return schemas.schema_at("tracking", target, HEAD).tables[name]


def _column(name: str, kind: Any, **words: Any) -> Column:
    return Column(name, kind, words.pop("sql_type", kind), words.pop("nullable", True), **words)


def _cleaning(name: str, policy: str, target: Dialect = "sqlite", **words: Any) -> Cleaning:
    place = Place(policy, words.pop("source", "sqlite"), target, **words)
    source = [c for c in _table(name).columns if not c.computed]
    return Cleaning(policy, {name: Sheet(_table(name, target), source, place)})


def _batch(name: str, rows: Sequence[Mapping[str, Any]], odd: Sequence[Mapping[str, Any]] = ()) -> TableBatch:
    """Rows as a reader gives them; bytes in a column of text are text that is not UTF-8."""
    schema = arrow_schema(c for c in _table(name).columns if not c.computed)
    arrays = []
    for field in schema:
        cells = [row.get(field.name) for row in rows]
        if pa.types.is_string(field.type):
            raws = [c.encode() if isinstance(c, str) else c for c in cells]
            arrays.append(pa.array(raws, pa.binary()).view(pa.string()))
        else:
            arrays.append(pa.array(cells, field.type))
    whole = tuple(OddRow({f.name: row.get(f.name) for f in schema}) for row in odd)
    return TableBatch(name, pa.RecordBatch.from_arrays(arrays, schema=schema), whole)


def _metric(number: int, **cells: Any) -> dict[str, Any]:
    row = {"key": f"k{number}", "value": number / 2, "timestamp": number, "run_uuid": "r", "step": 0, "is_nan": False}
    return {**row, **cells}


def _param(number: int, **cells: Any) -> dict[str, Any]:
    return {"key": f"k{number}", "value": f"v{number}", "run_uuid": "r", **cells}


def _fixed(kind: Any, cell: Any) -> Any:
    """What fix makes of the only odd cell of a row; a conversion without a finding is the cell itself."""
    value, finding = judge_odd(_column("c", kind), cell, alone=True)
    if finding is None:
        return value
    # What a row rule sees (the value in the batch) and what the rejects say are one.
    assert value is None if finding.value is LEFT_OUT else repr(value) == repr(finding.value)
    return finding.value


def _judge(rule: CellRule, raw: bytes | None) -> Finding | None:
    """A rule's word on a cell, by its look at the whole column first."""
    array = pa.array([b"clean", raw, b""], pa.binary()).view(pa.string())
    mask = rule.suspects(Cells(array))
    if mask is None or not mask[1]:
        return None
    assert raw is not None
    value: str | bytes = raw
    if not rule.judges_bytes:
        value = raw.decode("utf-8", "replace")
    else:
        try:
            value = raw.decode()
        except UnicodeDecodeError:
            value = raw
    return rule.judge(value)


# -- cells of another type -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "exact"),
    [
        ("12", 12),
        (12.0, 12),
        ("1e3", 1000),
        (" 12 ", 12),
        ("+7", 7),
        ("12.", 12),
        ("-0", 0),
        (-0.0, 0),
        ("9223372036854775807.0", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        (2.0**53, 2**53),
        ("9223372036854775808", LEFT_OUT),
        (2**63, LEFT_OUT),
        (10**30, LEFT_OUT),
        (2.0**53 + 2, LEFT_OUT),
        ("9" * 5000, LEFT_OUT),
        ("1e999", LEFT_OUT),
        (math.inf, LEFT_OUT),
        (math.nan, LEFT_OUT),
        ("1.5", LEFT_OUT),
        ("1." + "0" * 60 + "1", LEFT_OUT),
        ("", LEFT_OUT),
        ("0x10", LEFT_OUT),
        ("1_000", LEFT_OUT),
        ("١٢", LEFT_OUT),
        ("12 a", LEFT_OUT),
        (b"12", LEFT_OUT),
    ],
)
def test_an_integer_is_made_only_of_what_is_exactly_one(cell: Any, exact: Any) -> None:
    made = _fixed("int", cell)
    assert made == exact
    assert type(made) is type(exact)


@pytest.mark.parametrize("cell", ["1.5", 1.5, "-0.25e1", "1e-999", "1." + "0" * 60 + "1"])
def test_a_fraction_has_its_own_rule(cell: Any) -> None:
    _, finding = judge_odd(_column("step", "int"), cell, alone=True)
    assert finding is not None
    assert (finding.rule, finding.value) == ("fraction_in_integer", LEFT_OUT)


@pytest.mark.parametrize(
    ("cell", "exact"),
    [
        ("1.5", 1.5),
        (" 1e3 ", 1000.0),
        (".5", 0.5),
        ("0e-999", 0.0),
        ("-inf", -math.inf),
        ("Infinity", math.inf),
        (3, 3.0),
        (-(2**63), -(2.0**63)),
        ("1e400", LEFT_OUT),
        ("1e-400", LEFT_OUT),
        (2**53 + 1, LEFT_OUT),
        (2**63 - 1, LEFT_OUT),
        (10**400, LEFT_OUT),
        ("1_0", LEFT_OUT),
        ("infinite", LEFT_OUT),
        ("1,5", LEFT_OUT),
        (b"1.5", LEFT_OUT),
    ],
)
def test_a_float_is_made_only_of_what_64_bits_hold(cell: Any, exact: Any) -> None:
    assert _fixed("float", cell) == exact


def test_nan_and_minus_zero_keep_their_nature_as_floats() -> None:
    assert math.isnan(_fixed("float", " NaN "))
    assert math.copysign(1, _fixed("float", "-0.0")) == -1


@pytest.mark.parametrize(
    ("cell", "exact"),
    [
        ("true", True),
        ("T", True),
        (" 1 ", True),
        (1.0, True),
        (1, True),
        ("False", False),
        ("f", False),
        ("0", False),
        (-0.0, False),
        (0, False),
        (2, LEFT_OUT),
        (-1, LEFT_OUT),
        ("yes", LEFT_OUT),
        ("1.0", LEFT_OUT),
        ("", LEFT_OUT),
        (0.5, LEFT_OUT),
        (math.nan, LEFT_OUT),
        (b"1", LEFT_OUT),
    ],
)
def test_a_boolean_is_made_only_of_what_says_so(cell: Any, exact: Any) -> None:
    assert _fixed("bool", cell) is exact


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_integer_as_text_comes_back(number: int) -> None:
    assert _fixed("int", str(number)) == number
    assert _fixed("int", f" {number}.000 ") == number


@given(st.floats())
def test_every_float_as_text_comes_back(number: float) -> None:
    assert np.float64(_fixed("float", repr(number))).tobytes() == np.float64(number).tobytes() or math.isnan(number)


@pytest.mark.parametrize(
    ("kind", "cell", "exact"),
    [
        ("text", 5, "5"),
        ("text", 1.5, "1.5"),
        ("text", math.inf, LEFT_OUT),
        ("date", 20260101, LEFT_OUT),
        ("json", 3, "3"),
        ("json", 0.1, "0.1"),
        ("json", math.inf, "null"),
        ("bytes", "ä", "ä".encode()),
        ("bytes", 5, LEFT_OUT),
    ],
)
def test_numbers_and_text_in_other_columns(kind: str, cell: Any, exact: Any) -> None:
    assert _fixed(kind, cell) == exact


def test_a_finding_names_the_cell_in_few_words() -> None:
    for kind in ("int", "float", "bool", "text", "json", "bytes", "date"):
        for cell in ("x" * 100_000, b"\xff" * 100_000, "\x00\n" * 1000):
            _, finding = judge_odd(_column("c", kind), cell, alone=True)
            assert finding is None or len(finding.text) < 600
    assert shown("it's") == "'it''s'"
    assert shown(b"\xff") == "x'ff'"
    assert (shown(math.nan), shown(-math.inf), shown(None)) == ("NaN", "-Infinity", "NULL")


# -- text that is not UTF-8 ----------------------------------------------------------------------------------------

_BROKEN = {
    "a stray byte": b"a\xffb",
    "an overlong NUL": b"\xc0\x80",
    "an overlong slash": b"a\xe0\x80\xafb",
    "a surrogate": b"\xed\xa0\x80",
    "a pair of surrogates": b"\xed\xa0\xbd\xed\xb8\x80",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "cut short": "a🚀".encode()[:-1],
    "a tail alone": b"\x80",
}


@pytest.mark.parametrize("raw", _BROKEN.values(), ids=_BROKEN)
@pytest.mark.parametrize("target", TARGETS)
def test_bytes_that_are_no_utf8_are_named_and_mended(raw: bytes, target: Dialect) -> None:
    cleaner = _cleaning("params", "fix", target).cleaner()
    after = cleaner.apply(_batch("params", [_param(1), _param(2, value=raw), _param(3)]))
    after.rows.validate(full=True)
    mended = raw.decode("utf-8", "replace")
    assert after.rows.column("value").to_pylist() == ["v1", mended, "v3"]
    [reject] = cleaner.take()
    assert (reject.rule, reject.column, reject.became) == ("invalid_utf8", "value", {"value": mended})
    assert bytes.fromhex(reject.row["value"]["bytes"]) == raw


@quick
@given(st.lists(st.one_of(st.none(), st.binary(max_size=12), st.text(max_size=6).map(str.encode)), max_size=8))
def test_text_is_suspected_exactly_when_python_cannot_read_it(raws: list[bytes | None]) -> None:
    def bad(raw: bytes | None) -> bool:
        return raw is not None and raw.decode("utf-8", "ignore").encode() != raw

    mask = InvalidUtf8(TEXT, Place("fix", "sqlite", "mysql")).suspects(
        Cells(pa.array(raws, pa.binary()).view(pa.string()))
    )
    assert ([False] * len(raws) if mask is None else mask.tolist()) == [bad(raw) for raw in raws]


@quick
@given(st.lists(st.one_of(st.none(), st.text(alphabet="a\0é🚀", max_size=5)), max_size=8), st.integers(0, 3))
def test_a_nul_byte_is_found_in_its_own_row(texts: list[str | None], start: int) -> None:
    """Also in a slice, and beside empty texts."""
    rule = NulByte(TEXT, Place("fix", "sqlite", "postgresql"))
    array = pa.array(["\0"] * start + texts, pa.string()).slice(start)
    mask = rule.suspects(Cells(array))
    found = [False] * len(texts) if mask is None else mask.tolist()
    assert found == [text is not None and "\0" in text for text in texts]
    for text in texts:
        finding = None if text is None else rule.judge(text)
        if text is not None and "\0" in text:
            assert finding is not None
            assert finding.value == text.replace("\0", "")
        else:
            assert finding is None


def test_what_is_mended_goes_through_the_rules_after_it() -> None:
    """30,000 stray bytes fit into MySQL's TEXT, 30,000 U+FFFD do not."""
    cleaner = _cleaning("logged_model_params", "fix", "mysql").cleaner()
    raw = b"\xff" * 30_000
    row = {"model_id": "m", "experiment_id": 1, "param_key": "k", "param_value": raw}
    after = cleaner.apply(_batch("logged_model_params", [row]))
    [arrived] = after.rows.column("param_value").to_pylist()
    assert arrived == "\ufffd" * (65_535 // 3)
    [reject] = cleaner.take()
    assert reject.rule == "invalid_utf8"
    assert "not UTF-8" in reject.text
    assert "90000 bytes, the column holds 65535" in reject.text
    assert reject.became == {"param_value": arrived}


@pytest.mark.parametrize(("charset", "arrives"), [("utf8mb3", "a\ufffdé\ufffd"), ("latin1", "a?é?")])
def test_a_character_set_that_lacks_even_the_mark_gets_a_question_mark(charset: str, arrives: str) -> None:
    cleaner = _cleaning("params", "fix", "mysql", charset=charset).cleaner()
    after = cleaner.apply(_batch("params", [_param(1, value="a🚀é".encode() + b"\xff"), _param(2, value="é")]))
    assert after.rows.column("value").to_pylist() == [arrives, "é"]
    assert [r.became for r in cleaner.take()] == [{"value": arrives}]


# -- texts that are too long ---------------------------------------------------------------------------------------

_AWKWARD = st.text(alphabet="aé名🚀\u0301\u200d👩", max_size=30)


@quick
@given(_AWKWARD, st.integers(0, 40))
def test_a_cut_by_characters_keeps_as_many_as_fit(text: str, limit: int) -> None:
    rule = OverLength(TEXT, Place("fix", "sqlite", "postgresql"), limit, "characters")
    finding = _judge(rule, text.encode())
    if len(text) <= limit:
        assert finding is None
    else:
        assert finding is not None
        assert finding.value == text[:limit]


@quick
@given(_AWKWARD, st.integers(0, 60))
@example("🚀", 3)
def test_a_cut_by_bytes_never_splits_a_character(text: str, limit: int) -> None:
    rule = OverLength(TEXT, Place("fix", "sqlite", "mysql"), limit, "bytes")
    finding = _judge(rule, text.encode())
    if len(text.encode()) <= limit:
        assert finding is None
    else:
        assert finding is not None
        cut = finding.value
        assert text.startswith(cut)
        assert len(cut.encode()) <= limit < len((cut + text[len(cut)]).encode())


@pytest.mark.parametrize(("target", "arrives"), [("sqlite", 70_000), ("postgresql", 70_000), ("mysql", 65_534)])
def test_a_target_counts_in_its_own_way(target: Dialect, arrives: int) -> None:
    cleaner = _cleaning("logged_model_params", "fix", target).cleaner()
    row = {"model_id": "m", "experiment_id": 1, "param_key": "k"}
    after = cleaner.apply(_batch("logged_model_params", [row | {"param_value": "é" * 70_000}]))
    [text] = after.rows.column("param_value").to_pylist()
    assert (len(text.encode()) if target == "mysql" else len(text)) == arrives
    assert len(cleaner.take()) == (target == "mysql")


@pytest.mark.parametrize("policy", ["skip", "fix"])
def test_bytes_are_never_cut(policy: str) -> None:
    """Half of an encrypted secret is none."""
    cleaner = _cleaning("secrets", policy, "mysql").cleaner()
    row = {c.name: "x" if c.kind == "text" else 1 for c in _table("secrets").columns}
    whole = row | {"encrypted_value": b"v" * 65_535, "wrapped_dek": b"k"}
    long = row | {"encrypted_value": b"v" * 65_536, "wrapped_dek": b"k"}
    after = cleaner.apply(_batch("secrets", [whole, long]))
    assert after.rows.column("encrypted_value").to_pylist() == [whole["encrypted_value"]]
    [reject] = cleaner.take()
    assert (reject.rule, reject.became) == ("over_length", None)
    assert bytes.fromhex(reject.row["encrypted_value"]["bytes"]) == long["encrypted_value"]


# -- JSON ----------------------------------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["NaN", '"NaN', "\\", '\\"']),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | st.just("NaN"), inner, max_size=4)
    ),
    max_leaves=12,
)
JSON_RULE = BadJson(Column("inputs", "json", "JSON", nullable=True), Place("fix", "sqlite", "postgresql"))


def _without(value: Any) -> Any:
    """The same with None for what is not finite."""
    if isinstance(value, dict):
        return {k: _without(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _same(left: Any, right: Any) -> bool:
    """Equal, and equally spelled: 1 is not true, -0.0 not 0."""
    return json.dumps(left) == json.dumps(right)


@quick
@given(_JSON, st.booleans(), st.sampled_from([None, 1]))
def test_nan_becomes_null_and_nothing_else_changes(value: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    finding = _judge(JSON_RULE, text.encode())
    cured = without_nan(text)
    assert _same(json.loads(cured, parse_constant=pytest.fail), _without(value))
    if _same(_without(value), value):
        assert finding is None
        assert cured == text
    else:
        assert finding is not None
        assert (finding.rule, finding.value) == ("bare_nan_in_json", cured)


@quick
@given(st.text(alphabet='{}[]:,"\\NaInfity-0.e1u \n', max_size=25))
def test_whatever_stands_there_is_judged_as_python_reads_it(text: str) -> None:
    finding = _judge(JSON_RULE, text.encode())
    try:
        value = json.loads(text)
    except ValueError:
        assert finding is not None
        assert (finding.rule, finding.value) == ("invalid_json", LEFT_OUT)
        return
    if finding is None:
        json.loads(text, parse_constant=pytest.fail)
    else:
        assert _same(json.loads(finding.value, parse_constant=pytest.fail), _without(value))


@pytest.mark.parametrize(
    ("text", "cured"),
    [
        ("NaN", "null"),
        (" -Infinity\n", " null\n"),
        ('{"NaN": NaN, "Infinity": "-Infinity"}', '{"NaN": null, "Infinity": "-Infinity"}'),
        (r'["\"NaN", NaN, "\\", NaN]', r'["\"NaN", null, "\\", null]'),
        ('[1.50, 1e5, 0.10, NaN,"é\\u00e9"]', '[1.50, 1e5, 0.10, null,"é\\u00e9"]'),
        ('{"a": 1, "a": NaN}', '{"a": 1, "a": null}'),
    ],
)
def test_the_rest_of_a_document_keeps_its_spelling(text: str, cured: str) -> None:
    finding = _judge(JSON_RULE, text.encode())
    assert finding is not None
    assert finding.value == cured


def test_a_big_document_is_mended_without_much_memory() -> None:
    texts = [r"\"NaN\\" * 100_000, "x" * 2_000_000]
    finding = _judge(JSON_RULE, ('{"a": "' + texts[0] + '", "b": "' + texts[1] + '", "c": [NaN]}').encode())
    assert finding is not None
    assert finding.value == '{"a": "' + texts[0] + '", "b": "' + texts[1] + '", "c": [null]}'
    assert len(finding.text) < 200


@pytest.mark.parametrize("text", ["[" + "7" * 5000 + "]", "1e400", "-1e-400", '"\\ud800"', "[" * 50 + "]" * 50])
def test_json_that_python_alone_cannot_hold_is_json(text: str) -> None:
    assert _judge(JSON_RULE, text.encode()) is None


# -- values that a check lists -------------------------------------------------------------------------------------

OLD = ("SCHEDULED", "FAILED", "FINISHED", "RUNNING")
NEW = (*OLD, "KILLED")


@pytest.mark.parametrize("target", TARGETS)
def test_allowed_values_are_those_of_the_check(target: Dialect) -> None:
    runs = schemas.schema_at("tracking", target, HEAD).tables["runs"]
    assert allowed_values(runs, "status") == NEW
    assert allowed_values(runs, "lifecycle_stage") == ("active", "deleted")
    assert allowed_values(runs, "source_type") == ("NOTEBOOK", "JOB", "LOCAL", "UNKNOWN", "PROJECT")
    assert allowed_values(runs, "name") is None
    before = schemas.schema_at("tracking", target, BEFORE_KILLED).tables["runs"]
    assert allowed_values(before, "status") == OLD


@pytest.mark.parametrize(
    ("texts", "allowed"),
    [
        (["(`status` in ('A','B'))", "(`status` in ('B','C'))"], ("B",)),
        (["(`old_status` in ('A','B'))"], None),
        (["(is_nan IN (0, 1))"], None),
        (["length(status) > 0"], None),
        (["CHECK (status IN ('A', 'B C'))"], ("A", "B C")),
        (["((status = ANY (ARRAY['A'::text, 'B'::text])))"], ("A", "B")),
    ],
)
def test_a_check_s_text_is_read_as_each_database_writes_it(texts: list[str], allowed: tuple[str, ...] | None) -> None:
    table = Table(
        "t", (_column("status", "text"),), (), (), (), (), tuple(Check(None, t) for t in texts), (), (), (), ()
    )
    assert allowed_values(table, "status") == allowed


@pytest.mark.parametrize(
    ("value", "allowed", "becomes"),
    [
        ("KILLED", OLD, "FAILED"),
        ("killed", NEW, "KILLED"),
        (" finished ", OLD, "FINISHED"),
        ("Canceled", NEW, "KILLED"),
        ("in progress", OLD, "RUNNING"),
        ("FINISED", OLD, "FINISHED"),
        ("3", NEW, "FINISHED"),
        ("5", OLD, "FAILED"),
        ("", OLD, "FAILED"),
        ("whatever", OLD, "FAILED"),
        ("Kubeflow", ("NOTEBOOK", "UNKNOWN"), "UNKNOWN"),
        ("Deleted", ("active", "deleted"), "deleted"),
        ("archived", ("active", "deleted"), "deleted"),
        ("gone", ("active", "deleted"), LEFT_OUT),
    ],
)
def test_the_nearest_status(value: str, allowed: tuple[str, ...], becomes: Any) -> None:
    assert nearest(value, allowed) == becomes


# -- whole batches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("policy", ["stop", "skip", "fix"])
def test_clean_rows_pass_as_the_same_object(policy: str, target: Dialect) -> None:
    cleaner = _cleaning("params", policy, target).cleaner()
    batch = _batch("params", [_param(n, value="ünï名🚀" * n) for n in range(50)])
    assert cleaner.apply(batch) is batch
    assert cleaner.take() == []


def test_a_table_without_rules_and_an_empty_batch_pass_as_the_same_object() -> None:
    cleaner = _cleaning("params", "skip").cleaner()
    for batch in (_batch("params", []), _batch("metrics", [_metric(1)])):
        assert cleaner.apply(batch) is batch
    assert cleaner.take() == []


@pytest.mark.parametrize("policy", ["stop", "skip", "fix"])
def test_a_batch_of_bad_rows_alone(policy: str) -> None:
    cleaner = _cleaning("metrics", policy).cleaner()
    rows = [_metric(n, key=None) for n in range(7)]
    odd = [_metric(n, step="seven") for n in range(7, 12)]
    after = cleaner.apply(_batch("metrics", rows, odd))
    assert after.rows.num_rows == 0
    assert after.rows.schema == _batch("metrics", []).rows.schema
    assert after.odd == ()
    rejects = cleaner.take()
    assert [r.rule for r in rejects] == ["null_in_not_null"] * 7 + ["wrong_type"] * 5
    assert {r.became for r in rejects if r.became is not None} == set()
    assert cleaner.take() == []


def test_good_rows_around_bad_ones_keep_their_cells() -> None:
    """In a slice of a larger batch with NULLs, as the reader of SQLite gives them."""
    runs = [
        {
            "run_uuid": f"r{n}",
            "name": None if n % 3 else f"n{n}",
            "start_time": None if n % 2 else n,
            "status": "RUNNING",
        }
        for n in range(40)
    ]
    runs[7]["name"] = b"\xff"
    runs[20]["status"] = "killed"
    whole = _batch("runs", runs)
    cleaner = _cleaning("runs", "fix").cleaner()
    after = cleaner.apply(TableBatch("runs", whole.rows.slice(3))).rows
    after.validate(full=True)
    for name in after.schema.names:
        expected = [row.get(name) for row in runs[3:]]
        if name == "name":
            expected[4] = "\ufffd"
        if name == "status":
            expected[17] = "KILLED"
        assert after.column(name).to_pylist() == expected
    assert [(r.key["run_uuid"], r.became) for r in cleaner.take()] == [
        ("r7", {"name": "\ufffd"}),
        ("r20", {"status": "KILLED"}),
    ]


def test_only_the_nan_s_own_row_becomes_nan() -> None:
    cleaner = _cleaning("metrics", "fix", "mysql", source="postgresql").cleaner()
    rows = [_metric(0), _metric(1, value=math.nan), _metric(2, value=-math.inf), _metric(3, value=-0.0)]
    after = cleaner.apply(TableBatch("metrics", _batch("metrics", rows).rows)).rows
    assert after.column("is_nan").to_pylist() == [False, True, False, False]
    assert repr(after.column("value").to_pylist()) == "[0.0, 0.0, -1.7976931348623157e+308, -0.0]"
    assert [r.became for r in cleaner.take()] == [{"value": 0.0, "is_nan": True}, {"value": -1.7976931348623157e308}]


@pytest.mark.parametrize("policy", ["skip", "fix"])
def test_several_faults_of_one_row_are_one_reject(policy: str) -> None:
    cleaner = _cleaning("metrics", policy, "postgresql").cleaner()
    odd = _metric(1, key="a\0" + "k" * 300, step="12", is_nan="t", value="0.5")
    after = cleaner.apply(_batch("metrics", [_metric(0)], [odd]))
    [reject] = cleaner.take()
    for words in (
        "step: '12' is text",
        "is_nan: 't' is neither",
        "value: '0.5' is text",
        "key: ",
        "NUL byte",
        "301 char",
    ):
        assert words in reject.text
    assert reject.row == odd
    if policy == "skip":
        assert reject.became is None
        assert after.rows.num_rows == 1
    else:
        became = {"key": "a" + "k" * 249, "step": 12, "is_nan": True, "value": 0.5}
        assert reject.became == became
        assert after.rows.to_pylist()[1] == {**odd, **became}


def test_one_fault_without_a_cure_leaves_out_the_row_with_all_its_cures() -> None:
    cleaner = _cleaning("metrics", "fix").cleaner()
    after = cleaner.apply(_batch("metrics", [], [_metric(1, step="12", timestamp="noon")]))
    assert after.rows.num_rows == 0
    [reject] = cleaner.take()
    assert reject.became is None
    assert reject.row["step"] == "12"


def test_a_number_in_a_column_of_text_is_named() -> None:
    """A column that somebody made without a type keeps it as a number."""
    cleaner = _cleaning("params", "fix").cleaner()
    after = cleaner.apply(_batch("params", [], [_param(1, key=5), _param(2, key=1.5), _param(3, key=math.inf)]))
    assert after.rows.column("key").to_pylist() == ["5", "1.5"]
    assert [(r.rule, r.row["key"], r.became) for r in cleaner.take()] == [
        ("wrong_type", 5, {"key": "5"}),
        ("wrong_type", 1.5, {"key": "1.5"}),
        ("wrong_type", "Infinity", None),
    ]


@pytest.mark.parametrize("policy", ["stop", "skip", "fix"])
def test_text_that_is_not_utf8_in_a_column_of_bytes_is_named(policy: str) -> None:
    """A reader gives it as bytes, like a blob; that the row is odd tells that it was none."""
    row = {c.name: "x" if c.kind == "text" else 1 for c in _table("secrets").columns}
    row |= {"encrypted_value": b"\xff", "wrapped_dek": b"k"}
    cleaner = _cleaning("secrets", policy).cleaner()
    after = cleaner.apply(_batch("secrets", [], [row]))
    [reject] = cleaner.take()
    assert (reject.rule, reject.column) == ("wrong_type", "encrypted_value")
    assert after.rows.column("encrypted_value").to_pylist() == ([b"\xff"] if policy == "fix" else [])


def test_a_blob_beside_another_fault_is_no_fault() -> None:
    row = {c.name: "x" if c.kind == "text" else 1 for c in _table("secrets").columns}
    row |= {"encrypted_value": b"\xff", "wrapped_dek": b"k", "created_at": "12"}
    cleaner = _cleaning("secrets", "fix").cleaner()
    cleaner.apply(_batch("secrets", [], [row]))
    [reject] = cleaner.take()
    assert (reject.column, reject.became) == ("created_at", {"created_at": 12})


# -- rejects -------------------------------------------------------------------------------------------------------

_STORED = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=10),
    st.text(max_size=10).map(lambda text: f"{text}\0\ufffe\u2028"),
    st.binary(max_size=10),
    st.sampled_from(["12", "nan", "true", b"\xed\xa0\x80", b"\0", math.nan, -math.inf, 2**63 - 1]),
)
_NAMES = [c.name for c in _table("metrics").columns]


def _written(cell: Any) -> Any:
    """A cell as the rejects file must have it."""
    if isinstance(cell, bytes):
        return {"bytes": cell.hex()}
    if isinstance(cell, float) and not math.isfinite(cell):
        return "NaN" if math.isnan(cell) else "Infinity" if cell > 0 else "-Infinity"
    return cell


@quick
@given(
    st.fixed_dictionaries(dict.fromkeys(_NAMES, _STORED)), st.sampled_from(TARGETS), st.sampled_from(["skip", "fix"])
)
def test_a_line_holds_the_whole_row_and_no_change_goes_without_one(
    row: dict[str, Any], target: Dialect, policy: str
) -> None:
    cleaner = _cleaning("metrics", policy, target).cleaner()
    after = cleaner.apply(_batch("metrics", [_metric(0)], [row])).rows.to_pylist()
    assert after[0] == _metric(0)
    rejects = cleaner.take()
    if not rejects:
        # Nothing is wrong with it: every cell arrives as it was.
        assert [after[1][n] for n in _NAMES] == [row[n] for n in _NAMES]
        return
    [reject] = rejects
    line = json.loads(json.dumps(reject.document(), ensure_ascii=False, allow_nan=False))
    assert line["row"] == {n: _written(row[n]) for n in _NAMES}
    assert reject.rule in RULES
    assert reject.where.startswith("metrics[")
    assert set(line["key"]) == set(_table("metrics").primary_key)
    if line["became"] is None:
        assert len(after) == 1
        return
    assert line["became"]
    for name in _NAMES:
        assert _written(after[1][name]) == line["became"].get(name, line["row"][name])


def test_a_key_of_any_size_names_its_row_in_few_words() -> None:
    cleaner = _cleaning("params", "skip").cleaner()
    cleaner.apply(_batch("params", [_param(1, key=b"\xff" * 100_000), _param(2, key="k" * 100_000, value=b"\xff")]))
    rejects = cleaner.take()
    assert [len(r.where) < 1000 for r in rejects] == [True, True]
    assert rejects[0].row["key"] == {"bytes": "ff" * 100_000}
    assert rejects[1].row["key"] == "k" * 100_000


# -- threads -------------------------------------------------------------------------------------------------------


def _dirty(number: int) -> TableBatch:
    rows = [
        _metric(n, key=None if n % 11 == 0 else b"\xff" if n % 7 == 0 else f"k{n}\0" if n % 5 == 0 else f"k{n}")
        for n in range(number * 100, number * 100 + 100)
    ]
    return _batch("metrics", rows, [_metric(number, step=f"{number}"), _metric(number, is_nan=2)])


def test_cleaners_in_threads_say_what_one_says() -> None:
    cleaning = _cleaning("metrics", "fix", "postgresql")
    batches = [_dirty(number) for number in range(60)]
    one = cleaning.cleaner()
    expected = [(one.apply(batch).rows, one.take()) for batch in batches]
    found: dict[int, tuple[pa.RecordBatch, list[Reject]]] = {}
    start = threading.Barrier(4)

    def work(lane: int) -> None:
        cleaner = cleaning.cleaner()
        start.wait()
        for number in range(lane, len(batches), 4):
            found[number] = (cleaner.apply(batches[number]).rows, cleaner.take())

    threads = [threading.Thread(target=work, args=(lane,)) for lane in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(60)] == expected
    assert sum(len(rejects) for _, rejects in expected) > 2000
