"""What a stream can show: colours, width; and an error in at most four lines."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from mlflowctl.core.redact import redact_text

if TYPE_CHECKING:
    from mlflowctl.core.errors import MlflowctlError

# Wide enough for any table: in a pipe nothing is cut and nothing wraps.
_ENDLESS = 100_000
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Screen:
    """Where text goes: whether it shows colours, and how many columns it has."""

    colour: bool = False
    width: int = _ENDLESS
    terminal: bool = False


def screen(stream: TextIO | None, environ: Mapping[str, str]) -> Screen:
    """What ``stream`` can show; None is a file."""
    terminal = stream is not None and stream.isatty()
    width = max(shutil.get_terminal_size().columns, 40) if terminal else _ENDLESS
    return Screen(_colour(stream, terminal, environ), width, terminal)


def _colour(stream: TextIO | None, terminal: bool, environ: Mapping[str, str]) -> bool:
    if stream is None or environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR", "0") not in ("", "0", "false"):
        return True
    return terminal and environ.get("TERM") != "dumb"


def moves(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether lines on ``stream`` can be drawn over, as a progress bar does."""
    return stream.isatty() and environ.get("TERM", "dumb") != "dumb"


def clean(text: str) -> str:
    """User data as it may reach a terminal: control characters become visible escapes."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text.replace("\t", " "))


def error_text(error: MlflowctlError, where: Screen) -> str:
    """What, where, why, what to do next: at most four lines."""
    head = "error:"
    if where.colour:
        head = f"\x1b[1;31m{head}\x1b[0m"
    lines = [f"{head} {_one_line(error.what)}"]
    for name, words in (("where", error.where), ("why", error.why), ("next", error.next_step)):
        if words:
            lines.append(f"  {name}: {_one_line(words)}")
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    return clean(" ".join(redact_text(text).split()))
