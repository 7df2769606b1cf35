"""A mesh of nodes in one process with virtual time: real sync.Node objects, a fake store each, a network that can fail.

    world = World(seed=1)
    mirror, peer = world.mirror("m1"), world.peer("p1", knows=["m1"])
    peer.save("a", b"1")
    world.run_until(lambda: mirror.body("a") == b"1", within_s=1.0)

Everything follows from the seed. Messages travel as encoded bytes, so what is sent is what the wire can carry. Links
are connections: they keep the order of messages, unless the world reorders; they can be cut (both sides notice) or
muted (nobody notices). A killed node keeps what it had fsynced.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mynosql.address import Address
from mynosql.errors import PeerError
from mynosql.row import Leaf
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.options import SyncOptions
from mynosql.sync.wire import decode, encode
from tests.sync.machine import PORT, Machine, Subscription

__all__ = ["PORT", "Machine", "Sent", "World", "card", "hello", "welcome"]

T = TypeVar("T")


@dataclass(frozen=True)
class Sent:
    """One message that left a node."""

    at: float
    sender: str
    receiver: str
    message: ms.Message
    size: int

    def __str__(self) -> str:
        return f"{self.at:8.3f} {self.sender} -> {self.receiver} {type(self.message).__name__}"


@dataclass
class Connection:
    """One connection that a dial made, while it lasts."""

    number: int
    client: Machine
    address: Address
    made_at: float
    server: Machine | None = None
    is_up: bool = False
    is_over: bool = False
    is_hung_up: bool = False
    arrives_at: dict[str, float] = field(default_factory=dict)
    """Per direction: when the last message arrives (TCP keeps their order)."""

    @property
    def served(self) -> fx.Link:
        return fx.Link.served(f"{self.number:08x}")


class World:
    """Machines, the network between them, and time."""

    def __init__(self, seed: int = 0, *, latency_s: float = 0.001, is_encoded: bool = True) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now = 0.0
        self.database = "Test"
        self.latency_s = latency_s
        self.latencies_s: dict[frozenset[str], float] = {}
        """One way, between two machines by name, where it is not latency_s."""
        self.jitter_s = 0.0
        self.reorder = False
        self.duplicate_share = 0.0
        self.publish_loss_share = 0.0
        self.fsync_s = 0.0005
        self.is_encoded = is_encoded
        self.options = SyncOptions()
        self.machines: dict[str, Machine] = {}
        self.connections: list[Connection] = []
        self.log: list[Sent] = []
        self.ghosts: dict[str, list[ms.Message]] = {}
        """Hosts that answer a dial and say nothing but what the test injects; what they were told."""
        self.strays: list[tuple[str, fx.Link, ms.Message]] = []
        """Messages to served links that no machine holds: answers to what a test injected."""
        self.aliases: dict[str, str] = {}
        """Host names that lead to a machine of another name."""
        self.on_deliver: Callable[[Sent], bool] = lambda sent: True
        """Return False to lose a message."""
        self._cuts: set[frozenset[str]] = set()
        self._mutes: set[frozenset[str]] = set()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    # Building

    def ghost(self, name: str) -> fx.Link:
        """A host that takes every dial; returns the link that a machine has to it."""
        self.ghosts[name] = []
        return fx.Link.dial(Address(name, PORT))

    def told(self, name: str, kind: type[T]) -> list[T]:
        """What that ghost was told."""
        return [message for message in self.ghosts[name] if isinstance(message, kind)]

    def answers(self, machine: Machine, kind: type[T]) -> list[T]:
        """What that machine answered to injected messages over served links."""
        return [message for name, _, message in self.strays if name == machine.name and isinstance(message, kind)]

    def mirror(
        self, name: str, *, knows: Iterable[str] = (), options: SyncOptions | None = None, **how: Any
    ) -> Machine:
        """how: further arguments of Machine."""
        return self._machine(name, True, knows, options, how)

    def peer(
        self, name: str, *, knows: Iterable[str] = (), options: SyncOptions | None = None, **how: Any
    ) -> Machine:
        return self._machine(name, False, knows, options, how)

    def _machine(
        self, name: str, is_mirror: bool, knows: Iterable[str], options: SyncOptions | None, how: dict[str, Any]
    ) -> Machine:
        machine = Machine(self, name, is_mirror=is_mirror, knows=knows, options=options or self.options, **how)
        self.machines[name] = machine
        return machine

    # Time

    def at(self, due: float, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (due, self._count, call))

    def run(self, seconds: float) -> None:
        """That much time passes."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self._next_event()
        self.now = end

    def run_until(self, condition: Callable[[], bool], *, within_s: float = 30.0, what: str = "") -> float:
        """Time passes until the condition holds; returns how much. Fails when it does not hold in time."""
        start = self.now
        while not condition():
            if not self._events or self._events[0][0] > start + within_s:
                raise AssertionError(
                    f"seed {self.seed}: not within {within_s} s: {what or 'the condition'}\n" + self.transcript(40)
                )
            self._next_event()
        return self.now - start

    def _next_event(self) -> None:
        due, _, call = heapq.heappop(self._events)
        self.now = max(self.now, due)
        call()

    # Network

    def find(self, host: str) -> Machine | None:
        return self.machines.get(self.aliases.get(host, host))

    def cut(self, one: str, other: str) -> None:
        """No connection between them any more; both sides notice."""
        self._cuts.add(frozenset((one, other)))
        for connection in list(self.connections):
            if connection.server is not None and {connection.client.name, connection.server.name} == {one, other}:
                self.end_connection(connection)

    def mute(self, one: str, other: str) -> None:
        """Nothing arrives any more between them; nobody notices."""
        self._mutes.add(frozenset((one, other)))

    def heal(self) -> None:
        """All cuts and mutes are over; what was sent meanwhile over a muted link is lost."""
        self._cuts.clear()
        self._mutes.clear()
        self.reorder = False
        self.duplicate_share = self.publish_loss_share = 0.0

    def _is_cut(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self._cuts

    def _is_mute(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self._mutes

    def _delay(self, *names: str) -> float:
        """names: of both ends, whose latency may be another than everybody's."""
        return self.latencies_s.get(frozenset(names), self.latency_s) + self.rng.random() * self.jitter_s

    def dial(self, client: Machine, address: Address) -> None:
        assert address not in client.links, f"{client.name} dials {address} twice"
        self._count += 1
        connection = Connection(self._count, client, address, self.now)
        client.links[address] = connection
        self.connections.append(connection)
        self.at(self.now + self._delay(), lambda: self._connect(connection, 1))

    def _connect(self, connection: Connection, tries: int) -> None:
        if connection.is_over or connection.is_up:
            return
        client = connection.client
        server = self.find(connection.address.host)
        if connection.address.host in self.ghosts:
            connection.is_up = True
            client.perform(client.node.on_link_up(fx.Link.dial(connection.address), self.now))
            return
        if server is not None and self._is_mute(client.name, server.name):
            self.at(self.now + 0.4, lambda: self._connect(connection, tries))  # knock after knock
            return
        if server is None or not server.is_alive or not server.is_mirror or self._is_cut(client.name, server.name):
            longest_s = min(max(0.25, (self.now - connection.made_at) / 60), 5.0)
            self.at(self.now + min(0.05 * 2**tries, longest_s), lambda: self._connect(connection, tries + 1))
            client.perform(client.node.on_link_down(fx.Link.dial(connection.address), self.now))
            return
        connection.server, connection.is_up = server, True
        connection.arrives_at.clear()
        self._count += 1
        connection.number = self._count
        client.perform(client.node.on_link_up(fx.Link.dial(connection.address), self.now))

    def end_connection(self, connection: Connection) -> None:
        """It breaks; the dialling side notices, and connects again by itself while it lives."""
        client, was_up = connection.client, connection.is_up
        connection.is_up, connection.server = False, None
        if not client.is_alive:
            connection.is_over = True
            self.connections.remove(connection)
            return
        if was_up:
            self.at(self.now + 0.001, lambda: self._tell_down(connection))

    def _tell_down(self, connection: Connection) -> None:
        client = connection.client
        if connection.is_over or connection.is_up or not client.is_alive:
            return
        self.at(self.now + 0.05, lambda: self._connect(connection, 1))
        client.perform(client.node.on_link_down(fx.Link.dial(connection.address), self.now))

    def hang_up(self, machine: Machine, link: fx.Link) -> None:
        if link.kind is fx.LinkKind.SERVED:
            for connection in list(self.connections):
                if connection.server is machine and connection.served == link:
                    self.end_connection(connection)
            return
        for address, connection in list(machine.links.items()):
            if fx.Link.dial(address) == link:
                del machine.links[address]
                connection.is_over = connection.is_hung_up = True
                self.connections.remove(connection)

    def send(self, sender: Machine, link: fx.Link, message: ms.Message) -> None:
        for connection in self.connections:
            is_client = connection.client is sender and fx.Link.dial(connection.address) == link
            is_server = connection.server is sender and connection.served == link
            if connection.is_up and (is_client or is_server):
                break
        else:
            self.strays.append((sender.name, link, message))
            return
        if connection.server is None:
            self._note(sender, connection.address.host, message)
            self.ghosts[connection.address.host].append(message)
            return
        assert connection.server is not None
        receiver = connection.server if is_client else connection.client
        sent = self._note(sender, receiver.name, message)
        if self._is_mute(sender.name, receiver.name) or not self.on_deliver(sent):
            return
        number = connection.number
        copies = 2 if self.rng.random() < self.duplicate_share else 1
        for _ in range(copies):
            due = self.now + self._delay(sender.name, receiver.name)
            if not self.reorder:
                due = max(due, connection.arrives_at.get(sender.name, 0.0))
                connection.arrives_at[sender.name] = due
            self.at(due, lambda: self._deliver(connection, number, is_client, sent))

    def _deliver(self, connection: Connection, number: int, to_server: bool, sent: Sent) -> None:
        is_last_word = to_server and connection.is_hung_up  # a DEALER is closed after its last messages
        if (connection.is_over and not is_last_word) or not connection.is_up or connection.number != number:
            return
        assert connection.server is not None
        machine = connection.server if to_server else connection.client
        link = connection.served if to_server else fx.Link.dial(connection.address)
        message = self._through_wire(sent.message)
        machine.perform(machine.node.on_message(link, message, self.now, user_id=""))

    def publish(self, sender: Machine, topic: fx.Topic, message: ms.Message) -> None:
        if not sender.can_publish:
            return
        for machine in self.machines.values():
            for address, subscription in list(machine.subscriptions.items()):
                if self.find(subscription.publisher.host) is not sender or topic not in subscription.topics:
                    continue
                sent = self._note(sender, f"{machine.name} (PUB)", message)
                is_lost = self.rng.random() < self.publish_loss_share or not self.on_deliver(sent)
                # A SUB takes a moment to connect: what is published meanwhile never reaches it.
                is_early = self.now < subscription.since + 2 * self.latency_s
                is_apart = self._is_cut(sender.name, machine.name) or self._is_mute(sender.name, machine.name)
                if is_lost or is_early or is_apart:
                    continue
                self.at(
                    self.now + self._delay(),
                    lambda machine=machine, address=address, subscription=subscription: self._deliver_published(  # type: ignore[misc]
                        machine, address, subscription, message
                    ),
                )

    def _deliver_published(
        self, machine: Machine, address: Address, subscription: Subscription, message: ms.Message
    ) -> None:
        if machine.is_alive and machine.subscriptions.get(address) is subscription:
            machine.perform(machine.node.on_published(address, self._through_wire(message), self.now))

    def inject(self, machine: Machine, link: fx.Link, message: ms.Message, *, user_id: str = "") -> None:
        """That message arrives, whoever may have sent it."""
        machine.perform(machine.node.on_message(link, self._through_wire(message), self.now, user_id=user_id))

    def inject_published(self, machine: Machine, name: str, message: ms.Message) -> None:
        machine.perform(machine.node.on_published(Address(name, PORT), self._through_wire(message), self.now))

    def inject_garbage(self, machine: Machine, link: fx.Link, frames: list[bytes]) -> None:
        try:
            decode(frames)
        except PeerError as error:
            machine.perform(machine.node.on_garbage(link, error, self.now))
        else:
            raise AssertionError("not garbage")

    def served_link(self, server: str, client: str) -> fx.Link:
        return next(
            connection.served for connection in self.connections
            if connection.server is not None and connection.server.name == server and connection.client.name == client
        )

    def _through_wire(self, message: ms.Message) -> ms.Message:
        if not self.is_encoded:
            return message
        arrived = decode(encode(message))
        assert type(arrived) is type(message)
        return arrived

    def _note(self, sender: Machine, receiver: str, message: ms.Message) -> Sent:
        size = sum(map(len, encode(message))) if self.is_encoded else 0
        sent = Sent(self.now, sender.name, receiver, message, size)
        self.log.append(sent)
        return sent

    # Looking back

    def sent(self, kind: type[T], *, by: str | None = None, to: str | None = None) -> list[T]:
        return [
            sent.message for sent in self.log
            if isinstance(sent.message, kind) and by in (None, sent.sender) and to in (None, sent.receiver)
        ]

    def talk(self, one: str, other: str) -> list[str]:
        """What two nodes said over their link, without small talk: "p1: Hello" …"""
        return [
            f"{sent.sender}: {type(sent.message).__name__}" for sent in self.log
            if {sent.sender, sent.receiver} == {one, other}
            and not isinstance(sent.message, ms.Ping | ms.Pong | ms.Mirrors)
        ]

    def transcript(self, count: int = 100) -> str:
        return "\n".join(map(str, self.log[-count:]))

    def is_settled(self) -> bool:
        """All living nodes know the same of every record, mirrors hold all bodies, nobody owes anything."""
        living = [machine for machine in self.machines.values() if machine.is_alive]
        first = living[0].store.leaves()
        if any(machine.store.leaves() != first for machine in living[1:]):
            return False
        if any(machine.is_mirror and machine.store.missing_bodies() for machine in living):
            return False
        mirror_count = sum(machine.is_mirror for machine in living)
        return not any(machine.owes(mirror_count) for machine in living if not machine.is_mirror)

    def settle(self, within_s: float = 60.0) -> float:
        try:
            return self.run_until(self.is_settled, within_s=within_s, what="all equal, mirrors full, nothing owed")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.differences()}") from error

    def differences(self) -> str:
        """A line per machine: what sets it apart."""
        union: dict[bytes, set[tuple[Leaf, ...]]] = {}
        for machine in self.machines.values():
            for id_key, leaves in machine.store.leaves().items():
                union.setdefault(id_key, set()).add(leaves)
        lines = []
        for machine in self.machines.values():
            status = machine.node.status()
            lacks = sorted(id_key.decode() for id_key in union if id_key not in machine.store.rows)
            other = sorted(
                id_key.decode() for id_key, leaves in machine.store.leaves().items() if len(union[id_key]) > 1
            )
            lines.append(
                f"{machine.name}: alive {machine.is_alive} mirror {machine.is_mirror} follows {machine.follows} "
                f"connected {status.connected} filling {status.is_filling} behind {status.behind} "
                f"pending {machine.pending} head {machine.store.head} delivered {machine.node.delivered_seq}\n"
                f"    lacks {lacks} differs {other} bodies missing {len(machine.store.missing_bodies())} "
                f"rejected {dict(machine.node.rejected)}\n    last failures {machine.failures[-2:]}"
            )
        return "\n".join(lines)


# Messages by hand


def card(**changes: Any) -> ms.Card:
    """A mirror's card; changes: what it says else."""
    fields: dict[str, Any] = {
        "node": 77, "index_id": b"I" * 16, "nonce": 1, "databases": (), "is_young": True, "is_mirror": True,
        "is_filling": False, "advertised": None, "publisher_port": 0, "head": 0,
    }
    return ms.Card(**{**fields, **changes})


def hello(**changes: Any) -> ms.Hello:
    """The Hello of a peer; `card` changes go to the card."""
    fields: dict[str, Any] = {
        "version_low": 1, "version_high": 1, "database": "Test", "session": 5, "is_merging": False,
        "card": card(is_mirror=False), "known": None, "is_listening": True,
    }
    return ms.Hello(**{**fields, **changes})


def welcome(asked: ms.Hello, **changes: Any) -> ms.Welcome:
    """The answer of a mirror to that Hello."""
    fields: dict[str, Any] = {
        "session": asked.session, "version": 1, "card": card(), "known": None, "heartbeat_ms": 1000, "mirrors": (),
    }
    return ms.Welcome(**{**fields, **changes})
