"""Fewer steps that fail in the same way: chunks of the plan are taken out, large ones first, while it still fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.sim.plan import Plan

RUNS_MAX = 300
"""A few seconds for a small plan, some minutes for the largest."""


def shrink(plan: Plan, failure_of: Callable[[Plan], str | None], *, runs_max: int = RUNS_MAX) -> Plan:
    """The plan with steps left out, at most as long as it was; it still fails with the same kind of failure.

    failure_of: carries a plan out; its failure, None when all went well.
    """
    wanted = _kind_of(failure_of(plan))
    if wanted is None:
        return plan
    runs = 1
    chunk = max(len(plan.steps) // 2, 1)
    while True:
        start, is_smaller = 0, False
        while start < len(plan.steps):
            if runs >= runs_max:
                return plan
            shorter = replace(plan, steps=plan.steps[:start] + plan.steps[start + chunk:])
            runs += 1
            if _kind_of(failure_of(shorter)) == wanted:
                plan, is_smaller = shorter, True
            else:
                start += chunk
        if chunk > 1:
            chunk //= 2
        elif not is_smaller:
            return plan


def _kind_of(failure: str | None) -> str | None:
    """Numbers and names change as steps go; the first words tell which promise was broken."""
    if failure is None:
        return None
    return " ".join(word for word in failure.split("\n")[0].split() if word.isalpha() or word.endswith(":"))[:40]
