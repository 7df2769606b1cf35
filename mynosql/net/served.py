"""The side that other nodes dial: one bound ROUTER with the links it serves, and one bound PUB.

A link is served from its accepted opening on, as long as every message of it carries the User-Id that opened it:
a routing id alone is no authority, since whoever connects may choose it. Driven by the reactor and by io.py.

What bounds an attacker: without the secret no CURVE handshake succeeds, since the server's public key is derived from
it and never travels. A member, or anybody where there is no secret, is held by the size and number of frames, by
RCVHWM, and on the PUB by the number of topics. What cannot be bounded from here: one message whose frames never end
(libzmq keeps them until the last).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence

import zmq

from mynosql.address import Address
from mynosql.errors import ListenFailed, PeerError
from mynosql.net import opening
from mynosql.net.options import PUBLISHED_TOPICS_MAX, Listening
from mynosql.net.outbound import MESSAGES_A_ROUND, World
from mynosql.net.ports import bind_pair
from mynosql.net.sockets import Socket, make_publisher, make_router, receive_rest
from mynosql.sync.effects import Link

REBIND_PAUSE_S = 0.02
"""A closed socket frees its port soon, not at once."""
REBIND_ATTEMPTS_MAX = 250


class ServedLink:
    """One connection of another node to our ROUTER, after its opening."""

    __slots__ = ("link", "user_id")

    def __init__(self, link: Link, user_id: str) -> None:
        self.link = link
        self.user_id = user_id


class Listener:
    """ROUTER and PUB of a node that listens, from bind to close()."""

    def __init__(self, world: World, host: str, literal: str, port: int | None) -> None:
        """Bound. host: as it was asked for; literal: what it means; port: see ports.bind_pair. Raises ListenFailed."""
        self._world = world
        self._served: OrderedDict[bytes, ServedLink] = OrderedDict()
        self._topics: set[bytes] = set()
        self._is_closed = False
        self._router, publisher, port = bind_pair(self._make_router, self._make_publisher, literal, port)
        self._publisher: Socket | None = publisher
        self._publisher_url = Address(literal, port + 1).tcp_url
        self.listening = Listening(address=Address(host, port), publisher=Address(host, port + 1))
        world.reactor.add(self._router, self._on_router_readable)
        world.reactor.add(publisher, self._on_publisher_readable)

    def _make_router(self) -> Socket:
        return make_router(self._world.context, self._world.security, self._world.options)

    def _make_publisher(self) -> Socket:
        return make_publisher(self._world.context, self._world.security, self._world.options)

    def close(self) -> list[Link]:
        """Nobody reaches us any more; what was sent has the linger of the sockets. Returns the links that ended."""
        self._is_closed = True
        self._world.reactor.remove(self._router)
        self._router.close()
        self._close_publisher(None)
        links = [served.link for served in self._served.values()]
        self._served.clear()
        return links

    # Links

    def send(self, link: Link, frames: Sequence[bytes]) -> bool:
        """False: that link is not (any more) served; if it was until now, on_link_down follows."""
        routing_id = bytes.fromhex(link.name)
        if routing_id not in self._served:
            return False
        try:
            self._router.send_multipart([routing_id, *frames], zmq.NOBLOCK)
        except zmq.Again:
            self._end_soon(routing_id, "the other node takes no more messages")
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._end_soon(routing_id, "the other node has gone")
            return False
        return True

    def hang_up(self, link: Link) -> None:
        """Messages of that link do not pass any more; its node is told to dial anew when it sends one."""
        self._served.pop(bytes.fromhex(link.name), None)

    def _end_soon(self, routing_id: bytes, reason: str) -> None:
        served = self._served.pop(routing_id)
        self._world.reactor.post(lambda: self._world.receiver.on_link_down(served.link, reason))

    def _on_router_readable(self) -> None:
        world = self._world
        has_keys = world.security.secret is not None
        for _ in range(MESSAGES_A_ROUND):
            if self._is_closed:
                return
            try:
                # Not copied: only a zmq.Frame knows the User-Id that ZAP gave to the connection.
                head = self._router.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            user_id = str(head.get("User-Id")) if has_keys else ""
            frames: list[bytes] = []
            if not receive_rest(self._router, frames, world.options.frames_max):
                world.counters.dropped_malformed += 1
                return  # that took long enough: the others have their turn
            if frames:
                self._on_message(head.bytes, frames, user_id)

    def _on_message(self, routing_id: bytes, frames: list[bytes], user_id: str) -> None:
        counters = self._world.counters
        served = self._served.get(routing_id)
        if opening.is_ours(frames):
            self._on_opening(routing_id, frames, user_id)
        elif served is not None and served.user_id == user_id:
            self._served.move_to_end(routing_id)
            counters.messages_received += 1
            counters.bytes_received += sum(map(len, frames))
            self._world.receiver.on_frames(served.link, frames, user_id)
        else:
            counters.dropped_unproven += 1
            if served is None and self._world.security.is_proven(user_id):
                self._tell(routing_id, opening.AGAIN)

    def _on_opening(self, routing_id: bytes, frames: list[bytes], user_id: str) -> None:
        world = self._world
        try:
            version, proof = opening.unpack_opening(frames)
        except PeerError:
            world.counters.dropped_malformed += 1
            return
        if not world.security.is_proof_good(user_id, proof):
            world.counters.dropped_unproven += 1
            return
        if version != opening.OPENING_VERSION:
            self._tell(routing_id, opening.pack_no("this node speaks version 1 of the opening"))
            return
        served = self._served.pop(routing_id, None)
        if served is not None:  # opened twice, or taken over by another key: the old conversation is over
            world.receiver.on_link_down(served.link, "opened anew")
        served = ServedLink(Link.served(routing_id.hex()), user_id)
        self._served[routing_id] = served
        if len(self._served) > world.options.served_max:
            self._end_soon(next(iter(self._served)), f"more than {world.options.served_max} nodes are connected")
        if self._tell(routing_id, opening.OK):
            world.receiver.on_link_up(served.link)
        else:
            del self._served[routing_id]

    def _tell(self, routing_id: bytes, frames: list[bytes]) -> bool:
        try:
            self._router.send_multipart([routing_id, *frames], zmq.NOBLOCK)
        except zmq.ZMQError:  # full or gone: nobody is left who waits for it
            return False
        return True

    # The publisher

    def publish(self, frames: Sequence[bytes]) -> None:
        """The message goes to whoever subscribed to its first frame; subscribers that are too slow miss it."""
        if self._publisher is not None:
            self._publisher.send_multipart(frames, zmq.NOBLOCK)

    def _on_publisher_readable(self) -> None:
        for _ in range(MESSAGES_A_ROUND):
            if self._publisher is None:
                return
            try:
                head = self._publisher.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            said = head.bytes
            if not receive_rest(self._publisher, [], 0) or said[:1] not in (b"\0", b"\1"):
                self._world.counters.dropped_malformed += 1
            elif said[:1] == b"\0":
                self._topics.discard(said[1:])
            else:
                self._topics.add(said[1:])
                if len(self._topics) > PUBLISHED_TOPICS_MAX:
                    self._on_flood(head)

    def _on_flood(self, head: zmq.Frame) -> None:
        """Somebody fills our memory with topics: libzmq forgets them only with the socket."""
        world = self._world
        world.counters.subscription_floods += 1
        if world.security.secret is not None:
            user_id = str(head.get("User-Id"))
            world.security.ban(user_id)
            for routing_id in [key for key, served in self._served.items() if served.user_id == user_id]:
                self._end_soon(routing_id, "the node flooded our publisher with topics")
        self._close_publisher(0)
        self._rebind_later(0)

    def _rebind_later(self, attempt: int) -> None:
        self._world.reactor.call_at(time.monotonic() + REBIND_PAUSE_S, lambda: self._rebind(attempt))

    def _rebind(self, attempt: int) -> None:
        if self._is_closed:
            return
        publisher = self._make_publisher()
        try:
            publisher.bind(self._publisher_url)
        except zmq.ZMQError as error:
            publisher.close(0)
            if attempt < REBIND_ATTEMPTS_MAX:
                self._rebind_later(attempt + 1)
                return
            raise ListenFailed(f"the publisher cannot be opened again on {self._publisher_url}: {error}") from error
        self._publisher = publisher
        self._world.reactor.add(publisher, self._on_publisher_readable)

    def _close_publisher(self, linger_ms: int | None) -> None:
        publisher, self._publisher = self._publisher, None
        self._topics.clear()
        if publisher is not None:
            self._world.reactor.remove(publisher)
            publisher.close(linger_ms)
