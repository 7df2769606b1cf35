"""A mirror gets every body that its index names, and says that it is filling until then."""

from __future__ import annotations

import itertools

from mynosql.idkey import pack_id
from mynosql.revision import merge_leaves
from mynosql.row import Row
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.options import SyncOptions
from tests.sync.harness import Sent, World
from tests.sync.rules import obeys


@obeys("A mirror asks for bodies that did not come with their changes after a grace of 100 ms.")
def test_a_body_too_large_to_be_published_is_fetched_after_the_grace() -> None:
    world = World(seed=1)
    one = world.mirror("m1", knows=["m2"])
    other = world.mirror("m2", knows=["m1"])
    world.run(2.0)
    one.save("a", bytes(5000))
    saved_at = world.now

    world.run_until(lambda: other.body("a") is not None)

    assert 0.1 <= world.now - saved_at < 0.15


@obeys("A mirror asks for bodies that did not come with their changes after a grace of 100 ms.")
def test_relayed_changes_are_not_fetched_when_their_bodies_come_by_themselves() -> None:
    world = World(seed=1)
    mirrors = [world.mirror(name, knows=["m1", "m2", "m3"]) for name in ("m1", "m2", "m3")]
    world.run(2.0)
    for number in range(50):
        mirrors[number % 3].save(f"{number}", b"small")
        world.run(0.01)
    world.settle()
    world.run(1.0)

    assert world.sent(ms.Fetch) == []


@obeys("A node that becomes a mirror is filling, on disk and announced, until it holds every body …")
def test_a_peer_that_becomes_a_mirror_fills() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    for number in range(600):
        mirror.save(f"{number:03}", bytes(3000 if number % 100 else 100_000))
    world.settle()
    assert len(peer.store.missing_bodies()) == 600

    peer.set_mode(True)
    assert peer.node.is_filling
    assert peer.store.notes["filling"] == b"1"
    world.run_until(lambda: mirror.node._hub.members.is_filling(peer.node_id))
    peer.restart()
    assert peer.node.is_filling
    world.run_until(lambda: not peer.node.is_filling)

    assert peer.store.missing_bodies() == []
    assert peer.store.notes["filling"] == b"0"
    world.run_until(lambda: not mirror.node._hub.members.is_filling(peer.node_id))
    fetched = [len(message.id_keys) for message in world.sent(ms.Fetch, by="p1")]
    assert sum(fetched) < 1300, "each body about once, though it was restarted in between"


def test_a_first_mirror_is_full_at_once() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    mirror.save("a", b"1")
    world.run(0.5)

    assert not mirror.node.is_filling


def test_a_new_mirror_of_a_mesh_is_filling_until_it_took_in_a_feed() -> None:
    world = World(seed=1)
    old = world.mirror("m1")
    for number in range(50):
        old.save(f"{number}", bytes(100_000))
    world.run(0.1)
    new = world.mirror("m2", knows=["m1"])
    world.run(0.01)
    assert new.node.is_filling

    world.run_until(lambda: not new.node.is_filling)

    assert new.store.missing_bodies() == []


@obeys("Bodies that no mirror held are asked for again when another mirror is met, and after 1 s, 2 s … 30 s.")
def test_what_nobody_held_is_asked_for_again_ever_later() -> None:
    world = World(seed=1)
    one = world.mirror("m1", knows=["m2"])
    other = world.mirror("m2", knows=["m1"])
    world.run(2.0)
    other.save("a", bytes(5000))
    row = other.store.rows[pack_id("a")]
    other.store.rows[pack_id("a")] = row._replace(bodies=(None,))
    world.run(200.0)
    times = [sent.at for sent in world.log if isinstance(sent.message, ms.Fetch) and sent.sender == "m1"]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert 0.7 < pauses[0] < 1.3
    assert 22 < max(pauses) < 38
    assert len(times) < 15

    other.store.rows[pack_id("a")] = row
    world.run_until(lambda: one.store.missing_bodies() == [], within_s=40.0)


@obeys("Bodies that no mirror held are asked for again when another mirror is met, and after 1 s, 2 s … 30 s.")
def test_another_mirror_is_asked_as_soon_as_it_is_met() -> None:
    world = World(seed=1)
    names = ("m1", "m2", "m3")
    one, _, third = (world.mirror(name, knows=names) for name in names)
    world.run(2.0)
    world.on_deliver = lambda sent: not (isinstance(sent.message, ms.Bodies) and sent.sender == "m3")
    third.save("a", bytes(5000))
    world.run(3.0)
    third.kill()
    world.on_deliver = lambda sent: True
    world.run(60.0)
    assert one.leaves("a")
    assert one.body("a") is None
    world.run_until(lambda: one.node._hub.filler._rest_until > world.now + 10)

    third.start()

    world.run_until(lambda: one.body("a") is not None, within_s=6.0)
    assert one.node._hub.filler._rest_until < world.now


def test_more_missing_than_is_remembered_is_found_by_looking_through_the_index() -> None:
    world = World(seed=1, latency_s=0.0001)
    one = world.mirror("m1", knows=["m2"])
    other = world.mirror("m2", knows=["m1"], options=SyncOptions(fill_ids_max=8, fill_in_flight=4))
    world.run(2.0)
    for number in range(100):
        one.save(f"{number}", bytes(3000))
    world.settle()

    assert other.store.missing_bodies() == []


