"""An index that is met for the first time is offered what the peer holds: a mirror that lost its disk gets it back."""

from __future__ import annotations

from mynosql.idkey import pack_id
from mynosql.sync import messages as ms
from mynosql.sync.options import SyncOptions
from tests.sync.fake_store import FakeStore
from tests.sync.harness import Machine, World
from tests.sync.rules import obeys


def rebuilt_mirror(*, options: SyncOptions | None = None) -> tuple[World, Machine, Machine]:
    """A mirror with 30 records that a peer holds, one that it only knows, and one deleted; then its disk is new."""
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"], options=options)
    for number in range(30):
        peer.save(f"{number:02}", b"%d" % number)
    peer.save("deleted", b"1")
    peer.delete("deleted")
    mirror.save("only known", b"1")
    world.settle()
    mirror.kill()
    database = mirror.store.notes["database"]
    mirror.store = FakeStore()
    mirror.node_id, mirror.index_id = world.rng.getrandbits(64), world.rng.randbytes(16)
    assert database
    return world, mirror, peer


@obeys("A peer that meets an index id for the first time pulls all of it, then offers all that it …")
def test_a_mirror_with_a_new_disk_gets_back_what_its_peer_holds() -> None:
    world, mirror, peer = rebuilt_mirror()
    mirror.start()
    mirror.save("new here", b"1")

    world.run(5.0)

    assert [mirror.body(f"{number:02}") for number in range(30)] == [b"%d" % number for number in range(30)]
    assert mirror.leaves("deleted")[0].deleted
    assert peer.leaves("new here")
    talk = world.talk("p1", "m1")
    assert talk.index("m1: Entries", talk.index("p1: Offer") - 3) < talk.index("p1: Offer"), "after the full pull"


@obeys("Entries of which the peer holds no body are not offered.")
def test_what_the_peer_only_knows_of_is_not_offered() -> None:
    world, mirror, _ = rebuilt_mirror()
    mirror.start()

    world.run(5.0)

    assert not mirror.leaves("only known")
    assert mirror.store.missing_bodies() == []


@obeys("That the offers are through is remembered only when all that was wanted is acknowledged.")
def test_offers_that_were_cut_off_begin_anew_and_end_once() -> None:
    world, mirror, peer = rebuilt_mirror(options=SyncOptions(offer_count=8))
    world.on_deliver = lambda sent: not (isinstance(sent.message, ms.Ack) and len(mirror.store.rows) > 10)
    mirror.start()
    world.run(2.0)
    key = f"offered/{mirror.index_id.hex()}"
    assert 8 < len(mirror.store.rows) < 31
    assert key not in peer.store.notes
    peer.restart()
    world.on_deliver = lambda sent: True
    world.run(2.0)
    assert len(mirror.store.rows) == 31
    assert peer.store.notes[key] == b"1"

    offers = len(world.sent(ms.Offer))
    peer.restart()
    world.run(2.0)
    assert len(world.sent(ms.Offer)) == offers


def test_what_is_wanted_comes_in_several_pushes() -> None:
    world, mirror, _ = rebuilt_mirror(options=SyncOptions(push_bytes=10))
    mirror.start()
    world.run(5.0)

    assert len(mirror.store.rows) == 31
    pushes = [push for push in world.sent(ms.Push) if push.last == 0]
    assert len(pushes) > 5


def test_an_offer_without_an_answer_is_made_again() -> None:
    world, mirror, _ = rebuilt_mirror()
    world.on_deliver = lambda sent: not isinstance(sent.message, ms.Want)
    mirror.start()
    world.run(1.0)
    world.on_deliver = lambda sent: True

    world.run_until(lambda: len(mirror.store.rows) == 31, within_s=25.0)


def test_large_bodies_are_offered_too() -> None:
    world, mirror, peer = rebuilt_mirror()
    mirror.start()
    world.run(3.0)
    peer.save("large", bytes(300_000))
    world.run(3.0)
    assert mirror.body("large") == bytes(300_000)
    mirror.kill()
    mirror.store = FakeStore()
    mirror.index_id = world.rng.randbytes(16)
    mirror.start()

    world.run_until(lambda: mirror.body("large") == bytes(300_000), within_s=10.0)


def test_an_equal_mirror_wants_nothing() -> None:
    world = World(seed=1)
    first = world.mirror("m1", knows=["m2"])
    world.mirror("m2", knows=["m1"])
    peer = world.peer("p1", knows=["m1", "m2"])
    for number in range(5):
        peer.save(f"{number}", b"1")
    world.settle()
    first.kill()
    world.run(5.0)

    assert peer.follows == "m2"
    wants = world.sent(ms.Want, by="m2")
    assert [want.positions for want in wants] == [()]


def test_a_record_whose_body_the_mirror_lacks_is_wanted_though_it_knows_of_it() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1", knows=["m2"])
    other = world.mirror("m2", knows=["m1"])
    peer = world.peer("p1", knows=["m1", "m2"])
    peer.save("a", b"1")
    world.settle()
    world.run(1.0)
    for machine in (mirror, other):
        machine.store.rows[pack_id("a")] = machine.store.rows[pack_id("a")]._replace(bodies=(None,))
    world.cut("p1", "m1")

    world.run_until(lambda: other.body("a") == b"1")


@obeys("What one mirror refused is settled when another one takes it as an offer.")
def test_what_a_mirror_refused_may_be_taken_by_one_that_is_met_for_the_first_time() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    mirror.store.refuses |= {pack_id("taken later"), pack_id("never taken")}
    for id in ("taken later", "never taken", "taken"):
        peer.save(id, b"1")
    world.run(3.0)
    assert len(peer.node.rejected) == 2
    mirror.kill()
    mirror.store = FakeStore()
    mirror.store.refuses.add(pack_id("never taken"))
    mirror.node_id, mirror.index_id = world.rng.getrandbits(64), world.rng.randbytes(16)
    mirror.start()

    world.run(10.0)

    assert mirror.body("taken later") == mirror.body("taken") == b"1"
    assert [rejected.id_key for rejected in peer.node.rejected.values()] == [pack_id("never taken")]
