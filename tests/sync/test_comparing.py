"""Indexes are compared by ranges: when they meet, and when their sums differ although nothing is on its way."""

from __future__ import annotations

import pytest

from mynosql.idkey import pack_id
from mynosql.sync import messages as ms
from mynosql.sync.options import SyncOptions
from tests.sync.fake_store import FakeStore
from tests.sync.harness import Machine, Sent, World
from tests.sync.rules import obeys

COUNT = 300
OPTIONS = SyncOptions(compare_count_min=100)


def two_mirrors(*, options: SyncOptions = OPTIONS, kind: str = "mirror") -> tuple[World, Machine, Machine]:
    """m1 and one that follows it, equal; then m1 gets the index id of a new folder and some records that differ."""
    world = World(seed=1)
    mirror = world.mirror("m1", options=options)
    other = getattr(world, kind)("m2", knows=["m1"], options=options)
    for number in range(COUNT):
        (mirror if number % 2 else other).save(f"{number:03}", b"%d" % number)
    world.settle()
    for machine in (other, mirror):
        machine.stop()
    world.log.clear()
    return world, mirror, other


def restored(mirror: Machine, world: World) -> None:
    mirror.node_id, mirror.index_id = world.rng.getrandbits(64), world.rng.randbytes(16)


def entries(world: World, name: str) -> int:
    return sum(len(message.rows) for message in world.sent(ms.Entries, by=name))


@obeys("Two nodes that meet with large indexes compare them by ranges; what differs is fetched, and the …")
@pytest.mark.parametrize("kind", ["mirror", "peer"])
def test_only_what_differs_travels_when_two_large_indexes_meet(kind: str) -> None:
    world, mirror, other = two_mirrors(kind=kind)
    restored(mirror, world)
    for machine, id in ((mirror, "only m1"), (other, "only m2")):
        machine.start()
        machine.save(id, b"1")
    world.settle()
    world.run(1.0)

    assert len(world.sent(ms.Compare, by="m2")) <= 4
    assert [row.id_key for found in world.sent(ms.Found, by="m1") for row in found.rows] == [pack_id("only m1")]
    assert entries(world, "m1") <= 2
    cursor = other.node._hub.memory.cursors[mirror.index_id]
    assert cursor.seq == mirror.store.head


def test_what_changes_during_a_comparison_follows_at_once() -> None:
    world, mirror, other = two_mirrors()
    restored(mirror, world)

    def save_during(sent: Sent) -> bool:
        if isinstance(sent.message, ms.Lookup):
            mirror.save("during", b"1")
        return True

    world.on_deliver = save_during
    mirror.start()
    mirror.save("before", b"1")
    other.start()
    world.run_until(lambda: bool(other.leaves("during")), within_s=0.9)


def test_a_small_index_is_pulled() -> None:
    world, mirror, other = two_mirrors(options=SyncOptions())
    restored(mirror, world)
    mirror.start()
    other.start()
    world.run(5.0)
    assert world.sent(ms.Compare) == []
    assert entries(world, "m1") >= COUNT / 2


@obeys("With a node that speaks version 1 nothing is compared.")
def test_with_an_older_node_all_is_pulled() -> None:
    world, mirror, other = two_mirrors()
    restored(mirror, world)
    mirror.options = SyncOptions(compare_count_min=100, version_high=1)
    mirror.start()
    other.start()
    world.run(5.0)
    assert world.sent(ms.Compare, by="m2") == []
    assert entries(world, "m1") >= COUNT / 2


@obeys("Who is still counting its sums is asked again; nobody is waited for longer than two minutes, …")
@pytest.mark.parametrize("who", [0, 1], ids=["the mirror", "the one that asks"])
def test_who_is_still_counting_is_waited_for(who: int) -> None:
    world, *machines = two_mirrors()
    restored(machines[0], world)
    machines[who].store.is_counting = True
    for machine in machines:
        machine.start()
    world.run(10.0)
    assert len(world.sent(ms.Compare, by="m2")) > 5
    assert entries(world, "m1") == 0

    machines[who].store.is_counting = False
    machines[0].save("late", b"1")
    world.settle()
    assert entries(world, "m1") <= 2


