"""Conversations that others began with a mirror: what is accepted from whom, and what is answered."""

from __future__ import annotations

import pytest

from mynosql.address import Address
from mynosql.idkey import pack_id
from mynosql.row import Version
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from tests.sync.harness import Machine, World, card, hello
from tests.sync.rules import obeys

LINK = fx.Link.served("77")


def make(*, is_greeted: bool = True, is_asking_mirror: bool = False) -> tuple[World, Machine]:
    """A mirror that holds "a" and "b", and a stranger who said Hello."""
    world = World(seed=1)
    mirror = world.mirror("m1")
    mirror.save("a", b"body a")
    mirror.save("b", b"b" * 100_000)
    world.run(0.5)
    if is_greeted:
        world.inject(mirror, LINK, hello(card=card(is_mirror=is_asking_mirror)), user_id="alice")
        world.run(0.01)
    return world, mirror


def ask(world: World, mirror: Machine, message: ms.Message, user_id: str = "alice") -> None:
    world.inject(mirror, LINK, message, user_id=user_id)
    world.run(0.01)


@obeys(
    "Nothing but Hello is accepted from a link before its Welcome.",
    "A served node that was quiet for 30 s is forgotten; a message from a node that is not known …",
)
@pytest.mark.parametrize("message", [
    ms.Pull(request=1, index_id=b"I" * 16, after=0, prefixes=(), with_bodies=True),
    ms.Push(request=1, index_id=b"I" * 16, first=1, last=1, rows=()),
    ms.Fetch(request=1, id_keys=(pack_id("a"),)),
    ms.FetchPiece(request=1, id_key=pack_id("a"), version=Version(1, 1), offset=0, length=10),
    ms.Report(index_id=b"I" * 16, seq=1), ms.Mirrors(mirrors=()), ms.Offer(request=1, items=()), ms.Ping(number=1),
], ids=lambda message: type(message).__name__)
def test_a_stranger_gets_nothing_but_no_session(message: ms.Message) -> None:
    world, mirror = make(is_greeted=False)
    puts = mirror.store.put_count

    ask(world, mirror, message)

    assert [answer for _, _, answer in world.strays] == [ms.Bye(code=ms.ByeCode.NO_SESSION, text="say Hello first")]
    assert mirror.store.put_count == puts
    assert mirror.node.connected == 0


@obeys("Messages of a served link count only for the user who said Hello on it.")
def test_a_message_of_another_user_drops_the_link() -> None:
    world, mirror = make()

    ask(world, mirror, ms.Fetch(request=1, id_keys=(pack_id("a"),)), user_id="mallory")

    assert world.answers(mirror, ms.Bodies) == []
    assert mirror.node.connected == 0
    assert "another user" in str(mirror.failures[-1])


@obeys("A link that sends what is no message, or one that has no place there, is dropped and the error is shown.")
@pytest.mark.parametrize("message", [
    ms.Heartbeat(index_id=b"I" * 16, head=1, next_ms=1, is_filling=False),
    ms.Welcome(session=1, version=1, card=card(), known=None, heartbeat_ms=1, mirrors=()),
    ms.Ack(request=1, index_id=b"I" * 16, last=1, seq=0, refused=()),
    ms.Report(index_id=b"?" * 16, seq=0),
], ids=lambda message: type(message).__name__)
def test_a_message_without_a_place_drops_the_link(message: ms.Message) -> None:
    world, mirror = make(is_asking_mirror=True)

    ask(world, mirror, message)

    if isinstance(message, ms.Report):  # of another index: only late
        assert mirror.failures == []
        assert mirror.node.connected == 1
    else:
        assert type(message).__name__ in str(mirror.failures[-1])
        assert mirror.node.connected == 0


def test_a_report_beyond_our_own_changes_drops_the_link() -> None:
    world, mirror = make(is_asking_mirror=True)

    ask(world, mirror, ms.Report(index_id=mirror.index_id, seq=3))

    assert mirror.node.confirmed_seq == 0
    assert mirror.node.connected == 0


def test_a_peer_cannot_confirm_anything() -> None:
    world, mirror = make()

    ask(world, mirror, ms.Report(index_id=mirror.index_id, seq=2))

    assert mirror.node.confirmed_seq == 0


@obeys("A link that sends what is no message, or one that has no place there, is dropped and the error is shown.")
def test_garbage_drops_the_link_and_others_go_on() -> None:
    world, mirror = make()
    peer = world.peer("p1", knows=["m1"])
    world.run(1.0)

    world.inject_garbage(mirror, LINK, [b"GET / HTTP/1.1"])

    assert "cannot be read" in str(mirror.failures[-1])
    peer.save("c", b"1")
    world.settle()


def test_garbage_of_nobody_is_only_shown() -> None:
    world, mirror = make()

    from mynosql.errors import PeerError
    mirror.perform(mirror.node.on_garbage(None, PeerError("rubbish on the PUB port"), world.now))

    assert str(mirror.failures[-1]) == "rubbish on the PUB port"
    assert mirror.node.connected == 1


