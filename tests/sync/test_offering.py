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


@obeys("That the offers are through, and up to which own seq, is remembered only when all that was …")
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
    assert int(peer.store.notes[key]) == peer.store.head

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


# A mirror is lost for ever


def after_a_stay_at_both() -> tuple[World, Machine, Machine, Machine]:
    """A peer that has followed both mirrors, follows the first again, and writes what only that one takes."""
    world = World(seed=1)
    names = ["m1", "m2"]
    one, other = (world.mirror(name, knows=names) for name in names)
    peer = world.peer("p1", knows=names)
    world.run(2.0)
    world.cut("p1", "m1")
    peer.save("early", b"1")
    world.run_until(lambda: other.body("early") == b"1")
    world.heal()
    world.run_until(lambda: peer.follows == "m1", within_s=30.0)
    world.settle()
    world.run(1.0)
    world.cut("m1", "m2")
    return world, one, other, peer


@obeys("A peer that comes back to a mirror offers what it came to hold since it followed it, but for what it …")
def test_what_a_lost_mirror_alone_had_acknowledged_finds_its_way_to_the_other() -> None:
    world, one, other, peer = after_a_stay_at_both()
    for number in range(30):
        peer.save(f"{number}", b"1")
    peer.save("early", b"2")
    peer.save("gone", b"1")
    peer.delete("gone")
    peer.save("large", bytes(200_000))
    world.run(2.0)
    assert peer.pending == 0
    assert not other.leaves("0")
    one.kill()

    world.run_until(lambda: other.store.leaves() == peer.store.leaves(), within_s=10.0)

    assert other.store.missing_bodies() == []
    assert other.body("early") == b"2"


@obeys("A peer that comes back to a mirror offers what it came to hold since it followed it, but for what it …")
def test_what_was_only_read_finds_its_way_too_and_what_was_never_held_does_not() -> None:
    world, one, other, peer = after_a_stay_at_both()
    for id in ("read", "not read"):
        one.save(id, b"1")
    world.run(0.5)
    peer.fetch("read")
    world.run(0.5)
    one.kill()
    del world.log[:]

    world.run_until(lambda: other.body("read") == b"1", within_s=10.0)
    assert [len(offer.items) for offer in world.sent(ms.Offer)] == [1]
    assert not other.leaves("not read")
    assert peer.leaves("not read"), "known, and nobody holds it"


@obeys("A peer that comes back to a mirror offers what it came to hold since it followed it, but for what it …")
def test_coming_back_costs_what_is_new() -> None:
    world, one, _, peer = after_a_stay_at_both()
    world.heal()
    for number in range(100):
        peer.save(f"{number}", b"1")
    world.settle()
    world.run(2.0)
    del world.log[:]
    for _ in range(3):  # to the same one: nothing is new
        for name in ("m1", "m2"):
            world.cut("p1", name)
        world.run(2.0)
        world.heal()
        world.run(20.0)
        assert peer.follows == "m1"
    assert world.sent(ms.Offer, to="m1") == []
    for number in range(100):
        peer.save(f"{number}", b"2")
    world.settle()
    del world.log[:]
    one.kill()
    world.run_until(lambda: peer.follows == "m2")
    world.run(1.0)

    assert [len(offer.items) for offer in world.sent(ms.Offer)] == [100]
    assert [want.positions for want in world.sent(ms.Want)] == [()]
    assert world.sent(ms.Push) == []
    peer.restart()
    del world.log[:]
    world.run(5.0)
    assert world.sent(ms.Offer) == [], "remembered"


@obeys("A peer that comes back to a mirror offers what it came to hold since it followed it, but for what it …")
def test_an_answer_of_another_mirror_is_offered_to_the_one_that_is_followed() -> None:
    """It came from the first one while the second was followed, and the second has never heard of it."""
    world, one, other, peer = after_a_stay_at_both()
    one.save("a", b"1")
    world.cut("p1", "m1")
    world.run_until(lambda: peer.follows == "m2")
    world.heal()
    world.cut("m1", "m2")
    request = peer.fetch("a", timeout_s=30.0)
    world.run_until(lambda: request in peer.fetched, within_s=30.0)
    assert peer.body("a") == b"1"
    assert not other.leaves("a")
    one.kill()
    other.save("news", b"1")

    world.run_until(lambda: other.body("a") == b"1", within_s=10.0)


