"""store.mending: a damaged block is given up, with nothing else, and the store is sound again."""

from __future__ import annotations

import random

import pytest

from mynosql.errors import StorageCorrupt
from mynosql.row import Row
from mynosql.store.index import BlockRow
from mynosql.store.store import Store, StoreOptions
from tests.sim.memory_files import MemoryFiles
from tests.sim.memory_index import MemoryIndex
from tests.store.making import (
    conflict_row,
    entry_of,
    feed_rows,
    key,
    open_memory,
    remote_row,
    reopen_killed,
    row_of,
    seal,
    tombstone,
)

OPTIONS = StoreOptions(memtable_bytes_max=1 << 24)
COUNT = 700
EVERY = tuple(range(14))


class Made:
    """A store of several segments and blocks with every kind of row; rows: what it holds."""

    def __init__(self, seed: int) -> None:
        self.store, self.files, self.index = open_memory(options=OPTIONS)
        self.rows: dict[bytes, Row] = {}
        rng = random.Random(seed)
        for _ in range(3):
            picked = rng.sample(range(COUNT), 400)
            self.put([self._row(rng, number) for number in picked])
            seal(self.store)
            self.put([self._stray(rng, number) for number in rng.sample(picked, 60)])
        seal(self.store)
        self.put([row_of(f"id-{number:03d}", "unsealed", hlc=9000 + number) for number in rng.sample(range(COUNT), 20)])

    def _row(self, rng: random.Random, number: int) -> Row:
        id, kind = f"id-{number:03d}", rng.random()
        text = f"{number} {rng.random()} " * 8
        if kind < 0.1:
            return tombstone(id)
        if kind < 0.2:
            return remote_row(id, text)
        if kind < 0.3:
            return conflict_row(id, text, "loser", "lost")
        return row_of(id, "x" * 70_000 + str(rng.random()) if kind > 0.99 else text)

    def _stray(self, rng: random.Random, number: int) -> Row:
        """The bodies of the id go, or nothing changes but where they stand."""
        row = self.rows[key(f"id-{number:03d}")]
        return row._replace(bodies=(None,) * len(row.leaves), stale=None, stray=True) if rng.random() < 0.5 else (
            row._replace(stray=True)
        )

    def put(self, rows: list[Row]) -> None:
        seq = self.store.head_seq
        self.store.put(rows)
        for row in rows:
            seq += not row.stray
            self.rows[row.id_key] = row._replace(seq=row.seq if row.stray else seq, stray=False)

    def blocks(self) -> list[BlockRow]:
        return [block for segment in self.index.segments() for block in self.index.blocks_of(segment.number)]

    def damage(self, block: BlockRow, part: str) -> None:
        at = block.offset + (block.head_bytes // 2 if part == "head" else block.head_bytes + block.body_bytes // 2)
        name = f"shard-{block.shard:08d}"
        self.files.damage(name, at, bytes((self.files.read(name, at, 1)[0] ^ 4,)))


def compact(store: Store) -> None:
    store.ask_compaction()
    while (job := store.seal_job(1e9)) is not None:
        job.run()
        store.finish(job)


def check(store: Store, rows: dict[bytes, Row]) -> None:
    """The store holds these rows and says so whatever it is asked."""
    entries = store.entries(b"", None, live_only=False, limit=10_000)
    assert entries == [entry_of(row) for _, row in sorted(rows.items())]
    for row in rows.values():
        assert store.find(row.id_key) == entry_of(row)
        assert tuple(store.read_body(row.id_key, place) for place in range(len(row.leaves))) == row.bodies
        assert store.read_stale(row.id_key) == (row.stale.body if row.stale else None)
    live = [row for row in rows.values() if not row.leaves[0].deleted]
    assert store.counters.records == len(live)
    assert store.counters.held == sum(row.bodies[0] is not None for row in live)
    assert feed_rows(store) == [row._replace(stale=None) for row in sorted(rows.values(), key=lambda row: row.seq)]


def opened(files: MemoryFiles, index: MemoryIndex) -> Store:
    return reopen_killed(files, index, OPTIONS)


@pytest.mark.parametrize("position", EVERY)
@pytest.mark.parametrize("part", ["head", "body"])
def test_a_damaged_block_is_given_up_and_nothing_else(part: str, position: int) -> None:
    made = Made(position)
    blocks = [block for block in made.blocks() if block.body_bytes]
    block = blocks[position % len(blocks)]
    made.damage(block, part)
    made.store.drop_caches()
    assert not made.store.check().ok
    assert made.store.is_damaged

    mended = made.store.mend(lambda entry: False)

    assert mended is not None
    assert not made.store.is_damaged
    rows = dict(made.rows)
    if part == "body":
        assert mended.rows_dropped == 0
        for id_key in mended.id_keys:
            rows[id_key] = rows[id_key]._replace(bodies=(None,) * len(rows[id_key].leaves), stale=None)
    else:
        left = {entry.id_key: entry for entry in made.store.entries(b"", None, live_only=False, limit=10_000)}
        gone = {id_key for id_key in rows if id_key not in left}
        assert len(gone) == mended.rows_dropped <= block.row_count
        rows = {
            id_key: row._replace(seq=left[id_key].seq) for id_key, row in rows.items() if id_key not in gone
        }
        moved = [id_key for id_key, row in rows.items() if row.seq != made.rows[id_key].seq]
        assert len(moved) <= block.row_count, "what stood in the block for its place in the feed has another one"
    assert len(mended.id_keys) <= block.row_count
    check(opened(made.files, made.index), rows)
    compact(made.store)
    check(made.store, rows)
    assert made.store.check().ok
    check(opened(made.files, made.index), rows)
    assert opened(made.files, made.index).check().ok
    made.store.close()


@pytest.mark.parametrize("part", ["head", "body"])
def test_what_was_given_up_can_be_put_again(part: str) -> None:
    made = Made(1)
    made.damage(made.blocks()[0], part)
    made.store.drop_caches()
    made.store.check()
    made.store.mend(lambda entry: False)

    for row in list(made.rows.values()):
        entry = made.store.find(row.id_key)
        if entry is None:
            made.put([row])
        elif entry.held != entry_of(row).held:
            made.put([row._replace(seq=entry.seq, stray=True)])
        else:
            made.rows[row.id_key] = row._replace(seq=entry.seq)
    compact(made.store)

    check(made.store, made.rows)
    assert made.store.check().ok
    check(opened(made.files, made.index), made.rows)


def test_bodies_that_nobody_else_has_stay_where_they_are() -> None:
    made = Made(2)
    block = next(block for block in made.blocks() if block.row_count > 100)
    made.damage(block, "body")
    made.store.drop_caches()
    made.store.check()

    mended = made.store.mend(lambda entry: True)

    assert mended is not None
    assert (mended.id_keys, mended.rows_dropped) == ((), 0)
    assert made.store.counters.records == len([row for row in made.rows.values() if not row.leaves[0].deleted])


def test_a_block_whose_rows_may_be_owed_is_not_dropped() -> None:
    store, files, index = open_memory(options=OPTIONS)
    store.put([row_of(f"id-{number}", number, owed=number == 7) for number in range(100)])
    seal(store)
    files.damage("shard-00000000", index.blocks_of(0)[0].offset + 60, b"\xff\xff")
    store.drop_caches()
    store.check()

    mended = store.mend(lambda entry: False)

    assert mended is not None
    assert mended.rows_dropped == 0
    with pytest.raises(StorageCorrupt):
        store.find(key("id-3"))


def test_nothing_is_given_up_while_a_job_is_under_way() -> None:
    made = Made(3)
    job = made.store.seal_job(0.0, force=True)
    assert job is not None
    made.damage(made.blocks()[0], "body")
    made.store.drop_caches()
    made.store.check()

    assert made.store.mend(lambda entry: False) is None
    assert made.store.is_damaged
    job.run()
    made.store.finish(job)
    assert made.store.mend(lambda entry: False) is not None


def test_what_was_decoded_before_the_damage_does_not_hide_it() -> None:
    made = Made(4)
    block = next(block for block in made.blocks() if block.row_count > 100)
    for row in made.rows.values():
        made.store.read(row.id_key)
    made.damage(block, "body")
    made.store.check()

    mended = made.store.mend(lambda entry: False)

    assert mended is not None
    assert mended.id_keys
