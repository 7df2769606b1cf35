"""docs/PROTOCOL.md shows the states as the code has them: page, tables and code agree."""

from __future__ import annotations

import ast
from enum import Enum
from typing import Any

import pytest

from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.dialling import DIAL_TRANSITIONS
from mynosql.sync.following import FOLLOW_TRANSITIONS
from mynosql.sync.serving import SERVED_TRANSITIONS
from mynosql.transitions import Transitions
from tests.diagrams import TABLES, diagram_of, names_in, with_diagrams
from tests.house import PACKAGE
from tests.sync import test_comparing, test_following, test_serving
from tests.sync.harness import Machine, World, card, hello, welcome
from tests.sync.rules import PROTOCOL
from tests.sync.test_soak import STEPS, Soak

SOURCES = sorted((PROTOCOL.parents[1] / PACKAGE).rglob("*.py"))
SEEDS = 40


def test_the_page_is_what_the_tables_give() -> None:
    page = PROTOCOL.read_text(encoding="utf-8")

    assert with_diagrams(page) == page, "run: python -m tests.diagrams --write"
    assert sorted(names_in(page)) == sorted(TABLES)


def test_every_table_of_the_package_has_its_diagram() -> None:
    made = [
        target.id.removesuffix("_TRANSITIONS") for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.AnnAssign)
        if isinstance(target := node.target, ast.Name) and target.id.endswith("_TRANSITIONS")
    ]

    assert sorted(made) == sorted(TABLES)


def test_a_diagram_follows_its_table() -> None:
    table = FOLLOW_TRANSITIONS
    less = Transitions(table.start, dict(list(table.steps.items())[1:]))

    assert diagram_of(less) != diagram_of(table)


def test_a_state_changes_only_by_its_table() -> None:
    """Nothing else than __init__ and _move may set `state`: a step past the table would be in no diagram."""
    found = [
        f"{path.name}: {function.name}" for path in SOURCES
        if "_TRANSITIONS" in (text := path.read_text(encoding="utf-8"))
        for function in ast.walk(ast.parse(text)) if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and node.attr == "state" and isinstance(node.ctx, ast.Store)
    ]

    assert {name.split(": ")[1] for name in found} == {"__init__", "_move"}


def ghost_and_peer() -> tuple[World, Machine, fx.Link]:
    """A peer that greets a host which says what the test says."""
    world = World(seed=1)
    link = world.ghost("ghost")
    peer = world.peer("p1", knows=["ghost"])
    world.run(0.01)
    return world, peer, link


def rare_dials() -> None:
    """What a soak hardly meets on the dialling side."""
    bye = ms.Bye(code=ms.ByeCode.STOPPED, text="closed")
    for answers in (0, 1):
        world, peer, link = ghost_and_peer()
        for _ in range(answers):
            world.inject(peer, link, welcome(world.told("ghost", ms.Hello)[-1]))
        peer.perform(peer.node.on_link_up(link, world.now))
        world.inject(peer, link, bye)
        world.run(30.0)
    for is_garbage in (False, True):  # what was on its way when the link went down
        world, peer, link = ghost_and_peer()
        peer.perform(peer.node.on_link_down(link, world.now))
        if is_garbage:
            world.inject_garbage(peer, link, [b"?"])
        else:
            world.inject(peer, link, bye)
    world, peer, link = ghost_and_peer()
    world.inject(peer, link, welcome(world.told("ghost", ms.Hello)[-1]))
    world.inject_garbage(peer, link, [b"?"])


def rare_served() -> None:
    """What a soak hardly meets on the serving side."""
    other = fx.Link.served("88")
    for lives in (False, True):
        test_serving.test_the_older_of_two_with_one_node_id_has_to_answer(lives)
    for last in (hello(database="another"), hello(card=card(node=5, nonce=3)), None):
        world, mirror = test_serving.make()
        world.inject(mirror, other, hello(card=card(node=5, nonce=1)))
        world.inject(mirror, fx.Link.served("89"), hello(card=card(node=5, nonce=3)))
        if last is not None:
            world.inject(mirror, fx.Link.served("89") if last.card.node == 5 else other, last)
        world.inject(mirror, other, hello(card=card(nonce=2)))
        mirror.perform(mirror.node.on_link_down(other, world.now))
        world.run(40.0)


def rare_follows() -> None:
    """What a soak hardly meets where a feed is followed."""
    test_following.test_a_full_disk_makes_pulling_rest()
    test_following.test_an_unanswered_pull_is_repeated()
    ghost = test_following.Ghost(head=1)
    ghost.entries(test_following.row("a", 1), last=1)
    ghost.node.store.is_full = True
    for _ in range(2):
        ghost.changes(2, 2, test_following.row("b", 2))
    world, mirror, other = test_comparing.two_mirrors()
    test_comparing.restored(mirror, world)
    world.on_deliver = lambda sent: not isinstance(sent.message, ms.Sums)
    mirror.start()
    other.start()
    world.run_until(lambda: bool(world.sent(ms.Compare)))
    world.cut("m1", "m2")
    world.run(1.0)


def test_every_step_of_the_tables_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """And by each soak and story no other: Transitions.after refuses it. CONNECTION: tests/net/test_outbound.py."""
    taken: set[tuple[int, Enum, Enum]] = set()
    after = Transitions.after

    def recorded(table: Transitions[Any, Any], state: Enum, cause: Enum) -> Enum:
        taken.add((id(table), state, cause))
        return after(table, state, cause)  # type: ignore[no-any-return]

    monkeypatch.setattr(Transitions, "after", recorded)
    for seed in range(SEEDS):
        soak = Soak(seed)
        for _ in range(STEPS):
            soak.step()
        soak.finish()
    rare_dials()
    rare_served()
    rare_follows()

    for table in (DIAL_TRANSITIONS, FOLLOW_TRANSITIONS, SERVED_TRANSITIONS):
        idle = [f"{state.name} {cause.name}" for state, cause in table.steps if (id(table), state, cause) not in taken]
        assert not idle, f"steps that are never taken: {idle}"
