"""The migration itself: plan, copy at the source's revision, prove, lift, prove again, finish."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from mlflowctl import children
from mlflowctl.core import signals
from mlflowctl.core.errors import DifferError, Interrupted, MlflowctlError, TargetError, UsageError
from mlflowctl.core.events import Engine, Note, PhaseAdvanced, PhaseFinished, PhaseStarted
from mlflowctl.core.pipeline import Outlet, ahead
from mlflowctl.core.redact import redact_text
from mlflowctl.migrate import compare
from mlflowctl.migrate import plan as planning
from mlflowctl.migrate import verify as proving
from mlflowctl.migrate.api import MigrateResult, MigrateSettings, VerifyResult
from mlflowctl.migrate.transform import ArtifactTransform, NegativeZeroTransform, RenumberTransform, Transforms
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.api import TableBatch
from mlflowctl.stores.canonical import ARROW_TYPES
from mlflowctl.stores.hashing import TableHash
from mlflowctl.stores.open import open_reader
from mlflowctl.stores.sql.target import Record, Standing, Target
from mlflowctl.stores.uri import StoreUri, parse_uri

if TYPE_CHECKING:
    from mlflowctl.migrate.plan import Plan
    from mlflowctl.stores.api import Reader
    from mlflowctl.stores.schema import Chain, Schema

# Rows between two commits on a server: keeps its undo log short.
_COMMIT_ROWS = 500_000


def migrate(settings: MigrateSettings) -> Engine[MigrateResult]:
    """Bring a store into a target database, whole and proven.

    Raises:
        MlflowctlError: with the attribute ``result`` holding a MigrateResult of what is known by then.
    """
    result = MigrateResult()
    started, cpu = time.perf_counter(), _cpu_seconds()
    try:
        yield from _migrate_chain(settings, settings.source, settings.target, "tracking", result)
        if settings.auth_source and settings.auth_target:
            auth = MigrateResult()
            result.auth = auth.document()
            try:
                yield from _migrate_chain(settings, settings.auth_source, settings.auth_target, "auth", auth)
            finally:
                result.auth = auth.document()
    except MlflowctlError as error:
        if isinstance(error, Interrupted):
            error.where = error.where or result.target.get("uri")
            error.next_step = error.next_step or "Run the same command again: what is unfinished is made afresh."
        result.exit_code = int(error.exit_code)
        result.resumable = error.resumable
        result.troubles = result.troubles or [{"text": line} for line in error.details]
        if result.status not in ("refused", "failed"):
            result.status = "incomplete" if error.resumable else "failed"
        error.result = result  # type: ignore[attr-defined]
        raise
    finally:
        result.seconds = time.perf_counter() - started
        result.cpu_seconds = _cpu_seconds() - cpu
        result.peak_rss_bytes = _peak_rss_bytes()
    return result


def _migrate_chain(
    settings: MigrateSettings, source_text: str, target_text: str, chain: Chain, result: MigrateResult
) -> Engine[None]:
    source_uri = parse_uri(source_text, side="source")
    target_uri = parse_uri(target_text, side="target")
    _refuse_same(source_uri, target_uri, result)
    if target_uri.kind == "files":
        result.status = "refused"
        raise TargetError(
            "A folder cannot be a target.",
            where=target_uri.redacted,
            why="MLflow gives up file stores; the target must be a database.",
            next_step="Leave --to out for sqlite:///mlflow.db, or name a database.",
            kind="unsupported_store",
        )
    with ExitStack() as stack:
        source = stack.enter_context(open_reader(source_uri, chain))
        stack.callback(_take_troubles, source, result)
        result.source = {
            "uri": source.uri,
            "kind": source.kind,
            "revision": source.revision,
            "snapshot": source.snapshot,
        }
        revision = _wanted_revision(settings, source)
        target = Target(target_uri, chain)
        stack.callback(target.close)
        result.target = {
            "uri": target_uri.redacted,
            "kind": target.kind,
            "revision": revision,
            "mlflow_version": schemas.last_version_of(chain, revision),
        }
        if chain == "auth" and target.kind == "mysql":
            result.status = "refused"
            raise TargetError(
                "MLflow keeps no users and permissions on MySQL or MariaDB.",
                where=target_uri.redacted,
                why="Its own scripts fail there: two foreign keys have one name.",
                next_step="Name a SQLite or PostgreSQL database with --auth-to.",
                kind="unsupported_store",
            )
        standing = target.standing()
        if standing.state == "foreign":
            result.status = "refused"
            raise TargetError(
                "The target holds other data, so nothing was written.",
                where=target_uri.redacted,
                why=standing.reason,
                next_step="Name a new or empty database, or another schema, with --to.",
                kind="foreign_data",
            )
        if standing.state in ("complete", "unfinished"):
            _refuse_other_source(standing, source_uri, target_uri, result)
        the_plan = planning.make(settings, source, source_uri, target.kind, revision, standing)
        result.plan = the_plan.document()
        result.artifacts.update(the_plan.artifacts)
        result.renumbered = {
            "experiments": sum(old != new for old, new in the_plan.experiment_ids.items()),
            "file": None,
        }
        if standing.state == "complete":
            yield from _already_complete(source, standing, target, result)
            return
        if settings.dry_run and the_plan.journal["map_artifacts"]:
            _count_mapped(source, the_plan, result)
        if settings.scan:
            yield from _scan(source, the_plan, result)
        if settings.dry_run or settings.scan:
            result.status = "planned"
            result.tables = [
                {"name": n, "source_rows": c.rows, "written_rows": 0, "skipped_rows": 0, "fixed_rows": 0}
                for n, c in the_plan.counts.items()
            ]
            _take_report(source, result)
            return
        for note in the_plan.notes:
            yield Note(note)
        yield from _carry_out(settings, source, source_uri, target, the_plan, standing, result)


def _carry_out(
    settings: MigrateSettings,
    source: Reader,
    source_uri: StoreUri,
    target: Target,
    the_plan: Plan,
    standing: Standing,
    result: MigrateResult,
) -> Engine[None]:
    copy_schema = schemas.schema_at(source.chain, _dialect(target.kind), source.revision)
    record = Record(
        id=_identity(source_uri, source.chain),
        chain=source.chain,
        state="running",
        source=source_uri.identity,
        started=_now(),
        finished=None,
        document={
            **the_plan.journal,
            "tables": sorted(schemas.tables_ever(source.chain)),
            "source_rows": _row_ceilings(source),
        },
    )
    transforms = proving.transforms_of(record.document, source.schema, target.kind)
    result.resumable = True
    target.open()
    # Between the first look and the lock another mlflowctl may have finished.
    now = target.standing()
    if now.state != standing.state or (now.record and now.record.id) != (standing.record and standing.record.id):
        raise TargetError(
            "Another mlflowctl changed the target meanwhile.",
            where=str(result.target["uri"]),
            next_step="Run the same command again: it sees what stands there now.",
            kind="locked",
            resumable=True,
        )
    try:
        target.prepare(record, copy_schema, standing if standing.state == "unfinished" else None)
    except MlflowctlError:
        raise
    except Exception as bad:
        raise target.refused(bad, "the new tables") from bad
    hashes = yield from _copy(source, target, copy_schema, transforms, the_plan, settings.jobs)
    _take_report(source, result)
    _take_transforms(transforms, result)
    try:
        proving.raise_troubles(source)
    except MlflowctlError as error:
        result.status = "failed"
        error.resumable = True
        target.discard()
        raise
    result.tables = [
        {"name": name, "source_rows": h.rows, "written_rows": h.rows, "skipped_rows": 0, "fixed_rows": 0}
        for name, h in hashes.items()
    ]
    proof = yield from _prove_copy(source, target, copy_schema, transforms, hashes)
    _stop_if_different(proof, result, target)
    revision = str(result.target["revision"])
    if revision != source.revision:
        yield from _lift(target, revision)
        proof = yield from _prove_lifted(source, target, transforms)
        _stop_if_different(proof, result, target)
    result.verify = proof.document()
    result.explained = list(proof.explained)
    yield from _finish(settings, target, the_plan, record, hashes, result)


def _copy(
    source: Reader, target: Target, schema: Schema, transforms: Transforms, the_plan: Plan, jobs: int
) -> Engine[dict[str, TableHash]]:
    """Stream every row into the target's bare tables, hashing it on the way."""
    total = sum(c.rows for c in the_plan.counts.values())
    yield PhaseStarted("copy", "rows", total, any(c.estimated for c in the_plan.counts.values()))
    started = time.perf_counter()
    hashes: dict[str, TableHash] = {}
    for name, table in source.schema.tables.items():
        hashes[name] = TableHash(name, {c.name: c.kind for c in table.columns if not c.computed})
    done = uncommitted = 0

    def write(batch: TableBatch) -> None:
        nonlocal uncommitted
        target.write(schema.tables[batch.table], batch.rows)
        uncommitted += batch.rows.num_rows
        if uncommitted >= _COMMIT_ROWS and target.kind != "sqlite":
            target.commit()
            uncommitted = 0

    with closing(transforms.stream(ahead(source.batches()) if jobs > 1 else source.batches())) as batches:
        try:
            with ExitStack() as stack:
                put = stack.enter_context(Outlet(write)).put if jobs > 1 else write
                for batch in batches:
                    signals.check()
                    put(batch)
                    hashes[batch.table].add(batch.rows)
                    done += batch.rows.num_rows
                    yield PhaseAdvanced("copy", done, batch.table)
        except TargetError as refused:
            if refused.kind != "refused_row":
                raise
            # A source that contradicts itself (one name for two experiments) is refused by the target before its
            # reader has come to the end; the cause is what the reader finds.
            for _ in batches:
                signals.check()
            if source.report.troubles:
                return hashes
            raise
    for batch in _seed_rows(schema, source):
        target.write(schema.tables[batch.table], batch.rows)
    target.commit()
    yield PhaseFinished("copy", done, time.perf_counter() - started)
    return hashes


