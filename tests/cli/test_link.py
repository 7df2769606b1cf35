"""The demo's link: carries bytes and counts them; cut, it ends and refuses connections; mended, it carries."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from mynosql.cli.link import CuttableLink
from mynosql.errors import ListenFailed
from mynosql.net.ports import find_free_pair

DEADLINE_S = 10.0


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def echo(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                client.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True))
                threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    accepting.join(DEADLINE_S)
    for thread in threads:
        thread.join(DEADLINE_S)


@pytest.fixture
def link(echo_port: int) -> Iterator[CuttableLink]:
    link = CuttableLink({find_free_pair(): echo_port})
    yield link
    link.close()


def near_port(link: CuttableLink) -> int:
    return next(iter(link._pairs))


def connect(link: CuttableLink) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", near_port(link)), timeout=DEADLINE_S)
    client.settimeout(DEADLINE_S)
    return client


def exchange(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    found = b""
    while len(found) < len(data):
        piece = client.recv(1 << 16)
        if not piece:
            break
        found += piece
    return found


def test_bytes_go_both_ways_and_are_counted(link: CuttableLink) -> None:
    with connect(link) as client:
        assert exchange(client, b"x" * 100_000) == b"x" * 100_000
    link.close()
    assert link.bytes_carried == 200_000


def test_a_cut_ends_connections_and_refuses_new_ones(link: CuttableLink) -> None:
    with connect(link) as client:
        assert exchange(client, b"before") == b"before"
        link.cut()
        with contextlib.suppress(ConnectionError):
            assert client.recv(1) == b""
    with pytest.raises(ConnectionError):
        connect(link)


def test_a_mended_link_carries_again(link: CuttableLink) -> None:
    link.cut()
    link.restore()
    with connect(link) as client:
        assert exchange(client, b"after") == b"after"


def test_cutting_and_mending_twice_is_no_change(link: CuttableLink) -> None:
    link.restore()
    link.cut()
    link.cut()
    link.restore()
    link.restore()
    assert link.is_open


def test_nobody_at_the_far_end_ends_the_connection_at_once() -> None:
    link = CuttableLink({find_free_pair(): find_free_pair()})
    try:
        with connect(link) as client, contextlib.suppress(ConnectionError):
            assert client.recv(1) == b""
    finally:
        link.close()


def test_no_thread_is_left_after_close(link: CuttableLink) -> None:
    with connect(link) as client:
        exchange(client, b"x")
        link.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "demo-link"]


def test_a_taken_port_is_told(link: CuttableLink) -> None:
    port = near_port(link)
    with pytest.raises(ListenFailed, match=f"127.0.0.1:{port}"):
        CuttableLink({port: 1})
