"""checkdb: sound stores pass, each kind of damage is named with what it costs."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from mynosql.idkey import id_hash
from mynosql.store import check
from mynosql.store.index import short_hash
from mynosql.store.seal import OWED_NOTE, pack_owed
from mynosql.store.shard import FILE_HEADER
from mynosql.store.store import Store, StoreOptions
from tests.sim.memory_files import MemoryFiles
from tests.sim.memory_index import MemoryIndex
from tests.store.making import key, open_memory, remote_row, row_of, seal, tombstone

ONE = StoreOptions(memtable_bytes_max=1 << 24)


def filled() -> tuple[Store, MemoryFiles, MemoryIndex]:
    """Two segments of several blocks, with dead, deleted and remote rows, and unsealed ones on top."""
    store, files, index = open_memory(options=ONE)
    rng = Random(2)
    store.put([row_of(f"id-{n:04d}", rng.random(), owed=n % 3 == 0) for n in range(2500)])
    seal(store)
    store.put([row_of(f"id-{n:04d}", rng.random()) for n in range(2000, 4500)])
    store.put([remote_row("id-0001", 1, stale=0), tombstone("id-0002")])
    seal(store)
    store.put([row_of("id-0003", 1), row_of("new", 1)], notes={"delivered": b"600"})
    assert len(index.blocks_of(0)) > 2
    return store, files, index


def test_a_sound_store_passes_and_counts_its_records() -> None:
    store, _, index = filled()
    told: list[tuple[int, int]] = []
    report = store.check(lambda done, total: told.append((done, total)))
    assert report == (True, (), store.records, len(index.blocks_of(0)) + len(index.blocks_of(1)))
    assert told[-1][0] == told[-1][1] > 0


def test_every_flipped_byte_of_a_shard_is_found_and_costs_one_block() -> None:
    store, files, index = open_memory(options=ONE)
    store.put([row_of(f"id-{n}", "x" * 5000 + str(n)) for n in range(30)])
    store.put_one(row_of("large", "".join(map(str, range(40_000)))))
    seal(store)
    blocks = index.blocks_of(0)
    assert len(blocks) > 3
    size = files.size("shard-00000000")
    for offset in {*range(0, size, 97), *range(FILE_HEADER.size + 60), size - 1}:
        damaged = files.copy()
        damaged.damage("shard-00000000", offset, bytes((damaged.read("shard-00000000", offset, 1)[0] ^ 0x40,)))
        report = Store.open(damaged, index.crash(), ONE).check()
        assert not report.ok, f"a flipped bit at {offset} passed"
        costs = {block.row_count for block in blocks if block.offset <= offset}
        assert sum(problem.records for problem in report.problems) in costs | {0}
        assert report.blocks >= len(blocks) - 1


def test_a_shard_that_was_cut_costs_the_blocks_behind_the_cut() -> None:
    store, files, index = filled()
    blocks = index.blocks_of(1)
    files.cut("shard-00000000", blocks[-1].offset + 10)
    report = store.check()
    assert [problem.records for problem in report.problems] == [blocks[-1].row_count]
    files.remove("shard-00000000")
    assert sum(problem.records for problem in store.check().problems) == 2500 + 2502


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda store, index: index._places.pop(short_hash(id_hash(key("id-0100")))), "no place"),
        (lambda store, index: index._places.update({12345: 7}), "places for"),
        (lambda store, index: index._places.update({short_hash(id_hash(key("id-0100"))): 5}), "dead"),
        (lambda store, index: index._segments.update({0: index._segments[0]._replace(dead=0)}), "dead"),
        (lambda store, index: index._blocks.pop(0), "blocks are missing"),
        (lambda store, index: index._blocks.update({1: index._blocks[1]._replace(missing=4)}), "missing bodies"),
        (lambda store, index: index._blocks.update({1: index._blocks[1]._replace(seq_max=4)}), "seqs"),
        (lambda store, index: index._notes.update({OWED_NOTE: pack_owed({1: 3})}), "owed"),
        (lambda store, index: setattr(store._unsealed.tally, "pending", 5), "full scan"),
        (lambda store, index: store._unsealed.tally.counts.__setitem__(3, 5), "full scan"),
        (lambda store, index: setattr(store._sealed, "filter", type(store._sealed.filter)()), "filter"),
    ],
)
def test_an_index_that_contradicts_the_shards_is_found(damage: object, said: str) -> None:
    store, _, index = filled()
    damage(store, index)  # type: ignore[operator]
    report = store.check()
    assert not report.ok
    assert any(said in problem.what for problem in report.problems), report.problems


def test_segments_whose_seqs_overlap_are_found() -> None:
    store, _, index = filled()
    index._segments[1] = index._segments[1]._replace(seq_min=7)
    assert any("predecessor" in problem.what for problem in store.check().problems)


def test_what_the_index_says_of_itself_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    store, _, index = filled()
    monkeypatch.setattr(index, "check", lambda: ["row 7 is out of order"])
    assert any("row 7" in problem.what for problem in store.check().problems)


def test_a_damaged_journal_is_reported_with_the_saves_it_lost() -> None:
    store, files, _ = open_memory()
    for n in range(5):
        store.put_one(row_of(f"id-{n}", n))
    files.damage("journal-00000000", 150, b"\xff\xff\xff")
    [problem] = store.check().problems
    assert (problem.file, problem.records) == ("memory/journal-00000000", 1)


def test_a_seal_that_is_committed_but_not_finished_is_no_damage() -> None:
    store, _, _ = filled()
    job = store.seal_job(0.0, force=True)
    assert job is not None
    job.run()
    assert store.check().problems == ()


def test_a_seal_that_is_committed_during_the_check_makes_it_begin_again() -> None:
    store, _, _ = filled()
    job = store.seal_job(0.0, force=True)
    assert job is not None
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        told.append((done, total))
        if len(told) == 1:
            job.run()

    assert store.check(progress).problems == ()
    begun_again = [after for before, after in itertools.pairwise(told) if after[0] < before[0]]
    assert len(begun_again) == 1


def test_what_is_written_between_the_steps_is_no_damage_and_is_sealed_afterwards() -> None:
    store, _, index = filled()
    records = store.records
    checker = store.begin_check()
    segments = len(index.segments())
    for number, _ in enumerate(checker.steps()):
        store.put([row_of(f"later-{number}", number, owed=True), row_of(f"id-{number:04d}", -number, owed=True)])
        assert store.seal_job(1e9, force=True) is None
    report = store.end_check(checker)
    assert report[:3] == (True, (), records)
    assert len(index.segments()) == segments
    assert seal(store) == 2
    assert store.check().ok


def test_damage_is_found_between_the_steps_too() -> None:
    store, files, index = filled()
    block = index.blocks_of(1)[-1]
    store.drop_caches()
    checker = store.begin_check()
    for number, _ in enumerate(checker.steps()):
        if not number:
            files.damage("shard-00000000", block.offset + block.head_bytes + 5, b"\xff\x00")
    report = store.end_check(checker)
    assert [problem.offset for problem in report.problems] == [block.offset]


def test_a_report_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "PROBLEMS_MAX", 20)
    store, _, index = filled()
    index._places.clear()
    report = store.check()
    assert len(report.problems) == 21
    assert "more" in report.problems[-1].what


