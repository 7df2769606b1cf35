"""Taking in the feed of a mirror: pulls, publications, gaps, lost tails, silence, broken bodies, a full disk."""

from __future__ import annotations

import pytest

from mynosql.codec import digest
from mynosql.idkey import pack_id
from mynosql.row import Leaf, Row
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.options import SyncOptions
from tests.sync.harness import Machine, World, card, welcome
from tests.sync.rules import obeys

INDEX = b"I" * 16


def row(id: str, seq: int, body: bytes | None = None, *, size: int = 1) -> Row:
    """A row as the ghost sends it."""
    hashed = digest(body if body is not None else id.encode())
    leaf = Leaf(1, 1000 + seq, 77, False, len(body) if body is not None else size, hashed)
    return Row(pack_id(id), (leaf,), (body,), seq)


class Ghost:
    """A node that follows a mirror which the test plays."""

    def __init__(self, *, is_mirror: bool = False, head: int = 0) -> None:
        self.world = World(seed=1)
        self.link = self.world.ghost("ghost")
        make = self.world.mirror if is_mirror else self.world.peer
        self.node: Machine = make("n1", knows=["ghost"])
        self.world.run(0.01)
        self.greet(head)

    def greet(self, head: int = 0) -> None:
        asked = self.world.told("ghost", ms.Hello)[-1]
        self.world.inject(self.node, self.link, welcome(asked, card=card(head=head, publisher_port=8801)))
        self.world.run(0.001)

    @property
    def pulls(self) -> list[ms.Pull]:
        return self.world.told("ghost", ms.Pull)

    def entries(self, *rows: Row, last: int, head: int = 0, more: bool = False, pull: int = -1) -> None:
        asked = self.pulls[pull]
        self.world.inject(self.node, self.link, ms.Entries(
            request=asked.request, index_id=INDEX, after=asked.after, last=last, head=max(head, last), more=more,
            rows=rows,
        ))
        self.world.run(0.002)

    def changes(self, first: int, last: int, *rows: Row, index_id: bytes = INDEX) -> None:
        self.world.inject_published(
            self.node, "ghost", ms.Changes(index_id=index_id, first=first, last=last, rows=rows)
        )
        self.world.run(0.002)

    def heartbeat(self, head: int, *, next_ms: int = 1000) -> None:
        self.world.inject_published(
            self.node, "ghost", ms.Heartbeat(index_id=INDEX, head=head, next_ms=next_ms, is_filling=False)
        )
        self.world.run(0.002)

    def run(self, seconds: float) -> None:
        """Time passes while the mirror shows signs of life."""
        end = self.world.now + seconds
        while self.world.now < end:
            self.world.run(min(0.5, end - self.world.now))
            for ping in self.world.told("ghost", ms.Ping):
                self.world.inject(self.node, self.link, ms.Pong(number=ping.number))

    @property
    def cursor(self) -> bytes:
        return self.node.store.notes.get(f"cursor/{INDEX.hex()}", b"").split(b" ")[0]


@obeys("The subscription is made before the first Pull, so that nothing falls between them.")
def test_the_subscription_comes_before_the_pull() -> None:
    world = World(seed=1)
    link = world.ghost("ghost")
    peer = world.peer("p1", knows=["ghost"])
    world.run(0.01)

    effects = peer.node.on_message(link, welcome(
        world.told("ghost", ms.Hello)[-1], card=card(publisher_port=8801)
    ), world.now, user_id="")

    kinds = [type(effect.message if isinstance(effect, fx.Send) else effect) for effect in effects]
    assert kinds.index(fx.Subscribe) < kinds.index(ms.Pull)
    subscribe = next(effect for effect in effects if isinstance(effect, fx.Subscribe))
    assert (subscribe.publisher.host, subscribe.publisher.port) == ("ghost", 8801)
    assert subscribe.topics == (fx.Topic.ENTRIES, fx.Topic.HEARTBEAT)


@obeys("A Pull names the cursor kept for that index id, or 0 for an index that was never met.")
def test_after_a_restart_the_pull_goes_on_from_the_cursor() -> None:
    ghost = Ghost(head=2)
    assert ghost.pulls[0].after == 0
    assert not ghost.pulls[0].with_bodies
    ghost.entries(row("a", 1), row("b", 2), last=2)

    ghost.node.restart()
    ghost.world.run(0.01)
    ghost.greet(head=2)

    assert ghost.pulls[-1].after == 2
    assert ghost.node.leaves("b")


@obeys("The cursor moves only in the journal frame that holds the rows which it counts.")
def test_rows_and_their_cursor_are_in_one_frame() -> None:
    ghost = Ghost()
    ghost.entries(row("a", 1), row("b", 2), last=2)
    ghost.changes(3, 3, row("c", 3))

    for rows, notes in ghost.node.store.frames:
        cursors = [value for key, value in notes.items() if key.startswith("cursor/")]
        assert bool(rows) == bool(cursors)
    assert ghost.cursor == b"3"


