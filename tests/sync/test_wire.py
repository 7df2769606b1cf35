"""wire: every message there and back, every bound at it and one past it, and rubbish that only makes PeerErrors."""

from __future__ import annotations

import random
import struct
from dataclasses import fields, replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mynosql.address import Address
from mynosql.codec import digest
from mynosql.errors import PeerError
from mynosql.idkey import pack_id
from mynosql.row import Leaf, Row, Version
from mynosql.sync import messages as ms
from mynosql.sync import wire
from mynosql.sync.reconciling import Answer, Item, Question, Range, Sum
from mynosql.sync.wire import decode, encode
from tests.sync.harness import card, hello, welcome
from tests.sync.rules import obeys

KNOWN = ms.Known(b"I" * 16, 12, 7, 34, 56)
MIRROR = ms.MirrorInfo(7, Address("m2", 8800), 8801, True, 90)


def row(id: str = "a", body: bytes | None = b"\x80body", seq: int = 3) -> Row:
    size, hashed = (0, bytes(8)) if body is None else (len(body), digest(body))
    return Row(pack_id(id), (Leaf(1, 100, 7, body is None, size, hashed),), (body,), seq)


ROWS = (row("a"), row("b", None), row("c", b"x" * 3000))
BARE = row("d")._replace(bodies=(None,))

MESSAGES: list[ms.Message] = [
    hello(
        known=KNOWN, card=card(advertised=Address("::1", 8800), databases=(b"D" * 16, b"E" * 16), publisher_port=8801),
    ),
    welcome(hello(), known=KNOWN, mirrors=(MIRROR,)),
    ms.Refused(session=9, code=ms.RefusedCode.CLONE, text="no"),
    ms.Pull(request=1, index_id=b"I" * 16, after=7, prefixes=("a", "ü"), with_bodies=True),
    ms.Entries(request=1, index_id=b"I" * 16, after=7, last=9, head=11, more=True, rows=ROWS),
    ms.Entries(request=1, index_id=b"I" * 16, after=7, last=9, head=9, more=False, rows=()),
    ms.Fetch(request=2, id_keys=(pack_id("a"), pack_id(1))),
    ms.Bodies(request=2, items=(
        ms.BodyItem(pack_id("a"), ms.Status.HELD, row("a")), ms.BodyItem(pack_id("x"), ms.Status.ABSENT, None),
        ms.BodyItem(pack_id("d"), ms.Status.LARGE, BARE, 1), ms.BodyItem(pack_id("y"), ms.Status.NOT_HELD, None),
    )),
    ms.FetchPiece(request=3, id_key=pack_id("a"), version=Version(1, 2), offset=131072, length=131072),
    ms.Piece(request=3, is_held=True, data=b"p" * 131072),
    ms.Piece(request=3, is_held=False, data=b""),
    ms.Push(request=4, index_id=b"I" * 16, first=1, last=3, rows=ROWS),
    ms.Await(request=5, index_id=b"I" * 16, seq=9, count=1),
    ms.Confirmed(request=5, index_id=b"I" * 16),
    ms.Ack(request=4, index_id=b"I" * 16, last=3, seq=0, refused=(ms.Refusal(1, "body-wrong", "why"),)),
    ms.Offer(request=5, items=(ms.OfferItem(-1, b"12345678"), ms.OfferItem(2**62, b"abcdefgh"))),
    ms.Want(request=5, positions=(0, 1)),
    ms.Compare(request=6, index_id=b"I" * 16, question=Question((Range(8, 255), Range(16, 65535)), (Range(16, 7),))),
    ms.Sums(request=6, index_id=b"I" * 16, head=9, answer=Answer(
        [Sum(3, 2**128 - 1), Sum(0, 0)], [[Item(2**64 - 1, b"12345678"), Item(0, b"abcdefgh")], []],
    )),
    ms.Sums(request=6, index_id=b"I" * 16, head=9, answer=None),
    ms.Lookup(request=7, id_hashes=(0, 2**64 - 1)),
    ms.Found(request=7, rows=(BARE,)),
    ms.Report(index_id=b"I" * 16, seq=99),
    ms.Mirrors(mirrors=(MIRROR,)),
    ms.Ping(number=1),
    ms.Pong(number=1),
    ms.Bye(code=ms.ByeCode.STORAGE, text="full"),
    ms.Changes(index_id=b"I" * 16, first=4, last=6, rows=ROWS),
    ms.Heartbeat(index_id=b"I" * 16, head=6, next_ms=5000, is_filling=False, total=b"T" * 16),
]


def name_of(message: ms.Message) -> str:
    return type(message).__name__


@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_a_message_comes_back_equal(message: ms.Message) -> None:
    assert decode(encode(message)) == message


