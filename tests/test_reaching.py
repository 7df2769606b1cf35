"""Addresses in the wild: IPv6, and mirrors that others reach by another address than their own."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mynosql.net.ports import find_free_pair
from tests.faults.proxy import Proxy
from tests.mesh import SETTLE_DEADLINE_S, wait_connected, wait_equal
from tests.waiting import wait_until


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


@needs_ipv6
def test_a_mesh_on_ipv6(make_db: Callable[..., Any]) -> None:
    one = make_db(mode="mirror", listen="[::1]:0")
    assert one.endpoint.startswith("http://[::1]:")
    other = make_db(mode="mirror", listen="[::1]:0", peers=[one.endpoint])
    peer = make_db(peers=[one.endpoint.replace("http", "tcp")])
    wait_connected(peer)
    assert peer.syncstatus().mirror == one.endpoint
    peer.savedoc({"id": "a", "n": 1})
    assert peer.waitsync(SETTLE_DEADLINE_S)
    wait_equal(one, other, peer)
    wait_until(lambda: sorted(peer.listpeers()) == sorted([one.endpoint, other.endpoint]), SETTLE_DEADLINE_S)
    one.closedb()
    wait_until(lambda: peer.syncstatus().mirror == other.endpoint, SETTLE_DEADLINE_S)
    other.savedoc({"id": "b", "n": 2})
    wait_until(lambda: "b" in peer, SETTLE_DEADLINE_S)
    assert peer.readdoc("b")["n"] == 2


@needs_ipv6
def test_an_ipv6_address_to_listen_on_is_remembered(make_db: Callable[..., Any], tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        port = probe.getsockname()[1]
    db = make_db(location=tmp_path / "kept", mode="mirror", listen=f"[::1]:{port}")
    endpoint = db.endpoint
    db.closedb()

    assert make_db(location=tmp_path / "kept").endpoint == endpoint == f"http://[::1]:{port}"


def test_mirrors_that_are_reached_by_their_advertised_addresses_only(make_db: Callable[..., Any]) -> None:
    """Each stands behind a proxy, as behind a NAT: what others learn of it is the proxy's address, and that works."""
    ports = [find_free_pair(), find_free_pair()]
    with Proxy("127.0.0.1", ports[0]) as front, Proxy("127.0.0.1", ports[1]) as back:
        proxies = (front, back)
        urls = [f"http://127.0.0.1:{proxy.port}" for proxy in proxies]
        one = make_db(mode="mirror", listen=f"127.0.0.1:{ports[0]}", advertise=urls[0])
        other = make_db(mode="mirror", listen=f"127.0.0.1:{ports[1]}", advertise=urls[1], peers=[urls[0]])
        peer = make_db(peers=[urls[0]])
        wait_connected(peer)
        wait_until(lambda: sorted(peer.listpeers()) == sorted(urls), SETTLE_DEADLINE_S)
        assert other.listpeers() == [urls[0]]
        wait_until(lambda: urls[1] in one.listpeers(), SETTLE_DEADLINE_S, lambda: str(one.listpeers()))
        one.savedoc({"id": "a", "n": 1})
        wait_equal(one, other, peer)

        front.cut()
        wait_until(lambda: peer.syncstatus().mirror == urls[1], SETTLE_DEADLINE_S)
        published = back.bytes_from_target
        other.savedoc({"id": "b", "n": 2})
        wait_until(lambda: "b" in peer, SETTLE_DEADLINE_S)
        assert back.bytes_from_target > published, "by the publisher beside it, through the proxy too"
        front.restore()
        wait_equal(one, other, peer)


def test_an_address_that_was_taken_back_is_final(make_db: Callable[..., Any], tmp_path: Path) -> None:
    one = make_db(mode="mirror", listen="127.0.0.1:0")
    other = make_db(mode="mirror", listen="127.0.0.1:0", peers=[one.endpoint])
    peer = make_db(peers=[one.endpoint], location=tmp_path / "peer")
    wait_until(lambda: sorted(peer.listpeers()) == sorted([one.endpoint, other.endpoint]), SETTLE_DEADLINE_S)
    peer.delpeer(one.endpoint)
    wait_until(lambda: peer.syncstatus().mirror == other.endpoint, SETTLE_DEADLINE_S)
    peer.closedb()
    again = make_db(location=tmp_path / "peer")
    wait_until(lambda: again.syncstatus().mirror == other.endpoint, SETTLE_DEADLINE_S)
    other.savedoc({"id": "a"})
    wait_until(lambda: "a" in again, SETTLE_DEADLINE_S)

    assert again.listpeers() == [other.endpoint]