def test_the_bodies_of_losing_leaves_are_filled_too() -> None:
    world = World(seed=1)
    one = world.mirror("m1", knows=["m2", "m3"])
    other = world.mirror("m2", knows=["m1", "m3"])
    world.mirror("m3", knows=["m1", "m2"])
    world.run(2.0)
    world.cut("m1", "m2")
    one.save("a", bytes(5000))
    other.save("a", bytes(100_000))
    world.settle()

    assert all(None not in machine.store.rows[pack_id("a")].bodies for machine in world.machines.values())


def test_a_large_leaf_is_not_brought_again_when_another_mirror_has_to_give_the_rest() -> None:
    world = World(seed=1)
    names = ("m1", "m2", "m3")
    one, other, third = (world.mirror(name, knows=names) for name in names)
    world.run(2.0)
    for pair in (("m1", "m2"), ("m2", "m3"), ("m1", "m3")):
        world.cut(*pair)
    other.save("a", bytes(200_000))
    third.save("a", bytes(5000))
    world.run(1.0)
    whole = {leaf: body for machine in (other, third) for leaf, body in zip(
        machine.leaves("a"), machine.store.rows[pack_id("a")].bodies, strict=True)}
    for machine, lacks in ((other, 5000), (third, -1)):
        leaves = merge_leaves(other.leaves("a"), third.leaves("a"))
        bodies = tuple(None if leaf.size == lacks else whole[leaf] for leaf in leaves)
        machine.store.put([Row(pack_id("a"), leaves, bodies)])
        machine._plan_sync()
    world.run(0.1)
    del world.log[:]
    world.on_deliver = lambda sent: not isinstance(sent.message, ms.Fetch) or sent.sender == "m1"
    world.heal()
    world.run_until(lambda: one.store.missing_bodies() == [] and bool(one.leaves("a")))

    offsets = [(piece.version, piece.offset) for piece in world.sent(ms.FetchPiece, by="m1")]
    assert len(offsets) == len(set(offsets))


def test_a_revision_that_comes_bare_while_its_elder_is_fetched_is_fetched_too() -> None:
    world = World(seed=1, latency_s=0.05)
    one = world.mirror("m1", knows=["m2"])
    other = world.mirror("m2", knows=["m1"])
    world.run(2.0)
    late: list[ms.Bodies] = []

    def hold_first_answer(sent: Sent) -> bool:
        if isinstance(sent.message, ms.Bodies) and not late:
            late.append(sent.message)
            return False
        return True

    world.on_deliver = hold_first_answer
    other.save("a", bytes(3000))
    world.run_until(lambda: bool(late))
    other.save("a", bytes(4000))
    world.run(0.3)
    assert len(world.sent(ms.Fetch, by="m1")) == 1, "it is being asked for"
    world.inject(one, fx.Link.dial(other.address), late[0])

    world.run_until(lambda: one.body("a") == bytes(4000), within_s=0.3)


@obeys("A node that becomes a mirror is filling, on disk and announced, until it holds every body …")
def test_a_node_that_was_a_full_mirror_before_fills_again() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1", knows=["m2"])
    other = world.mirror("m2", knows=["m1"])
    world.run(2.0)
    assert not other.node.is_filling
    other.set_mode(False)
    mirror.save("meanwhile", bytes(100_000))
    world.settle()

    other.set_mode(True)

    assert other.node.is_filling
    world.run_until(lambda: not other.node.is_filling)
    assert other.body("meanwhile") is not None


def test_a_mirror_that_lags_behind_is_not_believed_to_have_filled_us() -> None:
    """Its answer is whole, but older than the revision whose body is missing: the next mirror is asked."""
    world = World(seed=1)
    names = ("m1", "m2", "m3")
    one, other, third = (world.mirror(name, knows=names) for name in names)
    third.save("a", b"old")
    world.settle()
    world.run(1.0)
    world.cut("m2", "m3")
    world.on_deliver = lambda sent: (sent.sender, sent.receiver) != ("m1", "m2 (PUB)")
    third.save("a", bytes(3000))
    world.run_until(lambda: len(one.leaves("a")) == 1 and one.body("a") is None)
    assert other.body("a") == b"old"

    world.run_until(lambda: one.body("a") == bytes(3000), within_s=0.5)


@obeys("Bodies that no mirror held are asked for again when another mirror is met, and after 1 s, 2 s … 30 s.")
def test_a_loser_whose_body_is_lost_is_asked_for_with_growing_pauses() -> None:
    """Seed 3335 of the simulator: the winner that came with each answer made its record wanted again, at once."""
    world = World(seed=1)
    names = ("m1", "m2", "m3")
    mirrors = [world.mirror(name, knows=names) for name in names]
    world.run(2.0)
    for one, other in (names[:2], names[1:], names[::2]):
        world.cut(one, other)
    mirrors[0].save("a", bytes(5000))
    mirrors[1].save("a", bytes(5001))
    row = mirrors[0].store.rows[pack_id("a")]
    mirrors[0].store.rows[pack_id("a")] = row._replace(bodies=(None,))  # the damage of a disk
    world.heal()
    world.run(100.0)
    loser = min(mirrors[2].leaves("a"), key=lambda leaf: leaf.hlc)
    assert len(mirrors[2].leaves("a")) == 2
    assert loser == row.leaves[0]
    before = len(world.sent(ms.Fetch))
    world.run(100.0)

    assert 0 < len(world.sent(ms.Fetch)) - before < 60
