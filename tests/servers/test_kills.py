"""SIGKILL at any instant, then the same command again: the target is as if nothing had happened.

Most kills fall at a seeded instant of a phase, on a real process; some exactly before the n-th commit, statement or
rename. What must be equal is in ``tests/faults/fingerprint.py``.
"""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.boundaries import COMMITS, STATEMENTS, Nursery
from tests.faults.fingerprint import UPGRADED, Fingerprint, difference, fingerprint
from tests.faults.killer import (
    SCHEMA,
    START,
    Ended,
    Instant,
    Process,
    Story,
    disturb,
    durations,
    run,
)
from tests.faults.servers import Places
from tests.faults.sources import make_source

pytestmark = pytest.mark.slow

METRICS = 150_000
COPY = (START, SCHEMA, "copy", "verify", "index", "finish")
LIFT = ("upgrade", "verify after upgrade")


@dataclass
class Case:
    """One way of migrating, and what comes of it when nobody disturbs it."""

    arguments: Callable[[str], list[str]]
    wanted: Fingerprint
    lasting: dict[str, float]
    volatile: dict[str, Any]


@dataclass
class Lab:
    """The stores of one test process, made when they are first asked for."""

    folder: Path
    places: Places
    _cases: dict[tuple[str, str, bool, int], Case] = field(default_factory=dict)

    def case(self, source: str, kind: str, *, upgrade: bool, metrics: int = METRICS) -> Case:
        """A source and a kind of target, with the fingerprint of an undisturbed migration."""
        key = (source, kind, upgrade, metrics)
        if key not in self._cases:
            stores = self.folder / str(metrics)
            stores.mkdir(exist_ok=True)
            place = make_source(stores, source, metrics)

            def arguments(target: str) -> list[str]:
                more = [] if upgrade else ["--no-upgrade"]
                return ["migrate", "--from", place, "--to", target, *more]

            target = self.places.new(kind)
            ended = run(arguments(target), self.folder)
            assert ended.code == 0, ended.said()
            volatile = dict(UPGRADED) if upgrade else {}
            wanted = fingerprint(target, volatile)
            self.places.drop(target)
            self._cases[key] = Case(arguments, wanted, durations(ended), volatile)
        return self._cases[key]


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("kills")
    return Lab(folder, Places(folder / "targets"))


@pytest.fixture
def on(request: pytest.FixtureRequest, lab: Lab) -> Callable[[str], Lab]:
    """The lab with the server of a kind of database running."""

    def serve(kind: str) -> Lab:
        if kind == "postgresql":
            lab.places.postgres = request.getfixturevalue("postgres_server")
        elif kind == "mysql":
            lab.places.mysql = request.getfixturevalue("mysql_server")
        return lab

    return serve


def _unharmed(case: Case, target: str, last: Ended) -> None:
    """The command came to its end, and nothing shows that it was ever disturbed."""
    assert last.code == 0, last.said()
    assert last.document is not None
    assert last.document["status"] in ("verified", "already_complete")
    assert difference(case.wanted, fingerprint(target, case.volatile)) == []


def _strike(lab: Lab, case: Case, kind: str, instants: list[Instant]) -> tuple[str, Story]:
    """Disturb a migration until at least one kill has hit; a target that was finished too soon does not count."""
    for _ in range(6):
        target = lab.places.new(kind)
        story = disturb(case.arguments(target), lab.folder, instants, case.lasting)
        if story.kills:
            return target, story
        lab.places.drop(target)
        instants = [Instant(i.phase, i.fraction * 0.5, i.who) for i in instants]
    raise AssertionError(f"no kill has hit in {[i.phase for i in instants]}: {story.last.said()}")


def _cases() -> Iterator[Any]:
    """Each kill of the suite: where from, where to, the phases in which it falls, its seed."""
    marks = {"sqlite": [], "postgresql": [pytest.mark.postgres], "mysql": [pytest.mark.mysql]}

    def case(source: str, kind: str, upgrade: bool, phases: tuple[str, ...], seed: int) -> Any:
        name = f"{source}-{kind}-{'+'.join(p.replace(' ', '_') for p in phases)}-{seed}"
        return pytest.param(source, kind, upgrade, phases, seed, marks=marks[kind], id=name)

    for kind, source in (("sqlite", "3.17"), ("postgresql", "3.17"), ("mysql", "2.22")):
        for number, phase in enumerate(COPY):
            yield case(source, kind, False, (phase,), number)
        # Twice and three times on one target.
        yield case(source, kind, False, ("copy", "copy", "verify"), 20)
        yield case(source, kind, False, ("index", "finish"), 21)
    for kind in ("sqlite", "postgresql"):
        for seed in range(5):
            yield case("1.30", kind, True, ("upgrade",), 30 + seed)
        yield case("3.16", kind, True, ("upgrade", "upgrade"), 40)
        yield case("3.16", kind, True, ("verify after upgrade",), 41)
        yield case("1.30", kind, True, ("finish", "copy"), 42)
    for seed in range(3):
        yield case("3.16", "mysql", True, ("upgrade",), 50 + seed)
    for kind, phase in (("sqlite", "copy"), ("postgresql", "copy"), ("postgresql", "verify"), ("mysql", "index")):
        yield case("folder", kind, True, (phase,), 60)


