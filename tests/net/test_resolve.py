"""Names to addresses: what needs no DNS asks none, what needs it makes nobody wait."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from mynosql.net.reactor import Reactor
from mynosql.net.resolve import Resolver, look_up


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    made = Reactor(lambda: None)
    yield made
    made.close()


def no_dns(*_: object, **__: object) -> object:
    raise AssertionError("DNS was asked")


@pytest.mark.parametrize(
    ("host", "literals"),
    [
        ("127.0.0.1", ("127.0.0.1",)),
        ("192.0.2.7", ("192.0.2.7",)),
        ("::1", ("::1",)),
        ("fe80::1%eth0", ("fe80::1%eth0",)),
        ("localhost", ("127.0.0.1", "::1")),
    ],
)
def test_literals_and_localhost_ask_no_dns(
    reactor: Reactor, monkeypatch: pytest.MonkeyPatch, host: str, literals: tuple[str, ...]
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", no_dns)
    got: list[tuple[tuple[str, ...], str]] = []
    Resolver(reactor).resolve(host, lambda *answer: got.append(answer))
    assert got == []  # never before resolve returned
    reactor.run_round(time.monotonic() + 5)
    assert got == [(literals, "")]
    assert look_up(host) == (literals, "")


def test_a_name_is_asked_once_for_all_who_wait_and_answered_on_the_loop(
    reactor: Reactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    asked: list[str] = []

    def slow(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        release.wait(10)
        return [(0, 0, 0, "", (literal, 0)) for literal in ("192.0.2.1", "192.0.2.1", "2001:db8::1")]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    resolver = Resolver(reactor)
    got: list[tuple[str, ...]] = []
    threads: set[str] = set()

    def on_resolved(literals: tuple[str, ...], reason: str) -> None:
        threads.add(threading.current_thread().name)
        got.append(literals)

    for _ in range(3):
        resolver.resolve("name.example", on_resolved)
    reactor.run_round(time.monotonic())
    assert got == []
    release.set()
    while len(got) < 3:
        reactor.run_round(time.monotonic() + 5)
    assert got == [("192.0.2.1", "2001:db8::1")] * 3
    assert asked == ["name.example"]
    assert threads == {threading.current_thread().name}


@pytest.mark.parametrize("error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")])
def test_a_name_that_does_not_resolve_says_what_to_do(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> object:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    literals, reason = look_up("name.example")
    assert literals == ()
    assert reason == f"host 'name.example' does not resolve ({error}); check the name, or give an IP address"
