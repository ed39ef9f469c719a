"""Copies a source chunk by chunk, several at once where both sides allow it.

A chunk's rows and its note in the journal are one transaction of the target, so what is noted is there, and what is
not noted is not.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mlflowctl.core import signals
from mlflowctl.core.errors import Interrupted, MlflowctlError, SourceError, TargetError
from mlflowctl.core.events import Engine, PhaseAdvanced, PhaseFinished, PhaseStarted
from mlflowctl.core.pipeline import Outlet, ahead
from mlflowctl.migrate.passage import Tally
from mlflowctl.migrate.resume import EXTRA
from mlflowctl.migrate.verify import raise_troubles
from mlflowctl.stores.api import Chunk, TableBatch
from mlflowctl.stores.canonical import ARROW_TYPES
from mlflowctl.stores.hashing import TableHash

if TYPE_CHECKING:
    from mlflowctl.migrate.clean import Reject
    from mlflowctl.migrate.passage import Passage
    from mlflowctl.migrate.rejects import RejectsFile
    from mlflowctl.stores.api import Reader, Trouble
    from mlflowctl.stores.schema import Schema
    from mlflowctl.stores.sql.target import Target, Writer

# A chunk that cannot be cut is committed in pieces of so many rows on servers, which keeps their undo log short; it is
# begun anew after a kill.
_COMMIT_ROWS = 500_000
_TICK_SECONDS = 0.2


@dataclass(slots=True)
class Outcome:
    """What became of one chunk."""

    hashes: dict[str, TableHash]
    seen: Counter[str] = field(default_factory=Counter)
    """Rows of the source, by table."""
    tally: Tally = field(default_factory=Tally)
    rejects: list[Reject] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """The chunk's note."""
        return {
            "hashes": {n: {"rows": h.rows, "hash": h.hexdigest} for n, h in self.hashes.items()},
            "seen": dict(self.seen),
            "tally": self.tally.document(),
        }


@dataclass(slots=True)
class Totals:
    """The sum of all chunks' notes."""

    hashes: dict[str, TableHash]
    seen: Counter[str] = field(default_factory=Counter)
    tally: Tally = field(default_factory=Tally)

    def document(self) -> dict[str, Any]:
        return {
            "hashes": {n: {"rows": h.rows, "hash": h.hexdigest} for n, h in self.hashes.items()},
            "seen": dict(self.seen),
            "tally": self.tally.document(),
        }


def totals(source: Reader, notes: Sequence[Mapping[str, Any]]) -> Totals:
    """Add up notes."""
    whole = Totals(_hashes(source, source.schema.tables))
    for note in notes:
        for name, entry in note.get("hashes", {}).items():
            if name in whole.hashes:
                whole.hashes[name].take(entry["rows"], entry["hash"])
        whole.seen.update(note.get("seen", {}))
        whole.tally.add(note.get("tally", {}))
    return whole


def _hashes(source: Reader, tables: Sequence[str] | Mapping[str, object]) -> dict[str, TableHash]:
    return {
        name: TableHash(name, {c.name: c.kind for c in source.schema.tables[name].columns if not c.computed})
        for name in tables
        if name in source.schema.tables
    }


