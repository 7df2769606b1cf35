"""`mynosql demo`: three real nodes, a cut link, a killed mirror, and a comparison of every record at the end.

Tells the story and keeps its promises: each step waits for a condition with a deadline, whatever fails ends the demo
with exit code 1 and a reason, and nothing is left behind (processes, ports, the temporary folder), also on Ctrl-C.
The nodes are demo_process, the link is link, the looks are demo_screen, the verdict is demo_tally.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn, TextIO

from mynosql.cli.demo_process import START_TIMEOUT_S, DemoFailed, NodeProcess
from mynosql.cli.demo_screen import Screen, View
from mynosql.cli.demo_tally import Tally
from mynosql.cli.link import CuttableLink
from mynosql.errors import ListenFailed
from mynosql.net.ports import find_free_pair

WRITES_PER_S = 400
FRAME_S = 0.1
SYNC_TIMEOUT_S = 12.0
"""A step that brings nodes into step must be done by then: fail-over and reconnecting take at most 5 s."""
READ_COUNT = 10
INTRO = (
    "Three nodes as processes of their own on this machine. The logger and the reader are peers:\n"
    "a peer holds what it wrote or read, and knows what else exists. The mirror holds everything.\n"
)


def run(out: TextIO) -> int:
    """The whole demo; 0 when every record arrived everywhere, else 1."""
    screen = Screen.of(out)
    with _signals_as_interrupts():
        folder = tempfile.mkdtemp(prefix="mynosql-demo-")
        demo = Demo(screen, folder)
        try:
            screen.say(INTRO)
            demo.play()
        except (DemoFailed, ListenFailed) as error:
            demo.tally.problems.append(str(error))
        finally:
            with _interrupts_ignored():
                screen.close()
                demo.clean_up()
                shutil.rmtree(folder, ignore_errors=True)
        screen.say()
        for line in demo.tally.report():
            screen.say(line)
        screen.say(f"{demo.elapsed_s:.1f} s; processes ended, temporary folder removed.")
    return 0 if demo.tally.is_converged else 1


@contextlib.contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does, so that it cleans up."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    kept: dict[int, Any] = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None:
            kept[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A second Ctrl-C does not stop the cleaning up that the first one began."""
    kept = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, kept)


