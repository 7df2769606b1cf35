"""A conversation that we began: Hello until there is an answer, stale answers, signs of life."""

from __future__ import annotations

import itertools

import pytest

from mynosql.errors import PeerRefused
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from tests.sync.harness import Machine, World, card, welcome
from tests.sync.rules import obeys


def peer_and_ghost(*, answer: bool) -> tuple[World, Machine, fx.Link]:
    """A peer that dials a host which says what the test says."""
    world = World(seed=1)
    link = world.ghost("ghost")
    peer = world.peer("p1", knows=["ghost"])
    world.run(0.01)
    if answer:
        world.inject(peer, link, welcome(world.told("ghost", ms.Hello)[-1]))
        assert peer.follows == "ghost"
    return world, peer, link


@obeys("Hello is sent whenever a link comes up, and repeated with growing, jittered pauses until there is an answer.")
def test_an_unanswered_hello_is_repeated_ever_later_until_the_link_is_dialled_anew() -> None:
    world, _, _ = peer_and_ghost(answer=False)
    world.run(9.5)
    times = [sent.at for sent in world.log if isinstance(sent.message, ms.Hello)]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]

    assert pauses == sorted(pauses)
    assert pauses[0] < 0.7
    assert len({hello.session for hello in world.told("ghost", ms.Hello)}) == 1

    world.run(10.0)
    assert len({hello.session for hello in world.told("ghost", ms.Hello)}) == 2, "a new connection is a new attempt"


@obeys("Hello is sent whenever a link comes up, and repeated with growing, jittered pauses until there is an answer.")
def test_a_link_that_comes_up_again_is_greeted_again() -> None:
    world = World(seed=1)
    world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    world.run(1.0)

    world.cut("p1", "m1")
    world.run(0.01)
    assert peer.follows is None
    world.heal()
    world.run_until(lambda: peer.follows == "m1")

    assert world.talk("p1", "m1").count("p1: Hello") == 2
    assert world.talk("p1", "m1").count("p1: Pull") >= 2


@obeys("A Welcome or Refused for an older attempt is ignored.")
def test_answers_to_an_older_attempt_are_ignored() -> None:
    world, peer, link = peer_and_ghost(answer=False)
    session = world.told("ghost", ms.Hello)[-1].session
    asked = world.told("ghost", ms.Hello)[-1]

    world.inject(peer, link, ms.Refused(session=session - 1, code=ms.RefusedCode.NAME, text="old"))
    old = welcome(asked)
    world.inject(peer, link, ms.Welcome(
        session=session - 1, version=1, card=old.card, known=None, heartbeat_ms=1000, mirrors=(),
    ))

    assert peer.failures == []
    assert peer.follows is None
    world.inject(peer, link, welcome(asked))
    assert peer.follows == "ghost"


def test_a_second_welcome_changes_nothing() -> None:
    world, peer, link = peer_and_ghost(answer=True)
    pulls = len(world.told("ghost", ms.Pull))

    world.inject(peer, link, welcome(world.told("ghost", ms.Hello)[-1]))

    assert len(world.told("ghost", ms.Pull)) == pulls


@obeys("Nothing but Hello is accepted from a link before its Welcome.")
def test_messages_before_the_welcome_are_ignored() -> None:
    world, peer, link = peer_and_ghost(answer=False)

    world.inject(peer, link, ms.Mirrors(mirrors=(ms.MirrorInfo(9, peer.address, 1, False, 0),)))
    world.inject(peer, link, ms.Bodies(request=1, items=()))

    assert [address.host for address in peer.node.addresses()] == ["ghost"]
    assert peer.failures == []


def test_a_refusal_is_shown_with_address_and_reason() -> None:
    world, peer, link = peer_and_ghost(answer=False)

    asked = world.told("ghost", ms.Hello)[-1]
    world.inject(peer, link, ms.Refused(session=asked.session, code=ms.RefusedCode.NAME, text="database 'x' here"))

    assert isinstance(peer.failures[-1], PeerRefused)
    assert str(peer.failures[-1]) == "ghost:8800: database 'x' here"


@obeys("A node that is told to be a clone takes a new node id and a new index id, at most once a minute.")
def test_a_node_that_is_told_to_be_a_clone_renews_itself_at_most_once_a_minute() -> None:
    world, peer, link = peer_and_ghost(answer=False)
    node = peer.node_id
    for _ in range(3):
        asked = world.told("ghost", ms.Hello)[-1]
        world.inject(peer, link, ms.Refused(session=asked.session, code=ms.RefusedCode.CLONE, text="copied"))
        world.run(0.5)
    assert len(peer.renewed) == 1
    assert peer.node_id != node
    assert "copied" in str(peer.failures[-1])

    world.run(61.0)
    asked = world.told("ghost", ms.Hello)[-1]
    world.inject(peer, link, ms.Refused(session=asked.session, code=ms.RefusedCode.CLONE, text="copied"))
    assert len(peer.renewed) == 2