def test_every_kind_of_message_is_in_that_list() -> None:
    assert {type(message) for message in MESSAGES} == {shape.kind for shape in wire._SHAPES}
    for shape in wire._SHAPES:
        names = [field.name for field in fields(shape.kind)]
        assert names[: len(shape.fields)] == list(shape.fields), "the head is in the order of messages.py"


def test_what_an_older_version_leaves_out_keeps_its_default() -> None:
    beat = ms.Heartbeat(index_id=b"I" * 16, head=6, next_ms=5000, is_filling=False, total=b"T" * 16)
    (frame,) = encode(beat)
    fields_of_1 = msgpack.unpackb(frame[5:])[:-1]
    head = msgpack.packb(fields_of_1)
    assert decode([frame[:1] + len(head).to_bytes(4, "little") + head]) == replace(beat, total=b"")
    head = msgpack.packb(fields_of_1[:-1])
    with pytest.raises(PeerError, match="without its"):
        decode([frame[:1] + len(head).to_bytes(4, "little") + head])


@pytest.mark.parametrize("more", [-1, 1])
def test_sums_that_do_not_fit_their_counts_are_refused(more: int) -> None:
    (frame,) = encode(ms.Sums(request=6, index_id=b"I" * 16, head=9, answer=Answer([Sum(3, 4)], [])))
    with pytest.raises(PeerError, match="an answer of"):
        decode([frame[:more] if more < 0 else frame + b"x"])
    (frame,) = encode(ms.Sums(request=6, index_id=b"I" * 16, head=9, answer=None))
    with pytest.raises(PeerError, match="too many"):
        decode([frame + b"x"])


def test_a_large_message_is_cut_into_frames() -> None:
    rng = random.Random(1)
    rows = tuple(row(f"r{number}", rng.randbytes(60_000)) for number in range(30))
    message = ms.Entries(request=1, index_id=b"I" * 16, after=0, last=30, head=30, more=False, rows=rows)

    frames = encode(message)

    assert len(frames) > 3
    assert max(map(len, frames)) <= wire.FRAME_BYTES_MAX
    assert decode(frames) == message


@obeys("Bytes from another node become a message or a PeerError, never anything else.")
@given(st.lists(st.binary(max_size=200), max_size=4))
def test_random_bytes_are_a_peer_error(frames: list[bytes]) -> None:
    try:
        decode(frames)
    except PeerError:
        return


@obeys("Bytes from another node become a message or a PeerError, never anything else.")
@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_a_damaged_message_is_a_message_or_a_peer_error(message: ms.Message) -> None:
    rng = random.Random(name_of(message))
    original = b"".join(encode(message))
    for _ in range(300):
        data = bytearray(original[: 4000])
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        try:
            decode([bytes(data)])
        except PeerError:
            continue


@pytest.mark.parametrize("frames", [
    [], [b""], [b"\x01"], [b"\xff\x00\x00\x00\x00"], [b"\x10\xff\xff\xff\xff"],
    [struct.pack("<BI", 16, 1) + b"\xc0"], [struct.pack("<BI", 16, 1) + b"\x90"],
    [struct.pack("<BI", 16, 2) + b"\x91\xc0"], [struct.pack("<BI", 16, 2) + b"\x91\x01" + b"tail"],
    [b"\x10\x02\x00\x00\x00\x91\x01"] * 41, [b"\x10" + bytes(wire.FRAME_BYTES_MAX)],
])
def test_what_is_no_message_is_refused(frames: list[bytes]) -> None:
    with pytest.raises(PeerError):
        decode(frames)


def _raw(message: ms.Message, **changes: Any) -> list[bytes]:
    """The frames of a message with fields that encode would never make."""
    shape = wire._BY_KIND[type(message)]
    values = {name: field.pack(getattr(message, name)) for name, field in shape.fields.items()}
    values.update(changes)
    head = msgpack.packb(list(values.values()))
    data = struct.pack("<BI", shape.code, len(head)) + head + wire._pack_tail(message)
    return [data[start : start + wire.FRAME_BYTES_MAX] for start in range(0, len(data), wire.FRAME_BYTES_MAX)]


PULL = ms.Pull(request=1, index_id=b"I" * 16, after=7, prefixes=(), with_bodies=True)
FETCH = ms.Fetch(request=1, id_keys=())
WANT = ms.Want(request=1, positions=())
ACK = ms.Ack(request=1, index_id=b"I" * 16, last=1, seq=0, refused=())
PIECE = ms.FetchPiece(request=1, id_key=b"\x10a", version=Version(1, 1), offset=0, length=1)
MIRROR_WIRE = [7, "tcp://m2:8800", 8801, True, 90]


