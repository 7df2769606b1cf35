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


def test_a_black_hole_is_noticed_within_twelve_seconds() -> None:
    options = NetOptions()
    assert options.heartbeat_s + options.heartbeat_timeout_s <= 12


def test_every_message_of_the_sessions_fits() -> None:
    assert NetOptions().frame_bytes_max >= wire.FRAME_BYTES_MAX
    # and the topic before it
    assert NetOptions().frames_max >= wire.FRAMES_MAX + 1


def test_a_subscriber_that_hangs_costs_64_mib_at_most() -> None:
    assert NetOptions().publish_messages_max * SyncOptions().publish_bytes <= 64 << 20
