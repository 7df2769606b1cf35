"""Bodies that no other mirror holds, asked of the peers that this mirror serves: they hold what they read or wrote.

Owns which ids are asked of whom. A body comes in pieces, as large ones of a Push do, and is applied by the ordinary
rules. What is obeyed stands in docs/PROTOCOL.md, "Filling". Pure; driven by filling.Filler.
"""

from __future__ import annotations

from collections import deque
from functools import partial

from mynosql.row import Leaf, Row
from mynosql.sync import effects as fx
from mynosql.sync.hub import Hub
from mynosql.sync.pieces import Transfer
from mynosql.sync.receiving import held_leaves

BORROWED_MAX = 8
"""Ids asked for at a time: this is for the few that damage hit, and no first sync."""
WAITING_MAX = 1000
"""More are found again by the next scan."""


class Loan:
    """One id whose missing bodies are asked for, leaf by leaf and peer by peer."""

    def __init__(self, id_key: bytes) -> None:
        self.id_key = id_key
        self.leaves: tuple[Leaf, ...] = ()
        self.missing: deque[Leaf] = deque()
        self.links: deque[fx.Link] = deque()
        """Who was not asked for the first of the missing yet."""
        self.transfer: Transfer | None = None


class Borrower:
    """The ids that are asked of peers."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._loans: dict[bytes, Loan] = {}
        self._waiting: dict[bytes, None] = {}

    def stop(self) -> None:
        """This node is a mirror no more."""
        for loan in self._loans.values():
            if loan.transfer is not None:
                self._hub.pieces.cancel(loan.transfer)
        self._loans.clear()
        self._waiting.clear()

    def want(self, id_key: bytes) -> None:
        """No mirror that can be reached holds it."""
        if id_key not in self._loans and len(self._waiting) < WAITING_MAX and self._hub.server.peer_links():
            self._waiting[id_key] = None
            self._begin_next()

    def _begin_next(self) -> None:
        while self._waiting and len(self._loans) < BORROWED_MAX:
            id_key = next(iter(self._waiting))
            del self._waiting[id_key]
            loan = self._loans[id_key] = Loan(id_key)
            self._hub.ask(
                lambda token, key=id_key: fx.ReadBodies(  # type: ignore[misc]
                    token=token, id_keys=(key,), body_bytes_max=0, bytes_max=1,
                ),
                partial(self._on_held, loan),
            )

    def _on_held(self, loan: Loan, result: fx.Held | fx.Failed) -> None:
        found = result.rows[0] if isinstance(result, fx.Held) and result.rows else None
        if found is not None:
            loan.leaves = found.row.leaves
            held = held_leaves(found)
            loan.missing.extend(leaf for leaf in loan.leaves if not leaf.deleted and leaf not in held)
        self._next_leaf(loan)

    def _next_leaf(self, loan: Loan) -> None:
        if not loan.missing:
            self._loans.pop(loan.id_key, None)
            self._begin_next()
            return
        loan.links.extend(self._hub.server.peer_links())
        self._next_link(loan)

    def _next_link(self, loan: Loan) -> None:
        if not loan.links:
            loan.missing.popleft()
            self._next_leaf(loan)
            return
        link, leaf = loan.links.popleft(), loan.missing[0]
        loan.transfer = Transfer(loan.id_key, leaf, partial(self._on_body, loan, leaf))
        self._hub.pieces.begin(loan.transfer, link)

    def _on_body(self, loan: Loan, leaf: Leaf, body: bytes | None) -> None:
        loan.transfer = None
        if self._loans.get(loan.id_key) is not loan:
            return
        if body is None:
            self._next_link(loan)
            return
        bodies = tuple(body if found == leaf else None for found in loan.leaves)
        self._hub.ask(
            lambda token: fx.Apply(token=token, rows=(Row(loan.id_key, loan.leaves, bodies),), origin=fx.Origin.FETCH),
            partial(self._on_applied, loan),
        )

    def _on_applied(self, loan: Loan, result: fx.Applied | fx.Failed) -> None:
        """What does not match its digest was refused: the next peer is asked."""
        if isinstance(result, fx.Failed) or result.refused:
            self._next_link(loan)
            return
        self._hub.publisher.on_relayed(result, None)
        self._hub.filler.want((loan.id_key,))  # whether all is here now it finds out itself
        loan.links.clear()
        loan.missing.popleft()
        self._next_leaf(loan)