@obeys("The next Pull is sent when an answer that promises more arrives, before it is applied.")
def test_the_next_pull_leaves_before_the_answer_is_applied() -> None:
    ghost = Ghost(head=9)
    asked = ghost.pulls[0]

    effects = ghost.node.node.on_message(ghost.link, ms.Entries(
        request=asked.request, index_id=INDEX, after=0, last=4, head=9, more=True, rows=(row("a", 4),),
    ), ghost.world.now, user_id="")

    kinds = [type(effect.message if isinstance(effect, fx.Send) else effect) for effect in effects]
    assert kinds.index(ms.Pull) < kinds.index(fx.Apply)
    pull = next(e.message for e in effects if isinstance(e, fx.Send) and isinstance(e.message, ms.Pull))
    assert pull.after == 4


@obeys("Published changes that begin right after the cursor are applied; those behind it are …")
def test_changes_in_sequence_behind_and_beyond() -> None:
    ghost = Ghost()
    ghost.entries(last=0)
    pulls = len(ghost.pulls)

    ghost.changes(1, 2, row("a", 1), row("b", 2))
    ghost.changes(1, 1, row("stale", 1))
    ghost.changes(2, 3, row("b", 2), row("c", 3))
    assert ghost.cursor == b"3"
    assert not ghost.node.leaves("stale")
    assert len(ghost.pulls) == pulls

    ghost.changes(6, 6, row("f", 6))
    assert not ghost.node.leaves("f")
    assert ghost.pulls[-1].after == 3


@obeys("A heartbeat or answer that names a later seq than ours is followed by a Pull: no lost tail stays unnoticed.")
def test_a_heartbeat_shows_a_lost_tail() -> None:
    ghost = Ghost()
    ghost.entries(last=0)
    pulls = len(ghost.pulls)
    ghost.heartbeat(head=0)
    assert len(ghost.pulls) == pulls

    ghost.heartbeat(head=2)

    assert len(ghost.pulls) == pulls + 1
    assert ghost.node.node.status().behind == 2
    ghost.entries(row("b", 2), last=2)
    assert ghost.node.node.status().behind == 0


@obeys("A heartbeat or answer that names a later seq than ours is followed by a Pull: no lost tail stays unnoticed.")
def test_changes_that_came_during_a_pull_are_pulled_after_it() -> None:
    ghost = Ghost()

    ghost.changes(5, 5, row("e", 5))
    assert len(ghost.pulls) == 1
    ghost.entries(row("d", 4), last=4)

    assert ghost.pulls[-1].after == 4


@obeys("An answer to an older Pull, or one of an older conversation, is ignored.")
def test_an_answer_to_an_older_pull_is_ignored() -> None:
    ghost = Ghost(head=1)
    ghost.node.restart()
    ghost.world.run(0.01)
    ghost.greet(head=1)

    ghost.entries(row("a", 1), last=1, pull=0)

    assert not ghost.node.leaves("a")
    assert ghost.node.failures == []
    ghost.entries(row("a", 1), last=1)
    ghost.entries(row("late", 1), last=1)
    assert ghost.node.leaves("a")
    assert not ghost.node.leaves("late")


@pytest.mark.parametrize("wrong", [
    {"index_id": b"?" * 16}, {"after": 1}, {"last": 0, "more": True}, {"after": 0, "last": 0, "more": True},
])
def test_an_answer_that_contradicts_its_pull_breaks_the_protocol(wrong: dict[str, object]) -> None:
    ghost = Ghost(head=5)
    fields = {"index_id": INDEX, "after": 0, "last": 1, "head": 5, "more": False, "rows": ()}

    ghost.world.inject(ghost.node, ghost.link, ms.Entries(
        request=ghost.pulls[0].request, **{**fields, **wrong},  # type: ignore[arg-type]
    ))

    assert ghost.node.failures
    assert ghost.node.follows is None


@obeys("Changes under another index id than the one greeted make the node greet again.")
def test_another_index_id_is_greeted_again() -> None:
    ghost = Ghost()
    ghost.entries(last=0)
    hellos = len(ghost.world.told("ghost", ms.Hello))

    ghost.changes(1, 1, row("a", 1), index_id=b"?" * 16)

    assert len(ghost.world.told("ghost", ms.Hello)) == hellos + 1
    assert not ghost.node.leaves("a")


