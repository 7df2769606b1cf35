"""The ZAP handler: what libzmq asks is answered by the rules of the domain, what is malformed is not admitted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from mynosql.net.options import NetOptions
from mynosql.net.reactor import Reactor
from mynosql.net.security import Security
from mynosql.net.sockets import DOMAIN_NODE, DOMAIN_PUBLISHER
from mynosql.net.zap import ENDPOINT, ZapHandler
from tests.net.recorder import make_secret

KEY = bytes(range(32))


class Asking:
    """The handler with its loop, and the socket that stands for libzmq."""

    def __init__(self, folder: Path) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.reactor = Reactor(lambda: None)
        self.security = Security.open(folder, make_secret())
        self.handler = ZapHandler(self.context, self.reactor, self.security, NetOptions())
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.connect(ENDPOINT)

    def ask(self, *frames: bytes) -> list[bytes] | None:
        self.socket.send_multipart([b"", *frames])
        self.reactor.run_round(None)
        return self.socket.recv_multipart() if self.socket.poll(0) else None

    def about(self, domain: bytes, key: bytes = KEY, mechanism: bytes = b"CURVE") -> list[bytes] | None:
        return self.ask(b"1.0", b"7", domain, b"192.0.2.1", b"", mechanism, key)


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Asking]:
    made = Asking(tmp_path)
    yield made
    made.handler.close()
    made.reactor.close()
    made.context.destroy(0)


ADMITTED = [b"", b"1.0", b"7", b"200", b"OK", KEY.hex().encode(), b""]
REFUSED = [b"", b"1.0", b"7", b"400", b"not admitted", b"", b""]


def test_any_key_comes_in_to_prove_itself(asking: Asking) -> None:
    assert asking.about(DOMAIN_NODE) == ADMITTED


def test_only_proven_keys_come_in_to_the_publisher(asking: Asking) -> None:
    assert asking.about(DOMAIN_PUBLISHER) == REFUSED
    assert asking.security.secret is not None
    assert asking.security.is_proof_good(KEY.hex(), asking.security.secret.proof(KEY))
    assert asking.about(DOMAIN_PUBLISHER) == ADMITTED
    assert asking.about(DOMAIN_PUBLISHER, KEY[::-1]) == REFUSED
    assert (asking.handler.admitted, asking.handler.refused) == (1, 2)


def test_a_banned_key_comes_in_nowhere(asking: Asking) -> None:
    asking.security.ban(KEY.hex())
    assert asking.about(DOMAIN_NODE) == asking.about(DOMAIN_PUBLISHER) == REFUSED


@pytest.mark.parametrize("domain", [b"", b"global", b"NODE", b"node "])
def test_another_domain_is_refused(asking: Asking, domain: bytes) -> None:
    assert asking.about(domain) == REFUSED


@pytest.mark.parametrize("mechanism", [b"NULL", b"PLAIN", b"curve", b""])
def test_another_mechanism_is_refused(asking: Asking, mechanism: bytes) -> None:
    assert asking.about(DOMAIN_NODE, mechanism=mechanism) == REFUSED


@pytest.mark.parametrize("key", [b"", KEY[:-1], KEY + b"x"])
def test_a_key_of_another_length_is_refused(asking: Asking, key: bytes) -> None:
    assert asking.about(DOMAIN_NODE, key) == REFUSED


def test_a_malformed_question_is_refused_or_not_answered(asking: Asking) -> None:
    assert asking.ask(b"1.0", b"7", DOMAIN_NODE, b"", b"", b"CURVE") == REFUSED
    assert asking.ask(b"1.0", b"7", DOMAIN_NODE, b"", b"", b"CURVE", KEY, b"more") is None
    assert asking.ask(b"2.0", b"7", DOMAIN_NODE, b"", b"", b"CURVE", KEY) == REFUSED
    assert asking.ask() is None
    assert asking.about(DOMAIN_NODE) == ADMITTED
