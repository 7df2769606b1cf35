"""Timers of a pure protocol: what is to be called when the given time has come. No clock: step() is told the time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable


class Timers:
    """At most one timer per key; setting it again replaces it. Due timers fire in order of time, then of setting."""

    def __init__(self) -> None:
        self._live: dict[Hashable, tuple[float, int, Callable[[], None]]] = {}
        self._heap: list[tuple[float, int, Hashable]] = []
        self._count = 0

    def set(self, key: Hashable, due: float, call: Callable[[], None]) -> None:
        """call() is called by the first take_due at or after `due`."""
        self._count += 1
        self._live[key] = (due, self._count, call)
        heapq.heappush(self._heap, (due, self._count, key))
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._live):
            self._heap = [(due, count, key) for key, (due, count, _) in self._live.items()]
            heapq.heapify(self._heap)

    def set_earlier(self, key: Hashable, due: float, call: Callable[[], None]) -> None:
        """As set, unless the timer of that key is due before."""
        live = self._live.get(key)
        if live is None or due < live[0]:
            self.set(key, due, call)

    def is_set(self, key: Hashable) -> bool:
        return key in self._live

    def cancel(self, key: Hashable) -> None:
        self._live.pop(key, None)

    def clear(self) -> None:
        self._live.clear()
        self._heap.clear()

    @property
    def next_due(self) -> float | None:
        """When the next timer is due; None: nothing is."""
        heap = self._heap
        while heap:
            due, count, key = heap[0]
            live = self._live.get(key)
            if live is not None and live[1] == count:
                return due
            heapq.heappop(heap)
        return None

    def take_due(self, now: float) -> Callable[[], None] | None:
        """The next timer that is due, taken off; None when there is none (left)."""
        due = self.next_due
        if due is None or due > now:
            return None
        _, _, key = heapq.heappop(self._heap)
        return self._live.pop(key)[2]
