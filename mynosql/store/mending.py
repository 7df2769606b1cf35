"""What becomes of a damaged block where others may have what it held: given up, it can be fetched again.

Where the head can be read, the bodies that cannot are held no more. Where it cannot, nobody here knows what the block
held: its rows leave the index, as if they had never come. Reads every head once in that case: as long as a quarter of a
checkdb, under the lock. Driven by Store, which decides that there are others; see docs/DURABILITY.md, "Bit rot".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from mynosql.batch import FLAG_STRAY
from mynosql.errors import StorageCorrupt
from mynosql.row import Entry, Row, StaleBody
from mynosql.store import shard
from mynosql.store.files import Files
from mynosql.store.index import BlockRow, Commit, Index, Placed, Segment
from mynosql.store.rewriting import APPENDED_NOTE, pack_place
from mynosql.store.seal import OWED_NOTE, TALLY_NOTE, pack_owed
from mynosql.store.sealed import DROPPED_NOTE, Found, Sealed
from mynosql.store.tally import Tally, state_of_entry

_HASHES_AT_ONCE = 10_000


class Mended(NamedTuple):
    """What was given up."""

    id_keys: tuple[bytes, ...]
    """Known as before, but bodies of them are held no more."""
    rows_dropped: int
    """Rows that are not known any more."""


class Survey(NamedTuple):
    """All that is sealed but what lost blocks held."""

    tally: Tally
    owed: dict[int, int]
    orphans: list[Row]
    """Rows that brought bodies to a change in a lost block: they are to be changes themselves."""


class Mender:
    """Gives up what damage hit in one store."""

    def __init__(self, files: Files, index: Index, sealed: Sealed) -> None:
        self._files, self._index, self._sealed = files, index, sealed

    def blocks(self) -> tuple[list[BlockRow], list[BlockRow]]:
        """The damaged blocks that were met: those with a readable head, and those without."""
        readable: list[BlockRow] = []
        lost: list[BlockRow] = []
        for block in self._all_blocks():
            path = self._files.path(shard.shard_name(block.shard))
            end = block.offset + block.head_bytes + block.body_bytes
            if not any(found == path and block.offset <= at < end for found, at in self._sealed.damaged):
                continue
            try:
                shard.read_head(self._files, block.ref)
            except StorageCorrupt:
                lost.append(block)
            else:
                readable.append(block)
        return readable, lost

    def _all_blocks(self) -> Iterator[BlockRow]:
        for segment in self._sealed.segments:
            yield from self._index.blocks_of(segment.number)

    # Bodies

    def without_bodies(self, block: BlockRow, is_kept: Callable[[Entry], bool]) -> list[Row]:
        """Strays that say which bodies of the block are held no more. is_kept: nobody else has that entry's."""
        head = shard.read_head(self._files, block.ref)
        rows = []
        for slot in range(head.rows.count):
            entry = head.rows.entry(slot)
            if not self._sealed.is_current(entry.id_key, block.number, slot) or is_kept(entry):
                continue
            found = Found(head, slot)
            bodies = tuple(self._body(found, position) for position in range(len(entry.leaves)))
            stale = self._stale(found, entry)
            is_all = all(body is not None or not entry.held >> position & 1 or entry.leaves[position].deleted
                         for position, body in enumerate(bodies))
            if not is_all or (entry.stale is not None and stale is None):
                rows.append(Row(entry.id_key, entry.leaves, bodies, entry.seq, entry.owed, True, stale))
        return rows

    def _body(self, found: Found, position: int) -> bytes | None:
        try:
            return self._sealed.body(found, position)
        except StorageCorrupt:
            return None

    def _stale(self, found: Found, entry: Entry) -> StaleBody | None:
        try:
            body = None if entry.stale is None else self._sealed.stale_body(found)
        except StorageCorrupt:
            return None
        return None if body is None or entry.stale is None else StaleBody(entry.stale, body)

    # Heads

    def drop(self, lost: Sequence[BlockRow], tally: Tally) -> tuple[Mended, list[Row]]:
        """These blocks are in the index no more; tally counts what is left. Returns also the rows to put as changes.

        Nothing is unsealed. Raises StorageCorrupt when another head cannot be read: then nothing has changed.
        """
        numbers = {block.number for block in lost}
        survey = self._survey(numbers, {block.segment for block in lost}, tally)
        places, removed, twins_removed, live = self._places_in(numbers)
        segments: list[Segment] = []
        blocks: list[BlockRow] = []
        affected = {block.segment for block in lost}
        for segment in self._sealed.segments:
            if segment.number in affected:
                left = [block for block in self._index.blocks_of(segment.number) if block.number not in numbers]
                gone = [block for block in lost if block.segment == segment.number]
                if left:
                    segments.append(self._shrunk(segment, left, gone, live))
                    blocks += left
        last = max(block.shard for block in self._all_blocks())
        self._index.commit(Commit(
            segments_removed=sorted(affected), segments=segments, blocks=blocks, places=places,
            places_removed=removed, twins_removed=twins_removed,
            notes={
                DROPPED_NOTE: b"1", TALLY_NOTE: survey.tally.pack(), OWED_NOTE: pack_owed(survey.owed),
                APPENDED_NOTE: pack_place(last, self._files.size(shard.shard_name(last))),
            },
        ))
        self._sealed.segments = self._index.segments()
        self._sealed.has_dropped = True
        self._sealed.owed = survey.owed
        self._sealed.drop_caches()
        tally.counts, tally.pending = survey.tally.counts, survey.tally.pending
        return Mended((), sum(live.values())), survey.orphans

    def _places_in(self, numbers: set[int]) -> tuple[dict[int, int], list[int], list[Placed], dict[int, int]]:
        """Of these blocks: what takes the place of a hash, hashes without any, twins that go, live rows by block."""
        moved: dict[int, int] = {}
        removed: list[int] = []
        twins_removed: list[Placed] = []
        live = dict.fromkeys(numbers, 0)
        hashes = self._index.hashes()
        while batch := list(islice(hashes, _HASHES_AT_ONCE)):
            for found, place in self._index.places(batch).items():
                kept = []
                for candidate in (place, *self._index.twins(found)):
                    number = shard.block_of(candidate)
                    if number in numbers:
                        live[number] += 1
                    else:
                        kept.append(candidate)
                if len(kept) == 1 + len(self._index.twins(found)):
                    continue
                twins_removed += [Placed(found, twin) for twin in self._index.twins(found) if twin not in kept[1:]]
                if kept:
                    moved[found] = kept[0]
                else:
                    removed.append(found)
        return moved, removed, twins_removed, live

    def _shrunk(
        self, segment: Segment, left: Sequence[BlockRow], gone: Sequence[BlockRow], live: dict[int, int]
    ) -> Segment:
        first, last = (shard.read_head(self._files, block.ref).rows for block in (left[0], left[-1]))
        rows_gone = sum(block.row_count for block in gone)
        return segment._replace(
            first_key=first.id_key(0), last_key=last.id_key(last.count - 1), block_first=left[0].number,
            block_last=left[-1].number, row_count=segment.row_count - rows_gone,
            dead=segment.dead - (rows_gone - sum(live[block.number] for block in gone)),
        )

    def _survey(self, numbers: set[int], affected: set[int], before: Tally) -> Survey:
        tally = Tally()
        tally.delivered, tally.head_seq, tally.hlc_max = before.delivered, before.head_seq, before.hlc_max
        owed: dict[int, int] = {}
        orphans: list[Row] = []
        gaps = [self._gap(block) for block in self._all_blocks() if block.number in numbers]
        for block in self._all_blocks():
            if block.number in numbers:
                continue
            head = shard.read_head(self._files, block.ref)
            rows = head.rows
            for slot in range(rows.count):
                entry, is_stray = rows.entry(slot), bool(rows.flags(slot) & FLAG_STRAY)
                if entry.owed and not is_stray:
                    owed[block.segment] = owed.get(block.segment, 0) + 1
                if not self._sealed.is_current(entry.id_key, block.number, slot):
                    continue
                tally.counts[state_of_entry(entry)] += 1
                tally.pending += entry.owed and entry.seq > tally.delivered
                if is_stray and any(gap.has(entry) for gap in gaps):
                    found = Found(head, slot)
                    bodies = tuple(self._body(found, position) for position in range(len(entry.leaves)))
                    orphans.append(Row(
                        entry.id_key, entry.leaves, bodies, 0, entry.owed, False, self._stale(found, entry)
                    ))
        return Survey(tally, owed, orphans)

    def _gap(self, block: BlockRow) -> _Gap:
        """Which changes may have stood in the block: its seqs, and ids between those of its neighbours."""
        around = self._index.blocks_of(block.segment)
        position = next(place for place, found in enumerate(around) if found.number == block.number)
        low, high = b"", None
        for neighbour in reversed(around[:position]):
            try:
                rows = shard.read_head(self._files, neighbour.ref).rows
            except StorageCorrupt:
                continue
            low = rows.id_key(rows.count - 1)
            break
        for neighbour in around[position + 1 :]:
            try:
                high = shard.read_head(self._files, neighbour.ref).rows.id_key(0)
            except StorageCorrupt:
                continue
            break
        return _Gap(block.seq_min, block.seq_max, low, high)


class _Gap(NamedTuple):
    seq_min: int
    seq_max: int
    after: bytes
    before: bytes | None

    def has(self, entry: Entry) -> bool:
        return self.seq_min <= entry.seq <= self.seq_max and self.after < entry.id_key and (
            self.before is None or entry.id_key < self.before
        )
