"""PythonChild: what the child said is read in order with a deadline, kills are at once, and nothing is left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.faults.processes import ChildEnded, PythonChild
from tests.waiting import wait_until


def test_values_travel_both_ways_in_order() -> None:
    script = "emit({'pid': os.getpid()})\nwhile True:\n    emit(receive() * 2)"
    with PythonChild("import os\n" + script) as child:
        assert child.read() == {"pid": child.pid}
        for number in (1, 21, 4):
            child.send(number)
        assert [child.read() for _ in range(3)] == [2, 42, 8]


def test_a_script_file_gets_its_arguments_and_environment(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['COLOUR']]))")

    with PythonChild(script, "a", "b c", environment={"COLOUR": "blue"}) as child:
        assert child.read() == [["a", "b c"], "blue"]
        assert child.wait() == 0


def test_read_until_skips_other_values() -> None:
    with PythonChild("emit(1); emit({'a': 1}); emit({'b': 2})") as child:
        assert child.read_until("b") == {"b": 2}


def test_a_kill_returns_when_the_child_is_reaped_and_what_it_said_before_is_kept() -> None:
    with PythonChild("for n in range(1_000): emit(n)\nwait_for_kill()") as child:
        assert child.read() == 0
        while child.read() < 500:
            pass

        assert child.kill() == -signal.SIGKILL

        assert not child.is_running
        rest = child.drain()
        assert rest == list(range(501, 501 + len(rest)))
        assert child.kill() == -signal.SIGKILL


def test_a_line_torn_by_the_kill_is_no_value() -> None:
    with PythonChild(r"import os; os.write(1, b'\"whole\"\n[1, 2'); wait_for_kill()") as child:
        assert child.read() == "whole"
        child.kill()
        assert child.drain() == []


def test_a_silent_child_fails_the_test_at_the_deadline_with_its_stderr() -> None:
    with PythonChild("import sys; print('stuck here', file=sys.stderr); emit(1); wait_for_kill()") as child:
        child.read()
        with pytest.raises(AssertionError, match=r"(?s)said nothing for 0\.01 s and runs.*stuck here"):
            child.read(0.01)


def test_a_child_that_failed_says_so_with_its_traceback() -> None:
    with PythonChild("1 / 0") as child:
        with pytest.raises(ChildEnded, match=r"(?s)nothing more.*ZeroDivisionError"):
            child.read()
        assert child.wait() == 1
        with pytest.raises(ChildEnded, match="status 1"):
            child.read()


def test_a_suspended_child_says_nothing_until_resumed() -> None:
    with PythonChild("emit('up')\nwhile True: emit(receive())") as child:
        assert child.read() == "up"
        child.suspend()
        child.send("hello")
        with pytest.raises(AssertionError, match="said nothing"):
            child.read(0.05)
        child.resume()
        assert child.read() == "hello"


def test_leaving_the_block_kills_reaps_and_closes() -> None:
    descriptors_before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    with PythonChild("emit(1); wait_for_kill()") as child:
        child.read()
        pid = child.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    if descriptors_before:
        assert set(os.listdir("/proc/self/fd")) == descriptors_before
    child.close()


def test_a_child_ends_by_itself_when_its_test_process_is_gone() -> None:
    code = (
        "from tests.faults.processes import PythonChild; import os\n"
        "child = PythonChild('emit(1); wait_for_kill()'); child.read(); print(child.pid, flush=True); os._exit(9)"
    )
    with PythonChild(code) as parent:
        grandchild = parent.read()
        assert parent.wait() == 9
        wait_until(lambda: is_gone(grandchild), 10, "the grandchild has ended")


def is_gone(pid: int) -> bool:
    """Ended; it may still wait to be reaped by the system's init."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True
