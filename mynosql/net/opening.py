"""The few frames that net exchanges by itself on a connection before, and around, the messages of the sessions.

They begin with an empty frame, which no message of the sessions does. First message of every DEALER: the opening with
the proof of the secret. The ROUTER answers "ok"; or "again" on a connection that it does not know (any more), which
then is dialled anew; or "no" with a text for a member whose opening it does not understand. To one that has not
proved the secret it answers nothing. Layout: docs/PROTOCOL.md, "Opening".
"""

from __future__ import annotations

from mynosql.errors import PeerError

OPENING_VERSION = b"\x01"

OK = [b"", b"ok", OPENING_VERSION]
AGAIN = [b"", b"again"]

REASON_BYTES_MAX = 300


def pack_opening(proof: bytes) -> list[bytes]:
    """The first message on a connection that we dialled."""
    return [b"", b"open", OPENING_VERSION, proof]


def pack_no(reason: str) -> list[bytes]:
    """The refusal of a member's opening."""
    return [b"", b"no", reason.encode()[:REASON_BYTES_MAX]]


def unpack_opening(frames: list[bytes]) -> tuple[bytes, bytes]:
    """Version and proof of an opening. Raises PeerError when it is none."""
    if len(frames) != 4 or frames[:2] != [b"", b"open"]:
        raise PeerError("a connection began without an opening")
    return frames[2], frames[3]


def is_ours(frames: list[bytes]) -> bool:
    """The message is one of these, not one of the sessions."""
    return not frames[0]
