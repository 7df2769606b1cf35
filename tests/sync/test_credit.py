"""What waits for a node that does not read is bounded in bytes, and nobody else notices."""

from __future__ import annotations

import pytest

from mynosql.idkey import pack_id
from mynosql.row import Version
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.credit import QUESTIONS_MAX
from mynosql.sync.options import SyncOptions
from tests.sync.harness import Machine, World, hello
from tests.sync.rules import obeys

CREDIT = SyncOptions().answer_credit_bytes
BODY = bytes(range(256)) * 240
LINK = fx.Link.served("9")


def stuck(*, count: int = 300) -> tuple[World, Machine]:
    """A mirror with 15 MB, and a node that has said Hello and answers nothing more."""
    world = World(seed=1)
    mirror = world.mirror("m1")
    for number in range(count):
        mirror.save(f"{number:03}", BODY)
    world.run(0.1)
    world.inject(mirror, LINK, hello())
    world.run(0.1)
    world.strays.clear()
    return world, mirror


def questions(mirror: Machine, kind: str, number: int) -> ms.Message:
    leaf = mirror.leaves("000")[0]
    if kind == "pull":
        return ms.Pull(request=number, index_id=mirror.index_id, after=0, prefixes=(), with_bodies=True)
    if kind == "fetch":
        return ms.Fetch(request=number, id_keys=tuple(pack_id(f"{n:03}") for n in range(128)))
    return ms.FetchPiece(
        request=number, id_key=pack_id("000"), version=Version(leaf.hlc, leaf.node), offset=0, length=len(BODY)
    )


def bodies_sent(world: World) -> int:
    """Bytes of bodies in all that left for the node."""
    spent = 0
    for _, _, message in world.strays:
        if isinstance(message, ms.Piece):
            spent += len(message.data)
        rows = message.rows if isinstance(message, ms.Entries) else ()
        if isinstance(message, ms.Bodies):
            rows = tuple(item.row for item in message.items if item.row is not None)
        spent += sum(len(body) for row in rows for body in row.bodies if body is not None)
    return spent


def ask(world: World, mirror: Machine, message: ms.Message) -> None:
    world.inject(mirror, LINK, message)
    world.run(0.001)


@obeys("A mirror has at most 4 MiB of answers, and the one under way, on the way to a node that has not read them.")
@pytest.mark.parametrize("kind", ["pull", "fetch", "piece"])
def test_a_node_that_asks_and_does_not_read_gets_no_more_than_its_credit(kind: str) -> None:
    world, mirror = stuck()
    asked = 0
    while mirror.node.connected and asked < 1000:
        asked += 1
        ask(world, mirror, questions(mirror, kind, asked))

    assert CREDIT - (1 << 20) < bodies_sent(world) < CREDIT + (1 << 20)
    assert asked < 1000, "one question too many ends the conversation"
    assert f"more than {QUESTIONS_MAX}" in str(mirror.failures[-1])


@obeys("A mirror has at most 4 MiB of answers, and the one under way, on the way to a node that has not read them.")
@obeys("Further questions wait in their order; with more than 32 of them the node is dropped.")
def test_the_answer_to_a_ping_gives_back_what_was_sent_before_it() -> None:
    world, mirror = stuck()
    for number in range(1, 13):
        ask(world, mirror, questions(mirror, "pull", number))
    answered = len(world.answers(mirror, ms.Entries))
    assert answered < 12
    (ping,) = world.answers(mirror, ms.Ping)
    ask(world, mirror, ms.Pong(number=ping.number + 1))
    assert len(world.answers(mirror, ms.Entries)) == answered
    ask(world, mirror, ms.Pong(number=ping.number))
    ask(world, mirror, ms.Pong(number=ping.number))

    assert answered < len(world.answers(mirror, ms.Entries)) <= 12
    assert [message.request for message in world.answers(mirror, ms.Entries)] == sorted(
        message.request for message in world.answers(mirror, ms.Entries)
    )
    for pong in world.answers(mirror, ms.Ping)[1:]:
        ask(world, mirror, ms.Pong(number=pong.number))
    assert len(world.answers(mirror, ms.Entries)) == 12
    assert mirror.node.connected == 1


def test_a_lost_ping_is_sent_again_when_the_node_asks_on() -> None:
    world, mirror = stuck()
    for number in range(1, 13):
        ask(world, mirror, questions(mirror, "pull", number))
    world.run(6.0)
    ask(world, mirror, questions(mirror, "pull", 13))

    first, second = world.answers(mirror, ms.Ping)
    assert first == second


def test_a_node_that_reads_is_not_held_up() -> None:
    """15 MB through a link of 300 ms: a few pings, and no pause worth speaking of."""
    world = World(seed=1, latency_s=0.15)
    mirror = world.mirror("m1")
    for number in range(300):
        mirror.save(f"{number:03}", BODY)
    other = world.mirror("m2", knows=["m1"])
    took = world.run_until(lambda: len(other.store.rows) == 300)

    assert len(world.sent(ms.Pull, by="m2")) >= 15 * 2 - 5
    assert took < 0.3 * (len(world.sent(ms.Pull, by="m2")) + 6)
    assert 3 <= len(world.sent(ms.Ping, by="m1", to="m2")) <= 12


@obeys("A mirror has at most 4 MiB of answers, and the one under way, on the way to a node that has not read them.")
def test_a_scoped_peer_that_does_not_read_is_told_nothing_more() -> None:
    world, mirror = stuck(count=1)
    world.inject(mirror, LINK, ms.Pull(
        request=1, index_id=mirror.index_id, after=0, prefixes=("x",), with_bodies=False,
    ))
    for number in range(60_000):
        mirror.save("x" + str(number) * 3, b"1")
        if number % 1000 == 0:
            world.run(0.01)
    told = world.answers(mirror, ms.Changes)

    assert CREDIT // 2 < sum(100 * len(message.rows) for message in told) < CREDIT + (1 << 20)
    assert mirror.node.connected == 1


def test_fifty_peers_and_one_that_is_stuck() -> None:
    """What 49 hear, and when, is the same whether the fiftieth answers or not."""
    def run(*, is_stuck: bool) -> list[float]:
        world = World(seed=1)
        mirror = world.mirror("m1")
        peers = [world.peer(f"p{number}", knows=["m1"]) for number in range(50)]
        world.run(2.0)
        if is_stuck:
            world.mute("p0", "m1")
        took = []
        for number in range(100):
            (peers[1] if number % 2 else mirror).save(f"{number}", b"1")
            took.append(world.run_until(
                lambda number=number: all(peer.leaves(f"{number}") for peer in peers[1:])  # type: ignore[misc]
            ))
        assert all(peer.pending == 0 for peer in peers[1:])
        return took

    quiet, beside = run(is_stuck=False), run(is_stuck=True)
    assert max(beside) <= max(quiet) + 0.001
