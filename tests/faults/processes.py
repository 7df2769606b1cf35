"""Python children for tests: started with a script, heard through JSON lines, killed at any moment, always reaped.

    with PythonChild("emit({'ready': True}); wait_for_kill()") as child:
        assert child.read(10) == {"ready": True}
        child.kill()

A script text runs with `emit`, `receive` and `wait_for_kill` of this module; mynosql and `tests` can be imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

ROOT = Path(__file__).resolve().parents[2]
STDERR_SHOWN_BYTES_MAX = 4_000
KILL_DEADLINE_S = 30.0

AnyChild = TypeVar("AnyChild", bound="Child")

_PRELUDE = "from tests.faults.processes import emit, receive, wait_for_kill\n"


def emit(value: Any) -> None:
    """In the child: one JSON line to the test, written by one system call before this returns."""
    os.write(sys.stdout.fileno(), json.dumps(value).encode() + b"\n")


def receive() -> Any:
    """In the child: the next JSON line that the test sent; ends the child when the test is gone."""
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    return json.loads(line)


def wait_for_kill() -> NoReturn:
    """In the child: do nothing until killed, or until the test is gone."""
    while True:
        receive()


class ChildEnded(AssertionError):
    """The child said nothing more before it ended; the text has its exit status and the end of its stderr."""


class Child:
    """One child process. Leaving the `with` block kills what still runs; no child outlives its test."""

    def __init__(
        self, command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        """Start `command`, which writes JSON lines to stdout and may read them from stdin.

        environment: added to the test's own.
        """
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  a file never blocks the child as a full pipe would
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, cwd=cwd or ROOT,
            env={**os.environ, **(environment or {})},
        )
        self._values: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read_stdout, name=f"child-{self.pid}", daemon=True)
        self._reader.start()
        self._has_ended = False

    def __enter__(self: AnyChild) -> AnyChild:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def read(self, deadline_s: float = 30.0) -> Any:
        """The next value that the child emitted. Raises ChildEnded, or AssertionError at the deadline."""
        if self._has_ended:
            raise ChildEnded(self._describe("said nothing more"))
        try:
            is_value, value = self._values.get(timeout=deadline_s)
        except queue.Empty:
            raise AssertionError(self._describe(f"said nothing for {deadline_s:g} s")) from None
        if is_value:
            return value
        self._has_ended = True
        raise ChildEnded(self._describe("said nothing more"))

    def read_until(self, key: str, deadline_s: float = 30.0) -> Any:
        """Skip values until a dict with `key`; returns that dict. The deadline covers all of them."""
        ends_at = time.monotonic() + deadline_s
        while True:
            value = self.read(max(0.0, ends_at - time.monotonic()))
            if isinstance(value, dict) and key in value:
                return value

    def drain(self, deadline_s: float = 30.0) -> list[Any]:
        """All values not read yet, up to the child's end; a line torn by a kill is none. Call it after kill or wait."""
        ends_at = time.monotonic() + deadline_s
        values: list[Any] = []
        while True:
            try:
                values.append(self.read(max(0.0, ends_at - time.monotonic())))
            except ChildEnded:
                return values

    def send(self, value: Any) -> None:
        """One JSON line to the child's receive()."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value).encode() + b"\n")
        self._process.stdin.flush()

    def kill(self, signal_number: int = signal.SIGKILL) -> int:
        """Send the signal and wait for the end; returns the exit status, negative for a signal as in subprocess."""
        self._process.send_signal(signal_number)  # subprocess sends nothing to a process that it has reaped
        return self.wait(KILL_DEADLINE_S)

    def suspend(self) -> None:
        """Stop the child where it is, as a frozen machine would; resume() lets it go on."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def wait(self, deadline_s: float = 30.0) -> int:
        """The exit status, once the child has ended by itself."""
        try:
            return self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(self._describe(f"still ran after {deadline_s:g} s")) from None

    def stderr_text(self) -> str:
        """The end of what the child wrote to stderr so far."""
        size = os.fstat(self._stderr.fileno()).st_size
        start = max(0, size - STDERR_SHOWN_BYTES_MAX)
        return os.pread(self._stderr.fileno(), size - start, start).decode(errors="replace")

    def close(self) -> None:
        """Kill what still runs, reap it, give back every file; idempotent."""
        if self._stderr.closed:
            return
        if self.is_running:
            self._process.kill()
        self._process.wait(KILL_DEADLINE_S)
        self._reader.join()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what the child did not read no longer matters
            self._process.stdin.close()
        self._stderr.close()

    def _read_stdout(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                if line.endswith(b"\n"):
                    self._values.put((True, _parse(line)))
        self._values.put((False, None))

    def _describe(self, what: str) -> str:
        status = self._process.poll()
        state = "runs" if status is None else f"ended with status {status}"
        return f"child {self.pid} {what} and {state}; its stderr ends:\n{self.stderr_text() or '(nothing)'}"


class PythonChild(Child):
    """A child that runs Python and can import mynosql and `tests`."""

    def __init__(
        self,
        script: str | Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        python: str | Path = sys.executable,
    ) -> None:
        """Start `script`: Python text, or the path of a file. sys.argv[1:] are the arguments.

        environment: added to the test's own. python: another interpreter than the one that runs this.
        """
        start = ["-c", _PRELUDE + script] if isinstance(script, str) else [str(script)]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        added = {"PYTHONPATH": os.pathsep.join(paths), **(environment or {})}
        super().__init__([str(python), "-u", *start, *arguments], environment=added, cwd=cwd)


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line.decode(errors="replace").rstrip("\n")  # a stray print is shown, not lost
