"""Reading flat YAML fast gives what PyYAML gives, or gives up."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlflowctl.stores.files.yamls import _KEYS, Fields, parse_block, parse_flat

KEYS = st.one_of(st.sampled_from(sorted(_KEYS)), st.sampled_from(["yes", "no", "null", "x", "1", "a b", "? a", "<<"]))
WORDS = st.sampled_from(
    [
        "null",
        "Null",
        "~",
        "yes",
        "no",
        "on",
        "off",
        "true",
        "True",
        "false",
        "y",
        "n",
        ".",
        ".5",
        ".inf",
        ".nan",
        "1",
        "-1",
        "+1",
        "0",
        "-0",
        "01",
        "0x1F",
        "0b1",
        "1_0",
        "1e5",
        "1.5",
        "1:30",
        "2024-01-01",
        "2024-01-01T00:00:00Z",
        "=",
        "<<",
        "&",
        "*",
        "!",
        "|",
        ">",
        "%",
        "@",
        "`",
        "-",
        "?",
        ":",
        "[]",
        "{}",
        "[a]",
        "{a:",
        "b}",
        "'a'",
        "''",
        "'it''s'",
        '"a"',
        '"a\\n"',
        "#",
        "a:b",
        "a:",
        "a:b:",
        "#a",
        "a#b",
        "/a/b",
        "file:///C:/x%20y",
        "C:\\x",
        "00000000000000000000000000000000",
        "0123456789abcdef0123456789abcdef",
        "12345678901234567890123456789012",
        "0b010101010101010101010101010101",
        "1234567890123456789012345678901e",
    ]
)
VALUES = st.one_of(
    WORDS,
    st.lists(WORDS, min_size=1, max_size=4).map(" ".join),
    st.text(max_size=20),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20).map(lambda t: f"'{t}'"),
    st.integers().map(str),
)
LINES = st.tuples(KEYS, st.sampled_from([": ", ": ", ": ", ":", " : ", ":  "]), VALUES).map("".join)
TEXTS = st.lists(LINES, max_size=5).flatmap(
    lambda lines: st.sampled_from(["\n".join(lines), "\n".join(lines) + "\n", "\r\n".join(lines), "\n\n".join(lines)])
)
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def typed(values: object) -> object:
    """``values`` so that 1, 1.0 and True differ."""
    if isinstance(values, dict):
        return {key: typed(value) for key, value in values.items()}
    return (type(values).__name__, repr(values))


@settings(max_examples=1000, deadline=None)
@given(TEXTS)
@example("name: a\n  b\n")
@example("name: a\n---\nname: b\n")
@example("status: 1\nstatus: 2\n")
def test_the_fast_way_gives_the_same_or_nothing(text: str) -> None:
    fast = parse_flat(text)
    if fast is not None:
        assert typed(fast) == typed(yaml.load(text, Loader=LOADER))


SCALARS = st.one_of(st.none(), st.integers(-(2**62), 2**62), st.text(max_size=60), st.booleans(), WORDS)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(_KEYS)), SCALARS, min_size=1, max_size=8))
def test_what_mlflow_writes_is_read_as_pyyaml_reads_it(values: dict[str, Any]) -> None:
    text = yaml.dump(values, Dumper=yaml.SafeDumper, default_flow_style=False, allow_unicode=True)
    # PyYAML does not bring back a few control characters that it writes, so its reading is the measure.
    expected = yaml.load(text, Loader=LOADER)
    fields = Fields(text.encode("utf-8", "surrogatepass"))
    assert typed(fields.values) == typed(expected)
    for key, value in expected.items():
        if value is None or isinstance(value, str):
            assert fields.text(key) == value


def test_a_run_of_every_era_goes_the_fast_way() -> None:
    text = (
        "artifact_uri: file:///home/me/ml/mlruns/0/0123456789abcdef0123456789abcdef/artifacts\n"
        "end_time: null\nentry_point_name: ''\nexperiment_id: '0'\nlifecycle_stage: active\n"
        "run_id: 0123456789abcdef0123456789abcdef\nrun_name: bold-fox-12\nsource_type: 4\nstatus: 3\ntags: []\n"
        "start_time: 1700000000000\nuser_id: me\n"
    )
    fast = parse_flat(text)
    assert fast is not None
    assert typed(fast) == typed(yaml.load(text, Loader=LOADER))


INNER = st.sampled_from(
    ["trace_location", "mlflow_experiment", "feedback", "value", "a.b_C9", "null", "On", "no", "_x", "y"]
)
# Lines most of which are well formed, so that many of the documents are, and lines that go on or break them.
PIECES = st.sampled_from(
    [
        "a",
        "b c",
        "b  c",
        "1",
        "0.5",
        "null",
        "''",
        "'x'",
        "'it''s'",
        "'x",
        "y'",
        "'x '",
        "' y'",
        "é — 日",
        "b:c",
        "b: c",
        "d #e",
        "d:",
        "yes",
    ]
)
GOES_ON = st.sampled_from(
    [
        "\n  more",
        "\n    more",
        "\n\n  more",
        "\n more'",
        "\n  y'",
        "\n\n  y'",
        "\n  # c",
        "\n--- x",
        "\n  - a",
        "\n  a: b",
        "\n \n  z'",
        " ",
    ]
)
BLOCK_LINES = st.tuples(
    st.sampled_from(["", "", "", "", "  ", "    ", " "]),
    INNER,
    st.sampled_from([": ", ": ", ": ", ": ", ":\n  x: ", ":\n  x:\n    y: ", ":\n", ":", ":  "]),
    st.one_of(PIECES, PIECES, PIECES, VALUES),
    st.one_of(st.just(""), st.just(""), GOES_ON),
).map("".join)
BLOCKS = st.lists(BLOCK_LINES, min_size=1, max_size=4).flatmap(
    lambda lines: st.sampled_from(
        ["\n".join(lines), "\n".join(lines) + "\n", "\n".join(lines) + "\n", "\n\n".join(lines)]
    )
)


@settings(max_examples=3000, deadline=None)
@given(BLOCKS)
@example("a:\n  b: c\nd: e")
@example("a:\n  b: c\n d: e\n")
@example("a:\nb: c\n")
@example("a: b\n  c\n   d e\nf: g\n")
@example("a: b\n  # c\n")
@example("a: 1\n  2\n")
@example("a: ''\n  b\n")
@example("a: 'b\n  c'\n  d\n")
@example("a: 'b \n\n\n   c'' '\n")
@example("a: '\n  b\n\n  '\n")
@example("a: 'b\n--- c'\n")
@example("a: b  c\n")
@example("a:\n  a: b\na: c\n")
def test_the_way_for_traces_gives_the_same_or_nothing(text: str) -> None:
    fast = parse_block(text)
    if fast is not None:
        assert typed(fast) == typed(yaml.load(text, Loader=LOADER))


WORD = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12),
    st.sampled_from(
        ["\n", "\n\n", " ", "  ", "ünïcødé", "日本語", "🚀", "it's", '{"q": "hi"}', ": ", " #", "—", "\u2028", "\t"]
    ),
)
LONG = st.lists(WORD, max_size=30).map(" ".join)
LEAVES = st.one_of(SCALARS, LONG, st.floats())
TREES = st.dictionaries(
    st.sampled_from([*sorted(_KEYS)[:10], "feedback", "mlflow.assessment.sourceRunId"]),
    st.recursive(LEAVES, lambda inner: st.dictionaries(INNER, inner, max_size=3), max_leaves=6),
    min_size=1,
    max_size=5,
)


@settings(max_examples=500, deadline=None)
@given(TREES, st.sampled_from([yaml.SafeDumper, getattr(yaml, "CSafeDumper", yaml.SafeDumper)]))
def test_nested_things_that_mlflow_writes_are_read_as_pyyaml_reads_them(values: dict[str, Any], dumper: Any) -> None:
    text = yaml.dump(values, Dumper=dumper, default_flow_style=False, allow_unicode=True)
    fast = parse_block(text)
    if fast is not None:
        assert typed(fast) == typed(yaml.load(text, Loader=LOADER))


def test_traces_and_assessments_go_the_fast_way() -> None:
    question = "Why does it say 'no' — and when: " + "again and again, ünïcødé " * 20
    trace = {
        "trace_id": "tr-0123456789abcdef0123456789abcdef",
        "trace_location": {"mlflow_experiment": {"experiment_id": "123456789012345678"}, "type": "MLFLOW_EXPERIMENT"},
        "request_time": "2026-11-26T08:27:13.415Z",
        "execution_duration_ms": 193,
        "state": "OK",
        "request_preview": f'{{"q": "{question}"}}',
        "response_preview": "It is so because " + "of many things " * 30 + "so\n\nand more",
        "client_request_id": None,
    }
    assessment = {
        "assessment_id": "a-1",
        "assessment_name": "good",
        "create_time": "2026-11-26T08:27:14.726Z",
        "feedback": {"value": 0.5},
        "metadata": {"mlflow.assessment.sourceRunId": "0123456789abcdef0123456789abcdef"},
        "rationale": "because " * 30,
        "source": {"source_id": "bob", "source_type": "HUMAN"},
        "valid": True,
    }
    for values in (trace, assessment):
        for dumper in (yaml.SafeDumper, getattr(yaml, "CSafeDumper", yaml.SafeDumper)):
            text = yaml.dump(values, Dumper=dumper, default_flow_style=False, allow_unicode=True)
            assert parse_block(text) == values == yaml.load(text, Loader=LOADER)
