"""Values to bytes and back: what a record may hold, each value equal and of the same type when it returns.

MessagePack with extension types (docs/FORMAT.md, "Values"). Packing is canonical: dict order is content and kept,
set members are sorted by their packed bytes, so equal content is equal bytes in every process. Exact types only;
what cannot be stored is refused with the path to it. Nothing is ever unpickled: reading builds the listed types and
calls the constructors of registered classes, no others. Pure, and callable from any thread.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections.abc import Callable, Hashable
from itertools import chain
from typing import Any

import lz4.block
import msgpack
from msgpack import Packer as _Packer
from msgpack import unpackb as _unpackb

from mynosql.errors import RecordInvalid
from mynosql.registry import CONTAINER_TYPES, Registered, find_registered, find_registered_name, register_type
from mynosql.scalars import FLAT_TYPES, SCALAR_PACKERS, SCALAR_UNPACKERS, ScalarRefused

__all__ = [
    "BODY_BYTES_MAX", "DEPTH_MAX", "digest", "is_flat", "pack_body", "pack_record", "pack_value", "pack_whole",
    "register_type", "unpack_body", "unpack_value", "unpack_whole",
]

BODY_BYTES_MAX = 256 << 20
"""Bytes of one packed record: it has to fit into memory several times over while it is packed and compressed."""
DEPTH_MAX = 64
"""Containers within containers, the record itself included: deeper ones overflow what walks them recursively."""

CLAIMS_CHECKED_BYTES_MIN = 4096
"""From here on the structure is walked before anything is built: a list is made as long as it claims to be, and nested
claims of 1,000 levels would come to 8 KB a byte. Below, they come to 32 MB at most. Costs 3 % of unpacking."""

_FLAT_WITHOUT_INT = FLAT_TYPES - {int}
_SCALAR_TYPES = FLAT_TYPES | SCALAR_PACKERS.keys()

_TUPLE, _SET, _FROZENSET, _DICT, _OBJECT = (msgpack.ExtType(code, b"") for code in range(1, 6))
"""First item of the array that stands for such a container (DICT: one with containers among its keys, flattened).
Markers in place of nested extension payloads: a hostile body could make those copy itself once per level."""
_ENUM_CODE = 6
_PLAIN_INTS = range(-(1 << 63), 1 << 64)
_CODE_BIG_INT = 16

_is_flat = FLAT_TYPES.issuperset
_packers: list[_Packer] = []
"""Not in use now: as many as there ever were threads packing at the same moment."""
_PACKER_BYTES_MAX = 64 << 10
_WHOLE_LZ4 = b"\1"
"""No packed map begins so."""
_WHOLE_LZ4_BYTES_MIN = 512
_PLAIN_TYPES = FLAT_TYPES | {dict, list}
_LEVEL_MAX = 100_000
"""Values on one level of nesting that are looked at together; one list within itself many times over is more."""
_SIGNS = (b"\xc7\x00", b"\xc8\x00\x00", b"\xc9\x00\x00\x00\x00", b"\xd6\xff", b"\xd7\xff", b"\xc7\x0c\xff")
"""How an extension without payload begins, which every marker is, and msgpack's own time stamps, which are no value of
ours: bytes without these mean just what msgpack reads in them."""
_is_scalar = _SCALAR_TYPES.issuperset


Unpack = Callable[[bytes], dict[Any, Any]]


def pack_record(body: dict[Hashable, Any]) -> tuple[bytes, Unpack | None]:
    """What pack_body gives, and how a copy of the body comes about that shares nothing with it.

    None: a shallow copy does, the body is flat; else the quickest function that unpacks these bytes.
    """
    if type(body) is dict:
        is_flat = _is_flat(map(type, body.values()))
        try:
            if is_flat:
                "".join(body)  # type: ignore[arg-type]  # all keys are str? the packer takes no subclass of it
            if is_flat or _is_plain_value(body):
                try:
                    packer = _packers.pop()
                except IndexError:
                    packer = _Packer(strict_types=True, buf_size=1024)
                data: bytes = packer.pack(body)
                if len(data) <= _PACKER_BYTES_MAX:  # its buffer never shrinks
                    # Back only now: one that an error left, or that another thread uses, must not mix two records.
                    _packers.append(packer)
                if len(data) <= BODY_BYTES_MAX:
                    return data, None if is_flat else unpack_whole
        except (TypeError, OverflowError, UnicodeEncodeError):
            pass  # another key, an int beyond 64 bits or a lone surrogate: the way for everything
    return pack_body(body), unpack_body


def _is_plain_value(body: dict[Hashable, Any]) -> bool:
    """Dicts with str keys, lists and flat values in them, nothing else, and not too deep: msgpack packs it as it is.

    Level by level, so that C does the walking. Raises TypeError for other keys; False also where it would take long.
    """
    dicts: list[dict[Any, Any]] = [body]
    lists: list[list[Any]] = []
    for _ in range(DEPTH_MAX):
        values = list(chain(*map(dict.values, dicts), *lists))
        "".join(chain(*dicts))
        kinds = set(map(type, values))
        if kinds <= FLAT_TYPES:
            return True
        if len(values) > _LEVEL_MAX or not kinds <= _PLAIN_TYPES:
            return False
        dicts = [value for value in values if type(value) is dict] if dict in kinds else []
        lists = [value for value in values if type(value) is list] if list in kinds else []
    return False


def pack_body(body: dict[Hashable, Any]) -> bytes:
    """The canonical bytes of a record's body (a dict without id and rev), at most BODY_BYTES_MAX.

    Raises RecordInvalid with the path to what cannot be stored. Read it with unpack_body.
    """
    if type(body) is not dict:
        raise RecordInvalid(f"a record is a dict, not {_name_of(type(body))}; convert it with dict(record)")
    return pack_value(body)


def pack_value(value: Any) -> bytes:
    """The canonical bytes of any single value that can be stored. Raises RecordInvalid. Read it with unpack_value."""
    try:
        try:
            return _checked_size(_Encoder(FLAT_TYPES).pack(value))
        except OverflowError:
            return _checked_size(_Encoder(_FLAT_WITHOUT_INT).pack(value))
    except _Refused as refused:
        raise refused.as_record_invalid() from refused.__cause__


def unpack_body(data: bytes) -> dict[Any, Any]:
    """A fresh dict from what pack_body made.

    Raises ValueError when the bytes are not such a body; RecordInvalid (a ValueError too) when they are, but hold a
    class that is not registered or a time zone that this machine does not know.
    """
    try:  # as in _unpack_raw, without the cost of a call
        if len(data) >= CLAIMS_CHECKED_BYTES_MIN:
            _check_claims(data)
        try:
            body = _unpackb(data, ext_hook=_extension)
        except ValueError:  # as in unpack_whole
            body = _unpack_any(data)
    except Exception as error:
        raise _unreadable(error) from error
    if type(body) is dict and (
        (_is_flat(map(type, body.values())) and _is_flat(map(type, body))) or _is_plain(data, body)
    ):
        return body
    body = _decoded(body)
    if type(body) is not dict:
        raise ValueError(f"packed body holds {_name_of(type(body))}, a dict expected")
    return body


def _is_plain(data: bytes, body: Any) -> bool:
    """All containers in it are msgpack's own, and not too deep: what msgpack made is what was saved."""
    return not any(sign in data for sign in _SIGNS) and not _is_deeper(body, DEPTH_MAX)


