"""One run: a plan is carried out on machines over a network, then all heals, and the oracle judges.

    Run(make_plan(17)).execute()        # raises Violation; its text says how to repeat it

Deterministic: the same plan does the same, event for event, in every process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

from mynosql.codec import pack_body
from mynosql.errors import MyNoSQLError, StorageFailed, StorageFull
from mynosql.idkey import pack_id
from mynosql.ledger import Save
from mynosql.replica import Fetch
from mynosql.revision import is_body_equal, is_in_past, parse_rev, rev_string
from mynosql.row import Leaf, Version
from mynosql.store.store import StoreOptions
from mynosql.sync import effects as fx
from tests.sim.machine import Disk, Machine, MachineOptions, Process
from tests.sim.network import Network, NetworkOptions
from tests.sim.oracle import Oracle, leaves_of
from tests.sim.plan import Plan, Step
from tests.sim.virtual import Time

T = TypeVar("T")

SETTLE_S = 180.0
"""Healed meshes come to rest within this, however unlucky their timers are."""
QUIET_AFTER_S = 25.0
"""Heartbeats have slowed down, probes have gone back to the first choice."""
QUIET_S = 12.0
"""More than any timer of small talk, so that nothing hides between two windows."""
QUIET_WINDOWS = 6
SMALL_TALK = {"Heartbeat", "Ping", "Pong"}
BODY_BYTES = (1, 30, 300, 3_000)
BODY_BYTES_LARGE = 150_000
"""Travels in pieces."""
QUEUE_MAX = 300
"""Messages that wait in one connection: credit and small windows keep them few."""
CLOCK_JUMPS_MS = (-3_600_000, -1_000, 1_000, 90_000, 3_600_000, 365 * 86_400_000)
FETCH_S = (0.1, 5.0)


class Violation(AssertionError):
    """A run that broke a promise."""


def pick(items: Sequence[T], chance: float) -> T:
    return items[int(chance * len(items))]


class Run:
    """Carries out one plan."""

    def __init__(self, plan: Plan, *, is_quiet_checked: bool = True) -> None:
        setup = plan.setup
        self.plan = plan
        self.is_quiet_checked = is_quiet_checked
        self.time = Time(plan.seed)
        self.network = Network(self.time, NetworkOptions(
            latency_s=setup.latency_s, jitter_s=setup.jitter_s, publish_messages_max=setup.publish_messages_max,
        ))
        self.options = MachineOptions(
            store=StoreOptions(
                memtable_bytes_max=setup.memtable_bytes_max, unsealed_bytes_max=4 * setup.memtable_bytes_max,
                idle_seal_s=setup.idle_seal_s, seal_threads=1,
            ),
            fsync_interval_s=setup.fsync_interval_s, fsync_s=setup.fsync_s,
        )
        self.oracle = Oracle()
        self.machines = self.oracle.machines
        self.backups: dict[Machine, Disk] = {}
        self.fetches: list[tuple[Process, Fetch, float, bytes, Version | None]] = []
        self.ids = [pack_id(f"id{number}") for number in range(setup.ids)]
        self._must_renew: dict[Machine, int] = {}
        """Rolled back, and others know it: how often they had been renewed then."""
        self.log: list[str] = []
        self._places = 0

    def execute(self) -> None:
        """The plan, the healing and the checks. Raises Violation."""
        try:
            self._build()
            for step in self.plan.steps:
                self._carry_out(step)
            self.finish()
        except Violation:
            raise
        except Exception as error:  # what the product throws at its callers is a failure of this seed, too
            raise Violation(f"{type(error).__name__}: {error}\n{self.story()}") from error

    def _build(self) -> None:
        setup = self.plan.setup
        rng = Random(f"build {self.plan.seed}")
        mirrors = [f"m{number}" for number in range(setup.mirrors)]
        for place, name in enumerate(mirrors):
            knows = mirrors[:place] if setup.is_acquainted else [other for other in mirrors if other != name]
            self.add_machine(name, is_mirror=True, knows=tuple(knows)).start()
        for number in range(setup.peers):
            knows = rng.sample(mirrors, rng.randint(1, len(mirrors)))
            self.add_machine(f"p{number}", is_mirror=False, knows=tuple(knows)).start()

    def add_machine(self, name: str, *, is_mirror: bool, knows: tuple[str, ...]) -> Machine:
        self._places += 1
        machine = Machine(
            name, self._places, time=self.time, network=self.network, options=self.options, is_mirror=is_mirror,
            knows=knows,
        )
        self.oracle.add(machine)
        return machine

    # Steps

    def _carry_out(self, step: Step) -> None:
        machine = pick(self.machines, step.a)
        before = self.time.now
        action: Callable[[Machine, Step], object] = getattr(self, "_" + step.kind.replace("-", "_"))
        did = action(machine, step)
        if did is not False:
            self.log.append(f"{before:9.4f} {step} {machine.name} {'' if did in (None, True) else did}")
        if step.kind not in ("moment", "while"):
            self.time.run(step.b * step.c * 0.3)
        if step.number % 4 == 0:
            self.oracle.check_counters(machine)
        assert self.network.queued_max <= QUEUE_MAX, f"{self.network.queued_max} messages wait in one connection"

    def _can_save(self, machine: Machine) -> bool:
        """A folder that is older than what it told others forks its history when it saves before it meets anybody,
        as do two processes with one node id: no protocol can mend that."""
        process = machine.process
        if process is None or process.store.pressure >= 1.0:
            return False
        return not self.oracle.is_rolled_back(machine) and not self.oracle.is_twin(machine)

    def _app(self, machine: Machine, call: Callable[[Process], None]) -> None:
        process = machine.process
        assert process is not None

        def act() -> None:
            with contextlib.suppress(StorageFull, StorageFailed):  # the application is told that nothing is saved
                process.act(lambda: call(process))
            self.oracle.on_answered(machine)

        machine.guarded(process, act)

    def _body(self, step: Step) -> bytes:
        rng = Random(step.n)
        size = BODY_BYTES_LARGE if rng.random() < 0.01 else rng.choice(BODY_BYTES)
        return pack_body({"n": step.n, "x": rng.randbytes(size)})

    def _save(self, machine: Machine, step: Step, body: bytes | None = None) -> object:
        if not self._can_save(machine):
            return False
        id_key = pick(self.ids, step.b)
        content = body or self._body(step)

        def save(process: Process) -> None:
            entry = process.store.find(id_key)
            given = None if entry is None or entry.winner.deleted else rev_string(entry.winner)
            self._save_over(process, id_key, given, content, branch=False)

        self._app(machine, save)
        return id_key

    def _save_over(self, process: Process, id_key: bytes, given: str | None, body: bytes, *, branch: bool) -> None:
        entry = process.store.find(id_key)
        leaves = () if entry is None else entry.leaves
        parents = self._parents(leaves, given)
        self.oracle.on_attempt(process.machine, id_key, parents)
        leaf = process.replica.ledger.save(Save(id_key, given, body), branch=branch, now_ms=process.machine.wall_ms())
        self.oracle.on_written(process, id_key, leaf, parents)

    def _parents(self, leaves: Sequence[Leaf], given: str | None) -> list[Leaf | Version]:
        """What a save over that rev builds on: that revision, and those beside it with the same body."""
        if not leaves:
            return []
        rev = parse_rev(given)
        followed = leaves[0] if rev is None else next(
            (leaf for leaf in leaves if (leaf.hlc, leaf.node) == (rev.hlc, rev.node)), None
        )
        if followed is None:
            assert rev is not None
            return [Version(rev.hlc, rev.node)]
        return [leaf for leaf in leaves if leaf is followed or is_body_equal(leaf, followed)]

    def _same(self, machine: Machine, step: Step) -> object:
        """One of few bodies, so that two nodes save the same apart."""
        return self._save(machine, step, pack_body({"same": step.n % 2}))

    def _batch(self, machine: Machine, step: Step) -> object:
        if not self._can_save(machine):
            return False
        rng = Random(step.n)
        id_keys = rng.sample(self.ids, min(len(self.ids), 3))

        def save(process: Process) -> None:
            entries = [process.store.find(id_key) for id_key in id_keys]
            saves = [
                Save(
                    id_key, None if entry is None or entry.winner.deleted else rev_string(entry.winner),
                    pack_body({"n": step.n, "place": place}),
                )
                for place, (id_key, entry) in enumerate(zip(id_keys, entries, strict=True))
            ]
            parents = [
                self._parents(() if entry is None else entry.leaves, given.given)
                for given, entry in zip(saves, entries, strict=True)
            ]
            for id_key, found in zip(id_keys, parents, strict=True):
                self.oracle.on_attempt(machine, id_key, found)
            leaves = process.replica.ledger.save_many(saves, now_ms=machine.wall_ms())
            for id_key, leaf, found in zip(id_keys, leaves, parents, strict=True):
                self.oracle.on_written(process, id_key, leaf, found)

        self._app(machine, save)
        return id_keys

    def _branch(self, machine: Machine, step: Step) -> object:
        """A save over a loser, or over a revision that was superseded here."""
        if not self._can_save(machine):
            return False
        assert machine.process is not None
        id_key = pick(self.ids, step.b)
        entry = machine.process.store.find(id_key)
        if entry is None or entry.winner.deleted:
            return False
        older = [
            write.name for write in self.oracle.writes.values()
            if write.name.id_key == id_key and write.machine is machine and write.is_required
        ]
        revs = [rev_string(leaf) for leaf in entry.leaves[1:] if not leaf.deleted]
        if older and not revs:
            name = pick(older, step.c)
            version = Version(name.hlc, name.node)
            is_leaf = any((leaf.hlc, leaf.node) == version for leaf in entry.leaves)
            if not is_leaf and any(is_in_past(version, leaf) and leaf.generation > 1 for leaf in entry.leaves):
                revs = [f"1-{name.hlc:016x}{name.node:016x}"]
        if not revs or len(entry.leaves) >= 5:
            return False
        given = pick(revs, step.c)
        self._app(machine, lambda process: self._save_over(process, id_key, given, self._body(step), branch=True))
        return id_key

    def _delete(self, machine: Machine, step: Step) -> object:
        return self._cover(machine, pick(self.ids, step.b), None)

    def _resolve(self, machine: Machine, step: Step) -> object:
        return self._cover(machine, pick(self.ids, step.b), self._body(step))

    def _cover(self, machine: Machine, id_key: bytes, body: bytes | None) -> object:
        """All known leaves are covered, by a body or a tombstone."""
        if not self._can_save(machine):
            return False

        def cover(process: Process) -> None:
            entry = process.store.find(id_key)
            if entry is None:
                return
            ledger, now_ms = process.replica.ledger, machine.wall_ms()
            self.oracle.on_attempt(machine, id_key, entry.leaves)
            if body is None:
                leaf = ledger.delete(id_key, now_ms=now_ms)
            else:
                leaf = ledger.resolve(id_key, body, now_ms=now_ms)
            if leaf not in entry.leaves:
                self.oracle.on_written(process, id_key, leaf, entry.leaves)

        self._app(machine, cover)
        return id_key

    def _fetch(self, machine: Machine, step: Step) -> object:
        process = machine.process
        if process is None or not process.replica.has_live_mirror:
            return False
        id_key, timeout_s = pick(self.ids, step.b), pick(FETCH_S, step.c)

        def fetch(process: Process) -> None:
            entry = process.store.find(id_key)
            asked = None if entry is None else Version(entry.winner.hlc, entry.winner.node)
            (made,) = process.replica.fetch([id_key], timeout_s, step.n % 3 == 0, self.time.now)
            self.fetches.append((process, made, self.time.now + timeout_s, id_key, asked))

        self._app(machine, fetch)
        return id_key

    def _moment(self, machine: Machine, step: Step) -> None:
        self.time.run(0.2 * step.b * step.c)

    def _while(self, machine: Machine, step: Step) -> None:
        self.time.run(20 * step.b * step.c)

    # The network

    def _other(self, machine: Machine, step: Step) -> Machine:
        others = [other for other in self.machines if other is not machine]
        return pick(others, step.b)

    def _block(self, machine: Machine, step: Step) -> object:
        other = self._other(machine, step)
        self.network.block(machine.name, other.name)
        return f"to {other.name}"

    def _isolate(self, machine: Machine, step: Step) -> object:
        other = self._other(machine, step)
        self.network.block(machine.name, other.name)
        self.network.block(other.name, machine.name)
        return f"from {other.name}"

    def _cut(self, machine: Machine, step: Step) -> object:
        other = self._other(machine, step)
        self.network.cut_between(machine.name, other.name)
        return f"from {other.name}"

    def _reset(self, machine: Machine, step: Step) -> object:
        other = self._other(machine, step)
        self.network.reset_between(machine.name, other.name)
        return f"to {other.name}"

    def _noise(self, machine: Machine, step: Step) -> None:
        options = self.network.options
        options.loss_share = pick((0.0, 0.01, 0.1, 0.3), step.b)
        options.publish_loss_share = pick((0.0, 0.3, 1.0), step.c)
        options.duplicate_share = pick((0.0, 0.0, 0.2), step.n % 97 / 97)

    def _heal(self, machine: Machine, step: Step) -> None:
        self.network.heal()

    # Machines

    def _kill(self, machine: Machine, step: Step) -> object:
        if machine.process is None:
            return False
        machine.kill()
        return None

    def _power(self, machine: Machine, step: Step) -> None:
        machine.cut_power()

    def _power_at(self, machine: Machine, step: Step) -> object:
        if machine.process is None:
            return False
        machine.cut_after = int(12 * step.b)
        return f"after {machine.cut_after} operations"

    def _start(self, machine: Machine, step: Step) -> object:
        dead = [machine for machine in self.machines if machine.process is None]
        if not dead:
            return False
        chosen = pick(dead, step.b)
        chosen.start()
        return chosen.name

    def _stop(self, machine: Machine, step: Step) -> object:
        if machine.process is None:
            return False
        machine.stop()
        return None

    def _slow(self, machine: Machine, step: Step) -> None:
        machine.fsync_s = pick((0.2, 3.0), step.b)

    def _full(self, machine: Machine, step: Step) -> None:
        machine.fill_disk(int(3_000 * step.b))

    def _free(self, machine: Machine, step: Step) -> None:
        machine.free_disk()

    def _flush_error(self, machine: Machine, step: Step) -> object:
        if machine.process is None:
            return False
        machine.fails_flush = True
        return None

    def _clock(self, machine: Machine, step: Step) -> object:
        machine.clock_offset_ms = pick(CLOCK_JUMPS_MS, step.b) if step.c < 0.8 else 0
        return f"{machine.clock_offset_ms} ms off"

    # People

    def _is_mirror(self, machine: Machine) -> bool:
        return machine.disk_mode if machine.process is None else machine.process.replica.is_mirror

    def _mode(self, machine: Machine, step: Step) -> object:
        """The last mirror stays one: without any nobody converges."""
        process = machine.process
        if process is None or process.store.read_only_reason is not None:
            return False
        mirrors = [other for other in self.machines if self._is_mirror(other)]
        if mirrors == [machine]:
            return False
        is_mirror = not process.replica.is_mirror
        try:
            machine.guarded(process, lambda: process.set_mode(is_mirror))
        except (StorageFull, StorageFailed):
            return "failed"
        return "mirror" if is_mirror else "peer"

    def _demote(self, machine: Machine, step: Step) -> object:
        """A mirror that the others do not hear takes what peers write, and becomes one of them."""
        process = machine.process
        others = [other for other in self.machines if other is not machine and self._is_mirror(other)]
        if process is None or not process.replica.is_mirror or not others:
            return False
        for other in others:
            self.network.block(machine.name, other.name)
            self.network.block(other.name, machine.name)
        for other in self.machines:
            if not self._is_mirror(other):
                self._save(other, step)
        self.time.run(0.5)
        if machine.process is None:
            return "too late"
        return self._mode(machine, step)

    def _backup(self, machine: Machine, step: Step) -> object:
        if self.oracle.is_rolled_back(machine) or self.oracle.has_unsynced(machine):
            return False
        self.backups[machine] = machine.disk.copy()
        return None

    def _restore(self, machine: Machine, step: Step) -> object:
        """An old folder is put back while another mirror has everything."""
        if not self.backups:
            return False
        machine = pick(list(self.backups), step.c)
        backup = self.backups.pop(machine)
        if not any(self._is_mirror(other) for other in self.machines if other is not machine):
            return False
        self.bring_together()
        machine.kill()
        for write in self.oracle.writes_of(machine):
            write.seq = 0  # delivered, and the numbers begin anew
        machine.disk = backup
        if step.b < 0.5:
            backup.place = 0  # made by backupdb, or another machine's: the identity does not belong here
        else:
            self.oracle.rolled_back[machine] = machine.renewals
        machine.start()
        if backup.place and machine.process is not None and self._is_known_to_be_behind(machine, machine.process):
            self._must_renew[machine] = machine.renewals
        return f"{machine.name} {'in place' if backup.place else 'elsewhere'}"

    def _is_known_to_be_behind(self, machine: Machine, process: Process) -> bool:
        """Every mirror that it will meet remembers more of its history than it has."""
        index_id, head = process.replica.index_id.hex(), process.store.head_seq
        others = [other for other in self.machines if other is not machine and self._is_mirror(other)]
        return all(
            other.process is not None and any(
                int((other.process.store.note(f"{kind}/{index_id}") or b"0").split()[0]) > head
                for kind in ("cursor", "pushed", "witnessed")
            ) for other in others
        )

    def _copy(self, machine: Machine, step: Step) -> object:
        """A folder is copied, with its identity, and both live."""
        if self.oracle.is_rolled_back(machine) or self.oracle.is_twin(machine) or machine.disk.node is None:
            return False
        if self.oracle.has_unsynced(machine):
            return False  # the copy would know what a power cut takes from the original
        made = self.add_machine(f"c{self._places}", is_mirror=False, knows=machine.knows)
        made.disk = machine.disk.copy()
        if step.b < 0.5:
            made.place = made.disk.place  # a snapshot of the whole machine
        made.start()
        return f"to {made.name}{', a snapshot' if step.b < 0.5 else ''}"

    def _join(self, machine: Machine, step: Step) -> object:
        mirrors = [other.name for other in self.machines if self._is_mirror(other)]
        is_mirror = step.c < 0.3
        made = self.add_machine(f"j{self._places}", is_mirror=is_mirror, knows=(pick(mirrors, step.b),))
        made.start()
        return f"{made.name}, a {'mirror' if is_mirror else 'peer'}"

    def _depart(self, machine: Machine, step: Step) -> object:
        """A peer is never seen again. What it had delivered stays, also when the mirrors lose power just then."""
        process = machine.process
        if process is None or process.replica.is_mirror or self.oracle.is_rolled_back(machine):
            return False
        if self.oracle.is_twin(machine) or len(self.machines) < 3:
            return False
        is_struck = step.b < 0.5
        if is_struck:
            self._save(machine, step)
            head = process.store.head_seq
            self.time.run_until(lambda: process.is_over or process.replica.is_delivered(head), within_s=1.0)
            if process.is_over:
                return "too late"
        replica = process.replica
        rejected = process.replica.node.rejected
        self.oracle.on_lost(machine, is_delivered={
            write: replica.is_delivered(write.seq) and write.seq not in rejected
            for write in self.oracle.writes_of(machine)
        })
        machine.cut_power()
        self.backups.pop(machine, None)
        if is_struck:
            for other in self.machines:
                if self._is_mirror(other):
                    other.cut_power()
        return "and the mirrors lose power" if is_struck else None

    # The end

    def finish(self) -> None:
        """All heals, all come to rest, and the oracle judges; then once more after a power cut everywhere."""
        self.bring_together()
        self._resolve_rejected()
        self.oracle.check_all()
        for machine in self.machines:
            assert machine.process is not None
            self.oracle.check_cursors(machine, leaves_of(machine.process.store))
        self._check_fetches()
        if self.is_quiet_checked:
            self._check_quiet()
        self.time.run(2.0)  # the last fsyncs
        for machine in self.machines:
            machine.cut_power()
        for machine in self.machines:
            machine.start()
        self.oracle.check_all()

    def bring_together(self) -> None:
        """All is healed, all machines live, and they are equal."""
        self.network.heal()
        for machine in self.machines:
            machine.free_disk()
            machine.cut_after = None
            machine.fails_flush = False
            if machine.process is None:
                machine.start()
        if not any(self._is_mirror(machine) for machine in self.machines):
            self._make_mirror(self.machines[0])  # the last one forgot in a power cut that it had become one
        mirrors = [machine.address for machine in self.machines if self._is_mirror(machine)]
        for machine in self.machines:
            for address in mirrors:
                if address != machine.address:
                    self._introduce(machine, address)
        if not self.time.run_until(self.is_settled, within_s=SETTLE_S, every_s=0.5):
            raise AssertionError(f"not at rest {SETTLE_S:g} s after all healed\n{self.differences()}")
        for machine, renewals in self._must_renew.items():
            assert machine.renewals > renewals or machine not in self.machines, (
                f"{machine.name} was rolled back, met who knows it, and goes on under its old identity"
            )
        self._must_renew.clear()

    def _make_mirror(self, machine: Machine) -> None:
        process = machine.process
        assert process is not None
        machine.guarded(process, lambda: process.set_mode(True))

    def _introduce(self, machine: Machine, address: object) -> None:
        self._app(machine, lambda process: process.replica.add_address(address, True, self.time.now))  # type: ignore[arg-type]

    def is_settled(self) -> bool:
        """All know the same, mirrors hold all bodies, nobody owes anything."""
        for machine in self.machines:
            if machine.process is not None and machine.process.store.read_only_reason is not None:
                machine.kill()  # an fsync failed: its user opens the database again
                machine.start()
                return False
        first = None
        for machine in self.machines:
            process = machine.process
            if process is None:
                return False
            counters = process.store.counters
            if process.replica.is_mirror:
                if counters.missing:
                    return False
            elif counters.pending:
                return False
            if first is None:
                first = counters.records
            elif first != counters.records:
                return False
        known = [leaves_of(machine.process.store) for machine in self.machines if machine.process is not None]
        for _, id_key in self._rejected():  # a person has to look at them first
            for leaves in known:
                leaves.pop(id_key, None)
        return all(leaves == known[0] for leaves in known)

    def _rejected(self) -> list[tuple[Machine, bytes]]:
        return [
            (machine, record.id_key) for machine in self.machines if machine.process is not None
            for record in machine.process.replica.node.rejected.values()
        ]

    def _resolve_rejected(self) -> None:
        """What a mirror refused (a ninth leaf) waits for a person."""
        for _ in range(5):
            rejected = self._rejected()
            if not rejected:
                return
            for machine, id_key in rejected:
                self._cover(machine, id_key, pack_body({"resolved": True}))
            self.bring_together()

    def _check_fetches(self) -> None:
        for process, fetch, deadline, _, asked in self.fetches:
            if process.machine.process is not process:
                continue  # a killed process answers nobody
            assert fetch.is_done or self.time.now < deadline, f"{process.machine.name}: a fetch never ended"
            if fetch.outcome is fx.Outcome.FOUND and asked is not None:
                assert fetch.row is not None
                assert any(is_in_past(asked, leaf) for leaf in fetch.row.leaves), "a fetch answered something older"

    def _check_quiet(self) -> None:
        """A mesh at rest says nothing but that it lives, and writes nothing: before long there is such a time."""
        self.time.run(QUIET_AFTER_S)
        for _ in range(QUIET_WINDOWS):
            noise = self._listen()
            if not noise:
                return
        raise AssertionError(f"at rest for long, and not quiet: {'; '.join(noise)}")

    def _listen(self) -> list[str]:
        """What is said and written meanwhile beside small talk."""
        processes = [machine.process for machine in self.machines if machine.process is not None]
        for process in processes:
            process.received.clear()
        written = [process.store.written for process in processes]
        self.time.run(QUIET_S)
        noise = []
        for process, before in zip(processes, written, strict=True):
            talk = {kind: count for kind, count in process.received.items() if kind not in SMALL_TALK}
            if talk or process.store.written != before:
                noise.append(f"{process.machine.name} hears {talk}, writes {process.store.written - before} frames")
        return noise

    # Looking

    def story(self) -> str:
        return "\n".join([*self.log[-60:], self.differences()])

    def differences(self) -> str:
        """A line per machine."""
        lines = []
        for machine in self.machines:
            process = machine.process
            if process is None:
                lines.append(f"{machine.name}: down")
                continue
            try:
                status = process.replica.node.status()
                counters = process.store.counters
                lines.append(
                    f"{machine.name}: {'mirror' if process.replica.is_mirror else 'peer'} follows {status.mirror} "
                    f"connected {status.connected} filling {status.is_filling} behind {status.behind} {counters} "
                    f"head {process.store.head_seq} error {process.replica.last_error}"
                )
            except MyNoSQLError as error:
                lines.append(f"{machine.name}: {error}")
        return "\n".join(lines)
