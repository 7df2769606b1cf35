"""Fresh connection requests while one hangs: the first that is answered shows that the way is open again.

The kernel repeats a lost SYN after 1, 3 and 7 s, so that a link which comes back is used seconds later. Knocks are
plain TCP connections, one every knock_s, closed as soon as they have told what they found. Driven by the reactor; used
by outbound.Connection while no TCP connection has come about.
"""

from __future__ import annotations

import errno
import socket as raw_socket
import time
from collections.abc import Callable
from enum import Enum

from mynosql.net.reactor import Reactor, Timer

_REFUSED = getattr(errno, "WSAECONNREFUSED", errno.ECONNREFUSED)


class Answer(Enum):
    """What a knock found."""

    OPEN = "open"
    """Somebody listens there."""
    REFUSED = "refused"
    """The machine answers, and nobody listens there."""


class Knocks:
    """From `every_s` after it was made until an answer or close(); then on_answer is called once, after it closed."""

    def __init__(
        self, reactor: Reactor, literal: str, port: int, *, every_s: float, on_answer: Callable[[Answer], None]
    ) -> None:
        """literal: an IP address. The caller bounds the number of knocks: it closes this when its attempt is over."""
        self._reactor = reactor
        self._literal = literal
        self._port = port
        self._every_s = every_s
        self._on_answer = on_answer
        self._open: dict[int, raw_socket.socket] = {}
        self._timer: Timer | None = None
        self._arm()

    def close(self) -> None:
        """No answer comes any more, and no socket stays open. Repeatable."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for descriptor in list(self._open):
            self._drop(descriptor)

    def _arm(self) -> None:
        self._timer = self._reactor.call_at(time.monotonic() + self._every_s, self._knock)

    def _knock(self) -> None:
        self._arm()
        knocking: raw_socket.socket | None = None
        try:
            family, kind, protocol, _, where = raw_socket.getaddrinfo(
                self._literal, self._port, type=raw_socket.SOCK_STREAM, flags=raw_socket.AI_NUMERICHOST
            )[0]
            knocking = raw_socket.socket(family, kind, protocol)
            knocking.setblocking(False)
            knocking.connect_ex(where)
        except OSError:  # no descriptor left, no route: the next knock may find it otherwise
            if knocking is not None:
                knocking.close()
            return
        descriptor = knocking.fileno()
        self._open[descriptor] = knocking
        self._reactor.add_connecting(descriptor, lambda: self._on_ready(descriptor))

    def _on_ready(self, descriptor: int) -> None:
        error = self._open[descriptor].getsockopt(raw_socket.SOL_SOCKET, raw_socket.SO_ERROR)
        self._drop(descriptor)
        if error in (0, _REFUSED):
            self.close()
            self._on_answer(Answer.REFUSED if error else Answer.OPEN)

    def _drop(self, descriptor: int) -> None:
        self._reactor.remove_connecting(descriptor)
        self._open.pop(descriptor).close()
