"""The side that others dial, under attack: rubbish, huge and endless messages, floods; and its bounds at the edge."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq

from mynosql.address import Address
from mynosql.net.options import PUBLISHED_TOPICS_MAX, NetOptions
from mynosql.net.sockets import PUBLISHER_FRAME_BYTES_MAX
from mynosql.sync.effects import Link
from tests.net.recorder import QUICK, TOPIC, Node, linked, make_secret, wait_equal, wait_published
from tests.waiting import wait_until

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
READY = b"\x04\x1a\x05READY\x0bSocket-Type\0\0\0\x06DEALER"
READY = b"\x04" + bytes([len(READY) - 2]) + READY[2:]


class Client:
    """A plain ZeroMQ client that says what the test wants, without any of the package's care. It waits 20 s at most."""

    def __init__(self, kind: int, port: int | None) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, 20_000)
        if port is not None:
            self.socket.connect(f"tcp://127.0.0.1:{port}")

    def __enter__(self) -> zmq.Socket[bytes]:
        return self.socket

    def __exit__(self, *_: object) -> None:
        self.context.destroy(0)


def still_serves(a: Node, b: Node) -> None:
    """Whatever was done to it, a goes on with everybody else."""
    assert a.io.is_running
    there = a.io.listening
    assert there is not None
    link = b.dial(there.address)
    b.wait_up(link)
    b.send(link, b"all is well")
    wait_until(lambda: [b"all is well"] in [frames for _, frames, _ in a.seen.frames])
    b.subscribe(there)
    wait_published(a, b, os.urandom(8))


@pytest.mark.parametrize("has_secret", [False, True])
@pytest.mark.parametrize(
    "rubbish",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0" * 1000,
        b"\xff" * 100_000,
        os.urandom(100_000),
        b"\x16\x03\x01" + os.urandom(500),
        GREETING + b"\x02" + struct.pack(">Q", 1 << 60),
        GREETING + b"\x06" + struct.pack(">Q", 1 << 40) + b"x" * 1000,
        GREETING + b"\x04\xff" + os.urandom(255),
        GREETING + READY + b"\x02" + struct.pack(">Q", 1 << 62) + b"x" * 1000,
        GREETING + READY + b"\x07\x00" * 1000,
    ],
    ids=["http", "zeros", "ones", "noise", "tls", "huge frame", "huge command", "odd command", "huge message", "flags"],
)
def test_rubbish_on_both_ports_changes_nothing(tmp_path: Path, rubbish: bytes, has_secret: bool) -> None:
    secret = make_secret() if has_secret else None
    with Node(tmp_path / "a", secret) as a, Node(tmp_path / "b", secret) as b:
        there = a.listen()
        for port in (there.address.port, there.publisher.port):
            for _ in range(3):
                with socket.create_connection(("127.0.0.1", port)) as connection:
                    try:
                        connection.sendall(rubbish)
                    except OSError:  # it hung up on us already
                        continue
        still_serves(a, b)
        assert len(a.seen.frames) == 1


@pytest.mark.parametrize(("size", "passes"), [(QUICK.frame_bytes_max, True), (QUICK.frame_bytes_max + 1, False)])
def test_a_frame_above_the_limit_ends_the_connection_of_its_sender(tmp_path: Path, size: int, passes: bool) -> None:
    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b:
        with Client(zmq.DEALER, a.listen().address.port) as client:
            client.send_multipart([b"", b"open", b"\x01", b""])
            assert client.recv_multipart()[1] == b"ok"
            client.send_multipart([b"x" * size])
            if passes:
                client.send_multipart([b"next"])
                wait_until(lambda: [len(frames[0]) for _, frames, _ in a.seen.frames] == [size, 4])
            else:
                # libzmq dials again by itself (what it sent meanwhile is lost), and that connection has not been opened
                wait_until(lambda: client.send_multipart([b"next"]) or client.poll(20))
                assert client.recv_multipart() == [b"", b"again"]
                assert a.seen.frames == []
        still_serves(a, b)


@pytest.mark.parametrize(("count", "passes"), [(64, True), (65, False), (100_000, False)])
def test_frames_above_the_limit_are_dropped_with_their_message(tmp_path: Path, count: int, passes: bool) -> None:
    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b:
        assert QUICK.frames_max == 64
        with Client(zmq.DEALER, a.listen().address.port) as client:
            client.send_multipart([b"", b"open", b"\x01", b""])
            assert client.recv_multipart()[1] == b"ok"
            client.send_multipart([b"x"] * count)
            client.send_multipart([b"next"])
            wait_until(lambda: a.seen.frames and a.seen.frames[-1][1] == [b"next"])
            assert len(a.seen.frames) == 1 + passes
            assert a.io.counters.dropped_malformed == 1 - passes
        still_serves(a, b)


