"""Whole conversations between whole nodes, each named by its story. The rules one by one are in the other files."""

from __future__ import annotations

import pytest

from mynosql.idkey import pack_id
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.wire import encode
from tests.sync.harness import Machine, World


def rows_sent(world: World, kind: type[ms.Push] | type[ms.Entries], *, by: str) -> list[bytes]:
    """Id keys of all rows that a node sent in such messages, in order."""
    return [row.id_key for message in world.sent(kind, by=by) for row in message.rows]


def test_first_sync() -> None:
    """A peer with one record of its own meets a mirror with two."""
    world = World(seed=1)
    mirror = world.mirror("m1")
    mirror.save("a", b"1")
    mirror.save("b", b"2")
    world.run(0.1)
    peer = world.peer("p1")
    peer.save("own", b"3")
    world.run(0.1)

    peer.perform(peer.node.add_address(mirror.address, world.now))
    world.settle()
    world.run(0.05)

    assert world.talk("p1", "m1") == [
        "p1: Hello", "m1: Welcome", "p1: Pull", "p1: Push", "m1: Entries", "m1: Ack", "p1: Offer", "m1: Want",
    ] or world.talk("p1", "m1") == [
        "p1: Hello", "m1: Welcome", "p1: Pull", "p1: Push", "m1: Entries", "m1: Ack",
    ]
    assert peer.body("a") is None, "a peer takes the index, and bodies when they are read"
    assert mirror.body("own") == b"3"


def test_live_change() -> None:
    """A change on one mirror is on the other, with its body, after one fsync on either side and one way."""
    world = World(seed=1, latency_s=0.001)
    world.fsync_s = 0.0005
    one = world.mirror("m1", knows=["m2"])
    other = world.mirror("m2", knows=["m1"])
    world.run(2.0)

    one.save("a", b"1")

    assert world.run_until(lambda: other.body("a") == b"1") < 0.002
    assert world.run_until(lambda: one.node.confirmed_seq == 1) < 0.055


def test_gap_in_the_publications() -> None:
    """One publication is lost; the next one shows the gap, and one Pull fills it."""
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    world.run(2.0)
    pulls = len(world.sent(ms.Pull))
    world.publish_loss_share = 1.0
    mirror.save("lost", b"1")
    world.run(0.1)
    world.publish_loss_share = 0.0
    assert not peer.leaves("lost")

    mirror.save("next", b"1")
    world.run(0.1)

    assert peer.leaves("lost")
    assert peer.leaves("next")
    assert len(world.sent(ms.Pull)) == pulls + 1


def test_lost_tail() -> None:
    """The last publication of all is lost: the next heartbeat shows it."""
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    world.run(2.0)
    world.publish_loss_share = 1.0
    mirror.save("tail", b"1")
    world.run(0.01)
    world.publish_loss_share = 0.0

    assert world.run_until(lambda: bool(peer.leaves("tail"))) <= 1.1


def test_cut_while_writing() -> None:
    """A logger writes on while its link is cut twice: every record arrives once, and little is sent twice."""
    world = World(seed=1, latency_s=0.005)
    mirror = world.mirror("m1")
    logger = world.peer("p1", knows=["m1"])
    world.run(1.0)
    for number in range(300):
        logger.save(f"{number:03}", b"reading %d" % number)
        world.run(0.01)
        if number in (80, 200):
            world.cut("p1", "m1")
        if number in (140, 230):
            world.heal()
    world.settle()

    assert sorted(mirror.store.rows) == [pack_id(f"{number:03}") for number in range(300)]
    assert mirror.store.head == 300
    pushed = rows_sent(world, ms.Push, by="p1")
    assert len(pushed) <= 300 + 2 * 3, "no more than was in flight at each cut"


