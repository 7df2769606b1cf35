"""Whole nodes in one process on loopback: a mirror, peers, and proxies between them that can be cut."""

from __future__ import annotations

from functools import partial
from typing import Any

import mynosql
from tests.waiting import wait_until

SETTLE_DEADLINE_S = 20.0


def is_connected(db: mynosql.MyNoSQL) -> bool:
    """The peer follows a mirror and has a complete index."""
    status = db.syncstatus()
    return status.mirror is not None and status.behind == 0 and status.as_of is not None


def wait_connected(*nodes: mynosql.MyNoSQL) -> None:
    for node in nodes:
        wait_until(partial(is_connected, node), SETTLE_DEADLINE_S, lambda n=node: f"following: {n.syncstatus()}")


def revs(db: mynosql.MyNoSQL) -> dict[Any, str]:
    """Every live id with its winning revision, from the index alone."""
    return {id: str(db.docinfo(id).rev) for id in db.listdocs()}


def leaves(db: mynosql.MyNoSQL, id: Any) -> tuple[str | None, tuple[str, ...]]:
    """The winner's rev and the losers' revs of one id."""
    return db.docinfo(id).rev, tuple(conflict.rev for conflict in db.getconflicts(id, timeout=0))


def wait_equal(*nodes: mynosql.MyNoSQL, ids: Any = None) -> None:
    """All nodes name the same records at the same revisions, with the same losers, and owe nothing."""

    def state(node: mynosql.MyNoSQL) -> Any:
        return {id: leaves(node, id) for id in (ids if ids is not None else node.listdocs())}

    def are_equal() -> bool:
        if any(node.pendingdocs() for node in nodes if node.getdbmode() == "Peer"):
            return False
        first, *others = map(state, nodes)
        return all(other == first for other in others)

    wait_until(are_equal, SETTLE_DEADLINE_S, lambda: "equal nodes: " + "; ".join(str(state(n))[:400] for n in nodes))
