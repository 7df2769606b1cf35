"""The values that cross the Store's border, and its options. No behaviour beyond small readings of themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mynosql.row import Row

PackAll = Callable[[Callable[[Any], Any], Sequence[Any]], "list[Any]"]
"""work, items → [work(item) for item in items], on as many threads as it likes."""


def pack_in_turn(work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """In the caller's thread alone."""
    return list(map(work, items))


MEMTABLES_MAX = 8
"""One is written, one is sealed, six may wait; then saves wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """How much memory a store may use and when it seals."""

    memtable_bytes_max: int = 4 << 20
    """Content that one memtable (and its journal) collects before it is sealed. Larger: fewer, denser segments."""
    cache_bytes_max: int = 12 << 20
    """Records read before, with their bodies."""
    entry_cache_count_max: int = 4096
    """Index entries looked up before: about 700 bytes each."""
    head_cache_bytes_max: int = 4 << 20
    """Heads of blocks: half of it decoded ones, about 200 of 130 readings; half of it some 700 that are packed with
    lz4: what was looked up of 90,000 readings once is found again without LZMA."""
    block_cache_bytes_max: int = 3 << 20
    """Decoded bodies of blocks: about 80 of them; the neighbour of a record read lately costs no decompression."""
    unsealed_bytes_max: int = 32 << 20
    """All memtables together; `pressure` is 1.0 there. One is filling, one is being sealed, others wait: a burst of
    100,000 readings goes by before anybody is slowed down."""
    pack_all: PackAll = pack_in_turn
    """How a seal packs its blocks while others write. The store itself has no threads."""
    pause: Callable[[], None] = lambda: None
    """Called after each block that is written again: others want the processor and the disk, too."""
    idle_seal_s: float = 60.0
    """A memtable that nobody wrote to for so long is sealed, so that a quiet database rests in compressed blocks."""


class Counters(NamedTuple):
    """How many ids are in which state. records == held + missing; stale is a part of missing."""

    records: int
    """Live ids: the winner is not deleted."""
    held: int
    """Live ids whose winner's body is here."""
    stale: int
    """Live ids whose winner's body is not here, but that of a superseded revision is."""
    missing: int
    """Live ids whose winner's body is not here."""
    conflicts: int
    """Ids with losing leaves that revision.conflicts_of reports."""
    pending: int
    """Ids owed to others whose seq is above the note "delivered"."""


class FeedSlice(NamedTuple):
    """A stretch of the feed."""

    rows: tuple[Row, ...]
    """In seq order, each id at its newest seq only."""
    last_seq: int
    """The point reached, also when nothing matched: ask again after it."""
    more: bool
    """False: last_seq is until_seq, or the head when none was given."""


class Problem(NamedTuple):
    """One thing that check() found wrong."""

    file: str
    offset: int | None
    what: str
    records: int
    """How many records it concerns; 0 when none is lost."""


class CheckReport(NamedTuple):
    """What check() found: nothing when ok."""

    ok: bool
    problems: tuple[Problem, ...]
    records: int
    """Live records counted by the full scan."""
    blocks: int
    """Blocks whose every byte was verified."""
