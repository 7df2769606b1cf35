"""The feed: every id at its newest seq, in order, in slices, whatever is sealed, replaced or damaged."""

from __future__ import annotations

from random import Random

import pytest

from mynosql.row import Row
from mynosql.store import feeds
from mynosql.store.store import Store, StoreOptions
from tests.sim.memory_files import MemoryFiles
from tests.store.making import (
    body_of,
    conflict_row,
    feed_rows,
    key,
    open_memory,
    remote_row,
    reopen_killed,
    row_of,
    seal,
    tombstone,
)


def ids_of(rows: list[Row] | tuple[Row, ...]) -> list[str]:
    return [row.id_key[1:].decode() for row in rows]


def test_the_feed_of_a_long_history_equals_the_model() -> None:
    store, files, index = open_memory(options=StoreOptions(memtable_bytes_max=5000))
    rng = Random(3)
    newest: dict[bytes, Row] = {}
    for turn in range(1200):
        id = f"id-{rng.randrange(150)}"
        choice = rng.random()
        row = newest.get(key(id))
        if row is not None and choice < 0.2:
            row = row_of(id, turn)._replace(seq=row.seq, owed=row.owed, stray=True)
        else:
            row = rng.choice([row_of, remote_row])(id, turn)._replace(owed=choice > 0.6)
            row = tombstone(id, owed=True) if choice > 0.95 else row
        seq = store.put_one(row)
        newest[key(id)] = row._replace(seq=seq, stray=False)
        if store.is_seal_due and rng.random() < 0.5:
            seal(store, force=False)
        if turn % 100 == 0:
            expected = sorted(newest.values(), key=lambda row: row.seq)
            assert feed_rows(store) == expected
            after = rng.randrange(store.head_seq)
            owed = [r for r in expected if r.owed and r.seq > after]
            assert feed_rows(store, after, owed_only=True) == owed
            until = rng.randint(after, store.head_seq)
            assert store._feed.count_owed(store._unsealed.memtables, after, until) == sum(r.seq <= until for r in owed)
            assert feed_rows(reopen_killed(files, index), after) == [r for r in expected if r.seq > after]


def test_a_slice_ends_before_more_than_the_bytes_allowed_but_holds_one_row_at_least() -> None:
    store, _, _ = open_memory()
    for n in range(10):
        store.put_one(row_of(f"id-{n}", "x" * 400))
    piece = store.feed(0, bytes_max=1200, bodies=True, body_bytes_max=1000)
    assert (ids_of(piece.rows), piece.last_seq, piece.more) == (["id-0", "id-1"], 2, True)
    piece = store.feed(2, bytes_max=1, bodies=True, body_bytes_max=1000)
    assert (ids_of(piece.rows), piece.last_seq, piece.more) == (["id-2"], 3, True)


def test_a_slice_tells_how_far_it_came_also_when_nothing_matched() -> None:
    store, _, _ = open_memory()
    store.put([row_of(f"id-{n}", n) for n in range(10)])
    for _ in range(2):
        piece = store.feed(0, bytes_max=100, bodies=False, body_bytes_max=0, owed_only=True)
        assert (piece.rows, piece.last_seq, piece.more) == ((), 10, False)
        piece = store.feed(0, until_seq=7, bytes_max=10_000, bodies=False, body_bytes_max=0, low=key("id-5"))
        assert (ids_of(piece.rows), piece.last_seq, piece.more) == (["id-5", "id-6"], 7, False)
        piece = store.feed(10, bytes_max=10_000, bodies=False, body_bytes_max=0)
        assert (piece.rows, piece.last_seq, piece.more) == ((), 10, False)
        seal(store)


def test_bodies_come_only_when_asked_for_and_not_too_large() -> None:
    store, _, _ = open_memory()
    store.put([row_of("small", 1), row_of("middle", "m" * 2000), row_of("large", "l" * 200_000)])
    for _ in range(2):
        for body_bytes_max, held in ((100, [True, False, False]), (5000, [True, True, False]), (1 << 20, [True] * 3)):
            for _ in range(2):
                rows = feed_rows(store, body_bytes_max=body_bytes_max)
                assert [row.bodies[0] is not None for row in rows] == held
        rows = feed_rows(store, bodies=False)
        assert [row.bodies for row in rows] == [(None,)] * 3
        seal(store)
        store.drop_caches()
    assert feed_rows(store, body_bytes_max=1 << 20)[2].bodies == (body_of("l" * 200_000),)


def test_a_large_body_that_was_replaced_by_a_stray_comes_as_the_stray_has_it() -> None:
    store, _, _ = open_memory()
    store.put([row_of("a", "old" * 50_000), row_of("b", "old" * 50_000)])
    seal(store)
    store.put_one(row_of("a", "new" * 50_000)._replace(seq=1, stray=True))
    store.put_one(row_of("b", "small")._replace(seq=2, stray=True))
    for _ in range(2):
        rows = feed_rows(store, body_bytes_max=1 << 20)
        assert [row.bodies[0] for row in rows] == [body_of("new" * 50_000), body_of("small")]
        seal(store)
        store.drop_caches()


def test_stale_bodies_never_leave_and_conflicts_come_whole() -> None:
    store, _, _ = open_memory()
    store.put([remote_row("a", 2, stale=1), conflict_row("b", 1, 2, 3)])
    for _ in range(2):
        stale, conflict = feed_rows(store)
        assert (stale.stale, stale.bodies) == (None, (None,))
        assert conflict.bodies == (body_of(1), body_of(2), None)
        seal(store)
        store.drop_caches()


