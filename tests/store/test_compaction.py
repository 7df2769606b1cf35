"""When space is given back: the pace, what somebody asks for, and its end. What a rewriting does: test_rewriting.py."""

from __future__ import annotations

import pytest

from mynosql.errors import StorageFailed
from mynosql.store.compaction import CLOSE_BYTES_MAX
from mynosql.store.rewriting import RewriteJob
from mynosql.store.store import Store, StoreOptions
from tests.store.making import open_memory, row_of, seal

OPTIONS = StoreOptions(memtable_bytes_max=9000)


def overwritten(times: int, rows: int = 20) -> Store:
    """Each time all rows are replaced, and sealed."""
    store, _, _ = open_memory(options=OPTIONS)
    for value in range(times):
        store.put([row_of(f"id-{n}", f"{value} {n}") for n in range(rows)])
        job = store.seal_job(0.0, force=True)
        assert job is not None
        job.run()
        store.finish(job)
    return store


def test_nothing_is_due_where_nothing_is_dead() -> None:
    store = overwritten(1)
    assert (store._sealer.next_due(5.0), store.seal_job(5.0)) == (None, None)


def test_dead_segments_are_due_at_once_and_then_at_a_quarter_of_the_time() -> None:
    store = overwritten(3)
    assert store.next_due(100.0) == 100.0
    job = store.seal_job(100.0)
    assert isinstance(job, RewriteJob)
    assert store._sealer.next_due(101.0) is None, "one job at a time"
    job.run()
    store.finish(job)
    store.put([row_of(f"id-{n}", f"again {n}") for n in range(20)])
    assert store.seal_job(104.0, force=True) is not None


def test_who_asks_gets_the_active_memtable_sealed_and_then_the_rest() -> None:
    store = overwritten(3)
    store.put([row_of("id-0", "newest")])
    store.ask_compaction()
    kinds = []
    while (job := store.seal_job(0.0)) is not None:
        kinds.append(type(job).__name__)
        job.run()
        store.finish(job)
    assert kinds == ["SealJob", "RewriteJob"]
    assert not store.is_compaction_asked
    assert store.compaction_error is None
    assert store.compaction_progress[0] >= 60


def test_asking_where_nothing_is_to_be_done_ends_at_once() -> None:
    store, _, _ = open_memory(options=OPTIONS)
    store.ask_compaction()
    assert store.seal_job(0.0) is None
    assert not store.is_compaction_asked


def test_closing_leaves_no_garbage_where_that_is_quick() -> None:
    store, files, _ = open_memory(options=OPTIONS)
    for value in range(60):
        store.put([row_of(f"id-{n}", f"{value} {n} " + "x" * 50) for n in range(60)])
        seal(store)
    live = overwritten(1, 60)
    live.close()
    assert files.used_bytes < CLOSE_BYTES_MAX
    store.close()
    (shard,) = [name for name in files.list() if name.startswith("shard")]
    assert files.size(shard) < 8_000


def test_a_folder_that_cannot_be_listed_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    store, files, _ = open_memory(options=OPTIONS)
    store.put([row_of("a", 1)])
    job = store.seal_job(0.0, force=True)
    assert job is not None
    job.run()

    def fail() -> list[str]:
        raise StorageFailed("input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(files, "list", fail)
        store.finish(job)
        store.put([row_of("a", 2)])
        assert store.next_due(1.0) == 61.0
        store.ask_compaction()
        seal(store)
        assert store.seal_job(1.0) is None
        assert isinstance(store.compaction_error, StorageFailed)
    assert store.read_only_reason is None
    store.ask_compaction()
    assert store.seal_job(2.0) is not None
