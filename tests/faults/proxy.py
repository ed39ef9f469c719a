"""A proxy of our own between mlflowctl and a database: it delays, cuts and refuses connections on a seed."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

_BLOCK = 1 << 16

Address = Path | tuple[str, int]


class Proxy:
    """Forwards a loopback port (or a Unix socket) to a server.

    Use as a context manager. Every method may be called at any time, from any thread.

    Args:
        upstream: where the server listens: the path of its Unix socket, or host and port.
        listen: the path of a Unix socket to listen on; without it a free TCP port of 127.0.0.1.
        seed: decides each random delay.
    """

    def __init__(self, upstream: Address, *, listen: Path | None = None, seed: int = 0) -> None:
        self.upstream = upstream
        self.listen = listen
        self.port = 0
        #: Bytes that reached the server, and that came back; of all connections.
        self.sent = 0
        self.received = 0
        #: Connections that were let through, turned away, and broken off.
        self.accepted = 0
        self.refused = 0
        self.cut_off = 0
        #: Blocks that were held back on their way.
        self.delayed = 0
        self._random = random.Random(seed)
        self._delay = 0.0
        self._budgets: list[int] = []
        self._listener: socket.socket | None = None
        self._pairs: set[_Pair] = set()
        self._lock = threading.RLock()
        self._watchers: list[tuple[int, Callable[[], None]]] = []

    # -- what the test asks for ------------------------------------------------------------------------------------

    def delay(self, seconds: float) -> None:
        """From now on hold each block back for up to ``seconds``, by the seed."""
        self._delay = seconds

    def cut(self) -> int:
        """Break off every connection; how many there were."""
        with self._lock:
            pairs = list(self._pairs)
        return sum(pair.break_off() for pair in pairs)

    def cut_after(self, sizes: Iterable[int]) -> None:
        """Break everything off each time that so many further bytes have gone to the server, one size after another."""
        with self._lock:
            self._budgets = list(sizes)

    def when_sent(self, size: int, action: Callable[[], None]) -> None:
        """Call ``action`` once, in a thread of its own, when ``size`` further bytes have gone to the server."""
        with self._lock:
            self._watchers.append((self.sent + size, action))

    def refuse(self) -> None:
        """Stop listening, as a server that is down: new connections are refused by the system; old ones are broken."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            # Closing alone would not wake the thread that waits in accept.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            if self.listen is not None:
                self.listen.unlink(missing_ok=True)
        self.cut()

    def accept(self) -> None:
        """Listen (again, on the same port)."""
        with self._lock:
            if self._listener is not None:
                return
            if self.listen is not None:
                listener = socket.socket(socket.AF_UNIX)
                listener.bind(str(self.listen))
            else:
                listener = socket.socket()
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("127.0.0.1", self.port))
                self.port = listener.getsockname()[1]
            listener.listen(64)
            self._listener = listener
        threading.Thread(target=self._serve, args=(listener,), name="proxy", daemon=True).start()

    @property
    def refusing(self) -> bool:
        """Whether nobody listens at the moment."""
        return self._listener is None

    def down_for(self, seconds: float) -> None:
        """Refuse, and accept again after ``seconds``; returns at once."""
        self.refuse()
        timer = threading.Timer(seconds, self.accept)
        timer.daemon = True
        timer.start()

    # -- how it is done --------------------------------------------------------------------------------------------

    def __enter__(self) -> Proxy:
        self.accept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            if self._listener is not listener:
                self.refused += 1
                _close(client)
                return
            try:
                server = self._connect()
            except OSError:
                self.refused += 1
                _close(client)
                continue
            pair = _Pair(self, client, server)
            with self._lock:
                self.accepted += 1
                self._pairs.add(pair)
            pair.start()

    def _connect(self) -> socket.socket:
        if isinstance(self.upstream, Path):
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self.upstream))
            except OSError:
                server.close()
                raise
            return server
        return socket.create_connection(self.upstream, timeout=None)

    def passing(self, size: int, *, upward: bool) -> bool:
        """Count bytes about to be forwarded; False when they must not be: their connection is cut here."""
        pause = 0.0
        actions = []
        cut = False
        with self._lock:
            if self._delay:
                pause = self._random.uniform(0, self._delay)
                self.delayed += 1
            if upward:
                if self._budgets:
                    self._budgets[0] -= size
                    if self._budgets[0] <= 0:
                        self._budgets.pop(0)
                        cut = True
                if not cut:
                    self.sent += size
                    actions = [action for at, action in self._watchers if at <= self.sent]
                    self._watchers = [(at, action) for at, action in self._watchers if at > self.sent]
            else:
                self.received += size
        for action in actions:
            threading.Thread(target=action, name="proxy-action", daemon=True).start()
        if cut:
            self.cut()
            return False
        if pause:
            time.sleep(pause)
        return True

    def gone(self, pair: _Pair) -> None:
        """A connection ended by itself."""
        with self._lock:
            self._pairs.discard(pair)


class _Pair:
    """One client and its connection to the server."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._ended = 0
        self._broken = False
        self._lock = threading.Lock()

    def start(self) -> None:
        for source, sink, upward in ((self._client, self._server, True), (self._server, self._client, False)):
            threading.Thread(target=self._pump, args=(source, sink, upward), name="proxy-pump", daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, upward: bool) -> None:
        try:
            while block := source.recv(_BLOCK):
                if not self._proxy.passing(len(block), upward=upward):
                    return
                sink.sendall(block)
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            # One side is gone; the other must learn it.
            self.break_off(ours=False)
        finally:
            with self._lock:
                self._ended += 1
                last = self._ended == 2
            if last:
                self._client.close()
                self._server.close()
                self._proxy.gone(self)

    def break_off(self, *, ours: bool = True) -> int:
        """Close both sides; 1 when they were still there."""
        with self._lock:
            if self._broken or self._ended == 2:
                return 0
            self._broken = True
        if ours:
            self._proxy.cut_off += 1
        for side in (self._client, self._server):
            _close(side)
        return 1


def _close(side: socket.socket) -> None:
    """End a connection at once, with whatever was on its way."""
    with contextlib.suppress(OSError):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # A thread that waits in recv keeps a closed socket alive; this wakes it.
    with contextlib.suppress(OSError):
        side.shutdown(socket.SHUT_RDWR)
    side.close()
