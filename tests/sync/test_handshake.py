"""Who may talk with whom: versions, names, database ids, selves, clones, and nodes that lost some of their history."""

from __future__ import annotations

import pytest

from mynosql.address import Address
from mynosql.errors import PeerRefused
from mynosql.row import Leaf
from mynosql.sync import effects as fx
from mynosql.sync import handshake
from mynosql.sync import messages as ms
from mynosql.sync.options import SyncOptions
from tests.sync.harness import PORT, World, card, hello, welcome
from tests.sync.rules import obeys

STRANGER = fx.Link.served("77")


def greeted(world: World, machine_name: str, message: ms.Hello) -> ms.Message:
    """What that machine answers to a Hello."""
    machine = world.machines[machine_name]
    world.inject(machine, STRANGER, message)
    world.run(0.01)
    return world.strays[-1][2]


@obeys("The highest version that both sides speak is used; without one the Hello is refused with a …")
@pytest.mark.parametrize(("low", "high", "chosen"), [(1, 1, 1), (1, 9, 2), (0, 1, 1), (3, 9, None), (0, 0, None)])
def test_the_highest_common_version_is_chosen(low: int, high: int, chosen: int | None) -> None:
    world = World(seed=1)
    world.mirror("m1")

    answer = greeted(world, "m1", hello(version_low=low, version_high=high))

    if chosen is not None:
        assert isinstance(answer, ms.Welcome)
        assert answer.version == chosen
    else:
        assert isinstance(answer, ms.Refused)
        assert answer.code is ms.RefusedCode.VERSION
        assert f"{low} to {high}" in answer.text
        assert "1 to 2" in answer.text


@obeys("The highest version that both sides speak is used; without one the Hello is refused with a …")
def test_a_version_that_we_do_not_speak_is_not_gone_along_with() -> None:
    world = World(seed=1)
    link = world.ghost("ghost")
    peer = world.peer("p1", knows=["ghost"])
    world.run(0.01)

    world.inject(peer, link, welcome(world.told("ghost", ms.Hello)[0], version=3))

    assert peer.follows is None
    assert isinstance(peer.failures[-1], PeerRefused)


@obeys("A peer refuses every Hello: only mirrors serve.")
def test_a_peer_refuses_a_hello() -> None:
    world = World(seed=1)
    world.peer("p1")

    answer = greeted(world, "p1", hello())

    assert isinstance(answer, ms.Refused)
    assert answer.code is ms.RefusedCode.NOT_A_MIRROR


def test_another_database_name_is_refused_with_both_names() -> None:
    world = World(seed=1)
    world.mirror("m1")

    answer = greeted(world, "m1", hello(database="Other"))

    assert isinstance(answer, ms.Refused)
    assert answer.code is ms.RefusedCode.NAME
    assert "'Other'" in answer.text
    assert "'Test'" in answer.text


@obeys("A node that reaches itself refuses, and does not dial that address again.")
def test_a_mirror_in_its_own_list_is_left_out() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1", knows=["m1"])

    world.run(120.0)

    assert len(world.sent(ms.Hello)) == 1
    assert mirror.node.connected == 0
    assert mirror.failures == []


@obeys("A node without a database id adopts the other's; a mirror without one mints it when it first serves.")
def test_a_mirror_mints_the_database_id_and_the_peer_adopts_it() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    assert "database" not in mirror.store.notes
    peer = world.peer("p1", knows=["m1"])

    world.run(1.0)

    assert len(mirror.store.notes["database"]) == 16
    assert peer.store.notes["database"] == mirror.store.notes["database"]


def two_meshes(world: World) -> None:
    """m1 with p1 and m2 with p2 have both been used, apart from each other."""
    for mirror, peer in (("m1", "p1"), ("m2", "p2")):
        world.mirror(mirror)
        world.peer(peer, knows=[mirror]).save(f"from {peer}", b"1")
    world.run(2.0)


@obeys("Two different databases refuse each other, unless the user joins them with merge.")
def test_another_database_is_refused_and_nothing_is_exchanged() -> None:
    world = World(seed=1)
    two_meshes(world)
    peer, mirror = world.machines["p1"], world.machines["m2"]
    peer.perform(peer.node.add_address(Address("m2", PORT), world.now))
    world.cut("p1", "m1")

    world.run(20.0)

    assert peer.body("from p2") is None
    assert mirror.body("from p1") is None
    refusal = next(error for error in peer.failures if isinstance(error, PeerRefused))
    assert "merge=True" in str(refusal)
    assert peer.store.notes["database"].hex()[:12] in str(refusal)


