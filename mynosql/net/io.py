"""The I/O thread: the one thread that owns every socket of an open database, from creation to close.

It calls a Handler with what comes in and performs what the handler asks for; it knows links and frames, no messages
and no database. It sleeps until a socket, a wake-up or the next due time of the handler; with nothing due it does not
wake at all. Wake-ups, answers to local commands and calls come from any thread; everything else only on this one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar

from mynosql.address import ANY_HOST, Address
from mynosql.errors import ForkError, ListenFailed, MyNoSQLError, NotOpen, PeerRefused
from mynosql.net.local import ControlServer
from mynosql.net.options import Counters, Listening, NetOptions
from mynosql.net.outbound import Dial, Subscription, World
from mynosql.net.ports import PortTaken
from mynosql.net.reactor import Reactor
from mynosql.net.resolve import Resolver, look_up
from mynosql.net.security import Security
from mynosql.net.served import Listener
from mynosql.net.sockets import Context, make_context
from mynosql.net.zap import ZapHandler
from mynosql.sync.effects import Link, LinkKind

T = TypeVar("T")

RELEASE_WAIT_S_MAX = 2.0
"""A port that we had ourselves until now is free soon: libzmq closes it in the background."""
RELEASE_PAUSE_S = 0.01


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
    """The sockets of one open database and their thread."""

    def __init__(
        self, handler: Handler, *, folder: str, security: Security, options: NetOptions | None = None,
    ) -> None:
        self._handler = handler
        self._folder = folder
        self._security = security
        self._options = options or NetOptions()
        self._process = os.getpid()
        self._reactor = Reactor(handler.on_wake)
        self._counters = Counters()
        self._thread: threading.Thread | None = None
        self._context: Context | None = None
        self._world: World | None = None
        self._zap: ZapHandler | None = None
        self._control: ControlServer | None = None
        self._listener: Listener | None = None
        self._listening: Listening | None = None
        self._dials: dict[str, Dial] = {}
        self._subscriptions: dict[Address, Subscription] = {}
        self._released_at = float("-inf")
        self._failure: BaseException | None = None
        self._is_stopping = False
        self._is_ended = False

    # Any thread, never while holding a lock that the handler takes

    def start(self) -> None:
        """The thread runs and answers local commands. Raises what kept a socket from being made."""
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="mynosql-io", daemon=True)
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._thread.join()
            raise

    def stop(self, timeout_s: float = 5.0) -> None:
        """handler.on_wake() and step() were called once more, all sockets are closed, the thread has ended. Repeatable.

        What was sent has options.linger_s to leave. In a forked child it does nothing: the sockets are the parent's.
        """
        if self._process != os.getpid():
            return
        self._is_stopping = True
        self._reactor.wake()
        thread = self._thread
        if thread is None:
            self._reactor.close()
        elif thread is not threading.current_thread():
            thread.join(timeout_s)
            if thread.is_alive():
                raise MyNoSQLError(
                    f"the network thread did not end within {timeout_s:g} s: its handler is blocked, maybe by a lock "
                    "that the caller of stop() holds"
                )

    def listen(self, host: str, port: int | None) -> Listening:
        """Other nodes can reach this one at host: ROUTER on port n, PUB on n + 1. An earlier pair is closed first.

        host "*": all interfaces. port None: 8800 or the next free pair upwards; 0: any free pair; else exactly that.
        Raises ListenFailed (the text names the process that has the port where it can be found out), AddressInvalid.
        """
        self._security.check_listen(host)
        literals, reason = ((ANY_HOST,), "") if host == ANY_HOST else look_up(host)
        if not literals:
            raise ListenFailed(f"cannot listen on {host}: {reason}")
        self.call(self._close_listener)
        while True:
            try:
                return self.call(lambda: self._listen(host, literals[0], port))
            except PortTaken as taken:
                if time.monotonic() >= self._released_at + RELEASE_WAIT_S_MAX:
                    raise taken.describe() from taken
                time.sleep(RELEASE_PAUSE_S)

    def unlisten(self) -> None:
        """No other node can reach this one; served links are forgotten (on_link_down for each)."""
        self.call(self._close_listener)

    def call(self, function: Callable[[], T]) -> T:
        """The result of function(), called on the I/O thread; what it raises is raised here."""
        if threading.current_thread() is self._thread:
            return function()
        self._check_usable()
        outcome: Future[T] = Future()
        call = _Call(function, outcome)
        self._reactor.post(call)
        # Posted before this look at _is_ended, and the thread's end looks at what is posted after setting it.
        if self._is_ended:
            call.fail(self._ended_error())
        return outcome.result()

    # Any thread, also with locks held: these only append to a queue

    def wake(self) -> None:
        """handler.on_wake() will be called soon, once for all wakes until then. Raises when the thread has died."""
        if self._failure is not None or self._process != os.getpid():
            self._check_usable()
        self._reactor.wake()

    def reply_control(self, reply_to: bytes, payload: bytes) -> None:
        """The local command gets its answer; nothing happens when it has gone away. ValueError: larger than allowed."""
        self._check_usable()
        if len(payload) > self._options.control_bytes_max:
            raise ValueError(
                f"an answer of {len(payload)} bytes to a local command; at most {self._options.control_bytes_max}"
            )
        self._reactor.post(lambda: self._reply_control(reply_to, payload))

    # On the I/O thread only; none of them blocks

    def dial(self, address: Address) -> None:
        """A DEALER to that address is kept connected until hang_up; a second dial changes nothing."""
        link = Link.dial(address)
        if link.name not in self._dials:
            self._dials[link.name] = Dial(self._here(), address)

    def hang_up(self, link: Link) -> None:
        """The link is over for us; what was sent on it still has linger_s to leave. No on_link_down follows.

        A served link's node is told to dial anew when it sends something more.
        """
        if link.kind is LinkKind.SERVED:
            if self._listener is not None:
                self._listener.hang_up(link)
        elif (dial := self._dials.pop(link.name, None)) is not None:
            dial.close()

    def subscribe(self, address: Address, publisher: Address, topics: Iterable[bytes]) -> None:
        """A SUB is kept connected to `publisher`; what comes goes to on_published under `address`."""
        wanted = tuple(topics)
        held = self._subscriptions.get(address)
        if held is not None and (held.publisher, held.topics) == (publisher, wanted):
            return
        self.unsubscribe(address)
        self._subscriptions[address] = Subscription(self._here(), address, publisher, wanted)

    def unsubscribe(self, address: Address) -> None:
        """The SUB of that address, if any, is closed."""
        held = self._subscriptions.pop(address, None)
        if held is not None:
            held.close()

    def send(self, link: Link, frames: Sequence[bytes]) -> None:
        """One message is on its way; dropped and counted when the link is down. ValueError: larger than allowed."""
        size = self._check_message(frames)
        if link.kind is LinkKind.SERVED:
            is_sent = self._listener is not None and self._listener.send(link, frames)
        else:
            dial = self._dials.get(link.name)
            is_sent = dial is not None and dial.send(frames)
        if is_sent:
            self._counters.messages_sent += 1
            self._counters.bytes_sent += size
        else:
            self._counters.dropped_unsent += 1

    def publish(self, topic: bytes, frames: Sequence[bytes]) -> None:
        """One publication is on its way to whoever subscribed; nothing happens while not listening."""
        message = [topic, *frames]
        size = self._check_message(message)
        if self._listener is not None:
            self._listener.publish(message)
            self._counters.messages_sent += 1
            self._counters.bytes_sent += size

    # Looking, from any thread

    @property
    def is_running(self) -> bool:
        """The thread lives and was not asked to stop."""
        return self._thread is not None and not self._is_ended and not self._is_stopping

    @property
    def listening(self) -> Listening | None:
        return self._listening

    @property
    def counters(self) -> Counters:
        return self._counters

    # The thread

    def _run(self, started: Future[None]) -> None:
        try:
            try:
                self._open()
            except BaseException as error:
                self._failure = error
                return
            started.set_result(None)
            self._loop()
        except BaseException as error:
            self._failure = error
        finally:
            self._end()
            if not started.done():
                assert self._failure is not None
                started.set_exception(self._failure)
            elif self._failure is not None:
                self._handler.on_fail(self._failure)

    def _open(self) -> None:
        self._context = make_context()
        self._world = World(
            context=self._context, reactor=self._reactor, resolver=Resolver(self._reactor), security=self._security,
            options=self._options, counters=self._counters, receiver=self._handler,
        )
        if self._security.secret is not None:
            self._zap = ZapHandler(self._context, self._reactor, self._security, self._options)
        self._control = ControlServer(
            self._context, self._reactor, self._folder, self._options, self._counters, self._handler.on_control
        )

    def _loop(self) -> None:
        due = self._handler.step(time.monotonic())
        while not self._is_stopping:
            self._reactor.run_round(due)
            self._counters.rounds += 1
            due = self._handler.step(time.monotonic())
        for posted in self._reactor.take_posted():
            posted()
        self._handler.on_wake()
        self._handler.step(time.monotonic())

    def _end(self) -> None:
        """Every socket is closed by the thread that made it; whoever waits for this thread is told."""
        self._is_ended = True
        closers: list[Callable[[], object]] = [dial.close for dial in self._dials.values()]
        closers += [subscription.close for subscription in self._subscriptions.values()]
        closers += [part.close for part in (self._listener, self._control, self._zap) if part is not None]
        if self._context is not None:
            closers.append(self._context.destroy)
        closers.append(self._reactor.close)
        for close in closers:
            try:
                close()
            except Exception as error:
                self._failure = self._failure or error
        self._listener = self._listening = None
        for posted in self._reactor.take_posted():
            if isinstance(posted, _Call):
                posted.fail(self._ended_error())

    # What the commands share

    def _listen(self, host: str, literal: str, port: int | None) -> Listening:
        listener = Listener(self._here(), host, literal, port)
        self._listener = listener
        self._listening = listener.listening
        return listener.listening

    def _close_listener(self) -> None:
        listener, self._listener, self._listening = self._listener, None, None
        if listener is None:
            return
        self._released_at = time.monotonic()
        for link in listener.close():
            self._handler.on_link_down(link, "this node does not listen any more")

    def _reply_control(self, reply_to: bytes, payload: bytes) -> None:
        if self._control is not None:
            self._control.reply(reply_to, payload)

    def _here(self) -> World:
        assert self._world is not None
        assert threading.current_thread() is self._thread, "called on another thread: use call()"
        return self._world

    def _check_message(self, frames: Sequence[bytes]) -> int:
        """The bytes of a message that the other side will take: it would end the connection without telling us why."""
        options = self._options
        sizes = [len(frame) for frame in frames]
        if not sizes or not sizes[0] or len(sizes) > options.frames_max or max(sizes) > options.frame_bytes_max:
            raise ValueError(
                f"a message of frames of {sizes[:80]} bytes; expected 1 to {options.frames_max} frames of at most "
                f"{options.frame_bytes_max} bytes, the first one not empty"
            )
        return sum(sizes)

    def _check_usable(self) -> None:
        if self._process != os.getpid():
            raise ForkError("the database was opened before this process was forked: open it here anew")
        if self._thread is None or self._is_ended:
            raise self._ended_error()

    def _ended_error(self) -> MyNoSQLError:
        if self._failure is None:
            return NotOpen("the network of this database is not running: it is not open, or closed already")
        error = MyNoSQLError(
            f"the network thread of this database died ({self._failure!r}); close the database and open it again"
        )
        error.__cause__ = self._failure
        return error


class _Call(Generic[T]):
    """A function that another thread waits for."""

    def __init__(self, function: Callable[[], T], outcome: Future[T]) -> None:
        self._function = function
        self._outcome = outcome

    def __call__(self) -> None:
        if not self._outcome.set_running_or_notify_cancel():
            return
        try:
            self._outcome.set_result(self._function())
        except Exception as error:
            self._outcome.set_exception(error)

    def fail(self, error: BaseException) -> None:
        if not self._outcome.done():
            self._outcome.set_exception(error)
