"""Whose turn it is to merge a conflict, so that nodes that merge on their own come to an end together.

Every node with a merge function sees the same leaves sooner or later. If all merged at once with functions that do not
agree, their merges would be the next conflict, and so on. So who wrote the winner merges at once, the others wait in
the order of their leaves, and every merge of ours that met another one doubles our wait. Whatever the delay between
two nodes, the waits outgrow it: one merge reaches the others before their turn. Pure: no clock, no randomness.
"""

from __future__ import annotations

from hashlib import blake2b

from mynosql.revision import is_in_past
from mynosql.row import Leaves, Version

TURN_S = 0.1
"""One turn at first: a few times what a change needs to another node in a local network and onto its disk."""
DOUBLINGS_MAX = 20
"""A turn grows to a day at most: a merge that is still unknown then is in another partition."""
_OUTSIDERS = 16
"""Nodes that wrote no leaf come last, spread over so many places by their node id."""


def merge_delay_s(leaves: Leaves, node: int, merges: int) -> float:
    """How many seconds the node waits, from when it learned of these leaves, before it merges them if they still are.

    leaves: of one record, winner first. merges: how often it merged in vain before, see competing_merges.
    """
    writers = list(dict.fromkeys(leaf.node for leaf in leaves if not leaf.deleted))
    spread = _spread(node, leaves) / _OUTSIDERS
    turn_s = TURN_S * 2.0 ** min(merges, DOUBLINGS_MAX)
    if node in writers:
        place = writers.index(node)
        # Two merges at first only by nodes that know different leaves: then their clocks should not stay in step.
        return turn_s * (2 * place + (spread if merges else 0))
    return turn_s * 2 * (len(writers) + 2 * spread)


def competing_merges(leaves: Leaves, merged: Version, merges: int) -> int:
    """How many of our merges count as met by others' ones, now that the record is in conflict again.

    merged: the version of our last merge; merges: how many counted then, that one included. Once every leaf descends
    from it all have accepted it, and one counts no more: conflicts that come one after another leave at most one. Not
    none at once: others who merged our merge may still compete with each other, and we would be early again.
    """
    is_accepted = all((leaf.hlc, leaf.node) != tuple(merged) and is_in_past(merged, leaf) for leaf in leaves)
    return max(merges - 1, 0) if is_accepted else merges


def _spread(node: int, leaves: Leaves) -> int:
    """A number below _OUTSIDERS that differs between nodes, and for each node between conflicts."""
    winner = leaves[0]
    seed = b"".join(part.to_bytes(8, "big") for part in (node, winner.hlc, winner.node))
    return blake2b(seed, digest_size=1).digest()[0] % _OUTSIDERS
