"""Folders of keys: one file per tag, parameter or metadata entry, its value the file's bytes as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from mlflowctl.stores.files.walk import Walk


def read_pairs(walk: Walk, folder: str) -> tuple[list[str], list[bytes]]:
    """Keys and values of a folder; none when it is not there."""
    keys: list[str] = []
    values: list[bytes] = []
    for key, path, data in walk.files(folder):
        if walk.muted:
            _text(walk, path, data)
        keys.append(key)
        values.append(data)
    return keys, values


def give_pairs(
    walk: Walk,
    table: str,
    folder: str,
    owner: Mapping[str, Any],
    *,
    key: str = "key",
    value: str = "value",
) -> None:
    """A folder's entries as rows of ``table``, with the columns of their owner."""
    if not walk.tables.wants(table):
        return
    keys, values = read_pairs(walk, folder)
    if walk.muted:
        return

    def invalid(name: str) -> None:
        walk.trouble("invalid_utf8", f"{folder}/{name}", "is not valid UTF-8")

    walk.tables.add_pairs(table, key, value, owner, keys, values, invalid)


def read_texts(walk: Walk, folder: str) -> dict[str, str]:
    """A small folder's entries as text; those that are not UTF-8 are reported and left out."""
    found: dict[str, str] = {}
    for key, path, data in walk.files(folder):
        text = _text(walk, path, data)
        if text is not None:
            found[key] = text
    return found


def _text(walk: Walk, path: str, data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as bad:
        walk.trouble("invalid_utf8", path, "is not valid UTF-8", data.count(b"\n", 0, bad.start) + 1)
        return None


def give_texts(
    walk: Walk, table: str, owner: Mapping[str, Any], texts: Mapping[str, str], without: Collection[str] = ()
) -> None:
    """Entries that were read before, as rows."""
    for key, value in texts.items():
        if key not in without:
            walk.tables.add(table, key=key, value=value, **owner)
