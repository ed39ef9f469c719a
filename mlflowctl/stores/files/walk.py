"""One walk over a store: what it collects beside the rows, and how it opens folders and files."""

from __future__ import annotations

import errno
import os
from collections import Counter
from typing import TYPE_CHECKING

from mlflowctl.stores.api import NotCarried, Trouble
from mlflowctl.stores.files.layout import is_stray
from mlflowctl.stores.files.rejects import FileReject, content_of, count_below
from mlflowctl.stores.files.stamps import Stamps
from mlflowctl.stores.files.yamls import Fields, MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from mlflowctl.stores.api import ReadReport
    from mlflowctl.stores.files.rows import Tables

# O_NONBLOCK: opening a pipe that lies where a file should must not wait for a writer.
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
_FIRST_READ = 16 * 1024
_NEXT_READ = 1 << 20


def read_bytes(path: str, see: Callable[[str, os.stat_result], None] | None = None) -> bytes:
    """A file's bytes, with the fewest system calls: a store has hundreds of thousands of files.

    ``see`` is given the path and its status from before the reading: what is appended meanwhile shows later.

    Raises:
        OSError: it cannot be read; IsADirectoryError for a folder.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        status = os.fstat(descriptor) if see is not None else None
        data = os.read(descriptor, _FIRST_READ)
        if len(data) >= _FIRST_READ:
            parts = [data]
            while data := os.read(descriptor, _NEXT_READ):
                parts.append(data)
            data = b"".join(parts)
    finally:
        os.close(descriptor)
    if see is not None and status is not None:
        see(path, status)
    return data


class Walk:
    """The state of one walk.

    With the policy ``stop`` whatever is malformed becomes a trouble and the walk goes on below it, to find the rest.
    With ``skip`` and ``fix`` it is rejected with all below it, or mended. What the system does not give is a trouble
    with each of them: nobody can say what is left out.
    """

    def __init__(
        self,
        root: str,
        tables: Tables,
        report: ReadReport,
        policy: str = "stop",
        rejects: list[FileReject] | None = None,
    ) -> None:
        self.root = root
        self.tables = tables
        self.report = report
        self.lenient = policy != "stop"
        """Whether what is malformed is rejected."""
        self.mends = policy == "fix"
        """Whether what can be mended is."""
        self.rejects: list[FileReject] = [] if rejects is None else rejects
        self.rejected = 0
        """How many there were; the list may be emptied meanwhile."""
        self.stamps = Stamps(tables.wants, always_meta=self.lenient)
        self._left: Counter[tuple[str, str]] = Counter()
        self._table = ""
        self._key: Mapping[str, Any] = {}
        self._folder: str | None = None
        self._last: tuple[str, bytes] = ("", b"")

    @property
    def muted(self) -> bool:
        """Whether only troubles are looked for and no rows given: so it is below something that is broken."""
        return self.tables.muted

    @muted.setter
    def muted(self, value: bool) -> None:
        self.tables.muted = value

    def about(self, table: str, key: Mapping[str, Any], folder: str | None = None) -> None:
        """The row that is looked at now, and the folder of what belongs to it: for the rejects."""
        self._table, self._key, self._folder = table, key, folder

    def trouble(self, rule: str, path: str, text: str, line: int | None = None) -> None:
        """Something malformed: it stops the migration, and the walk goes on to find the rest; or it is rejected."""
        if self.lenient:
            self.reject(rule, path, text, line)
        else:
            self._stop(rule, path, text, line)

    def _stop(self, rule: str, path: str, text: str, line: int | None = None) -> None:
        where = path if line is None else f"{path}:{line}"
        self.report.troubles.append(Trouble(rule, printable(where), text))

    def reject(
        self,
        rule: str,
        path: str,
        text: str,
        line: int | None = None,
        *,
        data: bytes | None = None,
        key: Mapping[str, Any] | None = None,
        folder: str | None = None,
        became: Mapping[str, Any] | None = None,
    ) -> None:
        """What ``about`` named is left out with all below it, or changed (``became``).

        ``data`` is the content of the file, where it was not just read by ``fields``. ``key`` is more of the row's key,
        where it is but one of many in a folder; then ``folder`` is what lies below, if anything does.
        """
        if data is None:
            data = self._last[1] if self._last[0] == path else self._content(path)
        below: dict[str, int] = {}
        folder = self._folder if key is None else folder
        if became is None and folder is not None:
            below = count_below(folder, self._not_listed, among_keys=key is not None)
        where = path if line is None else f"{path}:{line}"
        self.rejected += 1
        self.rejects.append(
            FileReject(
                rule,
                printable(where),
                text,
                content_of(data),
                self._table,
                {n: printable(v) if isinstance(v, str) else v for n, v in {**self._key, **(key or {})}.items()},
                below,
                became,
            )
        )

    @staticmethod
    def _content(path: str) -> bytes | None:
        try:
            return read_bytes(path)
        except OSError:  # a folder, or nothing that has a content
            return None

    def _not_listed(self, path: str, bad: OSError) -> None:
        self._stop("unreadable_file", path, f"cannot be read: {bad.strerror}")

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

    def names(self, folder: str, of: str | None = None) -> list[str] | None:
        """The names in a folder, sorted; None when there is no such folder. Stray ones and unreadable ones are out.

        ``of`` is the table of what has its own folder or file here.
        """
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
        return [n for n in names if self._usable(folder, n, of)]

    def listing(self, folder: str) -> list[str] | None:
        """All names in a folder, none of them judged; None when there is no such folder."""
        try:
            return os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as bad:
            self.unreadable(folder, bad)
            return []

    def _usable(self, folder: str, name: str, of: str | None) -> bool:
        if is_stray(name):
            self.normal("stray_file")
            return False
        if is_utf8(name):
            return True
        path = f"{folder}/{name}"
        if of is not None:
            self.about(of, {}, path if os.path.isdir(path) else None)
        self.trouble("invalid_utf8", path, _BAD_NAME)
        return False

    def unreadable(self, path: str, bad: OSError) -> None:
        """A file or folder that the system does not give."""
        if bad.errno == errno.EISDIR:
            self.trouble("unreadable_file", path, f"cannot be read: {bad.strerror}")
            return
        text = f"cannot be read: {bad.strerror}"
        if bad.errno == errno.ENOENT:
            text = "was there and is gone: the store changed while it was read"
            if os.path.islink(path):
                text = "is a link that leads nowhere"
        self._stop("unreadable_file", path, text)

    def read(self, path: str) -> bytes | None:
        """A file's bytes, or None after a trouble."""
        try:
            return read_bytes(path, self.stamps.see)
        except OSError as bad:
            self.unreadable(path, bad)
            return None

    def fields(self, path: str, rule: str = "malformed_meta_yaml") -> Fields | None:
        """A YAML file, or None after a trouble."""
        data = self.read(path)
        if data is None:
            return None
        self._last = (path, data)
        try:
            return Fields(data, mend=self.mends)
        except MalformedError as bad:
            self.malformed(path, bad, rule)
            return None

    def malformed(self, path: str, bad: MalformedError, rule: str = "malformed_meta_yaml") -> None:
        """A YAML file that does not say what it must."""
        self.trouble(bad.rule or rule, path, bad.text, bad.line)

    def mended(self, path: str, fields: Fields, row: Mapping[str, Any], rule: str = "malformed_meta_yaml") -> None:
        """Write down what was mended in a YAML file whose ``row`` is given, if anything was."""
        if fields.faults:
            self.reject(rule, path, "; ".join(fields.faults), became=fields.changed(row))

    def files(self, folder: str, prefix: str = "") -> Iterator[tuple[str, str, bytes]]:
        """All files below a folder of keys: key (a ``/`` makes sub-folders), path, bytes."""
        odd: list[str] = []
        names = self._keys(folder, prefix, odd) if self.lenient else self.names(folder)
        if names is None:
            if not prefix and os.path.lexists(folder):
                self.trouble("not_a_folder", folder, "is a file where MLflow keeps a folder")
            return
        see = self.stamps.see
        for name in names:
            path = f"{folder}/{name}"
            try:
                data = read_bytes(path, see)
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
        yield from self._renamed(folder, prefix, odd)

    def _keys(self, folder: str, prefix: str, odd: list[str]) -> list[str] | None:
        """The names that are keys; those that a replacement character makes one go to ``odd``."""
        try:
            names = sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as bad:
            self.unreadable(folder, bad)
            return []
        if all(n.isascii() and not is_stray(n) for n in names):
            return names
        usable = []
        for name in names:
            path = f"{folder}/{name}"
            if is_stray(name):
                self.normal("stray_file")
            elif is_utf8(name):
                usable.append(name)
            elif os.path.isdir(path):
                self.reject("invalid_utf8", path, _BAD_NAME, key={"key": prefix + name}, folder=path)
            elif self.mends:
                odd.append(name)
            else:
                self.reject("invalid_utf8", path, _BAD_NAME, key={"key": prefix + name})
        return usable

    def _renamed(self, folder: str, prefix: str, odd: list[str]) -> Iterator[tuple[str, str, bytes]]:
        taken: set[str] = set()
        for name in odd:
            path = f"{folder}/{name}"
            key = os.fsencode(name).decode("utf-8", "replace")
            try:
                data = read_bytes(path)
            except OSError as bad:
                self.unreadable(path, bad)
                continue
            if key in taken or os.path.lexists(f"{folder}/{key}"):
                text = f"{_BAD_NAME}, and with replacement characters it would be another's"
                self.reject("invalid_utf8", path, text, data=data, key={"key": prefix + name})
                continue
            taken.add(key)
            became = {"key": prefix + key}
            self.reject("invalid_utf8", path, _BAD_NAME, data=data, key={"key": prefix + name}, became=became)
            yield prefix + key, path, data


_BAD_NAME = "has a name that is not valid UTF-8"


def is_utf8(name: str) -> bool:
    """Whether a name of a file is valid UTF-8."""
    if name.isascii():
        return True
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """A path that can be printed and written as UTF-8 whatever bytes its names have."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
