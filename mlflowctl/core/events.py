"""What an engine says while it works.

An engine is a generator of these frozen events and returns its result; it never prints and knows no terminal. Sinks
(``mlflowctl.cli.render``) draw them as a bar, plain lines or NDJSON.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """A phase begins. ``total`` counts ``unit``s and may be an estimate or unknown."""

    phase: str
    unit: str = "rows"
    total: int | None = None
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class PhaseAdvanced:
    """``done`` units of the phase are finished; ``detail`` names the table or revision at hand.

    ``bytes`` of rows went through so far, as they lie in memory, where the phase counts them.
    """

    phase: str
    done: int
    detail: str = ""
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class PhaseFinished:
    """The phase is over after ``seconds``; ``done`` units were handled."""

    phase: str
    done: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Note:
    """Something a person should know. ``level`` is info or warning."""

    text: str
    level: str = "info"


Event = PhaseStarted | PhaseAdvanced | PhaseFinished | Note
Engine = Generator[Event, None, T]


def drive(engine: Engine[T], sink: Callable[[Event], None]) -> T:
    """Run an engine to its end, hand every event to ``sink``, return the engine's result."""
    while True:
        try:
            event = next(engine)
        except StopIteration as stop:
            result: T = stop.value
            return result
        sink(event)