@obeys("Two different databases refuse each other, unless the user joins them with merge.")
def test_merge_joins_two_databases_on_all_their_nodes() -> None:
    world = World(seed=1)
    two_meshes(world)
    mirror = world.machines["m1"]

    mirror.perform(mirror.node.add_address(Address("m2", PORT), world.now, merge=True))

    world.settle()
    assert world.machines["p2"].leaves("from p1")
    world.machines["p2"].restart()
    world.settle()
    assert world.machines["p2"].follows is not None


@obeys("Ids of a database that exchanged nothing yet, or is empty, are joined with the other's …")
def test_two_mirrors_that_start_together_become_one_database() -> None:
    world = World(seed=1)
    one = world.mirror("m1", knows=["m2"])
    other = world.mirror("m2", knows=["m1"])
    one.save("a", b"1")
    other.save("b", b"2")

    world.settle()

    assert one.store.notes["database"] == other.store.notes["database"]
    assert [*one.failures, *other.failures] == []


@obeys("Each side says how much it knows of the other's history; a node that has less itself takes …")
@pytest.mark.parametrize("seq_beyond", [0, 1])
def test_a_peer_that_lost_acknowledged_changes_renews_itself(seq_beyond: int) -> None:
    world = World(seed=1)
    link = world.ghost("ghost")
    peer = world.peer("p1", knows=["ghost"])
    peer.save("a", b"1")
    world.run(0.01)
    asked = world.told("ghost", ms.Hello)[-1]
    world.ghosts["ghost"].clear()

    known = ms.Known(asked.card.index_id, peer.store.durable_seq + seq_beyond, 0, 0, 0)
    world.inject(peer, link, welcome(asked, known=known))

    if seq_beyond == 0:
        assert peer.renewed == []
        return
    assert len(peer.renewed) == 1
    world.run(0.5)
    assert world.told("ghost", ms.Pull) == world.told("ghost", ms.Push) == []
    again = world.told("ghost", ms.Hello)[-1].card
    assert again.node != asked.card.node
    assert again.index_id != asked.card.index_id


@obeys("Each side says how much it knows of the other's history; a node that has less itself takes …")
def test_a_node_whose_revisions_are_known_beyond_its_own_clock_renews_itself() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    mirror.restart()
    index_id = mirror.index_id

    known = ms.Known(b"older index id..", 1, mirror.node_id, mirror.store.hlc + 1, 0)
    world.inject(mirror, STRANGER, hello(known=known))

    assert len(mirror.renewed) == 1
    assert mirror.index_id != index_id
    assert world.answers(mirror, ms.Welcome) == []


@obeys("What is known of a node carries the nonce of the opening in which it told it; a node that …")
def test_a_rolled_back_mirror_is_seen_even_when_it_grew_beyond_what_others_know() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    mirror.save("a", b"1")
    world.settle()
    snapshot = mirror.store.backup()
    mirror.save("b", b"2")
    world.settle()
    world.cut("p1", "m1")

    mirror.kill()
    mirror.store = snapshot  # the virtual machine goes back to its snapshot …
    mirror.start()
    for number in range(5):
        mirror.save(f"later {number}", b"3")  # … and has more changes by now than anybody knows of
    world.run(1.0)
    assert mirror.store.durable_seq > 2
    world.heal()
    world.run(15.0)

    assert len(mirror.renewed) == 1
    assert peer.body("later 4") is None
    assert peer.leaves("later 4")


@obeys("What is known of a node carries the nonce of the opening in which it told it; a node that …")
def test_restarts_are_no_rollbacks() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    for number in range(4):
        peer.save(f"{number}", b"1")
        mirror.save(f"m{number}", b"1")
        world.run(0.7)
        mirror.restart()
        world.run(0.7)
        peer.restart()

    world.settle()

    assert mirror.renewed == peer.renewed == []


