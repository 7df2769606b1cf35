"""The proxy: bytes pass and are counted; a cut resets, a black hole holds, a cut after N bytes lets N through."""

from __future__ import annotations

import math
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from mynosql.net.ports import find_free_pair
from tests.faults.proxy import LinkState, Proxy
from tests.waiting import wait_until

DEADLINE_S = 10.0


class EchoServer:
    """Answers each byte with itself, on its own port of 127.0.0.1, until stopped."""

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(client,), daemon=True).start()

    @staticmethod
    def _echo(client: socket.socket) -> None:
        with client:
            try:
                while data := client.recv(1 << 16):
                    client.sendall(data)
            except OSError:
                return

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(DEADLINE_S)


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    server = EchoServer()
    yield server
    server.stop()


@pytest.fixture
def proxy(echo: EchoServer) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", echo.port, port_count=1) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: Proxy) -> Iterator[Callable[[], socket.socket]]:
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", proxy.port), DEADLINE_S))
        return opened[-1]

    yield connect
    for client in opened:
        client.close()


def receive_exactly(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := client.recv(count - len(data))):
        data += more
    return data


def latest_due(proxy: Proxy) -> float:
    """When the delayed bytes of the only connection that has some are handed on; infinity: there are none."""
    return proxy._call(lambda: min((link.due for link in proxy._links), default=math.inf))


