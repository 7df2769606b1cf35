"""Large bodies in pieces: the window, the next mirror, lost pieces, the bound on what is collected at once."""

from __future__ import annotations

from mynosql.codec import digest
from mynosql.idkey import pack_id
from mynosql.row import Leaf, Row
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.options import SyncOptions
from tests.sync.harness import Machine, World, welcome
from tests.sync.rules import obeys

BODY = bytes(range(251)) * 6000
PIECES = -(-len(BODY) // (128 << 10))


def asked(*, options: SyncOptions | None = None, ids: tuple[str, ...] = ("a",)) -> tuple[World, fx.Link, Machine]:
    """A peer that was told by the mirror which the test plays that the body is large."""
    world = World(seed=1)
    link = world.ghost("ghost")
    peer = world.peer("p1", knows=["ghost"], options=options)
    world.run(0.01)
    world.inject(peer, link, welcome(world.told("ghost", ms.Hello)[-1]))
    for id in ids:
        peer.fetch(id, timeout_s=100.0)
        world.run(0.01)
        leaf = Leaf(1, 1000, 77, False, len(BODY), digest(BODY))
        world.inject(peer, link, ms.Bodies(request=world.told("ghost", ms.Fetch)[-1].request, items=(
            ms.BodyItem(pack_id(id), ms.Status.LARGE, Row(pack_id(id), (leaf,), (None,)), 1),
        )))
    world.run(0.01)
    return world, link, peer


def answer(world: World, link: fx.Link, peer: Machine, piece: ms.FetchPiece) -> None:
    world.inject(peer, link, ms.Piece(
        request=piece.request, is_held=True, data=BODY[piece.offset : piece.offset + piece.length],
    ))
    world.run(0.001)


@obeys("Four pieces are asked for at a time, and a body that its mirror did not finish goes on from another.")
def test_four_pieces_are_asked_for_at_a_time_and_may_come_in_any_order() -> None:
    world, link, peer = asked()
    pieces = world.told("ghost", ms.FetchPiece)
    assert [piece.offset for piece in pieces] == [number * (128 << 10) for number in range(4)]

    answered = 0
    while answered < len(pieces):
        batch = pieces[answered:]
        assert len(batch) <= 4
        for piece in reversed(batch):
            answer(world, link, peer, piece)
        answered = len(pieces)
        pieces = world.told("ghost", ms.FetchPiece)

    assert len(pieces) == PIECES
    assert sum(piece.length for piece in pieces) == len(BODY)
    assert peer.body("a") == BODY


@obeys("Four pieces are asked for at a time, and a body that its mirror did not finish goes on from another.")
def test_the_part_that_came_is_not_brought_again_from_the_next_mirror() -> None:
    world = World(seed=1, latency_s=0.05)
    first = world.mirror("m1", knows=["m2"])
    world.mirror("m2", knows=["m1"])
    peer = world.peer("p1", knows=["m1", "m2"])
    first.save("a", BODY)
    world.settle()
    peer.fetch("a", timeout_s=60.0)
    world.run_until(lambda: len(world.sent(ms.Piece, by="m1", to="p1")) >= 8)
    world.run(0.06)
    first.kill()

    world.run_until(lambda: peer.body("a") == BODY)

    again = world.sent(ms.FetchPiece, by="p1", to="m2")
    assert len(again) == PIECES - 8
    assert min(piece.offset for piece in again) == 8 * (128 << 10)


def test_lost_pieces_are_asked_for_again() -> None:
    world, link, peer = asked()
    first = world.told("ghost", ms.FetchPiece)
    for piece in first[1:]:
        answer(world, link, peer, piece)
    world.ghosts["ghost"] = [m for m in world.ghosts["ghost"] if not isinstance(m, ms.FetchPiece)]
    for _ in range(12):
        world.run(0.5)
        for ping in world.told("ghost", ms.Ping):
            world.inject(peer, link, ms.Pong(number=ping.number))

    offsets = [piece.offset for piece in world.told("ghost", ms.FetchPiece)]
    assert offsets.count(0) == 1


def test_a_body_whose_pieces_never_come_ends_as_not_held_there() -> None:
    world, link, peer = asked()
    for _ in range(50):
        world.run(0.5)
        for ping in world.told("ghost", ms.Ping):
            world.inject(peer, link, ms.Pong(number=ping.number))

    assert peer.fetched[1].outcome is fx.Outcome.NOT_HELD


def test_a_piece_of_the_wrong_length_ends_the_transfer() -> None:
    world, link, peer = asked()
    piece = world.told("ghost", ms.FetchPiece)[0]

    world.inject(peer, link, ms.Piece(request=piece.request, is_held=True, data=b"short"))

    assert peer.fetched[1].outcome is fx.Outcome.NOT_HELD


def test_pieces_that_nobody_asked_for_are_ignored() -> None:
    world, link, peer = asked()
    piece, other = world.told("ghost", ms.FetchPiece)[:2]
    answer(world, link, peer, piece)

    answer(world, link, peer, piece)
    world.inject(peer, link, ms.Piece(request=12345, is_held=True, data=b"x"))
    peer.node._hub.pieces.on_piece(fx.Link.served("77"), ms.Piece(request=other.request, is_held=True, data=b"x"))
    peer.perform(peer.node.step(world.now))

    assert peer.failures == []
    assert 1 not in peer.fetched, "the second piece is still waited for"


def test_bodies_are_collected_one_after_the_other_beyond_the_bound() -> None:
    world, link, peer = asked(options=SyncOptions(assembly_bytes_max=2 * len(BODY)), ids=("a", "b", "c"))

    def wanted() -> set[bytes]:
        return {piece.id_key for piece in world.told("ghost", ms.FetchPiece)}

    assert wanted() == {pack_id("a"), pack_id("b")}
    while peer.body("a") is None:
        for piece in world.told("ghost", ms.FetchPiece):
            if piece.id_key == pack_id("a"):
                answer(world, link, peer, piece)
    assert wanted() == {pack_id("a"), pack_id("b"), pack_id("c")}


def test_a_fetch_that_is_given_up_ends_its_transfer() -> None:
    world, link, peer = asked()

    peer.node.cancel_fetch(1)
    before = len(world.told("ghost", ms.FetchPiece))
    for piece in world.told("ghost", ms.FetchPiece):
        answer(world, link, peer, piece)

    assert len(world.told("ghost", ms.FetchPiece)) == before
    assert not peer.node._hub.pieces._active


def asked_by(world: World, name: str) -> list[int]:
    """Offsets of the pieces that it asked for."""
    return [piece.offset for piece in world.sent(ms.FetchPiece, by=name)]


@obeys("What came of a body whose link was lost is kept for 10 minutes, and whoever asks for it again goes on …")
def test_a_pushed_body_that_is_cut_goes_on_where_it_was() -> None:
    world = World(seed=1, latency_s=0.02)
    mirror = world.mirror("m1")
    peer = world.peer("p1", knows=["m1"])
    world.run(2.0)
    body = world.rng.randbytes(64 << 17)
    peer.save("a", body)
    for cut in (15, 30, 45):
        world.run_until(lambda cut=cut: len(world.sent(ms.Piece)) >= cut)  # type: ignore[misc]
        world.cut("p1", "m1")
        world.run(1.0)
        world.heal()
    world.settle()

    assert mirror.body("a") == body
    assert len(asked_by(world, "m1")) <= 64 + 3 * 8


@obeys("What came of a body whose link was lost is kept for 10 minutes, and whoever asks for it again goes on …")
def test_a_read_that_was_given_up_is_gone_on_with_by_the_next_for_a_while() -> None:
    world, link, peer = asked()
    first = world.told("ghost", ms.FetchPiece)
    for piece in first:
        answer(world, link, peer, piece)
    peer.node.cancel_fetch(1)

    def read_again(request: int) -> int:
        """Where it begins."""
        del world.ghosts["ghost"][:]
        peer.fetch("a", timeout_s=100.0)
        world.run(0.01)
        leaf = Leaf(1, 1000, 77, False, len(BODY), digest(BODY))
        world.inject(peer, link, ms.Bodies(request=world.told("ghost", ms.Fetch)[-1].request, items=(
            ms.BodyItem(pack_id("a"), ms.Status.LARGE, Row(pack_id("a"), (leaf,), (None,)), 1),
        )))
        world.run(0.01)
        offset = world.told("ghost", ms.FetchPiece)[0].offset
        peer.node.cancel_fetch(request)
        return offset

    assert read_again(2) == 4 * (128 << 10)
    parts = peer.node._hub.pieces._parts
    assert len(parts) == 1
    for _ in range(150):
        world.run(5.0)
        for ping in world.told("ghost", ms.Ping):
            world.inject(peer, link, ms.Pong(number=ping.number))
        del world.ghosts["ghost"][:]
    assert not parts


def test_parts_that_are_kept_are_bounded() -> None:
    bound = 5 * (128 << 10)
    world, link, peer = asked(options=SyncOptions(parts_bytes_max=bound), ids=("a", "b", "c"))
    for piece in world.told("ghost", ms.FetchPiece):
        answer(world, link, peer, piece)
    for request in (1, 2, 3):
        peer.node.cancel_fetch(request)

    kept = peer.node._hub.pieces._parts
    assert [key[0] for key in kept] == [pack_id("c")]
    assert sum(len(part) for part, _ in kept.values()) == 4 * (128 << 10)