def test_mirror_killed_and_restarted() -> None:
    """The mirror loses power and comes back: nothing is lost, and only what is new is pulled."""
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    for number in range(20):
        mirror.save(f"m{number}", b"1")
    world.settle()
    mirror.kill()
    for number in range(20):
        peer.save(f"p{number}", b"1")
        world.run(0.1)
    assert peer.pending == 20
    del world.log[:]

    mirror.start()
    world.settle()
    world.run(5.0)

    assert len(mirror.store.rows) == 40
    assert mirror.renewed == peer.renewed == []
    known = {pack_id(f"m{number}") for number in range(20)}
    assert known.isdisjoint(rows_sent(world, ms.Entries, by="m1"))


def test_mirror_restored_from_an_old_backup() -> None:
    """It finds out by the first Hello that others know more of it, takes a new identity, and gets everything back."""
    world = World(seed=1)
    first = world.mirror("m1", knows=["m2"])
    world.mirror("m2", knows=["m1"])
    peer = world.peer("p1", knows=["m1"])
    first.save("old", b"1")
    world.settle()
    backup = first.store.backup()
    for number in range(10):
        first.save(f"m{number}", b"1")
        peer.save(f"p{number}", b"1")
    world.settle()
    identity = (first.node_id, first.index_id)

    first.kill()
    first.store = backup
    first.start()
    world.settle()

    assert len(first.renewed) == 1
    assert first.node_id != identity[0]
    assert first.index_id != identity[1]
    assert len(first.store.rows) == 21
    assert first.store.missing_bodies() == []


def test_a_lone_mirror_restored_from_an_old_backup_gets_back_what_its_peer_holds() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    world.settle()
    backup = mirror.store.backup()
    for number in range(10):
        peer.save(f"p{number}", b"1")
    world.settle()
    mirror.kill()
    mirror.store = backup
    mirror.start()

    world.run_until(lambda: len(mirror.store.rows) == 10)

    assert peer.renewed == []


def test_a_copied_folder() -> None:
    """A folder is copied to a second machine and both are used: the second becomes somebody else and nothing mixes."""
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    peer.save("before", b"1")
    world.settle()

    copy = world.peer("p2")
    copy.stop()
    copy.store = peer.store.backup()
    copy.node_id, copy.index_id = peer.node_id, peer.index_id
    copy.start()
    world.run(3.0)
    assert len(copy.renewed) == 1
    assert peer.renewed == []
    peer.save("by the first", b"1")
    copy.save("by the second", b"2")
    world.settle()

    assert mirror.body("by the first") == b"1"
    assert mirror.body("by the second") == b"2"
    assert peer.node_id != copy.node_id


def test_fail_over_and_back() -> None:
    world = World(seed=1)
    first = world.mirror("m1", knows=["m2"])
    second = world.mirror("m2", knows=["m1"])
    peer = world.peer("p1", knows=["m1", "m2"])
    world.run(2.0)
    assert peer.follows == "m1"
    first.kill()
    assert world.run_until(lambda: peer.follows == "m2") < 5.0
    peer.save("while away", b"1")
    world.run_until(lambda: second.body("while away") == b"1", within_s=1.0)

    first.start()
    world.run_until(lambda: peer.follows == "m1", within_s=20.0)

    peer.save("back", b"1")
    world.settle()
    assert rows_sent(world, ms.Push, by="p1") == [pack_id("while away"), pack_id("back")]


def test_two_mirrors_converge_from_concurrent_edits() -> None:
    world = World(seed=1)
    mirrors = [world.mirror("m1", knows=["m2"]), world.mirror("m2", knows=["m1"])]
    peers = [world.peer("p1", knows=["m1"]), world.peer("p2", knows=["m2"])]
    mirrors[0].save("a", b"first")
    world.settle()
    for pair in (("m1", "m2"), ("p1", "m2"), ("p2", "m1")):
        world.cut(*pair)
    peers[0].save("a", b"edit by p1")
    peers[1].save("a", b"edit by p2")
    world.run(1.0)
    assert mirrors[0].body("a") == b"edit by p1"
    assert mirrors[1].body("a") == b"edit by p2"
    world.heal()
    world.settle()

    leaf_sets = {machine.leaves("a") for machine in (*mirrors, *peers)}
    assert len(leaf_sets) == 1
    assert {leaf.node for leaf in leaf_sets.pop()} == {peers[0].node_id, peers[1].node_id}
    winner = mirrors[0].leaves("a")[0]
    loser = next(peer for peer in peers if peer.node_id != winner.node)
    leaf = loser.save("a", b"the loser's author edits the winner")
    world.settle()
    assert mirrors[0].leaves("a")[0] == leaf
    assert len(mirrors[1].leaves("a")) == 2, "an edit of the winner does not hide the losing edit, even by its author"


