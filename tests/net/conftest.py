"""Contexts whose sockets are closed after the test, for tests of the parts below the I/O thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from mynosql.net.sockets import Context, Socket


class KeepingContext(zmq.Context[Socket]):
    """Keeps its sockets alive until it is destroyed: pyzmq calls a socket that was only forgotten a leak."""

    _kept: list[Socket] = []

    def socket(self, *arguments: Any, **options: Any) -> Socket:
        made: Socket = super().socket(*arguments, **options)
        self._kept.append(made)
        return made


@pytest.fixture
def context() -> Iterator[Context]:
    made = KeepingContext()
    yield made
    for socket in made._kept:
        socket.close(0)
    made._kept.clear()
    made.term()
