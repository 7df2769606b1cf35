"""Steps that only some seeds have: scopes, mirrors that leave, addresses taken back, too many concurrent revisions.

One method per kind of step, as in steps.py, which inherits them.
"""

from __future__ import annotations

from mynosql.codec import pack_body
from mynosql.errors import MyNoSQLError
from mynosql.revision import rev_string
from mynosql.scope import check_scope
from tests.sim.machine import Machine, Process
from tests.sim.plan import Step
from tests.sim.stage import Stage, pick

SCOPES: tuple[list[str] | None, ...] = (None, [], ["a"], ["b"], ["a1", "b"], ["b1"], [])
CROWD = 9
"""One more than a mirror takes."""
PARTING_S = 20.0
CONFIRMED_S = 3.0


class Partings(Stage):
    """People who change the mesh."""

    def _scope(self, machine: Machine, step: Step) -> object:
        """A peer limits its index, or takes in more."""
        process = machine.process
        if process is None or process.replica.is_mirror or process.store.read_only_reason is not None:
            return False
        scope = check_scope(pick(SCOPES, step.b))
        self._app(machine, lambda process: process.replica.set_scope(scope, self.time.now))
        return scope

    def _crowd(self, machine: Machine, step: Step) -> object:
        """One node holds more concurrent revisions than a mirror takes from it."""
        if not self._can_save(machine):
            return False
        id_key = self._id_for(machine, step)

        def save(process: Process) -> None:
            entry = process.store.find(id_key)
            if entry is not None and (entry.winner.deleted or len(entry.leaves) > 1):
                return
            given = None if entry is None else rev_string(entry.winner)
            self._save_over(process, id_key, given, pack_body({"n": step.n}), branch=False)
            entry = process.store.find(id_key)
            assert entry is not None
            given = rev_string(entry.winner)
            for place in range(CROWD):
                self._save_over(process, id_key, given, pack_body({"n": step.n, "crowd": place}), branch=True)

        self._app(machine, save)
        return id_key

    def _evict(self, machine: Machine, step: Step) -> object:
        """A peer gives up the bodies of a record: nothing owed goes, nothing that is known."""
        process = machine.process
        if process is None or process.replica.is_mirror or process.store.read_only_reason is not None:
            return False
        id_key = self._id_for(machine, step)
        entry = process.store.find(id_key)
        if entry is None or entry.winner.deleted:
            return False
        is_owed = process.replica.is_pending(entry)
        gone: list[bool] = []
        self._app(machine, lambda process: gone.append(process.replica.evict(id_key)))
        assert not (is_owed and any(gone)), f"{machine.name} evicted {id_key!r}, which is owed"
        return id_key, *gone

    def _retry(self, machine: Machine, step: Step) -> object:
        """retrydoc: what a mirror refused is tried again."""
        if not self._can_save(machine):
            return False
        assert machine.process is not None
        id_keys = sorted({record.id_key for record in machine.process.replica.node.rejected.values()})
        if not id_keys:
            return False
        self._app(machine, lambda process: [process.replica.retry(id_key, self.time.now) for id_key in id_keys])
        return id_keys

    def _delpeer(self, machine: Machine, step: Step) -> object:
        """An address is taken back: it is not dialled again, whoever names it, until its user gives it again."""
        process = machine.process
        if process is None or process.store.read_only_reason is not None:
            return False
        addresses = process.replica.node.addresses()
        if not addresses:
            return False
        address = pick(addresses, step.b)
        machine.knows = tuple(name for name in machine.knows if name != address.host)
        self._app(machine, lambda process: process.replica.remove_address(address, self.time.now))
        if machine.process is process and not machine.is_full:
            machine.banned.add(address)  # on a full disk it counts until the database is closed
        return address

    def check_banned(self) -> None:
        """delpeer is final."""
        for machine in self.machines:
            if machine.banned and machine.process is not None:
                known = machine.banned.intersection(machine.process.replica.node.addresses())
                assert not known, f"{machine.name} knows {known} again, which its user had taken back"

    # Mirrors that leave

    def _mirror_to_part(self, chance: float) -> Machine | None:
        """One that others can do without."""
        mirrors = [machine for machine in self.machines if self._is_mirror(machine)]
        if self._has_parted or len(mirrors) <= self.plan.setup.acks or len(self.machines) < 3:
            return None
        machine = pick(mirrors, chance)
        if machine.process is None or self.oracle.is_rolled_back(machine) or self.oracle.is_twin(machine):
            return None
        return machine if machine.process.store.read_only_reason is None else None

    def _lose(self, machine: Machine, step: Step) -> object:
        """A mirror is lost for ever, perhaps with a peer that had what it wrote on as many mirrors as it asked for.

        What was on no other disk is gone with it; all else must find its way to the others.
        """
        lost = self._mirror_to_part(step.b)
        if lost is None or self._has_restored_mirror:
            return False
        peer = machine if step.c < 0.6 else None
        if peer is not None and not self._saves_everywhere(peer, step):
            peer = None
        if lost not in self.machines or lost.process is None:
            return "too late"
        self._has_parted = True
        followed = peer.process.replica.node.status().mirror if peer is not None and peer.process is not None else None
        if followed is not None:
            found = next((other for other in self.machines if other.address == followed), lost)
            if self._is_mirror(found) and not self.oracle.is_twin(found) and not self.oracle.is_rolled_back(found):
                lost = found
        gone = [lost] if peer is None else [peer, lost]
        self.oracle.on_mirror_lost(gone, acks=self.plan.setup.acks)
        for each in gone:
            self._part(each)
        return f"{' and '.join(each.name for each in gone)} for ever"

    def _saves_everywhere(self, peer: Machine, step: Step) -> bool:
        """That peer saves, and waits for waitsync(level="mirrors")."""
        process = peer.process
        if process is None or peer.has_served or len(self.machines) < 4 or not self._can_save(peer):
            return False
        self._save(peer, step)
        if process.is_over:
            return False
        head = process.store.head_seq
        self.time.run_until(
            lambda: process.is_over or process.replica.is_reached(head, "mirrors"), within_s=CONFIRMED_S
        )
        return not process.is_over and process.store.read_only_reason is None

    def _retire(self, machine: Machine, step: Step) -> object:
        """A mirror becomes a peer, hands over what it owes, and leaves: nothing may be lost."""
        leaving = self._mirror_to_part(step.b)
        if leaving is None:
            return False
        if step.c < 0.5:
            self._hide(leaving, step)
        process = leaving.process
        if process is None or self._mirror_to_part(0.0) is None:
            return "too late"
        try:
            leaving.guarded(process, lambda: process.set_mode(False))
        except MyNoSQLError:
            return "failed"
        self.time.run_until(lambda: process.is_over or self._is_through(process), within_s=PARTING_S)
        if process.is_over or not self._is_through(process) or process.replica.node.rejected:
            return f"{leaving.name} is a peer"
        self._has_parted = True
        self.oracle.on_lost(leaving, is_delivered={})
        self._part(leaving)
        return f"{leaving.name} for ever"

    def _hide(self, mirror: Machine, step: Step) -> None:
        """The other mirrors do not hear it while it takes what peers write."""
        others = [other.name for other in self.machines if other is not mirror and self._is_mirror(other)]
        for other in others:
            self.network.block(mirror.name, other)
            self.network.block(other, mirror.name)
        for machine in list(self.machines):
            if not self._is_mirror(machine):
                self._save(machine, step)
        self.time.run(0.5)
        self.network.unblock(*((mirror.name, other) for other in others), *((other, mirror.name) for other in others))

    def _is_through(self, process: Process) -> bool:
        """pendingdocs() is empty, and somebody has it all."""
        replica = process.replica
        return replica.node.status().mirror is not None and not replica.pending_rows()

    def _part(self, machine: Machine) -> None:
        if machine in self.machines:
            self.machines.remove(machine)
        machine.cut_power()
        self.backups.pop(machine, None)
