"""A hybrid logical clock: time stamps that grow along cause and effect and stay near the wall clock.

64 bits: 48 of milliseconds since 1970, 16 of counter. Pure: the caller gives the wall clock.
Source: Kulkarni et al., "Logical Physical Clocks", 2014; the single-integer form packs both parts.
"""

from __future__ import annotations

from mynosql.errors import RecordInvalid

COUNTER_BITS = 16
HLC_MAX = (1 << 64) - 1
"""The last value: in the year 10889, or from a node whose clock is broken."""
FOLLOW_MS_MAX = 120_000
"""How far beyond our own wall clock another node's clock is followed (DESIGN §3): a wrong clock must not drag all."""


def hlc_from_ms(ms: int) -> int:
    """The smallest clock value of that millisecond."""
    return ms << COUNTER_BITS


def ms_from_hlc(hlc: int) -> int:
    """The millisecond part."""
    return hlc >> COUNTER_BITS


class HybridClock:
    """Hands out clock values that never repeat or go back, but for those that a parent beyond the clock forces.

    A forced value is unique within its record, because the caller's at_least counts every leaf of it
    (revision.hlc_above). last: the highest value that was handed out unforced, or followed.
    """

    __slots__ = ("last",)

    def __init__(self, last: int = 0) -> None:
        self.last = last

    @classmethod
    def resumed(cls, last: int, now_ms: int) -> HybridClock:
        """The clock after a restart; last: the highest value among the versions that this node wrote.

        That may be a forced one, years ahead, which would drag every later save along: it is followed as far as
        another node's clock would be.
        """
        return cls(min(last, hlc_from_ms(now_ms + FOLLOW_MS_MAX)))

    def next(self, now_ms: int, at_least: int = 0) -> int:
        """A value above all before it, not below the wall clock's start of this millisecond, and >= at_least.

        at_least: the highest hlc among the leaves of the record + 1; it may lie beyond the clock (a parent that came
        from a node with a wrong clock), which moves this one value, not the clock. Raises RecordInvalid when there
        is no such value.
        """
        value = self.last + 1
        wall = now_ms << COUNTER_BITS
        if wall > value:
            value = wall
        self.last = value
        if value >= at_least:
            return value
        if at_least > HLC_MAX:
            raise RecordInvalid(
                "the newest revision of this record carries the last clock value there is, made by a node whose clock "
                "was broken: nothing can follow it; save the record under another id"
            )
        return at_least

    def observe(self, hlc: int, now_ms: int) -> bool:
        """Follow another node's clock; False when it is too far ahead to be followed."""
        if hlc <= self.last:
            return True
        if hlc > (now_ms + FOLLOW_MS_MAX) << COUNTER_BITS:
            return False
        self.last = hlc
        return True
