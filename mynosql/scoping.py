"""What the scope of a peer's index leaves in the dark: ids outside of it, and what a narrower scope has forgotten.

The store does not give up index entries; those that are outside of the scope and neither held nor owed are hidden here
from whoever asks. Owns the note "hiding" and the count of what is hidden. Driven by replica.Replica, asked by
opened.OpenDatabase, under its lock.
"""

from __future__ import annotations

from collections.abc import Callable

from mynosql.row import Entry
from mynosql.scope import Scope, covers, is_within
from mynosql.store.store import Store

HIDING_NOTE = "hiding"
"""b"1": the scope was narrowed, and the index may hold entries that it hides."""
PAGE = 1024


class Scoping:
    """The scope of one replica, as it bears on its store."""

    def __init__(
        self, store: Store, scope: Callable[[], Scope | None], is_pending: Callable[[Entry], bool],
        set_note: Callable[[str, bytes], None],
    ) -> None:
        """scope: the present one; is_pending: that entry is owed."""
        self._store = store
        self._scope = scope
        self._is_pending = is_pending
        self._set_note = set_note
        self._counted_at: tuple[int, int] | None = None
        self._count = 0

    @property
    def is_hiding(self) -> bool:
        """There may be entries that are hidden."""
        return bool(self._store.note(HIDING_NOTE))

    def change(self, new: Scope | None) -> None:
        """The scope is about to become that one."""
        is_hiding = new is not None and (self.is_hiding or not covers(new, self._scope()))
        if is_hiding != self.is_hiding:
            self._set_note(HIDING_NOTE, b"1" if is_hiding else b"")
        self._counted_at = None
        self._store.drop_caches()  # what will be outside may not be answered from there

    def is_outside(self, id_key: bytes) -> bool:
        """Nobody tells this node what others do with that id."""
        return not is_within(self._scope(), id_key)

    def is_hidden(self, entry: Entry) -> bool:
        """Outside of the scope, and neither held nor owed."""
        if not self.is_outside(entry.id_key) or entry.stale is not None or self._is_pending(entry):
            return False
        return not any(entry.held >> position & 1 and not leaf.deleted for position, leaf in enumerate(entry.leaves))

    def count_hidden(self) -> int:
        """Live ids that are hidden. Looks through all that is not held, once after each change; mostly none is."""
        missing = self._store.counters.missing
        if not missing or not self.is_hiding:
            return 0
        state = self._store.head_seq, missing
        if state != self._counted_at:
            self._count = 0
            page = self._store.missing(b"", PAGE)
            while page:
                self._count += sum(map(self.is_hidden, page))
                page = self._store.missing(page[-1].id_key, PAGE)
            self._counted_at = state
        return self._count


__all__ = ["HIDING_NOTE", "Scoping"]
