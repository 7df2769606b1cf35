"""A model of the network: hosts with the sockets of net.io.IoThread, and what may become of what they send.

It does what ZeroMQ over TCP was seen to do (tests/sim/test_network.py holds it and real sockets to the same story):
a connection keeps the order of its messages and loses none in the middle; what waits in it when it breaks is lost;
two connections have no common order; a PUB drops silently beyond its high-water mark and before a subscription has
arrived; a ROUTER learns that a node has gone when it sends to it. Frames are bytes: nothing else passes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mynosql.address import Address
from mynosql.sync.effects import Link, LinkKind
from tests.sim.virtual import Time

Frames = Sequence[bytes]


class Handler(Protocol):
    """Whom a host tells what comes in: the part of net.io.Handler that a database needs."""

    def on_frames(self, link: Link, frames: list[bytes], user_id: str) -> None: ...
    def on_published(self, address: Address, frames: list[bytes]) -> None: ...
    def on_link_up(self, link: Link) -> None: ...
    def on_link_down(self, link: Link, reason: str) -> None: ...


@dataclass(slots=True, kw_only=True)
class NetworkOptions:
    """Times as in net.options.NetOptions, and the trouble of this network. A run may change trouble at any time."""

    dial_timeout_s: float = 5.0
    retry_s_min: float = 0.05
    retry_s_max: float = 5.0
    steady_s: float = 5.0
    tcp_dead_s: float = 30.0
    send_messages_max: int = 4096
    publish_messages_max: int = 1000
    latency_s: float = 0.001
    jitter_s: float = 0.0
    """Up to so much more, for each message by itself: what goes over different sockets overtakes."""
    loss_share: float = 0.0
    """Packets lost: TCP sends them again after RESEND_S, and all behind them waits."""
    duplicate_share: float = 0.0
    """Messages that arrive twice. ZeroMQ does not do that; the protocol claims to stand it."""
    publish_loss_share: float = 0.0
    """Publications that one subscriber misses, as if its queue were full just then."""


RESEND_S = 0.2
"""The first retransmission of TCP on Linux."""
SYN_AT_S = (0.0, 1.0, 3.0)
"""When TCP asks for a connection, from the beginning of an attempt."""


class Pipe:
    """One direction of one connection: messages in order, until it is closed."""

    __slots__ = ("arrives_at", "deliver", "is_closed", "network", "route", "waiting")

    def __init__(self, network: Network, route: tuple[str, str], deliver: Callable[[Frames], None]) -> None:
        self.network = network
        self.route = route
        self.deliver = deliver
        self.waiting: deque[Frames] = deque()
        self.arrives_at = 0.0
        self.is_closed = False

    def send(self, frames: Frames) -> None:
        if self.waiting or self.route in self.network.blocked:
            self.waiting.append(frames)
            return
        self._transmit(frames)

    def _transmit(self, frames: Frames) -> None:
        network = self.network
        options, time = network.options, network.time
        due = time.now + network.delay_s()
        if options.loss_share:
            resend_s = RESEND_S
            while time.rng.random() < options.loss_share:
                due += resend_s
                resend_s *= 2
        if due < self.arrives_at:
            due = self.arrives_at
        self.arrives_at = due
        network.messages += 1
        time.at(due, lambda: self._arrive(frames))
        if options.duplicate_share and time.rng.random() < options.duplicate_share:
            time.at(due, lambda: self._arrive(frames))

    def _arrive(self, frames: Frames) -> None:
        if not self.is_closed:
            self.deliver(frames)

    def release(self) -> None:
        """The way is open again: what TCP kept comes after one retransmission."""
        waiting = list(self.waiting)
        self.waiting.clear()
        if waiting:
            self.arrives_at = max(self.arrives_at, self.network.time.now + RESEND_S)
        for frames in waiting:
            self._transmit(frames)


@dataclass(eq=False, slots=True)
class Connection:
    """One TCP connection between a DEALER or SUB here and a ROUTER or PUB there."""

    number: int
    client: Host
    server: Host
    to_server: Pipe
    to_client: Pipe
    is_client_over: bool = False
    is_server_over: bool = False
    """Each side may still believe in it when the other does not any more."""
    topics: frozenset[bytes] = frozenset()
    is_effective: bool = False
    """The subscription has arrived, or the opening was accepted."""
    is_hung_up: bool = False
    """The ROUTER's owner does not want its messages any more."""

    @property
    def served(self) -> Link:
        return Link.served(f"{self.number:010x}")

    @property
    def pipes(self) -> tuple[Pipe, Pipe]:
        return self.to_server, self.to_client