def _seed_rows(schema: Schema, source: Reader) -> Iterator[TableBatch]:
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


def _prove_copy(
    source: Reader, target: Target, schema: Schema, transforms: Transforms, hashes: Mapping[str, TableHash]
) -> Engine[VerifyResult]:
    """Read everything back and compare, while indexes are built where the database lets both happen at once."""
    early, late = target.index_statements(schema)
    if target.kind == "postgresql":
        with target.building(early), target.reader() as reader:
            proof = yield from proving.compare_stores(
                source, reader, transforms, everything=False, source_hashes=hashes, phase="verify"
            )
        early = []
    else:
        with target.reader() as reader:
            proof = yield from proving.compare_stores(
                source, reader, transforms, everything=False, source_hashes=hashes, phase="verify"
            )
    yield PhaseStarted("index", "statements", len(early) + len(late))
    started = time.perf_counter()
    for number, statement in enumerate([*early, *late], 1):
        signals.check()
        target.run([statement])
        yield PhaseAdvanced("index", number, " ".join(statement.split())[:60])
    yield PhaseFinished("index", len(early) + len(late), time.perf_counter() - started)
    return proof


def _lift(target: Target, revision: str) -> Engine[None]:
    """Run MLflow's own upgrade scripts on the proven copy, in a child process."""
    yield PhaseStarted("upgrade", "revisions", None)
    started = time.perf_counter()
    target.release()
    # The URL holds a password, so it travels in the child's environment, which only its owner reads.
    environment = {**os.environ, "MLFLOWCTL_CHILD_URL": target.child_url()}
    script = Path(children.__file__).with_name("upgrade.py")
    command = [sys.executable, str(script), "--chain", target.chain, "--to", revision]
    # A file takes any amount of words; a pipe that nobody reads meanwhile would stop the child.
    spoken = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - closed when its words are read
    child = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=spoken, text=True, start_new_session=True
    )
    assert child.stdout is not None
    done = 0
    failure: str | None = None
    try:
        for line in child.stdout:
            event = json.loads(line)
            if event["event"] == "revision":
                done += 1
                yield PhaseAdvanced("upgrade", done, event["id"])
            elif event["event"] == "error":
                failure = f"{event['kind']}: {event['message']}"
            signals.check()
    except BaseException:
        # The child has a session of its own, so that Ctrl-C does not cut a revision in half; here one just ended.
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    child.wait()
    spoken.seek(0)
    words = spoken.read()
    spoken.close()
    if child.returncode != 0:
        raise TargetError(
            "MLflow's upgrade of the proven copy failed.",
            where=target.uri.redacted,
            why=redact_text(
                failure or words.strip().splitlines()[-1]
                if (failure or words.strip())
                else f"The child ended with {child.returncode}."
            ),
            next_step="Run the same command with --no-upgrade to keep the copy at its own revision, or report the error to MLflow.",
            kind="upgrade_failed",
            resumable=True,
        )
    target.reopen()
    yield PhaseFinished("upgrade", done, time.perf_counter() - started)


