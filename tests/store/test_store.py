"""The face of the store, on the models and on a real disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from mynosql.errors import StorageFailed, StorageFull
from mynosql.idkey import id_hash
from mynosql.row import Row
from mynosql.store.files import DiskFiles
from mynosql.store.index import FILE_NAME, SqliteIndex
from mynosql.store.store import Counters, Store, StoreOptions
from tests.sim.memory_files import MemoryFiles
from tests.sim.memory_index import MemoryIndex
from tests.store.making import (
    NODE,
    SMALL,
    body_of,
    conflict_row,
    entry_of,
    key,
    open_memory,
    remote_row,
    row_of,
    seal,
    sync,
    tombstone,
)

Reopen = Callable[[], Store]


@pytest.fixture(params=["memory", "disk"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    """Call it for a store in an empty folder; again: the store is closed and opened anew."""
    memory = MemoryFiles(), MemoryIndex()
    opened: list[Store] = []

    def reopen() -> Store:
        nonlocal memory
        if opened:
            opened[-1].close()
        if request.param == "memory":
            memory = memory[0], memory[1].crash()
            store = Store.open(*memory, SMALL, node=NODE)
        else:
            store = Store.open(DiskFiles(str(tmp_path)), SqliteIndex(str(tmp_path / FILE_NAME)), SMALL, node=NODE)
        opened.append(store)
        return store

    yield reopen
    for store in opened:
        if store is opened[-1]:
            assert store.check().problems == ()
        store.close()


# Saving and reading


def test_what_was_put_is_read_before_and_after_it_is_sealed(reopen: Reopen) -> None:
    store = reopen()
    rows = [row_of(f"id-{n}", n)._replace(seq=n + 1) for n in range(500)]
    for row in rows:
        assert store.put_one(row._replace(seq=0)) == row.seq
    for turn in range(3):
        for row in rows:
            assert store.find(row.id_key) == entry_of(row)
            assert store.read(row.id_key) == (entry_of(row), row.bodies[0])
            assert store.read_body(row.id_key, 0) == row.bodies[0]
        if turn == 0:
            assert seal(store) == 2
        store.drop_caches()
    store = reopen()
    assert [store.read(row.id_key) for row in rows] == [(entry_of(row), row.bodies[0]) for row in rows]


def test_an_unknown_id_is_none_everywhere(reopen: Reopen) -> None:
    store = reopen()
    store.put_one(row_of("a", 1))
    seal(store)
    unknown = key("b")
    assert store.find(unknown) is None
    assert store.read(unknown) is None
    assert store.read_body(unknown, 0) is None
    assert store.read_stale(unknown) is None
    assert store.read_piece(unknown, 0, 0, 10) is None
    assert store.find_hashes([id_hash(unknown)]) == {}


def test_a_newer_row_is_read_whatever_is_cached_or_sealed(reopen: Reopen) -> None:
    store = reopen()
    for value in range(6):
        store.put_one(row_of("a", value))
        assert store.read(key("a")) == (store.find(key("a")), body_of(value))
        if value % 2:
            seal(store)
    assert reopen().read_body(key("a"), 0) == body_of(5)


def test_tombstones_remote_rows_stale_bodies_and_conflicts_are_told_apart(reopen: Reopen) -> None:
    store = reopen()
    rows = [
        tombstone("deleted"), remote_row("remote", 1), remote_row("stale", 2, stale=1),
        conflict_row("conflict", 1, 2, 3),
    ]
    store.put(rows)
    rows = [row._replace(seq=place + 1) for place, row in enumerate(rows)]
    for turn in range(2):
        for row in rows:
            assert store.read(row.id_key) == (entry_of(row), row.bodies[0])
        assert store.read_stale(key("stale")) == body_of(1)
        assert store.read_stale(key("remote")) is None
        assert [store.read_body(key("conflict"), place) for place in range(3)] == [body_of(1), body_of(2), None]
        if turn == 0:
            seal(store)
    assert store.counters == Counters(records=3, held=1, stale=1, missing=2, conflicts=1, pending=0)


def test_a_large_body_is_read_in_pieces(reopen: Reopen) -> None:
    store = reopen()
    value = "".join(map(str, range(60_000)))
    store.put_one(row_of("large", value))
    body = body_of(value)
    for _ in range(2):
        parts = [store.read_piece(key("large"), 0, at, 65_536) for at in range(0, len(body), 65_536)]
        assert b"".join(part or b"" for part in parts) == body
        assert store.read_piece(key("large"), 0, len(body) + 5, 10) == b""
        assert store.read_body(key("large"), 0) == body
        seal(store)


def test_entries_are_found_by_full_id_hash(reopen: Reopen) -> None:
    store = reopen()
    store.put([row_of(f"sealed-{n}", n) for n in range(50)])
    seal(store)
    store.put([row_of(f"new-{n}", n) for n in range(50)])
    ids = [key(f"{kind}-{n}") for kind in ("sealed", "new", "absent") for n in range(50)]
    found = store.find_hashes(map(id_hash, ids))
    assert found == {id_hash(id_key): store.find(id_key) for id_key in ids[:100]}


# Batches and notes


def test_a_batch_is_one_frame_with_consecutive_seqs_and_its_notes(reopen: Reopen) -> None:
    store = reopen()
    store.put([row_of(id, 1) for id in "abc"], notes={"cursor/x": b"17", "gone": b"1"})
    store.put([], notes={"gone": b""})
    assert (store.written, store.head_seq) == (2, 3)
    for _ in range(2):
        assert store.notes() == {"cursor/x": b"17"}
        assert store.note("cursor/x") == b"17"
        assert store.note("gone") == b""
        assert store.notes("other") == {}
        store = reopen()


def test_the_same_id_twice_in_a_batch_counts_once_and_the_last_wins(reopen: Reopen) -> None:
    store = reopen()
    store.put([row_of("a", 1, owed=True), row_of("a", 2, owed=True)])
    assert store.read_body(key("a"), 0) == body_of(2)
    assert store.counters == Counters(1, 1, 0, 0, 0, 1)


def test_nothing_to_put_writes_nothing(reopen: Reopen) -> None:
    store = reopen()
    store.put([])
    assert store.written == 0
    assert store.sync_job() is None
    assert store.seal_job(0.0, force=True) is None


def test_a_stray_must_complete_the_change_that_is_newest_here() -> None:
    store, _, _ = open_memory()
    store.put_one(row_of("a", 1))
    for bad in (row_of("a", 1)._replace(seq=7, stray=True), row_of("b", 1)._replace(seq=1, stray=True)):
        with pytest.raises(ValueError, match="stray"):
            store.put_one(bad)
        with pytest.raises(ValueError, match="stray"):
            store.put([bad])
    assert store.written == 1
    assert store.put_one(row_of("a", 2)._replace(seq=1, stray=True)) == 1
    assert store.head_seq == 1


def test_notes_of_the_store_itself_are_neither_seen_nor_written(reopen: Reopen) -> None:
    store = reopen()
    store.put_one(row_of("a", 1))
    seal(store)
    assert store.notes() == {}
    with pytest.raises(ValueError, match="own"):
        store.put([], notes={".tally": b"x"})


def test_what_was_delivered_is_no_longer_pending_also_after_reopening(reopen: Reopen) -> None:
    store = reopen()
    store.put([row_of(f"id-{n}", n, owed=n % 2 == 0) for n in range(100)])
    assert store.counters.pending == 50
    store.put([], notes={"delivered": b"40"})
    assert store.counters.pending == 30
    seal(store)
    store.put_one(row_of("id-98", "again", owed=True))
    store.put([], notes={"delivered": b"80"})
    assert store.counters.pending == 10
    store = reopen()
    assert store.counters.pending == 10
    store.put([], notes={"delivered": b"60"})
    assert store.counters.pending == 20, "going back makes them pending again"
    store.put([], notes={"delivered": b"101"})
    assert store.counters.pending == 0


def test_a_delivered_note_that_is_no_number_is_refused_and_nothing_is_written() -> None:
    store, _, _ = open_memory()
    with pytest.raises(ValueError, match="invalid literal"):
        store.put([row_of("a", 1)], notes={"delivered": b"soon"})
    assert (store.written, store.head_seq, store.find(key("a"))) == (0, 0, None)


def test_the_clock_goes_on_above_our_own_versions_only(reopen: Reopen) -> None:
    store = reopen()
    store.put([row_of("a", 1, hlc=50), row_of("b", 1, hlc=9_000, node=NODE + 1)])
    assert store.hlc_max == 50
    assert reopen().hlc_max == 50


# A disk that is full or fails


def test_a_full_disk_refuses_a_save_and_changes_nothing_until_there_is_space() -> None:
    store, files, index = open_memory()
    store.put_one(row_of("a", 1))
    size = files.used_bytes
    files.space_bytes = size + 20
    for attempt in (lambda: store.put_one(row_of("b", 1)), lambda: store.put([row_of("c", 1)], notes={"n": b"1"})):
        with pytest.raises(StorageFull):
            attempt()
    assert (store.written, store.head_seq, store.counters.records, store.note("n")) == (1, 1, 1, b"")
    assert (store.find(key("b")), files.used_bytes) == (None, size)
    assert store.read_body(key("a"), 0) == body_of(1)
    files.space_bytes = 1 << 40
    assert store.put_one(row_of("b", 2)) == 2
    assert Store.open(files.copy(), index.crash(), SMALL).read_body(key("b"), 0) == body_of(2)


def test_a_full_disk_at_the_first_save_leaves_no_file_behind() -> None:
    store, files, _ = open_memory(MemoryFiles(space_bytes=5))
    with pytest.raises(StorageFull):
        store.put_one(row_of("a", 1))
    assert files.list() == []
    files.space_bytes = 1 << 40
    assert store.put_one(row_of("a", 1)) == 1


def test_a_write_that_fails_makes_the_store_read_only() -> None:
    store, files, _ = open_memory()
    store.put_one(row_of("a", 1))

    def fail(doing: str, name: str) -> None:
        if doing == "write":
            raise StorageFailed("the cable came off")

    files.on_operation = fail
    for _ in range(2):
        with pytest.raises(StorageFailed, match="cable"):
            store.put_one(row_of("b", 1))
    files.on_operation = lambda doing, name: None
    with pytest.raises(StorageFailed, match="open the database again"):
        store.put([row_of("b", 1)])
    assert store.read_only_reason is not None
    assert (store.head_seq, store.find(key("b"))) == (1, None)
    assert store.read_body(key("a"), 0) == body_of(1)
    store.close()


# Closing


def test_close_leaves_no_journal_and_is_idempotent() -> None:
    store, files, _ = open_memory()
    store.put([row_of(f"id-{n}", n) for n in range(10)])
    store.close()
    store.close()
    assert files.list() == ["filter", "shard-00000000"]
    with pytest.raises(StorageFailed, match="closed"):
        store.put_one(row_of("a", 1))


def test_closing_a_store_without_a_record_leaves_nothing() -> None:
    store, files, _ = open_memory()
    store.close()
    assert files.list() == []


def test_close_on_a_full_disk_keeps_the_journals_and_loses_nothing() -> None:
    store, files, index = open_memory()
    store.put([row_of(f"id-{n}", n) for n in range(100)])
    files.space_bytes = files.used_bytes
    store.close()
    assert [name for name in files.list() if not name.startswith("journal")] == []
    files.space_bytes = 1 << 40
    store = Store.open(files, index.crash(), SMALL)
    assert store.records == 100
    store.close()
    assert files.list() == ["filter", "shard-00000000"]


def test_close_tells_when_the_last_saves_may_not_survive() -> None:
    store, files, _ = open_memory()
    store.put_one(row_of("a", 1))

    def fail(doing: str, name: str) -> None:
        if doing == "flush":
            raise StorageFailed("flush failed")

    files.on_operation = fail
    with pytest.raises(StorageFailed, match="flush failed"):
        store.close()


def test_what_a_dead_worker_committed_is_not_overwritten_by_closing() -> None:
    """Seed 2200, --size 3: the last rewriting put back how many owed rows each segment has, without the newest one."""
    store, files, index = open_memory()
    rng = Random(1)
    for _ in range(3):  # enough garbage to give back while closing
        store.put([row_of(f"id-{n}", rng.randbytes(3000), owed=True) for n in range(40)])
        seal(store)
    store.put_one(row_of("last", 1, owed=True))
    job = store.seal_job(0.0, force=True)
    assert job is not None
    job.run()  # and nobody comes to finish it
    store.close()
    store = Store.open(files, index.crash(), SMALL)
    assert store.counters.pending == 41
    store.put([], notes={"delivered": b"%d" % store.head_seq})
    assert store.counters.pending == 0
    assert store.check().ok


# On a real disk


def test_saves_and_reads_go_on_while_another_thread_seals(tmp_path: Path) -> None:
    options = StoreOptions(memtable_bytes_max=1 << 15)
    store = Store.open(DiskFiles(str(tmp_path)), SqliteIndex(str(tmp_path / FILE_NAME)), options)
    failures: list[BaseException] = []
    saved = sealed = 0
    thread: threading.Thread | None = None
    job = None

    def run() -> None:
        try:
            assert job is not None
            job.run()
        except BaseException as error:
            failures.append(error)

    while sealed < 12:
        if job is None:
            job = store.seal_job(0.0)
            if job is not None:
                thread = threading.Thread(target=run)
                thread.start()
        for n in (saved, saved // 2):
            store.put_one(row_of(f"id-{n}", n))
            assert store.read_body(key(f"id-{n // 3}"), 0) == body_of(n // 3)
        saved += 1
        if thread is not None and not thread.is_alive():
            store.finish(job)
            sealed += 1
            thread = job = None
    if thread is not None and job is not None:
        thread.join()
        store.finish(job)
    assert failures == []
    store.close()
    store = Store.open(DiskFiles(str(tmp_path)), SqliteIndex(str(tmp_path / FILE_NAME)), options)
    assert store.records == saved
    assert store.check().problems == ()
    store.close()


def test_rows_may_be_read_from_the_feed_while_they_are_sealed() -> None:
    store, _, _ = open_memory()
    rows: list[Row] = []
    for n in range(30):
        store.put_one(row_of(f"id-{n}", n))
        if n == 10:
            job = store.seal_job(0.0, force=True)
            assert job is not None
            job.run()
        rows += store.feed(len(rows), bytes_max=1 << 20, bodies=True, body_bytes_max=1 << 20).rows
        if n == 20:
            store.finish(job)
    assert [row.seq for row in rows] == list(range(1, 31))


def test_durable_follows_written_when_the_sync_is_finished() -> None:
    store, _, _ = open_memory()
    store.put_one(row_of("a", 1))
    assert (store.written, store.durable, store.durable_seq) == (1, 0, 0)
    job = store.sync_job()
    assert job is not None
    store.put_one(row_of("b", 1))
    job.run()
    store.finish(job)
    assert (store.written, store.durable, store.durable_seq) == (2, 1, 1)
    sync(store)
    assert (store.durable, store.durable_seq) == (2, 2)
    assert store.sync_job() is None
