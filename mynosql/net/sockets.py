"""How sockets are made, read, watched and closed: the one place where ZeroMQ's options are set.

Every socket gets bounds (HWM, MAXMSGSIZE, LINGER) before it is connected or bound. Never set: ROUTING_ID (a second
holder is silently mute), ROUTER_HANDOVER (one node received another's replies) and HEARTBEAT_IVL (libzmq 4.3.5 ends
the whole process when a connection breaks whose messages wait to be read and its ping comes due: docs/ARCHITECTURE.md).
Used on the I/O thread only.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Sequence
from enum import Enum

import zmq

from mynosql.errors import MyNoSQLError
from mynosql.net.options import NetOptions
from mynosql.net.security import Security

DESCRIPTORS_NEEDED = 24
"""What a context and its first sockets open; libzmq aborts the whole process when one of them is not to be had."""
SOCKETS_MAX = 8192
"""Four for each node that we dial: two thousand of them."""
PUBLISHER_FRAME_BYTES_MAX = 2048
"""What subscribers may send to our PUB: topics, and the commands of the CURVE handshake (some 500 bytes)."""

NEVER_MS = 24 * 3600 * 1000
"""Longer than any dial: the end of a connection is noticed by its monitor and the socket closed."""

DOMAIN_NODE = b"node"
"""ZAP domain of the ROUTER: any CURVE key may come in, and must prove the secret in its first message."""
DOMAIN_PUBLISHER = b"publisher"
"""ZAP domain of the PUB: only keys that have proved the secret."""

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]

WATCHED = (
    zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
)

_monitor_numbers = itertools.count(1)


class Signal(Enum):
    """What a monitor says of the one connection of a dialling socket."""

    CONNECTED = "connected"
    """A TCP connection came about; the handshake follows."""
    READY = "ready"
    """The ZMTP (and CURVE) handshake succeeded."""
    UNREACHABLE = "unreachable"
    """No TCP connection came about."""
    CLOSED = "closed"
    """The connection ended."""
    SILENT_END = "silent end"
    """The other side ended the connection during the handshake without a word: how CURVE refuses another key."""
    OTHER_MECHANISM = "other mechanism"
    """One side is plain, the other encrypted."""
    OTHER_PROTOCOL = "other protocol"
    """What answers there does not speak ZeroMQ, or broke its rules."""
    NOT_ADMITTED = "not admitted"
    """ZAP over there refused our key."""


def make_context() -> Context:
    """A context of its own for one I/O thread. Raises MyNoSQLError when the process has too few file descriptors."""
    probes: list[int] = []
    try:
        for _ in range(DESCRIPTORS_NEEDED):
            probes.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        raise MyNoSQLError(
            f"the network needs {DESCRIPTORS_NEEDED} file descriptors and got {len(probes)} ({error}): close files, "
            "or raise the limit (ulimit -n)"
        ) from error
    finally:
        for probe in probes:
            os.close(probe)
    context: Context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, SOCKETS_MAX)
    return context


def make_dealer(context: Context, security: Security, options: NetOptions) -> Socket:
    """A DEALER for one connection to the ROUTER of another node."""
    return _make_dialling(context, zmq.DEALER, security, options)


def make_subscriber(context: Context, security: Security, options: NetOptions, topics: Sequence[bytes]) -> Socket:
    """A SUB for one connection to the PUB of another node."""
    socket = _make_dialling(context, zmq.SUB, security, options)
    for topic in topics:
        socket.setsockopt(zmq.SUBSCRIBE, topic)
    return socket


def _make_dialling(context: Context, kind: int, security: Security, options: NetOptions) -> Socket:
    socket = _make(context, kind, options)
    # One socket is one connection: a reconnect of libzmq's own reorders, forgets to back off, and hides who comes back.
    # Not switched off by -1, nor IMMEDIATE=1: both throw away what arrived before the end and was not read yet (the
    # last message of a node that stopped was lost in 3 of 100 runs with IMMEDIATE, in nearly all with -1).
    socket.setsockopt(zmq.RECONNECT_IVL, NEVER_MS)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, milliseconds(options.dial_timeout_s))
    if security.secret is not None and security.keys is not None:
        socket.setsockopt(zmq.CURVE_SERVERKEY, security.secret.server_public_key)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, security.keys.public_key)
        socket.setsockopt(zmq.CURVE_SECRETKEY, security.keys.secret_key)
    return socket


def make_router(context: Context, security: Security, options: NetOptions) -> Socket:
    """The ROUTER that other nodes dial; not bound yet."""
    socket = _make(context, zmq.ROUTER, options)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    _guard(socket, security, DOMAIN_NODE)
    return socket


def make_publisher(context: Context, security: Security, options: NetOptions) -> Socket:
    """The PUB that other nodes subscribe to; an XPUB, so that we see how many topics they name. Not bound yet."""
    socket = _make(context, zmq.XPUB, options)
    socket.setsockopt(zmq.MAXMSGSIZE, PUBLISHER_FRAME_BYTES_MAX)
    socket.setsockopt(zmq.SNDHWM, options.publish_messages_max)
    _guard(socket, security, DOMAIN_PUBLISHER)
    return socket


def make_local(context: Context, kind: int, options: NetOptions) -> Socket:
    """A socket of the control endpoint, whose frames may be as large as a record."""
    socket = _make(context, kind, options)
    socket.setsockopt(zmq.MAXMSGSIZE, options.control_bytes_max)
    socket.setsockopt(zmq.IPV6, 0)  # or its loopback endpoint reads [::ffff:127.0.0.1]
    return socket


def _guard(socket: Socket, security: Security, domain: bytes) -> None:
    if security.secret is None:
        return
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, security.secret.server_secret_key)
    # Without a domain libzmq admits every key; enforced, it fails closed when no ZAP handler answers.
    socket.setsockopt(zmq.ZAP_DOMAIN, domain)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def _make(context: Context, kind: int, options: NetOptions) -> Socket:
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, milliseconds(options.linger_s))
    socket.setsockopt(zmq.MAXMSGSIZE, options.frame_bytes_max)
    socket.setsockopt(zmq.SNDHWM, options.send_messages_max)
    socket.setsockopt(zmq.RCVHWM, options.receive_messages_max)
    # Later than our own limit, which says what happened.
    socket.setsockopt(zmq.HANDSHAKE_IVL, milliseconds(options.dial_timeout_s + 1.0))
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, options.tcp_idle_s)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, options.tcp_probe_s)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, options.tcp_probes)
    socket.setsockopt(zmq.TCP_MAXRT, milliseconds(options.tcp_dead_s))
    return socket


def milliseconds(seconds: float) -> int:
    """As ZeroMQ takes times; at least 1, since 0 turns most of them off."""
    return max(1, round(seconds * 1000))


def receive(socket: Socket, frames_max: int) -> list[bytes] | None:
    """The frames of the next message; None when none waits; [] for one with too many frames, which is gone.

    The surplus frames are read and dropped one by one: a hundred thousand of them never stand in our memory twice.
    """
    try:
        frames = [socket.recv(zmq.NOBLOCK)]
    except zmq.Again:
        return None
    return frames if receive_rest(socket, frames, frames_max) else []


def receive_rest(socket: Socket, frames: list[bytes], frames_max: int) -> bool:
    """The rest of a message whose first frame was read is appended to frames; False: more than frames_max, and gone."""
    while socket.getsockopt(zmq.RCVMORE):
        frame = socket.recv(zmq.NOBLOCK)
        if len(frames) < frames_max:
            frames.append(frame)
        else:
            while socket.getsockopt(zmq.RCVMORE):
                socket.recv(zmq.NOBLOCK)
            return False
    return True


def bound_to(socket: Socket) -> str:
    """Where a socket was bound last, with the port that was picked: "tcp://host:port"."""
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return endpoint.decode()


def watch(context: Context, socket: Socket) -> Socket:
    """A PAIR that receives the monitor events of this dialling socket; read it with read_signal."""
    # Not get_monitor_socket(): it names the endpoint after a file descriptor, and those come again.
    endpoint = f"inproc://monitor-{next(_monitor_numbers)}"
    socket.monitor(endpoint, WATCHED)
    pair = context.socket(zmq.PAIR)
    pair.setsockopt(zmq.LINGER, 0)
    pair.connect(endpoint)
    return pair


def read_signal(monitor: Socket) -> Signal | None:
    """The next event of a watched socket; None: there is none now."""
    try:
        head = monitor.recv_multipart(zmq.NOBLOCK)[0]
    except zmq.Again:
        return None
    event, value = struct.unpack("=hi", head)
    if event == zmq.EVENT_CONNECTED:
        return Signal.CONNECTED
    if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
        return Signal.READY
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return Signal.NOT_ADMITTED
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        is_mechanism = value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
        return Signal.OTHER_MECHANISM if is_mechanism else Signal.OTHER_PROTOCOL
    if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        return Signal.SILENT_END
    return Signal.UNREACHABLE if event == zmq.EVENT_CLOSED else Signal.CLOSED


def close_dialling(socket: Socket, monitor: Socket, linger_ms: int | None = None) -> None:
    """Both are closed; linger_ms None: what was sent still has the linger of the socket."""
    socket.disable_monitor()
    monitor.close(0)
    socket.close(linger_ms)
