"""A cache bounded in bytes that keeps what was used lately. Memory only; no disk, no lock. Driven by Store.

First in, first out with a second chance (the CLOCK of Corbató, 1968), as two dicts instead of a ring of bits: while
there is room all is young, and a hit there is a single dict look-up that changes nothing, which is what makes a cached
read cost 0.3 µs. Once there is none, the young become the old, which go in the order in which they came, unless
somebody asks for them first: that makes them young again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Values by key. `young` may be read directly on a hot path."""

    __slots__ = ("_next_old", "_old", "_size_max", "_size_of", "size", "young")

    def __init__(self, size_max: int, size_of: Callable[[K, V], int]) -> None:
        """size_max: sum of the sizes of what is kept; 0 keeps nothing. size_of: always the same for the same pair."""
        self._size_max = size_max
        self._size_of = size_of
        self.young: dict[K, V] = {}
        self._old: dict[K, V] = {}
        self._next_old: list[K] = []
        """The keys of the old, those that came first at the end; some may have left since."""
        self.size = 0
        """Sum of the sizes kept."""

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def find(self, key: K) -> V | None:
        """The value, kept longer from now on; None when it is not here."""
        value = self.young.get(key)
        if value is None and self._old:
            value = self._old.pop(key, None)
            if value is not None:
                self.young[key] = value
        return value

    def holds(self, key: K) -> bool:
        """It is here; asking keeps it no longer."""
        return key in self.young or key in self._old

    def put(self, key: K, value: V) -> None:
        """The value is found under the key, unless it is larger than half of the budget: then nothing is."""
        self.drop(key)
        size = self._size_of(key, value)
        if size <= self._size_max // 2:
            if self.size + size > self._size_max:
                self._make_room(size)
            self.young[key] = value
            self.size += size

    def _make_room(self, size: int) -> None:
        while self.size + size > self._size_max:
            if not self._next_old:
                self._old, self.young = self.young, {}
                self._next_old = list(reversed(self._old))
            key = self._next_old.pop()
            value = self._old.pop(key, None)
            if value is not None:
                self.size -= self._size_of(key, value)

    def drop(self, key: K) -> None:
        """The key is not here."""
        value = self.young.pop(key, None)
        if value is None and self._old:
            value = self._old.pop(key, None)
        if value is not None:
            self.size -= self._size_of(key, value)

    def age(self) -> None:
        """What was not asked for since the last call leaves."""
        if self._old:
            self.size -= sum(map(self._size_of, self._old, self._old.values()))
        self._old, self.young = self.young, {}
        self._next_old = list(reversed(self._old))

    def clear(self) -> None:
        """Nothing is here."""
        self.young, self._old, self._next_old = {}, {}, []
        self.size = 0


def memory_of(_: object, value: Any) -> int:
    """For values that know it: what their attribute memory_bytes says, which may not change meanwhile."""
    size: int = value.memory_bytes
    return size
