"""Which mirror a peer follows: its user's order, fail-over, and the way back."""

from __future__ import annotations

import itertools

import pytest

from mynosql.address import Address
from mynosql.sync import messages as ms
from tests.sync.harness import PORT, Machine, World
from tests.sync.rules import obeys


def mesh(*knows: str) -> tuple[World, Machine, Machine, Machine]:
    """Two mirrors and a peer that follows the first."""
    world = World(seed=1)
    mirrors = [world.mirror(name, knows=["m1", "m2"]) for name in ("m1", "m2")]
    world.run(2.0)
    peer = world.peer("p1", knows=knows or ["m1", "m2"])
    world.run(2.0)
    return world, mirrors[0], mirrors[1], peer


@obeys("A peer tries the addresses that its user gave in their order, then those learned; full …")
def test_the_users_order_counts() -> None:
    for first, second in (("m1", "m2"), ("m2", "m1")):
        _, _, _, peer = mesh(first, second)
        assert peer.follows == first


@obeys("A peer tries the addresses that its user gave in their order, then those learned; full …")
def test_a_full_mirror_comes_before_a_filling_one() -> None:
    world, first, _, peer = mesh()
    first.kill()
    first.store.notes["filling"] = b"1"
    first.start()
    first.node._hub.filler._check_full = lambda: None  # type: ignore[method-assign]

    world.run(30.0)

    assert peer.follows == "m2"
    first.restart()
    world.run_until(lambda: peer.follows == "m1", within_s=40.0)


@obeys("A peer tries the addresses that its user gave in their order, then those learned; full …")
def test_a_learned_mirror_is_followed_when_the_given_one_is_gone() -> None:
    world, first, _, peer = mesh("m1")
    first.kill()

    world.run_until(lambda: peer.follows == "m2", within_s=1.0)


@obeys("When the mirror that it follows is lost, a peer goes to the next at once, and only the difference is pulled.")
def test_failing_over_and_back_costs_only_the_difference() -> None:
    world, first, second, peer = mesh()
    for number in range(50):
        first.save(f"{number}", b"1")
    world.settle()
    first.kill()
    took = world.run_until(lambda: peer.follows == "m2")
    assert took < 0.1
    second.save("while away", b"1")
    world.run_until(lambda: bool(peer.leaves("while away")))
    first.start()
    world.run_until(lambda: peer.follows == "m1", within_s=20.0)
    world.settle()
    del world.log[:]
    first.kill()
    world.run_until(lambda: peer.follows == "m2")
    world.run(1.0)

    rows = [row for message in world.sent(ms.Entries, to="p1") for row in message.rows]
    assert len(rows) <= 1, "the cursor for each index was kept"


@obeys("A peer that does not follow its first choice tries it every 10 s, and goes back when it answers.")
def test_the_first_choice_is_probed_every_10_s() -> None:
    world, first, _, peer = mesh()
    first.kill()
    world.run_until(lambda: peer.follows == "m2")
    opened: list[float] = []
    real = world.dial
    world.dial = lambda client, address: (opened.append(world.now), real(client, address))[1]  # type: ignore[func-returns-value, method-assign]
    world.run(100.0)
    pauses = [later - earlier for earlier, later in itertools.pairwise(opened)]
    assert min(pauses) > 7.0
    assert max(pauses) < 16.5
    first.start()
    assert world.run_until(lambda: peer.follows == "m1", within_s=20.0) < 14.0
    world.run(1.0)
    assert peer.node.connected == 1
    peer.save("x", b"1")
    world.settle()


@obeys("Addresses that fail are left alone for a growing, jittered time; one that refuses, for 30 s.")
def test_a_mirror_that_refuses_is_asked_again_after_30_s() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    world.database = "Other"
    world.peer("p1", knows=["m1"])
    world.run(200.0)

    times = [sent.at for sent in world.log if isinstance(sent.message, ms.Hello)]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(pauses) > 22.0
    assert max(pauses) < 38.0
    assert mirror.node.connected == 0