def test_large_body() -> None:
    """A 5 MB record of a peer reaches both mirrors in pieces; small ones pass it on the way."""
    world = World(seed=1, latency_s=0.02)
    mirrors = [world.mirror("m1", knows=["m2"]), world.mirror("m2", knows=["m1"])]
    peer = world.peer("p1", knows=["m1"])
    reader = world.peer("p2", knows=["m2"])
    world.run(2.0)
    body = world.rng.randbytes(5_000_000)
    peer.save("large", body)
    peer.save("small", b"1")
    world.run_until(lambda: mirrors[1].body("small") == b"1")
    assert mirrors[0].body("large") is None

    world.settle()
    request = reader.fetch("large", timeout_s=60.0)
    world.run_until(lambda: request in reader.fetched)

    assert reader.body("large") == body
    biggest = max(sent.size for sent in world.log)
    assert biggest < 140_000
    assert sum(sent.size for sent in world.log) < 3.2 * len(body)


def test_chain_of_mirrors() -> None:
    """Each mirror knows only the one before; in the end all know all, and any two may die."""
    world = World(seed=1)
    machines = [world.mirror(f"m{number}", knows=[f"m{number - 1}"] if number else []) for number in range(4)]
    peer = world.peer("p1", knows=["m3"])
    world.run(3.0)

    machines[3].kill()
    machines[1].kill()
    peer.save("a", b"1")
    world.run_until(lambda: machines[0].body("a") == machines[2].body("a") == b"1", within_s=20.0)

    machines[1].start()
    machines[3].start()
    world.settle()


@pytest.mark.parametrize("seed", range(5))
def test_duplicated_and_reordered_messages(seed: int) -> None:
    world = World(seed=seed, latency_s=0.005)
    world.jitter_s = 0.05
    names = ("m1", "m2")
    machines: list[Machine] = [world.mirror(name, knows=names) for name in names]
    machines += [world.peer("p1", knows=names), world.peer("p2", knows=["m2"])]
    world.run(2.0)
    world.reorder = True
    world.duplicate_share = 0.3
    world.publish_loss_share = 0.2
    for number in range(60):
        world.rng.choice(machines).save(f"{number % 12}", b"%d" % number)
        world.run(0.02)
    world.settle()

    heads = sum(machine.store.head for machine in machines)
    assert heads < 60 * len(machines) * 1.3
    assert all(machine.failures == [] for machine in machines)


def test_garbage() -> None:
    """Somebody sends rubbish, on every link and topic: it is shown, and everything goes on."""
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    world.run(1.0)
    frames = encode(ms.Ping(number=1))
    for link in (fx.Link.served("77"), world.served_link("m1", "p1")):
        world.inject_garbage(mirror, link, [frames[0][:-1]])
    world.inject_garbage(mirror, fx.Link.served("78"), [b"\x00" * 100] * 50)
    assert len(mirror.failures) == 3

    peer.save("a", b"1")
    world.settle()
    world.run(35.0)
    assert peer.follows == "m1"


def test_a_mirror_behind_nat_keeps_up_by_dialling_out() -> None:
    """m2 can dial m1, not the other way round: it follows all the same, and its peers' records wait for a way out."""
    world = World(seed=1)
    first = world.mirror("m1")
    second = world.mirror("m2", knows=["m1"])
    second.perform(second.node.set_endpoint(None, 0, world.now))
    first.save("a", b"1")

    world.run_until(lambda: second.body("a") == b"1")

    assert first.node.addresses() == []
