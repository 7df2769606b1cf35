"""A game's resources on a mirror, and a peer that uses a few: it holds those, knows all, and pays for what changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mynosql
from tests.mesh import SETTLE_DEADLINE_S, wait_connected
from tests.waiting import wait_until

DATA = Path(__file__).parent / "data"
READ_BY_THE_PEER = [
    "items/0", "items/17", "items/700", "blocks/1", "blocks/500", "blocks/1002",
    "entities/0", "entities/50", "entities/123", "language",
]


def resources() -> list[dict[str, Any]]:
    """1,255 items, 1,003 blocks, 124 entities, and one record of 386 KB."""
    records = [
        {**record, "id": f"{kind}/{number}", "number": record["id"]}
        for kind in ("items", "blocks", "entities")
        for number, record in enumerate(json.loads((DATA / f"{kind}.json").read_text()))
    ]
    records.append({"id": "language", "texts": json.loads((DATA / "language.json").read_text())})
    return records


@pytest.fixture
def served(make_db: Callable[..., Any]) -> tuple[mynosql.MyNoSQL, mynosql.MyNoSQL, dict[str, Any]]:
    """The mirror with all resources, the peer that has read ten, and what was saved."""
    mirror = make_db("Game", mode="mirror", listen="127.0.0.1:0")
    saved = {record["id"]: record for record in mirror.savedocs(resources())}
    peer = make_db("Game", peers=[mirror.endpoint])
    wait_connected(peer)
    for id in READ_BY_THE_PEER:
        assert peer.readdoc(id) == saved[id]
    return mirror, peer, saved


def test_the_peer_holds_ten_bodies_and_knows_all_ids(served: Any) -> None:
    _, peer, saved = served
    assert len(saved) == 2383
    assert len(peer) == len(saved)
    assert peer.listdocs() == sorted(saved)
    assert peer.syncstatus().held == len(READ_BY_THE_PEER)
    assert peer.syncstatus().missing == len(saved) - len(READ_BY_THE_PEER)


def test_offline_the_peer_gives_the_right_state_for_every_id(served: Any) -> None:
    mirror, peer, saved = served
    mirror.closedb()
    wait_until(lambda: peer.syncstatus().mirror is None, SETTLE_DEADLINE_S, "the peer noticed")
    for id, record in saved.items():
        info = peer.docinfo(id)
        assert (info.state, info.rev) == ("fresh" if id in READ_BY_THE_PEER else "remote", record["rev"])
    assert peer.docinfo("items/9999").state == "absent"
    assert peer.readdoc("language") == saved["language"]
    with pytest.raises(mynosql.RecordUnavailable):
        peer.readdoc("items/1")
    with pytest.raises(mynosql.RecordNotFound):
        peer.readdoc("items/9999")


def test_after_a_change_on_the_mirror_only_that_body_travels(served: Any) -> None:
    mirror, peer, saved = served
    changed = mirror.savedoc({**saved["blocks/500"], "hardness": 99.5})
    wait_until(lambda: peer.docinfo("blocks/500").rev == changed["rev"], SETTLE_DEADLINE_S, "the peer heard of it")
    assert peer.docinfo("blocks/500").state == "stale"
    before = peer.syncstatus().bytes_received
    assert peer.readdoc("blocks/500") == changed
    travelled = peer.syncstatus().bytes_received - before
    body_bytes = peer.docinfo("blocks/500").size
    assert body_bytes // 4 < travelled < body_bytes + 1000, (travelled, body_bytes)
    assert peer.docinfo("blocks/500").state == "fresh"
    before = peer.syncstatus().bytes_received
    assert peer.readdoc("blocks/500") == changed
    assert peer.readdoc("items/17") == saved["items/17"]
    assert peer.syncstatus().bytes_received - before < 200, "what is held and fresh is read without the network"


def test_a_change_made_while_the_peer_was_away_is_read_when_it_is_back(served: Any) -> None:
    mirror, peer, saved = served
    location = peer_folder(peer)
    peer.closedb()
    changed = mirror.savedoc({**saved["items/17"], "stackSize": 1})
    back = mynosql.opendb("Game", location=location)
    try:
        wait_until(lambda: back.docinfo("items/17").rev == changed["rev"], SETTLE_DEADLINE_S, "the change is known")
        assert back.readdoc("items/17") == changed
        assert back.readdoc("items/0") == saved["items/0"]
    finally:
        back.closedb()


def peer_folder(peer: mynosql.MyNoSQL) -> str:
    assert peer.location is not None
    return peer.location
