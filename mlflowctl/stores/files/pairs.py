"""Folders of keys: one file per tag, parameter or metadata entry, its value the file's bytes as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlflowctl.stores.files.walk import Walk

_NOT_UTF8 = "is not valid UTF-8"


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

    def invalid(name: str, data: bytes) -> str | None:
        # Rows are made long after their files were read, so the walk is about something else by now.
        walk.about(table, owner)
        return not_utf8(walk, f"{folder}/{name}", data, {key: name}, value)

    walk.tables.add_pairs(table, key, value, owner, keys, values, invalid)


def give_pairs(
    walk: Walk, table: str, folder: str, owner: Mapping[str, Any], *, key: str = "key", value: str = "value"
) -> None:
    """A folder's entries as rows of ``table``, if it is asked for."""
    if walk.tables.wants(table):
        walk.about(table, owner)
        keys, values = read_pairs(walk, folder)
        add_pairs(walk, table, folder, owner, keys, values, key=key, value=value)


def as_text(walk: Walk, path: str, data: bytes, key: Mapping[str, Any] | None = None) -> str | None:
    """A file's text, or None after a trouble or a reject."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as bad:
        if walk.lenient:
            return not_utf8(walk, path, data, key or {}, "value")
        walk.trouble("invalid_utf8", path, _NOT_UTF8, data.count(b"\n", 0, bad.start) + 1)
        return None


def not_utf8(walk: Walk, path: str, data: bytes, key: Mapping[str, Any], value: str) -> str | None:
    """What becomes of an entry whose value is not UTF-8: a text, or None when it is left out."""
    replaced = data.decode("utf-8", "replace")
    if not walk.lenient:
        walk.trouble("invalid_utf8", path, _NOT_UTF8)
        # The row keeps its place; the trouble stops the migration before anybody relies on it.
        return replaced
    became = {value: replaced} if walk.mends else None
    walk.reject("invalid_utf8", path, _NOT_UTF8, data=data, key=key, became=became)
    return replaced if walk.mends else None
