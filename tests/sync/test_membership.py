"""The list of mirrors: how it spreads, what is believed, what is remembered."""

from __future__ import annotations

import pytest

from mynosql.address import Address
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.options import SyncOptions
from tests.sync.harness import PORT, Machine, World, card, hello, welcome
from tests.sync.rules import obeys


def hosts(machine: Machine) -> list[str]:
    return [address.host for address in machine.node.addresses()]


@obeys("Mirrors pass on the mirrors that they know, so that a full mesh forms from the first one met.")
def test_a_full_mesh_forms_from_a_chain() -> None:
    world = World(seed=1)
    names = [f"m{number}" for number in range(5)]
    machines = [world.mirror(name, knows=names[position - 1 : position]) for position, name in enumerate(names)]

    world.run_until(lambda: all(machine.node.connected == 8 for machine in machines), within_s=5.0)

    peer = world.peer("p1", knows=["m4"])
    world.run(0.5)
    assert sorted(hosts(peer)) == names
    peer.restart()
    assert sorted(hosts(peer)) == names, "remembered"


def test_a_peer_passes_nothing_on() -> None:
    world = World(seed=1)
    one = world.mirror("m1")
    other = world.mirror("m2")
    peer = world.peer("p1", knows=["m1", "m2"])
    world.run(2.0)
    world.cut("p1", "m1")
    world.run(2.0)
    assert peer.follows == "m2"

    assert hosts(one) == hosts(other) == []
    assert world.sent(ms.Mirrors, by="p1") == []


@obeys("Addresses given by the user come first and stay; learned ones are found by node id.")
def test_given_addresses_come_first_and_a_mirror_that_moves_is_one_mirror() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["gone", "m1"])
    world.inject(mirror, fx.Link.served("9"), hello(card=card(node=9, advertised=Address("before", PORT))))
    world.run(8.0)
    assert hosts(peer) == ["gone", "m1", "before"]

    world.inject(mirror, fx.Link.served("9"), hello(card=card(node=9, advertised=Address("after", PORT))))
    world.run(1.0)

    assert hosts(peer) == ["gone", "m1", "after"]


@obeys("One node at two addresses is one conversation; an address given by the user is kept.")
@pytest.mark.parametrize("given", ["m2", "alias"])
def test_two_addresses_of_one_node_are_one_conversation(given: str) -> None:
    world = World(seed=1)
    world.aliases["alias"] = "m2"
    first = world.mirror("m1", knows=[given])
    second = world.mirror("m2", knows=["m1"])
    world.run(5.0)

    assert first.node.connected == second.node.connected == 2
    assert [address.host for address in first.links] == [given]
    assert first.follows is None


@obeys("One node at two addresses is one conversation; an address given by the user is kept.")
def test_two_given_addresses_of_one_node_are_one_conversation_and_one_is_enough() -> None:
    world = World(seed=1)
    world.aliases["alias"] = "m2"
    first = world.mirror("m1", knows=["alias", "m2"])
    world.mirror("m2")
    world.run(5.0)
    assert len(first.links) == 1
    (used,) = first.links

    del world.aliases["alias"]
    world.machines["m2"].restart()
    world.run(20.0)
    first.save("a", b"1")
    world.settle()
    assert used.host == "alias"


@obeys("A loopback address is learned only from a node that is reached by one.")
@pytest.mark.parametrize(("reached_at", "is_learned"), [("far.example", False), ("127.0.0.1", True)])
def test_a_loopback_address_means_something_only_on_this_machine(reached_at: str, is_learned: bool) -> None:
    world = World(seed=1)
    link = world.ghost(reached_at)
    peer = world.peer("p1", knows=[reached_at])
    world.run(0.01)
    info = ms.MirrorInfo(9, Address("127.0.0.1", 9900), 9901, False, 0)

    world.inject(peer, link, welcome(
        world.told(reached_at, ms.Hello)[-1], mirrors=(info,), card=card(advertised=Address("localhost", 7700)),
    ))

    expected = {Address("127.0.0.1", 9900), Address("localhost", 7700)} if is_learned else set()
    assert set(peer.node.addresses()) - {Address(reached_at, PORT)} == expected


@obeys("An address that the user took back is not learned again, also after the database was opened anew.")
def test_an_address_that_was_taken_back_stays_away() -> None:
    world = World(seed=1)
    for name in ("m1", "m2"):
        world.mirror(name, knows=["m1", "m2"])
    peer = world.peer("p1", knows=["m1", "m2"])
    world.run(1.0)
    assert peer.follows == "m1"

    peer.perform(peer.node.remove_address(Address("m1", PORT), world.now))
    world.run(30.0)

    assert peer.follows == "m2"
    assert hosts(peer) == ["m2"]
    peer.restart()
    world.run(30.0)
    assert hosts(peer) == ["m2"], "remembered"
    peer.perform(peer.node.add_address(Address("m1", PORT), world.now))
    assert hosts(peer) == ["m2", "m1"]
    world.run(1.0)
    peer.restart()
    assert hosts(peer) == ["m2", "m1"]
    assert not peer.node._hub.members._banned


