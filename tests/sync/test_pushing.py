"""The outbox of a peer: batches with credit, acknowledgements, what is refused, what is sent again."""

from __future__ import annotations

import pytest

from mynosql.idkey import pack_id
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync import pushing
from mynosql.sync.memory import Rejected
from mynosql.sync.options import SyncOptions
from tests.sync.harness import World, card, welcome
from tests.sync.rules import obeys


def pushed(world: World) -> list[bytes]:
    """Every row that was pushed, in order, as often as it was."""
    return [row.id_key for message in world.sent(ms.Push) for row in message.rows]


@obeys("The outbox is the part of the feed that is owed and above the last acknowledged seq; it is …")
def test_what_was_saved_offline_goes_out_after_a_restart() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    world.run(1.0)
    world.cut("p1", "m1")
    for number in range(5):
        peer.save(f"{number}", b"1")
    world.run(1.0)
    assert peer.pending == 5
    peer.restart()
    assert peer.pending == 5
    world.heal()

    world.settle()

    assert len(mirror.store.rows) == 5
    assert peer.node.delivered_seq >= 5
    assert int(peer.store.notes["delivered"]) == 5


@obeys("The outbox is the part of the feed that is owed and above the last acknowledged seq; it is …")
def test_what_others_wrote_is_not_pushed_back() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    mirror.save("theirs", b"1")
    peer.save("ours", b"1")
    world.settle()
    mirror.save("theirs", b"2")
    world.settle()
    peer.fetch("theirs")
    world.run(0.01)
    assert peer.body("theirs") == b"2"
    peer.restart()
    world.run(1.5)

    assert pushed(world) == [pack_id("ours")]
    assert peer.node.delivered_seq == peer.store.head, "what is not owed needs no acknowledgement"


@obeys("Rows that come back as they were pushed move the cursor only: …")
def test_what_comes_back_as_it_was_pushed_is_not_applied_again() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    world.settle()
    for number in range(5):
        peer.save(f"{number}", b"1")
    mirror.save("theirs", b"1")
    world.settle()

    assert peer.pending == 0
    assert peer.applied_rows == 1
    mirror.save("0", b"2")
    world.settle()
    assert peer.applied_rows == 2, "what others made of it is applied"
    assert peer.leaves("0") == mirror.leaves("0")


def test_of_many_rows_those_pushed_last_are_known_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "ECHOES_MAX", 4)
    world = World(seed=1)
    world.ghost("ghost")
    peer = world.peer("p1", knows=["ghost"])
    for number in range(10):
        peer.save(f"{number}", b"1")
    world.run(0.1)
    link = fx.Link.dial(peer.links.__iter__().__next__())
    world.inject(peer, link, welcome(world.told("ghost", ms.Hello)[-1], card=card()))
    world.run(0.01)

    outbox = peer.node._hub.outbox
    rows = [row for push in world.told("ghost", ms.Push) for row in push.rows]
    assert len(rows) == 10
    assert [outbox.is_echo(row) for row in rows[:6]] == [False] * 6
    assert [outbox.is_echo(row) for row in rows[8:]] == [True, True]
    assert not outbox.is_echo(rows[9]), "once"


def test_after_damage_whatever_comes_back_is_applied() -> None:
    world = World(seed=1)
    world.ghost("ghost")
    peer = world.peer("p1", knows=["ghost"])
    peer.save("a", b"1")
    world.run(0.1)
    link = fx.Link.dial(peer.links.__iter__().__next__())
    world.inject(peer, link, welcome(world.told("ghost", ms.Hello)[-1], card=card()))
    world.run(0.01)
    outbox = peer.node._hub.outbox
    assert outbox._echoes
    peer.node.on_damage([], world.now, has_lost_rows=False)
    assert outbox._echoes
    peer.node.on_damage([], world.now, has_lost_rows=True)
    assert not outbox._echoes


@obeys("Pushes are pipelined with a credit of 1 MiB in bytes.")
def test_pushes_are_pipelined_up_to_the_credit() -> None:
    world = World(seed=1)
    world.ghost("ghost")
    peer = world.peer("p1", knows=["ghost"])
    for number in range(100):
        peer.save(f"{number:03}", bytes(50_000))
    world.run(0.1)
    link = fx.Link.dial(peer.links.__iter__().__next__())
    world.inject(peer, link, welcome(world.told("ghost", ms.Hello)[-1], card=card()))
    world.run(0.01)

    first = world.told("ghost", ms.Push)
    spent = sum(len(body) for push in first for row in push.rows for body in row.bodies if body is not None)
    assert len(first) > 3
    assert (1 << 20) <= spent < (1 << 20) + (300 << 10)

    world.inject(peer, link, ms.Ack(
        request=first[1].request, index_id=peer.index_id, last=first[1].last, seq=0, refused=(),
    ))
    world.run(0.01)

    assert len(world.told("ghost", ms.Push)) == len(first) + 1, "an acknowledgement gives credit, in whatever order"
    assert peer.node.delivered_seq == 0