@pytest.mark.parametrize("count", [65, 100_000])
def test_a_publisher_that_sends_too_many_frames_is_left_and_tried_again(tmp_path: Path, count: int) -> None:
    with Node(tmp_path / "b") as b, Client(zmq.PUB, None) as publisher:
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        where = Address("127.0.0.1", port)
        b.io.call(lambda: b.io.subscribe(where, where, [TOPIC]))

        def passes(mark: bytes) -> bool:
            publisher.send_multipart([TOPIC, mark])
            return [TOPIC, mark] in [frames for _, frames in b.seen.published]

        wait_until(lambda: passes(b"before"))
        publisher.send_multipart([TOPIC] * count)
        wait_until(lambda: b.io.counters.dropped_malformed == 1)
        wait_until(lambda: passes(b"after"))
        assert {len(frames) for _, frames in b.seen.published} == {2}


def test_a_router_that_sends_too_many_frames_is_left_and_tried_again(tmp_path: Path) -> None:
    with Node(tmp_path / "b") as b, Client(zmq.ROUTER, None) as router:
        link = b.dial(Address("127.0.0.1", router.bind_to_random_port("tcp://127.0.0.1")))
        routing_id, *frames = router.recv_multipart()
        assert frames == [b"", b"open", b"\x01", b""]
        router.send_multipart([routing_id, b"", b"ok", b"\x01"])
        router.send_multipart([routing_id, *[b"x"] * 64])
        router.send_multipart([routing_id, *[b"x"] * 65])
        wait_until(lambda: b.seen.downs)
        assert [len(frames) for _, frames, _ in b.seen.frames] == [64]
        assert b.seen.downs[0] == (link, f"{link.name[6:]} sent a message of more than 64 frames")
        assert router.recv_multipart()[0] != routing_id


