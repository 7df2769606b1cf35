"""Superseded revisions: found as long as a row with their body stands on the disk, the newest first."""

from __future__ import annotations

from typing import Any

import pytest

from mynosql.row import Leaf, Row
from mynosql.store import history
from mynosql.store.shard import shard_name
from mynosql.store.store import Store
from tests.store.making import body_of, conflict_row, key, leaf_of, open_memory, remote_row, row_of, seal


def find(store: Store, id: Any, *values: Any) -> Any:
    """The body of the newest revision of the id with one of these values; any value if none is given."""
    digests = {leaf_of(body_of(value)).digest for value in values}

    def is_wanted(leaf: Leaf) -> bool:
        return not digests or leaf.digest in digests

    found = store.read_superseded(key(id), is_wanted)
    if found is None:
        return None
    assert found[0].digest == leaf_of(found[1]).digest
    return found[1]


OTHERS = [f"{letter}{count:03}" for letter in "az" for count in range(150)]


@pytest.fixture
def store() -> Store:
    """Three revisions of "m" in segments of their own, each among 300 others, and a fourth not sealed."""
    store = open_memory()[0]
    for number in range(3):
        others = [row_of(id, bytes(500), hlc=1000 + number) for id in OTHERS]
        store.put([*others, row_of("m", number, hlc=1000 + number)])
        seal(store)
    store.put([row_of("m", 3, hlc=2000)])
    return store


def test_every_sealed_revision_is_found_by_what_is_wanted(store: Store) -> None:
    assert [find(store, "m", number) for number in range(4)] == [body_of(number) for number in range(4)]
    assert find(store, "m") == body_of(3)
    assert find(store, "m", 0, 1) == body_of(1), "the newest of them"


def test_every_id_of_a_segment_of_several_blocks_is_found(store: Store) -> None:
    assert len(store._sealed.index.blocks_of(store._sealed.segments[0].number)) > 2
    for id in OTHERS:
        assert store.read_superseded(key(id), lambda leaf: leaf.hlc == 1000) is not None, id


def test_what_no_row_has_is_not_found(store: Store) -> None:
    assert find(store, "m", 9) is None
    assert find(store, "none") is None
    assert find(store, "zzz") is None
    assert find(open_memory()[0], "m") is None


def test_revisions_of_one_memtable_but_the_newest_are_not_found() -> None:
    store = open_memory()[0]
    for number in range(3):
        store.put([row_of("m", number, hlc=1000 + number)])
    seal(store)
    assert [find(store, "m", number) for number in range(3)] == [None, None, body_of(2)]


def test_losers_and_stale_bodies_are_found_too() -> None:
    store = open_memory()[0]
    store.put([conflict_row("a", "winner", "loser", "not held"), remote_row("b", "remote", stale="stale")])
    for _ in range(2):
        assert find(store, "a", "loser") == body_of("loser")
        assert find(store, "a", "not held") is None
        assert find(store, "b", "stale") == body_of("stale")
        assert find(store, "b", "remote") is None
        seal(store)


def test_looking_back_has_an_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "SEGMENTS_MAX", 2)
    assert [find(store, "m", number) for number in range(4)] == [None, *map(body_of, (1, 2, 3))]


def test_a_damaged_block_is_stepped_over_and_noted() -> None:
    store, files, _ = open_memory()
    ends: list[int] = []
    for number in range(3):
        store.put([row_of("m", number, hlc=1000 + number)])
        seal(store)
        ends.append(files.size(shard_name(0)))
    store.drop_caches()
    files.damage(shard_name(0), ends[1] - 5, b"damaged"[:5])
    assert find(store, "m", 1) is None
    assert find(store, "m", 0) == body_of(0)
    assert len(store.problems) == 1


def test_a_tombstone_has_no_body() -> None:
    store = open_memory()[0]
    store.put([Row(key("t"), (leaf_of(None),), (None,))])
    assert find(store, "t") is None