@obeys("Every count and length has a bound that is checked before memory is spent.")
@pytest.mark.parametrize(("message", "field", "at", "past"), [
    (PULL, "request", 2**64 - 1, -1),
    (PULL, "after", 2**63 - 1, 2**63),
    (PULL, "index_id", b"x" * 16, b"x" * 17),
    (PULL, "prefixes", ["p"] * 64, ["p"] * 65),
    (PULL, "prefixes", ["p" * 200], ["p" * 201]),
    (PULL, "with_bodies", False, 0),
    (FETCH, "id_keys", [b"\x10" + b"k" * 1023] * 128, [b"\x10a"] * 129),
    (FETCH, "id_keys", [b"\x10" + b"k" * 1023], [b"\x10" + b"k" * 1024]),
    (PIECE, "length", 128 << 10, (128 << 10) + 1),
    (PIECE, "version", [1, 1], [1]),
    (ms.Await(request=1, index_id=b"I" * 16, seq=1, count=1), "count", 16, 17),
    (WANT, "positions", [4095] * 4096, [0] * 4097),
    (WANT, "positions", [4095], [4096]),
    (ACK, "refused", [[1, "c" * 40, "t" * 120]] * 1024, [[1, "c", "t"]] * 1025),
    (ACK, "refused", [[1023, "c", "t"]], [[1024, "c", "t"]]),
    (ms.Mirrors(mirrors=()), "mirrors", [MIRROR_WIRE] * 256, [MIRROR_WIRE] * 257),
    (ms.Mirrors(mirrors=()), "mirrors", [MIRROR_WIRE], [[7, "tcp://" + "m" * 300, 8801, True, 90]]),
    (ms.Heartbeat(index_id=b"I" * 16, head=1, next_ms=1, is_filling=False), "next_ms", 60_000, 60_001),
    (hello(), "database", "n" * 100, "n" * 101),
    (hello(), "version_high", 65535, 65536),
    (ms.Bye(code=ms.ByeCode.STOPPED, text=""), "text", "t" * 400, "t" * 401),
    (ms.Bye(code=ms.ByeCode.STOPPED, text=""), "code", "storage", "unheard-of"),
], ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "")
def test_a_field_is_taken_at_its_bound_and_refused_past_it(
    message: ms.Message, field: str, at: Any, past: Any
) -> None:
    decode(_raw(message, **{field: at}))
    with pytest.raises(PeerError):
        decode(_raw(message, **{field: past}))


@obeys("Every count and length has a bound that is checked before memory is spent.")
def test_a_tail_is_taken_at_its_bound_and_refused_past_it() -> None:
    push = ms.Push(request=1, index_id=b"I" * 16, first=1, last=1, rows=())
    many = tuple(row(f"{number:05}", b"x", seq=number + 1) for number in range(1025))
    offers = tuple(ms.OfferItem(number, bytes(8)) for number in range(4097))
    for at, past in [
        (ms.Piece(request=1, is_held=True, data=bytes(131072)), ms.Piece(request=1, is_held=True, data=bytes(131073))),
        (replace(push, rows=many[:1024]), replace(push, rows=many)),
        (ms.Offer(request=1, items=offers[:4096]), ms.Offer(request=1, items=offers)),
    ]:
        assert decode(encode(at)) == at
        with pytest.raises(PeerError):
            decode(encode(past))


def test_rows_that_claim_to_unpack_to_more_than_the_bound_are_refused() -> None:
    bomb = struct.pack("<BI", 2, wire.ROW_BYTES_MAX + 1) + bytes(100_000)
    frames = encode(ms.Changes(index_id=b"I" * 16, first=1, last=1, rows=()))

    with pytest.raises(PeerError, match="claims"):
        decode([frames[0] + bomb])


@pytest.mark.parametrize("items", [
    [[b"\x10a", 0, True, 0]], [[b"\x10b", 0, True, 0], [b"\x10a", 0, True, 0]], [[b"\x10a", 0, False, 0]], [],
], ids=["too few rows", "another row", "held without row", "too many rows"])
def test_bodies_whose_rows_do_not_match_their_items_are_refused(items: list[Any]) -> None:
    one = ms.Bodies(request=1, items=(ms.BodyItem(pack_id("a"), ms.Status.HELD, row("a")),))
    message = ms.Bodies(request=1, items=()) if items == [[b"\x10a", 0, True, 0]] else one

    with pytest.raises(PeerError):
        decode(_raw(message, items=items))


@obeys("Fields that a later version appends to a message are ignored.")
def test_appended_fields_are_ignored() -> None:
    message = hello()
    shape = wire._BY_KIND[ms.Hello]
    values = [field.pack(getattr(message, name)) for name, field in shape.fields.items()]
    values[shape_index("card")].append("more in the card")
    head = msgpack.packb([*values, 7, "later"])

    assert decode([struct.pack("<BI", shape.code, len(head)) + head]) == message


def shape_index(name: str) -> int:
    return list(wire._BY_KIND[ms.Hello].fields).index(name)