def test_taking_back_the_last_address_leaves_the_peer_alone_and_asleep() -> None:
    world = World(seed=1)
    world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    world.run(1.0)

    peer.perform(peer.node.remove_address(Address("m1", PORT), world.now))

    assert peer.node.connected == 0
    assert peer.links == {}
    assert peer.node.next_due(world.now) is None


def test_a_learned_mirror_that_nobody_met_for_long_is_forgotten() -> None:
    world = World(seed=1)
    link = world.ghost("ghost")
    peer = world.peer("p1", knows=["ghost"])
    world.run(0.01)
    day = 86_400
    infos = tuple(
        ms.MirrorInfo(node, Address(f"m{node}", PORT), PORT + 1, False, age_s)
        for node, age_s in ((1, 0), (2, 29 * day), (3, 31 * day))
    )
    world.inject(peer, link, welcome(world.told("ghost", ms.Hello)[-1], mirrors=infos))
    world.run(1.0)
    assert hosts(peer) == ["ghost", "m1", "m2"]

    world.now += 2 * day
    peer.stop()
    peer.start()
    assert "m2" in hosts(peer), "time while the database is closed does not count"
    world.inject(peer, link, ms.Mirrors(mirrors=()))


@obeys("A learned mirror that nobody has talked with for 30 days is forgotten by all.")
def test_a_mirror_that_is_gone_for_good_is_forgotten_while_all_run_on() -> None:
    world = World(seed=1)
    world.options = SyncOptions(expire_s=600)
    machines = [world.mirror(name, knows=["m1"]) for name in ("m1", "m2", "m3")]
    peer = world.peer("p1", knows=["m1"])
    world.run(30.0)
    assert sorted(hosts(peer)) == ["m1", "m2", "m3"]
    machines[2].kill()
    world.run(400.0)
    assert sorted(hosts(peer)) == ["m1", "m2", "m3"]
    world.run(400.0)

    assert sorted(hosts(peer)) == ["m1", "m2"]
    assert hosts(machines[0]) == ["m1", "m2"], "its own was given"
    assert [address.host for address in machines[0].links] == ["m2"]
    assert hosts(machines[1]) == ["m1"], "given by its user, and met besides"


def test_addresses_that_were_taken_back_are_bounded() -> None:
    world = World(seed=1)
    peer = world.peer("p1")
    for number in range(300):
        peer.perform(peer.node.remove_address(Address(f"h{number}", PORT), world.now))

    assert len(peer.node._hub.members._banned) == 256
    assert Address("h299", PORT) in peer.node._hub.members._banned


def test_the_list_is_bounded() -> None:
    world = World(seed=1)
    link = world.ghost("ghost")
    peer = world.peer("p1", knows=["ghost"])
    world.run(0.01)
    world.inject(peer, link, welcome(world.told("ghost", ms.Hello)[-1]))
    for start in (0, 200):
        world.inject(peer, link, ms.Mirrors(mirrors=tuple(
            ms.MirrorInfo(1000 + number, Address(f"h{number}", PORT), 1, False, 0)
            for number in range(start, start + 200)
        )))

    assert len(peer.node.addresses()) == 257


def test_notes_that_cannot_be_read_count_as_not_there() -> None:
    world = World(seed=1)
    peer = world.peer("p1")
    peer.store.put([], {"addresses": b"\x93\x01", "mirrors": b"\x91\x91\x01", "cursor/zz": b"1", "delivered": b"x"})
    peer.store.sync()

    peer.restart()

    assert peer.node.addresses() == []
    assert peer.node.delivered_seq == 0


@obeys("Addresses given by the user come first and stay; learned ones are found by node id.")
def test_a_given_address_is_not_bypassed_by_what_its_node_advertises() -> None:
    """The user reaches the mirror by a tunnel: what the mirror says of itself may lead elsewhere, or nowhere."""
    world = World(seed=1)
    world.aliases["tunnel"] = "m1"
    world.mirror("m1")
    peer = world.peer("p1", knows=["tunnel"])
    world.run(1.0)
    assert hosts(peer) == ["tunnel", "m1"]
    del world.aliases["tunnel"]
    world.cut("p1", "m1")
    world.heal()
    for _ in range(2):
        world.run(20.0)
        assert peer.follows is None
        assert [address.host for address in peer.links] == ["tunnel"]
        peer.restart()
