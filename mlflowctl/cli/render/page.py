"""A page of text: headings, facts, tables, commands. The one place that draws with rich.

User data never reaches rich as markup: it would eat ``[prod]`` and stumble over ``[/foo]``.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mlflowctl.cli.render.terminal import Screen, clean

if TYPE_CHECKING:
    from rich.text import Text

Cell = str | tuple[str, str]
"""A text, or a text with a style."""


class Page:
    """Collects text for one screen."""

    def __init__(self, screen: Screen) -> None:
        from rich.console import Console

        self._buffer = io.StringIO()
        self._console = Console(
            file=self._buffer,
            width=screen.width,
            force_terminal=screen.colour,
            no_color=not screen.colour,
            color_system="standard" if screen.colour else None,
            force_interactive=False,
            legacy_windows=False,
            markup=False,
            highlight=False,
            emoji=False,
            _environ={},  # what the stream can show is decided already, not by TERM or COLUMNS once more
        )

    def line(self, *parts: Cell) -> None:
        """One line; the terminal may wrap it, nothing here does."""
        from rich.text import Text

        text = Text()
        for part in parts:
            text.append_text(_text(part))
        self._console.print(text, soft_wrap=True)

    def gap(self) -> None:
        """An empty line."""
        self._console.print()

    def items(self, heading: str, lines: Iterable[Cell]) -> None:
        """A heading with indented lines below it; nothing without lines."""
        lines = list(lines)
        if not lines:
            return
        self.gap()
        self.line((heading, "bold"))
        for line in lines:
            self.line("  ", line)

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[Cell]], *, right: Iterable[int] = ()) -> None:
        """A table without rules; long cells fold, nothing is cut. ``right`` names the columns of numbers."""
        from rich.table import Table

        right = set(right)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(headers), header_style="dim")
        for index, header in enumerate(headers):
            table.add_column(header, justify="right" if index in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_text(cell) for cell in row))
        self._console.print(table)

    def text(self) -> str:
        """Everything so far, without blanks at the ends of lines."""
        return "\n".join(line.rstrip() for line in self._buffer.getvalue().splitlines()).strip("\n") + "\n"


def _text(cell: Cell) -> Text:
    from rich.text import Text

    text, style = cell if isinstance(cell, tuple) else (cell, "")
    return Text(clean(text), style=style)


def number(value: Any) -> str:
    """A count with thousands separators."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def size(count: float) -> str:
    """Bytes in the unit that people use."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def plural(count: int, one: str, many: str | None = None) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"
