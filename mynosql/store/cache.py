"""A cache bounded in bytes that keeps what was used lately. Memory only; no disk, no lock. Driven by Store.

Two generations instead of a linked list: a hit in the young one is a single dict look-up and changes nothing, which
is what makes a cached read cost 0.3 µs. When the young one is half of the budget it becomes the old one, and what
nobody asked for since is dropped.
"""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Values by key, each with a size given by the caller. `young` may be read directly on a hot path."""

    __slots__ = ("_half", "_old", "_old_bytes", "_young_bytes", "young")

    def __init__(self, size_max: int) -> None:
        """size_max: sum of the sizes of what is kept, in the unit of `put`; 0 keeps nothing."""
        self._half = size_max // 2
        self.young: dict[K, tuple[V, int]] = {}
        self._old: dict[K, tuple[V, int]] = {}
        self._young_bytes = 0
        self._old_bytes = 0

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    @property
    def size(self) -> int:
        """Sum of the sizes kept."""
        return self._young_bytes + self._old_bytes

    def find(self, key: K) -> V | None:
        """The value, kept longer from now on; None when it is not here."""
        hit = self.young.get(key)
        if hit is not None:
            return hit[0]
        hit = self._old.pop(key, None)
        if hit is None:
            return None
        self._old_bytes -= hit[1]
        self._add(key, hit)
        return hit[0]

    def holds(self, key: K) -> bool:
        """It is here; asking keeps it no longer."""
        return key in self.young or key in self._old

    def put(self, key: K, value: V, size: int) -> None:
        """The value is found under the key, unless it is larger than half of the budget: then nothing is."""
        self.drop(key)
        if size <= self._half:
            self._add(key, (value, size))

    def _add(self, key: K, item: tuple[V, int]) -> None:
        if self._young_bytes + item[1] > self._half:
            self._old, self._old_bytes = self.young, self._young_bytes
            self.young, self._young_bytes = {}, 0
        self.young[key] = item
        self._young_bytes += item[1]

    def drop(self, key: K) -> None:
        """The key is not here."""
        item = self.young.pop(key, None)
        if item is not None:
            self._young_bytes -= item[1]
        elif self._old:
            item = self._old.pop(key, None)
            if item is not None:
                self._old_bytes -= item[1]

    def clear(self) -> None:
        """Nothing is here."""
        self.young, self._old = {}, {}
        self._young_bytes = self._old_bytes = 0