@obeys("Who is still counting its sums is asked again; nobody is waited for longer than two minutes, …")
def test_who_never_ends_counting_is_not_waited_for() -> None:
    world, mirror, other = two_mirrors()
    restored(mirror, world)
    mirror.store.is_counting = True
    mirror.start()
    other.start()
    mirror.save("only m1", b"1")
    world.run_until(lambda: other.body("only m1") == b"1", within_s=200.0)
    assert entries(world, "m1") >= COUNT / 2


def test_a_comparison_without_an_answer_is_given_up() -> None:
    world, mirror, other = two_mirrors()
    restored(mirror, world)
    world.on_deliver = lambda sent: not isinstance(sent.message, ms.Sums)
    mirror.start()
    other.start()
    mirror.save("only m1", b"1")
    world.run_until(lambda: other.body("only m1") == b"1", within_s=60.0)


@obeys("With more than 4,096 entries that differ all is pulled.")
def test_with_too_many_differences_all_is_pulled() -> None:
    world, mirror, other = two_mirrors(options=SyncOptions(compare_count_min=100, compare_differences_max=10))
    restored(mirror, world)
    mirror.start()
    other.start()
    for number in range(50):
        mirror.save(f"new {number}", b"1")
    world.settle()
    assert world.sent(ms.Compare, by="m2")
    assert world.sent(ms.Lookup) == []
    assert entries(world, "m1") >= COUNT / 2


@obeys("A peer that has compared offers what the mirror lacks, and not all that it holds.")
def test_a_peer_offers_what_its_mirror_lacks() -> None:
    world, mirror, peer = two_mirrors(kind="peer")
    lost = pack_id("010")
    mirror.store = FakeStore([
        (tuple(row for row in rows if row.id_key != lost), notes) for rows, notes in mirror.store.frames
    ])
    restored(mirror, world)
    mirror.start()
    peer.start()
    world.settle()
    assert mirror.body("010") == b"10"
    offered = [item for offer in world.sent(ms.Offer, by="m2") for item in offer.items]
    assert len(offered) == 1


@obeys("A heartbeat carries the sum over the whole index while nothing changes; who has all of it, is …")
@pytest.mark.parametrize("kind", ["mirror", "peer"])
def test_an_entry_that_damage_took_comes_back_within_a_minute(kind: str) -> None:
    world, mirror, other = two_mirrors(kind=kind)
    mirror.start()
    other.start()
    world.run(5.0)
    del other.store.rows[pack_id("010")]
    world.log.clear()

    world.run_until(lambda: bool(other.leaves("010")), within_s=60.0)

    assert len(world.sent(ms.Compare, by="m2")) <= 4
    assert entries(world, "m1") == 0


@obeys("Two sums that were compared are not compared again, and those of one mirror at most every 20 s.")
def test_a_difference_that_stays_is_compared_once() -> None:
    world, mirror, other = two_mirrors()
    mirror.start()
    other.start()
    world.settle()
    other.store.lost.add(pack_id("010"))  # there, but not in the sums
    world.run(200.0)
    once = len(world.sent(ms.Compare, by="m2"))
    assert 0 < once <= 4
    for _ in range(10):
        mirror.save("busy", b"1")
        world.run(12.0)
    assert len(world.sent(ms.Compare, by="m2")) - once <= 4 * 120 / OPTIONS.compare_rest_s


@obeys("A node whose sums differ over equal entries counts its own anew.")
def test_sums_that_are_wrong_are_counted_anew() -> None:
    world, mirror, other = two_mirrors(kind="peer")
    mirror.start()
    other.start()
    world.settle()
    right = FakeStore.sums

    def wrong(store: FakeStore, question: ms.Question) -> object:
        found = right(store, question)
        if store is other.store and not store.counted_again and found.answer is not None:
            sums = [found_sum._replace(total=found_sum.total + 1) for found_sum in found.answer.sums]
            return type(found)(answer=found.answer._replace(sums=sums), head=found.head, keys=found.keys)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeStore, "sums", wrong)
        world.run(60.0)
    assert other.store.counted_again == 1
    assert mirror.store.counted_again == 0


def test_nothing_is_compared_while_all_is_well() -> None:
    world, mirror, other = two_mirrors()
    mirror.start()
    other.start()
    world.settle()
    world.log.clear()
    world.run(300.0)
    assert world.sent(ms.Compare) == []
