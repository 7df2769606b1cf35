"""The interpreter is handed over sooner while the background has much to do: the application's frames are on time.

Who waits for the interpreter asks for it after sys.getswitchinterval(), 5 ms by default; with two busy threads in the
background that is most of a frame of 16.7 ms. Meanwhile it is a millisecond.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

SWITCH_INTERVAL_S = 0.001

_lock = threading.Lock()
_sharers = 0
_before = 0.0


@contextlib.contextmanager
def interpreter_shared() -> Iterator[None]:
    """Every thread of the process gets its turn within a millisecond; the application's setting is put back after it.

    An interval that is shorter anyway, or is set by the application meanwhile, stays.
    """
    global _sharers, _before
    with _lock:
        _sharers += 1
        if _sharers == 1:
            _before = sys.getswitchinterval()
            if _before > SWITCH_INTERVAL_S:
                sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        with _lock:
            _sharers -= 1
            if not _sharers and abs(sys.getswitchinterval() - SWITCH_INTERVAL_S) < 1e-6 < _before:
                sys.setswitchinterval(_before)