@obeys("The acknowledged seq moves only over acknowledged pushes without a gap.")
def test_acknowledgements_out_of_order_leave_no_gap() -> None:
    world = World(seed=1)
    link = world.ghost("ghost")
    peer = world.peer("p1", knows=["ghost"])
    for number in range(3):
        peer.save(f"{number}", bytes(60_000))
        peer.save(f"{number} second", bytes(60_000))
        peer.save(f"{number} third", bytes(60_000))
        peer.save(f"{number} fourth", bytes(60_000))
        peer.save(f"{number} fifth", bytes(60_000))
    world.run(0.1)
    world.inject(peer, link, welcome(world.told("ghost", ms.Hello)[-1]))
    world.run(0.01)
    one, two, three = world.told("ghost", ms.Push)

    def ack(push: ms.Push) -> None:
        world.inject(peer, link, ms.Ack(
            request=push.request, index_id=peer.index_id, last=push.last, seq=0, refused=(),
        ))

    ack(three)
    ack(two)
    ack(two)
    assert peer.node.delivered_seq == 0
    ack(one)
    assert peer.node.delivered_seq == three.last == 15


@obeys("An Ack is sent only when every row that it covers is on the mirror's disk.")
def test_no_acknowledgement_before_the_fsync() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    world.run(1.0)
    peer.save("a", b"1")
    world.run(0.0006)
    world.fsync_s = 3.0
    world.run(2.0)
    assert mirror.body("a") == b"1"
    assert world.sent(ms.Ack) == []

    mirror.restart()
    assert mirror.body("a") is None
    world.fsync_s = 0.001
    world.settle()

    assert mirror.body("a") == b"1"


@obeys("A Push without its Ack is sent again, after a lost link at once, else after a while …")
def test_only_what_was_in_flight_is_sent_again_after_a_cut() -> None:
    world = World(seed=1, latency_s=0.02)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"], options=SyncOptions(push_bytes=1000))
    world.run(1.0)
    for number in range(100):
        peer.save(f"{number:03}", bytes(100))
        world.run(0.005)
        if number in (30, 60):
            world.cut("p1", "m1")
            world.run(0.5)
            world.heal()
            world.run(0.2)
    world.settle()

    assert len(mirror.store.rows) == 100
    again = len(pushed(world)) - 100
    assert 0 < again < 40, "two cuts, each with what a round trip of 40 ms holds"
    seqs = [row.seq for row in mirror.store.rows.values()]
    assert len(set(seqs)) == 100
    assert mirror.store.head == 100, "what came twice changed nothing"


@obeys("A Push without its Ack is sent again, after a lost link at once, else after a while …")
def test_a_push_whose_answer_is_lost_is_sent_again_later() -> None:
    world = World(seed=1)
    world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    world.run(1.0)
    world.on_deliver = lambda sent: not isinstance(sent.message, ms.Ack)
    peer.save("a", b"1")
    world.run(1.0)
    world.on_deliver = lambda sent: True
    assert peer.pending == 1

    world.run_until(lambda: peer.pending == 0, within_s=20.0)

    assert pushed(world) == [pack_id("a"), pack_id("a")]


@obeys("A refused row goes aside with its reason and blocks nothing; it is settled when the record …")
def test_a_refused_row_blocks_nothing_and_is_settled_later() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    mirror.store.refuses.add(pack_id("bad"))
    for id in ("before", "bad", "after"):
        peer.save(id, b"1")
    world.run(2.0)

    assert mirror.body("before") == mirror.body("after") == b"1"
    assert peer.pending == 0
    reason = f"{pack_id('bad')!r}: refused-by-test"
    assert peer.node.rejected == {2: Rejected(pack_id("bad"), "refused-by-test", reason)}
    assert "refused-by-test" in str(peer.failures[-1])
    assert peer.announced[fx.Kind.REJECTED] == 1
    peer.restart()
    assert list(peer.node.rejected) == [2], "remembered"

    mirror.store.refuses.clear()
    peer.save("bad", b"2")
    world.settle()
    world.run(0.1)
    assert peer.node.rejected == {}
    peer.restart()
    assert peer.node.rejected == {}


