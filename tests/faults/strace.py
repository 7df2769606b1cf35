"""strace: a real process's system calls recorded, and faults put into them, without a change to its code.

Owns the command line and the reading of its output. Knows nothing of disks (storage_calls.py does). Where strace is
missing, or may not trace, tests that need it are skipped and pytest's summary shows the reason; `sh
tests/faults/install_strace.sh` installs it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

NOT_RECORDED = (
    "read pread64 readv preadv preadv2 recvfrom recvmsg futex epoll_wait epoll_pwait epoll_ctl poll ppoll select "
    "pselect6 brk munmap mprotect madvise clock_gettime clock_nanosleep rt_sigaction rt_sigprocmask getpid gettid "
    "sched_yield fstat newfstatat stat lstat statx getdents64 access faccessat faccessat2 readlink readlinkat"
)
"""Calls that change no file and no descriptor. All others are recorded: one that nobody thought of is then met."""
_STRING_BYTES_MAX = 1 << 26
_CALL = re.compile(r"^(\d+) +(\w+)\((.*)$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")
_RESULT = re.compile(r"^(.*)\) += (\S+)(.*)$")
_UNFINISHED = " <unfinished ...>"


class TraceUnreadable(AssertionError):
    """A line of strace's output that this module does not know."""


@dataclass(slots=True)
class Call:
    """One system call, entered and perhaps left."""

    thread: int
    name: str
    arguments: list[str]
    """As strace prints them, split at the top level; complete once the call was left."""
    result: int | None = None
    """None: not left yet (the process was killed in it)."""
    error: str = ""
    """"EIO"…, empty when it succeeded."""
    is_injected: bool = False

    def number(self, position: int) -> int:
        """An argument that is a number (a descriptor, a length, an offset)."""
        return int(self.arguments[position], 0)

    def data(self, position: int) -> bytes:
        """An argument that is a string or a buffer."""
        return unquoted(self.arguments[position])


@cache
def find_skip_reason() -> str | None:
    """Why no process can be traced here; None where it can."""
    if not sys.platform.startswith("linux"):
        return f"system calls are recorded with strace, which {sys.platform} does not have"
    if shutil.which("strace") is None:
        return "strace is not installed: sh tests/faults/install_strace.sh"
    done = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"strace may not trace here: {done.stderr.strip().splitlines()[-1:]}"
    return None


def recording_command(output: str) -> list[str]:
    """What stands before a command to have every call of it, and of its threads, written to the file `output`."""
    return [
        "strace", "-f", "--seccomp-bpf", "-xx", "-s", str(_STRING_BYTES_MAX), "-o", output,
        "-e", "signal=none", "-e", f"trace=!{','.join(NOT_RECORDED.split())}",
    ]


def unquoted(text: str) -> bytes:
    """The bytes of a string printed with -xx."""
    if not (text.startswith('"') and text.endswith('"')):
        raise TraceUnreadable(f"expected a whole string in hexadecimal, found {text[:80]}")
    return bytes.fromhex(text[1:-1].replace("\\x", ""))


def split_arguments(text: str) -> list[str]:
    """Arguments at the top level: commas in strings, structs and lists do not count."""
    parts: list[str] = []
    depth = start = 0
    is_string = False
    if "{" not in text and "[" not in text:  # nearly all; strings are in hexadecimal
        return [part.strip() for part in text.split(",")] if text.strip() else []
    for at, letter in enumerate(text):
        if letter == '"':
            is_string = not is_string
        elif not is_string and letter in "{[(":
            depth += 1
        elif not is_string and letter in "}])":
            depth -= 1
        elif letter == "," and not depth and not is_string:
            parts.append(text[start:at].strip())
            start = at + 1
    return [*parts, text[start:].strip()]


def read_trace(lines: Sequence[str]) -> Iterator[tuple[Call, bool]]:
    """Each call twice, in the order of the trace: (call, False) as it is entered, (call, True) as it is left.

    Calls of several threads overlap. One that was under way when the process died is only entered.
    """
    open_calls: dict[int, tuple[Call, str]] = {}
    for line in lines:
        call_match = _CALL.match(line)
        if call_match:
            thread, name, rest = int(call_match[1]), call_match[2], call_match[3]
            if rest.endswith(_UNFINISHED):
                text = rest.removesuffix(_UNFINISHED)
                call = Call(thread, name, split_arguments(text))
                open_calls[thread] = call, text
                yield call, False
                continue
            call = Call(thread, name, [])
            _leave(call, rest)
            yield call, False
            yield call, True
            continue
        resumed = _RESUMED.match(line)
        if resumed:
            call, text = open_calls.pop(int(resumed[1]))
            _leave(call, text + resumed[3])
            yield call, True
        elif not re.match(r"^\d+ +(\+\+\+|---)", line):
            raise TraceUnreadable(line[:200])


def _leave(call: Call, text: str) -> None:
    """text: the arguments, the bracket and the result."""
    found = _RESULT.match(text)
    if found is None:
        raise TraceUnreadable(f"{call.name}({text[:200]}")
    call.arguments = split_arguments(found[1])
    rest = found[3].split()
    call.is_injected = "(INJECTED)" in found[3]
    if found[2] == "?":
        return
    call.result = int(found[2], 0)
    if call.result == -1 and rest:
        call.error = rest[0]
