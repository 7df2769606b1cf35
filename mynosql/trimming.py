"""A peer that stays small: bodies that nobody asked for lately leave the disk once it holds more than it was told to.

Owns the budget, what is pinned, and where the look for bodies goes on. Blocks are looked at oldest first, again and
again, as pages in the CLOCK algorithm (F. J. Corbató, 1968): one that was read since the last look is passed over
once, any other loses the bodies that no mirror needs from here, that are not pinned, and that are not in memory either.
Evicting sends nothing and keeps the index entry; the space comes back as segments are written again. Driven by
replica.Replica, step by step, under its lock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import chain, repeat

from mynosql.errors import StorageFull
from mynosql.idkey import prefix_range
from mynosql.ledger import Ledger
from mynosql.row import Entry
from mynosql.store.store import Store

SIZE_NOTE = "cache-size"
"""Bytes, decimal; none: no limit."""
PIN_NOTE = "pin/"
"""pin/i followed by an id key, pin/p by a prefix, both in hex."""
TARGET_SHARE = 0.9
"""So much of the budget is left once something had to go: not every fetch begins anew."""
MEMTABLE_SHARE = 1 / 4
MEMTABLE_BYTES_MIN = 64 << 10


class Trimmer:
    """The bodies of one store, held within a budget."""

    def __init__(
        self, store: Store, ledger: Ledger, is_needed: Callable[[Entry], bool], set_note: Callable[[str, bytes], None]
    ) -> None:
        """is_needed: no mirror is known to have that entry's bodies."""
        self._store, self._ledger, self._is_needed, self._set_note = store, ledger, is_needed, set_note
        value = store.note(SIZE_NOTE)
        self.size_max: int | None = int(value) if value else None
        """Bytes that bodies may take on the disk."""
        self.refusal: StorageFull | None = None
        """Why nothing can be saved: the budget is full of what no mirror has yet."""
        self._ids: set[bytes] = set()
        self._ranges: dict[str, tuple[bytes, bytes | None]] = {}
        for key in store.notes(PIN_NOTE):
            pinned = bytes.fromhex(key[len(PIN_NOTE) + 1 :])
            if key[len(PIN_NOTE)] == "i":
                self._ids.add(pinned)
            else:
                prefix = pinned.decode("utf-8", "surrogatepass")
                self._ranges[prefix] = prefix_range(prefix)
        self._blocks: Iterator[tuple[int, bool]] | None = None
        """The look that is under way: block after block, first sparing what was read lately, then not."""
        self._evicted = 0
        """By this look."""
        self._hand = -1
        """The block that was looked at last."""
        self._to_free = 0.0
        self._is_due = self.size_max is not None
        self._fit_memtable()

    # What is asked for

    def set_size(self, size_max: int | None) -> None:
        """Bodies take at most about so many bytes from here on; remembered."""
        self.size_max = size_max
        self._set_note(SIZE_NOTE, b"" if size_max is None else b"%d" % size_max)
        self._blocks = None
        self._fit_memtable()
        self.look()

    def _fit_memtable(self) -> None:
        """What is not sealed cannot be trimmed: of a small budget it may take a part only."""
        size_max = self.size_max
        self._store.limit_memtable(
            None if size_max is None else max(MEMTABLE_BYTES_MIN, int(size_max * MEMTABLE_SHARE))
        )

    def pin(self, id_key: bytes, *, is_pinned: bool) -> None:
        (self._ids.add if is_pinned else self._ids.discard)(id_key)
        self._set_note(f"{PIN_NOTE}i{id_key.hex()}", b"1" if is_pinned else b"")
        self.look()

    def pin_all(self, prefix: str, *, is_pinned: bool) -> None:
        if is_pinned:
            self._ranges[prefix] = prefix_range(prefix)
        else:
            self._ranges.pop(prefix, None)
        name = prefix.encode("utf-8", "surrogatepass").hex()
        self._set_note(f"{PIN_NOTE}p{name}", b"1" if is_pinned else b"")
        self.look()

    def is_pinned(self, id_key: bytes) -> bool:
        return id_key in self._ids or any(
            low <= id_key and (high is None or id_key < high) for low, high in self._ranges.values()
        )

    @property
    def prefixes(self) -> Collection[str]:
        """What pin_all() was told."""
        return self._ranges.keys()

    # The work

    def look(self) -> None:
        """More may be held than allowed, or less be needed than before."""
        self._is_due = self.size_max is not None or self.refusal is not None

    @property
    def is_due(self) -> bool:
        """step() has something to do."""
        return self._is_due or self._blocks is not None

    def step(self) -> None:
        """A block's worth of it: one to two milliseconds. Raises StorageFull, StorageFailed."""
        if self._blocks is None:
            self._begin()
            return
        block, is_second = next(self._blocks, (None, True))
        if block is None:
            self._end()
            return
        self._hand = block
        if not self._store.take_touched(block) or is_second:
            self._to_free -= self._trim(block, is_second=is_second)
        if self._to_free <= 0:
            self._end()

    def _begin(self) -> None:
        self._is_due = False
        used = self._store.body_bytes
        if self.size_max is None or used <= self.size_max:
            self.refusal = None
            return
        if self._store.seal_soon(self.size_max // 8):
            return  # looked at again when that is sealed
        self._to_free = used - self.size_max * TARGET_SHARE
        self._evicted = 0
        numbers = self._store.block_numbers()
        later = [number for number in numbers if number > self._hand]
        order = [*later, *numbers[: len(numbers) - len(later)]]
        self._blocks = chain(zip(order, repeat(False)), zip(order, repeat(True)))

    def _end(self) -> None:
        self._blocks = None
        if self._evicted:
            self._store.seal_soon(0)  # and then counted again
            return
        pending = self._store.counters.pending
        if self.size_max is not None and self._store.body_bytes > self.size_max and pending:
            self.refusal = StorageFull(
                f"the budget of {self.size_max:,} bytes (setcachesize) is full; {pending:,} changes that no mirror has "
                "yet are in it, and none of them is dropped: connect to a mirror, or allow more"
            )

    def _trim(self, block: int, *, is_second: bool) -> float:
        """The bodies of a block that may go are evicted; about how many bytes they took."""
        freed = 0.0
        store = self._store
        for entry, stored_bytes in store.held_in(block):
            if self.is_pinned(entry.id_key) or self._is_needed(entry):
                continue
            if is_second or not store.is_cached(entry.id_key):
                self._ledger.evict(entry.id_key, entry)
                self._evicted += 1
                freed += stored_bytes
        return freed
