"""The face of a peer whose index is limited to id prefixes: what it says of ids inside and outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mynosql
from mynosql.net.ports import find_free_pair
from tests.mesh import SETTLE_DEADLINE_S
from tests.waiting import wait_until


@pytest.fixture
def mirror(make_db: Callable[..., Any]) -> Any:
    """Three records of each kind."""
    db = make_db(mode="mirror", listen=f"127.0.0.1:{find_free_pair()}")
    db.savedocs({"id": f"{kind}/{number}", "n": number} for kind in "abc" for number in range(3))
    return db


def wait_listed(db: Any, *ids: str) -> None:
    wait_until(lambda: db.listdocs() == list(ids), SETTLE_DEADLINE_S, lambda: f"{ids}: {db.listdocs()}")


def wait_follows(db: Any) -> None:
    wait_until(lambda: db.syncstatus().mirror is not None, SETTLE_DEADLINE_S)


def states(db: Any, *ids: Any) -> list[str]:
    return [db.docinfo(id).state for id in ids]


def test_a_scoped_peer_knows_what_is_within_and_says_unknown_of_the_rest(
    make_db: Callable[..., Any], mirror: Any
) -> None:
    peer = make_db(peers=[mirror.endpoint], scope=["a/", "b/1"])
    wait_listed(peer, "a/0", "a/1", "a/2", "b/1")
    wait_until(lambda: peer.syncstatus().as_of, SETTLE_DEADLINE_S)

    assert peer.getindexscope() == ("a/", "b/1")
    assert len(peer) == 4
    assert states(peer, "a/0", "a/none", "c/0", "c/none", 7) == ["remote", "absent", "unknown", "unknown", "unknown"]
    assert "c/0" not in peer
    mirror.savedoc({"id": "a/new", "n": 1})
    wait_until(lambda: "a/new" in peer, SETTLE_DEADLINE_S)
    with pytest.raises(mynosql.RecordNotFound):
        peer.readdoc("a/none", timeout=0)


def test_what_is_outside_is_fetched_each_time_and_never_taken_for_fresh(
    make_db: Callable[..., Any], mirror: Any
) -> None:
    peer = make_db(peers=[mirror.endpoint], scope=["a/"])
    wait_listed(peer, "a/0", "a/1", "a/2")
    assert peer.readdoc("c/0")["n"] == 0
    mirror.savedoc({**mirror.readdoc("c/0"), "n": 7})
    assert peer.readdoc("c/0")["n"] == 7
    info = peer.docinfo("c/0")
    assert (info.state, info.held_rev) == ("unknown", mirror.docinfo("c/0").rev)
    assert "c/0" in peer
    with pytest.raises(mynosql.RecordNotFound, match="says the mirror"):
        peer.readdoc("c/none")
    mirror.deletedoc("c/1")
    with pytest.raises(mynosql.RecordNotFound):
        peer.readdoc("c/1")

    peer.delpeer(mirror.endpoint)
    assert peer.readdoc("c/0")["n"] == 7, "the copy held"
    with pytest.raises(mynosql.RecordUnavailable, match="outside of the index scope"):
        peer.readdoc("c/0", stale=False)
    with pytest.raises(mynosql.RecordUnavailable, match="outside of the index scope"):
        peer.readdoc("c/2")


def test_what_a_scoped_peer_writes_outside_is_pending_then_delivered_then_unknown(
    make_db: Callable[..., Any], mirror: Any
) -> None:
    peer = make_db(scope=["a/"])
    peer.savedoc({"id": "log/1", "n": 1})
    assert states(peer, "log/1") == ["pending"]
    assert peer.readdoc("log/1", stale=False)["n"] == 1, "nobody has a newer one"
    peer.addpeer(mirror.endpoint)
    assert peer.waitsync(SETTLE_DEADLINE_S)

    assert mirror.readdoc("log/1")["n"] == 1
    assert states(peer, "log/1") == ["unknown"]
    assert peer.readdoc("log/1")["n"] == 1


def test_a_narrower_scope_forgets_what_is_neither_held_nor_owed(make_db: Callable[..., Any], mirror: Any) -> None:
    peer = make_db(peers=[mirror.endpoint])
    wait_until(lambda: len(peer) == 9, SETTLE_DEADLINE_S)
    peer.readdoc("c/0")
    peer.setindexscope(["a/"])

    expected = ["a/0", "a/1", "a/2", "c/0"]
    assert peer.listdocs() == list(peer) == expected
    assert peer.listdocs(limit=2) == expected[:2]
    assert peer.listdocs(after="a/1", limit=2) == expected[2:]
    assert len(peer) == 4
    assert peer.syncstatus().records == 4
    assert peer.syncstatus().missing == 3
    assert "c/1" not in peer
    assert states(peer, "c/0", "c/1") == ["unknown", "unknown"]
    assert peer.docinfo("c/1").rev is None
    assert peer.readdoc("b/1")["n"] == 1, "a mirror has it"
    wait_listed(peer, "a/0", "a/1", "a/2", "b/1", "c/0")
    assert len(peer) == 5
    mirror.savedoc({**mirror.readdoc("c/0"), "n": 5})
    assert peer.readdoc("c/0")["n"] == 5, "not from what was kept when it was within"
    assert len(peer) == 5
    peer.setindexscope([])
    assert len(peer) == len(peer.listdocs()) == 2

    peer.setindexscope(None)
    wait_until(lambda: len(peer) == 9 and peer.syncstatus().as_of, SETTLE_DEADLINE_S)
    assert states(peer, "c/0", "c/1", "none") == ["fresh", "remote", "absent"]


def test_a_wider_scope_is_not_complete_until_it_was_fetched(make_db: Callable[..., Any], mirror: Any) -> None:
    peer = make_db(peers=[mirror.endpoint], scope=["a/"])
    wait_until(lambda: peer.syncstatus().as_of and len(peer) == 3, SETTLE_DEADLINE_S)
    assert states(peer, "b/0", "a/none") == ["unknown", "absent"]
    listen, location = mirror.endpoint.removeprefix("http://"), mirror.location
    mirror.closedb()
    peer.setindexscope(["a/", "b/"])
    assert states(peer, "b/0", "a/none") == ["unknown", "unknown"]
    assert peer.syncstatus().as_of is None
    make_db(mode="mirror", listen=listen, location=location)

    wait_listed(peer, "a/0", "a/1", "a/2", "b/0", "b/1", "b/2")
    wait_until(lambda: peer.syncstatus().as_of, SETTLE_DEADLINE_S)


def test_the_scope_is_remembered_and_a_mirror_has_none(
    make_db: Callable[..., Any], mirror: Any, tmp_path: Path
) -> None:
    peer = make_db(peers=[mirror.endpoint], scope=["a/"], location=tmp_path / "peer")
    wait_listed(peer, "a/0", "a/1", "a/2")
    peer.closedb()
    again = make_db(location=tmp_path / "peer")
    wait_follows(again)
    mirror.savedoc({"id": "b/new"})
    mirror.savedoc({"id": "a/new"})
    wait_until(lambda: "a/new" in again, SETTLE_DEADLINE_S)
    assert again.getindexscope() == ("a/",)
    assert "b/new" not in again

    with pytest.raises(mynosql.OptionInvalid, match="a mirror keeps every record"):
        mirror.setindexscope(["a/"])
    again.setdbmode("Mirror")
    assert again.getindexscope() is None
    wait_until(lambda: len(again) == 11 and not again.syncstatus().missing, SETTLE_DEADLINE_S)


def test_a_write_only_logger_hears_nothing_of_what_others_write(make_db: Callable[..., Any], mirror: Any) -> None:
    logger = make_db(peers=[mirror.endpoint], scope=[])
    wait_follows(logger)
    before = logger.syncstatus()
    for number in range(50):
        mirror.savedoc({"id": f"else/{number}", "text": "x" * 500})
    logger.savedoc({"id": "log/1", "n": 1})
    assert logger.waitsync(SETTLE_DEADLINE_S)
    after = logger.syncstatus()

    assert mirror.readdoc("log/1")["n"] == 1
    assert after.bytes_received - before.bytes_received < 200
    assert logger.listdocs() == ["log/1"]


@pytest.mark.parametrize("wrong", ["a/", [1], ["x" * 201]])
def test_what_is_no_list_of_prefixes_is_refused(make_db: Callable[..., Any], db: Any, wrong: Any) -> None:
    with pytest.raises(mynosql.OptionInvalid, match="scope"):
        db.setindexscope(wrong)
    with pytest.raises(mynosql.OptionInvalid, match="scope"):
        make_db(scope=wrong)
    assert db.getindexscope() is None