def test_a_mirror_that_answers_under_our_own_node_id_makes_us_renew() -> None:
    world, peer, link = peer_and_ghost(answer=False)

    world.inject(peer, link, welcome(world.told("ghost", ms.Hello)[-1], card=card(node=peer.node_id, nonce=99)))

    assert len(peer.renewed) == 1


@obeys("A link that sends what is no message, or one that has no place there, is dropped and the error is shown.")
@pytest.mark.parametrize("message", [
    ms.Pull(request=1, index_id=b"I" * 16, after=0, prefixes=(), with_bodies=True),
    ms.Hello(
        version_low=1, version_high=1, database="Test", session=1, is_merging=False, card=card(), known=None,
        is_listening=True,
    ),
    ms.Heartbeat(index_id=b"I" * 16, head=1, next_ms=1, is_filling=False),
], ids=lambda message: type(message).__name__)
def test_a_mirror_that_breaks_the_protocol_is_left(message: ms.Message) -> None:
    world, peer, link = peer_and_ghost(answer=True)

    world.inject(peer, link, message)

    assert type(message).__name__ in str(peer.failures[-1])
    assert peer.follows is None
    hellos = len(world.told("ghost", ms.Hello))
    world.run(20.0)
    assert len(world.told("ghost", ms.Hello)) == hellos, "not before 30 s"


@obeys("A link that sends what is no message, or one that has no place there, is dropped and the error is shown.")
def test_garbage_from_a_mirror_is_shown_and_the_mirror_left() -> None:
    world, peer, link = peer_and_ghost(answer=True)

    world.inject_garbage(peer, link, [b"\x07garbage"])

    assert peer.follows is None
    assert "cannot be read" in str(peer.failures[-1])


@obeys("A dial is pinged after 5 s of quiet; one that does not answer is dialled anew.")
def test_a_quiet_link_is_pinged_and_dialled_anew_without_an_answer() -> None:
    world, peer, link = peer_and_ghost(answer=True)
    request = world.told("ghost", ms.Pull)[-1].request
    world.inject(peer, link, ms.Entries(
        request=request, index_id=b"I" * 16, after=0, last=0, head=0, more=False, rows=(),
    ))
    pull_answered_at = world.now
    assert world.told("ghost", ms.Ping) == []

    world.run_until(lambda: bool(world.told("ghost", ms.Ping)))
    assert world.now - pull_answered_at == pytest.approx(5.0, abs=0.01)

    world.run_until(lambda: peer.follows is None)
    assert world.now - pull_answered_at < 12.0
    world.run_until(lambda: len({hello.session for hello in world.told("ghost", ms.Hello)}) == 2)


def test_a_pong_keeps_the_link_and_pings_are_answered() -> None:
    world, peer, link = peer_and_ghost(answer=True)
    for _ in range(5):
        world.run(4.0)
        for ping in world.told("ghost", ms.Ping):
            world.inject(peer, link, ms.Pong(number=ping.number))
    world.inject(peer, link, ms.Ping(number=7))

    assert peer.follows == "ghost"
    world.run(0.01)
    assert world.told("ghost", ms.Pong) == [ms.Pong(number=7)]


@pytest.mark.parametrize("code", [ms.ByeCode.NO_SESSION, ms.ByeCode.RENEWED])
def test_a_bye_that_asks_for_it_is_answered_with_hello(code: ms.ByeCode) -> None:
    world, peer, link = peer_and_ghost(answer=True)
    world.ghosts["ghost"].clear()

    world.inject(peer, link, ms.Bye(code=code, text=""))
    world.run(0.01)

    assert [type(message) for message in world.ghosts["ghost"]] == [ms.Hello]
    assert peer.node.has_live_mirror, "it is greeted again: a read may wait for it"


def test_a_mirror_that_cannot_write_is_left_and_its_reason_shown() -> None:
    world, peer, link = peer_and_ghost(answer=True)

    world.inject(peer, link, ms.Bye(code=ms.ByeCode.STORAGE, text="no space left"))

    assert peer.follows is None
    assert "no space left" in str(peer.failures[-1])


def test_a_mirror_that_lost_changes_and_does_not_renew_is_refused() -> None:
    world, peer, link = peer_and_ghost(answer=False)
    index_id = b"I" * 16
    peer.store.put([], {f"cursor/{index_id.hex()}": b"50 0 77 0"})
    peer.store.sync()
    peer.restart()
    world.run(0.01)
    for _ in range(2):
        world.inject(peer, link, welcome(world.told("ghost", ms.Hello)[-1], card=card(head=49)))
        world.run(0.01)

    assert world.told("ghost", ms.Hello)[-1].known == ms.Known(index_id, 50, 77, 0, 0)
    assert "lost changes" in str(peer.failures[-1])
    assert peer.follows is None
