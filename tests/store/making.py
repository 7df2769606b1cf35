"""Rows, doors and comparisons that the tests of the store share."""

from __future__ import annotations

from typing import Any

from mynosql.codec import digest, pack_body
from mynosql.idkey import pack_id
from mynosql.row import NO_DIGEST, Entry, Leaf, Row, StaleBody
from mynosql.store.store import Store, StoreOptions
from tests.sim.memory_files import MemoryFiles
from tests.sim.memory_index import MemoryIndex

NODE = 0x1234_5678_9ABC_DEF0
SMALL = StoreOptions(memtable_bytes_max=1 << 16)


def key(id: Any) -> bytes:
    return pack_id(id)


def body_of(value: Any) -> bytes:
    return pack_body({"value": value})


def leaf_of(body: bytes | None, *, hlc: int = 1000, node: int = NODE, generation: int = 1) -> Leaf:
    """body None: a tombstone."""
    if body is None:
        return Leaf(generation, hlc, node, True, 0, NO_DIGEST)
    return Leaf(generation, hlc, node, False, len(body), digest(body))


def row_of(id: Any, value: Any, *, owed: bool = False, hlc: int = 1000, node: int = NODE) -> Row:
    """A new live row with its body."""
    body = body_of(value)
    return Row(key(id), (leaf_of(body, hlc=hlc, node=node),), (body,), 0, owed)


def tombstone(id: Any, *, owed: bool = False, hlc: int = 2000) -> Row:
    return Row(key(id), (leaf_of(None, hlc=hlc, generation=2),), (None,), 0, owed)


def remote_row(id: Any, value: Any, *, stale: Any = None, hlc: int = 3000, node: int = 7) -> Row:
    """A row of another node without its body; stale: the value of a superseded revision that is held."""
    body = body_of(value)
    old = None if stale is None else body_of(stale)
    held = None if old is None else StaleBody(leaf_of(old, hlc=hlc - 1), old)
    return Row(key(id), (leaf_of(body, hlc=hlc, node=node, generation=2),), (None,), 0, False, False, held)


def conflict_row(id: Any, *values: Any) -> Row:
    """A row with one live leaf per value, the first wins; bodies of all but the last are held."""
    bodies = [body_of(value) for value in values]
    leaves = tuple(
        leaf_of(body, hlc=5000 - place, node=place + 1, generation=3) for place, body in enumerate(bodies)
    )
    return Row(key(id), leaves, (*bodies[:-1], None))


def entry_of(row: Row) -> Entry:
    """What the store must answer for a row."""
    held = sum(
        1 << place for place, leaf in enumerate(row.leaves) if leaf.deleted or row.bodies[place] is not None
    )
    return Entry(row.id_key, row.leaves, held, row.seq, row.owed, row.stale.leaf if row.stale else None)


def seal(store: Store, *, force: bool = True) -> int:
    """Everything is sealed (force: the active memtable too); returns how many segments that made."""
    count = 0
    while (job := store.seal_job(0.0, force=force)) is not None:
        job.run()
        store.finish(job)
        count += 1
    return count


def sync(store: Store) -> None:
    """Everything written is durable."""
    job = store.sync_job()
    if job is not None:
        job.run()
        store.finish(job)


def open_memory(
    files: MemoryFiles | None = None, index: MemoryIndex | None = None, options: StoreOptions = SMALL
) -> tuple[Store, MemoryFiles, MemoryIndex]:
    files, index = files or MemoryFiles(), index or MemoryIndex()
    return Store.open(files, index, options, node=NODE), files, index


def reopen_killed(files: MemoryFiles, index: MemoryIndex, options: StoreOptions = SMALL) -> Store:
    """The store that the next process finds after a kill -9 now."""
    return Store.open(files.copy(), index.crash(), options, node=NODE)


def feed_rows(store: Store, after_seq: int = 0, *, bytes_max: int = 5000, **options: Any) -> list[Row]:
    """The whole feed behind after_seq, read in small slices."""
    options = {"bodies": True, "body_bytes_max": 1 << 30, **options}
    rows: list[Row] = []
    while True:
        piece = store.feed(after_seq, bytes_max=bytes_max, **options)
        assert piece.last_seq > after_seq or not piece.more, "a slice must go on"
        rows += piece.rows
        after_seq = piece.last_seq
        if not piece.more:
            return rows
