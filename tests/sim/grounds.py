"""Two grounds for the same stories about messages: real sockets on loopback, and the simulated network.

    with ground.station("a") as a: ...      # Real and Simulated have the same methods

A station is what a database sees of the network. Both tell a tests.net.recorder.Recorder what comes.
"""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from mynosql.address import Address
from mynosql.net.options import Listening, NetOptions
from mynosql.net.ports import find_free_pair
from mynosql.sync.effects import Link, LinkKind
from tests.net.recorder import TOPIC, Node, Recorder
from tests.sim.network import Host, Network, NetworkOptions
from tests.sim.virtual import Time
from tests.waiting import wait_until

QUEUE = 4
"""Small queues: stories about full ones are short."""


class Station(ABC):
    """One node's sockets."""

    seen: Recorder

    @abstractmethod
    def listen(self) -> None: ...

    @abstractmethod
    def dial(self, other: Station) -> Link: ...

    @abstractmethod
    def subscribe(self, other: Station) -> None: ...

    @abstractmethod
    def send(self, link: Link, *frames: bytes) -> None: ...

    @abstractmethod
    def publish(self, *frames: bytes) -> None: ...

    @abstractmethod
    def hang_up(self, link: Link) -> None: ...

    @abstractmethod
    def stop(self) -> None:
        """Closed in good order."""

    @abstractmethod
    def start_again(self) -> None:
        """After stop(): listens where it did. What it saw before is forgotten."""

    @abstractmethod
    def stall(self, other: Station) -> None:
        """It reads nothing any more of what the other sends."""

    @abstractmethod
    def resume(self) -> None: ...

    @property
    def served(self) -> list[Link]:
        """Links that others opened and that are up, oldest first."""
        return [link for link in self.seen.ups if link.kind is LinkKind.SERVED and link in self.seen.up]

    def heard(self) -> list[list[bytes]]:
        return [frames for _, frames, _ in self.seen.frames]

    def read(self) -> list[list[bytes]]:
        """What came by subscription, without its topic."""
        return [frames[1:] for _, frames in self.seen.published]


class Ground(ABC):
    """Where stations stand."""

    message_bytes = 1

    @abstractmethod
    def station(self, name: str) -> Station: ...

    @abstractmethod
    def wait(self, condition: Callable[[], object]) -> None:
        """Time passes until the condition holds; fails when it does not in good time."""

    @abstractmethod
    def close(self) -> None: ...


class RealStation(Station):
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._options = NetOptions(
            dial_timeout_s=2.0, retry_s_min=0.01, retry_s_max=0.1, linger_s=0.2, send_messages_max=QUEUE,
            receive_messages_max=QUEUE, publish_messages_max=QUEUE,
        )
        self.there: Listening | None = None
        self._release: threading.Event | None = None
        self._begin()

    def _begin(self) -> None:
        self._node = Node(self._folder, options=self._options)
        self._node.__enter__()
        self.seen = self._node.seen

    def listen(self) -> None:
        self.there = self._node.listen(self.there.address.port if self.there else find_free_pair())

    def dial(self, other: Station) -> Link:
        assert isinstance(other, RealStation)
        assert other.there is not None
        return self._node.dial(other.there.address)

    def subscribe(self, other: Station) -> None:
        assert isinstance(other, RealStation)
        assert other.there is not None
        self._node.subscribe(other.there)

    def send(self, link: Link, *frames: bytes) -> None:
        self._node.send(link, *frames)

    def publish(self, *frames: bytes) -> None:
        self._node.publish(*frames)

    def hang_up(self, link: Link) -> None:
        self._node.io.call(lambda: self._node.io.hang_up(link))

    def stop(self) -> None:
        self.resume()
        self._node.io.stop()

    def start_again(self) -> None:
        self._begin()
        self.listen()

    def stall(self, other: Station) -> None:
        release = self._release = threading.Event()
        threading.Thread(target=lambda: self._node.io.call(lambda: release.wait(20)), daemon=True).start()

    def resume(self) -> None:
        if self._release is not None:
            self._release.set()
            self._release = None


class Real(Ground):
    """libzmq, TCP and the kernel."""

    message_bytes = 512 << 10
    """Kernel buffers take megabytes before a queue fills."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stations: list[RealStation] = []

    def station(self, name: str) -> Station:
        self._stations.append(made := RealStation(self._folder / name))
        return made

    def wait(self, condition: Callable[[], object]) -> None:
        wait_until(condition)

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            for station in self._stations:
                stack.callback(station.stop)


class SimulatedStation(Station):
    def __init__(self, network: Network, name: str) -> None:
        self._network = network
        self._name = name
        self._stalled: tuple[str, str] | None = None
        self._begin()

    def _begin(self) -> None:
        self.seen = Recorder()
        self.host = Host(self._network, self._name, self.seen, 8800)
        self._network.hosts[self._name] = self.host

    def listen(self) -> None:
        self.host.listen()

    def dial(self, other: Station) -> Link:
        assert isinstance(other, SimulatedStation)
        self.host.dial(other.host.address)
        return Link.dial(other.host.address)

    def subscribe(self, other: Station) -> None:
        assert isinstance(other, SimulatedStation)
        self.host.subscribe(other.host.address, Address(other._name, 8801), (TOPIC,))

    def send(self, link: Link, *frames: bytes) -> None:
        self.host.send(link, frames)

    def publish(self, *frames: bytes) -> None:
        self.host.publish(TOPIC, frames)

    def hang_up(self, link: Link) -> None:
        self.host.hang_up(link)

    def stop(self) -> None:
        self.host.close()

    def start_again(self) -> None:
        self._begin()
        self.listen()

    def stall(self, other: Station) -> None:
        assert isinstance(other, SimulatedStation)
        self._stalled = (other._name, self._name)
        self._network.blocked.add(self._stalled)

    def resume(self) -> None:
        if self._stalled is not None:
            self._network.unblock(self._stalled)
            self._stalled = None


class Simulated(Ground):
    """The model."""

    def __init__(self, seed: int = 1, *, latency_s: float = 0.001, jitter_s: float = 0.0) -> None:
        self.time = Time(seed)
        self.network = Network(self.time, NetworkOptions(
            send_messages_max=QUEUE, publish_messages_max=QUEUE, latency_s=latency_s, jitter_s=jitter_s,
        ))

    def station(self, name: str) -> Station:
        return SimulatedStation(self.network, name)

    def wait(self, condition: Callable[[], object]) -> None:
        # As wait_until: asked again and again, at a pace.
        assert self.time.run_until(lambda: bool(condition()), within_s=30.0, every_s=0.01), "waited in vain"

    def close(self) -> None:
        """Nothing is open."""
