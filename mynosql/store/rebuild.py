"""An index made anew from the shards: their blocks carry ids, revisions and seqs, so no record is lost with an index.

Reads every head once and counts once more at the end; needs as long as checkdb. What journals still hold is left to
them. Driven by opening.open_store() when the index is missing, damaged or an old copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mynosql.batch import FLAG_STRAY
from mynosql.errors import StorageCorrupt
from mynosql.idkey import id_hash
from mynosql.store import shard
from mynosql.store.cache import Cache, memory_of
from mynosql.store.files import Files
from mynosql.store.filter import FILE_NAME as FILTER_NAME
from mynosql.store.filter import Filter
from mynosql.store.frames import JournalReader, parse_journal_name
from mynosql.store.index import BlockRow, Commit, Index, Segment, short_hash
from mynosql.store.journal import unpack_frame_content
from mynosql.store.placing import Placer, places_of
from mynosql.store.rewriting import APPENDED_NOTE, DAMAGED_NOTE, RewriteJob, RewritePlan, pack_numbers, pack_place
from mynosql.store.seal import OWED_NOTE, TALLY_NOTE, pack_owed
from mynosql.store.sealed import Sealed
from mynosql.store.searching import find_blocks
from mynosql.store.shard import BlockHead, BlockRef
from mynosql.store.tally import Tally, state_of_entry
from mynosql.store.types import Problem, StoreOptions

REBUILDING_NOTE = ".rebuilding"
"""Stands in an index that is not complete yet."""
_HEADS_BYTES = 16 << 20


class _Block(NamedTuple):
    """One block that was found, reduced to what the index keeps of it."""

    ref: BlockRef
    segment: int
    """The segment that it was written for."""
    id_keys: list[bytes]
    seq_min: int
    seq_max: int
    missing: int
    owed: int


class Rebuilder:
    """One rebuilding; use it once, on an empty index."""

    def __init__(self, files: Files, index: Index, progress: Callable[[int, int], None] | None) -> None:
        self._files, self._index, self._progress = files, index, progress
        self.problems: list[Problem] = []
        self._damaged: set[int] = set()
        """Shards with bytes that cannot be read."""
        self._filter = Filter()
        self._segments: list[Segment] = []
        """In the order of the file, and numbered by it until all are known."""
        self._written_for: list[int] = []
        """The number that each of them was written under: a rewritten one has an old number."""
        self._owed: dict[int, int] = {}
        self._heads: Cache[int, BlockHead] = Cache(_HEADS_BYTES, memory_of)
        self._refs: dict[int, BlockRef] = {}
        self._open: list[_Block] = []

    def run(self, notes: Mapping[str, bytes], *, node: int | None) -> None:
        """The index knows all that the shards hold, and these notes. node: whose leaves count for hlc_max."""
        self._index.commit(Commit(notes={**notes, REBUILDING_NOTE: b"1"}))
        self._files.remove(FILTER_NAME)
        for ref, head in self._blocks_before(self._first_seq_in_journals()):
            self._add(_summary(ref, head))
        self._flush()
        self._number_by_age()
        self._join_overlapping()
        tally = self._count(node)
        self._index.commit(Commit(notes={
            TALLY_NOTE: tally.pack(), OWED_NOTE: pack_owed(self._owed), APPENDED_NOTE: self._scanned(),
            DAMAGED_NOTE: pack_numbers(self._damaged),
            REBUILDING_NOTE: b"",
        }))

    # What there is

    def _first_seq_in_journals(self) -> int | None:
        seqs: list[int] = []
        for name in self._files.list():
            if parse_journal_name(name) is not None:
                for frame in JournalReader(self._files, name):
                    rows = unpack_frame_content(frame.payload).rows
                    seqs += [row.seq for row in rows if not row.stray][:1]
        return min(seqs, default=None)

    def _blocks_before(self, first_seq: int | None) -> Iterator[tuple[BlockRef, BlockHead]]:
        """All readable blocks in order; those from first_seq on are cut off, since the journals have their rows."""
        names = self._files.list()
        numbers = sorted(number for name in names if (number := shard.parse_shard_name(name)) is not None)
        for position, number in enumerate(numbers):
            for ref, head in self._blocks_in(number):
                if first_seq is not None and any(head.rows.seq(slot) >= first_seq for slot in _changes(head)):
                    self._files.truncate(shard.shard_name(number), ref.offset)
                    for later in numbers[position + 1 :]:
                        self._files.remove(shard.shard_name(later))
                    return
                yield ref, head
            if self._progress is not None:
                self._progress(position + 1, 2 * len(numbers))

    def _blocks_in(self, number: int) -> Iterator[tuple[BlockRef, BlockHead]]:
        for found in find_blocks(self._files, number):
            if isinstance(found, StorageCorrupt):
                self.problems.append(Problem(found.path, found.offset, str(found), 0))
                self._damaged.add(number)
            else:
                yield found

    def _scanned(self) -> bytes:
        """Up to where the shards were read: damage behind the last sound block is no reason to do it again."""
        numbers = [number for name in self._files.list() if (number := shard.parse_shard_name(name)) is not None]
        last = max(numbers, default=0)
        return pack_place(last, self._files.size(shard.shard_name(last)) if numbers else 0)

    # Segments

    def _add(self, block: _Block) -> None:
        if self._open:
            last = self._open[-1]
            is_next = block.segment == last.segment and block.ref.shard == last.ref.shard
            if not is_next or block.ref.number <= last.ref.number or block.id_keys[0] <= last.id_keys[-1]:
                self._flush()
        self._open.append(block)
        self._refs[block.ref.number] = block.ref

    def _flush(self) -> None:
        """The blocks collected so far are a segment."""
        found, self._open = self._open, []
        if not found:
            return
        number = len(self._segments)
        blocks = [
            BlockRow(*block.ref[:1], number, *block.ref[1:], block.seq_min, block.seq_max, block.missing)
            for block in found
        ]
        id_keys = [id_key for block in found for id_key in block.id_keys]
        hashes = [short_hash(id_hash(id_key)) for id_key in id_keys]
        placed = Placer(self._index, self._filter, self._segments, self._id_key_at).place(
            id_keys, hashes, places_of(blocks), known_ids=frozenset()
        )
        segment = Segment(
            number, id_keys[0], id_keys[-1], min((block.seq_min for block in blocks if block.seq_max), default=0),
            max(block.seq_max for block in blocks), blocks[0].number, blocks[-1].number, len(id_keys),
        )
        self._filter.add_many(hashes)
        self._index.commit(Commit(
            segments=[segment], blocks=blocks, places=placed.places, twins=placed.twins,
            twins_removed=placed.twins_removed, dead=placed.dead,
        ))
        self._segments.append(segment)
        self._written_for.append(found[0].segment)
        owed = sum(block.owed for block in found)
        if owed:
            self._owed[number] = owed

    def _number_by_age(self) -> None:
        """The numbers follow the feed: what was rewritten stands late in the files."""
        found = self._index.segments()
        order = sorted(found, key=lambda segment: (self._written_for[segment.number], segment.number))
        if order == found:
            return
        blocks = []
        for number, segment in enumerate(order):
            blocks += [block._replace(segment=number) for block in self._index.blocks_of(segment.number)]
        self._owed = {
            number: self._owed[segment.number] for number, segment in enumerate(order) if segment.number in self._owed
        }
        self._index.commit(Commit(
            segments_removed=[segment.number for segment in found], blocks=blocks,
            segments=[segment._replace(number=number) for number, segment in enumerate(order)],
        ))

    def _join_overlapping(self) -> None:
        """What a rewriting copied in part stands beside its originals: they are made one segment, as the feed needs."""
        for group in _overlapping(self._index.segments()):
            job = RewriteJob(self._files, self._index, RewritePlan(
                group=group, segments=self._index.segments(), block_first=self._index.last_block + 1,
                shard_number=max(usage.shard for usage in self._index.usage()), preset=1, owed=self._owed,
                shards_kept=frozenset(usage.shard for usage in self._index.usage()) | self._damaged, pause=lambda: None,
            ), shard.BLOCK_BYTES_MAX)
            try:
                job.run()
                job.commit()
            except StorageCorrupt as error:
                self.problems.append(Problem(error.path, error.offset, str(error), 0))
                continue
            for segment in group:
                self._owed.pop(segment.number, None)
            if job.segment is not None and job.owed:
                self._owed[job.segment.number] = job.owed

    def _id_key_at(self, place: int) -> bytes:
        number = shard.block_of(place)
        head = self._heads.find(number)
        if head is None:
            head = shard.read_head(self._files, self._refs[number])
            self._heads.put(number, head)
        return head.rows.id_key(shard.slot_of(place))

    # Counters

    def _count(self, node: int | None) -> Tally:
        tally = Tally()
        sealed = Sealed(self._files, self._index, self._filter, StoreOptions())
        for position, segment in enumerate(sealed.segments):
            tally.head_seq = max(tally.head_seq, segment.seq_max)
            for block in self._index.blocks_of(segment.number):
                rows = shard.read_head(self._files, block.ref).rows
                for slot in range(rows.count):
                    entry = rows.entry(slot)
                    for leaf in entry.leaves:
                        if leaf.hlc > tally.hlc_max and node in (None, leaf.node):
                            tally.hlc_max = leaf.hlc
                    if not segment.dead or sealed.is_current(entry.id_key, block.number, slot):
                        tally.counts[state_of_entry(entry)] += 1
                        tally.pending += entry.owed
            if self._progress is not None:
                total = len(sealed.segments)
                self._progress(total + position + 1, 2 * total)
        return tally


def _overlapping(segments: Sequence[Segment]) -> list[tuple[Segment, ...]]:
    """Groups of neighbours whose stretches of the feed are not one behind the other."""
    spans: list[tuple[int, int, int, int]] = []  # lowest seq, highest seq, first and last position
    for position, segment in enumerate(segments):
        if not segment.seq_max:
            continue  # only bodies that came later: in no stretch
        low, high, first = segment.seq_min, segment.seq_max, position
        while spans and spans[-1][1] >= low:
            before = spans.pop()
            low, high, first = min(low, before[0]), max(high, before[1]), before[2]
        spans.append((low, high, first, position))
    return [tuple(segments[first : last + 1]) for _, _, first, last in spans if last > first]


def _changes(head: BlockHead) -> list[int]:
    """Slots of the rows that stand in the feed with their seq."""
    return [slot for slot in range(head.rows.count) if not head.rows.flags(slot) & FLAG_STRAY]


def _summary(ref: BlockRef, head: BlockHead) -> _Block:
    rows = head.rows
    entries = [rows.entry(slot) for slot in range(rows.count)]
    changes = [entries[slot] for slot in _changes(head)]
    seqs = [entry.seq for entry in changes]
    return _Block(
        ref, head.segment, [entry.id_key for entry in entries], min(seqs, default=0), max(seqs, default=0),
        sum(not entry.held & 1 and not entry.leaves[0].deleted for entry in entries),
        sum(entry.owed for entry in changes),
    )
