"""The check of a whole store: every byte read, every id looked up both ways, every count made again.

Reads only, repairs nothing, and goes on behind damage, so that the report says how much is lost and where. Memory
stays bounded: it goes block by block, in steps of some milliseconds between which others get the lock. Driven by Store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mynosql.batch import FLAG_STRAY
from mynosql.errors import StorageCorrupt, StorageError
from mynosql.idkey import id_hash
from mynosql.store import shard
from mynosql.store.files import Files
from mynosql.store.frames import JournalReader, parse_journal_name
from mynosql.store.index import BlockRow, Index, Segment, short_hash
from mynosql.store.journal import unpack_frame_content
from mynosql.store.memtable import Memtable
from mynosql.store.seal import OWED_NOTE, unpack_owed
from mynosql.store.sealed import Sealed
from mynosql.store.tally import Tally, entry_of_row, state_of_entry
from mynosql.store.types import CheckReport, Problem

PLACES_A_STEP = 4096
"""Index entries looked at between two chances for others to read and save."""
PROBLEMS_MAX = 1000
"""A report stays readable; the last problem then says that there are more."""


class Checker:
    """One check; use it once.

    It starts from what the index says now, not from what Store has taken over: a seal may have been committed and
    not be finished yet. One that is committed meanwhile makes a check worthless (is_overtaken): do another.
    """

    def __init__(
        self, files: Files, index: Index, sealed: Sealed, memtables: Sequence[Memtable], tally: Tally
    ) -> None:
        """memtables: whose rows count; tally: the counters that the full scan must come to."""
        self._files, self._index, self._sealed, self._memtables = files, index, sealed, memtables
        self._tally = tally
        self._problems: list[Problem] = []
        self._counted = Tally()
        self._live_slots = 0
        self._blocks = 0
        self._damaged_rows = 0
        self._index_path = files.path("index")
        self._journal_sealed = index.journal_sealed
        self._segments = index.segments()
        self._owed = unpack_owed(index.note(OWED_NOTE))

    @property
    def is_overtaken(self) -> bool:
        """The index has changed since the check began."""
        return self._index.journal_sealed != self._journal_sealed

    def run(self, progress: Callable[[int, int], None] | None) -> CheckReport:
        """Everything is checked in one go."""
        for done, total in self.steps():
            if progress is not None:
                progress(done, total)
        return self.report

    @property
    def report(self) -> CheckReport:
        """What was found."""
        return CheckReport(not self._problems, tuple(self._problems), self._counted.records, self._blocks)

    def steps(self) -> Iterator[tuple[int, int]]:
        """Everything is checked, a little from step to step: (bytes done, all). With the lock at each."""
        try:
            yield from self._steps(self._tally)
        except StorageCorrupt as error:  # what leads to everything else cannot be read on
            self._problem(error.path, error.offset, str(error), 0)

    def _steps(self, tally: Tally) -> Iterator[tuple[int, int]]:
        self._counted.delivered = tally.delivered
        for text in self._index.check():
            self._problem(self._index_path, None, f"the index is damaged: {text}", 0)
        shards: set[int] = set()
        total = sum(block.head_bytes + block.body_bytes for s in self._segments for block in self._blocks_of(s))
        done = 0
        seq_before = 0
        for segment in self._segments:
            if segment.seq_max:
                if segment.seq_min <= seq_before:
                    text = f"segment {segment.number} begins before its predecessor ends"
                    self._problem(self._index_path, None, text, 0)
                seq_before = segment.seq_max
            blocks = self._blocks_of(segment)
            for number in sorted({block.shard for block in blocks} - shards):
                shards.add(number)
                self._check_shard_header(number)
            for checked in self._check_segment(segment, blocks):
                done += checked
                yield done, total
        for _ in self._check_places():
            yield done, total
        for _ in self._check_journals():
            yield done, total
        self._check_counts(tally)

    def _blocks_of(self, segment: Segment) -> list[BlockRow]:
        return self._index.blocks_of(segment.number)

    def _check_shard_header(self, number: int) -> None:
        try:
            shard.check_file_header(self._files, number)
        except StorageCorrupt as error:
            self._problem(error.path, error.offset, str(error), 0)

    def _check_segment(self, segment: Segment, blocks: Sequence[BlockRow]) -> Iterator[int]:
        """The bytes of each block, once it is checked."""
        damaged_before = self._damaged_rows
        dead = owed = 0
        last_key = b""
        for block in blocks:
            try:
                head = shard.verify_block(self._files, block.ref)
            except StorageCorrupt as error:
                self._damaged_rows += block.row_count
                self._problem(error.path, error.offset, str(error), block.row_count)
                yield block.head_bytes + block.body_bytes
                continue
            self._blocks += 1
            rows = head.rows
            if rows.id_key(0) <= last_key:
                self._problem(self._path(block), block.offset, f"block {block.number}: ids are not in order", 0)
            last_key = rows.id_key(rows.count - 1)
            block_dead, block_owed = self._check_rows(block, head)
            dead += block_dead
            owed += block_owed
            yield block.head_bytes + block.body_bytes
        if self._damaged_rows == damaged_before:
            self._check_segment_sums(segment, blocks, dead, owed)

    def _check_rows(self, block: BlockRow, head: shard.BlockHead) -> tuple[int, int]:
        """Each row against the index and the filter; returns how many are dead, and how many are owed."""
        rows = head.rows
        dead = owed = missing = 0
        seqs: list[int] = []
        for slot in range(rows.count):
            entry = rows.entry(slot)
            id_key = entry.id_key
            if slot and id_key <= rows.id_key(slot - 1):
                self._problem(self._path(block), block.offset, f"block {block.number}: ids are not in order", 1)
            missing += not entry.held & 1 and not entry.leaves[0].deleted
            if not rows.flags(slot) & FLAG_STRAY:
                seqs.append(entry.seq)
                owed += entry.owed
            found = short_hash(id_hash(id_key))
            if not self._sealed.filter.might_contain(found):
                self._problem(self._files.path("filter"), None, f"the filter does not know {id_key!r}", 1)
            place = self._index.place(found)
            if place is None:
                self._problem(self._index_path, None, f"no place for {id_key!r} of block {block.number}", 1)
            elif not self._sealed.is_current(id_key, block.number, slot):
                dead += 1
            else:
                self._live_slots += 1
                if not any(id_key in memtable for memtable in self._memtables):
                    self._count(state_of_entry(entry), entry.owed and entry.seq > self._counted.delivered)
        if (min(seqs, default=0), max(seqs, default=0), missing) != (block.seq_min, block.seq_max, block.missing):
            text = f"block {block.number}: its seqs or missing bodies are not as indexed"
            self._problem(self._index_path, None, text, 0)
        return dead, owed

    def _check_segment_sums(self, segment: Segment, blocks: Sequence[BlockRow], dead: int, owed: int) -> None:
        name = f"segment {segment.number}"
        if (segment.block_first, segment.block_last) != (blocks[0].number, blocks[-1].number):
            self._problem(self._index_path, None, f"{name}: blocks are missing from the index", 0)
        if sum(block.row_count for block in blocks) != segment.row_count:
            self._problem(self._index_path, None, f"{name}: its blocks have another number of rows", 0)
        if dead != segment.dead:
            self._problem(self._index_path, None, f"{name}: {dead} rows are dead, the index says {segment.dead}", 0)
        if owed != self._owed.get(segment.number, 0):
            self._problem(self._index_path, None, f"{name}: {owed} rows are owed, the index says otherwise", 0)

    def _check_places(self) -> Iterator[None]:
        """Each live row has its place (checked above), so as many places as live rows: none leads nowhere."""
        if self._damaged_rows:
            return
        places = 0
        for number, found in enumerate(self._index.hashes()):
            places += 1 + len(self._index.twins(found))
            if number % PLACES_A_STEP == 0:
                yield
        if places != self._live_slots:
            self._problem(
                self._index_path, None, f"{places} places for {self._live_slots} live rows in the shards",
                abs(places - self._live_slots),
            )

    def _check_journals(self) -> Iterator[None]:
        for name in self._files.list():
            if parse_journal_name(name) is None:
                continue
            yield
            try:
                reader = JournalReader(self._files, name)
                for frame in reader:
                    try:
                        unpack_frame_content(frame.payload)
                    except ValueError as error:
                        self._problem(self._files.path(name), frame.offset, f"a frame cannot be read: {error}", 1)
            except StorageError as error:
                self._problem(self._files.path(name), None, str(error), 0)
                continue
            for offset in reader.flips:
                self._problem(self._files.path(name), offset, "one bit of a save is flipped", 0)
            for damage in reader.damages:
                if not damage.frames:
                    continue  # the file's header: no save was in it
                text = f"{damage.length} bytes with {damage.frames} saves cannot be read"
                self._problem(self._files.path(name), damage.offset, text, damage.frames)

    def _check_counts(self, tally: Tally) -> None:
        seen: set[bytes] = set()
        for memtable in reversed(self._memtables):
            for row in memtable.rows():
                if row.id_key not in seen:
                    self._count(state_of_entry(entry_of_row(row)), row.owed and row.seq > tally.delivered)
            seen |= memtable.kept.keys()
        if not self._damaged_rows and self._counted.counters() != tally.counters():
            self._problem(
                self._index_path, None, f"a full scan counts {self._counted.counters()}, kept is {tally.counters()}", 0
            )

    def _count(self, state: int, is_pending: bool) -> None:
        self._counted.counts[state] += 1
        self._counted.pending += is_pending

    def _path(self, block: BlockRow) -> str:
        return self._files.path(shard.shard_name(block.shard))

    def _problem(self, file: str, offset: int | None, what: str, records: int) -> None:
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(Problem(file, offset, what, records))
        elif len(self._problems) == PROBLEMS_MAX:
            self._problems.append(Problem(file, offset, "there is more damage than is listed here", 0))
