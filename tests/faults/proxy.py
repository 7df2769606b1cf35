"""A TCP proxy for links that can be cut, delayed, swallowed up, or cut after an exact number of bytes; it counts them.

    with Proxy("127.0.0.1", mirror_port) as proxy:
        peer.addpeer(f"http://127.0.0.1:{proxy.port}")
        proxy.cut()             # every connection is reset, new ones too
        proxy.restore()
        proxy.delay(0.3, jitter_s=0.1)  # every byte arrives that late; connections overtake each other

A node that listens has two neighbouring ports: the proxy listens on two neighbouring ports as well. A mirror tells
others its own address, past the proxy: open it with advertise= the proxy's. One thread owns every socket; each call
returns after that thread has carried it out, so what holds after cut() holds at once and not soon.
"""

from __future__ import annotations

import concurrent.futures
import enum
import math
import queue
import random
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from mynosql.net.ports import ANY_PORTS

T = TypeVar("T")

PORTS_OF_A_NODE = 2
CHUNK_BYTES = 1 << 16
DELAYED_BYTES_MAX = 4 << 20
"""Bytes on their way in one direction of one delayed connection: 13 MB/s at 300 ms."""
CALL_DEADLINE_S = 10.0
CONNECT_DEADLINE_S = 2.0
BIND_ATTEMPTS = 50

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class LinkState(enum.Enum):
    """What the proxy does with a link."""

    UP = "up"
    CUT = "cut"  # resets at once, as a killed process does
    BLACK_HOLE = "black hole"  # stays connected and carries nothing, as a pulled cable does