@obeys("A peer that comes back to a mirror offers what it came to hold since it followed it, but for what it …")
def test_what_is_owed_is_pushed_and_not_offered_as_well() -> None:
    world, one, other, peer = after_a_stay_at_both()
    peer.save("taken", b"1")
    world.run(1.0)
    one.kill()
    world.cut("p1", "m2")
    world.run(5.0)
    for number in range(10):
        peer.save(f"{number}", b"1")
    del world.log[:]
    world.heal()
    world.run_until(lambda: len(other.store.rows) == 12, within_s=10.0)
    world.run(1.0)

    assert [len(offer.items) for offer in world.sent(ms.Offer)] == [1]


@obeys("That the offers are through, and up to which own seq, is remembered only when all that was …")
def test_what_was_pushed_and_not_acknowledged_is_not_taken_for_offered() -> None:
    world, one, other, peer = after_a_stay_at_both()
    world.cut("p1", "m1")
    world.on_deliver = lambda sent: not (isinstance(sent.message, ms.Push) and sent.receiver == "m2")
    peer.save("a", b"1")
    world.run(5.0)
    assert peer.follows == "m2"
    world.cut("p1", "m2")
    world.heal()
    world.cut("p1", "m2")
    world.cut("m1", "m2")
    world.on_deliver = lambda sent: True
    world.run_until(lambda: one.body("a") == b"1", within_s=30.0)
    world.run(1.0)
    assert peer.pending == 0
    one.kill()
    world.heal()

    world.run_until(lambda: other.body("a") == b"1", within_s=30.0)


@obeys("A record that the mirror which is followed did not hold, and another did, is offered to the first.")
def test_a_body_that_the_followed_mirror_lacks_reaches_it_from_its_reader() -> None:
    """The first mirror knows of it by its index; the second has the body, gives it to the peer, and is lost."""
    world = World(seed=1)
    one, other = (world.mirror(name, knows=["m1", "m2"]) for name in ("m1", "m2"))
    peer = world.peer("p1", knows=["m1", "m2"])
    world.run(2.0)
    world.on_deliver = lambda sent: not (
        isinstance(sent.message, ms.Bodies | ms.Piece) and sent.sender == "m2" and sent.receiver == "m1"
    )
    body = bytes(100_000)
    other.save("a", body)
    world.run_until(lambda: bool(one.leaves("a")) and bool(peer.leaves("a")))
    assert peer.follows == "m1"
    request = peer.fetch("a", timeout_s=30.0)
    world.run_until(lambda: request in peer.fetched, within_s=30.0)
    assert peer.body("a") == body
    other.kill()

    world.run_until(lambda: one.body("a") == body, within_s=5.0)


@obeys("A record that a mirror lacks and refuses when it is offered goes aside with the reason, too.")
def test_what_is_refused_as_an_offer_is_set_aside() -> None:
    world, mirror, peer = rebuilt_mirror()
    mirror.store.refuses.add(pack_id("07"))
    mirror.start()

    world.run(10.0)

    assert mirror.body("06") == b"6"
    assert mirror.body("07") is None
    assert [rejected.id_key for rejected in peer.node.rejected.values()] == [pack_id("07")]


@obeys("A refused row stays refused until its record changes, its user has it tried again, or its node becomes …")
def test_what_was_refused_is_set_aside_again_after_a_time_as_a_mirror() -> None:
    """Seed 3212 of the simulator: refused, then its node was a mirror for a moment, and nobody was told any more."""
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    mirror.store.refuses.add(pack_id("a"))
    peer.save("a", b"1")
    world.run(2.0)
    assert len(peer.node.rejected) == 1
    peer.set_mode(True)
    assert not peer.node.rejected
    mirror.kill()
    mirror.store.refuses.add(pack_id("a"))
    peer.set_mode(False)
    mirror.start()

    world.run(30.0)

    assert [rejected.id_key for rejected in peer.node.rejected.values()] == [pack_id("a")]
