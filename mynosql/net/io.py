"""The I/O thread: the one thread that owns every socket of an open database, from creation to close.

It calls a Handler with what comes in and performs what the handler asks for; it knows links and frames, no messages
and no database. It sleeps until a socket, a wake-up or the next due time of the handler; with nothing due it does not
wake at all. Wake-ups, answers to local commands and calls come from any thread; everything else only on this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from mynosql.address import Address
from mynosql.errors import PeerRefused
from mynosql.net.options import Counters, Listening, NetOptions
from mynosql.net.security import Security
from mynosql.sync.effects import Link

T = TypeVar("T")


class Handler(Protocol):
    """What the I/O thread drives. All calls come on that thread, one at a time, without any lock of net held.

    A handler takes its own lock, and asks for transport commands (IoThread.send …) during any of these calls. None of
    the commands calls back before it has returned. An exception ends the thread: see on_fail.
    """

    def on_frames(self, link: Link, frames: list[bytes], user_id: str) -> None:
        """One message came on a link that is up. user_id: hex of the CURVE key that the sender has proved to be a
        member; "" without a key, and on our own dials, where the server's key is the proof."""

    def on_published(self, address: Address, frames: list[bytes]) -> None:
        """One publication came on the subscription of that address; frames[0] is the topic."""

    def on_link_up(self, link: Link) -> None:
        """A dial was accepted by the other side, or we accepted a node that dialled us."""

    def on_link_down(self, link: Link, reason: str) -> None:
        """A link ended, or an attempt to dial failed (each attempt once). Dials go on by themselves."""

    def on_refused(self, link: Link, error: PeerRefused) -> None:
        """The handshake with that node can never succeed as things are (another secret, or only one side has one).
        The on_link_down of the attempt follows; attempts go on, since the other side may be repaired."""

    def on_control(self, reply_to: bytes, payload: bytes) -> None:
        """A command on this machine asks; answer by IoThread.reply_control(reply_to, …) from any thread."""

    def on_wake(self) -> None:
        """Called after IoThread.wake(), and a last time while the thread stops."""

    def step(self, now: float) -> float | None:
        """Called after every round of events and when due; now: time.monotonic(). Returns the next due time."""

    def on_fail(self, error: BaseException) -> None:
        """The thread died of this error; nothing is called afterwards, and every call of IoThread raises."""


class IoThread:
    """The sockets of one open database and their thread. See docs of each method for the thread it may be called on."""

    def __init__(
        self, handler: Handler, *, folder: str, security: Security, options: NetOptions | None = None,
    ) -> None:
        raise NotImplementedError

    # Any thread, never while holding a lock that the handler takes

    def start(self) -> None:
        """The thread runs and answers local commands. Raises what kept a socket from being made."""
        raise NotImplementedError

    def stop(self, timeout_s: float = 5.0) -> None:
        """handler.on_wake() was called once more, all sockets are closed, the thread has ended. Repeatable."""
        raise NotImplementedError

    def listen(self, host: str, port: int | None) -> Listening:
        """Other nodes can reach this one at host: ROUTER on port n, PUB on n + 1.

        host "*": all interfaces. port None: 8800 or the next free pair upwards; 0: any free pair; else exactly that.
        Raises ListenFailed (the text names the process that has the port where it can be found out), AddressInvalid.
        """
        raise NotImplementedError

    def unlisten(self) -> None:
        """No other node can reach this one; served links are forgotten."""
        raise NotImplementedError

    def call(self, function: Callable[[], T]) -> T:
        """The result of function(), called on the I/O thread; what it raises is raised here."""
        raise NotImplementedError

    # Any thread, also with locks held: these only append to a queue

    def wake(self) -> None:
        """handler.on_wake() will be called soon, once for all wakes until then."""
        raise NotImplementedError

    def reply_control(self, reply_to: bytes, payload: bytes) -> None:
        """The local command gets its answer; nothing happens when it has gone away."""
        raise NotImplementedError

    # On the I/O thread only; none of them blocks

    def dial(self, address: Address) -> None:
        """A DEALER to that address is kept connected until hang_up; a second dial changes nothing."""
        raise NotImplementedError

    def hang_up(self, link: Link) -> None:
        """The link is over for us; what was sent on it still has linger_s to leave. No on_link_down follows."""
        raise NotImplementedError

    def subscribe(self, address: Address, publisher: Address, topics: Iterable[bytes]) -> None:
        """A SUB is kept connected to `publisher`; what comes goes to on_published under `address`."""
        raise NotImplementedError

    def unsubscribe(self, address: Address) -> None:
        """The SUB of that address, if any, is closed."""
        raise NotImplementedError

    def send(self, link: Link, frames: Sequence[bytes]) -> None:
        """One message is on its way; dropped and counted when the link is down. ValueError: larger than allowed."""
        raise NotImplementedError

    def publish(self, topic: bytes, frames: Sequence[bytes]) -> None:
        """One publication is on its way to whoever subscribed; nothing happens while not listening."""
        raise NotImplementedError

    # Looking

    @property
    def listening(self) -> Listening | None:
        raise NotImplementedError

    @property
    def counters(self) -> Counters:
        raise NotImplementedError
