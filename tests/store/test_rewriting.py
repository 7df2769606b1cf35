"""Segments written again: the same records, feed and counters, from fewer bytes; and nothing lost at any moment."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from random import Random

import pytest

from mynosql.errors import StorageCorrupt, StorageFailed, StorageFull
from mynosql.row import Row
from mynosql.store import check, compaction, garbage, rebuild, rewriting, seal, sealed
from mynosql.store.rebuild import Rebuilder
from mynosql.store.rewriting import RewriteJob, sealed_journals
from mynosql.store.store import Store, StoreOptions
from tests.sim.memory_index import MemoryIndex
from tests.store.making import (
    NODE,
    body_of,
    conflict_row,
    feed_rows,
    key,
    open_memory,
    remote_row,
    reopen_killed,
    row_of,
    tombstone,
)
from tests.store.making import seal as seal_all

OPTIONS = StoreOptions(memtable_bytes_max=9000)


class Made:
    """A store after saves, deletes, changes of others and bodies that came later, over many segments."""

    def __init__(self, seed: int, turns: int = 500) -> None:
        self.store, self.files, self.index = open_memory(options=OPTIONS)
        self.newest: dict[bytes, Row] = {}
        rng = Random(seed)
        for turn in range(turns):
            id = f"id-{rng.randrange(120)}"
            known = self.newest.get(key(id))
            row = rng.choice([row_of, row_of, remote_row, conflict_row])(id, turn)
            row = rng.choice([row, row, row, tombstone(id)])._replace(owed=rng.random() < 0.5)
            if known is not None and known.bodies[0] is None and not known.leaves[0].deleted:
                row = known._replace(bodies=(body_of(turn), *known.bodies[1:]), stray=True, leaves=(
                    row_of("", turn).leaves[0]._replace(hlc=known.leaves[0].hlc), *known.leaves[1:],
                ))
            self.newest[row.id_key] = row._replace(seq=self.store.put_one(row), stray=False)
            if turn % 40 == 39:
                seal_all(self.store, force=True)
        seal_all(self.store, force=True)

    def check(self, store: Store) -> None:
        assert store.counters == self.store.counters
        expected = [row._replace(stale=None) for row in sorted(self.newest.values(), key=lambda row: row.seq)]
        assert feed_rows(store) == expected
        assert feed_rows(store, owed_only=True) == [row for row in expected if row.owed]
        ids = [entry.id_key for entry in store.entries(b"", None, live_only=False, limit=1000)]
        assert ids == sorted(self.newest)
        assert all(store.read(id_key)[1] == row.bodies[0] for id_key, row in self.newest.items())  # type: ignore[index]
        assert store.check().problems == ()


def jobs(store: Store) -> Iterator[RewriteJob]:
    """All that compaction does when it is asked for; the caller runs and finishes each."""
    store.ask_compaction()
    now = 0.0
    while (job := store.seal_job(now)) is not None:
        if isinstance(job, RewriteJob):
            yield job
        else:
            job.run()
            store.finish(job)
        now += 10.0


def compact(store: Store) -> int:
    count = 0
    for job in jobs(store):
        job.run()
        store.finish(job)
        count += 1
    return count


@pytest.mark.parametrize("seed", range(6))
def test_everything_is_as_before_and_nothing_dead_is_left(seed: int) -> None:
    made = Made(seed)
    before = made.files.used_bytes
    assert any(segment.dead for segment in made.index.segments())
    assert compact(made.store) >= 1
    made.check(made.store)
    assert [segment.dead for segment in made.index.segments()] == [0] * len(made.index.segments())
    assert made.files.used_bytes < before
    made.store.close()
    made.check(Store.open(made.files, made.index.crash(), OPTIONS, node=NODE))


@pytest.mark.parametrize("seed", range(6))
def test_several_groups_keep_the_order_of_the_feed_and_the_counts_of_the_others(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "GROUP_ROWS_MAX", 30)
    made = Made(seed, turns=900)
    for job in jobs(made.store):
        job.run()
        made.store.finish(job)
        made.check(made.store)
    assert len(made.index.segments()) > 2
    for turn in range(60):
        row = row_of(f"id-{2 * turn}", f"later {turn}", owed=True)
        made.newest[row.id_key] = row._replace(seq=made.store.put_one(row))
    seal_all(made.store, force=True)
    made.check(made.store)


@pytest.mark.parametrize("seed", range(3))
def test_it_goes_on_with_saves_between_and_during_jobs(seed: int) -> None:
    made = Made(seed)
    for turn, job in enumerate(jobs(made.store)):
        saved = row_of(f"id-{turn}", f"while {turn}", owed=True)
        made.newest[saved.id_key] = saved._replace(seq=made.store.put_one(saved))
        job.run()
        saved = row_of(f"id-{turn + 50}", f"after {turn}", owed=True)
        made.newest[saved.id_key] = saved._replace(seq=made.store.put_one(saved))
        made.store.finish(job)
    made.check(made.store)
    seal_all(made.store, force=True)
    made.check(made.store)


@pytest.mark.parametrize("half", ["nothing", "copied", "committed"])
def test_a_kill_in_the_middle_loses_nothing_and_leaves_no_rubbish(half: str) -> None:
    made = Made(1)
    job = next(jobs(made.store))
    if half != "nothing":
        job.run()
    if half == "committed":
        made.files.on_operation = lambda kind, name: None
        job.commit()
    store = reopen_killed(made.files, made.index, OPTIONS)
    made.check(store)
    compact(store)
    made.check(store)


@pytest.mark.parametrize("seed", range(40))
def test_power_cuts_in_the_middle_lose_nothing(seed: int) -> None:
    """At a random operation of the files: what was not flushed is dropped, torn or kept."""
    made = Made(2, turns=200)
    rng = Random(seed)
    stop_at, done = rng.randrange(60), 0

    class Cut(Exception):
        pass

    def count(kind: str, name: str) -> None:
        nonlocal done
        done += 1
        if done > stop_at:
            raise Cut

    made.files.on_operation = count
    with contextlib.suppress(Cut):
        compact(made.store)
    made.files.on_operation = lambda kind, name: None
    made.check(Store.open(made.files.crash(rng), made.index.crash(), OPTIONS, node=NODE))


def test_a_full_disk_changes_nothing_and_says_so() -> None:
    made = Made(3)
    job = next(jobs(made.store))
    size = made.files.size("shard-00000000")
    made.files.space_bytes = made.files.used_bytes + 500
    with pytest.raises(StorageFull) as got:
        job.run()
    made.files.space_bytes = 1 << 50
    made.store.finish(job, got.value)
    assert made.store.compaction_error is got.value
    assert made.files.size("shard-00000000") == size
    assert not made.store.is_compaction_asked
    made.check(made.store)
    compact(made.store)
    made.check(made.store)


def test_a_failed_fsync_makes_the_store_read_only() -> None:
    made = Made(3)
    job = next(jobs(made.store))
    made.store.finish(job, StorageFailed("input/output error"))
    assert made.store.read_only_reason == "input/output error"


@pytest.mark.parametrize("is_dead", [False, True])
def test_a_damaged_block_leaves_its_segment_as_it_is_while_a_row_of_it_counts(is_dead: bool) -> None:
    made = Made(4)
    victim = next(found for found in made.index.segments() if (found.dead == found.row_count) is is_dead)
    block = made.index.blocks_of(victim.number)[0]
    made.files.damage("shard-00000000", block.offset + block.head_bytes + 3, b"\xff\xfe")
    for job in jobs(made.store):
        try:
            job.run()
        except StorageCorrupt as error:
            made.store.finish(job, error)
        else:
            made.store.finish(job)
    assert (victim.number in {segment.number for segment in made.index.segments()}) is not is_dead
    assert bool(made.store.problems) is not is_dead
    assert made.store.read_only_reason is None


def test_ids_with_one_hash_keep_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (seal, sealed, check, rebuild, rewriting):
        monkeypatch.setattr(module, "short_hash", lambda found: found & 7)
    made = Made(5)
    compact(made.store)
    made.check(made.store)


@pytest.mark.parametrize("is_half", [False, True])
def test_an_index_made_anew_finds_the_feed_in_order(is_half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "BLOCK_BYTES_MAX", 500)
    made = Made(6)
    # Only the oldest are written again: their rows then stand behind newer ones in the file
    found = jobs(made.store)
    for job in found:
        job.run()
        if is_half:
            assert len(job._blocks) > 1
            made.files.cut(f"shard-{job.plan.shard_number:08d}", job._blocks[-1].offset)
            break
        made.store.finish(job)
        more = row_of("more", 1)
        made.newest[more.id_key] = more._replace(seq=made.store.put_one(more))
        seal_all(made.store, force=True)
        break
    index = MemoryIndex()
    rebuilder = Rebuilder(made.files, index, None)
    rebuilder.run({}, node=NODE)
    assert rebuilder.problems == []
    made.check(Store.open(made.files, index, OPTIONS, node=NODE))


def test_it_waits_for_journals_that_are_sealed_and_being_fsynced() -> None:
    """An index made anew believes journals first, and cuts off what stands behind their rows."""
    made = Made(7)
    made.files.write_atomic("journal-00000000", b"sealed long ago")
    assert sealed_journals(made.files, made.index.journal_sealed)
    compactor, shard_number = made.store._sealer.compactor, made.store._sealer.shard_number
    compactor.ask()
    assert compactor.job(0.0, shard_number, is_idle=False, is_syncing=True) is None
    assert "journal-00000000" in made.files.list()
    assert compactor.job(10.0, shard_number, is_idle=False, is_syncing=False) is not None
    assert "journal-00000000" not in made.files.list()


def test_who_asked_hears_of_a_sealed_journal_that_cannot_be_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(7)
    made.files.write_atomic("journal-00000000", b"sealed long ago")

    def refuse(name: str) -> None:
        raise StorageFailed(f"{name}: no")

    made.store.ask_compaction()
    with monkeypatch.context() as patched:
        patched.setattr(made.files, "remove", refuse)
        assert made.store.seal_job(0.0) is None
    assert not made.store.is_compaction_asked
    assert isinstance(made.store.compaction_error, StorageFailed)
    made.store.ask_compaction()
    assert made.store.seal_job(10.0) is not None


def test_a_group_of_dead_rows_alone_leaves_no_segment() -> None:
    store, _, index = open_memory(options=OPTIONS)
    for value in range(12):
        store.put([row_of(f"id-{n}", f"{value} {n}") for n in range(20)])
        seal_all(store, force=True)
    compact(store)
    assert [segment.row_count for segment in index.segments()] == [20]
    assert store.check().ok


def test_in_the_background_small_segments_are_joined_and_the_pace_is_kept() -> None:
    store, _, index = open_memory(options=OPTIONS)
    for number in range(garbage.MERGED_MIN):
        store.put([row_of(f"id-{number}-{n}", n) for n in range(5)])
        assert store.next_due(0.0) != 0.0 or number == 0 or not index.segments()
        job = store.seal_job(0.0, force=True)
        assert job is not None
        job.run()
        store.finish(job)
    assert store.next_due(100.0) == 100.0
    job = store.seal_job(100.0)
    assert isinstance(job, RewriteJob)
    job.run()
    store.finish(job)
    assert len(index.segments()) == 1
    assert store.next_due(102.0) is None
    for number in range(garbage.MERGED_MIN):
        store.put([row_of(f"later-{number}-{n}", n) for n in range(5)])
        seal_all(store, force=True)
    assert store.next_due(102.5) == 108.0, "two seconds of work, six of rest"
    assert store.seal_job(107.0) is None
    assert store.seal_job(108.0) is not None


def test_what_replaces_rows_of_an_old_segment_with_new_blocks_is_counted_where_they_stood() -> None:
    store, _, index = open_memory(options=StoreOptions(memtable_bytes_max=1 << 20))

    def put(*ids: int, value: object) -> None:
        store.put([row_of(f"id-{n:03}", f"{value} {n}") for n in ids])
        job = store.seal_job(0.0, force=True)
        assert job is not None
        job.run()
        store.finish(job)

    put(*range(100), value="first")
    put(*range(100, 200), value="second")
    put(*range(60), value="third")
    job = store.seal_job(100.0)
    assert isinstance(job, RewriteJob)
    assert [segment.number for segment in job.plan.group] == [0, 1, 2], "one is half dead, two are small"
    job = RewriteJob(job._files, job._index, dataclasses.replace(job.plan, group=job.plan.group[:1]), 1000)
    store._sealer._seal = job
    job.run()
    store.finish(job)
    assert index.segments()[0].block_first > index.segments()[2].block_last
    put(70, 71, 150, value="fourth")
    assert [segment.dead for segment in index.segments()] == [2, 1, 0, 0]
    assert store.check().problems == ()
