"""The tests' own proxy does what the tests of faults rely on."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.proxy import Address, Proxy


@pytest.fixture(params=["tcp", "unix"])
def echo(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Address]:
    """A server that sends back what it gets."""
    if request.param == "tcp":
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        place: Address = listener.getsockname()
    else:
        listener = socket.socket(socket.AF_UNIX)
        place = tmp_path / "echo"
        listener.bind(str(place))
    listener.listen()

    def answer(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while block := client.recv(1 << 16):
                client.sendall(block)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=answer, args=(client,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield place
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def _client(proxy: Proxy) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", proxy.port), timeout=30)
    client.settimeout(30)
    return client


def _exchange(client: socket.socket, data: bytes) -> bytes:
    """Send everything, read until as much has come back or the connection is over."""
    sender = threading.Thread(target=_send, args=(client, data), daemon=True)
    sender.start()
    back = bytearray()
    with contextlib.suppress(ConnectionError):
        while len(back) < len(data) and (block := client.recv(1 << 16)):
            back += block
    sender.join(30)
    return bytes(back)


def _send(client: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        client.sendall(data)


def test_everything_passes_both_ways(echo: Address) -> None:
    data = bytes(range(256)) * 4000
    with Proxy(echo) as proxy, _client(proxy) as one, _client(proxy) as two:
        assert _exchange(one, data) == data
        assert _exchange(two, b"second") == b"second"
        assert (proxy.accepted, proxy.cut_off, proxy.refused, proxy.delayed) == (2, 0, 0, 0)
        assert proxy.sent == proxy.received == len(data) + 6


def test_a_unix_socket_is_a_door_too(echo: Address, tmp_path: Path) -> None:
    with Proxy(echo, listen=tmp_path / "door") as proxy, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "door"))
        assert _exchange(client, b"hello") == b"hello"
        proxy.refuse()
        assert client.recv(1) == b""
    assert not (tmp_path / "door").exists()


def test_an_end_of_one_side_reaches_the_other(echo: Address) -> None:
    with Proxy(echo) as proxy, _client(proxy) as client:
        assert _exchange(client, b"x") == b"x"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        assert proxy.cut_off == 0


def test_a_cut_breaks_what_is_open_and_lets_new_ones_in(echo: Address) -> None:
    with Proxy(echo) as proxy:
        with _client(proxy) as client:
            assert _exchange(client, b"x") == b"x"
            assert proxy.cut() == 1
            assert _exchange(client, b"y") == b""
        with _client(proxy) as client:
            assert _exchange(client, b"z") == b"z"
        assert proxy.cut_off == 1


def test_cuts_come_after_so_many_bytes(echo: Address) -> None:
    with Proxy(echo) as proxy:
        proxy.cut_after([1_000_000, 500_000])
        with _client(proxy) as client:
            assert len(_exchange(client, bytes(2_000_000))) <= 1_000_000
        with _client(proxy) as client:
            assert len(_exchange(client, bytes(2_000_000))) <= 500_000
        with _client(proxy) as client:
            assert _exchange(client, bytes(2_000_000)) == bytes(2_000_000)
        assert proxy.cut_off == 2


def test_a_refusing_proxy_is_a_server_that_is_down(echo: Address) -> None:
    with Proxy(echo) as proxy:
        port = proxy.port
        with _client(proxy) as client:
            assert _exchange(client, b"x") == b"x"
            proxy.refuse()
            assert _exchange(client, b"y") == b""
        with pytest.raises(ConnectionError):
            _client(proxy)
        proxy.accept()
        assert proxy.port == port
        with _client(proxy) as client:
            assert _exchange(client, b"z") == b"z"


def test_a_server_that_is_down_behind_the_proxy_is_told(tmp_path: Path) -> None:
    with Proxy(tmp_path / "nobody") as proxy:
        # Turned away within the connect itself, before the byte is sent, or after it: told in each case.
        with contextlib.suppress(ConnectionError), _client(proxy) as client:
            assert _exchange(client, b"x") == b""
        assert (proxy.accepted, proxy.refused) == (0, 1)


def test_it_is_down_for_a_while(echo: Address) -> None:
    with Proxy(echo) as proxy:
        proxy.down_for(0.05)
        for _ in range(10_000):
            try:
                client = _client(proxy)
                break
            except ConnectionError:
                threading.Event().wait(0.01)
        with client:
            assert _exchange(client, b"back") == b"back"


def test_delays_change_nothing_but_the_time(echo: Address) -> None:
    data = bytes(range(256)) * 1000
    with Proxy(echo, seed=7) as proxy, _client(proxy) as client:
        proxy.delay(0.002)
        assert _exchange(client, data) == data
        assert proxy.delayed > 1


def test_an_action_is_called_once_when_its_bytes_have_passed(echo: Address) -> None:
    called = []
    done = threading.Event()

    def act() -> None:
        called.append(proxy.sent)
        done.set()

    with Proxy(echo) as proxy, _client(proxy) as client:
        assert _exchange(client, bytes(100)) == bytes(100)
        proxy.when_sent(1000, act)
        assert _exchange(client, bytes(900)) == bytes(900)
        assert called == []
        assert _exchange(client, bytes(200)) == bytes(200)
        assert done.wait(30)
        assert _exchange(client, bytes(2000)) == bytes(2000)
    assert len(called) == 1
    assert called[0] >= 1100