@obeys("With 10,000 refused changes the outbox rests until some of them are resolved: none is forgotten.")
def test_the_memory_of_refused_changes_is_bounded() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"], options=SyncOptions(rejected_max=3))
    assert SyncOptions().rejected_max == 10_000
    ids = [f"bad{number}" for number in range(4)]
    mirror.store.refuses |= {pack_id(id) for id in ids}
    for id in ids[:3]:
        peer.save(id, b"1")
    world.run(2.0)
    assert len(peer.node.rejected) == 3, "at the bound"
    assert peer.pending == 0

    peer.save(ids[3], b"1")
    world.run(60.0)
    assert len(peer.node.rejected) == 3, "one past it"
    assert peer.pending == 1
    assert "rejecteddocs" in str(peer.failures[-1])

    mirror.store.refuses.discard(pack_id("bad0"))
    peer.save("bad0", b"2")
    mirror.store.refuses.discard(pack_id("bad3"))
    world.run(60.0)
    assert mirror.body("bad3") == b"1"
    assert peer.pending == 0


@obeys("A refused row stays refused until its record changes, its user has it tried again, or its …")
def test_what_is_settled_or_was_a_peers_is_refused_no_more() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    mirror.store.refuses |= {pack_id("a"), pack_id("b")}
    peer.save("a", b"1")
    peer.save("b", b"1")
    world.run(2.0)
    assert len(peer.node.rejected) == 2

    peer.perform(peer.node.settle_rejected(pack_id("a"), world.now))
    peer.perform(peer.node.settle_rejected(pack_id("unknown"), world.now))
    assert [rejected.id_key for rejected in peer.node.rejected.values()] == [pack_id("b")]
    assert peer.announced[fx.Kind.REJECTED] == 3

    peer.perform(peer.node.set_mode(True, world.now))
    assert peer.node.rejected == {}, "mirrors take everything of each other"
    world.run(0.1)
    peer.restart()
    assert peer.node.rejected == {}


@obeys("A refused row that was replaced meanwhile is not reported as rejected.")
def test_a_refusal_of_what_was_replaced_meanwhile_is_no_news() -> None:
    world = World(seed=1, latency_s=0.1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    world.run(2.0)
    mirror.store.refuses.add(pack_id("a"))
    peer.save("a", b"1")
    world.run(0.15)
    peer.save("a", b"2")
    mirror_takes = world.now + 0.07
    world.at(mirror_takes, mirror.store.refuses.clear)
    world.settle()

    assert peer.node.rejected == {}
    assert peer.failures == []


def test_an_ack_that_refuses_what_was_not_pushed_breaks_the_protocol() -> None:
    world = World(seed=1)
    link = world.ghost("ghost")
    peer = world.peer("p1", knows=["ghost"])
    peer.save("a", b"1")
    world.run(0.1)
    world.inject(peer, link, welcome(world.told("ghost", ms.Hello)[-1]))
    world.run(0.01)
    push = world.told("ghost", ms.Push)[0]

    world.inject(peer, link, ms.Ack(
        request=push.request, index_id=peer.index_id, last=1, seq=0, refused=(ms.Refusal(1, "x", "y"),),
    ))

    assert peer.follows is None
    assert peer.pending == 1


@obeys("Leaves whose bodies the peer does not hold itself are left out of a Push.")
@pytest.mark.parametrize("size", [10, 100_000], ids=["small", "large"])
def test_an_edit_beside_a_leaf_that_is_not_held_goes_without_it(size: int) -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    writer = world.peer("p1", knows=["m1"])
    peer = world.peer("p2", knows=["m1"])
    world.run(1.0)
    world.cut("p2", "m1")
    writer.save("a", bytes(size))
    peer.save("a", b"apart")
    world.run(0.5)
    peer.store.apply(  # the index of the mirror came, its body did not
        [mirror.store.rows[pack_id("a")]._replace(bodies=(None,), seq=0)], {}, is_push=False
    )
    assert len(peer.leaves("a")) == 2
    world.run(0.1)
    world.heal()
    world.settle()

    for push in world.sent(ms.Push, by="p2"):
        for row in push.rows:
            assert [leaf.node for leaf in row.leaves] == [peer.node_id]
    assert len(mirror.leaves("a")) == 2
    assert peer.node.rejected == {}


def test_what_is_owed_and_has_nothing_to_send_is_written_down_as_delivered() -> None:
    """Seed 265 of the simulator: the store counted it as pending for ever, since only an Ack was kept as a note."""
    world = World(seed=1)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    mirror.save("a", b"theirs")
    world.settle()
    # Given a row that was owed for a leaf of ours, superseded since: what is left of it came from the mirror
    peer.store.put([peer.store.rows[pack_id("a")]._replace(owed=True, seq=0)])
    peer.save("b", b"ours")
    world.settle()
    peer.store.put([peer.store.rows[pack_id("a")]._replace(owed=True, seq=0)])
    peer.store.sync()
    peer.restart()
    world.run(1.0)

    assert peer.node.delivered_seq == peer.store.head
    assert int(peer.store.notes["delivered"]) == peer.store.head
    assert [id_key for id_key in pushed(world) if id_key == pack_id("a")] == []
