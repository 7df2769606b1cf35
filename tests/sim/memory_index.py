"""A model of the Index door: dicts that change only when a commit is complete.

Held to the behaviour of SqliteIndex by tests/store/test_index.py. `on_commit` is called before and after a commit is
applied; a test raises there: before, nothing was applied; after, it is durable although the caller sees an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from mynosql.errors import StorageFailed
from mynosql.store.index import BlockRow, Commit, Segment, Usage


class MemoryIndex:
    """The index in memory; every finished commit survives crash()."""

    def __init__(self) -> None:
        self.on_commit: Callable[[str], None] = lambda moment: None
        """Called with "before" and "after"."""
        self._places: dict[int, int] = {}
        self._twins: dict[int, tuple[int, ...]] = {}
        self._blocks: dict[int, BlockRow] = {}
        self._segments: dict[int, Segment] = {}
        self._notes: dict[str, bytes] = {}
        self._counters = {"journal_sealed": -1, "last_block": -1, "last_segment": -1}
        self._is_closed = False

    def crash(self) -> MemoryIndex:
        """The index as a kill or a power cut leaves it."""
        made = MemoryIndex()
        made._places, made._twins = dict(self._places), dict(self._twins)
        made._blocks, made._segments = dict(self._blocks), dict(self._segments)
        made._notes, made._counters = dict(self._notes), dict(self._counters)
        return made

    def place(self, short_hash: int) -> int | None:
        self._check_open()
        return self._places.get(short_hash)

    def places(self, short_hashes: Iterable[int]) -> dict[int, int]:
        self._check_open()
        return {key: self._places[key] for key in short_hashes if key in self._places}

    def twins(self, short_hash: int) -> Sequence[int]:
        return self._twins.get(short_hash, ())

    def places_between(self, low: int, high: int) -> list[int]:
        self._check_open()
        first = [place for found, place in sorted(self._places.items()) if low <= found < high]
        return first + [place for found, places in self._twins.items() if low <= found < high for place in places]

    def block(self, number: int) -> BlockRow | None:
        return self._blocks.get(number)

    def blocks_of(self, segment: int) -> list[BlockRow]:
        return [block for _, block in sorted(self._blocks.items()) if block.segment == segment]

    def segments(self) -> list[Segment]:
        self._check_open()
        return [segment for _, segment in sorted(self._segments.items())]

    def hashes(self) -> Iterator[int]:
        return iter(sorted(self._places))

    def usage(self) -> list[Usage]:
        self._check_open()
        used: Counter[tuple[int, int]] = Counter()
        for block in self._blocks.values():
            used[block.segment, block.shard] += block.head_bytes + block.body_bytes
        return [Usage(*key, count) for key, count in sorted(used.items())]

    def body_bytes(self) -> dict[int, int]:
        found: Counter[int] = Counter()
        for block in self._blocks.values():
            found[block.segment] += block.body_bytes
        return dict(found)

    def blocks_with_bodies(self) -> list[int]:
        return sorted(number for number, block in self._blocks.items() if block.body_bytes)

    def note(self, key: str) -> bytes:
        self._check_open()
        return self._notes.get(key, b"")

    def notes(self, prefix: str = "") -> dict[str, bytes]:
        return {key: value for key, value in sorted(self._notes.items()) if key.startswith(prefix)}

    @property
    def journal_sealed(self) -> int:
        return self._counters["journal_sealed"]

    @property
    def last_block(self) -> int:
        return self._counters["last_block"]

    @property
    def last_segment(self) -> int:
        return self._counters["last_segment"]

    def commit(self, commit: Commit) -> None:
        self._check_open()
        self.on_commit("before")
        self._apply(commit)
        self.on_commit("after")

    def _apply(self, commit: Commit) -> None:
        for number in commit.segments_removed:
            self._segments.pop(number, None)
            self._blocks = {key: block for key, block in self._blocks.items() if block.segment != number}
        self._segments.update((segment.number, segment) for segment in commit.segments)
        self._blocks.update((block.number, block) for block in commit.blocks)
        for short_hash in commit.places_removed:
            self._places.pop(short_hash, None)
        self._places.update(commit.places)
        for short_hash, place in commit.twins_removed:
            kept = tuple(found for found in self._twins.get(short_hash, ()) if found != place)
            self._twins[short_hash] = kept
        for short_hash, place in commit.twins:
            self._twins[short_hash] = tuple(sorted({*self._twins.get(short_hash, ()), place}))
        for number, rows in commit.dead.items():
            if number in self._segments:
                segment = self._segments[number]
                self._segments[number] = segment._replace(dead=segment.dead + rows)
        self._notes.update(commit.notes)
        self._notes = {key: value for key, value in self._notes.items() if value}
        for name, values in (
            ("journal_sealed", [] if commit.journal_sealed is None else [commit.journal_sealed]),
            ("last_block", [block.number for block in commit.blocks]),
            ("last_segment", [segment.number for segment in commit.segments]),
        ):
            self._counters[name] = max([self._counters[name], *values])

    def check(self) -> list[str]:
        return []

    def size_bytes(self) -> int:
        return 20 * len(self._places) + 40 * len(self._blocks)

    def write_again(self) -> None:
        """A commit here is whole or refused: none was refused and is seen all the same."""
        self._check_open()

    def close(self) -> None:
        self._is_closed = True

    def _check_open(self) -> None:
        if self._is_closed:
            raise StorageFailed("the modelled index is closed")
