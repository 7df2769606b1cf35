"""A mirror takes what is pushed: large bodies over the same link, one Ack when all is there, repeats, a full disk."""

from __future__ import annotations

import pytest

from mynosql.codec import digest
from mynosql.idkey import pack_id
from mynosql.row import Leaf, Row
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.receiving import bare_leaves, without_leaves
from tests.sync.harness import Machine, World, card, hello
from tests.sync.rules import obeys

LINK = fx.Link.served("77")
LARGE = bytes(range(256)) * 1200
WRITER = card(is_mirror=False, index_id=b"W" * 16)


def leaf(body: bytes, hlc: int = 1000, node: int = 77) -> Leaf:
    return Leaf(1, hlc, node, False, len(body), digest(body))


def push(request: int, *rows: Row, last: int = 1) -> ms.Push:
    return ms.Push(request=request, index_id=b"W" * 16, first=1, last=last, rows=rows)


def bare(id: str, body: bytes) -> Row:
    return Row(pack_id(id), (leaf(body),), (None,), 1)


def make() -> tuple[World, Machine]:
    world = World(seed=1)
    mirror = world.mirror("m1")
    world.inject(mirror, LINK, hello(card=WRITER))
    world.run(0.01)
    return world, mirror


def give_pieces(world: World, mirror: Machine, body: bytes | None) -> int:
    """Answer the pieces that the mirror asked for since; returns how many."""
    asked = [m for name, _, m in world.strays if isinstance(m, ms.FetchPiece)]
    world.strays[:] = [stray for stray in world.strays if not isinstance(stray[2], ms.FetchPiece)]
    for piece in asked:
        data = b"" if body is None else body[piece.offset : piece.offset + piece.length]
        world.inject(mirror, LINK, ms.Piece(request=piece.request, is_held=body is not None, data=data))
    world.run(0.005)
    return len(asked)


@obeys("The mirror fetches large bodies over the same link before it acknowledges their Push …")
def test_a_large_body_is_brought_before_the_ack_and_holds_nothing_up() -> None:
    world, mirror = make()
    small = Row(pack_id("small"), (leaf(b"s"),), (b"s",), 2)

    world.inject(mirror, LINK, push(1, bare("large", LARGE)))
    world.inject(mirror, LINK, push(2, small, last=2))
    world.run(0.01)
    assert [ack.request for ack in world.answers(mirror, ms.Ack)] == [2]
    assert mirror.body("small") == b"s"
    assert not mirror.leaves("large"), "not even its index entry: nobody could serve it"

    assert give_pieces(world, mirror, LARGE) == 3
    assert [ack.request for ack in world.answers(mirror, ms.Ack)] == [2, 1]
    assert mirror.body("large") == LARGE


@obeys("An Ack is sent only when every row that it covers is on the mirror's disk.")
def test_a_large_body_that_is_only_late_is_neither_acknowledged_nor_refused() -> None:
    world, mirror = make()

    world.inject(mirror, LINK, push(1, bare("large", LARGE)))
    world.run(25.0)

    assert world.answers(mirror, ms.Ack) == []
    world.inject(mirror, LINK, ms.Ping(number=1))
    world.inject(mirror, LINK, push(2, bare("large", LARGE)))
    world.run(0.01)
    world.strays[:] = world.strays[-3:]
    give_pieces(world, mirror, LARGE)
    assert [(ack.request, ack.refused) for ack in world.answers(mirror, ms.Ack)] == [(2, ())]


def test_a_body_that_its_writer_does_not_have_is_refused() -> None:
    world, mirror = make()
    small = Row(pack_id("small"), (leaf(b"s"),), (b"s",), 2)

    world.inject(mirror, LINK, push(1, small, bare("large", LARGE)))
    give_pieces(world, mirror, None)

    (ack,) = world.answers(mirror, ms.Ack)
    assert [(refusal.position, refusal.code) for refusal in ack.refused] == [(1, "body-missing")]
    assert not mirror.leaves("large")


def test_a_body_that_does_not_match_its_digest_is_refused() -> None:
    world, mirror = make()

    world.inject(mirror, LINK, push(1, bare("large", LARGE)))
    give_pieces(world, mirror, bytes(len(LARGE)))

    (ack,) = world.answers(mirror, ms.Ack)
    assert [(refusal.position, refusal.code) for refusal in ack.refused] == [(0, "body-wrong")]


@obeys("A Push without its Ack is sent again, after a lost link at once, else after a while …")
def test_a_push_that_comes_again_does_not_bring_its_large_bodies_again() -> None:
    world, mirror = make()
    world.inject(mirror, LINK, push(1, bare("large", LARGE)))
    give_pieces(world, mirror, LARGE)
    head = mirror.store.head

    world.inject(mirror, LINK, push(2, bare("large", LARGE)))
    world.run(0.01)

    assert give_pieces(world, mirror, LARGE) == 0
    assert world.answers(mirror, ms.Ack)[-1].request == 2
    assert mirror.store.head == head


def test_a_row_with_two_large_leaves_is_applied_with_both() -> None:
    world, mirror = make()
    one, two = leaf(LARGE, 2000, 77), leaf(LARGE + b"2", 1000, 78)

    world.inject(mirror, LINK, push(1, Row(pack_id("a"), (one, two), (None, None), 1)))
    give_pieces(world, mirror, LARGE)
    give_pieces(world, mirror, LARGE + b"2")

    assert mirror.store.rows[pack_id("a")].bodies == (LARGE, LARGE + b"2")
    assert len(world.answers(mirror, ms.Ack)) == 1


def test_a_full_disk_is_said_and_nothing_acknowledged() -> None:
    world, mirror = make()
    mirror.store.is_full = True

    world.inject(mirror, LINK, push(1, Row(pack_id("a"), (leaf(b"s"),), (b"s",), 1)))
    world.run(0.01)

    assert world.answers(mirror, ms.Ack) == []
    assert world.answers(mirror, ms.Bye)[-1].code is ms.ByeCode.STORAGE


def test_a_lost_link_ends_the_work_on_its_pushes() -> None:
    world, mirror = make()
    world.inject(mirror, LINK, push(1, bare("large", LARGE)))

    mirror.perform(mirror.node.on_link_down(LINK, world.now))
    give_pieces(world, mirror, LARGE)

    assert not mirror.leaves("large")
    assert world.answers(mirror, ms.Ack) == []
    world.run(60.0)
    assert mirror.node.next_due(world.now) is None


@pytest.mark.parametrize(("is_other_index", "count"), [(True, 1), (False, 65)])
def test_a_writer_that_breaks_the_rules_is_dropped(is_other_index: bool, count: int) -> None:
    world, mirror = make()
    for number in range(count):
        message = push(number, bare(f"{number}", LARGE))
        if is_other_index:
            message = ms.Push(request=1, index_id=b"?" * 16, first=1, last=1, rows=message.rows)
        world.inject(mirror, LINK, message)

    assert mirror.node.connected == 0
    assert mirror.failures


def test_parts_of_a_leaf_set() -> None:
    live, gone = leaf(b"x"), Leaf(2, 2000, 77, True, 0, bytes(8))
    row = Row(pack_id("a"), (gone, live), (None, None))

    assert bare_leaves(row) == [live]
    rest = without_leaves(row, {live})
    assert rest is not None
    assert (rest.leaves, rest.bodies) == ((gone,), (None,))
    assert without_leaves(row, {live, gone}) is None
