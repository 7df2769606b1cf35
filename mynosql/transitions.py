"""The states of a conversation and what leads from one to another, as one table that the code moves by.

A state changes only through Transitions.after(), so a step that is not in the table cannot be taken; the diagrams of
docs/PROTOCOL.md are made from the same tables (tests/diagrams.py). No I/O; used by sync and net.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

State = TypeVar("State", bound=Enum)
Cause = TypeVar("Cause", bound=Enum)


@dataclass(frozen=True, slots=True)
class Transitions(Generic[State, Cause]):
    """All legal steps; the value of a cause is what the diagram says of it."""

    start: State
    steps: Mapping[tuple[State, Cause], State]

    def after(self, state: State, cause: Cause) -> State:
        """The state that follows. A step that is not in the table is a mistake of ours."""
        following = self.steps.get((state, cause))
        assert following is not None, f"{type(state).__name__} {state.name} has no step for {cause.name}: add it, or"\
            " find out who asks for it"
        return following
