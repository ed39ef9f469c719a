"""A disk that is soon full: a file system of a few megabytes, or a limit on the size of files where none may be mounted."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType

_LIMIT = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0})); os.execvp(sys.argv[1], sys.argv[1:])"


class SmallDisk:
    """A folder with room for ``size`` bytes.

    Use as a context manager. As root on Linux it is a file system of its own, else a limit that ``prefix`` puts on a
    command: the words that the system has for it are others (``File too large``), the kind of the error is the same.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.mounted = False
        self._size = size

    @property
    def prefix(self) -> list[str]:
        """What stands before a command that is to meet the limit."""
        return [] if self.mounted else [sys.executable, "-c", _LIMIT.format(self._size)]

    def leave(self, room: int, pid: int) -> None:
        """Take all space but ``room`` bytes away from a running process."""
        if self.mounted:
            _mount("-o", f"remount,size={shutil.disk_usage(self.folder).used + room}", str(self.folder))
        else:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, room))

    def grow(self, size: int) -> None:
        """Make room."""
        self._size = size
        if self.mounted:
            _mount("-o", f"remount,size={size}", str(self.folder))

    def __enter__(self) -> SmallDisk:
        self.folder.mkdir(parents=True, exist_ok=True)
        if sys.platform == "linux" and os.geteuid() == 0:
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                _mount("-t", "tmpfs", "-o", f"size={self._size},mode=0777", "tmpfs", str(self.folder))
                self.mounted = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.mounted:
            # Lazily: a process that was killed may not have let go yet.
            subprocess.run(["umount", "-l", str(self.folder)], check=True, capture_output=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
