"""Entries in id order: a merge of the memtables and of all segments, each opened only when its ids are reached.

Reads heads, never bodies; holds one head per open segment. The newest run wins where two have the same id. Never
writes. Driven by Store under its lock; memtables come oldest first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heapreplace
from typing import Protocol

from mynosql.errors import StorageCorrupt
from mynosql.row import Entry
from mynosql.store.index import BlockRow, Segment
from mynosql.store.memtable import Memtable
from mynosql.store.sealed import Sealed
from mynosql.store.tally import entry_of_row


class _Source(Protocol):
    """One sorted run of ids."""

    def ids(self, low: bytes) -> Iterator[bytes]:
        """Id keys from low on, in order."""
        ...

    def entry(self) -> Entry | None:
        """The entry of the id that ids() gave last; None when the scan does not want it."""
        ...


class _Run:
    """A source at one of its ids; before it is opened, at a lower bound of its first one."""

    __slots__ = ("_ids", "_low", "key", "order", "source")

    def __init__(self, source: _Source, low: bytes, order: int) -> None:
        self.source = source
        self.key = low
        self.order = order
        """Lower is newer: of equal ids the newest comes first."""
        self._low = low
        self._ids: Iterator[bytes] | None = None

    def __lt__(self, other: _Run) -> bool:
        return (self.key, self.order) < (other.key, other.order)

    @property
    def is_open(self) -> bool:
        return self._ids is not None

    def advance(self) -> bool:
        """Stand at the next id (the first one at the first call); False at the end."""
        if self._ids is None:
            self._ids = self.source.ids(self._low)
        key = next(self._ids, None)
        if key is None:
            return False
        self.key = key
        return True


def scan(
    sealed: Sealed, memtables: Sequence[Memtable], low: bytes, high: bytes | None, *, missing_only: bool = False
) -> Iterator[Entry]:
    """The newest entry of every id with low <= id key < high, in id order; high None: to the end.

    missing_only: only live entries whose winner's body is not held; blocks without such rows are not read.
    Damaged blocks are stepped over and noted in sealed.problems. Nothing may be put while the iterator is used.
    """
    sources: list[tuple[bytes, _Source]] = [
        (low, _MemtableSource(memtable, missing_only)) for memtable in reversed(memtables) if memtable.kept
    ]
    sources += [
        (max(low, segment.first_key), _SegmentSource(sealed, segment, missing_only))
        for segment in reversed(sealed.segments)
        if segment.last_key >= low and (high is None or segment.first_key < high)
    ]
    runs = [_Run(source, start, order) for order, (start, source) in enumerate(sources)]
    heapify(runs)
    last: bytes | None = None
    while runs:
        run = runs[0]
        if high is not None and run.key >= high:
            return
        if run.is_open and run.key != last:
            last = run.key
            entry = run.source.entry()
            if entry is not None:
                yield entry
        if run.advance():
            heapreplace(runs, run)
        else:
            heappop(runs)


def is_missing(entry: Entry) -> bool:
    """Live, and the winner's body is not here."""
    return not entry.held & 1 and not entry.leaves[0].deleted


class _MemtableSource:
    def __init__(self, memtable: Memtable, missing_only: bool) -> None:
        self._memtable = memtable
        self._missing_only = missing_only
        self._id_key = b""

    def ids(self, low: bytes) -> Iterator[bytes]:
        keys = self._memtable.sorted_keys()
        for at in range(bisect_left(keys, low), len(keys)):
            self._id_key = keys[at]
            yield self._id_key

    def entry(self) -> Entry | None:
        row = self._memtable.row(self._id_key)
        assert row is not None, "rows never leave a memtable"
        entry = entry_of_row(row)
        return None if self._missing_only and not is_missing(entry) else entry


class _SegmentSource:
    def __init__(self, sealed: Sealed, segment: Segment, missing_only: bool) -> None:
        self._sealed = sealed
        self._segment = segment
        self._missing_only = missing_only
        self._block: BlockRow
        self._slot = 0

    def ids(self, low: bytes) -> Iterator[bytes]:
        blocks = self._sealed.index.blocks_of(self._segment.number)
        if self._missing_only:
            blocks = [block for block in blocks if block.missing]
        for block in blocks[self._first_block(blocks, low) :]:
            self._block = block
            try:
                rows = self._sealed.head(block.number).rows
            except StorageCorrupt as error:
                self._sealed.note_problem(error, block.row_count)
                continue
            for slot in range(rows.count):
                id_key = rows.id_key(slot)
                if id_key >= low:
                    self._slot = slot
                    yield id_key

    def _first_block(self, blocks: Sequence[BlockRow], low: bytes) -> int:
        """The last block whose first id is not above low; a lower one where damage hides that."""
        start, end = 0, len(blocks)
        try:
            while end - start > 1:
                middle = (start + end) // 2
                if self._sealed.first_key(blocks[middle].number) <= low:
                    start = middle
                else:
                    end = middle
        except StorageCorrupt:
            return start  # ids() notes the damage when it comes there
        return start

    def entry(self) -> Entry | None:
        block = self._block
        entry = self._sealed.head(block.number).rows.entry(self._slot)
        if not self._missing_only:
            # Where damage hid the newer row of an id, its older one must not show.
            is_hidden = (self._sealed.problems or self._sealed.has_dropped) and self._segment.dead
            return None if is_hidden and not self._sealed.is_current(entry.id_key, block.number, self._slot) else entry
        # Blocks without missing rows were left out, so a newer row of this id may not be among the runs.
        if is_missing(entry) and self._sealed.is_current(entry.id_key, block.number, self._slot):
            return entry
        return None