@pytest.mark.parametrize(("source", "kind", "upgrade", "phases", "seed"), list(_cases()))
def test_a_killed_migration_ends_as_if_nothing_had_happened(
    source: str, kind: str, upgrade: bool, phases: tuple[str, ...], seed: int, on: Callable[[str], Lab]
) -> None:
    lab = on(kind)
    # MariaDB writes a whole table anew for most of what an upgrade does to it.
    case = lab.case(source, kind, upgrade=upgrade, metrics=10_000 if upgrade and kind == "mysql" else METRICS)
    randomly = random.Random(seed)
    target, story = _strike(lab, case, kind, [Instant.of(phase, randomly) for phase in phases])
    for ended in story.ends[:-1]:
        # Only its child was killed: the parent says so, and that the same command carries on.
        assert ended.code in (0, 5), ended.said()
        assert ended.document is not None
        assert ended.code == 0 or (ended.document["resumable"] and ended.error["next"]), ended.said()
    _unharmed(case, target, story.last)
    lab.places.drop(target)


def test_the_seeds_give_kills_enough_in_every_phase_and_database() -> None:
    planned = [(p.values[1], phase) for p in _cases() for phase in p.values[3]]
    assert len(planned) >= 50
    for kind in ("sqlite", "postgresql", "mysql"):
        there = {phase for where, phase in planned if where == kind}
        assert there >= {*COPY, "upgrade"}


# -- at an exact call ------------------------------------------------------------------------------------------------

SLICES = 4


@pytest.mark.parametrize("part", [0, 2, *(pytest.param(n, marks=pytest.mark.wide) for n in (1, 3))])
def test_every_commit_and_rename_of_a_sqlite_target_may_be_the_last(part: int, on: Callable[[str], Lab]) -> None:
    lab = on("sqlite")
    case = lab.case("3.17", "sqlite", upgrade=False, metrics=50)
    wrong = []
    with Nursery(lab.folder) as nursery:
        whole = nursery.ask(case.arguments(lab.places.new("sqlite")))
        assert whole["code"] == 0
        assert sum("replace" in call for call in whole["calls"]) == 1
        for number in range(1 + part, len(whole["calls"]) + 1, SLICES):
            target = lab.places.new("sqlite")
            killed = nursery.ask(case.arguments(target), number)
            again = nursery.ask(case.arguments(target))
            differs = difference(case.wanted, fingerprint(target))
            if killed["signal"] != signal.SIGKILL or again["code"] != 0 or differs:
                wrong.append(
                    (number, killed["calls"][-1], killed["code"], again["code"], again["document"]["error"], differs)
                )
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "kind", "seed"),
    [
        pytest.param("3.17", "sqlite", 1, id="sqlite"),
        pytest.param("3.17", "postgresql", 2, marks=pytest.mark.postgres, id="postgresql"),
        pytest.param("2.22", "mysql", 3, marks=pytest.mark.mysql, id="mysql"),
    ],
)
def test_any_statement_may_be_the_last(source: str, kind: str, seed: int, on: Callable[[str], Lab]) -> None:
    lab = on(kind)
    case = lab.case(source, kind, upgrade=False, metrics=50)
    calls = (*COMMITS, *STATEMENTS)
    wrong = []
    with Nursery(lab.folder) as nursery:
        target = lab.places.new(kind)
        whole = nursery.ask(case.arguments(target), 0, calls)
        lab.places.drop(target)
        assert whole["code"] == 0
        for number in sorted(random.Random(seed).sample(range(1, len(whole["calls"]) + 1), 8)):
            target = lab.places.new(kind)
            killed = nursery.ask(case.arguments(target), number, calls)
            # Through a real process, whose start gives the server the moment to see that its client is gone.
            again = run(case.arguments(target), lab.folder)
            differs = difference(case.wanted, fingerprint(target))
            # Threads make two runs' numbers of calls differ by a few: the last ones may not come.
            hit = killed["signal"] == signal.SIGKILL or number > len(killed["calls"])
            if not hit or again.code != 0 or differs:
                wrong.append((number, killed["calls"][-1], again.said(), differs))
            lab.places.drop(target)
    assert wrong == []


# -- an upgrade's process that outlives mlflowctl ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgres),
        pytest.param("mysql", marks=pytest.mark.mysql),
    ],
)
def test_an_upgrade_whose_parent_was_killed_does_no_harm_to_the_next_run(kind: str, on: Callable[[str], Lab]) -> None:
    """The child is in a long statement (here: stopped) when its parent is killed, and comes back in the next run."""
    lab = on(kind)
    case = lab.case("1.30" if kind != "mysql" else "3.16", kind, upgrade=True, metrics=2_000)
    target = lab.places.new(kind)
    with Process(case.arguments(target), lab.folder) as first:
        assert first.wait_for_phase("upgrade")
        # Its first revision is done; it is in the middle of another.
        assert first.wait_for(lambda event: event.get("phase") == "upgrade" and event.get("done", 0) > 0)
        (orphan,) = first.children()
        orphan.suspend()
        assert first.kill("parent")
    with Process(case.arguments(target), lab.folder) as second:
        # On a server the second waits for the locks that the orphan's transaction holds.
        threading.Timer(case.lasting[START] + case.lasting["upgrade"] * 0.7, _resume, [orphan]).start()
        ended = second.end()
    orphan.wait(60)
    if ended.code != 0 and kind == "mysql":
        # MySQL commits each statement: what the orphan did may cost this run, in words; the next one completes.
        assert ended.code == 5, ended.said()
        assert ended.document is not None
        assert ended.document["resumable"], ended.said()
        ended = run(case.arguments(target), lab.folder)
    _unharmed(case, target, ended)
    lab.places.drop(target)


def _resume(process: Any) -> None:
    with suppress(psutil.Error):
        process.resume()
