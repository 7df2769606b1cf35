"""Records as JSON text and back: plain JSON where JSON has the type, one tagged object where it has not.

A tagged value is an object with a single key that starts with "$", such as {"$bytes": "aGk="}; TAGS lists them all.
A dict that JSON cannot hold (keys that are not strings, or a single key that looks like a tag) is
{"$dict": [[key, value], ...]}. What to_json gives, from_json turns back into an equal value of the same type.
Pure: no I/O. Used by the commands that print and read records, and by exporting.py.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mynosql.codec import pack_value, unpack_value
from mynosql.errors import OptionInvalid
from mynosql.registry import find_registered

INT_BITS_PLAIN_MAX = 4096
"""Longer integers are written in hexadecimal: Python refuses decimal text of more than 4,300 digits."""

_FLOAT = struct.Struct(">d")
_NAN = _FLOAT.pack(math.nan)
"""Any other NaN is written by its bits."""
_SURROGATE = re.compile("[\ud800-\udfff]")


class JsonInvalid(OptionInvalid):
    """Text that is not JSON, or a tagged value that cannot be what it says."""


def to_json(value: Any) -> Any:
    """The value as None, bool, int, float, str, list and dict[str, ...] only, ready for json.dumps."""
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is list:
        return [to_json(item) for item in value]
    if kind is dict:
        return _dict_to_json(value)
    write = _WRITERS.get(kind)
    if write is None:
        return {"$repr": repr(value)} if find_registered(kind) is None else _packed(value)
    return write(value)


def from_json(value: Any) -> Any:
    """The inverse of to_json; raises JsonInvalid for a tag that is unknown or does not hold what it should."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, held),) = value.items()
        if key.startswith("$"):
            return _tagged(key, held)
    return {key: from_json(item) for key, item in value.items()}