@obeys("When the publisher is silent but the link lives, the node asks every 2 s and subscribes anew every 10 s.")
def test_with_a_silent_publisher_everything_converges_by_asking() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    mirror.can_publish = False
    world.run(10.0)
    for number in range(5):
        mirror.save(f"{number}", b"1")
        took = world.run_until(lambda number=number: bool(peer.leaves(f"{number}")))  # type: ignore[misc]
        assert took <= 2.6
    assert peer.follows == "m1"
    since = {subscription.since for subscription in peer.subscriptions.values()}
    world.run(13.0)
    assert {subscription.since for subscription in peer.subscriptions.values()} != since

    mirror.can_publish = True
    world.run(6.0)
    pulls = len(world.sent(ms.Pull))
    world.run(10.0)
    assert len(world.sent(ms.Pull)) == pulls, "heard again: no more asking"


@obeys("When our own store cannot write, pulling rests and goes on later from what was applied.")
def test_a_full_disk_makes_pulling_rest() -> None:
    ghost = Ghost(head=2)
    ghost.node.store.is_full = True
    ghost.entries(row("a", 1), last=1, head=2, more=True)
    ghost.entries(row("b", 2), last=2)
    pulls = len(ghost.pulls)
    ghost.run(4.0)
    assert len(ghost.pulls) == pulls
    assert ghost.cursor == b""

    ghost.node.store.is_full = False
    ghost.run(1.1)

    assert ghost.pulls[-1].after == 0


@obeys("A row whose body does not match its digest is applied without that body, and the error is shown.")
def test_a_broken_body_does_not_stop_the_index() -> None:
    ghost = Ghost(is_mirror=True, head=2)
    broken = row("a", 1, b"right")._replace(bodies=(b"wrong",))

    ghost.entries(broken, row("b", 2, b"fine"), last=2)

    assert ghost.node.leaves("a")
    assert ghost.node.body("a") is None
    assert ghost.node.body("b") == b"fine"
    assert "body-wrong" in str(ghost.node.failures[-1])
    ghost.world.run(0.2)
    assert ghost.world.told("ghost", ms.Fetch)[-1].id_keys == (pack_id("a"),)


@obeys("Only one mirror at a time sends bodies along with Entries; bodies that others would repeat …")
def test_a_new_mirror_gets_each_body_once() -> None:
    world = World(seed=1)
    for name in ("m1", "m2"):
        world.mirror(name, knows=["m1", "m2"])
    for number in range(20):
        world.machines["m1"].save(f"{number}", bytes(5000))
    world.settle()

    new = world.mirror("m3", knows=["m1", "m2"])
    world.settle()
    world.run(1.0)

    bodies = [
        body for sent in world.log if sent.receiver == "m3" and isinstance(sent.message, ms.Entries)
        for row in sent.message.rows for body in row.bodies if body is not None
    ]
    assert len(bodies) == 20
    assert sum(len(message.id_keys) for message in world.sent(ms.Fetch, by="m3")) == 0
    assert new.store.missing_bodies() == []


@obeys("A mirror that has caught up with one mirror takes entries alone from another that comes back, and fetches …")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("before", [0, 1])
def test_after_a_partition_each_body_goes_once_to_each_mirror_that_lacks_it(before: int, seed: int) -> None:
    world = World(seed=seed)
    names = ["m1", "m2", "m3"]
    for name in names:
        world.mirror(name, knows=names)
        for number in range(before):
            world.machines[name].save(f"{name}/before/{number}", b"1")
    world.settle()
    for name in ("m2", "m3"):
        world.cut("m1", name)
    world.run(1.0)
    for number in range(20):
        for name in names:
            world.machines[name].save(f"{name}/{number}", f"{name} {number}".encode() * 1000)
        world.run(0.1)
    world.run(5.0)
    del world.log[:]

    for name in ("m3", None):  # the links come back one after the other
        world.heal()
        if name is not None:
            world.cut("m1", name)
        world.run(10.0)
    world.settle()

    for receiver, lacked in (("m1", 40), ("m2", 20), ("m3", 20)):
        bodies = [body for row in rows_to(world, receiver) for body in row.bodies if body is not None]
        assert len(set(bodies)) == len(bodies) == lacked, receiver


@obeys("Entries bring a mirror nothing that came from itself under the index id that it has now: it has all of that.")
def test_the_source_of_a_first_sync_is_told_none_of_it_back() -> None:
    world = World(seed=1)
    source = world.mirror("m1")
    for number in range(300):
        source.save(f"{number:03}", b"%d" % number)
    new = world.mirror("m2", knows=["m1"])
    world.settle()
    new.save("its own", b"1")
    world.settle()

    assert len({row.id_key for row in rows_to(world, "m2")}) >= 300
    assert {row.id_key for row in rows_to(world, "m1")} == {pack_id("its own")}
    told = [*world.sent(ms.Entries, to="m1"), *world.sent(ms.Changes, to="m1")]
    assert max(message.last for message in told) == 301, "the cursor passes what was left out"