def test_sealing_what_a_reader_follows_decodes_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store, _, _ = open_memory()
    store.put([row_of(f"id-{n}", n) for n in range(20)])
    feed_rows(store)
    seal(store)
    monkeypatch.setattr(feeds.shard, "read_raw", None)
    assert len(feed_rows(store, 10)) == 10


def test_a_reader_that_goes_on_waits_for_no_whole_segment_but_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    store, _, _ = open_memory()
    for start in range(0, 600, 200):
        store.put([row_of(f"{n:03}", random_text(n)) for n in range(start, start + 200)])
        seal(store)
    counts: list[int] = []
    original = feeds.shard.read_raw
    monkeypatch.setattr(feeds.shard, "read_raw", lambda *a, **k: counts.append(1) or original(*a, **k))  # type: ignore
    reads, after, rows = [], 0, []
    while True:
        piece = store.feed(after, bytes_max=40_000, bodies=True, body_bytes_max=1 << 20)
        reads.append(len(counts))
        counts.clear()
        rows += piece.rows
        after = piece.last_seq
        if not piece.more:
            break
    assert [row.seq for row in rows] == list(range(1, 601))
    assert sum(reads) < 45, "each block is decoded once"
    assert reads[0] > 10
    assert max(reads[1:]) <= 3


def random_text(seed: int) -> str:
    return Random(seed).randbytes(1000).hex()


def test_memory_holds_two_decoded_segments_at_most() -> None:
    store, _, _ = open_memory()
    for turn in range(5):
        store.put([row_of(f"id-{turn}-{n}", n) for n in range(20)])
        seal(store)
    assert len(feed_rows(store)) == 100
    assert len(store._feed._decoded) == feeds.SEGMENTS_KEPT
    store.drop_caches()
    assert len(store._feed._decoded) == 0


def test_a_decoded_segment_goes_when_its_reader_has_gone_on() -> None:
    store, _, _ = open_memory()
    store.put([row_of(f"id-{n}", n) for n in range(20)])
    seal(store)
    store.put_one(row_of("new", 1))
    assert len(feed_rows(store)) == 21
    assert len(store._feed._decoded) == 1
    for _ in range(feeds.SLICES_UNUSED_MAX + 1):
        assert len(feed_rows(store, 20)) == 1
    assert len(store._feed._decoded) == 0


def test_segments_that_owe_nothing_are_not_read_for_the_outbox(monkeypatch: pytest.MonkeyPatch) -> None:
    store, _, _ = open_memory()
    for owed in (False, True, False):
        store.put([row_of(f"id-{owed}-{n}", n, owed=owed) for n in range(20)])
        seal(store)
    read: list[int] = []
    original = feeds.shard.read_raw
    monkeypatch.setattr(feeds.shard, "read_raw", lambda *a, **k: read.append(1) or original(*a, **k))  # type: ignore
    assert len(feed_rows(store, owed_only=True)) == 20
    assert len(read) == 1


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_damaged_block_costs_its_own_rows_only_and_is_noted(part: str) -> None:
    """Its bodies alone: the rows come without them."""
    store, files, index = open_memory(options=StoreOptions(memtable_bytes_max=1 << 20))
    rng = Random(5)
    store.put([row_of(f"id-{n:03d}", rng.random()) for n in range(3000)])
    seal(store)
    blocks = index.blocks_of(0)
    assert len(blocks) > 1
    start = blocks[0].offset + (blocks[0].head_bytes if part == "body" else 100)
    files.damage("shard-00000000", start + 5, b"\xff\x00\xff")
    store = Store.open(files, index.crash())
    rows = feed_rows(store, bytes_max=1 << 20)
    assert len(rows) == 3000 - (blocks[0].row_count if part == "head" else 0)
    assert sum(row.bodies[0] is not None for row in rows) == 3000 - blocks[0].row_count
    assert [problem.records for problem in store.problems] == [blocks[0].row_count]


def test_an_empty_feed_is_at_its_end() -> None:
    store, _, _ = open_memory(MemoryFiles())
    assert store.feed(0, bytes_max=10, bodies=True, body_bytes_max=10) == ((), 0, False)


def test_a_row_whose_body_came_later_is_forgotten_when_it_is_replaced_where_the_body_stands() -> None:
    """What was decoded of its first segment kept it: `pending` fell below zero, and the seal that packs it failed."""
    # Given a record owed, with others in its segment, its body brought by a stray in the next segment
    store, _, _ = open_memory()
    owed = remote_row("a", 1)._replace(owed=True)
    store.put([owed, row_of("b", 1)])
    seal(store)
    store.put_one(row_of("a", 1, hlc=3000, node=7)._replace(leaves=owed.leaves, seq=1, owed=True, stray=True))
    seal(store)
    # And its first segment decoded for the feed
    assert ids_of(feed_rows(store)) == ["a", "b"]
    # When it is replaced, and that is sealed
    store.put_one(tombstone("a", hlc=9000))
    seal(store)
    # Then it is not there twice
    assert [(row.id_key, row.seq) for row in feed_rows(store)] == [(key("b"), 2), (key("a"), 3)]
    store.put([], notes={"delivered": b"2"})
    assert store.counters.pending == 0