def _prove_lifted(source: Reader, target: Target, transforms: Transforms) -> Engine[VerifyResult]:
    with target.reader() as reader:
        return (
            yield from proving.compare_stores(
                source, reader, transforms, everything=False, phase="verify after upgrade"
            )
        )


def _stop_if_different(proof: VerifyResult, result: MigrateResult, target: Target) -> None:
    if proof.equal:
        return
    result.verify = proof.document()
    result.status = "failed"
    names = ", ".join(t.name for t in proof.tables if t.verdict not in "=!")
    target.discard()
    raise DifferError(
        "The proof failed: the target does not hold what the source holds.",
        where=names,
        next_step="Do not use the target. The report names the rows; run the same command to try again.",
        resumable=True,
    )


def _finish(
    settings: MigrateSettings,
    target: Target,
    the_plan: Plan,
    record: Record,
    hashes: Mapping[str, TableHash],
    result: MigrateResult,
) -> Engine[None]:
    yield PhaseStarted("finish", "steps", None)
    started = time.perf_counter()
    if the_plan.experiment_ids and any(o != n for o, n in the_plan.experiment_ids.items()):
        result.renumbered["file"] = _write_id_map(the_plan.experiment_ids, record.id)
    final_revision = str(result.target["revision"])
    if not schemas.known(target.chain, final_revision):
        final_revision = schemas.revisions(target.chain)[-1].id
    final = schemas.schema_at(target.chain, _dialect(target.kind), final_revision)
    document = {
        **record.document,
        "hashes": {n: {"rows": h.rows, "hash": h.hexdigest} for n, h in hashes.items()},
        "revision": result.target["revision"],
    }
    complete = Record(record.id, record.chain, "complete", record.source, record.started, _now(), document)
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
        result.next_command = planning.server_command(target.uri, the_plan, settings)
    yield PhaseFinished("finish", 1, time.perf_counter() - started)


