"""The feed: every id at its newest seq, in seq order, over sealed segments and memtables, in bounded memory.

A segment's seqs lie between those of its neighbours, so one segment at a time is decoded, put in seq order and kept
(the last two) for the next slices. Rows that something newer has replaced are stepped over. Never writes. Driven by
Store under its lock; memtables come oldest first.
"""

from __future__ import annotations

import contextlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mynosql.batch import FLAG_OWED, FLAG_STRAY, Head
from mynosql.collector import collector_paused
from mynosql.errors import StorageCorrupt
from mynosql.row import Row
from mynosql.store import shard
from mynosql.store.index import BlockRow, Segment
from mynosql.store.memtable import Memtable
from mynosql.store.sealed import Found, Sealed
from mynosql.store.types import FeedSlice

SEGMENTS_KEPT = 2
"""Decoded segments in memory: two readers at different places do not throw each other out."""
SLICES_UNUSED_MAX = 64
"""A decoded segment goes when so many slices were read without it: who read it has gone on."""
ROW_OVERHEAD_BYTES = 64
"""What a row counts for in a slice beside its id key and bodies: about what its leaves take when sent."""


class _Decoded:
    """A segment's current rows in seq order."""

    __slots__ = ("has_bodies", "large", "rows", "seqs", "used")

    def __init__(
        self, rows: _BlockRows | _Unpacked, seqs: list[int], large: dict[int, Found], has_bodies: bool
    ) -> None:
        self.rows = rows
        self.seqs = seqs
        self.large = large
        """seq → where a row stands whose bodies were left on the disk for their size."""
        self.has_bodies = has_bodies
        self.used = 0


class _BlockRows(Sequence[Row]):
    """Rows of decoded blocks in seq order. A row is made when it is asked for: kept, a segment's rows would be a
    hundred thousand objects for Python's cyclic collector to walk.
    """

    def __init__(self) -> None:
        self._blocks: list[tuple[Head, bytes | None]] = []
        self._rows: dict[int, Row] = {}
        self._spots: list[tuple[int, int]] = []  # seq, then block << SLOT_BITS | slot

    def add(self, head: Head, raw: bytes | None, slots: Sequence[int]) -> None:
        """These rows of a block; raw: its bodies."""
        start = len(self._blocks) << shard.SLOT_BITS
        self._blocks.append((head, raw))
        self._spots += [(head.seq(slot), start | slot) for slot in slots]

    def add_row(self, row: Row) -> None:
        """A row of another segment that stands for one here."""
        self._rows[row.seq] = row
        self._spots.append((row.seq, 0))

    @property
    def borrows(self) -> bool:
        """Some row stands in another segment, and may be replaced there."""
        return bool(self._rows)

    def sort(self) -> list[int]:
        """Nothing is added any more; returns the seqs in order."""
        self._spots.sort()
        seqs = [seq for seq, _ in self._spots]
        self._order = array("Q", [spot for _, spot in self._spots])
        self._seqs = seqs
        self._spots = []
        return seqs

    def __len__(self) -> int:
        return len(self._seqs)

    def __getitem__(self, place: Any) -> Any:
        if self._rows:
            row = self._rows.get(self._seqs[place])
            if row is not None:
                return row
        spot = self._order[place]
        head, raw = self._blocks[spot >> shard.SLOT_BITS]
        return head.row(spot & shard.ROWS_A_BLOCK_MAX - 1, raw)

    def is_owed(self, place: int) -> bool:
        """The row's `owed`, without making the row."""
        if self._rows:
            row = self._rows.get(self._seqs[place])
            if row is not None:
                return row.owed
        spot = self._order[place]
        return bool(self._blocks[spot >> shard.SLOT_BITS][0].flags(spot & shard.ROWS_A_BLOCK_MAX - 1) & FLAG_OWED)


class _Ahead:
    """A segment that is being decoded."""

    __slots__ = ("blocks", "bodies", "done", "large", "rows", "segment")

    def __init__(self, segment: Segment, bodies: bool, blocks: Sequence[BlockRow]) -> None:
        self.segment = segment
        self.bodies = bodies
        self.blocks = blocks
        self.done = 0
        """Blocks decoded."""
        self.rows = _BlockRows()
        self.large: dict[int, Found] = {}


