from __future__ import annotations

import gc

import pytest

from mynosql.collector import collector_paused


def test_the_collector_rests_within_and_is_as_before_behind() -> None:
    assert gc.isenabled()
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            pass
        assert not gc.isenabled(), "the outer pause goes on"
    assert gc.isenabled()


def test_an_error_ends_the_pause() -> None:
    with pytest.raises(OSError, match="broken"), collector_paused():
        raise OSError("broken")
    assert gc.isenabled()


def test_an_application_that_has_it_switched_off_keeps_it_so() -> None:
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