class Demo:
    """One run: the three nodes, the link and what was found."""

    def __init__(self, screen: Screen, folder: str) -> None:
        self.tally = Tally()
        self._screen = screen
        self._folder = folder
        self._started = time.monotonic()
        self._view = View(steps=len(self._steps()))
        self._nodes: list[NodeProcess] = []
        self._link: CuttableLink | None = None
        self._read_ids: list[str] = []

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def _steps(self) -> list[tuple[str, Callable[[], None]]]:
        return [
            ("start three nodes", self._start),
            ("log while all is well", self._log),
            ("cut the logger's link", self._cut),
            ("mend the link", self._mend),
            ("kill the mirror", self._kill),
            ("start the mirror again", self._restart),
            ("compare every record", self._compare),
        ]

    def play(self) -> None:
        """All steps in order; raises DemoFailed at the first that does not keep its promise."""
        for number, (title, step) in enumerate(self._steps(), 1):
            self._view.step, self._view.title = number, title
            step()

    def clean_up(self) -> None:
        """No process and no socket of the demo exists any more."""
        for node in self._nodes:
            with contextlib.suppress(Exception):
                node.kill()
        if self._link is not None:
            self._link.close()

    # The steps

    def _start(self) -> None:
        port, relay_port = find_free_pair(), find_free_pair()
        self._mirror_options: dict[str, Any] = {
            "mode": "mirror", "listen": f"127.0.0.1:{port}", "advertise": f"http://127.0.0.1:{relay_port}",
        }
        self._link = CuttableLink({relay_port: port, relay_port + 1: port + 1})
        self._mirror = self._node("mirror", **self._mirror_options)
        self._wait_open(self._mirror)
        self._logger = self._node("logger", peers=[f"http://127.0.0.1:{relay_port}"])
        self._reader = self._node("reader", peers=[f"http://127.0.0.1:{port}"])
        self._wait_open(self._logger)
        self._wait_open(self._reader)
        self._wait(lambda: self._is_connected(self._logger) and self._is_connected(self._reader),
                   "both peers reach the mirror")
        self._say(f"mirror at {self._mirror.endpoint} (process {self._mirror.pid}); logger and reader connected")

    def _log(self) -> None:
        self._logger.ask("pace", per_s=WRITES_PER_S)
        self._say(f"logger saves {WRITES_PER_S} readings of this machine a second")
        target = WRITES_PER_S * 3 // 2
        self._wait(lambda: self._count("mirror", "records") >= target, f"{target} records reach the mirror")
        self._wait(lambda: self._count("reader", "records") >= target, f"the reader learns of {target} records")
        self._say(f"mirror has {self._view.delivered:,}; reader knows {self._view.known:,} and holds {self._view.held}")

    def _cut(self) -> None:
        assert self._link is not None
        before, cut_at = self._logger.status["written"], time.monotonic()
        self._link.cut()
        self._say("link between logger and mirror CUT; the logger goes on")
        self._wait(lambda: self._count("logger", "written") > before + WRITES_PER_S // 2, "the logger writes on")
        self._read_what_was_never_held()
        target = before + 2 * WRITES_PER_S
        self._wait(lambda: self._count("logger", "written") >= target, "the logger writes on while cut")
        self.tally.queued_while_cut = self._count("logger", "pending")
        self.tally.cut_s = time.monotonic() - cut_at
        self._say(f"{self.tally.queued_while_cut:,} records wait in the logger's queue on disk")
        if self.tally.queued_while_cut < WRITES_PER_S:
            raise DemoFailed(f"only {self.tally.queued_while_cut} records were queued: the link was not really cut")

    def _read_what_was_never_held(self) -> None:
        ids = self._reader.ask("ids")
        self._read_ids = ids[:: max(len(ids) // READ_COUNT, 1)][:READ_COUNT]
        before = self._reader.ask("states", ids=self._read_ids)
        found = self._reader.ask("read", ids=self._read_ids, timeout_s=5.0)
        after = self._reader.ask("states", ids=self._read_ids)
        self._say(
            f"reader asks for {len(self._read_ids)} records it never held: "
            f"docinfo said {_states(before)}, now {_states(after)}"
        )
        self._expect(set(before) == {"remote"} and set(after) == {"fresh"} and len(found) == len(self._read_ids),
                     "reading fetches what was not held")

    def _mend(self) -> None:
        assert self._link is not None
        began = time.monotonic()
        self._link.restore()
        target = self._logger.status["written"]
        self._say("link MENDED")
        self._wait(lambda: self._count("mirror", "records") >= target, "the queue is delivered")
        self._say(f"queue delivered {time.monotonic() - began:.1f} s later, while the logger goes on writing")

    def _kill(self) -> None:
        written = self._logger.status["written"]
        self._confirmed = written - self._count("logger", "pending")
        self._killed_at = time.monotonic()
        status = self._mirror.kill()
        self._say(f"mirror KILLED (SIGKILL) while it receives; it had confirmed at least {self._confirmed:,} records")
        self._expect(status != 0, "the mirror was killed before it could close")
        self._wait(lambda: not self._is_connected(self._reader), "the reader notices")
        held = self._read_ids[0]
        other = next(id for id in self._reader.ask("ids") if id not in self._read_ids)
        states = self._reader.ask("states", ids=[held, other, "reading/none"])
        found = self._reader.ask("read", ids=[held], timeout_s=1.0)
        failure = self._reader.ask("try", id=other)
        self._say(f"reader, offline: {held} is {states[0]} and can be read")
        self._say(f"reader, offline: {other} is {states[1]} ({failure}), reading/none is {states[2]}")
        self._expect(states == ["fresh", "remote", "absent"] and len(found) == 1 and failure == "RecordUnavailable",
                     "an offline reader tells held, not held and absent apart")
        target = written + WRITES_PER_S
        self._wait(lambda: self._count("logger", "written") >= target, "the logger writes on without a mirror")
        self.tally.queued_while_dead = self._count("logger", "pending")

    def _restart(self) -> None:
        self._mirror = self._node("mirror", **self._mirror_options)
        self._wait_open(self._mirror)
        self.tally.dead_s = time.monotonic() - self._killed_at
        recovered = self._mirror.records_at_open or 0
        self._say(f"mirror started again: {recovered:,} records recovered from its disk")
        self._expect(recovered >= self._confirmed, "a mirror keeps what it confirmed")
        self._logger.ask("pace", per_s=0)
        self._wait(lambda: self._count("logger", "pending") == 0, "the logger's queue is empty")
        self._say("logger stopped; its queue is empty")

    def _compare(self) -> None:
        saved = self._logger.ask("saved")
        self.tally.saved = {id: digest for id, (digest, _) in saved.items()}
        self.tally.raw_bytes = sum(size for _, size in saved.values())
        self._expect(self._logger.ask("waitsync", timeout_s=5.0), "waitsync says that all is delivered")
        self._wait(lambda: self._count("reader", "records") >= len(saved), "the reader learns of every record")
        for node in (self._logger, self._mirror, self._reader):
            self.tally.sides[node.name] = node.ask("all", timeout_s=SYNC_TIMEOUT_S)
        self._refresh()
        assert self._link is not None
        self.tally.wire_bytes = self._link.bytes_carried
        for node in (self._logger, self._reader, self._mirror):
            node.close()
        self.tally.disk_bytes = folder_bytes(os.path.join(self._folder, "mirror", "Demo"))
        self._say("every record of every node compared with what the logger was told is saved")

    # Helpers

    def _node(self, name: str, **options: Any) -> NodeProcess:
        node = NodeProcess(name, os.path.join(self._folder, name), **options)
        self._nodes.append(node)
        return node

    def _wait_open(self, node: NodeProcess) -> None:
        self._wait(lambda: node.is_open and bool(node.status), f"the {node.name} opens its database", START_TIMEOUT_S)

    def _count(self, name: str, figure: str) -> int:
        node: NodeProcess = getattr(self, f"_{name}")
        return int(node.status.get(figure, 0))

    def _is_connected(self, node: NodeProcess) -> bool:
        return bool(node.status.get("is_connected"))

    def _wait(self, condition: Callable[[], bool], what: str, timeout_s: float = SYNC_TIMEOUT_S) -> None:
        """Returns once the condition holds; the screen lives on meanwhile."""
        deadline = time.monotonic() + timeout_s
        while True:
            for node in self._nodes:
                node.check()
            self._refresh()
            if condition():
                return
            if time.monotonic() > deadline:
                errors = [(node.name, node.status.get("last_error")) for node in self._nodes]
                said = "".join(f"; the {name} says: {error}" for name, error in errors if error)
                raise DemoFailed(f"waited {timeout_s:g} s in vain until {what}{said}")
            time.sleep(FRAME_S / 2)

    def _expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.tally.problems.append(f"this did not hold: {what}")

    def _refresh(self) -> None:
        view = self._view
        view.elapsed_s = self.elapsed_s
        nodes = {node.name: node for node in self._nodes}  # the newest of each name
        if "reader" in nodes:
            view.written, view.queued = self._count("logger", "written"), self._count("logger", "pending")
            view.known, view.held = self._count("reader", "records"), self._count("reader", "held")
            view.is_logger_connected = self._is_connected(self._logger)
            view.is_reader_connected = self._is_connected(self._reader)
        if "mirror" in nodes:
            view.is_mirror_up = nodes["mirror"].is_open and not nodes["mirror"].is_ended_on_purpose
            view.delivered = int(nodes["mirror"].status.get("records", view.delivered))
        if self._link is not None:
            view.wire_bytes, view.is_link_open = self._link.bytes_carried, self._link.is_open
        self._screen.show(view)

    def _say(self, text: str) -> None:
        self._refresh()
        self._screen.say(f"{self.elapsed_s:5.1f} s  [{self._view.step}/{self._view.steps}] {text}")
        self._screen.show(self._view)


def _states(states: list[str]) -> str:
    return "/".join(sorted(set(states)))


def folder_bytes(folder: str) -> int:
    """The sizes of all files below a folder."""
    return sum(os.path.getsize(os.path.join(path, name)) for path, _, names in os.walk(folder) for name in names)


if __name__ == "__main__":
    sys.exit(run(sys.stdout))
