"""Reads that wait for a mirror: batches, the next mirror, deadlines, answers that are too old."""

from __future__ import annotations

import pytest

from mynosql.codec import digest
from mynosql.idkey import pack_id
from mynosql.row import Leaf, Row, Version
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.node import Wanted
from tests.sync.harness import Machine, World, card, welcome
from tests.sync.rules import obeys


def mirror_and_peer(count: int = 1) -> tuple[World, Machine, Machine]:
    """A mirror with records "0", "1" …, and a peer that only knows of them."""
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    for number in range(count):
        mirror.save(f"{number}", b"body %d" % number)
    world.settle()
    return world, mirror, peer


def ghost_and_peer() -> tuple[World, fx.Link, Machine]:
    world = World(seed=1)
    link = world.ghost("ghost")
    peer = world.peer("p1", knows=["ghost"])
    world.run(0.01)
    world.inject(peer, link, welcome(world.told("ghost", ms.Hello)[-1]))
    return world, link, peer


def done(world: World, machine: Machine, request: int) -> fx.FetchDone:
    world.run_until(lambda: request in machine.fetched)
    return machine.fetched[request]


@obeys("An answer is applied by the ordinary rules before the reader is told.")
def test_a_fetched_record_is_in_the_store_when_the_reader_is_told() -> None:
    world, _, peer = mirror_and_peer()

    request = peer.fetch("0")
    found = done(world, peer, request)

    assert found.outcome is fx.Outcome.FOUND
    assert found.row is not None
    assert found.row.bodies == (b"body 0",)
    assert peer.body("0") == b"body 0"
    assert peer.pending == 0


@obeys("An answer is applied by the ordinary rules before the reader is told.")
def test_an_answer_that_is_older_than_what_we_know_does_not_replace_it() -> None:
    """ZEO#155: answers and publications travel on two sockets, so that a fetched record may be behind the index."""
    world, mirror, peer = mirror_and_peer()
    old = mirror.store.rows[pack_id("0")]
    mirror.save("0", b"newer")
    world.settle()
    request = peer.fetch("0")
    fetch_request = next(iter(next(iter(peer.node._hub.fetcher._sides.values())).flight))
    link = fx.Link.dial(mirror.address)

    world.inject(peer, link, ms.Bodies(
        request=fetch_request, items=(ms.BodyItem(pack_id("0"), ms.Status.HELD, old._replace(owed=False)),),
    ))

    assert peer.leaves("0") == mirror.leaves("0")
    assert peer.body("0") is None
    found = peer.fetched[request].row
    assert found is not None
    assert found.bodies == (b"body 0",), "the reader asked for no version: what the mirror had is an answer"


@obeys("An answer that is older than what the index named when the read began is not taken for it …")
def test_a_mirror_that_lags_is_not_believed() -> None:
    world = World(seed=1)
    first = world.mirror("m1", knows=["m2"])
    second = world.mirror("m2", knows=["m1"])
    peer = world.peer("p1", knows=["m1", "m2"])
    first.save("a", b"old")
    world.settle()
    world.cut("m1", "m2")
    leaf = second.save("a", b"new")
    world.run(0.5)
    assert peer.follows == "m1"

    request = peer.fetch("a", version=Version(leaf.hlc, leaf.node))
    found = done(world, peer, request)

    assert found.outcome is fx.Outcome.FOUND
    assert found.row is not None
    assert found.row.bodies == (b"new",)
    assert peer.follows == "m1"


@obeys("Not-held makes the asker try the next mirror; a peer dials it for that, and hangs up when …")
def test_not_held_leads_to_the_next_mirror() -> None:
    world = World(seed=1)
    filling = world.mirror("m1", knows=["m2"])
    full = world.mirror("m2", knows=["m1"])
    peer = world.peer("p1", knows=["m1", "m2"])
    full.save("a", b"1")
    world.settle()
    row = filling.store.rows[pack_id("a")]
    filling.store.rows[pack_id("a")] = row._replace(bodies=(None,))

    request = peer.fetch("a")

    assert done(world, peer, request).outcome is fx.Outcome.FOUND
    assert peer.follows == "m1"
    assert peer.node.connected == 2
    world.run(25.0)
    assert peer.node.connected == 1
    assert [address.host for address in peer.links] == ["m1"]


@obeys("Who wants all leaves of a record asks the next mirror for those that one lacks.")
def test_a_mirror_without_the_loser_is_not_the_last_one() -> None:
    """A mirror that had yet to fill gave the winner, and the loser counted as held nowhere."""
    world = World(seed=1)
    first = world.mirror("m1", knows=["m2"])
    second = world.mirror("m2", knows=["m1"])
    peer = world.peer("p1", knows=["m1", "m2"])
    world.settle()
    world.cut("m1", "m2")
    first.save("a", b"one")
    second.save("a", b"two")
    world.heal()
    world.settle()
    world.run(1.0)
    assert peer.follows == "m1"
    assert len(peer.leaves("a")) == 2
    for mirror, lacks in ((first, 1), (second, 0)):
        row = mirror.store.rows[pack_id("a")]
        bodies = tuple(None if leaf == lacks else body for leaf, body in enumerate(row.bodies))
        mirror.store.rows[pack_id("a")] = row._replace(bodies=bodies)

    found = done(world, peer, peer.fetch("a", all_leaves=True))

    assert found.outcome is fx.Outcome.FOUND
    assert None not in peer.store.rows[pack_id("a")].bodies


