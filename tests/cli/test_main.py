"""The command as a program meets it: arguments, signals, and one line on stderr where something is wrong."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

import mynosql
from mynosql.cli import exits
from mynosql.cli.main import build_parser, main
from tests.cli.running import DEADLINE_S, Run, command_line, environment, run, start


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (["get", "Notes", "none"], exits.NOT_FOUND, "none"),
    (["get", "Absent", "a"], exits.NOT_FOUND, "no database 'Absent'"),
    (["ls", "Absent"], exits.NOT_FOUND, "databases there: Notes"),
    (["check", "Absent"], exits.NOT_FOUND, "no database"),
    (["put", "Notes", "a", '{"n": 2}'], exits.CONFLICT, "rev"),
    (["put", "Notes", "b", "[1]"], exits.USAGE, "a record is a JSON object"),
    (["put", "Notes", "b", "{"], exits.USAGE, "not JSON"),
    (["put", "Notes", "b"], exits.USAGE, "no record"),
    (["put", "Notes", "b", '{"x": NaN}'], exits.USAGE, "NaN"),
    (["put", "Notes", '{"id": [1]}'], exits.USAGE, "id"),
    (["put", "../Notes", "b", "{}"], exits.USAGE, "database name"),
    (["get", "../Notes", "b"], exits.USAGE, "database name"),
    (["get", "Notes", "--id-json", "{"], exits.USAGE, "not JSON"),
    (["put", "Notes", "b", "{}", "--peer", "nowhere:"], exits.USAGE, "nowhere"),
    (["put", "Notes", "b", "{}", "--peer", "http://192.0.2.1:8800"], exits.USAGE, "secret"),
    (["ls", "Notes", "--secret-file", "/nonexistent"], exits.USAGE, "/nonexistent"),
    (["watch", "Notes", "--since", "x", "--all"], exits.USAGE, "exclude"),
    (["watch", "Notes", "--since", "x", "--count", "1"], exits.USAGE, "token"),
    (["ls", "Notes", "--limit", "-1"], exits.USAGE, "negative"),
    (["put", "Notes", "b", "{}", "--wait", "never"], exits.USAGE, "--wait"),
    (["put", "Notes", "b", "{}", "c"], exits.USAGE, "found also: c"),
    (["put", "Notes", "b", "{}", "--colour"], exits.USAGE, "--colour"),
    (["ls", "Notes", "b"], exits.USAGE, "unrecognized arguments: b"),
    (["nonsense"], exits.USAGE, "nonsense"),
    ([], exits.USAGE, "COMMAND"),
])
def test_a_mistake_is_one_line_on_stderr_and_its_exit_code(
    mynosql_here: Run, arguments: list[str], code: int, said: str
) -> None:
    mynosql_here("put", "Notes", "a", '{"n": 1}')
    done = mynosql_here(*arguments)
    assert done.code == code, done.err
    assert said in done.err
    assert done.out == ""
    assert done.err.startswith("usage:") or done.err.count("\n") == 1
    assert mynosql_here("ls", "Notes").out == "a\n"  # nothing was saved


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("demo", "serve", "put", "get", "ls", "status", "watch", "check", "keygen"):
        assert main([name, "--help"]) == exits.OK
        assert f"usage: mynosql {name}" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == exits.OK
    assert capsys.readouterr().out == f"mynosql {mynosql.__version__}\n"


def test_a_mistake_of_our_own_is_one_line_and_exit_code_70(
    mynosql_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mynosql.cli import commands

    monkeypatch.setitem(commands.COMMANDS, "ls", lambda args: 1 // 0)
    done = mynosql_here("ls", "Notes")
    assert (done.code, done.err.count("\n")) == (exits.INTERNAL, 1)
    assert "ZeroDivisionError" in done.err


def test_the_module_is_the_command(tmp_path: Path) -> None:
    assert run("put", "Notes", "a", "{}", "--location", str(tmp_path)).code == exits.OK
    assert run("get", "Notes", "none", "--location", str(tmp_path)).code == exits.NOT_FOUND


def test_a_reader_that_goes_away_ends_the_command_quietly(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"id": f"{n:05d}" * 20}) + "\n" for n in range(3_000))
    assert run("put", "Notes", "--location", str(tmp_path), stdin=lines).code == exits.OK
    with start("ls", "Notes", "--location", str(tmp_path)) as listing:
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.readline()
        listing.stdout.close()
        assert listing.wait(DEADLINE_S) == exits.OUTPUT_CLOSED
        assert listing.stderr.read() == ""


def test_a_full_disk_behind_the_output_is_told(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command_line("keygen"), stdout=full, stderr=subprocess.PIPE, text=True, env=environment(),
            timeout=DEADLINE_S, check=False,
        )
    assert done.returncode == exits.STORAGE
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("number", "code"), [
    (signal.SIGINT, exits.INTERRUPTED), (signal.SIGTERM, exits.TERMINATED),
])
def test_a_signal_ends_watch_without_a_traceback_and_leaves_a_closed_database(
    tmp_path: Path, number: int, code: int
) -> None:
    run("put", "Notes", "a", "{}", "--location", str(tmp_path))
    with start("watch", "Notes", "--all", "--location", str(tmp_path)) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert watching.stdout.readline().startswith("a ")
        watching.send_signal(number)
        assert watching.wait(DEADLINE_S) == code
        assert "Traceback" not in watching.stderr.read()
    assert not list((tmp_path / "Notes").glob("*journal*"))


def test_output_in_an_encoding_without_the_characters_is_still_json(tmp_path: Path) -> None:
    run("put", "Notes", "a", '{"name": "Zoë ☃"}', "--location", str(tmp_path))
    done = run("get", "Notes", "a", "--json", "--location", str(tmp_path), PYTHONIOENCODING="ascii")
    assert done.out.isascii()
    assert done.json["name"] == "Zoë ☃"


def test_the_parser_takes_the_options_of_every_database_command() -> None:
    for name in ("serve", "put", "get", "ls", "status", "watch", "check"):
        more = ["x"] if name == "get" else []
        args = build_parser().parse_args([name, "Notes", *more, "--peer", "a:1", "--peer", "b:2", "--json"])
        assert (args.peer, args.json, args.location) == (["a:1", "b:2"], True, None)
