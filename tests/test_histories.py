"""Stories of conflicts as transcripts, and random histories judged by the true ancestors of every version.

Two rules for ancestry that are known to lose edits are planted here: the checks must see them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from mynosql import revision
from mynosql.revision import child_of, merge_leaves, pack_leaves, unpack_leaves
from mynosql.row import Leaf, Leaves
from tests.histories import World, faults_of, play, random_history


def without_excepted(made: Leaf) -> Leaf:
    if made.ancestry is None or not made.ancestry.excepted:
        return made
    ancestry = made.ancestry._replace(excepted=())
    return made._replace(ancestry=None if len(ancestry.vector) == 1 and not ancestry.floor else ancestry)


# The two rules that are known to be wrong (DESIGN §3): the checks below must see them


def plain_vectors(parents: Leaves, others: Leaves, **parts: Any) -> Leaf:
    return without_excepted(child_of(parents, others, **parts))


def excepted_emptied_on_resolving(parents: Leaves, others: Leaves, **parts: Any) -> Leaf:
    made = child_of(parents, others, **parts)
    return made if others else without_excepted(made)


# Stories

SHORTEST = """
    A saves           -> a1
    B hears A         -> a1
    A saves           -> a2
    B saves           -> b1
    A hears B         -> b1 a2
    A saves           -> a3 a2
    B hears A         -> a3 a2
    C hears B         -> a3 a2
    C resolves        -> c1
    A hears C         -> c1
    B hears C         -> c1
"""

STORIES: dict[str, str] = {
    "a later edit of the winner by the loser's author does not hide the loser": SHORTEST,
    "two peers edit apart, with a mirror between them, and converge on one winner": """
        A saves           -> a1
        C hears A         -> a1
        B hears C         -> a1
        A saves           -> a2
        B saves           -> b1
        C hears B         -> b1
        C hears A         -> b1 a2
        A hears C         -> b1 a2
        B hears C         -> b1 a2
        B saves           -> b2 a2
        C hears B         -> b2 a2
        A hears C         -> b2 a2
    """,
    "an edit wins against a delete made apart, until the record is deleted again": """
        A saves           -> a1
        B hears A         -> a1
        A deletes         -> (a2)
        B saves           -> b1
        B saves           -> b2
        A hears B         -> b2 (a2)
        B hears A         -> b2 (a2)
        B saves           -> b3 (a2)
        A hears B         -> b3 (a2)
        A deletes         -> (a3)
        B hears A         -> (a3)
        B saves           -> b4
        A hears B         -> b4
    """,
    "a peer saves over a record that it does not hold": """
        A saves           -> a1
        C hears A         -> a1
        B hears C         -> a1
        A saves           -> a2
        C hears A         -> a2
        B saves           -> b1
        C hears B         -> b1 a2
        B hears C         -> b1 a2
        B resolves        -> b2
        C hears B         -> b2
        A hears C         -> b2
    """,
    "a game goes on saving offline although it has heard of a newer revision": """
        A saves           -> a1
        B hears A         -> a1
        B saves           -> b1
        A hears B         -> b1
        A saves over a1   -> a2 b1
        A saves over a2   -> a3 b1
        A saves over a3   -> a4 b1
        B hears A         -> a4 b1
        B resolves        -> b2
        A hears B         -> b2
    """,
    "the same id made apart is a conflict": """
        A saves           -> a1
        B saves           -> b1
        A hears B         -> b1 a1
        B hears A         -> b1 a1
        A resolves        -> a2
        B hears A         -> a2
    """,
    "a loser's edit that arrives after the conflict was resolved is a new conflict": """
        A saves           -> a1
        B hears A         -> a1
        A saves           -> a2
        B saves           -> b1
        C hears A         -> a2
        C hears B         -> b1 a2
        C resolves        -> c1
        A saves           -> a3
        A hears C         -> a3 c1
        C hears A         -> a3 c1
        B hears A         -> a3 c1
    """,
}


@pytest.mark.parametrize("story", STORIES.values(), ids=list(STORIES))
def test_story(story: str) -> None:
    world = play(story)
    for node, known in enumerate(world.leaves):
        assert world.heads(node) == world.true_heads(node)
        assert known is None or unpack_leaves(pack_leaves(known)) == known


def test_the_shortest_story_shows_what_plain_vectors_lose() -> None:
    with pytest.raises(AssertionError, match=r"^A saves +-> a3 a2: the leaves are a3$"):
        play(SHORTEST, rule=plain_vectors)


# Random histories against the truth


def test_in_no_random_history_an_edit_is_lost_or_an_ancestor_kept() -> None:
    assert faults_of(range(3000)) == []


def test_in_no_random_history_with_torn_leaf_sets_an_edit_is_lost_in_the_end() -> None:
    assert faults_of(range(3000), parts=True) == []


@pytest.mark.parametrize(("rule", "parts"), [(plain_vectors, False), (excepted_emptied_on_resolving, True)])
def test_the_random_histories_find_rules_that_are_wrong(rule: Callable[..., Leaf], parts: bool) -> None:
    assert faults_of(range(1500), rule=rule, parts=parts)


def test_whatever_the_order_all_nodes_end_with_the_same_leaves() -> None:
    for seed in range(300):
        *_, world = random_history(seed)
        assert len(set(world.leaves)) == 1, f"seed {seed}"


@pytest.mark.parametrize("nodes_max", [1, 2])
def test_with_a_floor_nothing_is_lost_and_a_superseded_leaf_never_wins(
    monkeypatch: pytest.MonkeyPatch, nodes_max: int
) -> None:
    monkeypatch.setattr(revision, "VECTOR_NODES_MAX", nodes_max)
    superseded = 0
    for seed in range(400):
        for world in random_history(seed, nodes=6):
            for node, leaves in enumerate(world.leaves):
                heads, true_heads = world.heads(node), world.true_heads(node)
                assert true_heads <= heads, f"seed {seed}"
                assert leaves is None or (leaves[0].hlc, leaves[0].node) in true_heads, f"seed {seed}"
                superseded += len(heads - true_heads)
    assert superseded > 0, "the histories must reach the floor"


@pytest.mark.parametrize("seed", range(60))
def test_merging_is_commutative_associative_and_idempotent(seed: int) -> None:
    # Sets as nodes know them at any time of one history: what may ever meet.
    rng = random.Random(seed)
    seen = sorted({leaves for world in random_history(seed) for leaves in world.leaves if leaves}, key=pack_leaves)
    for _ in range(40 if seen else 0):
        x, y, z = rng.choice(seen), rng.choice(seen), rng.choice(seen)
        merged = merge_leaves(x, y)
        assert merged == merge_leaves(y, x)
        assert merge_leaves(merged, z) == merge_leaves(x, merge_leaves(y, z))
        assert merge_leaves(merged, x) is merged
        assert merge_leaves(x, x) is x
        assert unpack_leaves(pack_leaves(merged)) == merged


def test_a_world_can_tell_a_lost_edit() -> None:
    world = World(2)
    first = world.save(0, 1)
    world.save(1, 2)
    world.hear(0, world.leaves[1])
    world.leaves[0] = world.leaves[1]
    assert first in world.true_heads(0) - world.heads(0)
