"""Values that a record may hold, for property tests: strategies, and an equality that tells everything apart.

`is_same(a, b)`: equal and of the same type at every depth, with dict order, signs of zero, NaN, fold and zone.
"""

from __future__ import annotations

import struct
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

ZONE_KEYS = ("Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC", "Australia/Lord_Howe")

texts = st.text(max_size=12) | st.text(st.characters(categories=("Cs", "Ll", "Cc")), max_size=4)
"""Lone surrogates among them."""
ints = st.integers() | st.integers(-(1 << 65), 1 << 65) | st.integers(-300, 300) | st.just(1 << 2000)
zones = st.one_of(
    st.none(),
    st.just(timezone.utc),
    st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))),
    st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)), texts),
    st.sampled_from(ZONE_KEYS).map(ZoneInfo),
)
datetimes = st.builds(
    lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold), st.datetimes(), zones, st.integers(0, 1)
)
times = st.builds(
    lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold), st.times(), zones, st.integers(0, 1)
)
decimals = st.decimals() | st.sampled_from(
    [Decimal(text) for text in ("sNaN", "-NaN", "sNaN12", "NaN77", "-0", "0E+5", "1E-6143", "-Infinity", "1.10")]
)
hashable_singles = st.one_of(
    st.none(), st.booleans(), ints, st.floats(), texts, st.binary(max_size=12),
    st.complex_numbers(allow_nan=True, allow_infinity=True), decimals.filter(lambda value: not value.is_snan()),
    st.fractions(), st.uuids(), st.dates(), times, datetimes, st.timedeltas(),
)
singles = hashable_singles | decimals | st.binary(max_size=12).map(bytearray)
hashables = st.recursive(
    hashable_singles,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
values = st.recursive(
    singles,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(texts | hashables, inner, max_size=4),
        st.sets(hashables, max_size=4),
        st.frozensets(hashables, max_size=4),
    ),
    max_leaves=12,
)
bodies = st.dictionaries(texts | hashables, values, max_size=6)


def is_same(a: Any, b: Any) -> bool:
    """Equal and of exactly the same type, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return is_same(list(a.items()), list(b.items()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(is_same, a, b))
    if isinstance(a, (set, frozenset)):
        rest = list(b)
        for item in a:
            found = next((i for i, other in enumerate(rest) if is_same(item, other)), None)
            if found is None:
                return False
            del rest[found]
        return not rest
    return _signature(a) == _signature(b)


def _signature(value: Any) -> Any:
    if isinstance(value, float):
        return struct.pack(">d", value)
    if isinstance(value, complex):
        return struct.pack(">dd", value.real, value.imag)
    if isinstance(value, Decimal):
        return value.as_tuple()
    if isinstance(value, (time, datetime)):
        return value.replace(tzinfo=None, fold=0), value.fold, _zone_signature(value.tzinfo)
    return value


def _zone_signature(zone: tzinfo | None) -> Any:
    if isinstance(zone, ZoneInfo):
        return zone.key
    return None if zone is None else (type(zone), repr(zone))


def one_of_each() -> dict[str, Any]:
    """A body with every storable type, written out."""
    return {
        "none": None,
        "bools": [True, False],
        "ints": [0, -1, 2**63, -(2**63) - 1, 2**64 - 1, 2**64, 10**40, -(10**40)],
        "floats": [0.0, -0.0, 1.5, float("inf"), float("-inf"), float("nan")],
        "complex": complex(-0.0, float("inf")),
        "str": "grüße \ud800 \x00",
        "bytes": b"\x00\xff",
        "bytearray": bytearray(b"ab"),
        "list": [[], [1, [2]]],
        "tuple": ((), (1, (2,))),
        "set": {1, "1", 1.5, (1,), None},
        "frozenset": frozenset({frozenset(), frozenset({1})}),
        "dict": {1: "int", "1": "str", (1, 2): "tuple", frozenset({3}): "frozenset", None: "none", b"1": "bytes"},
        "Decimal": [Decimal(text) for text in ("1.10", "-0", "1E+5", "NaN", "sNaN3", "-Infinity")],
        "Fraction": Fraction(-22, 7),
        "UUID": UUID("12345678-1234-5678-1234-567812345678"),
        "date": date(2026, 11, 23),
        "time": time(23, 59, 59, 999999, fold=1, tzinfo=timezone(timedelta(hours=-3, minutes=-30), "NST")),
        "datetimes": [
            datetime(2026, 11, 23, 10, 0, 5, 123000),
            datetime(2026, 11, 23, 10, 0, 5, tzinfo=timezone.utc),
            datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
            datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
            datetime.max,
        ],
        "timedelta": [timedelta.min, timedelta.max, timedelta(-1, 1, 1)],
    }
