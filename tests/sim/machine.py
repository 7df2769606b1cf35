"""One machine of the simulated mesh: its disk, and the process that has the database open: a real Replica and Store.

The process does what bridge.Bridge and workers.Workers do, without their threads: it decodes and encodes, steps the
replica, and runs fsync and seal jobs as events of their own, so that there are moments in which something is written
and not yet on the disk. Driven by network.Host (what comes in), virtual.Time (what is due) and run.Run (what its
application and fate do).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from mynosql.address import Address
from mynosql.errors import MyNoSQLError, PeerError, StorageFailed, StorageFull
from mynosql.replica import Command, Replica
from mynosql.replica import World as ReplicaWorld
from mynosql.scope import Scope, is_within
from mynosql.store.store import Job, Store, StoreOptions
from mynosql.sync import effects as fx
from mynosql.sync.messages import Changes, Entries
from mynosql.sync.options import SyncOptions
from mynosql.sync.wire import decode, encode
from tests.sim.memory_files import NO_LIMIT, MemoryFiles, PowerCut
from tests.sim.memory_index import MemoryIndex
from tests.sim.network import Network
from tests.sim.virtual import Time

EPOCH_MS = 1_700_000_000_000
FULL_RETRY_S = 1.0
"""As in workers.py."""
OUTGOING_MAX = 5_000
"""Commands that wait for an fsync: a slow disk may hold back some, never without end."""


FAREWELL_S, FAREWELL_LOOK_S = 2.0, 0.01
WORKER_PAUSE_S = 0.02
"""As merging.PAUSE_S."""


class Worker(Protocol):
    """One more worker of a process."""

    def plan(self, delay_s: float) -> None:
        """It looks by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineOptions:
    """What the machines of one run have in common."""

    store: StoreOptions = field(default_factory=StoreOptions)
    fsync_interval_s: float = 0.1
    fsync_s: float = 0.001
    """How long the disk takes for one fsync."""
    acks: int = 1
    sync: SyncOptions = field(default_factory=lambda: SyncOptions(compare_count_min=12, compare_differences_max=8))
    """Indexes of a dozen changes are compared by ranges, which fails where more than eight entries differ."""


@dataclass(slots=True)
class Disk:
    """What outlives a process. place: which machine the identity file belongs to."""

    files: MemoryFiles
    index: MemoryIndex
    node: int | None = None
    place: int = 0

    def copy(self) -> Disk:
        """All that was written, as a backup or a copy of the folder has it."""
        return Disk(self.files.copy(), self.index.crash(), self.node, self.place)


