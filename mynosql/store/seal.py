"""The heavy work of a store as jobs: fsync of the journals, and turning a frozen memtable into a sealed segment.

A job is made and finished under the store's lock; run() takes none, touches only what it was given, and may be
executed on another thread. The order in a seal is what keeps acknowledged rows through a power cut (DESIGN §4):
shard → fdatasync → directory fsync for a new file → index commit (synchronous FULL, notes inside) → and only then,
in Store.finish, the journal goes.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import NamedTuple

from mynosql.batch import FLAG_OWED, FLAG_STRAY, Flat, flat_row
from mynosql.errors import StorageCorrupt, StorageError, StorageFailed, StorageFull
from mynosql.idkey import id_hash
from mynosql.store import shard
from mynosql.store.files import Files
from mynosql.store.filter import FILE_NAME as FILTER_NAME
from mynosql.store.filter import Filter
from mynosql.store.frames import JournalWriter, journal_name
from mynosql.store.index import BlockRow, Commit, Index, Segment, short_hash
from mynosql.store.memtable import NO_HASH, Kept, Memtable
from mynosql.store.packed import HEAD_ROW_BYTES, extent_of, flat_of
from mynosql.store.placing import Placer, places_of
from mynosql.store.sorting import sort_in_steps
from mynosql.store.types import PackAll

SHARD_BYTES_MAX = 64 << 20
"""A shard that reached this gets no further segment: small enough to copy or rewrite, few enough to keep open."""
FILTER_GROWTH_MAX = 8
"""The filter's file is written anew when its ids grew by one part in this many: recovery reads the rest from heads."""
TALLY_NOTE = ".tally"
OWED_NOTE = ".owed"
_OWED_CHANGE = FLAG_OWED | FLAG_STRAY
_OWED = struct.Struct("<QQ")  # segment number, owed rows


class SyncJob:
    """fdatasync of every journal that holds frames not yet durable; makes the next journal where that is due soon."""

    def __init__(
        self, files: Files, journals: Sequence[JournalWriter], frames: int, seq: int, *, spare_number: int | None
    ) -> None:
        self.journals = journals
        self.frames = frames
        """The store's frame counter that is durable afterwards."""
        self.seq = seq
        """The head of the feed that is durable afterwards."""
        self.spare: JournalWriter | None = None
        """A journal for the next memtable: making it fsyncs the folder, for which no save should wait."""
        self._files = files
        self._spare_number = spare_number

    def run(self) -> None:
        """All of it is on the disk. Raises StorageFailed: no later flush can be trusted."""
        for journal in self.journals:
            journal.flush()
        if self._spare_number is not None:
            with contextlib.suppress(StorageError):  # the save that needs one tries again, and hears why not
                self.spare = new_journal(self._files, self._spare_number)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealPlan:
    """What a seal job is given: nothing in it changes while the job runs."""

    memtable: Memtable
    segment_number: int
    block_first: int
    shard_number: int
    """Where to append; made if missing."""
    preset: int
    """LZMA effort: 1 under load, 6 when there is time."""
    pack_all: PackAll
    segments: Sequence[Segment]
    owed: Mapping[int, int]
    rows_sealed: int
    """Rows in all segments so far."""
    filter_rows_saved: int
    """Rows in the segments that the filter's file covers."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a finished seal changed."""

    segment: Segment | None = None
    """None: there were notes only."""
    owed: int = 0
    dead: dict[int, int] = field(default_factory=dict)
    buried: dict[bytes, int] = field(default_factory=dict)
    """See placing.Placement."""
    shard_number: int = 0
    filter_rows_saved: int | None = None
    """None: the filter's file was left as it is."""
    contents: Sequence[bytes] = ()
    """What Memtable.load() gave."""


class _PackedRun(NamedTuple):
    block: shard.PackedBlock
    hashes: list[int]
    owed: int