class Copier:
    """Copies or checks the chunks of one source."""

    def __init__(
        self,
        source: Reader,
        target: Target,
        schema: Schema,
        passage: Passage,
        *,
        jobs: int,
        policy: str,
        rejects: RejectsFile,
    ) -> None:
        self._source = source
        self._target = target
        self._schema = schema
        self._passage = passage
        self._jobs = jobs
        self._policy = policy
        self._rejects = rejects
        self._news: queue.SimpleQueue[tuple[str, int, int] | None] = queue.SimpleQueue()
        self._stopped = threading.Event()

    def copy(self, chunks: Sequence[Chunk], before: int, total: int, *, estimated: bool, extra: bool) -> Engine[None]:
        """Copy ``chunks``, and with ``extra`` what no source gives; ``before`` rows of the ``total`` are there already.

        Raises:
            SourceError: bad rows (policy stop), each in the error's details; the source cannot be read.
            TargetError: it refused a row, is full or went away.
            Interrupted: after the chunks at hand were finished.
        """
        yield PhaseStarted("copy", "rows", total, estimated)
        started = time.perf_counter()
        bad_rows: list[Reject] = []

        def work(reader: Reader, writer: Writer, chunk: Chunk, overlap: bool) -> None:
            outcome = self._pass(reader, writer, chunk, overlap)
            if self._policy == "stop" and (outcome.rejects or reader.report.troubles):
                bad_rows.extend(outcome.rejects)
                self._stopped.set()
                writer.rollback()
                return
            self._rejects.write(chunk.id, (r.document() for r in outcome.rejects))
            writer.commit(chunk.id, outcome.document())

        single = self._target.kind == "sqlite"
        done = yield from self._in_threads("copy", chunks, before, work, single)
        if bad_rows:
            raise bad_rows_error(self._source, bad_rows)
        raise_troubles(self._source)
        signals.check("Run the same command again: it carries on with the chunks that are left.")
        if extra:
            self._extra()
        yield PhaseFinished("copy", done, time.perf_counter() - started)

    def check(self, chunks: Sequence[Chunk], notes: Mapping[str, Mapping[str, Any]]) -> Engine[set[str]]:
        """Read copied chunks again and compare with their notes; the tables that have changed come back."""
        yield PhaseStarted("check source", "rows", sum(c.rows for c in chunks), True)
        started = time.perf_counter()
        changed: set[str] = set()

        def work(reader: Reader, _: Writer | None, chunk: Chunk, overlap: bool) -> None:
            now = self._pass(reader, None, chunk, overlap).document()["hashes"]
            noted = notes[chunk.id].get("hashes", {})
            changed.update(name for name in chunk.tables if now.get(name) != noted.get(name))

        done = yield from self._in_threads("check source", chunks, 0, work, False)
        signals.check("Run the same command again.")
        yield PhaseFinished("check source", done, time.perf_counter() - started)
        return changed

    def _in_threads(
        self,
        phase: str,
        chunks: Sequence[Chunk],
        before: int,
        work: Callable[[Reader, Any, Chunk, bool], None],
        single: bool,
    ) -> Engine[int]:
        line: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
        for chunk in chunks:
            line.put(chunk)
        workers = 1 if single or self._jobs == 1 else max(1, min(self._jobs, len(chunks)))
        failures: list[BaseException] = []
        writes = phase == "copy"

        def lane(number: int) -> None:
            reader: Reader | None = None
            writer: Writer | None = None
            try:
                reader = self._source if number == 0 else self._source.sibling()
                if reader is None:  # this source has one reader
                    return
                writer = self._target.writer() if writes else None
                while not self._stopped.is_set() and signals.pending() is None:
                    try:
                        chunk = line.get_nowait()
                    except queue.Empty:
                        return
                    work(reader, writer, chunk, self._jobs > 1 and alone)
            except BaseException as bad:  # noqa: BLE001 - raised by the thread that waits
                failures.append(bad)
                self._stopped.set()
                if writer is not None:
                    writer.rollback()
            finally:
                if writer is not None:
                    writer.close()
                if reader is not None and number:
                    with suppress(Exception):
                        reader.close()
                self._news.put(None)

        # A source with one reader leaves the other threads idle, so its only lane overlaps reading and writing.
        alone = workers == 1 or self._source.kind in ("files", "mysql")
        threads = [
            threading.Thread(target=lane, args=(n,), name=f"mlflowctl-lane-{n}", daemon=True)
            for n in range(1 if alone else workers)
        ]
        for thread in threads:
            thread.start()
        done, size, left = before, 0, len(threads)
        while left:
            news = self._news.get()
            if news is None:
                left -= 1
                continue
            table, rows, nbytes = news
            done += rows
            size += nbytes
            yield PhaseAdvanced(phase, done, table, size)
        for thread in threads:
            thread.join()
        self._stopped.clear()
        if failures:
            failures.sort(key=_weight)
            raise failures[0]
        return done

    def _pass(self, reader: Reader, writer: Writer | None, chunk: Chunk, overlap: bool) -> Outcome:
        """Read one chunk through the passage, into the writer if there is one."""
        lane = self._passage.lane()
        outcome = Outcome(_hashes(self._source, chunk.tables))
        large = chunk.within is None and chunk.rows > _COMMIT_ROWS
        piecemeal = large and self._target.kind != "sqlite"
        uncommitted = 0
        # A folder that contradicts itself (one name for two experiments) is refused by the target before its reader has
        # come to the end; the cause is what the reader finds, so it reads on.
        reads_on = self._source.kind == "files" and self._policy == "stop"
        refused: TargetError | None = None

        def write(batch: TableBatch) -> None:
            nonlocal uncommitted, refused
            if refused is not None:
                return
            assert writer is not None
            try:
                writer.write(self._schema.tables[batch.table], batch.rows)
            except TargetError as bad:
                if bad.kind != "refused_row" or not reads_on:
                    raise
                refused = bad
                return
            uncommitted += batch.rows.num_rows
            if piecemeal and uncommitted >= _COMMIT_ROWS:
                writer.commit(None, {})
                uncommitted = 0

        if writer is not None and piecemeal:
            writer.empty(chunk.tables)
        batches: Iterator[TableBatch] = reader.read(chunk)
        with ExitStack() as stack:
            stream = stack.enter_context(closing(ahead(batches))) if overlap else batches
            put = stack.enter_context(Outlet(write)).put if overlap and writer is not None else write
            for batch in stream:
                if large and signals.pending() is not None:
                    signals.check("Run the same command again.")
                outcome.seen[batch.table] += batch.rows.num_rows + len(batch.odd)
                changed = lane.apply(batch)
                self._news.put((batch.table, batch.rows.num_rows, batch.rows.nbytes))
                if not changed.rows.num_rows:
                    continue
                outcome.hashes[batch.table].add(changed.rows)
                if writer is not None and not (lane.rejects and self._policy == "stop"):
                    put(changed)
        outcome.tally = lane.tally()
        outcome.rejects = [*lane.rejects, *lane.count(reader.take_rejects())]
        if refused is not None and not outcome.rejects and not reader.report.troubles:
            raise refused
        return outcome

    def _extra(self) -> None:
        """Write the rows that no source gives, once."""
        outcome = Outcome(_hashes(self._source, self._source.schema.tables))
        writer = self._target.writer()
        try:
            for batch in self._passage.lane().added():
                writer.write(self._schema.tables[batch.table], batch.rows)
                outcome.hashes[batch.table].add(batch.rows)
            for batch in seed_rows(self._schema, self._source):
                writer.write(self._schema.tables[batch.table], batch.rows)
            outcome.hashes = {n: h for n, h in outcome.hashes.items() if h.rows}
            writer.commit(EXTRA, outcome.document())
        except BaseException:
            writer.rollback()
            raise
        finally:
            writer.close()


