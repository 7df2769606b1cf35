"""A handler that writes down what the I/O thread tells it, and nodes made of nothing but an I/O thread.

    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b:
        there = a.io.listen("127.0.0.1", 0)
        link = b.dial(there.address)
        b.wait_up(link)
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from mynosql.address import Address
from mynosql.errors import PeerRefused
from mynosql.net.io import IoThread
from mynosql.net.options import Listening, NetOptions
from mynosql.net.security import ClusterSecret, Security, keygen
from mynosql.sync.effects import Link, LinkKind
from tests.waiting import wait_until

QUICK = NetOptions(dial_timeout_s=2.0, retry_s_min=0.01, retry_s_max=0.1, linger_s=0.2)
"""Attempts that follow each other fast; nothing else differs from what users run."""
TOPIC = b"e"


def make_secret() -> ClusterSecret:
    return ClusterSecret.parse(keygen())


class Recorder:
    """net.io.Handler: lists of what came, appended to by the I/O thread and read by the test."""

    def __init__(self) -> None:
        self.io: IoThread | None = None
        self.frames: list[tuple[Link, list[bytes], str]] = []
        self.published: list[tuple[Address, list[bytes]]] = []
        self.ups: list[Link] = []
        self.downs: list[tuple[Link, str]] = []
        self.down_at: list[float] = []
        self.refusals: list[PeerRefused] = []
        self.failures: list[BaseException] = []
        self.wakes = 0
        self.steps = 0
        self.up: set[Link] = set()
        self.threads: set[str] = set()
        self.when_stepped: Callable[[float], float | None] = lambda now: None
        self.when_framed: Callable[[Link, list[bytes]], None] = lambda link, frames: None
        self.when_asked: Callable[[bytes], bytes | None] = lambda payload: b"answer to " + payload
        self.when_woken: Callable[[], None] = lambda: None

    def on_frames(self, link: Link, frames: list[bytes], user_id: str) -> None:
        self.frames.append((link, frames, user_id))
        self.when_framed(link, frames)

    def on_published(self, address: Address, frames: list[bytes]) -> None:
        self.published.append((address, frames))

    def on_link_up(self, link: Link) -> None:
        self.up.add(link)
        self.ups.append(link)

    def on_link_down(self, link: Link, reason: str) -> None:
        self.up.discard(link)
        self.downs.append((link, reason))
        self.down_at.append(time.monotonic())

    def on_refused(self, link: Link, error: PeerRefused) -> None:
        self.refusals.append(error)

    def on_control(self, reply_to: bytes, payload: bytes) -> None:
        answer = self.when_asked(payload)
        if answer is not None:
            assert self.io is not None
            self.io.reply_control(reply_to, answer)

    def on_wake(self) -> None:
        self.wakes += 1
        self.threads.add(threading.current_thread().name)
        self.when_woken()

    def step(self, now: float) -> float | None:
        self.steps += 1
        return self.when_stepped(now)

    def on_fail(self, error: BaseException) -> None:
        self.failures.append(error)


class Node:
    """An I/O thread with a recorder, in a folder of its own."""

    def __init__(
        self, folder: Path, secret: ClusterSecret | None = None, *, insecure: bool = False, options: NetOptions = QUICK
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.seen = Recorder()
        self.security = Security.open(folder, secret, insecure=insecure)
        self.io = IoThread(self.seen, folder=str(folder), security=self.security, options=options)
        self.seen.io = self.io

    def __enter__(self) -> Node:
        self.io.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.io.stop()

    def listen(self, port: int | None = 0) -> Listening:
        return self.io.listen("127.0.0.1", port)

    def dial(self, address: Address) -> Link:
        self.io.call(lambda: self.io.dial(address))
        return Link.dial(address)

    def send(self, link: Link, *frames: bytes) -> None:
        self.io.call(lambda: self.io.send(link, frames))

    def publish(self, *frames: bytes, topic: bytes = TOPIC) -> None:
        self.io.call(lambda: self.io.publish(topic, frames))

    def subscribe(self, there: Listening, *topics: bytes) -> None:
        self.io.call(lambda: self.io.subscribe(there.address, there.publisher, topics or (TOPIC,)))

    def wait_up(self, link: Link) -> None:
        wait_until(lambda: link in self.seen.up, what=lambda: f"{link} is up; downs: {self.seen.downs[-3:]}")

    def wait_served(self) -> Link:
        """The link of the first node that dialled us and is up."""

        def served() -> list[Link]:
            return [link for link in self.seen.ups if link.kind is LinkKind.SERVED and link in self.seen.up]

        return wait_until(served, what="a node dialled us")[0]


def wait_published(publisher: Node, subscriber: Node, mark: bytes, *, topic: bytes = TOPIC) -> list[bytes]:
    """Publishes until it comes through: a subscription is effective some time after it was made (slow joiner)."""

    def received() -> list[list[bytes]]:
        publisher.publish(mark, topic=topic)
        return [frames for _, frames in subscriber.seen.published if frames == [topic, mark]]

    return wait_until(received, what=f"{mark!r} was published and received")[0]


def open_descriptors() -> list[str]:
    """What this process has open, as the system names it."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return sorted(found)


def wait_equal(read: Callable[[], Any], expected: Any) -> None:
    wait_until(lambda: read() == expected, what=lambda: f"{read()!r} equals {expected!r}")


@contextlib.contextmanager
def linked(a: Node, b: Node) -> Iterator[tuple[Link, Link]]:
    """a listens, b dials: the link as b sees it, and as a does."""
    there = a.listen()
    dialled = b.dial(there.address)
    b.wait_up(dialled)
    yield dialled, a.wait_served()
