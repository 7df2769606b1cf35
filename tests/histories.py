"""One record on several nodes, with the true ancestors of every version beside what revision.py makes of them.

World holds both and can say which leaves must be there; random_history drives it from a seed, play from a transcript.
The rule that makes children is an argument, so that the tests can plant wrong ones and see them caught.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mynosql.clock import FOLLOW_MS_MAX, HybridClock
from mynosql.revision import SaveKind, child_of, decide_save, hlc_above, merge_leaves, parse_rev, rev_string
from mynosql.row import NO_DIGEST, Ancestry, Leaf, Leaves, Version

Rule = Callable[..., Leaf]


def body(text: str) -> dict[str, Any]:
    """deleted, size and digest of a leaf with that body; "" is a tombstone."""
    if not text:
        return {"deleted": True, "size": 0, "digest": NO_DIGEST}
    return {"deleted": False, "size": len(text), "digest": text.encode().rjust(8, b".")}


def leaf(
    generation: int, hlc: int, node: int, text: str = "text", *, vector: dict[int, int] | None = None,
    excepted: tuple[tuple[int, int], ...] = (), floor: int = 0,
) -> Leaf:
    ancestry = None
    if vector is not None or excepted or floor:
        entries = {**(vector or {}), node: hlc}
        ancestry = Ancestry(
            tuple(Version(entries[n], n) for n in sorted(entries)), tuple(Version(*v) for v in excepted), floor
        )
    return Leaf(generation, hlc, node, ancestry=ancestry, **body(text))


class World:
    """The leaves that each node knows, and the truth: all versions it has heard of with all their ancestors."""

    def __init__(self, nodes: int, *, rule: Rule = child_of) -> None:
        self.rule = rule
        self.leaves: list[Leaves | None] = [None] * nodes
        self.known: list[frozenset[Version]] = [frozenset()] * nodes
        self.past: dict[Version, frozenset[Version]] = {}
        self.revs: dict[Version, str] = {}
        self.clocks = [HybridClock() for _ in range(nodes)]
        self.now_ms = 0
        self.ahead_ms = [0] * nodes
        """How far each node's wall clock is wrong."""
        self.have_met = False

    def save(self, node: int, body: int, over: Version | None = None) -> Version | None:
        """The node's user saves over the winner, or with branch=True over that version; None: no change."""
        leaves = self.leaves[node]
        given = None
        if leaves is not None:
            given = parse_rev(rev_string(leaves[0]) if over is None else self.revs[over])
        digest = body.to_bytes(8, "big")
        decision = decide_save(leaves, given, branch=over is not None, digest=digest, size=1)
        if decision.kind is SaveKind.NO_CHANGE:
            return None
        assert decision.kind is not SaveKind.CONFLICT, decision.reason
        true_parents = [_version(leaf) for leaf in decision.parents] + ([over] if over else [])
        return self._add(node, decision.parents, decision.others, digest, true_parents, decision.generation_floor)

    def cover(self, node: int, body: int | None) -> Version:
        """The node's user resolves (with a body) or deletes (None) over every known leaf."""
        leaves = self.leaves[node]
        assert leaves is not None
        digest = NO_DIGEST if body is None else body.to_bytes(8, "big")
        return self._add(node, leaves, (), digest, [_version(leaf) for leaf in leaves], 1)

    def hear(self, node: int, leaves: Leaves | None) -> None:
        """The node merges leaves that another one sent."""
        ours = self.leaves[node]
        if leaves is None:
            return
        self.leaves[node] = leaves if ours is None else merge_leaves(ours, leaves)
        self.known[node] = self.known[node].union(*(self.past[_version(leaf)] for leaf in leaves))
        self.clocks[node].observe(max(leaf.hlc for leaf in leaves), self.now_ms + self.ahead_ms[node])

    def meet(self) -> None:
        """Every node hears of every other one, until nothing is new."""
        for _ in range(2):
            for node in range(len(self.leaves)):
                for other in range(len(self.leaves)):
                    self.hear(node, self.leaves[other])
        self.have_met = True

    def heads(self, node: int) -> set[Version]:
        """The node's leaves, as versions."""
        return {_version(leaf) for leaf in self.leaves[node] or ()}

    def true_heads(self, node: int) -> set[Version]:
        """The versions that the node has heard of and that are no ancestors of another of them."""
        known = self.known[node]
        ancestors: set[Version] = set()
        return set(known - ancestors.union(*(self.past[version] - {version} for version in known)))

    def _add(
        self, node: int, parents: Leaves, others: Leaves, digest: bytes, true_parents: Sequence[Version],
        generation_floor: int,
    ) -> Version:
        self.now_ms += 1
        hlc = self.clocks[node].next(self.now_ms + self.ahead_ms[node], hlc_above((*parents, *others)))
        deleted = digest == NO_DIGEST
        leaf = self.rule(
            parents, others, hlc=hlc, node=node, deleted=deleted, size=0 if deleted else 1, digest=digest,
            generation_floor=generation_floor,
        )
        version = _version(leaf)
        self.past[version] = frozenset({version}).union(*(self.past[parent] for parent in true_parents))
        self.revs[version] = rev_string(leaf)
        self.leaves[node] = merge_leaves(others, (leaf,)) if others else (leaf,)
        self.known[node] |= {version}
        return version