def is_reset(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def is_refused(connect: Callable[[], socket.socket]) -> bool:
    """A new connection is reset, before or after connect() has returned."""
    try:
        return is_reset(connect())
    except ConnectionResetError:
        return True


def test_bytes_pass_both_ways_and_are_counted(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    client = connect()

    client.sendall(b"hello")

    assert receive_exactly(client, 5) == b"hello"
    assert (proxy.bytes_to_target, proxy.bytes_from_target, proxy.bytes_total) == (5, 5, 10)
    assert (proxy.connections_accepted, proxy.connections_open) == (1, 1)


def test_more_bytes_than_the_buffers_hold_pass_unchanged(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    client = connect()
    data = bytes(range(256)) * 40_000
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()

    assert receive_exactly(client, len(data)) == data
    sender.join(DEADLINE_S)
    assert proxy.bytes_to_target == proxy.bytes_from_target == len(data)


def test_an_end_that_closes_is_handed_on(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    client = connect()
    client.sendall(b"last words")
    client.shutdown(socket.SHUT_WR)

    assert receive_exactly(client, 100) == b"last words"
    wait_until(lambda: proxy.connections_open == 0, DEADLINE_S, "the link is given up")


def test_a_cut_resets_open_and_new_connections_until_restored(
    proxy: Proxy, connect: Callable[[], socket.socket]
) -> None:
    client = connect()
    client.sendall(b"x")
    assert receive_exactly(client, 1) == b"x"

    proxy.cut()

    assert proxy.state is LinkState.CUT
    assert proxy.connections_open == 0
    assert is_reset(client)
    assert is_refused(connect)
    proxy.restore()
    again = connect()
    again.sendall(b"back")
    assert receive_exactly(again, 4) == b"back"


def test_a_black_hole_swallows_nothing_for_ever_and_tells_nobody(
    proxy: Proxy, connect: Callable[[], socket.socket]
) -> None:
    client = connect()
    client.sendall(b"x")
    assert receive_exactly(client, 1) == b"x"

    proxy.black_hole()
    client.sendall(b"into the dark")
    late = connect()
    late.sendall(b"me too")
    for waiting in (client, late):
        waiting.settimeout(0.05)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        waiting.settimeout(DEADLINE_S)
    assert proxy.bytes_to_target == 1

    proxy.restore()
    assert receive_exactly(client, 13) == b"into the dark"
    assert receive_exactly(late, 6) == b"me too"


def test_a_cut_after_bytes_hands_on_that_many_and_no_more(
    proxy: Proxy, connect: Callable[[], socket.socket]
) -> None:
    client = connect()
    proxy.cut_after_bytes(1_000)

    client.sendall(b"x" * 700)
    assert receive_exactly(client, 300) == b"x" * 300

    wait_until(lambda: proxy.state is LinkState.CUT, DEADLINE_S, "the link is cut")
    assert is_reset(client)
    assert proxy.bytes_total == 1_000
    assert proxy.bytes_to_target == 700


def test_a_target_that_is_gone_resets_and_a_new_target_is_used(
    proxy: Proxy, connect: Callable[[], socket.socket]
) -> None:
    free = socket.create_server(("127.0.0.1", 0))
    dead_port = free.getsockname()[1]
    free.close()
    proxy.set_target(dead_port)
    assert is_refused(connect)

    other = EchoServer()
    proxy.set_target(other.port)
    client = connect()
    client.sendall(b"moved")
    assert receive_exactly(client, 5) == b"moved"
    other.stop()


def test_neighbouring_ports_lead_to_neighbouring_ports() -> None:
    first = find_free_pair()
    servers = [EchoServer(first), EchoServer(first + 1)]
    with Proxy("127.0.0.1", first) as proxy:
        for offset, word in ((0, b"router"), (1, b"pub")):
            with socket.create_connection(("127.0.0.1", proxy.port + offset), DEADLINE_S) as client:
                client.sendall(word)
                assert receive_exactly(client, len(word)) == word
    for server in servers:
        server.stop()


def test_stop_frees_the_port_ends_the_thread_and_may_be_called_twice(echo: EchoServer) -> None:
    threads_before = set(threading.enumerate())
    proxy = Proxy("127.0.0.1", echo.port, port_count=1)
    proxy.stop()
    proxy.stop()

    assert set(threading.enumerate()) <= threads_before
    with socket.create_server(("127.0.0.1", proxy.port)):
        pass
    with pytest.raises(AssertionError, match="was stopped"):
        proxy.cut()


def test_a_delayed_byte_arrives_no_earlier_and_the_next_ones_do_not_wait_for_it(
    proxy: Proxy, connect: Callable[[], socket.socket]
) -> None:
    client = connect()
    proxy.delay(0.3)
    started = time.monotonic()
    for number in range(20):
        client.sendall(bytes([number]))
    assert receive_exactly(client, 20) == bytes(range(20))
    took_s = time.monotonic() - started
    assert took_s >= 0.6, "there and back"
    assert took_s < 20 * 0.3, "each waited for the one before"
    proxy.delay(0.0)
    client.sendall(b"x")
    assert receive_exactly(client, 1) == b"x"


def test_many_bytes_are_on_their_way_at_once_and_arrive_unchanged(
    proxy: Proxy, connect: Callable[[], socket.socket]
) -> None:
    client = connect()
    proxy.delay(0.05, jitter_s=0.05)
    payload = random.Random(1).randbytes(2 << 20)
    sender = threading.Thread(target=client.sendall, args=(payload,))
    sender.start()
    assert receive_exactly(client, len(payload)) == payload
    sender.join(DEADLINE_S)
    assert proxy.bytes_from_target == len(payload)


def test_connections_overtake_each_other_and_the_end_comes_last(
    proxy: Proxy, connect: Callable[[], socket.socket]
) -> None:
    first, second = connect(), connect()
    proxy.delay(0.3)
    first.sendall(b"first")
    wait_until(lambda: latest_due(proxy) < math.inf)
    proxy.delay(0.0)
    second.sendall(b"second")
    assert receive_exactly(second, 6) == b"second"
    first.setblocking(False)
    with pytest.raises(BlockingIOError):
        first.recv(1)
    first.setblocking(True)
    first.shutdown(socket.SHUT_WR)
    assert receive_exactly(first, 5) == b"first"
    assert first.recv(1) == b""


def test_a_black_hole_holds_what_was_delayed(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    client = connect()
    proxy.delay(0.02)
    client.sendall(b"x")
    wait_until(lambda: latest_due(proxy) < math.inf)
    proxy.black_hole()
    due = latest_due(proxy)
    wait_until(lambda: time.monotonic() > due + 0.05)
    assert proxy.bytes_from_target == 0
    proxy.restore()
    assert receive_exactly(client, 1) == b"x"
