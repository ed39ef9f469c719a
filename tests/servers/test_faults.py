"""Connections that die, servers that are away, disks that are full, signals, two at once: said in words, and mended by
the same command."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_schemas import validator
from tests.faults.fingerprint import UPGRADED, Fingerprint, difference, fingerprint
from tests.faults.fulldisk import SmallDisk
from tests.faults.killer import SCHEMA, START, Ended, Instant, Process, durations, run
from tests.faults.proxy import Proxy
from tests.faults.servers import Places
from tests.faults.sources import make_source

pytestmark = pytest.mark.slow

METRICS = 60_000
SERVERS = [
    pytest.param("postgresql", marks=pytest.mark.postgres),
    pytest.param("mysql", marks=pytest.mark.mysql),
]
TARGETS = ["sqlite", *SERVERS]


@dataclass
class Bench:
    """Stores and servers of one test process."""

    folder: Path
    places: Places
    serve: Callable[[str], str] = lambda kind: kind
    _wanted: dict[tuple[str, str, bool], tuple[Fingerprint, dict[str, float], int]] = field(default_factory=dict)

    def source(self, name: str = "3.17", rows: int = METRICS) -> str:
        place = self.folder / f"stores-{rows}"
        place.mkdir(exist_ok=True)
        return make_source(place, name, rows)

    def proxy(self, kind: str, seed: int = 0) -> Proxy:
        """A proxy before a server."""
        socket = self.serve(kind)
        return Proxy(Path(socket) / ".s.PGSQL.5432" if kind == "postgresql" else Path(socket), seed=seed)

    def target(self, kind: str) -> str:
        self.serve(kind)
        return self.places.new(kind)

    def undisturbed(self, kind: str, source: str, *, upgrade: bool) -> tuple[Fingerprint, dict[str, float], int]:
        """What a migration makes when nobody disturbs it, how long its phases last, how much it sends to a server."""
        key = (kind, source, upgrade)
        if key not in self._wanted:
            target = self.target(kind)
            if kind == "sqlite":
                ended, sent = run(command(source, target, upgrade=upgrade), self.folder), 0
            else:
                with self.proxy(kind) as proxy:
                    ended, sent = run(command(source, through(proxy, target), upgrade=upgrade), self.folder), proxy.sent
            assert ended.code == 0, ended.said()
            self._wanted[key] = fingerprint(target, UPGRADED if upgrade else {}), durations(ended), sent
            self.places.drop(target)
        return self._wanted[key]


@pytest.fixture(scope="session")
def bench_of_all(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("faults")
    return Bench(folder, Places(folder / "targets"))


@pytest.fixture
def bench(bench_of_all: Bench, request: pytest.FixtureRequest) -> Bench:
    """The stores, and servers that start when they are asked for."""

    def serve(kind: str) -> str:
        if kind == "postgresql":
            bench_of_all.places.postgres = request.getfixturevalue("postgres_server")
            return str(bench_of_all.places.postgres)
        if kind == "mysql":
            bench_of_all.places.mysql = request.getfixturevalue("mysql_server")
            return str(bench_of_all.places.mysql)
        return ""

    bench_of_all.serve = serve
    return bench_of_all


def command(source: str, target: str, *, upgrade: bool = False, patience: int | None = None) -> list[str]:
    waits = [] if patience is None else ["--retry-seconds", str(patience)]
    return ["migrate", "--from", source, "--to", target, *([] if upgrade else ["--no-upgrade"]), *waits]


def through(proxy: Proxy, url: str) -> str:
    """The same database, by way of the proxy."""
    name = url.split("://", 1)[1].split("/", 1)[1].split("?", 1)[0]
    scheme, user = ("postgresql+psycopg", "postgres") if url.startswith("postgres") else ("mysql+pymysql", "root")
    return f"{scheme}://{user}@127.0.0.1:{proxy.port}/{name}"


def said(ended: Ended, code: int, *kinds: str, status: str | None = None) -> None:
    """A failure in words: code, kind, what, where, what to do next; resumable, and a document as it is pinned."""
    assert ended.code == code, ended.said()
    document = ended.document
    assert document is not None, ended.said()
    validator("mlflowctl.migrate.result/v1").validate(document)
    assert document["exit_code"] == code
    assert document["resumable"] is True, ended.said()
    error = document["error"]
    assert error["kind"] in kinds, ended.said()
    assert error["message"], ended.said()
    assert error["where"], ended.said()
    assert error["next"], ended.said()
    assert "Traceback" not in ended.errors
    if status:
        assert document["status"] == status


def same(bench: Bench, target: str, kind: str, source: str, *, upgrade: bool = False) -> None:
    """The target is as if nobody had disturbed the migration; only the source's name may tell the way."""
    wanted, _, _ = bench.undisturbed(kind, source, upgrade=upgrade)
    found = fingerprint(target, UPGRADED if upgrade else {})
    assert difference(wanted, found) == []


