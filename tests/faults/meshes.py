"""A mesh of real nodes, each a process on a machine of its own, and the questions that a test asks of all of them.

    with Mesh(folder, mirrors=3) as mesh:
        mesh.peers[0].ask("load", count=400, body_bytes=500)
        mesh.mirrors[0].kill()
        ...
        mesh.wait_equal(400, within_s=10.0)

Machines other than one's own are reached only with a cluster secret, so everything is encrypted. The processes run
tests/faults/mesh_node.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from mynosql.net.security import keygen
from tests.faults.namespaces import Host, Lab
from tests.faults.processes import PythonChild
from tests.faults.proxy import Proxy
from tests.waiting import wait_until

NODE_SCRIPT = Path(__file__).with_name("mesh_node.py")
PEER_COUNT = 2
PORT = 8800
ANSWER_DEADLINE_S = 60.0
SETTLE_DEADLINE_S = 60.0
BUSY = 1.0 if os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") == "1" else 2.0
"""What a promised time is multiplied by: beside other tests, which take the processor, it is twice as long."""

Look = dict[str, Any]


class MeshNode:
    """One node: its machine, its folder, and the process, killed and started again as often as a test likes."""

    def __init__(self, name: str, host: Host, folder: Path, how: dict[str, Any]) -> None:
        self.name = name
        self.host = host
        self.folder = folder
        self.is_mirror = how.get("mode") == "mirror"
        self.clock_shift_s: float | None = 0
        """From its next start on; None: it starts in 1970."""
        self.url: str | None = None
        """How others reach it; None: not at all."""
        self._how = how
        self._child: PythonChild | None = None

    def __repr__(self) -> str:
        return self.name

    @property
    def is_running(self) -> bool:
        return self._child is not None

    def start(self) -> None:
        assert self._child is None
        child = self._child = self.host.start_python(NODE_SCRIPT)
        child.send({
            "node": self.name, "location": str(self.folder), "clock_shift_s": self.clock_shift_s, **self._how
        })
        child.read_until("endpoint", ANSWER_DEADLINE_S)

    def kill(self) -> None:
        """As a crash does: nothing is flushed, nobody is told by the process."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.close()

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """The answer of that command."""
        child = self._child
        assert child is not None, f"{self} does not run"
        child.send({"do": do, **more})
        answer: dict[str, Any] = child.read_until("do", ANSWER_DEADLINE_S)
        assert answer["do"] == do
        return answer

    def back_up(self, copy: Path) -> None:
        """The folder as it is; the process must not run."""
        assert not self.is_running
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.folder, copy, copy_function=_copy_file)

    def restore(self, copy: Path) -> None:
        """The folder becomes what was copied, in the same files where they are still there: an old state of the whole
        disk, which the folder itself cannot tell from no change at all."""
        assert not self.is_running
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                continue
            if not (copy / path.relative_to(self.folder)).exists():
                path.unlink()
        for path in copy.rglob("*"):
            target = self.folder / path.relative_to(copy)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                with target.open("r+b" if target.exists() else "wb") as file:
                    file.write(path.read_bytes())
                    file.truncate()


def _copy_file(source: str, target: str) -> str:
    """Only regular files: the control endpoint is a socket."""
    return shutil.copy2(source, target) if os.path.isfile(source) else target


