"""streams.py: what is packed is read back in any part; decoding never goes further than it was asked to."""

from __future__ import annotations

import contextlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mynosql.errors import StorageCorrupt
from mynosql.store import streams
from mynosql.store.streams import PIECE_BYTES, Bodies, LzmaBodies, PackedStream, PiecedBodies, PlainBodies


def corrupt(what: str) -> StorageCorrupt:
    return StorageCorrupt("shard", 7, what)


def opened(packed: PackedStream, raw_bytes: int) -> Bodies:
    if packed.kind == streams.PIECES:
        def read_stored(offset: int, length: int) -> bytes:
            return packed.stored[offset:offset + length]

        return PiecedBodies(read_stored, raw_bytes, streams.unpack_pieces(packed.table), corrupt)
    if packed.kind == streams.LZMA:
        return LzmaBodies(packed.stored, raw_bytes, corrupt)
    return PlainBodies(packed.stored, corrupt)


RANDOM = Random(1).randbytes(4 * PIECE_BYTES)
TEXT = b"".join(b"%d green bottles hanging on the wall, " % n for n in range(9000))
STREAMS = {
    "none": b"",
    "one byte": b"x",
    "small": TEXT[:5000],
    "small, cannot be compressed": RANDOM[:5000],
    "just no pieces": TEXT[:PIECE_BYTES],
    "just two pieces": TEXT[:PIECE_BYTES + 1],
    "pieces": TEXT[:3 * PIECE_BYTES + 5],
    "pieces, one of them cannot be compressed": TEXT[:PIECE_BYTES] + RANDOM[:PIECE_BYTES] + TEXT[:99],
}
KINDS = [streams.NONE, streams.AS_IS, streams.LZMA, streams.AS_IS, streams.LZMA, *[streams.PIECES] * 3]


@pytest.mark.parametrize(("name", "kind"), list(zip(STREAMS, KINDS, strict=True)))
def test_any_part_of_a_stream_is_read_back_in_any_order(name: str, kind: int) -> None:
    raw = STREAMS[name]
    packed = streams.pack_stream(raw, 1)
    assert packed.kind == kind
    bodies = opened(packed, len(raw))
    assert (bodies.raw_bytes, bodies.read(0, len(raw))) == (len(raw), raw)
    rng = Random(2)
    bodies = opened(packed, len(raw))
    for _ in range(50):
        start = rng.randint(0, len(raw))
        length = rng.randint(0, min(len(raw) - start, rng.choice((10, 1 << 20))))
        assert bodies.read(start, length) == raw[start:start + length]


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize(("offset", "past_end"), [(0, 1), (-1, 0), (5, -3)])
def test_a_span_outside_of_the_stream_is_corrupt_and_nothing_is_returned(name: str, offset: int, past_end: int) -> None:
    raw = STREAMS[name]
    length = -3 if past_end == -3 else len(raw) - offset + past_end
    bodies = opened(streams.pack_stream(raw, 1), len(raw))
    with pytest.raises(StorageCorrupt, match="lies outside"):
        bodies.read(offset, length)


def test_the_first_read_decodes_only_up_to_its_end() -> None:
    """Shown by a stream whose second half is destroyed."""
    raw = Random(3).randbytes(2000) + TEXT[:20000]
    stored = streams.pack_stream(raw, 1).stored
    bodies = LzmaBodies(stored[:len(stored) - 300] + bytes(300), len(raw), corrupt)
    assert bodies.read(100, 900) == raw[100:1000]
    with pytest.raises(StorageCorrupt):
        bodies.read(len(raw) - 10, 10)


def test_a_stream_is_decoded_as_far_as_its_first_read_and_then_once_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = TEXT[:30000]
    asked: list[int] = []
    decode = streams._decode
    monkeypatch.setattr(streams, "_decode", lambda *given: asked.append(given[2]) or decode(*given))
    bodies = LzmaBodies(streams.pack_stream(raw, 1).stored, len(raw), corrupt)
    for offset in (100, 50, 20_000, 29_000, 0):
        assert bodies.read(offset, 10) == raw[offset:offset + 10]
    assert asked == [110, 30_000]


def test_a_read_of_pieces_touches_only_the_pieces_that_it_needs() -> None:
    raw = RANDOM
    packed = streams.pack_stream(raw, 1)
    asked: list[tuple[int, int]] = []

    def read_stored(offset: int, length: int) -> bytes:
        asked.append((offset, length))
        return packed.stored[offset:offset + length]

    bodies = PiecedBodies(read_stored, len(raw), streams.unpack_pieces(packed.table), corrupt)
    assert bodies.read(PIECE_BYTES + 10, 20) == raw[PIECE_BYTES + 10:PIECE_BYTES + 30]
    assert bodies.read(PIECE_BYTES + 100, PIECE_BYTES) == raw[PIECE_BYTES + 100:2 * PIECE_BYTES + 100]
    assert asked == [(PIECE_BYTES, PIECE_BYTES), (2 * PIECE_BYTES, PIECE_BYTES)]


def test_what_does_not_shrink_by_5_percent_is_stored_as_it_is() -> None:
    assert streams.compress(RANDOM[:9500] + bytes(350), 1) is None
    assert streams.compress(RANDOM[:9000] + bytes(1000), 1) is not None


def test_decoding_makes_no_more_bytes_than_were_stated() -> None:
    """A few bytes could otherwise become a gigabyte (MEASURED, "Decoders")."""
    packed = streams.compress(bytes(50_000_000), 0)
    assert packed is not None
    assert len(packed) < 10_000
    assert streams.decompress(packed, 100, corrupt) == bytes(100)


@given(st.binary(max_size=300), st.integers(0, 5000))
def test_any_bytes_decode_to_the_stated_length_or_are_corrupt(data: bytes, raw_bytes: int) -> None:
    with contextlib.suppress(StorageCorrupt):
        assert len(streams.decompress(data, raw_bytes, corrupt)) == raw_bytes


def test_a_header_that_contradicts_itself_is_not_sound() -> None:
    pieces = streams.unpack_pieces(streams.pack_stream(RANDOM, 1).table)
    assert streams.is_sound(streams.PIECES, len(RANDOM), len(RANDOM), pieces)
    assert not streams.is_sound(streams.PIECES, len(RANDOM) + 1, len(RANDOM), pieces)
    assert not streams.is_sound(streams.PIECES, len(RANDOM), len(RANDOM) - 1, pieces)
    assert not streams.is_sound(streams.PIECES, len(RANDOM), len(RANDOM), pieces[:-1])
    assert not streams.is_sound(streams.LZMA, 5, 5, pieces[:1])
    assert not streams.is_sound(streams.LZMA, PIECE_BYTES + 1, 5, ())
    assert not streams.is_sound(streams.LZMA, 0, 5, ())
    assert not streams.is_sound(streams.AS_IS, 5, 6, ())
    assert not streams.is_sound(8, 5, 5, ())
