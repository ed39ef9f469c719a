"""The rejects file: every row that does not arrive as it was, whole, one JSON object a line."""

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
    """Appends lines; made with the first one. Threads may share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
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
                    there.update(map(_chunk_of, lines))
            except OSError as bad:
                raise self._unwritable(bad) from bad
        return {chunk for chunk, count in expected.items() if there[chunk] < count}

    def keep(self, chunks: Iterable[str]) -> None:
        """Drop the lines of chunks that a killed run did not finish, and a last line cut short.

        Raises:
            TargetError: the file cannot be read or written.
        """
        if not self.path.exists():
            return
        known = set(chunks)
        try:
            with self.path.open(encoding="utf-8", errors="replace") as old:
                new = self.path.with_name(self.path.name + ".new")
                with new.open("w", encoding="utf-8") as kept:
                    kept.writelines(line for line in old if _chunk_of(line) in known)
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
        lines = [json.dumps({"chunk": chunk, **reject}, ensure_ascii=False) + "\n" for reject in rejects]
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


def _chunk_of(line: str) -> str | None:
    try:
        return str(json.loads(line)["chunk"]) if line.endswith("\n") else None
    except (ValueError, KeyError, TypeError):
        return None