def test_what_nobody_holds_ends_as_not_held() -> None:
    world = World(seed=1)
    mirrors = [world.mirror("m1", knows=["m2"]), world.mirror("m2", knows=["m1"])]
    peer = world.peer("p1", knows=["m1", "m2"])
    mirrors[0].save("a", b"1")
    world.settle()
    world.run(1.0)
    for mirror in mirrors:
        mirror.store.rows[pack_id("a")] = mirror.store.rows[pack_id("a")]._replace(bodies=(None,))

    assert done(world, peer, peer.fetch("a")).outcome is fx.Outcome.NOT_HELD
    assert done(world, peer, peer.fetch("no such id")).outcome is fx.Outcome.ABSENT


@obeys("When confirm is asked for, absent from one full mirror ends the fetch.")
def test_confirm_asks_one_mirror_whether_an_id_exists() -> None:
    world, mirror, peer = mirror_and_peer()
    world.mirror("m2", knows=["m1"])
    world.run(1.0)
    del world.log[:]

    request = peer.fetch("no such id", confirm=True)

    assert done(world, peer, request).outcome is fx.Outcome.ABSENT
    assert len(world.sent(ms.Fetch)) == 1
    assert mirror.node.connected


@obeys("With no mirror live a fetch ends at once; with one lost it goes on at the next.")
def test_without_a_mirror_there_is_no_waiting() -> None:
    world, mirror, peer = mirror_and_peer()
    mirror.kill()
    world.run_until(lambda: not peer.node.has_live_mirror)
    at = world.now

    request = peer.fetch("0")

    assert peer.outcome(request) is fx.Outcome.UNAVAILABLE
    assert world.now == at
    assert world.peer("p2").outcome(world.machines["p2"].fetch("0")) is fx.Outcome.UNAVAILABLE


@obeys("With no mirror live a fetch ends at once; with one lost it goes on at the next.")
def test_a_fetch_survives_the_loss_of_its_mirror() -> None:
    world = World(seed=1, latency_s=0.05)
    first = world.mirror("m1", knows=["m2"])
    world.mirror("m2", knows=["m1"])
    peer = world.peer("p1", knows=["m1", "m2"])
    first.save("a", b"1")
    world.settle()
    requests = [peer.fetch("a"), peer.fetch("a")]
    world.run(0.06)
    first.kill()

    assert [done(world, peer, request).outcome for request in requests] == [fx.Outcome.FOUND] * 2
    assert peer.follows == "m2"


@obeys("With no mirror live a fetch ends at once; with one lost it goes on at the next.")
def test_a_fetch_may_wait_for_the_first_attempt_at_a_mirror() -> None:
    world, mirror, peer = mirror_and_peer()
    peer.restart()
    assert peer.node.connected == 0

    request = peer.fetch("0")
    assert peer.outcome(request) is None

    assert done(world, peer, request).outcome is fx.Outcome.FOUND
    mirror.kill()
    world.run(1.0)
    peer.restart()
    request = peer.fetch("0")
    assert done(world, peer, request).outcome is fx.Outcome.UNAVAILABLE
    assert world.now < 3.0, "the attempt failed: no more waiting"


@obeys("A fetch ends at its deadline at the latest.")
def test_a_fetch_waits_while_the_conversations_begin_anew() -> None:
    """Under a new identity, or in another mode, the same mirrors are dialled again: no reason to say that none is."""

    def renew(peer: Machine) -> None:
        peer.perform(peer.node.on_renewed(99, b"N" * 16, peer.world.now))

    for begin_anew in (renew, lambda peer: peer.set_mode(True)):
        world, _, peer = mirror_and_peer()
        request = peer.fetch("0")
        begin_anew(peer)
        assert peer.node.has_live_mirror
        assert done(world, peer, request).outcome is fx.Outcome.FOUND


def test_a_fetch_ends_at_its_deadline() -> None:
    world, _, peer = mirror_and_peer()
    world.mute("p1", "m1")
    at = world.now

    request = peer.fetch("0", timeout_s=0.7)

    assert done(world, peer, request).outcome is fx.Outcome.TIMEOUT
    assert world.now == pytest.approx(at + 0.7)


def test_a_cancelled_fetch_is_never_told() -> None:
    world, _, peer = mirror_and_peer()
    request = peer.fetch("0", timeout_s=0.5)

    peer.node.cancel_fetch(request)
    peer.node.cancel_fetch(12345)
    world.run(2.0)

    assert request not in peer.fetched


def test_fetches_end_when_the_database_closes() -> None:
    _world, _, peer = mirror_and_peer()
    request = peer.fetch("0")

    peer.stop()

    assert peer.outcome(request) is fx.Outcome.UNAVAILABLE


