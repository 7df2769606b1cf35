"""A node's process as the demo holds it: asked, killed, closed, and never left behind."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mynosql.cli.demo_process import DemoFailed, NodeProcess
from tests.cli.running import DEADLINE_S, ROOT, command_line, environment
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    """A logger without mirrors, its database open."""
    node = NodeProcess("logger", str(tmp_path))
    try:
        wait_until(lambda: node.is_open and node.status, DEADLINE_S)
        yield node
    finally:
        node.kill()


def test_a_node_answers_and_reports_its_state(node: NodeProcess) -> None:
    assert (node.records_at_open, node.endpoint, node.status["records"]) == (0, None, 0)
    assert node.ask("ids") == []


def test_what_fails_in_the_node_is_told(node: NodeProcess) -> None:
    with pytest.raises(DemoFailed, match="the logger could not read: RecordNotFound"):
        node.ask("read", ids=["none"], timeout_s=0.1)


def test_a_kill_gives_the_node_no_chance(node: NodeProcess) -> None:
    assert node.kill() == -9
    node.check()  # ended on purpose: no failure
    with pytest.raises(DemoFailed, match="takes no commands"):
        node.ask("ids")


def test_a_death_that_nobody_wanted_is_told(node: NodeProcess) -> None:
    node._process.kill()
    wait_until(lambda: node._process.poll() is not None, DEADLINE_S)
    with pytest.raises(DemoFailed, match="the logger's process ended by itself with code -9"):
        node.check()


def test_a_closed_node_leaves_a_closed_database(node: NodeProcess, tmp_path: Path) -> None:
    node.ask("pace", per_s=200)
    wait_until(lambda: node.status["written"] >= 5, DEADLINE_S)
    node.close()
    assert not list((tmp_path / "Demo").glob("*journal*"))


def test_a_node_that_cannot_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "Demo").write_text("a file where the database's folder should be")
    node = NodeProcess("logger", str(tmp_path / "n"))
    try:
        wait_until(lambda: node.status or node._process.poll() is not None, DEADLINE_S)
        with pytest.raises(DemoFailed, match=r"the logger's process ended by itself with code 1; its last .*Demo"):
            node.check()
    finally:
        node.kill()


def test_nodes_end_when_the_demo_is_gone(tmp_path: Path) -> None:
    """Given a demo that is killed with SIGKILL, its nodes see their stdin end and close their databases."""
    script = (
        "import sys\nfrom mynosql.cli.demo_process import NodeProcess\n"
        f"node = NodeProcess('logger', {str(tmp_path)!r})\n"
        "while not node.is_open: pass\nprint(node.pid, flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [command_line()[0], "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env=environment(),
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    wait_until(lambda: not _is_running(pid), DEADLINE_S)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_no_thread_of_a_closed_node_is_left(tmp_path: Path) -> None:
    before = threading.active_count()
    node = NodeProcess("logger", str(tmp_path))
    wait_until(lambda: node.is_open, DEADLINE_S)
    node.close()
    assert threading.active_count() == before
