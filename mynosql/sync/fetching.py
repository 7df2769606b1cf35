"""Fetching records from mirrors: for a reader that waits, or for a mirror that fills. Batches, next mirror, deadline.

Owns the queries: which id is asked of whom, who has been asked in vain, who waits for it. An answer is applied by the
ordinary rules before anybody is told. The rules stand in docs/PROTOCOL.md, "Fetch". Pure; driven by node.Node.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from mynosql.address import Address
from mynosql.errors import PeerError
from mynosql.revision import is_in_past
from mynosql.row import Row, Version
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.dialling import Dialled, Loss, Purpose
from mynosql.sync.hub import Hub
from mynosql.sync.pieces import Transfer
from mynosql.sync.receiving import bare_leaves

HELPERS_MAX = 2
"""Conversations that a peer begins only to fetch, at any time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One read that waits for a mirror."""

    request: int
    id_key: bytes
    deadline: float
    confirm: bool = False
    """The caller asks whether the id exists: the first full mirror's "no" is the answer."""
    version: Version | None = None
    """The winner that the index named when the read began: an answer that does not cover it is too old."""
    all_leaves: bool = False
    """The bodies of all leaves are wanted, not only the winner's: what one mirror lacks is asked of the next."""


class Query:
    """One id that is wanted, by readers or by the filler."""

    def __init__(self, id_key: bytes) -> None:
        self.id_key = id_key
        self.wants: list[Wanted] = []
        self.is_fill = False
        self.tried: set[int] = set()
        """Nodes that did not have it, or not new enough."""
        self.has_absent = False
        self.side: Side | None = None
        self.row: Row | None = None
        """The answer, while its large bodies are coming."""
        self.large: deque[int] = deque()
        """Leaves of `row` whose bodies are still to come."""
        self.transfer: Transfer | None = None
        self.parts: dict[Version, bytearray] = {}
        """What came of a large body before its mirror was lost."""

    @property
    def is_wanted(self) -> bool:
        return self.is_fill or bool(self.wants)


class Side:
    """What is asked of one mirror."""

    def __init__(self, dialled: Dialled) -> None:
        self.dialled = dialled
        self.queue: deque[Query] = deque()
        self.flight: dict[int, dict[bytes, Query]] = {}
        """Per request: the ids that it has not answered yet."""
        self.used_at = 0.0

    @property
    def load(self) -> int:
        return len(self.queue) + sum(map(len, self.flight.values()))


