"""Revisions: ancestry, winners and the table of savedoc. Bytes: test_revision_bytes.py; stories: test_histories.py."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mynosql.revision import (
    EXCEPTED_MAX,
    GENERATION_MAX,
    LEAVES_MAX_MERGED,
    LEAVES_MAX_PUSHED,
    VECTOR_NODES_MAX,
    Rev,
    SaveDecision,
    SaveKind,
    child_of,
    conflicts_of,
    decide_save,
    hlc_above,
    is_body_equal,
    is_in_past,
    merge_leaves,
    pack_leaves,
    parse_rev,
    rev_string,
    unpack_leaves,
    vector_of,
    winner_first,
)
from mynosql.row import NO_DIGEST, Ancestry, Leaf, Leaves, Version
from tests.histories import body, leaf

A, B, C = 1, 2, 3

# Rev strings


def test_a_rev_is_generation_dash_clock_and_node() -> None:
    assert rev_string(leaf(12, 0x0197F3A2B4C50001, 0xABCDEF)) == "12-0197f3a2b4c500010000000000abcdef"


@given(st.integers(1, GENERATION_MAX), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_every_rev_string_parses_to_what_it_was_made_of(generation: int, hlc: int, node: int) -> None:
    assert parse_rev(rev_string(Rev(generation, hlc, node))) == (generation, hlc, node)


HEX = "0123456789abcdef" * 2


@pytest.mark.parametrize("text", [
    "", "1", "1-", f"-{HEX}", f"0-{HEX}", f"01-{HEX}", f"+1-{HEX}", f"1-{HEX.upper()}", f"1-{HEX[1:]}", f"1-{HEX}0",
    f" 1-{HEX}", f"1-{HEX}\n", f"1-0x{HEX[2:]}", f"1-{HEX[:15]}_{HEX[16:]}", f"1_0-{HEX}", f"١-{HEX}",
    f"{2**31 + 1}-{HEX}", f"99999999999-{HEX}", None, 1, b"1-" + HEX.encode(), ["1"],
], ids=repr)
def test_what_rev_string_cannot_have_made_is_no_rev(text: object) -> None:
    assert parse_rev(text) is None


# Children


def test_while_one_node_alone_writes_a_record_its_leaves_carry_no_ancestry() -> None:
    first = child_of((), (), hlc=5, node=A, **body("one"))
    second = child_of((first,), (), hlc=9, node=A, **body("two"))
    assert second == Leaf(2, 9, A, ancestry=None, **body("two"))
    assert vector_of(second) == {A: 9}
    assert is_in_past(Version(5, A), second)
    assert not is_in_past(Version(10, A), second)
    assert not is_in_past(Version(5, B), second)


def test_a_child_has_the_highest_of_its_parents_vectors_and_its_own_version() -> None:
    parents = (leaf(3, 30, A, vector={B: 10, C: 7}), leaf(2, 20, B, vector={A: 5, C: 8}))
    made = child_of(parents, (), hlc=40, node=C, **body("x"))
    assert made.generation == 4
    assert vector_of(made) == {A: 30, B: 20, C: 40}
    assert made.ancestry == Ancestry((Version(30, A), Version(20, B), Version(40, C)))


def test_a_known_leaf_that_is_no_parent_is_excepted_when_the_vector_would_cover_it() -> None:
    made = child_of((leaf(2, 9, B),), (leaf(2, 8, A),), hlc=10, node=A, **body("x"))
    assert made.ancestry == Ancestry((Version(10, A), Version(9, B)), (Version(8, A),))
    assert not is_in_past(Version(8, A), made)


def test_a_known_leaf_that_the_vector_does_not_reach_needs_no_exception() -> None:
    made = child_of((leaf(2, 9, B),), (leaf(2, 8, A),), hlc=10, node=B, **body("x"))
    assert made.ancestry is None


def test_an_exception_ends_when_a_parent_descends_from_it_and_not_before() -> None:
    winner = leaf(3, 10, A, vector={B: 9}, excepted=((8, A),))
    beside = child_of((winner,), (leaf(2, 8, A),), hlc=11, node=B, **body("x"))
    over_both = child_of((winner, leaf(2, 8, A)), (), hlc=11, node=B, **body("x"))
    over_one_known_only = child_of((winner,), (), hlc=11, node=B, **body("x"))
    assert not is_in_past(Version(8, A), beside)
    assert is_in_past(Version(8, A), over_both)
    assert not is_in_past(Version(8, A), over_one_known_only)


def test_generations_stop_at_their_highest_value() -> None:
    for parent in (leaf(GENERATION_MAX, 5, A), leaf(GENERATION_MAX, 5, B)):
        assert child_of((parent,), (), hlc=6, node=A, **body("x")).generation == GENERATION_MAX
    claimed = decide_save(None, Rev(GENERATION_MAX, 5, A), digest=b"", size=0).generation_floor
    assert child_of((), (), hlc=6, node=A, **body("x"), generation_floor=claimed).generation == GENERATION_MAX


def test_a_new_version_goes_above_leaves_whose_past_holds_one_of_ours_beyond_our_clock() -> None:
    # given: N's clock is wrong; A edits N's revision, so A's version lies beyond A's clock; B edits that
    far = leaf(1, 1_000_000, C)
    ours = child_of((far,), (), hlc=hlc_above((far,)), node=A, **body("a"))
    theirs = child_of((ours,), (), hlc=hlc_above((ours,)), node=B, **body("b"))
    # when: A's user saves over N's revision with branch=True
    decision = decide_save((theirs,), Rev(*far[:3]), branch=True, digest=b"new", size=1)
    made = child_of(decision.parents, decision.others, hlc=hlc_above((theirs,)), node=A, **body("c"))
    # then: with a lower clock, B's revision would count it as its ancestor
    assert is_in_past(Version(50, A), theirs)
    assert merge_leaves((theirs,), (made,)) == winner_first((theirs, made))
    with pytest.raises(AssertionError):
        child_of((), (theirs,), hlc=50, node=A, **body("c"))


# Many writers


def writers(count: int, *, first: int = 100) -> Leaf:
    """A leaf that `count` nodes have written one after another: node n at hlc n."""
    made = child_of((), (), hlc=first, node=first, **body("x"))
    for node in range(first + 1, first + count):
        made = child_of((made,), (), hlc=node, node=node, **body("x"))
    return made


def test_over_64_writers_the_oldest_falls_into_the_floor() -> None:
    full = writers(VECTOR_NODES_MAX)
    over = child_of((full,), (), hlc=900, node=900, **body("x"))
    assert full.ancestry is not None
    assert len(full.ancestry.vector) == VECTOR_NODES_MAX
    assert full.ancestry.floor == 0
    assert over.ancestry is not None
    assert len(over.ancestry.vector) == VECTOR_NODES_MAX
    assert over.ancestry.floor == 100
    assert not is_in_past(Version(100, 100), over)
    assert child_of((over,), (), hlc=901, node=901, **body("x")).ancestry.floor == 101  # type: ignore[union-attr]


def test_entries_of_direct_parents_never_fall_into_the_floor() -> None:
    old = leaf(1, 1, 7)
    made = child_of((writers(VECTOR_NODES_MAX), old), (), hlc=900, node=900, **body("x"))
    assert is_in_past(Version(1, 7), made)
    assert made.ancestry is not None
    assert made.ancestry.floor == 101


def test_a_resolved_full_set_of_leaves_names_65_nodes_and_packs() -> None:
    parents = tuple(leaf(1, 10 + node, node) for node in range(1, LEAVES_MAX_MERGED + 1))
    made = child_of(parents, (), hlc=900, node=900, **body("x"))
    assert all(is_in_past(Version(parent.hlc, parent.node), made) for parent in parents)
    assert len(vector_of(made)) == LEAVES_MAX_MERGED + 1
    assert unpack_leaves(pack_leaves((made,))) == (made,)


def test_a_leaf_below_the_floor_of_another_is_kept_and_never_wins() -> None:
    floored = leaf(2, 500, A, "", vector={B: 400}, floor=300)
    below, above = leaf(9, 300, C), leaf(1, 301, C)
    assert merge_leaves((floored,), (below,)) == (floored, below)
    assert merge_leaves((floored,), (above,)) == (above, floored)


def test_excepted_versions_have_a_bound_and_covered_ones_go_first() -> None:
    # given: A edits the winner and the loser in turns and never resolves
    uncovered = leaf(1, 5, C)
    winner = leaf(2, 10, A, vector={C: 6}, excepted=((5, C),))
    loser = leaf(2, 9, A, "loser")
    hlc = 10
    for _ in range(EXCEPTED_MAX + 20):
        hlc += 2
        winner = child_of((winner,), (loser,), hlc=hlc, node=A, **body("w"))
        loser = child_of((loser,), (winner,), hlc=hlc + 1, node=A, **body("l"))
        # then: neither hides the other, and what no other leaf covers stays excepted
        assert len(merge_leaves((winner,), (loser,))) == 2
    assert winner.ancestry is not None
    assert len(winner.ancestry.excepted) == EXCEPTED_MAX
    assert winner.ancestry.excepted[-1] == (loser.hlc - 2, A)
    assert len(merge_leaves((winner,), (uncovered,))) == 2


# Winners and merging


def test_live_wins_before_deleted_then_generation_then_clock_then_node() -> None:
    ranked = (leaf(5, 9, B), leaf(4, 9, B), leaf(4, 8, C), leaf(4, 8, B), leaf(9, 99, A, ""))
    for order in permutations(ranked):
        assert winner_first(order) == ranked


def test_merging_returns_the_same_object_when_nothing_changes() -> None:
    one = (leaf(1, 5, A),)
    two = merge_leaves(one, (leaf(1, 6, B),))
    assert merge_leaves(one, (leaf(1, 5, A),)) is one
    assert merge_leaves(one, (leaf(1, 4, A),)) is one
    assert merge_leaves(two, one) is two
    assert merge_leaves(two, tuple(two)) is two
    assert merge_leaves(one, two) is two


versions = st.tuples(st.integers(1, 40), st.integers(1, 4))


@st.composite
def any_leaf(draw: st.DrawFn) -> Leaf:
    """A leaf that unpack_leaves takes, true or forged."""
    hlc, node = draw(versions)
    older = st.integers(0, hlc - 1)
    vector = {n: h for n, h in draw(st.dictionaries(st.integers(1, 4), older)).items() if n != node}
    reach = {**vector, node: hlc}
    beside = draw(st.sets(st.tuples(older, st.integers(1, 4))))
    excepted = tuple(sorted(version for version in beside if version[0] <= reach.get(version[1], -1)))
    floor = draw(st.integers(0, hlc - 1)) if draw(st.booleans()) else 0
    text = draw(st.sampled_from(["", "x", "yy"]))
    generation = draw(st.integers(1, 3))
    return leaf(generation, hlc, node, text, vector=vector or None, excepted=excepted, floor=floor)


@given(st.lists(any_leaf(), min_size=1, max_size=6), st.lists(any_leaf(), min_size=1, max_size=6))
def test_even_forged_leaves_merge_alike_on_all_nodes_and_never_away(some: list[Leaf], more: list[Leaf]) -> None:
    ours = merge_leaves(tuple(some), tuple(some[:1]))
    theirs = merge_leaves(tuple(more), tuple(more[:1]))
    merged = merge_leaves(ours, theirs)
    assert merged
    assert merged == merge_leaves(theirs, ours)
    assert merge_leaves(merged, merged) is merged


def test_one_version_with_two_contents_becomes_the_same_on_all_nodes() -> None:
    forged, true = leaf(1, 5, A, "forged"), leaf(1, 5, A, "true")
    assert merge_leaves((forged,), (true,)) == merge_leaves((true,), (forged,))
    assert len(merge_leaves((forged,), (true,))) == 1


def test_merging_keeps_64_leaves_and_the_winner_among_them() -> None:
    full = winner_first(leaf(1, 100 + node, node) for node in range(LEAVES_MAX_MERGED))
    better, worse = leaf(2, 50, 900), leaf(1, 50, 900)
    assert merge_leaves(full, (better,)) == (better, *full[:-1])
    assert merge_leaves(full, (worse,)) is full
    assert LEAVES_MAX_PUSHED == 8


def test_equal_bodies_are_no_conflict_and_tombstones_are_equal() -> None:
    assert is_body_equal(leaf(1, 5, A, "same"), leaf(3, 9, B, "same"))
    assert is_body_equal(leaf(1, 5, A, ""), leaf(3, 9, B, ""))
    assert not is_body_equal(leaf(1, 5, A, ""), leaf(3, 9, B, "x"))
    assert not is_body_equal(leaf(1, 5, A, "x"), leaf(1, 5, A, "x")._replace(size=2))


def test_conflicts_are_the_losers_that_differ() -> None:
    winner, twin, other, other_twin, gone = (
        leaf(5, 9, A, "w"), leaf(4, 9, B, "w"), leaf(3, 9, C, "o"), leaf(2, 9, 4, "o"), leaf(2, 9, 5, ""),
    )
    assert conflicts_of((winner,)) == ()
    assert conflicts_of((winner, twin, other, other_twin, gone)) == (other,)


# What a save means: the table "savedoc" of DESIGN §2

WINNER = leaf(3, 30, A, "winner", vector={B: 20}, excepted=((25, A),))
LOSER = leaf(2, 25, A, "loser")
TWIN = leaf(1, 28, C, "winner")
GONE = leaf(3, 30, A, "")
OLDER = Rev(1, 10, A)


def decide(leaves: Leaves | None, rev: Rev | None, text: str = "new", **how: bool) -> SaveDecision:
    return decide_save(leaves, rev, digest=body(text)["digest"], size=len(text), **how)


def rev_of(known: Leaf) -> Rev:
    return Rev(*known[:3])


def test_the_current_winners_rev_makes_a_child_of_it() -> None:
    assert decide((WINNER,), rev_of(WINNER)) == SaveDecision(SaveKind.CHILD, (WINNER,))
    assert decide((WINNER, LOSER), rev_of(WINNER)) == SaveDecision(SaveKind.CHILD, (WINNER,), (LOSER,))


@pytest.mark.parametrize("branch", [False, True])
@pytest.mark.parametrize("rev", [rev_of(WINNER), None])
def test_the_winners_rev_or_none_with_the_same_body_is_no_change(rev: Rev | None, branch: bool) -> None:
    decision = decide((WINNER, LOSER), rev, "winner", branch=branch)
    assert decision.kind is SaveKind.NO_CHANGE
    assert decision.leaf is WINNER


@pytest.mark.parametrize("is_malformed", [False, True])
def test_none_or_a_malformed_rev_of_an_unknown_id_is_a_new_record(is_malformed: bool) -> None:
    assert decide(None, None, is_malformed=is_malformed) == SaveDecision(SaveKind.NEW)


def test_a_well_formed_rev_of_an_unknown_id_goes_on_from_its_generation_and_claims_no_ancestry() -> None:
    decision = decide(None, Rev(7, 50, B))
    made = child_of(
        decision.parents, decision.others, hlc=60, node=A, **body("x"), generation_floor=decision.generation_floor
    )
    assert decision.kind is SaveKind.NEW
    assert made == leaf(8, 60, A, "x")


def test_no_rev_over_a_tombstone_is_its_child() -> None:
    other_gone = leaf(2, 29, B, "")
    assert decide((GONE,), None) == SaveDecision(SaveKind.CHILD, (GONE,))
    assert decide((GONE, other_gone), None) == SaveDecision(SaveKind.CHILD, (GONE, other_gone))
    assert decide((GONE,), rev_of(GONE)) == SaveDecision(SaveKind.CHILD, (GONE,))


def test_an_empty_body_over_a_tombstone_is_still_a_save() -> None:
    assert decide_save((GONE,), None, digest=NO_DIGEST, size=0).kind is SaveKind.CHILD


FORGED = {
    "its clock": Rev(3, 31, A), "its node": Rev(3, 30, B), "its generation": Rev(2, 30, A),
    "a node never heard of": Rev(1, 10, 77), "a generation too high for its clock": Rev(3, 10, A),
    "the excepted version with a higher generation": Rev(3, 25, A),
}


@pytest.mark.parametrize("branch", [False, True])
@pytest.mark.parametrize("rev", FORGED.values(), ids=list(FORGED))
def test_a_rev_that_this_index_does_not_know_is_a_conflict(rev: Rev, branch: bool) -> None:
    decision = decide((WINNER, LOSER), rev, branch=branch)
    assert decision.kind is SaveKind.CONFLICT
    assert "no such revision" in decision.reason


CONFLICTS: dict[str, tuple[Rev | None, str, dict[str, bool], str]] = {
    "none": (None, "new", {}, "names no revision"),
    "none, with branch": (None, "new", {"branch": True}, "names no revision"),
    "none, a loser's body": (None, "loser", {}, "names no revision"),
    "malformed": (None, "new", {"is_malformed": True}, "malformed"),
    "malformed, same body": (None, "winner", {"is_malformed": True, "branch": True}, "malformed"),
    "older": (OLDER, "new", {}, "superseded"),
    "older, same body": (OLDER, "winner", {}, "superseded"),
    "a loser's": (rev_of(LOSER), "new", {}, "lost against"),
}


@pytest.mark.parametrize(("rev", "text", "how", "reason"), CONFLICTS.values(), ids=list(CONFLICTS))
def test_a_rev_of_a_known_id_that_may_not_be_followed_is_a_conflict(
    rev: Rev | None, text: str, how: dict[str, bool], reason: str
) -> None:
    decision = decide((WINNER, LOSER), rev, text, **how)
    assert decision.kind is SaveKind.CONFLICT
    assert reason in decision.reason
    assert decision.parents == decision.others == ()


def test_with_branch_an_older_revision_is_followed_beside_all_leaves() -> None:
    decision = decide((WINNER, LOSER), OLDER, branch=True)
    assert decision == SaveDecision(SaveKind.CHILD, (), (WINNER, LOSER), generation_floor=2)


def test_with_branch_an_older_revision_is_known_at_the_highest_generation_too() -> None:
    capped = leaf(GENERATION_MAX, 30, A)
    assert decide((capped,), Rev(GENERATION_MAX, 10, A), branch=True).kind is SaveKind.CHILD
    assert decide((capped,), Rev(GENERATION_MAX, 10, A)).reason == "the revision was superseded by a newer one"


def test_with_branch_a_loser_is_followed_beside_the_winner() -> None:
    assert decide((WINNER, LOSER), rev_of(LOSER), branch=True) == SaveDecision(SaveKind.CHILD, (LOSER,), (WINNER,))


def test_a_branch_saved_twice_is_one_concurrent_revision() -> None:
    again = decide((WINNER, LOSER), OLDER, "loser", branch=True)
    assert (again.kind, again.leaf) == (SaveKind.NO_CHANGE, LOSER)


def test_leaves_with_equal_bodies_are_both_parents_of_the_next_save_and_either_rev_is_current() -> None:
    leaves = (WINNER, TWIN, LOSER)
    for rev in (rev_of(WINNER), rev_of(TWIN)):
        assert decide(leaves, rev) == SaveDecision(SaveKind.CHILD, (WINNER, TWIN), (LOSER,))
        assert decide(leaves, rev, "winner").leaf is WINNER
