"""The ZAP handler: libzmq asks it about every CURVE handshake on our ROUTER and PUB, before anything else passes.

A ROUTER at the endpoint that ZAP (ZeroMQ RFC 27) fixes, one per context, served by the I/O thread's own loop: without
an answer a handshake waits, so nobody comes in while the thread is busy or dead.
"""

from __future__ import annotations

import zmq

from mynosql.net.options import NetOptions
from mynosql.net.reactor import Reactor
from mynosql.net.security import Security
from mynosql.net.sockets import DOMAIN_NODE, DOMAIN_PUBLISHER, Context, make_local, receive

ENDPOINT = "inproc://zeromq.zap.01"
REQUEST_FRAMES = 9
"""Routing id, delimiter, version, request id, domain, address, identity, mechanism, the client's key."""


class ZapHandler:
    """Admits keys to the two domains. Open before any socket with a domain is bound, closed after all of them."""

    def __init__(self, context: Context, reactor: Reactor, security: Security, options: NetOptions) -> None:
        self._reactor = reactor
        self._security = security
        self.admitted = 0
        self.refused = 0
        self._socket = make_local(context, zmq.ROUTER, options)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ENDPOINT)
        reactor.add(self._socket, self._on_readable)

    def close(self) -> None:
        self._reactor.remove(self._socket)
        self._socket.close(0)

    def _on_readable(self) -> None:
        while (request := receive(self._socket, REQUEST_FRAMES)) is not None:
            if len(request) < 4:
                continue
            user_id = self._admit(request)
            status = [b"200", b"OK", user_id.encode()] if user_id else [b"400", b"not admitted", b""]
            self.admitted += bool(user_id)
            self.refused += not user_id
            self._socket.send_multipart([request[0], b"", b"1.0", request[3], *status, b""], zmq.NOBLOCK)

    def _admit(self, request: list[bytes]) -> str:
        """The User-Id that libzmq will attach to every message of the connection: the client's key; "": refused."""
        if len(request) != REQUEST_FRAMES or request[2] != b"1.0" or request[7] != b"CURVE" or len(request[8]) != 32:
            return ""
        user_id = request[8].hex()
        if request[4] == DOMAIN_NODE and not self._security.is_banned(user_id):
            return user_id
        return user_id if request[4] == DOMAIN_PUBLISHER and self._security.is_proven(user_id) else ""
