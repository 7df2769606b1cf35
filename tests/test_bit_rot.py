"""A flipped bit costs at most the block that it hits, and nothing at all where others have what it held."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import mynosql
from mynosql import RecordNotFound, StorageCorrupt, StorageError
from mynosql.idkey import unpack_id
from mynosql.net.ports import find_free_pair
from tests.mesh import SETTLE_DEADLINE_S, wait_connected
from tests.rotting import Block, blocks_of, flip
from tests.waiting import wait_until

COUNT = 400
FLIPS = 50
"""Bits tried in each file."""
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
    listen = f"127.0.0.1:{find_free_pair()}"
    with (
        open_mirror(tmp_path / "mirror", listen=listen) as mirror,
        mynosql.opendb("Test", location=tmp_path / "peer", peers=[mirror.endpoint]) as peer,
    ):
        recs = filled(peer)
        assert peer.waitsync(20)
    hit = damaged(tmp_path / "mirror", part)
    with open_mirror(tmp_path / "mirror", listen=listen) as mirror:
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


# Every file


def rotting_folder(folder: Path) -> dict[str, Any]:
    """A folder with each kind of file as a killed process leaves it, and all that it holds."""
    recs = {}
    with mynosql.opendb("Test", location=folder / "made") as db:
        recs.update(filled(db))
        recs["large"] = db.savedoc({"id": "large", "bytes": random.Random(1).randbytes(150_000)})
    with mynosql.opendb("Test", location=folder / "made") as db:
        for id in list(recs)[: COUNT : 3]:
            recs[id] = db.savedoc({**recs[id], "text": "edited"})
    with mynosql.opendb("Test", location=folder / "made") as db:
        for number in range(20):
            recs[f"new/{number}"] = db.savedoc({"id": f"new/{number}", "number": number})
        shutil.copytree(folder / "made", folder / "left", ignore=shutil.ignore_patterns("control*", "*-shm"))
    return recs


def tables_of(index: Path) -> Any:
    """All that an index says; None when it cannot be read."""
    connection = sqlite3.connect(f"file:{index}?mode=ro&immutable=1", uri=True)
    try:
        return [
            list(connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2"))
            for table in ("place", "twin", "block", "segment", "note", "counter")
        ]
    except (sqlite3.Error, UnicodeError):
        return None
    finally:
        connection.close()


class Read(NamedTuple):
    """What was read of a folder."""

    wrong: list[Any]
    refused: list[Any]
    """StorageCorrupt."""
    absent: list[Any]


def read_all(db: mynosql.MyNoSQL, recs: dict[str, Any]) -> Read:
    read = Read([], [], [])
    for id, rec in recs.items():
        try:
            if db.readdoc(id, timeout=0) != rec:
                read.wrong.append(id)
        except StorageCorrupt:
            read.refused.append(id)
        except RecordNotFound:
            read.absent.append(id)
    return read


@pytest.fixture(scope="module")
def rotting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("rotting")
    return folder / "left", rotting_folder(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["filter", "format", "identity", "index", "journal", "shard"])
def test_a_flipped_bit_is_found_and_costs_its_block_at_most(
    name: str, rotting: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    left, recs = rotting
    (path,) = [path for path in (left / "Test").iterdir() if path.name.split("-")[0] == name and path.stat().st_size]
    rng = random.Random(name)
    blocks = {frozenset(ids_of(block)) for block in blocks_of_copy(left, tmp_path / "blocks")}
    for turn in range(FLIPS):
        at, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
        told = f"bit {bit} of byte {at}"
        copy = tmp_path / str(turn)
        shutil.copytree(left, copy)
        flip(copy / "Test" / path.name, at, bit)
        if name == "format":  # 27 bytes that say how to read everything else: nothing is guessed
            with pytest.raises(StorageError, match="format"):
                mynosql.opendb("Test", location=copy)
            continue
        means_something = name != "index" or tables_of(copy / "Test" / "index") != tables_of(left / "Test" / "index")
        read, is_found = first_opening(copy, recs)
        assert not read.wrong, told
        if name == "shard":
            assert any(set(read.refused) <= block for block in blocks), told
            assert not read.absent, told
            assert is_found, told
        else:
            if name == "index":
                assert is_found or not means_something, told
            else:
                assert read == Read([], [], []), told
            with mynosql.opendb("Test", location=copy) as db:
                assert read_all(db, recs) == Read([], [], []), told
                assert db.checkdb().ok, told
        shutil.rmtree(copy)


def first_opening(copy: Path, recs: dict[str, Any]) -> tuple[Read, bool]:
    """What is read, and whether damage was found. A damaged index may refuse the last seal: its journal stays."""
    db = mynosql.opendb("Test", location=copy)
    try:
        read = read_all(db, recs)
        is_found = not db.checkdb().ok
    finally:
        with contextlib.suppress(StorageCorrupt):
            db.closedb()
    return read, is_found


def blocks_of_copy(left: Path, to: Path) -> list[Block]:
    shutil.copytree(left, to)
    return blocks_of(to / "Test")


@pytest.mark.parametrize("name", ["filter", "journal"])
def test_what_is_set_right_at_opening_is_told(
    name: str, rotting: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    left, _ = rotting
    shutil.copytree(left, tmp_path / "copy")
    (path,) = [path for path in (tmp_path / "copy" / "Test").iterdir() if path.name.split("-")[0] == name]
    flip(path, path.stat().st_size - 5)

    with mynosql.opendb("Test", location=tmp_path / "copy") as db:
        problems = db._node().store.problems

    assert [Path(problem.file).name for problem in problems] == [path.name]
