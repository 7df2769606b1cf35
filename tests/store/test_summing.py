"""store.summing: the sums equal a recomputation from all entries whatever happened, and say when they cannot."""

from __future__ import annotations

import random

import pytest

from mynosql.errors import StorageFailed
from mynosql.idkey import id_hash
from mynosql.revision import entry_digest
from mynosql.row import Row
from mynosql.store.index import Commit, short_hash
from mynosql.store.rebuild import REBUILDING_NOTE
from mynosql.store.rewriting import RewriteJob
from mynosql.store.store import Store, StoreOptions
from mynosql.store.summing import OVERLAY_MAX, QUIET_S, WAIT_S_MAX, SumJob
from mynosql.store.sums import BUCKET_BITS, bucket_of
from tests.store.making import (
    body_of,
    conflict_row,
    key,
    open_memory,
    remote_row,
    reopen_killed,
    row_of,
    seal,
    tombstone,
)

OPTIONS = StoreOptions(memtable_bytes_max=9000)


def settle(store: Store) -> list[str]:
    """What is asked for is done; the kinds of the jobs."""
    kinds = []
    for _ in range(1000):
        store.has_sums(is_urgent=True)
        job = store.seal_job(0.0)
        if job is None:
            return kinds
        kinds.append(type(job).__name__)
        job.run()
        store.finish(job)
    raise AssertionError("there is always another job")


def take_jobs(store: Store, count: int) -> None:
    """Some of what is due is done, whatever it is: in one order or another."""
    for _ in range(count):
        if (job := store.seal_job(1e9)) is not None:
            job.run()
            store.finish(job)


def recounted(store: Store) -> tuple[int, int]:
    entries = store.entries(b"", None, live_only=False, limit=1 << 20)
    total = sum(int.from_bytes(entry_digest(entry.id_key, entry.leaves), "big") for entry in entries)
    return len(entries), total % (1 << 128)


def is_true(store: Store) -> bool:
    """The sum of all, and the items of all, are what the entries say."""
    assert store.has_sums()
    entries = store.entries(b"", None, live_only=False, limit=1 << 20)
    items = {(item.id_key, item.id_hash, item.digest) for item in store.items_of(0, 0)}
    expected = {(e.id_key, id_hash(e.id_key), entry_digest(e.id_key, e.leaves)) for e in entries}
    assert items == expected
    return store.sum_of(0, 0) == recounted(store)


def change(rng: random.Random, store: Store) -> Row:
    """Of an entry, or a stray that only brings the body of one."""
    id = f"id-{rng.randrange(120)}"
    clock = rng.randrange(10_000, 1 << 40)
    known = store.find(key(id))
    if known is not None and known.held == 0 and rng.random() < 0.8:
        return Row(key(id), known.leaves, (body_of(known.winner.hlc),), known.seq, False, True)
    return rng.choice((
        row_of(id, rng.random(), hlc=clock), tombstone(id, hlc=clock), remote_row(id, clock, hlc=clock),
        conflict_row(id, rng.random(), rng.random()),
    ))


@pytest.mark.parametrize("seed", range(20))
def test_the_sums_are_those_of_the_entries_after_any_history(seed: int) -> None:
    rng = random.Random(seed)
    store, files, index = open_memory(options=OPTIONS)
    checked = 0
    for _ in range(200):
        deed = rng.random()
        if deed < 0.75:
            for _ in range(rng.randrange(1, 12)):
                store.put_one(change(rng, store))
        elif deed < 0.8:
            store.keep_sums()
        elif deed < 0.87:
            seal(store)
        elif deed < 0.9:
            store.ask_compaction()
        elif deed < 0.95:
            take_jobs(store, rng.randrange(4))
        elif deed < 0.96:
            store = reopen_killed(files, index, OPTIONS)
            files, index = store._files, store._index  # type: ignore[assignment]
        else:
            settle(store)
            assert is_true(store)
            checked += 1
    settle(store)
    assert is_true(store)
    assert checked


def test_nothing_is_counted_before_somebody_wants_it() -> None:
    store, _, _ = open_memory(options=OPTIONS)
    store.put([row_of(f"id-{n}", n) for n in range(50)])
    seal(store)
    assert (store.next_due(0.0), store.seal_job(0.0), store.has_sums()) == (None, None, False)
    store.keep_sums()
    assert store.next_due(0.0) == QUIET_S
    assert store.seal_job(QUIET_S / 2) is None
    assert isinstance(store.seal_job(QUIET_S), SumJob)