@dataclass(eq=False, slots=True)
class Outbound:
    """A DEALER or SUB that a host keeps connected, attempt after attempt."""

    host: Host
    name: Address
    """Of the dial that it belongs to."""
    target: Address
    topics: tuple[bytes, ...] | None
    """None: a DEALER."""
    connection: Connection | None = None
    is_up: bool = False
    is_over: bool = False
    attempt: int = 0
    pause_s: float = 0.0
    ready_at: float = field(default=float("-inf"))

    @property
    def link(self) -> Link:
        return Link.dial(self.name)


class Host:
    """The sockets of one process. Made by Network.add(); commands as those of net.io.IoThread."""

    def __init__(self, network: Network, name: str, handler: Handler, port: int) -> None:
        self.network = network
        self.name = name
        self.handler = handler
        self.port = port
        self.is_listening = False
        self.is_over = False
        self.dials: dict[Link, Outbound] = {}
        self.subscriptions: dict[Address, Outbound] = {}
        self.served: dict[Link, Connection] = {}
        self.subscribers: list[Connection] = []

    @property
    def address(self) -> Address:
        return Address(self.name, self.port)

    # Commands

    def listen(self) -> None:
        self.is_listening = True

    def unlisten(self) -> None:
        """Nobody reaches this host; on_link_down for each served link. What was sent arrives first."""
        for link in self._stop_listening():
            self.handler.on_link_down(link, "this node does not listen any more")

    def _stop_listening(self) -> list[Link]:
        self.is_listening = False
        links = list(self.served)
        for connection in [*self.served.values(), *self.subscribers]:
            self.network.end_server(connection)
        return links

    def dial(self, address: Address) -> None:
        link = Link.dial(address)
        if link not in self.dials:
            self.dials[link] = outbound = Outbound(self, address, address, None)
            self.network.begin(outbound)

    def hang_up(self, link: Link) -> None:
        if link.kind is LinkKind.SERVED:
            connection = self.served.pop(link, None)
            if connection is not None:
                connection.is_hung_up = True
        elif (outbound := self.dials.pop(link, None)) is not None:
            self.network.close_outbound(outbound)

    def subscribe(self, address: Address, publisher: Address, topics: Iterable[bytes]) -> None:
        wanted = tuple(topics)
        held = self.subscriptions.get(address)
        if held is not None and (held.target, held.topics) == (publisher, wanted):
            return
        self.unsubscribe(address)
        self.subscriptions[address] = outbound = Outbound(self, address, publisher, wanted)
        self.network.begin(outbound)

    def unsubscribe(self, address: Address) -> None:
        held = self.subscriptions.pop(address, None)
        if held is not None:
            self.network.close_outbound(held)

    def send(self, link: Link, frames: Frames) -> bool:
        """False: the link is down, or was given up just now because nothing passes."""
        options = self.network.options
        if link.kind is LinkKind.SERVED:
            connection = self.served.get(link)
            if connection is None:
                return False
            if connection.is_server_over:
                self._lose_served(connection, "the other node has gone")
                return False
            if len(connection.to_client.waiting) >= options.send_messages_max:
                self._lose_served(connection, "the other node takes no more messages")
                return False
            connection.to_client.send(frames)
            return True
        outbound = self.dials.get(link)
        if outbound is None or not outbound.is_up or outbound.connection is None:
            return False
        if len(outbound.connection.to_server.waiting) >= options.send_messages_max:
            connection = outbound.connection
            self.network.time.after(0.0, lambda: self.network.end_client(connection, "takes no more messages"))
            return False
        outbound.connection.to_server.send(frames)
        return True

    def _lose_served(self, connection: Connection, reason: str) -> None:
        del self.served[connection.served]
        self.network.time.after(0.0, lambda: self._tell_lost(connection, reason))

    def _tell_lost(self, connection: Connection, reason: str) -> None:
        if not self.is_over:
            self.handler.on_link_down(connection.served, reason)

    def publish(self, topic: bytes, frames: Frames) -> None:
        """To whoever subscribed; those whose queue is full miss it, silently."""
        if not self.is_listening:
            return
        network = self.network
        message = [topic, *frames]
        loss_share = network.options.publish_loss_share
        for connection in self.subscribers:
            if topic not in connection.topics or not connection.is_effective:
                continue
            if loss_share and network.time.rng.random() < loss_share:
                continue
            if len(connection.to_client.waiting) < network.options.publish_messages_max:
                connection.to_client.send(message)

    # The end of the process

    def close(self) -> None:
        """In good order: what was sent arrives, then the connections end."""
        self.is_over = True
        for outbound in [*self.dials.values(), *self.subscriptions.values()]:
            self.network.close_outbound(outbound)
        self._stop_listening()
        self.network.remove(self)

    def crash(self, *, is_silent: bool) -> None:
        """The process is gone, with all that waited. is_silent: so is its machine, and nobody is told."""
        self.is_over = True
        for connection in self.network.connections_of(self):
            self.network.abort(connection, self, is_silent=is_silent)
        for outbound in [*self.dials.values(), *self.subscriptions.values()]:
            outbound.is_over = True
        self.is_listening = False
        self.network.remove(self, is_silent=is_silent)


