"""Where a node listens, what it tells others of it, and what it does with commands that its security forbids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mynosql.address import parse_address
from mynosql.bridge import LISTEN_NOTE, _named_host
from mynosql.errors import AddressInvalid, PeerError, PeerRefused
from mynosql.net.ports import find_free_pair
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from tests.waiting import wait_until

ANY_PORT = "127.0.0.1:0"


def bridge_of(db: Any) -> Any:
    return db._open._bridge


def reaches(make_db: Callable[..., Any], endpoint: str) -> bool:
    peer = make_db("Test", peers=[endpoint])
    wait_until(lambda: peer.syncstatus().mirror is not None, 20, f"a mirror answers at {endpoint}")
    return True


def test_a_peer_does_not_listen_unless_it_is_told_to(make_db: Callable[..., Any]) -> None:
    assert make_db().endpoint is None
    assert make_db(listen=ANY_PORT).endpoint is not None


def test_the_endpoint_is_where_the_node_really_listens(make_db: Callable[..., Any]) -> None:
    db = make_db(mode="mirror", listen=ANY_PORT)
    address = parse_address(db.endpoint)
    assert address.host == "127.0.0.1"
    assert address.port > 0
    assert db.syncstatus().endpoint == db.endpoint
    assert reaches(make_db, db.endpoint)


def test_an_address_that_was_asked_for_is_remembered_and_asked_for_again(
    make_db: Callable[..., Any], tmp_path: Any
) -> None:
    free = f"127.0.0.1:{find_free_pair()}"
    first = make_db("Kept", location=tmp_path / "kept", mode="mirror", listen=free)
    endpoint = first.endpoint
    first.closedb()
    assert make_db("Kept", location=tmp_path / "kept").endpoint == endpoint == f"http://{free}"


def test_a_port_left_to_chance_is_not_remembered(make_db: Callable[..., Any]) -> None:
    db = make_db(mode="mirror", listen=ANY_PORT)
    assert db._open.store.note(LISTEN_NOTE) == b""


def test_a_change_of_mode_listens_and_stops_listening_as_it_runs(make_db: Callable[..., Any]) -> None:
    db = make_db()
    db.setdbmode("Mirror")
    assert db.endpoint is not None
    assert reaches(make_db, db.endpoint)
    db.setdbmode("Peer")
    assert (db.endpoint, db.getdbmode(), db.syncstatus().endpoint) == (None, "Peer", None)


def test_followers_are_told_before_the_sockets_of_a_former_mirror_are_closed(make_db: Callable[..., Any]) -> None:
    """They would notice by silence only."""
    other = make_db("Test")
    other.setdbmode("Mirror")
    peer = make_db("Test", peers=[other.endpoint])
    wait_until(lambda: peer.syncstatus().mirror is not None, 20, "following")
    heard: list[Any] = []
    replica = peer._open.replica
    on_message = replica.on_message
    replica.on_message = lambda link, message, *rest, **more: (heard.append(message), on_message(
        link, message, *rest, **more
    ))

    other.savedoc({"id": "last"})  # the Bye stands behind what waits for its fsync
    other.setdbmode("Peer")

    wait_until(lambda: any(isinstance(message, ms.Bye) for message in heard), 5, lambda: f"a Bye: {heard}")
    first = next(message for message in heard if isinstance(message, ms.Bye))
    assert first.code is ms.ByeCode.NOT_A_MIRROR  # a question that crosses it is answered by another
    assert other.endpoint is None


def test_a_node_that_was_told_to_listen_does_so_in_both_modes(make_db: Callable[..., Any]) -> None:
    db = make_db(listen=ANY_PORT)
    endpoint = db.endpoint
    for mode in ("Mirror", "Mirror", "Peer"):
        db.setdbmode(mode)
        assert db.endpoint == endpoint


def test_others_are_told_the_advertised_address_and_the_publisher_beside_it(make_db: Callable[..., Any]) -> None:
    mirror = make_db(mode="mirror", listen=ANY_PORT, advertise="http://127.0.0.1:47000")
    address, publisher_port = bridge_of(mirror)._reachable()
    listening = bridge_of(mirror)._listening
    assert address == parse_address("127.0.0.1:47000")
    assert publisher_port - 47000 == listening.publisher.port - listening.address.port
    peer = make_db(peers=[mirror.endpoint])
    wait_until(lambda: "http://127.0.0.1:47000" in peer.listpeers(), 20, lambda: f"it is told: {peer.listpeers()}")
    assert mirror.endpoint in peer.listpeers(), "the address that the user gave stays"


def test_a_host_that_needs_a_secret_is_refused_for_listening_too(make_db: Callable[..., Any], tmp_path: Any) -> None:
    with pytest.raises(AddressInvalid, match="keygen"):
        make_db(location=tmp_path / "refused", mode="mirror", listen="0.0.0.0:0")


def test_a_learned_address_that_security_forbids_is_not_dialled_and_is_shown(db: Any) -> None:
    bridge = bridge_of(db)
    dialled: list[Any] = []
    bridge._io.dial = dialled.append
    bridge._perform(fx.Dial(address=parse_address("203.0.113.7:8800")))
    assert dialled == []
    assert "AddressInvalid" in db.syncstatus().last_error


def test_a_refused_conversation_is_shown(db: Any) -> None:
    link = fx.Link.dial(parse_address("127.0.0.1:1"))
    bridge_of(db).on_refused(link, PeerRefused("another secret"))
    assert db.syncstatus().last_error == "PeerRefused: another secret"


def test_a_refusal_is_logged_once_and_not_with_every_attempt(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    link = fx.Link.dial(parse_address("http://127.0.0.1:9"))
    for text in ("another secret", "another secret", "no secret", "another secret"):
        bridge_of(db).on_refused(link, PeerRefused(text))
    assert [record.message for record in caplog.records] == ["another secret", "no secret", "another secret"]


def test_bytes_that_are_no_message_go_to_the_replica_as_garbage(db: Any) -> None:
    bridge = bridge_of(db)
    garbage: list[Any] = []
    bridge._replica.on_garbage = lambda link, error, now: garbage.append((link, error))
    served, address = fx.Link.served("aa"), parse_address("127.0.0.1:1")
    bridge.on_frames(served, [b"\xff" * 40_000], "")
    bridge.on_published(address, [b"e", b"\xff"])
    assert [link for link, _ in garbage] == [served, fx.Link.dial(address)]
    assert all(isinstance(error, PeerError) for _, error in garbage)


def test_a_dead_io_thread_raises_in_the_next_call(db: Any) -> None:
    bridge_of(db).on_fail(RuntimeError("a defect"))
    with pytest.raises(Exception, match="a defect"):
        db.savedoc({"id": "a"})
    bridge_of(db)._workers.failure = None  # so that the fixture can check the folder


def test_every_interface_is_named_by_a_host_that_can_be_dialled() -> None:
    assert _named_host("127.0.0.1") == "127.0.0.1"
    for host in ("*", "0.0.0.0", "::"):
        assert _named_host(host) not in ("*", "0.0.0.0", "::", "")
