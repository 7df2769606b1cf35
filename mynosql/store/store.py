"""One database's records on this disk: saved, found, read, listed and fed in order; sealed and recovered.

Joins journal, memtables, caches and sealed segments under the rules of DESIGN §4. Single-threaded: the caller holds
one lock around every method; only Job.run() goes without it. No thread, no clock, no network: `now` is given.
Driven by ledger.Ledger and replica.Replica, its jobs by workers.Workers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

from mynosql.errors import StorageCorrupt, StorageError, StorageFailed, StorageFull
from mynosql.row import Entry, Row
from mynosql.store import recovery
from mynosql.store.cache import Cache
from mynosql.store.check import Checker
from mynosql.store.feeds import Feed
from mynosql.store.files import Files
from mynosql.store.frames import JournalWriter, journal_name
from mynosql.store.index import Index
from mynosql.store.journal import check_note, pack_frame_content, pack_row
from mynosql.store.memtable import Memtable
from mynosql.store.scan import scan
from mynosql.store.seal import Outcome, SealJob, SealPlan, SyncJob, save_filter
from mynosql.store.sealed import Sealed
from mynosql.store.shard import BLOCK_BYTES_MAX, shard_name
from mynosql.store.tally import HELD, LIVE, Tally, entry_of_row
from mynosql.store.types import CheckReport, Counters, FeedSlice, Problem, StoreOptions

DELIVERED_NOTE = "delivered"
OWN_NOTES_PREFIX = "."
"""Notes of the store itself; callers neither see nor write them."""
PRESET_BUSY, PRESET_IDLE = 1, 6
"""LZMA efforts: 6 takes five times as long for a tenth fewer bytes, so only when nobody writes (MEASURED.md)."""
ABSENT_MAX = 4096
"""Ids remembered as unknown between two writes."""
CACHED_OVERHEAD_BYTES = 700
"""What a cached record costs beside its body: key, entry, leaf and the dict's slot in CPython."""

_new_row = partial(tuple.__new__, Row)


class Job(Protocol):
    """Heavy work: run() without the lock, then always Store.finish(job, error) under it."""

    def run(self) -> None:
        """Raises StorageFull, StorageFailed or StorageCorrupt; hand what it raised to finish()."""
        ...


