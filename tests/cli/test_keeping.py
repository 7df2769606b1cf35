"""What is done with a whole database: checked, compacted, copied, written to a file and read back."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest

import mynosql
from mynosql.cli import exits
from tests.cli.running import Run


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


def test_a_copy_is_a_database_of_its_own(mynosql_here: Run, tmp_path: Path) -> None:
    mynosql_here("put", "Notes", "a", '{"n": 1}')
    done = mynosql_here("backup", "Notes", str(tmp_path / "copies"))
    assert (done.code, done.out) == (exits.OK, f"Notes: copied to {tmp_path / 'copies' / 'Notes'}\n")
    assert mynosql_here("get", "Notes", "a", "--location", str(tmp_path / "copies"), "--json").json["n"] == 1
    again = mynosql_here("backup", "Notes", str(tmp_path / "copies"), "--json")
    assert again.code == exits.USAGE
    assert "exists already" in again.err


@pytest.mark.parametrize("name", ["all.jsonl", "all.csv"])
def test_what_was_exported_is_imported(mynosql_here: Run, tmp_path: Path, name: str) -> None:
    mynosql_here("put", "Notes", stdin="".join(json.dumps({"id": f"k{n}", "n": n}) + "\n" for n in range(30)))
    out = mynosql_here("export", "Notes", str(tmp_path / name))
    assert (out.code, out.out) == (exits.OK, f"Notes: 30 records written to {tmp_path / name}\n")
    assert mynosql_here("import", "Other", str(tmp_path / name), "--json").json == {"records": 30}
    assert mynosql_here("get", "Other", "k7", "--json").json["n"] == 7


def test_a_file_that_is_not_there_makes_no_database(mynosql_here: Run, tmp_path: Path) -> None:
    done = mynosql_here("import", "New", str(tmp_path / "missing.jsonl"))
    assert done.code == exits.STORAGE
    assert "missing.jsonl" in done.err
    assert not (tmp_path / "home" / "New").exists()


def test_compacting_tells_what_it_gave_back(mynosql_here: Run) -> None:
    for value in range(3):
        mynosql_here("import", "Notes", _lines(value))
    found = mynosql_here("compact", "Notes", "--json").json
    assert min(found["bytes_before"], found["bytes_after"]) > 1_000
    assert mynosql_here("compact", "Notes").out.startswith("Notes: ")


def _lines(value: int) -> str:
    path = Path(os.environ["MYNOSQL_HOME"]).parent / "lines.jsonl"
    path.write_text("".join(json.dumps({"id": f"k{n}", "value": value}) + "\n" for n in range(200)))
    return str(path)


def test_all_of_it_works_through_the_process_that_has_it_open(mynosql_here: Run, tmp_path: Path) -> None:
    with mynosql.opendb("Notes", location=tmp_path / "home") as db:
        db["a"] = {"n": 1}
        assert mynosql_here("check", "Notes").code == exits.OK
        assert mynosql_here("compact", "Notes").code == exits.OK
        assert mynosql_here("export", "Notes", str(tmp_path / "all.jsonl")).code == exits.OK
        db["a"] = {"n": 2}
        assert mynosql_here("import", "Notes", str(tmp_path / "all.jsonl")).code == exits.OK
        assert db["a"]["n"] == 1
        assert mynosql_here("backup", "Notes", str(tmp_path / "copies")).code == exits.OK
    assert (tmp_path / "copies" / "Notes" / "index").exists()


def test_a_person_sees_how_far_it_is(mynosql_here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    mynosql_here("put", "Notes", "a", "{}")
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", screen)
    mynosql_here("check", "Notes")
    assert "100 % checked" in screen.getvalue()
    assert screen.getvalue().endswith("\r\033[K")
