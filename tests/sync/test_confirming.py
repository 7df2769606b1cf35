"""More than one mirror must have a change before it counts as delivered (acks), and what that costs."""

from __future__ import annotations

import pytest

from mynosql.idkey import pack_id
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from tests.sync.harness import Machine, World, card, hello, welcome
from tests.sync.rules import obeys


def three_mirrors(*, acks: int = 2) -> tuple[World, list[Machine], Machine]:
    """A full mesh of three mirrors, and a peer that asks for that many of them and follows the first."""
    world = World(seed=1)
    names = ["m1", "m2", "m3"]
    mirrors = [world.mirror(name, knows=names) for name in names]
    peer = world.peer("p1", knows=names, acks=acks)
    world.run(2.0)
    assert peer.follows == "m1"
    return world, mirrors, peer


def pushed(world: World, *, to: str) -> list[bytes]:
    return [row.id_key for message in world.sent(ms.Push, to=to) for row in message.rows]


@obeys("With acks above 1 a change counts as delivered only when the mirror that took it says that enough others …")
@pytest.mark.parametrize("acks", [2, 3])
def test_one_mirror_is_not_enough(acks: int) -> None:
    world, mirrors, peer = three_mirrors(acks=acks)
    for other in mirrors[acks - 1 :]:
        other.kill()
    peer.save("a", b"1")
    world.run(20.0)
    assert mirrors[0].body("a") == b"1"
    assert peer.node.acked_seq >= 1
    assert peer.node.delivered_seq == 0
    assert peer.pending == 1

    for other in mirrors[acks - 1 :]:
        other.start()
    world.run_until(lambda: peer.pending == 0, within_s=10.0)

    assert sum(mirror.body("a") == b"1" for mirror in mirrors) >= acks
    assert peer.announced[fx.Kind.DELIVERED] >= 2


@obeys("With acks above 1 a change counts as delivered only when the mirror that took it says that enough others …")
def test_what_the_other_mirror_has_not_fsynced_does_not_count() -> None:
    world, mirrors, peer = three_mirrors(acks=3)
    mirrors[2].can_sync = False
    peer.save("a", b"1")
    world.run(5.0)
    assert mirrors[2].body("a") == b"1", "it has it in memory"
    assert peer.pending == 1

    mirrors[2].can_sync = True
    mirrors[2].save("something", b"to write")
    world.run_until(lambda: peer.pending == 0, within_s=5.0)


def test_two_mirrors_are_reached_within_one_report() -> None:
    world, _, peer = three_mirrors()
    peer.save("a", b"1")

    assert world.run_until(lambda: peer.pending == 0) < 0.07
    assert len(world.sent(ms.Await)) == len(world.sent(ms.Confirmed)) == 1


def test_with_one_ack_nobody_asks() -> None:
    world, _, peer = three_mirrors(acks=1)
    for number in range(20):
        peer.save(f"{number}", b"1")
        world.run(0.05)
    world.settle()

    assert world.sent(ms.Await) == []
    assert [note for note in peer.store.notes if note.startswith("taken/")] == []


def test_under_load_one_question_covers_many_changes() -> None:
    world, _, peer = three_mirrors()
    for number in range(500):
        peer.save(f"{number:03}", b"1")
        world.run(0.002)
    world.run_until(lambda: peer.pending == 0, within_s=1.0)

    assert len(world.sent(ms.Await)) < 50
    assert [note for note in peer.store.notes if note.startswith("taken/")] == [], "what is settled is forgotten"


@obeys("What a mirror acknowledged is not pushed to it again, also while other mirrors are still to confirm it.")
def test_a_reconnect_or_a_restart_pushes_nothing_again() -> None:
    world, mirrors, peer = three_mirrors()
    mirrors[1].kill()
    mirrors[2].kill()
    for number in range(100):
        peer.save(f"{number}", b"1")
    world.run(2.0)
    assert peer.pending == 100
    for _ in range(3):
        world.cut("p1", "m1")
        world.run(0.5)
        world.heal()
        world.run(2.0)
    peer.restart()
    world.run(2.0)
    assert peer.pending == 100
    peer.save("later", b"1")
    world.run(1.0)

    assert len(pushed(world, to="m1")) == 101
    mirrors[2].start()
    world.run_until(lambda: peer.pending == 0, within_s=10.0)
    assert len(pushed(world, to="m1")) == 101


@obeys("When the mirror that acknowledged is lost before others confirmed, what it took is pushed to the next.")
def test_a_mirror_that_is_lost_for_ever_after_its_acknowledgement_costs_nothing() -> None:
    world, mirrors, peer = three_mirrors()
    for other in ("m2", "m3"):
        world.cut("m1", other)
    peer.save("a", b"1")
    world.run(1.0)
    assert mirrors[0].body("a") == b"1"
    assert peer.node.acked_seq == 1
    mirrors[0].kill()

    world.run_until(lambda: peer.pending == 0, within_s=10.0)

    assert mirrors[1].body("a") == mirrors[2].body("a") == b"1"


@obeys("An Await without its answer is sent again after 30 s, then ever later; a newer one takes the place of an …")
def test_a_lost_answer_is_asked_for_again() -> None:
    world, _, peer = three_mirrors()
    world.on_deliver = lambda sent: not isinstance(sent.message, ms.Confirmed)
    peer.save("a", b"1")
    world.run(10.0)
    assert peer.pending == 1
    world.on_deliver = lambda sent: True

    assert 10.0 < 10.0 + world.run_until(lambda: peer.pending == 0, within_s=40.0) < 40.0
    assert len(world.sent(ms.Await)) == 2


