"""Comparing two indexes by ranges of the id hash: which entries differ, found in a few round trips and few bytes.

Owns the descent of one comparison: the ranges still to be looked into. Pure; both indexes are reached only through
sums and entries of ranges that the caller (comparing.Comparing) brings. A range is (bits, prefix): all hashes that
begin with these bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

SPLIT_BITS = 4
FIRST_SPLIT_BITS = 8
LISTED_MAX = 32
"""A range in which neither side has more entries is listed instead of split."""
BITS_MAX = 16
"""Sums of ranges finer than this are not kept: those are listed whatever their size."""
SUMS_MAX = 2048
"""Ranges of one question whose sums are asked for: its answer takes 40 KiB."""
LISTS_MAX = 32
"""Ranges of one question that are listed: looking up 500 entries at 1 M records takes an answer 0.1 s."""


class Range(NamedTuple):
    """All hashes whose first `bits` bits are `prefix`."""

    bits: int
    prefix: int


class Sum(NamedTuple):
    """How many entries a range has, and their digests added up mod 2^128."""

    entry_count: int
    total: int


class Item(NamedTuple):
    """One entry: unsigned 64-bit id hash, and the first 8 bytes of revision.entry_digest."""

    id_hash: int
    digest: bytes


class Answer(NamedTuple):
    """What one side has, in the order of a Question."""

    sums: Sequence[Sum]
    lists: Sequence[Sequence[Item]]


class Question(NamedTuple):
    """One round trip: the sums of some ranges and the entries of others, empty ones when all is known."""

    sums: tuple[Range, ...]
    lists: tuple[Range, ...]


WHOLE = Question((Range(0, 0),), ())
"""The sum of everything."""


class Comparison:
    """One comparison: ask both sides the `question` and give the answers to `take`, until the question is empty."""

    def __init__(self, *, differences_max: int) -> None:
        """differences_max: with more of them a plain pull costs less, and the comparison ends as given up."""
        self._differences_max = differences_max
        self._to_sum: deque[Range] = deque(WHOLE.sums)
        self._to_list: deque[Range] = deque()
        self.question = self._next_question()
        self.only_here: list[Item] = []
        """Entries that they have not, or have with other leaves."""
        self.only_there: list[Item] = []
        """Entries of theirs that we have not, or have with other leaves."""
        self.equal_lists = 0
        """Ranges whose sums differed although their entries do not: one side counted wrong, or they changed."""

    @property
    def is_done(self) -> bool:
        """Nothing is left to ask; what differs is known unless is_given_up."""
        return not self.question.sums and not self.question.lists

    @property
    def is_given_up(self) -> bool:
        """More differs than differences_max."""
        return len(self.only_here) + len(self.only_there) > self._differences_max

    def _next_question(self) -> Question:
        return Question(_take(self._to_sum, SUMS_MAX), _take(self._to_list, LISTS_MAX))

    def take(self, ours: Answer, theirs: Answer) -> None:
        """Both answers to the question. ValueError: theirs does not answer it; nothing was taken."""
        asked = self.question
        if len(theirs.sums) != len(asked.sums) or len(theirs.lists) != len(asked.lists):
            raise ValueError("an answer to another question")
        for part, items in zip(asked.lists, theirs.lists, strict=True):
            if any(item.id_hash >> 64 - part.bits != part.prefix for item in items):
                raise ValueError("an entry outside the range that was asked for")
        for our_items, their_items in zip(ours.lists, theirs.lists, strict=True):
            here, there = set(our_items), set(their_items)
            self.equal_lists += here == there
            self.only_here += sorted(here - there)
            self.only_there += sorted(there - here)
        if self.is_given_up:
            self.question = Question((), ())
            return
        for part, our_sum, their_sum in zip(asked.sums, ours.sums, theirs.sums, strict=True):
            if our_sum == their_sum:
                continue
            if max(our_sum.entry_count, their_sum.entry_count) <= LISTED_MAX or part.bits >= BITS_MAX:
                self._to_list.append(part)
            else:
                self._to_sum += _split(part)
        self.question = self._next_question()


def _take(waiting: deque[Range], count_max: int) -> tuple[Range, ...]:
    return tuple(waiting.popleft() for _ in range(min(count_max, len(waiting))))


def _split(part: Range) -> list[Range]:
    more = FIRST_SPLIT_BITS if part.bits == 0 else SPLIT_BITS
    return [Range(part.bits + more, part.prefix << more | low) for low in range(1 << more)]
