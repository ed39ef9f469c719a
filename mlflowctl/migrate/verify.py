"""Proves that a target holds what a source holds, also where the target stands at a later revision."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from mlflowctl.core import signals
from mlflowctl.core.errors import SourceError, TargetError
from mlflowctl.core.events import Engine, PhaseAdvanced, PhaseFinished, PhaseStarted
from mlflowctl.core.pipeline import ahead
from mlflowctl.migrate import compare, lift
from mlflowctl.migrate.api import VerifyResult, VerifySettings
from mlflowctl.migrate.transform import (
    ArtifactTransform,
    NegativeZeroTransform,
    RenumberTransform,
    Transform,
    Transforms,
)
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.api import TableBatch
from mlflowctl.stores.hashing import TableHash
from mlflowctl.stores.open import open_reader
from mlflowctl.stores.sql.target import Record, find_record
from mlflowctl.stores.uri import parse_uri

if TYPE_CHECKING:
    from mlflowctl.stores.api import Reader
    from mlflowctl.stores.schema import Chain, Schema


def transforms_of(document: Mapping[str, Any], schema: Schema, target_kind: str) -> Transforms:
    """The changes that a migration's journal records, to be applied to the source before it is compared."""
    chosen: list[Transform] = []
    mappings = [(old, new) for old, new in document.get("map_artifacts", ())]
    reroot = document.get("reroot_artifacts")
    if mappings or reroot:
        chosen.append(ArtifactTransform(mappings, reroot))
    ids = {int(old): int(new) for old, new in document.get("experiment_ids", {}).items()}
    if ids:
        chosen.append(RenumberTransform(ids, schema))
    if target_kind in ("sqlite", "mysql"):
        chosen.append(NegativeZeroTransform(schema))
    return Transforms(chosen, schema)


def source_stream(
    reader: Reader, transforms: Transforms, lifted: lift.Lift, tables: Sequence[str] | None = None
) -> Iterator[TableBatch]:
    """The source's rows as the target should hold them: changed on their way, then lifted to its revision."""
    wanted = None if tables is None else lifted.sources_of(tables)
    return lifted.stream(transforms.stream(reader.batches(wanted)), tables)


def raise_troubles(reader: Reader) -> None:
    """Stop when the reader met rows or files that it could not read whole.

    Raises:
        SourceError: with every trouble in its details.
    """
    troubles = reader.report.troubles
    if not troubles:
        return
    first = troubles[0]
    thing = "malformed file" if reader.kind == "files" else "bad row"
    raise SourceError(
        f"The source holds {len(troubles)} {thing}{'' if len(troubles) == 1 else 's'}.",
        where=first.where,
        why=f"{first.rule}: {first.text}",
        next_step="Mend or remove each one that the report names, then run the same command.",
        kind="malformed_file" if reader.kind == "files" else "bad_rows",
        details=tuple(f"{t.rule}: {t.where}: {t.text}" for t in troubles),
    )


