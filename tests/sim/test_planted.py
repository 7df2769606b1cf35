"""The simulator finds what it should: each planted bug is caught within 500 small seeds."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import pytest

from tests.sim.__main__ import failure_of, hunt
from tests.sim.plan import make_plan
from tests.sim.planted import BUGS

pytestmark = pytest.mark.long
PAGE = Path(__file__).resolve().parents[2] / "docs" / "SIMULATOR.md"
SEEDS_MAX = 500
ROW = re.compile(r"^\| `([a-z-]+)` \| (.+) \| (\d+) \|$", re.MULTILINE)


def table() -> dict[str, tuple[str, int]]:
    """docs/SIMULATOR.md: per bug what it is and a seed that caught it."""
    return {name: (what, int(seed)) for name, what, seed in ROW.findall(PAGE.read_text(encoding="utf-8"))}


def test_the_page_has_every_bug() -> None:
    assert {name: what for name, (what, _) in table().items()} == {name: bug.what for name, bug in BUGS.items()}
    assert len(BUGS) >= 12


@pytest.mark.parametrize("name", sorted(BUGS))
def test_a_planted_bug_is_caught(name: str) -> None:
    """By the seed on the page; as the product changes, by another one."""
    with BUGS[name].planted():
        seeds = chain([table()[name][1]], range(SEEDS_MAX))
        assert any(failure_of(make_plan(seed)) for seed in seeds), f"{name} passed {SEEDS_MAX} seeds"


@pytest.mark.parametrize("name", sorted(BUGS))
def test_a_bug_is_gone_afterwards(name: str) -> None:
    bug = BUGS[name]
    before = [owner.__dict__[bug.attribute] for owner in bug.owners]
    with bug.planted():
        assert [owner.__dict__[bug.attribute] for owner in bug.owners] != before
    assert [owner.__dict__[bug.attribute] for owner in bug.owners] == before


def test_hunting_gives_the_first_seed() -> None:
    with BUGS["plain-vectors"].planted():
        first = hunt("plain-vectors", SEEDS_MAX)
        assert first is not None
        assert all(failure_of(make_plan(seed)) is None for seed in range(first))
    assert hunt("plain-vectors", 0) is None
