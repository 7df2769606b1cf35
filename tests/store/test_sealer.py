"""When sealing is due, what its failure means, and which journals may go."""

from __future__ import annotations

from typing import Any

import pytest

from mynosql.errors import StorageCorrupt, StorageFailed, StorageFull
from mynosql.store.store import Store, StoreOptions
from tests.sim.memory_files import MemoryFiles
from tests.store.making import SMALL, body_of, key, open_memory, row_of, seal, sync

OPTIONS = StoreOptions(memtable_bytes_max=4000, unsealed_bytes_max=16_000, idle_seal_s=60.0)


def fill(store: Store, first: int, count: int) -> None:
    for n in range(first, first + count):
        store.put_one(row_of(f"id-{n:05d}", n))


def journals(files: MemoryFiles) -> list[str]:
    return [name for name in files.list() if name.startswith("journal")]


def test_nothing_is_due_while_nothing_is_written() -> None:
    store, _, _ = open_memory(options=OPTIONS)
    assert (store.next_due(5.0), store.is_seal_due, store.seal_job(1e9)) == (None, False, None)


def test_a_full_memtable_is_due_at_once_and_saves_go_on_in_the_next() -> None:
    store, files, _ = open_memory(options=OPTIONS)
    fill(store, 0, 30)
    assert store.is_seal_due
    assert store.next_due(5.0) == 5.0
    job = store.seal_job(5.0)
    assert job is not None
    fill(store, 30, 3)
    assert len(journals(files)) == 2
    assert (store.is_seal_due, store.seal_job(5.0, force=True)) == (False, None), "one seal at a time"
    job.run()
    store.finish(job)
    assert len(journals(files)) == 1
    assert store.records == 33


def test_a_memtable_that_nobody_writes_to_is_sealed_after_a_minute() -> None:
    store, files, _ = open_memory(options=OPTIONS)
    fill(store, 0, 3)
    assert store.next_due(10.0) == 70.0
    assert store.seal_job(69.9) is None
    fill(store, 3, 1)
    assert store.next_due(69.9) == pytest.approx(129.9), "a save begins the minute anew"
    assert store.seal_job(129.0) is None
    job = store.seal_job(130.0)
    assert job is not None
    job.run()
    store.finish(job)
    assert journals(files) == []
    assert store.next_due(140.0) is None


def test_pressure_grows_with_what_is_not_sealed_and_falls_when_it_is() -> None:
    store, _, _ = open_memory(options=OPTIONS)
    assert store.pressure == 0.0
    seen = []
    while store.pressure < 1.0:
        fill(store, store.head_seq, 5)
        seen.append(store.pressure)
    assert seen == sorted(seen)
    assert seal(store, force=False) >= 3
    assert store.pressure < 0.5


def test_sealing_advances_through_all_memtables_that_wait() -> None:
    store, files, _ = open_memory(options=OPTIONS)
    fill(store, 0, 200)
    assert len(journals(files)) > 4
    assert seal(store) == len(store._sealed.segments) > 4
    assert journals(files) == []
    assert [store.read_body(key(f"id-{n:05d}"), 0) for n in range(200)] == [body_of(n) for n in range(200)]


def test_what_is_sealed_is_durable_without_another_fsync() -> None:
    store, _, _ = open_memory(options=OPTIONS)
    fill(store, 0, 10)
    job = store.seal_job(0.0, force=True)
    fill(store, 10, 2)
    assert job is not None
    job.run()
    store.finish(job)
    assert (store.durable, store.durable_seq, store.written) == (10, 10, 12)


def test_a_journal_stays_open_until_an_fsync_under_way_is_finished() -> None:
    store, files, _ = open_memory(options=OPTIONS)
    fill(store, 0, 5)
    syncing = store.sync_job()
    seal(store)
    assert len(journals(files)) == 1
    assert syncing is not None
    syncing.run()
    store.finish(syncing)
    assert journals(files) == []


def test_a_full_disk_stops_sealing_and_at_last_saving_until_there_is_space() -> None:
    store, files, _ = open_memory(options=OPTIONS)
    fill(store, 0, 30)
    sync(store)
    files.space_bytes = files.used_bytes + 20
    job = store.seal_job(0.0)
    assert job is not None
    with pytest.raises(StorageFull) as full:
        job.run()
    store.finish(job, full.value)
    assert store.read_only_reason is None
    assert [name for name in files.list() if name.startswith("shard")] == [], "half a seal is cut off"
    files.space_bytes = files.used_bytes + 50_000
    on_operation, files.on_operation = files.on_operation, refuse_shards
    saved = 30
    while store.pressure < 1.0:
        fill(store, saved, 1)
        saved += 1
        job = store.seal_job(0.0)
        if job is not None:
            with pytest.raises(StorageFull) as full:
                job.run()
            store.finish(job, full.value)
    with pytest.raises(StorageFull, match="sealed"):
        fill(store, saved, 1)
    assert store.records == saved
    files.on_operation = on_operation
    assert seal(store) > 3
    fill(store, saved, 1)
    assert store.check().ok


def refuse_shards(doing: str, name: str) -> None:
    if doing == "write" and name.startswith("shard"):
        raise StorageFull("the disk is full")


