"""What a mirror publishes: when, to whom, with which bodies, and its heartbeats."""

from __future__ import annotations

import itertools
import random

from mynosql.codec import digest
from mynosql.idkey import pack_id
from mynosql.row import Leaf, Row
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.hub import Hub, NodeConfig
from mynosql.sync.options import SyncOptions
from mynosql.sync.publishing import Publisher
from tests.sync.harness import Machine, World, card
from tests.sync.rules import obeys


def mirrors(*names: str) -> tuple[World, list[Machine]]:
    """Mirrors that know each other, in touch."""
    world = World(seed=1)
    machines = [world.mirror(name, knows=names) for name in names]
    world.run(2.0)
    return world, machines


def published(world: World, kind: type[ms.Changes] | type[ms.Heartbeat], *, by: str) -> list[tuple[float, object]]:
    return [
        (sent.at, sent.message) for sent in world.log
        if isinstance(sent.message, kind) and sent.sender == by and sent.receiver.endswith("(PUB)")
    ]


@obeys("A change is published when it is durable, never before.")
def test_a_change_is_published_only_after_its_fsync() -> None:
    world = World(seed=1)
    world.fsync_s = 0.2
    mirror = world.mirror("m1")
    world.peer("p1", knows=["m1"])
    world.run(2.0)

    mirror.save("a", b"1")
    saved_at = world.now
    world.run(1.0)

    ((at, _),) = published(world, ms.Changes, by="m1")
    assert at - saved_at >= 0.2
    for when, message in published(world, ms.Heartbeat, by="m1"):
        assert isinstance(message, ms.Heartbeat)
        assert message.head == (1 if when >= saved_at + 0.2 else 0)


@obeys("A change is published when it is durable, never before.")
def test_what_power_loss_takes_back_was_never_told() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    world.run(2.0)
    world.fsync_s = 10.0

    mirror.save("a", b"1")
    world.run(5.0)
    mirror.restart()
    world.run(5.0)

    assert not peer.leaves("a")
    assert mirror.renewed == []


@obeys("Consecutive publications leave no gap between last and first, whatever rows were superseded in between.")
def test_publications_follow_each_other_without_a_gap() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    world.run(2.0)
    pulls = len(world.sent(ms.Pull))
    for number in range(30):
        mirror.save("same", f"{number}".encode())  # each supersedes the one before, some before they are read
        world.run(0.0003)
    world.run(2.0)

    told = [message for _, message in published(world, ms.Changes, by="m1")]
    assert [message.first for message in told[1:]] == [message.last + 1 for message in told[:-1]]  # type: ignore[attr-defined]
    assert len(world.sent(ms.Pull)) == pulls
    assert peer.leaves("same") == mirror.leaves("same")


@obeys("Bodies up to 2 KiB are published to mirrors, and only for changes that entered the mirrors …")
def test_small_bodies_travel_once_and_only_to_mirrors() -> None:
    world, (one, two, three) = mirrors("m1", "m2", "m3")
    peer = world.peer("p1", knows=["m1"])
    world.run(2.0)
    del world.log[:]

    one.save("here", bytes(2048))
    one.save("large", bytes(2049))
    peer.save("pushed", b"small")
    world.run(0.05)

    with_body = {
        (sent.sender, sent.receiver, row.id_key) for sent in world.log if isinstance(sent.message, ms.Changes)
        for row in sent.message.rows if row.bodies[0] is not None
    }
    assert with_body == {
        ("m1", f"{name} (PUB)", pack_id(id)) for name in ("m2", "m3") for id in ("here", "pushed")
    }
    assert any(sent.sender == "m2" for sent in world.log if isinstance(sent.message, ms.Changes)), "relayed too"
    for machine in (two, three):
        assert machine.body("here") == bytes(2048)
        assert machine.body("pushed") == b"small"
    world.settle()


@obeys("Nothing is published, and no timer runs, while nobody is served.")
def test_a_lone_mirror_is_silent_and_asleep() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    world.run(1.0)

    effects = mirror.node.on_durable(5, world.now)

    assert effects == []
    assert mirror.node.next_due(world.now) is None


@obeys("Nothing is published, and no timer runs, while nobody is served.")
def test_the_mirror_falls_asleep_again_when_the_last_one_left() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    world.run(5.0)
    peer.stop()
    world.run(10.0)

    assert mirror.node.connected == 0
    assert mirror.node.next_due(world.now) is None


