"""An index made anew says the same as the one that was lost."""

from __future__ import annotations

from random import Random

import pytest

from mynosql.row import Row
from mynosql.store import check, placing, rebuild, rewriting, seal, sealed
from mynosql.store.rebuild import Rebuilder
from mynosql.store.store import Store, StoreOptions
from tests.sim.memory_files import MemoryFiles
from tests.sim.memory_index import MemoryIndex
from tests.store.making import (
    NODE,
    SMALL,
    body_of,
    conflict_row,
    feed_rows,
    key,
    open_memory,
    remote_row,
    row_of,
    sync,
    tombstone,
)
from tests.store.making import seal as seal_all


def rebuilt(files: MemoryFiles) -> tuple[Store, MemoryIndex]:
    index = MemoryIndex()
    rebuilder = Rebuilder(files, index, None)
    rebuilder.run({"kept": b"1"}, node=NODE)
    store = Store.open(files, index, SMALL, node=NODE)
    for problem in rebuilder.problems:
        store.note_problem(problem)
    return store, index


def history(seed: int, turns: int = 400) -> tuple[Store, MemoryFiles, dict[bytes, Row]]:
    """A store after saves, deletes, remote changes and strays over several segments, all sealed."""
    store, files, _ = open_memory(options=StoreOptions(memtable_bytes_max=9000))
    rng = Random(seed)
    newest: dict[bytes, Row] = {}
    for turn in range(turns):
        id = f"id-{rng.randrange(120)}"
        known = newest.get(key(id))
        row = rng.choice([row_of, row_of, remote_row, conflict_row])(id, turn)
        row = rng.choice([row, row, row, tombstone(id)])._replace(owed=rng.random() < 0.5)
        if known is not None and rng.random() < 0.3:
            row = row._replace(seq=known.seq, stray=True, owed=known.owed)
        newest[row.id_key] = row._replace(seq=store.put_one(row), stray=False)
        if store.is_seal_due:
            seal_all(store, force=False)
    return store, files, newest


@pytest.mark.parametrize("seed", range(4))
def test_entries_feed_bodies_and_counters_are_as_before(seed: int) -> None:
    before, files, newest = history(seed)
    before.close()
    store, _ = rebuilt(files)
    assert store.counters == before.counters
    assert (store.head_seq, store.hlc_max, store.notes()) == (before.head_seq, before.hlc_max, {"kept": b"1"})
    assert feed_rows(store) == [row._replace(stale=None) for row in sorted(newest.values(), key=lambda row: row.seq)]
    assert all(store.read(id_key)[1] == row.bodies[0] for id_key, row in newest.items())  # type: ignore[index]
    assert store.check().problems == ()


@pytest.mark.parametrize("seed", range(4))
def test_what_journals_hold_is_left_to_them(seed: int) -> None:
    before, files, newest = history(seed)
    sync(before)
    store, _ = rebuilt(files.copy())
    assert store.counters == before.counters
    assert feed_rows(store) == [row._replace(stale=None) for row in sorted(newest.values(), key=lambda row: row.seq)]
    store.close()
    assert store.counters == before.counters


def test_a_seal_that_did_not_come_to_its_commit_is_cut_off_again() -> None:
    before, files, _ = history(1)
    job = before.seal_job(0.0, force=True)
    assert job is not None
    job.run()
    store, _ = rebuilt(files)
    assert store.counters == before.counters
    seal_all(store)
    assert store.check().problems == ()


def test_half_a_seal_is_cut_off_and_its_rows_come_from_the_journal() -> None:
    store, files, _ = open_memory(options=StoreOptions())
    store.put([row_of(f"old-{n}", n) for n in range(10)])
    seal_all(store)
    start = files.size("shard-00000000")
    rng = Random(4)
    store.put([row_of(f"id-{n:04d}", rng.random()) for n in rng.sample(range(1500), 1500)])
    job = store.seal_job(0.0, force=True)
    assert job is not None
    job.run()
    blocks = [block for block in store._index.blocks_of(1) if block.offset >= start]
    assert len(blocks) > 2
    files.cut("shard-00000000", blocks[-1].offset)
    again, _ = rebuilt(files)
    assert again.counters == store.counters
    assert len(feed_rows(again, bytes_max=1 << 20)) == 1510
    assert files.size("shard-00000000") == start


def test_colliding_ids_are_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (seal, sealed, check, rebuild, rewriting):
        monkeypatch.setattr(module, "short_hash", lambda found: found & 3)
    assert placing.Placer is rebuild.Placer
    before, files, newest = history(5, turns=150)
    before.close()
    store, _ = rebuilt(files)
    assert all(store.find(id_key).seq == row.seq for id_key, row in newest.items())  # type: ignore[union-attr]
    assert store.check().problems == ()


def test_segments_are_those_that_were_written() -> None:
    before, files, index = open_memory()
    for turn in range(5):
        before.put([row_of(f"{turn:02d}-{n:02d}", n) for n in range(30)])
        seal_all(before)
    were = index.segments()
    before.close()
    store, index = rebuilt(files)
    assert index.segments() == were
    assert [row.seq for row in feed_rows(store)] == list(range(1, 151))
    assert store.check().problems == ()


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_damaged_block_costs_its_rows_and_is_not_read_at_every_opening(place: str) -> None:
    store, files, index = open_memory(options=StoreOptions())
    rng = Random(3)
    store.put([row_of(f"id-{n:04d}", rng.random()) for n in range(1500)])
    store.close()
    blocks = index.blocks_of(0)
    assert len(blocks) > 2
    bad = {"first": blocks[0], "middle": blocks[1], "last": blocks[-1]}[place]
    files.damage("shard-00000000", bad.offset + 12, b"\xff\xff\xff\xff")
    store, index = rebuilt(files)
    assert store.records == 1500 - bad.row_count
    assert [problem.offset for problem in store.problems] == [bad.offset]
    store.put_one(row_of("new", 1))
    store.close()
    store = Store.open(files, index.crash(), SMALL)
    assert store.records == 1501 - bad.row_count
    assert store.read_body(key("new"), 0) == body_of(1)
    assert store.check().problems == ()


def test_progress_is_told() -> None:
    before, files, _ = history(2)
    before.close()
    told: list[tuple[int, int]] = []
    Rebuilder(files, MemoryIndex(), lambda done, total: told.append((done, total))).run({}, node=None)
    assert told[-1][0] == told[-1][1] > 0
    assert [done / total for done, total in told] == sorted(done / total for done, total in told)


def test_a_shard_with_damage_stays_when_all_that_could_be_read_of_it_is_written_elsewhere() -> None:
    before, files, _ = history(2)
    before.close()
    (name,) = [found for found in files.list() if found.startswith("shard")]
    files.damage(name, files.size(name) - 40, b"\xff" * 20)
    store, index = rebuilt(files)
    assert store.problems
    store.ask_compaction()
    while (job := store.seal_job(0.0)) is not None:
        job.run()
        store.finish(job)
    assert files.size(name) > 0, "somebody may know how to read it"
    assert Store.open(files, index.crash(), SMALL, node=NODE).counters == store.counters
    assert name in files.list()
