"""One node of the simulated mesh: a real sync.Node, its fake store, and the interpreter of its effects."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mynosql.address import Address
from mynosql.errors import MyNoSQLError, StorageFull
from mynosql.idkey import pack_id
from mynosql.row import Leaf, Version
from mynosql.sync import effects as fx
from mynosql.sync.node import Node, NodeConfig, SyncOptions
from tests.sync.fake_store import FakeStore

if TYPE_CHECKING:
    from tests.sync.harness import Connection, World

EPOCH_MS = 1_700_000_000_000
PORT = 8800

Command = fx.Send | fx.Publish | fx.Dial | fx.HangUp | fx.Subscribe | fx.Unsubscribe


@dataclass
class Subscription:
    """One SUB of a node."""

    publisher: Address
    topics: tuple[fx.Topic, ...]
    since: float


class Machine:
    """One node with its store and the interpreter of its effects. Survives being killed."""

    def __init__(
        self, world: World, name: str, *, is_mirror: bool, knows: Iterable[str], options: SyncOptions, acks: int = 1,
    ) -> None:
        self.world = world
        self.name = name
        self.is_mirror = is_mirror
        self.options = options
        self.acks = acks
        self.store = FakeStore()
        self.node_id = world.rng.getrandbits(64)
        self.index_id = world.rng.randbytes(16)
        self.is_alive = False
        self.links: dict[Address, Connection] = {}
        self.subscriptions: dict[Address, Subscription] = {}
        self.fetched: dict[int, fx.FetchDone] = {}
        self.failures: list[MyNoSQLError] = []
        self.announced: Counter[fx.Kind] = Counter()
        self.renewed: list[str] = []
        self.applied_rows = 0
        self._outgoing: deque[tuple[int, Command]] = deque()
        self._is_sync_due = False
        self._wake_at: float | None = None
        self._next_request = 1
        self.can_publish = True
        self.can_sync = True
        """False: what is written stays in memory only."""
        self.start(knows)

    @property
    def address(self) -> Address:
        return Address(self.name, PORT)

    # Life

    def start(self, knows: Iterable[str] = ()) -> None:
        """A process opens this store."""
        world = self.world
        written = (leaf for rows, _ in self.store.frames for row in rows for leaf in row.leaves)
        hlc = max((leaf.hlc for leaf in written if leaf.node == self.node_id), default=0)
        self.node = Node(
            NodeConfig(
                database=world.database, node=self.node_id, index_id=self.index_id, nonce=world.rng.getrandbits(64),
                is_mirror=self.is_mirror, acks=self.acks,
            ),
            notes=self.store.notes, head=self.store.durable_seq, hlc=hlc, rng=random.Random(world.rng.getrandbits(64)),
            options=self.options,
        )
        self.is_alive = True
        self._outgoing.clear()
        self.perform(self.node.start(
            world.now, advertised=self.address if self.is_mirror else None,
            publisher_port=PORT + 1 if self.is_mirror else 0,
        ))
        for name in knows:
            self.perform(self.node.add_address(Address(name, PORT), world.now))

    def stop(self) -> None:
        """The database is closed in good order."""
        self.perform(self.node.stop(self.world.now))
        self.store.sync()
        self._flush()
        self._leave()

    def kill(self) -> None:
        """The machine loses power: only what was fsynced is left."""
        self.store = self.store.crashed()
        self._leave()

    def _leave(self) -> None:
        self.is_alive = False
        self._outgoing.clear()
        self.subscriptions.clear()
        for connection in list(self.world.connections):
            if connection.client is self or connection.server is self:
                self.world.end_connection(connection)
        self.links.clear()

    def restart(self) -> None:
        if self.is_alive:
            self.kill()
        self.start()

    def set_mode(self, is_mirror: bool) -> None:
        self.is_mirror = is_mirror
        self.perform(self.node.set_mode(is_mirror, self.world.now))
        self.perform(self.node.set_endpoint(
            self.address if is_mirror else None, PORT + 1 if is_mirror else 0, self.world.now
        ))

    # The application

    def save(self, id: str, body: bytes) -> Leaf:
        return self._save(id, body)

    def delete(self, id: str) -> Leaf:
        return self._save(id, None)

    def _save(self, id: str, body: bytes | None) -> Leaf:
        leaf = self.store.save(pack_id(id), body, node=self.node_id, now_ms=EPOCH_MS + int(self.world.now * 1000))
        self._plan_sync()
        return leaf

    def body(self, id: str) -> bytes | None:
        return self.store.body(pack_id(id))

    def leaves(self, id: str) -> tuple[Leaf, ...]:
        row = self.store.rows.get(pack_id(id))
        return () if row is None else row.leaves

    def fetch(
        self, id: str, *, timeout_s: float = 5.0, confirm: bool = False, version: Version | None = None,
        all_leaves: bool = False,
    ) -> int:
        request = self._next_request
        self._next_request += 1
        now = self.world.now
        self.perform(self.node.fetch(
            request, pack_id(id), now + timeout_s, now, confirm=confirm, version=version, all_leaves=all_leaves
        ))
        return request

    def outcome(self, request: int) -> fx.Outcome | None:
        done = self.fetched.get(request)
        return None if done is None else done.outcome

    @property
    def follows(self) -> str | None:
        address = self.node.status().mirror
        return None if address is None else address.host

    @property
    def pending(self) -> int:
        return sum(self.node.is_owed(row.seq, row.owed) for row in self.store.rows.values())

    def owes(self, mirror_count: int) -> bool:
        """Something is not where it should be; with fewer mirrors than it asks for, one that has it is enough."""
        reached = self.node.delivered_seq if mirror_count >= self.acks else self.node.acked_seq
        return any(row.seq > reached and self.node.is_owed(row.seq, row.owed) for row in self.store.rows.values())

    # The interpreter: as replica.Replica, over the fake store

    def perform(self, effects: list[fx.Effect]) -> None:
        todo = deque(effects)
        while todo:
            effect = todo.popleft()
            if isinstance(effect, fx.Send | fx.Publish):
                self._outgoing.append((self.store.written if effect.message.is_gated else 0, effect))
            elif isinstance(effect, fx.Dial | fx.HangUp | fx.Subscribe | fx.Unsubscribe):
                self._outgoing.append((0, effect))
            elif isinstance(effect, fx.Renew):
                todo.extend(self._renew(effect.reason))
            elif (result := self._result(effect)) is not None:
                todo.extend(self.node.on_result(effect.token, result, self.world.now))  # type: ignore[union-attr]
            else:
                self._do(effect)
        if self.store.durable < self.store.written:
            self._plan_sync()
        self._flush()
        self._plan_wake()

    def _result(self, effect: fx.Effect) -> fx.Result | None:
        store = self.store
        try:
            if isinstance(effect, fx.Apply):
                self.applied_rows += len(effect.rows)
                return store.apply(effect.rows, effect.notes, is_push=effect.origin is fx.Origin.PUSH)
        except StorageFull as error:
            return fx.Failed(error=error)
        if isinstance(effect, fx.ReadFeed):
            return store.feed(effect)
        if isinstance(effect, fx.ReadBodies):
            return store.bodies(effect)
        if isinstance(effect, fx.ReadPiece):
            return store.piece(effect)
        if isinstance(effect, fx.ReadMissing):
            return store.missing(effect.after_key, effect.limit)
        if isinstance(effect, fx.ReadOffers):
            return store.offers(effect)
        if isinstance(effect, fx.CompareOffers):
            return store.compare(effect)
        if isinstance(effect, fx.ReadSums):
            return store.sums(effect.question)
        if isinstance(effect, fx.ReadHashes):
            return store.hashed(effect.id_hashes)
        return None

    def _do(self, effect: fx.Effect) -> None:
        if isinstance(effect, fx.SetNote):
            if not self.store.is_full:
                self.store.put([], {effect.key: effect.value})
        elif isinstance(effect, fx.CountAgain):
            self.store.counted_again += 1
        elif isinstance(effect, fx.FetchDone):
            assert effect.request not in self.fetched
            self.fetched[effect.request] = effect
        elif isinstance(effect, fx.Fail):
            self.failures.append(effect.error)
        elif isinstance(effect, fx.Announce):
            self.announced[effect.kind] += 1

    def _renew(self, reason: str) -> list[fx.Effect]:
        self.renewed.append(reason)
        self.node_id = self.world.rng.getrandbits(64)
        self.index_id = self.world.rng.randbytes(16)
        self.store.sync()
        return self.node.on_renewed(self.node_id, self.index_id, self.world.now)

    def _flush(self) -> None:
        while self._outgoing and self._outgoing[0][0] <= self.store.durable:
            _, effect = self._outgoing.popleft()
            if isinstance(effect, fx.Send):
                self.world.send(self, effect.link, effect.message)
            elif isinstance(effect, fx.Publish):
                self.world.publish(self, effect.topic, effect.message)
            elif isinstance(effect, fx.Dial):
                self.world.dial(self, effect.address)
            elif isinstance(effect, fx.HangUp):
                self.world.hang_up(self, effect.link)
            elif isinstance(effect, fx.Subscribe):
                self.subscriptions[effect.address] = Subscription(effect.publisher, effect.topics, self.world.now)
            else:
                self.subscriptions.pop(effect.address, None)

    def _plan_sync(self) -> None:
        if not self._is_sync_due:
            self._is_sync_due = True
            node = self.node
            self.world.at(self.world.now + self.world.fsync_s, lambda: self._on_sync(node))

    def _on_sync(self, node: Node) -> None:
        self._is_sync_due = False
        if node is not self.node or not self.is_alive or not self.can_sync:
            return
        before = self.store.durable_seq
        self.store.sync()
        self._flush()
        if self.store.durable_seq > before:
            self.perform(self.node.on_durable(self.store.durable_seq, self.world.now))

    def _plan_wake(self) -> None:
        due = self.node.next_due(self.world.now)
        if due is None or not self.is_alive:
            return
        if self._wake_at is None or due < self._wake_at or self._wake_at <= self.world.now:
            self._wake_at = due
            self.world.at(due, self._on_wake)

    def _on_wake(self) -> None:
        if self._wake_at is None or self.world.now < self._wake_at or not self.is_alive:
            return
        self._wake_at = None
        self.perform(self.node.step(self.world.now))
