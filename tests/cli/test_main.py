"""The command as a program meets it: output, exit codes, and one line on stderr where something is wrong."""

from __future__ import annotations

import io
import json
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mynosql
from mynosql.cli import exits
from mynosql.cli.main import build_parser, main
from tests.cli.running import DEADLINE_S, Done, command_line, environment, run, start

Run = Callable[..., Done]


@pytest.fixture
def mynosql_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    """Runs the command in this process: mynosql_here("put", "Notes", "a", "{}"), databases under tmp_path."""
    monkeypatch.setenv("MYNOSQL_HOME", str(tmp_path / "home"))

    def run_here(*arguments: str, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Done(code, captured.out, captured.err)

    return run_here


# Saving and reading


def test_what_was_put_is_got(mynosql_here: Run) -> None:
    put = mynosql_here("put", "Notes", "lamp", '{"on": true, "watts": 9}')
    assert (put.code, put.err) == (exits.OK, "")
    id, rev = put.out.split()
    got = mynosql_here("get", "Notes", "lamp", "--json")
    assert got.json == {"id": "lamp", "rev": rev, "on": True, "watts": 9}
    assert (id, got.code, got.out.count("\n")) == ("lamp", exits.OK, 1)


def test_without_json_the_record_is_indented_for_a_person(mynosql_here: Run) -> None:
    mynosql_here("put", "Notes", "lamp", '{"on": true}')
    assert '\n  "on": true\n' in mynosql_here("get", "Notes", "lamp").out


@pytest.mark.parametrize(("arguments", "stdin", "ids"), [
    (["lamp", '{"n": 1}'], "", ["lamp"]),
    (['{"id": "a", "n": 1}'], "", ["a"]),
    (["lamp"], '{"n": 1}', ["lamp"]),
    (["lamp", "-"], '{\n "n": 1\n}\n', ["lamp"]),
    ([], '{"id": "a"}\n\n{"id": "b"}\n', ["a", "b"]),
    ([], '{\n"id": "a"}', ["a"]),
    (["--id-json", "17", '{"n": 1}'], "", [17]),
    (["--id-json", '{"$tuple": ["a", 1]}', "{}"], "", [{"$tuple": ["a", 1]}]),
    (["{braces", '{"n": 1}'], "", ["{braces"]),
    (["lamp", "--verbose", '{"n": 1}'], "", ["lamp"]),
    (["--id-json", "-17", "--verbose", "-"], '{"n": 1}', [-17]),
])
def test_records_come_from_arguments_or_stdin(
    mynosql_here: Run, arguments: list[str], stdin: str, ids: list[object]
) -> None:
    put = mynosql_here("put", "Notes", *arguments, "--json", stdin=stdin)
    assert put.code == exits.OK, put.err
    assert [line["id"] for line in put.json_lines] == ids
    assert mynosql_here("ls", "Notes", "--json").json_lines == ids


def test_a_record_without_id_gets_one(mynosql_here: Run) -> None:
    first, second = (mynosql_here("put", "Notes", '{"n": 1}', "--json").json["id"] for _ in range(2))
    assert first < second


def test_many_lines_are_saved_in_batches(mynosql_here: Run) -> None:
    lines = "".join(json.dumps({"id": f"k{n:04d}", "n": n}) + "\n" for n in range(1203))
    put = mynosql_here("put", "Notes", stdin=lines)
    assert len(put.out.splitlines()) == 1203
    assert len(mynosql_here("ls", "Notes").out.splitlines()) == 1203


def test_values_that_json_has_not_come_back_as_they_were(mynosql_here: Run, tmp_path: Path) -> None:
    text = '{"raw": {"$bytes": "AP8="}, "pair": {"$tuple": [1, 2]}, "price": {"$decimal": "1.50"}}'
    mynosql_here("put", "Notes", "x", text)
    got = mynosql_here("get", "Notes", "x", "--json").json
    assert {key: got[key] for key in ("raw", "pair", "price")} == json.loads(text)
    with mynosql.opendb("Notes", location=tmp_path / "home") as db:
        assert db.readdoc("x")["raw"] == b"\x00\xff"


def test_listing_has_order_prefix_limit_and_pages(mynosql_here: Run) -> None:
    lines = "".join(json.dumps({"id": id}) + "\n" for id in ("b/2", "a/1", "b/1", "c"))
    mynosql_here("put", "Notes", stdin=lines)
    assert mynosql_here("ls", "Notes").out.split() == ["a/1", "b/1", "b/2", "c"]
    assert mynosql_here("ls", "Notes", "--prefix", "b/").out.split() == ["b/1", "b/2"]
    assert mynosql_here("ls", "Notes", "--after", "a/1", "--limit", "2").out.split() == ["b/1", "b/2"]
    assert mynosql_here("ls", "Notes", "--limit", "0").out == ""


def test_an_id_that_would_break_the_line_is_listed_as_json(mynosql_here: Run) -> None:
    mynosql_here("put", "Notes", '{"id": "two\\nlines"}')
    assert mynosql_here("ls", "Notes").out == '"two\\nlines"\n'


def test_the_state_is_shown_for_persons_and_programs(mynosql_here: Run) -> None:
    mynosql_here("put", "Notes", "a", "{}")
    found = mynosql_here("status", "Notes", "--json").json
    assert (found["name"], found["mode"], found["records"], found["process"]) == ("Notes", "Peer", 1, None)
    lines = mynosql_here("status", "Notes").out.splitlines()
    assert ["records", "1"] in [line.split() for line in lines]


def test_watching_all_that_is_there_ends_after_count(mynosql_here: Run) -> None:
    mynosql_here("put", "Notes", stdin='{"id": "a"}\n{"id": "b"}\n')
    found = mynosql_here("watch", "Notes", "--all", "--count", "2", "--json").json_lines
    assert [change["id"] for change in found] == ["a", "b"]
    rest = mynosql_here("watch", "Notes", "--since", found[0]["token"], "--count", "1")
    assert rest.out.split()[0] == "b"


def test_a_check_of_a_sound_folder_says_ok(mynosql_here: Run) -> None:
    mynosql_here("put", "Notes", "a", "{}")
    checked = mynosql_here("check", "Notes")
    assert checked.code == exits.OK
    assert checked.out.startswith("Notes: ok; 1 records")
    assert mynosql_here("check", "Notes", "--json").json["ok"] is True


def test_a_check_of_a_damaged_folder_names_the_file_and_exits_with_1(mynosql_here: Run, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"id": f"k{n}", "text": str(n) * 50}) + "\n" for n in range(500))
    mynosql_here("put", "Notes", stdin=lines)
    shard = max((tmp_path / "home" / "Notes").rglob("*shard*"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    checked = mynosql_here("check", "Notes")
    assert checked.code == exits.NOT_FOUND
    assert shard.name in checked.out


# What goes wrong


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


def test_looking_into_a_database_that_is_not_there_makes_none(mynosql_here: Run, tmp_path: Path) -> None:
    for command in (["get", "Absent", "a"], ["ls", "Absent"], ["status", "Absent"], ["check", "Absent"]):
        assert mynosql_here(*command).code == exits.NOT_FOUND
    assert not (tmp_path / "home" / "Absent").exists()


def test_wrong_json_makes_no_database(mynosql_here: Run, tmp_path: Path) -> None:
    assert mynosql_here("put", "New", "a", "{").code == exits.USAGE
    assert not (tmp_path / "home" / "New").exists()


def test_an_id_for_several_records_is_a_mistake(mynosql_here: Run) -> None:
    done = mynosql_here("put", "Notes", "a", stdin='{"n": 1}\n{"n": 2}\n')
    assert done.code == exits.USAGE
    assert mynosql_here("ls", "Notes").out == ""


def test_a_record_that_was_not_delivered_in_time_is_exit_code_1_when_that_was_asked(mynosql_here: Run) -> None:
    nobody = "http://127.0.0.1:9"
    done = mynosql_here("put", "Notes", "a", "{}", "--peer", nobody, "--wait", "0.05")
    assert done.code == exits.NOT_FOUND
    assert "no mirror confirmed" in done.err
    assert mynosql_here("ls", "Notes").out == "a\n"


def test_a_record_that_no_mirror_delivers_is_unavailable(mynosql_here: Run) -> None:
    nobody = "http://127.0.0.1:9"
    assert mynosql_here("put", "Notes", "a", "{}", "--peer", nobody, "--wait", "0").code == exits.NOT_FOUND
    assert mynosql_here("get", "Notes", "b", "--timeout", "0.2").code == exits.UNAVAILABLE


def test_help_names_every_exit_code_and_every_tag(capsys: pytest.CaptureFixture[str]) -> None:
    from mynosql.cli import jsonform

    assert main(["--help"]) == exits.OK
    text = capsys.readouterr().out
    for code in (value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)):
        assert f"  {int(code)} " in text
    assert not [tag for tag in jsonform.TAGS if tag != "$repr" and f'"{tag}"' not in text]


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("demo", "serve", "put", "get", "ls", "status", "watch", "check", "keygen"):
        assert main([name, "--help"]) == exits.OK
        assert f"usage: mynosql {name}" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == exits.OK
    assert capsys.readouterr().out == f"mynosql {mynosql.__version__}\n"


def test_every_error_class_has_an_exit_code() -> None:
    public = [value for value in vars(mynosql).values() if isinstance(value, type)]
    kinds = [kind for kind in public if issubclass(kind, mynosql.MyNoSQLError)]
    assert len(kinds) > 15
    for kind in kinds:
        assert exits.code_of(kind.__new__(kind)) in range(1, 6)


def test_a_mistake_of_our_own_is_one_line_and_exit_code_70(
    mynosql_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mynosql.cli import commands

    monkeypatch.setitem(commands.COMMANDS, "ls", lambda args: 1 // 0)
    done = mynosql_here("ls", "Notes")
    assert (done.code, done.err.count("\n")) == (exits.INTERNAL, 1)
    assert "ZeroDivisionError" in done.err


# Secrets


def test_keygen_prints_a_new_secret_each_time(mynosql_here: Run) -> None:
    first, second = mynosql_here("keygen").out.strip(), mynosql_here("keygen").out.strip()
    assert first != second
    assert len(first) > 30


def test_keygen_writes_a_file_that_only_its_owner_reads_and_never_overwrites(
    mynosql_here: Run, tmp_path: Path
) -> None:
    path = tmp_path / "cluster.secret"
    done = mynosql_here("keygen", "--out", str(path))
    assert (done.code, done.out) == (exits.OK, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_text()
    again = mynosql_here("keygen", "--out", str(path))
    assert again.code == exits.USAGE
    assert path.read_text() == content


def test_a_secret_file_that_others_can_read_is_refused(mynosql_here: Run, tmp_path: Path) -> None:
    path = tmp_path / "cluster.secret"
    mynosql_here("keygen", "--out", str(path))
    assert mynosql_here("put", "Notes", "a", "{}", "--secret-file", str(path)).code == exits.OK
    path.chmod(0o644)
    done = mynosql_here("ls", "Notes", "--secret-file", str(path))
    assert done.code == exits.USAGE
    assert f"chmod 600 {path}" in done.err


@pytest.mark.parametrize("content", [b"", b"too short", b"\xff\xfe", b"x" * 100_000])
def test_a_file_that_holds_no_secret_is_refused(mynosql_here: Run, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cluster.secret"
    path.write_bytes(content)
    path.chmod(0o600)
    assert mynosql_here("put", "Notes", "a", "{}", "--secret-file", str(path)).code == exits.USAGE


# As a process


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