def test_who_writes_on_is_left_alone_but_not_for_ever() -> None:
    store, _, _ = open_memory()
    store.keep_sums()
    store.put([row_of("a", 1)])
    seal(store)
    now = 0.0
    while store.seal_job(now) is None:
        assert store.next_due(now) is not None
        store.put_one(row_of(f"other {now}", 1))
        now += QUIET_S / 2
    assert now == pytest.approx(WAIT_S_MAX, abs=QUIET_S)


def test_what_was_replaced_before_anybody_wanted_sums_is_sealed_first() -> None:
    store, _, _ = open_memory(options=OPTIONS)
    store.put([row_of(f"id-{n}", n) for n in range(20)])
    seal(store)
    store.put([row_of("id-3", "newer")])
    assert settle(store) == ["SealJob", "SumJob", "SumJob"]
    assert is_true(store)


def test_too_much_that_is_unsealed_means_no_sums_until_it_is_sealed() -> None:
    store, _, _ = open_memory(options=StoreOptions(memtable_bytes_max=64 << 20))
    store.keep_sums()
    store.put([row_of(n, n) for n in range(OVERLAY_MAX + 1)])
    assert not store.has_sums()
    assert settle(store) == ["SealJob", "SumJob"]
    assert is_true(store)


def test_segments_are_written_again_once_all_of_them_are_counted() -> None:
    store, _, _ = open_memory(options=OPTIONS)
    for value in range(3):
        store.put([row_of(f"id-{n}", f"{value} {n}") for n in range(20)])
        seal(store)
    store.keep_sums()
    assert store.seal_job(0.0) is None, "they are to be written again, but not half counted"
    store.ask_compaction()
    kinds = []
    while (job := store.seal_job(0.0)) is not None:
        kinds.append(type(job))
        job.run()
        store.finish(job)
    assert kinds[:3] == [SumJob] * 3
    assert set(kinds[3:]) == {RewriteJob}
    assert is_true(store)


def test_an_entry_that_the_index_lost_is_missed_at_the_next_opening() -> None:
    store, files, index = open_memory(options=OPTIONS)
    store.put([row_of(f"id-{n}", n) for n in range(20)])
    seal(store)
    settle(store)
    whole = store.sum_of(0, 0)
    index.commit(Commit(places_removed=[short_hash(id_hash(key("id-7")))]))
    again = reopen_killed(files, index, OPTIONS)
    settle(again)
    assert again.sum_of(0, 0).entry_count == whole.entry_count - 1
    assert "names 1 rows too few of segment 0" in again.problems[0].what
    assert again._index.note(REBUILDING_NOTE), "the next opening makes the index anew"
    bucket = bucket_of(id_hash(key("id-7")))
    assert again.items_of(BUCKET_BITS, bucket) == []


def test_a_damaged_block_is_left_out_and_shown() -> None:
    store, files, index = open_memory(options=OPTIONS)
    store.put([row_of(f"id-{n}", n) for n in range(20)])
    seal(store)
    (name,) = [name for name in files.list() if name.startswith("shard")]
    files.damage(name, 40, b"rubbish")
    again = reopen_killed(files, index, OPTIONS)
    settle(again)
    assert again.sum_of(0, 0).entry_count == 0
    assert again.problems


def test_sums_that_are_found_wrong_are_counted_again() -> None:
    store, _, index = open_memory(options=OPTIONS)
    store.put([row_of(f"id-{n}", n) for n in range(20)])
    seal(store)
    settle(store)
    index.commit(Commit(places_removed=[short_hash(id_hash(key("id-7")))]))
    assert store.sum_of(0, 0).entry_count == 20
    store.count_again()
    assert settle(store) == ["SumJob"]
    assert store.sum_of(0, 0).entry_count == 19


def test_an_index_that_cannot_be_read_leaves_the_segment_out(monkeypatch: pytest.MonkeyPatch) -> None:
    store, _, index = open_memory(options=OPTIONS)
    store.put([row_of("a", 1)])
    seal(store)
    store.has_sums(is_urgent=True)
    job = store.seal_job(0.0)
    assert isinstance(job, SumJob)
    monkeypatch.setattr(index, "blocks_of", lambda number: (_ for _ in ()).throw(StorageFailed("unread")))
    with pytest.raises(StorageFailed) as failed:
        job.run()
    store.finish(job, failed.value)
    assert store.has_sums()
    assert store.sum_of(0, 0).entry_count == 0


def test_a_range_that_cannot_be_is_refused() -> None:
    store, _, _ = open_memory()
    store.keep_sums()
    assert store.has_sums()
    for bits, prefix in ((BUCKET_BITS + 1, 0), (4, 16)):
        with pytest.raises(ValueError, match="range"):
            store.sum_of(bits, prefix)
        with pytest.raises(ValueError, match="range"):
            store.items_of(bits, prefix)