@pytest.mark.parametrize("failing", ["sync", "seal"])
def test_a_failed_fsync_makes_the_store_read_only_for_good(failing: str) -> None:
    store, files, index = open_memory(options=OPTIONS)
    fill(store, 0, 10)
    sync(store)
    fill(store, 10, 1)

    def fail(doing: str, name: str) -> None:
        if doing == "flush":
            raise StorageFailed("flush failed")

    files.on_operation = fail
    job = store.sync_job() if failing == "sync" else store.seal_job(0.0, force=True)
    assert job is not None
    with pytest.raises(StorageFailed) as failed:
        job.run()
    done: list[tuple[str, str]] = []
    files.on_operation = lambda doing, name: done.append((doing, name))
    before = {name: files.size(name) for name in files.list()}
    store.finish(job, failed.value)
    assert (done, before) == ([], {name: files.size(name) for name in files.list()}), "the files are left as they are"
    assert store.durable_seq == 10
    assert store.read_only_reason == "flush failed"
    with pytest.raises(StorageFailed, match="flush failed"):
        store.put_one(row_of("b", 1))
    assert (store.sync_job(), store.seal_job(0.0, force=True), store.next_due(0.0)) == (None, None, None), "never again"
    assert store.read_body(key("id-00010"), 0) == body_of(10), "reading goes on"
    store.close()
    assert Store.open(files, index.crash(), SMALL).records >= 10


def test_a_commit_that_fails_leaves_the_rows_where_they_were() -> None:
    store, files, index = open_memory(options=OPTIONS)
    fill(store, 0, 10)

    def fail(moment: str) -> None:
        if moment == "before":
            raise StorageFull("no space for the index")

    index.on_commit = fail
    job = store.seal_job(0.0, force=True)
    assert job is not None
    with pytest.raises(StorageFull) as full:
        job.run()
    store.finish(job, full.value)
    assert files.list() == ["journal-00000000"]
    assert store.counters.records == 10
    index.on_commit = lambda moment: None
    seal(store)
    assert store.check().problems == ()
    assert files.list() == ["filter", "shard-00000000"]


def test_a_job_that_never_ran_may_be_finished_and_is_made_anew() -> None:
    store, _, _ = open_memory(options=OPTIONS)
    fill(store, 0, 10)
    job = store.seal_job(0.0, force=True)
    assert job is not None
    store.finish(job)
    assert seal(store) == 1
    assert store.check().ok


# The journal made ahead


def half_full() -> tuple[Store, MemoryFiles]:
    store, files, _ = open_memory(options=OPTIONS)
    fill(store, 0, 15)
    assert journals(files) == ["journal-00000000"]
    return store, files


def test_the_save_that_begins_a_new_memtable_waits_for_no_fsync() -> None:
    store, files = half_full()
    sync(store)
    assert journals(files) == ["journal-00000000", "journal-00000001"]
    done: list[str] = []
    files.on_operation = lambda doing, name: done.append(doing)
    fill(store, 15, 15)
    assert len(store._unsealed.memtables) == 2
    assert set(done) == {"write"}
    assert journals(files) == ["journal-00000000", "journal-00000001"]
    assert seal(store) == 2
    assert journals(files) == []
    assert store.check().ok


def test_a_journal_that_was_made_too_late_is_not_used_because_order_is_by_number() -> None:
    store, files = half_full()
    syncing = store.sync_job()
    assert syncing is not None
    fill(store, 15, 15)
    syncing.run()
    store.finish(syncing)
    assert journals(files) == ["journal-00000000", "journal-00000002"]
    numbers = [memtable.journal_number for memtable in store._unsealed.memtables]
    assert numbers == [0, 2]


def test_a_journal_made_ahead_goes_with_a_kill_or_a_close() -> None:
    store, files, index = open_memory(options=OPTIONS)
    fill(store, 0, 15)
    sync(store)
    again_files, again_index = files.copy(), index.crash()
    again = Store.open(again_files, again_index, OPTIONS)
    fill(again, 15, 1)
    again.close()
    store.close()
    assert (journals(again_files), journals(files)) == ([], [])
    assert Store.open(again_files, again_index.crash(), OPTIONS).records == 16


def test_a_full_disk_makes_no_journal_ahead_and_fails_no_fsync() -> None:
    store, files = half_full()
    files.space_bytes = files.used_bytes
    sync(store)
    assert (store.durable, journals(files)) == (15, ["journal-00000000"])
    files.space_bytes = 1 << 40
    fill(store, 15, 20)
    assert seal(store) == 2


@pytest.mark.parametrize("damage", [
    lambda files, name: files.damage(name, files.size(name) - 200, bytes(100)),
    lambda files, name: files.cut(name, files.size(name) - 10),
    lambda files, name: files.remove(name),
])
def test_a_journal_that_lost_what_was_saved_seals_nothing_and_ends_all_writing(damage: Any) -> None:
    store, files, index = open_memory(options=OPTIONS)
    fill(store, 0, 8)
    (name,) = journals(files)
    damage(files, name)
    job = store.seal_job(0.0, force=True)
    assert job is not None
    with pytest.raises((StorageFailed, StorageCorrupt)) as failed:
        job.run()
    store.finish(job, failed.value)
    assert index.segments() == []
    assert name in str(failed.value) or "journal" in str(failed.value)
    with pytest.raises(StorageFailed, match="open the database again"):
        store.put_one(row_of("more", 1))
