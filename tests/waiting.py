"""Waiting for a condition with a deadline: the one place of the tests where time passes.

A test never sleeps: it states what has to become true and how long that may take at worst. The deadline is no
measurement; it only ends a test that would never end, so give it generously.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_INTERVAL_S_MIN = 0.001
POLL_INTERVAL_S_MAX = 0.05


def wait_until(condition: Callable[[], T], deadline_s: float = 10.0, what: str | Callable[[], str] = "") -> T:
    """The first true value that `condition()` returned; asked at once, then ever less often, up to every 50 ms.

    what: the sentence of the failure, "the mirror holds 100 records"; a callable is asked when it failed, so that it
    can show the state reached. An exception from the condition is the test's own and ends the wait.
    Raises AssertionError at the deadline with the last value seen.
    """
    ends_at = time.monotonic() + deadline_s
    interval_s = POLL_INTERVAL_S_MIN
    while True:
        is_last_try = time.monotonic() >= ends_at
        value = condition()
        if value:
            return value
        if is_last_try:
            text = what() if callable(what) else what or getattr(condition, "__qualname__", repr(condition))
            raise AssertionError(f"waited {deadline_s:g} s in vain for: {text} (last value: {value!r})")
        time.sleep(interval_s)
        interval_s = min(interval_s * 1.5, POLL_INTERVAL_S_MAX)