# -- a target that goes away -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize(
    "part", [0.02, 0.6, 0.98, *(pytest.param(part, marks=pytest.mark.wide) for part in (0.3, 0.9))]
)
def test_a_target_that_is_gone_for_good_is_said_and_the_same_command_completes(
    kind: str, part: float, bench: Bench
) -> None:
    source = bench.source()
    _, _, size = bench.undisturbed(kind, source, upgrade=False)
    target = bench.target(kind)
    with bench.proxy(kind) as proxy:
        arguments = command(source, through(proxy, target), patience=2)
        proxy.when_sent(int(size * part), proxy.refuse)
        ended = run(arguments, bench.folder)
        said(ended, 5, "unreachable")
        proxy.accept()
        again = run(arguments, bench.folder)
        assert again.code == 0, again.said()
    same(bench, target, kind, source)


@pytest.mark.parametrize("kind", SERVERS)
def test_a_target_that_dies_in_the_copy_may_end_the_run_but_never_harms_it(kind: str, bench: Bench) -> None:
    source = bench.source()
    _, _, size = bench.undisturbed(kind, source, upgrade=False)
    target = bench.target(kind)
    with bench.proxy(kind) as proxy:
        arguments = command(source, through(proxy, target))
        proxy.when_sent(size // 2, lambda: proxy.down_for(1.5))
        ended = run(arguments, bench.folder)
        assert proxy.cut_off > 0
        if ended.code != 0:
            said(ended, 5, "unreachable")
        while proxy.refusing:
            time.sleep(0.05)
        again = run(arguments, bench.folder)
        assert again.code == 0, again.said()
    same(bench, target, kind, source)


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_a_target_that_comes_back_within_seconds_is_waited_for(kind: str, part: float, bench: Bench) -> None:
    source = bench.source()
    _, _, size = bench.undisturbed(kind, source, upgrade=False)
    target = bench.target(kind)
    with bench.proxy(kind) as proxy:
        proxy.when_sent(int(size * part), lambda: proxy.down_for(1.5))
        ended = run(command(source, through(proxy, target)), bench.folder)
        assert proxy.cut_off > 0
        assert ended.code == 0, ended.said()
    same(bench, target, kind, source)


@pytest.mark.parametrize("kind", SERVERS)
def test_a_target_that_refuses_from_the_start(kind: str, bench: Bench) -> None:
    source = bench.source(rows=50)
    target = bench.target(kind)
    with bench.proxy(kind) as proxy:
        proxy.refuse()
        ended = run(command(source, through(proxy, target)), bench.folder)
    assert ended.code == 5, ended.said()
    assert ended.error["kind"] == "unreachable"
    assert ended.error["where"]
    assert ended.error["next"]
    assert "127.0.0.1" in ended.error["message"] + ended.error["where"]


@pytest.mark.parametrize("kind", SERVERS)
def test_delays_change_nothing(kind: str, bench: Bench) -> None:
    source = bench.source(rows=20_000)
    target = bench.target(kind)
    with bench.proxy(kind, seed=3) as proxy:
        proxy.delay(0.01)
        ended = run(command(source, through(proxy, target)), bench.folder)
        assert proxy.delayed > 100
    assert ended.code == 0, ended.said()
    same(bench, target, kind, source)


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.wide) for seed in (2, 3))])
def test_cuts_at_random_and_the_same_command_until_it_completes(kind: str, seed: int, bench: Bench) -> None:
    source = bench.source()
    _, _, size = bench.undisturbed(kind, source, upgrade=False)
    target = bench.target(kind)
    randomly = random.Random(seed)
    sizes = [int(size * randomly.random()) + 1 for _ in range(randomly.randint(2, 4))]
    with bench.proxy(kind, seed) as proxy:
        proxy.cut_after(sizes)
        arguments = command(source, through(proxy, target))
        for _ in range(len(sizes) + 1):
            ended = run(arguments, bench.folder)
            if ended.code == 0:
                break
            said(ended, 5, "unreachable")
            assert not ended.error["message"].endswith(".."), ended.said()
        assert ended.code == 0, ended.said()
        assert proxy.cut_off > 0
    same(bench, target, kind, source)