def rows_to(world: World, receiver: str) -> list[Row]:
    """All rows that were sent to that machine, in whatever message."""
    rows = [row for message in world.sent(ms.Entries, to=receiver) for row in message.rows]
    rows += [row for message in world.sent(ms.Changes, to=receiver) for row in message.rows]
    items = [item for message in world.sent(ms.Bodies, to=receiver) for item in message.items]
    return rows + [item.row for item in items if item.row is not None]


@obeys("A mirror reports within 100 ms of applying another mirror's changes.")
def test_a_mirror_reports_within_100_ms() -> None:
    ghost = Ghost(is_mirror=True)
    ghost.entries(last=0)
    for number in range(1, 40):
        ghost.changes(number, number, row(f"{number}", number, b"x"))
        ghost.world.run(0.01)
    ghost.world.run(0.05)

    reports = ghost.world.told("ghost", ms.Report)
    assert reports[-1] == ms.Report(index_id=INDEX, seq=39)
    assert len(reports) < 15, "not one for each change"
    for sent in ghost.world.log:
        if isinstance(sent.message, ms.Report):
            assert sent.message.seq >= (sent.at - 0.1) / 0.013 - 3


def test_a_peer_reports_nothing() -> None:
    ghost = Ghost()
    ghost.entries(row("a", 1), last=1)
    ghost.world.run(1.0)

    assert ghost.world.told("ghost", ms.Report) == []


@obeys("A Report covers only changes whose bodies are here too.")
def test_a_report_waits_for_bodies() -> None:
    ghost = Ghost(is_mirror=True)
    ghost.entries(last=0)
    ghost.changes(1, 1, row("a", 1, b"a"))
    ghost.changes(2, 2, row("b", 2, b"bb")._replace(bodies=(None,)))
    ghost.changes(3, 3, row("c", 3, b"c"))
    ghost.world.run(1.0)
    assert ghost.world.told("ghost", ms.Report)[-1].seq == 1

    asked = ghost.world.told("ghost", ms.Fetch)[-1]
    ghost.world.inject(ghost.node, ghost.link, ms.Bodies(
        request=asked.request, items=(ms.BodyItem(pack_id("b"), ms.Status.HELD, row("b", 2, b"bb")),),
    ))
    ghost.world.run(1.0)

    assert ghost.world.told("ghost", ms.Report)[-1].seq == 3


@obeys("A body that a mirror itself has lost does not hold back the Reports to it.")
def test_a_report_does_not_wait_for_a_body_that_the_mirror_has_not() -> None:
    ghost = Ghost(is_mirror=True)
    ghost.entries(last=0)
    lost = row("b", 1, b"bb")._replace(bodies=(None,))
    ghost.changes(1, 1, lost)
    ghost.changes(2, 2, row("c", 2, b"c"))
    ghost.world.run(1.0)
    assert ghost.world.told("ghost", ms.Report) == []

    asked = ghost.world.told("ghost", ms.Fetch)[-1]
    ghost.world.inject(ghost.node, ghost.link, ms.Bodies(
        request=asked.request, items=(ms.BodyItem(pack_id("b"), ms.Status.NOT_HELD, lost),),
    ))
    ghost.world.run(1.0)

    assert ghost.world.told("ghost", ms.Report)[-1].seq == 2


@obeys("A Report covers only changes whose bodies are here too.")
def test_more_bodies_missing_than_are_remembered_hold_the_report_back_until_none_is() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1", options=SyncOptions(publish_body_bytes_max=1))
    other = world.mirror("m2", knows=["m1"], options=SyncOptions(fill_ids_max=4))
    world.run(1.0)
    world.cut("m1", "m2")
    for number in range(30):
        mirror.save(f"{number}", bytes(70_000))
    world.run(0.1)
    world.heal()

    world.run_until(lambda: mirror.node.confirmed_seq == 30)

    assert other.store.missing_bodies() == []


def test_an_unanswered_pull_is_repeated() -> None:
    ghost = Ghost(head=1)
    ghost.run(15.0)

    assert len(ghost.pulls) >= 2
    assert len({pull.request for pull in ghost.pulls}) == len(ghost.pulls)


def test_batches_that_wait_for_the_store_are_bounded() -> None:
    ghost = Ghost()
    ghost.entries(last=0)
    node = ghost.node.node
    for number in range(1, 12):  # the interpreter does not answer: all Applies but the first wait
        message = ms.Changes(index_id=INDEX, first=number, last=number, rows=(row(f"{number}", number),))
        node.on_published(ghost.node.links.__iter__().__next__(), message, ghost.world.now)

    follower = next(iter(node._hub.followers.all()))
    assert len(follower._waiting) == 4
    assert follower._received == 5
