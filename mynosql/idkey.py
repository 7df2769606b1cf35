"""Ids as bytes that sort: the id key, by which records are identified, listed and laid out on disk.

One tag byte for the kind of id, then bytes that keep its order: raw UTF-8 for str (not normalised: what the caller
wrote is the id), sign-flipped big-endian for an int of 64 bits, length and magnitude for larger ones, the canonical
pack for every other hashable value. So 1, True and 1.0 are three ids, and the order is the same on every node: all
ints by value, then str by code point, then the rest by their packed bytes. Pure. Byte table: docs/FORMAT.md, "Id key".
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

from mynosql.codec import pack_value, unpack_value
from mynosql.errors import RecordInvalid

ID_KEY_BYTES_MAX = 1024
"""Ids stand in every index entry and in the memory of each node that knows them."""

TAG_INT_BELOW = 0x08
TAG_INT = 0x09
TAG_INT_ABOVE = 0x0A
TAG_STR = 0x10
TAG_OTHER = 0x20

_INT_BIAS = 1 << 63
_SMALL_INTS = range(-_INT_BIAS, _INT_BIAS)
_STR = bytes((TAG_STR,))


def pack_id(id: Hashable) -> bytes:
    """The id key of an id: 1 to ID_KEY_BYTES_MAX bytes. Raises RecordInvalid when it cannot be an id."""
    if type(id) is str:
        try:
            key = _STR + id.encode()
        except UnicodeEncodeError:
            key = _STR + id.encode("utf-8", "surrogatepass")
    else:
        key = _pack_other(id)
    if len(key) > ID_KEY_BYTES_MAX:
        raise RecordInvalid(
            f"id: packed it takes {len(key)} bytes, at most {ID_KEY_BYTES_MAX} are possible; shorten it", path="id"
        )
    return key


def _pack_other(id: Hashable) -> bytes:
    kind = type(id)
    if kind is int:
        return _pack_int(id)  # type: ignore[arg-type]
    if id is None:
        raise RecordInvalid("id: None is no id; leave it out to get one that sorts by time", path="id")
    try:
        hash(id)
        return bytes((TAG_OTHER,)) + pack_value(id)
    except TypeError as error:
        raise RecordInvalid(f"id: {kind.__name__} is not hashable; use a str, int or tuple", path="id") from error
    except RecordInvalid as error:
        path = "id" + (error.path if error.path[:1] in ("", "[", "<") else "." + error.path)
        reason = str(error).removeprefix(f"{error.path}: ")
        raise RecordInvalid(f"{path}: {reason}", path=path) from error


def _pack_int(number: int) -> bytes:
    if number in _SMALL_INTS:
        return bytes((TAG_INT,)) + (number + _INT_BIAS).to_bytes(8, "big")
    size = (abs(number).bit_length() + 7) >> 3
    if size > ID_KEY_BYTES_MAX:
        raise RecordInvalid(
            f"id: an int of {size} bytes, at most {ID_KEY_BYTES_MAX} are possible; shorten it", path="id"
        )
    if number > 0:
        return bytes((TAG_INT_ABOVE,)) + size.to_bytes(2, "big") + number.to_bytes(size, "big")
    # Size and magnitude complemented: the longer and larger, the further below.
    magnitude = (number + (1 << 8 * size) - 1).to_bytes(size, "big")
    return bytes((TAG_INT_BELOW,)) + (0xFFFF - size).to_bytes(2, "big") + magnitude


def unpack_id(id_key: bytes) -> Hashable:
    """The id of an id key. Raises ValueError when pack_id makes no such key (RecordInvalid: see codec.unpack_body)."""
    if not 0 < len(id_key) <= ID_KEY_BYTES_MAX:
        raise ValueError(f"id key of {len(id_key)} bytes, 1 to {ID_KEY_BYTES_MAX} expected")
    tag, rest = id_key[0], id_key[1:]
    if tag == TAG_STR:
        return rest.decode("utf-8", "surrogatepass")
    id = _unpack_other(tag, rest)
    # One id, one key: without this, another node could name a second record that reads like the first.
    if not _is_key_of(id_key, id):
        raise ValueError(f"id key {id_key[:40]!r} is not what pack_id makes of an id")
    return id


def check_id_keys(id_keys: Sequence[bytes]) -> None:
    """Raise ValueError unless pack_id can make each; a class that is not registered here counts as possible."""
    if {id_key[:1] for id_key in id_keys} == {_STR}:
        # Each begins with the tag, which is a character of its own: what is whole together is whole one by one.
        b"".join(id_keys).decode("utf-8", "surrogatepass")
        if max(map(len, id_keys)) <= ID_KEY_BYTES_MAX:
            return
    for id_key in id_keys:
        try:
            unpack_id(id_key)
        except RecordInvalid:
            continue  # an id of a class that the application registered, but this program, a mirror say, did not


def _is_key_of(id_key: bytes, id: Hashable) -> bool:
    try:
        return pack_id(id) == id_key
    except RecordInvalid:
        return False


def _unpack_other(tag: int, rest: bytes) -> Hashable:
    if tag == TAG_INT:
        return int.from_bytes(rest, "big") - _INT_BIAS
    if tag == TAG_INT_ABOVE:
        return int.from_bytes(rest[2:], "big")
    if tag == TAG_INT_BELOW:
        return int.from_bytes(rest[2:], "big") - (1 << 8 * len(rest[2:])) + 1
    if tag != TAG_OTHER:
        raise ValueError(f"id key of kind {tag:#x} unknown")
    return unpack_value(rest)  # type: ignore[no-any-return]


def id_hash(id_key: bytes) -> int:
    """The first 8 bytes of BLAKE2b over the id key as a signed number: its row in the index, on every node the same."""
    return int.from_bytes(hashlib.blake2b(id_key).digest()[:8], "big", signed=True)


def prefix_range(prefix: str) -> tuple[bytes, bytes | None]:
    """(low, high): low <= key < high holds for exactly the keys of str ids that start with prefix ("": all str ids)."""
    low = _STR + prefix.encode("utf-8", "surrogatepass")
    # UTF-8 never holds 0xFF, so counting the last byte up stays within bytes, and above all that goes on from low.
    return low, low[:-1] + bytes((low[-1] + 1,))


def all_range() -> tuple[bytes, bytes | None]:
    """(low, high) that every id key lies in; high None: no end."""
    return b"", None
