"""What can be said of a store without reading it: estimates of its rows, its artifacts, where it says that they are."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from mlflowctl.stores.api import ArtifactsUnderSource, Count
from mlflowctl.stores.files.layout import (
    ALIASES,
    ARTIFACTS,
    ASSESSMENTS,
    DATASETS,
    INPUTS,
    META,
    METRICS,
    MODELS,
    OUTPUTS,
    PARAMS,
    REQUEST_METADATA,
    RESERVED_IN_EXPERIMENT,
    TAGS,
    TRACES,
    VERSION_PREFIX,
    experiment_folders,
    is_stray,
)
from mlflowctl.stores.files.walk import printable, read_bytes
from mlflowctl.stores.files.yamls import Fields, MalformedError

if TYPE_CHECKING:
    from pathlib import Path

    from mlflowctl.stores.schema import Schema

_SAMPLE = 100
_SAMPLED_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class RecordedRoot:
    """A root below which the store says that artifacts are.

    ``exists``: it is a place of this machine that is there; None when it lies elsewhere (S3, a tracking server).
    """

    uri: str
    experiments_and_runs: int
    exists: bool | None


@dataclass(frozen=True, slots=True)
class QuickFacts:
    """Facts for a plan. ``suggestions``: pairs of old and new prefix for ``--map-artifacts``."""

    artifacts: ArtifactsUnderSource
    roots: tuple[RecordedRoot, ...]
    suggestions: tuple[tuple[str, str], ...]


def quick_facts(path: Path) -> QuickFacts:
    """Count the artifact files below a store, and compare where they are with where the store says they are.

    Of each experiment at most a hundred runs are asked where their artifacts are.
    """
    root = str(path)
    files = size = 0
    locations: Counter[tuple[str, bool]] = Counter()
    for folder in experiment_folders(root):
        names = _names(folder.path)
        runs = [n for n in names if n not in RESERVED_IN_EXPERIMENT]
        _count_root(locations, folder.path, "artifact_location", (folder.name,))
        for run in _sample(runs):
            ends = ((folder.name, run, ARTIFACTS), (run, ARTIFACTS))
            _count_root(locations, f"{folder.path}/{run}", "artifact_uri", *ends)
        below = [folder.path, f"{folder.path}/{MODELS}", f"{folder.path}/{TRACES}"]
        for base, owners in zip(below, (runs, _names(below[1]), _names(below[2])), strict=True):
            for owner in owners:
                count, found = _size_below(f"{base}/{owner}/{ARTIFACTS}")
                files += count
                size += found
    uris: Counter[str] = Counter()
    for (uri, _), count in locations.items():
        uris[uri] += count
    roots = tuple(RecordedRoot(printable(uri), count, _exists(uri)) for uri, count in uris.most_common())
    suggestions = []
    if files:
        # A location that a person chose for an experiment says nothing of where this folder came from.
        own = {printable(uri) for uri, is_root in locations if is_root}
        suggestions = [(r.uri, _new_root(r.uri, path)) for r in roots if r.exists is False and r.uri in own]
    return QuickFacts(ArtifactsUnderSource(files, size), roots, tuple(suggestions))


def _count_root(locations: Counter[tuple[str, bool]], folder: str, field: str, *ends: tuple[str, ...]) -> None:
    try:
        uri = Fields(read_bytes(f"{folder}/{META}")).text(field)
    except (OSError, MalformedError):
        return
    if not uri:
        return
    parts = re.split(r"([/\\])", uri.rstrip("/\\"))
    # What MLflow appends is cut off. After the first end what is left is a root of a whole store; after the second, or
    # without an end, it is a location that a person chose for one experiment.
    for end in ends:
        if tuple(parts[-2 * len(end) :][1::2]) == end:
            locations["".join(parts[: -2 * len(end)]), end == ends[0]] += 1
            return
    locations[uri, False] += 1


def _exists(uri: str) -> bool | None:
    path = _local_path(uri)
    return None if path is None else os.path.isdir(path)


def _local_path(uri: str) -> str | None:
    """The path of this machine that a URI means, with Windows paths among them; None for other schemes."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.\-]*):", uri)
    if scheme is None or len(scheme.group(1)) == 1:
        return uri
    if scheme.group(1).lower() != "file":
        return None
    return unquote(urlsplit(uri).path) or unquote(uri.split(":", 1)[1])


def _new_root(old: str, path: Path) -> str:
    """The store's folder, spelled as the old root was: as a path or as a file URI."""
    resolved = str(path.resolve())
    return printable(f"file://{quote(resolved)}" if old.lower().startswith("file:") else resolved)


