"""The bytes of single values that MessagePack has no type for: numbers, identifiers, dates and times.

One pair of functions and one extension code per type (docs/FORMAT.md, "Values"); big-endian, fixed width and biased
where that makes the bytes of one type sort like its values. Driven by codec.py. Pure, but for one thing that Python
offers in no other way: a ZoneInfo is looked up in the time zone database of the machine.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from re import compile as compile_pattern
from typing import Any, cast
from zoneinfo import ZoneInfo

from mynosql.errors import RecordInvalid

FLAT_TYPES = frozenset((type(None), bool, int, float, str, bytes))
"""What MessagePack itself carries without looking inside. Not bytearray: it would come back as bytes."""
FRACTION_BYTES_MAX = 1 << 16
"""Numerator and denominator each: reading has to divide out common factors, in quadratic time."""

_CODE_COMPLEX, _CODE_BYTEARRAY, _CODE_DECIMAL, _CODE_FRACTION, _CODE_UUID = range(17, 22)
_CODE_DATE, _CODE_TIME, _CODE_DATETIME, _CODE_TIMEDELTA = range(22, 26)

_MICROSECOND = timedelta(microseconds=1)
_DAY_MICROSECONDS = 86_400_000_000
_DAYS_BIAS = 1 << 31
_COMPLEX = struct.Struct(">dd")
_DATE = struct.Struct(">I")
_MOMENT = struct.Struct(">Q")
"""Twice the microseconds since midnight (time) or since year 1 (datetime), on the clock of its zone, plus fold."""
_OFFSET = struct.Struct(">q")
_ZONE_KEY = compile_pattern(r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,3}")
"""Keys of the IANA database; narrower than what ZoneInfo takes, since a key from elsewhere becomes a file name."""


class ScalarRefused(Exception):
    """This value of a storable type cannot be stored; the text says why, codec.py adds where."""


def _pack_decimal(value: Decimal) -> bytes:
    return str(value).replace("e", "E").encode()  # the current context may ask for a small e


def _unpack_decimal(data: bytes) -> Decimal:
    text = data.decode("ascii")
    value = Decimal(text)
    if str(value).replace("e", "E") != text:
        raise ValueError(f"packed Decimal {text[:40]!r} is not in its normal form")
    return value


def _pack_fraction(value: Fraction) -> bytes:
    parts = [number.to_bytes((number.bit_length() >> 3) + 1, "big", signed=True) for number in value.as_integer_ratio()]
    if max(map(len, parts)) > FRACTION_BYTES_MAX:
        raise ScalarRefused(f"cannot store a Fraction of more than {FRACTION_BYTES_MAX} bytes; store its two ints")
    return _DATE.pack(len(parts[0])) + b"".join(parts)


def _unpack_fraction(data: bytes) -> Fraction:
    (cut,) = _DATE.unpack_from(data)
    top, bottom = data[4 : 4 + cut], data[4 + cut :]
    if max(len(top), len(bottom)) > FRACTION_BYTES_MAX:
        raise ValueError("packed Fraction too long")
    denominator = int.from_bytes(bottom, "big", signed=True)
    value = Fraction(int.from_bytes(top, "big", signed=True), denominator)
    if value.denominator != denominator:
        raise ValueError("packed Fraction is not in lowest terms")
    return value


def _pack_moment(microseconds: int, fold: int, zone: tzinfo | None) -> bytes:
    return _MOMENT.pack(microseconds << 1 | fold) + (b"" if zone is None else _pack_zone(zone))


def _pack_time(value: time) -> bytes:
    seconds = (value.hour * 60 + value.minute) * 60 + value.second
    return _pack_moment(seconds * 1_000_000 + value.microsecond, value.fold, value.tzinfo)


def _unpack_time(data: bytes) -> time:
    microseconds, fold, zone = _unpack_moment(data)
    if microseconds >= _DAY_MICROSECONDS:
        raise ValueError("packed time beyond midnight")
    return (datetime.min + timedelta(microseconds=microseconds)).time().replace(tzinfo=zone, fold=fold)


def _pack_datetime(value: datetime) -> bytes:
    return _pack_moment((value.replace(tzinfo=None) - datetime.min) // _MICROSECOND, value.fold, value.tzinfo)


def _unpack_datetime(data: bytes) -> datetime:
    microseconds, fold, zone = _unpack_moment(data)
    return (datetime.min + timedelta(microseconds=microseconds)).replace(tzinfo=zone, fold=fold)


def _unpack_moment(data: bytes) -> tuple[int, int, tzinfo | None]:
    (moment,) = _MOMENT.unpack_from(data)
    return moment >> 1, moment & 1, _unpack_zone(data[8:]) if len(data) > 8 else None


def _pack_zone(zone: tzinfo) -> bytes:
    kind = type(zone)
    if kind is timezone:
        offset, *name = cast(Any, zone).__getinitargs__()  # the one way to tell a given name from a made one
        if zone is timezone.utc:
            return b"u"
        packed = _OFFSET.pack(offset // _MICROSECOND)
        return b"n" + packed + name[0].encode("utf-8", "surrogatepass") if name else b"o" + packed
    if kind is ZoneInfo:
        key = cast(ZoneInfo, zone).key
        if key is None or not _ZONE_KEY.fullmatch(key):
            raise ScalarRefused(f"cannot store a ZoneInfo with the key {key!r}; use a key of the IANA database")
        return b"z" + key.encode()
    raise ScalarRefused(
        f"cannot store the time zone class {kind.__name__}; use datetime.timezone or zoneinfo.ZoneInfo instead"
    )


@lru_cache(maxsize=256)
def _unpack_zone(data: bytes) -> tzinfo:
    kind, rest = data[:1], data[1:]
    if data == b"u":
        return timezone.utc
    if kind == b"o" and len(rest) == _OFFSET.size:
        return timezone(timedelta(microseconds=_OFFSET.unpack(rest)[0]))
    if kind == b"n" and len(rest) >= _OFFSET.size:
        offset = timedelta(microseconds=_OFFSET.unpack_from(rest)[0])
        return timezone(offset, rest[_OFFSET.size :].decode("utf-8", "surrogatepass"))
    if kind == b"z" and _ZONE_KEY.fullmatch(rest.decode("ascii")):
        return _find_zone(rest.decode("ascii"))
    raise ValueError(f"packed time zone {data[:40]!r} unknown")


def _find_zone(key: str) -> ZoneInfo:
    try:
        return ZoneInfo(key)
    except (LookupError, ValueError, OSError) as error:
        raise RecordInvalid(
            f"the record holds a time in the zone {key!r}, which this machine does not know; "
            f"install its time zone database or the package tzdata"
        ) from error


def _pack_timedelta(value: timedelta) -> bytes:
    rest = value.seconds * 1_000_000 + value.microseconds
    return _DATE.pack(value.days + _DAYS_BIAS) + rest.to_bytes(5, "big")


def _unpack_timedelta(data: bytes) -> timedelta:
    rest = int.from_bytes(data[4:], "big")
    if len(data) != 9 or rest >= _DAY_MICROSECONDS:
        raise ValueError("packed timedelta out of shape")
    return timedelta(days=_DATE.unpack_from(data)[0] - _DAYS_BIAS, microseconds=rest)


SCALAR_PACKERS: dict[type[Any], tuple[int, Callable[[Any], bytes]]] = {
    complex: (_CODE_COMPLEX, lambda value: _COMPLEX.pack(value.real, value.imag)),
    bytearray: (_CODE_BYTEARRAY, bytes),
    Decimal: (_CODE_DECIMAL, _pack_decimal),
    Fraction: (_CODE_FRACTION, _pack_fraction),
    uuid.UUID: (_CODE_UUID, lambda value: value.bytes),
    date: (_CODE_DATE, lambda value: _DATE.pack(value.toordinal())),
    time: (_CODE_TIME, _pack_time),
    datetime: (_CODE_DATETIME, _pack_datetime),
    timedelta: (_CODE_TIMEDELTA, _pack_timedelta),
}
"""Exact type → extension code, and its bytes."""

SCALAR_UNPACKERS: dict[int, Callable[[bytes], Any]] = {
    _CODE_COMPLEX: lambda data: complex(*_COMPLEX.unpack(data)),
    _CODE_BYTEARRAY: bytearray,
    _CODE_DECIMAL: _unpack_decimal,
    _CODE_FRACTION: _unpack_fraction,
    _CODE_UUID: lambda data: uuid.UUID(bytes=data),
    _CODE_DATE: lambda data: date.fromordinal(_DATE.unpack(data)[0]),
    _CODE_TIME: _unpack_time,
    _CODE_DATETIME: _unpack_datetime,
    _CODE_TIMEDELTA: _unpack_timedelta,
}
"""Extension code → its value; bytes that are none raise any Exception."""
