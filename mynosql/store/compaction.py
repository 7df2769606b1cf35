"""Giving space back in the background: when a rewriting is due, what it is given, and what its end changes in memory.

Owns the pace (a share of the time), what somebody asked for, and the segments that damage keeps as they are. What is
worth doing is decided in garbage.py, done in rewriting.py. Driven by sealer.py under the store's lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

from mynosql.errors import StorageCorrupt, StorageError
from mynosql.store.feeds import Feed
from mynosql.store.files import Files
from mynosql.store.garbage import Choice, Situation, choose
from mynosql.store.index import Index
from mynosql.store.rewriting import DAMAGED_NOTE, RewriteJob, RewritePlan, sealed_journals, unpack_numbers
from mynosql.store.sealed import Sealed
from mynosql.store.shard import BLOCK_BYTES_MAX, parse_shard_name, shard_name
from mynosql.store.types import StoreOptions

REST_FACTOR = 3.0
"""After a rewriting that took a second the next one waits three: a quarter of a core, and of the disk, at most."""
REST_S_MIN = 0.5
JOURNAL_WAIT_S = 0.02
FULL_REST_S = 60.0
PRESET_BUSY, PRESET_ASKED = 1, 6
CLOSE_BYTES_MAX = 1 << 20
"""closedb() gives space back when no more than so much is left afterwards: a tenth of a second."""
CLOSE_BYTES_MIN = 16 << 10


class Compactor:
    """Chooses, makes and takes over one rewriting at a time."""

    def __init__(
        self, files: Files, index: Index, options: StoreOptions, sealed: Sealed, feed: Feed,
        uncounted: Callable[[], set[int]],
    ) -> None:
        """uncounted: numbers of segments that have to stay as they are for now."""
        self.is_asked = False
        """Somebody waits until nothing is left to give back."""
        self.rows_done = 0
        """Rows looked at since somebody asked."""
        self.error: StorageError | None = None
        """What ended the last one that was asked for."""
        self._files, self._index, self._options = files, index, options
        self._sealed, self._feed, self._uncounted = sealed, feed, uncounted
        self._is_open = bool(sealed.segments)
        """Something may be worth doing."""
        self._rest_until = float("-inf")
        self._began: float | None = None
        """When the last job was made, while it is not known how long it took."""
        self._shards_kept = frozenset(unpack_numbers(index.note(DAMAGED_NOTE)))
        self._unreadable: set[int] = set()
        self._wanted: set[int] = set()
        """Segments with damage that nothing depends on any more: written again, they are sound."""
        self._done: set[int] = set()
        """Segments that were written again since somebody asked: once is enough, or saves could keep it going."""
        self._asked_until: int | None = None
        """The newest segment when the first job was made that somebody asked for."""

    def on_sealed(self, shard_number: int) -> None:
        """The segments are others than before. shard_number: the shard that is appended to."""
        try:
            self._is_open = self.is_asked or self._choose(shard_number) is not None
        except StorageError:  # the folder cannot be listed: no reason to stop saving
            self._is_open = False

    def ask(self) -> None:
        """All that can be given back is wanted now."""
        self.is_asked = self._is_open = True
        self._rest_until = float("-inf")
        self.rows_done, self.error = 0, None
        self._done, self._asked_until = set(), None

    def want(self, numbers: Iterable[int]) -> None:
        """Damage in these segments was given up."""
        self._wanted |= set(numbers)
        self._unreadable -= self._wanted
        self._is_open = True

    def is_worth_at_close(self) -> bool:
        """More than half is garbage, and little else."""
        try:
            held = sum(self._shard_bytes().values())
        except StorageError:
            return False
        used = sum(usage.bytes for usage in self._index.usage())
        dead = sum(segment.dead for segment in self._sealed.segments)
        rows = sum(segment.row_count for segment in self._sealed.segments)
        live = used * (rows - dead) // rows if rows else 0
        return live <= CLOSE_BYTES_MAX and held > 2 * live + CLOSE_BYTES_MIN

    def next_due(self, now: float) -> float | None:
        """When job() is worth calling; None: not before something is sealed or asked."""
        self._take_time(now)
        if not self._is_open:
            return None
        return max(now, self._rest_until)

    def _take_time(self, now: float) -> None:
        if self._began is not None:
            took_s, self._began = now - self._began, None
            if not self.is_asked:
                self._rest_until = now + max(REST_S_MIN, REST_FACTOR * took_s)

    def job(self, now: float, shard_number: int, *, is_idle: bool, is_syncing: bool) -> RewriteJob | None:
        """The next thing worth doing; None: nothing, or not yet. is_syncing: a sealed journal is being fsynced."""
        due = self.next_due(now)
        if due is None or due > now:
            return None
        if self.is_asked and self._asked_until is None:
            self._asked_until = self._index.last_segment
        try:
            choice = self._choose(shard_number)
            self._is_open = choice is not None
            if choice is None:
                self.is_asked = False
                return None
            left = sealed_journals(self._files, self._index.journal_sealed)
            if left and is_syncing:
                self._rest_until = now + JOURNAL_WAIT_S  # an fsync of one is under way: it goes after that
                return None
            for name in left:
                self._files.remove(name)  # the disk refused that before
        except StorageError as error:
            self._give_up(error)
            return None
        self._began = now
        return RewriteJob(self._files, self._index, RewritePlan(
            group=choice.group, segments=tuple(self._sealed.segments), block_first=self._index.last_block + 1,
            # Who asked wants the old file gone: all that was in it goes to a new one.
            shard_number=shard_number + (choice.is_new_shard or (self.is_asked and not self._done)),
            preset=PRESET_ASKED if self.is_asked or is_idle else PRESET_BUSY, owed=dict(self._sealed.owed),
            shards_kept=self._shards_kept, pause=(lambda: None) if self.is_asked else self._options.pause,
        ), BLOCK_BYTES_MAX)

    def _choose(self, shard_number: int) -> Choice | None:
        fixed = self._unreadable | self._uncounted()
        if self.is_asked and self._asked_until is not None:
            fixed |= self._done
            fixed |= {found.number for found in self._sealed.segments if found.number > self._asked_until}
        return choose(Situation(
            self._sealed.segments, self._index.usage(), self._shard_bytes(), shard_number, frozenset(fixed),
            frozenset(self._wanted),
        ), is_asked=self.is_asked)

    def _shard_bytes(self) -> dict[int, int]:
        numbers = {number for name in self._files.list() if (number := parse_shard_name(name)) is not None}
        return {number: self._files.size(shard_name(number)) for number in numbers - self._shards_kept}

    def commit(self, job: RewriteJob) -> None:
        """The new segment stands where the old ones did. Raises StorageError: nothing changed."""
        emptied = job.commit()
        numbers = {segment.number for segment in job.plan.group}
        sealed = self._sealed
        segments = [segment for segment in sealed.segments if segment.number not in numbers]
        if job.segment is not None:
            segments.append(job.segment)
        sealed.segments = sorted(
            (old._replace(dead=old.dead + job.dead.get(old.number, 0)) for old in segments),
            key=lambda segment: segment.number,
        )
        for number in numbers:
            sealed.owed.pop(number, None)
        if job.segment is not None and job.owed:
            sealed.owed[job.segment.number] = job.owed
        self._feed.drop_caches()
        sealed.drop_caches()
        self._done |= numbers
        self._wanted -= numbers
        self.rows_done += sum(segment.row_count for segment in job.plan.group)
        for number in emptied:
            with contextlib.suppress(StorageError):  # the index knows that it is empty: the next opening removes it
                self._files.remove(shard_name(number))

    def put_off(self, job: RewriteJob, error: StorageError) -> None:
        """Nothing came of it: the disk is full, or a block of the group is damaged."""
        if isinstance(error, StorageCorrupt):
            self._sealed.note_problem(error)
            self._unreadable |= {segment.number for segment in job.plan.group}
            self._wanted -= self._unreadable
        else:
            self._give_up(error)
            self._rest_until = (self._began or 0.0) + FULL_REST_S

    def _give_up(self, error: StorageError) -> None:
        self.error = error
        self._is_open = self.is_asked = False
