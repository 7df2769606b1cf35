"""Connections that we keep: how they end, come back, back off, and say why; with real sockets on loopback."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from unittest.mock import MagicMock

import pytest
import zmq

from mynosql.address import Address
from mynosql.errors import PeerRefused
from mynosql.net import opening, outbound, sockets
from mynosql.net.knocking import Answer
from mynosql.net.options import Listening, NetOptions
from mynosql.net.outbound import CONNECTION_TRANSITIONS, Connection, ConnectionCause, ConnectionState
from mynosql.sync.effects import Link
from tests.faults.proxy import Proxy
from tests.net.recorder import QUICK, Node, linked, wait_equal, wait_published
from tests.waiting import wait_until


def hang_until(release: threading.Event) -> None:
    """A handler that does not come back."""
    release.wait(20)


# Links that end


def test_the_end_of_the_other_process_counts_at_once(tmp_path: Path) -> None:
    with Node(tmp_path / "b") as b:
        a = Node(tmp_path / "a")
        with a, linked(a, b) as (dialled, _):
            pass
        wait_until(lambda: dialled not in b.seen.up)  # TCP's own probes would take 30 s
        assert b.seen.downs[0] == (dialled, f"{dialled.name[6:]} closed the connection")


def test_a_dial_comes_back_by_itself_when_the_other_side_does(tmp_path: Path) -> None:
    with Node(tmp_path / "b") as b:
        with Node(tmp_path / "a") as a:
            there = a.listen()
            link = b.dial(there.address)
            b.subscribe(there)
            b.wait_up(link)
            wait_published(a, b, b"before")
        wait_until(lambda: link not in b.seen.up)
        with Node(tmp_path / "a") as again:
            assert again.listen(there.address.port) == there
            b.wait_up(link)
            wait_published(again, b, b"after")
            b.send(link, b"hello again")
            wait_until(lambda: [frames for _, frames, _ in again.seen.frames] == [[b"hello again"]])
            assert b.seen.ups == [link, link]


def test_nothing_of_the_old_connection_arrives_on_the_new_one(tmp_path: Path) -> None:
    # Given messages sent while nobody is there
    with Node(tmp_path / "b") as b:
        with Node(tmp_path / "a") as a:
            there = a.listen()
            link = b.dial(there.address)
            b.wait_up(link)
        for number in range(20):
            b.send(link, b"lost", str(number).encode())
        with Node(tmp_path / "a") as again:
            again.listen(there.address.port)
            b.wait_up(link)
            b.send(link, b"kept")
            wait_until(lambda: again.seen.frames)
            assert [frames for _, frames, _ in again.seen.frames] == [[b"kept"]]
    assert b.io.counters.dropped_unsent + b.io.counters.messages_sent == 21


def test_what_was_sent_before_the_end_arrives(tmp_path: Path) -> None:
    """A Bye is the last message of a node that stops; its reader sees it before the link goes down."""
    with Node(tmp_path / "b") as b:
        a = Node(tmp_path / "a")
        with a, linked(a, b) as (dialled, served):
            a.seen.when_woken = lambda: a.io.send(served, [b"bye"])
        wait_until(lambda: dialled not in b.seen.up)
        assert ([b"bye"] in [frames for _, frames, _ in b.seen.frames])


def test_a_link_that_carries_nothing_any_more_is_left_for_a_new_one(tmp_path: Path) -> None:
    """A pulled cable: TCP is content for long, the sessions are not; they hang up, dial and subscribe anew."""
    with Node(tmp_path / "a") as a, Proxy("127.0.0.1", a.listen().address.port) as proxy:
        there = Listening(address=Address("127.0.0.1", proxy.port), publisher=Address("127.0.0.1", proxy.port + 1))
        with Node(tmp_path / "b") as b:
            link = b.dial(there.address)
            b.subscribe(there)
            b.wait_up(link)
            wait_published(a, b, b"before")
            proxy.black_hole()

            def begin_anew() -> None:
                b.io.hang_up(link)
                b.io.unsubscribe(there.address)

            b.io.call(begin_anew)
            b.dial(there.address)
            b.subscribe(there)
            proxy.restore()
            wait_equal(lambda: b.seen.ups, [link, link])
            wait_published(a, b, b"after")


def test_a_link_that_is_reset_goes_down_at_once_and_comes_back(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, Proxy("127.0.0.1", a.listen().address.port) as proxy, Node(tmp_path / "b") as b:
        link = b.dial(Address("127.0.0.1", proxy.port))
        b.wait_up(link)
        proxy.cut()
        wait_until(lambda: link not in b.seen.up)  # TCP's own probes would take 30 s
        proxy.restore()
        b.wait_up(link)
        b.send(link, b"hello")
        wait_until(lambda: [frames for _, frames, _ in a.seen.frames] == [[b"hello"]])


def test_hang_up_of_a_dial_ends_it_without_a_word_to_the_handler(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b, linked(a, b) as (dialled, served):
        def say_and_hang_up() -> None:
            b.io.send(dialled, [b"last words"])
            b.io.hang_up(dialled)

        b.io.call(say_and_hang_up)
        wait_until(lambda: [frames for _, frames, _ in a.seen.frames] == [[b"last words"]])
        # The served side learns it when it sends
        def is_known() -> bool:
            a.send(served, b"x")
            return served not in a.seen.up

        wait_until(is_known)
        assert a.seen.downs == [(served, "the other node has gone")]
        assert b.seen.downs == []


def test_a_dial_after_a_hang_up_is_a_new_connection(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b, linked(a, b) as (dialled, first):
        def again() -> None:
            b.io.hang_up(dialled)
            b.io.dial(Address("127.0.0.1", int(dialled.name.rpartition(":")[2])))

        b.io.call(again)
        wait_until(lambda: len(b.seen.ups) == 2)
        wait_until(lambda: len(a.seen.ups) == 2)
        assert a.seen.ups[1] != first
        b.send(dialled, b"hello")
        wait_equal(lambda: a.seen.frames, [(a.seen.ups[1], [b"hello"], "")])


def test_a_served_link_that_was_hung_up_is_dialled_anew(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b, linked(a, b) as (dialled, served):
        a.io.call(lambda: a.io.hang_up(served))
        a.send(served, b"not sent")
        b.send(dialled, b"not passed on")
        wait_until(lambda: len(b.seen.ups) == 2)
        assert b.seen.downs == [(dialled, f"{dialled.name[6:]} does not know this connection any more")]
        assert a.seen.frames == []
        b.send(dialled, b"passed on")
        wait_until(lambda: [frames for _, frames, _ in a.seen.frames] == [[b"passed on"]])
        assert a.io.counters.dropped_unsent == 1


def test_a_node_that_reads_no_more_is_given_up_and_never_blocks_us(tmp_path: Path) -> None:
    options = type(QUICK)(send_messages_max=4, receive_messages_max=4, linger_s=0.05, retry_s_min=0.01)
    with Node(tmp_path / "a", options=options) as a, Node(tmp_path / "b", options=options) as b:
        release = threading.Event()
        with linked(a, b) as (dialled, served):
            # Given a reader that hangs in its handler
            b.seen.when_framed = lambda link, frames: hang_until(release)
            big = b"x" * QUICK.frame_bytes_max

            def is_given_up() -> bool:
                a.send(served, big)
                return served not in a.seen.up

            def is_back() -> bool:
                b.send(dialled, b"?")
                return len(a.seen.ups) >= 2

            try:
                wait_until(is_given_up)
            finally:
                release.set()
            assert a.seen.downs[0] == (served, "the other node takes no more messages")
            wait_until(is_back)


def test_a_dial_to_a_node_that_reads_no_more_ends_and_begins_anew(tmp_path: Path) -> None:
    options = type(QUICK)(send_messages_max=4, receive_messages_max=4, linger_s=0.05, retry_s_min=0.01)
    with Node(tmp_path / "a", options=options) as a, Node(tmp_path / "b", options=options) as b:
        release = threading.Event()
        with linked(a, b) as (dialled, _):
            a.seen.when_framed = lambda link, frames: hang_until(release)
            big = b"x" * QUICK.frame_bytes_max

            def is_given_up() -> bool:
                b.send(dialled, big)
                return bool(b.seen.downs)

            try:
                wait_until(is_given_up)
            finally:
                release.set()
            assert b.seen.downs[0] == (dialled, f"{dialled.name[6:]} takes no more messages")
            wait_until(lambda: len(b.seen.ups) >= 2)


def test_a_name_that_does_not_resolve_surfaces_and_blocks_nobody(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, Node(tmp_path / "b", insecure=True) as b:
        there = a.listen()
        nowhere = b.dial(Address("no-such-host.invalid", 8800))
        known = b.dial(there.address)
        b.wait_up(known)
        wait_until(lambda: nowhere in [link for link, _ in b.seen.downs])
        reason = next(reason for link, reason in b.seen.downs if link == nowhere)
        assert "host 'no-such-host.invalid' does not resolve" in reason
        assert "give an IP address" in reason


def test_a_name_that_never_answers_delays_neither_others_nor_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    real = socket.getaddrinfo

    def slow(host: str, *rest: object, **more: object) -> object:
        if host == "slow.example":
            answered.wait(20)
            raise OSError("gave up")
        return real(host, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    options = type(QUICK)(dial_timeout_s=0.05, retry_s_min=0.01)
    with Node(tmp_path / "a") as a, Node(tmp_path / "b", insecure=True, options=options) as b:
        slow_link = b.dial(Address("slow.example", 8800))
        b.wait_up(b.dial(a.listen().address))
        wait_until(lambda: len(b.seen.downs) >= 3)
        assert b.seen.downs[0] == (slow_link, "slow.example:8800 did not answer within 0.05 s")
        assert sum(thread.name == "mynosql-dns" for thread in threading.enumerate()) == 1
        b.io.stop()
    answered.set()
    wait_until(lambda: not any(thread.name == "mynosql-dns" for thread in threading.enumerate()))


def test_a_dead_address_is_tried_ever_less_often(tmp_path: Path) -> None:
    options = type(QUICK)(retry_s_min=0.02, retry_s_max=10.0, retry_s_unreached=10.0)
    with Node(tmp_path / "b", options=options) as b, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        b.dial(Address("127.0.0.1", closed.getsockname()[1]))
        wait_until(lambda: len(b.seen.downs) >= 6)
        # Doubled each time from 0.02 s, and at most halved by jitter
        for number in range(5):
            assert b.seen.down_at[number + 1] - b.seen.down_at[number] >= 0.02 * 2**number / 2
        assert "nothing answers at 127.0.0.1:" in b.seen.downs[0][1]


def pause_after(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, outage_s: float, refusal: PeerRefused | None
) -> float:
    """The pause after ten more failed attempts, that time after the connection was lost."""
    monkeypatch.setattr(connection, "_lost_at", time.monotonic() - outage_s)
    for _ in range(10):
        if connection.state is ConnectionState.PAUSE:
            connection._move(ConnectionCause.BEGIN)
        connection._end("nothing answers", refusal)
    return connection._pause_s


@pytest.mark.parametrize(("outage_s", "pause_s"), [(0.0, 0.25), (30.0, 0.25), (240.0, 2.0), (3600.0, 5.0)])
def test_what_is_not_reached_is_tried_again_after_a_small_share_of_the_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outage_s: float, pause_s: float
) -> None:
    with Node(tmp_path / "b", options=NetOptions()) as b, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        link = b.dial(Address("127.0.0.1", closed.getsockname()[1]))

        def pause_of(refusal: PeerRefused | None) -> float:
            return b.io.call(lambda: pause_after(b.io._dials[link.name], monkeypatch, outage_s, refusal))

        assert pause_of(None) == pytest.approx(pause_s, rel=0.05)
        # Whoever answers and refuses is asked as seldom as ever: nothing but a person helps there
        assert pause_of(PeerRefused("another secret")) == 5.0
        # Whoever breaks off without a word may be a tunnel whose other end is away
        b.io._dials[link.name]._silent_ends = 2
        assert pause_of(PeerRefused("not a word")) == pytest.approx(pause_s, rel=0.05)


class FakeKnocks:
    """Knocks that say what the test tells them."""

    made: list[FakeKnocks] = []

    def __init__(self, *where: object, on_answer: Callable[[Answer], None], **more: object) -> None:
        self.on_answer = on_answer
        self.is_closed = False
        self.made.append(self)

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Node, Link]]:
    """A node whose request to connect is dropped by a full queue, and the link that it wants."""
    monkeypatch.setattr(outbound, "Knocks", FakeKnocks)
    monkeypatch.setattr(FakeKnocks, "made", [])
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), Node(tmp_path / "b", options=NetOptions()) as b:
            link = b.dial(Address("127.0.0.1", port))
            wait_until(lambda: FakeKnocks.made)
            yield b, link


def test_a_request_that_hangs_is_made_anew_once_a_knock_was_heard(hanging: tuple[Node, Link]) -> None:
    node, link = hanging
    dial = node.io._dials[link.name]
    first, knocks = dial._socket, FakeKnocks.made[0]
    node.io.call(lambda: knocks.on_answer(Answer.OPEN))
    assert first is not None
    assert first.closed
    assert dial._socket is not None
    assert not dial._socket.closed
    assert knocks.is_closed
    assert len(FakeKnocks.made) == 2, "the new request may hang as well"
    assert node.seen.downs == [], "it is still the same attempt"


def test_a_request_that_hangs_is_over_once_a_knock_was_refused(hanging: tuple[Node, Link]) -> None:
    node, link = hanging
    node.io.call(lambda: FakeKnocks.made[0].on_answer(Answer.REFUSED))
    assert [down for down, _ in node.seen.downs] == [link]
    assert "nothing answers" in node.seen.downs[0][1]


def test_a_connection_that_came_about_is_not_knocked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handshake may take long: 300 ms away it is four times that."""
    monkeypatch.setattr(outbound, "Knocks", FakeKnocks)
    monkeypatch.setattr(FakeKnocks, "made", [])
    with socket.create_server(("127.0.0.1", 0)) as silent, Node(tmp_path / "b", options=NetOptions()) as b:
        b.dial(Address("127.0.0.1", silent.getsockname()[1]))
        wait_until(lambda: FakeKnocks.made and FakeKnocks.made[0].is_closed)
        assert b.seen.downs == []


GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "did not answer within 0.3 s"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10, "did not answer within 0.3 s"),
        (GREETING + b"\x04\x06\x05HELLO", "is no MyNoSQL node"),
    ],
)
def test_a_port_where_somebody_else_talks_is_given_up(tmp_path: Path, said: bytes, reason: str) -> None:
    options = type(QUICK)(dial_timeout_s=0.3, retry_s_min=5.0)
    with Node(tmp_path / "b", options=options) as b, socket.create_server(("127.0.0.1", 0)) as other:
        link = b.dial(Address("127.0.0.1", other.getsockname()[1]))
        connection, _ = other.accept()
        with connection:
            connection.sendall(said)
            wait_until(lambda: b.seen.downs)
        assert b.seen.downs[0][0] == link
        assert reason in b.seen.downs[0][1]


def test_a_dial_without_descriptors_is_an_attempt_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sockets.make_dealer
    missing = [24, 24]  # EMFILE, twice

    def make_dealer(*arguments: object) -> object:
        if missing:
            raise zmq.ZMQError(missing.pop())
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("mynosql.net.outbound.make_dealer", make_dealer)
    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b:
        link = b.dial(a.listen().address)
        b.wait_up(link)
        assert [reason for _, reason in b.seen.downs] == [
            f"no socket could be made for {link.name[6:]}: Too many open files"
        ] * 2