def _already_complete(source: Reader, standing: Standing, target: Target, result: MigrateResult) -> Engine[None]:
    """Nothing is written; the source is hashed again, since runs that came later would otherwise be lost in silence."""
    assert standing.record is not None
    document = standing.record.document
    transforms = proving.transforms_of(document, source.schema, target.kind)
    tables = {
        n: compare.TableComparison(n, {c.name: c.kind for c in t.columns if not c.computed}, t.primary_key)
        for n, t in source.schema.tables.items()
    }
    yield PhaseStarted("check source", "rows", None)
    started = time.perf_counter()
    hashes = compare.hash_stream(transforms.stream(source.batches()), tables)
    proving.raise_troubles(source)
    yield PhaseFinished("check source", sum(h.rows for h in hashes.values()), time.perf_counter() - started)
    recorded: Mapping[str, Mapping[str, object]] = document.get("hashes", {})
    changed = sorted(n for n, h in hashes.items() if recorded.get(n, {"hash": h.hexdigest})["hash"] != h.hexdigest)
    result.tables = [
        {"name": n, "source_rows": h.rows, "written_rows": 0, "skipped_rows": 0, "fixed_rows": 0}
        for n, h in hashes.items()
    ]
    _take_report(source, result)
    if changed:
        result.status = "refused"
        raise TargetError(
            f"The source has changed since it was migrated on {standing.record.finished}: {', '.join(changed)}.",
            where=target.uri.redacted,
            why="mlflowctl never merges into a finished target, so nothing was written.",
            next_step="Migrate to a new target, or see what differs: mlflowctl migrate verify --from SRC --to DST",
            kind="source_changed",
        )
    result.status = "already_complete"
    result.target["revision"] = document.get("revision", result.target["revision"])
    result.notes.append(f"Completed on {standing.record.finished}.")


def _count_mapped(source: Reader, the_plan: Plan, result: MigrateResult) -> None:
    """How many rows each mapping touches; only the tables that hold locations are read."""
    transforms = the_plan.transforms(source.schema)
    tables = [name for name in source.schema.tables if transforms.concerns(name, ArtifactTransform)]
    with closing(transforms.stream(ahead(source.batches(tables)))) as batches:
        for _ in batches:
            signals.check()
    _take_transforms(transforms, result)


def _scan(source: Reader, the_plan: Plan, result: MigrateResult) -> Engine[None]:
    """Read everything once, so that every bad file or row is named before anything is written."""
    yield PhaseStarted("scan", "rows", sum(c.rows for c in the_plan.counts.values()), True)
    started = time.perf_counter()
    done = 0
    rows: dict[str, int] = {}
    transforms = the_plan.transforms(source.schema)
    with closing(transforms.stream(ahead(source.batches()))) as batches:
        for batch in batches:
            signals.check()
            done += batch.rows.num_rows
            rows[batch.table] = rows.get(batch.table, 0) + batch.rows.num_rows
            yield PhaseAdvanced("scan", done, batch.table)
    the_plan.take_exact(rows)
    result.plan = the_plan.document()
    _take_transforms(transforms, result)
    yield PhaseFinished("scan", done, time.perf_counter() - started)
    _take_report(source, result)
    proving.raise_troubles(source)


def _take_troubles(source: Reader, result: MigrateResult) -> None:
    result.troubles = [{"rule": t.rule, "where": t.where, "text": t.text} for t in source.report.troubles]