@obeys("Up to four Fetches of 64 ids are under way on a link; further ones wait and share the next.")
def test_many_fetches_share_messages() -> None:
    world, _, peer = mirror_and_peer(1000)
    del world.log[:]

    requests = [peer.fetch(f"{number}") for number in range(100)]
    for request in requests:
        assert done(world, peer, request).outcome is fx.Outcome.FOUND
    sizes = [len(message.id_keys) for message in world.sent(ms.Fetch)]
    assert sizes == [1, 1, 1, 1, 64, 32]

    del world.log[:]
    wanted = [
        Wanted(request=5000 + number, id_key=pack_id(f"{number}"), deadline=world.now + 5)
        for number in range(100, 1000)
    ]
    peer.perform(peer.node.fetch_many(wanted, world.now))
    assert [len(message.id_keys) for message in world.sent(ms.Fetch)] == [64] * 4
    world.run_until(lambda: 5899 in peer.fetched)
    assert len(world.sent(ms.Fetch)) == 15


def test_one_id_wanted_twice_is_asked_for_once() -> None:
    world, _, peer = mirror_and_peer()
    del world.log[:]

    requests = [peer.fetch("0"), peer.fetch("0")]

    assert [done(world, peer, request).outcome for request in requests] == [fx.Outcome.FOUND] * 2
    assert len(world.sent(ms.Fetch)) == 1


def test_answers_that_nobody_asked_for_are_ignored() -> None:
    world, link, peer = ghost_and_peer()
    leaf = Leaf(1, 1000, 77, False, 1, digest(b"x"))
    item = ms.BodyItem(pack_id("a"), ms.Status.HELD, Row(pack_id("a"), (leaf,), (b"x",)))
    world.inject(peer, link, ms.Bodies(request=1, items=(item,)))
    peer.fetch("b")
    world.run(0.01)
    asked = world.told("ghost", ms.Fetch)[-1]

    world.inject(peer, link, ms.Bodies(request=asked.request, items=(item,)))

    assert not peer.leaves("a")
    assert peer.failures == []


def test_a_fetch_without_an_answer_counts_as_not_held_there() -> None:
    world, link, peer = ghost_and_peer()
    request = peer.fetch("a", timeout_s=60.0)
    for _ in range(30):
        world.run(0.5)
        for ping in world.told("ghost", ms.Ping):
            world.inject(peer, link, ms.Pong(number=ping.number))

    assert peer.outcome(request) is fx.Outcome.NOT_HELD


@obeys("A body that is put together is checked against its digest; a wrong one is dropped and asked …")
@pytest.mark.parametrize("size", [10, 100_000], ids=["small", "large"])
def test_a_wrong_body_is_asked_of_the_next_mirror(size: int) -> None:
    world = World(seed=1)
    liar = world.mirror("m1", knows=["m2"])
    honest = world.mirror("m2", knows=["m1"])
    peer = world.peer("p1", knows=["m1", "m2"])
    honest.save("a", bytes(size))
    world.settle()
    liar.store.rows[pack_id("a")] = liar.store.rows[pack_id("a")]._replace(bodies=(b"!" * size,))

    found = done(world, peer, peer.fetch("a"))

    assert found.outcome is fx.Outcome.FOUND
    assert peer.body("a") == bytes(size)
    assert "body-wrong" in str(peer.failures[0])


def test_all_leaves_of_a_conflict_come_along() -> None:
    world, mirror, peer = mirror_and_peer()
    other = world.peer("p2", knows=["m1"])
    world.settle()
    world.cut("p2", "m1")
    other.save("0", bytes(100_000))
    mirror.save("0", b"apart")
    world.heal()
    world.settle()
    assert len(peer.leaves("0")) == 2

    done(world, peer, peer.fetch("0"))

    assert sorted(len(body or b"") for body in peer.store.rows[pack_id("0")].bodies) == [5, 100_000]


def test_a_full_disk_here_ends_the_fetch_as_not_held() -> None:
    world, _, peer = mirror_and_peer()
    peer.store.is_full = True

    assert done(world, peer, peer.fetch("0")).outcome is fx.Outcome.NOT_HELD


def test_a_mirror_reads_what_it_lacks_from_another() -> None:
    world = World(seed=1)
    one = world.mirror("m1", knows=["m2"])
    other = world.mirror("m2", knows=["m1"])
    one.save("a", b"1")
    world.settle()
    other.store.rows[pack_id("a")] = other.store.rows[pack_id("a")]._replace(bodies=(None,))

    assert done(world, other, other.fetch("a")).outcome is fx.Outcome.FOUND
    assert other.body("a") == b"1"


def test_a_helper_that_cannot_be_reached_is_left_alone_for_a_while() -> None:
    world, mirror, peer = mirror_and_peer()
    peer.perform(peer.node.add_address(card_address("gone"), world.now))
    mirror.store.rows[pack_id("0")] = mirror.store.rows[pack_id("0")]._replace(bodies=(None,))

    assert done(world, peer, peer.fetch("0")).outcome is fx.Outcome.NOT_HELD
    assert [address.host for address in peer.links] == ["m1"]


def card_address(name: str):  # type: ignore[no-untyped-def]
    from mynosql.address import Address
    return card(advertised=Address(name, 8800)).advertised
