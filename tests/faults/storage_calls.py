"""From a process's system calls to what they did to one folder on the disk, and what the process said meanwhile.

Owns the table of calls: each that reaches below the folder is modelled, known to change nothing there, or an error.
What the process writes into the file of marks stands among the storage events in the order of the trace.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tests.faults.disk_model import Disk, File, Folder
from tests.faults.strace import Call

VOLATILE_SUFFIXES = ("-shm",)
"""Written through shared memory, and made anew by whoever opens first after a cut."""

_NO_DESCRIPTOR_FIRST = frozenset((
    "arch_prctl", "clone", "clone3", "epoll_create1", "eventfd2", "execve", "exit", "exit_group", "getegid", "geteuid",
    "getgid", "getppid", "getrandom", "getresuid", "getrlimit", "getuid", "kill", "memfd_create", "mremap", "pipe",
    "pipe2", "prctl", "prlimit64", "restart_syscall", "rseq", "rt_sigreturn", "sched_getaffinity", "sched_getparam",
    "sched_getscheduler", "sched_setscheduler", "set_robust_list", "set_tid_address", "sigaltstack", "socket",
    "socketpair", "sysinfo", "tgkill", "umask", "uname", "sched_get_priority_max", "sched_get_priority_min",
    "setrlimit", "gettimeofday", "times", "getrusage", "getcwd", "timer_create", "wait4",
))
"""Their first argument is no descriptor. A path below the folder in them is still an error."""
_CHANGE_NOTHING = frozenset((
    "chmod", "chown", "connect", "fadvise64", "fchmod", "fchown", "fgetxattr", "flock", "fstatfs", "getpeername",
    "getsockname", "getxattr", "ioctl", "lgetxattr",
    "statfs", "utimensat",
))
"""Neither content, nor size, nor names: rights and times are of no concern to a cut."""
_START_OF_PROCESS = "execve"
"""Its arguments may name the folder."""
_NEW_PROCESS = frozenset(("fork", "vfork"))


class NotModelled(AssertionError):
    """A call reached the folder and the replay does not know what it does: teach storage_calls.py."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to the disk, or that the process said (mark)."""

    at: int
    kind: str
    """"add-file", "add-folder", "add-socket", "unlink", "rename", "write", "truncate", "sync" or "mark"."""
    path: str
    """Below the root, for messages."""
    node: int = 0
    """The parent for add, unlink and rename; else what it is about."""
    name: str = ""
    source: str = ""
    offset: int = 0
    data: bytes = b""
    until: int = 0
    """sync: events before this one are covered."""
    mark: Any = None

    def apply(self, disk: Disk) -> None:
        """The disk as the process sees it after the event."""
        if self.kind.startswith("add-"):
            what = self.kind.removeprefix("add-")
            file = File(is_socket=what == "socket", is_volatile=self.name.endswith(VOLATILE_SUFFIXES))
            disk.add(self.at, self.node, self.name, Folder() if what == "folder" else file)
        elif self.kind == "unlink":
            disk.unlink(self.at, self.node, self.name)
        elif self.kind == "rename":
            disk.rename(self.at, self.node, self.source, self.name)
        elif self.kind == "write":
            disk.write(self.at, self.node, self.offset, self.data)
        elif self.kind == "truncate":
            disk.truncate(self.at, self.node, self.offset)
        elif self.kind == "sync":
            disk.sync(self.node, self.until)
        else:
            assert self.kind == "mark", self.kind


@dataclass(slots=True)
class _Opened:
    node: int
    """-1: the file of marks."""
    path: str
    is_append: bool
    position: int = 0


