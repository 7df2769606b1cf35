"""A peer whose index is limited to id prefixes: what it is told and what that costs, how the limits change."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mynosql.address import Address
from mynosql.idkey import pack_id
from mynosql.scope import check_scope
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.options import SyncOptions
from mynosql.sync.serving import Tail
from tests.sync.harness import PORT, Machine, World
from tests.sync.rules import obeys


def test_what_was_looked_through_needs_no_message_and_a_gap_shows_in_the_next() -> None:
    tail = Tail(("a",), sent=5, seen=5)
    after, tail = tail.take(6, 9, is_told=False)
    assert tail == Tail(("a",), sent=5, seen=9)
    after, tail = tail.take(10, 12, is_told=True)
    assert (after, tail) == (5, Tail(("a",), sent=12, seen=12))
    after, tail = tail.take(20, 21, is_told=True)
    assert (after, tail) == (19, Tail(("a",), sent=21, seen=21)), "13 to 19 were never looked through"
    after, tail = tail.take(30, 31, is_told=False)
    assert tail.take(32, 32, is_told=True)[0] == 29


# In the mesh


def ids(machine: Machine) -> set[str]:
    return {id_key[1:].decode() for id_key in machine.store.rows}


def scoped(*prefixes: str, options: SyncOptions | None = None) -> tuple[World, Machine, Machine]:
    """A mirror with ten records of each kind, and a peer that takes in only some."""
    world = World(seed=1)
    mirror = world.mirror("m1")
    for number in range(10):
        for kind in "abc":
            mirror.save(f"{kind}/{number}", b"1")
    world.run(0.1)
    peer = world.peer("p1", options=options)
    peer.perform(peer.node.set_scope(check_scope(prefixes), world.now))
    peer.perform(peer.node.add_address(mirror.address, world.now))
    world.run(2.0)
    assert peer.follows == "m1"
    return world, mirror, peer


def traffic(world: World) -> int:
    return sum(sent.size for sent in world.log if "p1" in (sent.sender, sent.receiver.split()[0]))


def bytes_of(act: Callable[[World, Machine, Machine], None], *prefixes: str) -> int:
    """What passed between mirror and peer in 120 s after its first sync."""
    world, mirror, peer = scoped(*prefixes)
    del world.log[:]
    start = world.now
    act(world, mirror, peer)
    world.run(start + 120.0 - world.now)
    return traffic(world)


def nothing(world: World, mirror: Machine, peer: Machine) -> None:
    """Nobody writes."""


def others_write(world: World, mirror: Machine, peer: Machine) -> None:
    """Everybody else writes, outside of the scope."""
    for number in range(500):
        mirror.save(f"else/{number}", bytes(100))
        world.run(0.1)


@obeys("A mirror tells a peer with a scope of changes within it only, and sends nothing when others write elsewhere.")
def test_a_scoped_peer_knows_what_is_within() -> None:
    world, mirror, peer = scoped("a/", "b/1")
    assert ids(peer) == {f"a/{number}" for number in range(10)} | {"b/1"}
    assert peer.subscriptions == {}
    pulls = len(world.sent(ms.Pull))
    for kind in "abc":
        mirror.save(f"{kind}/1", b"2")
        mirror.save(f"{kind}/new", b"1")
    mirror.delete("a/3")
    world.run(0.01)

    assert ids(peer) == {f"a/{number}" for number in range(10)} | {"b/1", "a/new"}
    assert peer.leaves("a/1") == mirror.leaves("a/1")
    assert peer.leaves("b/1") == mirror.leaves("b/1")
    assert peer.leaves("a/3")[0].deleted
    assert len(world.sent(ms.Pull)) == pulls, "told, not asked for"
    assert all(row.bodies == (None,) for message in world.sent(ms.Changes) for row in message.rows)
    assert peer.announced[fx.Kind.CAUGHT_UP]


@obeys("A mirror tells a peer with a scope of changes within it only, and sends nothing when others write elsewhere.")
def test_what_others_write_elsewhere_costs_a_scoped_peer_nothing_but_its_cursor() -> None:
    quiet = bytes_of(nothing, "a/")
    busy = bytes_of(others_write, "a/")

    assert abs(busy - quiet) < 100, (quiet, busy)


@obeys("A peer with a scope pulls when told changes do not follow on what it has, and every 30 s in case the …")
def test_a_lost_message_is_made_up_for_by_the_next_and_a_lost_last_one_within_30_s() -> None:
    world, mirror, peer = scoped("a/")
    world.on_deliver = lambda sent: not isinstance(sent.message, ms.Changes)
    mirror.save("a/lost", b"1")
    world.run(0.1)
    world.on_deliver = lambda sent: True
    mirror.save("b/else", b"1")
    world.run(0.1)
    assert "a/lost" not in ids(peer)
    mirror.save("a/next", b"1")
    world.run(0.1)
    assert {"a/lost", "a/next"} <= ids(peer)

    world.on_deliver = lambda sent: not isinstance(sent.message, ms.Changes)
    mirror.save("a/last", b"1")
    world.run(0.1)
    world.on_deliver = lambda sent: True
    assert 5.0 < world.run_until(lambda: "a/last" in ids(peer), within_s=40.0) < 38.0


@obeys("What a write-only logger sends and receives does not depend on what others write.")
def test_a_write_only_logger_pays_only_for_what_it_writes() -> None:
    def log(world: World, mirror: Machine, peer: Machine) -> None:
        for number in range(100):
            peer.save(f"log/{number}", bytes(100))
            world.run(0.5)

    def log_among_others(world: World, mirror: Machine, peer: Machine) -> None:
        for number in range(500):
            mirror.save(f"else/{number}", bytes(100))
            if number % 5 == 0:
                peer.save(f"log/{number // 5}", bytes(100))
            world.run(0.1)

    assert bytes_of(nothing) == bytes_of(others_write)
    assert abs(bytes_of(log) - bytes_of(log_among_others)) < 200  # numbers of more digits in the Acks


@obeys("What a write-only logger sends and receives does not depend on what others write.")
def test_a_write_only_logger_delivers_fails_over_and_takes_in_nothing() -> None:
    world = World(seed=1)
    mirrors = [world.mirror(name, knows=["m1", "m2"]) for name in ("m1", "m2")]
    mirrors[0].save("else", b"1")
    logger = world.peer("p1", knows=["m1", "m2"])
    logger.perform(logger.node.set_scope((), world.now))
    world.run(2.0)
    del world.log[:]
    logger.save("one", b"1")
    world.run_until(lambda: mirrors[1].body("one") == b"1", within_s=1.0)
    mirrors[0].kill()
    logger.save("two", b"1")
    world.run_until(lambda: mirrors[1].body("two") == b"1", within_s=12.0)
    world.mute("p1", "m2")
    world.run(15.0)
    assert logger.follows is None
    world.heal()
    world.run_until(lambda: logger.follows == "m2")

    assert ids(logger) == {"one", "two"}
    assert world.sent(ms.Pull, by="p1") == []
    assert logger.subscriptions == {}


@obeys("A write-only logger offers what it holds as soon as its mirror has welcomed it.")
def test_what_a_lost_mirror_had_of_a_write_only_logger_reaches_the_next() -> None:
    world = World(seed=1)
    one, other = (world.mirror(name) for name in ("m1", "m2"))
    logger = world.peer("p1")
    logger.perform(logger.node.set_scope((), world.now))
    for machine in (one, other):
        logger.perform(logger.node.add_address(machine.address, world.now))
    for number in range(20):
        logger.save(f"{number}", b"1")
    world.run(2.0)
    assert len(one.store.rows) == 20
    assert logger.pending == len(other.store.rows) == 0
    one.kill()

    world.run_until(lambda: len(other.store.rows) == 20, within_s=15.0)


@obeys("For prefixes that came into its scope a peer pulls the feed from its beginning, and then goes on from …")
def test_a_wider_scope_fetches_what_is_missing() -> None:
    world, mirror, peer = scoped("a/")
    mirror.save("a/last", b"1")
    world.run(0.1)
    del world.log[:]
    peer.perform(peer.node.set_scope(("a/", "b/"), world.now))
    world.run(1.0)

    assert ids(peer) == {f"{kind}/{number}" for kind in "ab" for number in range(10)} | {"a/last"}
    rows = [row.id_key for message in world.sent(ms.Entries, to="p1") for row in message.rows]
    assert sorted(rows) == sorted(pack_id(f"b/{number}") for number in range(10)), "nothing that was here came again"
    mirror.save("b/live", b"1")
    mirror.save("a/live", b"1")
    world.run(0.1)
    assert {"a/live", "b/live"} <= ids(peer)


@obeys("For prefixes that came into its scope a peer pulls the feed from its beginning, and then goes on from …")
def test_a_wider_scope_goes_on_after_a_cut_and_a_restart() -> None:
    world, mirror, peer = scoped("a/", options=SyncOptions(scoped_poll_s=1e6))
    for number in range(3000):
        mirror.save(f"b/more/{number}", b"1")
    world.run(1.0)
    mirror.options = SyncOptions(pull_bytes=5000)
    mirror.restart()
    world.run_until(lambda: peer.follows == "m1", within_s=15.0)
    world.run(1.0)
    del world.log[:]
    peer.perform(peer.node.set_scope(("a/", "b/"), world.now))
    world.run_until(lambda: len(ids(peer)) > 1500)
    world.cut("p1", "m1")
    world.run(1.0)
    world.heal()
    world.run_until(lambda: len(ids(peer)) == 3020, within_s=15.0)
    world.run(1.0)
    rows = [row for message in world.sent(ms.Entries, to="p1") for row in message.rows]
    assert len(rows) < 3300, "it went on where it was cut"

    peer.perform(peer.node.set_scope(("a/", "b/", "c/"), world.now))
    peer.stop()
    peer.start()
    world.run_until(lambda: len(ids(peer)) == 3030, within_s=15.0)
    assert peer.node.scope == ("a/", "b/", "c/"), "remembered"


@obeys(
    "A scope that becomes everything begins every feed anew; a scope that becomes narrower goes on from the cursor.",
    "How much of each feed was taken in is remembered with its cursor; a mirror takes in everything.",
)
def test_narrower_and_wider_again_and_everything() -> None:
    world, mirror, peer = scoped("a/", "b/")
    peer.perform(peer.node.set_scope(("a/",), world.now))
    world.run(1.0)
    mirror.save("b/unseen", b"1")
    mirror.save("a/seen", b"1")
    world.run(0.1)
    assert "a/seen" in ids(peer)
    assert "b/unseen" not in ids(peer)
    del world.log[:]
    peer.restart()
    world.run(1.0)
    assert sum(len(message.rows) for message in world.sent(ms.Entries)) == 0

    peer.perform(peer.node.set_scope(("a/", "b/"), world.now))
    world.run(1.0)
    assert "b/unseen" in ids(peer)
    peer.perform(peer.node.set_scope(None, world.now))
    world.settle()
    mirror.save("anything", b"1")
    world.run(0.1)
    assert peer.leaves("anything"), "heard by subscription"


@obeys("How much of each feed was taken in is remembered with its cursor; a mirror takes in everything.")
def test_a_scoped_peer_that_becomes_a_mirror_holds_everything() -> None:
    world, _, peer = scoped("a/")
    peer.set_mode(True)
    assert peer.node.scope is None

    world.settle()

    assert len(ids(peer)) == 30
    assert not peer.store.missing_bodies()


@pytest.mark.parametrize("prefixes", [("a/",), ()])
def test_a_scoped_peer_reads_what_is_outside(prefixes: tuple[str, ...]) -> None:
    world, _, peer = scoped(*prefixes)
    request = peer.fetch("c/1")
    world.run(0.1)

    assert peer.outcome(request) is fx.Outcome.FOUND
    assert peer.body("c/1") == b"1"


@obeys("A mirror tells a peer with a scope of changes within it only, and sends nothing when others write elsewhere.")
def test_a_scoped_peer_hears_what_came_by_the_only_other_mirror() -> None:
    world = World(seed=1)
    one = world.mirror("m1", knows=["m2"])
    world.mirror("m2", knows=["m1"])
    peer = world.peer("p1")
    peer.perform(peer.node.set_scope(("a/",), world.now))
    peer.perform(peer.node.add_address(Address("m2", PORT), world.now))
    world.run(3.0)
    one.save("a/1", b"1")
    world.run(0.1)

    assert ids(peer) == {"a/1"}


def test_many_scopes_are_told_apart() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    kinds = [f"{number}/" for number in range(30)]
    peers = [world.peer(f"p{number}") for number in range(30)]
    for peer, kind in zip(peers, kinds, strict=True):
        peer.perform(peer.node.set_scope((kind,), world.now))
        peer.perform(peer.node.add_address(mirror.address, world.now))
    world.run(2.0)
    del world.log[:]
    for kind in kinds:
        mirror.save(f"{kind}x", b"1")
    world.run(0.1)

    for peer, kind in zip(peers, kinds, strict=True):
        assert ids(peer) == {f"{kind}x"}
    assert len(world.sent(ms.Changes)) == 30


def test_a_write_only_logger_may_ask_for_two_mirrors() -> None:
    world = World(seed=1)
    mirrors = [world.mirror(name, knows=["m1", "m2"]) for name in ("m1", "m2")]
    world.run(1.0)
    logger = world.peer("p1", acks=2)
    logger.perform(logger.node.set_scope((), world.now))
    logger.perform(logger.node.add_address(mirrors[0].address, world.now))
    logger.save("one", b"1")
    world.run_until(lambda: logger.pending == 0, within_s=1.0)
    assert mirrors[1].body("one") == b"1"
    mirrors[1].kill()
    logger.save("two", b"1")
    world.run(5.0)

    assert mirrors[0].body("two") == b"1"
    assert logger.pending == 1


@obeys("How much of each feed was taken in is remembered with its cursor; a mirror takes in everything.")
def test_a_scope_that_was_half_written_at_a_power_cut_counts_for_the_cursors_too() -> None:
    """Seed 5839 of the simulator: the cursor went on, and counted what the scope had left out."""
    world = World(seed=1)
    mirror = world.mirror("m1")
    mirror.save("a/0", b"1")
    peer = world.peer("p1", knows=["m1"])
    world.settle()
    peer.perform(peer.node.set_scope(check_scope(["a"]), world.now))
    world.settle()
    note = f"cursor-scope/{mirror.index_id.hex()}"
    assert note in peer.store.frames[-1][1], "written last, as a frame of its own"
    peer.store.frames.pop()  # the power cut took it
    peer.store.sync()
    peer.restart()
    assert note in peer.store.notes
    mirror.save("b/0", b"1")
    mirror.save("a/1", b"1")
    world.run(5.0)
    assert ids(peer) == {"a/0", "a/1"}

    peer.perform(peer.node.set_scope(None, world.now))
    world.run(5.0)
    assert ids(peer) == {"a/0", "a/1", "b/0"}
