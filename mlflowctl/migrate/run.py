"""The migration itself: plan, copy at the source's revision, prove, lift, prove again, finish."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from mlflowctl.core import signals
from mlflowctl.core.errors import Interrupted, MlflowctlError, SourceError, TargetError, UsageError
from mlflowctl.core.events import Engine, Note, PhaseAdvanced, PhaseFinished, PhaseStarted
from mlflowctl.core.pipeline import ahead
from mlflowctl.core.redact import redact_text
from mlflowctl.migrate import compare
from mlflowctl.migrate import plan as planning
from mlflowctl.migrate import verify as proving
from mlflowctl.migrate.api import MigrateResult, MigrateSettings
from mlflowctl.migrate.carry import Carrier, take_report
from mlflowctl.migrate.copying import bad_rows_error
from mlflowctl.migrate.passage import mapped
from mlflowctl.migrate.transform import ArtifactTransform
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.open import open_reader
from mlflowctl.stores.sql.target import Standing, Target
from mlflowctl.stores.uri import StoreUri, parse_uri

if TYPE_CHECKING:
    from mlflowctl.migrate.passage import Passage
    from mlflowctl.migrate.plan import Plan
    from mlflowctl.stores.api import Reader
    from mlflowctl.stores.schema import Chain


def migrate(settings: MigrateSettings) -> Engine[MigrateResult]:
    """Bring a store into a target database, whole and proven.

    Raises:
        MlflowctlError: with the attribute ``result`` holding a MigrateResult of what is known by then.
    """
    result = MigrateResult()
    started, cpu = time.perf_counter(), _cpu_seconds()
    try:
        if settings.auth_source and _selects(settings):
            from mlflowctl.migrate.select import users_cannot_be_selected

            raise users_cannot_be_selected()
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
            error.next_step = error.next_step or "Run the same command again: it carries on."
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
        source.policy = settings.on_bad_row
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
        if standing.state == "complete":
            _refuse_other_options(standing, settings, target_uri, result)
        selection = None
        if standing.state != "complete" and _selects(settings):
            from mlflowctl.migrate.select import Selection

            selection = Selection.make(source, settings.only, settings.exclude, settings.since)
        the_plan = planning.make(settings, source, target.kind, revision, standing, selection)
        if standing.state != "complete":
            the_plan.look_around(source, target, settings.jobs + 4)
        result.plan = the_plan.document()
        result.artifacts.update(the_plan.artifacts)
        result.renumbered = {
            "experiments": sum(old != new for old, new in the_plan.experiment_ids.items()),
            "file": None,
        }
        if standing.state == "complete":
            yield from _already_complete(source, standing, target, revision, result)
            return
        _raise_stops(the_plan, target_uri, source, result)
        if settings.scan or (settings.dry_run and the_plan.journal["map_artifacts"]):
            passage = proving.passage_of(the_plan.journal, source, target.kind, revision, target_uri, selection)
            if settings.scan:
                yield from _scan(source, passage, the_plan, result)
            else:
                _count_mapped(source, passage, result)
        if settings.dry_run or settings.scan:
            result.status = "planned"
            result.tables = [
                {"name": n, "source_rows": c.rows, "written_rows": 0, "skipped_rows": 0, "fixed_rows": 0}
                for n, c in the_plan.counts.items()
            ]
            take_report(source, result)
            return
        for note in the_plan.notes:
            yield Note(note)
        for side, circumstance in the_plan.circumstances:
            if circumstance.level == "warning":
                result.notes.append(f"{side}: {circumstance.text}")
                yield Note(f"{side}: {circumstance.text} {circumstance.next_step or ''}".strip(), level="warning")
        yield from Carrier(settings, source, source_uri, target, the_plan, selection, result).carry_out()


def _selects(settings: MigrateSettings) -> bool:
    return bool(settings.only or settings.exclude or settings.since)


def _raise_stops(the_plan: Plan, target: StoreUri, source: Reader, result: MigrateResult) -> None:
    try:
        the_plan.raise_stops()
    except MlflowctlError as stop:
        stop.where = source.uri if isinstance(stop, SourceError) else target.redacted
        result.status = "refused"
        raise


def _already_complete(
    source: Reader, standing: Standing, target: Target, revision: str, result: MigrateResult
) -> Engine[None]:
    """Nothing is written; the source is hashed again, since runs that came later would otherwise be lost in silence."""
    assert standing.record is not None
    document = standing.record.document
    passage = proving.passage_of(document, source, target.kind, str(document.get("revision", revision)), target.uri)
    tables = {
        n: compare.TableComparison(n, {c.name: c.kind for c in t.columns if not c.computed}, t.primary_key)
        for n, t in source.schema.tables.items()
    }
    yield PhaseStarted("check source", "rows", None)
    started = time.perf_counter()
    hashes = compare.hash_stream(proving.without_odd(passage.stream(source.batches()), source), tables)
    proving.raise_troubles(source)
    yield PhaseFinished("check source", sum(h.rows for h in hashes.values()), time.perf_counter() - started)
    recorded: Mapping[str, Mapping[str, object]] = document.get("hashes", {})
    changed = sorted(n for n, h in hashes.items() if recorded.get(n, {"hash": h.hexdigest})["hash"] != h.hexdigest)
    result.tables = [
        {"name": n, "source_rows": h.rows, "written_rows": 0, "skipped_rows": 0, "fixed_rows": 0}
        for n, h in hashes.items()
    ]
    take_report(source, result)
    if changed:
        result.status = "refused"
        raise TargetError(
            f"The source has changed since it was migrated on {standing.record.finished}: {', '.join(changed)}.",
            where=target.uri.redacted,
            why="mlflowctl never merges into a finished target, so nothing was written.",
            next_step="Migrate to a new target, or see what differs: mlflowctl migrate verify --from SRC --to DST",
            kind="source_changed",
        )
    target.tidy()
    result.status = "already_complete"
    result.target["revision"] = document.get("revision", result.target["revision"])
    result.notes.append(f"Completed on {standing.record.finished}.")


def _count_mapped(source: Reader, passage: Passage, result: MigrateResult) -> None:
    """How many rows each mapping touches; only the tables that hold locations are read."""
    tables = [name for name in source.schema.tables if passage.concerns(name, ArtifactTransform)]
    lane = passage.lane()
    with closing(passage.stream(ahead(source.batches(tables)), lane)) as batches:
        for _ in batches:
            signals.check()
    result.artifacts["mapped"] = mapped(passage, lane.tally())


def _scan(source: Reader, passage: Passage, the_plan: Plan, result: MigrateResult) -> Engine[None]:
    """Read everything once, so that every bad file or row is named before anything is written.

    Raises:
        SourceError: there are bad rows or files and the policy is to stop.
    """
    yield PhaseStarted("scan", "rows", sum(c.rows for c in the_plan.counts.values()), True)
    started = time.perf_counter()
    done = 0
    rows: dict[str, int] = {}
    lane = passage.lane()
    for chunk in source.chunks():
        with closing(ahead(source.read(chunk))) as batches:
            for batch in batches:
                signals.check()
                here = batch.rows.num_rows + len(batch.odd)
                done += here
                rows[batch.table] = rows.get(batch.table, 0) + here
                lane.apply(batch)
                yield PhaseAdvanced("scan", done, batch.table)
    the_plan.take_exact(rows)
    result.plan = the_plan.document()
    result.artifacts["mapped"] = mapped(passage, lane.tally())
    yield PhaseFinished("scan", done, time.perf_counter() - started)
    take_report(source, result)
    rejects = [*lane.rejects, *lane.count(source.take_rejects())]
    result.rejects = {"count": len(rejects), "file": None, "by_rule": dict(lane.tally().rules)}
    result.troubles = [{"rule": r.rule, "where": r.where, "text": r.text} for r in [*source.report.troubles, *rejects]]
    if rejects and the_plan.journal["on_bad_row"] == "stop":
        result.status = "refused"
        raise bad_rows_error(source, rejects, whole=True)
    proving.raise_troubles(source)


def _take_troubles(source: Reader, result: MigrateResult) -> None:
    result.troubles = result.troubles or [
        {"rule": t.rule, "where": t.where, "text": t.text} for t in source.report.troubles
    ]


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


def _refuse_other_options(
    standing: Standing, settings: MigrateSettings, target: StoreUri, result: MigrateResult
) -> None:
    """A finished target holds what its own command asked for; another command is not answered with it."""
    assert standing.record is not None
    recorded = standing.record.document
    wanted: dict[str, object] = {
        "only": list(settings.only),
        "exclude": list(settings.exclude),
        "since": settings.since,
        "map_artifacts": [list(m) for m in settings.map_artifacts],
        "reroot_artifacts": settings.reroot_artifacts,
    }
    other = [name for name, value in wanted.items() if (recorded.get(name) or None) != (value or None)]
    if other:
        result.status = "refused"
        options = ", ".join("--" + name.replace("_", "-") for name in other)
        raise TargetError(
            f"The target was completed on {standing.record.finished} with other values of {options}.",
            where=target.redacted,
            why="mlflowctl never merges into a finished target, so nothing was written.",
            next_step="Name a new or empty database with --to, or repeat the first command.",
            kind="other_options",
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


def _cpu_seconds() -> float:
    children_usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children_usage.ru_utime + children_usage.ru_stime


def _peak_rss_bytes() -> int:
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(own, child) * 1024
