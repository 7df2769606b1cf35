"""Bugs to plant in the product, one at a time: a simulator that does not find them proves nothing.

Each replaces one function (or flag) of the product by a broken one while `planted()` lasts. docs/SIMULATOR.md has the
first seed that catches each; test_planted.py holds it to that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mynosql.ledger
import mynosql.merging
from mynosql.errors import StorageError
from mynosql.ledger import Ledger
from mynosql.replica import Replica
from mynosql.row import Leaf, Leaves
from mynosql.store.feeds import Feed
from mynosql.store.seal import SealJob, SyncJob
from mynosql.sync import dialling, serving
from mynosql.sync import messages as ms
from mynosql.sync.comparing import Comparing
from mynosql.sync.confirming import Confirming
from mynosql.sync.filling import Filler
from mynosql.sync.following import Follower
from mynosql.sync.membership import Membership
from mynosql.sync.pushing import Outbox


@dataclass(frozen=True, slots=True)
class Bug:
    """What is replaced where: make(the original) gives the broken one."""

    what: str
    owners: tuple[Any, ...]
    attribute: str
    make: Callable[[Any], Any]

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """The product has this bug meanwhile."""
        originals = [owner.__dict__[self.attribute] for owner in self.owners]
        for owner, original in zip(self.owners, originals, strict=True):
            setattr(owner, self.attribute, self.make(original))
        try:
            yield
        finally:
            for owner, original in zip(self.owners, originals, strict=True):
                setattr(owner, self.attribute, original)


def _nothing(_: Any) -> Any:
    return lambda *arguments, **options: None


def _take_all(_: Any) -> Any:
    def take_outgoing(self: Replica) -> list[Any]:
        taken = [command for _, command in self._outgoing]
        self._outgoing.clear()
        return taken

    return take_outgoing


def _without_exceptions(child_of: Any) -> Any:
    def broken(*arguments: Any, **options: Any) -> Leaf:
        leaf: Leaf = child_of(*arguments, **options)
        if leaf.ancestry is None:
            return leaf
        return leaf._replace(ancestry=leaf.ancestry._replace(excepted=()))

    return broken


def _notes_first(apply: Any) -> Any:
    def broken(self: Ledger, rows: Any, *, notes: Any, pushed: bool, now_ms: int) -> Any:
        if notes:
            self._store.put([], notes=notes)
        return apply(self, rows, notes=None, pushed=pushed, now_ms=now_ms)

    return broken


def _winner_only(child: Any) -> Any:
    def broken(self: Ledger, parents: Leaves, body: bytes | None, now_ms: int) -> Leaf:
        leaf: Leaf = child(self, parents[:1], body, now_ms)
        return leaf

    return broken


def _theirs_win(merge_leaves: Any) -> Any:
    def broken(ours: Leaves, theirs: Leaves) -> Leaves:
        return theirs if len(ours) == 1 else merge_leaves(ours, theirs)

    return broken


def _losers_dropped(merge_leaves: Any) -> Any:
    return lambda ours, theirs: merge_leaves(ours, theirs)[:2]


def _gaps_taken(_: Any) -> Any:
    def broken(self: Follower, message: ms.Changes) -> None:
        self._on_heard(self._interval_s)
        self.head = max(self.head, message.last)
        if message.last > self._received and not self._is_asking:
            self._received = message.last
            self._take(message.rows, message.last)

    return broken


def _tails_missed(_: Any) -> Any:
    def broken(self: Follower, message: ms.Heartbeat) -> None:
        self._on_heard(message.next_ms / 1000)

    return broken


def _not_looked_up(look_up: Any) -> Any:
    def broken(self: Comparing) -> None:
        self._hashes = []
        look_up(self)

    return broken


def _pulls_at_heartbeats(on_heartbeat: Any) -> Any:
    def broken(self: Follower, message: ms.Heartbeat) -> None:
        on_heartbeat(self, message)
        self._pull()

    return broken


def _never_again(_: Any) -> Any:
    def broken(self: Outbox) -> None:
        self._sent = max(self._sent, self._hub.memory.delivered)
        self._flight.clear()
        self._reading = 0
        self._read_on()

    return broken


def _delivered_when_sent(settle: Any) -> Any:
    def broken(self: Outbox) -> None:
        self._flight.clear()
        settle(self)

    return broken


def _forgotten_bodies(on_sealed: Any) -> Any:
    def broken(self: Feed, memtable: Any, segment: Any, replaced_in: Any, contents: Any) -> None:
        on_sealed(self, memtable, segment, (), contents)

    return broken


def _before_the_commit(run: Any) -> Any:
    def broken(self: SealJob) -> None:
        for number in self.plan.memtable.replayed:
            self._files.remove(f"journal-{number:08d}")
        if self.plan.memtable.journal is not None:
            self._files.remove(self.plan.memtable.journal.name)
        run(self)

    return broken


def _shard_not_flushed(write_shard: Any) -> Any:
    class Unflushed:
        def __init__(self, file: Any) -> None:
            self._file = file

        def flush(self) -> None:
            return

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    class Files:
        def __init__(self, files: Any) -> None:
            self._files = files

        def open_append(self, name: str) -> Any:
            return Unflushed(self._files.open_append(name))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._files, name)

    def broken(self: SealJob, packed: Any, outcome: Any) -> Any:
        files, self._files = self._files, Files(self._files)
        try:
            return write_shard(self, packed, outcome)
        finally:
            self._files = files

    return broken


def _evicted_anyway(_: Any) -> Any:
    def evict(self: Replica, id_key: bytes) -> bool:
        entry = self.store.find(id_key)
        if entry is not None:
            self.ledger.evict(id_key, entry)
        return False

    return evict


def _forgotten_notes(_: Any) -> Any:
    def broken(self: Replica, notes: dict[str, bytes]) -> None:
        with contextlib.suppress(StorageError):
            self.store.put([], notes=notes)

    return broken


def _everything_within(is_within: Any) -> Any:
    return lambda scope, id_key: True


def _confirmed_at_once(_: Any) -> Any:
    def broken(self: Confirming) -> None:
        card = self._dialled.card if self._dialled is not None else None
        taken = self._hub.memory.taken.get(card.index_id) if card is not None else None
        if taken is not None:
            self._on_confirmed(taken.seq)

    return broken


def _usable_when_banned(_: Any) -> Any:
    return lambda self, info, is_local: is_local or not info.advertised.is_loopback


def _flag(value: bool) -> Callable[[Any], Any]:
    return lambda _: value


BUGS: dict[str, Bug] = {
    "gate": Bug("messages leave before what they speak of is fsynced", (Replica,), "take_outgoing", _take_all),
    "ack-early": Bug("a mirror acknowledges a push before its fsync", (ms.Ack,), "is_gated", _flag(False)),
    "no-fsync": Bug("the journal is not fsynced", (SyncJob,), "run", _nothing),
    "no-shard-fsync": Bug("the shard is not fsynced before the index says so", (SealJob,), "_write_shard",
                          _shard_not_flushed),
    "journal-dropped": Bug("journals go before the index has committed what was in them", (SealJob,), "run",
                           _before_the_commit),
    "cursor-first": Bug("the cursor is written before the rows that it counts", (Ledger,), "apply", _notes_first),
    "plain-vectors": Bug("vectors without exceptions", (mynosql.ledger,), "child_of", _without_exceptions),
    "half-resolved": Bug("delete and resolve cover the winner only", (Ledger,), "_child", _winner_only),
    "last-comes-wins": Bug("what comes replaces what is here", (mynosql.ledger,), "merge_leaves", _theirs_win),
    "losers-dropped": Bug("only two revisions in conflict are kept", (mynosql.ledger,), "merge_leaves",
                          _losers_dropped),
    "gap-taken": Bug("published changes behind a gap are applied", (Follower,), "on_changes", _gaps_taken),
    "tail-missed": Bug("a heartbeat with a later seq is not followed by a pull", (Follower,), "on_heartbeat",
                       _tails_missed),
    "chatter": Bug("a pull at every heartbeat", (Follower,), "on_heartbeat", _pulls_at_heartbeats),
    "not-looked-up": Bug("what a comparison finds is not fetched", (Comparing,), "_look_up", _not_looked_up),
    "never-again": Bug("what was pushed over a lost link is not pushed again", (Outbox,), "_begin", _never_again),
    "delivered-when-sent": Bug("a push counts as delivered without its Ack", (Outbox,), "_settle",
                               _delivered_when_sent),
    "not-filled": Bug("a mirror does not ask for missing bodies", (Filler,), "_look", _nothing),
    "no-loss": Bug("a node that lost some of its history keeps its identity", (serving, dialling), "find_loss",
                   _nothing),
    "stale-feed": Bug("decoded segments outlive what replaced their rows", (Feed,), "on_sealed", _forgotten_bodies),
    "scope-ignored": Bug("a mirror tells a scoped peer everything", (serving,), "is_within", _everything_within),
    "gained-missed": Bug("what came into a scope is not pulled", (Follower,), "_find_catchup", _nothing),
    "refused-forgotten": Bug("a refused change counts as accepted", (Outbox,), "_note_refused", _nothing),
    "one-is-enough": Bug("two mirrors are asked for, and one counts as both", (Confirming,), "ask",
                         _confirmed_at_once),
    "not-offered": Bug("what a lost mirror had is not offered to the next", (Outbox,), "on_caught_up", _nothing),
    "learned-again": Bug("an address that was taken back is learned again", (Membership,), "_is_usable",
                         _usable_when_banned),
    "owed-evicted": Bug("what no mirror has yet may be evicted", (Replica,), "evict", _evicted_anyway),
    "notes-lost": Bug("a note that a full disk refused is forgotten", (Replica,), "_write_notes", _forgotten_notes),
}
