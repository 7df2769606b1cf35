"""Work that gives up the interpreter's lock, shared among a few threads, its results in the order of the work.

LZMA releases the lock while it compresses a block, and then waits up to the switch interval (5 ms) to get it back from
a writer that computes. One thread would so pack a block every 5 ms, whatever the processor can do; a few threads wait
side by side. Handed to the store's seal jobs by opened.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], items: Sequence[T], *, threads: int) -> list[R]:
    """[work(item) for item in items], on so many threads, the caller's among them; raises what one of them raised.

    Where no thread can be started any more the caller's does it all.
    """
    results: dict[int, R] = {}
    errors: list[BaseException] = []

    def do_share(first: int) -> None:
        try:
            for number in range(first, len(items), threads):
                results[number] = work(items[number])
                if errors:
                    return
        except BaseException as error:
            errors.append(error)

    helpers = []
    for first in range(1, min(threads, len(items))):
        helper = threading.Thread(target=do_share, args=(first,), name=f"mynosql-pack-{first}", daemon=True)
        try:
            helper.start()
        except RuntimeError:  # the interpreter is going down, or the system has no thread left
            do_share(first)
        else:
            helpers.append(helper)
    do_share(0)
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(items))]