def pack_whole(id: str, rev: str, body: bytes) -> bytes | None:
    """A packed record with its id and rev in front, for unpack_whole; None where only unpack_body can read the body.

    For keeping in memory: compressed where lz4 makes it much smaller.
    """
    if any(sign in body for sign in _SIGNS) or len(body) >= CLAIMS_CHECKED_BYTES_MIN:
        return None
    first = body[0]
    if first & 0xF0 == 0x80:
        count, start = first & 0x0F, 1
    elif first == 0xDE:
        count, start = int.from_bytes(body[1:3], "big"), 3
    else:
        return None
    head = _Packer(unicode_errors="surrogatepass")
    whole = b"".join((
        head.pack_map_header(count + 2), head.pack("id"), head.pack(id), head.pack("rev"), head.pack(rev), body[start:]
    ))
    if len(whole) < _WHOLE_LZ4_BYTES_MIN:
        return whole
    packed: bytes = _WHOLE_LZ4 + lz4.block.compress(whole)
    return packed if len(packed) * 4 < len(whole) * 3 else whole


def unpack_whole(data: bytes) -> dict[Any, Any]:
    """The record that pack_whole put together of parts that unpack_body has read before."""
    if data[0] == 1:  # _WHOLE_LZ4
        data = lz4.block.decompress(data[1:])
    try:
        return _unpackb(data, ext_hook=_extension)  # type: ignore[no-any-return]
    except ValueError:  # a lone surrogate, or a key that is not a str
        return _unpack_any(data)  # type: ignore[no-any-return]