@obeys("A served node that was quiet for 30 s is forgotten; a message from a node that is not known …")
def test_a_quiet_node_is_forgotten() -> None:
    world, mirror = make()
    world.run(20.0)
    ask(world, mirror, ms.Ping(number=3))
    world.run(29.9)
    assert mirror.node.connected == 1

    world.run(0.2)

    assert mirror.node.connected == 0
    assert world.answers(mirror, ms.Pong) == [ms.Pong(number=3, load=0)]


@obeys("A mirror that is greeted by a node id that it serves already, with another nonce, pings the …")
@pytest.mark.parametrize("lives", [True, False])
def test_the_older_of_two_with_one_node_id_has_to_answer(lives: bool) -> None:
    world, mirror = make()
    newer = fx.Link.served("88")
    world.inject(mirror, newer, hello(card=card(is_mirror=False, nonce=2), session=6))
    world.run(0.01)
    ping = world.answers(mirror, ms.Ping)[-1]
    assert len(world.answers(mirror, ms.Welcome)) == 1

    if lives:
        ask(world, mirror, ms.Pong(number=ping.number))
    world.run(1.0)

    if lives:
        refused = world.answers(mirror, ms.Refused)[-1]
        assert (refused.code, refused.session) == (ms.RefusedCode.CLONE, 6)
    else:
        assert world.answers(mirror, ms.Welcome)[-1].session == 6
    assert mirror.node.connected == 1


def test_the_same_process_may_greet_by_a_second_link() -> None:
    world, mirror = make()

    world.inject(mirror, fx.Link.served("88"), hello(session=6))
    world.run(0.01)

    assert len(world.answers(mirror, ms.Welcome)) == 2
    assert world.answers(mirror, ms.Ping) == []


def test_a_pull_is_answered_with_the_stretch_asked_for() -> None:
    world, mirror = make()

    for after, with_bodies, prefixes in ((0, True, ()), (1, False, ()), (2, True, ()), (0, False, ("b",))):
        ask(world, mirror, ms.Pull(
            request=9, index_id=mirror.index_id, after=after, prefixes=prefixes, with_bodies=with_bodies,
        ))

    whole, second, none, scoped = world.answers(mirror, ms.Entries)
    assert [row.bodies for row in whole.rows] == [(b"body a",), (None,)], "large bodies travel in pieces"
    assert (whole.after, whole.last, whole.head, whole.more) == (0, 2, 2, False)
    assert [(row.id_key, row.bodies) for row in second.rows] == [(pack_id("b"), (None,))]
    assert none.rows == ()
    assert [row.id_key for row in scoped.rows] == [pack_id("b")]


def test_a_pull_of_an_index_of_the_past_ends_the_conversation() -> None:
    world, mirror = make()

    ask(world, mirror, ms.Pull(request=9, index_id=b"?" * 16, after=0, prefixes=(), with_bodies=False))

    assert world.answers(mirror, ms.Bye)[-1].code is ms.ByeCode.RENEWED


def test_a_pull_beyond_our_changes_shows_that_we_lost_some() -> None:
    world, mirror = make()

    ask(world, mirror, ms.Pull(request=9, index_id=mirror.index_id, after=3, prefixes=(), with_bodies=False))

    assert len(mirror.renewed) == 1


def test_a_fetch_is_answered_id_by_id() -> None:
    world, mirror = make()

    ask(world, mirror, ms.Fetch(request=9, id_keys=(pack_id("a"), pack_id("x"), pack_id("b"))))

    (answer,) = world.answers(mirror, ms.Bodies)
    assert [(item.id_key, item.status, item.large) for item in answer.items] == [
        (pack_id("a"), ms.Status.HELD, 0), (pack_id("x"), ms.Status.ABSENT, 0), (pack_id("b"), ms.Status.LARGE, 1),
    ]


def test_a_large_answer_comes_in_parts() -> None:
    world, mirror = make()
    for number in range(40):
        mirror.save(f"k{number}", bytes(60_000))
    world.run(0.1)

    ask(world, mirror, ms.Fetch(request=9, id_keys=tuple(pack_id(f"k{number}") for number in range(40))))

    parts = world.answers(mirror, ms.Bodies)
    assert len(parts) == 3
    assert [item.id_key for part in parts for item in part.items] == [pack_id(f"k{number}") for number in range(40)]


@obeys("A filling mirror answers not-held, never absent.")
def test_a_filling_mirror_cannot_say_absent() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1", knows=["nobody"])
    world.inject(mirror, LINK, hello())
    world.run(0.01)

    ask(world, mirror, ms.Fetch(request=9, id_keys=(pack_id("x"),)), user_id="")

    (answer,) = world.answers(mirror, ms.Bodies)
    assert answer.items == (ms.BodyItem(pack_id("x"), ms.Status.NOT_HELD, None),)


def test_a_served_mirror_is_learned_and_dialled() -> None:
    world = World(seed=1)
    mirror = world.mirror("m1")
    world.inject(mirror, LINK, hello(card=card(advertised=Address("m9", 8800), publisher_port=8801)))

    assert mirror.node.addresses() == [Address("m9", 8800)]
