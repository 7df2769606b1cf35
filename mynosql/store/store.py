"""One database's records on this disk: saved, found, read, listed and fed in order; sealed and recovered.

Joins what is unsealed (memtables, journals) and what is sealed (segments) behind one face, with the caches of what was
read. Single-threaded: the caller holds one lock around every method; only Job.run() goes without it. No thread, no
clock, no network: `now` is given. Driven by ledger.Ledger and replica.Replica, its jobs by workers.Workers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from mynosql.errors import StorageCorrupt, StorageError, StorageFailed, StorageFull
from mynosql.row import Entry, Leaf, Row
from mynosql.store import recovery
from mynosql.store.aging import Aging
from mynosql.store.check import Checker
from mynosql.store.copying import Copying
from mynosql.store.feeds import Feed
from mynosql.store.files import Files
from mynosql.store.index import FILE_NAME as INDEX_NAME
from mynosql.store.index import BlockRow, Commit, Index
from mynosql.store.journal import check_note, pack_many
from mynosql.store.memtable import JOURNALED_BYTES_MAX, NO_HASH, Memtable, spot_of
from mynosql.store.mending import Mended, Mender
from mynosql.store.packed import KIND_PLAIN, LZ4_BYTES_MIN, PLAIN_HEAD, PLAIN_LIVE, compressed, pack_row
from mynosql.store.reader import Reader
from mynosql.store.rebuild import REBUILDING_NOTE
from mynosql.store.rewriting import RewriteJob
from mynosql.store.scan import scan
from mynosql.store.seal import SealJob, SyncJob
from mynosql.store.sealed import Sealed
from mynosql.store.sealer import Hold, Sealer
from mynosql.store.summing import Hashed, SumJob
from mynosql.store.sums import RangeSum
from mynosql.store.tally import Tally
from mynosql.store.types import CheckReport, Counters, FeedSlice, Problem, StoreOptions
from mynosql.store.unsealed import Unsealed

DELIVERED_NOTE = "delivered"
OWN_NOTES_PREFIX = "."
"""Notes of the store itself; callers neither see nor write them."""
SOURCES_MAX = 100
"""Journals of killed processes that one memtable may point into."""
ReplayedRow = tuple[Row, "int | None"]
"""A row, and where it stands in its journal (memtable.spot_of)."""

_new_row = partial(tuple.__new__, Row)
_pack_plain = PLAIN_HEAD.pack


class Job(Protocol):
    """Heavy work: run() without the lock, then always Store.finish(job, error) under it."""

    def run(self) -> None:
        """Raises StorageFull, StorageFailed or StorageCorrupt; hand what it raised to finish()."""
        ...


class Store:
    """The records of one open database. Made by Store.open()."""

    def __init__(self, files: Files, index: Index, options: StoreOptions, sealed: Sealed, unsealed: Unsealed) -> None:
        self.is_rebuilt = False
        """The index was made anew at this opening: what others know of this node's history no longer fits."""
        self._files = files
        self._index = index
        self._sealed = sealed
        self._unsealed = unsealed
        self._feed = Feed(sealed)
        self._sealer = Sealer(files, index, options, unsealed, sealed, self._feed)
        self._memtable_bytes_max = options.memtable_bytes_max
        self._reader = reader = Reader(options, sealed, unsealed)
        self.wholes = reader.wholes
        self.keep_whole = reader.keep_whole
        self.find, self.find_hashes = reader.find, reader.find_hashes
        self.read, self.read_body = reader.read, reader.read_body
        self.read_stale, self.read_piece = reader.read_stale, reader.read_piece
        self.read_superseded = reader.read_superseded
        self.aging = Aging((*reader.caches, *sealed.caches))
        """What was read leaves memory with time; somebody has to set aging.on_begun and call age()."""
        sealed.on_read = self.aging.begin
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
        store = cls(files, index, options, sealed, Unsealed(files, state.tally, state.notes, node))
        store._sealer.shard_number = state.shard_number
        store._sealer.filter_rows_saved = state.filter_rows_saved
        store._unsealed.next_journal = recovery.replay(store, files, index, progress)
        store._sealer.durable_seq = store.head_seq
        return store

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
        self._sealer.feeds_read += 1
        return self._feed.slice(
            self._unsealed.memtables, after_seq, until_seq=head if until_seq is None else min(until_seq, head),
            bytes_max=bytes_max, body_bytes_max=body_bytes_max if bodies else -1, owed_only=owed_only,
            low=low, high=high,
        )

    def entries(self, low: bytes, high: bytes | None, *, live_only: bool, limit: int) -> list[Entry]:
        """The first `limit` entries with low <= id key < high (None: to the end) in id-key order.

        Go on with low = the last id key + b"\\0". No body is read.
        """
        entries: list[Entry] = []
        if limit > 0:
            for entry in scan(self._sealed, self._unsealed.memtables, low, high):
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
            for entry in scan(self._sealed, self._unsealed.memtables, low, None, missing_only=True):
                entries.append(entry)
                if len(entries) == limit:
                    break
        return entries

    # Bodies that may go (trimming.Trimmer decides)

    def limit_memtable(self, size_bytes: int | None) -> None:
        """No more than that is unsealed in one memtable, and four times as much in all; None: what StoreOptions say."""
        self._sealed.touched = None if size_bytes is None else self._sealed.touched or set()
        self._memtable_bytes_max = self._sealer.limit(size_bytes)

    @property
    def body_bytes(self) -> int:
        """About what held bodies take on the disk: a segment's share by its rows that count, journals as they are."""
        sizes = self._index.body_bytes()
        sealed = [sizes.get(found.number, 0) * (1 - found.dead / found.row_count) for found in self._sealed.segments]
        return int(sum(sealed)) + self._journal_bytes

    @property
    def _journal_bytes(self) -> int:
        return sum([memtable.journal.size for memtable in self._unsealed.memtables if memtable.journal is not None])

    def seal_soon(self, bytes_min: int) -> bool:
        """More than so many unsealed bytes are to be sealed; True: there are, and it is going to happen."""
        if self._journal_bytes <= bytes_min or self._unsealed.active.is_empty:
            return bool(self._unsealed.frozen)
        self._sealer.ask_seal()
        return True

    def block_numbers(self) -> list[int]:
        """All blocks with bodies, oldest first."""
        return self._index.blocks_with_bodies()

    def take_touched(self, block: int) -> bool:
        """A body of this block was read from the disk since this was asked last."""
        touched = self._sealed.touched
        if touched is None or block not in touched:
            return False
        touched.discard(block)
        return True

    def is_cached(self, id_key: bytes) -> bool:
        """The record was read lately, and is still in memory."""
        return self._reader.is_cached(id_key)

    def held_in(self, block: int) -> list[tuple[Entry, float]]:
        """The entries whose bodies are held in this block, each with about what these take on the disk."""
        row = self._index.block(block)
        if row is None:
            return []
        try:
            head = self._sealed.head(block)
        except StorageCorrupt as error:
            self._sealed.note_problem(error, row.row_count)
            return []
        ratio = row.body_bytes / max(head.body_raw, 1)
        found = []
        for slot in range(head.rows.count):
            entry = head.rows.entry(slot)
            size = sum(leaf.size for position, leaf in enumerate(entry.leaves) if entry.held >> position & 1)
            if size and self._unsealed.row(entry.id_key) is None and self._sealed.is_current(entry.id_key, block, slot):
                found.append((entry, size * ratio))
        return found

    # Sums (summing.Summer)

    def keep_sums(self) -> None:
        """Sums over ranges of the id hash are wanted from here on: the background counts what is here."""
        self._sealer.summer.keep()

    def has_sums(self, *, is_urgent: bool = False) -> bool:
        """sum_of() and items_of() may be asked now. is_urgent: it is counted soon. Raises StorageCorrupt."""
        is_ready = self._sealer.summer.is_ready
        if is_urgent and not is_ready:
            self._sealer.ask_sums()
        return is_ready

    def sum_of(self, bits: int, prefix: int) -> RangeSum:
        """Count and sum of the entries whose id hash begins with these bits. Raises ValueError for no such range."""
        return self._sealer.summer.sum_of(bits, prefix)

    def items_of(self, bits: int, prefix: int) -> list[Hashed]:
        """These entries one by one, in the order of their hashes. Raises ValueError for no such range."""
        return self._sealer.summer.items_of(bits, prefix)

    def count_again(self) -> None:
        """The sums are found to be wrong."""
        self._sealer.summer.count_again()

    # State

    @property
    def node(self) -> int | None:
        """Our node id: hlc_max counts the leaves that it wrote. None: those of all nodes."""
        return self._unsealed.node

    @node.setter
    def node(self, node: int | None) -> None:
        self._unsealed.node = node

    @property
    def head_seq(self) -> int:
        """The highest seq given out."""
        return self._unsealed.tally.head_seq

    @property
    def durable_seq(self) -> int:
        """Rows up to this seq survive a power cut."""
        return self._sealer.durable_seq

    @property
    def written(self) -> int:
        """Frames written since opening."""
        return self._unsealed.written

    @property
    def durable(self) -> int:
        """Frames of these that survive a power cut: what they said may leave the node."""
        return self._sealer.durable

    @property
    def read_only_reason(self) -> str | None:
        """Why nothing can be written any more until the next opening; None: it can."""
        return self._sealer.read_only_reason

    @property
    def records(self) -> int:
        """Live ids."""
        return self._unsealed.tally.records

    @property
    def counters(self) -> Counters:
        """Ids by state, exact and in constant time."""
        return self._unsealed.tally.counters()

    @property
    def hlc_max(self) -> int:
        """The highest clock value that this node gave to a revision: where its clock must go on."""
        return self._unsealed.tally.hlc_max

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Damage met so far while recovering and reading; check() finds all of it."""
        return tuple(self._sealed.problems)

    @property
    def is_damaged(self) -> bool:
        """Damage was met that mend() has not dealt with."""
        return bool(self._sealed.damaged)

    def note_damage(self, error: StorageCorrupt) -> None:
        """A read met it. A damaged index is made anew by the next opening."""
        self._sealed.note_problem(error)
        if error.path == self._files.path(INDEX_NAME):
            self._rebuild_later()

    def _rebuild_later(self) -> None:
        with contextlib.suppress(StorageError):
            self._index.commit(Commit(notes={REBUILDING_NOTE: b"1"}))

    def mend(self, is_kept: Callable[[Entry], bool]) -> Mended | None:
        """What damaged blocks held is given up, so that it can be fetched again; None: later, a job is under way.

        is_kept: nobody else has the bodies of that entry, which may be read by better means one day. Rows of a block
        whose head is damaged are not known any more, unless some of them may be owed. Raises StorageError: what was
        done until then counts.
        """
        if self._sealer.is_busy or self._sealer.read_only_reason is not None:
            return None
        mender = Mender(self._files, self._index, self._sealed)
        self.drop_caches()  # what was decoded before the damage hides it
        readable, lost = mender.blocks()
        lost = [block for block in lost if not self._may_be_owed(block)]
        id_keys: list[bytes] = []
        for block in readable:
            rows = [row for row in mender.without_bodies(block, is_kept) if self._unsealed.row(row.id_key) is None]
            self.put(rows)
            id_keys += [row.id_key for row in rows]
        dropped = 0
        if lost:
            if not self._sealer.seal_all():
                return None
            mended, orphans = mender.drop(lost, self._unsealed.tally)
            self.drop_caches()
            self._reader.absent.clear()
            self._sealer.summer.count_again()
            self.put(orphans)
            dropped = mended.rows_dropped
        self._sealed.damaged.clear()
        if readable:
            self._sealer.on_mended({block.segment for block in readable})
        return Mended(tuple(id_keys), dropped)

    def _may_be_owed(self, block: BlockRow) -> bool:
        """There may be changes in it that no other node has: nobody can tell."""
        return block.segment in self._sealed.owed and block.seq_max > self._unsealed.tally.delivered

    def note_problem(self, problem: Problem) -> None:
        """Damage was met."""
        self._sealed.problems.append(problem)

    def note(self, key: str) -> bytes:
        """The note's value, b"" when there is none."""
        return self._unsealed.notes.get(key, b"")

    def notes(self, prefix: str = "") -> dict[str, bytes]:
        """All notes whose key starts with prefix."""
        return {key: value for key, value in self._unsealed.notes.items() if key.startswith(prefix)}

    # Writing

    def put_one(self, row: Row) -> int:
        """The row is its id's newest state, in memory and in the journal; returns its seq.

        row.seq is 0 (the next seq is given), or for a stray that of the change whose bodies it brings. Survives
        kill -9 as it returns, a power cut once `durable` has reached `written`. Raises StorageFull or StorageFailed:
        neither memory nor file has changed.
        """
        unsealed = self._unsealed
        if self._sealer.read_only_reason or self._sealer.full or unsealed.active.size_bytes >= self._memtable_bytes_max:
            self._make_room()
        id_key, leaves, bodies, seq, owed, stray, stale = row
        known: Row | Entry | None = unsealed.active.row(id_key)
        is_outside = False
        if known is None:
            known = (unsealed.frozen_row(id_key) if unsealed.frozen else None) or self._reader.find_sealed(id_key)
            is_outside = known is not None
        if not stray:
            seq = unsealed.tally.head_seq + 1
            row = _new_row((id_key, leaves, bodies, seq, owed, False, stale))
        elif known is None or known.seq != seq:
            raise _stray_error(row, known)
        packed = compressed(pack_row(row))
        offset = self._append(packed)
        spot = None
        if len(packed) <= JOURNALED_BYTES_MAX:
            spot = spot_of(unsealed.active.source, offset, len(packed))
        hashed = NO_HASH
        if known is None:
            hashed = self._reader.absent.get(id_key, NO_HASH)
            self._reader.absent.clear()
        else:
            self._reader.forget(id_key)
        unsealed.absorb(row, spot, known, is_outside, hashed)
        return seq

    def put_new(self, id_key: bytes, leaf: Leaf, body: bytes) -> None:
        """put_one() of an owed row of one plain leaf of our own node, for an id that find() has just called unknown.

        The path of most saves: no Row is made.
        """
        if len(body) + len(id_key) + PLAIN_HEAD.size > JOURNALED_BYTES_MAX:
            self.put_one(_new_row((id_key, (leaf,), (body,), 0, True, False, None)))
            return
        unsealed = self._unsealed
        if self._sealer.read_only_reason or self._sealer.full or unsealed.active.size_bytes >= self._memtable_bytes_max:
            self._make_room()
        packed = _packed_new(id_key, leaf, body, unsealed.tally.head_seq + 1)
        offset = self._append(packed)
        hashed = self._reader.absent.get(id_key, NO_HASH)
        self._reader.absent.clear()
        unsealed.absorb_new(id_key, spot_of(unsealed.active.source, offset, len(packed)), leaf[1], hashed)

    def put_all_new(self, news: Sequence[tuple[bytes, Leaf, bytes]]) -> None:
        """put_new() for many different ids (id key, leaf, body) in one journal frame: all of them or none."""
        if any(len(body) + len(id_key) + PLAIN_HEAD.size > JOURNALED_BYTES_MAX for id_key, _, body in news):
            self.put([_new_row((id_key, (leaf,), (body,), 0, True, False, None)) for id_key, leaf, body in news])
            return
        self._make_room()
        seq = self.head_seq
        packed = [_packed_new(*new, seq) for seq, new in enumerate(news, seq + 1)]
        payload, first = pack_many(packed, {}, seq_before=seq)
        offset = self._append(payload) + first
        hash_of, absorb, source = self._reader.absent.get, self._unsealed.absorb_new, self._unsealed.active.source
        for (id_key, leaf, _), packed_row in zip(news, packed, strict=True):
            absorb(id_key, spot_of(source, offset, len(packed_row)), leaf[1], hash_of(id_key, NO_HASH))
            offset += len(packed_row)
        self._reader.absent.clear()

    def _append(self, payload: bytes) -> int:
        try:
            return self._unsealed.append(payload)
        except StorageFailed as error:
            self._sealer.fail(error)
            raise

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
        self._make_room()
        numbered = self._unsealed.numbered(rows)
        knowns = self._known_before(numbered)
        passed = self._delivery(notes)
        packed = [compressed(pack_row(row)) for row in numbered]
        payload, first = pack_many(packed, notes, seq_before=self.head_seq)
        offset = self._append(payload) + first
        source = self._unsealed.active.source
        self._absorb_notes(notes, passed)
        hashes, self._reader.absent = self._reader.absent, {}
        for row, packed_row, (known, is_outside) in zip(numbered, packed, knowns, strict=True):
            if known is not None:
                self._reader.forget(row.id_key)
            spot = spot_of(source, offset, len(packed_row)) if len(packed_row) <= JOURNALED_BYTES_MAX else None
            offset += len(packed_row)
            self._unsealed.absorb(row, spot, known, is_outside, hashes.get(row.id_key, NO_HASH))

    def _make_room(self) -> None:
        """The active memtable may take a frame. Raises StorageFailed when read-only, StorageFull when none can wait."""
        sealer = self._sealer
        if sealer.read_only_reason is not None:
            raise StorageFailed(f"nothing can be saved: {sealer.read_only_reason}; open the database again")
        if sealer.full is not None and sealer.pressure >= 1.0:
            raise StorageFull(f"nothing can be saved until older saves can be sealed: {sealer.full}") from sealer.full
        if sealer.is_active_full:
            self._unsealed.freeze()

    def _known_before(self, rows: Sequence[Row]) -> list[tuple[Row | Entry | None, bool]]:
        """Per row what was known of its id, and whether that stands outside the active memtable."""
        unsealed = self._unsealed
        active = unsealed.active
        found: list[tuple[Row | Entry | None, bool]] = []
        earlier: dict[bytes, Row] = {}
        for row in rows:
            id_key = row.id_key
            known: Row | Entry | None = earlier.get(id_key) or active.row(id_key)
            is_outside = False
            if known is None:
                known = (unsealed.frozen_row(id_key) if unsealed.frozen else None) or self._reader.find_sealed(id_key)
                is_outside = known is not None
            if row.stray and (known is None or known.seq != row.seq):
                raise _stray_error(row, known)
            found.append((known, is_outside))
            earlier[id_key] = row
        return found

    def _delivery(self, notes: Mapping[str, bytes]) -> tuple[int, int] | None:
        """The value that the note "delivered" gets, and by how many ids `pending` changes with it."""
        if DELIVERED_NOTE not in notes:
            return None
        value = notes[DELIVERED_NOTE]
        seq = int(value) if value else 0
        delivered = self._unsealed.tally.delivered
        low, high = sorted((seq, delivered))
        owed = self._feed.count_owed(self._unsealed.memtables, low, high) if high > low else 0
        return seq, owed if seq < delivered else -owed

    def _absorb_notes(self, notes: Mapping[str, bytes], passed: tuple[int, int] | None) -> None:
        if passed is not None:
            self._unsealed.tally.delivered = passed[0]
            self._unsealed.tally.pending += passed[1]
        self._unsealed.absorb_notes(notes)

    # Recovery (recovery.py drives it)

    def replay_frame(self, rows: Sequence[ReplayedRow], notes: Mapping[str, bytes]) -> None:
        """What a frame of an earlier run says is in memory again. Rows that are there already change nothing."""
        unsealed = self._unsealed
        self._absorb_notes(notes, self._delivery(notes))
        for row, spot in rows:
            known: Row | Entry | None = unsealed.active.row(row.id_key)
            is_outside = known is None
            try:
                known = known or unsealed.frozen_row(row.id_key) or self._reader.find_sealed(row.id_key)
            except StorageCorrupt as error:
                self._sealed.note_problem(error)
            if row.stray:
                if known is None or known.seq != row.seq:
                    continue  # its change was lost with a damaged journal, and comes again with its bodies
            elif row.seq <= self.head_seq:
                continue
            elif row.seq > unsealed.active.last_seq + 1:
                unsealed.active.skip_to(row.seq)
            self._reader.absent.clear()
            self._reader.forget(row.id_key)
            unsealed.absorb(row, spot, known, is_outside and known is not None)

    def start_replayed_journal(self, name: str) -> int:
        """Rows of this journal are coming; returns the source for spot_of()."""
        return self._unsealed.active.add_source(name)

    def end_replayed_journal(self, number: int) -> None:
        """The journal's rows are in memory; it goes when they are sealed."""
        active = self._unsealed.active
        active.replayed.append(number)
        if self._sealer.is_active_full or len(active.sources) >= SOURCES_MAX:
            self._unsealed.freeze()

    # Durability

    def sync_job(self) -> SyncJob | None:
        """A job after which everything written so far is durable; None when it is already."""
        return self._sealer.sync_job()

    @property
    def pressure(self) -> float:
        """Unsealed bytes as a share of what is allowed: slow down writers above 0.5, stop them at 1.0."""
        return self._sealer.pressure

    @property
    def is_seal_due(self) -> bool:
        """A full memtable waits and no seal job is under way."""
        return self._sealer.is_due

    def next_due(self, now: float) -> float | None:
        """When seal_job() or age() is worth calling, now or later; None: not before something is written or read."""
        times = [due for due in (self._sealer.next_due(now), self.aging.next_due(now)) if due is not None]
        return min(times, default=None)

    def seal_job(self, now: float, *, force: bool = False) -> SealJob | RewriteJob | SumJob | None:
        """A job that seals the oldest full memtable, or the active one when it is idle or force is given.

        Where nothing is to be sealed: one that keeps sums or gives space back. None: nothing is due, or one such job
        is under way.
        """
        return self._sealer.job(now, force=force, is_idle=self._sealer.is_idle(now))

    def age(self, now: float) -> bool:
        """What nobody has read for a while leaves memory; False: it is not time for that."""
        is_time = self.aging.age(now)
        if is_time:
            self._feed.drop_caches()
        return is_time

    def ask_compaction(self) -> None:
        """Everything is sealed, and all space that can be is given back, by the next jobs."""
        self._sealer.ask_compaction()

    @property
    def is_compaction_asked(self) -> bool:
        """It was asked for, and is not through."""
        return self._sealer.compactor.is_asked

    @property
    def compaction_error(self) -> StorageError | None:
        """What ended the one that was asked for last; None: nothing, or it goes on."""
        return self._sealer.compactor.error

    @property
    def compaction_progress(self) -> tuple[int, int]:
        """Rows looked at since it was asked for, and sealed rows in all."""
        return self._sealer.compactor.rows_done, sum([segment.row_count for segment in self._sealed.segments])

    def finish(self, job: Job, error: BaseException | None = None) -> None:
        """What the job did counts from now on. error: what its run() raised, None when it did not.

        A failed seal loses nothing: after StorageFull ask seal_job() again when there may be space. Any other failure
        makes the store read-only: what the kernel lost once, a second fsync reports as written.
        """
        if isinstance(job, SyncJob):
            self._sealer.finish_sync(job, error)
        elif isinstance(job, SealJob):
            self._sealer.finish_seal(job, error)
        elif isinstance(job, SumJob):
            self._sealer.finish_sum(job, error)
        elif isinstance(job, RewriteJob):
            self._sealer.finish_rewrite(job, error)

    # The whole

    @property
    def is_busy(self) -> bool:
        """A job that writes shards or index is under way."""
        return self._sealer.is_busy

    @property
    def is_held(self) -> bool:
        """The files are being copied."""
        return self._sealer.hold is not Hold.NOTHING

    def copying(self) -> Copying:
        """A copy of the files, to be made step by step. One at a time."""
        return Copying(self._files, self._sealer)

    def check(self, progress: Callable[[int, int], None] | None = None) -> CheckReport:
        """Every byte is read and compared; damage is reported. progress(done, total): bytes read.

        A damaged index is made anew by the next opening; for damaged blocks see mend().
        Records that are not sealed yet are checked as they stand in the journals.
        """
        while True:  # twice at most: one seal may be under way, and none begins under the caller's lock
            checker = self._checker(self._unsealed.memtables, self._unsealed.tally)
            report = checker.run(progress)
            if not checker.is_overtaken:
                self._take_report(report)
                return report

    def begin_check(self) -> Checker:
        """check() in steps, between which others read and save; end_check() in any case. No job is under way.

        What is written now is what is checked. Nothing is sealed meanwhile.
        """
        assert not self.is_busy
        if not self._unsealed.active.is_empty:
            self._unsealed.freeze()
        checker = self._checker(self._unsealed.frozen, Tally.unpack(self._unsealed.tally.pack()))
        self._sealer.hold = Hold.ALL
        return checker

    def end_check(self, checker: Checker) -> CheckReport:
        """What it found is taken note of; sealing goes on."""
        self._sealer.hold = Hold.NOTHING
        report = checker.report
        self._take_report(report)
        return report

    def _checker(self, memtables: Sequence[Memtable], tally: Tally) -> Checker:
        return Checker(self._files, self._index, self._sealed, tuple(memtables), tally)

    def _take_report(self, report: CheckReport) -> None:
        self._sealed.note_found(report.problems)
        if any(problem.file == self._files.path(INDEX_NAME) for problem in report.problems):
            self._rebuild_later()

    def drop_caches(self) -> None:
        """Nothing is kept in memory that can be read again."""
        self._reader.drop_caches()
        self._sealed.drop_caches()
        self._feed.drop_caches()

    def close(self) -> None:
        """Everything is sealed, no journal remains; idempotent.

        On a full disk, and after a job that never came to its finish(), journals stay and are replayed at the next
        opening. Raises StorageFailed when what was saved last may not survive a power cut.
        """
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self.read_only_reason is None:
                self._sealer.settle()
        finally:
            self._sealer.fail(StorageFailed("the store is closed"))
            self._sealer.close()
            self._index.close()
            self._files.close()


def _packed_new(id_key: bytes, leaf: Leaf, body: bytes, seq: int) -> bytes:
    generation, hlc, node, _, size, digest, _ = leaf
    packed: bytes = _pack_plain(
        KIND_PLAIN, PLAIN_LIVE, len(id_key), generation, hlc, node, size, seq, digest
    ) + id_key + body
    return packed if len(packed) < LZ4_BYTES_MIN else compressed(packed)


def _stray_error(row: Row, known: Row | Entry | None) -> ValueError:
    now = "unknown" if known is None else f"at seq {known.seq}"
    return ValueError(f"stray row for {row.id_key!r} with seq {row.seq}: the id is {now}")


__all__ = ["CheckReport", "Counters", "FeedSlice", "Job", "Problem", "Store", "StoreOptions"]
