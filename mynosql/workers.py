"""The threads of one open database and the one lock that they share with the application.

Owns the lock, the fsync thread and the seal thread; each only calls a step of the replica when it is due, does the
heavy half without the lock, and sleeps until something is due. A worker that dies leaves its error in `failure`,
which the next call of the application raises; no caller is left waiting. Driven by database.MyNoSQL.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mynosql.errors import MyNoSQLError, StorageError, StorageFailed
from mynosql.memory import Returns
from mynosql.replica import Replica
from mynosql.sharing import interpreter_shared
from mynosql.store.store import Job

PRESSURE_SEAL = 0.75
"""Up to this share sealing waits for a pause of the writers, from whom it takes processor time in a burst."""
PRESSURE_CHECK_MASK = 31
"""The pressure is looked at after each 32nd write: a memtable takes thousands."""
SEAL_DELAY_S_MAX = 10.0
"""A full memtable waits no longer than this for a pause."""
SEAL_PAUSE_S = 0.1
"""Nobody wrote for this long: a pause."""
PRESSURE_SLOW = 0.9
"""From this share of the allowed unsealed bytes on, each save waits a little; at 1.0 until a seal is done."""
PRESSURE_WAIT_S_MAX = 0.002
PROGRESS_S = 0.2
"""How often compactdb() tells how far it is."""
FULL_RETRY_S = 1.0
"""How long the sealer rests after a full disk before it tries again."""


class Workers:
    """The lock and the background threads. `changed` is notified whenever anything may have become true."""

    def __init__(self, replica: Replica, *, fsync_interval_s: float) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.failure: BaseException | None = None
        self.on_durable: Callable[[], None] = lambda: None
        """Called without the lock after each fsync: wakes the I/O thread."""
        self._replica = replica
        self._store = replica.store
        self._fsync_interval_s = fsync_interval_s
        self._sync_wake = threading.Condition(self.lock)
        self._seal_wake = threading.Condition(self.lock)
        self._sync_at: float | None = None
        self.is_pressed = False
        """Writers have to slow down."""
        self._writes = 0
        self._waiters = 0
        self._is_stopping = False
        self._is_seal_idle = False
        self._seal_at: float | None = None
        self._due_since: float | None = None
        self._threads: list[threading.Thread] = []
        self._returns = Returns()
        replica.on_work = replica.store.aging.on_begun = self.wake_sealer

    def start(self) -> None:
        """Both threads run."""
        for name, loop in (("sync", self._sync_loop), ("seal", self._seal_loop)):
            thread = threading.Thread(target=self._guarded, args=(loop,), name=f"mynosql-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Both threads have ended; nothing is sealed or fsynced by this call."""
        with self.lock:
            self._is_stopping = True
            self.changed.notify_all()
            self._sync_wake.notify_all()
            self._seal_wake.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._threads.clear()

    # Called with the lock held

    def on_written(self) -> None:
        """Something was written to the store: arm the fsync, wake the sealer when it has work, tell the waiting."""
        if self._sync_at is None:
            self._arm_sync(0.0 if self._replica.has_listeners else self._fsync_interval_s)
        self._writes += 1
        if self.is_pressed or not self._writes & PRESSURE_CHECK_MASK or self._seal_at is None:
            self.is_pressed = self._store.pressure >= PRESSURE_SLOW
            if self._is_seal_idle and (self._seal_at is None or self._store.is_seal_due):
                self._seal_wake.notify()
        if self._waiters:
            self.changed.notify_all()

    def _arm_sync(self, delay_s: float) -> None:
        due = time.monotonic() + delay_s
        if self._sync_at is None or due < self._sync_at:
            self._sync_at = due
            self._sync_wake.notify()

    def sync_now(self) -> None:
        """The fsync thread starts as soon as it can (a message waits for it, or durability is "each")."""
        self._arm_sync(0.0)

    def wake_sealer(self) -> None:
        """There is something to seal, to count or to write again."""
        self._seal_wake.notify()

    def wait(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """Blocks, lock released, until the condition holds (True) or the time is over (False).

        Raises the error of a dead worker rather than waiting for it.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            if condition():
                return True
            self.check()
            if self._is_stopping:
                return False
            rest_s = None if deadline is None else deadline - time.monotonic()
            if rest_s is not None and rest_s <= 0:
                return False
            self._waiters += 1
            try:
                self.changed.wait(rest_s)
            finally:
                self._waiters -= 1

    def wait_durable(self) -> None:
        """All that is written now is fsynced on return."""
        target = self._store.written
        self.sync_now()
        self.wait(lambda: self._store.durable >= target or self._store.read_only_reason is not None, None)
        if self._store.durable < target:
            raise StorageFailed(f"the save may not survive a power cut: {self._store.read_only_reason}")

    def check(self) -> None:
        """Raises what ended a background thread."""
        if self.failure is not None:
            raise StorageFailed(
                f"a background thread of this database died ({self.failure!r}); close it and open it again"
            ) from self.failure

    # Called without the lock

    def slow_down(self) -> None:
        """Back-pressure: returns at once while the sealer keeps up, later and later as it falls behind."""
        pressure = self._store.pressure
        if pressure < PRESSURE_SLOW:
            return
        if pressure < 1.0:
            time.sleep((pressure - PRESSURE_SLOW) / (1.0 - PRESSURE_SLOW) * PRESSURE_WAIT_S_MAX)
            return
        with self.lock:
            self.wait(lambda: self._store.pressure < 1.0 or self._store.read_only_reason is not None, None)

    def compact(self, progress: Callable[[int, int], None] | None) -> None:
        """All space that can be given back is, on return. progress(done, total): rows, now and then.

        Raises StorageFull (some was given back), StorageFailed.
        """
        store = self._store
        with self.lock:
            self.check()
            store.ask_compaction()
            self._seal_wake.notify()
        while True:
            with self.lock:
                self.wait(lambda: not store.is_compaction_asked or self._is_stopping, PROGRESS_S)
                is_over, (done, total) = not store.is_compaction_asked or self._is_stopping, store.compaction_progress
                error = store.compaction_error
                if store.read_only_reason is not None:
                    raise StorageFailed(f"no space can be given back: {store.read_only_reason}; open it again")
            if progress is not None:
                progress(total if is_over else min(done, total), total)
            if is_over:
                if error is not None:
                    raise error
                return

    # The threads

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:
            with self.lock:
                self.failure = error
                self._replica.on_failure(error)
                self.changed.notify_all()
            self.on_durable()

    def _sync_loop(self) -> None:
        while True:
            with self.lock:
                while not self._is_stopping and not self._is_sync_due():
                    self._sync_wake.wait(None if self._sync_at is None else max(self._sync_at - time.monotonic(), 0))
                if self._is_stopping:
                    return
                self._sync_at = None
                job = self._store.sync_job()
            if job is None:
                continue
            error: MyNoSQLError | None = None
            try:
                job.run()
            except StorageError as failed:
                error = failed
            with self.lock:
                self._store.finish(job, error)
                if error is not None:
                    self._replica.on_failure(error)
                self._replica.on_durable(time.monotonic())
                self.changed.notify_all()
            self.on_durable()

    def _may_put_off(self, now: float) -> bool:
        """A seal is due, but there is room, it has not waited for long, and nobody waits for what comes after it."""
        if not self._store.is_seal_due or self._store.is_compaction_asked:
            self._due_since = None
            return False
        if self._due_since is None:
            self._due_since = now
        return self._store.pressure < PRESSURE_SEAL and now - self._due_since < SEAL_DELAY_S_MAX

    def _wait_pause(self) -> bool:
        """Waits until the writers pause or the pressure rises; True when they wrote meanwhile. Lock released."""
        written = self._store.written
        self._seal_wake.wait(SEAL_PAUSE_S)
        return self._store.written != written

    def _is_sync_due(self) -> bool:
        return self._sync_at is not None and self._sync_at <= time.monotonic()

    def _seal_loop(self) -> None:
        retry_at = 0.0
        while True:
            with self.lock:
                job = None
                while not self._is_stopping:
                    now = time.monotonic()
                    if self._may_put_off(now) and self._wait_pause():
                        continue
                    if now >= retry_at:
                        job = self._store.seal_job(now)
                    if self._store.age(now):
                        self._returns.want()
                    if job is not None or self._returns.is_due(now):
                        break
                    if self._replica.trim():
                        self.on_written()
                        self._seal_wake.wait(0)  # others get the lock in between
                        continue
                    due = self._store.next_due(now)
                    self._seal_at = due if due is None else max(due, retry_at)
                    times = [at for at in (self._seal_at, self._returns.next_due) if at is not None]
                    self._is_seal_idle = True
                    self._seal_wake.wait(max(min(times) - now, 0.0) if times else None)
                    self._is_seal_idle = False
                if self._is_stopping and job is None:
                    return
            if job is not None:
                if not self._run(job):
                    retry_at = time.monotonic() + FULL_RETRY_S
                self._returns.want()
            self._returns.give_back(time.monotonic())

    def _run(self, job: Job) -> bool:
        """A job of the seal thread; False: it failed. Lock not held."""
        error: MyNoSQLError | None = None
        try:
            with interpreter_shared():
                job.run()
        except StorageError as failed:
            error = failed
        with self.lock:
            self._store.finish(job, error)
            self._replica.trimmer.look()
            if error is not None:
                self._replica.on_failure(error)
            self._replica.on_durable(time.monotonic())
            self.changed.notify_all()
        self.on_durable()
        return error is None
