"""What must hold, whatever happened: an account of every acknowledged write, kept beside the databases.

It writes down the true ancestry of each version (whole sets, no vectors), which writes a power cut may have taken,
and what machines found when they opened. At the end it compares. Driven by run.Run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mynosql.idkey import unpack_id
from mynosql.revision import conflicts_of, is_in_past
from mynosql.row import Leaf, Leaves, Version
from mynosql.scope import is_within
from tests.sim.machine import Machine, Process

if TYPE_CHECKING:
    from mynosql.store.store import Store

ENTRIES_MAX = 100_000


class Name(NamedTuple):
    """One version of one record. A node's clock may give two records the same value."""

    id_key: bytes
    hlc: int
    node: int


@dataclass(eq=False, slots=True)
class Write:
    """One version that an application was given."""

    name: Name
    past: frozenset[Name]
    """All that its writer knew of the record then, and built on."""
    machine: Machine
    seq: int
    frame: int
    """The frame of its journal, counted like Store.written."""
    is_required: bool = True
    """It was acknowledged, and nothing that takes such a write has happened to it."""


def leaves_of(store: Store) -> dict[bytes, Leaves]:
    """All that this store knows."""
    return {entry.id_key: entry.leaves for entry in store.entries(b"", None, live_only=False, limit=ENTRIES_MAX)}


def name_of(id_key: bytes, leaf: Leaf) -> Name:
    return Name(id_key, leaf.hlc, leaf.node)


