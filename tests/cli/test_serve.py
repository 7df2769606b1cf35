"""`mynosql serve`, and the other commands on a database that a process has open: they work through that process."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import mynosql
from mynosql.cli import exits
from tests.cli.running import DEADLINE_S, run, start
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def serving(folder: Path, *arguments: str, name: str = "Notes") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running `mynosql serve` and its address; it is killed at the end if the test has not ended it."""
    with start("serve", name, "--location", str(folder), "--json", "--listen", "127.0.0.1:0", *arguments) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            yield process, json.loads(line)["endpoint"]
        finally:
            process.kill()


def test_serve_prints_its_address_and_closes_on_a_signal(tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with serving(tmp_path) as (process, endpoint):
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", endpoint)
            process.send_signal(number)
            assert process.wait(DEADLINE_S) == exits.OK
        assert not list((tmp_path / "Notes").glob("*journal*"))


def test_without_json_the_address_is_in_a_sentence(tmp_path: Path) -> None:
    with start("serve", "Notes", "--location", str(tmp_path), "--listen", "127.0.0.1:0") as process:
        assert process.stdout is not None
        assert re.fullmatch(r"Notes: mirror at http://127\.0\.0\.1:\d+, 0 records; Ctrl-C ends it\n",
                            process.stdout.readline())
        process.kill()


def test_a_taken_port_is_exit_code_3(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "Notes", "--location", str(tmp_path), "--listen", f"127.0.0.1:{port}")
    assert done.code == exits.UNAVAILABLE
    assert str(port) in done.err


def test_commands_work_through_the_process_that_has_the_database_open(tmp_path: Path) -> None:
    where = ("--location", str(tmp_path))
    with serving(tmp_path) as (process, endpoint):
        put = run("put", "Notes", "lamp", '{"on": true, "raw": {"$bytes": "AP8="}}', "--verbose", *where)
        assert put.code == exits.OK, put.err
        assert f"working through process {process.pid}" in put.err
        assert run("get", "Notes", "lamp", "--json", *where).json["raw"] == {"$bytes": "AP8="}
        assert run("ls", "Notes", *where).out == "lamp\n"
        status = run("status", "Notes", "--json", *where).json
        assert (status["process"], status["mode"], status["endpoint"]) == (process.pid, "Mirror", endpoint)
        assert run("check", "Notes", *where).code == exits.OK
        assert run("get", "Notes", "none", *where).code == exits.NOT_FOUND
        conflict = run("put", "Notes", "lamp", '{"on": false}', *where)
        assert (conflict.code, conflict.out) == (exits.CONFLICT, "")
        assert run("put", "Notes", "desk", "{}", "--wait", "5", *where).code == exits.OK  # a mirror alone


def test_watch_shows_what_happens_in_another_process(tmp_path: Path) -> None:
    where = ("--location", str(tmp_path))
    with serving(tmp_path), start("watch", "Notes", "--json", "--all", *where) as watching:
        assert watching.stdout is not None
        run("put", "Notes", "a", "{}", *where)
        assert json.loads(watching.stdout.readline())["id"] == "a"
        run("put", "Notes", "b", "{}", *where)
        change = json.loads(watching.stdout.readline())
        assert (change["id"], change["deleted"]) == ("b", False)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(DEADLINE_S) == exits.INTERRUPTED


def test_watch_ends_when_the_process_that_it_asks_is_gone(tmp_path: Path) -> None:
    where = ("--location", str(tmp_path))
    for number in (signal.SIGKILL, signal.SIGTERM):
        with serving(tmp_path) as (process, _), start("watch", "Notes", "--all", *where) as watching:
            assert watching.stdout is not None
            assert watching.stderr is not None
            run("put", "Notes", f"by-{number}", "{}", *where)
            wait_until(lambda out=watching.stdout, id=f"by-{number}": out.readline().startswith(id), DEADLINE_S)
            process.send_signal(number)
            assert watching.wait(DEADLINE_S) == exits.UNAVAILABLE
            said = watching.stderr.read()
            assert said.count("\n") == 1
            assert "did not answer within" not in said  # it saw that the process is gone


def test_a_record_put_on_a_peer_is_got_from_the_mirror_and_the_other_way_round(tmp_path: Path) -> None:
    with serving(tmp_path / "mirror") as (_, endpoint):
        peer = ("--location", str(tmp_path / "peer"))
        put = run("put", "Notes", "lamp", '{"on": true}', "--peer", endpoint, "--wait", "20", *peer)
        assert put.code == exits.OK, put.err
        assert run("get", "Notes", "lamp", "--json", "--location", str(tmp_path / "mirror")).json["on"] is True
        run("put", "Notes", "desk", '{"legs": 4}', "--location", str(tmp_path / "mirror"))
        assert run("get", "Notes", "desk", "--json", *peer).json["legs"] == 4  # the address was remembered
        assert run("ls", "Notes", *peer).out.split() == ["desk", "lamp"]


def test_two_mirrors_with_a_secret_meet_and_a_stranger_gets_nothing(tmp_path: Path) -> None:
    for name in ("cluster", "stranger"):
        assert run("keygen", "--out", str(tmp_path / name)).code == exits.OK
    ours, theirs = ("--secret-file", str(tmp_path / "cluster")), ("--secret-file", str(tmp_path / "stranger"))
    with serving(tmp_path / "a", *ours) as (_, first), serving(tmp_path / "b", "--peer", first, *ours):
        run("put", "Notes", "lamp", "{}", "--location", str(tmp_path / "a"), *ours)
        wait_until(lambda: run("ls", "Notes", "--location", str(tmp_path / "b"), *ours).out == "lamp\n", DEADLINE_S)
        third = ("--location", str(tmp_path / "c"), *theirs)
        assert run("put", "Notes", "own", "{}", "--peer", first, "--wait", "2", *third).code == exits.NOT_FOUND
        assert run("get", "Notes", "lamp", "--timeout", "2", *third).code == exits.UNAVAILABLE
        assert run("ls", "Notes", "--location", str(tmp_path / "a"), *ours).out == "lamp\n"


def test_two_commands_at_once_on_one_database_both_succeed(tmp_path: Path) -> None:
    where = ("--location", str(tmp_path))
    run("put", "Notes", "first", "{}", *where)
    started = [start("put", "Notes", f"k{n}", "{}", *where) for n in range(4)]
    for process in started:
        with process:
            assert process.wait(DEADLINE_S) == exits.OK, process.communicate()[1]
    assert run("ls", "Notes", *where).out.split() == ["first", "k0", "k1", "k2", "k3"]


def test_a_database_open_in_this_program_is_reached_by_the_command(tmp_path: Path) -> None:
    with mynosql.opendb("Notes", location=tmp_path) as db:
        db.savedoc({"id": "lamp"})
        assert run("ls", "Notes", "--location", str(tmp_path)).out == "lamp\n"
        run("put", "Notes", "desk", "{}", "--location", str(tmp_path))
        assert db.listdocs() == ["desk", "lamp"]
