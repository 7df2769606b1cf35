"""The figures of options.SyncOptions keep the promises of docs/PROTOCOL.md, and fit what the wire carries."""

from __future__ import annotations

from mynosql.sync import wire
from mynosql.sync.options import SyncOptions

OPTIONS = SyncOptions()


def test_silence_is_noticed_in_the_times_that_are_promised() -> None:
    slack_s = OPTIONS.heartbeat_slack_s
    active_s = OPTIONS.heartbeat_s + slack_s + OPTIONS.pong_silent_s
    idle_s = OPTIONS.ping_s + OPTIONS.pong_s

    assert active_s < 5.0
    assert idle_s < 12.0
    assert 2 * OPTIONS.heartbeat_s_max + slack_s + OPTIONS.pong_silent_s <= 12.0
    assert OPTIONS.served_idle_s > 2 * OPTIONS.ping_s + OPTIONS.pong_s, "a living peer is never forgotten"
    assert OPTIONS.report_s + 0.05 <= 0.1


def test_what_is_sent_fits_the_bounds_of_the_wire() -> None:
    assert OPTIONS.piece_bytes <= wire.PIECE_BYTES_MAX
    assert OPTIONS.fetch_ids_max <= wire.IDS_MAX
    assert OPTIONS.offer_count <= wire.OFFERS_MAX
    largest_row = 64 * OPTIONS.inline_bytes_max
    for batch in (OPTIONS.pull_bytes, OPTIONS.push_bytes, OPTIONS.fetch_bytes, OPTIONS.publish_bytes):
        assert 2 * batch + largest_row < wire.ROW_BYTES_MAX
    assert wire.ROW_BYTES_MAX < wire.FRAMES_MAX * wire.FRAME_BYTES_MAX
    assert OPTIONS.push_credit_bytes // 100 < OPTIONS.push_queue_max * wire.PUSH_ROWS_MAX
