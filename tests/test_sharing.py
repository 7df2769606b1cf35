"""sharing: the switch interval is short while somebody works in the background, and the application's afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from mynosql.sharing import SWITCH_INTERVAL_S, interpreter_shared


@pytest.fixture(autouse=True)
def interval_kept() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


def test_it_is_short_until_the_last_has_ended() -> None:
    sys.setswitchinterval(0.005)
    with interpreter_shared():
        with interpreter_shared():
            assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)
    assert sys.getswitchinterval() == pytest.approx(0.005)


def test_an_error_puts_it_back() -> None:
    sys.setswitchinterval(0.005)
    with pytest.raises(KeyError), interpreter_shared():
        raise KeyError
    assert sys.getswitchinterval() == pytest.approx(0.005)


@pytest.mark.parametrize("shorter", [0.0001, 0.0005])
def test_a_shorter_one_stays(shorter: float) -> None:
    sys.setswitchinterval(shorter)
    with interpreter_shared():
        assert sys.getswitchinterval() == pytest.approx(shorter)
    assert sys.getswitchinterval() == pytest.approx(shorter)


def test_what_the_application_sets_meanwhile_stays() -> None:
    sys.setswitchinterval(0.005)
    with interpreter_shared():
        sys.setswitchinterval(0.02)
    assert sys.getswitchinterval() == pytest.approx(0.02)