def compare_stores(
    source: Reader,
    target: Reader,
    transforms: Transforms,
    *,
    everything: bool,
    source_hashes: Mapping[str, TableHash] | None = None,
    phase: str = "verify",
) -> Engine[VerifyResult]:
    """Hash both sides table by table and name the rows that differ.

    ``source_hashes`` spares reading the source when its rows were hashed while they were copied (at one revision).
    """
    started = time.perf_counter()
    lifted = lift.plan(source.schema, target.schema)
    tables = lifted.comparisons
    if source_hashes is not None:
        # The copy was hashed with the columns that the source has; one that it lost is filled by the target.
        tables = {n: compare.narrowed(c, source_hashes[n].kinds) for n, c in tables.items()}
    compared = {name: comparison for name, comparison in tables.items() if comparison.kinds}
    yield PhaseStarted(phase, "rows", None)
    done = 0

    def hashed(batches: Iterator[TableBatch]) -> Engine[dict[str, TableHash]]:
        nonlocal done
        hashes = {name: TableHash(name, comparison.kinds) for name, comparison in tables.items()}
        with closing(ahead(batches)) as stream:
            for batch in stream:
                signals.check()
                if batch.table in compared:
                    hashes[batch.table].add(batch.rows.select(list(tables[batch.table].kinds)))
                    done += batch.rows.num_rows
                    yield PhaseAdvanced(phase, done, batch.table)
        return hashes

    if source_hashes is None:
        left = yield from hashed(source_stream(source, transforms, lifted, list(compared)))
        raise_troubles(source)
    else:
        left = dict(source_hashes)
    right = yield from hashed(target.batches(list(compared), {n: list(c.kinds) for n, c in compared.items()}))
    result = VerifyResult(tables=compare.verdicts(tables, left, right), notes=list(lifted.notes))
    for verdict in result.tables:
        if verdict.verdict in "-+*" and verdict.name in compared:
            comparison = tables[verdict.name]
            found, cut = compare.locate(
                comparison,
                lambda names: source_stream(source, transforms, lifted, names),
                lambda names, c=comparison: target.batches(names, {c.name: list(c.kinds)}),  # type: ignore[misc]
                everything=everything,
            )
            result.differences.extend(found)
            result.truncated = result.truncated or cut
    for transform in transforms.transforms:
        if isinstance(transform, NegativeZeroTransform) and transform.rows:
            result.explained.append(transform.explanation())
    result.source = {"uri": source.uri, "kind": source.kind, "revision": source.revision}
    result.target = {
        "uri": target.uri,
        "kind": target.kind,
        "revision": target.revision,
        "mlflow_version": schemas.last_version_of(target.chain, target.revision),
    }
    result.seconds = time.perf_counter() - started
    result.lacking = list(lifted.lacking)
    yield PhaseFinished(phase, done, result.seconds)
    return result


def verify(settings: VerifySettings) -> Engine[VerifyResult]:
    """Compare two stores as they stand now; the journal in the target tells which changes were asked for.

    Raises:
        SourceError, TargetError: a side cannot be read.
    """
    result = yield from _verify_chain(settings.source, settings.target, "tracking", settings.all_differences)
    if settings.auth_source and settings.auth_target:
        auth = yield from _verify_chain(settings.auth_source, settings.auth_target, "auth", settings.all_differences)
        result.tables.extend(auth.tables)
        result.differences.extend(auth.differences)
        result.truncated = result.truncated or auth.truncated
        result.notes.extend(auth.notes)
    return result


def _refuse_older(source: Reader, target: Reader) -> None:
    order = [r.id for r in schemas.revisions(source.chain)]
    if (
        source.revision in order
        and target.revision in order
        and order.index(target.revision) < order.index(source.revision)
    ):
        raise TargetError(
            "The target stands at an earlier revision than the source, so it cannot hold all of it.",
            where=target.uri,
            why=f"Target {target.revision}, source {source.revision}.",
            next_step="Lift the target first (mlflow db upgrade), or compare with the store that it was made from.",
            kind="older_revision",
        )


def _verify_chain(source_text: str, target_text: str, chain: Chain, everything: bool) -> Engine[VerifyResult]:
    source_uri = parse_uri(source_text, side="source")
    target_uri = parse_uri(target_text, side="target")
    with open_reader(source_uri, chain) as source:
        try:
            target = open_reader(target_uri, chain)
        except SourceError as bad:
            # The same words, but it is the target that cannot be read.
            raise TargetError(
                bad.what.replace("The source", "The target"),
                where=bad.where,
                why=bad.why,
                next_step=bad.next_step,
                kind=bad.kind,
            ) from bad
        with target:
            _refuse_older(source, target)
            record: Record | None = find_record(target_uri, chain) if target_uri.kind != "files" else None
            document = record.document if record is not None and record.source == source_uri.identity else {}
            transforms = transforms_of(document, source.schema, target.kind)
            result = yield from compare_stores(source, target, transforms, everything=everything)
            if record is not None and record.state != "complete":
                result.notes.append("The target is marked unfinished: the migration into it has not completed.")
            return result


__all__ = ["compare_stores", "raise_troubles", "transforms_of", "verify"]
