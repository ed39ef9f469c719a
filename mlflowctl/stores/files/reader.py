"""The file store as a ``Reader``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from mlflowctl.core.errors import SourceError
from mlflowctl.stores.api import Count, Reader, ReadReport, TableBatch
from mlflowctl.stores.files import quick
from mlflowctl.stores.files.ids import Ids, folders_in, maybe_runs_in, runs_in
from mlflowctl.stores.files.layout import MODELS, TRACES, experiment_folders
from mlflowctl.stores.files.metrics import MetricFiles
from mlflowctl.stores.files.models import Finder, ModelPoints, give_models
from mlflowctl.stores.files.neighbours import check_is_store, notes_on_neighbours
from mlflowctl.stores.files.registry import give_registry
from mlflowctl.stores.files.rejects import POLICIES, FileReject
from mlflowctl.stores.files.rows import Tables
from mlflowctl.stores.files.traces import give_traces
from mlflowctl.stores.files.tracking import Experiments, Runs, give_experiment_tags
from mlflowctl.stores.files.walk import Walk, printable
from mlflowctl.stores.schema import Schema, schema_at

if TYPE_CHECKING:
    from pathlib import Path

    from mlflowctl.stores.files.layout import ExperimentFolder
    from mlflowctl.stores.files.stamps import Stamps
    from mlflowctl.stores.schema import Chain

READER_REVISION = "dc11669786a5"
"""The revision of MLflow 3.17, whose rows this reader gives."""

_RUN_TABLES = ("runs", "params", "tags", "metrics", "latest_metrics", "datasets", "inputs", "input_tags")
_TRACE_TABLES = ("trace_info", "trace_tags", "trace_request_metadata", "assessments")
_MODEL_TABLES = ("logged_models", "logged_model_params", "logged_model_tags", "logged_model_metrics")
FILLED_TABLES = (
    "experiments",
    "experiment_tags",
    *_RUN_TABLES,
    *_TRACE_TABLES,
    *_MODEL_TABLES,
    "registered_models",
    "registered_model_tags",
    "registered_model_aliases",
    "model_versions",
    "model_version_tags",
)
"""The tables that a file store can fill. Rows that a new schema already has are given beside them."""


def open_files(path: Path, policy: str = "stop") -> FilesReader:
    """Open a file store.

    Args:
        path: the folder.
        policy: what becomes of what is malformed: stop, skip or fix.

    Raises:
        SourceError: the path is no file store; the error says what it is and what to name instead.
    """
    check_is_store(path)
    return FilesReader(path, policy)


class FilesReader(Reader):
    """A file store, read at no single instant: MLflow may write while it is read.

    The rows and the rejects of a reading follow from what the folder holds and from the policy alone, and a table's
    rows do not depend on the other tables that are asked for.
    """

    kind = "files"
    snapshot = "none"
    chain: Chain = "tracking"
    revision = READER_REVISION

    def __init__(self, path: Path, policy: str = "stop") -> None:
        self.path = path
        self.policy = policy
        """``stop``: what is malformed is a trouble. ``skip``: it is rejected with all below it. ``fix``: it is mended
        where a rule says how. May be set until something is read."""
        self.rejects: list[FileReject] = []
        """What the last reading left out or changed, as far as it has come; ``take_rejects`` empties it."""
        self._stamps: Stamps | None = None
        self._stamped = 0
        self.uri = printable(str(path))
        whole = schema_at("tracking", "sqlite", READER_REVISION)
        names = [name for name in whole.tables if name in FILLED_TABLES or name in whole.seed]
        tables = {name: whole.tables[name] for name in names}
        self.schema = Schema(whole.chain, whole.dialect, whole.revision, tables, whole.seed)
        self._notes = notes_on_neighbours(path)
        self.report = ReadReport(notes=list(self._notes))

    def counts(self, *, exact: bool) -> Mapping[str, Count]:
        """Rows per table: by reading everything, or estimated from names of folders and a sample of runs."""
        if not exact:
            return quick.estimated_counts(str(self.path), self.schema)
        rows = dict.fromkeys(self.schema.tables, 0)
        for batch in self._begin(None, None, keep=False):
            rows[batch.table] += batch.rows.num_rows
        return {table: Count(number) for table, number in rows.items()}

    def quick_facts(self) -> quick.QuickFacts:
        """Artifacts below the folder, and where the store says that artifacts are. Opens no metric, param or tag."""
        return quick.quick_facts(self.path)

    def batches(
        self, tables: Sequence[str] | None = None, columns: Mapping[str, Sequence[str]] | None = None
    ) -> Iterator[TableBatch]:
        """One walk over the folders; ``report`` is begun anew and is complete when the stream is exhausted.

        A table's batch has at most 131,072 rows. What is malformed becomes a trouble in the report and never an error
        here, so that one reading finds all of it; of what lies below a malformed thing no rows are given. With another
        policy than ``stop`` it goes to ``rejects`` instead.

        Raises:
            SourceError: the folder itself cannot be listed any more.
        """
        return self._begin(tables, columns, keep=True)

    def take_rejects(self) -> list[FileReject]:
        """What was rejected or mended since the last call, or since the reading began."""
        taken = self.rejects[:]
        del self.rejects[: len(taken)]
        return taken

    def changed(self) -> list[str]:
        """What differs from when it was read: ``run ID in experiment ID``, ``experiment ID``, ..., in the store's order.

        Things that came or went end in ``(new)`` or ``(gone)``. Compared is the reading of most tables that came to its
        end, of several the first; one that only counted is none. Nothing was read: nothing changed.

        Raises:
            SourceError: the folder itself cannot be listed any more.
        """
        if self._stamps is None:
            return []
        try:
            return [printable(name) for name in self._stamps.changed(str(self.path))]
        except OSError as bad:
            raise self._unreadable(bad) from None

    def _unreadable(self, bad: OSError) -> SourceError:
        return SourceError("The folder cannot be read.", where=self.uri, why=bad.strerror, kind="unreadable")

    def _begin(
        self, tables: Sequence[str] | None, columns: Mapping[str, Sequence[str]] | None, *, keep: bool
    ) -> Iterator[TableBatch]:
        if self.policy not in POLICIES:
            raise ValueError(f"no such policy: {self.policy}")
        wanted = self.schema.tables if tables is None else [t for t in tables if t in self.schema.tables]
        self.report = ReadReport(notes=list(self._notes))
        self.rejects = []
        buffers = Tables(self.schema, wanted, columns or {})
        walk = Walk(str(self.path), buffers, self.report, self.policy, self.rejects)
        return self._kept(walk, buffers, len(wanted)) if keep else self._stream(walk, buffers)

    def _kept(self, walk: Walk, buffers: Tables, tables: int) -> Iterator[TableBatch]:
        yield from self._stream(walk, buffers)
        if tables > self._stamped:
            self._stamps, self._stamped = walk.stamps, tables

    def _stream(self, walk: Walk, buffers: Tables) -> Iterator[TableBatch]:
        for table, rows in self.schema.seed.items():
            for row in rows:
                buffers.add(table, **row)
        try:
            folders = experiment_folders(walk.root)
        except OSError as bad:
            raise self._unreadable(bad) from None
        finder = Finder(folders)
        metrics = MetricFiles(walk)
        ids = Ids("run", runs_in)
        experiments, runs = Experiments(walk, folders), Runs(walk, metrics, finder.model, ids)
        paths = [f.path for f in folders]
        if walk.lenient and buffers.wants(*_RUN_TABLES):
            ids.firsts(paths, maybe_runs_in)
        opened: list[tuple[ExperimentFolder, int, bool]] = []
        for folder in folders:
            found = experiments.open(folder)
            if found is None:
                walk.stamps.forget()
                continue
            number, whole = found
            if walk.lenient and not whole:
                walk.stamps.unread_experiment(folder)
                continue
            opened.append((folder, number, whole))
            walk.muted = not whole
            give_experiment_tags(walk, folder, number)
            walk.stamps.experiment(folder)
            if buffers.wants(*_RUN_TABLES):
                for _ in runs.give(folder, number):
                    yield from buffers.ready()
            walk.muted = False
        for _ in metrics.flush():
            yield from buffers.ready()
        ids.report(walk)
        points = ModelPoints(walk, finder)
        for give, ids, listed in (
            (give_traces, Ids("trace", folders_in(TRACES)), _TRACE_TABLES),
            (partial(give_models, points=points), Ids("logged model", folders_in(MODELS)), _MODEL_TABLES),
        ):
            if walk.lenient and buffers.wants(*listed):
                ids.firsts(paths)
            for folder, number, whole in opened:
                walk.muted = not whole
                for _ in give(walk, folder, number, ids):
                    yield from buffers.ready()
                walk.muted = False
            ids.report(walk)
        points.flush()
        for _ in give_registry(walk):
            yield from buffers.ready()
        yield from buffers.rest()
        walk.finish()

    def close(self) -> None:
        """Nothing is held open."""