class Network:
    """Hosts by name, and the ways between them."""

    def __init__(self, time: Time, options: NetworkOptions | None = None) -> None:
        self.time = time
        self.options = options or NetworkOptions()
        self.blocked: set[tuple[str, str]] = set()
        """(from, to): nothing passes in that direction, and nobody is told."""
        self.cut: set[frozenset[str]] = set()
        """Connections between these two are refused, at once and seen by both."""
        self.hosts: dict[str, Host] = {}
        self.dark: set[str] = set()
        """Machines without power: they do not even refuse."""
        self.messages = 0
        self._connections: dict[int, Connection] = {}
        self._count = 0

    def delay_s(self) -> float:
        options = self.options
        return options.latency_s + options.jitter_s * self.time.rng.random() if options.jitter_s else options.latency_s

    # Hosts

    def add(self, name: str, handler: Handler, port: int = 8800) -> Host:
        self.dark.discard(name)
        self.hosts[name] = host = Host(self, name, handler, port)
        return host

    def remove(self, host: Host, *, is_silent: bool = False) -> None:
        if self.hosts.get(host.name) is host:
            del self.hosts[host.name]
        if is_silent:
            self.dark.add(host.name)

    def connections_of(self, host: Host) -> list[Connection]:
        return [one for one in self._connections.values() if host in (one.client, one.server)]

    @property
    def queued_max(self) -> int:
        """The longest queue of any connection, in messages."""
        return max((len(pipe.waiting) for one in self._connections.values() for pipe in one.pipes), default=0)

    # Trouble

    def block(self, source: str, target: str) -> None:
        """Nothing passes from source to target; whoever waits too long gives up."""
        self.blocked.add((source, target))
        for connection in list(self._connections.values()):
            if (source, target) in (connection.to_server.route, connection.to_client.route):
                self._doom(connection)

    def _doom(self, connection: Connection) -> None:
        """Unless the way opens before, TCP gives up on both sides; the sessions notice silence by themselves."""
        dead_s = self.options.tcp_dead_s
        self.time.after(dead_s * self.time.rng.uniform(0.5, 1.0), lambda: self._on_client_silence(connection))
        self.time.after(dead_s, lambda: self._on_server_silence(connection))

    def _on_client_silence(self, connection: Connection) -> None:
        if self._is_blocked(connection) or connection.server.is_over:
            self.end_client(connection, "is silent")

    def _on_server_silence(self, connection: Connection) -> None:
        if connection.to_server.route in self.blocked or connection.client.is_over:
            self.end_server(connection)

    def _is_blocked(self, connection: Connection) -> bool:
        return connection.to_server.route in self.blocked or connection.to_client.route in self.blocked

    def cut_between(self, one: str, other: str) -> None:
        """Their connections are reset and no new one succeeds."""
        self.cut.add(frozenset((one, other)))
        self.reset_between(one, other)

    def reset_between(self, one: str, other: str) -> None:
        """Their connections break, both sides notice; what waited is lost."""
        for connection in list(self._connections.values()):
            if {connection.client.name, connection.server.name} == {one, other}:
                self._break(connection)

    def _break(self, connection: Connection) -> None:
        for pipe in connection.pipes:
            pipe.is_closed = True
        self.end_server(connection)
        self.end_client(connection, "reset the connection")

    def heal(self) -> None:
        """No trouble any more; what the living connections kept is delivered."""
        options = self.options
        options.loss_share = options.duplicate_share = options.publish_loss_share = 0.0
        self.cut.clear()
        self.unblock(*self.blocked)

    def unblock(self, *routes: tuple[str, str]) -> None:
        """These ways are open again."""
        self.blocked.difference_update(routes)
        for connection in list(self._connections.values()):
            if connection.is_client_over or connection.is_server_over:
                self._bury(connection)
                continue
            for pipe in connection.pipes:
                if pipe.route not in self.blocked:
                    pipe.release()

    def _bury(self, connection: Connection) -> None:
        """One side ended it while the way was blocked: now the other hears of it, if it lives."""
        if connection.is_client_over and not connection.is_server_over:
            if (connection.server.name, connection.client.name) not in self.blocked:
                self.end_server(connection)
        elif connection.is_server_over and not connection.is_client_over and not self._is_blocked(connection):
            self.end_client(connection, "reset the connection")

    # Attempts

    def begin(self, outbound: Outbound) -> None:
        """One attempt to connect; another follows when it fails or ends."""
        if outbound.is_over:
            return
        outbound.attempt += 1
        attempt = outbound.attempt
        for at_s in SYN_AT_S:
            self.time.after(at_s + self.delay_s(), lambda: self._on_syn(outbound, attempt))
        self.time.after(self.options.dial_timeout_s, lambda: self._on_timeout(outbound, attempt))

    def _on_syn(self, outbound: Outbound, attempt: int) -> None:
        if outbound.is_over or outbound.attempt != attempt or outbound.connection is not None:
            return
        here, there = outbound.host.name, outbound.target.host
        if (here, there) in self.blocked or (there, here) in self.blocked or there in self.dark:
            return
        server = self.hosts.get(there)
        if server is None or not server.is_listening or frozenset((here, there)) in self.cut:
            self._fail(outbound, attempt, "nothing answers")
            return
        if outbound.topics is None and outbound.target != server.address:
            self._fail(outbound, attempt, "nothing answers")
            return
        self._count += 1
        connection = Connection(
            self._count, outbound.host, server,
            Pipe(self, (here, there), lambda frames: self._on_server_frames(connection, frames)),
            Pipe(self, (there, here), lambda frames: self._on_client_frames(outbound, connection, frames)),
        )
        outbound.connection = connection
        self._connections[connection.number] = connection
        # TCP, then the handshake of ZeroMQ; the opening or the subscription is the first thing said after it.
        if outbound.topics is not None:
            connection.topics = frozenset(outbound.topics)
            server.subscribers.append(connection)
            outbound.ready_at = self.time.now
        self.time.after(2 * self.delay_s(), lambda: self._on_accepted(outbound, connection))

    def _on_accepted(self, outbound: Outbound, connection: Connection) -> None:
        if connection.is_server_over or connection.is_client_over:
            return
        if connection.to_server.route in self.blocked:
            self.time.after(RESEND_S, lambda: self._on_accepted(outbound, connection))
            return
        connection.is_effective = True
        if not connection.topics:
            connection.server.served[connection.served] = connection
            self.time.after(self.delay_s(), lambda: self._on_ok(outbound, connection))
            connection.server.handler.on_link_up(connection.served)

    def _on_ok(self, outbound: Outbound, connection: Connection) -> None:
        if outbound.connection is not connection or outbound.is_up or connection.is_client_over:
            return
        if connection.to_client.route in self.blocked:
            self.time.after(RESEND_S, lambda: self._on_ok(outbound, connection))
            return
        self._on_up(outbound)

    def _on_up(self, outbound: Outbound) -> None:
        outbound.is_up = True
        outbound.ready_at = self.time.now
        outbound.host.handler.on_link_up(outbound.link)

    def _on_timeout(self, outbound: Outbound, attempt: int) -> None:
        if outbound.is_over or outbound.attempt != attempt:
            return
        if outbound.connection is None or (outbound.topics is None and not outbound.is_up):
            self._fail(outbound, attempt, "did not answer in time")

    def _fail(self, outbound: Outbound, attempt: int, reason: str) -> None:
        """The attempt or connection is over; the next one comes after a pause."""
        if outbound.is_over or outbound.attempt != attempt:
            return
        options, time = self.options, self.time
        connection, outbound.connection = outbound.connection, None
        if connection is not None:
            connection.is_client_over = True
            self._on_half_over(connection)
        if time.now - outbound.ready_at >= options.steady_s and outbound.ready_at >= 0:
            outbound.pause_s = 0.0
        outbound.ready_at = float("-inf")
        outbound.is_up = False
        outbound.attempt += 1
        outbound.pause_s = min(max(2 * outbound.pause_s, options.retry_s_min), options.retry_s_max)
        time.after(outbound.pause_s * time.rng.uniform(0.5, 1.0), lambda: self.begin(outbound))
        if outbound.topics is None:
            outbound.host.handler.on_link_down(outbound.link, f"{outbound.target} {reason}")

    # Frames

    def _on_server_frames(self, connection: Connection, frames: Frames) -> None:
        server = connection.server
        if connection.is_server_over or server.is_over:
            return
        if connection.is_hung_up or connection.served not in server.served:
            if self._outbound_of(connection) is not None:
                self.time.after(self.delay_s(), lambda: self.end_client(connection, "does not know this connection"))
            return
        server.handler.on_frames(connection.served, list(frames), "")

    def _on_client_frames(self, outbound: Outbound, connection: Connection, frames: Frames) -> None:
        if outbound.is_over or outbound.connection is not connection:
            return
        if outbound.topics is not None:
            outbound.host.handler.on_published(outbound.name, list(frames))
            return
        if not outbound.is_up:  # the ROUTER's OK went before all else
            self._on_up(outbound)
        outbound.host.handler.on_frames(outbound.link, list(frames), "")

    def _outbound_of(self, connection: Connection) -> Outbound | None:
        client = connection.client
        for outbound in (*client.dials.values(), *client.subscriptions.values()):
            if outbound.connection is connection:
                return outbound
        return None

    # Ends

    def end_client(self, connection: Connection, reason: str) -> None:
        """The dialling side gives it up, and tries again."""
        outbound = self._outbound_of(connection)
        if outbound is not None and not connection.is_client_over:
            self._fail(outbound, outbound.attempt, reason)

    def close_outbound(self, outbound: Outbound) -> None:
        """No attempt follows; what was sent still arrives."""
        outbound.is_over = True
        connection = outbound.connection
        if connection is not None:
            connection.is_client_over = True
            connection.to_client.is_closed = True
            self._on_half_over(connection)

    def end_server(self, connection: Connection) -> None:
        """The serving side gives it up: its owner learns that when it sends; the other side when the end arrives."""
        if connection.is_server_over:
            return
        connection.is_server_over = True
        server = connection.server
        if connection in server.subscribers:
            server.subscribers.remove(connection)
        if server.is_over or not server.is_listening:
            server.served.pop(connection.served, None)
        self._on_half_over(connection)

    def _on_half_over(self, connection: Connection) -> None:
        """The other side hears of it behind what was sent, if the way is open."""
        if connection.is_client_over and connection.is_server_over:
            self._connections.pop(connection.number, None)
            return
        pipe = connection.to_server if connection.is_client_over else connection.to_client
        if pipe.route in self.blocked:
            return
        due = max(self.time.now + self.delay_s(), pipe.arrives_at)
        if connection.is_client_over:
            self.time.at(due, lambda: self.end_server(connection))
        else:
            self.time.at(due, lambda: self.end_client(connection, "closed the connection"))

    def abort(self, connection: Connection, host: Host, *, is_silent: bool) -> None:
        """The process of that host is gone."""
        ours = connection.to_server if connection.client is host else connection.to_client
        theirs = connection.to_client if connection.client is host else connection.to_server
        theirs.is_closed = True
        if is_silent:
            ours.is_closed = True
            self._doom(connection)
            if connection.client is host:
                connection.is_client_over = True
            else:
                connection.is_server_over = True
                if connection in host.subscribers:
                    host.subscribers.remove(connection)
            return
        if connection.client is host:
            connection.is_client_over = True
            self._on_half_over(connection)
        else:
            self.end_server(connection)