class Paper(outbound.Dial):
    """A dial without a network: it is told what would have happened."""

    def __init__(self) -> None:
        self.resolved: list[Callable[[tuple[str, ...], str], None]] = []
        world = SimpleNamespace(
            options=NetOptions(), random=random.Random(1), receiver=MagicMock(), security=MagicMock(),
            reactor=SimpleNamespace(call_at=lambda due, function: SimpleNamespace(function=function, cancel=int)),
            resolver=SimpleNamespace(resolve=lambda host, callback: self.resolved.append(callback)),
        )
        super().__init__(cast("outbound.World", world), Address("host", 1))

    def _dial(self, literal: str) -> None:
        self._socket = MagicMock()

    def _drop_socket(self, linger_ms: int | None) -> None:
        self._socket = None


class PaperSubscription(Paper):
    """The same, for a subscription."""

    _on_connected = outbound.Subscription._on_connected  # type: ignore[assignment]


HAPPENS: dict[ConnectionCause, Callable[[Paper], object]] = {
    ConnectionCause.BEGIN: lambda dial: dial._begin(),
    ConnectionCause.NEXT_ADDRESS: lambda dial: (setattr(dial, "_literals", ("::1",)), dial._begin()),
    ConnectionCause.RESOLVED: lambda dial: dial.resolved[-1](("127.0.0.1",), ""),
    ConnectionCause.KNOCK: lambda dial: dial._on_answer("127.0.0.1", Answer.OPEN),
    ConnectionCause.HANDSHAKE: lambda dial: dial._on_connected(),
    ConnectionCause.SUBSCRIBED: lambda dial: dial._on_connected(),
    ConnectionCause.OK: lambda dial: dial._on_opening(opening.OK),
    ConnectionCause.END: lambda dial: dial._end("the end"),
    ConnectionCause.CLOSE: lambda dial: dial.close(),
}
WAYS: dict[ConnectionState, tuple[ConnectionCause, ...]] = {
    ConnectionState.RESOLVING: (),
    ConnectionState.CONNECTING: (ConnectionCause.RESOLVED,),
    ConnectionState.OPENING: (ConnectionCause.RESOLVED, ConnectionCause.HANDSHAKE),
    ConnectionState.UP: (ConnectionCause.RESOLVED, ConnectionCause.HANDSHAKE, ConnectionCause.OK),
    ConnectionState.PAUSE: (ConnectionCause.END,),
}


@pytest.mark.parametrize(("state", "cause"), CONNECTION_TRANSITIONS.steps, ids=lambda part: str(part.name))
def test_a_connection_moves_as_its_table_says(state: ConnectionState, cause: ConnectionCause) -> None:
    dial = PaperSubscription() if cause is ConnectionCause.SUBSCRIBED else Paper()
    for before in WAYS[state]:
        HAPPENS[before](dial)
    assert dial.state is state

    HAPPENS[cause](dial)

    assert dial.state is CONNECTION_TRANSITIONS.steps[state, cause]


def test_an_ok_that_nobody_asked_for_is_dropped() -> None:
    dial = Paper()
    dial._world.counters = SimpleNamespace(dropped_malformed=0)  # type: ignore[assignment]
    HAPPENS[ConnectionCause.RESOLVED](dial)

    dial._on_opening(opening.OK)

    assert dial.state is ConnectionState.CONNECTING
    assert dial._world.counters.dropped_malformed == 1
