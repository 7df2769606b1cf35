"""When damage is mended, tried again and told."""

from __future__ import annotations

import pytest

from mynosql.damage import MEND_REST_S, Damage
from mynosql.errors import StorageFailed
from mynosql.store.mending import Mended


class ScriptedStore:
    """Says what mending comes to."""

    is_damaged = True

    def __init__(self, *outcomes: Mended | Exception | None) -> None:
        self.outcomes = list(outcomes)

    def mend(self, is_kept: object) -> Mended | None:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        self.is_damaged = outcome is None
        return outcome


def damage_of(store: ScriptedStore) -> Damage:
    return Damage(store, lambda entry: False)  # type: ignore[arg-type]


def test_mending_that_cannot_be_done_now_rests() -> None:
    damage = damage_of(ScriptedStore(None, StorageFailed("the disk"), Mended((b"a",), 0)))
    assert damage.mend(0.0) is None
    assert (damage.is_due(0.5), damage.next_due(0.5, has_others=True)) == (False, MEND_REST_S)
    with pytest.raises(StorageFailed):
        damage.mend(1.0)
    assert damage.next_due(1.5, has_others=True) == 1.0 + MEND_REST_S
    assert damage.next_due(1.5, has_others=False) is None, "nobody has what would be given up"
    assert damage.is_due(2.0)
    assert damage.mend(2.0) == Mended((b"a",), 0)
    assert not damage.is_due(99.0)


def test_what_was_given_up_is_told_once() -> None:
    damage = damage_of(ScriptedStore(Mended((b"a", b"b"), 0), Mended((b"c",), 4)))
    damage.mend(0.0)
    damage.mend(0.0)
    assert damage.next_due(7.0, has_others=False) == 7.0
    assert damage.take() == ([b"a", b"b", b"c"], True)
    assert damage.take() == ([], False)
    assert damage.next_due(7.0, has_others=True) is None
