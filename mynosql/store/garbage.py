"""Which sealed rows are to be written again, so that the space of replaced ones comes back and segments stay few.

Segments are rewritten in groups of neighbours, because a segment covers a stretch of the feed. A shard file goes when
none of its segments is left in it. Pure: numbers in, a choice out. Driven by
compaction.py; the work is in rewriting.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mynosql.store.index import Segment, Usage

GROUP_ROWS_MAX = 16_384
"""Rows that one rewriting makes a segment of: half a second of work. A larger segment is a group of its own."""
SMALL_ROWS_MAX = 2_048
MERGED_MIN = 8
"""So many small neighbours are joined: kills, reopenings and quiet minutes leave one each. Rows are copied once for
each eightfold growth."""
GARBAGE_BYTES_MIN = 256 << 10
"""A shard with less to give back is left alone, unless somebody asks."""
ASKED_SHARE = 0.1
"""compactdb() leaves a shard alone when no more than this share of what it holds is garbage."""
ASKED_BYTES_MIN = 4 << 10


class Choice(NamedTuple):
    """What is worth doing next."""

    group: tuple[Segment, ...]
    """Neighbours, oldest first; () when only the shard is to change."""
    is_new_shard: bool
    """The shard that is appended to is mostly garbage itself: go on in a new one."""


class Situation(NamedTuple):
    """What a choice is made from."""

    segments: Sequence[Segment]
    """Oldest first."""
    usage: Sequence[Usage]
    shard_bytes: Mapping[int, int]
    """Size of each shard file."""
    shard_number: int
    """The one that is appended to."""
    fixed: frozenset[int] = frozenset()
    """Segments that stay as they are, since a block of theirs is damaged, or they have had their turn."""
    wanted: frozenset[int] = frozenset()
    """Segments that are to be written again, whatever they give back."""


def choose(situation: Situation, *, is_asked: bool) -> Choice | None:
    """The next step; None: nothing is worth it. is_asked: somebody waits for all that can be given back."""
    heavy = set(_heavy_shards(situation, is_asked))
    shards = {usage.segment: usage.shard for usage in situation.usage}

    def is_wanted(segment: Segment) -> bool:
        if shards.get(segment.number) in heavy or segment.number in situation.wanted:
            return True
        return segment.dead > 0 if is_asked else segment.dead * 2 >= segment.row_count

    is_new_shard = situation.shard_number in heavy
    for run in _runs(situation):
        group = _first_group(run, is_wanted, 2 if is_asked else MERGED_MIN)
        if group:
            return Choice(group, is_new_shard)
    is_emptied = any(
        garbage == situation.shard_bytes[number] and number != situation.shard_number
        for number, garbage in garbage_of(situation).items()
    )
    return Choice((), is_new_shard) if is_new_shard or is_emptied else None


def garbage_of(situation: Situation) -> dict[int, int]:
    """Bytes of each shard that no block of the index takes."""
    used = dict.fromkeys(situation.shard_bytes, 0)
    for usage in situation.usage:
        used[usage.shard] = used.get(usage.shard, 0) + usage.bytes
    return {number: size - used[number] for number, size in situation.shard_bytes.items()}


def _heavy_shards(situation: Situation, is_asked: bool) -> Iterator[int]:
    for number, garbage in garbage_of(situation).items():
        used = situation.shard_bytes[number] - garbage
        allowed = max(used * ASKED_SHARE, ASKED_BYTES_MIN) if is_asked else max(used, GARBAGE_BYTES_MIN)
        if garbage > allowed:
            yield number


def _runs(situation: Situation) -> Iterator[list[Segment]]:
    """Segments between those that cannot be rewritten."""
    run: list[Segment] = []
    for segment in situation.segments:
        if segment.number in situation.fixed:
            yield run
            run = []
        else:
            run.append(segment)
    yield run


def _first_group(run: Sequence[Segment], is_wanted: Callable[[Segment], bool], merged_min: int) -> tuple[Segment, ...]:
    small: list[Segment] = []
    for position, segment in enumerate(run):
        if is_wanted(segment):
            return _extended(run, position, lambda found: is_wanted(found) or _is_small(found))
        if not _is_small(segment) or _live(small) + _live([segment]) > GROUP_ROWS_MAX:
            small = []
        if _is_small(segment):
            small.append(segment)
        if len(small) >= merged_min:
            return _extended(run, position + 1 - len(small), _is_small)
    return ()


def _extended(run: Sequence[Segment], start: int, fits: Callable[[Segment], bool]) -> tuple[Segment, ...]:
    """From start on as many neighbours as fit and make one segment together."""
    group = [run[start]]
    for segment in run[start + 1 :]:
        if not fits(segment) or _live([*group, segment]) > GROUP_ROWS_MAX:
            break
        group.append(segment)
    return tuple(group)


def _is_small(segment: Segment) -> bool:
    return segment.row_count - segment.dead <= SMALL_ROWS_MAX


def _live(segments: Sequence[Segment]) -> int:
    return sum([segment.row_count - segment.dead for segment in segments])
