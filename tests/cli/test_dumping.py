"""dump and repair on the command line: sound folders, damaged ones, and ones that are not there."""

from __future__ import annotations

import json
from pathlib import Path

import mynosql
from mynosql.cli import exits
from tests.cli.running import Run


def put_many(mynosql_here: Run) -> None:
    lines = "".join(json.dumps({"id": f"k{n:03}", "text": f"{n} " * 30}) + "\n" for n in range(500))
    assert mynosql_here("put", "Notes", stdin=lines).code == exits.OK


def damage(home: Path) -> Path:
    shard = home / "Notes" / "shard-00000000"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    return shard


def test_a_line_for_each_block(mynosql_here: Run) -> None:
    put_many(mynosql_here)
    dumped = mynosql_here("dump", "Notes", "--json")
    assert dumped.code == exits.OK
    assert sum(line["rows"] for line in dumped.json_lines) == 500
    assert dumped.json_lines[0]["first"] == "k000"
    assert dumped.json_lines[-1]["last"] == "k499"
    text = mynosql_here("dump", "Notes").out.splitlines()
    assert len(text) == len(dumped.json_lines)
    assert "block 0 of segment 0" in text[0]
    assert mynosql_here("dump", "Notes", "shard-00000001").out == ""


def test_frames_of_a_database_that_is_open(mynosql_here: Run, tmp_path: Path) -> None:
    with mynosql.opendb("Notes", location=tmp_path / "home") as db:
        db["a"] = {"n": 1}
        dumped = mynosql_here("dump", "Notes")
    assert dumped.code == exits.OK
    assert "frame of 1 rows" in dumped.out


def test_damage_is_shown_and_repaired(mynosql_here: Run, tmp_path: Path) -> None:
    put_many(mynosql_here)
    assert mynosql_here("repair", "Notes", str(tmp_path / "sound")).code == exits.OK
    shard = damage(tmp_path / "home")
    dumped = mynosql_here("dump", "Notes")
    assert dumped.code == exits.NOT_FOUND
    assert "DAMAGED" in dumped.out
    assert any("damage" in line for line in mynosql_here("dump", "Notes", "--json").json_lines)

    repaired = mynosql_here("repair", "Notes", str(tmp_path / "new"))
    assert repaired.code == exits.NOT_FOUND
    assert str(shard) in repaired.out
    assert "records salvaged into" in repaired.out
    found = mynosql_here("repair", "Notes", str(tmp_path / "again"), "--json").json
    assert 200 < found["records"] <= 500
    assert found["ok"] is False
    assert mynosql_here("check", "Notes", "--location", str(tmp_path / "new")).code == exits.OK


def test_what_is_not_there_is_told(mynosql_here: Run, tmp_path: Path) -> None:
    assert mynosql_here("dump", "None").code == exits.NOT_FOUND
    assert mynosql_here("repair", "None", str(tmp_path / "new")).code == exits.NOT_FOUND
