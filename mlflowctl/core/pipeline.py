"""Bounded hand-over between threads, so that reading, hashing and writing overlap within a fixed memory."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.1


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Done:
    pass


def ahead(items: Iterator[T], depth: int = 2) -> Generator[T, None, None]:
    """The same items, produced by a thread that runs at most ``depth`` items ahead.

    An exception of the producer is raised here. When this generator is closed early the producer stops at its next
    item and its iterator is closed in its own thread.
    """
    line: queue.Queue[T | _Failed | _Done] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: T | _Failed | _Done) -> None:
        while not stopped.is_set():
            try:
                line.put(item, timeout=_POLL_SECONDS)
                return
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    break
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, which raises it
            put(_Failed(error))
        finally:
            close = getattr(items, "close", None)
            try:
                if close is not None:
                    close()
            except BaseException as error:  # noqa: BLE001 - the consumer waits for a word, whatever happens here
                put(_Failed(error))
            put(_Done())

    thread = threading.Thread(target=produce, name="mlflowctl-read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item = line.get()
            if isinstance(item, _Done):
                return
            if isinstance(item, _Failed):
                raise item.error
            yield item
    finally:
        stopped.set()
        thread.join()


class Outlet(Generic[T]):
    """Hands items to ``consume`` in a thread of its own; at most ``depth`` wait.

    Use as a context manager: leaving it waits for the last item, or drops what waits when the body failed. An
    exception of ``consume`` is raised by the next ``put`` or on leaving.
    """

    def __init__(self, consume: Callable[[T], None], depth: int = 2) -> None:
        self._consume = consume
        self._line: queue.Queue[T | _Done] = queue.Queue(maxsize=depth)
        self._error: BaseException | None = None
        self._dropped = False
        self._thread = threading.Thread(target=self._run, name="mlflowctl-write-behind", daemon=True)

    def _run(self) -> None:
        while True:
            item = self._line.get()
            if isinstance(item, _Done):
                return
            if self._error is None and not self._dropped:
                try:
                    self._consume(item)
                except BaseException as error:  # noqa: BLE001 - raised in the thread that puts
                    self._error = error

    def put(self, item: T) -> None:
        if self._error is not None:
            raise self._error
        self._line.put(item)

    def __enter__(self) -> Outlet[T]:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._dropped = kind is not None
        self._line.put(_Done())
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error
