"""The options of the network, and that its bounds fit together."""

from __future__ import annotations

import pytest

from mynosql.errors import OptionInvalid
from mynosql.net.options import NetOptions


@pytest.mark.parametrize("name", NetOptions.__slots__)
def test_every_option_must_be_positive(name: str) -> None:
    with pytest.raises(OptionInvalid, match=name):
        NetOptions(**{name: 0})
    with pytest.raises(OptionInvalid, match=name):
        NetOptions(**{name: -1})


def test_a_black_hole_is_noticed_within_twelve_seconds() -> None:
    options = NetOptions()
    assert options.heartbeat_s + options.heartbeat_timeout_s <= 12


def test_one_connection_cannot_take_more_than_a_quarter_gibibyte() -> None:
    options = NetOptions()
    assert options.frame_bytes_max * options.receive_messages_max <= 256 << 20