@obeys("An Await without its answer is sent again after 30 s, then ever later; a newer one takes the place of an …")
def test_while_the_others_are_away_the_question_is_rare() -> None:
    world, mirrors, peer = three_mirrors()
    mirrors[1].kill()
    mirrors[2].kill()
    peer.save("a", b"1")
    world.run(3600.0)

    assert 8 <= len(world.sent(ms.Await)) <= 20
    assert world.sent(ms.Confirmed) == []
    mirrors[1].start()
    world.run_until(lambda: peer.pending == 0, within_s=10.0)
    assert len(world.sent(ms.Confirmed)) == 1, "all of them were one question to the mirror"


@obeys("An Await is answered once, when the last Report that it needs has come.")
def test_an_await_is_answered_when_the_last_report_has_come() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    mirror.save("a", b"1")
    world.run(1.0)
    peer, one, two = (fx.Link.served(name) for name in ("1", "2", "3"))

    def greet(link: fx.Link, node: int, *, is_mirror: bool) -> None:
        world.inject(mirror, link, hello(card=card(node=node, is_mirror=is_mirror, index_id=bytes([node]) * 16)))

    greet(peer, 3, is_mirror=False)
    greet(one, 1, is_mirror=True)
    greet(two, 2, is_mirror=True)
    wrong = ms.Await(request=8, index_id=b"?" * 16, seq=0, count=1)
    asked = ms.Await(request=9, index_id=mirror.index_id, seq=1, count=2)
    for message in (wrong, asked):
        world.inject(mirror, peer, message)
    world.inject(mirror, one, ms.Report(index_id=mirror.index_id, seq=1))
    assert world.answers(mirror, ms.Confirmed) == []
    world.inject(mirror, two, ms.Report(index_id=mirror.index_id, seq=1))
    mirror.save("b", b"1")
    world.run(1.0)
    world.inject(mirror, two, ms.Report(index_id=mirror.index_id, seq=2))

    assert world.answers(mirror, ms.Confirmed) == [ms.Confirmed(request=9, index_id=mirror.index_id)]


def test_a_confirmation_that_nobody_asked_for_is_ignored() -> None:
    world = World(seed=1)
    link = world.ghost("ghost")
    peer = world.peer("p1", knows=["ghost"], acks=2)
    peer.save("a", b"1")
    world.run(0.1)
    world.inject(peer, link, welcome(world.told("ghost", ms.Hello)[-1]))
    world.run(0.01)
    (push,) = world.told("ghost", ms.Push)
    world.inject(peer, link, ms.Confirmed(request=0, index_id=b"I" * 16))
    world.inject(peer, link, ms.Ack(request=push.request, index_id=peer.index_id, last=1, seq=5, refused=()))
    (asked,) = world.told("ghost", ms.Await)
    assert (asked.index_id, asked.seq, asked.count) == (b"I" * 16, 5, 1)
    world.inject(peer, link, ms.Confirmed(request=asked.request + 1, index_id=b"I" * 16))
    assert peer.pending == 1

    world.inject(peer, link, ms.Confirmed(request=asked.request, index_id=b"I" * 16))
    assert peer.pending == 0


def test_fewer_acks_at_the_next_opening_settle_what_one_mirror_has() -> None:
    world, mirrors, peer = three_mirrors()
    mirrors[1].kill()
    mirrors[2].kill()
    peer.save("a", b"1")
    world.run(1.0)
    assert peer.pending == 1
    peer.stop()
    peer.acks = 1
    peer.start()

    assert peer.pending == 0
    assert pushed(world, to="m1") == [pack_id("a")]


def test_a_mirror_counts_others_too() -> None:
    world = World(seed=1)
    names = ["m1", "m2", "m3"]
    mirrors = [world.mirror(name, knows=names, acks=2) for name in names]
    world.run(2.0)
    mirrors[2].kill()
    mirrors[0].save("a", b"1")
    world.run(2.0)
    assert mirrors[0].node.confirmed_by(1) == 1
    assert mirrors[0].node.delivered_seq == 0
    mirrors[0].set_mode(False)
    assert mirrors[0].pending == 1, "as a peer it owes what one other mirror has: two are asked for"

    mirrors[2].start()
    world.run_until(lambda: mirrors[0].pending == 0, within_s=15.0)


def test_an_answer_covers_only_what_was_asked() -> None:
    world = World(seed=1)
    link = world.ghost("ghost")
    peer = world.peer("p1", knows=["ghost"], acks=2)
    peer.save("a", b"1")
    world.run(0.1)
    world.inject(peer, link, welcome(world.told("ghost", ms.Hello)[-1]))
    world.run(0.01)

    def ack(last: int, seq: int) -> None:
        push = world.told("ghost", ms.Push)[-1]
        world.inject(peer, link, ms.Ack(request=push.request, index_id=peer.index_id, last=last, seq=seq, refused=()))

    ack(1, 5)
    peer.save("b", b"1")
    world.run(0.01)
    ack(2, 6)
    (asked,) = world.told("ghost", ms.Await)
    world.inject(peer, link, ms.Confirmed(request=asked.request, index_id=b"I" * 16))

    assert peer.node.delivered_seq == 1
    assert [found.seq for found in world.told("ghost", ms.Await)] == [5, 6]


def test_a_change_that_came_twice_is_awaited_where_it_stands() -> None:
    world, mirrors, peer = three_mirrors()
    for other in ("m2", "m3"):
        world.cut("m1", other)
    world.on_deliver = lambda sent: not isinstance(sent.message, ms.Ack)
    peer.save("a", b"1")
    world.run(1.0)
    world.on_deliver = lambda sent: True
    world.run_until(lambda: peer.node.acked_seq == 1, within_s=30.0)
    world.run(1.0)

    assert pushed(world, to="m1") == [pack_id("a")] * 2
    assert peer.pending == 1, "the second Push changed nothing, and the others still lack it"
    assert not mirrors[1].leaves("a")