@obeys("After a renewal every conversation starts again, and no confirmation of the old index counts.")
def test_confirmations_do_not_outlive_a_renewal() -> None:
    world = World(seed=1)
    one = world.mirror("m1", knows=["m2"])
    other = world.mirror("m2", knows=["m1"])
    one.save("a", b"1")
    world.run_until(lambda: one.node.confirmed_seq == 1)

    world.inject(one, STRANGER, hello(known=ms.Known(one.index_id, 99, 0, 0, 0)))
    assert one.node.confirmed_seq == 0
    world.settle()

    world.run_until(lambda: one.node.confirmed_seq == one.store.head)
    assert other.node.connected == 2


def test_a_known_seq_counts_only_for_its_own_index() -> None:
    world = World(seed=1)
    hub = world.mirror("m1").node._hub

    assert handshake.find_loss(hub, ms.Known(b"another index id", 99, 0, 0, 0)) is None
    assert handshake.find_loss(hub, ms.Known(hub.index_id, 1, 0, 0, 0)) is not None
    assert handshake.find_loss(hub, ms.Known(hub.index_id, 0, 0, 0, hub.nonce)) is None
    assert handshake.find_loss(hub, ms.Known(hub.index_id, 0, 0, 0, 12345)) is not None
    assert handshake.find_loss(hub, None) is None


def test_what_we_know_of_a_node_is_the_further_of_pull_and_push() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    leaf: Leaf = peer.save("a", b"1")
    world.settle()

    known = handshake.known_of(mirror.node._hub, card(node=peer.node_id, index_id=peer.index_id))

    assert known == ms.Known(peer.index_id, 1, peer.node_id, leaf.hlc, peer.node._hub.nonce)
    assert handshake.known_of(mirror.node._hub, card(node=1, index_id=b"never met before")) is None


@obeys("The highest version that both sides speak is used; without one the Hello is refused with a …")
@pytest.mark.parametrize(("ours", "theirs", "spoken"), [
    ((1, 1), (1, 2), 1), ((1, 2), (1, 1), 1), ((1, 2), (1, 2), 2), ((1, 2), (2, 3), 2), ((2, 3), (1, 2), 2),
])
def test_adjacent_versions_talk_in_the_newest_that_both_know(
    ours: tuple[int, int], theirs: tuple[int, int], spoken: int
) -> None:
    """A mesh is updated node by node."""
    world = World(seed=1)
    mirror = world.mirror("m1", options=SyncOptions(version_low=theirs[0], version_high=theirs[1]))
    peer = world.peer("p1", knows=["m1"], options=SyncOptions(version_low=ours[0], version_high=ours[1]))
    peer.save("a", b"1")
    world.settle()

    assert mirror.body("a") == b"1"
    (dialled,) = peer.node._hub.dials.ready()
    (served,) = mirror.node._hub.server._sessions.values()
    assert dialled.version == served.version == spoken


@obeys("The highest version that both sides speak is used; without one the Hello is refused with a …")
@pytest.mark.parametrize(("ours", "theirs"), [((1, 1), (2, 3)), ((3, 4), (1, 2))])
def test_versions_that_are_too_far_apart_are_refused_with_both_ranges(
    ours: tuple[int, int], theirs: tuple[int, int]
) -> None:
    world = World(seed=1)
    world.mirror("m1", options=SyncOptions(version_low=theirs[0], version_high=theirs[1]))
    peer = world.peer("p1", knows=["m1"], options=SyncOptions(version_low=ours[0], version_high=ours[1]))
    world.run(2.0)

    assert peer.follows is None
    text = str(peer.failures[-1])
    assert f"{ours[0]} to {ours[1]} asked for" in text
    assert f"{theirs[0]} to {theirs[1]} spoken here" in text


@obeys("A node that is told of a version under its own node id that it never had renews itself too, at …")
def test_a_node_that_meets_what_it_lost_at_somebody_it_never_met_renews_itself() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    world.settle()
    node, index_id = peer.node_id, peer.index_id

    peer.perform(peer.node.on_foreign(world.now))
    assert peer.node_id != node
    assert peer.index_id != index_id
    again = peer.node_id
    peer.perform(peer.node.on_foreign(world.now))
    assert peer.node_id == again, "not twice in a minute"
    world.run(61.0)
    peer.perform(peer.node.on_foreign(world.now))
    assert peer.node_id != again
    world.settle()
    assert mirror.node.connected == 1