def _unpack_any(data: bytes) -> Any:
    """Everything that was ever packed. (Each option given costs: 1.7 µs for a reading, 1.1 with the hook alone.)"""
    return _unpackb(data, strict_map_key=False, unicode_errors="surrogatepass", ext_hook=_extension)


def _is_deeper(value: Any, depth: int) -> bool:
    """Containers lie deeper in it than that. Level by level, so that C does the walking."""
    level = [value]
    for _ in range(depth):
        values = list(chain(*[item.values() if type(item) is dict else item for item in level]))
        kinds = set(map(type, values))
        if dict not in kinds and list not in kinds:
            return False
        level = [item for item in values if type(item) is dict or type(item) is list]
    return True


def unpack_value(data: bytes) -> Any:
    """A fresh value from what pack_value made; raises as unpack_body does."""
    return _decoded(_unpack_raw(data))


def is_flat(body: dict[Any, Any]) -> bool:
    """No value of it is a container or can change: a shallow copy shares nothing with it."""
    return _is_flat(map(type, body.values()))


def digest(body: bytes) -> bytes:
    """The first 8 bytes of BLAKE2b-256 over a packed body: its name in the index."""
    return hashlib.blake2b(body, digest_size=32).digest()[:8]


def _checked_size(data: bytes) -> bytes:
    if len(data) > BODY_BYTES_MAX:
        raise RecordInvalid(f"packed it takes {len(data)} bytes, at most {BODY_BYTES_MAX} are stored; split it up")
    return data


# Packing what is not flat


