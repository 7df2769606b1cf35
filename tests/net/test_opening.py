"""The frames that open a connection: their exact bytes, and that nothing else is taken for them."""

from __future__ import annotations

import pytest

from mynosql.errors import PeerError
from mynosql.net import opening
from mynosql.net.opening import is_ours, pack_no, pack_opening, unpack_opening


def test_the_bytes_are_those_of_the_protocol() -> None:
    assert pack_opening(b"p" * 32) == [b"", b"open", b"\x01", b"p" * 32]
    assert opening.OK == [b"", b"ok", b"\x01"]
    assert opening.AGAIN == [b"", b"again"]
    assert pack_no("because") == [b"", b"no", b"because"]
    assert len(pack_no("ä" * 1000)[2]) == 300


def test_an_opening_is_unpacked_and_nothing_else() -> None:
    assert unpack_opening(pack_opening(b"proof")) == (b"\x01", b"proof")
    for frames in ([b""], [b"", b"open"], [b"", b"ok", b"\x01", b""], [b"x", b"open", b"\x01", b""], [b""] * 5):
        with pytest.raises(PeerError):
            unpack_opening(frames)


def test_a_message_of_the_sessions_is_never_taken_for_one_of_these() -> None:
    assert all(is_ours(frames) for frames in (opening.OK, opening.AGAIN, pack_no(""), pack_opening(b"")))
    assert not is_ours([b"x", b""])
