"""Reading flat YAML fast gives what PyYAML gives, or gives up."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlflowctl.stores.files.yamls import _KEYS, Fields, parse_flat

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
