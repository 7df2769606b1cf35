"""Nodes that merge the same conflict on their own come to an end, whatever the delay between them."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable

import pytest

from mynosql.revision import conflicts_of
from mynosql.row import Leaf, Leaves, Version
from mynosql.turns import DOUBLINGS_MAX, TURN_S, competing_merges, merge_delay_s
from tests.histories import World, leaf

Delay = Callable[[Leaves, int, int], float]


class Mergers:
    """Nodes that all merge, each with a function of its own that never agrees with another's, in virtual time."""

    def __init__(self, seed: int, nodes: int, latency_s: float, *, delay: Delay, mergers: int | None = None) -> None:
        self.rng = random.Random(seed)
        self.world = World(nodes)
        self.latency_s = latency_s
        self.delay = delay
        self.mergers = nodes if mergers is None else mergers
        self.merges = 0
        self.now = 0.0
        self.ended_at = 0.0
        """When the last revision was known everywhere."""
        self.counts = [(Version(0, 0), 0)] * nodes
        self.turns = [0] * nodes
        """Number of the turn that each node waits for; an older one is void."""
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def at(self, due: float, call: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self.events, (due, self._number, call))

    def tell_all(self, node: int) -> None:
        leaves = self.world.leaves[node]
        for other in range(len(self.world.leaves)):
            if other != node:
                self.at(self.now + self.latency_s * self.rng.uniform(0.2, 1.0), lambda o=other: self.hear(o, leaves))  # type: ignore[misc]

    def hear(self, node: int, leaves: Leaves | None) -> None:
        before = self.world.leaves[node]
        self.world.hear(node, leaves)
        if self.world.leaves[node] != before:
            self.ended_at = self.now
            self.look(node)

    def look(self, node: int) -> None:
        self.turns[node] += 1
        leaves = self.world.leaves[node]
        assert leaves is not None
        if node >= self.mergers or not conflicts_of(leaves):
            return
        turn = self.turns[node]
        version, count = self.counts[node]
        wait_s = self.delay(leaves, node, competing_merges(leaves, version, count))
        self.at(self.now + wait_s, lambda: self.merge(node, turn))

    def merge(self, node: int, turn: int) -> None:
        if turn != self.turns[node]:
            return
        seen = self.world.leaves[node]
        assert seen is not None
        self.merges += 1
        version, count = self.counts[node]
        made = self.world.cover(node, 1000 + self.merges)
        self.counts[node] = made, competing_merges(seen, version, count) + 1
        self.look(node)
        self.tell_all(node)

    def start(self, edits: int) -> None:
        """One record that everybody knows, edited apart by that many nodes."""
        self.world.save(0, 1)
        self.world.meet()
        for node in range(edits):
            self.world.save(node, 2 + node)
        for node in range(edits):
            self.tell_all(node)

    def run(self, merges_max: int = 1000) -> None:
        while self.events and self.merges < merges_max:
            self.now, _, call = heapq.heappop(self.events)
            call()

    @property
    def is_over(self) -> bool:
        return not self.events and len(set(self.world.leaves)) == 1 and not conflicts_of(self.world.leaves[0] or ())


LATENCIES_S = [0.001, 0.1, 1.0, 10.0, 100.0, 1000.0]


@pytest.mark.parametrize("latency_s", LATENCIES_S)
def test_merges_that_never_agree_end_whatever_the_delay_between_the_nodes(latency_s: float) -> None:
    most = 0
    for seed in range(60):
        mergers = Mergers(seed, nodes := 2 + seed % 7, latency_s, delay=merge_delay_s)
        mergers.start(edits=2 + seed % (nodes - 1))
        mergers.run()
        assert mergers.is_over, f"seed {seed}: {mergers.merges} merges and no end"
        assert len(mergers.world.leaves[0] or ()) == 1
        most = max(most, mergers.merges / nodes)
    doublings = max(0.0, math.log2(latency_s / TURN_S))
    assert most <= doublings + 4, "each node merges once per doubling at most, and a few times more"


