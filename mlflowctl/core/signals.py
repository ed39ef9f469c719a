"""Ctrl-C and SIGTERM: the first asks the work to stop at a safe point, the second ends the process at once.

A signal is noticed by a thread of its own, through Python's wake-up pipe: Python's handlers run between two byte
codes of the main thread, which may sit in a database driver for minutes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable

from mlflowctl.core.errors import Interrupted

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM") if hasattr(signal, name))
_pending: int | None = None
_installed = False
_last = False


def install(
    on_first: Callable[[int], None] | None = None, on_second: Callable[[int], None] | None = None
) -> Callable[[], None]:
    """Take over SIGINT and SIGTERM; call from the main thread. Returns what puts everything back.

    Args:
        on_first: called in the watching thread when the first signal arrives (to say that the work is stopping).
        on_second: called in the watching thread right before a second signal ends the process.
    """
    global _pending, _installed
    _pending = None
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    previous_fd = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in _SIGNALS:
        # Without a Python handler nothing would be written to the pipe; this one has nothing left to do.
        signal.signal(number, lambda *_: None)
    _installed = True

    def watch() -> None:
        global _pending
        while True:
            try:
                data = os.read(reading, 1)
            except OSError:
                return
            if not data:
                return
            number = data[0]
            if number not in _SIGNALS:
                continue
            if _pending is None:
                _pending = number
                if on_first is not None:
                    with contextlib.suppress(Exception):
                        on_first(number)
                continue
            try:
                if on_second is not None:
                    on_second(number)
            finally:
                os._exit(128 + number)

    thread = threading.Thread(target=watch, name="mlflowctl-signals", daemon=True)
    thread.start()

    def restore() -> None:
        global _installed
        if not _installed:
            return
        _installed = False
        signal.set_wakeup_fd(previous_fd)
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_IGN if _last else handler)
        os.close(writing)  # ends the thread
        thread.join(timeout=1)
        os.close(reading)

    return restore


def nothing_follows() -> None:
    """The process ends with its command: what arrives after the result is out no longer changes the exit code."""
    global _last
    _last = True


def pending() -> int | None:
    """The signal that asked for an end, if one did."""
    return _pending


def check(next_step: str | None = None) -> None:
    """Raise Interrupted when a signal has asked for an end. Call wherever the work is at a safe point."""
    if _pending is not None:
        raise Interrupted(_pending, next_step=next_step)
