"""Pairs of TCP ports for ROUTER and PUB: which pair to take, and who has the one that is taken."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import zmq

from mynosql.address import PORT_DEFAULT, Address
from mynosql.errors import ListenFailed
from mynosql.net.options import PORT_LAST
from mynosql.net.sockets import Socket, bound_to

ANY_PORTS = range(16_000, 32_000, 2)
"""Where a pair is looked for when any will do: below the ports that the kernel gives to outgoing connections (from
32768 on Linux, from 49152 elsewhere). Linux lends the even ones of those first, so that the neighbour of a port that it
hands out to a listener is soon somebody's, and stays his for a minute after he has closed."""
KEPT_PORTS = range(10_000, 16_000, 2)
"""Where find_free_pair() looks: nobody comes across these who lets chance decide."""
ANY_PORT_ATTEMPTS = 50
PORT_MAX = 65535

_CHANCE = random.SystemRandom()
"""Not the application's generator: that one may be seeded, and is not ours to advance."""
_PROC = Path("/proc")
_TCP_LISTEN = "0A"


class PortTaken(ListenFailed):
    """A port of the pair is in use; describe() finds out by whom."""

    def __init__(self, where: Address) -> None:
        super().__init__(f"cannot listen on {where}: the port is in use")
        self.where = where

    def describe(self) -> ListenFailed:
        """The error for the user, naming the process that has the port. Reads /proc: not for the I/O thread."""
        _, owner = find_owner(self.where.port)
        return ListenFailed(
            f"cannot listen on {self.where}: port {self.where.port} is in use by {owner}; stop it, or listen on "
            "another port (a node takes two, the one named and the next)"
        )


def bind_pair(
    make_router: Callable[[], Socket], make_publisher: Callable[[], Socket], host: str, port: int | None
) -> tuple[Socket, Socket, int]:
    """ROUTER bound to a port of that host, PUB to the next one, and the ROUTER's port.

    host: a literal or "*". port None: 8800 or the next free pair upwards; 0: any free pair; else exactly that one.
    Raises ListenFailed; PortTaken is one.
    """
    taken: PortTaken | None = None
    for first in _candidates(port):
        router = make_router()
        publisher = make_publisher()
        try:
            bound = _bind(router, host, first)
            if bound == PORT_MAX:
                raise PortTaken(Address(host, bound))  # it has no next one
            _bind(publisher, host, bound + 1)
        except PortTaken as error:
            taken = error
            router.close(0)
            publisher.close(0)
            continue
        except BaseException:
            router.close(0)
            publisher.close(0)
            raise
        return router, publisher, bound
    assert taken is not None
    if port is None:
        raise ListenFailed(
            f"cannot listen on {host}: no free pair of ports from {PORT_DEFAULT} to {PORT_LAST + 1}; free one, or name "
            "another port"
        )
    raise taken


def find_free_pair(host: str = "127.0.0.1") -> int:
    """A port that is free together with the next one, for a node that listens there later, and again after a pause.

    Raises ListenFailed.
    """
    for port in _CHANCE.sample(KEPT_PORTS, ANY_PORT_ATTEMPTS):
        with socket.socket() as first, socket.socket() as second, contextlib.suppress(OSError):
            first.bind((host, port))
            second.bind((host, port + 1))
            return port
    raise ListenFailed(
        f"no two neighbouring free TCP ports on {host} in {ANY_PORT_ATTEMPTS} tries: are most of them in use?"
    )


def _candidates(port: int | None) -> Iterator[int]:
    if port is None:
        return iter(range(PORT_DEFAULT, PORT_LAST + 1, 2))
    return iter([port] if port else _CHANCE.sample(ANY_PORTS, ANY_PORT_ATTEMPTS))


def _bind(made: Socket, host: str, port: int) -> int:
    where = Address(host, port)
    try:
        made.bind(where.tcp_url)
    except zmq.ZMQError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(where) from error
        if error.errno == errno.EACCES:
            reason = "ports below 1024 need rights that this process does not have"
        elif error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
            reason = "that address is not one of this machine"
        else:
            reason = str(error)
        raise ListenFailed(f"cannot listen on {where}: {reason}") from error
    return int(bound_to(made).rpartition(":")[2])


def find_owner(port: int) -> tuple[int, str]:
    """The process that listens on a TCP port of this machine, as pid and "process 12 (python3 serve.py)".

    (0, "another process") where it cannot be found out: no /proc, or a process of another user.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        links = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
        for process in _PROC.iterdir():
            if process.name.isdigit() and _has_open(process, links):
                # Two words: what follows may be nobody's business.
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")[:2]
                return int(process.name), f"process {process.name} ({' '.join(words)[:200].strip()})"
    return 0, "another process"


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _TCP_LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _has_open(process: Path, links: set[str]) -> bool:
    with contextlib.suppress(OSError):
        return any(_link_of(file) in links for file in (process / "fd").iterdir())
    return False


def _link_of(file: Path) -> str:
    try:
        return os.readlink(file)
    except OSError:  # closed meanwhile
        return ""
