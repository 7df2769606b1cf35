"""Store and sessions of one database joined: the interpreter that performs what the protocol asks for.

Owns the order of effects, and the gate: a message that speaks of what was written leaves only when that is fsynced.
Never touches a socket, a thread or a lock; clock, randomness and minting are given, so that the simulator runs this
very code. Driven by workers.Workers (durability), bridge.Bridge (messages) and opened.OpenDatabase (calls).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from mynosql.address import Address
from mynosql.clock import HybridClock
from mynosql.damage import Damage
from mynosql.errors import (
    MyNoSQLError,
    OptionInvalid,
    PeerError,
    RecordNotFound,
    StorageCorrupt,
    StorageError,
    StorageFailed,
    StorageFull,
)
from mynosql.ledger import Ledger
from mynosql.lookups import Lookup, look_up
from mynosql.row import Entry, Row, Version
from mynosql.scope import Scope, covers
from mynosql.scoping import Scoping
from mynosql.store.store import Store
from mynosql.sync import effects as fx
from mynosql.sync.memory import Rejected
from mynosql.sync.messages import Entries, Message, Pull
from mynosql.sync.node import Node, NodeConfig, Wanted
from mynosql.sync.options import SyncOptions
from mynosql.trimming import Trimmer
from mynosql.troubles import Troubles
from mynosql.views import Level, SyncStatus

INDEX_NOTE = "index"
"""The index id: 16 random bytes, minted when the index is made, restored or moved."""
OWNER_NOTE = "index-node"
"""The node id that the index id was minted for (hexadecimal). Another one in the identity: the power failed or the disk
was full between the two, or the folder came back without its identity."""
MODE_NOTE = "mode"
ACKS_NOTE = "acks"
"""How many other mirrors must have a change before it counts as delivered (decimal); none: one."""
COMPLETE_NOTE = "complete"
"""Wall clock (ms, decimal) at which the index was last known complete; written when it first is, and at close."""

DISK_RETRY_S = 1.0
"""What a full disk refused is tried again this often: nothing else need be due."""
LONG_WORK_ROWS = 64
"""Applying more rows takes a millisecond and more: the next Pull must not wait for it."""

Command = fx.Dial | fx.HangUp | fx.Subscribe | fx.Unsubscribe | fx.Send | fx.Publish
"""What is left to do for whoever owns the sockets."""


@dataclass(slots=True)
class Fetch:
    """One read that waits for a mirror. is_done turns True once; then `row` or `outcome` tell what came of it."""

    request: int
    is_done: bool = False
    row: Row | None = None
    outcome: fx.Outcome | None = None

    @property
    def is_absent(self) -> bool:
        return self.outcome is fx.Outcome.ABSENT


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a replica gets from outside instead of fetching it."""

    wall_ms: Callable[[], int]
    """Milliseconds since 1970."""
    mint: Callable[[int], bytes]
    """n random bytes nobody else has."""
    renew_node: Callable[[], int]
    """A new node id, durable on return."""
    rng: random.Random
    """Jitter; not for secrets."""


