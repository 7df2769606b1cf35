"""What the protocol reads of a store: each question and its answer."""

from __future__ import annotations

from mynosql.idkey import pack_id
from mynosql.lookups import look_up
from mynosql.row import Version
from mynosql.sync import effects as fx
from mynosql.sync.reconciling import WHOLE
from tests.store.making import key, open_memory, remote_row, row_of


def test_the_feed_is_read_by_prefixes() -> None:
    store, _, _ = open_memory()
    store.put([row_of(id, 1) for id in ("x/1", "y/1", "z/1")])
    for prefixes, expected in (((), ["x/1", "y/1", "z/1"]), (("y/",), ["y/1"]), (("x/", "z/"), ["x/1", "z/1"])):
        feed = look_up(store, fx.ReadFeed(
            token=2, after=0, until=9, bytes_max=1 << 20, body_bytes_max=0, prefixes=prefixes
        ))
        assert isinstance(feed, fx.Feed)
        assert [row.id_key for row in feed.rows] == [pack_id(id) for id in expected]
        assert (feed.last, feed.more) == (3, False)


def test_bodies_are_read_up_to_their_size_and_what_is_left_out_is_still_said_to_be_held() -> None:
    store, _, _ = open_memory()
    row = row_of("a", "x" * 100)
    store.put([row, remote_row("b", 1)])
    for limit, body in ((1 << 20, row.bodies[0]), (10, None)):
        id_keys = (key("a"), key("b"), key("no"))
        held = look_up(store, fx.ReadBodies(token=2, id_keys=id_keys, body_bytes_max=limit, bytes_max=999))
        assert isinstance(held, fx.Held)
        a, b, absent = held.rows
        assert a is not None
        assert b is not None
        assert (a.row.bodies, a.held, b.row.bodies, b.held, absent) == ((body,), 1, (None,), 0, None)


def test_a_piece_of_a_body_is_read_by_its_version() -> None:
    store, _, _ = open_memory()
    row = row_of("a", "x" * 100)
    store.put_one(row)
    body = row.bodies[0]
    assert body is not None
    for version, data in ((Version(*row.leaves[0][1:3]), body[5:15]), (Version(1, 1), None)):
        piece = look_up(store, fx.ReadPiece(token=2, id_key=key("a"), version=version, offset=5, length=10))
        assert piece == fx.Stretch(data=data)


def test_offers_name_what_is_held_and_comparing_finds_what_is_lacked() -> None:
    store, _, _ = open_memory()
    store.put([row_of("a", 1), row_of("b", 1), remote_row("c", 1)])
    offers = look_up(store, fx.ReadOffers(token=2, after_key=b"", limit=10, until_seq=100))
    assert isinstance(offers, fx.Offers)
    assert [offer.id_key for offer in offers.offers] == [key("a"), key("b")]
    a, b = ((offer.id_hash, offer.digest) for offer in offers.offers)
    compared = look_up(store, fx.CompareOffers(token=3, offers=(a, (b[0], bytes(8)), (12345, bytes(8)))))
    assert compared == fx.Compared(wanted=(1, 2))


def test_what_is_missing_is_named_in_pages() -> None:
    store, _, _ = open_memory()
    store.put([row_of("held", 1), remote_row("m1", 1), remote_row("m2", 1)])
    assert look_up(store, fx.ReadMissing(token=2, after_key=b"", limit=1)) == fx.Missing(id_keys=(key("m1"),))
    assert look_up(store, fx.ReadMissing(token=2, after_key=key("m1"), limit=9)) == fx.Missing(id_keys=(key("m2"),))


def test_sums_that_nobody_has_counted_are_no_answer() -> None:
    store, _, _ = open_memory()
    store.put_one(row_of("a", 1))
    sums = look_up(store, fx.ReadSums(token=2, question=WHOLE, is_urgent=False))
    assert isinstance(sums, fx.Sums)
    assert (sums.answer, sums.head) == (None, 1)