class Machine:
    """A place with a disk, where at most one process runs."""

    def __init__(
        self, name: str, place: int, *, time: Time, network: Network, options: MachineOptions, is_mirror: bool,
        knows: tuple[str, ...], database: str = "Sim",
    ) -> None:
        self.name = name
        self.place = place
        self.time = time
        self.network = network
        self.options = options
        self.database = database
        self.first_mode = is_mirror
        self.knows = knows
        self.disk = Disk(MemoryFiles(), MemoryIndex(), None, place)
        self.process: Process | None = None
        self.clock_offset_ms = 0
        self.fsync_s = options.fsync_s
        self.cut_after: int | None = None
        """The power fails at that many disk operations from now."""
        self.fails_flush = False
        """The next flush of a file fails."""
        self.was_mirror = is_mirror
        self.has_served = is_mirror
        """It was a mirror once: others may rely on it alone."""
        self.openings = 0
        self.renewals = 0
        self.merges = 0
        self.banned: set[Address] = set()
        """Addresses that its user took back."""
        self.make_worker: Callable[[Process], Worker] | None = None
        """Makes one more worker of each process."""
        self.failures: list[str] = []
        self.on_power_cut: Callable[[Machine, Process | None], None] = lambda machine, process: None
        self.on_opened: Callable[[Machine], None] = lambda machine: None
        self.on_durable: Callable[[Machine], None] = lambda machine: None
        self.on_unsure: Callable[[Machine], None] = lambda machine: None
        """An fsync failed: what it covered may be gone."""

    @property
    def address(self) -> Address:
        return Address(self.name, 8800)

    @property
    def disk_mode(self) -> bool:
        """True: whoever opens it next is a mirror, as far as its last process knew."""
        return self.was_mirror

    @property
    def scope(self) -> Scope | None:
        """What its index takes in; None: everything."""
        return None if self.process is None or self.process.replica.is_mirror else self.process.replica.node.scope

    def wall_ms(self) -> int:
        return EPOCH_MS + int(self.time.now * 1000) + self.clock_offset_ms

    # Fate

    def start(self) -> None:
        """A process opens the database; a power cut may end that, too."""
        assert self.process is None
        self.openings += 1
        self.disk.files.on_operation = self._on_operation
        self.disk.index.on_commit = lambda moment: self._on_operation(f"commit {moment}", "")
        try:
            self.process = Process(self)
        except PowerCut:
            self._lose_power(None)
            return
        except (StorageFull, StorageFailed):
            self.network.dark.discard(self.name)
            return
        self.on_opened(self)
        self.guarded(self.process, self.process.start)

    def kill(self) -> None:
        """kill -9: what was written stays, also what no fsync has covered, or what a failed one left in memory."""
        process = self.process
        if process is not None:
            self.process = None
            process.end()
            process.host.crash(is_silent=False)
            self.disk.index = self.disk.index.crash()

    def cut_power(self) -> None:
        """What was not fsynced is dropped, torn, or kept; nobody is told."""
        self._lose_power(self.process)

    def stop(self) -> None:
        """The application closes its database."""
        process = self.process
        if process is not None:
            self.guarded(process, process.stop)
            if self.process is process:
                self.process = None
                process.end()
                process.host.close()
                self.disk.index = self.disk.index.crash()

    def _lose_power(self, process: Process | None) -> None:
        if process is not None:
            process.end()
            process.host.crash(is_silent=True)
        else:
            self.network.dark.add(self.name)
        self.process = None
        self.cut_after = None
        self.fails_flush = False
        self.banned.clear()  # nobody waited for an fsync of it
        self.on_power_cut(self, process)
        files = self.disk.files.crash(self.time.rng)
        self.disk = Disk(files, self.disk.index.crash(), self.disk.node, self.disk.place)

    def guarded(self, process: Process, call: Callable[[], None]) -> None:
        """call(), while that process runs; a power cut in the middle ends it there."""
        if self.process is not process and not process.is_starting:
            return
        try:
            call()
        except PowerCut:
            if not process.is_over:
                self._lose_power(process)

    def _on_operation(self, doing: str, name: str) -> None:
        if self.cut_after is not None:
            self.cut_after -= 1
            if self.cut_after < 0:
                raise PowerCut
        if self.fails_flush and doing == "flush":
            self.fails_flush = False
            raise StorageFailed(f"{name}: input/output error")

    # The disk

    def fill_disk(self, room_bytes: int) -> None:
        self.disk.files.space_bytes = self.disk.files.used_bytes + room_bytes

    @property
    def is_full(self) -> bool:
        """The disk has little room, or none."""
        return self.disk.files.space_bytes != NO_LIMIT

    def free_disk(self) -> None:
        self.disk.files.space_bytes = NO_LIMIT
        self.fsync_s = self.options.fsync_s


