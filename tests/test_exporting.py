"""Out into a file and in again: equal and of the same types, whatever the values; and bad files."""

from __future__ import annotations

import csv
import dataclasses
import json
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mynosql
from mynosql import OptionInvalid, RecordInvalid, RecordUnavailable
from tests.mesh import wait_connected
from tests.values import is_same, values

NAMES = st.text(min_size=1, max_size=5).filter(lambda name: name not in ("id", "rev"))
RECORDS = st.lists(st.dictionaries(NAMES, values, max_size=4), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


def content(db: Any) -> dict[Any, Any]:
    return {id: {name: value for name, value in db.readdoc(id).items() if name != "rev"} for id in db}


def sorted_fields(records: dict[Any, Any]) -> dict[Any, Any]:
    return {id: sorted(record.items(), key=itemgetter(0)) for id, record in records.items()}


def emptied(db: Any) -> Any:
    for id in list(db):
        db.deletedoc(id)
    return db


@pytest.fixture(scope="module")
def one(folders: Path) -> Any:
    with mynosql.opendb("One", location=folders) as db:
        yield db


@pytest.fixture(scope="module")
def other(folders: Path) -> Any:
    with mynosql.opendb("Other", location=folders) as db:
        yield db


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_what_is_exported_and_imported_is_the_same(one: Any, other: Any, folders: Path, ending: str) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(RECORDS)
    def check(records: list[dict[str, Any]]) -> None:
        emptied(one)
        emptied(other)
        for number, record in enumerate(records):
            one[(number, "id")] = record
        path = folders / f"all.{ending}"
        assert one.exportdb(path) == len(records)
        assert other.importdb(path) == len(records)
        there, here = content(other), content(one)
        if ending == "csv":  # the fields of all records stand in one order there
            there, here = sorted_fields(there), sorted_fields(here)
        assert is_same(there, here)

    check()


def test_registered_classes_come_back(one: Any, other: Any, folders: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Point:
        x: int
        y: int

    mynosql.register_type(Point, name="tests.exporting.Point")
    emptied(one)["p"] = {"at": Point(1, 2)}
    one.exportdb(folders / "points.jsonl")
    emptied(other).importdb(folders / "points.jsonl")
    assert other["p"]["at"] == Point(1, 2)


def test_more_than_a_batch_with_progress_and_an_import_that_changes_nothing(
    one: Any, other: Any, folders: Path
) -> None:
    emptied(one).savedocs([{"id": f"{number:05}", "n": number} for number in range(1200)])
    told: list[tuple[int, int]] = []
    assert one.exportdb(folders / "many.csv", lambda done, total: told.append((done, total))) == 1200
    assert told == [(500, 1200), (1000, 1200), (1200, 1200)]
    del told[:]
    assert emptied(other).importdb(folders / "many.csv", lambda done, total: told.append((done, total))) == 1200
    assert told[-1] == ((folders / "many.csv").stat().st_size,) * 2
    revs = {id: other.docinfo(id).rev for id in other}
    other["00007"] = {"n": "mine"}
    assert other.importdb(folders / "many.csv") == 1200
    assert other["00007"]["n"] == 7
    assert {id: other.docinfo(id).rev for id in other if id != "00007"} == {
        id: rev for id, rev in revs.items() if id != "00007"
    }


def test_a_spreadsheet_is_read_and_written_as_one_expects(one: Any, folders: Path) -> None:
    path = folders / "sheet.csv"
    path.write_text("id,city,temperature,note\n1,Lyon,21.5,\n2,\"Nice, FR\",,007\n")
    assert emptied(one).importdb(path) == 2
    assert content(one) == {
        1: {"id": 1, "city": "Lyon", "temperature": 21.5}, 2: {"id": 2, "city": "Nice, FR", "note": "007"},
    }
    one.exportdb(folders / "again.csv")
    rows = list(csv.reader((folders / "again.csv").read_text().splitlines()))
    assert rows == [["id", "city", "temperature", "note"], ["1", "Lyon", "21.5", ""], ["2", "Nice, FR", "", "007"]]


def test_records_without_an_id_get_one_and_the_last_of_an_id_counts(one: Any, folders: Path) -> None:
    path = folders / "loose.jsonl"
    path.write_text('{"n":1}\n\n{"id":"twice","n":2}\n{"id":"twice","n":3}\n')
    assert emptied(one).importdb(path) == 3
    assert sorted(record["n"] for record in content(one).values()) == [1, 3]


@pytest.mark.parametrize(("name", "text", "error", "words"), [
    ("a.jsonl", '{"id":1}\n{"id":', OptionInvalid, "line 2: not JSON"),
    ("b.jsonl", '{"id":1}\n[2]\n', RecordInvalid, "line 2: found list, expected a record"),
    ("c.jsonl", '{"id":1}\n{"id":{"$dict":[]}}\n', RecordInvalid, "line 2"),
    ("d.csv", "id,n\n1,2,3\n", RecordInvalid, "line 2: 3 cells, expected 2"),
    ("e.txt", "", OptionInvalid, r"ends in \.jsonl"),
    ("missing.jsonl", None, OptionInvalid, "cannot be read"),
])
def test_a_bad_file_is_an_error_with_its_line(
    one: Any, folders: Path, name: str, text: str | None, error: type[Exception], words: str
) -> None:
    if text is not None:
        (folders / name).write_text(text)
    with pytest.raises(error, match=words):
        one.importdb(folders / name)


def test_a_failed_export_leaves_what_was_there(one: Any, folders: Path) -> None:
    path = folders / "kept.csv"
    path.write_text("precious")
    emptied(one)["a"] = {7: "no text"}
    with pytest.raises(RecordInvalid, match=r"the field 7 is no text, as CSV needs; use \.jsonl"):
        one.exportdb(path)
    with pytest.raises(mynosql.StorageFailed, match="cannot be written"):
        one.exportdb(folders / "no such folder" / "a.jsonl")
    assert path.read_text() == "precious"
    assert not list(folders.glob("*.part"))


def test_a_peer_exports_all_or_says_that_it_cannot(tmp_path: Path) -> None:
    with mynosql.opendb("Test", location=tmp_path / "mirror", mode="mirror", listen="127.0.0.1:0") as mirror:
        mirror.savedocs([{"id": f"{number}", "n": number} for number in range(20)])
        with mynosql.opendb("Test", location=tmp_path / "peer", peers=[mirror.endpoint]) as peer:
            wait_connected(peer)
            assert peer.waitsync(timeout=10)
            assert peer.exportdb(tmp_path / "all.jsonl") == len(peer)
            lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
            assert [line["n"] for line in lines] == [int(line["id"]) for line in lines]
        mirror["more"] = {}
        with mynosql.opendb("Test", location=tmp_path / "late", peers=[mirror.endpoint]) as late:
            wait_connected(late)
    with mynosql.opendb("Test", location=tmp_path / "late") as late:
        if len(late):
            with pytest.raises(RecordUnavailable):
                late.exportdb(tmp_path / "late.jsonl")
            assert not (tmp_path / "late.jsonl").exists()
