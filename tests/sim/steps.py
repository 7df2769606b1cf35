"""What each kind of step does: one method per kind, named after it; False when it had nothing to do.

What it returns else goes into the story of the run. Plans are in plan.py; run.Run calls these.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from mynosql.codec import pack_body
from mynosql.errors import StorageFailed, StorageFull
from mynosql.ledger import Save
from mynosql.revision import is_body_equal, is_in_past, parse_rev, rev_string
from mynosql.row import Leaf, Version
from tests.sim.machine import Machine, Process
from tests.sim.oracle import Write
from tests.sim.partings import Partings
from tests.sim.plan import Step
from tests.sim.stage import Rollback, pick

BODY_BYTES = (1, 30, 300, 3_000)
BODY_BYTES_LARGE = 150_000
"""Travels in pieces."""
CLOCK_JUMPS_MS = (-3_600_000, -1_000, 1_000, 90_000, 3_600_000, 365 * 86_400_000)
FETCH_S = (0.1, 5.0)


class Steps(Partings):
    """The applications, the network, the machines and the people of one run."""

    def _body(self, step: Step) -> bytes:
        rng = Random(step.n)
        size = BODY_BYTES_LARGE if rng.random() < 0.01 else rng.choice(BODY_BYTES)
        return pack_body({"n": step.n, "x": rng.randbytes(size)})

    def _save(self, machine: Machine, step: Step, body: bytes | None = None) -> object:
        if not self._can_save(machine):
            return False
        id_key = self._id_for(machine, step)
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
        if machine.scope is not None:
            id_keys = list({self._within(machine, id_key, step): None for id_key in id_keys})

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

    def _mode(self, machine: Machine, step: Step) -> object:
        """The last mirror stays one: without any nobody converges."""
        process = machine.process
        if process is None or process.store.read_only_reason is not None:
            return False
        mirrors = [other for other in self.machines if self._is_mirror(other)]
        if machine in mirrors and len(mirrors) <= self.plan.setup.acks:
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
        self._has_restored_mirror |= machine.has_served
        self.bring_together()
        if machine.process is None or machine.process.replica.node.rejected:
            return "not now: what was refused is nowhere else"
        machine.kill()
        for write in self.oracle.writes_of(machine):
            write.seq = 0  # delivered, and the numbers begin anew
        machine.disk = backup
        if step.b < 0.5:
            backup.place = 0  # made by backupdb, or another machine's: the identity does not belong here
        else:
            self.oracle.rolled_back[machine] = machine.renewals
        machine.start()
        if backup.place and machine.process is not None:
            self._must_renew[machine] = Rollback(machine.renewals, self._who_knows_more(machine, machine.process))
        return f"{machine.name} {'in place' if backup.place else 'elsewhere'}"

    def _who_knows_more(self, machine: Machine, process: Process) -> frozenset[Machine]:
        """Who remembers more of its history than it has."""
        index_id, head = process.replica.index_id.hex(), process.store.head_seq
        return frozenset(
            other for other in self.machines if other is not machine and other.process is not None and any(
                int((other.process.store.note(f"{kind}/{index_id}") or b"0").split()[0]) > head
                for kind in ("cursor", "pushed", "witnessed")
            )
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
        if process is None or machine.has_served or process.replica.is_mirror or self.oracle.is_rolled_back(machine):
            return False
        if self._has_parted and self.plan.setup.acks == 1:
            return False  # what a lost mirror alone had it may hold for the others
        if self.oracle.is_twin(machine) or len(self.machines) < 3:
            return False
        is_struck = step.b < 0.5
        if is_struck:
            self._save(machine, step)
            head = process.store.head_seq
            self.time.run_until(lambda: process.is_over or process.replica.is_reached(head, "mirror"), within_s=1.0)
            if process.is_over:
                return "too late"
        replica = process.replica
        rejected = {record.id_key for record in replica.node.rejected.values()}

        def is_delivered(write: Write) -> bool:
            # Replaced before it was sent, or refused and changed since: it is owed with what came later.
            entry = process.store.find(write.name.id_key)
            is_owed = entry is not None and entry.owed and not replica.is_reached(entry.seq, "mirror")
            return replica.is_reached(write.seq, "mirror") and write.name.id_key not in rejected and not is_owed

        self.oracle.on_lost(machine, is_delivered={
            write: is_delivered(write) for write in self.oracle.writes_of(machine)
        })
        machine.cut_power()
        self.backups.pop(machine, None)
        if is_struck:
            for other in self.machines:
                if self._is_mirror(other):
                    other.cut_power()
        return "and the mirrors lose power" if is_struck else None