class _Refused(Exception):
    """Why a value cannot be stored; collects the path while it passes the containers on the way up."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_too_deep = False
        self.steps: list[str] = []
        self.holders: list[Any] = []

    def add(self, step: str, holder: Any) -> None:
        self.steps.append(step)
        self.holders.append(holder)

    def as_record_invalid(self) -> RecordInvalid:
        steps = self.steps[::-1]
        if self.is_too_deep:
            steps = self._steps_to_cycle(steps)
        path = "".join(steps).removeprefix(".")
        return RecordInvalid(f"{path}: {self.reason}" if path else self.reason, path=path)

    def _steps_to_cycle(self, steps: list[str]) -> list[str]:
        seen: set[int] = set()
        for i, holder in enumerate(reversed(self.holders)):
            if id(holder) in seen:
                self.reason = "cannot store a container that contains itself; refer to records by their id"
                return steps[:i]
            seen.add(id(holder))
        return [*steps[:8], "…"]


class _Encoder:
    """Turns values into what MessagePack carries; what is plain already goes through untouched.

    flat: the types not to look at. Without int when some int may be beyond 64 bits, which only packing finds out.
    """

    __slots__ = ("_flat", "_is_flat", "_pack")

    def __init__(self, flat: frozenset[type[Any]]) -> None:
        self._flat = flat
        self._is_flat = flat.issuperset
        self._pack = _Packer(strict_types=True, unicode_errors="surrogatepass", buf_size=4096).pack

    def pack(self, value: Any) -> bytes:
        return self._pack(self.encode(value, 1))  # type: ignore[no-any-return]

    def encode(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in self._flat:
            return value
        if kind is int:
            return value if value in _PLAIN_INTS else msgpack.ExtType(_CODE_BIG_INT, _pack_int(value))
        scalar = SCALAR_PACKERS.get(kind)
        if scalar is not None:
            return _encode_scalar(scalar, value)
        if depth > DEPTH_MAX and (kind in CONTAINER_TYPES or find_registered(kind)):
            refused = _Refused(f"nested deeper than {DEPTH_MAX} levels; flatten it or use several records")
            refused.is_too_deep = True
            refused.holders.append(value)
            raise refused
        if kind is dict:
            return self._encode_dict(value, depth)
        if kind is list:
            return self._encode_list(value, depth)
        if kind is tuple:
            return [_TUPLE, *self._encode_list(value, depth)]
        if kind is set or kind is frozenset:
            return self._encode_set(value, depth)
        registered = find_registered(kind)
        if registered is None:
            raise _Refused(_refusal_of(kind))
        return self._encode_registered(registered, value, depth)

    def _encode_list(self, items: Any, depth: int) -> Any:
        if self._is_flat(map(type, items)):
            return items
        flat, encode, encoded = self._flat, self.encode, []
        try:
            for item in items:
                encoded.append(item if type(item) in flat else encode(item, depth + 1))
        except _Refused as refused:
            refused.add(f"[{len(encoded)}]", items)
            raise
        return encoded

    def _encode_dict(self, items: dict[Any, Any], depth: int) -> Any:
        if self._is_flat(map(type, chain(items, items.values()))):
            return items
        if not self._is_flat(map(type, items)):
            return self._encode_keys(items, depth)
        flat, encode, encoded = self._flat, self.encode, {}
        key: Any = None
        try:
            for key, item in items.items():
                encoded[key] = item if type(item) in flat else encode(item, depth + 1)
        except _Refused as refused:
            refused.add(_step_of(key), items)
            raise
        return encoded

    def _encode_keys(self, items: dict[Any, Any], depth: int) -> Any:
        """A dict with keys of other than flat types."""
        keys: list[Any] = []
        try:
            for key in items:
                keys.append(self.encode(key, depth + 1))
        except _Refused as refused:
            refused.add("<key>", items)
            raise
        values: list[Any] = []
        try:
            for item in items.values():
                values.append(self.encode(item, depth + 1))
        except _Refused as refused:
            refused.add(_step_of([*items][len(values)]), items)
            raise
        if any(type(key) is list for key in keys):
            return [_DICT, *chain.from_iterable(zip(keys, values, strict=True))]
        return dict(zip(keys, values, strict=True))

    def _encode_set(self, items: set[Any] | frozenset[Any], depth: int) -> Any:
        encode, pack = self.encode, self._pack
        try:
            encoded = [encode(item, depth + 1) for item in items]
        except _Refused as refused:
            refused.add("<member>", items)
            raise
        encoded.sort(key=pack)
        return [_SET if type(items) is set else _FROZENSET, *encoded]

    def _encode_registered(self, registered: Registered, value: Any, depth: int) -> Any:
        try:
            packed = registered.pack(value)
        except Exception as error:
            raise _Refused(f"{registered.name} cannot be packed: {error!r}") from error
        if registered.is_enum:
            member = _pack_int(packed) if type(packed) is int else packed
            return msgpack.ExtType(_ENUM_CODE, msgpack.packb([registered.name, member], unicode_errors="surrogatepass"))
        try:
            return [_OBJECT, registered.name, self.encode(packed, depth + 1)]
        except _Refused as refused:
            refused.add("", value)
            raise


def _encode_scalar(scalar: tuple[int, Callable[[Any], bytes]], value: Any) -> Any:
    code, pack = scalar
    try:
        return msgpack.ExtType(code, pack(value))
    except ScalarRefused as error:
        raise _Refused(str(error)) from error


def _pack_int(value: int) -> bytes:
    return value.to_bytes((value.bit_length() >> 3) + 1, "big", signed=True)


def _step_of(key: Any) -> str:
    if type(key) is str and key.isidentifier():
        return "." + key
    text = repr(key)
    return f"[{text if len(text) <= 60 else text[:59] + '…'}]"


def _name_of(kind: type[Any]) -> str:
    return kind.__name__


def _refusal_of(kind: type[Any]) -> str:
    for base in (dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float):
        if issubclass(kind, base) and not issubclass(kind, enum.Enum):
            hint = f"it would not come back as the same type; convert it with {base.__name__}(...) or"
            return f"cannot store {_name_of(kind)}; {hint} register it with mynosql.register_type"
    if issubclass(kind, enum.Enum) or dataclasses.is_dataclass(kind):
        return f"cannot store {_name_of(kind)}; register it with mynosql.register_type({_name_of(kind)})"
    return f"cannot store {_name_of(kind)}; register it with mynosql.register_type, giving pack= and unpack="


# Unpacking


class _Marker:
    """What a marker becomes while an array is still on its way to be a container; none is left in a result."""

    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        self.code = code


_MARKERS = {marker.code: _Marker(marker.code) for marker in (_TUPLE, _SET, _FROZENSET, _DICT, _OBJECT)}


def _extension(code: int, data: bytes) -> Any:
    marker = _MARKERS.get(code)
    if marker is not None and not data:
        return marker
    unpack = SCALAR_UNPACKERS.get(code)
    if unpack is not None:
        return unpack(data)
    if code == _CODE_BIG_INT:
        return int.from_bytes(data, "big", signed=True)
    if code == _ENUM_CODE:
        return _enum_member(data)
    raise ValueError(f"extension type {code} unknown")


def _unpack_raw(data: bytes) -> Any:
    try:
        if len(data) >= CLAIMS_CHECKED_BYTES_MIN:
            _check_claims(data)
        return _unpack_any(data)
    except Exception as error:
        raise _unreadable(error) from error


def _check_claims(data: bytes) -> None:
    """Every array and map has the items that it claims, found out without making one of them."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    unpacker.skip()


