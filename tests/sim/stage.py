"""The mesh of one run, and how it comes together: machines, network, oracle, and the wait until all are equal.

Knows no plan's steps (steps.py) and no order of things (run.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple, TypeVar

from mynosql.errors import MyNoSQLError, StorageFailed, StorageFull
from mynosql.idkey import pack_id
from mynosql.replica import Fetch
from mynosql.row import Version
from mynosql.scope import is_within
from mynosql.store.store import StoreOptions
from tests.sim.machine import Disk, Machine, MachineOptions, Process
from tests.sim.merging import MergingProcess
from tests.sim.network import Network, NetworkOptions
from tests.sim.oracle import Oracle
from tests.sim.plan import Plan, Step
from tests.sim.virtual import Time

T = TypeVar("T")

SETTLE_S = 180.0
"""Healed meshes come to rest within this, however unlucky their timers are."""


def pick(items: Sequence[T], chance: float) -> T:
    return items[int(chance * len(items))]


class Rollback(NamedTuple):
    """An old folder was put back under its old identity."""

    renewals: int
    """How often its machine had taken another one by then."""
    known_to: frozenset[Machine]
    """Who knew more of its history than it had left. Others may have become mirrors since."""


class Stage:
    """Where one plan is carried out."""

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
                idle_seal_s=setup.idle_seal_s,
            ),
            fsync_interval_s=setup.fsync_interval_s, fsync_s=setup.fsync_s, acks=setup.acks,
        )
        self.oracle = Oracle()
        self.machines = self.oracle.machines
        self.backups: dict[Machine, Disk] = {}
        self.fetches: list[tuple[Process, Fetch, float, bytes, Version | None]] = []
        names = "ab" if "scopes" in setup.features else ("id",)
        self.ids = [pack_id(f"{names[number % len(names)]}{number}") for number in range(setup.ids)]
        self._has_parted = False
        """A mirror is gone for ever: another one may be the last that has something."""
        self._has_restored_mirror = False
        self._must_renew: dict[Machine, Rollback] = {}
        """Rolled back: to take another identity when it meets who knows."""
        self.log: list[str] = []
        self._places = 0

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
        if "merges" in self.plan.setup.features and self._places % 2:
            machine.make_worker = self._merging
        self.oracle.add(machine)
        return machine

    def _merging(self, process: Process) -> MergingProcess:
        return MergingProcess(
            process, self.oracle, lambda: process.machine in self.machines and self._can_save(process.machine),
            is_alike=self.plan.setup.is_merging_alike,
        )

    def _id_for(self, machine: Machine, step: Step) -> bytes:
        return self._within(machine, pick(self.ids, step.b), step)

    def _within(self, machine: Machine, id_key: bytes, step: Step) -> bytes:
        """That id, or a new one where the index does not take it in: a logger writes what nobody else does."""
        return id_key if is_within(machine.scope, id_key) else pack_id(f"z {machine.name} {step.number}")

    def _is_mirror(self, machine: Machine) -> bool:
        return machine.disk_mode if machine.process is None else machine.process.replica.is_mirror

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

    def bring_together(self) -> None:
        """All is healed, all machines live, and they are equal."""
        self.network.heal()
        for machine in self.machines:
            machine.free_disk()
            machine.cut_after = None
            machine.fails_flush = False
            machine.banned.clear()
            if machine.process is None:
                machine.start()
        self.time.run(7.0)  # an fsync that fails on a slow disk is known by then
        self._introduce_all()
        if not self.time.run_until(self.is_settled, within_s=SETTLE_S, every_s=0.5):
            raise AssertionError(f"not at rest {SETTLE_S:g} s after all healed\n{self.differences()}")
        for machine, rollback in self._must_renew.items():
            assert machine.renewals > rollback.renewals or machine not in self.machines or (
                not self._is_known_to_all_mirrors(machine, rollback)
            ), f"{machine.name} was rolled back, met who knows it, and goes on under its old identity"
        self._must_renew.clear()

    def _is_known_to_all_mirrors(self, machine: Machine, rollback: Rollback) -> bool:
        """Whatever mirror it met, that one had to tell."""
        mirrors = {other for other in self.machines if other is not machine and self._is_mirror(other)}
        return bool(mirrors) and mirrors <= rollback.known_to

    def _introduce_all(self) -> None:
        """There are as many mirrors as are asked for, and everybody is given their addresses."""
        wanted = self.plan.setup.acks + (self.plan.setup.acks > 1)
        missing = wanted - sum(map(self._is_mirror, self.machines))
        able = [
            machine for machine in self.machines if not self._is_mirror(machine)
            and machine.process is not None and machine.process.store.read_only_reason is None
        ]
        for machine in able[:max(missing, 0)]:
            self._make_mirror(machine)  # the last one forgot in a power cut that it had become one, or is lost
        mirrors = [machine.address for machine in self.machines if self._is_mirror(machine)]
        for machine in self.machines:
            for address in mirrors:
                if address != machine.address and machine.process is not None:
                    self._introduce(machine, address)

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
                self._introduce_all()  # that may have been forgotten
                return False
        first = None
        phantoms = self.oracle.phantoms()
        left_out = phantoms | {id_key for _, id_key in self._rejected()}  # a person has to look at them first
        for machine in self.machines:
            process = machine.process
            if process is None:
                return False
            counters = process.store.counters
            if process.replica.is_mirror:
                if counters.missing and any(entry.id_key not in phantoms for entry in process.store.missing(b"", 1000)):
                    return False
            elif counters.pending:
                return False
            if machine.scope is not None or left_out:
                continue
            if first is None:
                first = counters.records
            elif first != counters.records:
                return False
        if not self.oracle.are_equal(left_out):
            return False
        return not self._is_merging() or not self.oracle.has_conflicts(left_out)

    def _is_merging(self) -> bool:
        """Somebody who knows all, and may save, merges conflicts."""
        return any(
            machine.process is not None and machine.process.worker is not None and machine.scope is None
            and self._can_save(machine) for machine in self.machines
        )

    def _rejected(self) -> list[tuple[Machine, bytes]]:
        return [
            (machine, record.id_key) for machine in self.machines if machine.process is not None
            for record in machine.process.replica.node.rejected.values()
        ]

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
