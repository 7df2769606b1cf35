"""Reading what strace printed."""

from __future__ import annotations

import pytest

from tests.faults.strace import TraceUnreadable, read_trace, split_arguments, unquoted


def test_calls_of_two_threads_overlap_and_are_put_together_again() -> None:
    lines = [
        '7  write(3, "\\x61\\x0a", 2) = 2',
        "8  fdatasync(3 <unfinished ...>",
        '7  openat(AT_FDCWD, "\\x2f\\x78", O_RDONLY) = -1 ENOENT (No such file or directory)',
        "8  <... fdatasync resumed>)          = 0",
        "7  close(3 <unfinished ...>",
        "7  +++ killed by SIGKILL +++",
    ]
    seen = [(call.name, is_left) for call, is_left in read_trace(lines)]
    assert seen == [
        ("write", False), ("write", True), ("fdatasync", False), ("openat", False), ("openat", True),
        ("fdatasync", True), ("close", False),
    ]
    left = [call for call, is_left in read_trace(lines) if is_left]
    assert (left[0].number(0), left[0].data(1), left[0].result) == (3, b"a\n", 2)
    assert (left[1].error, left[1].data(1)) == ("ENOENT", b"/x")
    assert left[2].arguments == ["3"]


def test_an_injected_error_is_known_as_such() -> None:
    ((_, _), (call, _)) = read_trace(["7  fsync(4) = -1 EIO (Input/output error) (INJECTED)"])
    assert (call.error, call.is_injected) == ("EIO", True)


def test_commas_in_structs_and_lists_do_not_split_arguments() -> None:
    assert split_arguments('5, {st_mode=1, "\\x61"}, [1, 2], A|B') == ["5", '{st_mode=1, "\\x61"}', "[1, 2]", "A|B"]
    assert split_arguments("") == []


@pytest.mark.parametrize("line", ["strace: something new", "7  half a line"])
def test_a_line_that_is_not_understood_is_an_error(line: str) -> None:
    with pytest.raises(TraceUnreadable):
        list(read_trace([line]))


def test_a_string_that_was_cut_short_is_an_error() -> None:
    with pytest.raises(TraceUnreadable):
        unquoted('"\\x61"...')