class Proxy:
    """Forwards connections of `port`, `port + 1`… to the same count of neighbouring ports of the target."""

    def __init__(
        self, target_host: str, target_port: int, *, port_count: int = PORTS_OF_A_NODE, host: str = "127.0.0.1"
    ) -> None:
        """host: the address of this machine, as its thread sees it, to listen at."""
        self._target_host = target_host
        self._listeners = _bind_neighbours(port_count, host)
        self._target_ports = {
            listener.fileno(): target_port + offset for offset, listener in enumerate(self._listeners)
        }
        self.port: int = self._listeners[0].getsockname()[1]
        self._connections_accepted = 0
        self._bytes_to_target = 0
        self._bytes_from_target = 0
        self._state = LinkState.UP
        self._bytes_until_cut: int | None = None
        self._delay_s = self._jitter_s = 0.0
        self._random = random.Random(1)
        self._links: set[_Link] = set()
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def state(self) -> LinkState:
        return self._state

    # The counters are read by the thread that counts: whoever has received a byte finds it counted.

    @property
    def connections_open(self) -> int:
        return self._call(lambda: len(self._links))

    @property
    def connections_accepted(self) -> int:
        return self._call(lambda: self._connections_accepted)

    @property
    def bytes_to_target(self) -> int:
        return self._call(lambda: self._bytes_to_target)

    @property
    def bytes_from_target(self) -> int:
        return self._call(lambda: self._bytes_from_target)

    @property
    def bytes_total(self) -> int:
        return self._call(lambda: self._bytes_to_target + self._bytes_from_target)

    def cut(self) -> None:
        """Every connection is reset now, new ones as soon as they come, until restore()."""
        self._call(self._cut)

    def black_hole(self) -> None:
        """Connections stay open, new ones are taken by the kernel, and no byte passes until restore()."""
        self._call(lambda: self._set_state(LinkState.BLACK_HOLE))

    def restore(self) -> None:
        """Bytes pass again, those that waited in a black hole first; connections that were cut stay gone."""
        self._call(lambda: self._set_state(LinkState.UP))

    def cut_after_bytes(self, count: int) -> None:
        """Hand on `count` more bytes, both directions together, not one more, then cut()."""
        self._call(lambda: self._set_bytes_until_cut(count))

    def delay(self, delay_s: float, *, jitter_s: float = 0.0) -> None:
        """Every byte from now on arrives delay_s to delay_s + jitter_s later; a connection keeps its order."""
        self._call(lambda: self._set_delay(delay_s, jitter_s))

    def set_target(self, target_port: int) -> None:
        """New connections go to this port (and its neighbours): the mirror came back elsewhere."""
        self._call(lambda: self._set_target(target_port))

    def stop(self) -> None:
        """Close every socket and end the thread; idempotent."""
        if self._thread.is_alive():
            self._call(self._begin_stop)
            self._thread.join(CALL_DEADLINE_S)

    # The thread that owns the sockets

    def _call(self, function: Callable[[], T]) -> T:
        assert self._thread.is_alive(), "the proxy was stopped"
        done: concurrent.futures.Future[T] = concurrent.futures.Future()

        def carry_out() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        self._calls.put(carry_out)
        self._wake_writer.send(b"x")
        return done.result(CALL_DEADLINE_S)

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                with selectors.DefaultSelector() as selector:
                    self._register(selector)
                    ready = selector.select(self._timeout_s())
                for key, _ in ready:
                    handle: Callable[[], None] = key.data
                    handle()
                for link in self._due_links():
                    self._forward(link)
        finally:
            self._close_links()
            for open_socket in (*self._listeners, self._wake_reader, self._wake_writer):
                open_socket.close()

    def _register(self, selector: selectors.BaseSelector) -> None:
        selector.register(self._wake_reader, selectors.EVENT_READ, self._carry_out_calls)
        if self._state is LinkState.BLACK_HOLE:
            return
        for listener in self._listeners:
            selector.register(listener, selectors.EVENT_READ, lambda listener=listener: self._accept(listener))
        for link in self._links:
            for end, events in link.wanted_events():
                selector.register(end, events, lambda link=link: self._forward(link))

    def _timeout_s(self) -> float | None:
        due = min((link.due for link in self._links), default=math.inf)
        if due == math.inf or self._state is LinkState.BLACK_HOLE:
            return None
        return max(due - time.monotonic(), 0.0)

    def _due_links(self) -> list[_Link]:
        if self._state is LinkState.BLACK_HOLE:
            return []
        now = time.monotonic()
        return [link for link in self._links if link.due <= now]

    def _carry_out_calls(self) -> None:
        self._wake_reader.recv(CHUNK_BYTES)
        while not self._calls.empty():
            self._calls.get()()

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # gone again before it was taken
        if self._state is LinkState.CUT:
            _reset(client)
            return
        self._connections_accepted += 1
        try:
            address = (self._target_host, self._target_ports[listener.fileno()])
            target = socket.create_connection(address, CONNECT_DEADLINE_S)
        except OSError:
            _reset(client)
            return
        self._links.add(_Link(client, target))

    def _forward(self, link: _Link) -> None:
        if link not in self._links:
            return  # closed by an earlier event of the same round
        try:
            arrives_at = self._arrives_at()
            sent = link.to_target.step(self._bytes_until_cut, arrives_at)
            self._bytes_to_target += sent
            self._spend(sent)
            if link in self._links:
                received = link.from_target.step(self._bytes_until_cut, arrives_at)
                self._bytes_from_target += received
                self._spend(received)
        except OSError:
            self._close(link)
            return
        if link in self._links and link.to_target.is_done and link.from_target.is_done:
            self._close(link)

    def _arrives_at(self) -> float:
        """When what is read now reaches the other side; 0: at once."""
        if not self._delay_s and not self._jitter_s:
            return 0.0
        return time.monotonic() + self._delay_s + self._random.uniform(0.0, self._jitter_s)

    def _set_delay(self, delay_s: float, jitter_s: float) -> None:
        self._delay_s, self._jitter_s = delay_s, jitter_s

    def _spend(self, count: int) -> None:
        if self._bytes_until_cut is None:
            return
        self._bytes_until_cut -= count
        if self._bytes_until_cut == 0:
            self._cut()

    def _set_bytes_until_cut(self, count: int) -> None:
        assert count > 0, f"expected at least one byte, got {count}; cut() cuts at once"
        self._bytes_until_cut = count

    def _set_state(self, state: LinkState) -> None:
        self._state = state
        self._bytes_until_cut = None

    def _set_target(self, target_port: int) -> None:
        self._target_ports = {
            listener.fileno(): target_port + offset for offset, listener in enumerate(self._listeners)
        }

    def _cut(self) -> None:
        self._set_state(LinkState.CUT)
        self._close_links()

    def _begin_stop(self) -> None:
        self._is_stopping = True

    def _close_links(self) -> None:
        for link in list(self._links):
            self._close(link)

    def _close(self, link: _Link) -> None:
        self._links.discard(link)
        _reset(link.client)
        _reset(link.target)