def _unreadable(error: Exception) -> ValueError:
    """One kind of error for bytes that say nothing: the constructors of the types refuse in a dozen ways."""
    if isinstance(error, RecordInvalid):
        return RecordInvalid(*error.args, path=error.path)
    return ValueError(f"packed value unreadable: {error!r}")


def _decoded(value: Any) -> Any:
    try:
        return _decode(value, 1)
    except ValueError:
        raise
    except Exception as error:  # a member or key that cannot be hashed
        raise _unreadable(error) from error


def _decode(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in _SCALAR_TYPES:
        return value
    if depth > DEPTH_MAX and (kind is list or kind is dict):
        raise ValueError(f"packed value nested deeper than {DEPTH_MAX} levels")
    if kind is dict:
        return _decode_dict(value, depth)
    if kind is list:
        if value and type(value[0]) is _Marker:
            return _decode_marked(value[0].code, value[1:], depth)
        if not _is_scalar(map(type, value)):
            value[:] = [item if type(item) in _SCALAR_TYPES else _decode(item, depth + 1) for item in value]
        return value
    if _is_registered_enum(kind):
        return value
    raise ValueError(f"packed value holds {_name_of(kind)}, which is never written")


def _decode_dict(items: dict[Any, Any], depth: int) -> dict[Any, Any]:
    if not _is_scalar(map(type, items)):
        for key in items:
            if type(key) not in _SCALAR_TYPES and not _is_registered_enum(type(key)):
                raise ValueError(f"packed dict has a key of {_name_of(type(key))}, which is never written")
    for key, item in items.items():
        if type(item) not in _SCALAR_TYPES:
            items[key] = _decode(item, depth + 1)  # a key that is there: the dict does not change its size
    return items


def _decode_marked(code: int, items: list[Any], depth: int) -> Any:
    if code == _OBJECT.code:
        return _rebuilt(items, depth)
    items = [item if type(item) in _SCALAR_TYPES else _decode(item, depth + 1) for item in items]
    if code == _TUPLE.code:
        return tuple(items)
    if code == _SET.code:
        return set(items)
    if code == _FROZENSET.code:
        return frozenset(items)
    if len(items) % 2:
        raise ValueError("packed dict has a key without a value")
    return dict(zip(items[::2], items[1::2], strict=True))


def _rebuilt(items: list[Any], depth: int) -> Any:
    if len(items) != 2 or type(items[0]) is not str:
        raise ValueError("packed object is not a name and a value")
    registered = _registered_of(items[0], is_enum=False)
    value = _decode(items[1], depth + 1)
    try:
        return registered.unpack(value)
    except Exception as error:
        raise RecordInvalid(f"a stored {items[0]} cannot be rebuilt by {registered.cls!r}: {error!r}") from error


def _enum_member(data: bytes) -> Any:
    name, member = msgpack.unpackb(data, unicode_errors="surrogatepass")
    if type(name) is not str or type(member) not in (str, bytes):
        raise ValueError("packed enum is not a name and a member")
    registered = _registered_of(name, is_enum=True)
    try:
        return registered.unpack(int.from_bytes(member, "big", signed=True) if type(member) is bytes else member)
    except Exception as error:
        raise RecordInvalid(f"a stored {name} has the member {member!r}, which {registered.cls!r} lacks") from error


def _registered_of(name: str, *, is_enum: bool) -> Registered:
    registered = find_registered_name(name)
    if registered is None or registered.is_enum is not is_enum:
        raise RecordInvalid(
            f"the record holds a {name!r}, which this program has not registered; "
            f"call mynosql.register_type for that class before reading"
        )
    return registered


def _is_registered_enum(kind: type[Any]) -> bool:
    registered = find_registered(kind)
    return registered is not None and registered.is_enum
