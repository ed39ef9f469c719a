"""Proves that a target holds what a source holds, also where the target stands at a later revision."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from mlflowctl.core import signals
from mlflowctl.core.errors import SourceError, TargetError
from mlflowctl.core.events import Engine, PhaseAdvanced, PhaseFinished, PhaseStarted
from mlflowctl.core.pipeline import ahead
from mlflowctl.migrate import compare, lift
from mlflowctl.migrate.api import VerifyResult, VerifySettings
from mlflowctl.migrate.passage import Passage, explained
from mlflowctl.migrate.transform import (
    ArtifactTransform,
    NegativeZeroTransform,
    RenumberTransform,
    Transform,
    Transforms,
)
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.api import Chunk, TableBatch, Trouble
from mlflowctl.stores.hashing import TableHash
from mlflowctl.stores.open import open_reader
from mlflowctl.stores.sql.collate import target_texts
from mlflowctl.stores.sql.target import Record, find_record
from mlflowctl.stores.uri import parse_uri

if TYPE_CHECKING:
    from mlflowctl.migrate.passage import Lane
    from mlflowctl.migrate.select import Selection
    from mlflowctl.stores.api import Reader
    from mlflowctl.stores.schema import Chain
    from mlflowctl.stores.uri import StoreUri


def passage_of(
    document: Mapping[str, Any],
    reader: Reader,
    target_kind: str,
    final_revision: str,
    target_uri: StoreUri | None,
    selection: Selection | None = None,
) -> Passage:
    """What a migration's journal says happens to rows on their way; a verification repeats it on the source.

    Args:
        document: the journal's document; an empty one stands for a comparison without any change.
        reader: the source.
        target_kind: sqlite, postgresql or mysql.
        final_revision: the revision at which the target ends.
        target_uri: the target, which is asked how it compares text; None where it need not be.
        selection: what the document's criteria choose, where that is known already.
    """
    schema = reader.schema
    reader.policy = document.get("on_bad_row") or "stop"
    mappings = [(old, new) for old, new in document.get("map_artifacts", ())]
    reroot = document.get("reroot_artifacts")
    ids = {int(old): int(new) for old, new in document.get("experiment_ids", {}).items()}

    def transforms() -> Transforms:
        chosen: list[Transform] = []
        if mappings or reroot:
            chosen.append(ArtifactTransform(mappings, reroot))
        if ids:
            chosen.append(RenumberTransform(ids, schema))
        if target_kind in ("sqlite", "mysql"):
            chosen.append(NegativeZeroTransform(schema))
        return Transforms(chosen, schema)

    if selection is None and (document.get("only") or document.get("exclude") or document.get("since")):
        from mlflowctl.migrate.select import Selection

        selection = Selection.make(reader, document.get("only", ()), document.get("exclude", ()), document.get("since"))
    cleaning = None
    if document.get("on_bad_row"):
        from mlflowctl.migrate.clean import Cleaning

        copy_schema = schemas.schema_at(reader.chain, cast("schemas.Dialect", target_kind), reader.revision)
        with target_texts(target_uri) as texts:
            cleaning = Cleaning.prepare(reader, document["on_bad_row"], target_kind, copy_schema, final_revision, texts)
    return Passage(transforms, selection, cleaning)


def source_stream(
    reader: Reader,
    passage: Passage,
    lifted: lift.Lift,
    tables: Sequence[str] | None = None,
    lane: Lane | None = None,
) -> Iterator[TableBatch]:
    """The source's rows as the target should hold them: changed on their way, then lifted to its revision."""
    wanted = None if tables is None else lifted.sources_of(tables)
    return lifted.stream(without_odd(passage.stream(reader.batches(wanted), lane), reader), tables)


