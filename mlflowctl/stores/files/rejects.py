"""Files that do not arrive as they are when bad rows do not stop a migration, and what lies below them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

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
    TAGS,
    TRACE_INFO,
    VERSION_PREFIX,
    is_stray,
)

POLICIES = ("stop", "skip", "fix")
_BY_FOLDER = {
    PARAMS: "params",
    METRICS: "metrics",
    TAGS: "tags",
    REQUEST_METADATA: "trace metadata",
    ASSESSMENTS: "assessments",
    ALIASES: "aliases",
    DATASETS: "datasets",
    INPUTS: "inputs",
    OUTPUTS: "outputs",
}


@dataclass(frozen=True, slots=True)
class FileReject:
    """One file or folder that is left out, or whose rows do not arrive as it has them: a line of the rejects file.

    ``where`` is a path (with ``:line``), ``content`` the file's whole text, ``{"bytes": hex}`` where it is not UTF-8,
    None for a folder. ``table`` and ``key`` name the row that it would have been, as far as that is known. ``below``
    counts by kind the files that are left out with it. ``became`` holds what was changed, by the names of the file's
    own fields or of the row's columns; None: it was left out.
    """

    rule: str
    where: str
    text: str
    content: str | Mapping[str, str] | None
    table: str
    key: Mapping[str, Any]
    below: Mapping[str, int] = field(default_factory=dict)
    became: Mapping[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """The line as JSON."""
        return {
            "rule": self.rule,
            "table": self.table,
            "key": dict(self.key),
            "where": self.where,
            "text": self.text,
            "content": dict(self.content) if isinstance(self.content, Mapping) else self.content,
            "below": dict(self.below),
            "became": None if self.became is None else dict(self.became),
        }


def content_of(data: bytes | None) -> str | dict[str, str] | None:
    """A file's content as JSON can hold it."""
    if data is None:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return {"bytes": data.hex()}


def count_below(folder: str, unreadable: Callable[[str, OSError], None], *, among_keys: bool = False) -> dict[str, int]:
    """Files below a folder by kind, its own description and the artifacts not counted: they are no rows.

    ``unreadable`` is told of folders that cannot be listed. ``among_keys``: the folder's name is part of keys.
    """
    counts: Counter[str] = Counter()
    above = [part for part in folder.split("/") if part in _BY_FOLDER] if among_keys else []
    _count(folder, tuple(above[-1:]), counts, unreadable)
    return dict(sorted(counts.items()))


def _count(
    folder: str, parts: tuple[str, ...], counts: Counter[str], unreadable: Callable[[str, OSError], None]
) -> None:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_stray(entry.name):
                    continue
                if entry.is_dir():
                    # A link among keys is not followed by MLflow; one to a whole run is.
                    among_keys = any(p in _BY_FOLDER for p in parts)
                    if not (entry.name == ARTIFACTS and not among_keys) and not (among_keys and entry.is_symlink()):
                        _count(entry.path, (*parts, entry.name), counts, unreadable)
                elif parts or entry.name not in (META, TRACE_INFO):
                    counts[_kind(parts, entry.name)] += 1
    except OSError as bad:
        unreadable(folder, bad)


def _kind(parts: tuple[str, ...], name: str) -> str:
    for part in parts:
        if part in _BY_FOLDER:
            return _BY_FOLDER[part]
    if name == TRACE_INFO:
        return "traces"
    if name == META:
        if parts[-1].startswith(VERSION_PREFIX):
            return "model versions"
        return "logged models" if parts[:1] == (MODELS,) else "runs"
    return "other files"
