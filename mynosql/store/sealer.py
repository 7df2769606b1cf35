"""When what becomes durable, sealed and rewritten: makes the jobs, takes their outcomes, knows what is safe.

Owns the frame counters, the list of seals and fsyncs under way, and the reason why nothing can be written any more.
The heavy work is in seal.py; what is worth rewriting, compaction.py knows. Driven by Store under its lock; run() of a
job goes without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from enum import Enum

from mynosql.errors import StorageCorrupt, StorageError, StorageFull
from mynosql.store.compaction import Compactor
from mynosql.store.feeds import Feed
from mynosql.store.files import Files
from mynosql.store.frames import JournalWriter, journal_name
from mynosql.store.index import Index
from mynosql.store.memtable import Memtable
from mynosql.store.rewriting import RewriteJob
from mynosql.store.seal import Outcome, SealJob, SealPlan, SyncJob, save_filter
from mynosql.store.sealed import Sealed
from mynosql.store.shard import BLOCK_BYTES_MAX, shard_name
from mynosql.store.summing import SumJob, Summer
from mynosql.store.types import MEMTABLES_MAX, StoreOptions, pack_in_turn
from mynosql.store.unsealed import Unsealed

PRESET_BUSY, PRESET_IDLE = 1, 6
"""LZMA efforts: 6 takes five times as long for a tenth fewer bytes, so only when nobody writes (MEASURED.md)."""

REPLAYED_MAX = 8
"""Journals of killed processes that are sealed at once: each costs the next opening an fsync."""
SPARE_JOURNAL_FROM = 0.5
"""Once the memtable is so full, the next fsync also makes the journal for the one after it."""


class Hold(Enum):
    """What waits while the files are copied."""

    NOTHING = 0
    REWRITING = 1
    """Nothing is written again: shards stay where they are."""
    ALL = 2
    """Nothing is sealed either: index and journals stay as they are."""


class Sealer:
    """Turns what is unsealed into what is sealed, one memtable at a time, oldest first."""

    def __init__(
        self, files: Files, index: Index, options: StoreOptions, unsealed: Unsealed, sealed: Sealed, feed: Feed
    ) -> None:
        self.durable = 0
        """Frames that survive a power cut, counted like Unsealed.written."""
        self.durable_seq = 0
        self.read_only_reason: str | None = None
        self.full: StorageFull | None = None
        """Why the last seal failed, when the disk was full."""
        self.hold = Hold.NOTHING
        self.memtable_bytes_max = options.memtable_bytes_max
        self.unsealed_bytes_max = options.unsealed_bytes_max
        self.shard_number = 0
        self.filter_rows_saved = 0
        self._files, self._index, self._options = files, index, options
        self._unsealed, self._sealed, self._feed = unsealed, sealed, feed
        self._seal: SealJob | RewriteJob | SumJob | None = None
        self.summer = Summer(files, index, sealed, unsealed)
        self.compactor = Compactor(files, index, options, sealed, feed, self.summer.uncounted)
        self._asked_memtable: Memtable | None = None
        """What is in it is to be sealed, because somebody asked for compaction."""
        self._syncs: list[SyncJob] = []
        self._retired: list[JournalWriter] = []
        self.feeds_read = 0
        """Slices of the feed that somebody asked for."""
        self._quiet_since = 0.0
        self._quiet_activity = (-1, -1)
        self._idle_since: float | None = None
        self._idle_written = -1

    def limit(self, memtable_bytes: int | None) -> int:
        """See Store.limit_memtable; returns what a memtable may take."""
        options = self._options
        size = options.memtable_bytes_max if memtable_bytes is None else memtable_bytes
        self.memtable_bytes_max = min(size, options.memtable_bytes_max)
        self.unsealed_bytes_max = min(MEMTABLES_MAX * size, options.unsealed_bytes_max)
        return self.memtable_bytes_max

    @property
    def pressure(self) -> float:
        return self._unsealed.size_bytes / self.unsealed_bytes_max

    @property
    def is_active_full(self) -> bool:
        return self._unsealed.active.size_bytes >= self.memtable_bytes_max

    @property
    def _is_ripe(self) -> bool:
        """The active memtable is to be sealed without waiting for a quiet minute."""
        return self.is_active_full or len(self._unsealed.active.replayed) >= REPLAYED_MAX

    @property
    def is_due(self) -> bool:
        """A full memtable waits and no seal job is under way."""
        waits = bool(self._unsealed.frozen) or self._is_ripe
        return waits and self._seal is None and self.read_only_reason is None and self.hold is not Hold.ALL

    @property
    def is_busy(self) -> bool:
        """A job that writes shards or index is under way."""
        return self._seal is not None

    def next_due(self, now: float) -> float | None:
        """When seal_job() is worth calling, now or later; None: not before something is written."""
        if self.read_only_reason is not None or self._seal is not None or self.hold is Hold.ALL:
            return None
        if self.is_due:
            return now
        idle_from = self._idle_from(now)
        dues = [self.summer.next_due(now, self._quiet_from(now))]
        if self.hold is Hold.NOTHING:
            dues.append(self.compactor.next_due(now))
        if not self._unsealed.active.is_empty:
            dues.append(now if self._is_seal_asked else idle_from + self._options.idle_seal_s)
        return min([due for due in dues if due is not None], default=None)

    @property
    def _is_seal_asked(self) -> bool:
        return self._asked_memtable is not None and self._asked_memtable in self._unsealed.memtables

    def is_idle(self, now: float) -> bool:
        """Something is unsealed and nothing was written for idle_seal_s."""
        return not self._unsealed.active.is_empty and now >= self._idle_from(now) + self._options.idle_seal_s

    def _idle_from(self, now: float) -> float:
        if self._idle_since is None or self._idle_written != self._unsealed.written:
            self._idle_since, self._idle_written = now, self._unsealed.written
        return self._idle_since

    def _quiet_from(self, now: float) -> float:
        """Since when nobody has written, or read the feed."""
        activity = (self._unsealed.written, self.feeds_read)
        if self._quiet_activity != activity:
            self._quiet_since, self._quiet_activity = now, activity
        return self._quiet_since

    # Making jobs

    def sync_job(self) -> SyncJob | None:
        """A job after which everything written so far is durable; None when it is already."""
        unsealed = self._unsealed
        if self.durable >= unsealed.written or self.read_only_reason is not None:
            return None
        journals = [
            memtable.journal for memtable in unsealed.memtables if memtable.journal and memtable.frames > self.durable
        ]
        is_spare_due = unsealed.active.size_bytes > self.memtable_bytes_max * SPARE_JOURNAL_FROM
        makes_spare = is_spare_due and unsealed.spare is None and not self._syncs
        job = SyncJob(
            self._files, journals, unsealed.written, unsealed.tally.head_seq,
            spare_number=unsealed.take_journal_number() if makes_spare else None,
        )
        self._syncs.append(job)
        return job

    def job(self, now: float, *, force: bool, is_idle: bool) -> SealJob | RewriteJob | SumJob | None:
        """A seal, see seal_job(); where nothing is to be sealed, what keeps sums or gives back space."""
        if self._seal is not None or self.read_only_reason is not None or self.hold is Hold.ALL:
            return None
        if self._asked_memtable not in self._unsealed.memtables:
            self._asked_memtable = None
        job = self.seal_job(force=force or self._asked_memtable is not None, is_idle=is_idle)
        if job is not None or force:
            return job
        self._seal = self.summer.job(now, self._quiet_from(now), self._options.pause)
        if self._seal is None and self.hold is Hold.NOTHING:
            self._seal = self.compactor.job(
                now, self.shard_number, is_idle=is_idle, is_syncing=bool(self._retired)
            )
        return self._seal

    def ask_compaction(self) -> None:
        """What is written up to now is sealed, then compacted."""
        self.ask_seal()
        self.summer.hurry()
        self.compactor.ask()

    def on_mended(self, segments: Iterable[int]) -> None:
        """Damage in these segments was given up: they are written again once what says so is sealed."""
        self.ask_seal()
        self.compactor.want(segments)

    def seal_all(self) -> bool:
        """Nothing is unsealed, in the caller's time; False: it cannot be. No job is under way."""
        unsealed = self._unsealed
        while self.read_only_reason is None and (unsealed.frozen or not unsealed.active.is_empty):
            job = self.seal_job(force=True, is_idle=False)
            if job is None or not self._run(job):
                return False
        return self.read_only_reason is None

    def ask_sums(self) -> None:
        """Somebody waits for the sums."""
        if self.summer.ask() and not self._is_seal_asked:
            self.ask_seal()

    def ask_seal(self) -> None:
        """What is written up to now is sealed soon."""
        self._asked_memtable = None if self._unsealed.active.is_empty else self._unsealed.active

    def seal_job(self, *, force: bool, is_idle: bool) -> SealJob | None:
        """A job that seals the oldest frozen memtable, or the active one when it is full, idle or force is given."""
        unsealed = self._unsealed
        if self._seal is not None or self.read_only_reason is not None:
            return None
        if not unsealed.frozen:
            if unsealed.active.is_empty or not (force or is_idle or self._is_ripe):
                return None
            unsealed.freeze()
        index, segments = self._index, self._sealed.segments
        job = self._seal = SealJob(self._files, index, self._sealed.filter, SealPlan(
            memtable=unsealed.frozen[0], segment_number=index.last_segment + 1, block_first=index.last_block + 1,
            shard_number=self.shard_number, preset=PRESET_IDLE if is_idle else PRESET_BUSY,
            pack_all=pack_in_turn if is_idle or force else self._options.pack_all,
            segments=tuple(segments), owed=dict(self._sealed.owed), rows_sealed=self._rows_sealed(),
            filter_rows_saved=self.filter_rows_saved,
        ), BLOCK_BYTES_MAX)
        return job

    def _rows_sealed(self) -> int:
        return sum([segment.row_count for segment in self._sealed.segments])

    # Taking their outcomes

    def finish_sync(self, job: SyncJob, error: BaseException | None) -> None:
        self._syncs.remove(job)
        if job.spare is not None:
            self._unsealed.offer_spare(job.spare)
        if error is None:
            self._advance(job.frames, job.seq)
        else:
            self.fail(error)
        self._drop_retired()

    def finish_seal(self, job: SealJob, error: BaseException | None) -> None:
        self._seal = None
        if job.outcome is None:
            if isinstance(error, StorageFull):
                self.full = error
                self._give_space_back(job)
            elif error is not None:
                self.fail(error)
            return
        self.full = None
        self._swap(job.plan.memtable, job.outcome)
        self.compactor.on_sealed(self.shard_number)
        if error is not None:
            self.fail(error)

    def finish_sum(self, job: SumJob, error: BaseException | None) -> None:
        self._seal = None
        self.summer.finish(job, error)
        self.compactor.on_sealed(self.shard_number)  # what is counted may be written again

    def finish_rewrite(self, job: RewriteJob, error: BaseException | None) -> None:
        self._seal = None
        try:
            if error is not None:
                raise error
            self.compactor.commit(job)
            self.summer.on_rewritten(job)
            self.shard_number = job.plan.shard_number
            self.compactor.on_sealed(self.shard_number)
        except (StorageFull, StorageCorrupt) as failed:
            self.compactor.put_off(job, failed)
            self._cut_shard(job.shard_end)
        except StorageError as failed:
            self.fail(failed)

    def fail(self, error: BaseException) -> None:
        """Nothing is written any more until the next opening."""
        if self.read_only_reason is None:
            self.read_only_reason = str(error)

    def _swap(self, memtable: Memtable, outcome: Outcome) -> None:
        self._sealed.add_segment(outcome.segment, outcome.owed, outcome.dead)
        self._feed.on_sealed(memtable, outcome.segment, tuple(outcome.dead), outcome.contents)
        self.shard_number = outcome.shard_number
        if outcome.filter_rows_saved is not None:
            self.filter_rows_saved = outcome.filter_rows_saved
        self._unsealed.frozen.remove(memtable)
        self.summer.on_sealed(memtable, outcome.buried)
        self._advance(memtable.frames, memtable.last_seq)
        for number in memtable.replayed:
            with contextlib.suppress(StorageError):  # the index knows that it is sealed: the next opening removes it
                self._files.remove(journal_name(number))
        if memtable.journal is not None:
            self._retired.append(memtable.journal)
        self._drop_retired()

    def _give_space_back(self, job: SealJob) -> None:
        """What a failed seal appended is referred to by nothing, unless its commit got through after all."""
        if self._index.last_segment < job.plan.segment_number:
            self._cut_shard(job.shard_end)

    def _cut_shard(self, shard_end: tuple[int, int] | None) -> None:
        if shard_end is None:
            return
        number, size = shard_end
        try:
            if size:
                self._files.truncate(shard_name(number), size)
            else:
                self._files.remove(shard_name(number))
        except StorageError as error:
            self.fail(error)

    def _drop_retired(self) -> None:
        """Journals that are sealed go, unless an fsync of them is still under way on another thread."""
        busy = {journal.number for job in self._syncs for journal in job.journals}
        kept = []
        for journal in self._retired:
            if journal.number in busy:
                kept.append(journal)
                continue
            self._unsealed.drop_journal(journal)
        self._retired = kept

    def _advance(self, frames: int, seq: int) -> None:
        self.durable = max(self.durable, frames)
        self.durable_seq = max(self.durable_seq, seq)

    # The end

    def settle(self) -> None:
        """All is sealed and no journal remains; on a full disk all is durable in the journals.

        A job that a dead worker has left may have been committed without our knowing: nothing is committed over it.
        """
        self.summer.drop()
        is_known = self._seal is None
        self.seal_all()
        sync = self.sync_job()
        if sync is not None:
            sync.run()
            self.finish_sync(sync, None)
        if self.read_only_reason is not None or not is_known:
            return
        self._drop_spare()
        self._give_back_a_little()
        if self._rows_sealed() != self.filter_rows_saved:
            with contextlib.suppress(StorageFull):  # it can be made anew from the index
                save_filter(self._files, self._sealed.filter, self._index.last_segment)
        self._files.sync_folder()

    def _give_back_a_little(self) -> None:
        """Where that is quickly done a folder rests without garbage."""
        if not self.compactor.is_worth_at_close():
            return
        self.compactor.ask()
        while self.read_only_reason is None and (
            job := self.compactor.job(0.0, self.shard_number, is_idle=False, is_syncing=False)
        ):
            error: StorageError | None = None
            try:
                job.run()
            except StorageError as failed:
                error = failed
            self.finish_rewrite(job, error)

    def _run(self, job: SealJob) -> bool:
        error: StorageError | None = None
        try:
            job.run()
        except StorageError as failed:
            error = failed
        self.finish_seal(job, error)
        if error is not None and not isinstance(error, StorageFull):
            raise error
        return error is None

    def close(self) -> None:
        """No journal is open."""
        self._drop_spare()
        for journal in self._retired:
            journal.close()
        for memtable in self._unsealed.memtables:
            if memtable.journal is not None:
                memtable.journal.close()

    def _drop_spare(self) -> None:
        spare, self._unsealed.spare = self._unsealed.spare, None
        if spare is not None:
            self._unsealed.drop_journal(spare)
