"""Keeps the sums over ranges of the id hash true to the store: what is sealed in the background, the rest at once.

Owns which segments are counted. A segment is counted once, those of its rows that the index names; a seal then takes
off what it replaced. What is not sealed lies in an overlay, made anew from the memtables when they change. Nothing is
counted before somebody wants sums, and nothing of it is on disk: each opening counts anew, and so meets what damage
took out of the index. Driven by sealer.Sealer and Store under the lock; SumJob.run() goes without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from mynosql.batch import Head
from mynosql.errors import StorageCorrupt, StorageFull
from mynosql.idkey import id_hash
from mynosql.revision import entry_digest
from mynosql.row import Leaves
from mynosql.store import shard
from mynosql.store.files import Files
from mynosql.store.index import SHORT_HASH_BITS, Commit, Index, Segment, short_hash
from mynosql.store.memtable import Memtable
from mynosql.store.rebuild import REBUILDING_NOTE
from mynosql.store.rewriting import RewriteJob
from mynosql.store.sealed import Sealed
from mynosql.store.sums import BUCKET_BITS, RangeSum, RangeSums, bucket_of, buckets_of
from mynosql.store.unsealed import Unsealed

REST_FACTOR = 3.0
"""After a count that took a second the next one waits three, unless somebody waits for it."""
QUIET_S = 1.0
"""Counting waits until nobody wrote for so long."""
WAIT_S_MAX = 60.0
"""It waits no longer than this."""
OVERLAY_MAX = 8192
"""Unsealed ids that are counted at once (0.1 s); with more there are no sums until they are sealed."""


class Hashed(NamedTuple):
    """One entry of a range."""

    id_key: bytes
    id_hash: int
    """idkey.id_hash: signed."""
    digest: bytes
    """revision.entry_digest."""


class _Unsealed(NamedTuple):
    """An id of the overlay."""

    item: Hashed
    replaced: bytes
    """The digest of its sealed entry; b"": there is none."""


class SumJob:
    """The sums of one segment: those of its rows that are the newest of their ids."""

    def __init__(self, files: Files, index: Index, segment: int, pause: Callable[[], None]) -> None:
        self.segment = segment
        self.counts: dict[int, int] = {}
        self.totals: dict[int, int] = {}
        """By bucket."""
        self.errors: list[StorageCorrupt] = []
        """Blocks that cannot be read: what is in them does not count, so others are found to have more."""
        self._files, self._index, self._pause = files, index, pause

    def run(self) -> None:
        """Raises StorageFailed, StorageCorrupt when the index cannot be read."""
        for block in self._index.blocks_of(self.segment):
            try:
                rows = shard.read_head(self._files, block.ref).rows
            except StorageCorrupt as error:
                self.errors.append(error)
                continue
            rows.expand()
            self._add(rows, shard.place_of(block.number, 0))
            self._pause()

    def _add(self, rows: Head, first: int) -> None:
        """The rows of a block that the index names. first: the place of its first row."""
        counts, totals, twins = self.counts, self.totals, self._index.twins
        hashes = [id_hash(rows.id_key(slot)) for slot in range(rows.count)]
        shorts = [short_hash(found) for found in hashes]
        places = self._index.places(shorts)
        for slot, (found, short) in enumerate(zip(hashes, shorts, strict=True)):
            if places.get(short) == first + slot or first + slot in twins(short):
                bucket = bucket_of(found)
                digest = entry_digest(rows.id_key(slot), rows.leaves(slot))
                counts[bucket] = counts.get(bucket, 0) + 1
                totals[bucket] = totals.get(bucket, 0) + int.from_bytes(digest, "big")


class Summer:
    """The sums of one store."""

    def __init__(self, files: Files, index: Index, sealed: Sealed, unsealed: Unsealed) -> None:
        self._files, self._index, self._sealed, self._unsealed = files, index, sealed, unsealed
        self._sums: RangeSums | None = None
        """None: nobody wants them."""
        self._counted: set[int] = set()
        """Numbers of the segments whose rows are in the sums."""
        self._before: list[Memtable] = []
        """Those that do not know what they replaced; nothing is counted before they are sealed."""
        self._overlay: dict[bytes, _Unsealed] = {}
        self._overlay_ends: list[tuple[Memtable, int]] = []
        """How far each memtable is in the overlay."""
        self._is_asked = False
        self._rest_until = float("-inf")
        self._pending_since: float | None = None
        self._began: float | None = None

    def keep(self) -> None:
        """Sums are wanted from here on."""
        if self._sums is None:
            self._unsealed.keeps_digests = True
            self._before = [memtable for memtable in self._unsealed.memtables if memtable.replaces]
            self._sums = RangeSums()

    def drop(self) -> None:
        """Nobody wants sums any more."""
        self._sums = None
        self._counted.clear()
        self._unsealed.keeps_digests = False

    def count_again(self) -> None:
        """The sums are not to be trusted: everything is counted anew."""
        if self._sums is not None:
            self._sums = RangeSums()
            self._counted.clear()

    def ask(self) -> bool:
        """Somebody waits for the sums; True: what is in the memtables had better be sealed for that."""
        self.keep()
        self._is_asked = True
        return self._is_blocked or sum([len(memtable.log) for memtable in self._unsealed.memtables]) > OVERLAY_MAX

    def hurry(self) -> None:
        """What is to be counted is to be counted now, if anything is."""
        self._is_asked = self._sums is not None

    # Counting what is sealed

    @property
    def _is_blocked(self) -> bool:
        if self._before:
            self._before = [memtable for memtable in self._before if memtable in self._unsealed.memtables]
        return bool(self._before)

    def _pending(self) -> Segment | None:
        if self._sums is None or self._is_blocked:
            return None
        return next((found for found in self._sealed.segments if found.number not in self._counted), None)

    def next_due(self, now: float, idle_from: float) -> float | None:
        """When job() is worth calling; None: nothing is to be counted. idle_from: when somebody wrote last."""
        if self._began is not None:
            took_s, self._began = now - self._began, None
            self._rest_until = now + REST_FACTOR * took_s
        if self._pending() is None:
            self._is_asked, self._pending_since = False, None
            return None
        if self._is_asked:
            return now
        if self._pending_since is None:
            self._pending_since = now
        return max(now, self._rest_until, min(idle_from + QUIET_S, self._pending_since + WAIT_S_MAX))

    def job(self, now: float, idle_from: float, pause: Callable[[], None]) -> SumJob | None:
        """The next segment to count; None: none, or not yet."""
        due = self.next_due(now, idle_from)
        segment = self._pending()
        if due is None or due > now or segment is None:
            return None
        self._began = now
        return SumJob(self._files, self._index, segment.number, (lambda: None) if self._is_asked else pause)

    def finish(self, job: SumJob, error: BaseException | None) -> None:
        """The segment is counted, as far as it can be read."""
        for found in job.errors:
            self._sealed.note_problem(found)
        if self._sums is None:
            return
        self._counted.add(job.segment)
        if error is None:
            for bucket, total in job.totals.items():
                self._sums.add(bucket, job.counts[bucket], total)
            self._check(job)

    def _check(self, job: SumJob) -> None:
        """An index that names fewer rows of a segment than live in it is damaged: the next opening makes it anew."""
        segment = next((found for found in self._sealed.segments if found.number == job.segment), None)
        lost = 0 if segment is None else segment.row_count - segment.dead - sum(job.counts.values())
        if lost and not job.errors:
            self._sealed.note_problem(StorageCorrupt(
                self._files.path("index"), None, f"it names {lost} rows too few of segment {job.segment}; what is "
                "missing is asked of other nodes, and closing and opening the database makes the index anew",
            ), lost)
            with contextlib.suppress(StorageFull):  # each opening counts anew
                self._index.commit(Commit(notes={REBUILDING_NOTE: b"1"}))

    def on_sealed(self, memtable: Memtable, buried: Mapping[bytes, int]) -> None:
        """A memtable is a segment now. buried: by id key, the segment in which the row stood that was replaced."""
        if self._sums is not None:
            for id_key, number in buried.items():
                if number in self._counted:
                    digest = memtable.replaces.get(id_key)
                    if digest:
                        self._sums.change(id_hash(id_key), digest, None)
        self._overlay.clear()
        self._overlay_ends.clear()

    def uncounted(self) -> set[int]:
        """Segments that cannot be joined with others as long as only some of them are counted."""
        if self._sums is None:
            return set()
        return {segment.number for segment in self._sealed.segments} - self._counted

    def on_rewritten(self, job: RewriteJob) -> None:
        """A group is one segment now, and is counted if the group was."""
        if self._sums is None:
            return
        numbers = {segment.number for segment in job.plan.group}
        is_counted = numbers <= self._counted
        for id_key, leaves, number in job.moved:
            if is_counted != (number in self._counted):
                digest = entry_digest(id_key, leaves)
                self._sums.change(id_hash(id_key), None if is_counted else digest, digest if is_counted else None)
        self._counted -= numbers
        if is_counted and job.segment is not None:
            self._counted.add(job.segment.number)

    # Reading

    @property
    def is_ready(self) -> bool:
        """Everything is counted: sum_of() and items_of() may be asked."""
        if self._sums is None or self._pending() is not None or self._is_blocked:
            return False
        return self._refresh()

    def sum_of(self, bits: int, prefix: int) -> RangeSum:
        """The entries whose id hash begins with these bits. Only when is_ready. Raises ValueError."""
        assert self._sums is not None
        first, last = buckets_of(bits, prefix)
        found = self._sums.sum_of(bits, prefix)
        for item, replaced in self._overlay.values():
            if first <= bucket_of(item.id_hash) < last:
                digests = int.from_bytes(item.digest, "big") - int.from_bytes(replaced, "big")
                found = found.plus(RangeSum(0 if replaced else 1, digests))
        return found

    def items_of(self, bits: int, prefix: int) -> list[Hashed]:
        """These entries one by one, in the order of their hashes. Damaged blocks are left out. Raises ValueError."""
        first, last = buckets_of(bits, prefix)
        shift = SHORT_HASH_BITS - BUCKET_BITS
        items = [
            item for item, _ in self._overlay.values() if first <= bucket_of(item.id_hash) < last
        ]
        for place in self._index.places_between(first << shift, last << shift):
            try:
                rows = self._sealed.head(shard.block_of(place)).rows
                id_key = rows.id_key(shard.slot_of(place))
                if id_key not in self._overlay:
                    items.append(_hashed(id_key, rows.entry(shard.slot_of(place)).leaves))
            except StorageCorrupt as error:
                self._sealed.note_problem(error)
            except IndexError:
                continue  # a damaged index names a row that the block has not
        return sorted(items, key=lambda item: item.id_hash & (1 << 64) - 1)

    def _refresh(self) -> bool:
        """The overlay says what the memtables do; False: that is too much."""
        memtables = self._unsealed.memtables
        if sum([len(memtable.log) for memtable in memtables]) > OVERLAY_MAX:
            return False
        ends = {id(memtable): end for memtable, end in self._overlay_ends}
        for memtable in memtables:
            end = ends.get(id(memtable), memtable.first_seq - 1)
            for row in memtable.between(end, memtable.last_seq):
                known = self._overlay.get(row.id_key)
                replaced = memtable.replaces.get(row.id_key, b"") if known is None else known.replaced
                self._overlay[row.id_key] = _Unsealed(_hashed(row.id_key, row.leaves), replaced)
        self._overlay_ends = [(memtable, memtable.last_seq) for memtable in memtables]
        return True


def _hashed(id_key: bytes, leaves: Leaves) -> Hashed:
    return Hashed(id_key, id_hash(id_key), entry_digest(id_key, leaves))