def test_what_comes_before_the_opening_is_not_heard(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b:
        with Client(zmq.DEALER, a.listen().address.port) as client:
            client.send_multipart([b"hello"])
            assert client.recv_multipart() == [b"", b"again"]
            for odd in ([b""], [b"", b"open"], [b"", b"shut", b"\x01", b""], [b"", b"open", b"\x01", b"", b""]):
                client.send_multipart(odd)
            wait_equal(lambda: a.io.counters.dropped_malformed, 4)
            client.send_multipart([b"", b"open", b"\x02", b""])
            assert client.recv_multipart()[:2] == [b"", b"no"]
            client.send_multipart([b"", b"open", b"\x01", b""])
            assert client.recv_multipart() == [b"", b"ok", b"\x01"]
        assert a.seen.frames == []
        still_serves(a, b)


def test_a_second_opening_begins_a_new_conversation(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, Client(zmq.DEALER, a.listen().address.port) as client:
        for _ in range(2):
            client.send_multipart([b"", b"open", b"\x01", b""])
            assert client.recv_multipart()[1] == b"ok"
        wait_until(lambda: len(a.seen.ups) == 2)
        assert [reason for _, reason in a.seen.downs] == ["opened anew"]


def test_an_opening_of_a_newer_kind_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mynosql.net.opening as opening

    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b:
        there = a.listen()
        monkeypatch.setattr(opening, "pack_opening", lambda proof: [b"", b"open", b"\x07", proof])
        b.dial(there.address)
        wait_until(lambda: b.seen.refusals)
        expected = f"{there.address} refused the opening: this node speaks version 1 of the opening"
        assert str(b.seen.refusals[0]) == expected


def test_the_connection_silent_for_longest_gives_way_to_one_too_many(tmp_path: Path) -> None:
    with ExitStack() as closing, Node(tmp_path / "a", options=NetOptions(served_max=3)) as a:
        port = a.listen().address.port
        clients = [closing.enter_context(Client(zmq.DEALER, port)) for _ in range(4)]

        def begin(number: int) -> None:
            clients[number].send_multipart([b"", b"open", b"\x01", b""])
            assert clients[number].recv_multipart()[1] == b"ok"
            wait_until(lambda: len(a.seen.ups) == number + 1)

        for number in range(3):
            begin(number)
        clients[0].send_multipart([b"not silent"])
        wait_until(lambda: a.seen.frames)
        assert a.seen.downs == []
        begin(3)
        wait_until(lambda: a.seen.downs)
        assert a.seen.downs == [(a.seen.ups[1], "more than 3 nodes are connected")]
        clients[1].send_multipart([b"i am still here"])
        assert clients[1].recv_multipart() == [b"", b"again"]


def test_a_flood_of_subscriptions_is_thrown_away_with_the_publisher(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b:
        there = a.listen()
        b.subscribe(there)
        wait_published(a, b, b"before")
        with Client(zmq.SUB, there.publisher.port) as flood:
            for number in range(5_000):
                flood.setsockopt(zmq.SUBSCRIBE, b"%d" % number)
            wait_until(lambda: a.io.counters.subscription_floods)
            listener = a.io._listener
            assert listener is not None
            assert len(listener._topics) <= PUBLISHED_TOPICS_MAX
        still_serves(a, b)
        wait_published(a, b, b"after")
        assert a.io.listening == there


@pytest.mark.parametrize(("extra", "floods"), [(0, 0), (1, 1)])
def test_topics_are_counted_exactly(tmp_path: Path, extra: int, floods: int) -> None:
    with Node(tmp_path / "a") as a:
        there = a.listen()
        listener = a.io._listener
        assert listener is not None
        with Client(zmq.SUB, there.publisher.port) as client:
            for number in range(100):  # come and go: only those held at a time count
                client.setsockopt(zmq.SUBSCRIBE, b"%d" % number)
                client.setsockopt(zmq.UNSUBSCRIBE, b"%d" % number)
            client.setsockopt(zmq.SUBSCRIBE, b"last")
            wait_until(lambda: listener._topics == {b"last"})
            for number in range(PUBLISHED_TOPICS_MAX - 1 + extra):
                client.setsockopt(zmq.SUBSCRIBE, b"t%d" % number)
            wait_until(
                lambda: a.io.counters.subscription_floods if floods else len(listener._topics) == PUBLISHED_TOPICS_MAX
            )
            assert bool(a.io.counters.subscription_floods) == bool(floods)


def test_a_member_that_floods_the_publisher_is_not_admitted_again(tmp_path: Path) -> None:
    secret = make_secret()
    with Node(tmp_path / "a", secret) as a, Node(tmp_path / "b", secret) as b, Node(tmp_path / "c", secret) as c:
        there = a.listen()
        c.wait_up(c.dial(there.address))
        link = b.dial(there.address)
        b.wait_up(link)
        b.subscribe(there, *(b"%d" % number for number in range(PUBLISHED_TOPICS_MAX + 1)))
        wait_until(lambda: a.io.counters.subscription_floods)
        assert b.security.keys is not None
        assert a.security.is_banned(b.security.keys.user_id)
        wait_until(lambda: a.seen.downs)
        assert a.seen.downs[0][1] == "the node flooded our publisher with topics"
        b.send(link, b"not heard any more")
        wait_until(lambda: a.io.counters.dropped_unproven)
        assert a.seen.frames == []
        c.subscribe(there)
        wait_published(a, c, b"x")
        floods = a.io.counters.subscription_floods
        zap = a.io._zap
        assert zap is not None
        refused = zap.refused
        wait_until(lambda: zap.refused > refused)
        assert a.io.counters.subscription_floods == floods


def test_what_a_subscriber_may_send_is_small(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b:
        there = a.listen()
        with Client(zmq.SUB, there.publisher.port) as client:
            client.setsockopt(zmq.SUBSCRIBE, b"x" * (PUBLISHER_FRAME_BYTES_MAX + 1))
            still_serves(a, b)
        with Client(zmq.XSUB, there.publisher.port) as client:
            client.send_multipart([b"\2 no subscription"])
            client.send_multipart([b"\1x", b"y"])
            wait_equal(lambda: a.io.counters.dropped_malformed, 2)
        still_serves(a, b)


def test_sending_to_a_link_that_never_was_is_counted_and_harmless(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b, linked(a, b):
        a.send(Link.served("00deadbeef"), b"x")
        b.send(Link.served("00deadbeef"), b"x")
        a.io.call(lambda: a.io.hang_up(Link.served("00deadbeef")))
        b.io.call(lambda: b.io.hang_up(Link.served("00deadbeef")))
        assert a.io.counters.dropped_unsent == b.io.counters.dropped_unsent == 1
        assert a.seen.downs == []