@obeys("Addresses that fail are left alone for a growing, jittered time; one that refuses, for 30 s.")
def test_dead_addresses_are_tried_ever_more_rarely() -> None:
    world = World(seed=1)
    peer = world.peer("p1", knows=["gone1", "gone2"])
    dials: list[float] = []
    real = world.dial
    world.dial = lambda client, address: (dials.append(world.now), real(client, address))[1]  # type: ignore[func-returns-value, method-assign]
    world.run(600.0)

    assert 40 < len(dials) < 1200
    early = [at for at in dials if at < 5]
    late = [at for at in dials if at > 590]
    assert len(late) < len(early)
    assert peer.node.has_live_mirror is False


@obeys("What is not reached is tried again after 1/100 of the time that this has lasted, or sooner: an outage of …")
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("is_noticed", [True, False])
def test_the_first_mirror_that_is_back_after_half_a_minute_is_followed_within_a_second(
    seed: int, is_noticed: bool
) -> None:
    world = World(seed=seed)
    for name in ("m1", "m2"):
        world.mirror(name, knows=["m1", "m2"])
    peer = world.peer("p1", knows=["m1", "m2"])
    world.run_until(lambda: peer.follows == "m1")
    for name in ("m1", "m2"):
        (world.cut if is_noticed else world.mute)("p1", name)

    world.run(30.0 + seed / 10)
    assert peer.follows is None
    world.heal()

    world.run_until(lambda: peer.follows is not None, within_s=1.0)


def test_a_single_address_costs_no_timer_while_it_is_dead() -> None:
    world = World(seed=1)
    peer = world.peer("p1", knows=["gone"])
    world.run(10.0)

    assert peer.node.next_due(world.now) is None
    world.mirror("gone")
    world.run_until(lambda: peer.follows == "gone", within_s=6.0)


def test_an_address_given_later_is_tried_when_the_only_one_is_dead() -> None:
    world = World(seed=1)
    peer = world.peer("p1", knows=["gone"])
    world.run(10.0)
    world.mirror("m1")

    peer.perform(peer.node.add_address(Address("m1", PORT), world.now))

    world.run_until(lambda: peer.follows == "m1", within_s=1.0)


@obeys("A mirror whose link breaks, or that falls silent while active, is replaced within 5 s; an …")
@pytest.mark.parametrize("seed", range(8))
def test_a_silent_mirror_is_replaced_in_time(seed: int) -> None:
    for is_active, within_s in ((True, 5.0), (False, 12.0)):
        world, first, _, peer = mesh()
        world.run(40.0 + seed * 0.7)
        for number in range(15 if is_active else 0):
            first.save(f"{number}", b"1")
            world.run(0.9)

        world.mute("p1", "m1")

        assert world.run_until(lambda peer=peer: peer.follows == "m2") < within_s  # type: ignore[misc]


@obeys("A mirror whose link breaks, or that falls silent while active, is replaced within 5 s; an …")
def test_a_link_between_mirrors_that_falls_silent_is_made_anew() -> None:
    world, first, second, _ = mesh()
    world.run(30.0)
    world.mute("m1", "m2")
    world.run(12.0)
    first.save("a", b"1")
    world.heal()

    world.run_until(lambda: second.body("a") == b"1", within_s=8.0)


def test_a_mirror_follows_every_other() -> None:
    world = World(seed=1)
    names = ["m1", "m2", "m3", "m4"]
    machines = [world.mirror(name, knows=names) for name in names]
    world.run(3.0)

    for machine in machines:
        assert sorted(address.host for address in machine.subscriptions) == [n for n in names if n != machine.name]
    machines[0].kill()
    machines[1].save("a", b"1")
    world.settle()
    machines[0].start()
    world.settle()


@obeys("A mirror whose link breaks, or that falls silent while active, is replaced within 5 s; …")
def test_an_address_that_does_not_come_up_is_given_3_s() -> None:
    world = World(seed=1)
    world.mirror("m1")
    world.mirror("m2")
    world.mute("p1", "m1")
    peer = world.peer("p1", knows=["m1", "m2"])

    assert world.run_until(lambda: peer.follows == "m2") < 3.1
    peer.restart()
    assert world.run_until(lambda: peer.follows == "m2") < 3.7
