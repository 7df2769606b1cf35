"""Entries in id order: merged, lazy, newest first."""

from __future__ import annotations

from random import Random

import pytest

from mynosql.store import sealed
from mynosql.store.store import Store, StoreOptions
from tests.store.making import entry_of, key, open_memory, remote_row, row_of, seal, tombstone

ONE = StoreOptions(memtable_bytes_max=1 << 24)


@pytest.fixture
def layered() -> Store:
    """Three segments, and unsealed rows on top, that overlap."""
    store, _, _ = open_memory(options=ONE)
    for turn in range(4):
        store.put([row_of(f"id-{n:03d}", turn) for n in range(turn * 20, 100, turn + 1)])
        if turn < 3:
            seal(store)
    return store


def expected(store: Store) -> list[bytes]:
    return [key(f"id-{n:03d}") for n in range(100)]


def test_every_id_comes_once_in_order_with_its_newest_entry(layered: Store) -> None:
    entries = layered.entries(b"", None, live_only=False, limit=1000)
    assert [entry.id_key for entry in entries] == expected(layered)
    assert entries == [layered.find(id_key) for id_key in expected(layered)]


def test_pages_of_any_size_make_up_the_whole(layered: Store) -> None:
    for limit in (1, 7, 100):
        pages, low = [], b""
        while page := layered.entries(low, None, live_only=False, limit=limit):
            assert len(page) <= limit
            pages += [entry.id_key for entry in page]
            low = pages[-1] + b"\0"
        assert pages == expected(layered)


def test_a_range_has_its_lower_end_and_not_its_upper_one(layered: Store) -> None:
    found = layered.entries(key("id-010"), key("id-013"), live_only=False, limit=100)
    assert [entry.id_key for entry in found] == [key(f"id-{n:03d}") for n in (10, 11, 12)]
    assert layered.entries(key("id-0005"), key("id-0007"), live_only=False, limit=100) == []
    assert layered.entries(b"", None, live_only=False, limit=0) == []


def test_deleted_ids_are_left_out_when_only_live_ones_are_wanted(layered: Store) -> None:
    layered.put([tombstone("id-005"), tombstone("id-050")])
    seal(layered)
    layered.put([tombstone("id-007")])
    live = [entry.id_key for entry in layered.entries(b"", None, live_only=True, limit=1000)]
    assert live == [id_key for id_key in expected(layered) if id_key not in map(key, ("id-005", "id-050", "id-007"))]
    assert len(layered.entries(b"", None, live_only=False, limit=1000)) == 100


def test_a_page_reads_few_blocks_of_few_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    store, _, _ = open_memory(options=ONE)
    rng = Random(1)
    for turn in range(5):
        store.put([row_of(f"{turn}-{n:04d}", rng.random()) for n in range(2500)])
        seal(store)
    store.drop_caches()
    read: list[int] = []
    original = sealed.shard.read_head_bytes
    monkeypatch.setattr(sealed.shard, "read_head_bytes", lambda f, ref: read.append(ref.number) or original(f, ref))  # type: ignore
    assert len(store.entries(key("3-1200"), None, live_only=False, limit=10)) == 10
    segment = store._sealed.segments[3]
    assert set(read) <= set(range(segment.block_first, segment.block_last + 1))
    assert 1 <= len(read) <= 4


def test_missing_names_live_ids_without_a_body_and_reads_no_other_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    store, _, _ = open_memory(options=ONE)
    store.put([remote_row(f"id-{n:03d}", n) for n in range(60)])
    seal(store)
    store.put([row_of(f"id-{n:03d}", n) for n in range(30)])
    store.put([tombstone("id-030")])
    seal(store)
    store.put([row_of("id-031", 1), remote_row("id-001", 2), remote_row("id-032", 2, stale=1)])
    wanted = ["id-001", *(f"id-{n:03d}" for n in range(32, 60))]
    assert store.counters.missing == len(wanted)
    assert [entry.id_key for entry in store.missing(b"", 100)] == [key(id) for id in wanted]
    assert [entry.id_key for entry in store.missing(key("id-001"), 2)] == [key("id-032"), key("id-033")]
    seal(store)
    store.drop_caches()
    read: set[int] = set()
    original = sealed.shard.read_head_bytes
    monkeypatch.setattr(sealed.shard, "read_head_bytes", lambda f, ref: read.add(ref.number) or original(f, ref))  # type: ignore
    assert [entry.id_key for entry in store.missing(b"", 100)] == [key(id) for id in wanted]
    assert read == {0, 2}
    assert store.missing(b"", 0) == []


def test_nothing_is_scanned_for_missing_bodies_when_none_is_missing(
    layered: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    layered.drop_caches()
    monkeypatch.setattr(sealed.shard, "read_head_bytes", None)
    assert layered.missing(b"", 10) == []


def test_a_damaged_block_hides_its_ids_and_never_shows_older_ones_instead() -> None:
    store, files, index = open_memory(options=ONE)
    store.put([row_of(id, 1) for id in "abc"])
    seal(store)
    store.put([row_of("b", 2)])
    seal(store)
    [block] = index.blocks_of(1)
    files.damage("shard-00000000", block.offset + 20, b"\xff\x00\xff")
    store = Store.open(files, index.crash(), ONE)
    entries = store.entries(b"", None, live_only=False, limit=10)
    assert [entry.id_key for entry in entries] == [key("a"), key("c")]
    assert len(store.problems) == 1


def test_entries_say_what_the_rows_say(layered: Store) -> None:
    rows = [remote_row("id-000", 9, stale=8), tombstone("id-001")]
    layered.put(rows)
    head = layered.head_seq
    rows = [row._replace(seq=head - 1 + place) for place, row in enumerate(rows)]
    assert layered.entries(b"", None, live_only=False, limit=2) == [entry_of(row) for row in rows]
