"""transitions.Transitions: only the steps of the table can be taken."""

from __future__ import annotations

from enum import Enum

import pytest

from mynosql.transitions import Transitions


class Door(Enum):
    OPEN = "open"
    SHUT = "shut"


class Hand(Enum):
    PUSH = "push"
    PULL = "pull"


DOOR: Transitions[Door, Hand] = Transitions(Door.SHUT, {(Door.SHUT, Hand.PUSH): Door.OPEN})


def test_a_step_of_the_table_leads_on() -> None:
    assert DOOR.after(DOOR.start, Hand.PUSH) is Door.OPEN


def test_a_step_that_is_not_in_the_table_is_a_mistake_with_its_name() -> None:
    with pytest.raises(AssertionError, match="Door OPEN has no step for PULL"):
        DOOR.after(Door.OPEN, Hand.PULL)
