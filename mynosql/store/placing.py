"""Where the rows of a new segment are entered in the index, and which rows of older segments die by that.

Pure but for the lookups it is given. Two ids may have the same short hash: the first one has the place, each further
one is a twin. Driven by a seal job and by the rebuilding of an index.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from operator import attrgetter

from mynosql.store.filter import Filter
from mynosql.store.index import BlockRow, Index, Placed, Segment
from mynosql.store.shard import block_of, place_of
from mynosql.store.sorting import pairs_in_steps, sort_in_steps


@dataclass(slots=True)
class Placement:
    """What a commit is told."""

    places: dict[int, int] = field(default_factory=dict)
    """Short hash → place; in the order of the hashes but for those that are in use already."""
    twins: list[Placed] = field(default_factory=list)
    twins_removed: list[Placed] = field(default_factory=list)
    dead: dict[int, int] = field(default_factory=dict)
    """Segment number → rows of it that are replaced."""
    buried: dict[bytes, int] = field(default_factory=dict)
    """Id key → the segment in which the row stood that is replaced."""


class Placer:
    """Enters the rows of one segment."""

    def __init__(
        self, index: Index, filter: Filter, segments: Sequence[Segment], id_key_at: Callable[[int], bytes]
    ) -> None:
        """segments: the older ones; id_key_at: the id key of the row at a place."""
        self._index, self._filter, self._id_key_at = index, filter, id_key_at
        self._segments = sorted(segments, key=attrgetter("block_first"))  # a rewritten one is old and has new blocks
        self._block_firsts = [segment.block_first for segment in self._segments]

    def place(
        self, id_keys: Sequence[bytes], hashes: Sequence[int], places: Sequence[int], *, known_ids: Set[bytes]
    ) -> Placement:
        """id_keys, their short hashes and their new places, aligned.

        known_ids: those of them that surely had a row before; the others are looked at more closely when the filter
        knows their hash. The filter must not know the new ids yet.
        """
        placement = Placement()
        maybe = self._filter.might_contain
        pairs = zip(id_keys, hashes, strict=True) if self._segments else ()
        asked = [found for id_key, found in pairs if id_key in known_ids or maybe(found)]
        olds = self._index.places(asked) if asked else {}
        # By numbers alone: tens of thousands of tuples would set off Python's cyclic collector.
        order = sort_in_steps(range(len(hashes)), hashes.__getitem__)
        placement.places = pairs_in_steps(hashes, places, order)
        members: dict[int, list[tuple[int, bytes]]] = {found: [] for found in olds}
        if len(placement.places) < len(hashes):
            members.update((found, []) for found, count in Counter(hashes).items() if count > 1)
        if members:
            for found, place, id_key in zip(hashes, places, id_keys, strict=True):
                if found in members:
                    members[found].append((place, id_key))
        for found, group in members.items():
            old = olds.get(found)
            if len(group) == 1 and old is not None and group[0][1] in known_ids and not self._index.twins(found):
                self._bury(old, group[0][1], placement)
            else:
                del placement.places[found]
                self._place_colliding(found, group, old, placement)
        return placement

    def _place_colliding(
        self, found: int, members: Sequence[tuple[int, bytes]], old: int | None, placement: Placement
    ) -> None:
        """Several ids with one short hash, or one that may or may not be the one there: compare the id keys."""
        olds = {} if old is None else {self._id_key_at(place): place for place in (old, *self._index.twins(found))}
        is_first_free = old is None
        for place, id_key in members:
            replaced = olds.get(id_key)
            if replaced is not None:
                self._bury(replaced, id_key, placement)
            if replaced == old if replaced is not None else is_first_free:
                placement.places[found] = place
                is_first_free = False
                continue
            if replaced is not None:
                placement.twins_removed.append(Placed(found, replaced))
            placement.twins.append(Placed(found, place))

    def _bury(self, place: int, id_key: bytes, placement: Placement) -> None:
        position = bisect_right(self._block_firsts, block_of(place)) - 1
        number = placement.buried[id_key] = self._segments[position].number
        placement.dead[number] = placement.dead.get(number, 0) + 1


def places_of(blocks: Sequence[BlockRow]) -> list[int]:
    """The place of every row of these blocks, in order."""
    return [place_of(block.number, slot) for block in blocks for slot in range(block.row_count)]
