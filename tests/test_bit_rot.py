"""A flipped bit costs at most the block that it hits, and nothing at all where others have what it held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mynosql
from mynosql import StorageCorrupt
from mynosql.idkey import unpack_id
from tests.mesh import SETTLE_DEADLINE_S, wait_connected
from tests.rotting import Block, blocks_of, flip
from tests.waiting import wait_until

COUNT = 400
HEAL_DEADLINE_S = 90.0


def filled(db: Any) -> dict[str, Any]:
    """Several blocks of records."""
    return {rec["id"]: rec for rec in db.savedocs([
        {"id": f"record/{number:04}", "number": number, "text": f"{number} is a number " * 10}
        for number in range(COUNT)
    ])}


def ids_of(block: Block) -> list[Any]:
    return [unpack_id(id_key) for id_key in block.id_keys]


def open_mirror(folder: Path, **options: Any) -> Any:
    return mynosql.opendb("Test", location=folder, mode="mirror", **{"listen": "127.0.0.1:0", **options})


def damaged(folder: Path, part: str, block: int = 1) -> list[Any]:
    """A bit in the middle of a block's head or body flips; returns the ids of the block."""
    found = blocks_of(folder / "Test")[block]
    place = found.head if part == "head" else found.body
    flip(place.file, place.offset + place.length // 2)
    return ids_of(found)


PARTS = pytest.mark.parametrize("part", ["head", "body"])


@PARTS
def test_a_peer_reads_a_damaged_record_from_its_mirror(part: str, tmp_path: Path) -> None:
    with open_mirror(tmp_path / "mirror") as mirror:
        with mynosql.opendb("Test", location=tmp_path / "peer", peers=[mirror.endpoint]) as peer:
            recs = filled(peer)
            assert peer.waitsync(20)
        hit = damaged(tmp_path / "peer", part)
        with mynosql.opendb("Test", location=tmp_path / "peer") as peer:
            wait_connected(peer)
            for id in (hit[0], hit[-1]):
                assert peer.readdoc(id) == recs[id]
            wait_until(lambda: len(peer) == COUNT, HEAL_DEADLINE_S, "the index is complete")
            assert {id: peer.readdoc(id) for id in recs} == recs
            peer.compactdb()
            assert peer.checkdb().ok
            assert "block" in peer.syncstatus().last_error


@PARTS
def test_a_mirror_gets_a_damaged_block_again_from_another_mirror(part: str, tmp_path: Path) -> None:
    with open_mirror(tmp_path / "one") as one:
        with open_mirror(tmp_path / "two", peers=[one.endpoint]) as two:
            recs = filled(two)
            assert two.waitsync(20)
        hit = damaged(tmp_path / "two", part)
        with open_mirror(tmp_path / "two", peers=[one.endpoint]) as two:
            wait_until(lambda: two.syncstatus().connected >= 2, SETTLE_DEADLINE_S, "both follow each other")
            two.checkdb()  # finds it, unless somebody has read there before
            wait_until(lambda: two.syncstatus().held == COUNT, HEAL_DEADLINE_S, lambda: f"{two.syncstatus()}")
            one.closedb()
            assert {id: two.readdoc(id, timeout=0) for id in hit} == {id: recs[id] for id in hit}
            two.compactdb()
            assert two.checkdb().ok


@PARTS
def test_a_lone_mirror_gets_a_damaged_block_again_from_a_peer(part: str, tmp_path: Path) -> None:
    with open_mirror(tmp_path / "mirror") as mirror:
        url = mirror.endpoint
        with mynosql.opendb("Test", location=tmp_path / "peer", peers=[url]) as peer:
            recs = filled(peer)
            assert peer.waitsync(20)
    hit = damaged(tmp_path / "mirror", part)
    with open_mirror(tmp_path / "mirror", listen=url.removeprefix("http://")) as mirror:
        with mynosql.opendb("Test", location=tmp_path / "peer") as peer:
            wait_connected(peer)
            mirror.checkdb()  # finds it, unless somebody has read there before
            wait_until(lambda: mirror.syncstatus().held == COUNT, HEAL_DEADLINE_S, lambda: f"{mirror.syncstatus()}")
        assert {id: mirror.readdoc(id, timeout=0) for id in hit} == {id: recs[id] for id in hit}
        mirror.compactdb()
        assert mirror.checkdb().ok


@PARTS
def test_a_node_alone_keeps_what_is_damaged_and_says_so(part: str, tmp_path: Path) -> None:
    with mynosql.opendb("Test", location=tmp_path) as db:
        recs = filled(db)
    hit = set(damaged(tmp_path, part))
    with mynosql.opendb("Test", location=tmp_path) as db:
        for _ in range(2):
            assert not db.checkdb().ok
            for id, rec in recs.items():
                if id in hit:
                    with pytest.raises(StorageCorrupt):
                        db.readdoc(id)
                else:
                    assert db.readdoc(id) == rec


@PARTS
def test_what_only_this_disk_has_is_not_given_up(part: str, tmp_path: Path) -> None:
    """Owed and never sent: a mirror is known, and has nothing of it."""
    with mynosql.opendb("Test", location=tmp_path, peers=["http://127.0.0.1:9"]) as db:
        filled(db)
    hit = damaged(tmp_path, part)
    with mynosql.opendb("Test", location=tmp_path) as db:
        for _ in range(2):
            with pytest.raises(StorageCorrupt):
                db.readdoc(hit[0])
        assert len(db) == db.syncstatus().pending == COUNT
