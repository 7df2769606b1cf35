"""A mirror gets back from its peers what no other mirror holds."""

from __future__ import annotations

import pytest

from mynosql.idkey import pack_id
from mynosql.sync import messages as ms
from mynosql.sync.borrowing import BORROWED_MAX
from tests.sync.harness import Machine, World
from tests.sync.rules import obeys


def one_mirror(peers: int = 1, *, records: int = 1, size: int = 10) -> tuple[World, Machine, list[Machine]]:
    """A mirror and peers that hold all of its records."""
    world = World(seed=1)
    mirror = world.mirror("m1")
    made = [world.peer(f"p{number}", knows=["m1"]) for number in range(peers)]
    world.run(1.0)
    for number in range(records):
        made[0].save(f"id{number}", bytes([number]) * size)
    world.settle()
    for peer in made[1:]:
        for number in range(records):
            peer.fetch(f"id{number}")
    world.run(1.0)
    assert all(peer.body(f"id{number}") for peer in made for number in range(records))
    return world, mirror, made


def damage(machine: Machine, *ids: str) -> None:
    """Bodies of these ids are not on its disk any more, and it is told so."""
    for id in ids:
        row = machine.store.rows[pack_id(id)]
        machine.store.rows[pack_id(id)] = row._replace(bodies=(None,) * len(row.leaves))
    machine.perform(machine.node.on_damage([pack_id(id) for id in ids], machine.world.now, has_lost_rows=False))


@obeys(
    "Bodies that no other mirror holds are asked of the peers that are served, in pieces, one peer after the other.",
    "Bodies that damage of its disk took a mirror fetches again at once, a peer when they are read.",
)
@pytest.mark.parametrize("size", [10, 300_000])
def test_a_lone_mirror_gets_a_lost_body_from_a_peer(size: int) -> None:
    world, mirror, _ = one_mirror(size=size)

    damage(mirror, "id0")

    world.run_until(lambda: mirror.body("id0") == bytes(size), within_s=2.0)


def test_a_peer_that_does_not_hold_it_is_passed_over() -> None:
    world, mirror, peers = one_mirror(3)
    for peer in peers[:2]:
        row = peer.store.rows[pack_id("id0")]
        peer.store.rows[pack_id("id0")] = row._replace(bodies=(None,))

    damage(mirror, "id0")

    world.run_until(lambda: mirror.body("id0") is not None, within_s=2.0)


def test_another_mirror_is_asked_before_any_peer() -> None:
    world, mirror, _ = one_mirror()
    other = world.mirror("m2", knows=["m1"])
    world.run_until(lambda: other.body("id0") is not None)
    world.log.clear()

    damage(mirror, "id0")

    world.run_until(lambda: mirror.body("id0") is not None, within_s=2.0)
    assert not world.sent(ms.FetchPiece, by="m1")


def test_more_than_are_asked_for_at_a_time_come_in_turn() -> None:
    count = 3 * BORROWED_MAX
    world, mirror, _ = one_mirror(records=count)

    damage(mirror, *(f"id{number}" for number in range(count)))

    world.run_until(lambda: not mirror.store.missing_bodies(), within_s=5.0)


def test_who_comes_later_is_asked_as_well() -> None:
    world, mirror, peers = one_mirror()
    world.cut("m1", "p0")
    world.run(5.0)
    damage(mirror, "id0")
    world.run(5.0)
    assert mirror.body("id0") is None

    world.heal()

    world.run_until(lambda: mirror.body("id0") is not None, within_s=40.0)
    assert peers[0].body("id0") is not None


def test_what_nobody_holds_is_asked_for_ever_later() -> None:
    world, mirror, peers = one_mirror()
    peers[0].store.rows[pack_id("id0")] = peers[0].store.rows[pack_id("id0")]._replace(bodies=(None,))
    damage(mirror, "id0")
    world.run(200.0)

    asked = [sent.at for sent in world.log if isinstance(sent.message, ms.FetchPiece)]
    assert 5 < len(asked) < 40
    assert asked[-1] - asked[-2] > 10.0


def test_a_mirror_that_becomes_a_peer_borrows_nothing() -> None:
    world, mirror, _ = one_mirror(size=3_000_000)
    damage(mirror, "id0")
    world.run_until(lambda: bool(world.sent(ms.FetchPiece)))

    mirror.set_mode(False)
    world.run(10.0)

    assert mirror.body("id0") is None


@obeys("A node that lost entries with a damaged block begins each feed anew, from a comparison where that is cheaper.")
@pytest.mark.parametrize("kind", ["mirror", "peer"])
def test_lost_entries_are_taken_in_again_at_once(kind: str) -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    other = getattr(world, kind)("m2", knows=["m1"])
    for number in range(20):
        mirror.save(f"id{number}", b"1")
    world.settle()
    del other.store.rows[pack_id("id7")]

    other.perform(other.node.on_damage([], world.now, has_lost_rows=True))

    world.run_until(lambda: bool(other.leaves("id7")), within_s=2.0)