class Oracle:
    """The account of one run."""

    def __init__(self) -> None:
        self.writes: dict[Name, Write] = {}
        self.machines: list[Machine] = []
        self.rolled_back: dict[Machine, int] = {}
        """Machines whose folder is older than what they told others, and how often they had been renewed then."""
        self.has_lost_mirror = False
        self._unsynced: dict[Machine, list[Write]] = {}
        self._attempts: dict[Machine, list[tuple[bytes, frozenset[Name]]]] = {}
        """Saves under way when the power failed: nobody was told, and they may be there or not."""

    def add(self, machine: Machine) -> None:
        """That machine is watched from its first start on."""
        self.machines.append(machine)
        self._unsynced[machine] = []
        self._attempts[machine] = []
        machine.on_power_cut = self._on_power_cut
        machine.on_durable = self._on_durable
        machine.on_unsure = self._on_unsure
        machine.on_opened = self._on_opened

    # What applications were told

    def on_attempt(self, machine: Machine, id_key: bytes, parents: Iterable[Leaf | Version]) -> None:
        """savedoc was called."""
        self._attempts[machine].append((id_key, self._past(id_key, parents)))

    def on_answered(self, machine: Machine) -> None:
        """It returned, or said that nothing was saved."""
        self._attempts[machine].clear()

    def _past(self, id_key: bytes, parents: Iterable[Leaf | Version]) -> frozenset[Name]:
        past: set[Name] = set()
        for parent in parents:
            name = Name(id_key, parent.hlc, parent.node)
            past.add(name)
            written = self.writes.get(name)
            past |= written.past if written is not None else frozenset()
        return frozenset(past)

    def on_written(self, process: Process, id_key: bytes, leaf: Leaf, parents: Iterable[Leaf | Version]) -> None:
        """savedoc returned this leaf. parents: what it was made from."""
        name = name_of(id_key, leaf)
        known = self.writes.get(name)
        if known is not None and known.is_required:
            return  # the same body again: no change
        store = process.store
        write = Write(name, self._past(id_key, parents), process.machine, store.head_seq, store.written)
        self.writes[name] = write
        self._unsynced[process.machine].append(write)

    # What befalls them

    def _on_durable(self, machine: Machine) -> None:
        process = machine.process
        if process is not None:
            durable = process.store.durable
            self._unsynced[machine] = [write for write in self._unsynced[machine] if write.frame > durable]

    def _on_power_cut(self, machine: Machine, process: Process | None) -> None:
        durable = process.store.durable if process is not None else -1
        for write in self._unsynced[machine]:
            if write.frame > durable:
                write.is_required = False
        self._unsynced[machine] = []

    def _on_unsure(self, machine: Machine) -> None:
        self._on_durable(machine)
        self._on_power_cut(machine, None)

    def _on_opened(self, machine: Machine) -> None:
        """Recovery has flushed what it found: that is on the disk now. Others know no more of it, it of no more."""
        self._unsynced[machine] = []
        process = machine.process
        assert process is not None
        ours = leaves_of(process.store)
        for id_key, past in self._attempts[machine]:
            for leaf in ours.get(id_key, ()):
                name = name_of(id_key, leaf)
                if name not in self.writes and leaf.node == process.replica.ledger.node:
                    self.writes[name] = Write(name, past, machine, 0, 0, is_required=False)
        self._attempts[machine].clear()
        if not self.is_rolled_back(machine):
            self._check_nobody_knows_more(machine, process, ours)
        self.check_cursors(machine, ours)

    def is_rolled_back(self, machine: Machine) -> bool:
        """Its folder is older than what it told others, and it has not taken another identity since."""
        return self.rolled_back.get(machine, -1) == machine.renewals

    def has_unsynced(self, machine: Machine) -> bool:
        """Something was written that a power cut may take."""
        return bool(self._unsynced[machine])

    def is_twin(self, machine: Machine) -> bool:
        """Another machine uses the same node id."""
        return any(
            other is not machine and other.disk.node == machine.disk.node and other.disk.node is not None
            for other in self.machines
        )

    def on_lost(self, machine: Machine, *, is_delivered: dict[Write, bool]) -> None:
        """That machine is gone for ever, with what nobody else was given."""
        for write, was_delivered in is_delivered.items():
            if not was_delivered:
                write.is_required = False
        self.machines.remove(machine)

    def on_mirror_lost(self, gone: list[Machine], *, acks: int) -> None:
        """A mirror is gone for ever, perhaps with a peer. What stays required: what somebody else holds on its disk,
        what another mirror confirmed, and what the peer was told to be on enough mirrors."""
        self.has_lost_mirror = True
        kept: set[Name] = set()
        for machine in self.machines:
            process = machine.process
            if machine in gone or process is None or process.store.read_only_reason is not None:
                continue
            if process.store.durable < process.store.written:
                continue  # a power cut may take some of it, and nobody would bring it again
            for entry in process.store.entries(b"", None, live_only=False, limit=ENTRIES_MAX):
                for position, leaf in enumerate(entry.leaves):
                    if leaf.deleted or entry.held >> position & 1:
                        kept.add(name_of(entry.id_key, leaf))
        kept |= {past for name in kept if name in self.writes for past in self.writes[name].past}
        safe: set[Name] = set()
        for machine in gone:
            process = machine.process
            if process is None:
                continue
            replica = process.replica
            rejected = {record.id_key for record in replica.node.rejected.values()}
            for write in self.writes_of(machine):
                is_safe = replica.is_reached(write.seq, "mirror") if replica.is_mirror else (
                    acks > 1 and replica.is_reached(write.seq, "mirrors") and write.name.id_key not in rejected
                )
                if is_safe and write.seq and self._is_untouched(write, gone[-1]):
                    safe.add(write.name)
        for name, write in self.writes.items():
            write.is_required &= name in kept or name in safe

    def _is_untouched(self, write: Write, mirror: Machine) -> bool:
        """That mirror has the record as it was acknowledged. Of one that changed since, others may have neither."""
        assert mirror.process is not None
        entry = mirror.process.store.find(write.name.id_key)
        return entry is not None and [name_of(entry.id_key, leaf) for leaf in entry.leaves] == [write.name]

    def writes_of(self, machine: Machine) -> list[Write]:
        return [write for write in self.writes.values() if write.machine is machine]

    # Checks

    def _check_nobody_knows_more(self, machine: Machine, process: Process, ours: dict[bytes, Leaves]) -> None:
        """Nothing about a change leaves a node before it is fsynced."""
        node = process.replica.ledger.node
        if self.is_twin(machine):
            return
        for other in self.machines:
            if other is machine or other.process is None:
                continue
            for id_key, leaves in leaves_of(other.process.store).items():
                for leaf in leaves:
                    assert leaf.node != node or _is_known(leaf, ours.get(id_key, ())), (
                        f"{machine.name} opened without its own {unpack_id(id_key)!r} {leaf}, which {other.name} knows"
                    )

    def check_cursors(self, machine: Machine, ours: dict[bytes, Leaves]) -> None:
        """What a cursor counts is here."""
        assert machine.process is not None
        scopes = machine.process.replica.node._hub.memory.cursor_scopes
        for key, value in machine.process.store.notes("cursor/").items():
            index_id, seq = bytes.fromhex(key.partition("/")[2]), int(value.split()[0])
            for other in self.machines:
                if other.process is None or other.process.replica.index_id != index_id:
                    continue
                if self.is_rolled_back(other) or self.is_twin(other) or other.process.replica.is_renewal_due:
                    continue
                for entry in other.process.store.entries(b"", None, live_only=False, limit=ENTRIES_MAX):
                    if not is_within(scopes.get(index_id), entry.id_key):
                        continue
                    for leaf in entry.leaves:
                        assert entry.seq > seq or _is_known(leaf, ours.get(entry.id_key, ())), (
                            f"{machine.name} has a cursor of {seq} in {other.name} and lacks "
                            f"{unpack_id(entry.id_key)!r} {leaf} of seq {entry.seq}"
                        )

    def check_counters(self, machine: Machine) -> None:
        """What the store counts as it goes is what a scan finds."""
        if machine.process is None:
            return
        store = machine.process.store
        counters = store.counters
        entries = store.entries(b"", None, live_only=False, limit=ENTRIES_MAX)
        live = [entry for entry in entries if entry.is_live]
        delivered = int(store.note("delivered") or b"0")
        found = (
            len(live), sum(entry.held & 1 for entry in live),
            sum(entry.owed and entry.seq > delivered for entry in entries),
        )
        counted = (counters.records, counters.held, counters.pending)
        assert counted == found, f"{machine.name} counts records, held, pending as {counted}; there are {found}"
        scoping = machine.process.replica.scoping
        hidden = sum(map(scoping.is_hidden, live)) if scoping.is_hiding else 0
        assert scoping.count_hidden() == hidden, f"{machine.name} hides {hidden}, and counts {scoping.count_hidden()}"

    def check_all(self) -> None:
        """All machines are equal; nothing that was acknowledged is lost, nothing covered came back."""
        differing = self._differing()
        phantoms = self.phantoms()
        for machine, first_machine, id_keys in differing:
            differ = [unpack_id(id_key) for id_key in id_keys if id_key not in phantoms]
            assert not differ, f"{machine.name} and {first_machine.name} differ in {differ}"
        first = self._reference()[1]
        tops = {name_of(id_key, leaf) for id_key, found in first.items() for leaf in found}
        for machine in self.machines if phantoms else ():
            assert machine.process is not None
            tops |= {
                name_of(id_key, leaf) for id_key, found in leaves_of(machine.process.store).items() for leaf in found
                if id_key in phantoms
            }
        unknown = tops - self.writes.keys()
        assert not unknown, f"nobody wrote {sorted(unknown)}"
        covered = {past for top in tops for past in self.writes[top].past}
        for name, write in self.writes.items():
            if not write.is_required:
                continue
            assert name in tops or name in covered, (
                f"lost: {unpack_id(name.id_key)!r} {name[1:]} by {write.machine.name}, seq {write.seq}; there is "
                f"{first.get(name.id_key)}"
            )
            back = write.past & tops
            assert not back or name.id_key in phantoms, (
                f"{unpack_id(name.id_key)!r}: {sorted(back)} came back, although {name[1:]} by "
                f"{write.machine.name} had superseded it"
            )

    # Who knows what

    def _reference(self) -> tuple[Machine, dict[bytes, Leaves]]:
        """A machine that should know all."""
        machine = next(
            machine for machine in self.machines if machine.process is not None and machine.process.replica.is_mirror
        )
        assert machine.process is not None
        return machine, leaves_of(machine.process.store)

    def _differing(self) -> list[tuple[Machine, Machine, list[bytes]]]:
        """Who knows what otherwise than the reference, as far as it should know the same.

        What a peer holds from outside of its scope may be old, but not newer than what the others know.
        """
        first_machine, first = self._reference()
        found = []
        for machine in self.machines:
            if machine.process is None or machine is first_machine:
                continue
            ours, scope = leaves_of(machine.process.store), machine.scope
            id_keys = [
                id_key for id_key in sorted(first.keys() | ours.keys()) if first.get(id_key) != ours.get(id_key) and (
                    is_within(scope, id_key)
                    or not all(_is_known(leaf, first.get(id_key, ())) for leaf in ours.get(id_key, ()))
                )
            ]
            if id_keys:
                found.append((machine, first_machine, id_keys))
        return found

    def are_equal(self, left_out: set[bytes]) -> bool:
        """All know what they should, but for these ids."""
        if not any(machine.process is not None and machine.process.replica.is_mirror for machine in self.machines):
            return False
        return all(left_out.issuperset(id_keys) for _, _, id_keys in self._differing())

    def has_conflicts(self, left_out: set[bytes]) -> bool:
        """Somebody would have to merge something."""
        return any(
            conflicts_of(leaves) for id_key, leaves in self._reference()[1].items() if id_key not in left_out
        )

    def phantoms(self) -> set[bytes]:
        """Ids of which some index names a revision whose body was lost with its mirror: nobody can deliver it."""
        if not self.has_lost_mirror:
            return set()
        named: set[Name] = set()
        held: set[Name] = set()
        for machine in self.machines:
            if machine.process is None:
                continue
            for entry in machine.process.store.entries(b"", None, live_only=False, limit=ENTRIES_MAX):
                for position, leaf in enumerate(entry.leaves):
                    name = name_of(entry.id_key, leaf)
                    named.add(name)
                    if leaf.deleted or entry.held >> position & 1:
                        held.add(name)
        return {name.id_key for name in named - held}


def _is_known(leaf: Leaf, leaves: Leaves) -> bool:
    return any(is_in_past(Version(leaf.hlc, leaf.node), ours) for ours in leaves)
