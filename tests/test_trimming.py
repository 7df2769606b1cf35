"""setcachesize, pindoc, pindocs: a peer keeps within its budget and drops nothing that is needed."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mynosql
from mynosql import OptionInvalid, RecordNotFound, StorageFull
from tests.mesh import SETTLE_DEADLINE_S, wait_connected
from tests.waiting import wait_until

SIZE = 400_000
IMAGE = 4_000


def image(number: int) -> dict[str, Any]:
    """Nothing compresses it."""
    return {"id": f"image/{number:04}", "pixels": random.Random(number).randbytes(IMAGE)}


def used(peer: Any) -> int:
    with peer._node().lock:
        return int(peer._node().store.body_bytes)


def states(peer: Any, count: int) -> list[str]:
    return [peer.docinfo(f"image/{number:04}").state for number in range(count)]


def wait_trimmed(peer: Any) -> None:
    wait_until(
        lambda: used(peer) <= SIZE and not peer._node().replica.trimmer.is_due, 30.0,
        lambda: f"{used(peer):,} bytes of {SIZE:,}",
    )


@pytest.fixture
def mirror(make_db: Callable[..., Any]) -> Any:
    db = make_db(mode="mirror", listen="127.0.0.1:0")
    db.savedocs([image(number) for number in range(300)])
    return db


def test_what_was_read_for_longest_goes_and_is_fetched_again(mirror: Any, make_db: Callable[..., Any]) -> None:
    peer = make_db(peers=[mirror.endpoint])
    wait_connected(peer)
    peer.setcachesize(SIZE)
    for number in range(300):
        assert peer.readdoc(f"image/{number:04}", timeout=30) == mirror.readdoc(f"image/{number:04}")
    wait_trimmed(peer)
    found = states(peer, 300)
    assert len(peer) == 300
    assert "remote" in found[:100]
    assert found.count("fresh") >= 40
    assert peer.readdoc("image/0000", timeout=30)["pixels"] == image(0)["pixels"]


def test_a_budget_given_later_and_over_reopening_holds(
    mirror: Any, make_db: Callable[..., Any], tmp_path: Path
) -> None:
    peer = make_db(peers=[mirror.endpoint], location=tmp_path / "peer")
    wait_connected(peer)
    peer.readdocs([f"image/{number:04}" for number in range(300)], timeout=60)
    assert used(peer) > 2 * SIZE
    peer.setcachesize(SIZE)
    wait_trimmed(peer)
    peer.compactdb()
    on_disk = sum(path.stat().st_size for path in (tmp_path / "peer").rglob("shard-*"))
    assert on_disk < 1.5 * SIZE
    peer.closedb()
    again = make_db(peers=[mirror.endpoint], location=tmp_path / "peer")
    again.readdocs([f"image/{number:04}" for number in range(300)], timeout=60)
    wait_trimmed(again)
    again.setcachesize(None)
    again.readdocs([f"image/{number:04}" for number in range(300)], timeout=60)
    wait_until(lambda: again.syncstatus().held == 300, 10.0)


def test_what_is_pinned_stays(mirror: Any, make_db: Callable[..., Any], tmp_path: Path) -> None:
    mirror.savedocs([{"id": f"map/{number}", "tiles": random.Random(number).randbytes(IMAGE)} for number in range(10)])
    peer = make_db(peers=[mirror.endpoint], location=tmp_path / "peer")
    wait_connected(peer)
    peer.setcachesize(SIZE)
    peer.pindocs("map/")
    peer.pindoc("image/0001")
    peer.readdocs([f"map/{number}" for number in range(10)], timeout=30)
    assert peer.evictdoc("image/0001") is False
    peer.closedb()
    peer = make_db(peers=[mirror.endpoint], location=tmp_path / "peer")
    wait_connected(peer)
    for _ in range(2):
        peer.readdocs([f"image/{number:04}" for number in range(300)], timeout=60)
        wait_trimmed(peer)
        assert all(peer.docinfo(f"map/{number}").state == "fresh" for number in range(10))
        assert peer.docinfo("image/0001").state == "fresh"
    peer.pindoc("image/0001", pinned=False)
    peer.pindocs("map/", pinned=False)
    assert peer.evictdoc("image/0001") is True


def test_a_full_budget_of_unsent_records_refuses_saves_and_loses_none(
    make_db: Callable[..., Any], mirror: Any
) -> None:
    logger = make_db()
    logger.setcachesize(SIZE)
    with pytest.raises(StorageFull, match="changes that no mirror has yet are in it"):
        fill(logger)
    saved = len(logger)
    assert 60 < saved < 1000
    with pytest.raises(StorageFull):
        logger.savedocs([{"id": "batch"}])
    assert len(logger) == saved == logger.syncstatus().pending
    assert logger.readdoc("log/0000")["pixels"] == image(0)["pixels"]

    logger.addpeer(mirror.endpoint)
    assert logger.waitsync(SETTLE_DEADLINE_S)
    wait_until(lambda: can_save(logger), 20.0, "saves work again once a mirror has what was owed")
    assert mirror.readdoc("log/0000")["pixels"] == image(0)["pixels"]
    assert sum(1 for id in mirror.listdocs("log/")) == saved


def fill(logger: Any) -> None:
    """Saves until it is refused."""
    for number in range(2000):
        logger.savedoc({**image(number), "id": f"log/{number:04}"})
        if number % 20 == 0:
            wait_until(lambda: not logger._node().replica.trimmer.is_due, 10.0)


def can_save(db: Any) -> bool:
    try:
        db["one more"] = {}
    except StorageFull:
        return False
    return True


def test_a_larger_budget_ends_a_refusal(make_db: Callable[..., Any]) -> None:
    logger = make_db()
    logger.setcachesize(SIZE)
    with pytest.raises(StorageFull):
        fill(logger)
    logger.setcachesize(10 * SIZE)
    wait_until(lambda: can_save(logger), 10.0)


@pytest.mark.slow
def test_readers_and_writers_beside_trimming_see_right_records(mirror: Any, make_db: Callable[..., Any]) -> None:
    peer = make_db(peers=[mirror.endpoint])
    wait_connected(peer)
    peer.setcachesize(SIZE)
    wrong: list[Any] = []

    def read(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(250):
            number = rng.randrange(300)
            if peer.readdoc(f"image/{number:04}", timeout=30)["pixels"] != image(number)["pixels"]:
                wrong.append(number)
            if rng.random() < 0.3:
                peer.savedoc({"id": f"own/{seed}/{rng.random()}", "data": rng.randbytes(500)})

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert peer.waitsync(SETTLE_DEADLINE_S)
    wait_trimmed(peer)
    assert all(id in mirror for id in peer.listdocs("own/"))


def test_misuse_has_a_name(mirror: Any, make_db: Callable[..., Any]) -> None:
    with pytest.raises(OptionInvalid, match="a mirror holds every record"):
        mirror.setcachesize(SIZE)
    peer = make_db()
    for wrong in (-1, 0, 1.5, "much", 1000, True):
        with pytest.raises(OptionInvalid, match="bytes from 65,536 up"):
            peer.setcachesize(wrong)
    with pytest.raises(OptionInvalid, match="a prefix is a str"):
        peer.pindocs(7)
    with pytest.raises(RecordNotFound):
        peer.pindoc("nothing")
    assert isinstance(peer, mynosql.MyNoSQL)
