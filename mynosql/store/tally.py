"""Counts of the ids by their state, kept exact by every row and in constant time, and what goes with them to disk.

Owns no file: Store feeds it each row together with what was known of its id before, a seal persists pack(), and
recovery starts from unpack() and replays the journals on top. Memory only.
"""

from __future__ import annotations

import struct

from mynosql.revision import conflicts_of
from mynosql.row import Entry, Leaves, Row
from mynosql.store.types import Counters

LIVE, HELD, STALE, CONFLICT = 1, 2, 4, 8
_STATES = 16
_LAYOUT = struct.Struct(f"<B{_STATES}QQQQQ")  # format, count per state, pending, delivered, head seq, highest own hlc
_FORMAT = 1


def state_of_row(row: Row) -> int:
    """The state bits of an id whose newest row this is."""
    leaves = row.leaves
    if leaves[0].deleted:
        return 0
    if row.bodies[0] is not None:
        state = LIVE | HELD
    else:
        state = LIVE if row.stale is None else LIVE | STALE
    return state if len(leaves) == 1 else state | _conflict(leaves)


def state_of_entry(entry: Entry) -> int:
    """The same bits, from what the index answers."""
    leaves = entry.leaves
    if leaves[0].deleted:
        return 0
    if entry.held & 1:
        state = LIVE | HELD
    else:
        state = LIVE if entry.stale is None else LIVE | STALE
    return state if len(leaves) == 1 else state | _conflict(leaves)


def entry_of_row(row: Row) -> Entry:
    """What the index would answer if this row were sealed."""
    id_key, leaves, bodies, seq, owed, _, stale = row
    if len(leaves) == 1:
        held = int(bodies[0] is not None or leaves[0].deleted)
    else:
        held = 0
        for position, leaf in enumerate(leaves):
            if leaf.deleted or bodies[position] is not None:
                held |= 1 << position
    return Entry(id_key, leaves, held, seq, owed, None if stale is None else stale.leaf)


def _conflict(leaves: Leaves) -> int:
    return CONFLICT if conflicts_of(leaves) else 0


class Tally:
    """The counts, the feed's head, and the marks that must survive with them."""

    __slots__ = ("counts", "delivered", "head_seq", "hlc_max", "pending")

    def __init__(self) -> None:
        self.counts = [0] * _STATES
        """Ids per state bits."""
        self.pending = 0
        """Ids whose newest row is owed and has seq > delivered."""
        self.delivered = 0
        """The note "delivered": owed rows up to this seq have been confirmed by another node."""
        self.head_seq = 0
        """The highest seq given out."""
        self.hlc_max = 0
        """The highest hlc among the leaves that this node wrote."""

    def replace(self, old: Row | Entry | None, row: Row) -> None:
        """row is now the newest of its id, old was before (None: the id is new)."""
        counts = self.counts
        delivered = self.delivered
        counts[state_of_row(row)] += 1
        if row.owed and row.seq > delivered:
            self.pending += 1
        if old is None:
            return
        counts[state_of_row(old) if type(old) is Row else state_of_entry(old)] -= 1  # type: ignore[arg-type]
        if old.owed and old.seq > delivered:
            self.pending -= 1

    @property
    def records(self) -> int:
        """Live ids."""
        return sum(self.counts[LIVE::2])

    def counters(self) -> Counters:
        """The counts as they are told to others."""
        counts = self.counts
        records = held = stale = conflicts = 0
        for state, count in enumerate(counts):
            records += count if state & LIVE else 0
            held += count if state & HELD else 0
            stale += count if state & STALE else 0
            conflicts += count if state & CONFLICT else 0
        return Counters(records, held, stale, records - held, conflicts, self.pending)

    def pack(self) -> bytes:
        return _LAYOUT.pack(_FORMAT, *self.counts, self.pending, self.delivered, self.head_seq, self.hlc_max)

    @classmethod
    def unpack(cls, data: bytes) -> Tally:
        """Raises ValueError when it is not what pack made."""
        if len(data) != _LAYOUT.size or data[0] != _FORMAT:
            raise ValueError(f"counters of {len(data)} bytes, format {data[:1]!r}")
        tally = cls()
        _, *counts, tally.pending, tally.delivered, tally.head_seq, tally.hlc_max = _LAYOUT.unpack(data)
        tally.counts = counts
        return tally