@pytest.mark.postgres
def test_a_target_cut_in_the_upgrade(bench: Bench) -> None:
    source = bench.source("1.30", 20_000)
    target = bench.target("postgresql")
    with bench.proxy("postgresql") as proxy:
        arguments = command(source, through(proxy, target), upgrade=True)
        with Process(arguments, bench.folder) as process:
            assert process.wait_for_phase("upgrade")
            assert process.wait_for(lambda event: event.get("phase") == "upgrade" and event.get("done", 0) > 0)
            proxy.cut()
            ended = process.end()
        if ended.code != 0:
            said(ended, 5, "unreachable", "upgrade_failed")
        again = run(arguments, bench.folder)
        assert again.code == 0, again.said()
    same(bench, target, "postgresql", source, upgrade=True)


# -- a source that goes away -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("seed", range(2))
def test_a_source_that_dies_is_said_and_the_same_command_completes(kind: str, seed: int, bench: Bench) -> None:
    first = bench.target(kind)
    filled = run(command(bench.source(rows=100_000), first), bench.folder)
    assert filled.code == 0, filled.said()
    target = bench.target("sqlite")
    randomly = random.Random(seed)
    with bench.proxy(kind) as proxy:
        arguments = command(through(proxy, first), target)
        with Process(arguments, bench.folder) as process:
            assert process.wait_for_phase("copy")
            # More than the sockets on the way hold has still to come.
            threading.Event().wait(randomly.random() * 0.05)
            cut = proxy.cut()
            ended = process.end()
        assert cut > 0
        if ended.code != 0:
            said(ended, 4, "unreachable")
        again = run(arguments, bench.folder)
        assert again.code == 0, again.said()
    assert run(["migrate", "verify", "--from", first, "--to", target], bench.folder).code == 0
    bench.places.drop(first)


@pytest.mark.parametrize("kind", SERVERS)
def test_a_source_that_refuses(kind: str, bench: Bench) -> None:
    store = bench.target(kind)
    with bench.proxy(kind) as proxy:
        proxy.refuse()
        ended = run(command(through(proxy, store), bench.target("sqlite")), bench.folder)
    assert ended.code == 4, ended.said()
    assert ended.error["kind"] == "unreachable"
    assert ended.error["next"]
    bench.places.drop(store)


# -- signals ---------------------------------------------------------------------------------------------------------


def _interrupted(bench: Bench, kind: str, source: str, upgrade: bool, number: int, phase: str, seed: int) -> None:
    _, lasting, _ = bench.undisturbed(kind, source, upgrade=upgrade)
    instant = Instant.of(phase, random.Random(f"{seed}{phase}{number}"))
    for _ in range(6):
        target = bench.target(kind)
        arguments = command(source, target, upgrade=upgrade)
        with Process(arguments, bench.folder) as process:
            there = instant.await_in(process, lasting)
            # Before Python has started there is nobody to speak.
            sent = there and process.signal(number)
            ended = process.end()
        if sent and ended.code != 0 and ended.document is not None and ended.document["exit_code"] != 0:
            break
        assert ended.code in (0, -number), ended.said()
        fraction = instant.fraction * 0.5 if ended.code == 0 else (1 + instant.fraction) / 2
        if phase == SCHEMA and ended.code == 0:  # its beginning is reckoned from a run that was slower
            fraction = instant.fraction - 1
        instant = Instant(phase, fraction)
        bench.places.drop(target)
    else:
        raise AssertionError(f"no signal came in time: {ended.said()}")
    assert ended.code == 128 + number, ended.said()
    assert ended.document is not None
    validator("mlflowctl.migrate.result/v1").validate(ended.document)
    assert ended.document["exit_code"] == 128 + number
    assert ended.document["resumable"] is True
    assert ended.document["status"] in ("incomplete", "refused")
    assert ended.error["kind"] == "interrupted"
    assert ended.error["next"], ended.said()
    assert "Traceback" not in ended.errors
    assert process.children() == []
    again = run(arguments, bench.folder)
    assert again.code == 0, again.said()
    same(bench, target, kind, source, upgrade=upgrade)
    bench.places.drop(target)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize(
    ("phase", "number"),
    [
        (START, signal.SIGINT),
        (SCHEMA, signal.SIGTERM),
        ("copy", signal.SIGINT),
        pytest.param("copy", signal.SIGTERM, marks=pytest.mark.wide),
        ("verify", signal.SIGTERM),
        ("index", signal.SIGINT),
    ],
)
def test_a_signal_stops_the_work_and_the_same_command_goes_on(kind: str, phase: str, number: int, bench: Bench) -> None:
    _interrupted(bench, kind, bench.source(), False, number, phase, 1)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
