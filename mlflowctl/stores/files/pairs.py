"""Folders of keys: one file per tag, parameter or metadata entry, its value the file's bytes as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlflowctl.stores.files.walk import Walk


def read_pairs(walk: Walk, folder: str) -> tuple[list[str], list[bytes]]:
    """Keys and values of a folder; none when it is not there."""
    keys: list[str] = []
    values: list[bytes] = []
    for key, path, data in walk.files(folder):
        if walk.muted:
            as_text(walk, path, data)
        keys.append(key)
        values.append(data)
    return keys, values


def add_pairs(
    walk: Walk,
    table: str,
    folder: str,
    owner: Mapping[str, Any],
    keys: list[str],
    values: list[bytes],
    *,
    key: str = "key",
    value: str = "value",
) -> None:
    """Entries of a folder as rows of ``table``, with the columns of their owner."""

    def invalid(name: str) -> None:
        walk.trouble("invalid_utf8", f"{folder}/{name}", "is not valid UTF-8")

    walk.tables.add_pairs(table, key, value, owner, keys, values, invalid)


def give_pairs(
    walk: Walk, table: str, folder: str, owner: Mapping[str, Any], *, key: str = "key", value: str = "value"
) -> None:
    """A folder's entries as rows of ``table``, if it is asked for."""
    if walk.tables.wants(table):
        keys, values = read_pairs(walk, folder)
        add_pairs(walk, table, folder, owner, keys, values, key=key, value=value)


def as_text(walk: Walk, path: str, data: bytes) -> str | None:
    """A file's text, or None after a trouble."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as bad:
        walk.trouble("invalid_utf8", path, "is not valid UTF-8", data.count(b"\n", 0, bad.start) + 1)
        return None