def without_odd(batches: Iterator[TableBatch], reader: Reader) -> Iterator[TableBatch]:
    """The batches; rows that no rule has decided on become troubles of the reader."""
    for batch in batches:
        for odd in batch.odd:
            key = ", ".join(f"{k}={odd.cells.get(k)}" for k in reader.schema.tables[batch.table].primary_key)
            reader.report.troubles.append(Trouble("wrong_type", f"{batch.table}[{key}]", "a cell is of another type"))
        yield TableBatch(batch.table, batch.rows) if batch.odd else batch


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
    passage: Passage,
    *,
    everything: bool,
    source_hashes: Mapping[str, TableHash] | None = None,
    leave_out: Collection[str] = (),
    phase: str = "verify",
    jobs: int = 2,
) -> Engine[VerifyResult]:
    """Hash both sides table by table and name the rows that differ.

    ``source_hashes`` spares reading what was hashed while it was copied: at one revision everything, at a later one the
    tables that no upgrade touches. ``leave_out`` names tables that another proof compares.
    """
    started = time.perf_counter()
    lifted = lift.plan(source.schema, target.schema)
    tables = {name: comparison for name, comparison in lifted.comparisons.items() if name not in leave_out}
    hashed: dict[str, TableHash] = {}
    if source_hashes is not None:
        same = source.schema.revision == target.schema.revision
        hashed = {n: h for n, h in source_hashes.items() if n in tables and (same or n in lifted.untouched)}
        # The copy was hashed with the columns that the source has; one that it lost is filled by the target.
        tables = {n: compare.narrowed(c, hashed[n].kinds) if n in hashed else c for n, c in tables.items()}
    compared = {name: comparison for name, comparison in tables.items() if comparison.kinds}
    chunks = [chunk for chunk in target.chunks() if compared.keys() & set(chunk.tables)]
    read = {name: comparison for name, comparison in compared.items() if name not in hashed}
    rows = sum(c.rows for c in chunks) + sum(c.rows for c in chunks if read.keys() & set(c.tables))
    yield PhaseStarted(phase, "rows", rows, True)
    lane = passage.lane()
    work: list[_Work] = []
    left, right = ({name: TableHash(name, c.kinds) for name, c in tables.items()} for _ in range(2))
    left.update(hashed)
    if read:
        stream = source_stream(source, passage, lifted, list(read), lane)
        work.append(_Work(lambda: iter([stream]), {name: left[name] for name in tables if name not in hashed}))
    parts: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    for chunk in chunks:
        parts.put(chunk)
    for number in range(max(1, jobs - len(work))):
        reader = target if number == 0 else target.sibling()
        if reader is None:
            break
        hashes = right if number == 0 else {name: TableHash(name, c.kinds) for name, c in tables.items()}
        work.append(_Work(partial(_read_parts, reader, parts), hashes, reader if number else None))
    done = yield from _hash_in_threads(work, tables, phase, together=jobs > 1)
    for other in work:
        if other.reader is not None:
            for name, part in other.hashes.items():
                right[name].take(part.rows, part.hexdigest)
    if read:
        raise_troubles(source)
    result = VerifyResult(tables=compare.verdicts(tables, left, right), notes=list(lifted.notes))
    for verdict in result.tables:
        if verdict.verdict in "-+*" and verdict.name in compared:
            comparison = tables[verdict.name]
            found, cut = compare.locate(
                comparison,
                lambda names: source_stream(source, passage, lifted, names),
                lambda names, c=comparison: target.batches(names, {c.name: list(c.kinds)}),  # type: ignore[misc]
                everything=everything,
            )
            result.differences.extend(found)
            result.truncated = result.truncated or cut
    result.explained.extend(explained(lane.tally()))
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


@dataclass(frozen=True, slots=True)
class _Work:
    """What one thread hashes."""

    streams: Callable[[], Iterator[Iterator[TableBatch]]]
    hashes: dict[str, TableHash]
    reader: Reader | None = None
    """A reader of its own, to be closed."""


def _read_parts(reader: Reader, parts: queue.SimpleQueue[Chunk]) -> Iterator[Iterator[TableBatch]]:
    while True:
        try:
            yield reader.read(parts.get_nowait())
        except queue.Empty:
            return


def _hash_in_threads(
    work: Sequence[_Work], tables: Mapping[str, compare.TableComparison], phase: str, *, together: bool
) -> Engine[int]:
    """Hash every stream into its own sums; the rows that were read."""
    news: queue.SimpleQueue[tuple[str, int, int] | None] = queue.SimpleQueue()
    failures: list[BaseException] = []

    def run(one: _Work) -> None:
        try:
            for stream in one.streams():
                with closing(ahead(stream)) if together else nullcontext(stream) as batches:
                    for batch in batches:
                        signals.check("Run the same command again: what is copied stays.")
                        if failures:
                            return
                        if batch.table in tables and tables[batch.table].kinds:
                            one.hashes[batch.table].add(batch.rows.select(list(tables[batch.table].kinds)))
                            news.put((batch.table, batch.rows.num_rows, batch.rows.nbytes))
        except BaseException as bad:  # noqa: BLE001 - raised by the thread that waits
            failures.append(bad)
        finally:
            if one.reader is not None:
                with suppress(Exception):
                    one.reader.close()
            news.put(None)

    threads = [threading.Thread(target=run, args=(one,), name="mlflowctl-proof", daemon=True) for one in work]
    waiting = list(threads)
    done = size = 0
    left = len(threads)
    for thread in waiting if together else waiting[:1]:
        thread.start()
    started = len(threads) if together else 1
    while left:
        item = news.get()
        if item is None:
            left -= 1
            if started < len(threads):
                threads[started].start()
                started += 1
            continue
        table, rows, nbytes = item
        done += rows
        size += nbytes
        yield PhaseAdvanced(phase, done, table, size)
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return done


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
            if document.get("on_bad_row") == "stop":  # nothing was left out or mended
                document = {**document, "on_bad_row": None}
            passage = passage_of(document, source, target.kind, target.revision, target_uri)
            result = yield from compare_stores(source, target, passage, everything=everything)
            if record is not None and record.state != "complete":
                result.notes.append("The target is marked unfinished: the migration into it has not completed.")
            return result


__all__ = ["compare_stores", "passage_of", "raise_troubles", "verify"]
