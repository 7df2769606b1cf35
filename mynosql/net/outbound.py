"""Connections that we keep to other nodes: a DEALER for a conversation, a SUB for what a node publishes.

A connection lives in attempts: resolve the host, connect a fresh socket, watch its monitor, and after every failure or
end a pause that grows and is never the same (jitter). A fresh socket each time: nothing queued for the old connection
can arrive on the new one. While nobody is reached the pauses stay a small share of the time that it lasts, and a
connection request that hangs is helped by knocks (knocking.py). Their order: CONNECTION_TRANSITIONS; what is said on
the wire: docs/PROTOCOL.md, "Opening".
Driven by the reactor and by io.py.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

import zmq

from mynosql.address import Address
from mynosql.errors import PeerRefused
from mynosql.net import opening
from mynosql.net.knocking import Answer, Knocks
from mynosql.net.options import Counters, NetOptions
from mynosql.net.reactor import Reactor, Timer
from mynosql.net.resolve import Resolver
from mynosql.net.security import Security
from mynosql.net.sockets import (
    Context,
    Signal,
    Socket,
    close_dialling,
    make_dealer,
    make_subscriber,
    read_signal,
    receive,
    watch,
)
from mynosql.sync.effects import Link
from mynosql.transitions import Transitions

MESSAGES_A_ROUND = 100
"""Taken from one socket before the others have their turn."""
SILENT_ENDS_UNTIL_REFUSED = 2
"""A process killed during the handshake looks the same as a wrong secret; hardly twice running."""


class ConnectionState(Enum):
    """Where an address that we want to be connected to stands."""

    PAUSE = "pause"
    """Before each attempt; before the first there is none."""
    RESOLVING = "resolving"
    CONNECTING = "connecting"
    OPENING = "opening"
    """A DEALER asked to be let in."""
    UP = "up"
    CLOSED = "closed"


class ConnectionCause(Enum):
    """What changes it."""

    BEGIN = "pause over"
    NEXT_ADDRESS = "pause over, another address of the host is left"
    RESOLVED = "addresses of the host"
    KNOCK = "a knock is answered while the request hangs"
    HANDSHAKE = "handshake (DEALER, sends the opening)"
    SUBSCRIBED = "handshake (SUB)"
    OK = "ok"
    END = "failure, no answer in 5 s, end, no, again"
    CLOSE = "not needed any more"


CONNECTION_TRANSITIONS: Transitions[ConnectionState, ConnectionCause] = Transitions(ConnectionState.PAUSE, {
    (ConnectionState.PAUSE, ConnectionCause.BEGIN): ConnectionState.RESOLVING,
    (ConnectionState.PAUSE, ConnectionCause.NEXT_ADDRESS): ConnectionState.CONNECTING,
    (ConnectionState.RESOLVING, ConnectionCause.RESOLVED): ConnectionState.CONNECTING,
    (ConnectionState.CONNECTING, ConnectionCause.KNOCK): ConnectionState.CONNECTING,
    (ConnectionState.CONNECTING, ConnectionCause.HANDSHAKE): ConnectionState.OPENING,
    (ConnectionState.CONNECTING, ConnectionCause.SUBSCRIBED): ConnectionState.UP,
    (ConnectionState.OPENING, ConnectionCause.OK): ConnectionState.UP,
    (ConnectionState.RESOLVING, ConnectionCause.END): ConnectionState.PAUSE,
    (ConnectionState.CONNECTING, ConnectionCause.END): ConnectionState.PAUSE,
    (ConnectionState.OPENING, ConnectionCause.END): ConnectionState.PAUSE,
    (ConnectionState.UP, ConnectionCause.END): ConnectionState.PAUSE,
    (ConnectionState.PAUSE, ConnectionCause.CLOSE): ConnectionState.CLOSED,
    (ConnectionState.RESOLVING, ConnectionCause.CLOSE): ConnectionState.CLOSED,
    (ConnectionState.CONNECTING, ConnectionCause.CLOSE): ConnectionState.CLOSED,
    (ConnectionState.OPENING, ConnectionCause.CLOSE): ConnectionState.CLOSED,
    (ConnectionState.UP, ConnectionCause.CLOSE): ConnectionState.CLOSED,
})


class Receiver(Protocol):
    """Who is told: io.Handler."""

    def on_frames(self, link: Link, frames: list[bytes], user_id: str) -> None: ...
    def on_published(self, address: Address, frames: list[bytes]) -> None: ...
    def on_link_up(self, link: Link) -> None: ...
    def on_link_down(self, link: Link, reason: str) -> None: ...
    def on_refused(self, link: Link, error: PeerRefused) -> None: ...


class World:
    """What every connection of one I/O thread shares."""

    def __init__(
        self, *, context: Context, reactor: Reactor, resolver: Resolver, security: Security, options: NetOptions,
        counters: Counters, receiver: Receiver,
    ) -> None:
        self.context = context
        self.reactor = reactor
        self.resolver = resolver
        self.security = security
        self.options = options
        self.counters = counters
        self.receiver = receiver
        self.random = random.Random()


class Connection(ABC):
    """One address that we want to be connected to until close()."""

    def __init__(self, world: World, address: Address) -> None:
        self._world = world
        self._address = address
        self.state = CONNECTION_TRANSITIONS.start
        self._socket: Socket | None = None
        self._monitor: Socket | None = None
        self._timer: Timer | None = None
        self._knocks: Knocks | None = None
        self._literals: tuple[str, ...] = ()
        self._pause_s = 0.0
        self._ready_at: float | None = None
        self._lost_at = time.monotonic()
        """Since when the connection has been of no use."""
        self._silent_ends = 0
        self._attempt = 0
        self._begin()

    # What a kind of connection adds

    @abstractmethod
    def _make_socket(self) -> Socket: ...

    @abstractmethod
    def _on_connected(self) -> None:
        """The handshake succeeded."""

    @abstractmethod
    def _on_readable(self) -> None: ...

    @abstractmethod
    def _on_ended(self, reason: str, refusal: PeerRefused | None) -> None:
        """The attempt failed or the connection ended; the next attempt is arranged."""

    # One attempt

    def _move(self, cause: ConnectionCause) -> None:
        self.state = CONNECTION_TRANSITIONS.after(self.state, cause)

    def _begin(self) -> None:
        self._set_timer(self._world.options.dial_timeout_s, self._on_timeout)
        self._attempt += 1
        attempt = self._attempt
        if self._literals:
            self._move(ConnectionCause.NEXT_ADDRESS)
            self._connect()
        else:
            self._move(ConnectionCause.BEGIN)
            self._world.resolver.resolve(
                self._address.host, lambda literals, reason: self._on_resolved(attempt, literals, reason)
            )

    def _on_resolved(self, attempt: int, literals: tuple[str, ...], reason: str) -> None:
        if attempt != self._attempt:  # DNS took longer than the attempt
            return
        self._literals = literals
        if literals:
            self._move(ConnectionCause.RESOLVED)
            self._connect()
        else:
            self._end(reason)

    def _connect(self) -> None:
        literal, self._literals = self._literals[0], self._literals[1:]
        self._dial(literal)

    def _dial(self, literal: str) -> None:
        world = self._world
        try:
            socket = self._make_socket()
        except zmq.ZMQError as error:  # no file descriptor, no free slot: others may go away until the next attempt
            self._end(f"no socket could be made for {self._address}: {error}")
            return
        try:
            monitor = watch(world.context, socket)
        except zmq.ZMQError as error:
            socket.close(0)
            self._end(f"no socket could be made for {self._address}: {error}")
            return
        self._socket, self._monitor = socket, monitor
        world.reactor.add(monitor, self._on_signal)
        world.reactor.add(socket, self._on_readable)
        try:
            socket.connect(Address(literal, self._address.port).tcp_url)
        except zmq.ZMQError as error:
            self._end(f"{self._address} cannot be dialled: {error}")
            return
        self._knocks = Knocks(
            world.reactor, literal, self._address.port, every_s=world.options.knock_s,
            on_answer=lambda answer: self._on_answer(literal, answer),
        )

    def _on_answer(self, literal: str, answer: Answer) -> None:
        """A knock was answered while our own request hangs: it was lost."""
        if answer is Answer.REFUSED:
            self._end(f"nothing answers at {self._address}")
        else:
            self._move(ConnectionCause.KNOCK)
            self._drop_socket(0)
            self._dial(literal)

    def _on_signal(self) -> None:
        while self._monitor is not None:
            signal = read_signal(self._monitor)
            if signal is None:
                return
            if signal is Signal.CONNECTED:
                self._end_knocks()
                continue
            if signal is Signal.READY:
                self._on_connected()
                continue
            if signal is Signal.CLOSED:
                self._on_readable()  # what came before the end: a Bye says why
            if self._monitor is not None:
                self._end(*self._judge(signal))

    def _judge(self, signal: Signal) -> tuple[str, PeerRefused | None]:
        address = self._address
        has_secret = self._world.security.secret is not None
        if signal is Signal.CLOSED:
            return f"{address} closed the connection", None
        if signal is Signal.UNREACHABLE:
            return f"nothing answers at {address}", None
        if signal is Signal.OTHER_MECHANISM:
            here, there = ("has a secret", "has none") if has_secret else ("has no secret", "has one")
            text = f"{address} refused the handshake: this node {here} and that one {there}; give both the same secret"
        elif signal is Signal.NOT_ADMITTED:
            text = f"{address} does not admit this node's key: it has not proved the secret there"
        elif signal is Signal.OTHER_PROTOCOL:
            text = f"what answers at {address} is no MyNoSQL node"
        else:
            self._silent_ends += 1
            if self._silent_ends < SILENT_ENDS_UNTIL_REFUSED:
                return f"{address} ended the handshake without a word", None
            # Also how the two refusals above look when the other side was quicker to notice.
            difference = "another secret than this node, or none," if has_secret else "a secret and this node has none,"
            text = (
                f"{address} ends the handshake without a word: it has {difference} or is no MyNoSQL node; "
                "compare the secrets"
            )
        return text, PeerRefused(text)

    def _on_timeout(self) -> None:
        self._timer = None
        self._end(f"{self._address} did not answer within {self._world.options.dial_timeout_s:g} s")

    def _end_malformed(self) -> None:
        """Another such message is as long to read: the connection ends, and the pause bounds the work."""
        self._world.counters.dropped_malformed += 1
        self._end(f"{self._address} sent a message of more than {self._world.options.frames_max} frames")

    def _ready(self, cause: ConnectionCause) -> None:
        """The connection is of use; from now on only an end counts."""
        self._move(cause)
        self._cancel_timer()
        self._ready_at = time.monotonic()
        self._silent_ends = 0

    # After it

    def _end(self, reason: str, refusal: PeerRefused | None = None) -> None:
        """This attempt is over and the next one arranged."""
        options, now = self._world.options, time.monotonic()
        self._move(ConnectionCause.END)
        self._attempt += 1
        self._drop_socket(0)
        pause_s_max = options.retry_s_max
        if self._ready_at is not None:
            if now - self._ready_at >= options.steady_s:
                self._pause_s = 0.0
            self._literals = ()
            self._lost_at = now
        elif refusal is None or self._silent_ends >= SILENT_ENDS_UNTIL_REFUSED:
            # A tunnel or balancer whose other end is away breaks connections off just as another secret does.
            share_s = options.retry_share * (now - self._lost_at)
            pause_s_max = min(pause_s_max, max(options.retry_s_min, options.retry_s_unreached, share_s))
        self._ready_at = None
        if self._literals:
            self._set_timer(0.0, self._begin)
        else:
            self._pause_s = min(max(2 * self._pause_s, options.retry_s_min), pause_s_max)
            self._set_timer(self._pause_s * self._world.random.uniform(0.5, 1.0), self._begin)
        self._on_ended(reason, refusal)

    def close(self) -> None:
        """No attempt follows; what was sent has the linger of the socket to leave."""
        self._move(ConnectionCause.CLOSE)
        self._attempt += 1
        self._cancel_timer()
        self._drop_socket(None)

    def _drop_socket(self, linger_ms: int | None) -> None:
        self._end_knocks()
        socket, monitor = self._socket, self._monitor
        self._socket = self._monitor = None
        if socket is not None and monitor is not None:
            self._world.reactor.remove(monitor)
            self._world.reactor.remove(socket)
            close_dialling(socket, monitor, linger_ms)

    def _end_knocks(self) -> None:
        if self._knocks is not None:
            self._knocks.close()
            self._knocks = None

    def _set_timer(self, delay_s: float, function: Callable[[], None]) -> None:
        self._cancel_timer()
        self._timer = self._world.reactor.call_at(time.monotonic() + delay_s, function)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Dial(Connection):
    """A DEALER to another node's ROUTER: a link that carries messages once its opening was accepted."""

    def __init__(self, world: World, address: Address) -> None:
        self.link = Link.dial(address)
        super().__init__(world, address)

    @property
    def is_up(self) -> bool:
        return self.state is ConnectionState.UP

    def send(self, frames: Sequence[bytes]) -> bool:
        """False: the link is down, or so full that it is given up; on_link_down follows."""
        if self._socket is None or self._ready_at is None:
            return False
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            socket = self._socket
            self._world.reactor.post(lambda: self._give_up(socket))
            return False
        return True

    def _give_up(self, socket: Socket) -> None:
        if self._socket is socket:
            self._end(f"{self._address} takes no more messages")

    def _make_socket(self) -> Socket:
        return make_dealer(self._world.context, self._world.security, self._world.options)

    def _on_connected(self) -> None:
        assert self._socket is not None
        self._move(ConnectionCause.HANDSHAKE)
        try:
            self._socket.send_multipart(opening.pack_opening(self._world.security.opening_proof()), zmq.NOBLOCK)
        except zmq.Again:
            self._end(f"{self._address} closed the connection")

    def _on_readable(self) -> None:
        world = self._world
        socket = self._socket
        for _ in range(MESSAGES_A_ROUND):
            # An end while handling a message closes the socket, the next attempt opens another.
            if socket is None or self._socket is not socket:
                return
            frames = receive(socket, world.options.frames_max)
            if frames is None:
                return
            if not frames:
                self._end_malformed()
            elif opening.is_ours(frames):
                self._on_opening(frames)
            elif self._ready_at is not None:
                world.counters.messages_received += 1
                world.counters.bytes_received += sum(map(len, frames))
                world.receiver.on_frames(self.link, frames, "")
            else:
                world.counters.dropped_malformed += 1

    def _on_opening(self, frames: list[bytes]) -> None:
        if frames[:2] == opening.OK[:2] and self.state is ConnectionState.OPENING:
            self._ready(ConnectionCause.OK)
            self._world.receiver.on_link_up(self.link)
        elif frames == opening.AGAIN:
            self._end(f"{self._address} does not know this connection any more")
        elif frames[:2] == [b"", b"no"] and len(frames) == 3:
            reason = frames[2][:opening.REASON_BYTES_MAX].decode(errors="replace")
            text = f"{self._address} refused the opening: {reason}"
            self._end(text, PeerRefused(text))
        else:
            self._world.counters.dropped_malformed += 1

    def _on_ended(self, reason: str, refusal: PeerRefused | None) -> None:
        if refusal is not None:
            self._world.receiver.on_refused(self.link, refusal)
        self._world.receiver.on_link_down(self.link, reason)


class Subscription(Connection):
    """A SUB to another node's PUB. It ends and comes back unnoticed: what is missed shows in the next sequence."""

    def __init__(self, world: World, address: Address, publisher: Address, topics: Sequence[bytes]) -> None:
        self.publisher = publisher
        self.topics = tuple(topics)
        self._name = address
        super().__init__(world, publisher)

    def _make_socket(self) -> Socket:
        return make_subscriber(self._world.context, self._world.security, self._world.options, self.topics)

    def _on_connected(self) -> None:
        self._ready(ConnectionCause.SUBSCRIBED)

    def _on_readable(self) -> None:
        world = self._world
        socket = self._socket
        for _ in range(MESSAGES_A_ROUND):
            if socket is None or self._socket is not socket:
                return
            frames = receive(socket, world.options.frames_max)
            if frames is None:
                return
            if not frames:
                self._end_malformed()
                return
            world.counters.messages_received += 1
            world.counters.bytes_received += sum(map(len, frames))
            world.receiver.on_published(self._name, frames)

    def _on_ended(self, reason: str, refusal: PeerRefused | None) -> None:
        return