@pytest.mark.parametrize(
    ("phase", "number"),
    [("upgrade", signal.SIGINT), ("upgrade", signal.SIGTERM), ("verify after upgrade", signal.SIGINT)],
)
def test_a_signal_in_the_upgrade(kind: str, phase: str, number: int, bench: Bench) -> None:
    _interrupted(bench, kind, bench.source("1.30"), True, number, phase, 2)


# -- a full disk -----------------------------------------------------------------------------------------------------


def _run_out(disk: SmallDisk, arguments: list[str], folder: Path, phase: str, room: int) -> Ended:
    """The command, for which space runs short once it has come to a phase (the plan found enough of it)."""
    with Process(arguments, folder) as process:
        assert process.wait_for_phase(phase)
        process.process.send_signal(signal.SIGSTOP)
        disk.leave(room, process.process.pid)
        process.process.send_signal(signal.SIGCONT)
        return process.end()


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(bench: Bench, tmp_path: Path) -> None:
    with SmallDisk(tmp_path / "small", 1 << 20) as disk:
        arguments = command(bench.source(), f"sqlite:///{disk.folder}/target.db")
        ended = run(arguments, bench.folder, prefix=disk.prefix)
        assert ended.code == 5, ended.said()
        assert ended.error["kind"] in ("disk_space", "file_size_limit"), ended.said()
        assert ended.error["next"]
        assert list(disk.folder.iterdir()) == []


@pytest.mark.parametrize("room", [16 << 10, 700 << 10, 2 << 20, 6 << 20])
def test_a_full_disk_is_said_and_the_same_command_completes_with_more_space(
    room: int, bench: Bench, tmp_path: Path
) -> None:
    source = bench.source()
    before = Path(source.split("///")[1]).read_bytes()
    with SmallDisk(tmp_path / "small", 500 << 20) as disk:
        target = f"sqlite:///{disk.folder}/target.db"
        ended = _run_out(disk, command(source, target), bench.folder, "copy", room)
        said(ended, 5, "disk_full")
        assert str(disk.folder) in ended.error["where"]
        assert not (disk.folder / "target.db").exists()
        assert Path(source.split("///")[1]).read_bytes() == before
        disk.grow(500 << 20)
        again = run(command(source, target), bench.folder, prefix=disk.prefix)
        assert again.code == 0, again.said()
        same(bench, target, "sqlite", source)
    assert Path(source.split("///")[1]).read_bytes() == before


def test_a_disk_that_fills_up_in_the_upgrade(bench: Bench, tmp_path: Path) -> None:
    source = bench.source("1.30")
    whole = tmp_path / "whole.db"
    copied = run(command(source, f"sqlite:///{whole}"), bench.folder)
    assert copied.code == 0, copied.said()
    with SmallDisk(tmp_path / "small", 500 << 20) as disk:
        target = f"sqlite:///{disk.folder}/target.db"
        ended = _run_out(disk, command(source, target, upgrade=True), bench.folder, "upgrade", 256 << 10)
        said(ended, 5, "disk_full")
        assert "upgrade" in [event.get("phase") for event in ended.events]
        assert not (disk.folder / "target.db").exists()
        disk.grow(500 << 20)
        again = run(command(source, target, upgrade=True), bench.folder, prefix=disk.prefix)
        assert again.code == 0, again.said()
        same(bench, target, "sqlite", source, upgrade=True)


@pytest.mark.mysql
def test_a_full_folder_for_temporary_files(bench: Bench, tmp_path: Path) -> None:
    """LOAD DATA takes a file; where it has no room, that is a full disk too."""
    source = bench.source()
    target = bench.target("mysql")
    with SmallDisk(tmp_path / "small", 256 << 10) as disk:
        ended = run(command(source, target), bench.folder, prefix=disk.prefix, TMPDIR=str(disk.folder))
        said(ended, 5, "disk_full")
        disk.grow(500 << 20)
        again = run(command(source, target), bench.folder, prefix=disk.prefix, TMPDIR=str(disk.folder))
        assert again.code == 0, again.said()
    same(bench, target, "mysql", source)
    bench.places.drop(target)