class Process:
    """One opening of the database of a machine. Implements network.Handler."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.time = machine.time
        self.is_over = False
        self.is_starting = True
        self.rng = random.Random(machine.time.rng.getrandbits(64))
        disk = machine.disk
        is_moved = disk.node is not None and disk.place != machine.place
        if disk.node is None or is_moved:
            disk.node, disk.place = self.rng.getrandbits(64), machine.place
        self.store = Store.open(disk.files, disk.index, machine.options.store, node=disk.node)
        is_new = not self.store.note("mode")
        self.replica = Replica(
            self.store, name=machine.database, node=disk.node, is_moved=is_moved,
            is_mirror=machine.first_mode if is_new else None, acks=machine.options.acks, options=machine.options.sync,
            world=ReplicaWorld(
                wall_ms=machine.wall_ms, mint=self.rng.randbytes, renew_node=self._renew_node, rng=self.rng
            ),
        )
        self.replica.before_long_work = self._send_ready
        self.replica.on_work = self._plan_seal
        self.host = machine.network.add(machine.name, self, machine.address.port)
        self.received: Counter[str] = Counter()
        """Messages by kind."""
        self.rows_told = 0
        """Rows from outside of the scope that came over links."""
        self._sync_at: float | None = None
        self._seal_at: float | None = None
        self._is_sealing = False
        self._under_way: dict[Job, MyNoSQLError | None] = {}
        """Jobs that have run, with what they raised, before the lock is had again to take their outcome."""
        self._retry_at = 0.0
        self._wake_at: float | None = None
        self.worker: Worker | None = None

    def start(self) -> None:
        """As opened.OpenDatabase: sockets, conversations, then the addresses that the user gives."""
        machine, replica = self.machine, self.replica
        if replica.is_mirror:
            self.host.listen()
        self.is_starting = False
        replica.start(self.time.now, advertised=self._advertised(), publisher_port=self._publisher_port())
        for name in machine.knows:
            replica.add_address(Address(name, 8800), False, self.time.now)
        if machine.make_worker is not None:
            self.worker = machine.make_worker(self)
        self.on_written()
        self._round()

    def stop(self) -> None:
        """As opened.OpenDatabase.close()."""
        self.replica.stop(self.time.now)
        job = self.store.sync_job()
        if job is not None:
            self.store.finish(job, self._run_job(job))
        self._send_ready()
        for job, error in list(self._under_way.items()):  # as threads are joined
            self._end_job(job, error)
        try:
            self.store.close()
        except (StorageFailed, StorageFull) as error:
            self.machine.failures.append(str(error))

    def end(self) -> None:
        """Nothing of this process happens any more."""
        self.machine.was_mirror = self.replica.is_mirror
        self.is_over = True

    def _renew_node(self) -> int:
        self.machine.renewals += 1
        self.machine.disk.node = self.rng.getrandbits(64)
        return self.machine.disk.node

    def _advertised(self) -> Address | None:
        return self.machine.address if self.replica.is_mirror else None

    def _publisher_port(self) -> int:
        return self.machine.address.port + 1 if self.replica.is_mirror else 0

    def set_mode(self, is_mirror: bool) -> None:
        """As bridge.Bridge.set_mode."""
        now = self.time.now
        if is_mirror == self.replica.is_mirror:
            return
        if is_mirror:
            self.machine.has_served = True
            self.host.listen()
        self.replica.set_mode(is_mirror, now)
        self.replica.set_endpoint(self._advertised(), self._publisher_port(), now)
        self.on_written()
        if self.replica.is_waiting_for_sync:
            self._arm_sync(0.0)
        self._round()
        if not is_mirror:
            self._unlisten(now + FAREWELL_S)

    def _unlisten(self, latest: float) -> None:
        """The Bye leaves first, as far as the disk lets it."""
        if self.is_over or self.replica.is_mirror:
            return
        if self.replica.is_waiting_for_sync and self.time.now < latest:
            self.time.after(FAREWELL_LOOK_S, lambda: self.machine.guarded(self, lambda: self._unlisten(latest)))
        else:
            self.host.unlisten()

    def act(self, call: Callable[[], None]) -> None:
        """The application does something with the replica; what follows from it happens."""
        written = self.store.written
        call()
        self._after_input(written)
        self._round()

    # network.Handler

    def on_frames(self, link: fx.Link, frames: list[bytes], user_id: str) -> None:
        self.machine.guarded(self, lambda: self._on_frames(link, frames, user_id))

    def _on_frames(self, link: fx.Link, frames: list[bytes], user_id: str) -> None:
        message = decode(frames)
        self.received[type(message).__name__] += 1
        if isinstance(message, Entries | Changes) and self.machine.scope is not None:
            self.rows_told += sum(not is_within(self.machine.scope, row.id_key) for row in message.rows)
        written = self.store.written
        self.replica.on_message(link, message, self.time.now, user_id=user_id)
        self._after_input(written)
        self._round()

    def on_published(self, address: Address, frames: list[bytes]) -> None:
        self.machine.guarded(self, lambda: self._on_published(address, frames))

    def _on_published(self, address: Address, frames: list[bytes]) -> None:
        message = decode(frames[1:])
        self.received[type(message).__name__] += 1
        written = self.store.written
        self.replica.on_published(address, message, self.time.now)
        self._after_input(written)
        self._round()

    def on_link_up(self, link: fx.Link) -> None:
        self.machine.guarded(self, lambda: self._on_link(link, True))

    def on_link_down(self, link: fx.Link, reason: str) -> None:
        self.machine.guarded(self, lambda: self._on_link(link, False))

    def _on_link(self, link: fx.Link, is_up: bool) -> None:
        written = self.store.written
        if is_up:
            self.replica.on_link_up(link, self.time.now)
        else:
            self.replica.on_link_down(link, self.time.now)
        self._after_input(written)
        self._round()

    # As bridge.Bridge

    def _after_input(self, written: int) -> None:
        if self.store.written != written:
            self.on_written()
        if self.replica.is_waiting_for_sync:
            self._arm_sync(0.0)

    def _round(self) -> None:
        replica, now = self.replica, self.time.now
        due = replica.next_due(now)
        if due is not None and due <= now:
            written = self.store.written
            replica.step(now)
            self._after_input(written)
            due = replica.next_due(now)
        self._send_ready()
        if due is not None and (self._wake_at is None or due < self._wake_at):
            self._wake_at = due
            self.time.at(due, self._on_wake)

    def _on_wake(self) -> None:
        if self._wake_at is not None and self.time.now >= self._wake_at:
            self._wake_at = None
            self.machine.guarded(self, self._round)

    def _send_ready(self) -> None:
        if self.is_over:
            return
        for command in self.replica.take_outgoing():
            self._perform(command)
        assert len(self.replica._outgoing) <= OUTGOING_MAX, f"{self.machine.name}: too much waits for an fsync"

    def _perform(self, command: Command) -> None:
        host = self.host
        if isinstance(command, fx.Send):
            host.send(command.link, encode(command.message))
        elif isinstance(command, fx.Publish):
            host.publish(command.topic.value, encode(command.message))
        elif isinstance(command, fx.Dial):
            host.dial(command.address)
        elif isinstance(command, fx.HangUp):
            host.hang_up(command.link)
        elif isinstance(command, fx.Subscribe):
            host.subscribe(command.address, command.publisher, [topic.value for topic in command.topics])
        else:
            host.unsubscribe(command.address)

    # As workers.Workers: each worker is a step that says when it is due again

    def on_written(self) -> None:
        """Something was written: it is to be fsynced, and sealed some time."""
        self._arm_sync(0.0 if self.replica.has_listeners else self.machine.options.fsync_interval_s)
        self._plan_seal()
        if self.worker is not None:
            self.worker.plan(WORKER_PAUSE_S)

    def _arm_sync(self, delay_s: float) -> None:
        due = self.time.now + delay_s + self.machine.fsync_s
        if self._sync_at is None or due < self._sync_at:
            self._sync_at = due
            self.time.at(due, self._on_sync_due)

    def _on_sync_due(self) -> None:
        if self._sync_at is not None and self.time.now >= self._sync_at:
            self._sync_at = None
            self.machine.guarded(self, self._sync)

    def _sync(self) -> None:
        job = self.store.sync_job()
        if job is not None:
            error = self._under_way[job] = self._run_job(job)
            self.time.after(self.machine.fsync_s, lambda: self.machine.guarded(self, lambda: self._done(job, error)))

    def _plan_seal(self) -> None:
        if self._is_sealing:
            return
        due = self.store.next_due(self.time.now)
        if due is None:
            return
        due = max(due, self._retry_at, self.time.now)
        if self._seal_at is None or due < self._seal_at:
            self._seal_at = due
            self.time.at(due, self._on_seal_due)

    def _on_seal_due(self) -> None:
        if self._seal_at is not None and self.time.now >= self._seal_at:
            self._seal_at = None
            self.machine.guarded(self, self._seal)

    def _seal(self) -> None:
        if self._is_sealing:
            return
        self.store.age(self.time.now)
        job = self.store.seal_job(self.time.now)
        if job is None:
            self._plan_seal()
            return
        self._is_sealing = True
        error = self._under_way[job] = self._run_job(job)
        if error is not None:
            self._retry_at = self.time.now + FULL_RETRY_S
        self.time.after(2 * self.machine.fsync_s, lambda: self.machine.guarded(self, lambda: self._sealed(job, error)))

    def _sealed(self, job: Job, error: MyNoSQLError | None) -> None:
        self._is_sealing = False
        self._done(job, error)
        self._plan_seal()

    def _run_job(self, job: Job) -> MyNoSQLError | None:
        try:
            job.run()
        except (StorageFailed, StorageFull) as error:
            return error
        return None

    def _end_job(self, job: Job, error: MyNoSQLError | None) -> None:
        del self._under_way[job]
        self.store.finish(job, error)

    def _done(self, job: Job, error: MyNoSQLError | None) -> None:
        self._end_job(job, error)
        if error is not None:
            self.replica.on_failure(error)
            if self.store.read_only_reason is not None:
                self.machine.on_unsure(self.machine)
        self.machine.on_durable(self.machine)
        written = self.store.written
        self.replica.on_durable(self.time.now)
        self._after_input(written)
        self._round()


__all__ = ["Disk", "Machine", "MachineOptions", "PeerError", "Process"]
