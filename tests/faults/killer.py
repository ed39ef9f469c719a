"""Runs mlflowctl as a real process, kills it at an instant that a seed chooses, and runs the same command again.

An instant lies within a phase: the phase's beginning is seen in the progress events on standard error, and what an
undisturbed run needed for it says how far a random delay may reach.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

PROJECT = Path(__file__).resolve().parents[2]
#: What precedes the copy has no phase of its own in the events: Python's start, the plan, and at its end the tables.
START, SCHEMA = "plan", "schema creation"
#: How far before the copy the tables are being made, in seconds.
_SCHEMA_SECONDS = 0.12
WHO = ("everybody", "parent", "child")
_PATIENCE = 300.0

Document = dict[str, Any]


@dataclass
class Ended:
    """How a process ended, and what it said."""

    code: int
    document: Document | None
    events: list[Document]
    seconds: float
    errors: str

    @property
    def error(self) -> Document:
        """The document's error, or nothing."""
        return (self.document or {}).get("error") or {}

    def said(self) -> str:
        """Everything that helps to understand a surprise."""
        return f"exit {self.code}, error {self.error}, last words: {self.errors[-3000:]}"


class Process:
    """One ``mlflowctl`` at work, in a session of its own.

    Args:
        arguments: of the command line, without the program.
        folder: the current folder, and the parent of a home without any configuration.
        prefix: what stands before the interpreter (limits, for example).
        script: Python code to run in place of ``-m mlflowctl``.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        prefix: Sequence[str] = (),
        script: str | None = None,
        **environ: str,
    ) -> None:
        program = ["-m", "mlflowctl"] if script is None else ["-c", script]
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [*prefix, sys.executable, *program, *arguments, "--progress", "json", "-o", "json"],
            cwd=folder,
            env=environment(folder, **environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self.events: list[Document] = []
        self._lines: list[str] = []
        self._output: list[str] = []
        self._seen = threading.Condition()
        self._over = False
        self._readers = [
            threading.Thread(target=self._read_events, daemon=True),
            threading.Thread(target=self._read_output, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        self._output.append(self.process.stdout.read())

    def _read_events(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._seen:
                self._lines.append(line)
                with suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict):
                        self.events.append({**event, "at": time.monotonic() - self.began})
                self._seen.notify_all()
        with self._seen:
            self._over = True
            self._seen.notify_all()

    def wait_for(self, wanted: Callable[[Document], bool]) -> bool:
        """Wait until an event that is ``wanted`` has been seen; False when the process ended without one."""
        looked = 0
        end = time.monotonic() + _PATIENCE
        with self._seen:
            while True:
                while looked < len(self.events):
                    if wanted(self.events[looked]):
                        return True
                    looked += 1
                if self._over:
                    return False
                assert time.monotonic() < end, "".join(self._lines)
                self._seen.wait(1)

    def wait_for_phase(self, phase: str) -> bool:
        """Wait for a phase to begin."""
        return self.wait_for(lambda event: event.get("event") == "phase_started" and event.get("phase") == phase)

    @property
    def phase(self) -> str:
        """The phase at hand, as far as it has been told."""
        current = START
        for event in list(self.events):
            if event.get("event") == "phase_started":
                current = str(event["phase"])
        return current

    def children(self) -> list[psutil.Process]:
        """The upgrade's process, while there is one."""
        with suppress(psutil.Error):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def kill(self, who: str = "everybody") -> bool:
        """SIGKILL; False when there was nobody to kill any more.

        Args:
            who: ``everybody``, only the ``parent``, or only the ``child`` (when there is none, everybody).
        """
        if self.process.poll() is not None:
            return False
        children = self.children()
        if who == "child" and children:
            return _kill_each(children) > 0
        # The child has a session of its own, so a signal to the group does not reach it.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        killed = self.process.wait(30) == -signal.SIGKILL
        if who != "parent":
            _kill_each(children)
        return killed

    def signal(self, number: int) -> bool:
        """Send a signal to the process group, as a terminal or a scheduler does; False when it has ended."""
        if self.process.poll() is not None:
            return False
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
            return True
        return False

    def end(self) -> Ended:
        """Wait for the end."""
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it hangs in {self.phase}: {''.join(self._lines)[-3000:]}") from None
        seconds = time.monotonic() - self.began
        for reader in self._readers:
            reader.join(30)
        text = "".join(self._output)
        return Ended(
            self.process.returncode,
            json.loads(text) if text.strip() else None,
            self.events,
            seconds,
            "".join(self._lines),
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()


def _kill_each(processes: Sequence[psutil.Process]) -> int:
    killed = 0
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
            killed += 1
    return killed


def environment(folder: Path, **more: str) -> dict[str, str]:
    """An environment in which nothing of the machine's configuration counts."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    home = folder / "home"
    return {
        **kept,
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_STATE_HOME": str(home / "state"),
        "PYTHONPATH": str(PROJECT),
        "PYTHONUTF8": "1",
        **more,
    }


def run(arguments: Sequence[str], folder: Path, **more: Any) -> Ended:
    """Run ``mlflowctl`` to its end."""
    return Process(arguments, folder, **more).end()


# -- phases ----------------------------------------------------------------------------------------------------------


def durations(ended: Ended) -> dict[str, float]:
    """How long each phase of an undisturbed run lasted, by its events."""
    found: dict[str, float] = {}
    begun = [(str(e["phase"]), float(e["at"])) for e in ended.events if e.get("event") == "phase_started"]
    if not begun:
        return {START: ended.seconds}
    found[START] = begun[0][1]
    found[SCHEMA] = min(_SCHEMA_SECONDS, begun[0][1])
    for (phase, at), (_, following) in zip(begun, [*begun[1:], ("", ended.seconds)], strict=True):
        found[phase] = found.get(phase, 0.0) + following - at
    return found


@dataclass(frozen=True)
class Instant:
    """When and whom to kill: ``fraction`` of what the phase lasts when nobody disturbs it."""

    phase: str
    fraction: float
    who: str = "everybody"

    @classmethod
    def of(cls, phase: str, randomly: random.Random) -> Instant:
        """A random instant of a phase. Only an upgrade has a child, so only there does it matter who is killed."""
        who = randomly.choice(WHO) if phase == "upgrade" else "everybody"
        return cls(phase, randomly.random(), who)

    def await_in(self, process: Process, lasting: dict[str, float]) -> bool:
        """Wait for the instant; False when the process ended before."""
        if self.phase in (START, SCHEMA):
            before_copy = lasting[START] - lasting.get(SCHEMA, 0.0) * (1 - self.fraction)
            wanted = lasting[START] * self.fraction if self.phase == START else before_copy
            delay = wanted - (time.monotonic() - process.began)
        else:
            if not process.wait_for_phase(self.phase):
                return False
            delay = lasting.get(self.phase, 0.0) * self.fraction
        with suppress(subprocess.TimeoutExpired):
            process.process.wait(max(0.0, delay))
            return False
        return True


@dataclass
class Kill:
    """A kill that hit."""

    instant: Instant
    phase: str
    """the phase in which it was, by the events"""
    survived: bool = False
    """the child alone was killed, and the parent ended by itself"""


@dataclass
class Story:
    """Everything that happened on one target until the command came to its end."""

    kills: list[Kill] = field(default_factory=list)
    ends: list[Ended] = field(default_factory=list)
    locked: int = 0
    """runs that found the target still held by a killed one"""

    @property
    def last(self) -> Ended:
        return self.ends[-1]


def disturb(
    arguments: Sequence[str],
    folder: Path,
    instants: Sequence[Instant],
    lasting: dict[str, float],
    *,
    tries: int = 6,
) -> Story:
    """Kill the command at each instant in turn, then let it come to its end.

    An instant of a phase that a run no longer reaches (or reaches no more, because what it does was done before) is
    tried again a little earlier in the same run of the command, up to ``tries`` times in all; then it is left out.
    """
    story = Story()
    for instant in instants:
        aim = instant
        for _ in range(tries):
            with Process(arguments, folder) as process:
                there = aim.await_in(process, lasting)
                phase = process.phase
                hit = there and process.kill(aim.who)
                if hit and aim.who == "child" and process.process.poll() is None:
                    ended = process.end()
                    story.ends.append(ended)
                    story.kills.append(Kill(aim, phase, survived=True))
                    break
                if hit:
                    story.kills.append(Kill(aim, phase))
                    break
                ended = process.end()
            if _is_locked(ended):
                story.locked += 1
                time.sleep(0.2)
                continue
            if ended.code == 0:
                # Too late: the target is finished.
                story.ends.append(ended)
                return story
            aim = Instant(aim.phase, aim.fraction * 0.6, aim.who)
    for _ in range(50):
        ended = run(arguments, folder)
        if not _is_locked(ended):
            break
        # A server notices that its client is gone when it next talks to it.
        story.locked += 1
        time.sleep(0.2)
    story.ends.append(ended)
    return story


def _is_locked(ended: Ended) -> bool:
    return ended.code == 5 and ended.error.get("kind") == "locked"
