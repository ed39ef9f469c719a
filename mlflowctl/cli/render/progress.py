"""Sinks: what an engine says while it works, as a bar, plain lines or NDJSON.

Each sink is a context manager that is called with every event.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TextIO

from mlflowctl.cli.render import terminal
from mlflowctl.cli.render.page import duration, number, size
from mlflowctl.core.events import Event, Note, PhaseAdvanced, PhaseFinished, PhaseStarted
from mlflowctl.core.redact import redact_text, redact_value

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# A log is read later: a line every few seconds shows life and keeps it short.
_PLAIN_SECONDS = 5.0
_JSON_SECONDS = 0.2
# A rate over less time says nothing.
_STEADY_SECONDS = 1.0


class Sink(ABC):
    """Draws events."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *exc: object) -> None:  # noqa: B027 - most sinks leave nothing behind
        """Leave the terminal as it was."""

    @abstractmethod
    def __call__(self, event: Event) -> None:
        """Draw one event."""


class Pace:
    """How fast a phase goes, and what is left of it."""

    def __init__(self, started: PhaseStarted, now: float) -> None:
        self.started = started
        self._since = now
        self._first: int | None = None

    def words(self, event: PhaseAdvanced, now: float) -> list[str]:
        """Bytes, rate and time left, as far as they can be told."""
        if self.started.unit != "rows":
            return []
        if self._first is None:  # a resumed phase begins with what is there already
            self._first, self._since = event.done, now
        said = [size(event.bytes)] if event.bytes else []
        seconds = now - self._since
        if seconds >= _STEADY_SECONDS and event.done > self._first:
            rate = (event.done - self._first) / seconds
            said.append(f"{number(round(rate))} rows/s")
            left = (self.started.total or 0) - event.done
            if left > 0:
                said.append(f"{duration(left / rate)} left")
        return said


class Silent(Sink):
    """Draws nothing."""

    def __call__(self, event: Event) -> None:
        """Nothing."""


class Plain(Sink):
    """Lines for a log, at most one every few seconds inside of a phase."""

    def __init__(
        self,
        stream: TextIO,
        *,
        details: bool = False,
        every: float = _PLAIN_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._details = details
        self._every = every
        self._clock = clock
        self._last = clock()
        self._phases: dict[str, Pace] = {}

    def __call__(self, event: Event) -> None:
        """Write a line, or skip it."""
        text = self._text(event)
        if text is not None:
            self._stream.write(terminal.clean(redact_text(text)) + "\n")
            self._stream.flush()

    def _text(self, event: Event) -> str | None:
        if isinstance(event, PhaseStarted):
            self._last = self._clock()
            self._phases[event.phase] = Pace(event, self._last)
            return None
        pace = self._phases.get(getattr(event, "phase", ""))
        started = pace.started if pace else None
        if isinstance(event, PhaseAdvanced):
            now = self._clock()
            pacing = pace.words(event, now) if pace else []
            if now - self._last < self._every:
                return None
            self._last = now
            total = (
                f" of {'about ' if started.estimated else ''}{number(started.total)}"
                if started and started.total
                else ""
            )
            detail = f" ({event.detail})" if event.detail else ""
            counted = f"{number(event.done)}{total} {_unit(event.done, started)}"
            return f"{event.phase}: {', '.join([counted, *pacing])}{detail}"
        if isinstance(event, PhaseFinished):
            return f"{event.phase}: {number(event.done)} {_unit(event.done, started)} in {duration(event.seconds)}"
        return note_text(event, details=self._details)


class Ndjson(Sink):
    """One JSON object a line: ``event``, ``time`` and the event's own fields."""

    def __init__(
        self, stream: TextIO, *, every: float = _JSON_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._every = every
        self._clock = clock
        self._last = clock() - every

    def __call__(self, event: Event) -> None:
        """Write the event, unless another step of a phase was written a moment ago."""
        if isinstance(event, PhaseAdvanced):
            now = self._clock()
            if now - self._last < self._every:
                return
            self._last = now
        line: dict[str, Any] = {
            "event": _snake(type(event).__name__),
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            **{name.name: getattr(event, name.name) for name in dataclasses.fields(event)},
        }
        self._stream.write(json.dumps(redact_value(line)) + "\n")
        self._stream.flush()


class Bar(Sink):
    """A bar a phase, on a terminal."""

    def __init__(self, stream: TextIO, *, colour: bool, details: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        console = Console(
            file=stream,
            force_terminal=True,
            no_color=not colour,
            markup=False,
            highlight=False,
            emoji=False,
            legacy_windows=False,
        )
        self._console = console
        self._details = details
        self._progress: Progress = Progress(
            SpinnerColumn(finished_text="*"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            transient=True,  # what stays on the screen is the report
        )
        self._tasks: dict[str, tuple[TaskID, Pace]] = {}

    def __enter__(self) -> Bar:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Take the bars away and show the cursor again."""
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Move a bar."""
        if isinstance(event, PhaseStarted):
            task = self._progress.add_task(event.phase, total=event.total, count="", detail="")
            self._tasks[event.phase] = (task, Pace(event, time.monotonic()))
        elif isinstance(event, PhaseAdvanced):
            if event.phase in self._tasks:
                task, pace = self._tasks[event.phase]
                started = pace.started
                # An estimate may be too low; a bar must not be full before its phase is over.
                total = max(started.total, event.done + 1) if started.total and started.estimated else started.total
                detail = terminal.clean(redact_text(event.detail))
                counted = f"{number(event.done)} {_unit(event.done, started)}"
                count = ", ".join([counted, *pace.words(event, time.monotonic())])
                self._progress.update(task, completed=event.done, total=total, count=count, detail=detail)
        elif isinstance(event, PhaseFinished):
            if event.phase in self._tasks:
                task, pace = self._tasks[event.phase]
                started = pace.started
                count = f"{number(event.done)} {_unit(event.done, started)}"
                self._progress.update(task, total=event.done or 1, completed=event.done or 1, count=count, detail="")
        else:
            text = note_text(event, details=self._details)
            if text is not None:
                self._console.print(terminal.clean(redact_text(text)), soft_wrap=True)


def note_text(note: Note, *, details: bool) -> str | None:
    """A note as a line. What is only good to know stands in the report too, so it is said early only on request."""
    if note.level == "info":
        return f"note: {note.text}" if details else None
    return f"{note.level}: {note.text}"


def make(kind: str, stream: TextIO, verbosity: int, environ: Mapping[str, str]) -> Sink:
    """The sink that ``--progress`` and the stream ask for."""
    if kind == "json":
        return Ndjson(stream)
    if kind == "none" or verbosity < 0:
        return Silent()
    details = verbosity > 0
    if kind == "auto" and terminal.moves(stream, environ):
        return Bar(stream, colour=terminal.screen(stream, environ).colour, details=details)
    return Plain(stream, details=details)


def _unit(count: int, started: PhaseStarted | None) -> str:
    unit = started.unit if started else "steps"
    return unit.removesuffix("s") if count == 1 else unit


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