class StorageCalls:
    """Reads the calls of one process, in order. `events` is what they did below `root`; `disk` how it is now."""

    def __init__(self, root: str, marks: str) -> None:
        """root: a folder that exists and is empty when the process starts; marks: a file outside of it."""
        self.events: list[Event] = []
        self.disk = Disk()
        self._root = PurePosixPath(root)
        self._marks = marks
        self._opened: dict[int, _Opened] = {}
        self._started_at: dict[int, int] = {}
        self._table: dict[str, Callable[[Call], None]] = {
            "open": lambda call: self._open(call, 0), "openat": lambda call: self._open(call, 1),
            "write": self._write, "pwrite64": self._pwrite, "ftruncate": self._ftruncate, "lseek": self._lseek,
            "fsync": self._sync, "fdatasync": self._sync, "rename": self._rename, "unlink": self._unlink,
            "mkdir": self._mkdir, "bind": self._bind, "fcntl": self._fcntl, "dup": self._dup, "mmap": self._mmap,
        }

    def take_all(self, calls: Iterable[tuple[Call, bool]]) -> None:
        """calls: as strace.read_trace gives them. Raises NotModelled."""
        for call, is_left in calls:
            if is_left:
                self._leave(call)
            else:
                self._enter(call)

    def _enter(self, call: Call) -> None:
        self._started_at[call.thread] = len(self.events)
        if call.name == "close":  # at once: another thread may be given the number before this call is seen to end
            self._opened.pop(call.number(0), None)

    def _leave(self, call: Call) -> None:
        if call.name in _NEW_PROCESS or (call.name.startswith("clone") and "CLONE_FILES" not in str(call.arguments)):
            raise NotModelled(f"{call.name}: the process started another one, whose calls would be missed")
        if call.error or call.result is None or call.name in ("close", _START_OF_PROCESS) or not self._reaches(call):
            return
        if call.name in self._table:
            self._table[call.name](call)
        elif call.name not in _CHANGE_NOTHING:
            raise NotModelled(f"{call.name}({', '.join(argument[:80] for argument in call.arguments)}) = {call.result}")

    def _reaches(self, call: Call) -> bool:
        """The call names a path below the root or the file of marks, or a descriptor of one."""
        if call.name not in _NO_DESCRIPTOR_FIRST and call.arguments:
            places = (4,) if call.name == "mmap" else (0,)
            for place in places:
                text = call.arguments[place]
                if text.lstrip("-").isdigit() and int(text) in self._opened:
                    return True
        return any(self._is_path_below(argument) for argument in call.arguments if '"' in argument)

    def _is_path_below(self, argument: str) -> bool:
        for text in argument.split('"')[1::2]:
            data = bytes.fromhex(text.replace("\\x", ""))
            if data == self._marks.encode() or data.startswith(str(self._root).encode()):
                return True
        return False

    # Paths

    def _place(self, path: str) -> tuple[int, str, str]:
        """The parent's node, the name in it, and the path below the root."""
        try:
            parts = PurePosixPath(path).relative_to(self._root).parts
        except ValueError:
            raise NotModelled(f"{path}: not below {self._root}") from None
        parent = self.disk.find(parts[:-1])
        if parent is None:
            raise NotModelled(f"{path}: its folder was not made while recording")
        return parent, parts[-1] if parts else "", "/".join(parts)

    def _emit(self, kind: str, path: str, **values: Any) -> None:
        event = Event(len(self.events), kind, path, **values)
        event.apply(self.disk)
        self.events.append(event)

    # The calls

    def _open(self, call: Call, position: int) -> None:
        path = call.data(position).decode()
        flags = call.arguments[position + 1].split("|")
        assert call.result is not None
        if path == self._marks:
            self._opened[call.result] = _Opened(-1, "", True)
            return
        parent, name, below = self._place(path)
        folder = self.disk.folder(parent)
        node = folder.names.get(name, 0 if not name else None)
        if node is None:
            if "O_CREAT" not in flags or "O_TMPFILE" in flags:
                raise NotModelled(f"{path}: opened, but never made")
            self._emit("add-file", below, node=parent, name=name)
            node = folder.names[name]
        elif "O_TRUNC" in flags and self.disk.file(node).size:
            self._emit("truncate", below, node=node, offset=0)
        self._opened[call.result] = _Opened(node, below, "O_APPEND" in flags)

    def _write(self, call: Call) -> None:
        opened = self._opened[call.number(0)]
        data = call.data(1)[: call.result]
        if opened.node < 0:
            for line in data.decode().splitlines():
                self._emit("mark", "", mark=json.loads(line))
            return
        offset = self.disk.file(opened.node).size if opened.is_append else opened.position
        opened.position = offset + len(data)
        self._emit("write", opened.path, node=opened.node, offset=offset, data=data)

    def _pwrite(self, call: Call) -> None:
        opened = self._opened[call.number(0)]
        if opened.node < 0 or opened.is_append:
            raise NotModelled(f"pwrite64 to {opened.path or 'the marks'}: opened for appending")
        self._emit("write", opened.path, node=opened.node, offset=call.number(3), data=call.data(1)[: call.result])

    def _ftruncate(self, call: Call) -> None:
        opened = self._opened[call.number(0)]
        self._emit("truncate", opened.path, node=opened.node, offset=call.number(1))

    def _lseek(self, call: Call) -> None:
        assert call.result is not None
        self._opened[call.number(0)].position = call.result

    def _sync(self, call: Call) -> None:
        opened = self._opened[call.number(0)]
        self._emit("sync", opened.path, node=opened.node, until=self._started_at[call.thread])

    def _rename(self, call: Call) -> None:
        parent, source, _ = self._place(call.data(0).decode())
        other, name, below = self._place(call.data(1).decode())
        if other != parent:
            raise NotModelled(f"rename of {source} into another folder")
        self._emit("rename", below, node=parent, source=source, name=name)

    def _unlink(self, call: Call) -> None:
        parent, name, below = self._place(call.data(0).decode())
        self._emit("unlink", below, node=parent, name=name)

    def _mkdir(self, call: Call) -> None:
        parent, name, below = self._place(call.data(0).decode())
        self._emit("add-folder", below, node=parent, name=name)

    def _bind(self, call: Call) -> None:
        path = bytes.fromhex(call.arguments[1].split('"')[1].replace("\\x", "")).decode()
        parent, name, below = self._place(path)
        self._emit("add-socket", below, node=parent, name=name)

    def _fcntl(self, call: Call) -> None:
        command = call.arguments[1]
        if command in ("F_DUPFD", "F_DUPFD_CLOEXEC"):
            self._dup(call)
        elif command not in ("F_GETFD", "F_SETFD", "F_GETFL", "F_SETLK", "F_SETLKW", "F_GETLK", "F_OFD_SETLK"):
            raise NotModelled(f"fcntl {command}")

    def _dup(self, call: Call) -> None:
        assert call.result is not None
        self._opened[call.result] = self._opened[call.number(0)]

    def _mmap(self, call: Call) -> None:
        opened = self._opened[int(call.arguments[4])]
        is_private = "MAP_PRIVATE" in call.arguments[3] or "PROT_WRITE" not in call.arguments[2]
        if not is_private and not opened.path.endswith(VOLATILE_SUFFIXES):
            raise NotModelled(f"mmap of {opened.path} for writing: its changes are no calls")
