"""The loop of the I/O thread: sockets that became readable, timers, and what other threads ask for.

Knows callbacks, no nodes and no messages. It sleeps until something is due: with no timer and no traffic it does not
wake at all. `wake` and `post` come from any thread and take no lock; everything else belongs to the I/O thread.
"""

from __future__ import annotations

import heapq
import math
import socket as raw_socket
import time
from collections import deque
from collections.abc import Callable

import zmq

from mynosql.net.sockets import Socket

SLEEP_S_MAX = 86_400.0
"""zmq_poll takes milliseconds as a C int; a round a day is no burden."""


class Timer:
    """One call in the future; made by Reactor.call_at."""

    __slots__ = ("due", "function")

    def __init__(self, due: float, function: Callable[[], None] | None) -> None:
        self.due = due
        self.function = function

    def cancel(self) -> None:
        """It will not be called, nor wake anybody."""
        self.function = None


class Bell:
    """A pair of raw sockets that ends another thread's poll."""

    def __init__(self) -> None:
        # Not a pipe: on Windows only sockets can be polled.
        self._inner, self._outer = raw_socket.socketpair()
        self._inner.setblocking(False)
        self._outer.setblocking(False)

    def fileno(self) -> int:
        return self._inner.fileno()

    def ring(self) -> None:
        try:
            self._outer.send(b"\0")
        except OSError:
            # Full: it rings already. Closed: nobody sleeps any more.
            return

    def drain(self) -> None:
        try:
            while len(self._inner.recv(4096)) == 4096:
                pass
        except BlockingIOError:
            return

    def close(self) -> None:
        self._inner.close()
        self._outer.close()


class Reactor:
    """Sockets, timers and posted calls, one round at a time."""

    def __init__(self, on_wake: Callable[[], None]) -> None:
        self._on_wake = on_wake
        self._bell = Bell()
        self._poller = zmq.Poller()
        self._poller.register(self._bell.fileno(), zmq.POLLIN)
        self._readers: dict[Socket | int, Callable[[], None]] = {}
        """Sockets of ours, and the file descriptors of raw ones that are connecting."""
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_count = 0
        self._posted: deque[Callable[[], None]] = deque()
        self._is_woken = False
        self._is_rung = False
        self._is_asleep = False

    # Any thread

    def wake(self) -> None:
        """on_wake is called soon, once for all wakes until then."""
        # The flag first: whoever goes to sleep sets _is_asleep and then looks at the flag, so one of us sees the other.
        self._is_woken = True
        if self._is_asleep and not self._is_rung:
            self._is_rung = True
            self._bell.ring()

    def post(self, function: Callable[[], None]) -> None:
        """function is called on the I/O thread, after what it does now; in the order of posting."""
        self._posted.append(function)
        if self._is_asleep and not self._is_rung:
            self._is_rung = True
            self._bell.ring()

    # The I/O thread

    def add(self, socket: Socket, on_readable: Callable[[], None]) -> None:
        """on_readable is called while the socket has messages; it need not take all of them."""
        self._readers[socket] = on_readable
        self._poller.register(socket, zmq.POLLIN)

    def remove(self, socket: Socket) -> None:
        """The socket is not polled any more; to be called before it is closed."""
        if self._readers.pop(socket, None) is not None:
            self._poller.unregister(socket)

    def add_connecting(self, descriptor: int, on_over: Callable[[], None]) -> None:
        """on_over is called when the raw socket of that file descriptor is connected, or will never be."""
        self._readers[descriptor] = on_over
        self._poller.register(descriptor, zmq.POLLOUT | zmq.POLLERR)

    def remove_connecting(self, descriptor: int) -> None:
        """The raw socket is not polled any more; to be called before it is closed."""
        if self._readers.pop(descriptor, None) is not None:
            self._poller.unregister(descriptor)

    def call_at(self, due: float, function: Callable[[], None]) -> Timer:
        """function is called once at that time (time.monotonic()), unless the timer is cancelled before."""
        timer = Timer(due, function)
        self._timer_count += 1
        heapq.heappush(self._timers, (due, self._timer_count, timer))
        return timer

    def run_round(self, due: float | None) -> None:
        """Waits until something happens, at the latest until `due`, and calls whom it concerns."""
        self._is_asleep = True
        readable = self._poller.poll(self._timeout_ms(due))
        self._is_asleep = False
        for socket, _ in readable:
            # One callback may have removed the socket of the next.
            on_readable = self._readers.get(socket)
            if on_readable is not None:
                on_readable()
            elif socket == self._bell.fileno():
                self._bell.drain()
                self._is_rung = False
        self._run_timers()
        for _ in range(len(self._posted)):
            self._posted.popleft()()
        if self._is_woken:
            self._is_woken = False
            self._on_wake()

    def take_posted(self) -> list[Callable[[], None]]:
        """What was posted and not called; for the end of the thread."""
        posted = list(self._posted)
        self._posted.clear()
        return posted

    def close(self) -> None:
        """The sockets that were added are their owners' to close."""
        self._is_asleep = False
        self._readers.clear()
        self._bell.close()

    def _timeout_ms(self, due: float | None) -> int | None:
        if self._is_woken or self._posted:
            return 0
        while self._timers and self._timers[0][2].function is None:
            heapq.heappop(self._timers)
        if self._timers and (due is None or self._timers[0][0] < due):
            due = self._timers[0][0]
        if due is None:
            return None
        # Rounded up: to wake a fraction of a millisecond early means to wake many times.
        return math.ceil(min(max(due - time.monotonic(), 0.0), SLEEP_S_MAX) * 1000)

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            function = heapq.heappop(self._timers)[2].function
            if function is not None:
                function()