def test_a_full_disk_beside_a_source_that_must_be_copied_first(bench: Bench, tmp_path: Path) -> None:
    """A SQLite file with a log and no writer is read in a private copy, which may find no room."""
    plain = Path(bench.source().split("///")[1])
    source = tmp_path / "source.db"
    shutil.copyfile(plain, source)
    with closing(sqlite3.connect(source)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("UPDATE params SET value = 'in the log'")
        writer.commit()
        shutil.copyfile(f"{source}-wal", tmp_path / "kept")
        assert (tmp_path / "kept").stat().st_size > 0
    (tmp_path / "kept").rename(f"{source}-wal")
    with SmallDisk(tmp_path / "small", 1 << 20) as disk:
        arguments = command(f"sqlite:///{source}", f"sqlite:///{tmp_path}/target.db")
        ended = run(arguments, bench.folder, prefix=disk.prefix, TMPDIR=str(disk.folder))
        assert ended.code == 4, ended.said()
        assert ended.error["kind"] == "disk_full", ended.said()
        assert ended.error["next"]
        disk.grow(500 << 20)
        again = run(arguments, bench.folder, prefix=disk.prefix, TMPDIR=str(disk.folder))
        assert again.code == 0, again.said()


# -- two at once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("phase", ["copy", "index", "upgrade"])
def test_the_second_of_two_is_refused_and_the_first_goes_on(kind: str, phase: str, bench: Bench) -> None:
    upgrade = phase == "upgrade"
    source = bench.source("1.30" if upgrade and kind != "mysql" else "3.16" if upgrade else "3.17", 100_000)
    wanted, _, _ = bench.undisturbed(kind, source, upgrade=upgrade)
    target = bench.target(kind)
    with Process(command(source, target, upgrade=upgrade), bench.folder) as first:
        assert first.wait_for_phase(phase)
        # Stopped, so that the first is in this phase still when the second asks.
        first.process.send_signal(signal.SIGSTOP)
        try:
            second = run(command(source, target, upgrade=upgrade), bench.folder)
        finally:
            first.process.send_signal(signal.SIGCONT)
        ended = first.end()
    assert second.code == 5, second.said()
    assert second.error["kind"] == "locked", second.said()
    assert second.error["next"]
    assert ended.code == 0, ended.said()
    assert difference(wanted, fingerprint(target, UPGRADED if upgrade else {})) == []
    bench.places.drop(target)


@pytest.mark.parametrize("kind", TARGETS)
def test_the_second_of_two_names_the_first(kind: str, bench: Bench) -> None:
    import socket

    source = bench.source("3.17", 100_000)
    target = bench.target(kind)
    with Process(command(source, target), bench.folder) as first:
        assert first.wait_for_phase("copy")
        first.process.send_signal(signal.SIGSTOP)
        second = run(command(source, target), bench.folder)
        first.process.send_signal(signal.SIGCONT)
        ended = first.end()
    assert ended.code == 0, ended.said()
    words = second.error["message"]
    assert str(first.process.pid) in words, second.said()
    assert socket.gethostname() in words, second.said()
    bench.places.drop(target)


def test_a_third_is_refused_when_the_second_took_the_lock_of_a_first_that_has_just_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second has opened the first's lock file; before it asks for the lock the first ends and a third comes."""
    import fcntl

    from mlflowctl.core.errors import TargetError
    from mlflowctl.stores.sql.target import Target
    from mlflowctl.stores.uri import parse_uri

    first, second, third = (
        Target(parse_uri(f"sqlite:///{tmp_path}/t.db", side="target"), "tracking") for _ in range(3)
    )
    first.lock()
    flock = fcntl.flock

    def late(handle: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        first.close()
        third.lock()
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(TargetError) as caught:
        second.lock()
    assert caught.value.kind == "locked"
    third.close()


@pytest.mark.parametrize("kind", TARGETS)
def test_many_at_once_leave_one_whole_target(kind: str, bench: Bench) -> None:
    source = bench.source("3.17", 20_000)
    wanted, _, _ = bench.undisturbed(kind, source, upgrade=False)
    target = bench.target(kind)
    running = [Process(command(source, target), bench.folder) for _ in range(5)]
    ends: list[Any] = [process.end() for process in running]
    assert sum(e.code == 0 for e in ends) >= 1, [e.said() for e in ends]
    for ended in ends:
        assert ended.code == 0 or (ended.code, ended.error["kind"]) == (5, "locked"), ended.said()
    assert difference(wanted, fingerprint(target)) == []
    bench.places.drop(target)