class Replica:
    """One database of one node: its records, its conversations, and what they owe each other."""

    def __init__(
        self, store: Store, *, name: str, node: int, is_moved: bool, is_mirror: bool | None, world: World,
        acks: int | None = None, options: SyncOptions | None = None,
    ) -> None:
        """is_mirror, acks: as remembered when None. acks: see options.OpenOptions."""
        self.store = store
        self._world = world
        self._troubles = Troubles()
        self.bytes_sent = 0
        self.bytes_received = 0
        notes: dict[str, bytes] = {}
        if is_moved or store.note(OWNER_NOTE) != _owner_note(node):
            notes |= {INDEX_NOTE: world.mint(16), OWNER_NOTE: _owner_note(node)}
        if is_mirror is not None and store.note(MODE_NOTE) != _mode_note(is_mirror):
            notes[MODE_NOTE] = _mode_note(is_mirror)
        if acks is not None and store.note(ACKS_NOTE) != b"%d" % acks:
            notes[ACKS_NOTE] = b"%d" % acks
        if notes:
            self._write_durably(notes)
        self.ledger = Ledger(store, node=node, clock=HybridClock.resumed(store.hlc_max, world.wall_ms()))
        complete = store.note(COMPLETE_NOTE)
        self._as_of_ms = int(complete) if complete else None
        self._outgoing: deque[tuple[int, Command]] = deque()
        self._pulls: list[Command] = []
        """They pass what waits for an fsync: the other side gets the next rows ready meanwhile."""
        self.before_long_work: Callable[[], None] = lambda: None
        """Called when what waits to be sent had better leave before many rows are applied."""
        self.on_work: Callable[[], None] = lambda: None
        """Called when the store's background has something to do at once."""
        self._fetches: dict[int, Fetch] = {}
        self._unwritten: dict[str, bytes] = {}
        """Notes that a full disk refused, tried again at every step and with the next note."""
        self._is_renewal_due = False
        self._stepped_at = float("-inf")
        self._damage = Damage(store, self.is_pending)
        self._next_request = 1
        self._told_durable = store.durable_seq
        self.node = Node(
            NodeConfig(
                database=name, node=node, index_id=store.note(INDEX_NOTE), nonce=int.from_bytes(world.mint(8), "big"),
                is_mirror=store.note(MODE_NOTE) == _mode_note(True), acks=int(store.note(ACKS_NOTE) or b"1"),
            ),
            notes=store.notes(), head=store.head_seq, hlc=store.hlc_max, rng=world.rng, options=options,
        )

        def set_note(key: str, value: bytes) -> None:
            self._set_note(fx.SetNote(key=key, value=value))

        self.scoping = Scoping(store, lambda: self.node.scope, self.is_pending, set_note)
        self.trimmer = Trimmer(store, self.ledger, self.is_needed, set_note)

    def _write_durably(self, notes: Mapping[str, bytes]) -> None:
        self.store.put([], notes=notes)
        job = self.store.sync_job()
        if job is None:
            return
        try:
            job.run()
        except StorageError as error:
            self.store.finish(job, error)
            raise
        self.store.finish(job)

    # What the face asks

    @property
    def last_error(self) -> str | None:
        """What went wrong last in the background and is not known to be over."""
        return self._troubles.last_error

    @property
    def index_id(self) -> bytes:
        return self.store.note(INDEX_NOTE)

    @property
    def is_renewal_due(self) -> bool:
        """A new identity is wanted, and the disk has not taken all of it: nothing is heard or said meanwhile."""
        return self._is_renewal_due

    @property
    def is_mirror(self) -> bool:
        return self.node.is_mirror

    @property
    def has_listeners(self) -> bool:
        """Somebody waits for our changes: fsync at once."""
        return self.node.connected > 0

    @property
    def has_live_mirror(self) -> bool:
        return self.node.has_live_mirror

    @property
    def knows_mirrors(self) -> bool:
        """Another node that is, or may turn out to be, a mirror is known."""
        return bool(self.node.addresses())

    @property
    def as_of(self) -> float | None:
        """Unix time in seconds when the index was last known complete; None: never."""
        return None if self._as_of_ms is None else self._as_of_ms / 1000

    @property
    def is_index_complete(self) -> bool:
        """An id that the index does not name does not exist, as far as was ever known."""
        return self._as_of_ms is not None or not self.knows_mirrors

    def addresses(self) -> list[str]:
        return [address.url for address in self.node.addresses()]

    def add_address(self, address: Address, merge: bool, now: float) -> None:
        self._perform(self.node.add_address(address, now, merge=merge), now)

    def remove_address(self, address: Address, now: float) -> None:
        self._perform(self.node.remove_address(address, now), now)

    def set_scope(self, scope: Scope | None, now: float) -> None:
        """The index of this peer takes in that much from here on; remembered. A wider one is not complete at first."""
        self._on_scope(scope)
        self._perform(self.node.set_scope(scope, now), now)

    def _on_scope(self, scope: Scope | None) -> None:
        if not covers(self.node.scope, scope) and self._as_of_ms is not None:
            self._as_of_ms = None
            self._set_note(fx.SetNote(key=COMPLETE_NOTE, value=b""))
        self.scoping.change(scope)

    def set_mode(self, is_mirror: bool, now: float) -> None:
        """The mode is changed and remembered; a new mirror fills, a former one owes what nobody confirmed.

        On a full disk it is remembered once there is room. Raises StorageFailed when nothing can be written any more.
        """
        if self.store.read_only_reason is not None:
            raise StorageFailed(f"the mode stays: {self.store.read_only_reason}; open the database again")
        if is_mirror:
            self._on_scope(None)
        self._perform(self.node.set_mode(is_mirror, now), now)
        # Last: a power cut between the two must not leave a peer that does not know what it owes.
        self._write_notes({**self._unwritten, MODE_NOTE: _mode_note(is_mirror)})

    def start(self, now: float, *, advertised: Address | None, publisher_port: int) -> None:
        """Conversations begin: with the addresses that are remembered, and on the sockets that are bound."""
        self._perform(self.node.start(now, advertised=advertised, publisher_port=publisher_port), now)

    def set_endpoint(self, advertised: Address | None, publisher_port: int, now: float) -> None:
        self._perform(self.node.set_endpoint(advertised, publisher_port, now), now)

    def stop(self, now: float) -> None:
        """Conversations end with a Bye; the time of the last complete index is kept."""
        self._perform(self.node.stop(now), now)
        if self._as_of_ms is not None and self.store.read_only_reason is None:
            self._write_notes({**self._unwritten, COMPLETE_NOTE: str(self._as_of_ms).encode()})
        for fetch in self._fetches.values():
            fetch.is_done = True
        self._fetches.clear()

    def fetch(
        self, id_keys: Sequence[bytes], timeout_s: float, confirm: bool, now: float, *, all_leaves: bool = False
    ) -> list[Fetch]:
        """Ask the mirrors for these records; each result's is_done tells when it is over."""
        fetches: list[Fetch] = []
        wanted: list[Wanted] = []
        for id_key in id_keys:
            fetch = Fetch(self._next_request)
            self._next_request += 1
            self._fetches[fetch.request] = fetch
            fetches.append(fetch)
            entry = self.store.find(id_key)
            version = None if entry is None else Version(entry.winner.hlc, entry.winner.node)
            wanted.append(Wanted(
                request=fetch.request, id_key=id_key, deadline=now + timeout_s, confirm=confirm, version=version,
                all_leaves=all_leaves,
            ))
        self._perform(self.node.fetch_many(wanted, now), now)
        return fetches

    def cancel_fetch(self, fetch: Fetch) -> None:
        if self._fetches.pop(fetch.request, None) is not None:
            self.node.cancel_fetch(fetch.request)

    def is_pending(self, entry: Entry) -> bool:
        """This change was made here and too few mirrors have confirmed it."""
        if not self.knows_mirrors and self.is_mirror:
            return False
        return self.node.is_owed(entry.seq, entry.owed)

    def is_reached(self, seq: int, level: Level) -> bool:
        """All our changes up to seq are where that level wants them; MyNoSQL.waitsync says what each means."""
        node = self.node
        if self.is_mirror:
            return node.confirmed_by(node.acks if level == "mirrors" else 1) >= seq
        if self.store.counters.pending == 0:
            return True
        if level == "sent" and node.sent_seq >= seq and not self._outgoing:
            return True
        return (node.delivered_seq if level == "mirrors" else node.acked_seq) >= seq

    def pending_rows(self) -> list[Row]:
        """The changes that too few mirrors have confirmed, in feed order, without bodies."""
        if self.is_mirror and not self.knows_mirrors:
            return []
        rows: list[Row] = []
        after = min(self.node.delivered_seq, self.store.head_seq)
        while True:
            piece = self.store.feed(
                after, until_seq=self.store.head_seq, bytes_max=1 << 20, bodies=False, body_bytes_max=0
            )
            rows += [row for row in piece.rows if self.node.is_owed(row.seq, row.owed)]
            after = piece.last_seq
            if not piece.more:
                return rows

    @property
    def rejected_seqs(self) -> Collection[int]:
        """Under which seq a mirror refused changes of ours; some may have been replaced since, see rejections()."""
        return self.node.rejected.keys()

    def rejections(self) -> dict[int, tuple[Entry, Rejected]]:
        """By seq, what a mirror refused and has not been replaced since by another state of its record."""
        found: dict[int, tuple[Entry, Rejected]] = {}
        for seq, rejected in self.node.rejected.items():
            entry = self.store.find(rejected.id_key)
            if entry is not None and entry.seq == seq:
                found[seq] = entry, rejected
        return found

    def retry(self, id_key: bytes, now: float) -> bool:
        """A change that a mirror refused is owed again, as a new one; False: the record is not known here."""
        if not any(rejected.id_key == id_key for rejected in self.node.rejected.values()):
            return self.store.find(id_key) is not None
        is_known = self.ledger.retry(id_key)
        self._perform(self.node.settle_rejected(id_key, now), now)
        return is_known

    def is_needed(self, entry: Entry) -> bool:
        """No mirror is known to have that entry's bodies, or this node holds all of them."""
        return self.is_mirror or self.is_pending(entry) or any(
            rejected.id_key == entry.id_key for rejected in self.node.rejected.values()
        )

    def trim(self) -> bool:
        """A step towards the budget for bodies, if there is one to do; False: there is none."""
        if not self.trimmer.is_due or self.is_mirror or self.store.read_only_reason is not None:
            return False
        try:
            self.trimmer.step()
        except StorageFull as error:
            self.on_failure(error)
            return False
        return True

    def evict(self, id_key: bytes) -> bool:
        """A peer holds the bodies of the record no more; False: they stay, since no mirror is known to have them.

        Raises OptionInvalid on a mirror, RecordNotFound when no such record is known.
        """
        if self.is_mirror:
            raise OptionInvalid("a mirror holds every record, nothing can be evicted; call setdbmode('Peer') first")
        entry = self.store.find(id_key)
        if entry is None or entry.winner.deleted:
            raise RecordNotFound("cannot evict: no such record is known here")
        if self.is_needed(entry) or self.trimmer.is_pinned(id_key):
            return False
        self.ledger.evict(id_key, entry)
        return True

    # Damage

    @property
    def _has_others(self) -> bool:
        """What is lost here may be somewhere else. A node alone keeps what is damaged, and says so."""
        return self.knows_mirrors or (self.is_mirror and self.node.connected > 0)

    def mend(self, error: StorageCorrupt | None, now: float) -> bool:
        """What damage hit is given up here and comes again from others, if there are any; True: try once more.

        error: what a read met; None: what was met before. What is owed and on no other disk is not given up.
        """
        if error is not None:
            self.store.note_damage(error)
        if not self.store.is_damaged or not self._has_others:
            return False
        try:
            mended = self._damage.mend(now)
        except StorageError as failed:
            self.on_failure(failed)
            return False
        if mended is None:
            return False
        if error is not None:
            self.on_failure(error)
        if mended.rows_dropped:
            self._as_of_ms = None  # an id that is unknown now may exist
            self._set_note(fx.SetNote(key=COMPLETE_NOTE, value=b""))
        self.on_work()
        return bool(mended.id_keys or mended.rows_dropped)

    def tell_damage(self, now: float) -> None:
        """The node hears what was given up."""
        given_up, has_lost_rows = self._damage.take()
        if given_up or has_lost_rows:
            self._perform(self.node.on_damage(given_up, now, has_lost_rows=has_lost_rows), now)

    def sync_status(self, endpoint: str | None) -> SyncStatus:
        """Everything at a glance."""
        counters = self.store.counters
        hidden = self.scoping.count_hidden()
        status = self.node.status()
        return SyncStatus(
            mode="Mirror" if self.is_mirror else "Peer", node=f"{self.ledger.node:016x}", endpoint=endpoint,
            mirror=status.mirror.url if status.mirror is not None else None, connected=status.connected,
            mirrors=tuple(address.url for address in status.mirrors), filling=status.is_filling,
            records=counters.records - hidden, held=counters.held, stale=counters.stale,
            missing=counters.missing - hidden,
            pending=0 if self.is_mirror and not self.knows_mirrors else counters.pending,
            conflicts=counters.conflicts, rejected=len(self.rejections()), behind=status.behind, as_of=self.as_of,
            bytes_sent=self.bytes_sent, bytes_received=self.bytes_received, last_error=self.last_error,
        )

    # What happens outside

    def on_message(self, link: fx.Link, message: Message, now: float, *, user_id: str) -> None:
        """One decoded message came over a link; user_id: whom the socket proved it to be, "" without keys."""
        self._perform(self.node.on_message(link, message, now, user_id=user_id), now)

    def on_published(self, address: Address, message: Message, now: float) -> None:
        self._perform(self.node.on_published(address, message, now), now)

    def on_garbage(self, link: fx.Link | None, error: PeerError, now: float) -> None:
        """Bytes that are no message came over a link (None: by subscription)."""
        self._perform(self.node.on_garbage(link, error, now), now)

    def on_refused(self, link: fx.Link, error: MyNoSQLError) -> None:
        """A connection was refused; syncstatus shows it until another attempt ends otherwise, or something else fails.

        on_link_down follows, for the same attempt.
        """
        self._troubles.on_refused(link, error)

    def on_link_up(self, link: fx.Link, now: float) -> None:
        self._troubles.forget(link)
        self._perform(self.node.on_link_up(link, now), now)

    def on_link_down(self, link: fx.Link, now: float) -> None:
        self._troubles.on_down(link)
        self._perform(self.node.on_link_down(link, now), now)

    def on_durable(self, now: float) -> None:
        """An fsync is over: what waited for it may leave, and new changes are told."""
        seq = self.store.durable_seq
        if seq > self._told_durable:
            self._told_durable = seq
            self._perform(self.node.on_durable(seq, now), now)

    def on_failure(self, error: BaseException) -> None:
        """Something failed in the background; syncstatus shows it."""
        self._troubles.on_failure(error)

    def step(self, now: float) -> None:
        """What is due is done."""
        self._stepped_at = now
        if self._unwritten:
            self._write_notes(self._unwritten)
        if self._is_renewal_due:
            self._perform(self._renew(now), now)
        if self._damage.is_due(now):
            self.mend(None, now)
        self.tell_damage(now)
        self._perform(self.node.step(now), now)

    def next_due(self, now: float) -> float | None:
        due = self.node.next_due(now)
        if self.store.read_only_reason is not None:
            return due
        dues = [] if due is None else [due]
        if self._unwritten or self._is_renewal_due:
            dues.append(self._stepped_at + DISK_RETRY_S)
        mend_due = self._damage.next_due(now, has_others=self._has_others)
        if mend_due is not None:
            dues.append(mend_due)
        return min(dues, default=None)

    # The gate

    def take_outgoing(self) -> list[Command]:
        """What may leave now; it is the caller's to perform in this order."""
        outgoing = self._outgoing
        durable = self.store.durable
        taken, self._pulls = self._pulls, []
        while outgoing and outgoing[0][0] <= durable:
            taken.append(outgoing.popleft()[1])
        return taken

    @property
    def is_waiting_for_sync(self) -> bool:
        """Messages wait for an fsync: it should not be put off."""
        return bool(self._outgoing)

    def _gate(self, message: Message) -> int:
        """How many frames of the journal must be durable before the message may leave."""
        store = self.store
        if not message.is_gated or (isinstance(message, Entries) and store.durable_seq == store.head_seq):
            return 0  # Entries skip rows that later ones replaced: these must be durable, notes need not be
        return store.written

    # The interpreter

    def _perform(self, effects: list[fx.Effect], now: float) -> None:
        todo = deque(effects)
        while todo:
            effect = todo.popleft()
            if isinstance(effect, fx.Send) and isinstance(effect.message, Pull):
                self._pulls.append(effect)  # its link is open: a Welcome came over it
            elif isinstance(effect, fx.Send | fx.Publish):
                self._outgoing.append((self._gate(effect.message), effect))
            elif isinstance(effect, fx.Dial | fx.HangUp | fx.Subscribe | fx.Unsubscribe):
                if isinstance(effect, fx.HangUp):
                    self._troubles.forget(effect.link)
                self._outgoing.append((0, effect))
            elif isinstance(effect, fx.SetNote):
                self._set_note(effect)
            elif isinstance(effect, fx.FetchDone):
                self._finish_fetch(effect)
            elif isinstance(effect, fx.CountAgain):
                self.store.count_again()
            elif isinstance(effect, fx.Renew):
                todo.extend(self._renew(now))
            elif isinstance(effect, fx.Fail):
                self.on_failure(effect.error)
            elif isinstance(effect, fx.Announce):
                self._on_announce(effect.kind)
            else:
                if isinstance(effect, fx.Apply) and len(effect.rows) > LONG_WORK_ROWS:
                    self.before_long_work()
                todo.extend(self.node.on_result(effect.token, self._result_of(effect, now), now))
                if self.ledger.take_foreign():
                    todo.extend(self.node.on_foreign(now))
                if isinstance(effect, fx.Apply) and self.node.rejected:
                    todo.extend(self._settle_replaced(effect.rows, now))

    def _result_of(self, effect: fx.Apply | Lookup, now: float, *, is_again: bool = False) -> fx.Result:
        try:
            if isinstance(effect, fx.Apply):
                # With what a full disk refused: a cursor must not be kept where the scope that it counts is not.
                applied = self.ledger.apply(
                    effect.rows, notes={**self._unwritten, **effect.notes} if self._unwritten else effect.notes,
                    pushed=effect.origin is fx.Origin.PUSH, now_ms=self._world.wall_ms(),
                )
                self._unwritten = {}
                return applied
            result = look_up(self.store, effect)
            if isinstance(effect, fx.ReadFeed) and not is_again and self._damage.is_due(now):
                if self.mend(None, now):
                    result = look_up(self.store, effect)  # with the entries of a block that was stepped over
            elif isinstance(effect, fx.ReadSums) and effect.is_urgent and not self.store.has_sums():
                self.on_work()  # which counts them
            return result
        except StorageCorrupt as error:
            if not is_again and self.mend(error, now):
                return self._result_of(effect, now, is_again=True)
            self.on_failure(error)
            return fx.Failed(error=error)
        except StorageError as error:
            self.on_failure(error)
            return fx.Failed(error=error)

    def _settle_replaced(self, rows: Sequence[Row], now: float) -> list[fx.Effect]:
        """A refused change whose record was just replaced is owed anew, or covered by what the mirrors have.

        One that they have after all (another mirror took it before the refusal) brings nothing new here.
        """
        applied = {row.id_key: row.leaves for row in rows}
        current = self.rejections()
        replaced = {
            rejected.id_key for seq, rejected in self.node.rejected.items()
            if rejected.id_key in applied
            and (seq not in current or set(current[seq][0].leaves).issubset(applied[rejected.id_key]))
        }
        return [effect for id_key in replaced for effect in self.node.settle_rejected(id_key, now)]

    def _set_note(self, effect: fx.SetNote) -> None:
        self._write_notes({**self._unwritten, effect.key: effect.value})

    def _write_notes(self, notes: dict[str, bytes]) -> None:
        """A full disk puts them off: the protocol goes by them already, and counters.pending follows one of them."""
        try:
            self.store.put([], notes=notes)
        except StorageFull as error:
            self._unwritten = notes
            self.on_failure(error)
        except StorageError as error:
            self.on_failure(error)
        else:
            self._unwritten = {}

    def _finish_fetch(self, effect: fx.FetchDone) -> None:
        fetch = self._fetches.pop(effect.request, None)
        if fetch is not None:
            fetch.row, fetch.outcome, fetch.is_done = effect.row, effect.outcome, True

    def _renew(self, now: float) -> list[fx.Effect]:
        """Another living node uses our id, or knows more of us than our disk does: we are somebody new from here on.

        A disk that does not take it puts it off: until then the node hears and says nothing.
        """
        self._is_renewal_due = True
        try:
            node = self._world.renew_node()
            self.ledger.rename(node)
            self.store.node = node
            self._write_durably({INDEX_NOTE: self._world.mint(16), OWNER_NOTE: _owner_note(node)})
        except StorageError as error:
            self.on_failure(error)
            return []
        self._is_renewal_due = False
        return self.node.on_renewed(node, self.index_id, now)

    def _on_announce(self, kind: fx.Kind) -> None:
        if kind is fx.Kind.CONNECTED and self.node.scope is None:
            self.store.keep_sums()
            self.on_work()
        elif kind is fx.Kind.DELIVERED and self.trimmer.size_max is not None:
            self.trimmer.look()
            self.on_work()
        elif kind is fx.Kind.CAUGHT_UP:
            is_first = self._as_of_ms is None
            self._as_of_ms = self._world.wall_ms()
            if is_first:
                self._set_note(fx.SetNote(key=COMPLETE_NOTE, value=str(self._as_of_ms).encode()))


def _owner_note(node: int) -> bytes:
    return b"%016x" % node


def _mode_note(is_mirror: bool) -> bytes:
    return b"mirror" if is_mirror else b"peer"


__all__ = ["Command", "Fetch", "MyNoSQLError", "Replica", "World"]