class Store:
    """The records of one open database. Made by Store.open()."""

    def __init__(self, files: Files, index: Index, options: StoreOptions, sealed: Sealed, node: int | None) -> None:
        self.node = node
        """Our node id: hlc_max counts the leaves that it wrote. None: of all nodes."""
        self.head_seq = 0
        """The highest seq given out."""
        self.durable_seq = 0
        """Rows up to this seq survive a power cut."""
        self.written = 0
        """Frames written since opening."""
        self.durable = 0
        """Frames of these that survive a power cut; what they said may leave the node."""
        self.read_only_reason: str | None = None
        """Why nothing can be written any more until the next opening; None: it can."""
        self._files = files
        self._index = index
        self._options = options
        self._sealed = sealed
        self._feed = Feed(sealed)
        self._tally = Tally()
        self._notes: dict[str, bytes] = {}
        self._active = Memtable(1)
        self._frozen: list[Memtable] = []
        self._records: Cache[bytes, tuple[Entry, bytes | None]] = Cache(options.cache_bytes_max)
        self._entries: Cache[bytes, Entry] = Cache(options.entry_cache_count_max)
        self._absent: set[bytes] = set()
        self._next_journal = 0
        self._shard_number = 0
        self._filter_rows_saved = 0
        self._seal: SealJob | None = None
        self._seal_error: StorageFull | None = None
        self._syncs: list[SyncJob] = []
        self._retired: list[JournalWriter] = []
        self._idle_since: float | None = None
        self._idle_written = -1
        self._is_closed = False

    @classmethod
    def open(
        cls, files: Files, index: Index, options: StoreOptions | None = None, *, node: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Store:
        """Everything acknowledged before is there: sealed segments, and the journals of a killed process replayed.

        node: our node id, see Store.node. progress(done, total): journals replayed.
        Raises StorageCorrupt when the index and the shards cannot belong together, FormatUnknown, StorageFailed.
        Nothing is loaded per record.
        """
        options = options or StoreOptions()
        sealed, state = recovery.open_sealed(files, index, options)
        store = cls(files, index, options, sealed, node)
        store._tally = state.tally
        store._notes = state.notes
        store._shard_number = state.shard_number
        store._filter_rows_saved = state.filter_rows_saved
        store.head_seq = state.tally.head_seq
        store._active = Memtable(store.head_seq + 1)
        store._next_journal = recovery.replay(store, files, index, progress)
        store.durable_seq = store.head_seq
        return store

    # Reading one record

    def find(self, id_key: bytes) -> Entry | None:
        """What is known of the id, None when it never was. Raises StorageCorrupt when its block is damaged."""
        row = self._active.rows.get(id_key)
        if row is not None:
            return entry_of_row(row)
        hit = self._records.young.get(id_key)
        if hit is not None:
            return hit[0][0]
        if self._frozen:
            row = self._frozen_row(id_key)
            if row is not None:
                return entry_of_row(row)
        return self._find_sealed(id_key)

    def _frozen_row(self, id_key: bytes) -> Row | None:
        for memtable in reversed(self._frozen):
            row = memtable.rows.get(id_key)
            if row is not None:
                return row
        return None

    def _find_sealed(self, id_key: bytes) -> Entry | None:
        if id_key in self._absent:
            return None
        entry = self._entries.find(id_key)
        if entry is not None:
            return entry
        found = self._sealed.locate(id_key)
        if found is None:
            # Cleared by every write; a save asks twice, first whether the id is known, then to count it.
            if len(self._absent) >= ABSENT_MAX:
                self._absent.clear()
            self._absent.add(id_key)
            return None
        entry = self._sealed.entry(found)
        self._entries.put(id_key, entry, 1)
        return entry

    def read(self, id_key: bytes) -> tuple[Entry, bytes | None] | None:
        """The entry and the winner's packed body (None: deleted, or not held); None when the id is unknown.

        Raises StorageCorrupt when its block is damaged or the body is not the one that its leaf names.
        """
        hit = self._records.young.get(id_key)
        if hit is not None:
            return hit[0]
        return self._read_uncached(id_key)

    def _read_uncached(self, id_key: bytes) -> tuple[Entry, bytes | None] | None:
        cached = self._records.find(id_key)
        if cached is not None:
            return cached
        row = self._active.rows.get(id_key) or self._frozen_row(id_key)
        if row is not None:
            record = (entry_of_row(row), row.bodies[0])
        else:
            if id_key in self._absent:
                return None
            found = self._sealed.locate(id_key)
            if found is None:
                return None
            record = (self._sealed.entry(found), self._sealed.body(found))
        body = record[1]
        self._records.put(id_key, record, CACHED_OVERHEAD_BYTES + len(id_key) + (len(body) if body else 0))
        return record

    def read_body(self, id_key: bytes, leaf_position: int) -> bytes | None:
        """The packed body of leaves[leaf_position], None when it is deleted, not held or the id is unknown."""
        row = self._active.rows.get(id_key) or self._frozen_row(id_key)
        if row is not None:
            return row.bodies[leaf_position]
        found = self._sealed.locate(id_key)
        return None if found is None else self._sealed.body(found, leaf_position)

    def read_stale(self, id_key: bytes) -> bytes | None:
        """The body of the superseded revision entry.stale, None when none is held."""
        row = self._active.rows.get(id_key) or self._frozen_row(id_key)
        if row is not None:
            return None if row.stale is None else row.stale.body
        found = self._sealed.locate(id_key)
        return None if found is None else self._sealed.stale_body(found)

    def read_piece(self, id_key: bytes, leaf_position: int, offset: int, length: int) -> bytes | None:
        """A part of a leaf's body, shorter where the body ends; None when it is not held.

        Only the touched pieces of a large body are read, so the digest of the whole cannot be checked here.
        """
        row = self._active.rows.get(id_key) or self._frozen_row(id_key)
        if row is not None:
            body = row.bodies[leaf_position]
            return None if body is None else body[offset : offset + length]
        found = self._sealed.locate(id_key)
        return None if found is None else self._sealed.piece(found, leaf_position, offset, length)

    def find_hashes(self, id_hashes: Iterable[int]) -> dict[int, Entry]:
        """Entries by full id hash (idkey.id_hash); hashes that no id here has are left out."""
        memtables = [self._active, *reversed(self._frozen)]
        entries: dict[int, Entry] = {}
        for full_hash in id_hashes:
            row = next((row for memtable in memtables if (row := memtable.find_hash(full_hash)) is not None), None)
            entry = self._sealed.find_hash(full_hash) if row is None else entry_of_row(row)
            if entry is not None:
                entries[full_hash] = entry
        return entries

    # Reading many

    def feed(
        self, after_seq: int, *, until_seq: int | None = None, bytes_max: int, bodies: bool, body_bytes_max: int,
        owed_only: bool = False, low: bytes = b"", high: bytes | None = None,
    ) -> FeedSlice:
        """Rows with after_seq < seq <= until_seq (None: the head) in seq order, each id only at its newest seq.

        bytes_max: stop before more (one row always fits); bodies: with those up to body_bytes_max each, else none;
        owed_only: rows that this node owes to others; low, high: ids with low <= id key < high. Rows come without
        their stale body and never as strays. last_seq is the point reached, also when nothing matched.
        """
        head = self.head_seq
        return self._feed.slice(
            [*self._frozen, self._active], after_seq, until_seq=head if until_seq is None else min(until_seq, head),
            bytes_max=bytes_max, body_bytes_max=body_bytes_max if bodies else -1, owed_only=owed_only,
            low=low, high=high,
        )

    def entries(self, low: bytes, high: bytes | None, *, live_only: bool, limit: int) -> list[Entry]:
        """The first `limit` entries with low <= id key < high (None: to the end) in id-key order.

        Go on with low = the last id key + b"\\0". No body is read.
        """
        entries: list[Entry] = []
        if limit > 0:
            for entry in scan(self._sealed, [*self._frozen, self._active], low, high):
                if not live_only or not entry.leaves[0].deleted:
                    entries.append(entry)
                    if len(entries) == limit:
                        break
        return entries

    def missing(self, after_key: bytes, limit: int) -> list[Entry]:
        """The first `limit` live entries behind after_key (b"": from the start) whose winner's body is not held."""
        entries: list[Entry] = []
        if limit > 0 and self.counters.missing:
            low = after_key + b"\0" if after_key else b""
            for entry in scan(self._sealed, [*self._frozen, self._active], low, None, missing_only=True):
                entries.append(entry)
                if len(entries) == limit:
                    break
        return entries

    @property
    def records(self) -> int:
        """Live ids."""
        return self._tally.records

    @property
    def counters(self) -> Counters:
        """Ids by state, exact and in constant time."""
        return self._tally.counters()

    @property
    def hlc_max(self) -> int:
        """The highest clock value that this node gave to a revision: where its clock must go on."""
        return self._tally.hlc_max

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Damage met so far while recovering and reading; check() finds all of it."""
        return tuple(self._sealed.problems)

    def note_problem(self, problem: Problem) -> None:
        """Damage was met."""
        self._sealed.problems.append(problem)

    def note(self, key: str) -> bytes:
        """The note's value, b"" when there is none."""
        return self._notes.get(key, b"")

    def notes(self, prefix: str = "") -> dict[str, bytes]:
        """All notes whose key starts with prefix."""
        return {key: value for key, value in self._notes.items() if key.startswith(prefix)}

    # Writing

    def put_one(self, row: Row) -> int:
        """The row is its id's newest state, in memory and in the journal; returns its seq.

        row.seq is 0 (the next seq is given), or for a stray that of the change whose bodies it brings. Survives
        kill -9 as it returns, a power cut once `durable` has reached `written`. Raises StorageFull or StorageFailed:
        neither memory nor file has changed.
        """
        active = self._writable()
        id_key, leaves, bodies, seq, owed, stray, stale = row
        old = active.rows.get(id_key)
        is_outside = False
        known: Row | Entry | None = old
        if old is None:
            known = self._frozen_row(id_key) or self._find_sealed(id_key) if self._frozen else self._find_sealed(id_key)
            is_outside = known is not None
        if not stray:
            seq = self.head_seq + 1
            row = _new_row((id_key, leaves, bodies, seq, owed, False, stale))
        elif known is None or known.seq != seq:
            raise _stray_error(row, known)
        self._append(active, pack_row(row))
        self._absorb(row, known, is_outside)
        return seq

    def put(self, rows: Sequence[Row], *, notes: Mapping[str, bytes] | None = None) -> None:
        """All rows are the newest state of their ids and all notes have their values (b"": gone), or nothing changed.

        One journal frame; what put_one says of a row holds for each. The note "delivered" (a seq in ASCII decimal)
        says up to where owed rows have been confirmed by another node; counters.pending follows it.
        """
        notes = notes or {}
        for key, value in notes.items():
            check_note(key, value)
            if key.startswith(OWN_NOTES_PREFIX):
                raise ValueError(f"note {key!r}: keys that start with '.' are the store's own; choose another")
        if not rows and not notes:
            return
        active = self._writable()
        numbered = self._numbered(rows)
        knowns = self._known_before(numbered)
        passed = self._delivery(notes)
        self._append(active, pack_frame_content(numbered, notes))
        self._absorb_notes(notes, passed)
        for row, (known, is_outside) in zip(numbered, knowns, strict=True):
            self._absorb(row, known, is_outside)

    def _writable(self) -> Memtable:
        if self.read_only_reason is not None or self._is_closed:
            raise StorageFailed(
                f"nothing can be saved: {self.read_only_reason or 'the store is closed'}; open the database again"
            )
        if self._seal_error is not None and self.pressure >= 1.0:
            raise StorageFull(str(self._seal_error)) from self._seal_error
        if self._active.size_bytes >= self._options.memtable_bytes_max:
            self._freeze()
        return self._active

    def _known_before(self, rows: Sequence[Row]) -> list[tuple[Row | Entry | None, bool]]:
        """Per row what was known of its id, and whether that stands outside the active memtable."""
        active = self._active.rows
        found: list[tuple[Row | Entry | None, bool]] = []
        earlier: dict[bytes, Row] = {}
        for row in rows:
            id_key = row.id_key
            known: Row | Entry | None = earlier.get(id_key) or active.get(id_key)
            is_outside = False
            if known is None:
                known = self._frozen_row(id_key) or self._find_sealed(id_key)
                is_outside = known is not None
            if row.stray and (known is None or known.seq != row.seq):
                raise _stray_error(row, known)
            found.append((known, is_outside))
            earlier[id_key] = row
        return found

    def _numbered(self, rows: Sequence[Row]) -> list[Row]:
        seq = self.head_seq
        numbered = []
        for row in rows:
            if not row.stray:
                seq += 1
                row = _new_row((row.id_key, row.leaves, row.bodies, seq, row.owed, False, row.stale))
            numbered.append(row)
        return numbered

    def _delivery(self, notes: Mapping[str, bytes]) -> tuple[int, int] | None:
        """The value that the note "delivered" gets, and by how many ids `pending` changes with it."""
        if DELIVERED_NOTE not in notes:
            return None
        value = notes[DELIVERED_NOTE]
        seq = int(value) if value else 0
        low, high = sorted((seq, self._tally.delivered))
        owed = self._feed.count_owed([*self._frozen, self._active], low, high) if high > low else 0
        return seq, owed if seq < self._tally.delivered else -owed

    def _absorb_notes(self, notes: Mapping[str, bytes], passed: tuple[int, int] | None) -> None:
        if passed is not None:
            self._tally.delivered = passed[0]
            self._tally.pending += passed[1]
        for key, value in notes.items():
            if value:
                self._notes[key] = value
            else:
                self._notes.pop(key, None)
        self._active.notes.update(notes)

    def _absorb(self, row: Row, known: Row | Entry | None, is_outside: bool) -> None:
        """Memory follows what the journal holds now."""
        id_key = row.id_key
        if self._absent:
            self._absent.clear()
        tally = self._tally
        if known is None and len(row.leaves) == 1 and row.bodies[0] is not None:
            tally.counts[LIVE | HELD] += 1
            if row.owed and row.seq > tally.delivered:
                tally.pending += 1
        else:
            tally.replace(known, row)
            self._records.drop(id_key)
            self._entries.drop(id_key)
            if is_outside:
                self._active.replaces.add(id_key)
        self._active.insert(row)
        if not row.stray:
            self.head_seq = row.seq
        for leaf in row.leaves:
            if leaf.hlc > tally.hlc_max and (leaf.node == self.node or self.node is None):
                tally.hlc_max = leaf.hlc

    # Recovery (recovery.py drives it)

    def replay_frame(self, rows: Sequence[Row], notes: Mapping[str, bytes]) -> None:
        """What a frame of an earlier run says is in memory again. Rows that are there already change nothing."""
        self._absorb_notes(notes, self._delivery(notes))
        for row in rows:
            id_key = row.id_key
            known: Row | Entry | None = self._active.rows.get(id_key)
            is_outside = known is None
            try:
                known = known or self._frozen_row(id_key) or self._find_sealed(id_key)
            except StorageCorrupt as error:
                self._sealed.note_problem(error)
            if row.stray:
                if known is None or known.seq != row.seq:
                    continue  # its change was lost with a damaged journal, and comes again with its bodies
            elif row.seq <= self.head_seq:
                continue
            elif row.seq > self._active.last_seq + 1:
                self._active.skip_to(row.seq)
            self._absorb(row, known, is_outside and known is not None)

    def end_replayed_journal(self, number: int) -> None:
        """The journal's rows are in memory; it goes when they are sealed."""
        self._active.replayed.append(number)
        if self._active.size_bytes >= self._options.memtable_bytes_max:
            self._freeze()

    def _append(self, active: Memtable, payload: bytes) -> None:
        try:
            journal = active.journal
            if journal is None:
                # A number is never used twice: what a failed attempt left under it must not be added to.
                number, self._next_journal = self._next_journal, self._next_journal + 1
                journal = active.journal = JournalWriter(self._files, number)
            journal.append(payload)
        except StorageFailed as error:
            self._fail(error)
            raise
        self.written = active.frames = self.written + 1

    # Durability

    def sync_job(self) -> SyncJob | None:
        """A job after which everything written so far is durable; None when it is already."""
        if self.durable >= self.written or self.read_only_reason is not None:
            return None
        memtables = [memtable for memtable in (*self._frozen, self._active) if memtable.frames > self.durable]
        job = SyncJob([table.journal for table in memtables if table.journal], self.written, self.head_seq)
        self._syncs.append(job)
        return job

    @property
    def pressure(self) -> float:
        """Unsealed bytes as a share of what is allowed: slow down writers above 0.5, stop them at 1.0."""
        size = self._active.size_bytes
        for memtable in self._frozen:
            size += memtable.size_bytes
        return size / self._options.unsealed_bytes_max

    @property
    def is_seal_due(self) -> bool:
        """A full memtable waits and no seal job is under way."""
        is_full = bool(self._frozen) or self._active.size_bytes >= self._options.memtable_bytes_max
        return is_full and self._seal is None and self.read_only_reason is None

    def next_due(self, now: float) -> float | None:
        """When seal_job() is worth calling, now or later; None: not before something is written."""
        if self.read_only_reason is not None or self._seal is not None:
            return None
        if self.is_seal_due:
            return now
        if self._active.is_empty:
            return None
        return self._idle_from(now) + self._options.idle_seal_s

    def _idle_from(self, now: float) -> float:
        if self._idle_since is None or self._idle_written != self.written:
            self._idle_since, self._idle_written = now, self.written
        return self._idle_since

    def seal_job(self, now: float, *, force: bool = False) -> SealJob | None:
        """A job that seals the oldest full memtable, or the active one when it is idle or force is given.

        None: nothing is due, or a seal is under way. Raises nothing.
        """
        if self._seal is not None or self.read_only_reason is not None:
            return None
        is_idle = not self._active.is_empty and now >= self._idle_from(now) + self._options.idle_seal_s
        if is_idle:
            self.drop_caches()
        if not self._frozen:
            is_full = self._active.size_bytes >= self._options.memtable_bytes_max
            if self._active.is_empty or not (force or is_full or is_idle):
                return None
            self._freeze()
        index, segments = self._index, self._sealed.segments
        self._seal = SealJob(self._files, index, self._sealed.filter, SealPlan(
            memtable=self._frozen[0], segment_number=index.last_segment + 1, block_first=index.last_block + 1,
            shard_number=self._shard_number, preset=PRESET_IDLE if is_idle else PRESET_BUSY,
            segments=tuple(segments), owed=dict(self._sealed.owed),
            rows_sealed=sum(segment.row_count for segment in segments), filter_rows_saved=self._filter_rows_saved,
        ), BLOCK_BYTES_MAX)
        return self._seal

    def _freeze(self) -> None:
        self._tally.head_seq = self.head_seq
        self._active.tally = self._tally.pack()
        self._frozen.append(self._active)
        self._active = Memtable(self.head_seq + 1)
        self._active.frames = self.written

    def finish(self, job: Job, error: BaseException | None = None) -> None:
        """What the job did counts from now on. error: what its run() raised, None when it did not.

        A failed seal loses nothing: after StorageFull ask seal_job() again when there may be space. Any other failure
        makes the store read-only: what the kernel lost once, a second fsync reports as written.
        """
        if isinstance(job, SyncJob):
            self._finish_sync(job, error)
        elif isinstance(job, SealJob):
            self._finish_seal(job, error)

    def _finish_sync(self, job: SyncJob, error: BaseException | None) -> None:
        self._syncs.remove(job)
        if error is None:
            self._advance(job.frames, job.seq)
        else:
            self._fail(error)
        self._drop_retired()

    def _finish_seal(self, job: SealJob, error: BaseException | None) -> None:
        self._seal = None
        outcome = job.outcome
        if outcome is None:
            self._give_space_back(job)
            if isinstance(error, StorageFull):
                self._seal_error = error
            elif error is not None:
                self._fail(error)
            return
        self._seal_error = None
        self._swap(job.plan.memtable, outcome)
        if error is not None:
            self._fail(error)

    def _swap(self, memtable: Memtable, outcome: Outcome) -> None:
        self._sealed.add_segment(outcome.segment, outcome.owed, outcome.dead)
        self._feed.on_sealed(memtable, outcome.segment, tuple(outcome.dead))
        self._shard_number = outcome.shard_number
        if outcome.filter_rows_saved is not None:
            self._filter_rows_saved = outcome.filter_rows_saved
        self._frozen.remove(memtable)
        self._advance(memtable.frames, memtable.last_seq)
        for number in memtable.replayed:
            self._remove_sealed_journal(journal_name(number))
        if memtable.journal is not None:
            self._retired.append(memtable.journal)
        self._drop_retired()

    def _give_space_back(self, job: SealJob) -> None:
        """What a failed seal appended is referred to by nothing, unless its commit got through after all."""
        if job.shard_end is None or self._index.last_segment >= job.plan.segment_number:
            return
        number, size = job.shard_end
        try:
            if size:
                self._files.truncate(shard_name(number), size)
            else:
                self._files.remove(shard_name(number))
        except StorageError as error:
            self._fail(error)

    def _drop_retired(self) -> None:
        """Journals that are sealed go, unless an fsync of them is still under way on another thread."""
        busy = {journal.number for job in self._syncs for journal in job.journals}
        kept = []
        for journal in self._retired:
            if journal.number in busy:
                kept.append(journal)
                continue
            journal.close()
            self._remove_sealed_journal(journal.name)
        self._retired = kept

    def _remove_sealed_journal(self, name: str) -> None:
        with contextlib.suppress(StorageError):  # the index knows that it is sealed: the next opening removes it
            self._files.remove(name)

    def _advance(self, frames: int, seq: int) -> None:
        self.durable = max(self.durable, frames)
        self.durable_seq = max(self.durable_seq, seq)

    def _fail(self, error: BaseException) -> None:
        if self.read_only_reason is None:
            self.read_only_reason = str(error)

    # The whole

    def check(self, progress: Callable[[int, int], None] | None = None) -> CheckReport:
        """Every byte is read and compared; damage is reported, not repaired. progress(done, total): bytes read.

        Records that are not sealed yet are checked as they stand in the journals.
        """
        checker = Checker(self._files, self._index, self._sealed, [*self._frozen, self._active])
        return checker.run(self._tally, progress)

    def drop_caches(self) -> None:
        """Nothing is kept in memory that can be read again."""
        self._records.clear()
        self._entries.clear()
        self._sealed.drop_caches()
        self._feed.drop_caches()

    def close(self) -> None:
        """Everything is sealed, no journal remains; idempotent. No job may be under way.

        On a full disk the journals stay and are replayed at the next opening. Raises StorageFailed when what was
        saved last may not survive a power cut.
        """
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self.read_only_reason is None:
                self._settle()
        finally:
            for memtable in (*self._frozen, self._active):
                if memtable.journal is not None:
                    memtable.journal.close()
            self._index.close()
            self._files.close()

    def _settle(self) -> None:
        """All sealed, or on a full disk at least durable."""
        while self.durable < self.written or self._frozen or not self._active.is_empty:
            job = self.seal_job(0.0, force=True) or self.sync_job()
            if job is None:
                return
            error: StorageError | None = None
            try:
                job.run()
            except StorageError as failed:
                error = failed
            self.finish(job, error)
            if isinstance(error, StorageFull):
                self._settle_full()
                return
            if error is not None:
                raise error
        rows = sum(segment.row_count for segment in self._sealed.segments)
        if rows != self._filter_rows_saved:
            try:
                save_filter(self._files, self._sealed.filter, self._index.last_segment)
            except StorageFull:
                return
        self._files.sync_folder()

    def _settle_full(self) -> None:
        job = self.sync_job()
        if job is not None:
            job.run()
            self.finish(job)


def _stray_error(row: Row, known: Row | Entry | None) -> ValueError:
    now = "unknown" if known is None else f"at seq {known.seq}"
    return ValueError(f"stray row for {row.id_key!r} with seq {row.seq}: the id is {now}")


__all__ = [
    "CheckReport", "Counters", "FeedSlice", "Job", "Problem", "Store", "StoreOptions",
]
