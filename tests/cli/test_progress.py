"""Events as a bar, lines and NDJSON."""

from __future__ import annotations

import io
import json

import pytest

from mlflowctl.cli.render import progress
from mlflowctl.core.events import Event, Note, PhaseAdvanced, PhaseFinished, PhaseStarted

EVENTS: list[Event] = [
    PhaseStarted("copy", "rows", 1000, True),
    PhaseAdvanced("copy", 10, "metrics"),
    PhaseAdvanced("copy", 900, "tags [prod]"),
    Note("good to know"),
    Note("postgresql://a:geheim@h/d is slow\x1b[2J", "warning"),
    PhaseFinished("copy", 1200, 1.5),
    PhaseAdvanced("unknown", 1),
]


class _Clock:
    def __init__(self, step: float) -> None:
        self.now = 0.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def _drawn(sink: progress.Sink) -> None:
    with sink:
        for event in EVENTS:
            sink(event)


def test_plain() -> None:
    stream = io.StringIO()
    _drawn(progress.Plain(stream, details=True, clock=_Clock(10)))
    assert stream.getvalue().splitlines() == [
        "copy: 10 of about 1,000 rows (metrics)",
        "copy: 900 of about 1,000 rows, 89 rows/s, 1.1 s left (tags [prod])",
        "note: good to know",
        "warning: postgresql://a:***@h/d is slow\\x1b[2J",
        "copy: 1,200 rows in 1.5 s",
        "unknown: 1 step",
    ]


def test_plain_is_rate_limited() -> None:
    stream = io.StringIO()
    _drawn(progress.Plain(stream, clock=_Clock(0.001)))
    assert stream.getvalue().splitlines() == [
        "warning: postgresql://a:***@h/d is slow\\x1b[2J",
        "copy: 1,200 rows in 1.5 s",
    ]


def test_ndjson() -> None:
    stream = io.StringIO()
    _drawn(progress.Ndjson(stream, clock=_Clock(0.15)))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [
        "phase_started", "phase_advanced", "note", "note", "phase_finished", "phase_advanced",
    ]  # fmt: skip
    assert lines[0] == {
        "event": "phase_started",
        "time": lines[0]["time"],
        "phase": "copy",
        "unit": "rows",
        "total": 1000,
        "estimated": True,
    }
    assert lines[0]["time"].endswith("Z")
    assert "geheim" not in stream.getvalue()


@pytest.mark.parametrize("colour", [True, False])
def test_bar(colour: bool) -> None:
    stream = io.StringIO()
    _drawn(progress.Bar(stream, colour=colour))
    text = stream.getvalue()
    assert "copy" in text
    assert "1,200 rows" in text
    assert "geheim" not in text
    assert "\x1b[?25h" in text  # the cursor is back
    assert "\x1b[2Jx" not in text
    assert ("\x1b[3" in text or "\x1b[1;3" in text) is colour


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("kind", "stream", "verbosity", "term", "expected"),
    [
        ("auto", _Terminal(), 0, "xterm", progress.Bar),
        ("auto", _Terminal(), 0, "dumb", progress.Plain),
        ("auto", io.StringIO(), 0, "xterm", progress.Plain),
        ("plain", _Terminal(), 0, "xterm", progress.Plain),
        ("json", _Terminal(), 0, "xterm", progress.Ndjson),
        ("json", io.StringIO(), -1, "xterm", progress.Ndjson),
        ("none", _Terminal(), 2, "xterm", progress.Silent),
        ("auto", _Terminal(), -1, "xterm", progress.Silent),
    ],
)
def test_choice(kind: str, stream: io.StringIO, verbosity: int, term: str, expected: type[progress.Sink]) -> None:
    assert type(progress.make(kind, stream, verbosity, {"TERM": term})) is expected
