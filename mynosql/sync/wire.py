"""Messages as frames: encode and decode, with a bound for everything before memory is spent on it.

A message is: one byte naming it, the length of its head (4 bytes), its head (a msgpack array of its fields), and the
tail that some carry (rows, a piece of a body, offers); all that cut into frames of at most FRAME_BYTES_MAX. Bytes from
another node become a Message or a PeerError, never anything else. The tables below are the format; docs/PROTOCOL.md
explains it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgpack

from mynosql.address import Address, parse_address
from mynosql.batch import WireLimits, pack_wire, unpack_wire
from mynosql.errors import PeerError
from mynosql.idkey import ID_KEY_BYTES_MAX
from mynosql.options import ACKS_MAX
from mynosql.row import Row, Version
from mynosql.scope import PREFIX_CHARACTERS_MAX, PREFIXES_MAX
from mynosql.sync import messages as ms
from mynosql.sync.reconciling import BITS_MAX, LISTS_MAX, SUMS_MAX, Answer, Item, Question, Range, Sum

FRAME_BYTES_MAX = 512 << 10
"""Half of what a socket takes (net refuses 1 MiB): the rest is room for change."""
FRAMES_MAX = 40
"""Of one message: bounds what a sender can make the receiver collect."""
ROW_BYTES_MAX = 16 << 20
"""Rows of one message after decompression. The largest row: 64 leaves, each with a body of 64 KiB, and its head."""
PIECE_BYTES_MAX = 128 << 10
TEXT_MAX = 400
"""Characters of an explanation."""
IDS_MAX = 128
"""Ids of one Fetch, items of one Bodies."""
OFFERS_MAX = 4096
PUSH_ROWS_MAX = 1024
"""Rows of one Push: their refusals must fit into one Ack."""
HASHES_MAX = 1024
"""Of one Lookup."""
LIST_ITEMS_MAX = 1 << 16
"""Entries of one range: 15 at 1 M records."""
MIRRORS_MAX = 256
DATABASES_MAX = 8

_U16, _U31, _U64 = (1 << 16) - 1, (1 << 31) - 1, (1 << 64) - 1
_LIMITS = WireLimits(raw_bytes_max=ROW_BYTES_MAX, rows_max=1 << 16)

T = TypeVar("T")


class _Field(NamedTuple):
    """How one field stands in the array: both directions, the second raising ValueError for what it cannot be."""

    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def _number(highest: int) -> _Field:
    def unpack(value: Any) -> int:
        if type(value) is not int or not 0 <= value <= highest:
            raise ValueError(f"{value!r:.40} is no number up to {highest}")
        return value

    return _Field(_same, unpack)


def _bytes(low: int, high: int) -> _Field:
    def unpack(value: Any) -> bytes:
        if type(value) is not bytes or not low <= len(value) <= high:
            raise ValueError(f"expected {low} to {high} bytes")
        return value

    return _Field(_same, unpack)


def _text(length_max: int) -> _Field:
    def unpack(value: Any) -> str:
        if type(value) is not str or len(value) > length_max:
            raise ValueError(f"expected text of up to {length_max} characters")
        return value

    return _Field(lambda value: value[:length_max], unpack)


def _enum(kind: Callable[[Any], T]) -> _Field:
    return _Field(lambda value: value.value, kind)


def _array(item: _Field, count_max: int) -> _Field:
    def unpack(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) > count_max:
            raise ValueError(f"expected up to {count_max} items")
        return tuple(map(item.unpack, value))

    return _Field(lambda value: list(map(item.pack, value)), unpack)


def _record(kind: Callable[..., T], **fields: _Field) -> _Field:
    """An array whose items are the fields of kind in this order; what a later version appends is ignored."""
    names = tuple(fields)
    items = tuple(fields.values())

    def pack(value: Any) -> list[Any]:
        return [item.pack(getattr(value, name)) for name, item in zip(names, items, strict=True)]

    def unpack(value: Any) -> T:
        if type(value) is not list or len(value) < len(items):
            raise ValueError(f"expected {len(items)} fields")
        return kind(**{name: item.unpack(found) for name, item, found in zip(names, items, value, strict=False)})

    return _Field(pack, unpack)


def _maybe(field: _Field) -> _Field:
    return _Field(
        lambda value: None if value is None else field.pack(value),
        lambda value: None if value is None else field.unpack(value),
    )


def _flag_of(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("expected true or false")
    return value


def _address_of(value: Any) -> Address:
    if type(value) is not str or len(value) > 300:
        raise ValueError("expected an address")
    return parse_address(value)


_FLAG = _Field(_same, _flag_of)
_ADDRESS = _Field(lambda address: address.tcp_url, _address_of)
_ID = _bytes(16, 16)
_ID_KEY = _bytes(1, ID_KEY_BYTES_MAX)
_REQUEST = _number(_U64)
_SEQ = _number((1 << 63) - 1)
_TEXT = _text(TEXT_MAX)
_KNOWN = _maybe(_record(ms.Known, index_id=_ID, seq=_SEQ, node=_number(_U64), hlc=_number(_U64), nonce=_number(_U64)))
_CARD = _record(
    ms.Card, node=_number(_U64), index_id=_ID, nonce=_number(_U64), databases=_array(_ID, DATABASES_MAX),
    is_young=_FLAG, is_mirror=_FLAG, is_filling=_FLAG, advertised=_maybe(_ADDRESS), publisher_port=_number(_U16),
    head=_SEQ,
)
_MIRRORS = _array(
    _record(
        ms.MirrorInfo, node=_number(_U64), advertised=_ADDRESS, publisher_port=_number(_U16), is_filling=_FLAG,
        age_s=_number(_U31),
    ),
    MIRRORS_MAX,
)
_VERSION = _record(Version, hlc=_number(_U64), node=_number(_U64))
_REFUSED = _array(
    _record(ms.Refusal, position=_number(PUSH_ROWS_MAX - 1), code=_text(40), text=_text(120)), PUSH_ROWS_MAX
)


class _ItemHead(NamedTuple):
    """A BodyItem without its row, which stands in the tail."""

    id_key: bytes
    status: ms.Status
    has_row: bool
    large: int


_ITEM = _Field(
    lambda item: [item.id_key, item.status.value, item.row is not None, item.large],
    _record(_ItemHead, id_key=_ID_KEY, status=_enum(ms.Status), has_row=_FLAG, large=_number(_U64)).unpack,
)


class _AnswerHead(NamedTuple):
    """An Answer without its sums and items, which stand in the tail."""

    sum_count: int
    list_counts: tuple[int, ...]


_RANGE = _record(Range, bits=_number(BITS_MAX), prefix=_number((1 << BITS_MAX) - 1))
_QUESTION = _record(Question, sums=_array(_RANGE, SUMS_MAX), lists=_array(_RANGE, LISTS_MAX))
_ANSWER_HEAD = _Field(
    lambda answer: [len(answer.sums), [len(items) for items in answer.lists]],
    _record(
        _AnswerHead, sum_count=_number(SUMS_MAX), list_counts=_array(_number(LIST_ITEMS_MAX), LISTS_MAX)
    ).unpack,
)


class _Shape(NamedTuple):
    """The format of one kind of message."""

    code: int
    kind: type[Any]
    bytes_max: int
    """Of the head: an empty array costs some 60 times its byte in memory."""
    fields: dict[str, _Field]
    tail: str = ""
    """What follows the head: "rows", "data", "bodies", "offers" or "answer"; "": nothing."""
    new_fields: int = 0
    """How many of the last fields an older version does not send: they keep their defaults then."""


_SMALL = 1 << 10

_SHAPES = (
    _Shape(1, ms.Hello, 4 << 10, {
        "version_low": _number(_U16), "version_high": _number(_U16), "database": _text(100), "session": _REQUEST,
        "is_merging": _FLAG, "card": _CARD, "known": _KNOWN, "is_listening": _FLAG,
    }),
    _Shape(2, ms.Welcome, 128 << 10, {
        "session": _REQUEST, "version": _number(_U16), "card": _CARD, "known": _KNOWN, "heartbeat_ms": _number(60_000),
        "mirrors": _MIRRORS,
    }),
    _Shape(3, ms.Refused, 4 << 10, {"session": _REQUEST, "code": _enum(ms.RefusedCode), "text": _TEXT}),
    _Shape(4, ms.Pull, 64 << 10, {
        "request": _REQUEST, "index_id": _ID, "after": _SEQ,
        "prefixes": _array(_text(PREFIX_CHARACTERS_MAX), PREFIXES_MAX), "with_bodies": _FLAG,
    }),
    _Shape(5, ms.Entries, _SMALL, {
        "request": _REQUEST, "index_id": _ID, "after": _SEQ, "last": _SEQ, "head": _SEQ, "more": _FLAG,
    }, "rows"),
    _Shape(6, ms.Fetch, 160 << 10, {"request": _REQUEST, "id_keys": _array(_ID_KEY, IDS_MAX)}),
    _Shape(7, ms.Bodies, 160 << 10, {"request": _REQUEST, "items": _array(_ITEM, IDS_MAX)}, "bodies"),
    _Shape(8, ms.FetchPiece, 8 << 10, {
        "request": _REQUEST, "id_key": _ID_KEY, "version": _VERSION, "offset": _number(1 << 40),
        "length": _number(PIECE_BYTES_MAX),
    }),
    _Shape(9, ms.Piece, _SMALL, {"request": _REQUEST, "is_held": _FLAG}, "data"),
    _Shape(10, ms.Push, _SMALL, {"request": _REQUEST, "index_id": _ID, "first": _SEQ, "last": _SEQ}, "rows"),
    _Shape(11, ms.Ack, 600 << 10, {
        "request": _REQUEST, "index_id": _ID, "last": _SEQ, "seq": _SEQ, "refused": _REFUSED,
    }),
    _Shape(12, ms.Offer, _SMALL, {"request": _REQUEST}, "offers"),
    _Shape(13, ms.Want, 64 << 10, {"request": _REQUEST, "positions": _array(_number(OFFERS_MAX - 1), OFFERS_MAX)}),
    _Shape(24, ms.Compare, 32 << 10, {"request": _REQUEST, "index_id": _ID, "question": _QUESTION}),
    _Shape(25, ms.Sums, 32 << 10, {
        "request": _REQUEST, "index_id": _ID, "head": _SEQ, "answer": _maybe(_ANSWER_HEAD),
    }, "answer"),
    _Shape(26, ms.Lookup, 16 << 10, {"request": _REQUEST, "id_hashes": _array(_number(_U64), HASHES_MAX)}),
    _Shape(27, ms.Found, _SMALL, {"request": _REQUEST}, "rows"),
    _Shape(14, ms.Report, _SMALL, {"index_id": _ID, "seq": _SEQ}),
    _Shape(15, ms.Mirrors, 128 << 10, {"mirrors": _MIRRORS}),
    _Shape(16, ms.Ping, _SMALL, {"number": _REQUEST}),
    _Shape(17, ms.Pong, _SMALL, {"number": _REQUEST, "load": _number(_U31)}),
    _Shape(18, ms.Bye, 4 << 10, {"code": _enum(ms.ByeCode), "text": _TEXT}),
    _Shape(22, ms.Await, _SMALL, {
        "request": _REQUEST, "index_id": _ID, "seq": _SEQ, "count": _number(ACKS_MAX),
    }),
    _Shape(23, ms.Confirmed, _SMALL, {"request": _REQUEST, "index_id": _ID}),
    _Shape(32, ms.Changes, _SMALL, {"index_id": _ID, "first": _SEQ, "last": _SEQ}, "rows"),
    _Shape(33, ms.Heartbeat, _SMALL, {
        "index_id": _ID, "head": _SEQ, "next_ms": _number(60_000), "is_filling": _FLAG, "total": _bytes(0, 16),
    }, new_fields=1),
)
_BY_KIND = {shape.kind: shape for shape in _SHAPES}
_BY_CODE = {shape.code: shape for shape in _SHAPES}
_START = struct.Struct("<BI")
_OFFER = struct.Struct(">q8s")
_SUM = struct.Struct(">I16s")
_LISTED = struct.Struct(">Q8s")


def encode(message: ms.Message) -> list[bytes]:
    """The frames of one message, each at most FRAME_BYTES_MAX."""
    shape = _BY_KIND[type(message)]
    head = msgpack.packb([field.pack(getattr(message, name)) for name, field in shape.fields.items()])
    data = b"".join((_START.pack(shape.code, len(head)), head, _pack_tail(message)))
    if len(data) <= FRAME_BYTES_MAX:
        return [data]
    frames = [data[start : start + FRAME_BYTES_MAX] for start in range(0, len(data), FRAME_BYTES_MAX)]
    assert len(frames) <= FRAMES_MAX, f"{shape.kind.__name__} of {len(data)} bytes"
    return frames


def _pack_tail(message: ms.Message) -> bytes:
    if isinstance(message, ms.Entries | ms.Push | ms.Changes | ms.Found):
        return pack_wire(message.rows) if message.rows else b""
    if isinstance(message, ms.Piece):
        return message.data
    if isinstance(message, ms.Bodies):
        rows = [item.row for item in message.items if item.row is not None]
        return pack_wire(rows) if rows else b""
    if isinstance(message, ms.Offer):
        return b"".join(_OFFER.pack(*item) for item in message.items)
    if isinstance(message, ms.Sums) and message.answer is not None:
        sums = [_SUM.pack(found.entry_count, found.total.to_bytes(16, "big")) for found in message.answer.sums]
        return b"".join(sums + [_LISTED.pack(*item) for items in message.answer.lists for item in items])
    return b""


def decode(frames: Sequence[bytes]) -> ms.Message:
    """The message that these frames are. Raises PeerError for anything else, and nothing but that."""
    try:
        return _decode(frames)
    except (ValueError, TypeError, OverflowError, RecursionError, struct.error, msgpack.UnpackException) as error:
        raise PeerError(f"a message that cannot be read: {error!s:.200}") from error


def _decode(frames: Sequence[bytes]) -> ms.Message:
    if not 1 <= len(frames) <= FRAMES_MAX or any(len(frame) > FRAME_BYTES_MAX for frame in frames):
        raise ValueError(f"{len(frames)} frames: expected 1 to {FRAMES_MAX} of at most {FRAME_BYTES_MAX} bytes")
    data = frames[0] if len(frames) == 1 else b"".join(frames)
    code, head_bytes = _START.unpack_from(data)
    shape = _BY_CODE.get(code)
    if shape is None:
        raise ValueError(f"message number {code} is unknown in protocol version {ms.VERSION_HIGH}")
    end = _START.size + head_bytes
    if head_bytes > shape.bytes_max or end > len(data):
        raise ValueError(f"{shape.kind.__name__} of {len(data)} bytes claims a head of {head_bytes}")
    values = msgpack.unpackb(
        data[_START.size : end], use_list=True, raw=False, max_map_len=0, max_ext_len=0, max_array_len=OFFERS_MAX,
        max_str_len=4 * TEXT_MAX, max_bin_len=ID_KEY_BYTES_MAX,
    )
    if type(values) is not list or len(values) < len(shape.fields) - shape.new_fields:
        raise ValueError(f"{shape.kind.__name__} without its {len(shape.fields)} fields")
    fields = {name: field.unpack(value) for (name, field), value in zip(shape.fields.items(), values, strict=False)}
    _add_tail(shape, fields, data[end:])
    return shape.kind(**fields)  # type: ignore[no-any-return]


def _add_tail(shape: _Shape, fields: dict[str, Any], tail: bytes) -> None:
    if shape.tail == "rows":
        fields["rows"] = _rows(tail)
        if shape.kind is ms.Push and len(fields["rows"]) > PUSH_ROWS_MAX:
            raise ValueError(f"Push of {len(fields['rows'])} rows, at most {PUSH_ROWS_MAX} expected")
    elif shape.tail == "data":
        if len(tail) > PIECE_BYTES_MAX:
            raise ValueError(f"a piece of {len(tail)} bytes, at most {PIECE_BYTES_MAX} expected")
        fields["data"] = tail
    elif shape.tail == "offers":
        if len(tail) > OFFERS_MAX * _OFFER.size:
            raise ValueError(f"offers of {len(tail)} bytes, at most {OFFERS_MAX} offers expected")
        fields["items"] = tuple(ms.OfferItem(*found) for found in _OFFER.iter_unpack(tail))
    elif shape.tail == "answer" and fields["answer"] is not None:
        fields["answer"] = _answer(fields["answer"], tail)
    elif shape.tail == "bodies":
        fields["items"] = _items_with_rows(fields["items"], _rows(tail))
    elif tail:
        raise ValueError(f"{shape.kind.__name__} with {len(tail)} bytes too many")


def _items_with_rows(found: tuple[_ItemHead, ...], rows: tuple[Row, ...]) -> tuple[ms.BodyItem, ...]:
    left = iter(rows)
    items = []
    for item in found:
        row = next(left, None) if item.has_row else None
        if item.has_row and (row is None or row.id_key != item.id_key):
            raise ValueError("Bodies whose rows do not match its items")
        if item.status in (ms.Status.HELD, ms.Status.LARGE) and row is None:
            raise ValueError("Bodies with a held item without its row")
        items.append(ms.BodyItem(item.id_key, item.status, row, item.large))
    if next(left, None) is not None:
        raise ValueError("Bodies with more rows than items")
    return tuple(items)


def _answer(head: _AnswerHead, tail: bytes) -> Answer:
    end = head.sum_count * _SUM.size
    if len(tail) != end + sum(head.list_counts) * _LISTED.size:
        raise ValueError(f"an answer of {len(tail)} bytes to {head.sum_count} sums and {len(head.list_counts)} lists")
    sums = [Sum(count, int.from_bytes(total, "big")) for count, total in _SUM.iter_unpack(tail[:end])]
    items = iter(_LISTED.iter_unpack(tail[end:]))
    return Answer(sums, [[Item(*next(items)) for _ in range(count)] for count in head.list_counts])


def _rows(tail: bytes) -> tuple[Row, ...]:
    return tuple(unpack_wire(tail, _LIMITS)) if tail else ()
