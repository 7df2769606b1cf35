"""A peer gives a record's content up, and loses nothing by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mynosql
from mynosql import OptionInvalid, RecordNotFound, RecordUnavailable
from tests.mesh import wait_connected
from tests.waiting import wait_until


@pytest.fixture
def mirror(tmp_path: Path) -> Any:
    with mynosql.opendb("Test", location=tmp_path / "mirror", mode="mirror", listen="127.0.0.1:0") as db:
        yield db


def peer_of(mirror: Any, folder: Path) -> Any:
    db = mynosql.opendb("Test", location=folder, peers=[mirror.endpoint])
    wait_connected(db)
    return db


def test_what_was_evicted_is_known_offline_and_fetched_again(mirror: Any, tmp_path: Path) -> None:
    with peer_of(mirror, tmp_path / "peer") as peer:
        saved = peer.savedoc({"id": "map", "tiles": list(range(2000))})
        assert peer.waitsync(timeout=10)

        assert peer.evictdoc("map") is True
        assert (peer.docinfo("map").state, peer.docinfo("map").rev) == ("remote", saved["rev"])
        assert peer.pendingdocs() == []
        assert "map" in peer
        assert peer.readdoc("map") == saved
        assert peer.docinfo("map").state == "fresh"
        assert peer.evictdoc("map") is True
        assert peer.evictdoc("map") is True, "twice is no error"
        rev = mirror.savedoc({**mirror.readdoc("map"), "tiles": []})["rev"]
        wait_until(lambda: peer.docinfo("map").rev == rev, 10.0)
        assert peer.docinfo("map").state == "remote", "no older copy is kept"
    mirror.closedb()
    with mynosql.opendb("Test", location=tmp_path / "peer") as peer:
        assert peer.docinfo("map").state == "remote"
        with pytest.raises(RecordUnavailable):
            peer.readdoc("map", timeout=0.1)
        assert peer.checkdb().ok


def test_what_no_mirror_has_stays(tmp_path: Path) -> None:
    with mynosql.opendb("Test", location=tmp_path) as peer:
        peer["unsent"] = {"n": 1}
        assert peer.evictdoc("unsent") is False
        assert peer["unsent"]["n"] == 1


def test_evicting_an_edit_over_a_record_that_is_not_held(mirror: Any, tmp_path: Path) -> None:
    rev = mirror.savedoc({"id": "a", "n": 1})["rev"]
    with peer_of(mirror, tmp_path / "peer") as peer:
        wait_until(lambda: peer.docinfo("a").state == "remote", 10.0)
        assert peer.evictdoc("a") is True
        peer.savedoc({"id": "a", "rev": rev, "n": 2})
        peer.waitsync(timeout=10)
        assert peer.evictdoc("a") is True
    assert mirror["a"]["n"] == 2


def test_misuse_has_a_name(mirror: Any, tmp_path: Path) -> None:
    mirror["a"] = {}
    with pytest.raises(OptionInvalid, match="a mirror holds every record"):
        mirror.evictdoc("a")
    with mynosql.opendb("Test", location=tmp_path / "peer") as peer:
        with pytest.raises(RecordNotFound, match="cannot evict 'nothing'") as got:
            peer.evictdoc("nothing")
        assert got.value.id == "nothing"


def test_the_space_of_what_was_evicted_comes_back(mirror: Any, tmp_path: Path) -> None:
    with peer_of(mirror, tmp_path / "peer") as peer:
        for number in range(50):
            peer[f"image {number}"] = {"pixels": bytes(range(256)) * 40, "number": number}
        assert peer.waitsync(timeout=20)
        peer.compactdb()
        before = sum(path.stat().st_size for path in (tmp_path / "peer").rglob("shard-*"))
        for number in range(50):
            assert peer.evictdoc(f"image {number}")
        peer.compactdb()
        after = sum(path.stat().st_size for path in (tmp_path / "peer").rglob("shard-*"))
        assert after < before / 3
        assert len(peer) == 50
        assert peer["image 7"]["number"] == 7
        assert peer.checkdb().ok
