"""Writing a group of segments again as one: the rows that still count, in id order, read and packed block by block.

run() reads and appends without the store's lock; commit() is called under it, because afterwards the old blocks are
gone from the index, and nobody may be about to read them. The order that keeps every row through a power cut: a note
that says where the copy begins → shard → fdatasync → directory fsync for a new file → one index commit that takes
the new segment for the old ones → and only then do shard files go that nothing refers to. Driven by
compaction.py and sealer.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from operator import itemgetter
from typing import NamedTuple

from mynosql.batch import FLAG_OWED, FLAG_STRAY, Flat, Head, flat_row
from mynosql.idkey import id_hash
from mynosql.row import Leaves, Row
from mynosql.store import shard
from mynosql.store.cache import Cache, memory_of
from mynosql.store.files import AppendFile, Files
from mynosql.store.frames import parse_journal_name
from mynosql.store.index import BlockRow, Commit, Index, Placed, Segment, short_hash
from mynosql.store.packed import HEAD_ROW_BYTES
from mynosql.store.seal import OWED_NOTE, pack_owed
from mynosql.store.shard import BlockHead

REWRITING_NOTE = ".rewriting"
"""Shard and size from which on a copy is being appended that no commit knows yet."""
EMPTIED_NOTE = ".emptied"
"""Shards of which the last commit left nothing: their files may go."""
DAMAGED_NOTE = ".damaged"
"""Shards with bytes that an index made anew could not read: their files stay, whatever else becomes of them."""
APPENDED_NOTE = ".scanned"
"""Shard and size up to which the index has seen everything, sound or not."""
_PLACE = struct.Struct("<QQ")
_NUMBER = struct.Struct("<Q")
_HEADS_BYTES = 2 << 20


def pack_place(shard_number: int, size: int) -> bytes:
    """The value of REWRITING_NOTE and APPENDED_NOTE."""
    return _PLACE.pack(shard_number, size)


def unpack_place(data: bytes) -> tuple[int, int]:
    """Raises struct.error when it is not what pack_place made."""
    number, size = _PLACE.unpack(data)
    return number, size


def pack_numbers(numbers: Iterable[int]) -> bytes:
    """The value of EMPTIED_NOTE and DAMAGED_NOTE."""
    return b"".join(map(_NUMBER.pack, sorted(numbers)))


def unpack_numbers(data: bytes) -> list[int]:
    """Raises struct.error when it is not what pack_numbers made."""
    return [number for (number,) in _NUMBER.iter_unpack(data)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewritePlan:
    """What a rewriting is given: nothing in it changes while the job runs, and nothing else is committed meanwhile."""

    group: tuple[Segment, ...]
    """Neighbours, oldest first; (): nothing is copied, only the shard changes."""
    segments: Sequence[Segment]
    block_first: int
    shard_number: int
    preset: int
    owed: Mapping[int, int]
    shards_kept: frozenset[int]
    """Shards whose files stay, though nothing may be left in them."""
    pause: Callable[[], None]
    """Called after each block: others want the processor and the disk, too."""


class _Kept(NamedTuple):
    """A row that is written again."""

    row: Row
    hash: int
    place: int
    """Where it stood."""
    flat: Flat


class Moved(NamedTuple):
    """An entry that stood in a segment outside of the group."""

    id_key: bytes
    leaves: Leaves
    segment: int


class RewriteJob:
    """One group of segments to one segment, or to none when nothing of them counts any more."""

    def __init__(self, files: Files, index: Index, plan: RewritePlan, block_bytes_max: int) -> None:
        self.plan = plan
        self.shard_end: tuple[int, int] | None = None
        """Shard and the size it had before: where to cut it when there is no commit."""
        self.segment: Segment | None = None
        self.owed = 0
        self.dead: dict[int, int] = {}
        """Segment outside of the group → rows of it that died: their bodies stand where their changes do, now."""
        self.moved: list[Moved] = []
        """These rows, once committed."""
        self._files, self._index = files, index
        self._block_bytes_max = block_bytes_max
        self._brought: list[tuple[bytes, Leaves, int]] = []
        """Id key, leaves and old place of rows whose bodies a stray brought."""
        self._blocks: list[BlockRow] = []
        self._kept: list[tuple[int, int]] = []
        """Short hash and old place of each row, in the order of the new ones."""
        self._end = 0
        self._shards: set[int] = set()
        """All that there were when the job began."""
        self._heads: Cache[int, BlockHead] = Cache(_HEADS_BYTES, memory_of)

    def run(self) -> None:
        """The copy is on the disk; nothing refers to it. Raises StorageFull, StorageFailed, StorageCorrupt."""
        plan, files = self.plan, self._files
        name = shard.shard_name(plan.shard_number)
        names = files.list()
        is_new = name not in names
        self._shards = {number for found in names if (number := shard.parse_shard_name(found)) is not None}
        self._end = 0 if is_new else files.size(name)
        if not plan.group:
            return
        self._index.commit(Commit(notes={REWRITING_NOTE: pack_place(plan.shard_number, self._end)}))
        first_key = last_key = b""
        file: AppendFile | None = None
        try:
            for kept in self._cut():
                if file is None:
                    self.shard_end = (plan.shard_number, self._end)
                    file = files.open_append(name)
                    if not self._end:
                        file.write(shard.pack_file_header(plan.shard_number))
                    first_key = kept[0].row.id_key
                last_key = kept[-1].row.id_key
                self._append(file, kept)
                plan.pause()
            if file is None:
                return
            self._end = file.size
            file.flush()
        finally:
            if file is not None:
                file.close()
        if is_new:
            files.sync_folder()
        with_seqs = [block for block in self._blocks if block.seq_max]
        self.segment = Segment(
            plan.group[-1].number, first_key, last_key, min((block.seq_min for block in with_seqs), default=0),
            max(block.seq_max for block in self._blocks), self._blocks[0].number, self._blocks[-1].number,
            len(self._kept),
        )

    def commit(self) -> list[int]:
        """The new segment counts, the old ones are gone; returns shards of which nothing is left. Under the lock.

        Raises StorageFull (nothing changed), StorageFailed, StorageCorrupt.
        """
        plan, group = self.plan, self.plan.group
        numbers = {segment.number for segment in group}
        emptied = self._shards - {plan.shard_number} - plan.shards_kept
        emptied -= {usage.shard for usage in self._index.usage() if usage.segment not in numbers}
        if not group and not emptied:
            return []
        owed = {number: count for number, count in plan.owed.items() if number not in numbers}
        if self.segment is not None and self.owed:
            owed[self.segment.number] = self.owed
        places, twins, twins_removed = self._placed(numbers)
        for id_key, leaves, place in self._brought:
            number = self._segment_of(shard.block_of(place))
            if number not in numbers:
                self.moved.append(Moved(id_key, leaves, number))
        self._index.commit(Commit(
            segments=() if self.segment is None else (self.segment,), blocks=self._blocks, places=places, twins=twins,
            twins_removed=twins_removed, dead=self.dead, segments_removed=sorted(numbers), notes={
                OWED_NOTE: pack_owed(owed), REWRITING_NOTE: b"",
                APPENDED_NOTE: pack_place(plan.shard_number, self._end),
                EMPTIED_NOTE: pack_numbers(emptied),
            },
        ))
        return sorted(emptied)

    # Reading

    def _cut(self) -> Iterator[list[_Kept]]:
        """The rows of each new block."""
        waiting: list[_Kept] = []
        base = 0

        def extents() -> Iterator[tuple[int, int]]:
            for kept in self._rows():
                waiting.append(kept)
                yield len(kept.flat[8]), HEAD_ROW_BYTES + len(kept.row.id_key) // 2

        for run in shard.cut_blocks(extents(), self._block_bytes_max):
            count = run.stop - base
            yield waiting[:count]
            del waiting[:count]
            base = run.stop

    def _rows(self) -> Iterator[_Kept]:
        """What still counts of the group, each id once, in id order."""
        runs = [self._rows_of(segment) for segment in self.plan.group]
        last = b""
        for id_key, kept in merge(*runs, key=itemgetter(0)):
            if id_key != last:  # twice where an index made anew found the original of a copy
                yield kept
            last = id_key

    def _rows_of(self, segment: Segment) -> Iterator[tuple[bytes, _Kept]]:
        for block in self._index.blocks_of(segment.number):
            rows = shard.read_head(self._files, block.ref).rows
            rows.expand()
            raw: bytes | None = None
            hashes = [short_hash(id_hash(rows.id_key(slot))) for slot in range(rows.count)]
            now = self._index.places(hashes)
            for slot, found in enumerate(hashes):
                place = shard.place_of(block.number, slot)
                id_key, is_stray = rows.id_key(slot), bool(rows.flags(slot) & FLAG_STRAY)
                if now.get(found) == place or place in self._index.twins(found):
                    if is_stray and self._has_seq(rows.seq(slot)):
                        continue  # the row that stands at its seq is in the group, and takes its body
                    if raw is None and _has_bodies(rows, slot):
                        # Only now: bodies that are damaged do not matter once their rows were replaced.
                        raw = shard.read_raw(self._files, block.ref)[1]
                    row = rows.row(slot, raw)
                elif is_stray:
                    continue
                else:
                    brought = self._bodies_for(id_key, rows.seq(slot), now.get(found), found)
                    if brought is None:
                        continue
                    row, place = brought
                    self._brought.append((id_key, row.leaves, place))
                yield id_key, _Kept(row, found, place, flat_row(row))

    def _has_seq(self, seq: int) -> bool:
        return any(segment.seq_min <= seq <= segment.seq_max for segment in self.plan.group)

    def _bodies_for(self, id_key: bytes, seq: int, now: int | None, found: int) -> tuple[Row, int] | None:
        """The row with the bodies that a stray brought it, and the stray's place; None when it was replaced."""
        for place in () if now is None else (now, *self._index.twins(found)):
            number, slot = shard.block_of(place), shard.slot_of(place)
            head = self._heads.find(number)
            if head is None:
                block = self._index.block(number)
                if block is None:
                    continue
                head = shard.read_head(self._files, block.ref)
                self._heads.put(number, head)
            rows = head.rows
            if rows.id_key(slot) == id_key:
                if rows.seq(slot) != seq or not rows.flags(slot) & FLAG_STRAY:
                    return None
                raw = shard.read_raw(self._files, head.ref)[1] if _has_bodies(rows, slot) else None
                return rows.row(slot, raw)._replace(stray=False), place
        return None

    # Writing

    def _append(self, file: AppendFile, kept: Sequence[_Kept]) -> None:
        plan = self.plan
        number, segment = plan.block_first + len(self._blocks), plan.group[-1].number
        flats = [found.flat for found in kept]
        block = shard.pack_block(flats, number=number, segment=segment, preset=plan.preset)
        offset = file.write(block.data)
        self._blocks.append(BlockRow(
            number, segment, plan.shard_number, offset, block.head_bytes, block.body_bytes, block.row_count,
            block.seq_min, block.seq_max, block.missing,
        ))
        self._kept += [(found.hash, found.place) for found in kept]
        self.owed += sum([flat[1] & (FLAG_OWED | FLAG_STRAY) == FLAG_OWED for flat in flats])

    def _placed(self, numbers: set[int]) -> tuple[dict[int, int], list[Placed], list[Placed]]:
        """Places, twins, and twins removed; counts the rows that die in segments outside of the group."""
        new_places = [
            shard.place_of(block.number, slot) for block in self._blocks for slot in range(block.row_count)
        ]
        places: dict[int, int] = {}
        twins: list[Placed] = []
        twins_removed: list[Placed] = []
        firsts = self._index.places([found for found, _ in self._kept])
        for (found, old), new in zip(self._kept, new_places, strict=True):
            if firsts.get(found) == old:
                places[found] = new
            else:
                twins_removed.append(Placed(found, old))
                twins.append(Placed(found, new))
            number = self._segment_of(shard.block_of(old))
            if number not in numbers:
                self.dead[number] = self.dead.get(number, 0) + 1
        return dict(sorted(places.items())), twins, twins_removed

    def _segment_of(self, block_number: int) -> int:
        for segment in self.plan.segments:
            if segment.block_first <= block_number <= segment.block_last:
                return segment.number
        raise AssertionError(f"block {block_number} is of no segment")


def _has_bodies(rows: Head, slot: int) -> bool:
    """The block carries a body of the row."""
    if rows.stale_span(slot) is not None:
        return True
    return any(rows.body_span(slot, place) is not None for place in range(len(rows.leaves(slot))))


def sealed_journals(files: Files, journal_sealed: int) -> list[str]:
    """Journals left that are sealed already: an index made anew would believe them and cut off what is newer."""
    numbers = {name: parse_journal_name(name) for name in files.list()}
    return [name for name, number in numbers.items() if number is not None and number <= journal_sealed]
