"""The record as the caller sees it: a dict with `id` and `rev` beside its content, and ids for those without one.

Splits a record into what identifies it and the body that is packed, and joins them again; never changes the
caller's dict. Pure: the clock and the random source of new ids are given.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from mynosql.errors import RecordInvalid

ID = "id"
REV = "rev"

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's 32 digits: they sort as they count, and none is taken for another when read aloud."""
_TIME_DIGITS = 10
_RANDOM_DIGITS = 16
_RANDOM_BITS = 5 * _RANDOM_DIGITS
_STEP_BITS = 32
"""Within one millisecond the next id is a random step above the last: unique among processes, not to be guessed."""


def split(rec: dict[Any, Any]) -> tuple[Any, Any, dict[Any, Any]]:
    """Take a record apart: its id and rev as the caller gave them, None where there is none, and a new dict of the
    rest in its order. Raises RecordInvalid when it is not exactly a dict; rec stays as it is.
    """
    if type(rec) is not dict:
        raise RecordInvalid(f"a record is a dict, not {type(rec).__name__}; convert it with dict(record)")
    body = rec.copy()
    return body.pop(ID, None), body.pop(REV, None), body


def join(id: Hashable, rev: str, body: dict[Any, Any]) -> dict[Any, Any]:
    """The record that the caller gets: id, rev, then the body in its order; a new dict."""
    return {ID: id, REV: rev, **body}


class TimeSortedIds:
    """Makes ids of 26 characters that sort by the millisecond of their making and never repeat (a ULID's shape).

    random_bits: number of bits → an unpredictable int of that many. One maker's ids always grow, even within one
    millisecond or when the clock goes back.
    """

    __slots__ = ("_last", "_random_bits")

    def __init__(self, random_bits: Callable[[int], int]) -> None:
        self._random_bits = random_bits
        self._last = 0

    def next(self, now_ms: int) -> str:
        """A new id, above all that this maker made before."""
        start = now_ms << _RANDOM_BITS
        if start > self._last:
            # The top bit stays free, so that a millisecond has room for more ids than can be made in it.
            fresh = start | self._random_bits(_RANDOM_BITS - 1)
        else:
            fresh = self._last + 1 + self._random_bits(_STEP_BITS)
        self._last = fresh
        return _base32(fresh, _TIME_DIGITS + _RANDOM_DIGITS)


def _base32(number: int, digits: int) -> str:
    return "".join([_ALPHABET[number >> shift & 31] for shift in range(5 * (digits - 1), -1, -5)])
