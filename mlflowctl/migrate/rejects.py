"""The rejects file: every row that does not arrive as it was, whole, one JSON object a line.

A line begins with the migration that wrote it. Those of others (another chain's, an earlier migration's, or whatever
the file held before) are never touched.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflowctl.core.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class RejectsFile:
    """Appends lines; made with the first one. Threads may share it.

    Args:
        path: of the file.
        migration: the journal's ID.
    """

    def __init__(self, path: Path, migration: str) -> None:
        self.path = path
        self._migration = migration
        self._lock = threading.Lock()

    def lacking(self, expected: Mapping[str, int]) -> set[str]:
        """The chunks of which the file has fewer lines than were written: somebody moved or cut it.

        Args:
            expected: lines by chunk.

        Raises:
            TargetError: the file cannot be read.
        """
        there: Counter[str | None] = Counter()
        if self.path.exists():
            try:
                with self.path.open(encoding="utf-8", errors="replace") as lines:
                    there.update(chunk for owner, chunk in map(_owner_of, lines) if owner == self._migration)
            except OSError as bad:
                raise self._unwritable(bad) from bad
        return {chunk for chunk, count in expected.items() if there[chunk] < count}

    def keep(self, chunks: Iterable[str], *, abandoned: Iterable[str] = ()) -> None:
        """Drop the lines of chunks that a killed run did not finish, and a last line of its cut short.

        Args:
            chunks: those that were finished.
            abandoned: IDs of earlier attempts that this migration began afresh; none of their lines counts.

        Raises:
            TargetError: the file cannot be read or written.
        """
        if not self.path.exists():
            return
        known, gone = set(chunks), set(abandoned)
        ours = [_beginning(identity).encode() for identity in (self._migration, *gone)]

        def stays(line: bytes) -> bool:
            if not line.endswith(b"\n"):
                return not any(line.startswith(b) or b.startswith(line) for b in ours)
            owner, chunk = _owner_of(line)
            return owner not in gone and (owner != self._migration or chunk in known)

        try:
            with self.path.open("rb") as old:
                new = self.path.with_name(self.path.name + ".new")
                with new.open("wb") as kept:
                    for line in filter(stays, old):
                        kept.write(line if line.endswith(b"\n") else line + b"\n")
                    kept.flush()
                    os.fsync(kept.fileno())
            new.replace(self.path)
        except OSError as bad:
            raise self._unwritable(bad) from bad

    def write(self, chunk: str, rejects: Iterable[Mapping[str, Any]]) -> None:
        """Append the chunk's lines and flush them to the disk, before the chunk itself is committed.

        Raises:
            TargetError: the file cannot be written.
        """
        whose = {"migration": self._migration, "chunk": chunk}
        lines = [json.dumps({**whose, **reject}, ensure_ascii=False) + "\n" for reject in rejects]
        if not lines:
            return
        try:
            with self._lock, self.path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
                stream.writelines(lines)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as bad:
            raise self._unwritable(bad) from bad

    def _unwritable(self, bad: OSError) -> TargetError:
        return TargetError(
            "The rejects file cannot be written.",
            where=str(self.path),
            why=bad.strerror,
            next_step="Name another place with --rejects-file, then run the same command.",
            kind="unwritable",
            resumable=True,
        )


def _beginning(migration: str) -> str:
    return json.dumps({"migration": migration})[:-1]


def _owner_of(line: str | bytes) -> tuple[str | None, str | None]:
    """The migration and the chunk that a whole line names."""
    try:
        found = json.loads(line) if line[-1:] in ("\n", b"\n") else {}
        return str(found["migration"]), str(found["chunk"])
    except (ValueError, KeyError, TypeError):
        return None, None