def _size_below(folder: str) -> tuple[int, int]:
    files = size = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    count, found = _size_below(entry.path)
                    files += count
                    size += found
                elif not is_stray(entry.name):
                    files += 1
                    size += entry.stat(follow_symlinks=False).st_size
    except OSError:
        # Absent as a rule; what is unreadable is no concern of a count.
        return files, size
    return files, size


def estimated_counts(root: str, schema: Schema) -> dict[str, Count]:
    """Rows per table, judged by names of folders and by a hundred runs, traces and models."""
    rows: Counter[str] = Counter()
    for folder in experiment_folders(root):
        names = set(_names(folder.path))
        if META not in names:
            continue
        rows["experiments"] += 1
        rows["experiment_tags"] += len(_names(f"{folder.path}/{TAGS}"))
        rows["datasets"] += len(_names(f"{folder.path}/{DATASETS}"))
        runs = sorted(names - RESERVED_IN_EXPERIMENT)
        _add_scaled(rows, [f"{folder.path}/{r}" for r in runs], _run_rows)
        for sub, count in ((TRACES, _trace_rows), (MODELS, _model_rows)):
            _add_scaled(rows, [f"{folder.path}/{sub}/{n}" for n in _names(f"{folder.path}/{sub}")], count)
    for name in _names(f"{root}/{MODELS}"):
        path = f"{root}/{MODELS}/{name}"
        versions = [n for n in _names(path) if n.startswith(VERSION_PREFIX)]
        rows["registered_models"] += os.path.exists(f"{path}/{META}")
        rows["registered_model_tags"] += len(_names(f"{path}/{TAGS}"))
        rows["registered_model_aliases"] += len(_names(f"{path}/{ALIASES}"))
        rows["model_versions"] += len(versions)
        rows["model_version_tags"] += sum(len(_names(f"{path}/{v}/{TAGS}")) for v in versions)
    return {
        table: Count(len(schema.seed[table])) if table in schema.seed else Count(rows[table], estimated=True)
        for table in schema.tables
    }


def _add_scaled(rows: Counter[str], paths: list[str], count: object) -> None:
    assert callable(count)
    sampled: Counter[str] = Counter()
    sample = _sample(paths)
    for path in sample:
        sampled.update(count(path))
    for table, number in sampled.items():
        rows[table] += round(number * len(paths) / len(sample))


def _run_rows(path: str) -> dict[str, int]:
    if not os.path.exists(f"{path}/{META}"):
        return {}
    inputs, outputs = len(_names(f"{path}/{INPUTS}")), len(_names(f"{path}/{OUTPUTS}"))
    metrics = list(_files_below(f"{path}/{METRICS}"))
    return {
        "runs": 1,
        "params": sum(1 for _ in _files_below(f"{path}/{PARAMS}")),
        "tags": sum(1 for _ in _files_below(f"{path}/{TAGS}")),
        "metrics": _lines(metrics),
        "latest_metrics": len(metrics),
        "inputs": inputs + outputs,
        "input_tags": inputs,
    }


def _trace_rows(path: str) -> dict[str, int]:
    return {
        "trace_info": 1,
        "trace_tags": len(_names(f"{path}/{TAGS}")),
        "trace_request_metadata": len(_names(f"{path}/{REQUEST_METADATA}")),
        "assessments": len(_names(f"{path}/{ASSESSMENTS}")),
    }


def _model_rows(path: str) -> dict[str, int]:
    if not os.path.exists(f"{path}/{META}"):
        return {}
    return {
        "logged_models": 1,
        "logged_model_params": sum(1 for _ in _files_below(f"{path}/{PARAMS}")),
        "logged_model_tags": sum(1 for _ in _files_below(f"{path}/{TAGS}")),
        "logged_model_metrics": _lines(list(_files_below(f"{path}/{METRICS}"))),
    }


def _lines(paths: list[str]) -> int:
    """Lines of metric files, judged by their sizes and the first lines of one."""
    total = 0
    longest, length = "", 0
    for path in paths:
        size = os.path.getsize(path)
        total += size
        if size > length:
            longest, length = path, size
    if not total:
        return 0
    with open(longest, "rb") as stream:
        head = stream.read(_SAMPLED_BYTES)
    return max(1, round(total * max(1, head.count(b"\n")) / len(head)))


def _files_below(folder: str) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not is_stray(f)]
        for name in files:
            if not is_stray(name):
                yield f"{parent}/{name}"


def _names(folder: str) -> list[str]:
    try:
        return sorted(n for n in os.listdir(folder) if not is_stray(n))
    except OSError:
        return []


def _sample(items: list[str]) -> list[str]:
    if len(items) <= _SAMPLE:
        return items
    return [items[i * len(items) // _SAMPLE] for i in range(_SAMPLE)]
