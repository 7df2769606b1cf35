"""The limits and times of the network, each with its unit, default and reason; and where a node listens."""

from __future__ import annotations

from dataclasses import dataclass

from mynosql.address import PORT_DEFAULT, Address
from mynosql.errors import OptionInvalid

PORT_LAST = PORT_DEFAULT + 98
"""The last first port of a pair that is tried when no port was asked for: fifty nodes on one machine."""

PUBLISHED_TOPICS_MAX = 16
"""Topics of our PUB that all subscribers together may name. We publish three; a subscription costs far more memory
than bytes (20 MB of them: 886 MiB), so more than these means an attack: see served.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetOptions:
    """How one I/O thread behaves. The defaults are those of the protocol; tests shorten the times."""

    frame_bytes_max: int = 1 << 20
    """One frame. A receiver drops the connection of whoever sends more, so a sender checks before it sends."""
    frames_max: int = 64
    """Frames of one message; libzmq bounds a frame, not their number."""
    receive_messages_max: int = 32
    """Messages that wait for us per connection (RCVHWM); then TCP holds the sender back. Few, since each may have
    frames_max frames; 256 moved no more (113,000 and 116,000 messages of 300 bytes a second)."""
    send_messages_max: int = 4096
    """Messages that wait for one other node (SNDHWM). The sessions keep a credit in bytes far below it: whoever lets
    this fill up reads no more, and the link is given up."""
    publish_messages_max: int = 256
    """Publications that wait for one subscriber; it misses those beyond and asks for them by their numbers. Each has up
    to 256 KiB, so that one that hangs costs 64 MiB at most, and all of them together hardly more (they share them)."""
    control_bytes_max: int = 300 << 20
    """One request or answer of a local command: one record (256 MiB) and some room."""
    linger_s: float = 0.3
    """How long the last messages of a closing socket may take: a Bye on a LAN, not a body."""
    dial_timeout_s: float = 5.0
    """One attempt: TCP connection, handshake and opening together."""
    retry_s_min: float = 0.05
    """The pause after the first failed attempt or a lost link; doubled up to retry_s_max, less up to half."""
    retry_s_max: float = 5.0
    """A mirror that comes back is found within this, and a thousand peers ask it 200 times a second."""
    retry_s_unreached: float = 0.25
    """While nobody was reached at all the pause is not longer than this, or than retry_share of the time that it has
    lasted: a link that was away for half a minute is used half a second after it is back."""
    retry_share: float = 1 / 120
    knock_s: float = 0.3
    """While a connection request hangs, another is sent this often: the kernel repeats a lost one after 1, 3, 7 s."""
    steady_s: float = 5.0
    """A link that was up this long starts again with the shortest pause."""
    tcp_idle_s: int = 15
    """TCP asks whether the other side still lives after so long without a packet, and again every tcp_probe_s. This
    frees what a vanished node left behind, on both sides; the sessions notice silence sooner, by their own pings."""
    tcp_probe_s: int = 5
    tcp_probes: int = 3
    """So many without an answer end the connection."""
    tcp_dead_s: float = 30.0
    """So do bytes that the other side has not taken for so long (Linux and Windows know that)."""
    served_max: int = 4096
    """Other nodes' connections that are known at a time; the one silent for longest gives way."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise OptionInvalid(f"{name} {getattr(self, name)!r}: expected more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where a node listens: its ROUTER, and its PUB on the next port."""

    address: Address
    publisher: Address


@dataclass(slots=True)
class Counters:
    """What went through the sockets since the start; plain integers, written by the I/O thread only."""

    messages_sent: int = 0
    messages_received: int = 0
    bytes_sent: int = 0
    """Payload of the frames, without the framing of ZeroMQ and TCP."""
    bytes_received: int = 0
    dropped_unproven: int = 0
    """Messages on connections that have not (or wrongly) proved the secret."""
    dropped_malformed: int = 0
    """Messages with too many frames, or that are none of ours."""
    dropped_unsent: int = 0
    """Messages for a link that was down or full; the link was reported down."""
    subscription_floods: int = 0
    """Times that the PUB was opened anew because subscribers named too many topics."""
    rounds: int = 0
    """Times that the I/O thread woke up."""