def dumps(value: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """One JSON text of any storable value; on one line unless indent is given. Half a surrogate pair is escaped."""
    separators = (",", ":") if indent is None else None
    plain = to_json(value)
    text = json.dumps(plain, indent=indent, separators=separators, ensure_ascii=ascii_only, allow_nan=False)
    if not ascii_only and _SURROGATE.search(text):
        return dumps(value, indent=indent, ascii_only=True)
    return text


def loads(text: str) -> Any:
    """The value that the JSON text stands for; raises JsonInvalid with the place of the mistake."""
    try:
        return from_json(json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant))
    except json.JSONDecodeError as error:
        raise JsonInvalid(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise JsonInvalid("JSON nested too deeply: at most 64 levels can be stored") from error
    except ValueError as error:
        if isinstance(error, JsonInvalid):
            raise
        raise JsonInvalid(f"not JSON that can be read: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in keys if keys.count(key) > 1)
        raise JsonInvalid(f"the key {double!r} stands twice in one JSON object; only one value can be stored")
    return found


def _refuse_constant(text: str) -> Any:
    raise JsonInvalid(f'{text} is not JSON: write {{"$float": "{text.lower().replace("infinity", "inf")}"}}')


# Writing


def _dict_to_json(value: dict[Any, Any]) -> Any:
    is_plain = all(type(key) is str for key in value)
    if is_plain and not (len(value) == 1 and next(iter(value)).startswith("$")):
        return {key: to_json(item) for key, item in value.items()}
    return {"$dict": [[to_json(key), to_json(item)] for key, item in value.items()]}


def _int_to_json(value: int) -> Any:
    return value if value.bit_length() <= INT_BITS_PLAIN_MAX else {"$int": hex(value)}


def _float_to_json(value: float) -> Any:
    if math.isfinite(value):
        return value
    bits = _FLOAT.pack(value)
    return {"$float": repr(value) if value == value or bits == _NAN else bits.hex()}


def _zoned(tag: str, value: datetime | time) -> Any:
    """ISO text; with the name of its zone, and fold, where the text alone would lose them."""
    zone = value.tzinfo.key if isinstance(value.tzinfo, ZoneInfo) else None
    if isinstance(value.tzinfo, timezone) and value.tzinfo != timezone.utc and not _is_plain_offset(value.tzinfo):
        return _packed(value)
    if zone is None and not value.fold:
        return {tag: value.isoformat()}
    bare = value if zone is None else value.replace(tzinfo=None)
    return {tag: [bare.isoformat(), zone, value.fold]}


def _is_plain_offset(zone: timezone) -> bool:
    """ISO text has all of it: whole seconds, and no name of its own."""
    offset = zone.utcoffset(None)
    return not offset.microseconds and zone.tzname(None) == timezone(offset).tzname(None)


def _packed(value: Any) -> Any:
    return {"$packed": base64.b64encode(pack_value(value)).decode("ascii")}


def _sorted_items(value: Any) -> list[Any]:
    """Members of a set in an order that does not change from run to run."""
    return sorted((to_json(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))


_WRITERS: dict[type, Callable[[Any], Any]] = {
    int: _int_to_json,
    float: _float_to_json,
    complex: lambda v: {"$complex": [_float_to_json(v.real), _float_to_json(v.imag)]},
    bytes: lambda v: {"$bytes": base64.b64encode(v).decode("ascii")},
    bytearray: lambda v: {"$bytearray": base64.b64encode(v).decode("ascii")},
    tuple: lambda v: {"$tuple": [to_json(item) for item in v]},
    set: lambda v: {"$set": _sorted_items(v)},
    frozenset: lambda v: {"$frozenset": _sorted_items(v)},
    Decimal: lambda v: {"$decimal": str(v)},
    Fraction: lambda v: {"$fraction": str(v)},
    UUID: lambda v: {"$uuid": str(v)},
    date: lambda v: {"$date": v.isoformat()},
    time: lambda v: _zoned("$time", v),
    datetime: lambda v: _zoned("$datetime", v),
    timedelta: lambda v: {"$timedelta": [v.days, v.seconds, v.microseconds]},
}

# Reading


def _tagged(tag: str, held: Any) -> Any:
    read = _READERS.get(tag)
    if read is None:
        raise JsonInvalid(f"unknown tag {tag!r}: expected one of {', '.join(TAGS)}")
    try:
        return read(held)
    except JsonInvalid:
        raise
    except (ValueError, TypeError, InvalidOperation, ArithmeticError, AttributeError, KeyError) as error:
        raise JsonInvalid(f"{tag} cannot hold {json.dumps(held)[:80]}: {error}") from error


def _bytes(held: Any) -> bytes:
    try:
        return base64.b64decode(_text(held), validate=True)
    except binascii.Error as error:
        raise JsonInvalid(f"expected base64, found {held!r:.80}: {error}") from error


def _text(held: Any) -> str:
    if not isinstance(held, str):
        raise JsonInvalid(f"expected a string, found {json.dumps(held)[:80]}")
    return held


def _items(held: Any, count: int | None = None) -> list[Any]:
    if not isinstance(held, list) or (count is not None and len(held) != count):
        wanted = "a list" if count is None else f"a list of {count}"
        raise JsonInvalid(f"expected {wanted}, found {json.dumps(held)[:80]}")
    return held


def _pairs(held: Any) -> dict[Any, Any]:
    pairs = [_items(pair, 2) for pair in _items(held)]
    return {from_json(key): from_json(item) for key, item in pairs}


def _float(held: Any) -> float:
    if held in ("nan", "inf", "-inf"):
        return float(held)
    if isinstance(held, str) and len(held) == 2 * _FLOAT.size:
        value: float = _FLOAT.unpack(bytes.fromhex(held))[0]
        return value
    raise JsonInvalid(f'expected "nan", "inf", "-inf" or 16 hexadecimal digits, found {json.dumps(held)[:80]}')


def _complex(held: Any) -> complex:
    real, imaginary = (from_json(part) for part in _items(held, 2))
    return complex(real, imaginary)


def _moment(held: Any, kind: Any) -> Any:
    if isinstance(held, str):
        return kind.fromisoformat(held)
    text, zone, fold = _items(held, 3)
    value = kind.fromisoformat(_text(text))
    if zone is not None:
        try:
            value = value.replace(tzinfo=ZoneInfo(_text(zone)))
        except ZoneInfoNotFoundError as error:
            raise JsonInvalid(f"this machine knows no time zone {zone!r}") from error
    return value.replace(fold=fold)


def _repr(held: Any) -> Any:
    raise JsonInvalid("$repr only shows a value of a type that the command does not know; it cannot be stored")


_READERS: dict[str, Callable[[Any], Any]] = {
    "$int": lambda h: int(_text(h), 16),
    "$float": _float,
    "$complex": _complex,
    "$bytes": _bytes,
    "$bytearray": lambda h: bytearray(_bytes(h)),
    "$tuple": lambda h: tuple(from_json(item) for item in _items(h)),
    "$set": lambda h: {from_json(item) for item in _items(h)},
    "$frozenset": lambda h: frozenset(from_json(item) for item in _items(h)),
    "$dict": _pairs,
    "$decimal": lambda h: Decimal(_text(h)),
    "$fraction": lambda h: Fraction(_text(h)),
    "$uuid": lambda h: UUID(_text(h)),
    "$date": lambda h: date.fromisoformat(_text(h)),
    "$time": lambda h: _moment(h, time),
    "$datetime": lambda h: _moment(h, datetime),
    "$timedelta": lambda h: timedelta(*_items(h, 3)),
    "$packed": lambda h: unpack_value(_bytes(h)),
    "$repr": _repr,
}
TAGS = tuple(_READERS)
"""Every tag, in the order in which the documentation lists them."""
