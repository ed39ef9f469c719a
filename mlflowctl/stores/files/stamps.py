"""Notices what changes in a store while it is read.

A folder has no instant. Of every file that is read its size, times and inode are taken from the open descriptor before
its bytes are, and summed up for each run, trace, model and experiment: 8 bytes and a name each. Afterwards a second look
at the folders, which opens no file, sums up the same. Clocks are not asked, since a network file system has its own.

A file that is written anew in place, with as many bytes, within one tick of the file system's clock since it was written
before, and read in between, cannot be told from one that stayed: nothing but its content has changed.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mlflowctl.stores.files.layout import (
    ALIASES,
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
    TRACE_INFO,
    TRACES,
    TRASH,
    VERSION_PREFIX,
    ExperimentFolder,
    experiment_folders,
    is_stray,
)

if TYPE_CHECKING:
    Wants = Callable[..., bool]

RUN, TRACE, MODEL = "run", "trace", "logged model"
_MASK = (1 << 64) - 1
_INPUT_TABLES = ("datasets", "inputs", "input_tags")


def stamp(path: str, status: os.stat_result) -> int:
    """A number that differs when the file does."""
    return hash((path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))


class _Group:
    """The things of one kind in one experiment: names that end in NUL, and their sums."""

    __slots__ = ("names", "sums")

    def __init__(self) -> None:
        self.names = bytearray()
        self.sums = array("Q")

    def add(self, name: str, total: int) -> None:
        self.names += os.fsencode(name) + b"\0"
        self.sums.append(total & _MASK)

    def whole(self) -> dict[str, int]:
        return dict(zip(map(os.fsdecode, bytes(self.names).split(b"\0")), self.sums, strict=False))


class Stamps:
    """What one walk has seen, and what a second look finds."""

    def __init__(self, wants: Wants, *, always_meta: bool) -> None:
        self._look = _Look(wants, always_meta=always_meta)
        self._sum = 0
        self._experiments: dict[tuple[bool, str], int] = {}
        self._groups: dict[tuple[bool, str, str], _Group] = {}
        self._registry: dict[str, int] = {}

    def see(self, path: str, status: os.stat_result) -> None:
        """A file that was read, with its status from before the reading."""
        self._sum += stamp(path, status)

    def see_below(self, folder: str) -> None:
        """Files below a folder of keys, which are not read because of what is wrong above them."""
        self._sum += _tree(folder)

    def forget(self) -> None:
        """What was seen since the last thing belongs to nothing that is compared."""
        self._sum = 0

    def experiment(self, folder: ExperimentFolder) -> None:
        """What was seen since the last thing belongs to the experiment itself."""
        key = (folder.trashed, folder.name)
        self._experiments[key] = (self._experiments.get(key, 0) + self._take()) & _MASK

    def thing(self, kind: str, folder: ExperimentFolder, name: str) -> None:
        """What was seen since the last thing belongs to a run, trace or logged model."""
        self._group(kind, folder).add(name, self._take())

    def registered_model(self, name: str) -> None:
        """What was seen since the last thing belongs to a registered model."""
        self._registry[name] = self._take() & _MASK

    def unread_experiment(self, folder: ExperimentFolder) -> None:
        """An experiment that is rejected with all below it: it is looked at, not read."""
        self.forget()
        self._experiments[folder.trashed, folder.name] = self._look.experiment(folder.path) & _MASK
        for kind, name, total in self._look.things(folder.path):
            self._group(kind, folder).add(name, total)

    def unread_thing(self, kind: str, folder: ExperimentFolder, name: str) -> None:
        """A run, trace or logged model that is rejected with all below it."""
        self.forget()
        total = self._look.thing(kind, folder.path, name)
        if total is not None:
            self._group(kind, folder).add(name, total)

    def unread_registered_model(self, root: str, name: str) -> None:
        """A registered model that is rejected with all below it."""
        self.forget()
        self._registry[name] = self._look.registered_model(f"{root}/{MODELS}/{name}") & _MASK

    def _take(self) -> int:
        total, self._sum = self._sum, 0
        return total

    def _group(self, kind: str, folder: ExperimentFolder) -> _Group:
        return self._groups.setdefault((folder.trashed, folder.name, kind), _Group())

    def changed(self, root: str) -> list[str]:
        """What differs from what was read: ``run ID in experiment ID``, with ``(new)`` or ``(gone)`` where it is.

        Raises:
            OSError: the root cannot be listed any more.
        """
        found: list[str] = []
        before = dict(self._experiments)
        for folder in experiment_folders(root):
            known = before.pop((folder.trashed, folder.name), None)
            if known is None and not os.path.exists(f"{folder.path}/{META}"):
                continue
            label = _label(folder.trashed, folder.name)
            if known is None:
                found.append(f"{label} (new)")
            elif self._look.experiment(folder.path) & _MASK != known:
                found.append(label)
            found += self._changed_things(folder, label)
        found += [f"{_label(*key)} (gone)" for key in before]
        registry = dict(self._registry)
        for name, total in self._look.registry(f"{root}/{MODELS}"):
            known = registry.pop(name, None)
            if known is None:
                found.append(f"registered model {name} (new)")
            elif known != total & _MASK:
                found.append(f"registered model {name}")
        return found + [f"registered model {name} (gone)" for name in registry]

    def _changed_things(self, folder: ExperimentFolder, label: str) -> list[str]:
        before: dict[str, dict[str, int]] = {}
        for kind in (RUN, TRACE, MODEL):
            group = self._groups.get((folder.trashed, folder.name, kind))
            before[kind] = {} if group is None else group.whole()
        found: list[str] = []
        for kind, name, total in self._look.things(folder.path):
            known = before[kind].pop(name, None)
            if known is None:
                found.append(f"{kind} {name} in {label} (new)")
            elif known != total & _MASK:
                found.append(f"{kind} {name} in {label}")
        return found + [f"{kind} {name} in {label} (gone)" for kind, names in before.items() for name in names]


def _label(trashed: bool, name: str) -> str:
    return f"experiment {name} in {TRASH}" if trashed else f"experiment {name}"


class _Look:
    """Sums up the files that a walk for the same tables reads, without opening them."""

    def __init__(self, wants: Wants, *, always_meta: bool) -> None:
        self._wants = wants
        self._run_tables = wants("runs", "params", "tags", "metrics", "latest_metrics", *_INPUT_TABLES)
        self._run_meta = always_meta or wants("runs")
        self._metrics = wants("metrics", "latest_metrics")
        self._inputs = wants(*_INPUT_TABLES)
        self._traces = wants("trace_info", "trace_tags", "trace_request_metadata", "assessments")
        self._models = wants("logged_models", "logged_model_params", "logged_model_tags", "logged_model_metrics")
        self._registered = wants(
            "registered_models",
            "registered_model_tags",
            "registered_model_aliases",
            "model_versions",
            "model_version_tags",
        )

    def experiment(self, path: str) -> int:
        total = _file(f"{path}/{META}")
        if self._wants("experiment_tags"):
            total += _tree(f"{path}/{TAGS}")
        if self._inputs:
            total += _described(f"{path}/{DATASETS}")
        return total

    def things(self, path: str) -> Iterator[tuple[str, str, int]]:
        """Kind, name and sum of all that lies in an experiment."""
        for kind, base in ((RUN, path), (TRACE, f"{path}/{TRACES}"), (MODEL, f"{path}/{MODELS}")):
            if kind == RUN and not self._run_tables:
                continue
            if (kind == TRACE and not self._traces) or (kind == MODEL and not self._models):
                continue
            for name in _names(base):
                if kind == RUN and name in RESERVED_IN_EXPERIMENT:
                    continue
                total = self.thing(kind, path, name)
                if total is not None:
                    yield kind, name, total

    def thing(self, kind: str, experiment: str, name: str) -> int | None:
        """The sum of one, or None when it has no file that says what it is."""
        if kind == RUN:
            return self._run(f"{experiment}/{name}")
        return (
            self._trace(f"{experiment}/{TRACES}/{name}")
            if kind == TRACE
            else self._model(f"{experiment}/{MODELS}/{name}")
        )

    def _run(self, path: str) -> int | None:
        names = _names(path)
        if META not in names:
            return None
        total = _file(f"{path}/{META}") if self._run_meta else 0
        for folder, wanted in ((PARAMS, self._wants(PARAMS)), (TAGS, self._wants(TAGS)), (METRICS, self._metrics)):
            if wanted and folder in names:
                total += _tree(f"{path}/{folder}")
        for folder in (INPUTS, OUTPUTS) if self._inputs else ():
            if folder in names:
                total += _described(f"{path}/{folder}")
        return total

    def _trace(self, path: str) -> int | None:
        names = _names(path)
        if TRACE_INFO not in names:
            return None
        total = _file(f"{path}/{TRACE_INFO}")
        for folder in (TAGS, REQUEST_METADATA):
            if folder in names:
                total += _tree(f"{path}/{folder}")
        if ASSESSMENTS in names and self._wants("assessments"):
            base = f"{path}/{ASSESSMENTS}"
            total += sum(_file(f"{base}/{n}") for n in _names(base) if n.endswith(".yaml"))
        return total

    def _model(self, path: str) -> int | None:
        names = _names(path)
        if META not in names:
            return None
        total = _file(f"{path}/{META}")
        for folder in (PARAMS, TAGS, METRICS):
            if folder in names and self._wants(f"logged_model_{folder}"):
                total += _tree(f"{path}/{folder}")
        return total

    def registry(self, base: str) -> Iterator[tuple[str, int]]:
        """Name and sum of the registered models."""
        for name in _names(base) if self._registered else ():
            if os.path.exists(f"{base}/{name}/{META}"):
                yield name, self.registered_model(f"{base}/{name}")

    def registered_model(self, path: str) -> int:
        total = _file(f"{path}/{META}")
        if self._wants("registered_model_tags"):
            total += _tree(f"{path}/{TAGS}")
        if self._wants("registered_model_aliases"):
            total += _tree(f"{path}/{ALIASES}")
        for name in _names(path):
            if name.startswith(VERSION_PREFIX) and os.path.lexists(f"{path}/{name}/{META}"):
                total += _file(f"{path}/{name}/{META}")
                if self._wants("model_version_tags"):
                    total += _tree(f"{path}/{name}/{TAGS}")
        return total


def _file(path: str) -> int:
    try:
        status = os.stat(path)
    except OSError:
        return 0
    return 0 if stat.S_ISDIR(status.st_mode) else stamp(path, status)


def _described(folder: str) -> int:
    return sum(_file(f"{folder}/{name}/{META}") for name in _names(folder))


def _tree(folder: str) -> int:
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not _usable(entry.name):
                    continue
                if entry.is_dir():
                    total += 0 if entry.is_symlink() else _tree(entry.path)
                    continue
                try:
                    status = entry.stat()
                except OSError:
                    continue
                total += stamp(entry.path, status)
    except OSError:
        return total
    return total


def _names(folder: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(n for n in names if _usable(n))


def _usable(name: str) -> bool:
    if is_stray(name):
        return False
    if name.isascii():
        return True
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