class _Link:
    """One connection: the client's socket, the target's, and a pipe each way."""

    def __init__(self, client: socket.socket, target: socket.socket) -> None:
        for end in (client, target):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client = client
        self.target = target
        self.to_target = _Pipe(client, target)
        self.from_target = _Pipe(target, client)

    @property
    def due(self) -> float:
        """When delayed bytes are to be handed on; infinity: none wait for their time."""
        return min(self.to_target.due, self.from_target.due)

    def wanted_events(self) -> list[tuple[socket.socket, int]]:
        """What each end must become ready for; an end with nothing to do is left out, or poll would spin on its EOF."""
        events = {self.client: 0, self.target: 0}
        for pipe in (self.to_target, self.from_target):
            if pipe.is_blocked:
                events[pipe.sink] |= selectors.EVENT_WRITE
            if pipe.has_room:
                events[pipe.source] |= selectors.EVENT_READ
        return [(end, wanted) for end, wanted in events.items() if wanted]


class _Pipe:
    """One direction. At most one chunk waits between the two sockets, so that a slow reader slows its writer; of
    delayed bytes as many as a long line holds."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.is_at_eof = False
        self.is_done = False
        self.is_blocked = False
        """Bytes that have arrived wait for the sink."""
        self._waiting: deque[tuple[float, bytes]] = deque()
        """Chunks and when each arrives; the last one may be empty: the end."""
        self._waiting_bytes = 0

    @property
    def due(self) -> float:
        return self._waiting[0][0] if self._waiting and not self.is_blocked else math.inf

    @property
    def has_room(self) -> bool:
        if self.is_at_eof:
            return False
        return not self._waiting or (self._waiting[-1][0] > 0 and self._waiting_bytes < DELAYED_BYTES_MAX)

    def step(self, bytes_max: int | None, arrives_at: float) -> int:
        """Read a chunk if there is room, hand on what has arrived and the sink takes; returns the bytes handed on.

        bytes_max: of these at most. arrives_at: what is read now is handed on then, not before.
        """
        if self.has_room:
            self._read(arrives_at)
        sent = 0
        self.is_blocked = False
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            at, chunk = self._waiting[0]
            if not chunk:
                self._waiting.clear()
                self.is_done = True
                self.sink.shutdown(socket.SHUT_WR)
                break
            try:
                count = self.sink.send(chunk if bytes_max is None else chunk[: bytes_max - sent])
            except BlockingIOError:
                count = 0
            sent += count
            self._waiting_bytes -= count
            if count == len(chunk):
                self._waiting.popleft()
                continue
            self._waiting[0] = at, chunk[count:]
            self.is_blocked = True
            break
        return sent

    def _read(self, arrives_at: float) -> None:
        try:
            chunk = self.source.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        self.is_at_eof = not chunk
        self._waiting_bytes += len(chunk)
        latest = self._waiting[-1][0] if self._waiting else 0.0
        self._waiting.append((max(arrives_at, latest), chunk))


def _reset(end: socket.socket) -> None:
    """Close with RST: the other side learns at once, and no port waits in TIME_WAIT."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    end.close()


def _bind_neighbours(count: int, host: str) -> list[socket.socket]:
    """Listening sockets on `count` neighbouring free ports of that host."""
    for port in random.SystemRandom().sample(ANY_PORTS, BIND_ATTEMPTS):
        listeners: list[socket.socket] = []
        try:
            for offset in range(count):
                listeners.append(socket.create_server((host, port + offset)))
        except OSError:
            for listener in listeners:
                listener.close()
            continue
        for listener in listeners:
            listener.setblocking(False)
        return listeners
    raise AssertionError(f"no {count} neighbouring ports free on {host}")