@pytest.mark.parametrize("latency_s", LATENCIES_S)
def test_the_end_comes_within_a_few_times_the_delay(latency_s: float) -> None:
    for seed in range(30):
        mergers = Mergers(seed, 3, latency_s, delay=merge_delay_s)
        mergers.start(edits=3)
        mergers.run()
        assert mergers.ended_at <= 20 * (latency_s + TURN_S), f"seed {seed}"


def test_where_all_hear_within_a_turn_one_merge_is_enough() -> None:
    for seed in range(30):
        mergers = Mergers(seed, 5, TURN_S / 2, delay=merge_delay_s)
        mergers.start(edits=2)
        mergers.run()
        assert mergers.is_over
        assert mergers.merges == 1, f"seed {seed}"


def test_without_turns_they_merge_each_others_merges_for_ever() -> None:
    mergers = Mergers(1, 3, 1.0, delay=lambda leaves, node, merges: 0.0)
    mergers.start(edits=3)
    mergers.run()
    assert not mergers.is_over
    assert mergers.merges >= 1000


def test_without_doubling_a_delay_longer_than_a_turn_does_not_end() -> None:
    mergers = Mergers(1, 3, 100.0, delay=lambda leaves, node, merges: merge_delay_s(leaves, node, 0))
    mergers.start(edits=3)
    mergers.run()
    assert not mergers.is_over


def test_nodes_that_wrote_nothing_merge_when_the_writers_have_no_function() -> None:
    for seed in range(30):
        mergers = Mergers(seed, 6, 1.0, delay=merge_delay_s, mergers=3)
        mergers.world.save(0, 1)
        mergers.world.meet()
        for node in (4, 5):
            mergers.world.save(node, node)
            mergers.tell_all(node)
        mergers.run()
        assert mergers.is_over, f"seed {seed}"


# The order of turns


A, B = leaf(2, 20, 1, "red"), leaf(2, 10, 2, "blue")


def test_the_writer_of_the_winner_is_first_then_the_other_writers_then_the_rest() -> None:
    delays = [merge_delay_s((A, B), node, 0) for node in (1, 2, 3, 4, 5)]
    assert delays[0] == 0.0
    assert delays[1] == 2 * TURN_S
    assert all(4 * TURN_S <= delay < 8 * TURN_S for delay in delays[2:])
    assert len(set(delays[2:])) > 1, "spread by node"


def test_each_merge_in_vain_doubles_the_turn_up_to_a_day() -> None:
    assert merge_delay_s((A, B), 2, 3) >= 8 * 2 * TURN_S
    assert merge_delay_s((A, B), 2, DOUBLINGS_MAX) == merge_delay_s((A, B), 2, 5 * DOUBLINGS_MAX) > 86_400


def test_a_merge_that_all_leaves_descend_from_is_accepted_and_one_counts_no_more() -> None:
    ours = Version(30, 1)
    later = (leaf(4, 40, 2, "x", vector={1: 30}), leaf(4, 35, 3, "y", vector={1: 30}))
    assert competing_merges(later, ours, 5) == 4
    assert competing_merges(later, ours, 1) == competing_merges(later, ours, 0) == 0
    beside: tuple[Leaf, ...] = (leaf(4, 40, 2, "x", vector={1: 30}), leaf(3, 34, 3, "y"))
    assert competing_merges(beside, ours, 5) == 5
    assert competing_merges((leaf(3, 30, 1, "x"), leaf(3, 34, 3, "y", vector={1: 30})), ours, 5) == 5, "a leaf itself"


def test_a_conflict_of_long_ago_does_not_slow_down_the_next_one() -> None:
    mergers = Mergers(1, 2, 0.01, delay=merge_delay_s)
    mergers.start(edits=2)
    mergers.run()
    for round in range(20):
        for node in (0, 1):
            mergers.world.save(node, 100_000 + 10 * round + node)
            mergers.tell_all(node)
        mergers.run()
        assert mergers.is_over
    assert mergers.now < 21 * 4 * TURN_S
    assert max(count for _, count in mergers.counts) == 1