class SealJob:
    """One memtable to one segment."""

    def __init__(self, files: Files, index: Index, filter: Filter, plan: SealPlan, block_bytes_max: int) -> None:
        self.plan = plan
        self.outcome: Outcome | None = None
        """Set once the commit is durable, even if run() raises after it."""
        self._files, self._index, self._filter = files, index, filter
        self._block_bytes_max = block_bytes_max
        self.shard_end: tuple[int, int] | None = None
        """Shard and the size it had before: where to cut it when the commit failed."""

    def run(self) -> None:
        """The segment is sealed and committed. Raises StorageFull (try again later), StorageFailed, StorageCorrupt."""
        plan = self.plan
        items = sort_in_steps(plan.memtable.kept.items(), itemgetter(0))
        outcome = Outcome(shard_number=plan.shard_number)
        blocks: list[BlockRow] = []
        hashes: list[int] = []
        if items:
            outcome.contents = plan.memtable.load()
            runs: list[_PackedRun] = plan.pack_all(
                partial(self._pack_run, items, outcome.contents), self._cut(items, outcome.contents)
            )
            blocks = self._write_shard([run.block for run in runs], outcome)
            hashes = list(chain.from_iterable([run.hashes for run in runs]))
            outcome.owed = sum([run.owed for run in runs])
        placer = Placer(self._index, self._filter, plan.segments, self._id_key)
        placed = placer.place(
            [id_key for id_key, _ in items], hashes, places_of(blocks), known_ids=plan.memtable.replaces.keys()
        )
        outcome.dead, outcome.buried = placed.dead, placed.buried
        segments = self._segment(items, blocks)
        if segments:
            outcome.segment = segments[0]
        # Before the commit: from then on the index may be asked for these ids, and the filter must not say no.
        self._filter.add_many(hashes)
        self._index.commit(Commit(
            segments=segments, blocks=blocks, places=placed.places, twins=placed.twins,
            twins_removed=placed.twins_removed, dead=placed.dead, notes=self._notes(outcome),
            journal_sealed=plan.memtable.journal_number,
        ))
        self.outcome = outcome
        self._maybe_save_filter(outcome)

    # The blocks

    def _cut(self, items: Sequence[tuple[bytes, Kept]], contents: Sequence[bytes]) -> list[tuple[int, slice]]:
        """Which items make which block, numbered."""
        packed_in = self.plan.memtable.packed_in
        extents: list[tuple[int, int]] = []
        for id_key, kept in items:
            if type(kept) is int:
                extents.append(extent_of(packed_in(contents, kept), len(id_key)))
            else:
                flat = flat_row(kept)  # type: ignore[arg-type]
                extents.append((len(flat[8]), HEAD_ROW_BYTES + len(id_key) // 2))
        return list(enumerate(shard.cut_blocks(extents, self._block_bytes_max), self.plan.block_first))

    def _pack_run(
        self, items: Sequence[tuple[bytes, Kept]], contents: Sequence[bytes], numbered: tuple[int, slice]
    ) -> _PackedRun:
        """One block. Runs on several threads at once: touches only what is frozen."""
        memtable = self.plan.memtable
        number, run = numbered
        rows: list[Flat] = []
        for id_key, kept in items[run]:
            if type(kept) is not int:
                rows.append(flat_row(kept))  # type: ignore[arg-type]
                continue
            try:
                rows.append(flat_of(memtable.packed_in(contents, kept), id_key))
            except ValueError as error:
                raise StorageFailed(
                    f"what was saved of {id_key!r} cannot be read from its journal again ({error}); check the disk, "
                    "then open the database again"
                ) from error
        owed = sum([row[1] & _OWED_CHANGE == FLAG_OWED for row in rows])
        block = shard.pack_block(
            rows, number=number, segment=self.plan.segment_number, preset=self.plan.preset
        )
        return _PackedRun(block, self._hashes(rows), owed)

    def _hashes(self, rows: Sequence[Flat]) -> list[int]:
        """The rows' short hashes: most are known since they were looked up to be saved."""
        first, known = self.plan.memtable.first_seq, self.plan.memtable.hashes
        hashes = []
        for row in rows:
            place = row[6] - first
            found = known[place] if 0 <= place < len(known) and not row[1] & FLAG_STRAY else NO_HASH
            hashes.append(short_hash(id_hash(row[0])) if found == NO_HASH else found)
        return hashes

    def _write_shard(self, packed: Sequence[shard.PackedBlock], outcome: Outcome) -> list[BlockRow]:
        plan, files = self.plan, self._files
        number = plan.shard_number
        file = files.open_append(shard.shard_name(number))
        try:
            if file.size >= SHARD_BYTES_MAX:
                file.close()
                number += 1
                file = files.open_append(shard.shard_name(number))
            outcome.shard_number = number
            start = file.size
            self.shard_end = (number, start)
            if not start:
                file.write(shard.pack_file_header(number))
            blocks = []
            for block in packed:
                offset = file.write(block.data)
                blocks.append(BlockRow(
                    block.number, plan.segment_number, number, offset, block.head_bytes, block.body_bytes,
                    block.row_count, block.seq_min, block.seq_max, block.missing,
                ))
            file.flush()
            if not start:
                files.sync_folder()
            return blocks
        finally:
            file.close()

    # The index

    def _segment(self, items: Sequence[tuple[bytes, Kept]], blocks: Sequence[BlockRow]) -> list[Segment]:
        if not blocks:
            return []
        with_seqs = [block for block in blocks if block.seq_max]
        return [Segment(
            self.plan.segment_number, items[0][0], items[-1][0],
            min((block.seq_min for block in with_seqs), default=0), max(block.seq_max for block in blocks),
            blocks[0].number, blocks[-1].number, len(items),
        )]

    def _id_key(self, place: int) -> bytes:
        """Asked for only when two ids have the same short hash: about once in a million."""
        block = self._index.block(shard.block_of(place))
        if block is None:
            raise StorageCorrupt(self._files.path("index"), None, f"block of place {place} is unknown; run checkdb")
        return shard.read_head(self._files, block.ref).rows.id_key(shard.slot_of(place))

    def _notes(self, outcome: Outcome) -> dict[str, bytes]:
        plan = self.plan
        owed = dict(plan.owed)
        if outcome.segment is not None and outcome.owed:
            owed[outcome.segment.number] = outcome.owed
        return {**plan.memtable.notes, TALLY_NOTE: plan.memtable.tally, OWED_NOTE: pack_owed(owed)}

    # The filter

    def _maybe_save_filter(self, outcome: Outcome) -> None:
        if outcome.segment is None:
            return
        rows = self.plan.rows_sealed + outcome.segment.row_count
        if (rows - self.plan.filter_rows_saved) * FILTER_GROWTH_MAX > rows:
            with contextlib.suppress(StorageFull):  # it can be made anew from the index
                save_filter(self._files, self._filter, outcome.segment.number)
                outcome.filter_rows_saved = rows


def new_journal(files: Files, number: int) -> JournalWriter:
    """Journal `number`, its name durable. Raises StorageFull, StorageFailed: no file is left behind."""
    try:
        return JournalWriter(files, number)
    except StorageError:
        with contextlib.suppress(StorageError):
            files.remove(journal_name(number))
        raise


def save_filter(files: Files, filter: Filter, last_segment: int) -> None:
    """The filter's file covers all segments up to last_segment; without it, or behind, opening takes longer."""
    files.write_atomic(FILTER_NAME, filter.pack(last_segment=last_segment))


def pack_owed(owed: Mapping[int, int]) -> bytes:
    """The note that says how many owed rows each segment got."""
    return b"".join(_OWED.pack(number, count) for number, count in sorted(owed.items()))


def unpack_owed(data: bytes) -> dict[int, int]:
    """Raises ValueError when it is not what pack_owed made."""
    if len(data) % _OWED.size:
        raise ValueError(f"{len(data)} bytes of owed counts")
    return dict(_OWED.iter_unpack(data))