@obeys("Heartbeats come every second while there are changes and slow down to every 5 s; each announces the next.")
def test_heartbeats_are_fast_while_active_and_slow_when_idle() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    world.peer("p1", knows=["m1"])
    for _ in range(20):
        mirror.save("a", b"%d" % len(world.log))
        world.run(1.0)
    active = published(world, ms.Heartbeat, by="m1")
    world.run(100.0)
    idle = published(world, ms.Heartbeat, by="m1")[len(active) + 14 :]

    for beats, seconds in ((active[3:], 1.0), (idle, 5.0)):
        times = [at for at, _ in beats]
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert max(pauses) < seconds + 0.01
        assert min(pauses) > seconds - 0.01
    everything = published(world, ms.Heartbeat, by="m1")
    for (at, beat), (next_at, _) in itertools.pairwise(everything):
        assert next_at - at <= beat.next_ms / 1000 + 0.01  # type: ignore[attr-defined]


@obeys("The first heartbeat comes soon after a Welcome, so that what was published before the …")
def test_what_was_published_while_a_sub_connected_is_found_soon() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    world.run_until(lambda: peer.node.connected == 1)
    world.run(0.0012)
    mirror.save("early", b"1")  # after the answer to the Pull was read, and the SUB is not connected yet

    assert world.run_until(lambda: bool(peer.leaves("early"))) < 0.3


def test_a_publication_that_cannot_be_read_is_found_by_the_heartbeat() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    world.run(2.0)
    read = mirror.store.feed
    mirror.save("a", b"1")

    from mynosql.errors import StorageFailed
    failed = fx.Failed(error=StorageFailed("cannot read"))
    mirror.store.feed = lambda effect: failed  # type: ignore[assignment, return-value, method-assign]
    world.run(0.01)
    mirror.store.feed = read  # type: ignore[method-assign]

    world.run_until(lambda: bool(peer.leaves("a")), within_s=2.0)


@obeys("Bodies up to 2 KiB are published to mirrors, and only for changes that entered …")
def test_a_relayed_change_goes_without_its_body_beside_one_of_our_own() -> None:
    world, (one, two, _) = mirrors("m1", "m2", "m3")
    world.fsync_s = 0.2
    one.save("theirs", b"1")
    world.run(0.2 - world.now % 0.001)
    two.save("ours", b"2")
    world.run_until(lambda: bool(two.leaves("theirs")))
    del world.log[:]
    world.run(2.0)

    (told,) = {message for _, message in published(world, ms.Changes, by="m2") if len(message.rows) == 2}  # type: ignore[attr-defined]
    assert isinstance(told, ms.Changes)
    assert {row.id_key: row.bodies for row in told.rows} == {pack_id("ours"): (b"2",), pack_id("theirs"): (None,)}


@obeys("Changes that came from the only mirror that listens are not told back to it: it gets …")
def test_of_two_mirrors_neither_tells_the_other_what_it_has_from_it() -> None:
    world, (one, two) = mirrors("m1", "m2")
    del world.log[:]
    for number in range(10):
        one.save(f"{number}", b"1")
        world.run(0.01)
    two.save("own", b"1")
    world.settle()
    world.run(3.0)

    back = [message for _, message in published(world, ms.Changes, by="m2")]
    assert [row.id_key for message in back for row in message.rows] == [pack_id("own")]  # type: ignore[attr-defined]
    assert world.sent(ms.Pull) == [], "no gap is seen"
    world.peer("p1", knows=["m2"])
    world.run(1.0)
    one.save("to the peer too", b"1")
    world.settle()
    assert len(world.sent(ms.Pull, by="p1")) == 1


@obeys("Entries bring a mirror nothing that came from itself under the index id that it has now: it has all of that.")
def test_a_source_that_lost_its_index_is_told_what_came_from_itself() -> None:
    config = NodeConfig(database="Test", node=1, index_id=b"I" * 16, nonce=2, is_mirror=True)
    publisher = Publisher(Hub(config, head=0, hlc=0, rng=random.Random(1), options=SyncOptions()))
    source = card(node=7, index_id=b"A" * 16)
    leaf = Leaf(1, 1, 7, deleted=False, size=1, digest=digest(b"1"), ancestry=None)
    rows = tuple(Row(pack_id(number), (leaf,), (b"1",), number) for number in range(1, 9))

    publisher.on_relayed(fx.Applied(first_seq=3, last_seq=4, head=4, is_copy=True), source)
    publisher.on_relayed(fx.Applied(first_seq=5, last_seq=5, head=5, is_copy=False), source)
    publisher.on_relayed(fx.Applied(first_seq=6, last_seq=6, head=6, is_copy=True), card(node=8, index_id=b"B" * 16))

    assert [row.seq for row in publisher.without_its_own(rows, source)] == [1, 2, 5, 6, 7, 8]
    assert [publisher.skip_its_own(after, source) for after in range(5)] == [0, 1, 4, 4, 4]
    renewed = card(node=7, index_id=b"Z" * 16)
    assert publisher.without_its_own(rows, renewed) == rows
    assert publisher.skip_its_own(2, renewed) == 2
