"""`mynosql demo` from outside: it converges, says so, fails loudly when it must, and leaves nothing behind."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mynosql.cli import exits
from tests.cli.running import DEADLINE_S, command_line, environment, run, start

pytestmark = pytest.mark.slow
DEMO_S_MAX = 30.0


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The folder in which the demo makes its own; short as the system's, since paths of local sockets are limited."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def nodes_of(temporary: Path) -> list[str]:
    """The command lines of the demo's node processes that work in this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "mynosql.cli.demo_worker" in line and str(temporary) in line:
            found.append(line)
    return found


def assert_nothing_is_left(temporary: Path) -> None:
    assert nodes_of(temporary) == []
    assert list(temporary.iterdir()) == []


def test_the_demo_converges_and_says_what_happened(temporary: Path) -> None:
    began = time.monotonic()
    done = run("demo", TMPDIR=str(temporary))
    assert done.code == exits.OK, done.out + done.err
    assert time.monotonic() - began < DEMO_S_MAX
    assert "\x1b" not in done.out  # plain lines when it is not a terminal
    rows = re.findall(r"^  (\w[a-z ]+?) {2,}([\d,]+)\b", done.out, re.M)
    figures = {name: int(value.replace(",", "")) for name, value in rows}
    assert figures["written by the logger"] > 1_000
    assert figures["queued while cut"] > 100
    assert figures["delivered to mirror"] == figures["written by the logger"] == figures["read by the reader"]
    assert figures["lost"] == 0
    assert re.search(r"^  bytes on the wire +[\d.]+ [kM]B", done.out, re.M)
    assert re.search(r"^  bytes on disk +[\d.]+ [kM]B .* times that$", done.out, re.M)
    assert "\nconverged: all " in done.out
    assert_nothing_is_left(temporary)


def test_on_a_terminal_it_shows_a_live_panel(temporary: Path) -> None:
    near, far = pty.openpty()
    with subprocess.Popen(
        command_line("demo"), stdin=subprocess.DEVNULL, stdout=far, stderr=far,
        env=environment(TMPDIR=str(temporary), TERM="xterm", COLUMNS="60", PYTHONIOENCODING="utf-8"),
    ) as demo:
        os.close(far)
        shown = b""
        ends_at = time.monotonic() + DEADLINE_S
        while time.monotonic() < ends_at:
            try:
                piece = os.read(near, 1 << 16) if select.select([near], [], [], 1.0)[0] else b""
            except OSError:  # the demo has closed its end
                break
            shown += piece
        os.close(near)
        assert demo.wait(DEADLINE_S) == exits.OK, shown[-2000:]
    text = shown.decode()
    assert "\x1b[6A" in text
    assert "in queue" in text
    assert "the link is cut" in text
    assert "mirror killed" in text
    panels = re.findall(r"\x1b\[2K(.*?)\r", text)
    assert len(panels) > 200
    assert max(map(len, panels)) < 60
    assert text.rstrip().endswith("temporary folder removed.")


@pytest.mark.parametrize(("number", "wait_for"), [
    (signal.SIGINT, "[1/7]"), (signal.SIGINT, "[3/7]"), (signal.SIGTERM, "[5/7]"),
])
def test_an_interruption_leaves_no_process_and_no_folder(temporary: Path, number: int, wait_for: str) -> None:
    with start("demo", TMPDIR=str(temporary)) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        for line in demo.stdout:
            if wait_for in line:
                break
        assert nodes_of(temporary)
        if number == signal.SIGINT:
            os.killpg(demo.pid, number)  # as a terminal does: the nodes get it as well
        else:
            demo.send_signal(number)
        assert demo.wait(DEADLINE_S) == exits.INTERRUPTED
        assert "Traceback" not in demo.stderr.read()
    assert_nothing_is_left(temporary)


def test_a_node_that_dies_by_itself_is_told_and_exit_code_1(temporary: Path) -> None:
    with start("demo", TMPDIR=str(temporary)) as demo:
        assert demo.stdout is not None
        said = []
        for line in demo.stdout:
            said.append(line)
            if "[2/7]" in line and len(said) > 5:
                break
        os.kill(pid_of(temporary, "reader"), signal.SIGKILL)
        said += demo.stdout.readlines()
        assert demo.wait(DEADLINE_S) == exits.NOT_FOUND
    assert "NOT converged: the reader's process ended by itself with code -9" in "".join(said)
    assert_nothing_is_left(temporary)


def pid_of(temporary: Path, role: str) -> int:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        line = path.read_bytes().decode(errors="replace")
        if "mynosql.cli.demo_worker" in line and f"{temporary}" in line and f'"role": "{role}"' in line:
            return int(path.parent.name)
    raise AssertionError(f"no {role} runs in {temporary}")
