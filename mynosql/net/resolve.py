"""Host names to addresses, without making anybody wait: DNS may take half a minute, and libzmq asks it on the one
thread that moves all bytes. A literal and "localhost" are answered at once; another name by a thread of its own.
Driven by outbound.py.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable

from mynosql.net.reactor import Reactor

OnResolved = Callable[[tuple[str, ...], str], None]
"""Called with literals in the order to try them, or with () and the reason."""

LOCALHOST = ("127.0.0.1", "::1")


class Resolver:
    """Answers on the I/O thread. One question per name at a time: whoever asks meanwhile gets the same answer."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._waiting: dict[str, list[OnResolved]] = {}

    def resolve(self, host: str, on_resolved: OnResolved) -> None:
        """on_resolved is called on the I/O thread, never before this returns."""
        literals = _known(host)
        if literals:
            self._reactor.post(lambda: on_resolved(literals, ""))
            return
        waiting = self._waiting.setdefault(host, [])
        waiting.append(on_resolved)
        if len(waiting) == 1:
            # A daemon: nobody can interrupt getaddrinfo, and a stop must not wait for it.
            threading.Thread(target=self._ask, args=(host,), name="mynosql-dns", daemon=True).start()

    def _ask(self, host: str) -> None:
        literals, reason = look_up(host)
        self._reactor.post(lambda: self._answer(host, literals, reason))

    def _answer(self, host: str, literals: tuple[str, ...], reason: str) -> None:
        for on_resolved in self._waiting.pop(host, ()):
            on_resolved(literals, reason)


def look_up(host: str) -> tuple[tuple[str, ...], str]:
    """The addresses of a host as literals, or () and the reason. Blocks while DNS is asked."""
    known = _known(host)
    if known:
        return known, ""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return (), f"host {host!r} does not resolve ({error}); check the name, or give an IP address"
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found)), ""


def _known(host: str) -> tuple[str, ...]:
    if host == "localhost":
        return LOCALHOST
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ()
    return (host,)
