"""Documents as text: whole screens."""

from __future__ import annotations

import copy
import io
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from mlflowctl.cli.render import documents, page, terminal
from mlflowctl.cli.render.terminal import Screen
from mlflowctl.core.errors import SourceError
from tests.cli.examples import DIFFERENT, EXAMPLES, VERIFIED, VERIFY

Golden = Callable[[str, str], str]


@pytest.mark.parametrize("name", EXAMPLES)
def test_screens(name: str, screen: Golden) -> None:
    text = documents.render(EXAMPLES[name], "table", Screen())
    assert text == screen(name, text)


@pytest.mark.parametrize("name", ["migrate-verified", "verify-different"])
def test_screens_in_colour_on_a_narrow_terminal(name: str, screen: Golden) -> None:
    text = documents.render(EXAMPLES[name], "table", Screen(colour=True, width=80, terminal=True))
    assert text == screen(f"{name}-colour", text)
    assert "\x1b[" in text


def test_the_server_command_comes_last() -> None:
    text = documents.render(VERIFIED, "table", Screen())
    assert text.endswith(f"  {VERIFIED['next_command']}\n  with the password in place of ***\n")
    text = documents.render({**VERIFIED, "next_command": "mlflow server"}, "table", Screen())
    assert text.endswith("\n  mlflow server\n")


def test_verbose_shows_empty_tables() -> None:
    assert "traces" not in documents.render(VERIFIED, "table", Screen())
    assert "traces" in documents.render(VERIFIED, "table", Screen(), verbosity=1)


def test_user_data_is_neither_markup_nor_terminal_commands() -> None:
    text = documents.render(DIFFERENT, "table", Screen())
    assert "[prod] x" in text
    assert "[/foo]\\x1b[2J" in text
    assert "\x1b" not in text


def test_long_cells_are_never_cut() -> None:
    document = copy.deepcopy(VERIFY)
    document["source"]["uri"] = "sqlite:////" + "x" * 300
    document["tables"][0]["name"] = "t" * 300
    for screen in (Screen(), Screen(width=60, terminal=True)):
        text = documents.render(document, "table", screen)
        assert text.count("x") >= 300
        assert text.count("t" * 10) >= 10 or "t" * 300 in text
        assert "…" not in text
    assert "x" * 300 in documents.render(document, "table", Screen())


def test_json_is_strict() -> None:
    document = {"schema": "x", "a": math.nan, "b": [math.inf, -math.inf], "c": ("t",), "d": "\ud800é"}
    assert json.loads(documents.render(document, "json", Screen())) == {
        "schema": "x", "a": "NaN", "b": ["Infinity", "-Infinity"], "c": ["t"], "d": "\\ud800é",
    }  # fmt: skip
    assert yaml.safe_load(documents.render(document, "yaml", Screen()))["b"] == ["Infinity", "-Infinity"]


def test_an_unknown_document_is_shown_as_json() -> None:
    assert json.loads(documents.render({"schema": "other/v1", "x": 1}, "table", Screen())) == {
        "schema": "other/v1",
        "x": 1,
    }


@pytest.mark.parametrize(
    ("environ", "tty", "expected"),
    [
        ({}, False, False),
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "0"}, False, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
        ({"GITHUB_ACTIONS": "true"}, False, False),
    ],
)
def test_colours(environ: dict[str, str], tty: bool, expected: bool) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return tty

    assert terminal.screen(Stream(), environ).colour is expected


def test_a_file_has_no_colours() -> None:
    assert terminal.screen(None, {"FORCE_COLOR": "1"}) == Screen()


def test_an_error_has_at_most_four_lines() -> None:
    error = SourceError("What\nhappened.", where="x\ny", why="a\n\nb \x1b[1m", next_step="do\nthis", details=("d",) * 9)
    text = terminal.error_text(error, Screen())
    assert text == "error: What happened.\n  where: x y\n  why: a b \\x1b[1m\n  next: do this\n"
    assert "\x1b[1;31m" in terminal.error_text(error, Screen(colour=True))


def test_an_error_holds_no_password() -> None:
    error = SourceError("Cannot open mysql://a:geheim@h/d.", where="mysql://a:geheim@h/d", why="password=geheim")
    assert "geheim" not in terminal.error_text(error, Screen())


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (123456, "123 kB"), (5.1e9, "5.1 GB"), (2e13, "20.0 TB")],
)
def test_sizes(value: Any, expected: str) -> None:
    assert page.size(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0.04, "0.0 s"), (9.96, "10.0 s"), (60, "60 s"), (600, "10 min"), (7300, "2.0 h")]
)
def test_durations(value: float, expected: str) -> None:
    assert page.duration(value) == expected
