"""One open database: folder, store, ledger, replica, threads and sockets joined, with the lock around them.

Owns the order of opening and closing and the waiting of callers. Knows id keys and packed bodies, not the
application's objects (database.MyNoSQL turns one into the other). Every method may be called from any thread.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from mynosql.address import parse_address
from mynosql.bridge import Bridge
from mynosql.damage import mended
from mynosql.errors import (
    MyNoSQLError,
    NotOpen,
    OptionInvalid,
    StorageCorrupt,
)
from mynosql.ledger import Ledger, Save
from mynosql.options import OpenOptions, check_mode
from mynosql.parallel import in_order
from mynosql.reading import Reading
from mynosql.record import TimeSortedIds
from mynosql.replica import Replica, World
from mynosql.row import Entry, Leaf, Leaves, Row
from mynosql.scope import Scope, check_scope
from mynosql.store.folder import Folder
from mynosql.store.opening import open_store
from mynosql.store.store import Store
from mynosql.store.types import MEMTABLES_MAX, FeedSlice, StoreOptions
from mynosql.store.types import CheckReport as StoreReport
from mynosql.sync.memory import Rejected
from mynosql.views import CheckReport, Level, Problem, SyncStatus
from mynosql.workers import Workers

PACK_THREADS = 3
"""Two keep up with a writer that never pauses on two cores; a third while one of them waits for the disk."""
REWRITE_PAUSE_S = 0.002
"""After each block that is written again: about as long as the block took."""


def wall_ms() -> int:
    """Milliseconds since 1970 by this machine's clock."""
    return time.time_ns() // 1_000_000


