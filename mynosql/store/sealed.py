"""What is sealed: finds an id's row in the blocks of the shards and reads its bodies, through filter and caches.

Owns the filter, the list of segments (a few hundred bytes per seal; nothing per record) and the caches of decoded
heads and bodies. Never writes; a seal job writes and Store tells it here with add_segment(). Driven by Store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from mynosql.errors import StorageCorrupt
from mynosql.idkey import id_hash
from mynosql.row import Entry, Row
from mynosql.store import shard
from mynosql.store.cache import Cache, memory_of
from mynosql.store.files import Files
from mynosql.store.filter import Filter
from mynosql.store.index import Index, Segment, short_hash
from mynosql.store.shard import BlockHead, Bodies, HeadBytes
from mynosql.store.types import Problem, StoreOptions

FIRST_KEYS_BYTES_MAX = 2 << 20
"""First ids of some 8,000 blocks: of a million records."""
FIRST_KEY_OVERHEAD_BYTES = 150
DROPPED_NOTE = ".dropped"
PROBLEMS_MAX = 100
"""Damage met while reading is listed up to this many places; checkdb lists all of it."""


class Found(NamedTuple):
    """Where the newest sealed row of an id stands."""

    head: BlockHead
    slot: int


class Sealed:
    """The sealed rows of one store."""

    def __init__(self, files: Files, index: Index, filter: Filter, options: StoreOptions) -> None:
        self.files = files
        self.index = index
        self.filter = filter
        self.segments: list[Segment] = index.segments()
        """Oldest first."""
        self.owed: dict[int, int] = {}
        """Segment number → owed rows in it when it was sealed, strays left out; absent: none."""
        self.problems: list[Problem] = []
        self.touched: set[int] | None = None
        """Blocks whose bodies were read from the disk since somebody looked; None: nobody does."""
        self.damaged: set[tuple[str, int]] = set()
        """Shard files and offsets where damage was met that nobody has dealt with."""
        self.has_dropped = bool(index.note(DROPPED_NOTE))
        """Rows were given up with their block: older rows of their ids may be in older segments."""
        self._heads: Cache[int, BlockHead] = Cache(options.head_cache_bytes_max // 2, memory_of)
        self._packed_heads: Cache[int, HeadBytes] = Cache(options.head_cache_bytes_max // 2, memory_of)
        """Many more of them: what LZMA has of a head takes five times as long to decode again."""
        self._bodies: Cache[int, Bodies] = Cache(options.block_cache_bytes_max, memory_of)
        self.on_read: Callable[[], None] = lambda: None
        """A block was read from the disk."""
        self._first_keys: Cache[int, bytes] = Cache(
            FIRST_KEYS_BYTES_MAX, lambda _, id_key: len(id_key) + FIRST_KEY_OVERHEAD_BYTES
        )

    # Looking up

    def locate(self, id_key: bytes) -> Found | None:
        """The block and slot of the id's row, None when no sealed row has it. Raises StorageCorrupt."""
        return self.locate_hashed(id_key, self.hash_of(id_key)) if self.segments else None

    def hash_of(self, id_key: bytes) -> int:
        """The id's short hash, for locate_hashed()."""
        return short_hash(id_hash(id_key))

    def locate_hashed(self, id_key: bytes, found: int) -> Found | None:
        """locate() for who knows the id's short hash already."""
        if not self.filter.might_contain(found):
            return None
        place = self.index.place(found)
        if place is None:
            return None
        for candidate in (place, *self.index.twins(found)):
            head = self.head(shard.block_of(candidate))
            slot = shard.slot_of(candidate)
            if slot >= head.rows.count:
                raise self._misplaced(head, candidate)
            if head.rows.id_key(slot) == id_key:
                return Found(head, slot)
            if self.hash_of(head.rows.id_key(slot)) != found:
                raise StorageCorrupt(
                    self.files.path("index"), None,
                    f"row {slot} of block {head.ref.number} is not of the hash that names it; close and open the "
                    "database: the index is made anew",
                )
        return None

    def entry(self, found: Found) -> Entry:
        return found.head.rows.entry(found.slot)

    def find_hash(self, full_hash: int) -> Entry | None:
        """The entry of the id with this full id hash. Raises StorageCorrupt."""
        found = short_hash(full_hash)
        if not self.filter.might_contain(found):
            return None
        place = self.index.place(found)
        for candidate in () if place is None else (place, *self.index.twins(found)):
            rows = self.head(shard.block_of(candidate)).rows
            slot = shard.slot_of(candidate)
            if slot < rows.count and id_hash(rows.id_key(slot)) == full_hash:
                return rows.entry(slot)
        return None

    def is_current(self, id_key: bytes, block_number: int, slot: int) -> bool:
        """No newer segment has replaced this row."""
        found = short_hash(id_hash(id_key))
        place = shard.place_of(block_number, slot)
        return self.index.place(found) == place or place in self.index.twins(found)

    def _misplaced(self, head: BlockHead, place: int) -> StorageCorrupt:
        path = self.files.path(shard.shard_name(head.ref.shard))
        return StorageCorrupt(
            path, head.ref.offset,
            f"the index names row {shard.slot_of(place)} of block {head.ref.number}, which has {head.rows.count}; "
            "run checkdb",
        )

    # Reading

    def head(self, number: int) -> BlockHead:
        """The decoded head of a block, from memory if it was read lately. Raises StorageCorrupt."""
        head = self._heads.find(number)
        if head is None:
            kept = self._packed_heads.find(number)
            if kept is None:
                kept = shard.read_head_bytes(self.files, self._ref(number))
                self.on_read()
                self._packed_heads.put(number, shard.pack_head(kept))
            head = shard.decode_head(self.files, kept)
            self._heads.put(number, head)
        return head

    def first_key(self, number: int) -> bytes:
        """The first id key of a block: kept longer than its head, because each page of a listing seeks anew."""
        id_key = self._first_keys.find(number)
        if id_key is None:
            id_key = self.head(number).rows.id_key(0)
            self._first_keys.put(number, id_key)
        return id_key

    def _ref(self, number: int) -> shard.BlockRef:
        block = self.index.block(number)
        if block is None:
            raise StorageCorrupt(
                self.files.path("index"), None, f"block {number} is not in the index although an id points to it; "
                "run checkdb",
            )
        return block.ref

    def _bodies_of(self, head: BlockHead) -> Bodies:
        number = head.ref.number
        bodies = self._bodies.find(number)
        if bodies is None:
            bodies = shard.open_bodies(self.files, head.ref, head)
            self.on_read()
            if self.touched is not None:
                self.touched.add(number)
            self._bodies.put(number, bodies)
        return bodies

    def body(self, found: Found, position: int = 0) -> bytes | None:
        """The verified body of a leaf, None when it is not held. Raises StorageCorrupt."""
        head, slot = found
        span = head.rows.body_span(slot, position)
        if span is None:
            return None
        body = self._bodies_of(head).read(span.offset, span.length)
        return shard.check_body(self.files, head.ref, body, head.rows.entry(slot).leaves[position])

    def stale_body(self, found: Found) -> bytes | None:
        """The verified body of the superseded revision, None when none is held. Raises StorageCorrupt."""
        head, slot = found
        span = head.rows.stale_span(slot)
        leaf = head.rows.entry(slot).stale
        if span is None or leaf is None:
            return None
        body = self._bodies_of(head).read(span.offset, span.length)
        return shard.check_body(self.files, head.ref, body, leaf)

    def piece(self, found: Found, position: int, offset: int, length: int) -> bytes | None:
        """A part of a body, checked by its piece's crc; fewer bytes at its end, None when the body is not held."""
        span = found.head.rows.body_span(found.slot, position)
        if span is None:
            return None
        offset = min(max(offset, 0), span.length)
        length = min(max(length, 0), span.length - offset)
        return self._bodies_of(found.head).read(span.offset + offset, length)

    def row(self, found: Found, *, body_bytes_max: int) -> Row:
        """The whole row as the feed gives it: bodies up to a size (-1: none), no stale body."""
        entry = found.head.rows.entry(found.slot)
        bodies = tuple(
            self.body(found, position) if leaf.size <= body_bytes_max else None
            for position, leaf in enumerate(entry.leaves)
        )
        return Row(entry.id_key, entry.leaves, bodies, entry.seq, entry.owed)

    # Changing

    def add_segment(self, segment: Segment | None, owed: int, dead: Mapping[int, int]) -> None:
        """A seal was committed: its segment counts from now on, and so do the rows that it replaced."""
        if dead:
            self.segments = [
                old._replace(dead=old.dead + dead[old.number]) if old.number in dead else old for old in self.segments
            ]
        if segment is None:
            return
        self.segments.append(segment)
        if owed:
            self.owed[segment.number] = owed

    def note_problem(self, error: StorageCorrupt, records: int = 0) -> None:
        """Damage that a scan steps over is listed once."""
        if error.offset is not None and len(self.damaged) < PROBLEMS_MAX:
            self.damaged.add((error.path, error.offset))
        problem = Problem(error.path, error.offset, str(error), records)
        if problem not in self.problems and len(self.problems) < PROBLEMS_MAX:
            self.problems.append(problem)

    def note_found(self, problems: Iterable[Problem]) -> None:
        """A check found these."""
        for problem in problems:
            name = os.path.basename(problem.file)
            if problem.offset is not None and shard.parse_shard_name(name) is not None and (
                len(self.damaged) < PROBLEMS_MAX
            ):
                self.damaged.add((problem.file, problem.offset))

    @property
    def caches(self) -> tuple[Cache[int, BlockHead], Cache[int, HeadBytes], Cache[int, Bodies], Cache[int, bytes]]:
        """What was decoded."""
        return self._heads, self._packed_heads, self._bodies, self._first_keys

    def drop_caches(self) -> None:
        """Nothing decoded is kept in memory."""
        self._heads.clear()
        self._packed_heads.clear()
        self._bodies.clear()
        self._first_keys.clear()


def complete_filter(sealed: Sealed, segments: Iterable[Segment]) -> None:
    """The ids of these segments are in the filter: they were sealed after its file was written."""
    add = sealed.filter.add_many
    try:
        for segment in segments:
            for block in sealed.index.blocks_of(segment.number):
                rows = shard.read_head(sealed.files, block.ref).rows
                add(short_hash(id_hash(rows.id_key(i))) for i in range(rows.count))
    except StorageCorrupt:
        # An id that the filter does not know would start again at generation 1: take them all from the index.
        add(sealed.index.hashes())
