"""Following the feed of a mirror: pull what is missing, take what is published, notice gaps, lost tails and silence.

Owns the cursor {index id, seq} of each mirror followed: it moves only with the rows that it counts, in one Apply. The
rules stand in docs/PROTOCOL.md, "Following". Pure; begun and ended by dialling.Dialled and its strategy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import partial

from mynosql.address import Address
from mynosql.errors import PeerError
from mynosql.row import Row
from mynosql.scope import Scope, added_to
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.comparing import VERSION as COMPARING_VERSION
from mynosql.sync.comparing import Comparing, Difference, Doubts, Pair
from mynosql.sync.dialling import Dialled
from mynosql.sync.hub import Hub
from mynosql.sync.memory import Cursor, highest_hlc_of
from mynosql.sync.receiving import bare_leaves
from mynosql.transitions import Transitions

WAITING_MAX = 4
"""Batches that wait while one is being applied; more are dropped and asked for again."""


class FollowState(Enum):
    """What our side of a feed does."""

    LISTENING = "listening"
    """Nothing is asked for: what is published, or told, goes on from what is here."""
    PULLING = "pulling"
    """A Pull waits for its Entries; what is applied meanwhile came before."""
    COMPARING = "comparing"
    """What both sides have is compared by ranges; whatever differs is applied, and a Pull goes on behind it."""
    RESTING = "resting"
    """Our store could not write: no Pull for a while."""
    ENDED = "ended"


class FollowCause(Enum):
    """What changes it."""

    PULL = "begin, gap, later seq, silence, more to come (Pull)"
    NO_ANSWER = "no answer (Pull again)"
    ENTRIES = "Entries"
    COMPARE = "met for the first time with many entries, or sums differ (Compare)"
    COMPARED = "differences found, or given up"
    CANNOT_WRITE = "our store cannot write"
    END = "the conversation ends"


FOLLOW_TRANSITIONS: Transitions[FollowState, FollowCause] = Transitions(FollowState.LISTENING, {
    (FollowState.LISTENING, FollowCause.PULL): FollowState.PULLING,
    (FollowState.PULLING, FollowCause.NO_ANSWER): FollowState.PULLING,
    (FollowState.PULLING, FollowCause.ENTRIES): FollowState.LISTENING,
    (FollowState.LISTENING, FollowCause.COMPARE): FollowState.COMPARING,
    (FollowState.COMPARING, FollowCause.COMPARED): FollowState.LISTENING,
    (FollowState.LISTENING, FollowCause.CANNOT_WRITE): FollowState.RESTING,
    (FollowState.PULLING, FollowCause.CANNOT_WRITE): FollowState.RESTING,
    (FollowState.RESTING, FollowCause.CANNOT_WRITE): FollowState.RESTING,
    (FollowState.RESTING, FollowCause.PULL): FollowState.PULLING,
    (FollowState.LISTENING, FollowCause.END): FollowState.ENDED,
    (FollowState.PULLING, FollowCause.END): FollowState.ENDED,
    (FollowState.COMPARING, FollowCause.END): FollowState.ENDED,
    (FollowState.RESTING, FollowCause.END): FollowState.ENDED,
})


@dataclass(slots=True)
class Catchup:
    """Prefixes that came into the scope, on their way to where the cursor stands. Outlives a conversation."""

    prefixes: Scope
    after: int = 0


class Follower:
    """Our side of the feed of one mirror, while a conversation with it is ready."""

    def __init__(self, hub: Hub, dialled: Dialled, card: ms.Card, heartbeat_ms: int) -> None:
        self._hub = hub
        self._dialled = dialled
        self._address = dialled.address
        self._card = card
        self.index_id = card.index_id
        self._scope = None if hub.is_mirror else hub.memory.scope
        self.cursor = self._cursor()
        self._catchup = self._find_catchup()
        self.head = card.head
        """The highest seq that it announced."""
        self._received = self.cursor.seq
        """All up to here is applied, being applied, or waits for that."""
        self.state = FOLLOW_TRANSITIONS.start
        self._request = 0
        """Of the last Pull."""
        self._rest_until = float("-inf")
        """No Pull before: our store could not write."""
        self._is_applying = False
        self._comparing: Comparing | None = None
        self._doubts = Doubts(hub, card, self._compare)
        self._waiting: deque[tuple[tuple[Row, ...], int]] = deque()
        self.is_caught_up = False
        self.has_caught_up = False
        self.is_bringing_bodies = False
        self._is_entries_only = not hub.is_mirror or hub.followers.is_any_caught_up()
        self._bare: dict[bytes, int] = {}
        """Rows of which a body is still to come here, with their seq there: a Report goes only up to before them."""
        self._is_all_bare = False
        """Too many of them to remember: Reports wait until nothing at all is missing."""
        self._reported = 0
        self._reported_at = float("-inf")
        self._heard_at = hub.now
        self._interval_s = heartbeat_ms / 1000
        self._publisher_port = card.publisher_port if self._scope is None else 0
        """0: nothing is subscribed to."""
        self._is_deaf = self._publisher_port == 0
        self._subscribed_at = hub.now

    def _cursor(self) -> Cursor:
        """Where the feed goes on: at the beginning when all of it is wanted, and only a part was taken in so far."""
        memory, index_id = self._hub.memory, self.index_id
        cursor = memory.cursors.get(index_id, Cursor(0, 0, self._card.node))
        if self._scope is None and index_id in memory.cursor_scopes:
            if cursor.seq:
                memory.restart_cursor(index_id)
            cursor = cursor._replace(seq=0)
        if not cursor.seq:
            memory.set_cursor_scope(index_id, self._scope)
        return cursor

    def _find_catchup(self) -> Catchup | None:
        """What the scope has gained since the cursor was moved, as far as it has come."""
        memory, followers = self._hub.memory, self._hub.followers
        old = memory.cursor_scopes.get(self.index_id)
        prefixes = () if self._scope is None or old is None else added_to(old, self._scope)
        found = followers.catchups.get(self.index_id)
        if found is None or found.prefixes != prefixes:
            found = Catchup(prefixes)
        if not prefixes:
            followers.catchups.pop(self.index_id, None)
            return None
        followers.catchups[self.index_id] = found
        return found

    def start(self) -> None:
        # Subscribe before the Pull: what is published after its answer was read then comes by itself.
        self._subscribe()
        self._listen_on()
        options = self._hub.options
        is_new = self.cursor.seq == 0 and self._scope is None
        if is_new and min(self._card.head, self._hub.durable) >= options.compare_count_min:
            self._compare()
        self._pull()

    def _move(self, cause: FollowCause) -> None:
        self.state = FOLLOW_TRANSITIONS.after(self.state, cause)

    @property
    def _is_closed(self) -> bool:
        return self.state is FollowState.ENDED

    @property
    def _is_asking(self) -> bool:
        return self.state in (FollowState.PULLING, FollowState.COMPARING)

    def close(self) -> None:
        self._move(FollowCause.END)
        if self._comparing is not None:
            self._comparing.close()
        for key in ("pull", "publisher", "report"):
            self._hub.timers.cancel((key, self._address))
        if self._publisher_port:
            self._hub.emit(fx.Unsubscribe(address=self._address))

    @property
    def behind(self) -> int:
        """Changes announced and not here yet."""
        return max(self.head - self.cursor.seq, 0)

    # Pull

    def _pull(self) -> None:
        if self.state in (FollowState.LISTENING, FollowState.RESTING) and self._hub.now >= self._rest_until:
            self._send_pull(FollowCause.PULL)

    def _send_pull(self, cause: FollowCause) -> None:
        hub = self._hub
        self._move(cause)
        self._request = hub.request()
        self._after = self._received if self._catchup is None else self._catchup.after
        with_bodies = not self._is_entries_only and hub.followers.may_bring_bodies(self)
        self.is_bringing_bodies = with_bodies
        hub.send(self._dialled.link, ms.Pull(
            request=self._request, index_id=self.index_id, after=self._after, with_bodies=with_bodies,
            prefixes=self._catchup.prefixes if self._catchup is not None else self._scope or (),
        ))
        hub.timers.set(("pull", self._address), hub.now + hub.jitter(hub.options.pull_retry_s), self._pull_again)

    def _pull_again(self) -> None:
        self._send_pull(FollowCause.NO_ANSWER)

    def on_entries(self, message: ms.Entries) -> None:
        if self.state is not FollowState.PULLING or message.request != self._request:
            return
        if message.index_id != self.index_id or message.after != self._after or message.last < message.after:
            raise PeerError(f"{self._address}: Entries that do not answer our Pull")
        if message.more and message.last == message.after:
            raise PeerError(f"{self._address}: Entries that promise more and bring nothing")
        self._move(FollowCause.ENTRIES)
        self._hub.timers.cancel(("pull", self._address))
        self.head = max(self.head, message.head)
        if self._catchup is not None:
            self._take_gained(self._catchup, message)
            return
        self._received = message.last
        if message.more:
            self._pull()  # before these are applied: the answer is on its way meanwhile
        self._take(message.rows, message.last)

    def _take_gained(self, catchup: Catchup, message: ms.Entries) -> None:
        """Rows of prefixes that the scope has gained: applied without moving the cursor, up to where it stands."""
        self._is_applying = True
        self._hub.ask(
            lambda token: fx.Apply(token=token, rows=message.rows, origin=fx.Origin.INDEX),
            partial(self._on_gained, catchup, message),
        )

    def _on_gained(self, catchup: Catchup, message: ms.Entries, result: fx.Applied | fx.Failed) -> None:
        self._is_applying = False
        if self._is_closed:
            return
        if isinstance(result, fx.Failed):
            self._on_failed()
            return
        catchup.after = message.last
        if message.last >= self.cursor.seq or not message.more:
            self._hub.memory.set_cursor_scope(self.index_id, self._scope)
            self._hub.followers.catchups.pop(self.index_id, None)
            self._catchup = None
        self._pull()

    # Publications

    def on_told(self, message: ms.Changes) -> None:
        """As on_changes, for a peer with a scope: the mirror tells it alone."""
        if self._scope is not None:
            self.on_changes(message)

    def on_changes(self, message: ms.Changes) -> None:
        if message.index_id != self.index_id:
            self._dialled.greet()
            return
        if self._scope is None:
            self._on_heard(self._interval_s)
        self.head = max(self.head, message.last)
        if message.last <= self._received or self._is_asking:
            return
        if message.first > self._received + 1 or len(self._waiting) >= WAITING_MAX:
            self._pull()
            return
        self._received = message.last
        self._take(message.rows, message.last)

    def on_heartbeat(self, message: ms.Heartbeat) -> None:
        hub = self._hub
        if message.index_id != self.index_id:
            self._dialled.greet()
            return
        self._on_heard(message.next_ms / 1000)
        self.head = max(self.head, message.head)
        hub.members.touch(self._card.node, is_filling=message.is_filling)
        if self.head > self._received:
            self._pull()
        elif self.is_caught_up:
            hub.announce(fx.Kind.CAUGHT_UP)
            is_idle = self.state is FollowState.LISTENING and not self._is_applying and not self._waiting
            if self._scope is None and message.head == self.cursor.seq and is_idle:
                self._doubts.check(message.total)

    # Comparing

    def _compare(self) -> None:
        """Find what differs by ranges; unless the other side does not know how."""
        if self._dialled.version >= COMPARING_VERSION and self.state is FollowState.LISTENING:
            self._move(FollowCause.COMPARE)
            self._comparing = Comparing(self._hub, self._dialled, self.index_id, self._on_compared)
            self._comparing.start()

    def on_sums(self, message: ms.Sums) -> None:
        if self._comparing is not None:
            self._comparing.on_sums(message)

    def on_found(self, message: ms.Found) -> None:
        if self._comparing is not None:
            self._comparing.on_found(message)

    def _on_compared(self, found: Difference | None) -> None:
        self._comparing = None
        self._move(FollowCause.COMPARED)
        if found is None:
            self._pull()
            return
        if self._is_applying or self._waiting:
            self._pull()  # what was found is older than what is being applied: it is found again, if it lasts
            return
        self._hub.outbox.on_compared(self._dialled, self.index_id, found)
        head = max(found.head, self.cursor.seq)
        self._received = max(self._received, head)
        self._waiting.append((found.rows, head))
        self._apply_next(is_compared=True)

    # Applying

    def _take(self, rows: tuple[Row, ...], last: int) -> None:
        self._waiting.append((rows, last))
        if not self._is_applying:
            self._apply_next()

    def _apply_next(self, *, is_compared: bool = False) -> None:
        """is_compared: the next rows are missing here, wherever the cursor stands."""
        if not self._waiting:
            self._on_all_applied()
            return
        rows, last = self._waiting.popleft()
        if last <= self.cursor.seq and not is_compared:
            self._apply_next()
            return
        hlc = max(self.cursor.hlc, highest_hlc_of(rows, self._card.node))
        cursor = Cursor(last, hlc, self._card.node, self._card.nonce)
        notes = self._hub.memory.cursor_note(self.index_id, cursor)
        if not is_compared:
            is_echo = self._hub.outbox.is_echo
            rows = tuple(row for row in rows if not is_echo(row))
        self._is_applying = True
        self._hub.ask(
            lambda token: fx.Apply(token=token, rows=rows, origin=fx.Origin.INDEX, notes=notes),
            partial(self._on_applied, rows, cursor),
        )

    def _on_applied(self, rows: tuple[Row, ...], cursor: Cursor, result: fx.Applied | fx.Failed) -> None:
        hub = self._hub
        self._is_applying = False
        if isinstance(result, fx.Failed):
            self._on_failed()
            return
        hub.memory.cursors[self.index_id] = cursor
        hub.memory.set_synced()
        hub.publisher.on_relayed(result, self._card)
        if result.refused:
            self._apply_bare(rows, result)
        if hub.is_mirror:
            self._note_bare(rows)
        self.cursor = cursor
        if not self._is_closed:
            self._report()
            self._apply_next()

    def _on_failed(self) -> None:
        """The store cannot take it: rest, then ask again from what is applied."""
        if self._is_closed:
            return
        self._received = self.cursor.seq
        self._waiting.clear()
        self._move(FollowCause.CANNOT_WRITE)
        self._rest_until = self._hub.now + self._hub.options.storage_retry_s
        self._hub.timers.set(("pull", self._address), self._rest_until, self._pull)

    def _apply_bare(self, rows: tuple[Row, ...], result: fx.Applied) -> None:
        """Rows with a broken body are taken without it: the index stays complete, the body comes from elsewhere."""
        bad = {refused.id_key for refused in result.refused}
        bare = tuple(row._replace(bodies=(None,) * len(row.leaves)) for row in rows if row.id_key in bad)
        self._hub.fail(PeerError(f"{self._address}: {result.refused[0].text}"))
        self._hub.ask(
            lambda token: fx.Apply(token=token, rows=bare, origin=fx.Origin.INDEX),
            partial(self._hub.publisher.on_relayed, mirror=self._card),
        )
        if self._hub.is_mirror:
            self._note_bare(bare)

    def _on_all_applied(self) -> None:
        hub = self._hub
        if self._is_asking:
            return
        if self.head > self._received:
            self._pull()
            return
        self.is_caught_up = self.has_caught_up = True
        self._is_entries_only = not hub.is_mirror
        self.is_bringing_bodies = False
        self._report()  # also what was applied before this conversation: the last one may have ended before it was said
        hub.announce(fx.Kind.CAUGHT_UP)
        hub.outbox.on_caught_up(self._dialled, self.index_id)
        hub.filler.on_caught_up()

    # Reports

    def _note_bare(self, rows: tuple[Row, ...]) -> None:
        bare = [row for row in rows if bare_leaves(row)]
        self._hub.followers.settle({row.id_key for row in rows} - {row.id_key for row in bare})
        self._is_all_bare |= len(self._bare) + len(bare) > self._hub.options.fill_ids_max
        if not self._is_all_bare:
            for row in bare:
                self._bare.setdefault(row.id_key, row.seq)
        self._hub.filler.want(row.id_key for row in bare)

    def settle(self, id_keys: Collection[bytes] | None) -> None:
        """The bodies of these ids (None: of all) are here."""
        if id_keys is None:
            self._is_all_bare = False
            self._bare.clear()
        elif self._bare:
            for id_key in id_keys:
                self._bare.pop(id_key, None)
        else:
            return
        self._report()

    def _report(self) -> None:
        hub = self._hub
        if not hub.is_mirror or self._is_all_bare:
            return
        due = self._reported_at + hub.options.report_s
        if hub.now < due:
            if self.cursor.seq > self._reported:
                hub.timers.set_earlier(("report", self._address), due, self._report)
            return
        seq = min(self._bare.values()) - 1 if self._bare else self.cursor.seq
        if seq <= self._reported:
            return
        self._reported = seq
        self._reported_at = hub.now
        hub.send(self._dialled.link, ms.Report(index_id=self.index_id, seq=seq))

    # Silence of the publisher

    def silence(self) -> tuple[float | None, float | None]:
        """When two heartbeats are missed, and when one is; None: none is expected."""
        if not self._publisher_port:
            return None, None
        slack_s = self._hub.options.heartbeat_slack_s
        silent_at = self._heard_at + 2 * self._interval_s + slack_s
        return silent_at, None if self._is_deaf else self._heard_at + self._interval_s + slack_s

    def _subscribe(self) -> None:
        if self._publisher_port:
            first = fx.Topic.BODIES if self._hub.is_mirror else fx.Topic.ENTRIES
            self._hub.emit(fx.Subscribe(
                address=self._address, publisher=Address(self._address.host, self._publisher_port),
                topics=(first, fx.Topic.HEARTBEAT),
            ))
            self._subscribed_at = self._hub.now

    def _on_heard(self, interval_s: float) -> None:
        is_other = interval_s != self._interval_s
        self._heard_at = self._hub.now
        self._interval_s = interval_s
        self._is_deaf = False
        self._listen_on()
        if is_other:
            self._dialled.watch_again()

    def _listen_on(self) -> None:
        hub = self._hub
        silent_at, _ = self.silence()
        poll_s = hub.options.poll_s if self._scope is None else hub.options.scoped_poll_s
        due = silent_at if silent_at is not None and not self._is_deaf else hub.now + hub.jitter(poll_s)
        hub.timers.set(("publisher", self._address), due, self._on_silence)

    def _on_silence(self) -> None:
        """Nothing is heard from the publisher: converge by asking, and subscribe anew now and then."""
        hub = self._hub
        self._is_deaf = True
        if hub.now - self._subscribed_at >= hub.options.resubscribe_s and self._publisher_port:
            hub.emit(fx.Unsubscribe(address=self._address))
            self._subscribe()
        self._pull()
        self._listen_on()


class Followers:
    """All feeds that a node follows: a peer one, a mirror one of each other mirror."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._by_address: dict[Address, Follower] = {}
        self.catchups: dict[bytes, Catchup] = {}
        """Per index id: prefixes that came into the scope and are not all here yet."""
        self.doubted: dict[bytes, tuple[float, Pair]] = {}
        """Per index id: when sums that differed were last compared, and which."""

    def begin(self, dialled: Dialled, welcome: ms.Welcome) -> None:
        """The feed of that mirror is followed from here on, unless nothing of it is within our scope."""
        self.end(dialled)
        if not self._hub.is_mirror and self._hub.memory.scope == ():
            return
        follower = Follower(self._hub, dialled, welcome.card, welcome.heartbeat_ms)
        self._by_address[dialled.address] = follower
        follower.start()
        dialled.watch_again()

    def end(self, dialled: Dialled) -> None:
        follower = self._by_address.pop(dialled.address, None)
        if follower is not None:
            follower.close()

    def find(self, dialled: Dialled) -> Follower | None:
        return self._by_address.get(dialled.address)

    def on_entries(self, dialled: Dialled, message: ms.Entries) -> None:
        follower = self._by_address.get(dialled.address)
        if follower is not None:
            follower.on_entries(message)

    def on_sums(self, dialled: Dialled, message: ms.Sums) -> None:
        follower = self._by_address.get(dialled.address)
        if follower is not None:
            follower.on_sums(message)

    def on_found(self, dialled: Dialled, message: ms.Found) -> None:
        follower = self._by_address.get(dialled.address)
        if follower is not None:
            follower.on_found(message)

    def on_told(self, dialled: Dialled, message: ms.Changes) -> None:
        follower = self._by_address.get(dialled.address)
        if follower is not None:
            follower.on_told(message)

    def on_published(self, address: Address, message: ms.Message) -> None:
        """One publication of a mirror. Raises PeerError for a message that is none."""
        follower = self._by_address.get(address)
        if isinstance(message, ms.Changes):
            if follower is not None:
                follower.on_changes(message)
        elif isinstance(message, ms.Heartbeat):
            if follower is not None:
                follower.on_heartbeat(message)
        else:
            raise PeerError(f"{address}: {type(message).__name__} is not published")

    def silence_of(self, dialled: Dialled) -> tuple[float | None, float | None]:
        follower = self._by_address.get(dialled.address)
        return (None, None) if follower is None else follower.silence()

    def all(self) -> Iterable[Follower]:
        return self._by_address.values()

    def settle(self, id_keys: Collection[bytes] | None) -> None:
        """The bodies of these ids (None: of all) are here: Reports need not wait for them."""
        if id_keys is None or id_keys:
            for follower in self.all():
                follower.settle(id_keys)

    def settle_at(self, dialled: Dialled, id_key: bytes) -> None:
        """That mirror lacks the same bodies of this id: its Reports need not wait for them."""
        follower = self.find(dialled)
        if follower is not None:
            follower.settle((id_key,))

    def is_any_caught_up(self) -> bool:
        return any(follower.has_caught_up for follower in self.all())

    def is_catching_up(self) -> bool:
        """Bodies are coming by Entries just now."""
        return any(follower.is_bringing_bodies for follower in self.all())

    def may_bring_bodies(self, asking: Follower) -> bool:
        """One mirror at a time sends bodies along; the others would send the same ones."""
        return not any(follower.is_bringing_bodies for follower in self.all() if follower is not asking)

    @property
    def behind(self) -> int:
        return max((follower.behind for follower in self.all()), default=0)
