"""Between the I/O thread and the replica: decodes what comes, takes the lock, and sends what the replica releases.

Owns when the node listens and where, and the few threads that answer the local control endpoint. Frames are decoded
and encoded without the lock. Driven by the I/O thread (as its Handler) and by opened.OpenDatabase.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from mynosql.address import Address, parse_address
from mynosql.collector import collector_paused
from mynosql.errors import MyNoSQLError, PeerError, PeerRefused
from mynosql.net.io import IoThread
from mynosql.net.options import Listening
from mynosql.net.security import Security, find_secret
from mynosql.options import OpenOptions
from mynosql.replica import Command, Replica
from mynosql.sharing import interpreter_shared
from mynosql.sync import effects as fx
from mynosql.sync.wire import decode, encode
from mynosql.workers import Workers

log = logging.getLogger("mynosql")

LISTEN_NOTE = "listen"
"""Host and port of the last listening that was not left to chance, asked for again at the next opening."""
FAREWELL_S = 2.0
"""The longest that a Bye may wait for an fsync; without it others notice by silence."""
CONTROL_THREADS_MAX = 8
"""Commands answered at a time; a `watch` holds one while it waits for changes."""


class Bridge:
    """The network half of one open database. Implements net.io.Handler."""

    def __init__(
        self, replica: Replica, workers: Workers, options: OpenOptions, folder: str,
        answer: Callable[[bytes], bytes],
    ) -> None:
        self._replica = replica
        self._workers = workers
        self._lock: threading.RLock = workers.lock
        self._options = options
        self._answer = answer
        self._listening: Listening | None = None
        self._control: ThreadPoolExecutor | None = None
        self._refused = ""
        secret = find_secret(options.secret, os.environ)
        self._security = Security.open(folder, secret, insecure=options.insecure)
        self._advertise = parse_address(options.advertise) if options.advertise else None
        self._wanted = _parse_listen(options.listen) if options.listen else None
        if self._wanted is not None:
            self._security.check_listen(self._wanted[0])
        for url in options.peers:
            self._security.check_dial(parse_address(url))
        self._io = IoThread(self, folder=folder, security=self._security)
        self._workers.on_durable = self.wake
        self._replica.before_long_work = self._send_ready

    # Life

    def start(self) -> None:
        """The I/O thread runs, the node listens if it should, and its conversations have begun."""
        self._io.start()
        try:
            if self._replica.is_mirror or self._wanted is not None:
                self._listen()
            address, publisher_port = self._reachable()
            with self._lock:
                self._replica.start(time.monotonic(), advertised=address, publisher_port=publisher_port)
        except BaseException:
            self._io.stop()
            raise
        self.wake()

    def stop(self) -> None:
        """Commands begun are answered, Bye is said to all, sockets are closed, threads joined."""
        with self._lock:
            self._replica.stop(time.monotonic())
            self._workers.sync_now()
            self._workers.changed.notify_all()
        if self._control is not None:
            self._control.shutdown(wait=True)
        self._io.stop()

    def wake(self) -> None:
        """The I/O thread looks soon at what may leave. Any thread, cheap."""
        if self._io.is_running:
            self._io.wake()

    # Where we listen

    @property
    def endpoint(self) -> str | None:
        listening = self._listening
        if listening is None:
            return None
        return Address(_named_host(listening.address.host), listening.address.port).url

    def set_mode(self, is_mirror: bool) -> None:
        """The mode is changed and remembered, and the node listens or stops listening accordingly."""
        if is_mirror == self._replica.is_mirror:
            return
        if is_mirror and self._listening is None:
            self._listen()
        is_closing = not is_mirror and self._wanted is None
        address, publisher_port = (None, 0) if is_closing else self._reachable()
        now = time.monotonic()
        with self._lock:
            self._replica.set_mode(is_mirror, now)
            self._replica.set_endpoint(address, publisher_port, now)
            self._workers.on_written()
        self.wake()
        if is_closing:
            self._unlisten()

    def _unlisten(self) -> None:
        """The sockets are closed once the Bye has left, which stands behind what waits for an fsync."""
        with self._lock:
            self._workers.sync_now()
            self._workers.wait(lambda: not self._replica.is_waiting_for_sync, FAREWELL_S)
        self._io.unlisten()  # runs on the I/O thread, behind the sending of what it took
        self._listening = None

    def check_reachable(self, address: Address) -> None:
        """Raises AddressInvalid for a host that needs a secret while there is none."""
        self._security.check_dial(address)

    def _listen(self) -> None:
        with self._lock:
            remembered = self._replica.store.note(LISTEN_NOTE).decode()
        host, port = self._security.default_listen_host, None
        if self._wanted is not None:
            host, port = self._wanted
        elif remembered:
            host, port = _parse_listen(remembered)
        self._security.check_listen(host)
        self._listening = self._io.listen(host, port)
        if port != 0:
            text = str(Address(host, self._listening.address.port))
            if text != remembered:
                with self._lock:
                    self._replica.store.put([], notes={LISTEN_NOTE: text.encode()})
                    self._workers.on_written()

    def _reachable(self) -> tuple[Address | None, int]:
        """The address that others are told, and the port of our publisher; (None, 0) while we do not listen."""
        listening = self._listening
        if listening is None:
            return None, 0
        if self._advertise is not None:
            offset = listening.publisher.port - listening.address.port
            return self._advertise, self._advertise.port + offset
        return Address(_named_host(listening.address.host), listening.address.port), listening.publisher.port

    # net.io.Handler, on the I/O thread

    def on_frames(self, link: fx.Link, frames: list[bytes], user_id: str) -> None:
        with collector_paused(), interpreter_shared():  # a short message may ask for a long answer
            self._on_frames(link, frames, user_id, sum(map(len, frames)))

    def _on_frames(self, link: fx.Link, frames: list[bytes], user_id: str, size: int) -> None:
        now = time.monotonic()
        try:
            message = decode(frames)
        except PeerError as error:
            with self._lock:
                self._replica.on_garbage(link, error, now)
            return
        with self._lock:
            self._replica.bytes_received += size
            written = self._replica.store.written
            self._replica.on_message(link, message, now, user_id=user_id)
            self._after_input(written)

    def on_published(self, address: Address, frames: list[bytes]) -> None:
        now = time.monotonic()
        try:
            message = decode(frames[1:])
        except PeerError as error:
            with self._lock:
                self._replica.on_garbage(fx.Link.dial(address), error, now)
            return
        with self._lock:
            self._replica.bytes_received += sum(map(len, frames))
            written = self._replica.store.written
            self._replica.on_published(address, message, now)
            self._after_input(written)

    def on_link_up(self, link: fx.Link) -> None:
        with self._lock:
            self._replica.on_link_up(link, time.monotonic())

    def on_link_down(self, link: fx.Link, reason: str) -> None:
        log.debug("link %s down: %s", link.name, reason)
        with self._lock:
            self._replica.on_link_down(link, time.monotonic())
            self._workers.changed.notify_all()

    def on_refused(self, link: fx.Link, error: PeerRefused) -> None:
        text = str(error)
        if text != self._refused:  # once, not with every attempt
            log.warning("%s", text)
            self._refused = text
        with self._lock:
            self._replica.on_refused(link, error)
            self._workers.changed.notify_all()

    def on_control(self, reply_to: bytes, payload: bytes) -> None:
        if self._control is None:
            self._control = ThreadPoolExecutor(CONTROL_THREADS_MAX, thread_name_prefix="mynosql-control")
        try:
            self._control.submit(self._answer_control, reply_to, payload)
        except RuntimeError:  # stop() takes no more: the answer is that the database closes
            self._answer_control(reply_to, payload)

    def _answer_control(self, reply_to: bytes, payload: bytes) -> None:
        reply = self._answer(payload)
        if self._io.is_running:
            self._io.reply_control(reply_to, reply)

    def on_wake(self) -> None:
        """What is durable now may leave: step() does it after every round."""

    def step(self, now: float) -> float | None:
        with self._lock:
            written = self._replica.store.written
            self._replica.step(now)
            self._after_input(written)
            commands = self._replica.take_outgoing()
            due = self._replica.next_due(now)
            if commands:  # waitsync(level="sent") waits for them to leave
                self._workers.changed.notify_all()
        if commands:
            with collector_paused(), interpreter_shared():
                self._replica.bytes_sent += sum(map(self._perform, commands))
        return due

    def _send_ready(self) -> None:
        """With the lock held, in the middle of an input: what may leave does so before long work begins."""
        self._replica.bytes_sent += sum(map(self._perform, self._replica.take_outgoing()))

    def on_fail(self, error: BaseException) -> None:
        with self._lock:
            self._workers.failure = error
            self._replica.on_failure(error)
            self._workers.changed.notify_all()

    def _after_input(self, written: int) -> None:
        """With the lock held: tell the waiting, and have fsynced what messages wait for."""
        if self._replica.store.written != written:
            self._workers.on_written()
        else:
            self._workers.changed.notify_all()
        if self._replica.is_waiting_for_sync:
            self._workers.sync_now()

    def _perform(self, command: Command) -> int:
        """Returns the bytes handed to the network."""
        io = self._io
        if isinstance(command, fx.Send):
            frames = encode(command.message)
            io.send(command.link, frames)
            return sum(map(len, frames))
        if isinstance(command, fx.Publish):
            frames = encode(command.message)
            io.publish(command.topic.value, frames)
            return sum(map(len, frames))
        if isinstance(command, fx.Dial):
            try:
                self._security.check_dial(command.address)
            except MyNoSQLError as error:
                self._refuse_dial(command.address, error)
            else:
                io.dial(command.address)
        elif isinstance(command, fx.HangUp):
            io.hang_up(command.link)
        elif isinstance(command, fx.Subscribe):
            io.subscribe(command.address, command.publisher, [topic.value for topic in command.topics])
        else:
            io.unsubscribe(command.address)
        return 0

    def _refuse_dial(self, address: Address, error: MyNoSQLError) -> None:
        """A learned address that our security forbids: it stays unused, and the status says why."""
        with self._lock:
            self._replica.on_failure(error)


def _parse_listen(text: str) -> tuple[str, int]:
    address = parse_address(text, is_listen=True)
    return address.host, address.port


def _named_host(host: str) -> str:
    """A host that others can dial; for "every interface" the one that leads outward. Asking for it sends nothing."""
    if host not in ("*", "0.0.0.0", "::"):
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1: a datagram socket only looks up the route
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
