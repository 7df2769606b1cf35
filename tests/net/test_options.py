"""The options of the network, and that its bounds fit together."""

from __future__ import annotations

import pytest

from mynosql.errors import OptionInvalid
from mynosql.net.options import NetOptions
from mynosql.sync import wire
from mynosql.sync.options import SyncOptions


@pytest.mark.parametrize("name", NetOptions.__slots__)
def test_every_option_must_be_positive(name: str) -> None:
    with pytest.raises(OptionInvalid, match=name):
        NetOptions(**{name: 0})
    with pytest.raises(OptionInvalid, match=name):
        NetOptions(**{name: -1})


def test_tcp_gives_up_later_than_the_sessions_which_say_why_and_within_half_a_minute() -> None:
    options, sessions = NetOptions(), SyncOptions()
    given_up_s = options.tcp_idle_s + options.tcp_probes * options.tcp_probe_s
    assert sessions.ping_s + sessions.pong_s < given_up_s <= 30
    assert sessions.ping_s + sessions.pong_s < options.tcp_dead_s <= 30


def test_every_message_of_the_sessions_fits() -> None:
    assert NetOptions().frame_bytes_max >= wire.FRAME_BYTES_MAX
    # and the topic before it
    assert NetOptions().frames_max >= wire.FRAMES_MAX + 1


def test_a_subscriber_that_hangs_costs_64_mib_at_most() -> None:
    assert NetOptions().publish_messages_max * SyncOptions().publish_bytes <= 64 << 20