class _Unpacked(Sequence[Row]):
    """Rows of a memtable that was sealed, unpacked when they are asked for."""

    def __init__(self, memtable: Memtable, seqs: Sequence[int]) -> None:
        self._memtable = memtable
        self._seqs = seqs

    def __len__(self) -> int:
        return len(self._seqs)

    def __getitem__(self, place: Any) -> Any:
        return self._memtable.at(self._seqs[place])

    def is_owed(self, place: int) -> bool:
        """The row's `owed`, without unpacking the row."""
        return self._memtable.is_owed(self._seqs[place])


class Feed:
    """Reads the feed of one store."""

    def __init__(self, sealed: Sealed) -> None:
        self._sealed = sealed
        self._decoded: dict[int, _Decoded] = {}
        self._clock = 0
        self._ahead: _Ahead | None = None
        """What the reader that goes on is going to need."""
        self._is_followed = False
        """Somebody has read the feed since the last seal."""

    def slice(
        self, memtables: Sequence[Memtable], after_seq: int, *, until_seq: int, bytes_max: int, body_bytes_max: int,
        owed_only: bool, low: bytes, high: bytes | None,
    ) -> FeedSlice:
        """Rows with after_seq < seq <= until_seq up to bytes_max. body_bytes_max: larger bodies are None, -1: all."""
        self._is_followed = True
        self._clock += 1
        if self._decoded:
            self._drop_unused()
        rows: list[Row] = []
        spent = 0
        is_all_ids = not low and high is None
        for row, found in self._rows(memtables, after_seq, until_seq, body_bytes_max >= 0, owed_only):
            if owed_only and not row.owed:
                continue
            if not is_all_ids and (row.id_key < low or (high is not None and row.id_key >= high)):
                continue
            if found is not None and body_bytes_max >= 0:
                row = self._sealed.row(found, body_bytes_max=body_bytes_max)
            id_key, _, bodies, _, _, stray, stale = row
            cost = len(id_key) + ROW_OVERHEAD_BYTES
            if len(bodies) == 1 and not stray and stale is None:
                body = bodies[0]
                if body is not None:
                    if len(body) <= body_bytes_max:
                        cost += len(body)
                    else:
                        row = _trimmed(row, body_bytes_max)
            else:
                row = _trimmed(row, body_bytes_max)
                cost += sum([len(body) for body in row.bodies if body is not None])
            spent += cost
            if spent > bytes_max and rows:
                self._on_more(rows[-1].seq, len(rows), body_bytes_max >= 0, owed_only)
                return FeedSlice(tuple(rows), rows[-1].seq, True)
            rows.append(row)
        return FeedSlice(tuple(rows), max(until_seq, after_seq), False)

    def _on_more(self, seq: int, rows: int, bodies: bool, owed_only: bool) -> None:
        if owed_only:
            return  # what is owed is seldom a whole segment
        for segment in self._sealed.segments:
            if segment.seq_min <= seq <= segment.seq_max:
                self._read_ahead(segment, rows, bodies)
                return

    def count_owed(self, memtables: Sequence[Memtable], after_seq: int, until_seq: int) -> int:
        """Ids whose newest row is owed and has after_seq < seq <= until_seq."""
        count = 0
        newer = [memtable for memtable in memtables if memtable.replaces]
        for segment in self._sealed.segments:
            if segment.seq_max > after_seq and segment.seq_min <= until_seq and segment.number in self._sealed.owed:
                decoded = self._decode(segment, False)
                start, end = bisect_right(decoded.seqs, after_seq), bisect_right(decoded.seqs, until_seq)
                owed = [place for place in range(start, end) if decoded.rows.is_owed(place)]
                count += _count_owed([decoded.rows[place] for place in owed], newer) if newer else len(owed)
        for position, memtable in enumerate(memtables):
            owed_here = memtable.count_owed(after_seq, until_seq)
            later = [other for other in memtables[position + 1 :] if other.replaces]
            count += _count_owed(memtable.between(after_seq, until_seq), later) if owed_here and later else owed_here
        return count

    def _rows(
        self, memtables: Sequence[Memtable], after_seq: int, until_seq: int, bodies: bool, owed_only: bool
    ) -> Iterator[tuple[Row, Found | None]]:
        """Newest rows in seq order; with a place where large bodies were left out."""
        newer = [memtable for memtable in memtables if memtable.replaces]
        for segment in self._sealed.segments:
            if segment.seq_max <= after_seq or (owed_only and segment.number not in self._sealed.owed):
                continue
            if segment.seq_min > until_seq:
                return
            decoded = self._decode(segment, bodies)
            large = decoded.large
            start, end = bisect_right(decoded.seqs, after_seq), bisect_right(decoded.seqs, until_seq)
            for place in range(start, end):
                row: Row = decoded.rows[place]
                newest = _newest(row, newer) if newer else row
                if newest is row:
                    yield row, large.get(row.seq) if large else None
                elif newest is not None:
                    yield newest, None
        for position, memtable in enumerate(memtables):
            if memtable.last_seq <= after_seq:
                continue
            later = [other for other in memtables[position + 1 :] if other.replaces]
            for row in memtable.between(after_seq, until_seq):
                newest = _newest(row, later) if later else row
                if newest is not None:
                    yield newest, None

    # Segments

    def _decode(self, segment: Segment, bodies: bool) -> _Decoded:
        decoded = self._decoded.get(segment.number)
        if decoded is None or (bodies and not decoded.has_bodies):
            decoded = self._read(segment, bodies)
            self._keep(segment.number, decoded)
        decoded.used = self._clock
        return decoded

    def _keep(self, number: int, decoded: _Decoded) -> None:
        kept = self._decoded
        kept[number] = decoded
        if len(kept) > SEGMENTS_KEPT:
            del kept[min((key for key in kept if key != number), key=lambda key: kept[key].used)]

    def _drop_unused(self) -> None:
        for number in [key for key, kept in self._decoded.items() if kept.used < self._clock - SLICES_UNUSED_MAX]:
            del self._decoded[number]

    def _read(self, segment: Segment, bodies: bool) -> _Decoded:
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead.segment.number != segment.number or ahead.bodies < bodies:
            ahead = _Ahead(segment, bodies, self._sealed.index.blocks_of(segment.number))
        with collector_paused():
            self._read_on(ahead, len(ahead.blocks))
            return _Decoded(ahead.rows, ahead.rows.sort(), ahead.large, ahead.bodies)

    def _read_ahead(self, served: Segment, rows: int, bodies: bool) -> None:
        """A reader has got so many rows of a segment and goes on: as large a part of the next one is decoded.

        So no reader waits for a whole segment but the first, and what it got is sent on meanwhile.
        """
        segments = self._sealed.segments
        position = next((i for i, segment in enumerate(segments) if segment.number == served.number), len(segments))
        if position + 1 >= len(segments) or segments[position + 1].number in self._decoded:
            return
        following = segments[position + 1]
        if self._ahead is None or self._ahead.segment != following or self._ahead.bodies != bodies:
            self._ahead = _Ahead(following, bodies, self._sealed.index.blocks_of(following.number))
        with collector_paused():
            self._read_on(self._ahead, -(-len(self._ahead.blocks) * rows // served.row_count))

    def _read_on(self, ahead: _Ahead, count: int) -> None:
        blocks = ahead.blocks[ahead.done : ahead.done + count]
        ahead.done += len(blocks)
        for block in blocks:
            try:
                self._add_block(ahead, block, ahead.bodies)
            except StorageCorrupt as error:
                # One damaged block must not keep all others from every node, nor its bodies its entries.
                self._sealed.note_problem(error, block.row_count)
                if ahead.bodies:
                    with contextlib.suppress(StorageCorrupt):
                        self._add_block(ahead, block, False)

    def _add_block(self, ahead: _Ahead, block: BlockRow, bodies: bool) -> None:
        head, raw = self._read_block(block, bodies, ahead.large)
        if ahead.segment.dead:
            self._add_current(ahead.rows, block, head, raw, ahead.bodies, ahead.large)
        else:
            slots = range(head.count)
            ahead.rows.add(head, raw, [i for i in slots if not head.flags(i) & FLAG_STRAY])

    def _read_block(self, block: BlockRow, bodies: bool, large: dict[int, Found]) -> tuple[Head, bytes | None]:
        files = self._sealed.files
        if bodies and block.row_count == 1:
            head = shard.read_head(files, block.ref)
            if head.body_raw > shard.PIECE_BYTES:
                if not head.rows.flags(0) & FLAG_STRAY:
                    large[head.rows.seq(0)] = Found(head, 0)
                bodies = False
        rows, raw = shard.read_raw(files, block.ref, bodies=bodies)
        rows.expand()
        return rows, raw

    def _add_current(
        self, rows: _BlockRows, block: BlockRow, head: Head, raw: bytes | None, bodies: bool, large: dict[int, Found]
    ) -> None:
        """The rows that no newer segment replaced; one replaced only for its body stays where its seq stands."""
        slots = []
        for slot in range(head.count):
            if head.flags(slot) & FLAG_STRAY:
                continue
            id_key, seq = head.id_key(slot), head.seq(slot)
            if self._sealed.is_current(id_key, block.number, slot):
                slots.append(slot)
                continue
            large.pop(seq, None)
            found = self._sealed.locate(id_key)
            if found is None or not found.head.rows.flags(found.slot) & FLAG_STRAY:
                continue
            if found.head.rows.seq(found.slot) == seq:
                if bodies and found.head.body_raw > shard.PIECE_BYTES:
                    large[seq] = found
                rows.add_row(self._row_at(found, bodies))
        rows.add(head, raw, slots)

    def _row_at(self, found: Found, bodies: bool) -> Row:
        try:
            return self._sealed.row(found, body_bytes_max=shard.PIECE_BYTES if bodies else -1)
        except StorageCorrupt as error:
            self._sealed.note_problem(error)
            return self._sealed.row(found, body_bytes_max=-1)

    def on_sealed(
        self, memtable: Memtable, segment: Segment | None, replaced_in: Sequence[int], contents: Sequence[bytes]
    ) -> None:
        """The memtable is a segment now: its rows serve whoever reads the end of the feed without decoding it.

        contents: what the seal has read of its journals.
        """
        for number, kept in list(self._decoded.items()):
            if _is_replaced(number, kept.rows, replaced_in):
                del self._decoded[number]
        if self._ahead is not None and _is_replaced(self._ahead.segment.number, self._ahead.rows, replaced_in):
            self._ahead = None
        if segment is not None and self._is_followed:
            memtable.hold(contents)
            seqs = memtable.fed_seqs()
            decoded = _Decoded(_Unpacked(memtable, seqs), seqs, {}, True)
            decoded.used = self._clock
            self._keep(segment.number, decoded)
        self._is_followed = False

    def drop_caches(self) -> None:
        """No decoded segment is kept in memory."""
        self._decoded.clear()
        self._ahead = None
        self._is_followed = False


def _is_replaced(number: int, rows: _BlockRows | _Unpacked, replaced_in: Sequence[int]) -> bool:
    """Rows of that segment may be superseded, now that rows in these segments are."""
    return number in replaced_in or (bool(replaced_in) and isinstance(rows, _BlockRows) and rows.borrows)


def _newest(row: Row, newer: Sequence[Memtable]) -> Row | None:
    """The row itself; what brought it a body later, under the same seq; or None when it was replaced by a later seq."""
    id_key = row.id_key
    for memtable in reversed(newer):
        if id_key in memtable.replaces:
            found = memtable.row(id_key)
            return found if found is not None and found.seq == row.seq else None
    return row


def _count_owed(rows: Iterable[Row], newer: Sequence[Memtable]) -> int:
    return sum([newest.owed for row in rows if (newest := _newest(row, newer)) is not None])


def _trimmed(row: Row, body_bytes_max: int) -> Row:
    bodies = tuple(body if body is not None and len(body) <= body_bytes_max else None for body in row.bodies)
    return row._replace(bodies=bodies, stray=False, stale=None)
