"""Carries a migration out: from whatever stands at the target to a finished, proven copy.

The phases of ``resume.PHASES`` are noted in the target's journal when they begin, so a run that was killed, or whose
target went away, goes on with the phase at hand.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflowctl.core import signals
from mlflowctl.core.errors import DifferError, MlflowctlError, TargetError
from mlflowctl.core.events import Engine, Note, PhaseAdvanced, PhaseFinished, PhaseStarted
from mlflowctl.migrate import lift as lifting
from mlflowctl.migrate import passage as passages
from mlflowctl.migrate import plan as planning
from mlflowctl.migrate import resume, upgrade
from mlflowctl.migrate import verify as proving
from mlflowctl.migrate.copying import Copier, totals
from mlflowctl.migrate.rejects import RejectsFile
from mlflowctl.migrate.resume import EXTRA
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.sql.target import Record, Target, owner

if TYPE_CHECKING:
    from mlflowctl.migrate.api import MigrateResult, MigrateSettings, VerifyResult
    from mlflowctl.migrate.copying import Totals
    from mlflowctl.migrate.passage import Passage
    from mlflowctl.migrate.plan import Plan
    from mlflowctl.migrate.select import Selection
    from mlflowctl.stores.api import Chunk, Reader
    from mlflowctl.stores.schema import Schema
    from mlflowctl.stores.sql.target import Standing
    from mlflowctl.stores.uri import StoreUri

# A target in one of these states is waited for.
_PASSING = frozenset({"unreachable", "deadlock"})
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 15.0
_TICK_SECONDS = 0.05
_DRIVERS = frozenset({"pymysql", "adbc_driver_manager", "psycopg"})


class _Afresh(Exception):
    """What stands there cannot be carried on with."""


class Carrier:
    """One migration of one chain into one target."""

    def __init__(
        self,
        settings: MigrateSettings,
        source: Reader,
        source_uri: StoreUri,
        target: Target,
        the_plan: Plan,
        selection: Selection | None,
        result: MigrateResult,
    ) -> None:
        self._settings = settings
        self._source = source
        self._source_uri = source_uri
        self._target = target
        self._plan = the_plan
        self._selection = selection
        self._result = result
        self._revision = str(result.target["revision"])
        self._schema: Schema = schemas.schema_at(source.chain, dialect(target.kind), source.revision)
        self._wanted = resume.shaping(the_plan.journal, self._revision, source.revision)
        self._afresh: str | None = None
        self._passage: Passage | None = None
        self._own: str | None = None
        """The journal's ID once this process has read the source for it: its instant is known then."""

    def carry_out(self) -> Engine[None]:
        """Everything, from where it stands; a target that goes away is waited for.

        Raises:
            MlflowctlError: as ``migrate.run.migrate``.
        """
        patience = float(self._settings.retry_seconds)
        while True:
            on_disk = self._target.kind == "sqlite"
            try:
                yield from self._in_words()
                return
            except _Afresh as why:
                self._afresh = str(why)
                self._target.close()
            except TargetError as bad:
                ours = bad.kind == "locked" and self._own is not None  # the server has not noticed our end yet
                # Beside a SQLite build there is only the upgrade of a run that was killed, about to notice it.
                passing = bad.kind == "deadlock" if on_disk else bad.kind in _PASSING
                if not (passing or (ours and not on_disk)) or patience <= 0:
                    raise
                self._target.close()
                yield Note(f"{bad.what} {bad.why or ''} Waiting up to {patience:.0f} s for it.", level="warning")
                patience -= yield from self._wait(bad, patience)

    def _in_words(self) -> Engine[None]:
        """An attempt; a driver's own error that nobody has put into words is the target's (a source is only read)."""
        try:
            yield from self._attempt()
        except Exception as bad:
            if type(bad).__module__.partition(".")[0] in _DRIVERS:
                raise self._target.refused(bad, "a statement") from bad
            raise

    def _wait(self, bad: TargetError, patience: float) -> Engine[float]:
        """Wait until the target answers; the seconds that it took.

        Raises:
            TargetError: it did not within ``patience`` seconds.
        """
        started, pause = time.monotonic(), _FIRST_WAIT
        while True:
            deadline = time.monotonic() + pause
            while time.monotonic() < deadline:
                signals.check("Run the same command again: it carries on.")
                time.sleep(0.05)
            waited = time.monotonic() - started
            try:
                self._target.standing()
            except TargetError as still:
                if still.kind not in _PASSING:
                    raise
                if waited >= patience:
                    raise TargetError(
                        f"{bad.what} It did not come back within {waited:.0f} s.",
                        where=bad.where,
                        why=still.why or bad.why,
                        next_step="Bring it back, then run the same command: it carries on. --retry-seconds sets how long is waited.",
                        kind="unreachable",
                        resumable=True,
                    ) from bad
                pause = min(pause * 2, _LONGEST_WAIT, max(0.1, patience - waited))
                continue
            yield Note("The target is back; going on.", level="warning")
            return max(waited, 1.0)

    def _attempt(self) -> Engine[None]:
        target, result = self._target, self._result
        result.resumable = True
        target.lock()
        standing = target.standing()
        if standing.state == "complete":
            if standing.record is not None and standing.record.id == self._own:
                # The last commit went through, and its answer was lost.
                result.status, result.resumable = "verified", False
                return
            raise TargetError(
                "Another mlflowctl finished the target meanwhile.",
                where=target.uri.redacted,
                next_step="Run the same command again: it sees what stands there now.",
                kind="locked",
                resumable=True,
            )
        if standing.state == "foreign":
            raise TargetError(
                "The target holds other data, so nothing was written.",
                where=target.uri.redacted,
                why=standing.reason,
                next_step="Name a new or empty database, or another schema, with --to.",
                kind="foreign_data",
            )
        passage = self._passage = self._passage or proving.passage_of(
            self._wanted, self._source, target.kind, self._revision, target.uri, self._selection
        )
        record = yield from self._open(standing, passage)
        rejects = RejectsFile(Path(record.document["rejects_file"]), record.id)
        whole = yield from self._copy(record, passage, rejects, standing if target.resumed else None)
        record = whole[0]
        sums = whole[1]
        proof: VerifyResult | None = None
        lifts = self._revision != self._source.revision
        if record.phase == "index":
            proof = yield from self._prove_copy(passage, sums, self._untouched() if lifts else frozenset())
            self._stop_if_different(proof, record)
            record = target.advance(record, phase="upgrade" if lifts else "lifted")
        if record.phase == "upgrade":
            yield from self._lift(record)
            record = target.advance(record, phase="lifted")
            proof = None
        if proof is None:
            proof = yield from self._prove_whole(passage, sums, lifts)
            self._stop_if_different(proof, record)
        proof.explained = passages.explained(sums.tally)
        result.verify = proof.document()
        yield from self._finish(record, passage, sums, rejects)

    def _open(self, standing: Standing, passage: Passage) -> Engine[Record]:
        """Open the target: an unfinished one as it stands, or a fresh one with its tables made."""
        target = self._target
        why = None
        if standing.state == "unfinished":
            why = self._afresh or resume.why_afresh(standing, self._wanted)
        if standing.state == "unfinished" and why is None:
            target.open(resume=True)
            target.refuse_strangers_rows(standing)
            record = standing.record
            assert record is not None
            phase = record.phase
            if phase == "complete":  # a SQLite build that was finished, and not yet renamed
                record, phase = replace(record, state="running", finished=None), "lifted"
            yield Note(f"Carrying on with the migration begun on {record.started} (at: {phase}).", level="warning")
            # What was copied under another policy may hang on a row that this one leaves out.
            rejudge = record.document["on_bad_row"] != self._settings.on_bad_row
            return target.advance(
                record,
                phase=phase,
                owner=owner(),
                rejudge=rejudge or record.document.get("rejudge", False),
                on_bad_row=self._settings.on_bad_row,
                rejects_file=self._rejects_file(record.document["rejects_file"]),
            )
        place = target.open(resume=False)
        abandoned: list[str] = []
        if standing.state == "unfinished":
            if standing.record is not None:
                abandoned = [standing.record.id, *standing.record.document.get("abandoned", ())]
            yield Note(f"The unfinished copy is made afresh: {why}.", level="warning")
            if target.kind != "sqlite":
                target.clear(standing, self._schema)
        identity = _identity(self._source_uri, self._source.chain)
        file = self._settings.rejects_file or f"mlflowctl-rejects-{identity[:8]}.jsonl"
        record = Record(
            id=identity,
            chain=self._source.chain,
            state="running",
            source=self._source_uri.identity,
            started=now(),
            finished=None,
            document={
                **self._wanted,
                **place,
                "tables": sorted(schemas.tables_ever(self._source.chain)),
                "source_rows": _row_ceilings(self._source),
                "snapshot": self._source.snapshot,
                "rejects_file": str(Path(file).absolute()),
                "abandoned": abandoned,
                "owner": owner(),
            },
        )
        chunks = self._chunks(passage)
        try:
            target.begin(record, self._schema)
        except MlflowctlError:
            raise
        except Exception as bad:
            raise target.refused(bad, "the new tables") from bad
        self._afresh = None
        return target.advance(
            record, phase="copy", chunks=resume.chunk_documents(chunks), source_state=self._source.state()
        )

    def _chunks(self, passage: Passage) -> list[Chunk]:
        return resume.whole(self._source.chunks(), passage.cleaning.doubled if passage.cleaning else ())

    def _rejects_file(self, before: str) -> str:
        """The place of the rejects file; with another ``--rejects-file`` than before it is copied there."""
        if not self._settings.rejects_file:
            return before
        new = Path(self._settings.rejects_file).absolute()
        if Path(before) != new and Path(before).exists() and not new.exists():
            # Where that fails the lines are found lacking, and their chunks are copied again.
            with suppress(OSError):
                shutil.copyfile(before, new)
        return str(new)

    def _copy(
        self, record: Record, passage: Passage, rejects: RejectsFile, resumed: Standing | None
    ) -> Engine[tuple[Record, Totals]]:
        """Bring every row into the bare tables; of a resumed copy only what is not there yet."""
        source, target, result = self._source, self._target, self._result
        chunks = resume.chunks_of(record.document)
        notes: dict[str, Mapping[str, Any]] = dict(resumed.chunks or {}) if resumed is not None else {}
        notes = {n: d for n, d in notes.items() if not n.startswith("step:")}
        copier = Copier(
            source,
            target,
            self._schema,
            passage,
            jobs=self._settings.jobs,
            policy=self._settings.on_bad_row,
            rejects=rejects,
        )
        past_copy = resume.PHASES.index(record.phase) > resume.PHASES.index("copy")
        noted = [c for c in chunks if c.id in notes]
        if resumed is not None and self._own != record.id:
            changed = self._without_rejects(rejects, record, chunks, notes, past_copy)
            state = source.state()
            snapshot = record.document.get("snapshot", source.snapshot)
            ceilings = dict(record.document["source_rows"])
            elsewhen = state is None or state != record.document.get("source_state")
            if elsewhen:
                for name, rows in _row_ceilings(source).items():
                    ceilings[name] = max(rows, ceilings.get(name, 0))
            if elsewhen and (noted or past_copy):
                yield Note(
                    "The source is read at another instant than before, so what was copied is checked again.",
                    level="warning",
                )
                changed |= yield from self._check_again(copier, record, chunks, notes, past_copy)
                snapshot = "multiple" if source.snapshot == "single" else source.snapshot
            elif record.document.get("rejudge") and noted and not past_copy:
                yield Note("--on-bad-row is another than before, so what was copied is judged again.", level="warning")
                changed |= yield from self._check_again(copier, record, chunks, notes, past_copy)
            if changed:
                now = self._chunks(passage)
                again = resume.affected(changed, chunks, now, notes.get(EXTRA), self._schema.seed)
                self._empty(again.tables, [c for c in again.doomed if c in notes])
                chunks = [c for c in chunks if c.id not in again.doomed] + again.fresh
                notes = {n: d for n, d in notes.items() if n not in again.doomed}
            record = target.advance(
                record,
                phase=record.phase,
                chunks=resume.chunk_documents(chunks),
                source_state=state,
                source_rows=ceilings,
                snapshot=snapshot,
                rejudge=False,
            )
        self._own = record.id
        result.source["snapshot"] = record.document.get("snapshot", source.snapshot)
        if past_copy:
            return record, _recorded(source, record)
        rejects.keep(notes, abandoned=record.document.get("abandoned", ()))
        left = [c for c in chunks if c.id not in notes]
        before = sum(sum(notes[c.id].get("seen", {}).values()) for c in chunks if c.id in notes)
        total = before + sum(c.rows for c in left)
        yield from copier.copy(left, before, total, estimated=True, extra=EXTRA not in notes)
        proving.raise_troubles(source)
        take_report(source, result)
        moved = source.changed()
        if moved:
            text = f"The source changed while it was read: {', '.join(moved[:5])}{' and others' if len(moved) > 5 else ''}. What came later is not in the target; mlflowctl migrate verify shows it."
            result.notes.append(text)
            yield Note(text, level="warning")
        done = target.journal.chunks()
        lost = {c.id for c in chunks} | {EXTRA}
        lost -= set(done)
        if lost:
            # The proof compares with the sum of the notes, so a chunk without one would never be missed.
            raise TargetError(
                f"The copy ended without {len(lost)} of its {len(chunks) + 1} parts.",
                where=target.uri.redacted,
                why=f"Not noted: {', '.join(sorted(lost)[:3])}.",
                next_step="Run the same command again: it copies them. Please report it.",
                kind="incomplete_copy",
                resumable=True,
            )
        sums = totals(source, [d for n, d in done.items() if not n.startswith("step:")])
        record = target.advance(record, phase="index", totals=sums.document())
        return record, sums

    def _check_again(
        self, copier: Copier, record: Record, chunks: list[Any], notes: Mapping[str, Any], past_copy: bool
    ) -> Engine[set[str]]:
        """Compare what was copied with the source as it is now.

        Raises:
            _Afresh: it has changed, and keys and constraints are on the tables already.
        """
        if past_copy and not notes:
            raise _Afresh("the source may have changed since")
        changed = yield from copier.check([c for c in chunks if c.id in notes], notes)
        if changed and past_copy:
            raise _Afresh(f"the source has changed since ({', '.join(sorted(changed))})")
        return changed

    def _without_rejects(
        self,
        rejects: RejectsFile,
        record: Record,
        chunks: list[Any],
        notes: Mapping[str, Any],
        past_copy: bool,
    ) -> set[str]:
        """The tables of chunks whose lines are no longer in the rejects file; they are copied again, for the lines.

        Raises:
            _Afresh: they are, and keys and constraints are on the tables already.
        """
        expected = {n: sum(d.get("tally", {}).get("rules", {}).values()) for n, d in notes.items()}
        if past_copy and not notes:
            expected = {}
        lacking = rejects.lacking(expected)
        if lacking and past_copy:
            raise _Afresh(f"the rejects file {rejects.path} is no longer whole")
        return {name for c in chunks if c.id in lacking for name in c.tables}

    def _empty(self, tables: set[str], chunks: list[str]) -> None:
        target = self._target
        catalog = target.backend.catalog()
        # Never TRUNCATE on MySQL: it would commit without the notes.
        word = "TRUNCATE" if target.kind == "postgresql" else "DELETE FROM"
        for name in sorted(tables & set(catalog)):
            target.backend.execute(f"{word} {target.backend.quote(name)}")
        for identity in chunks:
            target.journal.forget_chunk(identity)
        target.commit()

    def _untouched(self) -> frozenset[str]:
        """Tables of which the lift changes nothing, so that the proof after it is the same as one before it."""
        if not schemas.known(self._source.chain, self._revision):
            return frozenset()
        final = schemas.schema_at(self._source.chain, dialect(self._target.kind), self._revision)
        return lifting.plan(self._source.schema, final).untouched

    def _prove_copy(self, passage: Passage, sums: Totals, leave_out: frozenset[str]) -> Engine[VerifyResult]:
        """Read everything back and compare, while indexes are built where the database lets both happen at once."""
        target = self._target
        done = target.journal.chunks() if target.resumed else {}
        early, late = ([s for s in steps if s.id not in done] for steps in target.steps(self._schema))
        jobs = self._settings.jobs

        def prove() -> Engine[VerifyResult]:
            with target.reader() as reader:
                return (
                    yield from proving.compare_stores(
                        self._source,
                        reader,
                        passage,
                        everything=False,
                        source_hashes=sums.hashes,
                        leave_out=leave_out,
                        phase="verify",
                        jobs=jobs,
                    )
                )

        total = len(early) + len(late)
        started = time.perf_counter()
        if target.kind == "postgresql":
            with target.builders(early, max(2, jobs // 2)) as builders:
                proof = yield from prove()
                yield PhaseStarted("index", "statements", total)
                while builders.busy():
                    yield PhaseAdvanced("index", builders.done)
                    time.sleep(_TICK_SECONDS)
            done_early, early = len(early), []
        else:
            proof = yield from prove()
            yield PhaseStarted("index", "statements", total)
            done_early = 0
        if not proof.equal:
            return proof
        for number, step in enumerate([*early, *late], done_early + 1):
            signals.check("Run the same command again: it goes on with the next index.")
            target.run(step)
            yield PhaseAdvanced("index", number, step.shown)
        signals.check("Run the same command again: it goes on from here.")
        yield PhaseFinished("index", total, time.perf_counter() - started)
        return proof

    def _lift(self, record: Record) -> Engine[None]:
        target = self._target
        if target.resumed:
            half = resume.half_applied(target)
            if half is not None:
                raise _Afresh(f"MySQL commits each change of an upgrade by itself, and one was cut: {half}")
        if target.revision() == self._revision:
            return
        try:
            yield from upgrade.lift(target, self._revision, self._plan.upgrades)
        except TargetError as bad:
            if bad.kind == "upgrade_failed" and target.kind == "mysql" and target.resumed:
                raise _Afresh(
                    f"MySQL commits each change of an upgrade by itself, and one may have been cut: {bad.why}"
                ) from bad
            raise

    def _prove_whole(self, passage: Passage, sums: Totals, lifts: bool) -> Engine[VerifyResult]:
        with self._target.reader() as reader:
            proof = yield from proving.compare_stores(
                self._source,
                reader,
                passage,
                everything=False,
                source_hashes=sums.hashes,
                phase="verify after upgrade" if lifts else "verify",
                jobs=self._settings.jobs,
            )
        # The proof of the copy relied on this one.
        whole = {t.name for t in proof.tables if t.verdict != "!" and not t.uncompared_columns}
        unproven = self._untouched() - whole if lifts else frozenset()
        if unproven:
            raise TargetError(
                "The target is not as MLflow's upgrade should have left it, so it cannot be proven.",
                where=self._target.uri.redacted,
                why=f"Not compared whole: {', '.join(sorted(unproven))}.",
                next_step="Run the same command with --no-upgrade to keep the store at its own revision. Please report it.",
                kind="unproven",
            )
        return proof

    def _stop_if_different(self, proof: VerifyResult, record: Record) -> None:
        if proof.equal:
            return
        result, target = self._result, self._target
        result.verify = proof.document()
        result.status = "failed"
        names = ", ".join(t.name for t in proof.tables if t.verdict not in "=!")
        if target.kind == "sqlite":
            target.discard()
        else:
            with suppress(Exception):
                target.advance(record, phase="failed")
        raise DifferError(
            "The proof failed: the target does not hold what the source holds.",
            where=names,
            next_step="Do not use the target. The report names the rows; run the same command to try again.",
            resumable=True,
        )

    def _finish(self, record: Record, passage: Passage, sums: Totals, rejects: RejectsFile) -> Engine[None]:
        target, result, the_plan = self._target, self._result, self._plan
        yield PhaseStarted("finish", "steps", None)
        started = time.perf_counter()
        if any(o != n for o, n in the_plan.experiment_ids.items()):
            result.renumbered["file"] = _write_id_map(the_plan.experiment_ids, record.id)
        final_revision = self._revision
        if not schemas.known(target.chain, final_revision):
            final_revision = schemas.revisions(target.chain)[-1].id
        final = schemas.schema_at(target.chain, dialect(target.kind), final_revision)
        document = {
            **{n: v for n, v in record.document.items() if n not in ("chunks", "totals")},
            "hashes": {n: {"rows": h.rows, "hash": h.hexdigest} for n, h in sums.hashes.items()},
            "totals": sums.document(),
            "phase": "complete",
        }
        complete = Record(record.id, record.chain, "complete", record.source, record.started, now(), document)
        take_totals(passage, sums, rejects.path, result)
        try:
            target.complete(complete, final.tables.values())
        except MlflowctlError:
            raise
        except Exception as bad:
            raise target.refused(bad, "the last step") from bad
        result.status = "verified"
        result.resumable = False
        result.notes = list(dict.fromkeys([*result.notes, *the_plan.notes]))
        if target.chain == "tracking":
            result.next_command = planning.server_command(target.uri, the_plan, self._settings)
        yield PhaseFinished("finish", 1, time.perf_counter() - started)


def take_totals(passage: Passage, sums: Totals, rejects: Path, result: MigrateResult) -> None:
    """Fill the report's numbers from what all chunks noted."""
    tally = sums.tally
    result.tables = [
        {
            "name": name,
            "source_rows": sums.seen[name],
            "written_rows": h.rows,
            "skipped_rows": tally.skipped[name],
            "fixed_rows": tally.fixed[name],
        }
        for name, h in sums.hashes.items()
    ]
    count = sum(tally.rules.values())
    result.rejects = {"count": count, "file": str(rejects) if count else None, "by_rule": dict(tally.rules)}
    result.artifacts["mapped"] = passages.mapped(passage, tally)
    result.explained = [*passages.explained(tally)]


def take_report(source: Reader, result: MigrateResult) -> None:
    """What the reader says about its source."""
    report = source.report
    result.collapsed = dict(report.collapsed)
    result.normal = dict(report.normal)
    result.not_carried = [{"what": n.what, "rows": n.rows, "reason": n.reason} for n in report.not_carried]
    result.notes = list(dict.fromkeys([*result.notes, *report.notes]))


def dialect(kind: str) -> schemas.Dialect:
    """The schema data's name of a kind of database."""
    return kind  # type: ignore[return-value]


def now() -> str:
    """This moment, RFC 3339 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


def _recorded(source: Reader, record: Record) -> Totals:
    return totals(source, [record.document["totals"]])


def _row_ceilings(source: Reader) -> dict[str, int]:
    """Exact row counts of the small tables that a server in use would grow."""
    watched = [name for name in ("experiments", "registered_models", "users") if name in source.schema.tables]
    counts = dict.fromkeys(watched, 0)
    for batch in source.batches(watched):
        if batch.table in counts:
            counts[batch.table] += batch.rows.num_rows + len(batch.odd)
    # The upgrade and MLflow's own start add a default experiment where there is none.
    if "experiments" in counts:
        counts["experiments"] = max(1, counts["experiments"])
    return counts


def _identity(source: StoreUri, chain: str) -> str:
    return hashlib.sha256(f"{chain}\n{source.identity}\n{time.time_ns()}\n{os.getpid()}".encode()).hexdigest()[:32]


def _write_id_map(ids: Mapping[int, int], record_id: str) -> str:
    path = Path(f"mlflowctl-experiment-ids-{record_id[:8]}.json")
    path.write_text(
        json.dumps({str(old): str(new) for old, new in ids.items() if old != new}, indent=1) + "\n", encoding="utf-8"
    )
    return str(path.resolve())