class Fetcher:
    """All that this node fetches."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._queries: dict[bytes, Query] = {}
        self._by_request: dict[int, Query] = {}
        self._sides: dict[Dialled, Side] = {}
        self._waiting: dict[bytes, Query] = {}
        """Queries that nobody can be asked for just now."""
        self._helpers_failed: dict[Address, float] = {}
        self._is_held = False

    @property
    def is_hopeful(self) -> bool:
        """A fetch may succeed: a mirror is ready, or the first attempt at one is under way."""
        return bool(self._hub.dials.ready()) or self._hub.strategy.is_hopeful

    # Asking

    def fetch(self, wanted: Iterable[Wanted]) -> None:
        """FetchDone follows for each, at its deadline at the latest."""
        hub = self._hub
        for want in wanted:
            query = self._queries.get(want.id_key)
            is_new = query is None
            if query is None:
                query = self._queries[want.id_key] = Query(want.id_key)
            query.wants.append(want)
            self._by_request[want.request] = query
            hub.timers.set(("fetch", want.request), want.deadline, partial(self._on_deadline, want))
            if is_new:
                self._assign(query)
        self._flush()

    def fill(self, id_keys: Iterable[bytes]) -> None:
        """hub.filler.on_filled or on_not_filled follows for each."""
        for id_key in id_keys:
            query = self._queries.get(id_key)
            if query is not None:
                query.is_fill = True
                continue
            query = self._queries[id_key] = Query(id_key)
            query.is_fill = True
            self._assign(query)
        self._flush()

    def cancel(self, request: int) -> None:
        """Nobody waits for that any more; no FetchDone follows."""
        query = self._by_request.pop(request, None)
        self._hub.timers.cancel(("fetch", request))
        if query is not None:
            query.wants = [want for want in query.wants if want.request != request]
            if not query.is_wanted:
                self._forget(query)

    def hold(self) -> None:
        """Every conversation is about to end and to begin anew: what they were asked waits until go_on()."""
        self._is_held = True

    def go_on(self) -> None:
        """They have begun anew; what waited is asked of whoever is there, or soon will be."""
        self._is_held = False
        self._assign_waiting()

    def stop(self) -> None:
        """Nobody waits any longer."""
        for query in list(self._queries.values()):
            query.is_fill = False
            for want in list(query.wants):
                self._done(query, want, fx.Outcome.UNAVAILABLE)
            self._forget(query)

    def _on_deadline(self, want: Wanted) -> None:
        self.cancel(want.request)
        self._hub.emit(fx.FetchDone(request=want.request, outcome=fx.Outcome.TIMEOUT))

    def _assign(self, query: Query) -> None:
        """The query waits for an answer of the best mirror that was not asked yet, or is over."""
        hub = self._hub
        query.side = query.row = None
        if self._is_held:
            self._waiting[query.id_key] = query
            return
        ready = [dialled for dialled in hub.dials.ready() if dialled.node not in query.tried]
        if ready:
            dialled = min(ready, key=self._rank)
            side = self._sides.get(dialled)
            if side is None:
                side = self._sides[dialled] = Side(dialled)
            query.side = side
            side.queue.append(query)
            self._waiting.pop(query.id_key, None)
        elif (query.tried and self._call_helper(query)) or (not query.tried and hub.strategy.is_hopeful):
            self._waiting[query.id_key] = query
        else:
            self._give_up(query)

    def _rank(self, dialled: Dialled) -> tuple[bool, bool, int]:
        hub = self._hub
        side = self._sides.get(dialled)
        is_filling = dialled.node is not None and hub.members.is_filling(dialled.node)
        return is_filling, dialled is not hub.strategy.followed, 0 if side is None else side.load

    def _give_up(self, query: Query) -> None:
        if query.has_absent:
            outcome = fx.Outcome.ABSENT
        else:
            outcome = fx.Outcome.NOT_HELD if query.tried else fx.Outcome.UNAVAILABLE
        for want in list(query.wants):
            self._done(query, want, outcome)
        self._forget(query)
        if query.is_fill:
            self._hub.filler.on_not_filled(query.id_key)

    def _done(self, query: Query, want: Wanted, outcome: fx.Outcome, row: Row | None = None) -> None:
        query.wants.remove(want)
        self._by_request.pop(want.request, None)
        self._hub.timers.cancel(("fetch", want.request))
        self._hub.emit(fx.FetchDone(request=want.request, outcome=outcome, row=row))

    def _forget(self, query: Query) -> None:
        if self._queries.get(query.id_key) is query:
            del self._queries[query.id_key]
        self._waiting.pop(query.id_key, None)
        if query.transfer is not None:
            self._hub.pieces.cancel(query.transfer)
            query.transfer = None
        if query.side is not None and query in query.side.queue:
            query.side.queue.remove(query)

    def _flush(self) -> None:
        for side in list(self._sides.values()):
            self._flush_side(side)

    def _flush_side(self, side: Side) -> None:
        hub, options = self._hub, self._hub.options
        while side.queue and len(side.flight) < options.fetches_in_flight:
            batch: dict[bytes, Query] = {}
            while side.queue and len(batch) < options.fetch_ids_max:
                query = side.queue.popleft()
                batch[query.id_key] = query
            request = hub.request()
            side.flight[request] = batch
            side.used_at = hub.now
            hub.send(side.dialled.link, ms.Fetch(request=request, id_keys=tuple(batch)))
            due = hub.now + hub.jitter(options.fetch_retry_s)
            hub.timers.set(("bodies", request), due, partial(self._on_no_answer, side, request))

    def _on_no_answer(self, side: Side, request: int) -> None:
        for query in side.flight.pop(request, {}).values():
            self._next_mirror(query, side.dialled)
        self._flush()

    # Answers

    def on_bodies(self, dialled: Dialled, message: ms.Bodies) -> None:
        """A part of the answer to one Fetch; what nobody asked (any more) is ignored."""
        side = self._sides.get(dialled)
        left = side.flight.get(message.request) if side is not None else None
        if side is None or left is None:
            return
        rows: list[Row] = []
        for item in message.items:
            query = left.pop(item.id_key, None)
            if query is None or self._queries.get(item.id_key) is not query:
                continue
            if item.row is not None and item.large:
                self._begin_large(query, dialled, item.row, item.large)
            elif item.row is not None and _brings_anything(item.row):
                rows.append(item.row)
            else:
                self._on_not_there(query, dialled, is_absent=item.status is ms.Status.ABSENT)
        if not left:
            del side.flight[message.request]
            self._hub.timers.cancel(("bodies", message.request))
        self._apply(dialled, rows)
        self._flush()

    def _on_not_there(self, query: Query, dialled: Dialled, *, is_absent: bool) -> None:
        if is_absent:
            query.has_absent = True
            for want in [want for want in query.wants if want.confirm]:
                self._done(query, want, fx.Outcome.ABSENT)
            if not query.is_wanted:
                self._forget(query)
                return
        self._gave_all(query, dialled)

    def _gave_all(self, query: Query, dialled: Dialled) -> None:
        """What that mirror has not it does not owe: what is left is no reason to tell it that we lack its feed."""
        if query.is_fill:
            self._hub.followers.settle_at(dialled, query.id_key)
        self._next_mirror(query, dialled)

    def _next_mirror(self, query: Query, dialled: Dialled) -> None:
        if self._queries.get(query.id_key) is query:
            if dialled.node is not None:
                query.tried.add(dialled.node)
            self._assign(query)

    def _apply(self, dialled: Dialled, rows: Sequence[Row]) -> None:
        if rows:
            given = tuple(rows)
            self._hub.ask(
                lambda token: fx.Apply(token=token, rows=given, origin=fx.Origin.FETCH),
                partial(self._on_applied, dialled, given),
            )

    def _on_applied(self, dialled: Dialled, rows: tuple[Row, ...], result: fx.Applied | fx.Failed) -> None:
        hub = self._hub
        refused = {row.id_key for row in rows} if isinstance(result, fx.Failed) else {
            refused.id_key for refused in result.refused
        }
        if isinstance(result, fx.Applied):
            hub.publisher.on_relayed(result, None)
            if not hub.is_mirror and dialled is not hub.strategy.followed:
                hub.outbox.on_elsewhere([row.id_key for row in rows])
            if hub.is_mirror and result.last_seq:  # leaves that were news, and that the asked mirror does not hold
                hub.filler.want(row.id_key for row in rows if bare_leaves(row))
            if result.refused:
                hub.fail(PeerError(f"{dialled.address}: {result.refused[0].text}"))
        for row in rows:
            query = self._queries.get(row.id_key)
            if query is None:
                continue
            if row.id_key in refused:
                query.parts.clear()
                self._next_mirror(query, dialled)
            else:
                self._on_row(query, dialled, row)
        self._flush()

    def _on_row(self, query: Query, dialled: Dialled, row: Row) -> None:
        if row.bodies[0] is not None or row.leaves[0].deleted:
            for want in [want for want in query.wants if not want.all_leaves]:
                version = want.version
                if version is None or any(is_in_past(version, leaf) for leaf in row.leaves):
                    self._done(query, want, fx.Outcome.FOUND, row)
        if not all(want.all_leaves for want in query.wants):
            # The winner is not held there, or older than what our index knew when the read began.
            self._next_mirror(query, dialled)
        elif query.is_wanted:  # the answer may be older than what we lack, or lack a leaf itself
            self._hub.ask(
                lambda token: fx.ReadBodies(token=token, id_keys=(query.id_key,), body_bytes_max=0, bytes_max=1),
                partial(self._on_checked, query, dialled, row),
            )
        else:
            self._end_fill(query)

    def _on_checked(self, query: Query, dialled: Dialled, row: Row, result: fx.Held | fx.Failed) -> None:
        """What is missing here still is asked of the next mirror."""
        held = result.rows[0] if isinstance(result, fx.Held) and result.rows else None
        if held is not None and held.held != (1 << len(held.row.leaves)) - 1:
            self._gave_all(query, dialled)
            self._flush()
        elif self._queries.get(query.id_key) is query:
            for want in list(query.wants):
                self._done(query, want, fx.Outcome.FOUND, row)
            self._end_fill(query)

    def _end_fill(self, query: Query) -> None:
        self._forget(query)
        if query.is_fill:
            self._hub.filler.on_filled(query.id_key)

    # Large bodies

    def _begin_large(self, query: Query, dialled: Dialled, row: Row, large: int) -> None:
        query.row = row
        query.large = deque(position for position in range(len(row.leaves)) if large >> position & 1)
        self._bring_next(query, dialled)

    def _bring_next(self, query: Query, dialled: Dialled) -> None:
        row = query.row
        assert row is not None
        if not query.large:
            query.row = None
            self._apply(dialled, [row])
            return
        leaf = row.leaves[query.large[0]]
        part = query.parts.setdefault(Version(leaf.hlc, leaf.node), bytearray())
        if len(part) == leaf.size:  # it came whole from a mirror that lacked another leaf
            self._on_body(query, dialled, bytes(part))
            return
        transfer = Transfer(query.id_key, leaf, partial(self._on_body, query, dialled))
        transfer.part = part
        query.transfer = transfer
        self._hub.pieces.begin(transfer, dialled.link)
        query.parts[Version(leaf.hlc, leaf.node)] = transfer.part

    def _on_body(self, query: Query, dialled: Dialled, body: bytes | None) -> None:
        query.transfer = None
        if body is None:
            if dialled.is_ready:  # else the side is lost, and on_lost finds the next mirror
                self._next_mirror(query, dialled)
                self._flush()
            return
        row = query.row
        assert row is not None
        position = query.large.popleft()
        bodies = list(row.bodies)
        bodies[position] = body
        query.row = row._replace(bodies=tuple(bodies))
        self._bring_next(query, dialled)

    # Mirrors that come and go

    def on_ready(self, dialled: Dialled) -> None:
        """That mirror can be asked, maybe after it was lost without anybody noticing."""
        self._helpers_failed.pop(dialled.address, None)
        self._leave(dialled)
        self._assign_waiting()

    def on_lost(self, dialled: Dialled, loss: Loss) -> None:
        if Purpose.FETCH in dialled.purposes:
            self._helpers_failed[dialled.address] = self._hub.now + self._hub.options.refused_retry_s
            self._hub.dials.release(dialled, Purpose.FETCH)
        self.on_closed(dialled)

    def on_closed(self, dialled: Dialled) -> None:
        """That mirror is asked nothing more; what it was asked is asked of another."""
        self._leave(dialled)
        self._assign_waiting()

    def _assign_waiting(self) -> None:
        for query in list(self._waiting.values()):
            self._assign(query)
        self._flush()

    def _leave(self, dialled: Dialled) -> None:
        side = self._sides.pop(dialled, None)
        if side is None:
            return
        for request in side.flight:
            self._hub.timers.cancel(("bodies", request))
        for query in list(self._queries.values()):
            if query.side is side:
                if query.transfer is not None:
                    self._hub.pieces.cancel(query.transfer)
                    query.transfer = None
                self._assign(query)

    def _call_helper(self, query: Query) -> bool:
        """True when another mirror is being dialled that may have it."""
        hub = self._hub
        if hub.is_mirror:
            return False
        helpers = [dialled for dialled in hub.dials if Purpose.FETCH in dialled.purposes]
        if any(not helper.is_ready for helper in helpers):
            return True
        for address in hub.members.candidates():
            found = hub.dials.find(address)
            if found is not None and (found.is_ready or found in helpers):
                continue
            if hub.members.node_at(address) in query.tried or self._helpers_failed.get(address, hub.now) > hub.now:
                continue
            if len(helpers) >= HELPERS_MAX:
                return False
            hub.dials.open(address, Purpose.FETCH)
            self._keep_helper(address)
            return True
        return False

    def _keep_helper(self, address: Address) -> None:
        hub = self._hub
        hub.timers.set(("helper", address), hub.now + hub.options.helper_s, partial(self._check_helper, address))

    def _check_helper(self, address: Address) -> None:
        hub = self._hub
        dialled = hub.dials.find(address)
        if dialled is None or Purpose.FETCH not in dialled.purposes:
            return
        side = self._sides.get(dialled)
        if dialled.is_ready and side is not None and (side.load or hub.now - side.used_at < hub.options.helper_s):
            self._keep_helper(address)
            return
        if not dialled.is_ready:
            self._helpers_failed[address] = hub.now + hub.options.refused_retry_s
        hub.dials.release(dialled, Purpose.FETCH)
        self.on_closed(dialled)


def _brings_anything(row: Row) -> bool:
    """At least one leaf of it is whole."""
    return len(bare_leaves(row)) < len(row.leaves)
