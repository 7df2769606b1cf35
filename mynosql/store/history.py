"""Revisions that were superseded and whose rows still stand on the disk: what a three-way merge starts from.

Sealed rows stay where they are until their space is given back, though the index names only the newest. Looks from the
newest segment to the oldest, one block each, so it is for rare questions only. Never writes. Driven by Store under its
lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mynosql.errors import StorageCorrupt
from mynosql.row import Leaf, Row
from mynosql.store.index import BlockRow, Segment
from mynosql.store.memtable import Memtable
from mynosql.store.sealed import Found, Sealed

SEGMENTS_MAX = 64
"""As far back as a question looks: 64 heads of blocks are some 5 ms."""


def find_superseded(
    sealed: Sealed, memtables: Sequence[Memtable], id_key: bytes, is_wanted: Callable[[Leaf], bool]
) -> tuple[Leaf, bytes] | None:
    """The newest revision of the id that is wanted and of which a body is still here; None when there is none.

    memtables: oldest first. Rows that are damaged are stepped over.
    """
    for memtable in reversed(memtables):
        row = memtable.row(id_key)
        found = None if row is None else _in_row(row, is_wanted)
        if found is not None:
            return found
    segments = [segment for segment in sealed.segments if segment.first_key <= id_key <= segment.last_key]
    for segment in segments[: -SEGMENTS_MAX - 1 : -1]:
        try:
            found = _in_segment(sealed, segment, id_key, is_wanted)
        except StorageCorrupt as error:
            sealed.note_problem(error)
            continue
        if found is not None:
            return found
    return None


def _in_row(row: Row, is_wanted: Callable[[Leaf], bool]) -> tuple[Leaf, bytes] | None:
    for leaf, body in zip(row.leaves, row.bodies, strict=True):
        if body is not None and is_wanted(leaf):
            return leaf, body
    if row.stale is not None and is_wanted(row.stale.leaf):
        return row.stale.leaf, row.stale.body
    return None


def _in_segment(
    sealed: Sealed, segment: Segment, id_key: bytes, is_wanted: Callable[[Leaf], bool]
) -> tuple[Leaf, bytes] | None:
    block = _block_of(sealed, sealed.index.blocks_of(segment.number), id_key)
    head = sealed.head(block.number)
    slot = head.rows.find(id_key)
    if slot is None:
        return None
    found = Found(head, slot)
    entry = sealed.entry(found)
    for position, leaf in enumerate(entry.leaves):
        if is_wanted(leaf) and (body := sealed.body(found, position)) is not None:
            return leaf, body
    if entry.stale is not None and is_wanted(entry.stale):
        body = sealed.stale_body(found)
        return None if body is None else (entry.stale, body)
    return None


def _block_of(sealed: Sealed, blocks: Sequence[BlockRow], id_key: bytes) -> BlockRow:
    """The last block that does not begin above the id: the only one of these that can have it."""
    start, end = 0, len(blocks)
    while end - start > 1:
        middle = (start + end) // 2
        if sealed.first_key(blocks[middle].number) <= id_key:
            start = middle
        else:
            end = middle
    return blocks[start]
