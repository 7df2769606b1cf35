"""Folders of all format versions there have been open, say what they said, and are sound."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mynosql
from mynosql.codec import pack_value, unpack_value
from mynosql.jsonform import from_json, to_json
from mynosql.store.files import DiskFiles
from mynosql.store.frames import JournalReader, parse_journal_name
from mynosql.store.index import SqliteIndex
from tests.formats.frozen import CONTAINERS, EXPECTED, FORMATS, HERE, IDS, NAME, SINGLES, described, write

NUMBERS = sorted((path.name for path in HERE.iterdir() if path.name.isdigit()), key=int)
KIB_MAX = 100
"""A folder and its expectation: they are cloned with the code for ever."""


def expected_of(number: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / number / EXPECTED).read_text(encoding="ascii"))
    return found


@pytest.mark.parametrize("number", NUMBERS)
def test_a_frozen_folder_opens_and_says_what_it_said(number: str, tmp_path: Path, make_db: Callable[..., Any]) -> None:
    """make_db runs checkdb() on it as well, opened and sealed by this code."""
    shutil.copytree(HERE / number, tmp_path / "copy")
    expected = expected_of(number)
    del expected["formats"]

    db = make_db(NAME, location=tmp_path / "copy")

    assert json.loads(json.dumps(described(db))) == expected
    report = db.checkdb()
    assert report.ok, report.problems
    db.closedb()
    with mynosql.opendb(NAME, location=tmp_path / "copy") as again:
        assert json.loads(json.dumps(described(again))) == expected, "sealed by this code"


@pytest.mark.parametrize("number", NUMBERS)
def test_a_frozen_folder_can_be_written_to(number: str, tmp_path: Path, make_db: Callable[..., Any]) -> None:
    shutil.copytree(HERE / number, tmp_path / "copy")
    db = make_db(NAME, location=tmp_path / "copy")
    before = len(db)

    db.savedoc({**db.readdoc("reading/0002"), "celsius": "now"})
    db.savedoc({"id": "new"})
    db.deletedoc("journal/one")
    db.compactdb()

    assert (len(db), db["reading/0002"]["celsius"], "journal/one" in db) == (before, "now", False)


def test_the_formats_of_this_code_are_frozen() -> None:
    frozen = [expected_of(number)["formats"] for number in NUMBERS]
    assert FORMATS in frozen, (
        f"no folder was written in the formats {FORMATS}: run python -m tests.formats, and commit what it wrote beside "
        "the older ones"
    )


@pytest.mark.parametrize("number", NUMBERS)
def test_a_frozen_folder_holds_every_kind_of_thing(number: str) -> None:
    """Otherwise nothing is shown by reading it."""
    expected, folder = expected_of(number), HERE / number / NAME
    names = {path.name.split("-")[0] for path in folder.iterdir()}
    assert names >= {"filter", "format", "identity", "index", "journal", "shard"}
    files = DiskFiles(str(folder))
    frames = [frame for name in files.list() if parse_journal_name(name) for frame in JournalReader(files, name)]
    files.close()
    assert len(frames) >= 8
    assert {record["state"] for record in expected["records"]} == {"deleted", "fresh", "pending", "remote", "stale"}
    assert any(len(record["conflicts"]) >= 2 for record in expected["records"])
    values = [pack_value(from_json(record["record"])["value"]) for record in expected["records"] if (
        record["record"] and "value" in record["record"] and "nested" in record["record"]
    )]
    assert {pack_value(unpack_value(value)) for value in values} >= {
        pack_value(value) for position, value in enumerate((*SINGLES, *CONTAINERS)) if position != 1
    }, "type/001 is evicted"
    assert {json.dumps(record["id"]) for record in expected["records"]} >= {json.dumps(to_json(id)) for id in IDS}
    assert sum(path.stat().st_size for path in (HERE / number).rglob("*") if path.is_file()) < KIB_MAX << 10


@pytest.mark.parametrize("number", NUMBERS)
def test_a_frozen_index_has_several_segments(number: str, tmp_path: Path) -> None:
    shutil.copytree(HERE / number, tmp_path / "copy")
    index = SqliteIndex(str(tmp_path / "copy" / NAME / "index"))
    assert len(index.segments()) > 1
    assert any(key.startswith("cursor/") for key in index.notes())
    index.close()


def test_the_script_writes_such_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "1", tmp_path / "work")

    with mynosql.opendb(NAME, location=tmp_path / "1") as db:
        said = json.loads(json.dumps(described(db)))
    expected = json.loads((tmp_path / "1" / EXPECTED).read_text(encoding="ascii"))
    assert {"formats": FORMATS, **said} == expected
