"""One walk over a store: what it collects beside the rows, and how it opens folders and files."""

from __future__ import annotations

import errno
import os
from collections import Counter
from typing import TYPE_CHECKING

from mlflowctl.stores.api import NotCarried, Trouble
from mlflowctl.stores.files.layout import is_stray
from mlflowctl.stores.files.yamls import Fields, MalformedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflowctl.stores.api import ReadReport
    from mlflowctl.stores.files.rows import Tables

# O_NONBLOCK: opening a pipe that lies where a file should must not wait for a writer.
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
_FIRST_READ = 16 * 1024
_NEXT_READ = 1 << 20


def read_bytes(path: str) -> bytes:
    """A file's bytes, with the fewest system calls: a store has hundreds of thousands of files.

    Raises:
        OSError: it cannot be read; IsADirectoryError for a folder.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        data = os.read(descriptor, _FIRST_READ)
        if len(data) < _FIRST_READ:
            return data
        parts = [data]
        while data := os.read(descriptor, _NEXT_READ):
            parts.append(data)
        return b"".join(parts)
    finally:
        os.close(descriptor)


class Walk:
    """The state of one walk."""

    def __init__(self, root: str, tables: Tables, report: ReadReport) -> None:
        self.root = root
        self.tables = tables
        self.report = report
        self._left: Counter[tuple[str, str]] = Counter()

    @property
    def muted(self) -> bool:
        """Whether only troubles are looked for and no rows given: so it is below something that is broken."""
        return self.tables.muted

    @muted.setter
    def muted(self, value: bool) -> None:
        self.tables.muted = value

    def trouble(self, rule: str, path: str, text: str, line: int | None = None) -> None:
        """Something that stops the migration; the walk goes on to find the rest."""
        where = path if line is None else f"{path}:{line}"
        self.report.troubles.append(Trouble(rule, printable(where), text))

    def normal(self, rule: str, rows: int = 1) -> None:
        """Something odd that real stores have and that costs nothing."""
        self.report.normal[rule] = self.report.normal.get(rule, 0) + rows

    def collapsed(self, rule: str, rows: int) -> None:
        """Rows that MLflow's key cannot hold twice."""
        self.report.collapsed[rule] = self.report.collapsed.get(rule, 0) + rows

    def left_behind(self, what: str, reason: str, rows: int = 1) -> None:
        """Information that the tables have no place for."""
        self._left[what, reason] += rows

    def finish(self) -> None:
        """Complete the report."""
        self.report.not_carried.extend(
            NotCarried(what, rows, reason) for (what, reason), rows in sorted(self._left.items())
        )

    def names(self, folder: str) -> list[str] | None:
        """The names in a folder, sorted; None when there is no such folder. Stray ones and unreadable ones are out."""
        try:
            names = os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as bad:
            self.unreadable(folder, bad)
            return []
        names.sort()
        if all(n.isascii() and not is_stray(n) for n in names):
            return names
        return [n for n in names if self._usable(folder, n)]

    def _usable(self, folder: str, name: str) -> bool:
        if is_stray(name):
            self.normal("stray_file")
            return False
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            self.trouble("invalid_utf8", f"{folder}/{name}", "has a name that is not valid UTF-8")
            return False
        return True

    def unreadable(self, path: str, bad: OSError) -> None:
        """A file or folder that the system does not give."""
        text = "was there and is gone: the store changed while it was read, or a link leads nowhere"
        if bad.errno != errno.ENOENT:
            text = f"cannot be read: {bad.strerror}"
        self.trouble("unreadable_file", path, text)

    def read(self, path: str) -> bytes | None:
        """A file's bytes, or None after a trouble."""
        try:
            return read_bytes(path)
        except OSError as bad:
            self.unreadable(path, bad)
            return None

    def fields(self, path: str, rule: str = "malformed_meta_yaml") -> Fields | None:
        """A YAML file, or None after a trouble."""
        data = self.read(path)
        if data is None:
            return None
        try:
            return Fields(data)
        except MalformedError as bad:
            self.malformed(path, bad, rule)
            return None

    def malformed(self, path: str, bad: MalformedError, rule: str = "malformed_meta_yaml") -> None:
        """A YAML file that does not say what it must."""
        self.trouble(rule, path, bad.text, bad.line)

    def files(self, folder: str, prefix: str = "") -> Iterator[tuple[str, str, bytes]]:
        """All files below a folder of keys: key (a ``/`` makes sub-folders), path, bytes."""
        names = self.names(folder)
        if names is None:
            if not prefix and os.path.lexists(folder):
                self.trouble("not_a_folder", folder, "is a file where MLflow keeps a folder")
            return
        for name in names:
            path = f"{folder}/{name}"
            try:
                data = read_bytes(path)
            except IsADirectoryError:
                if os.path.islink(path):
                    # MLflow follows links to files and to whole runs, but not to folders among the keys.
                    self.normal("linked_folder_among_keys")
                else:
                    yield from self.files(path, f"{prefix}{name}/")
            except OSError as bad:
                self.unreadable(path, bad)
            else:
                yield prefix + name, path, data


def printable(text: str) -> str:
    """A path that can be printed and written as UTF-8 whatever bytes its names have."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
