"""What the commands do with records: saved, read, listed, watched; secrets made."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

import mynosql
from mynosql.cli import exits
from tests.cli.running import Run


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