def _weight(failure: BaseException) -> int:
    """A failure that explains the others comes first: what both sides say before an interruption."""
    if isinstance(failure, Interrupted):
        return 2
    return 0 if isinstance(failure, MlflowctlError) else 1


def seed_rows(schema: Schema, source: Reader) -> Iterator[TableBatch]:
    """Rows that a fresh schema holds, for the tables that the source's reader does not give (a folder's)."""
    for name, rows in schema.seed.items():
        if name not in source.schema.tables and rows:
            table = schema.tables[name]
            columns = {
                c.name: pa.array([r.get(c.name) for r in rows], ARROW_TYPES[c.kind])
                for c in table.columns
                if not c.computed
            }
            yield TableBatch(name, pa.record_batch(columns))


def bad_rows_error(source: Reader, rejects: Sequence[Reject], *, whole: bool = False) -> SourceError:
    """Every bad row with table, key, column and rule, every malformed file beside them, and both ways out.

    ``whole``: the source was read to its end, so there are no others.
    """
    first = rejects[0]
    everything: list[Reject | Trouble] = [*rejects, *source.report.troubles]
    rules = Counter(reject.rule for reject in everything)
    counted = ", ".join(f"{n} {rule}" for rule, n in rules.most_common())
    scan = "" if whole else "; --scan names those of the whole source"
    return SourceError(
        f"The source holds {'' if whole else 'at least '}{len(rejects)} row{'' if len(rejects) == 1 else 's'} that the target cannot hold as they are.",
        where=first.where,
        why=f"{first.rule}: {first.text.rstrip('.')}." + (f" In all: {counted}." if len(everything) > 1 else ""),
        next_step=f"Mend each one that the report names, then run the same command{scan}. Or add --on-bad-row skip or "
        "fix: what is left out or mended is then written whole to a rejects file.",
        kind="bad_rows",
        details=tuple(f"{r.rule}: {r.where}: {r.text}" for r in everything),
        resumable=not whole,
    )