def _take_report(source: Reader, result: MigrateResult) -> None:
    report = source.report
    result.collapsed = dict(report.collapsed)
    result.normal = dict(report.normal)
    result.not_carried = [{"what": n.what, "rows": n.rows, "reason": n.reason} for n in report.not_carried]
    result.notes = list(dict.fromkeys([*result.notes, *report.notes]))


def _take_transforms(transforms: Transforms, result: MigrateResult) -> None:
    for transform in transforms.transforms:
        if isinstance(transform, ArtifactTransform):
            result.artifacts["mapped"] = transform.report()
        elif isinstance(transform, NegativeZeroTransform) and transform.rows:
            result.explained = [transform.explanation()]
        elif isinstance(transform, RenumberTransform):
            result.renumbered["experiments"] = sum(old != new for old, new in transform.ids.items())


def _refuse_same(source: StoreUri, target: StoreUri, result: MigrateResult) -> None:
    if source.identity == target.identity:
        result.status = "refused"
        raise TargetError(
            "Source and target are the same store.",
            where=source.redacted,
            next_step="Name another target with --to.",
            kind="same_store",
        )


def _refuse_other_source(standing: Standing, source: StoreUri, target: StoreUri, result: MigrateResult) -> None:
    assert standing.record is not None
    if standing.record.source != source.identity:
        result.status = "refused"
        word = "was completed from" if standing.state == "complete" else "is unfinished from"
        raise TargetError(
            f"The target {word} another source ({redact_text(standing.record.source)}).",
            where=target.redacted,
            why="Two sources are never mixed in one target.",
            next_step="Name a new or empty database with --to.",
            kind="foreign_data",
        )


def _wanted_revision(settings: MigrateSettings, source: Reader) -> str:
    """The revision at which the target ends.

    Raises:
        UsageError: ``--target-version`` names a version that is unknown, not installed, or older than the source.
    """
    chain = source.chain
    if not settings.upgrade:
        if settings.target_version:
            raise UsageError("--no-upgrade and --target-version contradict each other.", next_step="Give one of them.")
        return source.revision
    if settings.target_version is None:
        return schemas.installed_head(chain)
    try:
        wanted = schemas.head_of_version(chain, settings.target_version)
    except ValueError as bad:
        raise UsageError(
            f"--target-version {settings.target_version} is not known.",
            why=str(bad),
            next_step="Name an MLflow version such as 3.17.",
        ) from bad
    order = [r.id for r in schemas.revisions(chain)]
    if order.index(wanted) < order.index(source.revision):
        why = "A folder is read as" if source.kind == "files" else "The source stands at"
        raise UsageError(
            f"MLflow {settings.target_version} is older than the source's schema.",
            why=f"{why} revision {source.revision} (MLflow {schemas.versions_of(chain, source.revision)}), and a schema is only lifted, never lowered.",
            next_step=f"Name MLflow {schemas.versions_of(chain, source.revision)} or later.",
        )
    if wanted != source.revision and wanted not in schemas.installed_revisions(chain):
        raise UsageError(
            f"The installed MLflow cannot lift a store to {settings.target_version}.",
            why=f"It ends at revision {schemas.installed_head(chain)}.",
            next_step=f"pip install 'mlflow>={settings.target_version}'",
        )
    return wanted


def _row_ceilings(source: Reader) -> dict[str, int]:
    """Exact row counts of the small tables that a server in use would grow."""
    watched = [name for name in ("experiments", "registered_models", "users") if name in source.schema.tables]
    counts = dict.fromkeys(watched, 0)
    for batch in source.batches(watched):
        if batch.table in counts:
            counts[batch.table] += batch.rows.num_rows
    # The upgrade and MLflow's own start add a default experiment where there is none.
    if "experiments" in counts:
        counts["experiments"] = max(1, counts["experiments"])
    return counts


def _dialect(kind: str) -> schemas.Dialect:
    return kind  # type: ignore[return-value]


def _identity(source: StoreUri, chain: str) -> str:
    return hashlib.sha256(f"{chain}\n{source.identity}\n{time.time_ns()}".encode()).hexdigest()[:32]


def _write_id_map(ids: Mapping[int, int], record_id: str) -> str:
    path = Path(f"mlflowctl-experiment-ids-{record_id[:8]}.json")
    path.write_text(
        json.dumps({str(old): str(new) for old, new in ids.items() if old != new}, indent=1) + "\n", encoding="utf-8"
    )
    return str(path.resolve())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


def _cpu_seconds() -> float:
    children_usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children_usage.ru_utime + children_usage.ru_stime


def _peak_rss_bytes() -> int:
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(own, child) * 1024
