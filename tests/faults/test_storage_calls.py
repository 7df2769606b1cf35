"""What system calls do to a folder; one that nobody modelled is an error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.faults.disk_model import KEPT
from tests.faults.storage_calls import Event, NotModelled, StorageCalls
from tests.faults.strace import read_trace


def text(value: str) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in value.encode()) + '"'


def open_line(path: str, flags: str, fd: int, thread: int = 7) -> str:
    return f"{thread}  openat(AT_FDCWD, {text(path)}, {flags}, 0600) = {fd}"


def events_of(*lines: str) -> tuple[list[Event], StorageCalls]:
    calls = StorageCalls("/db", "/marks")
    calls.take_all(read_trace(lines))
    return calls.events, calls


def kinds(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.kind, event.path) for event in events]


NEW = open_line("/db/a", "O_WRONLY|O_CREAT|O_APPEND", 3)


def test_appends_and_overwrites_land_where_the_kernel_puts_them() -> None:
    events, calls = events_of(
        NEW, f"7  write(3, {text('abc')}, 3) = 3", f"7  write(3, {text('de')}, 2) = 1", "7  close(3) = 0",
        open_line("/db/a", "O_RDWR", 3), f"7  pwrite64(3, {text('X')}, 1, 1) = 1", f"7  write(3, {text('Y')}, 1) = 1",
        "7  ftruncate(3, 3) = 0",
    )
    node = calls.disk.find(("a",))
    assert node is not None
    assert calls.disk.file(node).content((KEPT,) * 5) == b"YXc"
    assert kinds(events) == [("add-file", "a"), *[("write", "a")] * 4, ("truncate", "a")]


def test_an_fsync_covers_only_what_had_happened_as_it_began() -> None:
    events, _ = events_of(
        NEW, "8  fdatasync(3 <unfinished ...>", f"7  write(3, {text('abc')}, 3) = 3", "8  <... fdatasync resumed>) = 0"
    )
    assert (events[-1].kind, events[-1].until) == ("sync", 1)


def test_names_come_go_and_change() -> None:
    events, calls = events_of(
        f"7  mkdir({text('/db/x')}, 0700) = 0", open_line("/db/x/a.tmp", "O_WRONLY|O_CREAT|O_TRUNC", 3),
        f"7  rename({text('/db/x/a.tmp')}, {text('/db/x/a')}) = 0", f"7  unlink({text('/db/x/a')}) = 0",
        open_line("/db/x", "O_RDONLY", 4), "7  fsync(4) = 0",
    )
    assert kinds(events) == [
        ("add-folder", "x"), ("add-file", "x/a.tmp"), ("rename", "x/a"), ("unlink", "x/a"), ("sync", "x")
    ]
    assert calls.disk.find(("x", "a")) is None


def test_what_failed_or_is_elsewhere_did_nothing() -> None:
    events, _ = events_of(
        open_line("/elsewhere", "O_WRONLY|O_CREAT", 5), f"7  write(5, {text('abc')}, 3) = 3",
        f"7  unlink({text('/db/none')}) = -1 ENOENT (No such file)", "7  sendfile(5, 6, NULL, 9) = 9",
        open_line("/db/a", "O_RDONLY", -1).replace("= -1", "= -1 ENOENT (No such file)"),
    )
    assert events == []


def test_marks_stand_between_the_storage_calls() -> None:
    said: dict[str, Any] = {"node": "A", "tries": {"x": 1}}
    line = json.dumps(said) + "\n"
    events, _ = events_of(
        open_line("/marks", "O_WRONLY|O_CREAT|O_APPEND", 9), NEW,
        f"7  write(9, {text(line)}, {len(line)}) = {len(line)}", f"7  write(3, {text('a')}, 1) = 1",
    )
    assert [event.mark or event.kind for event in events] == ["add-file", said, "write"]


@pytest.mark.parametrize(
    "line",
    [
        "7  fallocate(3, 0, 0, 4096) = 0", "7  sendfile(3, 5, NULL, 9) = 9",
        f"7  link({text('/db/a')}, {text('/x')}) = 0", f"7  rename({text('/db/a')}, {text('/x')}) = 0",
        f"7  writev(3, [{{iov_base={text('a')}, iov_len=1}}], 1) = 1",
        "7  mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 3, 0) = 0x7f0000000000",
        "7  fcntl(3, F_SET_RW_HINT) = 0", "7  clone(child_stack=NULL, flags=SIGCHLD) = 99",
        f"7  truncate({text('/db/a')}, 0) = 0", '7  pwrite64(3, "", 0, 0) = 0',
        "7  sync_file_range(3, 0, 0, 7) = 0",
    ],
)
def test_a_call_that_the_replay_does_not_model_is_an_error(line: str) -> None:
    with pytest.raises(NotModelled):
        events_of(NEW, line)


def test_a_descriptor_that_was_closed_is_no_longer_ours() -> None:
    events, _ = events_of(
        NEW, "8  close(3 <unfinished ...>", open_line("/elsewhere", "O_WRONLY", 3), "8  <... close resumed>) = 0",
        f"7  write(3, {text('a')}, 1) = 1",
    )
    assert kinds(events) == [("add-file", "a")]