class OpenDatabase:
    """The parts of one open database. Made by opening; ended by close()."""

    def __init__(self, path: str, options: OpenOptions, *, answer: Callable[[bytes], bytes]) -> None:
        self.options = options
        self.folder = path
        self.watchers: Any = None
        self.merger: Any = None
        self.reject_watchers: Any = None
        self._closers: list[Callable[[], None]] = []
        self._is_closed = self._is_bridged = False
        self._random = random.SystemRandom()
        folder = Folder.open(path, mint=os.urandom)
        self._closers.append(folder.close)
        try:
            self._build(folder, answer)
        except BaseException:
            self._close_all()
            raise

    def _build(self, folder: Folder, answer: Callable[[bytes], bytes]) -> None:
        options = self.options
        self.name = options.name
        self.store: Store = open_store(
            folder.files,
            StoreOptions(
                memtable_bytes_max=options.memtable_bytes_max, cache_bytes_max=options.cache_bytes_max,
                unsealed_bytes_max=MEMTABLES_MAX * options.memtable_bytes_max,
                pack_all=partial(in_order, threads=PACK_THREADS), pause=partial(time.sleep, REWRITE_PAUSE_S),
            ),
            node=folder.identity.node,
        )
        self._closers.append(self.store.close)
        self.wholes = self.store.wholes
        self._ids = TimeSortedIds(self._random.getrandbits)
        world = World(
            wall_ms=wall_ms, mint=os.urandom, renew_node=lambda: folder.renew_identity(os.urandom).node,
            rng=self._random,
        )
        identity = folder.identity
        self.replica = Replica(
            self.store, name=options.name, node=identity.node, is_moved=identity.is_moved or self.store.is_rebuilt,
            is_mirror=check_mode(options.mode), world=world, acks=options.acks,
        )
        self._ledger: Ledger = self.replica.ledger
        self._trimmer = self.replica.trimmer
        self.workers = Workers(self.replica, fsync_interval_s=options.fsync_interval_s)
        self.lock = self.workers.lock
        self._is_each = options.durability == "each"
        if options.scope is not None:
            self.set_scope(check_scope(options.scope))
        self._bridge = Bridge(self.replica, self.workers, options, self.folder, answer)
        self.reading = Reading(
            self.replica, self.workers, mend=self.mend, wake=self._bridge.wake, is_closed=lambda: self._is_closed
        )
        self.workers.start()
        self._closers.append(self.workers.stop)
        self._bridge.start()
        self._closers.append(self._bridge.stop)
        self._is_bridged = True
        for url in options.peers:
            self.add_peer(url, False)

    def on_close(self, closer: Callable[[], None]) -> None:
        """closer runs when the database closes, before the parts that exist now."""
        self._closers.append(closer)

    def close(self) -> None:
        """Watchers, network, threads and store end in this order; everything saved is sealed. Repeatable."""
        with self.lock:
            if self._is_closed:
                return
            self._is_closed = True
            self.workers.changed.notify_all()
        self._close_all()

    def _close_all(self) -> None:
        first: BaseException | None = None
        while self._closers:
            try:
                self._closers.pop()()
            except Exception as error:
                first = first or error
        if first is not None:
            raise first

    # Identity and mesh

    @property
    def index_id(self) -> bytes:
        return self.replica.index_id

    @property
    def node_id(self) -> int:
        """Under which new revisions are written."""
        return self._ledger.node

    @property
    def is_mirror(self) -> bool:
        return self.replica.is_mirror

    @property
    def endpoint(self) -> str | None:
        return self._bridge.endpoint

    def next_id(self) -> str:
        with self.lock:
            return self._ids.next(wall_ms())

    @property
    def scope(self) -> Scope | None:
        return self.replica.node.scope

    def set_scope(self, scope: Scope | None) -> None:
        with self.lock:
            if self.replica.is_mirror:
                raise OptionInvalid("a mirror keeps every record: make it a peer first, with setdbmode('Peer')")
            self.replica.set_scope(scope, time.monotonic())
            self.workers.on_written()
        if self._is_bridged:
            self._bridge.wake()

    def set_mode(self, is_mirror: bool) -> None:
        self._bridge.set_mode(is_mirror)

    def add_peer(self, url: str, merge: bool) -> None:
        address = parse_address(url)
        self._bridge.check_reachable(address)
        with self.lock:
            self.replica.add_address(address, merge, time.monotonic())
            self.workers.on_written()
        self._bridge.wake()

    def del_peer(self, url: str) -> None:
        address = parse_address(url)
        with self.lock:
            self.replica.remove_address(address, time.monotonic())
            self.workers.on_written()
        self._bridge.wake()

    def list_peers(self) -> list[str]:
        with self.lock:
            return self.replica.addresses()

    # Saving

    def save(self, id_key: bytes, given: str | None, body: bytes, branch: bool) -> Leaf:
        workers = self.workers
        with self.lock:
            if self._trimmer.refusal is not None:
                raise self._trimmer.refusal
            try:
                leaf = self._ledger.save_new(id_key, body, wall_ms()) if given is None else None
                if leaf is None:
                    leaf = self._ledger.save(Save(id_key, given, body), branch=branch, now_ms=wall_ms())
            except StorageCorrupt as error:  # not by @mended: a call more for each save
                if not self.mend(error):
                    raise
                leaf = self._ledger.save(Save(id_key, given, body), branch=branch, now_ms=wall_ms())
            workers.on_written()
        if self._is_each or workers.is_pressed:
            self._after_write()
        return leaf

    @mended
    def save_many(self, saves: Sequence[Save]) -> list[Leaf]:
        with self.lock:
            if self._trimmer.refusal is not None:
                raise self._trimmer.refusal
            leaves = self._ledger.save_many(saves, now_ms=wall_ms())
            self.workers.on_written()
        self._after_write()
        return leaves

    @mended
    def delete(self, id_key: bytes, given: str | None) -> None:
        with self.lock:
            self._ledger.delete(id_key, given=given, now_ms=wall_ms())
            self.workers.on_written()
        self._after_write()

    @mended
    def resolve(self, id_key: bytes, body: bytes) -> Leaf:
        with self.lock:
            leaf = self._ledger.resolve(id_key, body, now_ms=wall_ms())
            self.workers.on_written()
        self._after_write()
        return leaf

    @mended
    def merge(self, id_key: bytes, body: bytes, seen: Leaves) -> Leaf | None:
        """As resolve, if the leaves are still those seen; None: they are not."""
        with self.lock:
            leaf = self._ledger.merge(id_key, body, seen=seen, now_ms=wall_ms())
            self.workers.on_written()
        self._after_write()
        return leaf

    def _after_write(self) -> None:
        if self._is_each:
            with self.lock:
                self.workers.wait_durable()
        self.workers.slow_down()

    # Damage

    def mend(self, error: StorageCorrupt | None) -> bool:
        """What the error is about was given up, to be fetched again: True, the call is worth another try."""
        with self.lock:
            if not self.replica.mend(error, time.monotonic()):
                return False
            self.replica.tell_damage(time.monotonic())
            self.workers.on_written()
        self._bridge.wake()
        return True

    # The feed and the outbox

    def feed_page(self, after_seq: int, bytes_max: int, low: bytes, high: bytes | None) -> FeedSlice:
        with self.lock:
            return self.store.feed(
                after_seq, until_seq=self.store.head_seq, bytes_max=bytes_max, bodies=False, body_bytes_max=0,
                low=low, high=high,
            )

    def wait_change(self, after_seq: int, timeout_s: float | None, is_over: Callable[[], bool]) -> bool:
        """True once a change after that seq exists, or is_over(); False after timeout_s, or when closing."""
        with self.lock:
            self.workers.wait(lambda: self.store.head_seq > after_seq or is_over() or self._is_closed, timeout_s)
            return not self._is_closed and (self.store.head_seq > after_seq or is_over())

    @property
    def is_closed(self) -> bool:
        """close() has begun."""
        return self._is_closed

    def notify(self) -> None:
        with self.lock:
            self.workers.changed.notify_all()

    def on_background_error(self, error: Exception) -> None:
        with self.lock:
            self.replica.on_failure(error)

    def pending_rows(self) -> list[Row]:
        with self.lock:
            return self.replica.pending_rows()

    def rejections(self) -> dict[int, tuple[Entry, Rejected]]:
        """What a mirror refused and is still so here, by seq."""
        with self.lock:
            return self.replica.rejections()

    def wait_rejections(
        self, is_new: Callable[[Collection[int]], bool], is_over: Callable[[], bool]
    ) -> tuple[Collection[int], dict[int, tuple[Entry, Rejected]]]:
        """All seqs that were refused and rejections(), once is_new(seqs) or is_over() holds, or the database closes."""
        with self.lock:
            self.workers.wait(lambda: is_new(self.replica.rejected_seqs) or is_over() or self._is_closed, None)
            return tuple(self.replica.rejected_seqs), self.replica.rejections()

    @mended
    def evict(self, id_key: bytes) -> bool:
        with self.lock:
            self.workers.check()
            is_gone = self.replica.evict(id_key)
            self.workers.on_written()
        self._after_write()
        return is_gone

    def set_cache_size(self, size_max: int | None) -> None:
        with self.lock:
            if self.is_mirror:
                raise OptionInvalid("a mirror holds every record: make it a peer first, with setdbmode('Peer')")
            self._trimmer.set_size(size_max)
            self.workers.on_written()
            self.workers.wake_sealer()

    def pin(self, id_key: bytes, *, is_pinned: bool) -> None:
        with self.lock:
            self._trimmer.pin(id_key, is_pinned=is_pinned)
            self.workers.on_written()

    def pin_all(self, prefix: str, *, is_pinned: bool) -> None:
        with self.lock:
            self._trimmer.pin_all(prefix, is_pinned=is_pinned)
            self.workers.on_written()

    @mended
    def retry(self, id_key: bytes) -> bool:
        """A record that was refused is owed once more; False: no such record is known here."""
        with self.lock:
            is_known = self.replica.retry(id_key, time.monotonic())
            self.workers.on_written()
        self._bridge.wake()
        self._after_write()
        return is_known

    def wait_sync(self, timeout_s: float | None, level: Level) -> bool:
        with self.lock:
            replica = self.replica
            if level == "mirrors" and replica.node.acks == 1:
                raise OptionInvalid(
                    "waitsync(level='mirrors') needs a number: open the database with acks=2 or more (it is remembered)"
                )
            if replica.is_mirror and not replica.knows_mirrors and level != "mirrors":
                return True
            if timeout_s is None and not replica.knows_mirrors:
                raise OptionInvalid(
                    "waitsync() would wait for ever: no mirror is known; call addpeer(url) first, or give a timeout"
                )
            target = self.store.head_seq
            self.workers.sync_now()
            self.workers.wait(lambda: replica.is_reached(target, level) or self._is_closed, timeout_s)
            is_refused = level != "sent" and any(seq <= target for seq in replica.rejections())
            return replica.is_reached(target, level) and not is_refused

    # Looking inside

    def sync_status(self) -> SyncStatus:
        with self.lock:
            return self.replica.sync_status(self._bridge.endpoint)

    def check(self, progress: Callable[[int, int], None] | None) -> CheckReport:
        report = self._checked(progress or (lambda done, total: None))
        self.mend(None)
        return CheckReport(
            ok=report.ok, records=report.records, blocks=report.blocks,
            problems=tuple(
                Problem(file=problem.file, offset=problem.offset, what=problem.what, records=problem.records)
                for problem in report.problems
            ),
        )

    def _checked(self, progress: Callable[[int, int], None]) -> StoreReport:
        """Others read and save between the steps."""
        store, workers = self.store, self.workers
        with self.lock:
            workers.check()
            if not workers.wait(lambda: not store.is_busy and not store.is_held, None):
                raise NotOpen("nothing was checked: the database is being closed")
            checker = store.begin_check()
        try:
            steps = checker.steps()
            while True:
                with self.lock:
                    if self._is_closed:
                        raise NotOpen("the database was closed while it was checked")
                    step = next(steps, None)
                if step is None:
                    break
                progress(*step)
        finally:
            with self.lock:
                report = store.end_check(checker)
                workers.wake_sealer()
                workers.changed.notify_all()
        return report


__all__ = ["MyNoSQLError", "OpenDatabase", "wall_ms"]
