"""memory: freed memory is given back, not too often, and only after somebody asked for it."""

from __future__ import annotations

import sys

import pytest

from mynosql import memory
from mynosql.memory import INTERVAL_S, Returns


@pytest.fixture
def trims(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the allocator was called with."""
    called: list[int] = []
    monkeypatch.setattr(memory, "_trim", called.append)
    return called


def test_nothing_is_due_until_somebody_wants_it(trims: list[int]) -> None:
    returns = Returns()
    returns.give_back(0.0)
    assert (returns.next_due, returns.is_due(1e9), trims) == (None, False, [])
    returns.want()
    assert returns.is_due(0.0)
    returns.give_back(0.0)
    assert (returns.next_due, trims) == (None, [0])


def test_it_waits_until_the_last_time_is_long_enough_ago(trims: list[int]) -> None:
    returns = Returns()
    returns.want()
    returns.give_back(100.0)
    returns.want()
    returns.give_back(100.0 + INTERVAL_S - 1)
    assert (returns.next_due, trims) == (100.0 + INTERVAL_S, [0])
    returns.give_back(100.0 + INTERVAL_S)
    assert (returns.next_due, trims) == (None, [0, 0])


def test_where_the_allocator_has_no_such_call_nothing_is_ever_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_trim", None)
    returns = Returns()
    returns.want()
    returns.give_back(0.0)
    assert (returns.next_due, returns.is_due(1e9)) == (None, False)


@pytest.mark.skipif(sys.platform != "linux" or memory._trim is None, reason="only glibc gives memory back when asked")
def test_glibc_is_really_called() -> None:
    assert memory._trim is not None
    assert memory._trim(0) in (0, 1)