class Mesh:
    """1 or 3 mirrors and 2 peers, connected and with equal indexes when this was entered."""

    def __init__(self, folder: Path, *, mirrors: int, has_proxies: bool = False) -> None:
        """has_proxies: mirrors are reached by a TCP proxy on their own machine, and by nothing else."""
        self._stack = contextlib.ExitStack()
        self._secret = keygen()
        self.proxies: list[Proxy] = []
        self.folder = folder
        with contextlib.ExitStack() as undo:
            self.lab = undo.enter_context(Lab(mirrors + PEER_COUNT))
            self.mirrors = [
                self._mirror(number, host, has_proxies) for number, host in enumerate(self.lab.hosts[:mirrors], 1)
            ]
            undo.enter_context(contextlib.ExitStack()).callback(self._stop_proxies)
            for position, mirror in enumerate(self.mirrors):
                mirror.url = self._url(position)
            self.peers = [
                MeshNode(f"p{number}", host, folder / f"p{number}", {
                    # Each knows one mirror and learns the others.
                    "peers": [self.mirrors[(number - 1) % mirrors].url], "secret": self._secret,
                })
                for number, host in enumerate(self.lab.hosts[mirrors:], 1)
            ]
            self._stack = undo.pop_all()

    def _mirror(self, number: int, host: Host, has_proxy: bool) -> MeshNode:
        how: dict[str, Any] = {"mode": "mirror", "listen": f"{host.address}:{PORT}", "secret": self._secret}
        if has_proxy:
            with host.entered():
                proxy = Proxy(host.address, PORT, host=host.address)
            self.proxies.append(proxy)
            how["advertise"] = f"{host.address}:{proxy.port}"
        if number > 1:
            how["peers"] = [self._url(0)]
        return MeshNode(f"m{number}", host, self.folder / f"m{number}", how)

    def _url(self, position: int) -> str:
        port = self.proxies[position].port if self.proxies else PORT
        return f"http://{self.lab.hosts[position].address}:{port}"

    def _stop_proxies(self) -> None:
        for proxy in self.proxies:
            proxy.stop()

    def __enter__(self) -> Mesh:
        try:
            for node in self.nodes:
                node.folder.mkdir(parents=True, exist_ok=True)
                node.start()
            self.wait_connected()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Every process, proxy and namespace is gone; repeatable."""
        for node in self.nodes:
            node.kill()
        self._stack.close()

    @property
    def nodes(self) -> list[MeshNode]:
        return [*self.mirrors, *self.peers]

    @property
    def running(self) -> list[MeshNode]:
        return [node for node in self.nodes if node.is_running]

    # Everybody at once

    def looks(self) -> dict[str, Look]:
        """What each node says of itself."""
        return {node.name: node.ask("look") for node in self.running}

    def bytes_carried(self) -> dict[str, int]:
        """By each machine's network device, with all headers."""
        return {node.name: node.host.bytes_carried() for node in self.nodes}

    def wait_connected(self) -> None:
        """Every peer follows a mirror, every mirror talks with all others."""

        def are_connected() -> bool:
            looks = self.looks()
            return all(look["mirror"] for look in looks.values() if look["mode"] == "Peer") and all(
                look["connected"] >= len(self.mirrors) - 1 for look in looks.values() if look["mode"] == "Mirror"
            )

        wait_until(are_connected, SETTLE_DEADLINE_S, lambda: f"a connected mesh: {self.looks()}")

    def meet_all(self) -> None:
        """Every peer has followed every mirror: the way from one to another is known from here on."""
        if len(self.mirrors) == 1:
            return
        for only in self.mirrors:
            if not only.is_running:
                only.start()
            for other in self.mirrors:
                if other is not only:
                    other.kill()
            wait_until(partial(self._is_followed_by_all, only), SETTLE_DEADLINE_S, f"all peers follow {only}")
        for mirror in self.mirrors:
            if not mirror.is_running:
                mirror.start()
        self.wait_connected()

    def _is_followed_by_all(self, mirror: MeshNode) -> bool:
        looks = self.looks()
        return all(
            looks[peer.name]["mirror"] == mirror.url and not looks[peer.name]["behind"] for peer in self.peers
        )

    def wait_equal(self, record_count: int, within_s: float) -> None:
        """All nodes know that many records at the same leaves, owe nothing, and mirrors hold every body."""

        def are_equal() -> bool:
            # Settled afterwards: until the indexes were equal a mirror may hear of one more body to be fetched.
            return (
                self._is_settled(record_count)
                and len({node.ask("digest")["digest"] for node in self.running}) == 1
                and self._is_settled(record_count)
            )

        wait_until(are_equal, within_s, lambda: f"{record_count} equal records everywhere: {self.describe()}")

    def _is_settled(self, record_count: int) -> bool:
        return all(is_settled(look, record_count) for look in self.looks().values())

    def describe(self) -> str:
        """For a failure: what each node says, and where their indexes differ."""
        lines = [f"{name}: {look}" for name, look in self.looks().items()]
        listings = {node.name: node.ask("listing")["leaves"] for node in self.running}
        first = listings[min(listings)]
        for name, listing in listings.items():
            other = [id for id in {*first, *listing} if first.get(id) != listing.get(id)]
            lines += [f"{name}: {len(other)} records differ from {min(listings)}"] if other else []
            lines += [f"  {id}: {listing.get(id)}, there {first.get(id)}" for id in sorted(other)[:5]]
        return "\n".join(lines)


def is_settled(look: Look, record_count: int) -> bool:
    """Judged by itself that node has nothing left to do."""
    is_done = look["records"] == record_count and not look["behind"] and not look["rejected"]
    if look["mode"] == "Mirror":
        return is_done and not look["missing"] and not look["filling"]
    return is_done and not look["pending"] and look["mirror"] is not None