def _version(leaf: Leaf) -> Version:
    return Version(leaf.hlc, leaf.node)


# Random histories

ACTIONS = ("save", "branch from older", "branch from leaf", "resolve", "delete", "post", "receive", "exchange", "part")


def random_history(
    seed: int, *, rule: Rule = child_of, nodes: int = 4, steps: int = 40, parts: bool = False
) -> Iterator[World]:
    """Yields the world after every step, at last with all nodes met; every seed prefers other actions.

    parts: sometimes only some leaves of a set travel, as no honest node sends them.
    """
    rng = random.Random(seed)
    world = World(rng.randint(2, nodes), rule=rule)
    weights = [rng.random() for _ in ACTIONS]
    weights[-1] *= 2 * parts
    if rng.random() < 0.2:
        world.ahead_ms[0] = 2 * FOLLOW_MS_MAX
    bodies = rng.choice((3, 1000))
    mail: list[Leaves] = []
    for _ in range(rng.randint(3, steps)):
        _act(rng, world, rng.choices(ACTIONS, weights)[0], mail, rng.randint(1, bodies))
        yield world
    world.meet()
    yield world


def _act(rng: random.Random, world: World, action: str, mail: list[Leaves], body: int) -> None:
    node = rng.randrange(len(world.leaves))
    leaves = world.leaves[node]
    from_other = world.leaves[rng.randrange(len(world.leaves))]
    if action == "save":
        world.save(node, body)
    elif action == "receive":
        world.hear(node, rng.choice(mail) if mail else None)
    elif action == "exchange":
        world.hear(node, from_other)
    elif action == "part":
        if from_other is not None:
            world.hear(node, tuple(leaf for leaf in from_other if rng.random() < 0.5) or from_other[:1])
    elif leaves is None:
        return
    elif action == "branch from older":
        over = rng.choice(sorted(world.known[node]))
        # What came in parts may have left the node without a leaf that descends from it.
        given = parse_rev(world.revs[over])
        if decide_save(leaves, given, branch=True, digest=b"?", size=0).kind is not SaveKind.CONFLICT:
            world.save(node, body, over)
    elif action == "branch from leaf":
        world.save(node, body, _version(rng.choice(leaves)))
    elif action == "post":
        mail.append(leaves)
    else:
        world.cover(node, body if action == "resolve" else None)


def faults_of(seeds: range, *, rule: Rule = child_of, parts: bool = False) -> list[tuple[int, str]]:
    """Seeds of the histories that lost an edit or kept an ancestor, with what happened.

    While whole sets travel every node must be right after every step; with parts, when all have met.
    """
    faults = []
    for seed in seeds:
        for step, world in enumerate(random_history(seed, rule=rule, parts=parts)):
            if (world.have_met or not parts) and (fault := _fault_of(world)):
                faults.append((seed, f"step {step}: {fault}"))
                break
    return faults


def _fault_of(world: World) -> str:
    for node in range(len(world.leaves)):
        heads, true_heads = world.heads(node), world.true_heads(node)
        if heads != true_heads:
            return f"node {node} lost {true_heads - heads}, kept the ancestors {heads - true_heads}"
    return ""


# Transcripts

_LINE = re.compile(
    r"(?P<who>[A-Z]) (?P<what>saves over (?P<over>\w+)|hears (?P<whom>[A-Z])|saves|resolves|deletes) *-> (?P<then>.*)"
)


def play(transcript: str, *, rule: Rule = child_of) -> World:
    """Run a story line by line and compare the leaves that its node then knows, the winner first.

    A line: `A saves`, `A saves over b1` (branch=True), `A resolves`, `A deletes`, `A hears B`; then `-> a2 b1`. a1 is
    the first version that A makes; a deleted one is shown as `(a1)`.
    """
    world = World(5, rule=rule)
    names: dict[Version, str] = {}
    made = [0] * 5
    for body, line in enumerate(filter(None, map(str.strip, transcript.splitlines())), 1):
        match = _LINE.fullmatch(line)
        assert match is not None, f"not a line of a transcript: {line}"
        node = ord(match["who"]) - ord("A")
        version = None
        if match["whom"]:
            world.hear(node, world.leaves[ord(match["whom"]) - ord("A")])
        elif match["over"]:
            version = world.save(node, body, next(v for v, name in names.items() if name == match["over"]))
        elif match["what"] == "saves":
            version = world.save(node, body)
        else:
            version = world.cover(node, body if match["what"] == "resolves" else None)
        if version is not None:
            made[node] += 1
            names[version] = f"{match['who'].lower()}{made[node]}"
        leaves = world.leaves[node] or ()
        shown = " ".join(("({})" if leaf.deleted else "{}").format(names[_version(leaf)]) for leaf in leaves)
        assert shown == match["then"], f"{line}: the leaves are {shown}"
    return world
